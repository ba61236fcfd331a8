//! The user's terminal: raw while a guest has it, as it was on every way out.

use std::io;
use std::panic;
use std::sync::OnceLock;

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use vmm_sys_util::signal::register_signal_handler;

/// How the terminal was. Set once, before it is changed.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// Signals that end the program on the spot, with a fault of ours.
const FATAL: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGSYS];

/// While this lives, what the user types reaches the guest key by key. Dropping it restores the
/// terminal; so do a panic and every signal that can be caught.
pub struct RawTerminal(());

impl RawTerminal {
    /// `None` if standard input is not a terminal, and then nothing is changed.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn enter() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        BEFORE.get_or_init(|| before);
        restore_before_dying()?;
        set_raw()?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal raw again, as after SIGSTOP and SIGCONT. Does nothing if it never was.
pub fn set_raw() -> io::Result<()> {
    let Some(before) = BEFORE.get() else { return Ok(()) };
    let mut raw = before.clone();
    raw.make_raw();
    // What we print ourselves keeps its line ends; the guest sends its own.
    Ok(tcsetattr(stdin(), OptionalActions::Now, &raw)?)
}

/// Only system calls on values that no longer change, so a signal handler may call it.
pub fn restore() {
    if let Some(before) = BEFORE.get() {
        // If the terminal is gone there is nothing to restore.
        let _gone = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}

fn restore_before_dying() -> io::Result<()> {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        report(info);
    }));
    extern "C" fn die(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        restore();
        std::process::abort();
    }
    for signal in FATAL {
        register_signal_handler(signal, die)?;
    }
    Ok(())
}
