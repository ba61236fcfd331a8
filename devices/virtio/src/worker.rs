//! The threads that serve a device's rings, and own them while they do.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ambit_memory::GuestMemory;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{Start, StartError};
use crate::interrupt::Interrupt;
use crate::ring::{Broken, Ring};
use crate::rounds::{self, Due, Rounds, Running};

/// What is particular to one type of device. Each lane of a [`Service`] has one, on a thread of its own.
pub trait Serve: Send + 'static {
    /// How many sources it may wait for besides kicks.
    const SOURCES: usize = 0;

    /// Before the first ring is served.
    ///
    /// # Errors
    /// If the backend refuses these features.
    fn begin(&mut self, run: &Run) -> io::Result<()>;

    /// Does what waits in `ring`, for one [`Turn`](crate::ring::Turn).
    ///
    /// # Errors
    /// [`Broken`] if the ring makes no sense. It is not served again; the lane's other rings are.
    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken>;

    /// What source `number` is now, and the ring that is served when it has something to read. Asked before
    /// each wait. `None`: not to be waited for now.
    fn source(&self, _number: usize) -> Option<(BorrowedFd<'_>, u16)> {
        None
    }

    /// Source `number` has something to read; its ring is served after this.
    fn ready(&mut self, _number: usize) {}

    /// Source `number` hung up or failed; it must not be waited for any more.
    fn lost(&mut self, _number: usize) {}

    /// After the last ring is served. No request is in flight when this returns.
    fn end(&mut self, _rings: &mut [Ring], _memory: &GuestMemory) {}
}

/// What a backend runs with.
pub struct Run {
    pub features: u64,
    pub memory: GuestMemory,
    /// To tell the driver of changes in the configuration.
    pub interrupt: Arc<Interrupt>,
    /// Which of the lane's queues the driver made ready.
    pub queues: Vec<u16>,
}

/// When a ring is to be served again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When the driver kicks, or a source has something.
    Wait,
    /// There may be more: after the others had their turn.
    Again,
    /// Not before this time has passed: what limits it has to recover.
    After(Duration),
}

impl Next {
    /// [`Next::Again`] if there may be more.
    pub fn again_if(more: bool) -> Self {
        if more { Self::Again } else { Self::Wait }
    }
}

/// The backends of a device, and the threads that serve them while it runs.
pub struct Service<S> {
    name: String,
    lanes: Vec<Lane<S>>,
    running: Vec<Thread>,
}

/// One backend, and the queues that it serves.
struct Lane<S> {
    backend: Arc<Mutex<S>>,
    // `None`: all of them.
    queues: Option<Vec<u16>>,
}

struct Thread {
    thread: JoinHandle<Vec<Ring>>,
    stop: EventFd,
}

impl Running for Thread {
    type Back = Vec<Ring>;

    fn ask_to_stop(&self) {
        // Full means it is signalled already.
        let _full = self.stop.write(1);
    }

    fn join(self) -> Vec<Ring> {
        // A panic has ended the program already.
        self.thread.join().unwrap_or_default()
    }
}

impl<S: Serve> Service<S> {
    /// One thread for all queues; `id` names it.
    pub fn new(id: &str, backend: S) -> Self {
        Self::of(id, vec![Lane { backend: Arc::new(Mutex::new(backend)), queues: None }])
    }

    /// A thread for each of `lanes`, with the queues it serves. Each queue is in one of them.
    pub fn with_lanes(id: &str, lanes: Vec<(S, Vec<u16>)>) -> Self {
        let lane = |(backend, queues)| Lane { backend: Arc::new(Mutex::new(backend)), queues: Some(queues) };
        Self::of(id, lanes.into_iter().map(lane).collect())
    }

    fn of(id: &str, lanes: Vec<Lane<S>>) -> Self {
        // What the kernel shows of a name is 15 bytes, and none of them is a zero.
        let name = id.chars().filter(|c| *c != '\0').take(15).collect();
        Self { name, lanes, running: Vec::new() }
    }

    /// Lanes without a ring stay as they are.
    ///
    /// # Errors
    /// [`StartError`] if a backend or the host refuses. Nothing runs then.
    pub fn start(&mut self, start: Start) -> Result<(), StartError> {
        let mut left = start.rings;
        for number in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get(number) else { break };
            let (rings, others) = left.into_iter().partition(|ring| lane.serves(ring.index));
            left = others;
            let rings: Vec<Ring> = rings;
            if rings.is_empty() && lane.queues.is_some() {
                continue;
            }
            let run = Run {
                features: start.features,
                memory: start.memory.clone(),
                interrupt: Arc::clone(&start.interrupt),
                queues: rings.iter().map(|ring| ring.index).collect(),
            };
            match lane.start(&self.name, rings, run) {
                Ok(running) => self.running.push(running),
                Err(error) => {
                    drop(self.stop());
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl<S: Serve> Lane<S> {
    fn serves(&self, queue: u16) -> bool {
        self.queues.as_ref().is_none_or(|queues| queues.contains(&queue))
    }

    fn start(&self, name: &str, rings: Vec<Ring>, run: Run) -> Result<Thread, StartError> {
        let refused = |wanted| move |source| StartError { wanted, source };
        let stop = EventFd::new(EFD_NONBLOCK).map_err(refused("an event to stop by"))?;
        let stopped = stop.try_clone().map_err(refused("an event to stop by"))?;
        let backend = Arc::clone(&self.backend);
        let waiter = Waiter::new(&rings, stopped, S::SOURCES).map_err(refused("to wait for events"))?;
        lock(&backend).begin(&run).map_err(refused("the backend with these features"))?;
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&mut *lock(&backend), rings, &run, waiter))
            .map_err(refused("a thread"))?;
        Ok(Thread { thread, stop })
    }
}

impl<S> Service<S> {
    /// Does something with each backend that does not run.
    pub fn each(&self, mut act: impl FnMut(&mut S)) {
        self.lanes.iter().for_each(|lane| act(&mut *lock(&lane.backend)));
    }

    /// The threads have ended when this returns. The rings come in the order of their index; none if it did not
    /// run.
    pub fn stop(&mut self) -> Vec<Ring> {
        let mut rings: Vec<Ring> = rounds::stop(&mut self.running).into_iter().flatten().collect();
        rings.sort_by_key(|ring| ring.index);
        rings
    }
}

impl<S> Drop for Service<S> {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

fn lock<S>(backend: &Mutex<S>) -> MutexGuard<'_, S> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lane at work.
struct Work<'a, S> {
    backend: &'a mut S,
    rings: Vec<Ring>,
    run: &'a Run,
    waiter: Waiter,
}

impl<S: Serve> Rounds for Work<'_, S> {
    fn wait(&mut self, due: &mut [Due]) -> bool {
        self.waiter.wait(self.backend, &self.rings, due).unwrap_or_else(|error| {
            tracing::error!("a device's thread cannot wait any more: {error}");
            self.run.interrupt.ask_for_reset();
            false
        })
    }

    fn serve(&mut self, place: usize) -> Due {
        let Some(ring) = self.rings.get_mut(place) else { return Due::Never };
        match self.backend.serve(ring, &self.run.memory) {
            Ok(next) => Due::after(next),
            Err(error) => {
                tracing::debug!("{error}; the driver is asked for a reset");
                self.run.interrupt.ask_for_reset();
                Due::Never
            }
        }
    }

    fn end(&mut self) {
        self.backend.end(&mut self.rings, &self.run.memory);
    }
}

fn work<S: Serve>(backend: &mut S, rings: Vec<Ring>, run: &Run, waiter: Waiter) -> Vec<Ring> {
    let mut work = Work { backend, rings, run, waiter };
    let count = work.rings.len();
    rounds::go(&mut work, count);
    work.rings
}

/// Everything a lane's thread waits for.
struct Waiter {
    epoll: Epoll,
    _stop: EventFd,
    /// The sources that are waited for.
    watched: Vec<Option<RawFd>>,
}

// What an event is, in the number that comes with it; a kick's is the place of its ring in the lane, and a
// source's comes on top of its bit.
const STOP: u64 = 1 << 32;
const SOURCE: u64 = 1 << 33;

impl Waiter {
    fn new(rings: &[Ring], stop: EventFd, sources: usize) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), EpollEvent::new(EventSet::IN, STOP))?;
        for (place, ring) in (0u64..).zip(rings) {
            // Each kick is an edge, so the event's counter need not be read.
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, place);
            epoll.ctl(ControlOperation::Add, ring.kick.as_raw_fd(), event)?;
        }
        Ok(Self { epoll, _stop: stop, watched: vec![None; sources] })
    }

    /// Waits until something is due, or only looks if something is anyway. False when it is time to stop.
    fn wait<S: Serve>(&mut self, backend: &mut S, rings: &[Ring], due: &mut [Due]) -> io::Result<bool> {
        for number in 0..self.watched.len() {
            // Nobody would ever read what wakes a broken ring.
            let source = backend.source(number).filter(|(_, queue)| {
                let place = rings.iter().position(|ring| ring.index == *queue);
                place.and_then(|place| due.get(place)).is_some_and(|due| *due != Due::Never)
            });
            self.watch(number, source.map(|(fd, _)| fd.as_raw_fd()));
        }
        let mut events = [EpollEvent::default(); 16];
        let count = match self.epoll.wait(rounds::timeout(due), &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let mut wake = |place: Option<usize>, kicked: bool| {
            if let Some(due) = place.and_then(|place| due.get_mut(place)) {
                due.wake(kicked);
            }
        };
        for event in events.iter().take(count) {
            let (what, flags) = (event.data(), event.event_set());
            if what == STOP {
                return Ok(false);
            }
            let Some(number) = what.checked_sub(SOURCE).and_then(|number| usize::try_from(number).ok())
            else {
                wake(usize::try_from(what).ok(), true);
                continue;
            };
            let served = backend.source(number).map(|(_, queue)| queue);
            if flags.contains(EventSet::IN) {
                backend.ready(number);
            }
            if flags.intersects(EventSet::ERROR | EventSet::HANG_UP) {
                backend.lost(number);
            }
            wake(rings.iter().position(|ring| Some(ring.index) == served), false);
        }
        Ok(true)
    }

    /// Waits for `source` from now on, or for none.
    fn watch(&mut self, number: usize, source: Option<RawFd>) {
        let Some(watched) = self.watched.get_mut(number).filter(|watched| **watched != source) else {
            return;
        };
        // Only a source that is gone refuses to be forgotten.
        if let Some(old) = watched.take() {
            let _gone = self.epoll.ctl(ControlOperation::Delete, old, EpollEvent::default());
        }
        let Some(new) = source else { return };
        let what = SOURCE.saturating_add(number as u64);
        match self.epoll.ctl(ControlOperation::Add, new, EpollEvent::new(EventSet::IN, what)) {
            Ok(()) => *watched = source,
            Err(error) => tracing::warn!("a device's source cannot be waited for: {error}"),
        }
    }
}
