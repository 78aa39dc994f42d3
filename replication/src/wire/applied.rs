//! Which frames of an earlier session the secondary has applied (law D4).
//!
//! It says so for the last session that streamed, of whichever process of the primary that was;
//! whether the answer is about itself is for the primary to see.

use super::WireError;
use crate::types::Incarnation;
use bytes::Bytes;
use zerocopy::byteorder::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Runs of missing frames at most; a secondary that misses more says nothing.
pub const RUNS_MAX: usize = 4096;

/// What became of the frames of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The process of the primary that sent them.
    pub primary: Incarnation,
    /// Its number for the session.
    pub session: u32,
    /// Every frame up to this one was taken from the stream, in order; none after it was.
    pub last_seq: u64,
    /// Those of them that were not applied, and never will be.
    pub missing: Vec<Run>,
}

/// Frames `first .. first + count` of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first one.
    pub first: u64,
    /// At least one.
    pub count: u64,
}

impl Applied {
    /// Whether frame `seq` of the session is on the secondary's device.
    #[must_use]
    pub fn contains(&self, seq: u64) -> bool {
        let after = self.missing.partition_point(|run| run.first <= seq);
        let missing = after
            .checked_sub(1)
            .is_some_and(|at| seq - self.missing[at].first < self.missing[at].count);
        seq <= self.last_seq && !missing
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        assert!(
            self.missing.len() <= RUNS_MAX,
            "{} runs do not fit a frame",
            self.missing.len()
        );
        let head = RawHead {
            primary: U128::new(self.primary.0),
            last_seq: U64::new(self.last_seq),
            session: U32::new(self.session),
            reserved: [0; 4],
        };
        let mut bytes = head.as_bytes().to_vec();
        for run in &self.missing {
            let raw = RawRun {
                first: U64::new(run.first),
                count: U64::new(run.count),
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        bytes.into()
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Another length, too many runs, an empty run, runs out of order or beyond the last frame.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (head, rest) =
            RawHead::ref_from_prefix(bytes).map_err(|_| WireError::Field("payload_len"))?;
        let raw = <[RawRun]>::ref_from_bytes(rest);
        let raw = raw.map_err(|_| WireError::Field("payload_len"))?;
        if raw.len() > RUNS_MAX || head.reserved != [0; 4] {
            return Err(WireError::Field("runs"));
        }
        let last_seq = head.last_seq.get();
        let mut missing = Vec::with_capacity(raw.len());
        let mut next = 1;
        for run in raw {
            let (first, count) = (run.first.get(), run.count.get());
            let end = first.checked_add(count).ok_or(WireError::Field("run"))?;
            if first < next || count == 0 || end - 1 > last_seq {
                return Err(WireError::Field("run"));
            }
            next = end;
            missing.push(Run { first, count });
        }
        Ok(Self {
            primary: Incarnation(head.primary.get()),
            session: head.session.get(),
            last_seq,
            missing,
        })
    }
}

/// Rising numbers as runs.
pub fn runs(numbers: impl Iterator<Item = u64>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.first + run.count == number => run.count += 1,
            _ => runs.push(Run {
                first: number,
                count: 1,
            }),
        }
    }
    runs
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHead {
    primary: U128,
    last_seq: U64,
    session: U32,
    reserved: [u8; 4],
}

const _: () = assert!(size_of::<RawHead>() == 32);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRun {
    first: U64,
    count: U64,
}

const _: () = assert!(size_of::<RawRun>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_frame_is_applied_if_it_came_and_is_not_missing() {
        let applied = Applied {
            primary: Incarnation(1),
            session: 2,
            last_seq: 9,
            missing: runs([3, 4, 7].into_iter()),
        };
        let found: Vec<u64> = (1..12).filter(|seq| applied.contains(*seq)).collect();
        assert_eq!(found, [1, 2, 5, 6, 8, 9]);
        assert_eq!(applied.missing.len(), 2);
        assert_eq!(Applied::parse(&applied.encode()), Ok(applied));
    }

    #[test]
    fn runs_beyond_the_last_frame_are_refused() {
        let applied = Applied {
            primary: Incarnation(1),
            session: 2,
            last_seq: 3,
            missing: runs([4].into_iter()),
        };
        let refused = Err(WireError::Field("run"));
        assert_eq!(Applied::parse(&applied.encode()), refused);
    }

    proptest! {
        #[test]
        fn what_is_missing_survives_the_wire(seqs: BTreeSet<u16>, last_seq in 65536u64..) {
            let missing = runs(seqs.iter().map(|seq| u64::from(*seq) + 1));
            let primary = Incarnation(7);
            let applied = Applied { primary, session: 1, last_seq, missing };
            prop_assume!(applied.missing.len() <= RUNS_MAX);
            let parsed = Applied::parse(&applied.encode()).expect("it was encoded");
            for seq in 1..=u64::from(u16::MAX) + 1 {
                let missing = u16::try_from(seq - 1).is_ok_and(|seq| seqs.contains(&seq));
                prop_assert_eq!(parsed.contains(seq), !missing);
            }
        }

        #[test]
        fn arbitrary_bodies_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(applied) = Applied::parse(&bytes) {
                prop_assert_eq!(applied.encode(), bytes);
            }
        }
    }
}
