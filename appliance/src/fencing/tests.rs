//! What operators hear of the devices, and where these come from.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::config::cluster::Edit;
use crate::state::Slots;

const NODE: &str = r#"
node = "san1"
peer = "san2"
state = "state"
api = "api.sock"
pool = { path = "pool" }
witness = { address = "10.0.0.3" }
link = [{ name = "l", address = "10.0.0.1", peer = "10.0.0.2", role = "replication" }]
"#;

fn config() -> NodeConfig {
    NodeConfig::of_text(Path::new("node.toml"), NODE).expect("a good file")
}

fn exec(name: &str, node: &str, program: &Path) -> Fence {
    Fence {
        name: name.to_owned(),
        node: node.to_owned(),
        level: 1,
        timeout_s: 5,
        agent: Agent::Exec {
            program: program.to_owned(),
            options: BTreeMap::new(),
            secrets: BTreeMap::from([("password".to_owned(), Secret("Cor-rect".to_owned()))]),
        },
    }
}

/// A folder with the backing of a system volume.
struct Copy {
    folder: PathBuf,
    slots: Slots,
    cluster: Cluster,
}

impl Copy {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("fences-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a new folder");
        Self {
            folder,
            slots: Slots::default(),
            cluster: Cluster::default(),
        }
    }

    fn backing(&self) -> PathBuf {
        self.folder.join("00000000.vol")
    }

    fn edit(&mut self, edit: &Edit) {
        use std::os::unix::fs::FileExt as _;
        self.cluster = self.cluster.with(edit, 1).expect("a good edit");
        let value = BTreeMap::from([("cluster", &self.cluster)]);
        let text = toml::to_string(&value).expect("it serializes");
        let (offset_bytes, data, slots) = self.slots.put(text.as_bytes());
        self.slots = slots;
        let layout = replication::meta::layout(replication::meta::SYSTEM_BYTES);
        let mut open = std::fs::File::options();
        let file = open.create(true).truncate(false).write(true);
        let file = file.open(self.backing()).expect("a new file");
        file.set_len(layout.backing_bytes).expect("room");
        let at = layout.data_offset + offset_bytes;
        file.write_all_at(&data, at).expect("room");
    }

    fn program(&self, text: &str) -> PathBuf {
        let (draft, path) = (self.folder.join("draft"), self.folder.join("device"));
        std::fs::write(&draft, text).expect("a new file");
        let mut install = std::process::Command::new("install");
        let installed = install.args(["-m", "700"]).args([&draft, &path]).status();
        assert!(installed.expect("coreutils are there").success());
        path
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_standby_reads_the_devices_from_its_own_copy() {
    let mut copy = Copy::new("copy");
    assert_eq!(system::copy_of(&copy.backing()), Ok(None), "no copy yet");
    for name in ["a", "b", "c"] {
        copy.edit(&Edit::AddFence(exec(name, "san2", Path::new("/x"))));
        let read = system::copy_of(&copy.backing());
        assert_eq!(read, Ok(Some(copy.cluster.clone())));
    }
    std::fs::write(copy.backing(), b"short").expect("a file");
    let said = system::copy_of(&copy.backing()).expect_err("it is cut off");
    assert!(said.contains("cannot be read"), "{said}");
}

#[tokio::test]
async fn operators_hear_what_was_asked_and_nobody_hears_a_secret() {
    let mut copy = Copy::new("whole");
    let device = copy.program("#!/bin/sh\ncat\necho 'Status: ON'\n[ ! -e \"${0%/*}/broken\" ]\n");
    copy.edit(&Edit::AddFence(exec("own", "san1", &device)));
    copy.edit(&Edit::AddFence(exec("other", "san2", &device)));
    let (asks, asked) = mpsc::channel(4);
    let (changed, cluster) = watch::channel(Cluster::default());
    let events = Arc::new(EventLog::default());
    let (desk, mut shown) = start(Setup {
        config: config(),
        backing: copy.backing(),
        cluster,
        asked,
        events: Arc::clone(&events),
    });
    let shown_now = shown
        .wait_for(|it| it.len() == 2)
        .await
        .expect("it runs")
        .clone();
    assert_eq!(shown_now[1].name, "other");
    let ask = async |wish| {
        let (answer, answered) = oneshot::channel();
        asks.send((wish, answer)).await.expect("it runs");
        answered.await.expect("it answers")
    };
    let test = |node: &str| Wish::Test {
        node: node.to_owned(),
    };
    let confirm = |node: &str| Wish::Confirm {
        node: node.to_owned(),
    };
    let said = ask(test("san2")).await.expect("the device is good");
    let asked = format!(
        "other: on\n  asked: {} with action=status\n",
        device.display()
    );
    assert!(said.starts_with(&asked), "{said}");
    assert!(
        said.contains("password=***") && !said.contains("Cor-rect"),
        "{said}"
    );
    let own = ask(test("san1")).await.expect_err("no box fences itself");
    assert_eq!(
        (
            own.exit_code(),
            own.message.contains("no box fences itself")
        ),
        (3, true)
    );
    assert_eq!(
        ask(confirm("san1"))
            .await
            .expect_err("nor that")
            .exit_code(),
        3
    );
    assert_eq!(ask(test("san9")).await.expect_err("nobody").exit_code(), 2);
    let early = ask(confirm("san2")).await.expect_err("nobody waits");
    assert!(early.message.contains("nobody waits"), "{early}");
    std::fs::write(copy.folder.join("broken"), "").expect("a new file");
    let broken = ask(test("san2")).await.expect_err("it fails");
    assert!(broken.message.contains("other: FAILED"), "{broken}");
    assert!(!broken.message.contains("Cor-rect"), "{broken}");
    // The device does not do it, and an operator does.
    let fencing = tokio::spawn(async move { desk.fence().await });
    let begun = events.wait_after(0).await;
    assert_eq!(begun[0].text, "turning san2 off with other (level 1)");
    let done = ask(confirm("san2")).await.expect("somebody waits");
    assert_eq!(done, "done: san2 counts as off, on your word");
    assert_eq!(
        fencing.await.expect("it ends"),
        ha::fence::Outcome::ConfirmedOff
    );
    let told = events.after(0);
    assert!(
        told.iter().all(|it| !it.text.contains("Cor-rect")),
        "{told:?}"
    );
    // Other devices come into force when the configuration says so.
    copy.edit(&Edit::RemoveFence("other".to_owned()));
    changed.send_replace(copy.cluster.clone());
    shown.wait_for(|it| it.len() == 1).await.expect("it runs");
    let none = ask(test("san2")).await.expect_err("no device is left");
    assert!(none.message.contains("no device turns san2 off"), "{none}");
}

#[test]
fn every_kind_has_its_agent() {
    let pin = "ab".repeat(32);
    let good = |text: &str| {
        let parsed: Agent = toml::from_str(text).expect(text);
        agent(&parsed).expect(text)
    };
    let redfish = good(&format!(
        "kind = \"redfish\"\naddress = \"10.0.0.11\"\nport = 443\nsystem = \"1\"\nuser = \"u\"\n\
         secret = \"s\"\npin = \"{pin}\""
    ));
    assert_eq!(redfish.bus(), "10.0.0.11:443");
    let pdu = good(
        "kind = \"apc-snmp\"\naddress = \"10.0.0.5\"\nport = 161\noutlet = \"o\"\n\
         access = { version = \"v1\", community = \"c\" }",
    );
    assert_eq!(pdu.bus(), "10.0.0.5:161");
    let hand = good("kind = \"manual\"");
    assert_eq!(hand.hand(), ha::fence::Hand::Operator);
    let lab = good("kind = \"null\"\nlab = \"data-may-be-lost\"");
    assert_eq!(lab, agents::Agent::Null);
}
