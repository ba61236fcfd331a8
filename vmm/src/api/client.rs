//! One who asks: lines come in, one answer goes out before the next line is looked at.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

/// The longest request, in bytes, without the end of its line.
pub const LINE: usize = 4096;

/// A connection, and what of it is not done yet.
pub struct Client {
    stream: UnixStream,
    /// Read and not looked at; never more than one longest line and its end.
    input: Vec<u8>,
    /// Answered and not written.
    output: Vec<u8>,
    state: State,
    /// When it last began to wait for the other side.
    since: Instant,
    /// Nothing more is to come.
    ended: bool,
    /// Nobody is there to read answers.
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Lines are looked at.
    Listening,
    /// A request is being done.
    Asked,
    /// It is over when its last answer is written.
    Leaving,
}

/// What a client has to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Request(Vec<u8>),
    /// It is told this, and heard no more.
    Wrong(String),
}

impl Client {
    /// `stream` does not block.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            state: State::Listening,
            since: Instant::now(),
            ended: false,
            gone: false,
        }
    }

    /// What to wait for. `None`: nothing, and not even for it to hang up.
    pub fn interest(&self) -> Option<PollFd<'_>> {
        let mut flags = PollFlags::empty();
        if self.hears() {
            flags |= PollFlags::IN;
        }
        if !self.output.is_empty() {
            flags |= PollFlags::OUT;
        }
        (!self.gone).then(|| PollFd::from_borrowed_fd(self.stream.as_fd(), flags))
    }

    fn hears(&self) -> bool {
        self.state == State::Listening && self.output.is_empty() && !self.ended && self.input.len() <= LINE
    }

    /// Reads and writes as much as can be without waiting.
    pub fn serve(&mut self, found: PollFlags) {
        if found.contains(PollFlags::OUT) {
            self.write();
        }
        if found.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && self.hears() {
            self.read();
        }
        // What it sent before it left may still be read, and would be said to be there again and again.
        if found.intersects(PollFlags::HUP | PollFlags::ERR) && !self.hears() {
            self.leave();
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; LINE + 1];
        let room = (LINE + 1).saturating_sub(self.input.len());
        match self.stream.read(&mut buffer[..room]) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                if self.input.is_empty() {
                    self.since = Instant::now();
                }
                self.input.extend_from_slice(&buffer[..count]);
            }
            Err(error) if passes(error.kind()) => {}
            Err(_) => self.leave(),
        }
    }

    fn write(&mut self) {
        match self.stream.write(&self.output) {
            Ok(count) => {
                self.output.drain(..count);
                self.since = Instant::now();
            }
            Err(error) if passes(error.kind()) => {}
            Err(_) => self.leave(),
        }
    }

    /// The other side is not there any more. Whole requests that were read are done all the same.
    fn leave(&mut self) {
        self.gone = true;
        self.ended = true;
        self.output.clear();
    }

    /// The next request, once it is whole and the one before is answered.
    pub fn next(&mut self) -> Option<Said> {
        if self.state != State::Listening || !self.output.is_empty() {
            return None;
        }
        if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.input.drain(..=end).collect();
            line.pop();
            self.state = State::Asked;
            return Some(Said::Request(line));
        }
        let wrong = match self.input.len() {
            length if length > LINE => format!("a request has at most {LINE} bytes"),
            // Half of a request might be another one.
            1.. if self.ended => "the last request has no end of line, so it was not done".into(),
            _ => return None,
        };
        self.input.clear();
        self.state = State::Leaving;
        Some(Said::Wrong(wrong))
    }

    /// Answers the last request; the next one may follow.
    pub fn answer(&mut self, text: &str) {
        if self.state == State::Asked {
            self.state = State::Listening;
        }
        self.say(text);
    }

    /// Says a last word.
    pub fn dismiss(&mut self, text: &str) {
        self.state = State::Leaving;
        self.say(text);
    }

    fn say(&mut self, text: &str) {
        if self.gone {
            return;
        }
        self.since = Instant::now();
        self.output.extend_from_slice(text.as_bytes());
        self.output.push(b'\n');
        self.write();
    }

    /// All is said and done.
    pub fn is_over(&self) -> bool {
        let done = self.output.is_empty();
        match self.state {
            State::Asked => false,
            State::Leaving => done,
            State::Listening => done && self.ended && self.input.is_empty(),
        }
    }

    /// It holds its place for nothing: since when.
    pub fn idle(&self) -> Option<Instant> {
        let idle = self.state == State::Listening && self.output.is_empty() && self.input.is_empty();
        idle.then_some(self.since)
    }

    /// When it must have said or heard the rest, if it has begun.
    pub fn deadline(&self, patience: Duration) -> Option<Instant> {
        let begun = !self.output.is_empty() || (self.hears() && !self.input.is_empty());
        begun.then(|| self.since.checked_add(patience)).flatten()
    }
}

fn passes(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
