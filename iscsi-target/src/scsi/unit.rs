//! One logical unit: its identity, its store, and what initiators can set on it.

use std::rc::Rc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::array::NexusId;
use super::mode::{ModeState, Protection};
use super::opcodes::Abilities;
use super::reservation::Keeping;
use super::sense::SenseFormat;
use super::tray::{Medium, Removal, Tray};
use crate::backend::{Backend, Geometry};
use crate::hosts::{Access, ConfigError, UnitId};

/// One unit as configured. Serial number and NAA name follow from its id.
pub struct UnitConfig {
    /// The UUID of its volume.
    pub id: UnitId,
    /// Name shown to operators.
    pub name: String,
    /// Its store.
    pub backend: Rc<dyn Backend>,
    /// Whether initiators can eject it.
    pub medium: Medium,
    /// What its reservations begin with.
    pub reserved: Reserved,
}

/// What the reservations of a unit begin with when a configuration is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// With what its store has kept, read since this box began to serve; none, if that is nothing.
    Stored(Option<Bytes>),
    /// With what they are: the configuration changes while the box serves. A unit that was not
    /// there has none.
    Live,
}

/// A unit. Both boxes derive the same identity from the same id.
pub(crate) struct Unit {
    pub(crate) id: UnitId,
    /// Locally assigned NAA designator (SPC-4 §7.8.6.6.4): 3h, then 60 bits derived from the id.
    pub(crate) naa: [u8; 8],
    pub(crate) backend: Rc<dyn Backend>,
    pub(crate) mode: ModeState,
    /// The capacity that initiators know.
    pub(crate) announced_blocks: u64,
    /// Only a removable medium has one.
    pub(crate) tray: Option<Tray>,
    pub(crate) keeping: Keeping,
}

impl Unit {
    /// A unit as configured, with what an earlier configuration of it has left behind.
    pub(crate) fn new(config: UnitConfig, earlier: Option<&Self>) -> Result<Self, ConfigError> {
        let UnitConfig {
            id,
            name,
            backend,
            medium,
            reserved,
        } = config;
        let geometry = backend.geometry();
        let bad = |problem| ConfigError::BadUnit {
            name: name.clone(),
            problem,
        };
        check(&geometry).map_err(bad)?;
        let keeping = match reserved {
            Reserved::Stored(record) => {
                Keeping::stored(record.as_ref()).map_err(|_| bad(BAD_RECORD))?
            }
            Reserved::Live => earlier.map_or_else(Keeping::default, |unit| unit.keeping.clone()),
        };
        let tray = match medium {
            Medium::Fixed => None,
            Medium::Removable => Some(
                earlier
                    .and_then(|unit| unit.tray.clone())
                    .unwrap_or_default(),
            ),
        };
        let mode = earlier.map_or_else(ModeState::default, |unit| unit.mode);
        let announced_blocks = earlier.map_or(geometry.blocks, |unit| unit.announced_blocks);
        Ok(Self {
            id,
            naa: naa(id),
            backend,
            mode,
            announced_blocks,
            tray,
            keeping,
        })
    }

    pub(crate) fn abilities(&self, geometry: &Geometry) -> Abilities {
        Abilities {
            thin: geometry.thin,
            removable: self.is_removable(),
        }
    }

    pub(crate) fn is_removable(&self) -> bool {
        self.tray.is_some()
    }

    pub(crate) fn has_medium(&self) -> bool {
        self.tray.as_ref().is_none_or(Tray::is_loaded)
    }

    /// Undoes what initiators have set.
    pub(crate) fn reset(&mut self) {
        self.mode = ModeState::default();
        self.keeping.reset();
        if let Some(tray) = &mut self.tray {
            tray.reset();
        }
    }

    /// Undoes what an initiator holds as long as it is there.
    pub(crate) fn forget(&mut self, nexus: NexusId) {
        self.keeping.forget(nexus);
        if let Some(tray) = &mut self.tray {
            tray.set_removal(nexus, Removal::Allow);
        }
    }

    /// Whether it may be changed: as mapped, as stored, and as initiators set it.
    pub(crate) fn protection(&self, access: Access, geometry: &Geometry) -> Protection {
        let read_only = access == Access::ReadOnly || geometry.read_only;
        if read_only || self.mode.is_write_protected() {
            Protection::WriteProtected
        } else {
            Protection::None
        }
    }

    pub(crate) fn sense_format(&self) -> SenseFormat {
        self.mode.sense_format()
    }

    /// Serial number: the id in hexadecimal.
    pub(crate) fn serial(&self) -> String {
        format!("{:032x}", self.id.0)
    }
}

fn naa(id: UnitId) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update(b"twinsan unit naa");
    hash.update(id.0.to_be_bytes());
    let mut naa = [0; 8];
    naa.copy_from_slice(&hash.finalize()[..8]);
    naa[0] = 0x30 | naa[0] & 0x0f;
    naa
}

fn check(geometry: &Geometry) -> Result<(), &'static str> {
    if !matches!(geometry.block_bytes, 512 | 4096) {
        return Err("blocks must have 512 or 4096 bytes");
    }
    if geometry.blocks == 0 {
        return Err("it has no blocks: give the volume a size");
    }
    if geometry
        .blocks
        .checked_mul(geometry.block_bytes.into())
        .is_none()
    {
        return Err("it is larger than 2^64 bytes");
    }
    if geometry.physical_block_exponent > 15 {
        return Err("a physical block has more than 2^15 logical ones");
    }
    Ok(())
}

const BAD_RECORD: &str = "its stored reservations cannot be read: another version of this program \
                          wrote them; they and the data are as they were; run that version on both \
                          boxes";
