//! The thread that serves one device's rings, and owns them while it does.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use ambit_memory::GuestMemory;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{Interrupt, Start, StartError};
use crate::ring::{Broken, Ring};

/// What is particular to one type of device.
pub trait Serve: Send + 'static {
    /// Before the first ring is served.
    ///
    /// # Errors
    /// If the backend refuses `features`.
    fn begin(&mut self, features: u64) -> io::Result<()>;

    /// Does what waits in `ring`, for one [`Turn`](crate::ring::Turn). True if there may be more.
    ///
    /// # Errors
    /// [`Broken`] if the ring makes no sense.
    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<bool, Broken>;

    /// What else to wait for, and the ring that is served when it has something to read.
    fn source(&self) -> Option<(BorrowedFd<'_>, u16)> {
        None
    }

    /// After the last ring is served.
    fn end(&mut self, _rings: &mut [Ring]) {}

    /// The source hung up or failed; it must not be waited for any more.
    fn lost_source(&mut self) {}
}

/// A backend, and the thread that serves it while the device runs.
pub struct Service<S> {
    name: String,
    backend: Arc<Mutex<S>>,
    running: Option<Running>,
}

struct Running {
    thread: JoinHandle<Vec<Ring>>,
    stop: EventFd,
}

impl<S: Serve> Service<S> {
    /// `id` names the thread.
    pub fn new(id: &str, backend: S) -> Self {
        // What the kernel shows of a name is 15 bytes, and none of them is a zero.
        let name = id.chars().filter(|c| *c != '\0').take(15).collect();
        Self { name, backend: Arc::new(Mutex::new(backend)), running: None }
    }

    /// # Errors
    /// [`StartError`] if the backend or the host refuses.
    pub fn start(&mut self, start: Start) -> Result<(), StartError> {
        let refused = |wanted| move |source| StartError { wanted, source };
        let stop = EventFd::new(EFD_NONBLOCK).map_err(refused("an event to stop by"))?;
        let stopped = stop.try_clone().map_err(refused("an event to stop by"))?;
        let backend = Arc::clone(&self.backend);
        let waiter = Waiter::new(&start.rings, &stopped).map_err(refused("to wait for events"))?;
        lock(&backend).begin(start.features).map_err(refused("the backend with these features"))?;
        let thread = thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || run(&mut *lock(&backend), start, waiter))
            .map_err(refused("a thread"))?;
        self.running = Some(Running { thread, stop });
        Ok(())
    }
}

impl<S> Service<S> {
    /// The thread has ended when this returns. Empty if it did not run.
    pub fn stop(&mut self) -> Vec<Ring> {
        let Some(running) = self.running.take() else { return Vec::new() };
        // Full means it is signalled already.
        let _full = running.stop.write(1);
        // A panic has ended the program already.
        running.thread.join().unwrap_or_default()
    }
}

impl<S> Drop for Service<S> {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

fn lock<S>(backend: &Mutex<S>) -> std::sync::MutexGuard<'_, S> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run<S: Serve>(backend: &mut S, start: Start, mut waiter: Waiter) -> Vec<Ring> {
    let Start { mut rings, memory, interrupt, .. } = start;
    // A kick may have come before anybody listened.
    let mut pending = vec![true; rings.len()];
    while let Some(ready) = waiter.wait(backend.source(), pending.contains(&true)) {
        for (ring, pending) in rings.iter_mut().zip(&mut pending) {
            let kicked = ready.kicked.contains(&ring.index);
            if kicked {
                // Empty means somebody else took it.
                let _empty = ring.kick.read();
            }
            if !(kicked || *pending || ready.source == Some(ring.index)) {
                continue;
            }
            match backend.serve(ring, &memory) {
                Ok(more) => *pending = more,
                Err(error) => {
                    give_up(&interrupt, &error);
                    waiter.wait_for_stop();
                    backend.end(&mut rings);
                    return rings;
                }
            }
        }
        if ready.lost_source {
            backend.lost_source();
        }
    }
    backend.end(&mut rings);
    rings
}

fn give_up(interrupt: &Interrupt, error: &Broken) {
    tracing::debug!("{error}; the driver is asked for a reset");
    interrupt.ask_for_reset();
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    kicked: Vec<u16>,
    source: Option<u16>,
    lost_source: bool,
}

/// Everything a device's thread waits for.
struct Waiter {
    epoll: Epoll,
    stop: EventFd,
    /// The source, while it is waited for.
    watched: Option<RawFd>,
}

// What an event is, in the number that comes with it; a kick's is the index of its queue.
const STOP: u64 = 1 << 32;
const SOURCE: u64 = 1 << 33;

impl Waiter {
    fn new(rings: &[Ring], stop: &EventFd) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), EpollEvent::new(EventSet::IN, STOP))?;
        for ring in rings {
            let event = EpollEvent::new(EventSet::IN, u64::from(ring.index));
            epoll.ctl(ControlOperation::Add, ring.kick.as_raw_fd(), event)?;
        }
        Ok(Self { epoll, stop: stop.try_clone()?, watched: None })
    }

    /// Waits for something to do, or only looks if there is something anyway. `None` when it is time
    /// to stop.
    fn wait(&mut self, source: Option<(BorrowedFd<'_>, u16)>, busy: bool) -> Option<Ready> {
        self.watch(source.map(|(fd, _)| fd.as_raw_fd()));
        let mut ready = Ready::default();
        let mut events = [EpollEvent::default(); 8];
        let count = match self.epoll.wait(if busy { 0 } else { -1 }, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                tracing::error!("a device's thread cannot wait any more: {error}");
                return None;
            }
        };
        for event in events.iter().take(count) {
            let flags = event.event_set();
            match (event.data(), source) {
                (STOP, _) => return None,
                (SOURCE, Some((_, index))) => {
                    ready.source = flags.contains(EventSet::IN).then_some(index);
                    ready.lost_source = flags.intersects(EventSet::ERROR | EventSet::HANG_UP);
                }
                (index, _) => ready.kicked.extend(u16::try_from(index)),
            }
        }
        Some(ready)
    }

    /// Waits for `source` from now on, or for none.
    fn watch(&mut self, source: Option<RawFd>) {
        if source == self.watched {
            return;
        }
        // Only a source that is gone refuses to be forgotten.
        if let Some(old) = self.watched.take() {
            let _gone = self.epoll.ctl(ControlOperation::Delete, old, EpollEvent::default());
        }
        if let Some(new) = source {
            match self.epoll.ctl(ControlOperation::Add, new, EpollEvent::new(EventSet::IN, SOURCE)) {
                Ok(()) => self.watched = source,
                Err(error) => tracing::warn!("a device's source cannot be waited for: {error}"),
            }
        }
    }

    /// Serves nothing any more.
    fn wait_for_stop(self) {
        // The clones share one counter, which is read by nobody, so it stays signalled.
        let alone = Waiter::new(&[], &self.stop);
        if let Ok(mut alone) = alone {
            while alone.wait(None, false).is_some() {}
        }
    }
}
