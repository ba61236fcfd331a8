//! The main thread's event loop: the keyboard, signals, and vCPUs that stopped.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use rustix::io::Errno;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::models::Typed;
use crate::vcpu::Stop;
use crate::{signals, terminal};

/// Why the program ends.
#[derive(Debug)]
pub enum Ending {
    /// The guest, or its vCPUs.
    Machine(Stop),
    /// The user typed ctrl-a x.
    Quit,
    Signal(i32),
}

/// Where endings are told; the first one counts. Cheap to clone.
#[derive(Clone)]
pub struct Endings {
    first: Arc<Mutex<Option<Ending>>>,
    event: Arc<EventFd>,
}

impl Endings {
    /// # Errors
    /// If the host gives no event.
    pub fn new() -> io::Result<Self> {
        Ok(Self { first: Arc::default(), event: Arc::new(EventFd::new(EFD_NONBLOCK)?) })
    }

    pub fn tell(&self, ending: Ending) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(ending);
        // Full means it is signalled already.
        let _full = self.event.write(1);
    }

    fn take(&self) -> Option<Ending> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves the keyboard and signals until something ends the machine.
///
/// # Errors
/// If the host's event interface fails.
pub fn serve(
    keyboard: Option<Keyboard>,
    signals: EventFd,
    endings: &Endings,
) -> Result<Ending, event_manager::Error> {
    let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new()?;
    if let Some(keyboard) = keyboard {
        manager.add_subscriber(Box::new(keyboard));
    }
    manager.add_subscriber(Box::new(Wakes { signals, endings: endings.clone() }));
    loop {
        if let Some(ending) = endings.take() {
            return Ok(ending);
        }
        manager.run()?;
    }
}

/// Signals and endings.
struct Wakes {
    signals: EventFd,
    endings: Endings,
}

impl Wakes {
    fn look(&self) {
        if signals::continued()
            && let Err(error) = terminal::set_raw()
        {
            tracing::warn!("the terminal could not be made raw again: {error}");
        }
        if let Some(signal) = signals::take() {
            self.endings.tell(Ending::Signal(signal));
        }
    }
}

impl MutEventSubscriber for Wakes {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, &self.signals);
        watch(ops, &self.endings.event);
        // A signal may have come before anybody watched.
        self.look();
    }

    fn process(&mut self, events: Events, _: &mut EventOps<'_>) {
        let event =
            if events.fd() == self.signals.as_raw_fd() { &self.signals } else { &*self.endings.event };
        // Empty means another wake-up took it.
        let _empty = event.read();
        self.look();
    }
}

fn watch(ops: &mut EventOps<'_>, event: &EventFd) {
    ops.add(Events::new(event, EventSet::IN)).expect("an event can be watched, and this one is not yet");
}

/// How much can be typed, or pasted, while the guest does not read.
const AHEAD: usize = 64 << 10;

/// Standard input, on its way to the guest. From a file or a pipe never more is read than the guest's
/// UART has room for.
pub struct Keyboard {
    input: Typed,
    endings: Endings,
    /// Only a terminal has keys that are ours.
    keys: Option<Keys>,
    /// Typed on a terminal, and more than the guest's UART has room for yet.
    ahead: VecDeque<u8>,
    state: Stdin,
}

/// What standard input is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stdin {
    /// Something to read; the event loop tells.
    Input,
    /// Room at the guest; the UART tells.
    Room,
    /// Nothing any more: it ended.
    Ended,
}

impl Keyboard {
    pub fn new(input: Typed, endings: Endings, is_terminal: bool) -> Self {
        Self {
            input,
            endings,
            keys: is_terminal.then(Keys::default),
            ahead: VecDeque::new(),
            state: Stdin::Room,
        }
    }

    fn stdin() -> RawFd {
        io::stdin().as_raw_fd()
    }

    /// Goes on reading if there is room, and stops watching if there is none.
    fn wait_for(&mut self, next: Stdin, ops: &mut EventOps<'_>) {
        if next == self.state {
            return;
        }
        let events = Events::new_raw(Self::stdin(), EventSet::IN);
        match (self.state, next) {
            // A regular file and /dev/null cannot be watched; they always have something.
            (_, Stdin::Input) if ops.add(events).is_err() => {
                self.state = Stdin::Input;
                return self.read_file(ops);
            }
            (Stdin::Input, _) => {
                // A file was never watched.
                let _never_watched = ops.remove(events);
            }
            _ => {}
        }
        self.state = next;
    }

    fn read_file(&mut self, ops: &mut EventOps<'_>) {
        while self.state == Stdin::Input {
            self.read(ops);
        }
    }

    fn read(&mut self, ops: &mut EventOps<'_>) {
        let mut buffer = [0; 256];
        // ctrl-a and another key may become two bytes.
        let room = self.input.room(2).saturating_sub(1).min(buffer.len());
        // Keys that end the program are always heard. What else is typed while the guest reads nothing
        // is kept up to a limit and then lost; from a file or a pipe nothing is.
        let count = if self.keys.is_some() { buffer.len() } else { room };
        if count == 0 {
            return self.wait_for(Stdin::Room, ops);
        }
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..count]) {
            Ok(0) => self.wait_for(Stdin::Ended, ops),
            Ok(count) => self.take(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => {
                tracing::warn!("standard input cannot be read any more: {error}");
                self.wait_for(Stdin::Ended, ops);
            }
        }
    }

    fn take(&mut self, typed: &[u8]) {
        let Some(keys) = &mut self.keys else {
            let taken = self.input.push(typed);
            debug_assert_eq!(taken, typed.len(), "no more is read than there is room for");
            return;
        };
        let mut bytes = Vec::with_capacity(2 * typed.len());
        if typed.iter().any(|key| keys.press(*key, &mut bytes)) {
            self.endings.tell(Ending::Quit);
        }
        let room = AHEAD.saturating_sub(self.ahead.len());
        self.ahead.extend(bytes.iter().take(room));
        self.give();
    }

    /// As much of what was typed as there is room for; the UART tells when there is room for more.
    fn give(&mut self) {
        let taken = self.input.push(self.ahead.make_contiguous());
        self.ahead.drain(..taken);
    }
}

impl MutEventSubscriber for Keyboard {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        watch(ops, self.input.room_event());
        self.wait_for(Stdin::Input, ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == Self::stdin() {
            return self.read(ops);
        }
        // Empty means another wake-up took it.
        let _empty = self.input.room_event().read();
        self.give();
        if self.state == Stdin::Room {
            self.wait_for(Stdin::Input, ops);
        }
    }
}

/// Keys that mean something to us: ctrl-a is the prefix.
#[derive(Debug, Default)]
struct Keys {
    prefix: bool,
}

const CTRL_A: u8 = 1;

impl Keys {
    /// Adds what the guest gets to `bytes`. True if the user wants to quit.
    fn press(&mut self, key: u8, bytes: &mut Vec<u8>) -> bool {
        if !std::mem::take(&mut self.prefix) {
            if key == CTRL_A {
                self.prefix = true;
            } else {
                bytes.push(key);
            }
            return false;
        }
        match key {
            b'x' | b'X' => return true,
            CTRL_A => bytes.push(CTRL_A),
            other => bytes.extend([CTRL_A, other]),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(keys: &[u8]) -> (Vec<u8>, bool) {
        let mut state = Keys::default();
        let mut bytes = Vec::new();
        let quit = keys.iter().any(|key| state.press(*key, &mut bytes));
        (bytes, quit)
    }

    #[test]
    fn ctrl_a_x_quits_and_sends_nothing() {
        assert_eq!(press(b"ab\x01x"), (b"ab".to_vec(), true));
    }

    #[test]
    fn ctrl_a_twice_sends_one_ctrl_a() {
        assert_eq!(press(b"\x01\x01x"), (b"\x01x".to_vec(), false));
    }

    #[test]
    fn ctrl_a_and_any_other_key_reach_the_guest_both() {
        assert_eq!(press(b"\x01d"), (b"\x01d".to_vec(), false));
    }
}
