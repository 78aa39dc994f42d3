//! The largest configuration of hosts and LUNs in one process: how fast it takes them in, what it
//! needs, and that a change of one map is nobody else's business.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use iscsi_target::backend::Fua;
use iscsi_target::hosts::{HOSTS_MAX, LUNS_MAX};
use iscsi_target::initiator::{Login, Session, cdb};
use tests::lab::clock::Stopwatch;
use tests::lab::{Initiator, memory_kib};

const TARGET: &str = "iqn.2026-11.org.twinsan:many";
/// What the process may need when nothing is under way.
const IDLE_MAX_KIB: u64 = 96 * 1024;
/// All logins of the largest configuration.
const LOGINS_WAIT: Duration = Duration::from_secs(5);
const BLOCK_BYTES: usize = 512;
const REPORTED_LUNS_CHANGED: (u8, u8, u8) = (0x06, 0x3f, 0x0e);

/// The array as a process, and a session of each host.
struct Many {
    sessions: Vec<Session>,
    array: Initiator,
}

impl Many {
    async fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_array"));
        for (option, count) in [("--hosts", HOSTS_MAX), ("--luns", LUNS_MAX)] {
            command.arg(option).arg(count.to_string());
        }
        command.args(["--target", TARGET]);
        let log = std::env::temp_dir().join(format!("twinsan-array-{}.log", std::process::id()));
        let mut array = Initiator::start(command, "array", &log);
        let ready = array.answer(LOGINS_WAIT).expect("the array starts");
        let portal = ready["portal"].as_str().expect("it says where");
        let portal = portal.parse().expect("an address");
        let watch = Stopwatch::start();
        let logins = (0..HOSTS_MAX).map(|host| {
            let login = Login::new(format!("iqn.2026-11.org.example:host{host}"), TARGET);
            tokio::spawn(Session::login(portal, login))
        });
        let mut sessions = Vec::new();
        for login in logins.collect::<Vec<_>>() {
            sessions.push(login.await.expect("no panic").expect("it may log in"));
        }
        let took = watch.elapsed();
        // Not a print macro: the line shall be seen although the test passes.
        writeln!(std::io::stdout(), "{HOSTS_MAX} logins {took:?}").expect("stdout");
        assert!(took <= LOGINS_WAIT, "{took:?} for {HOSTS_MAX} logins");
        Self { sessions, array }
    }

    /// Each session takes the unit attention of each of its units.
    async fn hear_everything(&self) {
        for lun in luns() {
            let ready = self.sessions.iter().map(|session| {
                session.execute(cdb::lun(lun), cdb::test_unit_ready(), Bytes::new(), 0)
            });
            for ready in ready.collect::<Vec<_>>() {
                let code = ready.await.expect("a status").sense_code();
                assert_eq!(code.map(|(key, ..)| key), Some(6), "LUN {lun}");
            }
        }
    }

    async fn luns_of(&self, host: usize) -> usize {
        let command = cdb::report_luns(8 + 8 * 256);
        let answer = self.sessions[host].execute(cdb::lun(0), command, Bytes::new(), 4096);
        let answer = answer.await.expect("a status");
        assert!(answer.is_good());
        (answer.data.len() - 8) / 8
    }

    fn memory_kib(&mut self) -> u64 {
        memory_kib(self.array.process().pid())
    }
}

fn luns() -> impl Iterator<Item = u8> {
    (0..LUNS_MAX).map(|lun| u8::try_from(lun).expect("below 256"))
}

/// Bytes that say whose they are.
fn block(host: usize, lun: u8, version: u64) -> Bytes {
    let host = u64::try_from(host).expect("few");
    let words = [host, lun.into(), version, !version];
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.repeat(BLOCK_BYTES / bytes.len()).into()
}

fn write(
    session: &Session,
    host: usize,
    lun: u8,
    version: u64,
) -> iscsi_target::initiator::Pending {
    let command = cdb::write10(u32::try_from(host).expect("few"), 1, Fua::No);
    session.execute(cdb::lun(lun), command, block(host, lun, version), 0)
}

async fn holds(session: &Session, host: usize, lun: u8, version: u64) {
    let command = cdb::read10(u32::try_from(host).expect("few"), 1);
    let read = session.execute(cdb::lun(lun), command, Bytes::new(), BLOCK_BYTES);
    let read = read.await.expect("a status");
    assert!(
        read.is_good(),
        "host {host} LUN {lun}: {:?}",
        read.sense_code()
    );
    assert!(
        read.data == block(host, lun, version),
        "host {host} LUN {lun}"
    );
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test);
}

#[test]
fn sixty_four_hosts_with_256_luns_each_are_small_when_idle() {
    run(async {
        let mut many = Many::start().await;
        for host in 0..HOSTS_MAX {
            assert_eq!(many.luns_of(host).await, LUNS_MAX);
        }
        many.hear_everything().await;
        // Everybody moves more than a little, then nobody does anything.
        for (host, session) in many.sessions.iter().enumerate() {
            let command = cdb::read16(0, 2048);
            let read = session.execute(cdb::lun(0), command, Bytes::new(), 1 << 20);
            assert_eq!(
                read.await.expect("a status").data.len(),
                1 << 20,
                "host {host}"
            );
        }
        let idle = many.memory_kib();
        writeln!(std::io::stdout(), "idle {idle} KiB").expect("stdout");
        assert!(idle < IDLE_MAX_KIB, "{idle} KiB for idle sessions");
        let sessions = many.array.must("sessions")["sessions"].as_u64();
        assert_eq!(sessions, Some(HOSTS_MAX as u64));
    });
}

#[test]
fn a_changed_map_touches_no_command_that_is_under_way() {
    const AFFECTED: usize = 9;
    const HIDDEN: u8 = 200;
    const SHOWN: u8 = 3;
    run(async {
        let mut many = Many::start().await;
        many.hear_everything().await;
        let hidden = format!("{AFFECTED} {HIDDEN}");
        for round in 1..=5 {
            // One write of each host is under way on a LUN that everybody sees, and one of the
            // affected host on the LUN that it is about to lose.
            for lun in [SHOWN, HIDDEN] {
                many.array.must(&format!("hold {lun}"));
            }
            let hosts = many.sessions.iter().enumerate();
            let under_way: Vec<_> = hosts
                .map(|(host, session)| write(session, host, SHOWN, round))
                .collect();
            let losing = write(&many.sessions[AFFECTED], AFFECTED, HIDDEN, round);
            for (lun, count) in [(SHOWN, HOSTS_MAX), (HIDDEN, 1)] {
                while many.array.must(&format!("held {lun}"))["held"] != count {
                    tokio::task::yield_now().await;
                }
            }
            many.array.must(&format!("unmap {hidden}"));
            assert_eq!(many.luns_of(AFFECTED).await, LUNS_MAX - 1);
            many.array.must(&format!("map {hidden}"));
            for lun in [SHOWN, HIDDEN] {
                many.array.must(&format!("release {lun}"));
            }
            for (host, write) in under_way.into_iter().enumerate() {
                assert!(write.await.expect("a status").is_good(), "host {host}");
            }
            assert!(
                losing.await.expect("a status").is_good(),
                "it was accepted before"
            );
            for (host, session) in many.sessions.iter().enumerate() {
                // Who is affected is told once on each unit; nobody else hears anything.
                if host == AFFECTED {
                    for lun in [SHOWN, HIDDEN] {
                        let ready = cdb::test_unit_ready();
                        let told = session.execute(cdb::lun(lun), ready, Bytes::new(), 0);
                        let code = told.await.expect("a status").sense_code();
                        assert_eq!(code, Some(REPORTED_LUNS_CHANGED), "LUN {lun}");
                        holds(session, host, lun, round).await;
                    }
                } else {
                    holds(session, host, SHOWN, round).await;
                }
            }
        }
        let sessions = many.array.must("sessions")["sessions"].as_u64();
        assert_eq!(sessions, Some(HOSTS_MAX as u64), "none was reset");
    });
}
