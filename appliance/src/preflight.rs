//! What must be true of this box before its daemon starts; each failure says what to do.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::config::NodeConfig;
use crate::config::node::{Encryption, LinkRole};

/// Checks what `config` names and changes nothing. Returns warnings.
///
/// # Errors
/// A sentence with what is wrong and what to do.
pub(crate) fn check(config: &NodeConfig) -> Result<Vec<String>, String> {
    directory(&config.pool, "the pool")?;
    if let Some(parent) = config.state.parent() {
        directory(parent, "the folder of the state directory")?;
    }
    let mut warnings = Vec::new();
    if config.links.len() < 2 {
        warnings.push(
            "there is one heartbeat link; a second one keeps the boxes in touch when it fails"
                .to_owned(),
        );
    }
    if !config
        .links
        .iter()
        .any(|link| link.role == LinkRole::Service)
    {
        warnings.push(
            "no [[link]] has role = \"service\"; heartbeats on the initiators' network keep the \
             boxes in touch when the others fail"
                .to_owned(),
        );
    }
    for link in &config.replication {
        if link.encryption == Encryption::Off {
            warnings.push(format!(
                "the data on link {} is not encrypted: whoever can touch that cable can read it",
                link.name
            ));
        }
    }
    Ok(warnings)
}

fn directory(path: &Path, what: &str) -> Result<(), String> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| {
        format!("{what} {shown} cannot be used: {error}; make the folder first")
    })?;
    if !metadata.is_dir() {
        return Err(format!("{what} {shown} is not a folder"));
    }
    let owner = nix::unistd::geteuid();
    let writable = owner.is_root()
        || (metadata.uid() == owner.as_raw() && metadata.mode() & 0o200 != 0)
        || nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
    if !writable {
        return Err(format!(
            "{what} {shown} is not writable; run as its owner or as root"
        ));
    }
    Ok(())
}
