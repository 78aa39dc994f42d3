//! What must be true of this box before its daemon starts; each failure says what to do.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::config::NodeConfig;
use crate::config::node::LinkRole;

/// Length of a group key in a key file.
const KEY_DIGITS: usize = 64;

/// Checks what `config` names and changes nothing. Returns warnings.
///
/// # Errors
/// A sentence with what is wrong and what to do.
pub(crate) fn check(config: &NodeConfig) -> Result<Vec<String>, String> {
    group_key(&config.key_file)?;
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
    Ok(warnings)
}

/// Reads the group key.
///
/// # Errors
/// A sentence with what is wrong with the file and what to do.
pub(crate) fn group_key(file: &Path) -> Result<[u8; 32], String> {
    let shown = file.display();
    let metadata = std::fs::metadata(file).map_err(|error| {
        format!(
            "cannot read the group key {shown}: {error}; copy the pair's key file here, or make \
             one for a new pair: head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > {shown}; \
             chmod 600 {shown}"
        )
    })?;
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "the group key {shown} can be read by others (mode {:o}); run chmod 600 {shown}",
            mode & 0o777
        ));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read the group key {shown}: {error}"))?;
    parse_key(text.trim())
        .ok_or_else(|| format!("{shown} holds no group key; it must be {KEY_DIGITS} hex digits"))
}

/// The key that the text of a key file stands for.
pub(crate) fn parse_key(text: &str) -> Option<[u8; 32]> {
    if text.len() != KEY_DIGITS || !text.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_64_hex_digits() {
        assert_eq!(parse_key(&"0f".repeat(32)), Some([0x0f; 32]));
        for wrong in ["", "0f", &"zz".repeat(32), &"é".repeat(32)] {
            assert_eq!(parse_key(wrong), None);
        }
    }
}
