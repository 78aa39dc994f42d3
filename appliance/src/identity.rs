//! Who this box and this process are: node ids from names, ids of start and boot.

use crate::config::NodeConfig;

/// Node id of the witness in every pair.
pub(crate) const WITNESS: u8 = 3;

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
            "witness".to_owned()
        }
    }

    /// `text` of the authority, which speaks of node ids, with the names people know.
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
