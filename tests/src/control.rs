//! The control socket of a running monitor, as a program that asks it things.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Scratch;
use crate::console::HANG;

/// A connection that stays.
pub struct Control(BufReader<UnixStream>);

impl Control {
    /// Where a monitor is to listen.
    pub fn path(scratch: &Scratch) -> PathBuf {
        scratch.path("control")
    }

    /// Connects once the monitor listens.
    pub fn to(path: &Path) -> Self {
        let end = Instant::now() + HANG;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(HANG)).expect("a socket takes a limit");
                    return Self(BufReader::new(stream));
                }
                Err(error) => assert!(Instant::now() < end, "{}: {error}", path.display()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The answer to one request, without the end of its line.
    pub fn ask(&mut self, request: &str) -> String {
        let mut answer = String::new();
        let asked = self.0.get_mut().write_all(format!("{request}\n").as_bytes());
        asked
            .and_then(|()| self.0.read_line(&mut answer))
            .unwrap_or_else(|error| panic!("{request}: {error}"));
        answer.trim_end().to_owned()
    }

    /// What comes after `ok` in the answer to a request that must succeed.
    pub fn check(&mut self, request: &str) -> String {
        let answer = self.ask(request);
        let done = answer.strip_prefix("ok ");
        done.unwrap_or_else(|| panic!("{request}: {answer}")).to_owned()
    }
}
