//! The system volume as the store of everything replicated besides data (law D10): one value, read
//! when this box begins to serve, written with FUA at each change.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use replication::engine::{Command, CommandError, Completed};
use replication::meta;
use replication::shell::Handle;
use replication::types::{Fua, VolumeNumber};
use serde::{Deserialize, Serialize};

use crate::config::Cluster;
use crate::config::plan::Past;
use crate::state::{self, Slots};

/// The value.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Replicated {
    /// The cluster configuration.
    pub(crate) cluster: Cluster,
    /// Every initiator that ever logged in: who must hear of a lost cache (law D5).
    pub(crate) initiators: BTreeSet<String>,
    /// Who has not yet heard that which volumes lost unflushed writes with the power: the next
    /// flush of each of these initiators must fail on each of its volumes.
    pub(crate) cache_lost: BTreeMap<String, BTreeSet<u32>>,
    /// The last changes of the cluster configuration, oldest first.
    pub(crate) history: Vec<Past>,
}

impl Replicated {
    /// Every initiator that may have written must hear that `volume` lost its cache: those seen so
    /// far, and those that a host names, because one that had just logged in is not noted yet.
    pub(crate) fn lose_cache(&mut self, volume: u32) {
        let named = self.cluster.hosts.iter().flat_map(|host| &host.iqns);
        for initiator in self.initiators.iter().chain(named) {
            let owed = self.cache_lost.entry(initiator.clone()).or_default();
            owed.insert(volume);
        }
    }

    /// `initiator` has heard it of `volume`.
    pub(crate) fn heard(&mut self, volume: u32, initiator: &str) {
        if let Some(owed) = self.cache_lost.get_mut(initiator) {
            owed.remove(&volume);
        }
        self.cache_lost.retain(|_, owed| !owed.is_empty());
    }
}

/// The way to it.
pub(crate) struct SystemVolume {
    mirror: Handle,
    slots: Cell<Slots>,
}

impl SystemVolume {
    /// Behind `mirror`.
    pub(crate) fn new(mirror: Handle) -> Self {
        Self {
            mirror,
            slots: Cell::default(),
        }
    }

    /// The newest value; none if nothing was ever stored.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) async fn read(&self) -> Result<Option<Replicated>, String> {
        let slots = [self.read_slot(0).await?, self.read_slot(1).await?];
        let (slots, value) = Slots::newest([&slots[0], &slots[1]]);
        if slots.sequence < self.slots.get().sequence {
            return Err("the system volume was written meanwhile; it is read again".to_owned());
        }
        self.slots.set(slots);
        value.map(|value| parse(&value)).transpose()
    }

    /// Durable on every member of the in-sync set when it returns.
    ///
    /// # Errors
    /// A sentence for operators; the new value may or may not be there.
    pub(crate) async fn store(&self, value: &Replicated) -> Result<(), String> {
        let text = encoded(value)?;
        let (offset_bytes, data, next) = self.slots.get().put(text.as_bytes());
        let volume = VolumeNumber::SYSTEM;
        let write = Command::Write {
            volume,
            offset_bytes,
            data,
            fua: Fua::Yes,
        };
        command(&self.mirror, write).await?;
        self.slots.set(next);
        Ok(())
    }

    /// Whether `value` has room.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) fn check(value: &Replicated) -> Result<(), String> {
        encoded(value).map(|_| ())
    }

    async fn read_slot(&self, slot: u64) -> Result<Vec<u8>, String> {
        let from = slot * state::SLOT_BYTES;
        let head = self.read_bytes(from, state::READ_FIRST_BYTES).await?;
        match state::slot_bytes(&head) {
            Some(whole) if whole > head.len() => self.read_bytes(from, whole).await,
            Some(_) | None => Ok(head),
        }
    }

    async fn read_bytes(&self, offset_bytes: u64, len_bytes: usize) -> Result<Vec<u8>, String> {
        let volume = VolumeNumber::SYSTEM;
        match command(
            &self.mirror,
            Command::Read {
                volume,
                offset_bytes,
                len_bytes,
            },
        )
        .await?
        {
            Completed::Data(data) => Ok(data.to_vec()),
            Completed::Ok | Completed::Miscompare { .. } => {
                Err("the system volume gave no data".to_owned())
            }
        }
    }
}

/// The newest configuration in this box's own copy of the system volume, whoever serves it. A box
/// that is not in sync may have an older one. Blocks on the disk; none: nothing was ever stored.
///
/// # Errors
/// A sentence for operators.
pub(crate) fn copy_of(backing: &Path) -> Result<Option<Cluster>, String> {
    let failed = |error: std::io::Error| {
        format!(
            "this box's copy of the system volume ({}) cannot be read: {error}",
            backing.display()
        )
    };
    let file = match File::open(backing) {
        // This box was made a member and has not got a copy yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let from = meta::layout(meta::SYSTEM_BYTES).data_offset;
    let read = |offset_bytes: u64, len_bytes: usize| {
        let mut bytes = vec![0; len_bytes];
        let read = file.read_exact_at(&mut bytes, from + offset_bytes);
        read.map(|()| bytes).map_err(failed)
    };
    let slot = |slot: u64| {
        let at = slot * state::SLOT_BYTES;
        let head = read(at, state::READ_FIRST_BYTES)?;
        match state::slot_bytes(&head) {
            Some(whole) if whole > head.len() => read(at, whole),
            Some(_) | None => Ok(head),
        }
    };
    let (_, value) = Slots::newest([&slot(0)?, &slot(1)?]);
    Ok(value.map(|it| parse(&it)).transpose()?.map(|it| it.cluster))
}

fn encoded(value: &Replicated) -> Result<String, String> {
    let text = toml::to_string(value).map_err(|error| error.to_string())?;
    if text.len() > state::VALUE_BYTES_MAX {
        return Err(format!(
            "the cluster configuration would need {} bytes and there is room for {}; remove what \
             is not needed first",
            text.len(),
            state::VALUE_BYTES_MAX
        ));
    }
    Ok(text)
}

fn parse(value: &[u8]) -> Result<Replicated, String> {
    let text = String::from_utf8_lossy(value);
    toml::from_str(&text).map_err(|error| {
        format!(
            "the configuration in the system volume cannot be read: {}; its checksum is good, so \
             another version of twinsan wrote it: run that version on both boxes; nothing is \
             served and nothing was changed",
            error.message()
        )
    })
}

/// One command of the mirror, awaited, with its failure in words.
///
/// # Errors
/// A sentence for operators.
pub(crate) async fn command(mirror: &Handle, command: Command) -> Result<Completed, String> {
    awaited(|reply| mirror.submit(command, reply)).await
}

type Reply = Box<dyn FnOnce(Result<Completed, CommandError>)>;

/// Starts something that answers like a command, and awaits the answer.
///
/// # Errors
/// A sentence for operators.
pub(crate) async fn awaited(start: impl FnOnce(Reply)) -> Result<Completed, String> {
    let (done, waiting) = tokio::sync::oneshot::channel();
    start(Box::new(move |result| drop(done.send(result))));
    let result = waiting.await.unwrap_or(Err(CommandError::NotPrimary));
    result.map_err(sentence)
}

/// Why a command of the mirror failed, for operators.
pub(crate) fn sentence(error: CommandError) -> String {
    match error {
        CommandError::NotPrimary => {
            "this box is not primary any more; ask the other box".to_owned()
        }
        CommandError::Refused(why) => why,
        CommandError::NoSpace => "the pool is full; make room first".to_owned(),
        CommandError::Io | CommandError::Medium => "the disk failed; see events".to_owned(),
        CommandError::Overloaded => "too many commands wait; try again".to_owned(),
        CommandError::OutOfRange | CommandError::UnknownVolume => {
            "the mirror does not know that volume".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_cache_is_told_to_each_initiator_once() {
        let mut value = Replicated::default();
        value.lose_cache(1);
        assert!(value.cache_lost.is_empty(), "nobody was there");
        value.initiators = ["a".to_owned(), "b".to_owned()].into();
        value.lose_cache(1);
        value.heard(1, "a");
        let text = toml::to_string(&value).expect("serializes");
        assert_eq!(parse(text.as_bytes()), Ok(value.clone()));
        value.heard(2, "b");
        assert_eq!(value.cache_lost.len(), 1);
        value.heard(1, "b");
        assert!(value.cache_lost.is_empty());
    }

    #[test]
    fn a_value_of_another_version_is_refused_with_what_to_do() {
        let said = parse(b"color = \"red\"").expect_err("an unknown key");
        for words in [
            "unknown field `color`",
            "run that version",
            "nothing was changed",
        ] {
            assert!(said.contains(words), "{said}");
        }
        assert!(parse(&[0xff]).is_err());
    }

    #[test]
    fn an_initiator_that_a_host_names_hears_it_before_it_was_seen() {
        let mut value = Replicated::default();
        value.cluster.hosts.push(crate::config::cluster::Host {
            name: "h".to_owned(),
            iqns: vec!["a".to_owned()],
            networks: Vec::new(),
            chap: None,
        });
        value.lose_cache(1);
        assert_eq!(value.cache_lost, [("a".to_owned(), [1].into())].into());
    }
}
