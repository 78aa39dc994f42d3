//! The initiator against the target, over real sockets on the loopback interface.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod access;
mod data;
mod lifetime;
mod reservations;
mod tasks;

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use iscsi_target::hosts::{Access, ChapSecrets, HostConfig, MapConfig, MapTarget};
use iscsi_target::initiator::{InitiatorError, Login, Session, cdb};
use iscsi_target::memory::MemoryBackend;
use iscsi_target::registry::Limits;
use iscsi_target::scsi::{ArrayConfig, Medium, Reserved, UnitConfig, UnitId};
use iscsi_target::shell::{Target, TargetSettings};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

const TARGET: &str = "iqn.2026-11.org.twinsan:loopback";
const INITIATOR: &str = "iqn.2026-01.test:one";
const BLOCKS: u64 = 64 * 1024;
const LUN: [u8; 8] = [0; 8];

/// A target with one unit, served on one port.
struct Lab {
    target: Target,
    backend: Rc<MemoryBackend>,
    address: SocketAddr,
    ports_used: Cell<u8>,
}

impl Lab {
    async fn new() -> Self {
        Self::with_chap(None).await
    }

    async fn with_chap(chap: Option<ChapSecrets>) -> Self {
        Self::at("127.0.0.1:0", chap).await
    }

    async fn at(address: &str, chap: Option<ChapSecrets>) -> Self {
        let settings = TargetSettings {
            name: TARGET.to_owned(),
            alias: "loopback".to_owned(),
            limits: Limits {
                connections: 8,
                sessions: 6,
                login_ms: 5000,
                ..Limits::default()
            },
        };
        let target = Target::new(settings);
        let backend = Rc::new(MemoryBackend::thin(BLOCKS));
        target.apply(config(Rc::clone(&backend), chap)).unwrap();
        target.activate();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = target.clone();
        tokio::task::spawn_local(async move { served.serve(listener, 7).await });
        Self {
            target,
            backend,
            address,
            ports_used: Cell::new(0),
        }
    }

    /// Waits until the backend holds `count` requests.
    async fn holds(&self, count: usize) {
        while self.backend.held() < count {
            tokio::task::yield_now().await;
        }
    }

    /// A login with an initiator port of its own.
    fn login(&self) -> Login {
        let port = self.ports_used.get() + 1;
        self.ports_used.set(port);
        Login {
            isid: [0x80, 0, 0, 0, 0, port],
            ..Login::new(INITIATOR, TARGET)
        }
    }

    async fn try_session(&self, login: Login) -> Result<Session, InitiatorError> {
        Session::login(self.address, login).await
    }

    /// A session that has heard its unit attentions.
    async fn session(&self, login: Login) -> Session {
        let session = self.try_session(login).await.unwrap();
        let ready = session
            .execute(LUN, cdb::test_unit_ready(), Bytes::new(), 0)
            .await
            .unwrap();
        assert_eq!(
            ready.sense_code(),
            Some((6, 0x29, 0)),
            "a new nexus hears of its reset"
        );
        let ready = session
            .execute(LUN, cdb::test_unit_ready(), Bytes::new(), 0)
            .await
            .unwrap();
        assert!(ready.is_good());
        session
    }
}

fn config(backend: Rc<MemoryBackend>, chap: Option<ChapSecrets>) -> ArrayConfig {
    let unit = UnitId(1);
    ArrayConfig {
        hosts: vec![HostConfig {
            name: "one".to_owned(),
            initiators: vec![INITIATOR.to_owned()],
            chap,
            networks: Vec::new(),
        }],
        maps: vec![MapConfig {
            target: MapTarget::Host("one".to_owned()),
            lun: 0,
            unit,
            access: Access::ReadWrite,
        }],
        units: vec![UnitConfig {
            id: unit,
            name: "zero".to_owned(),
            backend,
            medium: Medium::Fixed,
            reserved: Reserved::Live,
        }],
        ..ArrayConfig::default()
    }
}

/// Runs a test on one thread, with a limit that only a hang reaches.
fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(60), test).await };
    runtime
        .block_on(LocalSet::new().run_until(limited))
        .expect("the test hangs");
}

/// Bytes that say where they belong.
fn pattern(seed: u64, len: usize) -> Bytes {
    let words = (0..len.div_ceil(8) as u64).map(|word| {
        (seed << 32 | word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(17)
    });
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes.into()
}
