//! `ambit run` as a child, and the guest in it behind a console.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::console::{Console, HANG, Missing};
use crate::terminal::Terminal;
use crate::{place, stuck, tap::Tap};

/// What the guest's init prints when it is up, whichever root it has.
pub const READY: &str = "AMBIT-GUEST-READY";

/// A guest to be: the arguments of `ambit run`.
#[derive(Clone)]
pub struct Boot {
    program: PathBuf,
    through: Vec<String>,
    arguments: Vec<OsString>,
    cmdline: Vec<String>,
}

impl Boot {
    /// The Debian kernel and the initrd, nothing else: a shell in the initrd.
    pub fn initrd() -> Self {
        Self::kernel(&place::image("Image")).argument("--initrd", place::image("initrd.gz"))
    }

    /// Besides these the root file system on a disk, mounted as `access` (`ro` or `rw`) says.
    pub fn root(disk: &Path, access: &str) -> Self {
        let readonly = if access == "ro" { ",readonly=on" } else { "" };
        let disk = format!("path={},id=root{readonly}", disk.display());
        Self::initrd().argument("--disk", disk).cmdline(&format!("root=/dev/vda {access}"))
    }

    pub fn kernel(image: &Path) -> Self {
        let boot = Self {
            program: place::monitor(),
            through: Vec::new(),
            arguments: vec!["run".into()],
            cmdline: Vec::new(),
        };
        let console = match std::env::consts::ARCH {
            "x86_64" => "ttyS0",
            _ => "ttyAMA0",
        };
        boot.argument("--kernel", image).cmdline(&format!("console={console} panic=-1 quiet"))
    }

    /// A program of `tests/payloads` on board `pc`, which has a command line and nothing else.
    pub fn flat(payload: &str) -> Self {
        let boot = Self {
            program: place::monitor(),
            through: Vec::new(),
            arguments: vec!["run".into()],
            cmdline: Vec::new(),
        };
        boot.argument("--board", "pc").argument("--kernel", place::flat(payload))
    }

    pub fn argument(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.arguments.extend([name.into(), value.into()]);
        self
    }

    /// Words as they are typed: names and values in turn.
    pub fn words(mut self, words: &[&str]) -> Self {
        self.arguments.extend(words.iter().map(OsString::from));
        self
    }

    pub fn cpus(self, count: u32) -> Self {
        self.argument("--cpus", count.to_string())
    }

    /// As on the command line: `512M`.
    pub fn memory(self, size: &str) -> Self {
        self.argument("--memory", size)
    }

    /// In the form of `--disk`: `path=F[,id=I][,readonly=on]`.
    pub fn disk(self, disk: &str) -> Self {
        self.argument("--disk", disk)
    }

    pub fn net(self, tap: &Tap) -> Self {
        self.argument("--net", format!("tap={},id=net", tap.name)).cmdline(&tap.cmdline())
    }

    /// Adds words to the guest's command line.
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline.push(words.to_owned());
        self
    }

    /// Of another monitor than the one under test.
    pub fn by(self, program: PathBuf) -> Self {
        Self { program, ..self }
    }

    /// Has another program start the monitor, whose name and arguments come last.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    fn command(self) -> Command {
        let mut words = self.through.iter().map(OsString::from).chain([self.program.into()]);
        let mut command = Command::new(words.next().expect("the monitor is a word"));
        command.args(words).args(self.arguments).arg("--cmdline").arg(self.cmdline.join(" "));
        command
    }

    /// Starts the monitor with its console on pipes.
    pub fn start(self) -> Guest {
        self.start_between(Stdio::piped(), Stdio::piped())
    }

    /// Starts the monitor with its console elsewhere. No key reaches it unless `from` is a pipe, and nothing that it
    /// says is heard unless `to` is one.
    pub fn start_between(self, from: impl Into<Stdio>, to: impl Into<Stdio>) -> Guest {
        let mut child = spawn(self.command().stdin(from).stdout(to).stderr(Stdio::piped()));
        let console = match child.stdout.take() {
            Some(pipe) => Console::listen(pipe),
            None => Console::listen(io::empty()),
        };
        let keyboard: Box<dyn Write + Send> = match child.stdin.take() {
            Some(pipe) => Box::new(pipe),
            None => Box::new(io::sink()),
        };
        Guest::new(child, console, keyboard)
    }

    /// Starts the monitor with its console on a terminal.
    pub fn start_on(self, terminal: &Terminal) -> Guest {
        let copy = |file: &File| file.try_clone().expect("a file descriptor is free");
        let program = &terminal.program;
        let mut command = self.command();
        command.stdin(copy(program)).stdout(copy(program)).stderr(Stdio::piped());
        let console = Console::listen(copy(&terminal.person));
        Guest::new(spawn(&mut command), console, Box::new(copy(&terminal.person)))
    }

    /// Starts the monitor and waits until the guest's init is up.
    pub fn ready(self) -> Guest {
        let guest = self.start();
        guest.wait_for(READY);
        guest
    }
}

/// A running monitor. When dropped it is killed, and if the test has failed, shows what it said.
pub struct Guest {
    child: Child,
    console: Console,
    errors: Console,
    keyboard: Box<dyn Write + Send>,
    commands: u32,
}

/// What a command in the guest printed, and its exit status.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub text: String,
    pub status: i32,
}

impl Guest {
    /// Any monitor whose console is its standard input and output.
    pub fn of(command: &mut Command) -> Self {
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
        let console = Console::listen(child.stdout.take().expect("stdout is a pipe"));
        let keyboard = Box::new(child.stdin.take().expect("stdin is a pipe"));
        Self::new(child, console, keyboard)
    }

    fn new(mut child: Child, console: Console, keyboard: Box<dyn Write + Send>) -> Self {
        let errors = Console::listen(child.stderr.take().expect("stderr is a pipe"));
        Self { child, console, errors, keyboard, commands: 0 }
    }

    /// Waits for text on the console, and gives back what was said since the last wait, up to and with it.
    pub fn wait_for(&self, text: &str) -> String {
        self.said(self.console.wait_for(text))
    }

    fn said(&self, said: Result<String, Missing>) -> String {
        said.unwrap_or_else(|missing| panic!("{missing}"))
    }

    /// Presses keys on the console.
    pub fn press(&mut self, keys: &[u8]) {
        let pressed = self.keyboard.write_all(keys).and_then(|()| self.keyboard.flush());
        if let Err(error) = pressed {
            panic!("the console takes no keys: {error}");
        }
    }

    /// Ends what the monitor has as standard input, if that is a pipe.
    pub fn end_input(&mut self) {
        self.keyboard = Box::new(io::sink());
    }

    /// Runs one line in the guest's shell to its end.
    pub fn run(&mut self, line: &str) -> Output {
        self.commands += 1;
        let count = self.commands;
        let quoted = line.replace('\'', "'\\''");
        // The terminal echoes what is typed, so the marks are typed otherwise than they are printed; and all of it is
        // one line, so that the echo is over before the output begins.
        self.press(format!("echo BEGIN'-'{count}; eval '{quoted}'; echo END'-'{count} $?.\n").as_bytes());
        let end = format!("END-{count} ");
        self.wait_for(&format!("BEGIN-{count}"));
        let text = self.wait_for(&end);
        let status = self.wait_for(".");
        let status = status.trim_end_matches('.').parse();
        Output {
            text: text.trim_end_matches(&end).trim_start_matches('\n').to_owned(),
            status: status.unwrap_or_else(|error| panic!("the status of '{line}' in the guest: {error}")),
        }
    }

    /// As `run`, for a line that must succeed.
    pub fn check(&mut self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status, 0, "'{line}' in the guest: {}", output.text);
        output.text
    }

    /// Has the guest power off, and gives back the monitor's exit code.
    pub fn power_off(mut self) -> i32 {
        self.press(b"poweroff -f\n");
        self.code()
    }

    /// Waits for the monitor to exit.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Waits for the monitor to exit by itself, and gives back its exit code.
    pub fn code(&mut self) -> i32 {
        let status = self.wait();
        status.code().unwrap_or_else(|| panic!("the monitor was ended by a signal: {status}"))
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a child has an id"), signal).expect("the child has not been waited for");
    }

    /// The monitor's process id, for what /proc tells of it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that the guest and the monitor said on the console.
    pub fn console(&self) -> String {
        self.console.text()
    }

    /// The same, once the monitor has ended and nothing more can come.
    pub fn said_in_all(&self) -> String {
        self.console.to_end()
    }

    /// All that the monitor said on standard error, once it has ended.
    pub fn all_errors(&self) -> String {
        self.errors.to_end()
    }

    /// All that the monitor has said on standard error so far.
    pub fn errors(&self) -> String {
        self.errors.text()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            eprintln!("---- the monitor\n{}", stuck::tell(self.pid()));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if failed {
            eprintln!("---- console\n{}\n---- standard error\n{}\n----", self.console(), self.errors());
        }
    }
}

/// How a run of the monitor ended that was not expected to go on.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the monitor to its end, with nothing on standard input.
pub fn ambit<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ended {
    to_its_end(&place::monitor(), arguments)
}

/// The same of another monitor than the one under test.
pub fn to_its_end<S: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = S>) -> Ended {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command);
    let stdout = Console::listen(child.stdout.take().expect("stdout is a pipe"));
    let stderr = Console::listen(child.stderr.take().expect("stderr is a pipe"));
    let status = wait(&mut child);
    Ended {
        code: status.code().unwrap_or_else(|| panic!("the monitor was ended by a signal: {status}")),
        stdout: stdout.to_end(),
        stderr: stderr.to_end(),
    }
}

fn spawn(command: &mut Command) -> Child {
    command.spawn().unwrap_or_else(|error| {
        let missing = if error.kind() == ErrorKind::NotFound { "; run cargo xtask test" } else { "" };
        panic!("cannot start {}: {error}{missing}", command.get_program().display())
    })
}

fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + HANG;
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("the monitor did not exit within {} s", HANG.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
