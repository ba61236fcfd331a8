//! The threads that serve a device's rings, and own them while they do.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ambit_memory::GuestMemory;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{Start, StartError};
use crate::interrupt::Interrupt;
use crate::ring::{Broken, Ring};

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
    running: Vec<Running>,
}

/// One backend, and the queues that it serves.
struct Lane<S> {
    backend: Arc<Mutex<S>>,
    // `None`: all of them.
    queues: Option<Vec<u16>>,
}

struct Running {
    thread: JoinHandle<Vec<Ring>>,
    stop: EventFd,
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

    fn start(&self, name: &str, rings: Vec<Ring>, run: Run) -> Result<Running, StartError> {
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
        Ok(Running { thread, stop })
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
        for running in &self.running {
            // Full means it is signalled already.
            let _full = running.stop.write(1);
        }
        // A panic has ended the program already.
        let ended = self.running.drain(..).map(|running| running.thread.join().unwrap_or_default());
        let mut rings: Vec<Ring> = ended.flatten().collect();
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

/// One ring of a lane, and when it is served next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Now,
    At(Instant),
    Later,
    /// It broke, and waits for the driver's reset.
    Never,
}

impl Due {
    fn after(next: Next) -> Self {
        match next {
            Next::Wait => Self::Later,
            Next::Again => Self::Now,
            Next::After(time) => Instant::now().checked_add(time).map_or(Self::Later, Self::At),
        }
    }

    fn come(self) -> bool {
        match self {
            Self::Now => true,
            Self::At(time) => time <= Instant::now(),
            Self::Later | Self::Never => false,
        }
    }
}

fn work<S: Serve>(backend: &mut S, mut rings: Vec<Ring>, run: &Run, mut waiter: Waiter) -> Vec<Ring> {
    // A kick may have come before anybody listened.
    let mut due = vec![Due::Now; rings.len()];
    while waiter.wait(backend, &rings, &mut due) {
        for (ring, due) in rings.iter_mut().zip(&mut due).filter(|(_, due)| due.come()) {
            *due = match backend.serve(ring, &run.memory) {
                Ok(next) => Due::after(next),
                Err(error) => {
                    tracing::debug!("{error}; the driver is asked for a reset");
                    run.interrupt.ask_for_reset();
                    Due::Never
                }
            };
        }
    }
    backend.end(&mut rings, &run.memory);
    rings
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
    fn wait<S: Serve>(&mut self, backend: &mut S, rings: &[Ring], due: &mut [Due]) -> bool {
        for number in 0..self.watched.len() {
            // Nobody would ever read what wakes a broken ring.
            let source = backend.source(number).filter(|(_, queue)| {
                let place = rings.iter().position(|ring| ring.index == *queue);
                place.and_then(|place| due.get(place)).is_some_and(|due| *due != Due::Never)
            });
            self.watch(number, source.map(|(fd, _)| fd.as_raw_fd()));
        }
        let mut events = [EpollEvent::default(); 16];
        let count = match self.epoll.wait(timeout(due), &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                tracing::error!("a device's thread cannot wait any more: {error}");
                return false;
            }
        };
        // What limits a ring does not recover by a kick, but its source may have something else for it.
        let mut wake = |place: Option<usize>, kicked: bool| {
            let due = place.and_then(|place| due.get_mut(place));
            match due {
                Some(due @ Due::Later) => *due = Due::Now,
                Some(due @ Due::At(_)) if !kicked => *due = Due::Now,
                _ => {}
            }
        };
        for event in events.iter().take(count) {
            let (what, flags) = (event.data(), event.event_set());
            if what == STOP {
                return false;
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
        true
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

/// How long nothing is due, in milliseconds; -1 is for ever.
fn timeout(due: &[Due]) -> i32 {
    let soonest = due.iter().filter_map(|due| match due {
        Due::Now => Some(Duration::ZERO),
        Due::At(time) => Some(time.saturating_duration_since(Instant::now())),
        Due::Later | Due::Never => None,
    });
    // Up to the next whole one: too early would only wait again.
    let millis = soonest.min().map(|time| i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    millis.unwrap_or(-1)
}
