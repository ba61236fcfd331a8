//! What it costs to serve a queue, without a guest and without threads. `cargo xtask bench` counts the instructions.

#![allow(clippy::unwrap_used, reason = "what fails here fails the bench")]

use std::fs::File;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ambit_bus::bench::RAM_BASE;
use ambit_virtio::block::{Engine, Options};
use ambit_virtio::driver::hand::{Hand, SIZE};
use ambit_virtio::driver::{EVENT_IDX, INDIRECT, TABLE, VERSION_1, WRITE};
use vm_memory::{Bytes, GuestAddress};

const USAGE: &str = "\
usage: serving list                the cases, with how many requests and descriptors one round has
       serving run CASE ROUNDS     so many rounds, for whoever counts instructions
       serving time                how long each takes on this machine
";

/// As many as a turn of a ring has.
const BATCH: u16 = 64;
const PAGE: u32 = 4096;
const DISK: u64 = 1 << 20;

/// One batch of requests again and again: all are offered, then the device serves them, then it tells the driver once.
struct Case {
    name: &'static str,
    batch: u16,
    descriptors: u16,
    hand: fn(batch: u16, descriptors: u16) -> Hand,
}

const CASES: &[Case] = &[
    Case { name: "ring_1", batch: BATCH, descriptors: 1, hand: plain },
    Case { name: "ring_2", batch: BATCH, descriptors: 2, hand: plain },
    Case { name: "ring_8", batch: BATCH, descriptors: 8, hand: plain },
    Case { name: "ring_8_indirect", batch: BATCH, descriptors: 8, hand: indirect },
    Case { name: "ring_2_event_idx", batch: BATCH, descriptors: 2, hand: event_idx },
    Case { name: "ring_2_alone", batch: 1, descriptors: 2, hand: plain },
    Case { name: "blk_sync_read_4k", batch: BATCH, descriptors: 3, hand: sync_read },
    Case { name: "blk_sync_write_4k", batch: BATCH, descriptors: 3, hand: sync_write },
    Case { name: "blk_sync_read_4k_alone", batch: 1, descriptors: 3, hand: sync_read },
    Case { name: "blk_sync_read_128k", batch: 8, descriptors: 34, hand: sync_read },
    Case { name: "blk_uring_read_4k", batch: BATCH, descriptors: 3, hand: uring_read },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            CASES.iter().for_each(|case| println!("{} {} {}", case.name, case.batch, case.descriptors))
        }
        ["run", name, rounds] => {
            let Some(case) = CASES.iter().find(|case| case.name == *name) else {
                eprintln!("there is no case '{name}'");
                return ExitCode::from(2);
            };
            rounds_of(case, &mut (case.hand)(case.batch, case.descriptors), rounds.parse().unwrap());
        }
        // As `cargo bench` calls it.
        ["time"] | ["--bench"] => CASES.iter().for_each(time),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn rounds_of(case: &Case, hand: &mut Hand, rounds: u32) {
    for _ in 0..rounds {
        let goal = hand.driver.slot.wrapping_add(case.batch);
        hand.driver.slot = goal;
        // The driver asks to be told when the last of the batch is done.
        hand.driver.set_used_event(goal.wrapping_sub(1));
        hand.driver.set_index(goal);
        hand.serve();
        while hand.driver.used_index() != goal {
            hand.serve();
        }
    }
}

/// The fastest of several: what else the machine did only ever adds.
fn time(case: &Case) {
    const ROUNDS: u32 = 200;
    let mut hand = (case.hand)(case.batch, case.descriptors);
    let mut once = || {
        let begun = Instant::now();
        rounds_of(case, &mut hand, ROUNDS);
        begun.elapsed()
    };
    let best = (0..50).map(|_| once()).min().unwrap_or(Duration::MAX) / ROUNDS / u32::from(case.batch);
    let nanoseconds = best.as_nanos().max(1);
    let [each, rate] = [nanoseconds / u128::from(case.descriptors), 1_000_000_000 / nanoseconds];
    println!("{:24} {nanoseconds:6} ns a request, {each:5} ns a descriptor, {rate:9} requests/s", case.name);
}

fn plain(batch: u16, descriptors: u16) -> Hand {
    filled(Hand::new(VERSION_1), batch, &half_and_half(descriptors))
}

fn event_idx(batch: u16, descriptors: u16) -> Hand {
    filled(Hand::new(VERSION_1 | EVENT_IDX), batch, &half_and_half(descriptors))
}

fn indirect(batch: u16, descriptors: u16) -> Hand {
    let mut hand = Hand::new(VERSION_1 | INDIRECT);
    let chain = half_and_half(descriptors);
    let table = hand.machine.alloc(16 * u64::from(descriptors), 16);
    for (index, &(at, len, flags)) in (0..).zip(&chain) {
        let more = u16::from(index + 1 < descriptors);
        hand.driver.describe(table, index, (at, len, flags | more), index + 1);
    }
    filled(hand, batch, &[(table, 16 * u32::from(descriptors), TABLE)])
}

/// The first are for reading, the rest for writing.
fn half_and_half(descriptors: u16) -> Vec<(u64, u32, u16)> {
    let side = |index| if index < descriptors.div_ceil(2) { 0 } else { WRITE };
    (0..descriptors).map(|index| (RAM_BASE + (8 << 20), PAGE, side(index))).collect()
}

/// Every slot of the available ring names a chain, and each batch the next of them.
fn filled(mut hand: Hand, batch: u16, chain: &[(u64, u32, u16)]) -> Hand {
    let heads: Vec<u16> = (0..batch).map(|_| hand.driver.chain(chain)).collect();
    for slot in 0..SIZE {
        let at = hand.driver.avail + 4 + 2 * u64::from(slot);
        let head = heads[usize::from(slot % batch)];
        hand.machine.memory.write_obj(head.to_le(), GuestAddress(at)).unwrap();
    }
    hand
}

const IN: u32 = 0;
const OUT: u32 = 1;

fn sync_read(batch: u16, descriptors: u16) -> Hand {
    disk(Engine::Sync, IN, batch, descriptors)
}

fn sync_write(batch: u16, descriptors: u16) -> Hand {
    disk(Engine::Sync, OUT, batch, descriptors)
}

fn uring_read(batch: u16, descriptors: u16) -> Hand {
    disk(Engine::Uring, IN, batch, descriptors)
}

/// A header, pages, and a status, as Linux has them.
fn disk(engine: Engine, kind: u32, batch: u16, descriptors: u16) -> Hand {
    let options = Options { engine, ..Options::new("disk") };
    let mut hand = Hand::disk(VERSION_1, file(), &options);
    let header = hand.machine.put(&[kind.to_le_bytes().as_slice(), &[0; 12]].concat());
    let side = if kind == IN { WRITE } else { 0 };
    let pages = (1..descriptors - 1).map(|_| (hand.machine.alloc(PAGE.into(), PAGE.into()), PAGE, side));
    let pages: Vec<_> = pages.collect();
    let status = hand.machine.alloc(1, 1);
    let chain = [&[(header, 16, 0)], pages.as_slice(), &[(status, 1, WRITE)]].concat();
    filled(hand, batch, &chain)
}

fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(1), DISK), &mut &file).unwrap();
    file
}
