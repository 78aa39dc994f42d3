//! Dirty runs of one volume, several frames if need be.

use super::WireError;
use bytes::Bytes;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Runs in one frame at most.
pub const RUNS_MAX: usize = 4096;

/// Blocks `start .. start + count` of the dirty map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First block.
    pub start: u32,
    /// At least one.
    pub count: u32,
}

/// The bytes on the wire of at most [`RUNS_MAX`] runs.
#[must_use]
pub fn encode(runs: &[Run]) -> Bytes {
    assert!(
        runs.len() <= RUNS_MAX,
        "{} runs do not fit a frame",
        runs.len()
    );
    let raw = runs.iter().flat_map(|run| {
        let raw = RawRun {
            start: U32::new(run.start),
            count: U32::new(run.count),
        };
        <[u8; 8]>::try_from(raw.as_bytes()).expect("a run has 8 bytes")
    });
    raw.collect()
}

/// Reads runs of a volume with `blocks` blocks.
///
/// # Errors
/// Another length, too many runs, an empty run, or one beyond the end.
pub fn parse(bytes: &[u8], blocks: u32) -> Result<Vec<Run>, WireError> {
    let raw = <[RawRun]>::ref_from_bytes(bytes).map_err(|_| WireError::Field("payload_len"))?;
    if raw.len() > RUNS_MAX {
        return Err(WireError::Field("runs"));
    }
    let mut runs = Vec::with_capacity(raw.len());
    for run in raw {
        let run = Run {
            start: run.start.get(),
            count: run.count.get(),
        };
        let end = run
            .start
            .checked_add(run.count)
            .ok_or(WireError::Field("run"))?;
        if run.count == 0 || end > blocks {
            return Err(WireError::Field("run"));
        }
        runs.push(run);
    }
    Ok(runs)
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRun {
    start: U32,
    count: U32,
}

const _: () = assert!(size_of::<RawRun>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_have_these_bytes() {
        let runs = [
            Run { start: 1, count: 2 },
            Run {
                start: 0x0102,
                count: 1,
            },
        ];
        let bytes = encode(&runs);
        assert_eq!(bytes[..], [1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 0, 0, 1, 0, 0, 0]);
        assert_eq!(parse(&bytes, 0x0103), Ok(runs.to_vec()));
        assert_eq!(parse(&bytes, 0x0102), Err(WireError::Field("run")));
    }

    #[test]
    fn empty_and_overflowing_runs_are_refused() {
        for run in [
            Run { start: 0, count: 0 },
            Run {
                start: u32::MAX,
                count: 2,
            },
        ] {
            assert_eq!(
                parse(&encode(&[run]), u32::MAX),
                Err(WireError::Field("run"))
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_runs_do_not_panic(bytes: Vec<u8>, blocks: u32) {
            if let Ok(runs) = parse(&bytes, blocks) {
                prop_assert_eq!(encode(&runs), bytes);
            }
        }
    }
}
