//! The user's side of a console: keys that wait for the guest, and output that waits for the screen.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use rustix::event::{EventfdFlags, eventfd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Size;
use crate::config::Config;

/// How many typed bytes wait for the guest.
pub const INPUT_ROOM: usize = 4096;

/// How much output waits for the sink before the guest has to.
const OUTPUT_ROOM: usize = 64 << 10;
/// What is printed in an emergency fits on top of that.
const EMERGENCY_ROOM: usize = 4096;
/// The most that the sink gets at once.
const PIECE: usize = 4096;
/// How long the end waits for a sink that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the guest's output goes. Called on a thread of its own, so it may take its time: the guest waits for it
/// when it prints more than some tens of KiB ahead.
pub type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// The end of the line that the user types into. It holds [`INPUT_ROOM`] bytes. Cheap to clone, and used from any
/// thread.
#[derive(Clone)]
pub struct Input {
    keys: Arc<Keys>,
    /// `None` if the guest is not told of the size of a terminal.
    config: Option<Arc<Config>>,
}

impl Input {
    pub(super) fn new(keys: Arc<Keys>, config: Option<Arc<Config>>) -> Self {
        Self { keys, config }
    }

    /// Takes as many of `bytes` as there is room for, from the first; how many that were. The rest stays with the
    /// caller, and [`Input::room_event`] is signalled when half of all the room is free.
    pub fn push(&self, bytes: &[u8]) -> usize {
        self.keys.push(bytes)
    }

    /// How many bytes [`Input::push`] takes now; only a push makes it less. If fewer than `wanted`, up to half of
    /// all the room, [`Input::room_event`] is signalled when that half is free.
    pub fn room(&self, wanted: usize) -> usize {
        let mut line = self.keys.lock();
        let room = line.room();
        line.wanted |= room < wanted.min(INPUT_ROOM / 2);
        room
    }

    /// Signalled when there is room again for somebody who found too little.
    pub fn room_event(&self) -> &EventFd {
        &self.keys.room
    }

    /// The terminal has another size now. Nothing happens if the console was made without one.
    pub fn resize(&self, size: Size) {
        if let Some(config) = &self.config {
            config.announce(|bytes| size.put(bytes));
        }
    }
}

impl AsRawFd for Input {
    fn as_raw_fd(&self) -> RawFd {
        self.keys.room.as_raw_fd()
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").finish_non_exhaustive()
    }
}

/// Keys on their way to the guest.
pub struct Keys {
    line: Mutex<Line>,
    room: EventFd,
    typed: Bell,
}

#[derive(Default)]
struct Line {
    bytes: VecDeque<u8>,
    /// Somebody found too little room and wants to hear when there is more.
    wanted: bool,
}

impl Line {
    fn room(&self) -> usize {
        INPUT_ROOM.saturating_sub(self.bytes.len())
    }
}

impl Keys {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { line: Mutex::default(), room: EventFd::new(EFD_NONBLOCK)?, typed: Bell::new()? })
    }

    fn push(&self, bytes: &[u8]) -> usize {
        let mut line = self.lock();
        let taken = bytes.len().min(line.room());
        line.bytes.extend(bytes.iter().take(taken));
        line.wanted |= taken < bytes.len();
        drop(line);
        if taken > 0 {
            self.typed.ring();
        }
        taken
    }

    /// Rings when something is typed.
    pub(super) fn typed(&self) -> &Bell {
        &self.typed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    /// Takes what fits `bytes`; how many that were.
    pub(super) fn take(&self, bytes: &mut [u8]) -> usize {
        let mut line = self.lock();
        let count = bytes.len().min(line.bytes.len());
        bytes.iter_mut().zip(line.bytes.drain(..count)).for_each(|(to, from)| *to = from);
        // Half, so that a stream of input does not wake its reader for every byte.
        if line.wanted && line.room() >= INPUT_ROOM / 2 {
            line.wanted = false;
            // Full means it is signalled already.
            let _full = self.room.write(1);
        }
        count
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        // A thread that panicked has ended the program.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Output on its way to the sink, whose thread serves it. Cheap to clone.
#[derive(Clone)]
pub struct Screen(Arc<Shared>);

struct Shared {
    output: Mutex<Output>,
    changed: Condvar,
    room: Bell,
}

#[derive(Default)]
struct Output {
    waiting: VecDeque<u8>,
    // Bytes the sink has been given and has not come back from.
    in_flight: usize,
    /// The guest found no room and wants to hear when there is some.
    wanted: bool,
    closed: bool,
}

impl Screen {
    /// # Errors
    /// If the host gives no event or no thread.
    pub(super) fn start(id: &str, sink: Sink) -> io::Result<Self> {
        let room = Bell::new()?;
        let shared = Arc::new(Shared { output: Mutex::default(), changed: Condvar::new(), room });
        let ours = Arc::clone(&shared);
        // What the kernel shows of a name is 15 bytes, and none of them is a zero.
        let name = id.chars().filter(|c| *c != '\0').take(11).chain("-out".chars()).collect();
        thread::Builder::new().name(name).spawn(move || ours.print(sink))?;
        Ok(Self(shared))
    }

    /// Rings when there is room again for whoever found none.
    pub(super) fn room(&self) -> &Bell {
        &self.0.room
    }

    /// Prints what there is room for, which `fill` puts into the buffer that it gets. How many bytes that were;
    /// if there is no room for any, the bell rings when there is.
    pub(super) fn print(&self, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        // Room only grows meanwhile, but for an emergency.
        let mut output = self.0.lock();
        let room = OUTPUT_ROOM.saturating_sub(output.waiting.len()).min(PIECE);
        output.wanted = room == 0;
        drop(output);
        let mut piece = [0; PIECE];
        let count = piece.get_mut(..room).map_or(0, fill);
        self.0.lock().waiting.extend(piece.iter().take(count));
        self.0.changed.notify_all();
        count
    }

    /// Never waits. What does not fit is lost.
    pub(super) fn print_at_once(&self, bytes: &[u8]) {
        let mut output = self.0.lock();
        let most = OUTPUT_ROOM.saturating_add(EMERGENCY_ROOM);
        let room = most.saturating_sub(output.waiting.len());
        output.waiting.extend(bytes.iter().take(room));
        drop(output);
        self.0.changed.notify_all();
    }

    /// Waits until all is printed, or the sink has taken nothing for a while. Then its thread ends, as soon as the
    /// sink comes back.
    pub(super) fn close(&self) {
        let mut output = self.0.lock();
        output.closed = true;
        self.0.changed.notify_all();
        let (mut left, mut since) = (output.unprinted(), Instant::now());
        while left > 0 && since.elapsed() < PATIENCE {
            let wait = PATIENCE.saturating_sub(since.elapsed());
            output = self.0.changed.wait_timeout(output, wait).unwrap_or_else(PoisonError::into_inner).0;
            if output.unprinted() != left {
                (left, since) = (output.unprinted(), Instant::now());
            }
        }
        output.waiting.clear();
    }
}

impl Output {
    fn unprinted(&self) -> usize {
        self.waiting.len().saturating_add(self.in_flight)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, mut sink: Sink) {
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            let mut output = self.lock();
            while output.waiting.is_empty() {
                if output.closed {
                    return;
                }
                output = self.changed.wait(output).unwrap_or_else(PoisonError::into_inner);
            }
            let count = output.waiting.len().min(PIECE);
            piece.clear();
            piece.extend(output.waiting.drain(..count));
            output.in_flight = count;
            if std::mem::take(&mut output.wanted) {
                self.room.ring();
            }
            drop(output);
            sink(&piece);
            self.lock().in_flight = 0;
            self.changed.notify_all();
        }
    }
}

/// Wakes the worker.
pub struct Bell(OwnedFd);

impl Bell {
    fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    fn ring(&self) {
        // Full means it rings already.
        let _full = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(super) fn silence(&self) {
        let _silent = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
