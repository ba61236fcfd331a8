//! Work for a guest's disks and network, and how much of it was done: what `cargo xtask bench --guest` runs in guests.

mod disk;

use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ambit_tests::stream::{self, Done};

use disk::{Plan, Way};

const USAGE: &str = "\
usage: ambit-load disk SERIAL read|write random|sequential BYTES DEPTH BATCH MILLISECONDS
       ambit-load tcp|udp send|receive ADDRESS MILLISECONDS
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let interrupts = interrupts();
    let begun = Instant::now();
    let done = match words.as_slice() {
        ["disk", serial, kind, order, bytes, depth, batch, time] => disk::run(&Plan {
            path: block_device(serial),
            way: if *kind == "write" { Way::Write } else { Way::Read },
            random: *order == "random",
            bytes: number(bytes),
            depth: number(depth),
            batch: number(batch),
            time: milliseconds(time),
        }),
        [protocol, way, address, time] => network(protocol, way, address, milliseconds(time)),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let took = done.took.unwrap_or_else(|| begun.elapsed());
    println!(
        "LOAD {} {} {} {}",
        done.requests,
        done.bytes,
        took.as_micros(),
        self::interrupts().saturating_sub(interrupts)
    );
    ExitCode::SUCCESS
}

fn network(protocol: &str, way: &str, address: &str, time: Duration) -> Done {
    let address: SocketAddr = address.parse().expect("an address and a port");
    if protocol == "udp" {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
        socket.connect(address).expect("there is a network");
        return if way == "send" { stream::flood(&socket, time) } else { stream::hear(&socket, true) };
    }
    let socket = TcpStream::connect(address).expect("the host listens");
    if way == "send" { stream::send(socket, time) } else { stream::receive(socket) }
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("'{word}' is not a number\n{USAGE}"))
}

fn milliseconds(word: &str) -> Duration {
    Duration::from_millis(number(word))
}

/// The disk with this serial number: in which order they come is the monitor's business.
fn block_device(serial: &str) -> String {
    let disks = fs::read_dir("/sys/block").expect("sysfs is mounted").flatten();
    let named = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("serial")).is_ok_and(|found| found.trim() == serial)
    };
    let disk = disks.into_iter().find(named).unwrap_or_else(|| panic!("no disk has the serial '{serial}'"));
    format!("/dev/{}", disk.file_name().to_string_lossy())
}

/// How many interrupts virtio devices have made so far, on all processors.
fn interrupts() -> u64 {
    let text = fs::read_to_string("/proc/interrupts").expect("proc is mounted");
    let counts = |line: &str| -> u64 {
        line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum()
    };
    text.lines().filter(|line| line.contains("virtio")).map(counts).sum()
}
