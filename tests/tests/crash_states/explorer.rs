//! From writes under way to the states that a crash may leave.

use tests::rng::Rng;
use tests::world::content::SECTOR_LEN;

/// Up to this many sectors under way all subsets are looked at, above as many samples.
const PARTS_ALL: usize = 12;
const SAMPLES: u64 = 1 << PARTS_ALL;

/// A write of whole sectors.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) offset: usize,
    pub(crate) bytes: Vec<u8>,
}

/// A sector of a write that differs from what is there.
struct Part<'a> {
    write: usize,
    offset: usize,
    bytes: &'a [u8],
}

/// Calls `check` with every state that a crash may leave of `stable` and the writes under way;
/// how many there were. `stable` is as before in the end.
pub(crate) fn explore(
    stable: &mut [u8],
    writes: &[Write],
    rng: &mut Rng,
    mut check: impl FnMut(&[u8]),
) -> u64 {
    let parts = parts_of(stable, writes);
    let seen = std::cell::Cell::new(0);
    let mut look = |chosen: &dyn Fn(usize, &Part<'_>) -> bool| {
        let mut before = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            if chosen(number, part) {
                let place = &mut stable[part.offset..part.offset + SECTOR_LEN];
                before.push((part.offset, place.to_vec()));
                place.copy_from_slice(part.bytes);
            }
        }
        check(stable);
        seen.set(seen.get() + 1);
        for (offset, bytes) in before.into_iter().rev() {
            stable[offset..offset + SECTOR_LEN].copy_from_slice(&bytes);
        }
    };
    if parts.len() <= PARTS_ALL {
        for subset in 0..1_u64 << parts.len() {
            look(&|number, _| subset >> number & 1 == 1);
        }
        return seen.get();
    }
    look(&|_, _| false);
    look(&|_, _| true);
    for write in 0..writes.len() {
        look(&|_, part| part.write == write);
        look(&|_, part| part.write != write);
    }
    while seen.get() < SAMPLES {
        let share = *rng.pick(&[30, 200, 500, 800, 970]);
        let drawn: Vec<bool> = parts.iter().map(|_| rng.chance(share)).collect();
        look(&|number, _| drawn[number]);
    }
    seen.get()
}

fn parts_of<'a>(stable: &[u8], writes: &'a [Write]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    for (number, write) in writes.iter().enumerate() {
        assert_eq!(write.offset % SECTOR_LEN, 0, "writes are whole sectors");
        assert_eq!(
            write.bytes.len() % SECTOR_LEN,
            0,
            "writes are whole sectors"
        );
        for (index, bytes) in write.bytes.chunks_exact(SECTOR_LEN).enumerate() {
            let offset = write.offset + index * SECTOR_LEN;
            let again = writes[..number].iter().any(|earlier| {
                (earlier.offset..earlier.offset + earlier.bytes.len()).contains(&offset)
            });
            if again || stable[offset..offset + SECTOR_LEN] != *bytes {
                parts.push(Part {
                    write: number,
                    offset,
                    bytes,
                });
            }
        }
    }
    parts
}

#[test]
fn all_subsets_of_a_few_sectors_and_samples_of_many() {
    let rng = &mut Rng::new(1);
    let mut stable = vec![0; 64 * SECTOR_LEN];
    let write = |sectors: usize| Write {
        offset: SECTOR_LEN,
        bytes: vec![1; sectors * SECTOR_LEN],
    };
    let mut states = std::collections::BTreeSet::new();
    let count = explore(&mut stable, &[write(3)], rng, |state| {
        let sectors = state.chunks_exact(SECTOR_LEN).take(5);
        states.insert(sectors.map(|sector| sector[0]).collect::<Vec<u8>>());
    });
    assert_eq!((count, states.len()), (8, 8));
    assert_eq!(explore(&mut stable, &[write(40)], rng, |_| {}), SAMPLES);
    assert!(stable.iter().all(|byte| *byte == 0), "nothing is left");
}
