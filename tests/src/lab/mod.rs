//! A lab of real processes: two boxes, a witness and initiators in network namespaces, with
//! cables that can be cut. It knows the program only by its command line, and keeps evidence that
//! the program cannot influence: what the initiators sent and what was acknowledged.

pub mod capture;
pub mod clock;
pub mod demo;
pub mod initiator;
pub mod network;
pub mod offer;
pub mod process;
pub mod program;
pub mod status;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;

pub use self::capture::Capture;
pub use self::initiator::Initiator;
pub use self::network::{Direction, Loopback, Net, Network, Place};
pub use self::offer::Offer;
pub use self::process::{Process, memory_kib, open_files};
pub use self::status::Status;

/// Longest wait for a state that must come; a hang ends here, nothing is measured with it.
pub const STATE_WAIT: Duration = Duration::from_secs(30);
/// The volume of the lab.
pub const VOLUME: &str = "vol0";
/// Its size.
pub const VOLUME_BYTES: u64 = 48 << 20;
/// iSCSI name of the load.
pub const LOAD_NAME: &str = "iqn.2026-11.org.example:load";
/// iSCSI name of the pause meter.
pub const METER_NAME: &str = "iqn.2026-11.org.example:meter";
/// iSCSI name of an initiator on a host of its own.
pub const OTHER_NAME: &str = "iqn.2026-11.org.example:other";
/// iSCSI port of the service addresses.
pub const ISCSI_PORT: u16 = 3260;

/// One lab at a time: each uses the whole machine, and pauses are measured.
static TURN: Mutex<()> = Mutex::new(());

/// What the boxes keep their data on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Files: what was written survives a kill, because the kernel has it.
    Files,
    /// Unflushed writes live in the daemon, so that a kill is a power cut; the seed decides
    /// which of them reach the file earlier.
    Volatile(u64),
}

impl Disk {
    /// For file names and printed lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Volatile(_) => "volatile",
        }
    }
}

/// What a command line said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Two boxes, a witness, and where initiators run.
pub struct Lab {
    // Processes end before the network they are in.
    processes: BTreeMap<Place, Process>,
    network: Network,
    disk: Disk,
    sabotage: Option<&'static str>,
    dir: PathBuf,
    starts: u64,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Wires everything and writes the configuration files; starts nothing.
    ///
    /// # Panics
    /// If the machine does not allow it.
    #[must_use]
    pub fn new(disk: Disk) -> Self {
        Self::wired(disk, node_toml)
    }

    fn wired(disk: Disk, node_toml: impl Fn(Place) -> String) -> Self {
        let program = program::twinsan();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let network = Network::new();
        let dir = fresh_folder();
        for place in [Place::San1, Place::San2] {
            write(&dir, place, "node.toml", &node_toml(place));
            fs::create_dir_all(dir.join(place.name()).join("pool")).expect("a new folder");
        }
        write(&dir, Place::Witness, "witness.toml", &witness_toml());
        eprintln!(
            "lab in {} with {}, disk {disk:?}",
            dir.display(),
            program.display()
        );
        Self {
            processes: BTreeMap::new(),
            network,
            disk,
            sabotage: None,
            dir,
            starts: 0,
            _turn: turn,
        }
    }

    /// A pair that serves: both boxes in sync, a volume mapped as LUN 0 to the load and the meter,
    /// service addresses on both fabrics. `san1` is primary.
    #[must_use]
    pub fn with_pair(disk: Disk) -> Self {
        Self::new(disk).paired()
    }

    /// The same with two paths for the data: the replication network, then the management one.
    #[must_use]
    pub fn with_two_paths(disk: Disk) -> Self {
        let second =
            |place| node_toml(place).replace("role = \"management\"", "role = \"replication\"");
        Self::wired(disk, second).paired()
    }

    /// The same on files, with boxes that break a law on purpose.
    #[must_use]
    pub fn sabotaged(mutant: &'static str) -> Self {
        let mut lab = Self::new(Disk::Files);
        lab.sabotage = Some(mutant);
        lab.paired()
    }

    fn paired(mut self) -> Self {
        let lab = &mut self;
        lab.must(Place::San1, &["init"]);
        lab.introduce();
        for place in [Place::Witness, Place::San1, Place::San2] {
            lab.start(place);
        }
        lab.until(Place::San1, "it is primary and configured", |status| {
            status.is_primary() && !status.target().is_empty()
        });
        let size = VOLUME_BYTES.to_string();
        lab.must(Place::San1, &["volume", "create", VOLUME, &size]);
        lab.must(
            Place::San1,
            &["host", "add", "h1", "--iqn", LOAD_NAME, "--iqn", METER_NAME],
        );
        lab.must(Place::San1, &["host", "add", "h2", "--iqn", OTHER_NAME]);
        for host in ["h1", "h2"] {
            lab.must(Place::San1, &["lun", "map", host, "0", VOLUME]);
        }
        for net in Net::FABRICS {
            let cidr = format!("{}/24", net.service_address());
            lab.must(Place::San1, &["address", "add", &cidr]);
        }
        lab.until(Place::San1, "both boxes are in sync", Status::is_protected);
        lab.until(Place::San1, "both addresses are held", |s| {
            s.addresses_here() == 2
        });
        self
    }

    /// Makes all three members of one pair.
    fn introduce(&self) {
        self.join(Place::San1, Place::San2, &["pair", "join"]);
        self.join(Place::San1, Place::Witness, &["witness", "join"]);
    }

    /// Makes `place`, which is stopped, a member of the pair of `member` with the verb given.
    ///
    /// # Panics
    /// If it does not become one.
    pub fn join(&self, member: Place, place: Place, verb: &[&str]) {
        let mut command = self.network.command(member, program::twinsan());
        command.arg("--config").arg(self.config(member));
        command.args(["--json", "pair", "create"]);
        let mut offer = Offer::of(command, &self.folder(member).join("pair.log"));
        let address = Net::Management.address(member);
        let arguments = [verb, &[&address, &offer.code]].concat();
        self.must(place, &arguments);
        assert_eq!(offer.end(STATE_WAIT), Some(0), "{} joined", place.name());
    }

    /// The cables.
    pub fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// What the boxes keep their data on.
    #[must_use]
    pub const fn disk(&self) -> Disk {
        self.disk
    }

    /// Folder of a machine.
    #[must_use]
    pub fn folder(&self, place: Place) -> PathBuf {
        self.dir.join(place.name())
    }

    /// Starts the daemon of a machine. On a volatile disk every start is a reboot.
    ///
    /// # Panics
    /// If it runs already.
    pub fn start(&mut self, place: Place) {
        assert!(
            !self.processes.contains_key(&place),
            "{} runs already",
            place.name()
        );
        self.starts += 1;
        let mut command = self.network.command(place, program::twinsan());
        command.arg("--config").arg(self.config(place));
        if place == Place::Witness {
            command.arg("witness");
        } else {
            command.arg("run");
            if let Disk::Volatile(seed) = self.disk {
                let seed = seed.wrapping_add(self.starts).to_string();
                command.args(["--volatile", &seed, "--boot-id", &fresh_uuid()]);
            }
            if let Some(mutant) = self.sabotage {
                command.args(["--sabotage", mutant]);
            }
        }
        command
            .env("TWINSAN_LOG", "info")
            .current_dir(self.folder(place));
        let process = Process::start(command, &self.folder(place).join("log"));
        self.processes.insert(place, process);
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Panics
    /// If it had ended by itself: that would hide what is tested.
    pub fn kill(&mut self, place: Place) {
        let mut process = self.take(place);
        assert!(
            process.is_running(),
            "{} ended before it was killed",
            place.name()
        );
        process.kill();
    }

    /// SIGTERM, as an administrator stops a service; gives the exit code.
    pub fn terminate(&mut self, place: Place) -> Option<i32> {
        let mut process = self.take(place);
        process.signal(Signal::SIGTERM);
        process.wait(STATE_WAIT)
    }

    /// SIGSTOP: it does nothing, but its kernel goes on.
    pub fn stop(&mut self, place: Place) {
        self.process(place).signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn cont(&mut self, place: Place) {
        self.process(place).signal(Signal::SIGCONT);
    }

    /// The daemon of a machine.
    ///
    /// # Panics
    /// If it was not started.
    pub fn process(&mut self, place: Place) -> &mut Process {
        self.processes
            .get_mut(&place)
            .unwrap_or_else(|| panic!("{} is down", place.name()))
    }

    fn take(&mut self, place: Place) -> Process {
        self.processes
            .remove(&place)
            .unwrap_or_else(|| panic!("{} is down", place.name()))
    }

    fn config(&self, place: Place) -> PathBuf {
        let name = if place == Place::Witness {
            "witness.toml"
        } else {
            "node.toml"
        };
        self.folder(place).join(name)
    }

    /// Runs `twinsan ARGUMENTS` on a machine.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn cli(&self, place: Place, arguments: &[&str]) -> Said {
        let mut command = self.network.command(place, program::twinsan());
        command
            .arg("--config")
            .arg(self.config(place))
            .args(arguments);
        said(&mut command)
    }

    /// Runs a command that must work, and gives its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn must(&self, place: Place, arguments: &[&str]) -> String {
        let said = self.cli(place, arguments);
        let all = arguments.join(" ");
        assert_eq!(
            said.code,
            Some(0),
            "twinsan {all} on {}: {}",
            place.name(),
            said.err
        );
        said.out
    }

    /// Moves the primary role. Right after a volume was made the other box's word that it has it
    /// may still be on its way, so a refusal is no failure at once.
    ///
    /// # Panics
    /// If it is refused for long.
    pub fn switch_over(&self, to: Place) {
        let arguments = ["switchover", "--to", to.name()];
        let mut refusal = String::new();
        let moved = clock::until(STATE_WAIT, || {
            let said = self.cli(to.other(), &arguments);
            refusal = said.err;
            (said.code == Some(0)).then_some(())
        });
        assert!(moved.is_some(), "no switchover to {}: {refusal}", to.name());
    }

    /// Status of a box; none if it does not answer. Asked through the socket's path, which all
    /// namespaces share.
    #[must_use]
    pub fn status(&self, place: Place) -> Option<Status> {
        let mut command = Command::new(program::twinsan());
        command
            .arg("--api")
            .arg(self.folder(place).join("api.sock"))
            .args(["--json", "status"]);
        let said = said(&mut command);
        let value = serde_json::from_str(&said.out).ok()?;
        (said.code == Some(0)).then_some(Status(value))
    }

    /// Looks at a box until it is as wanted.
    ///
    /// # Panics
    /// If it is not within [`STATE_WAIT`], with what it said last.
    pub fn until(&self, place: Place, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        self.within(STATE_WAIT, place, what, wanted)
    }

    /// Looks at a box until it is as wanted.
    ///
    /// # Panics
    /// If it is not within `limit`, with what it said last.
    pub fn within(
        &self,
        limit: Duration,
        place: Place,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) -> Status {
        let mut last = None;
        let found = clock::until(limit, || {
            let status = self.status(place)?;
            let good = wanted(&status);
            last = Some(status.clone());
            good.then_some(status)
        });
        found.unwrap_or_else(|| {
            let last = last.map_or_else(|| "it does not answer".to_owned(), |s| s.0.to_string());
            panic!("waited {limit:?} until on {} {what}: {last}", place.name())
        })
    }

    /// What a box must not do for a while.
    ///
    /// # Panics
    /// If it does.
    pub fn never(&self, time: Duration, place: Place, what: &str, bad: impl Fn(&Status) -> bool) {
        let seen = clock::until(time, || self.status(place).filter(&bad));
        assert!(
            seen.is_none(),
            "{} {what}: {:?}",
            place.name(),
            seen.map(|s| s.0.to_string())
        );
    }

    /// Waits until `place` is primary and its peer has everything.
    pub fn protected(&self, place: Place) -> Status {
        self.until(
            place,
            "it is primary and both are in sync",
            Status::is_protected,
        )
    }

    /// The box that is primary.
    ///
    /// # Panics
    /// If no box is within [`STATE_WAIT`].
    #[must_use]
    pub fn primary(&self) -> Place {
        self.one_with("is primary", Status::is_primary)
    }

    /// The box that is primary, once both agree on a protected pair.
    ///
    /// # Panics
    /// If no box is.
    #[must_use]
    pub fn settled_primary(&self) -> Place {
        self.one_with("is primary of a pair in sync", Status::is_protected)
    }

    fn one_with(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Place {
        let boxes = [Place::San1, Place::San2];
        let look = || {
            boxes
                .into_iter()
                .find(|place| self.status(*place).as_ref().is_some_and(&wanted))
        };
        clock::until(STATE_WAIT, look).unwrap_or_else(|| {
            let said = boxes.map(|place| self.status(place).map(|status| status.words()));
            panic!("no box {what}: {said:?}")
        })
    }

    /// The first block of 4 KiB in which the data areas of the volume differ, as this process
    /// reads them.
    ///
    /// # Panics
    /// If a box does not say where its data is.
    #[must_use]
    pub fn first_difference(&self) -> Option<u64> {
        let primary = self.settled_primary();
        let status = self.protected(primary);
        let uuid = status.uuid(VOLUME).expect("the primary knows names");
        let peer = self.until(primary.other(), "it has the volume", |status| {
            status.data_area(&uuid).is_some()
        });
        let [left, right] = [&status, &peer].map(|status| {
            let (file, offset, bytes) = status.data_area(&uuid).expect("it has the volume");
            read_area(Path::new(&file), offset, bytes)
        });
        let mut blocks = left.chunks(4096).zip(right.chunks(4096));
        let differs = blocks.position(|(left, right)| left != right);
        differs.map(|block| u64::try_from(block).expect("a block number"))
    }

    /// The bytes of a block of 4 KiB of the volume in the file of a box that runs.
    ///
    /// # Panics
    /// If the box does not say where its data is.
    #[must_use]
    pub fn block(&self, place: Place, uuid: &str, block: u64) -> Vec<u8> {
        let status = self.until(place, "it has the volume", |status| {
            status.data_area(uuid).is_some()
        });
        let (file, offset, _) = status.data_area(uuid).expect("just seen");
        read_area(Path::new(&file), offset + block * 4096, 4096)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            for place in [Place::San1, Place::San2, Place::Witness] {
                eprintln!(
                    "--- {}: {:?}",
                    place.name(),
                    self.status(place).map(|s| s.0.to_string())
                );
                process::show(&self.folder(place).join("log"));
                if let Some(process) = self.processes.get(&place) {
                    process.show_threads();
                }
            }
        }
        self.processes.clear();
        if failing && std::env::var_os("TWINSAN_KEEP_LAB").is_some() {
            eprintln!("kept {}", self.dir.display());
        } else if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("{}: {error}", self.dir.display());
        }
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
pub fn said(command: &mut Command) -> Said {
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A new folder of short name that every user may enter.
///
/// # Panics
/// If there cannot be one.
#[must_use]
pub fn fresh_folder() -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let name = format!("twinsan-{}", &fresh_uuid()[..8]);
    let dir = std::env::temp_dir().join(name);
    fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("it is ours");
    dir
}

/// A random UUID, from the kernel.
///
/// # Panics
/// Without `/proc`.
#[must_use]
pub fn fresh_uuid() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux has this");
    text.trim().to_owned()
}

/// A file that only its owner may read.
///
/// # Panics
/// If it exists already.
pub fn secret(file: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .expect("a new file");
    file.write_all(text.as_bytes())
        .expect("a new file can be written");
}

fn write(dir: &Path, place: Place, name: &str, text: &str) {
    let folder = dir.join(place.name());
    fs::create_dir_all(&folder).expect("a new folder");
    fs::write(folder.join(name), text).expect("a new file");
}

fn read_area(file: &Path, offset: u64, bytes: u64) -> Vec<u8> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut open = fs::File::open(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    open.seek(SeekFrom::Start(offset))
        .expect("a file can be sought in");
    let mut area = Vec::new();
    open.take(bytes)
        .read_to_end(&mut area)
        .expect("a file can be read");
    assert_eq!(
        u64::try_from(area.len()).ok(),
        Some(bytes),
        "{} is short",
        file.display()
    );
    area
}

fn node_toml(place: Place) -> String {
    let peer = place.other();
    let links = [
        (Net::Replication, "replication"),
        (Net::Management, "management"),
        (Net::Fabric1, "service"),
    ];
    let links: String = links
        .iter()
        .map(|(net, role)| {
            format!(
                "[[link]]\nname = \"{}\"\naddress = \"{}\"\npeer = \"{}\"\nrole = \"{role}\"\n",
                net.interface(),
                net.address(place),
                net.address(peer)
            )
        })
        .collect();
    format!(
        "node = \"{}\"\npeer = \"{}\"\n\
         state = \"state\"\napi = \"api.sock\"\n{links}[witness]\naddress = \"{}\"\n\
         [pool]\npath = \"pool\"\n",
        place.name(),
        peer.name(),
        Net::Management.address(Place::Witness)
    )
}

fn witness_toml() -> String {
    format!(
        "state = \"state\"\nlisten = \"{}:6941\"\n",
        Net::Management.address(Place::Witness)
    )
}
