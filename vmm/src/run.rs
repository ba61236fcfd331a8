//! `ambit run`: from the user's words to a guest, and to its end.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{io, thread};

use ambit_device_manager::{Arch, BootImage, Plan, Severity};
use rustix::rand::GetRandomFlags;

use crate::api::{self, Controller, Socket};
use crate::config::Settings;
use crate::events::{self, Ending, Endings, Keyboard};
use crate::failure::{Exit, Failure};
use crate::kvm::{self, KvmError};
use crate::lock::Lock;
use crate::machine::{Machine, MachineError};
use crate::models::Files;
use crate::output::Output;
use crate::terminal::{self, RawTerminal};
use crate::timings::{Phase, Timings};
use crate::vcpu::Stop;
use crate::{models, signals};

/// How long the end waits for somebody to read what the guest printed.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a device that hangs in the host may hold up the end.
const GRACE: Duration = Duration::from_secs(3);

/// How the program ended, where nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Done,
    /// The guest said that it crashed.
    Crashed,
    Signal(i32),
}

impl From<Ended> for u8 {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Done => Exit::Done as Self,
            Ended::Crashed => Exit::Failed as Self,
            // As a shell says it of a program that a signal ended.
            Ended::Signal(signal) => Self::try_from(signal).unwrap_or(0).saturating_add(128),
        }
    }
}

/// Nothing is created before everything that can be checked is: the configuration, the files, the plan
/// and the kernel, in this order.
///
/// # Errors
/// [`Failure`] for the first thing that is wrong.
pub fn run(
    settings: &Settings<'_>,
    locked: Option<&Lock>,
    control: Option<&Path>,
    timings: &Timings,
) -> Result<Ended, Failure> {
    let signals = signals::listen().map_err(Failure::Signals)?;
    let mut files = models::open(settings)?;
    let disks = std::mem::take(&mut files.disks);
    let seen = std::mem::take(&mut files.seen);
    let (plan, image) = on_paper(settings, locked, &files, timings)?;
    let control = control.map(Socket::bind).transpose()?;
    let output = Output::start(io::stdout()).map_err(MachineError::Thread)?;
    let guest_prints = output.clone();
    let models = models::make(settings, &plan, disks, move |bytes: &[u8]| guest_prints.put(bytes))?;
    let machine = Machine::build(&plan, &image, &models.all, timings)?;
    drop(image);
    // It is in guest memory now.
    drop(files);
    let endings = Endings::new().map_err(Failure::Signals)?;
    let raw = RawTerminal::enter().map_err(Failure::Terminal)?;
    let keyboard = models.console.map(|input| Keyboard::new(input, endings.clone(), raw.is_some()));
    let running = machine.start(&endings, timings)?;
    let controller = Controller::new(running.devices(), plan, settings.clone(), seen);
    let act = |action| controller.act(action);
    let mut down = None;
    // Ends when nobody is at an action any more: nothing comes into a machine that is taken down.
    let ended = thread::scope(|scope| {
        let serving = control.map(|socket| api::serve(scope, socket, api::Limits::default(), &act));
        let serving = serving.transpose().map_err(MachineError::Thread)?;
        let ended = events::serve(keyboard, signals, &endings).map_err(Failure::Events).and_then(ended);
        drop(serving);
        down = Some(leave_in_time(&ended));
        ended
    });
    drop(running);
    // A guest that ended by itself has what it printed read to the end, however slowly, and its RAM given back.
    if let Some(down) = down.filter(|_| !matches!(ended, Ok(Ended::Signal(_)))) {
        down.store(true, Ordering::SeqCst);
    }
    let lost = output.flush(PATIENCE);
    drop(raw);
    if lost > 0 {
        tracing::warn!("{lost} bytes that the guest printed were lost, as nobody read them");
    }
    ended
}

/// Decides the machine and what is in its RAM. On a host that cannot run it, all that can be checked is
/// checked all the same, and then the host is refused.
fn on_paper<'a>(
    settings: &'a Settings<'_>,
    locked: Option<&Lock>,
    files: &'a Files,
    timings: &Timings,
) -> Result<(Plan, BootImage<'a>), Failure> {
    let board = &*settings.board;
    let host = if board.arch() == Arch::host() { kvm::host_facts() } else { Err(wrong_host(settings)) };
    let plan = match (models::plan(settings, host.as_ref().ok()), host) {
        // What does not fit a host that nobody knows may fit the one that is missing.
        (Err(Failure::Plan(refusal)), Err(lack)) if !refusal.error.is_nonsense() => return Err(lack.into()),
        (Ok(plan), Err(lack)) => {
            locked.map_or(Ok(()), |lock| lock.check(&plan, settings)).map_err(Box::new)?;
            board.boot_image(&plan, &files.payload(&settings.cmdline, None))?;
            return Err(lack.into());
        }
        (plan, _) => plan?,
    };
    for lost in plan.diagnostics.iter().filter(|each| each.severity == Severity::Warning) {
        let help: String = lost.remedies.iter().map(|remedy| format!("; help: {remedy}")).collect();
        tracing::warn!("{}{help}", lost.message);
    }
    board.remarks(&plan).iter().for_each(|remark| tracing::warn!("{}", remark.message));
    locked.map_or(Ok(()), |lock| lock.check(&plan, settings)).map_err(Box::new)?;
    timings.reached(Phase::Plan);
    let image = board.boot_image(&plan, &files.payload(&settings.cmdline, Some(seed()?)))?;
    Ok((plan, image))
}

/// What is said where `settings` want a machine of another kind than this host.
pub fn wrong_host(settings: &Settings<'_>) -> KvmError {
    KvmError::WrongArch {
        host: Arch::host().name(),
        board: settings.board.name().into(),
        wanted: settings.board.arch().name(),
    }
}

/// Entropy for the guest's first moments.
fn seed() -> Result<[u8; 64], Failure> {
    let mut seed = [0; 64];
    // The kernel gives up to 256 bytes whole.
    rustix::rand::getrandom(&mut seed, GetRandomFlags::empty())
        .map_err(|error| Failure::Entropy(error.into()))?;
    Ok(seed)
}

fn ended(ending: Ending) -> Result<Ended, Failure> {
    match ending {
        Ending::Machine(Stop::PowerOff) | Ending::Quit => Ok(Ended::Done),
        Ending::Machine(Stop::Reset) => {
            tracing::info!("the guest asked for a reset, which ends the machine");
            Ok(Ended::Done)
        }
        Ending::Machine(Stop::Crash) => Ok(Ended::Crashed),
        Ending::Machine(Stop::Failed(error)) => Err(error.into()),
        // A vCPU goes on after one; its thread never reports it.
        Ending::Machine(Stop::Undecoded) => Ok(Ended::Done),
        Ending::Signal(signal) => Ok(Ended::Signal(signal)),
    }
}

/// A disk on a dead network file system can hold its thread in the kernel for ever, and a host that is very busy takes
/// its time to take a machine down. The program ends all the same: with its code, what it has to say, and the terminal
/// restored. Unless what this gives back was set by then.
fn leave_in_time(ended: &Result<Ended, Failure>) -> Arc<AtomicBool> {
    let (code, said) = match ended {
        Ok(ended) => (u8::from(*ended), String::new()),
        Err(failure) => (failure.exit() as u8, failure.text()),
    };
    let limit = GRACE + PATIENCE;
    let down = Arc::<AtomicBool>::default();
    let is_down = Arc::clone(&down);
    let guard = move || {
        thread::sleep(limit);
        if is_down.load(Ordering::SeqCst) {
            return;
        }
        terminal::restore();
        let late = format!(
            "ambit: the end took over {} s, and what is left of it is left to the kernel",
            limit.as_secs()
        );
        let (told, hear) = mpsc::channel();
        let tell = move || {
            // If nobody can be told, the exit code still says it.
            let _untold = io::stderr().write_all(format!("{said}{late}\n").as_bytes());
            let _gone = told.send(());
        };
        // Whoever should read it may have stopped, and whoever else writes waits for that.
        if thread::Builder::new().spawn(tell).is_ok() {
            let _unread = hear.recv_timeout(GRACE / 6);
        }
        std::process::exit(i32::from(code));
    };
    // Without the thread there is only no limit.
    let _unlimited = thread::Builder::new().name("leave".into()).spawn(guard);
    down
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const CHILD: &str = "AMBIT_TEST_HANGS";

    fn is_child() -> bool {
        std::env::var_os(CHILD).is_some()
    }

    /// The test as a program of its own.
    fn child(test: &str) -> Command {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([&format!("run::tests::{test}"), "--exact", "--nocapture"]).env(CHILD, "1");
        child
    }

    fn hang() -> ! {
        loop {
            thread::park();
        }
    }

    /// What became of this test's own program, which leaves as `ended` says and then hangs.
    fn left(test: &str, ended: Result<Ended, Failure>) -> (Option<i32>, String) {
        if is_child() {
            let _not_down = leave_in_time(&ended);
            hang();
        }
        let ended = child(test).output().unwrap();

        (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
    }

    const LATE: &str = "ambit: the end took over 4 s, and what is left of it is left to the kernel\n";

    // F-08
    #[test]
    fn the_program_ends_with_its_code_though_a_device_does_not() {
        let this = "the_program_ends_with_its_code_though_a_device_does_not";

        let left = left(this, Ok(Ended::Signal(15)));

        assert_eq!(left, (Some(128 + 15), LATE.into()));
        assert!(GRACE + PATIENCE < Duration::from_secs(5));
    }

    #[test]
    fn what_failed_is_said_though_the_machine_does_not_end() {
        let this = "what_failed_is_said_though_the_machine_does_not_end";

        let left = left(this, Err(Failure::Entropy(io::ErrorKind::NotFound.into())));

        let said = "ambit: error: there is no entropy for the guest: entity not found\n";
        assert_eq!(left, (Some(4), format!("{said}{LATE}")));
    }

    #[test]
    fn whoever_does_not_read_what_is_said_holds_up_no_end() {
        if is_child() {
            // More than a pipe holds, while nobody else can write.
            thread::spawn(|| io::stderr().write_all(&[b'x'; 1 << 20]));
            let _not_down = leave_in_time(&Ok(Ended::Signal(15)));
            hang();
        }
        let mut child = child("whoever_does_not_read_what_is_said_holds_up_no_end")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let unread = child.stderr.take();

        // Closed only behind it.
        assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
        drop(unread);
    }

    #[test]
    fn what_is_down_in_time_is_not_said_to_be_late() {
        if is_child() {
            leave_in_time(&Ok(Ended::Signal(15))).store(true, Ordering::SeqCst);
            thread::sleep(GRACE + PATIENCE + PATIENCE);
            std::process::exit(7);
        }
        let ended = child("what_is_down_in_time_is_not_said_to_be_late").output().unwrap();

        assert_eq!((ended.status.code(), ended.stderr), (Some(7), Vec::new()));
    }
}
