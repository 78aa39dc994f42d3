//! The crate's own initiator as a load: it writes, takes digests and times every command.
//!
//! It talks as the initiators of other makers do, one PDU at a time in both directions: a send for
//! each command, a receive for each header and one for its data. Gathering would make the target
//! look three times as good.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use iscsi_target::auth::Challenge;
use iscsi_target::backend::Fua;
use iscsi_target::initiator::machine::{Answer, Input, Machine, Output, Request};
use iscsi_target::initiator::{Digest, Login, Order, cdb};
use iscsi_target::pdu::BHS_LEN_BYTES;
use iscsi_target::types::Time;
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::workload::{Digests, Direction, Layout, Workload};
use crate::lab::clock::Stopwatch;
use crate::rng::Rng;

/// Ranges of one PDU: header, data, digest.
const SLICES_MAX: usize = 8;
const DIGEST_BYTES: usize = 4;
const SECTOR_BYTES: u64 = 512;
/// Silence after which a target is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Unit attentions that may come before the first GOOD.
const ATTENTIONS_MAX: u32 = 8;

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Place {
    /// Address and port.
    pub portal: SocketAddr,
    /// iSCSI name.
    pub target: String,
    /// Logical unit.
    pub lun: u8,
    /// The part that is used, in bytes from the start of the unit.
    pub span_bytes: u64,
}

/// What a load came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    latencies_ns: Vec<u64>,
    elapsed: Duration,
}

/// Runs `workload` for `time`; each session has a thread. The answer is one JSON object.
pub fn drive(place: &Place, workload: Workload, time: Duration) -> anyhow::Result<Value> {
    let threads: Vec<_> = (0..workload.sessions)
        .map(|number| {
            let place = place.clone();
            thread::spawn(move || one_session(&place, workload, time, number))
        })
        .collect();
    let mut sum = Tally::default();
    for thread in threads {
        let tally = thread
            .join()
            .map_err(|_| anyhow::anyhow!("a session panicked"))??;
        sum.elapsed = sum.elapsed.max(tally.elapsed);
        sum.latencies_ns.extend(tally.latencies_ns);
    }
    sum.latencies_ns.sort_unstable();
    Ok(json!({
        "ios": sum.latencies_ns.len(),
        "seconds": sum.elapsed.as_secs_f64(),
        "p50_us": percentile_us(&sum.latencies_ns, 500),
        "p99_us": percentile_us(&sum.latencies_ns, 990),
    }))
}

fn one_session(
    place: &Place,
    workload: Workload,
    time: Duration,
    number: u32,
) -> anyhow::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut session = Session::login(place, workload, number).await?;
        session.clear_attentions(place.lun).await?;
        session.run(place, workload, time, number).await
    })
}

struct Session {
    machine: Machine,
    stream: TcpStream,
    input: BytesMut,
    /// Length of a header with its digest; what follows data is read together with the next one.
    piece_bytes: usize,
    clock: Stopwatch,
}

impl Session {
    async fn login(place: &Place, workload: Workload, number: u32) -> anyhow::Result<Self> {
        let initiator = format!("iqn.2026-11.org.twinsan:bench-{number}");
        let mut login = Login::new(initiator, place.target.clone());
        // A busy target answers late; here that is a result and not a loss.
        login.ping_after_ms = 60_000;
        login.answer_within_ms = 60_000;
        if workload.digests == Digests::Crc32c {
            login.offer.header_digest = Digest::Crc32c;
            login.offer.data_digest = Digest::Crc32c;
        }
        let stream = TcpStream::connect(place.portal).await?;
        stream.set_nodelay(true)?;
        // Nothing is authenticated, so nobody sees the challenge.
        let challenge = Challenge {
            identifier: 1,
            bytes: vec![1; 32],
        };
        let mut this = Self {
            machine: Machine::new(Time(0), login, challenge),
            stream,
            input: BytesMut::new(),
            piece_bytes: BHS_LEN_BYTES,
            clock: Stopwatch::start(),
        };
        match this.next().await? {
            Output::LoggedIn => {
                if workload.digests == Digests::Crc32c {
                    this.piece_bytes += 2 * DIGEST_BYTES;
                }
                Ok(this)
            }
            Output::Over(error) => bail!("login: {error}"),
            Output::Ended(..) => bail!("an answer before the login"),
        }
    }

    async fn clear_attentions(&mut self, lun: u8) -> anyhow::Result<()> {
        for _ in 0..ATTENTIONS_MAX {
            let order = Order {
                lun: cdb::lun(lun),
                cdb: cdb::test_unit_ready(),
                data_out: Bytes::new(),
                data_in_bytes: 0,
            };
            self.start(0, order)?;
            if let Output::Ended(_, Ok(Answer::Response(response))) = self.next().await?
                && response.is_good()
            {
                return Ok(());
            }
        }
        bail!("the unit does not become ready")
    }

    /// Keeps as many commands under way as the workload says.
    async fn run(
        &mut self,
        place: &Place,
        workload: Workload,
        time: Duration,
        number: u32,
    ) -> anyhow::Result<Tally> {
        let mut orders = Orders::new(place, workload, number);
        let start = self.clock.elapsed();
        let mut started = vec![start; workload.depth as usize];
        for tag in 0..workload.depth {
            self.start(tag, orders.next())?;
        }
        let mut tally = Tally::default();
        let mut under_way = workload.depth;
        while under_way > 0 {
            let output = self.next().await?;
            let Output::Ended(tag, Ok(Answer::Response(response))) = output else {
                bail!("the session broke: {output:?}");
            };
            if !response.is_good() || response.data.len() != orders.data_in_bytes() {
                bail!("a command failed: {response:?}");
            }
            let now = self.clock.elapsed();
            let slot = tag as usize;
            let latency = now.saturating_sub(started[slot]).as_nanos();
            tally
                .latencies_ns
                .push(u64::try_from(latency).unwrap_or(u64::MAX));
            tally.elapsed = now.saturating_sub(start);
            if tally.elapsed < time {
                started[slot] = now;
                self.start(tag, orders.next())?;
            } else {
                under_way -= 1;
            }
        }
        Ok(tally)
    }

    fn start(&mut self, tag: u32, order: Order) -> anyhow::Result<()> {
        let start = Input::Start(tag, Request::Execute(order));
        self.machine.handle(Time(0), start);
        self.send()
    }

    /// The next outcome; sends and receives until there is one.
    async fn next(&mut self) -> anyhow::Result<Output> {
        loop {
            if let Some(output) = self.machine.poll_output() {
                return Ok(output);
            }
            self.send()?;
            if self.receive()? {
                continue;
            }
            let interest = if self.machine.outbox().is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            timeout(PATIENCE, self.stream.ready(interest))
                .await
                .context("the target does not answer")??;
        }
    }

    fn send(&mut self) -> anyhow::Result<()> {
        while !self.machine.outbox().is_empty() {
            let chunks = self.machine.outbox().clone_chunks(SLICES_MAX);
            let slices: Vec<_> = chunks
                .iter()
                .map(|chunk| std::io::IoSlice::new(chunk))
                .collect();
            match self.stream.try_write_vectored(&slices) {
                Ok(len) => self.machine.handle(Time(0), Input::Sent(len)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes what has arrived. False if that was nothing.
    fn receive(&mut self) -> anyhow::Result<bool> {
        let (result, landed) = match self.machine.landing() {
            Some((buffer, missing)) if self.input.is_empty() => {
                (self.stream.try_read_buf(&mut buffer.limit(missing)), true)
            }
            Some(_) | None => {
                let missing = self.piece_bytes.saturating_sub(self.input.len()).max(1);
                let mut room = (&mut self.input).limit(missing);
                (self.stream.try_read_buf(&mut room), false)
            }
        };
        match result {
            Ok(0) => bail!("the target has closed the connection"),
            Ok(len) if landed => self.machine.handle(Time(0), Input::Landed(len)),
            Ok(_) => {
                let input = Input::Received(&mut self.input);
                self.machine.handle(Time(0), input);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }
}

/// The commands of one session.
struct Orders {
    workload: Workload,
    lun: [u8; 8],
    pieces: u64,
    at: u64,
    rng: Rng,
    data: Bytes,
}

impl Orders {
    fn new(place: &Place, workload: Workload, number: u32) -> Self {
        let block_bytes = u64::from(workload.block_bytes);
        let pieces = place.span_bytes / block_bytes;
        let mut rng = Rng::new(u64::from(number));
        let mut data = BytesMut::new();
        while workload.direction == Direction::Write && data.len() < workload.block_bytes as usize {
            data.put_u64(rng.bits());
        }
        Self {
            workload,
            lun: cdb::lun(place.lun),
            pieces,
            at: pieces / u64::from(workload.sessions) * u64::from(number),
            rng,
            data: data.freeze(),
        }
    }

    fn data_in_bytes(&self) -> usize {
        match self.workload.direction {
            Direction::Read => self.workload.block_bytes as usize,
            Direction::Write => 0,
        }
    }

    fn next(&mut self) -> Order {
        let piece = match self.workload.layout {
            Layout::Random => self.rng.below(self.pieces),
            Layout::Sequential => self.at,
        };
        self.at = (self.at + 1) % self.pieces;
        let sectors = u64::from(self.workload.block_bytes) / SECTOR_BYTES;
        let count = u32::try_from(sectors).expect("blocks are short");
        let lba = piece * sectors;
        let cdb = match self.workload.direction {
            Direction::Read => cdb::read16(lba, count),
            Direction::Write => cdb::write16(lba, count, Fua::No),
        };
        Order {
            lun: self.lun,
            cdb,
            data_out: self.data.clone(),
            data_in_bytes: self.data_in_bytes(),
        }
    }
}

/// The value below which so many of a thousand lie, in microseconds.
fn percentile_us(sorted_ns: &[u64], per_mille: usize) -> f64 {
    let index = (sorted_ns.len() * per_mille / 1000).min(sorted_ns.len().saturating_sub(1));
    let ns = sorted_ns.get(index).copied().unwrap_or(0);
    Duration::from_nanos(ns).as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_members_of_the_sample() {
        let sorted: Vec<u64> = (1..=1000).map(|number| number * 1000).collect();
        assert!((percentile_us(&sorted, 500) - 501.0).abs() < 1e-9);
        assert!((percentile_us(&sorted, 990) - 991.0).abs() < 1e-9);
        assert!((percentile_us(&sorted[..1], 990) - 1.0).abs() < 1e-9);
        assert!(percentile_us(&[], 990).abs() < 1e-9);
    }

    #[test]
    fn sequential_orders_wrap_and_random_ones_stay_inside() {
        let place = Place {
            portal: "127.0.0.1:3260".parse().unwrap(),
            target: String::new(),
            lun: 0,
            span_bytes: 16 * 4096,
        };
        for name in ["read-4k-qd1", "write-256k-qd32"] {
            let workload = Workload::all()
                .into_iter()
                .find(|workload| workload.to_string() == name)
                .unwrap();
            let span_bytes = u64::from(workload.block_bytes) * 16;
            let place = Place {
                span_bytes,
                ..place.clone()
            };
            let mut orders = Orders::new(&place, workload, 0);
            for _ in 0..64 {
                let order = orders.next();
                let lba = u64::from_be_bytes(order.cdb[2..10].try_into().unwrap());
                assert!(lba * 512 + u64::from(workload.block_bytes) <= span_bytes);
            }
        }
    }
}
