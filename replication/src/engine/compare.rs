//! What to do with a peer's copy: a pure function of what both sides know.
//!
//! | # | Condition | Verdict |
//! |---|---|---|
//! | 1 | another group | refuse: unrelated |
//! | 2 | other lineage, or a copy unknown to our commits, and the peer wrote | refuse: forked |
//! | 7 | the peer knows an epoch above ours | refuse: ahead, or sealed |
//! | 4 | the peer is in the committed in-sync set | equal, or it has to leave the set first |
//! | 5 | our masks are relative to this copy | what the masks say |
//! | 3, 6 | anything else | everything |
//!
//! A volume that the peer has just made is looked at by itself: nothing but what was written here
//! since both were zero, if that is proven (law D6), else all of it.

use crate::meta::group::Coverage;
use crate::mutants::mutant;
use crate::types::{DiskInstance, Epoch, GroupId};

/// What the primary knows.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// Our group.
    pub group: GroupId,
    /// The epoch we serve.
    pub epoch: Epoch,
    /// The data epoch of our copy before that.
    pub previous: Epoch,
    /// The peer is in the committed in-sync set, or in one that is in doubt.
    pub counted: bool,
    /// The last epoch in which the peer was in sync, as committed.
    pub base: Option<Epoch>,
    /// The copy it then had.
    pub base_disk: Option<DiskInstance>,
    /// Another copy that our masks are relative to.
    pub covers: Option<Coverage>,
}

/// What the peer says.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its group.
    pub group: GroupId,
    /// Its copy.
    pub disk: DiskInstance,
    /// The last epoch in which that was in sync or primary.
    pub data_epoch: Epoch,
    /// It refuses epochs up to this one.
    pub sealed: Epoch,
    /// It has neither dirty blocks nor intents nor a volume that it just made.
    pub clean: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Row 1: another group.
    Unrelated,
    /// Row 2: both wrote, and neither's writes are the other's.
    Forked,
    /// Row 7: the peer knows a newer epoch, or our metadata is an old copy.
    Ahead,
    /// Row 7: the peer refuses our epoch.
    Sealed,
    /// Row 4: in sync, nothing to copy.
    Equal,
    /// Row 4: counts as in sync but is not equal: degrade first (H6).
    Differs,
    /// Row 5: copy what the masks say.
    Delta,
    /// Rows 3 and 6: copy everything.
    Full,
}

/// Compares two copies.
#[must_use]
pub fn compare(local: &Local, peer: &Peer) -> Verdict {
    if local.group != peer.group {
        return Verdict::Unrelated;
    }
    let based = local.base == Some(peer.data_epoch) && local.base_disk == Some(peer.disk);
    let covers = Coverage {
        disk: peer.disk,
        data_epoch: peer.data_epoch,
    };
    let covered = local.covers == Some(covers);
    // A copy that served, or was in sync, and never by a commit of ours.
    let stranger = peer.data_epoch != Epoch::ZERO && local.base_disk != Some(peer.disk);
    let forked = peer.data_epoch.lineage() != local.epoch.lineage() || stranger;
    if peer.data_epoch > local.epoch {
        return Verdict::Ahead;
    }
    if forked && peer.data_epoch != Epoch::ZERO && !based && !covered {
        return Verdict::Forked;
    }
    if peer.sealed >= local.epoch && !mutant!(SkipSeal) {
        return Verdict::Sealed;
    }
    if local.counted {
        let same = local.base_disk == Some(peer.disk) && peer.data_epoch == local.previous;
        return if same && peer.clean {
            Verdict::Equal
        } else {
            Verdict::Differs
        };
    }
    if based || covered {
        Verdict::Delta
    } else {
        Verdict::Full
    }
}

/// One volume, as both sides have it.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Our dirty map is relative to an area of zeroes.
    pub zero_base: bool,
    /// The peer made it since the masks were last joined.
    pub fresh: bool,
    /// The peer's area is proven to read zero.
    pub zero: bool,
}

/// The verdict on one volume, given the one on the copy.
#[must_use]
pub fn volume(verdict: Verdict, pair: Pair) -> Verdict {
    if mutant!(TrustBlankPeer) && pair.fresh {
        return Verdict::Delta;
    }
    match (pair.fresh, pair.zero_base && pair.zero) {
        (true, true) => Verdict::Delta,
        (true, false) => Verdict::Full,
        (false, _) => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const DISK: DiskInstance = DiskInstance(1);
    const OTHER: DiskInstance = DiskInstance(2);

    fn local() -> Local {
        Local {
            group: GroupId(1),
            epoch: Epoch(9),
            previous: Epoch(8),
            counted: false,
            base: Some(Epoch(7)),
            base_disk: Some(DISK),
            covers: None,
        }
    }

    fn peer() -> Peer {
        Peer {
            group: GroupId(1),
            disk: DISK,
            data_epoch: Epoch(7),
            sealed: Epoch(6),
            clean: true,
        }
    }

    #[test]
    #[expect(
        clippy::too_many_lines,
        reason = "one example for each row of the table"
    )]
    fn each_row_by_example() {
        assert_eq!(
            compare(
                &local(),
                &Peer {
                    group: GroupId(2),
                    ..peer()
                }
            ),
            Verdict::Unrelated
        );
        let next_lineage = Epoch(9 | 1 << 48);
        let forced = Local {
            epoch: next_lineage,
            ..local()
        };
        assert_eq!(
            compare(
                &forced,
                &Peer {
                    data_epoch: Epoch(8),
                    ..peer()
                }
            ),
            Verdict::Forked
        );
        assert_eq!(compare(&forced, &peer()), Verdict::Delta);
        assert_eq!(
            compare(
                &local(),
                &Peer {
                    data_epoch: Epoch(10),
                    ..peer()
                }
            ),
            Verdict::Ahead
        );
        let ahead = Peer {
            data_epoch: next_lineage,
            ..peer()
        };
        assert_eq!(compare(&local(), &ahead), Verdict::Ahead);
        assert_eq!(
            compare(
                &local(),
                &Peer {
                    sealed: Epoch(9),
                    ..peer()
                }
            ),
            Verdict::Sealed
        );
        let counted = Local {
            counted: true,
            ..local()
        };
        assert_eq!(
            compare(
                &counted,
                &Peer {
                    data_epoch: Epoch(8),
                    ..peer()
                }
            ),
            Verdict::Equal
        );
        assert_eq!(compare(&counted, &peer()), Verdict::Differs);
        assert_eq!(compare(&local(), &peer()), Verdict::Delta);
        assert_eq!(
            compare(
                &local(),
                &Peer {
                    disk: OTHER,
                    ..peer()
                }
            ),
            Verdict::Forked
        );
        assert_eq!(
            compare(
                &local(),
                &Peer {
                    data_epoch: Epoch(6),
                    ..peer()
                }
            ),
            Verdict::Full
        );
        let covers = Some(Coverage {
            disk: OTHER,
            data_epoch: Epoch::ZERO,
        });
        let blank = Peer {
            disk: OTHER,
            data_epoch: Epoch::ZERO,
            ..peer()
        };
        assert_eq!(compare(&local(), &blank), Verdict::Full);
        assert_eq!(
            compare(&Local { covers, ..local() }, &blank),
            Verdict::Delta
        );
    }

    /// Every combination of a small domain: the table is total, and each verdict that copies less
    /// than everything has its proof among the inputs.
    #[test]
    fn nothing_less_than_everything_without_a_proof() {
        let mut seen = BTreeMap::new();
        for_each_case(|local, peer| {
            let verdict = compare(&local, &peer);
            *seen.entry(verdict).or_insert(0u32) += 1;
            let covers = Coverage {
                disk: peer.disk,
                data_epoch: peer.data_epoch,
            };
            let proof = (local.base == Some(peer.data_epoch) && local.base_disk == Some(peer.disk))
                || local.covers == Some(covers);
            match verdict {
                Verdict::Equal => assert!(
                    local.counted
                        && peer.clean
                        && local.base_disk == Some(peer.disk)
                        && peer.data_epoch == local.previous
                ),
                Verdict::Delta => assert!(proof && !local.counted),
                Verdict::Full => assert!(!proof && !local.counted),
                Verdict::Differs => assert!(local.counted),
                Verdict::Ahead => assert!(peer.data_epoch > local.epoch),
                Verdict::Sealed => assert!(peer.sealed >= local.epoch),
                Verdict::Forked => assert!(!proof),
                Verdict::Unrelated => assert_ne!(local.group, peer.group),
            }
            let streams = [Verdict::Equal, Verdict::Delta, Verdict::Full].contains(&verdict);
            if streams {
                assert!(peer.data_epoch <= local.epoch && peer.sealed < local.epoch);
                assert_eq!(local.group, peer.group);
            }
        });
        assert_eq!(seen.len(), 8, "every verdict is reached: {seen:?}");
    }

    fn for_each_case(mut check: impl FnMut(Local, Peer)) {
        let lineage = 1 << 48;
        let epochs = [
            Epoch(0),
            Epoch(1),
            Epoch(2),
            Epoch(lineage),
            Epoch(lineage | 2),
        ];
        let copies = [DISK, OTHER]
            .into_iter()
            .flat_map(|disk| epochs.map(|epoch| (disk, epoch)));
        let copies: Vec<_> = copies.collect();
        let known = || copies.iter().map(|copy| Some(*copy)).chain([None]);
        for group in [GroupId(1), GroupId(2)] {
            for (epoch, previous) in epochs.iter().flat_map(|e| epochs.map(|p| (*e, p))) {
                for (base, covers) in known().flat_map(|base| known().map(move |c| (base, c))) {
                    for (disk, data_epoch) in copies.iter().copied() {
                        for (bits, sealed) in (0..4).flat_map(|bits| epochs.map(|s| (bits, s))) {
                            let local = Local {
                                group: GroupId(1),
                                epoch,
                                previous,
                                counted: bits & 1 == 1,
                                base: base.map(|(_, epoch)| epoch),
                                base_disk: base.map(|(disk, _)| disk),
                                covers: covers
                                    .map(|(disk, data_epoch)| Coverage { disk, data_epoch }),
                            };
                            let clean = bits & 2 == 2;
                            check(
                                local,
                                Peer {
                                    group,
                                    disk,
                                    data_epoch,
                                    sealed,
                                    clean,
                                },
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn d6_a_new_volume_is_skipped_only_where_both_are_proven_zero() {
        for verdict in [Verdict::Delta, Verdict::Full] {
            for bits in 0..8 {
                let pair = Pair {
                    zero_base: bits & 1 != 0,
                    fresh: bits & 2 != 0,
                    zero: bits & 4 != 0,
                };
                let expected = match bits {
                    7 => Verdict::Delta,
                    2 | 3 | 6 => Verdict::Full,
                    _ => verdict,
                };
                assert_eq!(volume(verdict, pair), expected, "{pair:?}");
            }
        }
    }
}
