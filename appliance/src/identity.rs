//! Who this box and this process are: node ids from names, ids of start and boot.

use crate::config::NodeConfig;

/// Node id of the witness in every pair.
pub(crate) const WITNESS: u8 = 3;
/// Name of the witness in every pair.
pub(crate) const WITNESS_NAME: &str = "witness";

/// Numbers of one process of one box (law R0).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    /// This box: 1 for the name that sorts first, else 2.
    pub(crate) me: u8,
    /// The other box.
    pub(crate) peer: u8,
    /// This start of the process.
    pub(crate) incarnation: u128,
    /// This boot of the kernel.
    pub(crate) boot: u128,
}

impl Identity {
    /// For `config`; `boot` stands in for the kernel's boot id in tests.
    ///
    /// # Errors
    /// If the system gives no randomness or no boot id.
    pub(crate) fn of(config: &NodeConfig, boot: Option<uuid::Uuid>) -> Result<Self, String> {
        let me = if config.node < config.peer { 1 } else { 2 };
        Ok(Self {
            me,
            peer: 3 - me,
            incarnation: random()?,
            boot: boot.map_or_else(kernel_boot, |boot| Ok(boot.as_u128()))?,
        })
    }

    /// Name of a node, for people.
    #[must_use]
    pub(crate) fn name(&self, config: &NodeConfig, node: u8) -> String {
        if node == self.me {
            config.node.clone()
        } else if node == self.peer {
            config.peer.clone()
        } else {
            WITNESS_NAME.to_owned()
        }
    }

    /// An event of the authority in words, with the names people know. Why a resource did not
    /// start is this program's own text, not the authority's: it stays as it is.
    #[must_use]
    pub(crate) fn told(&self, config: &NodeConfig, event: &ha::Event) -> String {
        let text = event.to_string();
        if matches!(event, ha::Event::StartFailed { .. }) {
            text
        } else {
            self.named(config, &text)
        }
    }

    /// `text` of the authority, which speaks of node ids, with the names people know. Ids are found
    /// in the finished text, so it must hold no words of others.
    #[must_use]
    pub(crate) fn named(&self, config: &NodeConfig, text: &str) -> String {
        [self.me, self.peer, WITNESS]
            .into_iter()
            .fold(text.to_owned(), |text, node| {
                text.replace(&ha::NodeId(node).to_string(), &self.name(config, node))
            })
    }
}

/// 128 random bits.
///
/// # Errors
/// If the system gives no randomness.
pub(crate) fn random() -> Result<u128, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        format!(
            "the system gives no random numbers: {error}; twinsan needs the system call getrandom: \
             see that no seccomp filter forbids it"
        )
    })?;
    Ok(u128::from_le_bytes(bytes))
}

/// The kernel's boot id.
///
/// # Errors
/// If `/proc` does not tell.
pub(crate) fn kernel_boot() -> Result<u128, String> {
    let file = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let boot: uuid::Uuid = text
        .trim()
        .parse()
        .map_err(|error| format!("{file}: {error}"))?;
    Ok(boot.as_u128())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_authority_is_heard_by_name_and_others_word_for_word() {
        let file = r#"
node = "alpha"
peer = "beta"
state = "state"
api = "api.sock"
pool = { path = "pool" }
witness = { address = "10.0.0.3" }
link = [{ name = "l", address = "10.0.0.1", peer = "10.0.0.2", role = "replication" }]
"#;
        let config = NodeConfig::of_text(Path::new("node.toml"), file).expect("a good file");
        let identity = Identity {
            me: 1,
            peer: 2,
            incarnation: 0,
            boot: 0,
        };
        let stranger = |node| ha::Event::ForeignVoter {
            node: ha::NodeId(node),
        };
        for (node, name) in [(1, "alpha was"), (2, "beta was"), (WITNESS, "witness was")] {
            let told = identity.told(&config, &stranger(node));
            assert!(told.starts_with(name), "{told}");
        }
        let reason = "no such file: /srv/node 1/pool".to_owned();
        let told = identity.told(
            &config,
            &ha::Event::StartFailed {
                resource: ha::Resource::Target,
                reason: reason.clone(),
                retry_ms: 1,
            },
        );
        assert!(told.contains(&reason), "{told}");
    }
}
