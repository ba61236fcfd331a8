//! How a machine ends: by its guest, by a signal, and in the middle of starting.

use std::os::unix::process::ExitStatusExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ambit_tests::{Boot, Payload, Scratch, Tap};
use rustix::process::Signal;

/// "At once", on an emulated host that does other things too.
const SOON: Duration = Duration::from_secs(20);

const SIGNALS: [(Signal, i32); 4] =
    [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1), (Signal::QUIT, 3)];

#[test]
fn a_guest_that_powers_off_ends_the_program_with_0() {
    let scratch = Scratch::new();

    let mut guest = Payload::new().say("bye").power_off().boot(&scratch).start();

    assert_eq!(guest.code(), 0);
    assert_eq!((guest.said_in_all().as_str(), guest.errors().as_str()), ("bye", ""));
}

#[test]
fn a_guest_that_resets_ends_the_program_with_0_and_a_word_to_those_who_ask() {
    let scratch = Scratch::new();

    let mut guest = Payload::new().reset().boot(&scratch).argument("--log", "info").start();

    assert_eq!(guest.code(), 0);
    let said = guest.all_errors();
    assert!(said.contains("the guest asked for a reset"), "{said}");
}

#[test]
fn linux_that_reboots_ends_the_program_with_0() {
    let mut guest = Boot::initrd().cpus(2).ready();

    guest.press(b"reboot -f\n");

    assert_eq!(guest.code(), 0);
}

#[test]
fn linux_that_panics_and_reboots_ends_the_program_with_0() {
    let mut guest = Boot::initrd().cpus(2).ready();

    guest.press(b"echo c >/proc/sysrq-trigger\n");

    guest.wait_for("Kernel panic");
    assert_eq!(guest.code(), 0);
}

#[test]
fn a_signal_ends_the_program_with_128_and_its_number() {
    for (signal, number) in SIGNALS {
        let scratch = Scratch::new();
        let mut guest = Payload::new().say("up").stay().boot(&scratch).start();
        guest.wait_for("up");

        guest.signal(signal);

        assert_eq!(guest.code(), 128 + number);
        assert_eq!(guest.errors(), "");
    }
}

#[test]
fn a_signal_ends_a_guest_that_floods_its_console_and_its_disk() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 64 << 20);
    let mut guest = Boot::initrd().cpus(2).disk(&disk.display().to_string()).ready();
    guest.press(b"while :; do dd if=/dev/zero of=/dev/vda bs=1M; done 2>/dev/null & yes flood\n");
    guest.wait_for("flood\r\nflood\r\nflood");

    let began = Instant::now();
    guest.signal(Signal::TERM);

    assert_eq!(guest.code(), 143);
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
}

#[test]
fn a_signal_ends_the_program_in_every_moment_of_its_start() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 1 << 20).display().to_string();
    let tap = Tap::unmade();
    for delay in [0, 5, 10, 20, 40, 60, 80, 100, 130, 160, 200, 300] {
        let mut guest = Boot::initrd().cpus(4).disk(&disk).net(&tap).start();
        sleep(Duration::from_millis(delay));

        let began = Instant::now();
        guest.signal(Signal::TERM);

        let status = guest.wait();
        assert!(began.elapsed() < SOON, "{delay} ms after its start it took {:?}", began.elapsed());
        // Before the program listens to signals it ends as any other does.
        assert!(
            status.code() == Some(143) || status.signal() == Some(15),
            "{delay} ms after its start: {status}"
        );
        assert!(!tap.exists(), "{delay} ms after its start, the interface it made is left");
    }
    let mut last = Boot::initrd().disk(&disk).net(&tap).ready();
    last.check("cat /proc/uptime");
    assert_eq!(last.power_off(), 0);
}
