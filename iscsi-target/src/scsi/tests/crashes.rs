//! Random histories with power cuts: what anybody has seen of reservations is never undone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use proptest::prelude::*;

use super::reservations::out;
use super::*;
use crate::backend::{Completion, Done, Receipt};
use crate::scsi::opcodes::Conflict;
use crate::scsi::parse::Command;
use crate::scsi::reservation::{
    Asked, InAction, InitiatorPort, Origin, Outcome, Refusal, Registrant, Reservations,
    persistent_out,
};

const INITIATORS: [&str; 2] = [FIRST, SECOND];
const WRITE: &[u8] = &[0x2a, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const READ_KEYS: &[u8] = &[0x5e, 0, 0, 0, 0, 0, 0, 0x40, 0, 0];
const READ_RESERVATION: &[u8] = &[0x5e, 1, 0, 0, 0, 0, 0, 0x40, 0, 0];

/// A store that answers when the history says so, and knows every state there ever was.
struct Store {
    geometry: Geometry,
    pending: RefCell<VecDeque<(Request, Completion)>>,
    /// The states since the last start, in the order in which they were made; the first is what
    /// was stored then.
    states: RefCell<Vec<(Option<Receipt>, Bytes)>>,
    /// Which of them is stored.
    kept: Cell<usize>,
}

impl Store {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            geometry: MemoryBackend::thin(8).geometry(),
            pending: RefCell::default(),
            states: RefCell::new(vec![(None, Reservations::default().to_bytes())]),
            kept: Cell::new(0),
        })
    }

    /// Carries out a request, the oldest of its kind.
    fn answer(&self, keeps: bool) {
        let is_keep = |request: &Request| matches!(request, Request::KeepReservations { .. });
        let at = {
            let pending = self.pending.borrow();
            pending.iter().position(|(it, _)| is_keep(it) == keeps)
        };
        let Some((request, completion)) = at.and_then(|at| self.pending.borrow_mut().remove(at))
        else {
            return;
        };
        if let Request::KeepReservations { receipt, .. } = &request {
            let states = self.states.borrow();
            let at = states
                .iter()
                .position(|(it, _)| it.as_ref() == Some(receipt));
            self.kept.set(self.kept.get().max(at.unwrap()));
            receipt.sign();
        }
        completion.complete(Ok(Done::Ok));
    }

    fn state(&self, version: usize) -> Option<Reservations> {
        let states = self.states.borrow();
        let (_, state) = states.get(version)?;
        Some(Reservations::from_bytes(state).unwrap())
    }

    /// Power goes and comes back: what was on its way is gone.
    fn restart(&self) -> Bytes {
        self.pending.borrow_mut().clear();
        let mut states = self.states.borrow_mut();
        let (_, kept) = states.swap_remove(self.kept.get());
        *states = vec![(None, kept.clone())];
        self.kept.set(0);
        kept
    }
}

impl Backend for Store {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&self, request: Request, completion: Completion) {
        if let Request::KeepReservations { state, receipt } = &request {
            let mut states = self.states.borrow_mut();
            match states.iter().find(|(it, _)| it.as_ref() == Some(receipt)) {
                Some((_, known)) => assert_eq!(known, state),
                None => states.push((Some(receipt.clone()), state.clone())),
            }
        }
        self.pending.borrow_mut().push_back((request, completion));
    }
}

/// A box, its two initiators, and how much of the states somebody has surely seen.
struct World {
    store: Rc<Store>,
    array: Array,
    nexuses: [NexusId; 2],
    queue: CompletionQueue,
    running: Vec<Running>,
    tags_used: u64,
    seen: usize,
}

struct Running {
    tag: Tag,
    who: usize,
    cdb: Vec<u8>,
    data: Vec<u8>,
    /// The state that this command made, if it made one.
    made: Option<usize>,
    /// What had been seen when it was sent.
    since: usize,
    execution: Execution,
}

#[derive(Clone, Debug)]
enum Event {
    Out(usize, (u8, u8, u64, u64)),
    Send(usize, &'static [u8]),
    Answer(bool),
    LogIn(usize),
    PowerCut,
}

fn event() -> impl Strategy<Value = Event> {
    let action = prop::sample::select(&[0_u8, 6, 6, 6, 1, 1, 1, 2, 3, 4, 5][..]);
    let kind = prop::sample::select(&[1_u8, 3, 5, 6, 7, 8][..]);
    let cdb = prop::sample::select(&[WRITE, READ_KEYS, READ_RESERVATION, &[0x00]][..]);
    prop_oneof![
        6 => (0..2_usize, action, kind, 0..3_u64, 0..3_u64)
            .prop_map(|(who, action, kind, key, new)| Event::Out(who, (action, kind, key, new))),
        6 => (0..2_usize, cdb).prop_map(|(who, cdb)| Event::Send(who, cdb)),
        10 => any::<bool>().prop_map(Event::Answer),
        1 => (0..2_usize).prop_map(Event::LogIn),
        1 => Just(Event::PowerCut),
    ]
}

impl World {
    fn new() -> Self {
        let store = Store::new();
        let mut world = Self {
            array: Array::new(),
            nexuses: [NexusId(0); 2],
            queue: CompletionQueue::new(),
            running: Vec::new(),
            tags_used: 0,
            seen: 0,
            store,
        };
        world.serve();
        world
    }

    /// A box begins to serve with what is stored.
    fn serve(&mut self) {
        let record = self.store.restart();
        self.running.clear();
        self.queue = CompletionQueue::new();
        self.seen = 0;
        self.array = Array::new();
        self.array.portals(TARGET, PORTALS.to_vec());
        let disk = Rc::new(MemoryBackend::thin(8));
        let mut config = config(&disk, Access::ReadWrite);
        config.units[0].backend = Rc::clone(&self.store) as Rc<dyn Backend>;
        config.units[0].reserved = Reserved::Stored(Some(record));
        self.array.apply(config).unwrap();
        (0..INITIATORS.len()).for_each(|who| self.log_in(who));
    }

    /// What the session before was doing is gone with it.
    fn log_in(&mut self, who: usize) {
        self.running.retain(|it| it.who != who);
        let name = INITIATORS[who];
        let host = self.array.authorize(name, [127, 0, 0, 1].into()).unwrap();
        self.nexuses[who] = self.array.open(nexus(name), host);
    }

    fn send(&mut self, who: usize, cdb: &[u8], data: &[u8]) {
        let offered = u32::try_from(data.len()).unwrap();
        let nexus = self.nexuses[who];
        let mut execution = match self.array.start(nexus, [0; 8], padded(cdb), offered) {
            Start::Run(execution) => execution,
            Start::Reply(reply) => return self.hear((who, cdb, data), self.seen, &reply),
            Start::Drop => panic!("the nexus is open"),
        };
        let before = self.store.states.borrow().len();
        let step = execution.run(&mut self.array, Bytes::copy_from_slice(data));
        self.tags_used += 1;
        let tag = Tag(self.tags_used);
        match step {
            Step::Done(reply) => self.hear((who, cdb, data), self.seen, &reply),
            Step::Drop => panic!("the box is active"),
            Step::Io { backend, request } => {
                backend.submit(request, self.queue.completion(tag));
                let states = self.store.states.borrow().len();
                if states > before {
                    self.check_made(before, who, padded(cdb), data);
                }
                self.running.push(Running {
                    tag,
                    who,
                    cdb: cdb.to_vec(),
                    data: data.to_vec(),
                    made: (states > before).then_some(before),
                    since: self.seen,
                    execution,
                });
            }
        }
    }

    /// A new state is made from the one before, or an update would be lost.
    fn check_made(&self, version: usize, who: usize, cdb: [u8; 16], list: &[u8]) {
        let [old, new] = [version - 1, version].map(|it| self.store.state(it).unwrap());
        match with(&old, &registrant(who), cdb, list) {
            Ok(Outcome::Changed(next, _)) => assert_eq!(next, new),
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, keeps: bool) {
        self.store.answer(keeps);
        while let Some((tag, outcome)) = self.queue.pop() {
            let Some(at) = self.running.iter().position(|it| it.tag == tag) else {
                continue;
            };
            let mut running = self.running.remove(at);
            match running.execution.done(&mut self.array, outcome) {
                Step::Done(reply) => {
                    if let Some(version) = running.made {
                        assert!(version <= self.store.kept.get(), "answered too early");
                        self.seen = self.seen.max(version);
                    }
                    let Running {
                        who,
                        cdb,
                        data,
                        since,
                        ..
                    } = running;
                    self.hear((who, &cdb, &data), since, &reply);
                }
                Step::Io { backend, request } => {
                    backend.submit(request, self.queue.completion(tag));
                    self.running.push(running);
                }
                Step::Drop => panic!("the box is active"),
            }
        }
        while let Some((hit, _)) = self.array.next_aborted() {
            let nexuses = self.nexuses;
            self.running
                .retain(|it| nexuses[it.who] != hit || it.execution.reserves());
        }
    }

    /// An initiator hears `reply` to a command with its data: which state must there have been for
    /// that?
    fn hear(&mut self, (who, cdb, list): (usize, &[u8], &[u8]), since: usize, reply: &Reply) {
        let kept = self.store.kept.get();
        let (who, cdb) = (registrant(who), padded(cdb));
        let data = reply.data_in.concat();
        let fits = |state: &Reservations| match (cdb[0], cdb[1], reply.status) {
            (0x5e, 0, Status::Good) => state.tell(InAction::ReadKeys) == data,
            (0x5e, 1, Status::Good) => state.tell(InAction::ReadReservation) == data,
            (0x2a, _, Status::Good) => !state.refuse(&who, Conflict::Always),
            (0x2a, _, Status::ReservationConflict) => state.refuse(&who, Conflict::Always),
            (0x5f, _, Status::Good) => with(state, &who, cdb, list).is_ok(),
            (0x5f, _, Status::ReservationConflict) => {
                with(state, &who, cdb, list) == Err(Refusal::Conflict)
            }
            _ => true,
        };
        // The earliest that explains it: not before what was known when it was sent, and never
        // past what is stored.
        let explained = (since..=kept).find(|version| {
            let state = self.store.state(*version).unwrap();
            fits(&state)
        });
        let explained = explained.unwrap_or_else(|| panic!("{cdb:02x?}: {reply:?}"));
        self.seen = self.seen.max(explained);
    }
}

fn registrant(who: usize) -> Registrant {
    Registrant {
        port: InitiatorPort {
            name: INITIATORS[who].to_owned(),
            isid: nexus(FIRST).isid,
        },
        target_port: PORTALS[0].relative_port,
    }
}

/// What a PERSISTENT RESERVE OUT makes of a state.
fn with(
    state: &Reservations,
    who: &Registrant,
    cdb: [u8; 16],
    list: &[u8],
) -> Result<Outcome, Refusal> {
    let Ok(Command::Reservation(Asked::Out(out))) = persistent_out(&cdb) else {
        panic!("{cdb:02x?}")
    };
    let target_ports = &PORTALS.map(|portal| portal.relative_port);
    state.with(&out.read(list)?, Origin { who, target_ports })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn d10_nothing_that_was_seen_is_undone(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Out(who, (action, kind, key, new_key)) => {
                    let (cdb, list) = out(action, kind, key, new_key);
                    world.send(who, &cdb, &list);
                }
                Event::Send(who, cdb) => world.send(who, cdb, &[]),
                Event::Answer(keeps) => world.answer(keeps),
                Event::LogIn(who) => world.log_in(who),
                Event::PowerCut => world.serve(),
            }
        }
    }
}
