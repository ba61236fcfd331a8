//! Signals that ask the program to end, as an event.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::register_signal_handler;

static LAST: AtomicI32 = AtomicI32::new(0);
/// Apart from the others: a service manager sends it right behind the signal that is to end the program.
static CONTINUED: AtomicBool = AtomicBool::new(false);
static EVENT: OnceLock<EventFd> = OnceLock::new();

/// Signals that ask for an orderly end.
const ENDING: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

extern "C" fn note(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    match signal {
        libc::SIGCONT => CONTINUED.store(true, Ordering::SeqCst),
        _ => LAST.store(signal, Ordering::SeqCst),
    }
    if let Some(event) = EVENT.get() {
        // Full means it is signalled already.
        let _full = event.write(1);
    }
}

/// No signal of these kinds ends the program any more; each is told by the event instead.
/// SIGCONT is told too, as the shell may have changed the terminal meanwhile.
///
/// # Errors
/// If the host refuses an event or a handler.
pub fn listen() -> io::Result<EventFd> {
    let event = EventFd::new(EFD_NONBLOCK)?;
    let ours = event.try_clone()?;
    EVENT.get_or_init(|| ours);
    for signal in ENDING.into_iter().chain([libc::SIGCONT]) {
        register_signal_handler(signal, note)?;
    }
    // A file that may not grow further gives an error to the one who writes, not an end to all.
    extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(libc::SIGXFSZ, ignore)?;
    Ok(event)
}

/// Whether the program goes on after it was stopped, and forgets it.
pub fn continued() -> bool {
    CONTINUED.swap(false, Ordering::SeqCst)
}

/// The last signal that came to end the program, and forgets it.
pub fn take() -> Option<i32> {
    match LAST.swap(0, Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;

    use super::*;

    #[test]
    fn a_signal_to_go_on_hides_none_that_is_to_end_the_program() {
        for signal in [libc::SIGTERM, libc::SIGCONT] {
            note(signal, null_mut(), null_mut());
        }

        assert_eq!((continued(), take()), (true, Some(libc::SIGTERM)));
        assert_eq!((continued(), take()), (false, None));
    }
}
