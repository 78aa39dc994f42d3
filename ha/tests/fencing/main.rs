//! Each fencing agent against a simulator of its device, and whole runs over them.

#![cfg(feature = "shell")]

mod ipmi;
mod pdu;
mod programs;
mod redfish;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ha::fence::{Answer, Device, Event, Outcome, Power, Question, Reply};
use ha::shell::fence::{Agent, Desk, DeskHandle, Secret};

/// What no answer, event or report may contain.
const SECRET: &str = "Cor-rect.horse9";

fn secret() -> Secret {
    Secret(SECRET.to_owned())
}

/// Asks as the desk does.
async fn ask(agent: &Agent, what: Question) -> Reply {
    let reply = agent.ask(what, Duration::from_secs(5)).await;
    let all = format!("{reply:?} {agent:?}");
    assert!(!all.contains(SECRET), "a secret is told: {all}");
    reply
}

fn why(reply: &Reply) -> &str {
    match &reply.answer {
        Answer::Failed(why) => why,
        Answer::Accepted | Answer::Power(_) => panic!("no failure: {reply:?}"),
    }
}

fn device(name: &str, level: u8, agent: &Agent) -> Device {
    Device {
        name: name.to_owned(),
        bus: agent.bus(),
        level,
        timeout_ms: 4_000,
        hand: agent.hand(),
    }
}

/// A desk over these agents, one level each, in order; its events as they come.
async fn desk(
    agents: &[(&str, u8, &Agent)],
) -> (DeskHandle, tokio::sync::mpsc::UnboundedReceiver<Event>) {
    let (desk, handle) = Desk::new();
    let (told, events) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(desk.run(move |event| drop(told.send(event)), |_| {}));
    let devices = agents
        .iter()
        .map(|(name, level, agent)| (device(name, *level, agent), (*agent).clone()));
    handle.devices(devices.collect()).await;
    (handle, events)
}

/// A folder that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("fencing-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a new folder");
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a new file");
        path
    }

    /// A program. Another test may fork while the file is open for writing, and until that child
    /// runs something else it cannot be executed; so it is written by a process of its own.
    fn program(&self, name: &str, text: &str) -> PathBuf {
        let draft = self.write(&format!("{name}.draft"), text);
        let path = self.0.join(name);
        let installed = Command::new("install")
            .args(["-m", "700"])
            .args([&draft, &path])
            .status();
        assert!(installed.expect("coreutils are there").success());
        path
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A simulator that ends with the test.
struct Running(Child);

impl Running {
    /// # Panics
    /// If `program` of `package` is not there: it has to be.
    fn start(program: &str, package: &str, arguments: &[&str], folder: &Path) -> Self {
        let path = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];
        let found = path.iter().map(|it| Path::new(it).join(program));
        let found = found.into_iter().find(|it| it.is_file());
        let found =
            found.unwrap_or_else(|| panic!("{program} is missing: apt-get install {package}"));
        let child = Command::new(found)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("SNMP_PERSISTENT_DIR", folder)
            .spawn();
        Self(child.expect("it starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A UDP address that nobody uses now.
fn free_udp() -> SocketAddr {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("loopback");
    socket.local_addr().expect("it is bound")
}

/// Asks until the simulator is up.
async fn until_it_answers(agent: &Agent) -> Reply {
    let mut last = None;
    for _ in 0..40 {
        let reply = ask(agent, Question::Power).await;
        if matches!(reply.answer, Answer::Power(_)) {
            return reply;
        }
        last = Some(reply);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the simulator does not answer: {last:?}");
}

#[tokio::test]
async fn an_operator_and_a_lab_are_not_devices() {
    let manual = ask(&Agent::Manual, Question::Off).await;
    assert!(why(&manual).contains("an operator"), "{manual:?}");
    let (handle, mut events) = desk(&[("hand", 1, &Agent::Manual)]).await;
    assert_eq!(handle.vouch().await, 0, "nobody waits for that word");
    let fencing = tokio::spawn({
        let handle = handle.clone();
        async move { handle.fence().await }
    });
    assert_eq!(events.recv().await, Some(Event::ByHand));
    assert_eq!(handle.vouch().await, 1);
    assert_eq!(fencing.await.expect("it ends"), Outcome::ConfirmedOff);
    assert_eq!(handle.test().await, Some(Vec::new()));
    let null = ask(&Agent::Null, Question::Power).await;
    assert_eq!(null.answer, Answer::Power(Power::Off));
    assert!(null.answered.contains("nobody looked"), "{null:?}");
}
