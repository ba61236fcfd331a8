//! What the guests are given to do.

use std::net::{TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use ambit_tests::stream::{self, Done};

use crate::cost::Cost;
use crate::machine::{ENGINES, Machine};

/// Of each piece of work.
const TIME: Duration = Duration::from_millis(1000);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// As `ambit-load disk` takes it, without the serial number.
    Disk {
        serial: &'static str,
        what: &'static str,
        words: &'static str,
    },
    Net {
        what: &'static str,
        protocol: &'static str,
        guest_sends: bool,
    },
}

/// What, and `read|write random|sequential BYTES DEPTH BATCH`.
const DISK: [(&str, &str); 6] = [
    ("4 KiB random read, 1 at a time", "read random 4096 1 1"),
    ("4 KiB random write, 1 at a time", "write random 4096 1 1"),
    ("4 KiB random read, batches of 32", "read random 4096 32 32"),
    ("4 KiB random write, batches of 32", "write random 4096 32 32"),
    ("1 MiB sequential read, 4 at a time", "read sequential 1048576 4 1"),
    ("1 MiB sequential write, 4 at a time", "write sequential 1048576 4 1"),
];

const NET: [(&str, &str, bool); 4] = [
    ("stream, guest to host", "tcp", true),
    ("stream, host to guest", "tcp", false),
    ("small packets, guest to host", "udp", true),
    ("small packets, host to guest", "udp", false),
];

pub fn all() -> Vec<Work> {
    let disks = ENGINES.into_iter().flat_map(|(serial, _)| {
        DISK.into_iter().map(move |(what, words)| Work::Disk { serial, what, words })
    });
    let net = NET.into_iter().map(|(what, protocol, guest_sends)| Work::Net { what, protocol, guest_sends });
    disks.chain(net).collect()
}

/// One run of it.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub requests: u64,
    pub bytes: u64,
    pub micros: u64,
    /// That virtio devices made in the guest.
    pub interrupts: u64,
    pub cost: Cost,
}

impl Work {
    pub fn name(&self) -> String {
        match self {
            Self::Disk { serial, what, .. } => format!("{serial}: {what}"),
            Self::Net { what, .. } => format!("net: {what}"),
        }
    }

    pub fn run(&self, machine: &mut Machine) -> Sample {
        let process = machine.guest.pid();
        let millis = TIME.as_millis();
        let before = Cost::of(process);
        let (inside, outside) = match self {
            Self::Disk { serial, words, .. } => {
                (machine.guest.check(&format!("/tmp/load disk {serial} {words} {millis}")), None)
            }
            Self::Net { protocol, guest_sends, .. } => network(machine, protocol, *guest_sends),
        };
        let cost = Cost::of(process).since(before);
        let [mut requests, mut bytes, mut micros, interrupts] = told(&inside);
        // Who receives says how much came.
        if let Some(Done { requests: heard, bytes: length, took: Some(took) }) = outside {
            (requests, bytes) = (heard, length);
            micros = u64::try_from(took.as_micros()).expect("it took less than ages");
        }
        Sample { requests, bytes, micros, interrupts, cost }
    }
}

/// What the guest said, and what the host received if it did.
fn network(machine: &mut Machine, protocol: &str, guest_sends: bool) -> (String, Option<Done>) {
    let host = machine.tap.host();
    let (port, other) = other_side(&host, protocol, guest_sends);
    let way = if guest_sends { "send" } else { "receive" };
    let line = format!("/tmp/load {protocol} {way} {host}:{port} {}", TIME.as_millis());
    let inside = machine.guest.check(&line);
    let outside = other.join().expect("the host's side ended well");
    (inside, guest_sends.then_some(outside))
}

fn other_side(host: &str, protocol: &str, guest_sends: bool) -> (u16, thread::JoinHandle<Done>) {
    if protocol == "udp" {
        let socket = UdpSocket::bind((host, 0)).expect("a port is free");
        let port = socket.local_addr().expect("it is bound").port();
        let serve =
            move || if guest_sends { stream::hear(&socket, false) } else { stream::answer(&socket, TIME) };
        return (port, thread::spawn(serve));
    }
    let listener = TcpListener::bind((host, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let serve = move || {
        let (socket, _) = listener.accept().expect("the guest connects");
        if guest_sends { stream::receive(socket) } else { stream::send(socket, TIME) }
    };
    (port, thread::spawn(serve))
}

/// The numbers of `LOAD requests bytes micros interrupts`.
fn told(said: &str) -> [u64; 4] {
    let numbers = said.lines().find_map(|line| line.trim().strip_prefix("LOAD "));
    let numbers = numbers.unwrap_or_else(|| panic!("the load said: {said}"));
    let mut numbers = numbers.split_whitespace().map(|word| word.parse().expect("it is a number"));
    std::array::from_fn(|_| numbers.next().expect("there are four"))
}
