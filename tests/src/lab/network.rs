//! The lab's cables and switches: network namespaces joined by bridges in a namespace of their
//! own, with no route out. Needs root, `ip` and `nft`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// All namespaces of all labs start so; then come process id and number of the lab.
const PREFIX: &str = "twinsan-lab";

/// A machine of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// First box.
    San1,
    /// Second box.
    San2,
    /// Third vote.
    Witness,
    /// Host with initiators, as it should be.
    Initiator,
    /// Host with an initiator that does not notice when an address moves.
    Observer,
}

impl Place {
    const ALL: [Self; 5] = [
        Self::San1,
        Self::San2,
        Self::Witness,
        Self::Initiator,
        Self::Observer,
    ];

    /// Name in namespaces, files and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::San1 => "san1",
            Self::San2 => "san2",
            Self::Witness => "witness",
            Self::Initiator => "initiator",
            Self::Observer => "observer",
        }
    }

    /// The other box of the pair.
    ///
    /// # Panics
    /// For a place that is no box.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::San1 => Self::San2,
            Self::San2 => Self::San1,
            Self::Witness | Self::Initiator | Self::Observer => {
                panic!("{} is no box of a pair", self.name())
            }
        }
    }

    /// Last byte of its addresses.
    const fn host(self) -> u8 {
        match self {
            Self::San1 => 1,
            Self::San2 => 2,
            Self::Witness => 3,
            Self::Initiator => 21,
            Self::Observer => 22,
        }
    }
}

/// A switch of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Net {
    /// Between the boxes.
    Replication,
    /// Boxes and witness.
    Management,
    /// Boxes and initiators.
    Fabric1,
    /// Boxes and initiators once more.
    Fabric2,
}

impl Net {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Replication,
        Self::Management,
        Self::Fabric1,
        Self::Fabric2,
    ];
    /// Those that initiators use.
    pub const FABRICS: [Self; 2] = [Self::Fabric1, Self::Fabric2];

    /// Name of the interface in each machine.
    #[must_use]
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Replication => "repl",
            Self::Management => "mgmt",
            Self::Fabric1 => "fab1",
            Self::Fabric2 => "fab2",
        }
    }

    const fn third_byte(self) -> u8 {
        match self {
            Self::Replication => 0,
            Self::Fabric1 => 1,
            Self::Fabric2 => 2,
            Self::Management => 3,
        }
    }

    /// Address of a machine on it.
    #[must_use]
    pub fn address(self, place: Place) -> String {
        format!("10.71.{}.{}", self.third_byte(), place.host())
    }

    /// The service address on it, which moves between the boxes.
    #[must_use]
    pub fn service_address(self) -> String {
        format!("10.71.{}.10", self.third_byte())
    }

    const fn connects(self, place: Place) -> bool {
        match (self, place) {
            (_, Place::San1 | Place::San2) | (Self::Management, Place::Witness) => true,
            (Self::Fabric1 | Self::Fabric2, place) => {
                matches!(place, Place::Initiator | Place::Observer)
            }
            (Self::Replication | Self::Management, _) => false,
        }
    }
}

/// Direction of traffic as a machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// What the machine sends.
    From,
    /// What the machine should receive.
    To,
}

/// The wired lab. Everything goes when it is dropped.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    rules: BTreeSet<String>,
}

impl Network {
    /// Builds namespaces, switches and cables.
    ///
    /// # Panics
    /// Without root, `ip` or `nft`, with what is missing.
    #[must_use]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            nix::unistd::geteuid().is_root(),
            "network namespaces need root: run these tests as root"
        );
        remove_orphans();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            prefix: format!("{PREFIX}-{}-{number}", std::process::id()),
            rules: BTreeSet::new(),
        };
        network.wire();
        network
    }

    fn wire(&self) {
        for place in Place::ALL {
            run("ip", &["netns", "add", &self.namespace(place)], "");
        }
        let switches = self.switches();
        run("ip", &["netns", "add", &switches], "");
        let mut batch = String::new();
        for net in Net::ALL {
            let bridge = net.interface();
            batch.push_str(&format!(
                "link add {bridge} type bridge\nlink set {bridge} up\n"
            ));
            for place in Place::ALL.into_iter().filter(|place| net.connects(*place)) {
                let (port, namespace) = (port(place, net), self.namespace(place));
                batch.push_str(&format!(
                    "link add {port} type veth peer name {bridge} netns {namespace}\n\
                     link set {port} master {bridge} up\n"
                ));
            }
        }
        run("ip", &["-n", &switches, "-batch", "-"], &batch);
        for place in Place::ALL {
            let mut batch = "link set lo up\n".to_owned();
            for net in Net::ALL.into_iter().filter(|net| net.connects(place)) {
                let (address, interface) = (net.address(place), net.interface());
                batch.push_str(&format!(
                    "addr add {address}/24 dev {interface}\nlink set {interface} up\n"
                ));
            }
            run("ip", &["-n", &self.namespace(place), "-batch", "-"], &batch);
        }
        self.filter();
    }

    /// A command that runs in the namespace of `place`.
    #[must_use]
    pub fn command(&self, place: Place, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(place)])
            .arg(program);
        command
    }

    /// Pulls the cable: the switch port goes down, so there is silence and no reset.
    pub fn cut(&self, place: Place, net: Net) {
        self.switch_port(place, net, "down");
    }

    /// Plugs the cable in again and lets everything through, both ways.
    pub fn heal(&mut self, place: Place, net: Net) {
        self.switch_port(place, net, "up");
        for direction in [Direction::From, Direction::To] {
            self.rules.remove(&rule(place, net, direction));
        }
        self.filter();
    }

    /// Loses everything in one direction of a cable.
    pub fn lose(&mut self, place: Place, net: Net, direction: Direction) {
        self.rules.insert(rule(place, net, direction));
        self.filter();
    }

    /// The switch no longer asks `place` where `ip` lives.
    pub fn hide_arp(&mut self, place: Place, net: Net, ip: &str) {
        let port = port(place, net);
        self.rules
            .insert(format!("oifname {port} arp daddr ip {ip} drop"));
        self.filter();
    }

    /// `ip ARGUMENTS` in the namespace of `place`; gives what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub fn ip(&self, place: Place, arguments: &[&str]) -> String {
        let namespace = self.namespace(place);
        let all: Vec<&str> = ["-n", &namespace]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        run("ip", &all, "")
    }

    /// True if the kernel of `place` has the service address of `net`.
    #[must_use]
    pub fn has_service_address(&self, place: Place, net: Net) -> bool {
        let shown = self.ip(place, &["-o", "-4", "addr", "show", "dev", net.interface()]);
        shown.contains(&format!(" {}/", net.service_address()))
    }

    /// True if a process of `place` listens on `port` at `ip`, or at every address.
    ///
    /// # Panics
    /// If the kernel does not tell.
    #[must_use]
    pub fn listens(&self, place: Place, ip: &str, port: u16) -> bool {
        let output = self
            .command(place, std::path::Path::new("cat"))
            .arg("/proc/net/tcp")
            .output()
            .expect("cat exists");
        let octets: Vec<u8> = ip
            .split('.')
            .filter_map(|octet| octet.parse().ok())
            .collect();
        let octets: [u8; 4] = octets.try_into().expect("an IPv4 address");
        let here = format!("{:08X}:{port:04X}", u32::from_le_bytes(octets));
        let everywhere = format!("{:08X}:{port:04X}", 0);
        // columns: slot, local address, remote address, state (0A is listening)
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .skip(1)
            .any(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                columns.len() > 3
                    && (columns[1] == here || columns[1] == everywhere)
                    && columns[3] == "0A"
            })
    }

    fn switch_port(&self, place: Place, net: Net, state: &str) {
        run(
            "ip",
            &[
                "-n",
                &self.switches(),
                "link",
                "set",
                &port(place, net),
                state,
            ],
            "",
        );
    }

    fn filter(&self) {
        let rules: String = self
            .rules
            .iter()
            .map(|rule| format!("    {rule}\n"))
            .collect();
        let text = format!(
            "table bridge lab\nflush table bridge lab\ntable bridge lab {{\n  \
             chain forward {{\n    \
             type filter hook forward priority 0; policy accept;\n{rules}  }}\n}}\n"
        );
        run(
            "ip",
            &["netns", "exec", &self.switches(), "nft", "-f", "-"],
            &text,
        );
    }

    /// What a thread opens to go where `place` is.
    #[must_use]
    pub fn namespace_file(&self, place: Place) -> std::path::PathBuf {
        std::path::Path::new("/run/netns").join(self.namespace(place))
    }

    fn namespace(&self, place: Place) -> String {
        format!("{}-{}", self.prefix, place.name())
    }

    fn switches(&self) -> String {
        format!("{}-switches", self.prefix)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in Place::ALL.map(|place| self.namespace(place)) {
            remove(&namespace);
        }
        remove(&self.switches());
    }
}

/// A namespace with nothing but loopback, for programs that use fixed loopback addresses. A
/// process that is not root shares the host's loopback instead.
#[derive(Debug)]
pub struct Loopback {
    namespace: Option<String>,
}

impl Loopback {
    /// Makes it.
    #[must_use]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            return Self { namespace: None };
        }
        remove_orphans();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{PREFIX}-{}-lo{number}", std::process::id());
        run("ip", &["netns", "add", &namespace], "");
        run("ip", &["-n", &namespace, "link", "set", "lo", "up"], "");
        Self {
            namespace: Some(namespace),
        }
    }

    /// A command that runs in it.
    #[must_use]
    pub fn command(&self, program: &std::path::Path) -> Command {
        match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// Connects to `place` in it.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Panics
    /// If the namespace cannot be entered.
    pub fn connect(&self, place: &str) -> std::io::Result<std::net::TcpStream> {
        let enter = |name: &String| {
            let file = std::fs::File::open(format!("/run/netns/{name}")).expect("it was made");
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may");
        };
        // A thread of its own goes there and ends; the socket stays.
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                self.namespace.as_ref().map(enter);
                std::net::TcpStream::connect(place)
            });
            there.join().expect("it returns what it found")
        })
    }

    /// Processes that run in it; none if it is shared with the host.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let pids = |namespace: &String| run("ip", &["netns", "pids", namespace], "");
        let text = self.namespace.as_ref().map(pids).unwrap_or_default();
        text.split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect()
    }
}

impl Default for Loopback {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        if let Some(namespace) = &self.namespace {
            remove(namespace);
        }
    }
}

fn port(place: Place, net: Net) -> String {
    format!("{}-{}", net.interface(), place.name())
}

fn rule(place: Place, net: Net, direction: Direction) -> String {
    let port = port(place, net);
    match direction {
        Direction::From => format!("iifname {port} drop"),
        Direction::To => format!("oifname {port} drop"),
    }
}

/// Runs a program to its end and gives what it printed.
fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}: is it installed?"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin
        .write_all(input.as_bytes())
        .expect("the program reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be waited for");
    assert!(
        output.status.success(),
        "{program} {}: {}\n{input}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Not a panic on failure: this also runs while a test fails.
fn remove(namespace: &str) {
    let removed = Command::new("ip")
        .args(["netns", "del", namespace])
        .output();
    match removed {
        Ok(output) if output.status.success() => {}
        Ok(output) => eprintln!("{namespace}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => eprintln!("{namespace}: {error}"),
    }
}

/// Removes what a lab left whose process was killed.
fn remove_orphans() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1));
        let orphaned = owner.is_some_and(|pid| {
            pid.parse::<u32>().is_ok() && !std::path::Path::new("/proc").join(pid).exists()
        });
        if orphaned {
            remove(&name);
        }
    }
}
