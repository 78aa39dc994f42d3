//! What makes a box or a witness a member of a pair: the group, its key and the certificates. It
//! comes from `twinsan init` and `twinsan pair`, lies in the state directory for its owner only,
//! and is never typed, logged or shown.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use replication::shell::{Fingerprint, Identity};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{hex, identity};

/// The file of a box.
const FILE: &str = "pair.json";
/// A witness has one file for each pair, named after the group.
const WITNESS_PREFIX: &str = "pair-";
const WITNESS_SUFFIX: &str = ".json";
/// A file of ours is small.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The group and its key: what every member has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) group: Uuid,
    pub(crate) key: [u8; 32],
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({})", self.group)
    }
}

/// A box as a member.
pub(crate) struct Member {
    pub(crate) pair: Pair,
    certificate: Vec<u8>,
    certificate_key: Vec<u8>,
    /// The other box's certificate, once that has joined.
    pub(crate) peer: Option<Fingerprint>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct BoxFile {
    group: Uuid,
    key: String,
    certificate: String,
    certificate_key: String,
    peer: Option<String>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WitnessFile {
    group: Uuid,
    key: String,
}

impl Pair {
    /// A new group with a new key.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub(crate) fn found() -> Result<Self, String> {
        let mut key = [0; 32];
        let (low, high) = key.split_at_mut(16);
        low.copy_from_slice(&identity::random()?.to_le_bytes());
        high.copy_from_slice(&identity::random()?.to_le_bytes());
        Ok(Self {
            group: Uuid::new_v4(),
            key,
        })
    }

    fn parse(group: Uuid, key: &str) -> Option<Self> {
        let key = hex::parse_array(key)?;
        Some(Self { group, key })
    }

    /// Makes a witness a member, durably.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) fn save_for_witness(&self, state: &Path) -> Result<(), String> {
        let name = format!("{WITNESS_PREFIX}{}{WITNESS_SUFFIX}", self.group);
        let file = WitnessFile {
            group: self.group,
            key: hex::shown(&self.key),
        };
        write(&state.join(name), &file)
    }

    /// The pairs that a witness votes in.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) fn all_of_witness(state: &Path) -> Result<Vec<Self>, String> {
        let entries = match fs::read_dir(state) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(format!("cannot read {}: {error}", state.display())),
        };
        let mut pairs = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with(WITNESS_PREFIX) || !name.ends_with(WITNESS_SUFFIX) {
                continue;
            }
            let path = entry.path();
            if let Some(file) = read::<WitnessFile>(&path)? {
                let pair = Self::parse(file.group, &file.key).ok_or_else(|| damaged(&path))?;
                pairs.push(pair);
            }
        }
        pairs.sort_by_key(|pair| pair.group);
        Ok(pairs)
    }

    /// Ends the membership of a witness. False if there was none.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) fn forget_for_witness(state: &Path, group: Uuid) -> Result<bool, String> {
        remove(&state.join(format!("{WITNESS_PREFIX}{group}{WITNESS_SUFFIX}")))
    }
}

impl Member {
    /// A member of `pair` with a certificate of its own, made now.
    ///
    /// # Errors
    /// If the certificate cannot be made.
    pub(crate) fn new(pair: Pair, peer: Option<Fingerprint>) -> Result<Self, String> {
        let (certificate, certificate_key) = certificate()?;
        Ok(Self {
            pair,
            certificate,
            certificate_key,
            peer,
        })
    }

    /// A member with a certificate that was made before, and the peer's.
    #[must_use]
    pub(crate) fn of_certificate(
        pair: Pair,
        (certificate, certificate_key): (Vec<u8>, Vec<u8>),
        peer: Fingerprint,
    ) -> Self {
        Self {
            pair,
            certificate,
            certificate_key,
            peer: Some(peer),
        }
    }

    /// The membership of the box whose state directory this is.
    ///
    /// # Errors
    /// A sentence for operators, if the file is damaged or others can read it.
    pub(crate) fn load(state: &Path) -> Result<Option<Self>, String> {
        let path = state.join(FILE);
        let Some(file) = read::<BoxFile>(&path)? else {
            return Ok(None);
        };
        let parse = || {
            let peer = match &file.peer {
                Some(text) => Some(Fingerprint(hex::parse_array(text)?)),
                None => None,
            };
            Some(Self {
                pair: Pair::parse(file.group, &file.key)?,
                certificate: hex::parse(&file.certificate)?,
                certificate_key: hex::parse(&file.certificate_key)?,
                peer,
            })
        };
        parse().map(Some).ok_or_else(|| damaged(&path))
    }

    /// The same for a box that must have one.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) fn must(state: &Path) -> Result<Self, String> {
        Self::load(state)?.ok_or_else(|| {
            "this box belongs to no pair; run `twinsan init` if it is the first one; if it is the \
             second one, run `twinsan pair create` on the first and `twinsan pair join` here"
                .to_owned()
        })
    }

    /// Makes it durable. When this returns, a crash finds it; a crash before finds what was there.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) fn save(&self, state: &Path) -> Result<(), String> {
        let file = BoxFile {
            group: self.pair.group,
            key: hex::shown(&self.pair.key),
            certificate: hex::shown(&self.certificate),
            certificate_key: hex::shown(&self.certificate_key),
            peer: self.peer.map(|peer| hex::shown(&peer.0)),
        };
        write(&state.join(FILE), &file)
    }

    /// From now on the other box is the one with this certificate.
    ///
    /// # Errors
    /// A sentence for operators; also if the membership is no more the one that was offered.
    pub(crate) fn pin(state: &Path, pair: Pair, peer: Fingerprint) -> Result<(), String> {
        let mut now = Self::must(state)?;
        if now.pair != pair {
            return Err("this box has changed its pair meanwhile; nothing was changed".to_owned());
        }
        now.peer = Some(peer);
        now.save(state)
    }

    /// Ends the membership. False if there was none.
    ///
    /// # Errors
    /// A sentence for operators.
    pub(crate) fn forget(state: &Path) -> Result<bool, String> {
        remove(&state.join(FILE))
    }

    /// The certificate, to be shown on links.
    #[must_use]
    pub(crate) fn identity(&self) -> Identity {
        Identity::new(self.certificate.clone(), self.certificate_key.clone())
    }
}

/// The folders of a new pair whose first box has been made, when one process may write to all of
/// them: what pairing over the network would leave there. For the demo and tests.
///
/// # Errors
/// A sentence for operators.
pub fn introduce(first: &Path, second: &Path, witness: &Path) -> Result<(), String> {
    let mut ours = Member::must(first)?;
    for folder in [second, witness] {
        make_folder(folder)?;
    }
    let theirs = Member::new(ours.pair, Some(ours.identity().fingerprint()))?;
    ours.peer = Some(theirs.identity().fingerprint());
    theirs.save(second)?;
    ours.pair.save_for_witness(witness)?;
    ours.save(first)
}

/// Makes a state directory if it is not there.
///
/// # Errors
/// A sentence for operators.
pub(crate) fn make_folder(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| {
        format!(
            "cannot make the state directory {}: {error}",
            folder.display()
        )
    })
}

/// A certificate that nobody has signed but its own key, and that key; both in DER.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn certificate() -> Result<(Vec<u8>, Vec<u8>), String> {
    let failed = |error: rcgen::Error| format!("cannot make a certificate: {error}");
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let params = rcgen::CertificateParams::new(Vec::new()).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.der().to_vec(), key.serialize_der()))
}

fn damaged(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let group = name.strip_prefix(WITNESS_PREFIX);
    let leave = match group.and_then(|name| name.strip_suffix(WITNESS_SUFFIX)) {
        Some(group) => format!("witness leave {group}"),
        None => "pair leave".to_owned(),
    };
    format!(
        "{} is damaged; leave the pair with `twinsan {leave}` and join it again",
        path.display()
    )
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {shown}: {error}")),
    };
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "{shown} holds keys and can be read by others (mode {:o}); run chmod 600 {shown}; if \
             somebody may have seen it, make a new pair: the key stays as long as the pair does",
            mode & 0o777
        ));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(damaged(path));
    }
    let text = fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|_| damaged(path))
}

fn write(path: &Path, file: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_vec(file).expect("strings become JSON");
    replace(path, &text).map_err(|error| {
        format!(
            "cannot write {}: {error}; see that the disk is healthy and the folder writable",
            path.display()
        )
    })
}

/// The whole new file or the whole old one, whatever happens.
fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let new = PathBuf::from(format!("{}.new", path.display()));
    remove_if_there(&new)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder(path)
}

fn remove(path: &Path) -> Result<bool, String> {
    let removed = remove_if_there(path).and_then(|there| {
        if there {
            sync_folder(path)?;
        }
        Ok(there)
    });
    removed.map_err(|error| format!("cannot remove {}: {error}", path.display()))
}

fn remove_if_there(path: &Path) -> std::io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, gone at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("twinsan-membership-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).expect("a new folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("it is ours");
        }
    }

    #[test]
    fn a_membership_is_found_again_and_only_its_owner_can_read_it() {
        let folder = Folder::new("found");
        assert!(Member::load(&folder.0).expect("empty").is_none());
        let peer = Some(Fingerprint([7; 32]));
        let saved = Member::new(Pair::found().expect("random"), peer).expect("made");
        saved.save(&folder.0).expect("saved");
        let found = Member::load(&folder.0).expect("whole").expect("there");
        assert!(found.pair == saved.pair && found.peer == peer);
        assert_eq!(
            found.identity().fingerprint(),
            saved.identity().fingerprint()
        );
        let mode = |name: &str| {
            let file = fs::metadata(folder.0.join(name)).expect("there");
            file.permissions().mode() & 0o777
        };
        assert_eq!(mode(FILE), 0o600);
        let open = fs::Permissions::from_mode(0o640);
        fs::set_permissions(folder.0.join(FILE), open).expect("ours");
        let said = Member::load(&folder.0).err().expect("refused");
        assert!(said.contains("read by others") && said.contains("chmod 600"));
    }

    #[test]
    fn a_damaged_file_is_not_believed() {
        let folder = Folder::new("damaged");
        let saved = Member::new(Pair::found().expect("random"), None).expect("made");
        saved.save(&folder.0).expect("saved");
        let path = folder.0.join(FILE);
        let text = fs::read_to_string(&path).expect("there");
        for wrong in [
            text.replace("\"key\":\"", "\"key\":\"0"),
            text[..40].to_owned(),
        ] {
            fs::write(&path, wrong).expect("ours");
            assert!(Member::load(&folder.0).is_err_and(|said| said.contains("damaged")));
        }
    }

    #[test]
    fn a_witness_knows_each_of_its_pairs() {
        let folder = Folder::new("witness");
        let pairs = [(); 2].map(|()| Pair::found().expect("random"));
        for pair in &pairs {
            pair.save_for_witness(&folder.0).expect("saved");
        }
        let mut wanted = pairs.to_vec();
        wanted.sort_by_key(|pair| pair.group);
        assert!(Pair::all_of_witness(&folder.0) == Ok(wanted));
        let gone = pairs[0].group;
        let name = format!("{WITNESS_PREFIX}{gone}{WITNESS_SUFFIX}");
        assert!(damaged(&folder.0.join(name)).contains(&format!("witness leave {gone}`")));
        assert_eq!(Pair::forget_for_witness(&folder.0, gone), Ok(true));
        assert_eq!(Pair::forget_for_witness(&folder.0, gone), Ok(false));
        assert!(Pair::all_of_witness(&folder.0) == Ok(vec![pairs[1]]));
    }

    #[test]
    fn a_key_is_in_no_debug_text() {
        let pair = Pair {
            group: Uuid::from_u128(5),
            key: [0xab; 32],
        };
        let shown = format!("{pair:?}");
        assert!(
            !shown.contains("171") && !shown.to_lowercase().contains("abab"),
            "{shown}"
        );
    }
}
