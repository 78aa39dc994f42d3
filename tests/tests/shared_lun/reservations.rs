//! Persistent reservations of four nexuses at once, with the primary killed between any two
//! statuses, against a model of SPC-4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;
use tests::lab::{Initiator, Lab, Net, clock};
use tests::reservation::{End, Key, Model, Nexus, Order, Seen, draw, explained};
use tests::rng::Rng;

use super::{INITIATORS, initiator, pair};

/// Rounds of orders that all nexuses give at the same time; in every fourth one the primary dies.
const ROUNDS: u32 = 48;
const KILL_EVERY: u32 = 4;
/// Orders of each nexus in a round.
const ORDERS: usize = 5;
/// Latest moment of a kill after the first order, in ms.
const KILL_WITHIN_MS: u64 = 12;
/// A command that waits for a fail-over is answered within this time.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Block that is written and read.
const LBA: u32 = 64;

const GOOD: u64 = 0x00;
const CHECK_CONDITION: u64 = 0x02;
const RESERVATION_CONFLICT: u64 = 0x18;

/// Z31, Z32, X57, X58: what is registered and reserved is what one order of all commands leaves,
/// across fail-overs too; each nexus finds its key again at its portal.
#[test]
fn z31_z32_x57_x58_reservations_survive_fail_overs() {
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    let mut rng = Rng::new(seed);
    let mut lab = pair();
    let mut nexuses: Vec<Initiator> = (0..INITIATORS.len())
        .map(|number| {
            let net = Net::FABRICS[number % Net::FABRICS.len()];
            initiator(&mut lab, "drive", number, &[net], &[])
        })
        .collect();
    let mut model = Model::default();
    let mut tally = BTreeMap::new();
    for round in 1..=ROUNDS {
        let orders: Vec<Vec<Order>> = (0..nexuses.len())
            .map(|nexus| (0..ORDERS).map(|_| draw(&mut rng, nexus, &model)).collect())
            .collect();
        for (nexus, orders) in nexuses.iter_mut().zip(&orders) {
            for order in orders {
                nexus.tell(&line(*order));
            }
        }
        let killed = (round % KILL_EVERY == 0).then(|| kill(&mut lab, &mut rng));
        let seen: Vec<Vec<Seen>> = nexuses
            .iter_mut()
            .zip(&orders)
            .map(|(nexus, orders)| orders.iter().map(|order| hear(nexus, *order)).collect())
            .collect();
        let after = look(&mut nexuses[0]);
        assert!(
            explained(&model, &seen, &after),
            "round {round}: {model:?}, then {seen:?}, then {after:?}"
        );
        for (nexus, other) in nexuses.iter_mut().enumerate().skip(1) {
            assert_eq!(look(other), after, "nexus {nexus} sees something else");
        }
        for end in seen.iter().flatten().map(|seen| seen.end) {
            *tally.entry(kind(end)).or_insert(0u32) += 1;
        }
        model = after;
        if let Some(killed) = killed {
            lab.start(killed);
            lab.protected(killed.other());
        }
    }
    // Not a print macro: the line shall be seen although the test passes.
    writeln!(std::io::stdout(), "ends {tally:?}").expect("stdout");
    for end in ["good", "conflict", "unknown"] {
        assert!(tally.contains_key(end), "no {end}: {tally:?}");
    }
}

fn kill(lab: &mut Lab, rng: &mut Rng) -> tests::lab::Place {
    let primary = lab.primary();
    clock::pass(Duration::from_millis(rng.below(KILL_WITHIN_MS)));
    lab.kill(primary);
    primary
}

fn kind(end: Option<End>) -> &'static str {
    match end {
        None => "unknown",
        Some(End::Good) => "good",
        Some(End::Conflict) => "conflict",
        Some(End::Check(..)) => "check",
    }
}

/// The order as a line for the `load` program.
fn line(order: Order) -> String {
    let (action, kind, key, new) = match order {
        Order::Register(key, new) => (0, 0, key, new),
        Order::Reserve(key, kind) => (1, kind, key, 0),
        Order::Release(key, kind) => (2, kind, key, 0),
        Order::Clear(key) => (3, 0, key, 0),
        Order::Preempt(key, victim, kind) => (4, kind, key, victim),
        Order::PreemptAndAbort(key, victim, kind) => (5, kind, key, victim),
        Order::RegisterAnyway(new) => (6, 0, 0, new),
        Order::Write => {
            let block = "00".repeat(512);
            return format!("{} {block} 0", hex(&transfer(0x2a)));
        }
        Order::Read => return format!("{} 512", hex(&transfer(0x28))),
    };
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&new.to_be_bytes());
    let mut cdb = [0; 16];
    [cdb[0], cdb[1], cdb[2], cdb[8]] = [0x5f, action, kind, 24];
    format!("{} {} 0", hex(&cdb), hex(&list))
}

/// READ(10) or WRITE(10) of one block.
fn transfer(code: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[2..6].copy_from_slice(&LBA.to_be_bytes());
    cdb[8] = 1;
    cdb
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

fn hear(nexus: &mut Initiator, order: Order) -> Seen {
    let said = answer(nexus);
    let end = said["status"].as_u64().map(|status| match status {
        GOOD => End::Good,
        RESERVATION_CONFLICT => End::Conflict,
        CHECK_CONDITION => {
            let code = |at: usize| {
                let number = said["sense"][at].as_u64().expect("sense data");
                u8::try_from(number).expect("a byte")
            };
            End::Check(code(0), code(1), code(2))
        }
        _ => panic!("{order:?} ended with {said}"),
    });
    Seen { order, end }
}

fn answer(nexus: &mut Initiator) -> Value {
    let said = nexus.answer(ANSWER_WAIT).expect("an order ends");
    assert_eq!(said["ok"], true, "{said}");
    said
}

/// What READ FULL STATUS says (SPC-4 §6.15.5).
fn look(nexus: &mut Initiator) -> Model {
    let mut cdb = [0; 16];
    [cdb[0], cdb[1], cdb[7]] = [0x5e, 0x03, 0x20];
    let said = loop {
        nexus.tell(&format!("{} 8192", hex(&cdb)));
        let said = answer(nexus);
        if !said["status"].is_null() {
            break said;
        }
    };
    assert_eq!(said["status"], GOOD, "{said}");
    let data: Vec<u8> = said["data"]
        .as_array()
        .expect("bytes")
        .iter()
        .map(|byte| u8::try_from(byte.as_u64().expect("a byte")).expect("a byte"))
        .collect();
    full_status(&data)
}

fn full_status(data: &[u8]) -> Model {
    let len = usize::try_from(u32_at(data, 4)).expect("a length");
    let mut rest = &data[8..8 + len];
    let mut model = Model::default();
    while !rest.is_empty() {
        let more = usize::try_from(u32_at(rest, 20)).expect("a length");
        let (one, next) = rest.split_at(24 + more);
        let nexus = number_of(&one[24..], u16::from_be_bytes([one[18], one[19]]));
        let key = Key::from_be_bytes(one[..8].try_into().expect("eight bytes"));
        assert_eq!(model.keys.insert(nexus, key), None, "registered twice");
        if one[12] & 1 == 1 {
            model.reservation.get_or_insert((nexus, one[13] & 0x0f));
        }
        rest = next;
    }
    model
}

/// The nexus of an iSCSI TransportID with a name and an ISID (SPC-4 §7.6.4.6) at a target port.
fn number_of(transport: &[u8], port: u16) -> Nexus {
    assert_eq!(transport[0], 0x45, "an initiator port of iSCSI");
    let text = String::from_utf8_lossy(&transport[4..]);
    let (name, isid) = text.split_once(",i,0x").expect("a name and an ISID");
    assert_eq!(isid.trim_end_matches('\0').len(), 12, "{text}");
    let number = INITIATORS.iter().position(|(_, known)| *known == name);
    let number = number.unwrap_or_else(|| panic!("a stranger is registered: {name}"));
    // Portals are numbered in the order in which they were added, and keep their numbers.
    let expected = number % Net::FABRICS.len() + 1;
    assert_eq!(usize::from(port), expected, "{name} at another port");
    number
}

fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(data[at..at + 4].try_into().expect("four bytes"))
}
