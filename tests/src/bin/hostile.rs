//! Strangers and a host that went mad, against one portal, for a while: random bytes, logins that
//! are cut off or come byte by byte, connections that say nothing or stop in the middle of a PDU,
//! and good logins followed by garbage. Slow on purpose, so that it can run beside other things.
//!
//! Ends by itself and prints what it did as one JSON line. It fails if the target was not there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use iscsi_target::pdu::{BHS_LEN_BYTES, FINAL, IMMEDIATE, opcode};
use serde_json::json;
use tests::rng::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Time between two new connections.
const NEXT: Duration = Duration::from_millis(50);
/// How long one that says nothing more stays open.
const LINGER_MS: u64 = 4000;
/// How many are open at once.
const OPEN_MAX: usize = 64;
/// How long an answer is awaited.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Time between two bytes of a slow one.
const DRIP: Duration = Duration::from_millis(40);

#[derive(Debug, Parser)]
struct Options {
    /// Address and port.
    #[arg(long)]
    portal: SocketAddr,
    /// iSCSI name of the target.
    #[arg(long)]
    target: String,
    /// iSCSI name under which one may log in.
    #[arg(long)]
    initiator: String,
    /// For so long.
    #[arg(long)]
    seconds: u64,
    /// The same seed sends the same bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Random bytes from the start.
    Noise,
    /// Nothing at all.
    Silence,
    /// A login that stops somewhere.
    HalfLogin,
    /// A login, byte by byte.
    SlowLogin,
    /// A login with rubbish in its text.
    BadLogin,
    /// A good login, then random bytes.
    LoginThenNoise,
    /// A good login, then PDUs that are almost right.
    LoginThenPdus,
    /// A good login, then a PDU that never ends.
    LoginThenHalf,
    /// A good login, then requests whose answers are never read.
    LoginThenDeaf,
    /// A good login, then task management: it resets all that it sees.
    LoginThenReset,
}

const KINDS: [Kind; 10] = [
    Kind::Noise,
    Kind::Silence,
    Kind::HalfLogin,
    Kind::SlowLogin,
    Kind::BadLogin,
    Kind::LoginThenNoise,
    Kind::LoginThenPdus,
    Kind::LoginThenHalf,
    Kind::LoginThenDeaf,
    Kind::LoginThenReset,
];

/// How connections ended, by kind.
#[derive(Debug, Default)]
struct Tally {
    connections: BTreeMap<String, u64>,
    logins: u64,
    unreachable: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only an epoll descriptor");
    let tally = tokio::task::LocalSet::new().block_on(&runtime, run(Rc::new(options)));
    let connections: u64 = tally.connections.values().sum();
    println!(
        "{}",
        json!({"ok": tally.logins > 0, "connections": connections, "logins": tally.logins,
            "unreachable": tally.unreachable, "kinds": tally.connections})
    );
    if tally.logins > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(options: Rc<Options>) -> Tally {
    let tally = Rc::new(RefCell::new(Tally::default()));
    let mut rng = Rng::new(options.seed);
    let mut open = tokio::task::JoinSet::new();
    let all = async {
        loop {
            if open.len() >= OPEN_MAX {
                open.join_next().await;
            }
            while open.try_join_next().is_some() {}
            let kind = *rng.pick(&KINDS);
            let connection = Stranger {
                rng: rng.fork(),
                options: Rc::clone(&options),
                tally: Rc::clone(&tally),
            };
            open.spawn_local(connection.meet(kind));
            sleep(NEXT).await;
        }
    };
    let _ = timeout(Duration::from_secs(options.seconds), all).await;
    drop(open);
    tally.take()
}

/// One connection.
struct Stranger {
    rng: Rng,
    options: Rc<Options>,
    tally: Rc<RefCell<Tally>>,
}

impl Stranger {
    async fn meet(mut self, kind: Kind) {
        let Ok(Ok(mut stream)) =
            timeout(ANSWER_WAIT, TcpStream::connect(self.options.portal)).await
        else {
            self.tally.borrow_mut().unreachable += 1;
            return;
        };
        // What the target does to such a connection is its own business.
        let _ = self.talk(kind, &mut stream).await;
        let linger = self.rng.below(LINGER_MS);
        sleep(Duration::from_millis(linger)).await;
        let mut tally = self.tally.borrow_mut();
        *tally.connections.entry(format!("{kind:?}")).or_default() += 1;
    }

    async fn talk(&mut self, kind: Kind, stream: &mut TcpStream) -> std::io::Result<()> {
        let login = self.login();
        match kind {
            Kind::Silence => Ok(()),
            Kind::Noise => {
                let noise = self.noise(4096);
                stream.write_all(&noise).await
            }
            Kind::HalfLogin => {
                let end = self.within(login.len());
                stream.write_all(&login[..end]).await
            }
            Kind::SlowLogin => {
                for byte in login {
                    stream.write_all(&[byte]).await?;
                    sleep(DRIP).await;
                }
                Ok(())
            }
            Kind::BadLogin => {
                let mut login = login;
                for _ in 0..8 {
                    let at = self.within(login.len());
                    login[at] = self.byte();
                }
                stream.write_all(&login).await
            }
            Kind::LoginThenNoise
            | Kind::LoginThenPdus
            | Kind::LoginThenHalf
            | Kind::LoginThenDeaf
            | Kind::LoginThenReset => {
                stream.write_all(&login).await?;
                let mut answer = [0; BHS_LEN_BYTES];
                let read = timeout(ANSWER_WAIT, stream.read_exact(&mut answer)).await;
                // status class and detail of a login response (RFC 7143 §11.13)
                if matches!(read, Ok(Ok(_))) && answer[36..38] == [0, 0] {
                    self.tally.borrow_mut().logins += 1;
                }
                self.in_session(kind, stream).await
            }
        }
    }

    async fn in_session(&mut self, kind: Kind, stream: &mut TcpStream) -> std::io::Result<()> {
        match kind {
            Kind::LoginThenNoise => {
                let noise = self.noise(8192);
                stream.write_all(&noise).await
            }
            Kind::LoginThenHalf => {
                let mut pdu = self.pdu(1);
                pdu[5..8].copy_from_slice(&[0x02, 0, 0]);
                stream.write_all(&pdu).await
            }
            Kind::LoginThenDeaf => {
                for number in 0..32 {
                    let mut read = pdu(opcode::COMMAND, FINAL | 0x40, number, 1 + number, &[]);
                    read[20..24].copy_from_slice(&(64u32 << 10).to_be_bytes());
                    read[32] = 0x28;
                    read[39..41].copy_from_slice(&128u16.to_be_bytes());
                    stream.write_all(&read).await?;
                }
                Ok(())
            }
            Kind::LoginThenReset => {
                // ABORT TASK to LOGICAL UNIT RESET, TARGET WARM RESET or TARGET COLD RESET
                // (RFC 7143 §11.5.1)
                let last = 5 + self.byte() % 3;
                for function in 1..=last {
                    let operation = opcode::TASK_REQUEST | IMMEDIATE;
                    let request = pdu(operation, FINAL | function, function.into(), 1, &[]);
                    stream.write_all(&request).await?;
                }
                Ok(())
            }
            Kind::LoginThenPdus
            | Kind::Noise
            | Kind::Silence
            | Kind::HalfLogin
            | Kind::SlowLogin
            | Kind::BadLogin => {
                for number in 0..40 {
                    let pdu = self.pdu(1 + number);
                    stream.write_all(&pdu).await?;
                    let mut answer = [0; 4096];
                    let _ = timeout(Duration::from_millis(5), stream.read(&mut answer)).await;
                }
                Ok(())
            }
        }
    }

    /// A login in one request.
    fn login(&mut self) -> Vec<u8> {
        let Options {
            initiator, target, ..
        } = &*self.options;
        let text = format!(
            "InitiatorName={initiator}\0TargetName={target}\0SessionType=Normal\0InitialR2T=No\0"
        );
        let mut bytes = pdu(
            opcode::LOGIN_REQUEST | IMMEDIATE,
            0x87,
            1,
            1,
            text.as_bytes(),
        );
        // The session identifier: a few ports of the initiator, so that they replace each other.
        bytes[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, 0]);
        bytes[13] = self.byte() % 24;
        // where a command has its expected length, a login has the connection's number
        bytes[20..24].copy_from_slice(&[0, 1, 0, 0]);
        bytes
    }

    /// A request that is almost right.
    fn pdu(&mut self, number: u32) -> Vec<u8> {
        const OPERATIONS: [u8; 10] = [
            opcode::NOP_OUT,
            opcode::COMMAND,
            opcode::COMMAND,
            opcode::COMMAND,
            opcode::DATA_OUT,
            opcode::DATA_OUT,
            opcode::TASK_REQUEST,
            opcode::TEXT_REQUEST,
            opcode::SNACK,
            opcode::LOGOUT_REQUEST,
        ];
        const COMMANDS: [u8; 12] = [
            0x00, 0x12, 0x28, 0x2a, 0x88, 0x8a, 0x42, 0x93, 0x89, 0xa0, 0x55, 0x5f,
        ];
        let data = self.noise(1024);
        let operation =
            *self.rng.pick(&OPERATIONS) | if self.rng.chance(200) { IMMEDIATE } else { 0 };
        let flags = self.byte();
        let itt = u32::from(self.byte() % 8);
        let mut bytes = pdu(operation, flags, itt, number, &data);
        let wanted = u32::try_from(data.len()).expect("short");
        bytes[20..24].copy_from_slice(&wanted.to_be_bytes());
        for field in &mut bytes[32..48] {
            *field = self.byte() & self.byte() & self.byte();
        }
        bytes[32] = *self.rng.pick(&COMMANDS);
        if self.rng.chance(50) {
            let at = self.within(bytes.len());
            bytes[at] = self.byte();
        }
        bytes
    }

    fn noise(&mut self, max: usize) -> Vec<u8> {
        let len = self.within(max);
        (0..len).map(|_| self.byte()).collect()
    }

    fn byte(&mut self) -> u8 {
        self.rng.bits().to_le_bytes()[0]
    }

    /// An index below `bound`.
    fn within(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("short");
        usize::try_from(self.rng.below(bound)).expect("below a length")
    }
}

/// A request with the fields that most have (RFC 7143 §11.2), and its data.
fn pdu(operation: u8, flags: u8, itt: u32, cmd_sn: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; BHS_LEN_BYTES];
    bytes[0] = operation;
    bytes[1] = flags;
    let len = u32::try_from(data.len()).expect("short");
    bytes[4..8].copy_from_slice(&len.to_be_bytes());
    bytes[16..20].copy_from_slice(&itt.to_be_bytes());
    bytes[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
