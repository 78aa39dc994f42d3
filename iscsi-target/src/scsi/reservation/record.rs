//! The bytes that a store keeps for the reservations of one unit. Names are written once, because
//! a host is registered through every portal.
//!
//! ```text
//! version 1, type 1, holder 2, generation 4,
//! names 2 { length 1, name }, registrations 2 { name 2, ISID 6, target port 2, key 8 }
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use super::{Held, InitiatorPort, Key, Kind, REGISTRATIONS_MAX, Registrant, Reservations};
use crate::hosts;

const VERSION: u8 = 1;
const NO_TYPE: u8 = 0;
const NO_HOLDER: u16 = u16::MAX;
const HEADER_BYTES: usize = 12;
const NAME_BYTES_MAX: usize = 1 + hosts::NAME_MAX_BYTES;
const REGISTRATION_BYTES: usize = 18;

/// No reservations of one unit take more bytes to keep.
pub const RECORD_BYTES_MAX: usize =
    HEADER_BYTES + REGISTRATIONS_MAX * (NAME_BYTES_MAX + REGISTRATION_BYTES);

/// The bytes are none that this program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRecord;

impl Reservations {
    pub(crate) fn to_bytes(&self) -> Bytes {
        let names: BTreeSet<&str> = self.registered.keys().map(name).collect();
        let mut record = BytesMut::new();
        let place = |who: &Registrant| {
            let at = self.registered.keys().position(|it| it == who);
            count(at.expect("a holder is registered"))
        };
        let (kind, holder) = match &self.held {
            None => (NO_TYPE, NO_HOLDER),
            Some(held) => {
                let holder = held.holder.as_ref().map_or(NO_HOLDER, place);
                (held.kind as u8, holder)
            }
        };
        record.put_u8(VERSION);
        record.put_u8(kind);
        record.put_u16(holder);
        record.put_u32(self.generation);
        record.put_u16(count(names.len()));
        for name in &names {
            record.put_u8(u8::try_from(name.len()).expect("a name has at most 223 bytes"));
            record.put_slice(name.as_bytes());
        }
        record.put_u16(count(self.registered.len()));
        for (who, key) in &self.registered {
            let at = names.iter().position(|it| *it == name(who));
            record.put_u16(count(at.expect("every name was collected")));
            record.put_slice(&who.port.isid);
            record.put_u16(who.target_port);
            record.put_u64(key.0);
        }
        assert!(record.len() <= RECORD_BYTES_MAX, "the limits add up");
        record.freeze()
    }

    pub(crate) fn from_bytes(record: &[u8]) -> Result<Self, BadRecord> {
        // There is one way to write each state.
        Self::read(&mut Reader(record))
            .filter(|read| read.to_bytes() == record)
            .ok_or(BadRecord)
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.u8()? != VERSION {
            return None;
        }
        let (kind, holder) = (reader.u8()?, reader.u16()?);
        let generation = reader.u32()?;
        let mut names = Vec::new();
        for _ in 0..reader.u16()? {
            let len = usize::from(reader.u8()?);
            let name = std::str::from_utf8(reader.take(len)?).ok()?;
            names.push(hosts::is_name(name).then(|| name.to_owned())?);
        }
        let mut registered = BTreeMap::new();
        let registrations = usize::from(reader.u16()?);
        for _ in 0..registrations {
            let name = names.get(usize::from(reader.u16()?))?.clone();
            let isid = reader.chunk()?;
            let port = InitiatorPort { name, isid };
            let target_port = reader.u16()?;
            let key = Key(u64::from_be_bytes(reader.chunk()?));
            registered.insert(Registrant { port, target_port }, key);
        }
        let whole = registered.len() == registrations && registrations <= REGISTRATIONS_MAX;
        if !whole || registered.values().any(|key| *key == Key::NONE) {
            return None;
        }
        let holder = match holder {
            NO_HOLDER => None,
            at => Some(registered.keys().nth(usize::from(at))?.clone()),
        };
        let held = match kind {
            NO_TYPE if holder.is_none() => None,
            code => Some(Held {
                kind: Kind::from_code(code)?,
                holder,
            }),
        };
        let backed = held.as_ref().is_none_or(|held| {
            held.kind.is_all_registrants() == held.holder.is_none() && !registered.is_empty()
        });
        backed.then_some(Self {
            generation,
            registered,
            held,
        })
    }
}

fn name(who: &Registrant) -> &str {
    &who.port.name
}

fn count(count: usize) -> u16 {
    u16::try_from(count).expect("registrations are bounded")
}

/// What is not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len_bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len_bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_be_bytes)
    }
}
