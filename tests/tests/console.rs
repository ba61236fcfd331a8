//! The console: on a terminal, on files and pipes, and where nobody listens.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ambit_tests::console::HANG;
use ambit_tests::guest::READY;
use ambit_tests::{Boot, Guest, Payload, Scratch, Terminal};
use rustix::process::Signal;

/// A guest that says `up` and sleeps, on a terminal that it has made raw.
fn asleep_on(terminal: &Terminal, scratch: &Scratch) -> Guest {
    let guest = Payload::new().say("up").stay().boot(scratch).start_on(terminal);
    guest.wait_for("up");
    guest
}

#[test]
fn ctrl_a_x_ends_the_program_with_0_and_the_terminal_is_as_it_was() {
    let (terminal, scratch) = (Terminal::open().unwrap(), Scratch::new());
    let before = terminal.settings();
    let mut guest = asleep_on(&terminal, &scratch);
    let during = terminal.settings();

    guest.press(b"\x01x");

    assert_eq!(guest.code(), 0);
    assert_eq!(terminal.settings(), before);
    assert_ne!(during, before);
}

#[test]
fn a_guest_that_powers_off_leaves_the_terminal_as_it_was() {
    let (terminal, scratch) = (Terminal::open().unwrap(), Scratch::new());
    let before = terminal.settings();

    let mut guest = Payload::new().say("bye").power_off().boot(&scratch).start_on(&terminal);

    assert_eq!(guest.code(), 0);
    assert_eq!(terminal.settings(), before);
    guest.wait_for("bye");
}

#[test]
fn a_signal_that_ends_the_program_leaves_the_terminal_as_it_was() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131)] {
        let (terminal, scratch) = (Terminal::open().unwrap(), Scratch::new());
        let before = terminal.settings();
        let mut guest = asleep_on(&terminal, &scratch);
        assert_ne!(terminal.settings(), before);

        guest.signal(signal);

        assert_eq!(guest.code(), code);
        assert_eq!(terminal.settings(), before, "after {signal:?}");
    }
}

#[test]
fn a_crash_of_the_program_leaves_the_terminal_as_it_was() {
    for signal in [Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE, Signal::ABORT, Signal::SYS] {
        let (terminal, scratch) = (Terminal::open().unwrap(), Scratch::new());
        let before = terminal.settings();
        let mut guest = asleep_on(&terminal, &scratch);
        assert_ne!(terminal.settings(), before);

        guest.signal(signal);

        let status = guest.wait();
        assert!(status.signal().is_some(), "{signal:?} ended it as if it were no crash: {status}");
        assert_eq!(terminal.settings(), before, "after {signal:?}");
    }
}

#[test]
fn a_program_that_was_stopped_makes_the_terminal_raw_again() {
    let (terminal, scratch) = (Terminal::open().unwrap(), Scratch::new());
    let before = terminal.settings();
    let mut guest = asleep_on(&terminal, &scratch);
    let raw = terminal.settings();

    // As a shell does it.
    guest.signal(Signal::STOP);
    let sane = Command::new("stty").arg("sane").stdin(terminal.program.try_clone().unwrap()).status();
    assert!(sane.is_ok_and(|status| status.success()));
    assert_ne!(terminal.settings(), raw);
    guest.signal(Signal::CONT);

    wait_until("the terminal is raw again", || terminal.settings() == raw);
    guest.press(b"\x01x");
    assert_eq!(guest.code(), 0);
    assert_eq!(terminal.settings(), before);
}

#[test]
fn keys_that_mean_something_to_a_terminal_reach_the_guest_and_end_nothing() {
    let (terminal, scratch) = (Terminal::open().unwrap(), Scratch::new());
    let mut guest = Payload::new().say("up").echo().boot(&scratch).start_on(&terminal);
    guest.wait_for("up");

    // ctrl-c, ctrl-z, ctrl-\, ctrl-d, ctrl-s, ctrl-q, ctrl-v, backspace.
    guest.press(b"\x03\x1a\x1c\x04\x13\x11\x16\x7f.");

    assert_eq!(guest.wait_for("."), "\x03\x1a\x1c\x04\x13\x11\x16\x7f.");
    guest.press(b"\x01x");
    assert_eq!(guest.code(), 0);
}

#[test]
fn ctrl_a_reaches_the_guest_when_it_is_typed_twice_or_before_another_key() {
    let (terminal, scratch) = (Terminal::open().unwrap(), Scratch::new());
    let mut guest = Payload::new().say("up").echo().boot(&scratch).start_on(&terminal);
    guest.wait_for("up");

    guest.press(b"a\x01\x01x");
    guest.press(b"\x01");
    guest.press(b"b.");

    assert_eq!(guest.wait_for("."), "a\x01x\x01b.");
    guest.press(b"\x01x");
    assert_eq!(guest.code(), 0);
}

/// Numbered lines, as `seq` prints them.
fn lines(count: u32) -> String {
    (1..=count).map(|line| format!("{line}\n")).collect()
}

/// Linux compares what it is given with what `seq` prints there.
fn linux_gets(guest: &mut Guest, count: u32) {
    let text = lines(count);
    let length = text.len();
    let receive = format!(
        "stty raw -echo; echo RECEI'VE'; head -c {length} >/tmp/in; stty sane; seq {count} | cmp - /tmp/in && echo SA'ME'\n"
    );
    guest.press(receive.as_bytes());
    guest.wait_for("RECEIVE");

    guest.press(text.as_bytes());

    guest.wait_for("SAME");
}

#[test]
fn a_paste_into_a_terminal_reaches_linux_whole() {
    let terminal = Terminal::open().unwrap();
    let mut guest = Boot::initrd().start_on(&terminal);
    guest.wait_for(READY);

    linux_gets(&mut guest, 2000);

    assert_eq!(guest.power_off(), 0);
}

#[test]
fn what_is_piped_in_reaches_linux_whole_and_its_end_does_not_end_the_guest() {
    let mut guest = Boot::initrd().ready();

    linux_gets(&mut guest, 8000);
    guest.press(b"sleep 2; echo AF'TER'; poweroff -f\n");
    guest.end_input();

    guest.wait_for("AFTER");
    assert_eq!(guest.code(), 0);
}

/// How much time the main thread of the program has taken so far.
fn main_thread_time(guest: &Guest) -> Duration {
    let pid = guest.pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")).unwrap();
    // proc_pid_stat(5): fields 14 and 15, and the name, which may have spaces, is the second.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

/// The guest goes on, and the main thread, which has nothing to do, does nothing.
fn goes_on_and_rests(what: &str, guest: &Guest) {
    let during = Duration::from_secs(2);
    guest.wait_for(".");
    let before = main_thread_time(guest);
    sleep(during);
    let took = main_thread_time(guest) - before;
    guest.wait_for("..");
    assert!(took < during / 10, "{what}: the main thread took {took:?} of {during:?}");
    guest.signal(Signal::TERM);
}

/// Prints a dot a second.
fn clock(scratch: &Scratch) -> Boot {
    (0..30).fold(Payload::new(), |payload, _| payload.say(".").pause()).power_off().boot(scratch)
}

#[test]
fn without_input_the_guest_goes_on_and_the_program_rests() {
    let scratch = Scratch::new();
    let file = scratch.path("typed");
    fs::write(&file, "typed before").unwrap();
    let close = ["sh", "-c", "exec \"$@\" <&-", "sh"];
    let ended = clock(&scratch);
    let mut ended = ended.start();
    ended.press(b"typed before");
    ended.end_input();

    goes_on_and_rests("a pipe that ended", &ended);
    let null = clock(&scratch).start_between(Stdio::null(), Stdio::piped());
    goes_on_and_rests("/dev/null", &null);
    let closed = clock(&scratch).through(&close).start_between(Stdio::null(), Stdio::piped());
    goes_on_and_rests("closed", &closed);
    let file = clock(&scratch).start_between(File::open(file).unwrap(), Stdio::piped());
    goes_on_and_rests("a file", &file);
}

#[test]
fn a_terminal_that_goes_away_does_not_keep_the_program_busy() {
    let (terminal, scratch) = (Terminal::open().unwrap(), Scratch::new());
    let guest = clock(&scratch).start_between(terminal.program.try_clone().unwrap(), Stdio::piped());
    guest.wait_for(".");

    drop(terminal);

    goes_on_and_rests("a terminal that went away", &guest);
}

#[test]
fn a_guest_goes_on_to_its_end_where_nobody_reads_what_it_prints() {
    let scratch = Scratch::new();
    let says = |lines: u32| {
        let line = "x".repeat(63) + "\n";
        (0..lines).fold(Payload::new(), |payload, _| payload.say(&line)).power_off().boot(&scratch)
    };
    // Held open and never read. It and what is being written to it are less than the guest prints.
    let (unread, to_unread) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&to_unread, 4096).unwrap();
    let (gone, to_gone) = std::io::pipe().unwrap();
    drop(gone);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let close = ["sh", "-c", "exec \"$@\" >&-", "sh"];

    let ends = [
        ("a pipe that nobody reads", says(176).start_between(Stdio::null(), to_unread)),
        ("a pipe whose reader is gone", says(8).start_between(Stdio::null(), to_gone)),
        ("a file that is full", says(8).start_between(Stdio::null(), full)),
        ("closed", says(8).through(&close).start_between(Stdio::null(), Stdio::null())),
    ];

    for (what, mut guest) in ends {
        assert_eq!(guest.code(), 0, "{what}");
        let said = guest.all_errors();
        assert_eq!(said.contains("were lost"), what != "closed", "{what}: {said}");
    }
    drop(unread);
}

fn wait_until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + HANG;
    while !is() {
        assert!(Instant::now() < end, "{what}: not within {} s", HANG.as_secs());
        sleep(Duration::from_millis(10));
    }
}
