//! All units, who sees them, and what each nexus has still to be told.

mod admitted;
mod copies;
mod reserving;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;

use super::attention::{Attention, Attentions};
use super::block::Work;
use super::cdb::CDB_BYTES;
use super::copy::Copies;
use super::execution::{Execution, Task};
use super::identify::{self, Place};
use super::mode::{self, Protection};
use super::opcodes::{self, Abilities, Effect, Opcode};
use super::parse::{BlockCommand, Command, ModeHeader};
use super::report;
use super::reservation::Registrant;
use super::sense::{Sense, SenseFormat};
use super::tray::{Arrival, Removal, TrayMove};
use super::unit::{Unit, UnitConfig};
use super::{Reply, Start};
use crate::backend::Geometry;
use crate::hosts::{
    self, Access, ChapSecrets, ConfigError, GroupConfig, HostConfig, HostId, Hosts, MapConfig,
    Mapping, Refused, UnitId, View,
};
use crate::registry::Scope;
pub(crate) use admitted::Admitted;

/// Everything one target serves; shared by all connections of its thread.
///
/// Invariants: every view of a host maps to units that exist; a nexus that is open belongs to a
/// host; nexus ids are never used again.
#[derive(Default)]
pub struct Array {
    units: BTreeMap<UnitId, Unit>,
    hosts: Hosts,
    discovery: Option<ChapSecrets>,
    nexuses: BTreeMap<NexusId, OpenNexus>,
    nexus_ids_used: u64,
    target_name: String,
    portals: Vec<Portal>,
    copies: Copies,
    cache_losses: BTreeSet<(UnitId, String)>,
    cache_losses_told: Vec<(UnitId, String)>,
    /// Whose tasks a preemption has aborted; not passed on yet.
    aborted: VecDeque<(NexusId, Scope)>,
    /// Raised with each change of what anybody may do.
    rules: u64,
}

/// A whole configuration of an array.
#[derive(Default)]
pub struct ArrayConfig {
    /// The hosts.
    pub hosts: Vec<HostConfig>,
    /// CHAP for discovery sessions; without it they prove what their host must prove.
    pub discovery: Option<ChapSecrets>,
    /// Groups of them.
    pub groups: Vec<GroupConfig>,
    /// Who sees what.
    pub maps: Vec<MapConfig>,
    /// The units.
    pub units: Vec<UnitConfig>,
}

/// What follows from a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Nexuses whose initiator no longer belongs to the host they were opened for: close them.
    pub evicted: Vec<NexusId>,
}

/// An initiator port and a target portal group: the two ends of a session (RFC 7143 §4.4.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nexus {
    /// iSCSI name.
    pub initiator: String,
    /// The initiator's part of the session id.
    pub isid: [u8; 6],
    /// Tag of the portal group it came through.
    pub portal_tag: u16,
}

/// One opening of a nexus; never used again after it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NexusId(pub u64);

/// A service address, as SCSI sees it. It moves between boxes with these numbers unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal {
    /// Portal group tag.
    pub tag: u16,
    /// Relative target port identifier, not zero.
    pub relative_port: u16,
    /// Target port group.
    pub group: u16,
}

/// What a reset is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetScope {
    /// LOGICAL UNIT RESET of the unit under this LUN.
    Unit([u8; 8]),
    /// TARGET WARM RESET and TARGET COLD RESET: every unit that the nexus sees.
    Target,
}

struct OpenNexus {
    nexus: Nexus,
    /// The same, as reservations know it.
    who: Registrant,
    host: HostId,
    view: Rc<View>,
    attentions: BTreeMap<UnitId, Attentions>,
    /// Units of whose lost cache the news is under way, not known to have arrived.
    telling: BTreeSet<UnitId>,
}

impl Array {
    /// An array of nothing for nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the configuration, all of it or, with an error, nothing. Open nexuses see the
    /// change at once and are told of it.
    pub fn apply(&mut self, config: ArrayConfig) -> Result<Applied, ConfigError> {
        let mut units = BTreeMap::new();
        for unit in config.units {
            let earlier = self.units.get(&unit.id);
            let unit = Unit::new(unit, earlier)?;
            if let Some(twice) = units.insert(unit.id, unit) {
                let name = format!("{:?}", twice.id);
                return Err(ConfigError::Duplicate { what: "unit", name });
            }
        }
        let ids = units.keys().copied().collect();
        let hosts = self
            .hosts
            .configure(&config.hosts, &config.groups, &config.maps, &ids)?;
        hosts::check_secrets(&config.hosts, config.discovery.as_ref())?;
        (self.units, self.hosts) = (units, hosts);
        self.rules += 1;
        self.discovery = config.discovery;
        self.copies
            .forget_of(|id| !self.units.contains_key(&id.unit));
        let mut applied = Applied::default();
        for (id, open) in &mut self.nexuses {
            let owner = self.hosts.owner(&open.nexus.initiator);
            let owner = owner.filter(|host| host.id == open.host);
            if owner.is_none() {
                applied.evicted.push(*id);
            }
            open.see(owner.map_or_else(Rc::default, |host| Rc::clone(&host.view)));
            for unit in self.units.values_mut().filter(|it| !open.sees(it.id)) {
                unit.forget(*id);
            }
        }
        Ok(applied)
    }

    /// Names the target and its portals. If they changed, initiators are told to look at the
    /// target port groups again.
    pub fn portals(&mut self, target_name: &str, portals: Vec<Portal>) {
        assert!(
            target_name.len() <= 223,
            "an iSCSI name has at most 223 bytes"
        );
        assert!(
            portals.len() <= PORTALS_MAX,
            "at most {PORTALS_MAX} portals"
        );
        if self.portals == portals && self.target_name == target_name {
            return;
        }
        target_name.clone_into(&mut self.target_name);
        self.portals = portals;
        for open in self.nexuses.values_mut() {
            open.who = reserving::registrant(&open.nexus, &self.portals);
            open.raise_everywhere(Attention::AccessStateChanged);
        }
    }

    /// The host an initiator belongs to, if it may come from `source`.
    pub fn authorize(&self, initiator: &str, source: IpAddr) -> Result<HostId, Refused> {
        self.hosts.authorize(initiator, source)
    }

    /// The secrets a host must prove at login.
    pub fn chap(&self, host: HostId) -> Option<&ChapSecrets> {
        self.hosts.host(host)?.chap.as_ref()
    }

    /// The secrets that discovery sessions must prove, if they have their own.
    pub const fn discovery_chap(&self) -> Option<&ChapSecrets> {
        self.discovery.as_ref()
    }

    /// Opens a nexus, which then has POWER ON, RESET, OR BUS DEVICE RESET OCCURRED to report on
    /// every unit. An opening of the same nexus that is still there is closed.
    pub fn open(&mut self, nexus: Nexus, host: HostId) -> NexusId {
        let earlier = self.nexuses.iter().find(|(_, open)| open.nexus == nexus);
        if let Some(earlier) = earlier.map(|(id, _)| *id) {
            self.close(earlier);
        }
        self.nexus_ids_used += 1;
        let id = NexusId(self.nexus_ids_used);
        let view = self
            .hosts
            .host(host)
            .map_or_else(Rc::default, |host| Rc::clone(&host.view));
        let who = reserving::registrant(&nexus, &self.portals);
        let mut open = OpenNexus {
            nexus,
            who,
            host,
            view,
            attentions: BTreeMap::new(),
            telling: BTreeSet::new(),
        };
        open.raise_everywhere(Attention::PowerOn);
        self.nexuses.insert(id, open);
        id
    }

    /// Closes a nexus: no command of it is admitted any more (law T1).
    pub fn close(&mut self, nexus: NexusId) {
        self.nexuses.remove(&nexus);
        self.copies.forget_of(|id| id.nexus == nexus);
        for unit in self.units.values_mut() {
            unit.forget(nexus);
        }
    }

    /// The unit a nexus sees under a LUN.
    pub fn unit_at(&self, nexus: NexusId, lun: [u8; 8]) -> Option<UnitId> {
        let open = self.nexuses.get(&nexus)?;
        Some(open.mapping(lun)?.unit)
    }

    /// The units that a nexus sees.
    pub fn units_of(&self, nexus: NexusId) -> Vec<UnitId> {
        let view = self.nexuses.get(&nexus).map(|open| &open.view);
        let mappings = view.into_iter().flat_map(|view| view.values());
        mappings.map(|mapping| mapping.unit).collect()
    }

    /// Resets a unit or all of them. For a host the target is what it sees of it: what is masked
    /// from it is not there to be reset, and other hosts use that in peace. The answer says whose
    /// tasks on the scope die; the one who asked is among them if it sees the scope. Never waits
    /// for a disk (law T1).
    pub fn reset(&mut self, nexus: NexusId, scope: ResetScope) -> Vec<NexusId> {
        let attention = match scope {
            ResetScope::Unit(_) => Attention::UnitReset,
            ResetScope::Target => Attention::PowerOn,
        };
        let units: Vec<UnitId> = match scope {
            ResetScope::Unit(lun) => self.unit_at(nexus, lun).into_iter().collect(),
            ResetScope::Target => self.units_of(nexus),
        };
        let mut hit = Vec::new();
        for id in units {
            let unit = self
                .units
                .get_mut(&id)
                .expect("views map to units that exist");
            unit.reset();
            self.copies.forget_of(|copy| copy.unit == id);
            for (nexus, open) in self.nexuses.iter_mut().filter(|(_, open)| open.sees(id)) {
                open.raise(id, attention);
                hit.push(*nexus);
            }
        }
        hit.sort_unstable();
        hit.dedup();
        hit
    }

    /// What was to be reported on `nexus` was not, after all.
    pub(crate) fn raise_again(&mut self, nexus: NexusId, unit: UnitId, attention: Attention) {
        if let Some(open) = self.nexuses.get_mut(&nexus) {
            open.raise(unit, attention);
        }
    }

    /// Commands of `nexus` on `unit` were forgotten because another one cleared the task set.
    pub(crate) fn tell_commands_cleared(&mut self, nexus: NexusId, unit: UnitId) {
        if let Some(open) = self.nexuses.get_mut(&nexus) {
            open.raise(unit, Attention::CommandsCleared);
        }
    }

    /// Unflushed writes to `unit` are gone: the next flush or forced write of each of
    /// `initiators` fails once with INTERNAL TARGET FAILURE, so that it knows (law D5). Once is
    /// once for a nexus, and again on another one as long as that status is not acknowledged.
    pub fn lose_cache<'a>(
        &mut self,
        unit: UnitId,
        initiators: impl IntoIterator<Item = &'a String>,
    ) {
        let owed = initiators
            .into_iter()
            .map(|initiator| (unit, initiator.clone()));
        self.cache_losses.extend(owed);
    }

    /// Who has heard of a lost cache since this was last asked.
    pub fn cache_losses_told(&mut self) -> Vec<(UnitId, String)> {
        std::mem::take(&mut self.cache_losses_told)
    }

    /// Whether this command must carry the news of a lost cache.
    fn owes_cache_loss(&self, ask: &Ask) -> bool {
        if self.cache_losses.is_empty() {
            return false;
        }
        let open = &self.nexuses[&ask.nexus];
        let owed = (ask.unit, open.nexus.initiator.clone());
        self.cache_losses.contains(&owed) && !open.telling.contains(&ask.unit)
    }

    /// The status with the news of a lost cache leaves on `nexus`.
    pub(crate) fn telling_cache_loss(&mut self, nexus: NexusId, unit: UnitId) {
        if let Some(open) = self.nexuses.get_mut(&nexus) {
            open.telling.insert(unit);
        }
    }

    /// The initiator acknowledged that status: it is owed nothing any more.
    pub fn cache_loss_heard(&mut self, nexus: NexusId, unit: UnitId) {
        let Some(open) = self.nexuses.get_mut(&nexus) else {
            return;
        };
        let owed = (unit, open.nexus.initiator.clone());
        if open.telling.remove(&unit) && self.cache_losses.remove(&owed) {
            self.cache_losses_told.push(owed);
        }
    }

    /// Takes a command. `offered_bytes` is how much the initiator wants to send with it: the
    /// expected data transfer length of a write, zero of any other.
    pub fn start(
        &mut self,
        nexus: NexusId,
        lun: [u8; 8],
        cdb: [u8; CDB_BYTES],
        offered_bytes: u32,
    ) -> Start {
        let Some(open) = self.nexuses.get(&nexus) else {
            return Start::Drop;
        };
        let Some(Mapping { unit: id, access }) = open.mapping(lun) else {
            return Start::Reply(self.without_unit(nexus, &cdb));
        };
        self.settle(id);
        let unit = self.units.get(&id).expect("views map to units that exist");
        let geometry = unit.backend.geometry();
        if geometry.blocks != unit.announced_blocks {
            self.announce_capacity(id, geometry.blocks);
        }
        let ask = Ask {
            nexus,
            unit: id,
            geometry,
            access,
            offered_bytes,
            admitted: Admitted::new(lun, cdb, self.rules),
        };
        if let Some(answer) = self.conflict(&cdb, &ask) {
            return answer;
        }
        if let Some(attention) = self.attention(&cdb, &ask) {
            let reply = self.check(id, attention.sense());
            return self.reply_with(attention, reply, &ask);
        }
        self.admit(&cdb, &ask)
            .and_then(|command| self.dispatch(command, &ask))
            .unwrap_or_else(|sense| Start::Reply(self.check(id, sense)))
    }

    /// CHECK CONDITION in the layout that the unit is set to.
    pub(crate) fn check(&self, unit: UnitId, sense: Sense) -> Reply {
        let format = self
            .units
            .get(&unit)
            .map_or(SenseFormat::Fixed, Unit::sense_format);
        Reply::check(sense.with_format(format))
    }

    /// Carries out a MODE SELECT and tells the other nexuses.
    pub(crate) fn select_mode(
        &mut self,
        nexus: NexusId,
        id: UnitId,
        header: ModeHeader,
        list: &[u8],
    ) -> Result<(), Sense> {
        let unit = self.units.get_mut(&id).ok_or(Sense::NO_UNIT)?;
        let next = mode::select(header, list, &unit.mode, &unit.backend.geometry())?;
        if next == unit.mode {
            return Ok(());
        }
        unit.mode = next;
        self.rules += 1;
        for (other, open) in &mut self.nexuses {
            if *other != nexus {
                open.raise(id, Attention::ModeChanged);
            }
        }
        Ok(())
    }

    /// Answers for a LUN under which this nexus sees nothing (SPC-4 §6.4.1, SAM-5 §4.7.3).
    fn without_unit(&self, nexus: NexusId, cdb: &[u8; CDB_BYTES]) -> Reply {
        let answer = Opcode::find(cdb, NO_ABILITIES)
            .ok_or(Sense::NO_UNIT)
            .and_then(|opcode| (opcode.parse)(cdb))
            .and_then(|command| match command {
                Command::Inquiry {
                    page,
                    allocation_bytes,
                } => Ok(Reply::truncated(identify::absent(page)?, allocation_bytes)),
                Command::ReportLuns {
                    select,
                    allocation_bytes,
                } => {
                    let view = self.nexuses.get(&nexus).map(|open| Rc::clone(&open.view));
                    let data = report::luns(select, &view.unwrap_or_default());
                    Ok(Reply::truncated(data, allocation_bytes))
                }
                Command::RequestSense {
                    format,
                    allocation_bytes,
                } => {
                    let sense = Sense::NO_UNIT.with_format(format).to_bytes();
                    Ok(Reply::truncated(sense.to_vec(), allocation_bytes))
                }
                Command::TestUnitReady
                | Command::ReportOpcodes { .. }
                | Command::ReportPortGroups { .. }
                | Command::Report { .. }
                | Command::ExtendedCopy { .. }
                | Command::CopyResults { .. }
                | Command::ModeSense(_)
                | Command::ModeSelect { .. }
                | Command::StartStop { .. }
                | Command::PreventAllow(_)
                | Command::Reservation(_)
                | Command::Blocks(_) => Err(Sense::NO_UNIT),
            });
        answer.unwrap_or_else(Reply::check)
    }

    /// The unit attention that a command has to report instead of being carried out (SAM-5 §5.14).
    fn attention(&mut self, cdb: &[u8; CDB_BYTES], ask: &Ask) -> Option<Attention> {
        if matches!(cdb[0], REQUEST_SENSE | INQUIRY | REPORT_LUNS) {
            return None;
        }
        self.open_mut(ask).take_attention(ask.unit)
    }

    fn open_mut(&mut self, ask: &Ask) -> &mut OpenNexus {
        self.nexuses
            .get_mut(&ask.nexus)
            .expect("the nexus was looked up before")
    }

    /// Everything that is checked before the meaning of a command: the operation code, NACA, write
    /// protection; then its fields.
    fn admit(&self, cdb: &[u8; CDB_BYTES], ask: &Ask) -> Result<Command, Sense> {
        let unit = &self.units[&ask.unit];
        let abilities = unit.abilities(&ask.geometry);
        let opcode = Opcode::find(cdb, abilities).ok_or_else(|| opcodes::unknown(cdb))?;
        if opcodes::asks_naca(cdb) {
            return Err(Sense::CDB_FIELD);
        }
        if opcode.effect() == Effect::Changes
            && unit.protection(ask.access, &ask.geometry) != Protection::None
        {
            return Err(Sense::WRITE_PROTECTED);
        }
        let command = (opcode.parse)(cdb)?;
        let needs_medium = matches!(command, Command::TestUnitReady | Command::Blocks(_));
        if needs_medium && !unit.has_medium() {
            return Err(Sense::NO_MEDIUM);
        }
        Ok(command)
    }

    fn dispatch(&mut self, command: Command, ask: &Ask) -> Result<Start, Sense> {
        let geometry = &ask.geometry;
        let reply = match command {
            Command::TestUnitReady => Reply::good(),
            Command::StartStop { tray_move } => self.start_stop(tray_move, ask)?,
            Command::PreventAllow(removal) => self.set_removal(removal, ask)?,
            Command::RequestSense {
                format,
                allocation_bytes,
            } => {
                let attention = self.open_mut(ask).take_attention(ask.unit);
                let sense = attention.map_or(Sense::NONE, Attention::sense);
                let sense = sense.with_format(format).to_bytes();
                let reply = Reply::truncated(sense.to_vec(), allocation_bytes);
                return Ok(match attention {
                    Some(attention) => self.reply_with(attention, reply, ask),
                    None => Start::Reply(reply),
                });
            }
            Command::Inquiry {
                page,
                allocation_bytes,
            } => Reply::truncated(self.inquiry(page, ask)?, allocation_bytes),
            Command::ReportLuns {
                select,
                allocation_bytes,
            } => {
                let open = self.open_mut(ask);
                open.clear_everywhere(Attention::LunsChanged);
                Reply::truncated(report::luns(select, &open.view), allocation_bytes)
            }
            Command::ReportOpcodes {
                query,
                timeouts,
                allocation_bytes,
            } => opcodes::report(
                query,
                timeouts,
                allocation_bytes,
                self.units[&ask.unit].abilities(geometry),
            )?,
            Command::ReportPortGroups {
                header,
                allocation_bytes,
            } => Reply::truncated(report::port_groups(header, &self.portals), allocation_bytes),
            Command::Report {
                report,
                allocation_bytes,
            } => Reply::truncated(report::constant(report), allocation_bytes),
            Command::ExtendedCopy { list_bytes } => return self.start_copy(list_bytes, ask),
            Command::CopyResults {
                query,
                allocation_bytes,
            } => Reply::truncated(self.copy_results(query, ask)?, allocation_bytes),
            Command::ModeSense(sense) => {
                let unit = &self.units[&ask.unit];
                let protection = unit.protection(ask.access, geometry);
                let data = mode::sense(&sense, &unit.mode, geometry, protection)?;
                // The capacity is in it (law R5).
                return Ok(self.confirmed(Reply::truncated(data, sense.allocation_bytes), ask));
            }
            Command::ModeSelect { header, list_bytes } => {
                return Ok(self.execute(ask, Task::ModeSelect(header), list_bytes));
            }
            Command::Reservation(asked) => return Ok(self.start_reserving(asked, ask)),
            Command::Blocks(command) => return self.start_blocks(command, ask),
        };
        Ok(Start::Reply(reply))
    }

    /// Commands on blocks, and those whose answer depends on replicated state.
    fn start_blocks(&mut self, command: BlockCommand, ask: &Ask) -> Result<Start, Sense> {
        let least = self.units[&ask.unit].mode.least_fua();
        let work = match Work::plan(command, &ask.geometry, least) {
            Ok(work) => work,
            // Where the medium ends is replicated state, so saying it waits too (law R5).
            Err(Sense::LBA_RANGE) => Work::Confirm(self.check(ask.unit, Sense::LBA_RANGE)),
            Err(sense) => return Err(sense),
        };
        if work.promises_stable() && self.owes_cache_loss(ask) {
            return Ok(self.execute(ask, Task::Blocks(Work::TellCacheLoss), 0));
        }
        let data_out_bytes = work.data_out_bytes(&ask.geometry);
        if work.takes_all_or_nothing() && ask.offered_bytes as usize != data_out_bytes {
            return Err(Sense::CDB_FIELD);
        }
        Ok(self.execute(ask, Task::Blocks(work), data_out_bytes))
    }

    fn execute(&self, ask: &Ask, task: Task, data_out_bytes: usize) -> Start {
        let backend = Rc::clone(&self.units[&ask.unit].backend);
        let Ask {
            nexus,
            unit,
            geometry,
            admitted,
            ..
        } = *ask;
        Start::Run(Execution {
            nexus,
            unit,
            admitted,
            backend,
            geometry,
            data_out_bytes,
            task,
            reports: None,
        })
    }

    fn inquiry(&self, page: Option<u8>, ask: &Ask) -> Result<Vec<u8>, Sense> {
        let Some(page) = page else {
            return Ok(identify::standard(&self.units[&ask.unit]));
        };
        let tag = self.nexuses[&ask.nexus].nexus.portal_tag;
        let place = Place {
            target_name: &self.target_name,
            portals: &self.portals,
            tag,
        };
        identify::vital(page, &self.units[&ask.unit], &ask.geometry, &place)
    }

    fn start_stop(&mut self, tray_move: Option<TrayMove>, ask: &Ask) -> Result<Reply, Sense> {
        let Some(tray_move) = tray_move else {
            return Ok(Reply::good());
        };
        let unit = self.units.get_mut(&ask.unit);
        let tray = unit
            .and_then(|unit| unit.tray.as_mut())
            .ok_or(Sense::CDB_FIELD)?;
        if tray.shift(tray_move)? == Arrival::Now {
            for (other, open) in &mut self.nexuses {
                if *other != ask.nexus {
                    open.raise(ask.unit, Attention::MediumLoaded);
                }
            }
        }
        Ok(Reply::good())
    }

    fn set_removal(&mut self, removal: Removal, ask: &Ask) -> Result<Reply, Sense> {
        let unit = self.units.get_mut(&ask.unit);
        let tray = unit
            .and_then(|unit| unit.tray.as_mut())
            .ok_or(Sense::OPCODE)?;
        tray.set_removal(ask.nexus, removal);
        Ok(Reply::good())
    }

    fn announce_capacity(&mut self, id: UnitId, blocks: u64) {
        let unit = self
            .units
            .get_mut(&id)
            .expect("the unit was looked up before");
        unit.announced_blocks = blocks;
        for open in self.nexuses.values_mut() {
            open.raise(id, Attention::CapacityChanged);
        }
    }
}

impl OpenNexus {
    /// LUNs come as peripheral or flat addresses (SAM-5 §4.7.7); both name the same units.
    fn mapping(&self, lun: [u8; 8]) -> Option<Mapping> {
        match lun {
            [0x00 | 0x40, number, 0, 0, 0, 0, 0, 0] => self.view.get(&number).copied(),
            _ => None,
        }
    }

    fn sees(&self, unit: UnitId) -> bool {
        self.view.values().any(|mapping| mapping.unit == unit)
    }

    /// Takes a new view; if it differs, the initiator is told wherever it still looks.
    fn see(&mut self, view: Rc<View>) {
        if self.view == view {
            return;
        }
        self.view = view;
        let view = Rc::clone(&self.view);
        self.attentions
            .retain(|unit, _| view.values().any(|mapping| mapping.unit == *unit));
        self.raise_everywhere(Attention::LunsChanged);
    }

    fn raise(&mut self, unit: UnitId, attention: Attention) {
        if self.sees(unit) {
            self.attentions.entry(unit).or_default().raise(attention);
        }
    }

    fn raise_everywhere(&mut self, attention: Attention) {
        for mapping in self.view.values() {
            self.attentions
                .entry(mapping.unit)
                .or_default()
                .raise(attention);
        }
    }

    fn clear_everywhere(&mut self, attention: Attention) {
        for attentions in self.attentions.values_mut() {
            attentions.clear(attention);
        }
    }

    fn take_attention(&mut self, unit: UnitId) -> Option<Attention> {
        self.attentions.get_mut(&unit)?.take()
    }
}

/// What a command asks with.
struct Ask {
    nexus: NexusId,
    unit: UnitId,
    geometry: Geometry,
    access: Access,
    offered_bytes: u32,
    admitted: Admitted,
}

const REQUEST_SENSE: u8 = 0x03;
const INQUIRY: u8 = 0x12;
const REPORT_LUNS: u8 = 0xa0;

/// Portals of one target.
const PORTALS_MAX: usize = 64;

/// What a LUN without a unit has.
const NO_ABILITIES: Abilities = Abilities {
    thin: false,
    removable: false,
};
