//! Many requests at once to one disk, past the page cache.

// The kernel is handed raw addresses of our buffers; the block says why they hold.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use ambit_tests::stream::Done;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use rustix::fs::OFlags;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Read,
    Write,
}

pub struct Plan {
    pub path: String,
    pub way: Way,
    pub random: bool,
    /// Of one request.
    pub bytes: u32,
    /// How many requests are on their way at most, and how many have to be done before there are more.
    pub depth: u32,
    pub batch: u32,
    pub time: Duration,
}

const BLOCK: usize = 4096;

/// Goes on for as long as planned.
pub fn run(plan: &Plan) -> Done {
    let mut file = open(plan);
    let slots = file.seek(SeekFrom::End(0)).expect("a disk has a length") / u64::from(plan.bytes);
    let mut ring = IoUring::new(plan.depth).expect("the guest's kernel has io_uring");
    let bytes = plan.bytes as usize;
    let mut buffers = vec![0x5a_u8; bytes * plan.depth as usize + BLOCK];
    let first = buffers.as_ptr().align_offset(BLOCK);
    let mut free: Vec<u32> = (0..plan.depth).collect();
    let mut place = Places { next: 0, seed: 0x9e37_79b9_7f4a_7c15, slots, random: plan.random };
    let begun = Instant::now();
    let mut requests = 0;
    while begun.elapsed() < plan.time || free.len() < plan.depth as usize {
        let over = begun.elapsed() >= plan.time;
        while let Some(number) = free.pop_if(|_| !over) {
            let buffer = buffers[first + number as usize * bytes..][..bytes].as_mut_ptr();
            let at = place.next() * u64::from(plan.bytes);
            let fd = Fd(file.as_raw_fd());
            let entry = match plan.way {
                Way::Read => opcode::Read::new(fd, buffer, plan.bytes).offset(at).build(),
                Way::Write => opcode::Write::new(fd, buffer, plan.bytes).offset(at).build(),
            };
            // SAFETY: each number has a part of `buffers` of its own and is free again only when its request is
            // done; `buffers` is not touched otherwise, and this function returns when all numbers are free.
            unsafe { ring.submission().push(&entry.user_data(number.into())) }.expect("the ring has room");
        }
        let on_their_way = plan.depth as usize - free.len();
        ring.submit_and_wait(on_their_way.min(plan.batch as usize)).expect("the kernel takes requests");
        for done in ring.completion() {
            assert_eq!(done.result(), plan.bytes.cast_signed(), "a request failed or was short");
            free.push(u32::try_from(done.user_data()).expect("it is one of ours"));
            requests += 1;
        }
    }
    let took = begun.elapsed();
    drop(buffers);
    Done { requests, bytes: requests * u64::from(plan.bytes), took: Some(took) }
}

fn open(plan: &Plan) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(plan.way == Way::Write).custom_flags(OFlags::DIRECT.bits().cast_signed());
    options.open(&plan.path).unwrap_or_else(|error| panic!("{}: {error}", plan.path))
}

/// Which block of the disk comes next.
struct Places {
    next: u64,
    seed: u64,
    slots: u64,
    random: bool,
}

impl Places {
    fn next(&mut self) -> u64 {
        if !self.random {
            self.next = (self.next + 1) % self.slots;
            return self.next;
        }
        // Marsaglia's xorshift.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % self.slots
    }
}
