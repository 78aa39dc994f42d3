//! The pool of backings, on a real folder.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod shell_support;

use replication::shell::{LockWait, Pool, PoolError};
use replication::types::{VolumeNumber, Zeroed};
use shell_support::{Folder, Rng};

const MIB: u64 = 1 << 20;

fn pool(folder: &Folder) -> Pool {
    Pool::open(folder.file("pool")).unwrap()
}

#[tokio::test]
async fn volumes_are_made_listed_opened_and_removed() {
    let folder = Folder::new();
    let pool = pool(&folder);
    assert_eq!(pool.list().unwrap(), []);
    for number in [7, 0, 12] {
        let backing = pool
            .create_volume(VolumeNumber(number), 3 * MIB)
            .await
            .unwrap();
        assert_eq!(
            (backing.size_bytes(), backing.zeroed()),
            (3 * MIB, Zeroed::Proven)
        );
    }
    std::fs::write(pool.dir().join("notes.txt"), "not a volume").unwrap();
    let numbers = |pool: &Pool| -> Vec<u32> {
        pool.list()
            .unwrap()
            .into_iter()
            .map(|listed| listed.number.0)
            .collect()
    };
    assert_eq!(numbers(&pool), [0, 7, 12]);
    assert!(
        pool.list()
            .unwrap()
            .iter()
            .all(|listed| listed.size_bytes == 3 * MIB)
    );
    pool.remove_volume(VolumeNumber(7)).await.unwrap();
    pool.remove_volume(VolumeNumber(7)).await.unwrap();
    assert_eq!(numbers(&pool), [0, 12]);
    let missing = pool
        .open_volume(VolumeNumber(7), LockWait::Forever)
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("00000007.vol"), "{missing}");
}

#[tokio::test]
async fn a_volume_with_data_is_never_made_again() {
    let folder = Folder::new();
    let pool = pool(&folder);
    drop(pool.create_volume(VolumeNumber(1), MIB).await.unwrap());
    drop(
        pool.create_volume(VolumeNumber(1), MIB)
            .await
            .expect("it was never written"),
    );
    let other_size = pool
        .create_volume(VolumeNumber(1), 2 * MIB)
        .await
        .unwrap_err();
    assert!(
        matches!(other_size, PoolError::Exists { .. }),
        "{other_size}"
    );
    let mut random = Rng(1);
    let len_bytes = usize::try_from(1 + random.below(4096)).unwrap();
    let data = random.bytes(len_bytes);
    let mut whole = data.clone();
    whole.resize(usize::try_from(MIB).unwrap(), 0);
    std::fs::write(pool.path(VolumeNumber(1)), &whole).unwrap();
    let written = pool.create_volume(VolumeNumber(1), MIB).await.unwrap_err();
    assert!(matches!(written, PoolError::Exists { .. }), "{written}");
    assert_eq!(std::fs::read(pool.path(VolumeNumber(1))).unwrap(), whole);
}

#[tokio::test]
async fn more_than_the_free_space_is_refused_with_both_sizes() {
    let folder = Folder::new();
    let pool = pool(&folder);
    let left = pool.left_bytes().unwrap();
    let error = pool
        .create_volume(VolumeNumber(1), left + 1024 * MIB)
        .await
        .unwrap_err();
    assert!(matches!(error, PoolError::Full { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("make room or choose a smaller size"),
        "{error}"
    );
    assert_eq!(pool.list().unwrap(), []);
    // What a sparse file may still grow into is not free.
    drop(pool.create_volume(VolumeNumber(2), left / 2).await.unwrap());
    assert!(pool.left_bytes().unwrap() < left / 2 + left / 8);
}

#[test]
fn what_a_crash_left_unfinished_is_removed() {
    let folder = Folder::new();
    let unfinished = pool(&folder).dir().join("00000003.new");
    std::fs::write(&unfinished, "half").unwrap();
    assert_eq!(pool(&folder).list().unwrap(), []);
    assert!(!unfinished.exists());
}

#[tokio::test]
async fn a_backing_grows_while_it_is_open_and_what_is_new_reads_zero() {
    let folder = Folder::new();
    let pool = pool(&folder);
    let number = VolumeNumber(3);
    let backing = pool.create_volume(number, 3 * MIB).await.unwrap();
    std::fs::write(pool.path(number), vec![7; 3 << 20]).unwrap();
    let grow = |bytes| pool.grow_volume(std::sync::Arc::clone(&backing), bytes);
    assert_eq!(grow(5 * MIB).await.unwrap(), Zeroed::Proven);
    assert_eq!(backing.size_bytes(), 5 * MIB);
    let held = std::fs::read(pool.path(number)).unwrap();
    assert!(held[..3 << 20].iter().all(|byte| *byte == 7));
    assert!(held[3 << 20..].iter().all(|byte| *byte == 0));
    grow(4 * MIB).await.unwrap();
    assert_eq!(backing.size_bytes(), 5 * MIB, "it never becomes shorter");
    let full = grow(u64::MAX / 2).await.unwrap_err();
    assert!(matches!(full, PoolError::Full { .. }), "{full}");
    assert_eq!(backing.size_bytes(), 5 * MIB);
}
