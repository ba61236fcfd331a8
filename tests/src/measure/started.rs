//! A monitor that was started, timed from just before that.

use std::io::Read;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::console::HANG;
use rustix::process::{Pid, Signal, kill_process};

pub struct Started {
    child: Child,
    begun: Instant,
    /// How long it took until the mark was read.
    pub marked: Duration,
    // Stays open: a monitor is not to be hindered by a console that is gone.
    _output: ChildStdout,
    _watch: Sender<()>,
}

/// How a run ended.
pub struct Ended {
    pub whole: Duration,
    errors: String,
}

/// Starts a monitor and waits until `mark` is on its standard output.
pub fn until(mark: &str, command: &mut Command) -> Started {
    // An input that stays open, so that nobody sees it end.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begun = Instant::now();
    let spawned = command.spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let watch = watch(child.id());
    let mut output = child.stdout.take().expect("stdout is a pipe");
    let mut said = Vec::new();
    let mut bytes = [0; 4096];
    while !said.windows(mark.len()).any(|window| window == mark.as_bytes()) {
        match output.read(&mut bytes) {
            Ok(count @ 1..) => said.extend(&bytes[..count]),
            _ => {
                let errors = errors(&mut child);
                let said = String::from_utf8_lossy(&said);
                panic!("{command:?} ended without saying '{mark}':\n{said}\n{errors}");
            }
        }
    }
    Started { marked: begun.elapsed(), child, begun, _output: output, _watch: watch }
}

impl Started {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the guest to power off.
    pub fn finish(self) -> Ended {
        self.finish_with(0)
    }

    /// Waits for the monitor to end with this exit code.
    pub fn finish_with(mut self, code: i32) -> Ended {
        // Waiting must not close the input.
        let _input = self.child.stdin.take();
        let status = self.child.wait().expect("the child is ours");
        let whole = self.begun.elapsed();
        let errors = errors(&mut self.child);
        assert!(status.code() == Some(code), "the monitor ended with {status}: {errors}");
        Ended { whole, errors }
    }

    pub fn kill(mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("the child is ours");
    }
}

impl Ended {
    /// What `ambit run --timings` says of itself.
    pub fn timings(&self) -> impl Iterator<Item = (String, Duration)> {
        self.errors.lines().filter_map(timing)
    }
}

/// The name and the time in `ambit: timing NAME MS ms`.
fn timing(line: &str) -> Option<(String, Duration)> {
    let (name, time) = line.trim().strip_prefix("ambit: timing ")?.split_once(' ')?;
    let milliseconds: f64 = time.strip_suffix(" ms")?.parse().ok()?;
    Some((name.to_owned(), Duration::from_secs_f64(milliseconds / 1000.0)))
}

fn errors(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stream) = &mut child.stderr {
        let _ = stream.read_to_string(&mut text);
    }
    text
}

/// Kills a process that hangs, unless the sender is dropped before.
fn watch(pid: u32) -> Sender<()> {
    let (sender, dropped) = mpsc::channel();
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a child has an id");
    std::thread::spawn(move || {
        if dropped.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    sender
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timing_is_read_as_ambit_writes_it() {
        let read = timing("ambit: timing first-instruction 12.345 ms\r");

        assert_eq!(read, Some(("first-instruction".to_owned(), Duration::from_micros(12_345))));
    }
}
