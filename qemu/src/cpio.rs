//! The archive that the kernel unpacks as its first root: cpio in the "new ASCII" form, see the
//! kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.
//!
//! An entry is a header of 6 + 13 * 8 ASCII characters, the name with its NUL, then the data;
//! header with name, and data, are each padded to four bytes. A trailer entry ends the archive.

use std::io::{self, Write};

/// Builds one archive in memory; entries appear in the order they are added, and a directory
/// must come before what lies in it.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
}

/// Permission bits of an entry, for instance `0o755`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(pub u32);

/// Number of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Driver.
    pub major: u32,
    /// Device of that driver.
    pub minor: u32,
}

impl Archive {
    /// An archive without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn directory(&mut self, name: &str, permissions: Permissions) -> io::Result<()> {
        self.entry(name, S_IFDIR | permissions.0, NO_DEVICE, &[])
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, permissions: Permissions, data: &[u8]) -> io::Result<()> {
        self.entry(name, S_IFREG | permissions.0, NO_DEVICE, data)
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, S_IFLNK | 0o777, NO_DEVICE, target.as_bytes())
    }

    /// Adds a character device node.
    pub fn character_device(
        &mut self,
        name: &str,
        permissions: Permissions,
        device: DeviceNumber,
    ) -> io::Result<()> {
        self.entry(name, S_IFCHR | permissions.0, device, &[])
    }

    /// Ends the archive and gives its bytes.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        self.inodes = 0;
        self.entry(TRAILER, 0, NO_DEVICE, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, dev: DeviceNumber, data: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::other(format!("{name} is too long for a cpio archive"));
        let data_len = u32::try_from(data.len()).map_err(too_long)?;
        let name_len = u32::try_from(name.len() + 1).map_err(too_long)?;
        if name.is_empty() || name.starts_with('/') || name.contains('\0') {
            return Err(io::Error::other(format!("{name:?} is no relative path")));
        }
        self.inodes += 1;
        let (uid, gid, links, mtime, check) = (0, 0, 1, 0, 0);
        let (archive_major, archive_minor) = (0, 0);
        let fields = [
            self.inodes,
            mode,
            uid,
            gid,
            links,
            mtime,
            data_len,
            archive_major,
            archive_minor,
            dev.major,
            dev.minor,
            name_len,
            check,
        ];
        self.bytes.write_all(MAGIC)?;
        for field in fields {
            write!(self.bytes, "{field:08X}")?;
        }
        self.bytes.write_all(name.as_bytes())?;
        self.bytes.push(0);
        self.pad();
        self.bytes.write_all(data)?;
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

const MAGIC: &[u8; 6] = b"070701";
const TRAILER: &str = "TRAILER!!!";
const ALIGN: usize = 4;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const NO_DEVICE: DeviceNumber = DeviceNumber { major: 0, minor: 0 };

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.directory("dev", Permissions(0o755)).unwrap();
        let console = DeviceNumber { major: 5, minor: 1 };
        archive
            .character_device("dev/console", Permissions(0o600), console)
            .unwrap();
        archive.file("init", Permissions(0o755), b"12345").unwrap();
        archive.symlink("sbin", "usr/sbin").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn one_file_is_these_bytes() {
        let mut archive = Archive::new();
        archive.file("init", Permissions(0o755), b"12345").unwrap();
        let bytes = archive.finish().unwrap();
        let header = [
            "070701", "00000001", "000081ED", "00000000", "00000000", "00000001", "00000000",
            "00000005", "00000000", "00000000", "00000000", "00000000", "00000005", "00000000",
        ];
        let mut expected = header.concat().into_bytes();
        expected.extend(b"init\0\0\0\0\0\0"[..6].iter());
        expected.extend(b"12345\0\0\0");
        assert_eq!(bytes[..expected.len()], expected);
        assert_eq!(expected.len() % ALIGN, 0);
    }

    #[test]
    fn the_archive_ends_with_the_trailer_on_a_boundary() {
        let bytes = sample();
        assert_eq!(bytes.len() % ALIGN, 0);
        let tail = String::from_utf8_lossy(&bytes[bytes.len() - 16..]).into_owned();
        assert!(tail.contains(TRAILER), "{tail:?}");
    }

    #[test]
    fn another_reader_lists_the_same_entries() {
        let mut python = Command::new("python3")
            .args(["-c", READER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is missing, install it: apt-get install -y python3");
        python.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "dev 40755 0:0 \ndev/console 20600 5:1 \ninit 100755 0:0 12345\n\
             sbin 120777 0:0 usr/sbin\n"
        );
    }

    #[test]
    fn names_that_are_no_relative_path_are_refused() {
        for name in ["", "/init", "in\0it"] {
            assert!(
                Archive::new().file(name, Permissions(0o755), b"").is_err(),
                "{name:?}"
            );
        }
    }

    const READER: &str = r"
import sys
data, at = sys.stdin.buffer.read(), 0
while True:
    assert data[at:at + 6] == b'070701' and at % 4 == 0
    field = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
    name = data[at + 110:at + 109 + field[11]].decode()
    body = (at + 110 + field[11] + 3) // 4 * 4
    if name == 'TRAILER!!!':
        break
    text = data[body:body + field[6]].decode()
    print(name, '%o' % field[1], '%d:%d' % (field[9], field[10]), text)
    at = (body + field[6] + 3) // 4 * 4
";
}
