//! Everything a program has said so far, and waiting for it to say something.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Long enough for the slowest emulated host; only a guest that hangs takes so long.
pub const HANG: Duration = Duration::from_secs(180);

/// The bytes of one stream as they come.
#[derive(Clone, Default)]
pub struct Console {
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    /// Everything before this has been waited for.
    taken: usize,
    closed: bool,
}

impl Console {
    /// Reads `stream` to its end, in a thread of its own.
    pub fn listen(mut stream: impl Read + Send + 'static) -> Self {
        let console = Self::default();
        let writer = console.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // A terminal whose other side is gone reads as an error.
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                writer.change(|heard| heard.bytes.extend(&bytes[..count]));
            }
            writer.change(|heard| heard.closed = true);
        });
        console
    }

    fn change(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.heard.0.lock().unwrap());
        self.heard.1.notify_all();
    }

    /// All that was said, waited for or not.
    pub fn text(&self) -> String {
        plain(&self.heard.0.lock().unwrap().bytes)
    }

    /// All that was said, once nothing more can come.
    pub fn to_end(&self) -> String {
        let (lock, changed) = &*self.heard;
        let heard = changed.wait_while(lock.lock().unwrap(), |heard| !heard.closed).unwrap();
        plain(&heard.bytes)
    }

    /// Waits until the program says `wanted`, and gives back what it said since the last wait, up to and with it.
    pub fn wait_for(&self, wanted: &str) -> Result<String, Missing> {
        let (lock, changed) = &*self.heard;
        let end = Instant::now() + HANG;
        let mut heard = lock.lock().unwrap();
        loop {
            let new = &heard.bytes[heard.taken..];
            if let Some(at) = find(new, wanted.as_bytes()) {
                let said = plain(&new[..at + wanted.len()]);
                heard.taken += at + wanted.len();
                return Ok(said);
            }
            let left = end.saturating_duration_since(Instant::now());
            if heard.closed || left.is_zero() {
                return Err(Missing { wanted: wanted.to_owned(), closed: heard.closed });
            }
            heard = changed.wait_timeout(heard, left).unwrap().0;
        }
    }
}

/// What was waited for did not come.
#[derive(Debug)]
pub struct Missing {
    wanted: String,
    closed: bool,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.closed {
            write!(f, "the program ended without saying '{}'", self.wanted)
        } else {
            write!(f, "'{}' did not come within {} s", self.wanted, HANG.as_secs())
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Lines as a person reads them: without the terminal's carriage returns.
fn plain(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_gives_back_what_was_said_since_the_last_wait() {
        let console = Console::listen(&b"one\r\ntwo\r\nthree"[..]);

        let said = ["ne", "tw", "three"].map(|wanted| console.wait_for(wanted).unwrap());

        assert_eq!(said, ["one", "\ntw", "o\nthree"]);
    }

    #[test]
    fn waiting_for_a_program_that_has_ended_is_over_at_once() {
        let console = Console::listen(&b"bye"[..]);

        let missing = console.wait_for("hello").unwrap_err();

        assert_eq!(missing.to_string(), "the program ended without saying 'hello'");
    }
}
