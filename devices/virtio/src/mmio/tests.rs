use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::{AddressRange, PaBits};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::Config;
use crate::device::{Start, StartError};
use crate::driver::{ECHO, EVENT_IDX, Echo, Gate, INDIRECT, Machine, VERSION_1, Vq, WRITE, idles, unique};
use crate::ring::Ring;

const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

/// A device that does nothing, and counts how often it was asked to.
struct Idle {
    starts: Arc<AtomicUsize>,
    stops: Arc<AtomicUsize>,
    fails: bool,
    config: Arc<Config>,
    rings: Vec<Ring>,
}

impl Idle {
    fn new() -> Self {
        let config = Arc::new(Config::new(vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
        Self { starts: Arc::default(), stops: Arc::default(), fails: false, config, rings: Vec::new() }
    }
}

impl VirtioDevice for Idle {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        0x0000_00f0_0000_0005
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 8]
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        self.rings = start.rings;
        if self.fails {
            return Err(StartError { wanted: "luck", source: std::io::ErrorKind::Other.into() });
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.stops.fetch_add(1, Ordering::SeqCst);
        std::mem::take(&mut self.rings)
    }
}

fn idle() -> Machine {
    Machine::new(Idle::new())
}

fn works(machine: &mut Machine, features: u64) {
    assert!(machine.negotiate(VERSION_1 | features));
    let mut queue = machine.queue(0, 16);
    machine.go();
    echoes(machine, &mut queue);
}

fn echoes(machine: &mut Machine, queue: &mut Vq) {
    let at = machine.put(&[0; 4]);
    assert_eq!(machine.ask(queue, &[(at, 4, WRITE)]), 4);
    assert_eq!(machine.bytes(at, 4), [ECHO; 4]);
}

#[test]
fn the_first_registers_say_what_it_is_in_every_state() {
    let machine = idle();
    for status in [0, 1, 3, 11, 15, 15 | FAILED] {
        machine.choose(VERSION_1);
        machine.write(0x70, status);
        assert_eq!([0x0, 0x4, 0x8, 0xc].map(|at| machine.read(at)), [0x7472_6976, 2, 42, 0x5442_4d41]);
    }
}

/// The whole rule: what status follows on a write, if the features are agreeable.
fn next_status(before: u32, written: u32) -> u32 {
    let after = match before & !NEEDS_RESET {
        _ if written == 0 => return 0,
        0 => 1,
        1 => 3,
        3 => 11,
        11 => 15,
        _ => u32::MAX,
    };
    let kept = before & !NEEDS_RESET;
    match written & !NEEDS_RESET {
        _ if before & FAILED != 0 => before,
        written if written == kept | FAILED => before | FAILED,
        written if written == after => before & NEEDS_RESET | after,
        _ => before,
    }
}

//
#[test]
fn status_moves_by_one_bit_at_a_time_from_every_state_for_every_write() {
    let machine = idle();
    let write = |status| {
        machine.choose(VERSION_1);
        machine.write(0x70, status);
    };
    let paths: [&[u32]; 5] = [&[], &[1], &[1, 3], &[1, 3, 11], &[1, 3, 11, 15]];
    for path in paths {
        for first in 0..256 {
            let before = path.last().copied().unwrap_or(0);
            let middle = next_status(before, first);
            for second in 0..256 {
                write(0);
                path.iter().for_each(|status| write(*status));
                assert_eq!(machine.status(), before);

                write(first);
                assert_eq!(machine.status(), middle, "{before:#x} then {first:#x}");

                write(second);
                assert_eq!(machine.status(), next_status(middle, second), "{middle:#x} then {second:#x}");
            }
        }
    }
}

#[test]
fn status_bits_above_the_first_eight_are_nothing() {
    let machine = idle();
    for written in [0x100, 0x101, 0x8000_0001, u32::MAX] {
        machine.write(0x70, written);
        assert_eq!(machine.status(), 0, "{written:#x}");
    }
}

//
#[test]
fn features_are_taken_after_driver_and_before_features_ok_only() {
    let machine = idle();
    machine.choose(VERSION_1 | 1);
    for status in [1, 3, 11] {
        machine.write(0x70, status);
    }
    assert_eq!(machine.status(), 3, "what was written before DRIVER does not count");

    assert!(machine.negotiate(VERSION_1 | 1));
    machine.choose(0);
    machine.go();
    assert_eq!(machine.status(), 15, "what is written after FEATURES_OK does not count");
}

#[test]
fn features_that_were_not_offered_and_a_lack_of_version_1_are_refused() {
    let machine = idle();
    assert_eq!(machine.offered(), 0x0000_00f0_0000_0005 | VERSION_1 | INDIRECT | EVENT_IDX);

    assert!(!machine.negotiate(0));
    assert!(!machine.negotiate(5));
    assert!(!machine.negotiate(VERSION_1 | 2));
    assert!(!machine.negotiate(VERSION_1 | 1 << 63));
    assert!(machine.negotiate(VERSION_1));
    assert!(machine.negotiate(machine.offered()));
}

#[test]
fn feature_words_past_the_second_are_empty_and_cannot_be_written() {
    let machine = idle();
    for select in [2, 3, 0x8000_0000, u32::MAX] {
        machine.write(0x14, select);
        assert_eq!(machine.read(0x10), 0);
        machine.write(0x70, 0);
        machine.write(0x70, 1);
        machine.write(0x70, 3);
        machine.choose(VERSION_1);
        machine.write(0x24, select);
        machine.write(0x20, u32::MAX);
        machine.write(0x70, 11);
        assert_eq!(machine.status(), 11);
    }
}

/// Accesses that are no register's: of another width, or not aligned.
fn odd_accesses() -> impl Iterator<Item = (u64, usize)> {
    let all = (0..0x100).flat_map(|at| [1, 2, 4, 8].map(|len| (at, len)));
    all.filter(|(at, len): &(u64, usize)| *len != 4 || at % 4 != 0)
}

#[test]
fn control_registers_answer_aligned_words_only() {
    let machine = idle();
    assert!(machine.negotiate(VERSION_1));
    let before = machine.dump();
    for (at, len) in odd_accesses() {
        let mut data = vec![0x55; len];
        machine.access(at, &mut data);
        assert_eq!(data, vec![0; len], "{len} bytes at {at:#x}");
        for byte in [0, 1, 0xff] {
            machine.store(at, &vec![byte; len]);
        }
    }
    assert_eq!(machine.dump(), before);
}

#[test]
fn registers_that_are_read_only_or_not_there_take_no_writes() {
    let machine = idle();
    assert!(machine.negotiate(VERSION_1));
    let before = machine.dump();
    let writable = [0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4];
    for at in (0..WINDOW).step_by(4).filter(|at| !writable.contains(at)) {
        for value in [0, 1, u32::MAX] {
            machine.write(at, value);
        }
    }
    assert_eq!(machine.dump(), before);
}

#[test]
fn registers_that_are_write_only_or_not_there_read_as_zero() {
    let machine = idle();
    let readable = [0x0, 0x4, 0x8, 0xc, 0x10, 0x34, 0x44, 0x60, 0x70, 0xb0, 0xb4, 0xb8, 0xbc, 0xfc];
    for at in (0..0x100).step_by(4).filter(|at| !readable.contains(at)) {
        assert_eq!(machine.read(at), 0, "{at:#x}");
    }
}

#[test]
fn there_is_no_shared_memory() {
    let machine = idle();
    for select in [0, 1, u32::MAX] {
        machine.write(0xac, select);
        assert_eq!([0xb0, 0xb4, 0xb8, 0xbc].map(|at| machine.read(at)), [u32::MAX; 4]);
    }
}

#[test]
fn the_configuration_is_read_in_any_width_and_ends_in_zeroes() {
    let machine = idle();
    let config: Vec<u8> = (1..=10).chain(std::iter::repeat(0)).take(0x1000).collect();
    for at in 0..WINDOW - 0x100 {
        for len in [1, 2, 4, 8] {
            let mut data = vec![0x55; len];
            machine.access(0x100 + at, &mut data);
            let at = at as usize;
            assert_eq!(data, config[at..at + len], "{len} bytes at {at:#x}");
        }
    }
}

//
#[test]
fn a_queue_that_is_not_there_has_no_size_and_takes_no_writes() {
    let machine = idle();
    assert!(machine.negotiate(VERSION_1));
    let before = machine.dump();
    for select in [2, 3, 0xffff, 0x1_0000, 0x1_0001, u32::MAX] {
        machine.point(0, 16, [0; 3]);
        machine.write(0x30, select);
        assert_eq!([machine.read(0x34), machine.read(0x44)], [0, 0]);
        for at in [0x38, 0x44, 0x50, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
            machine.write(at, 1);
        }
        assert_eq!(machine.status(), 11);
    }
    machine.write(0x30, 0);
    assert_eq!(machine.dump(), before);
}

#[test]
fn a_queue_is_ready_when_1_is_written_and_nothing_else() {
    let mut machine = idle();
    for value in [2, 3, 0x101, u32::MAX] {
        assert!(machine.negotiate(VERSION_1));
        let areas = [machine.alloc(256, 16), machine.alloc(64, 2), machine.alloc(256, 4)];
        machine.point(0, 16, areas);
        machine.write(0x44, value);
        assert_eq!(machine.read(0x44), 0, "{value:#x}");
        machine.write(0x44, 1);
        assert_eq!(machine.read(0x44), 1);
        machine.write(0x44, 0);
        assert_eq!(machine.read(0x44), 0);
    }
}

#[test]
fn a_queue_cannot_be_ready_before_features_ok() {
    let mut machine = idle();
    for status in [0, 1, 3] {
        machine.write(0x70, status);
        machine.queue(0, 16);
        assert_eq!(machine.read(0x44), 0, "at status {status}");
    }
    assert_eq!(machine.status(), 3);
}

#[test]
fn halves_of_addresses_may_come_in_any_order_and_again() {
    let host = BenchHost::with_ram(&[AddressRange::fixed(0x1_4000_0000, 1 << 20)], PaBits::MAX);
    let machine = Machine::with_host(host, Idle::new());
    assert!(machine.negotiate(VERSION_1));
    machine.write(0x38, 16);
    for (register, low) in [(0x80, 0x4000_0000), (0x90, 0x4000_1000), (0xa0, 0x4000_2000)] {
        machine.write(register + 4, u32::MAX);
        machine.write(register, u32::MAX);
        machine.write(register + 4, 1);
        machine.write(register, low);
    }
    machine.write(0x44, 1);

    assert_eq!((machine.read(0x44), machine.status()), (1, 11));
}

//
#[test]
fn a_queue_of_an_impossible_size_asks_for_a_reset() {
    for size in [0, 3, 255, 257, 512, 0x8000, 0xffff, 0x1_0000, 0x1_0010, u32::MAX] {
        let mut machine = Machine::new(Echo::new("size"));
        assert!(machine.negotiate(VERSION_1));
        let areas = [machine.alloc(1 << 20, 16), machine.alloc(1 << 18, 2), machine.alloc(1 << 20, 4)];
        machine.point(0, size, areas);
        machine.write(0x44, 1);

        assert_eq!(machine.read(0x44), 0, "{size:#x}");
        assert_eq!(machine.status(), 11 | NEEDS_RESET, "{size:#x}");
        assert_eq!((machine.read(0x60), machine.pin().pulses()), (2, 1));
        machine.go();
        works(&mut machine, 0);
    }
}

//
#[test]
fn a_queue_anywhere_but_in_ram_asks_for_a_reset_and_others_live() {
    let end = RAM_BASE + crate::driver::RAM;
    let mut other = Machine::new(Echo::new("other"));
    for part in 0..3 {
        let size = [256, 38, 134][part];
        let bad = [0, RAM_BASE - 16, end - size + 16, end, 0x200_0000, u64::MAX - 15, 1 << 52].into_iter();
        let crooked = (1..[16, 2, 4][part]).map(|off| RAM_BASE + 0x1000 + off);
        for at in bad.chain(crooked) {
            let mut machine = Machine::new(Echo::new("place"));
            assert!(machine.negotiate(VERSION_1));
            let mut areas = [RAM_BASE + 0x8000, RAM_BASE + 0x9000, RAM_BASE + 0xa000];
            areas[part] = at;
            machine.point(0, 16, areas);
            machine.write(0x44, 1);

            assert_eq!(
                (machine.read(0x44), machine.status()),
                (0, 11 | NEEDS_RESET),
                "part {part} at {at:#x}"
            );
            works(&mut machine, 0);
        }
    }
    works(&mut other, 0);
}

#[test]
fn a_device_that_needs_a_reset_is_not_started() {
    let device = Idle::new();
    let starts = Arc::clone(&device.starts);
    let mut machine = Machine::new(device);
    assert!(machine.negotiate(VERSION_1));
    machine.point(0, 16, [8, 8, 8]);
    machine.write(0x44, 1);
    machine.queue(1, 8);
    machine.go();

    assert_eq!((machine.status(), starts.load(Ordering::SeqCst)), (15 | NEEDS_RESET, 0));
}

//
#[test]
fn a_device_that_cannot_start_asks_for_a_reset() {
    let mut machine = Machine::new(Idle { fails: true, ..Idle::new() });
    assert!(machine.negotiate(VERSION_1));
    machine.queue(0, 16);
    machine.go();

    assert_eq!(machine.status(), 15 | NEEDS_RESET);
    assert_eq!((machine.read(0x60), machine.pin().pulses()), (2, 1));
    machine.write(0x70, 0);
    assert_eq!((machine.status(), machine.read(0x60)), (0, 0));
}

#[test]
fn only_ready_queues_are_started() {
    let gate = Arc::new(Gate::default());
    let mut machine = Machine::new(Echo::behind("half", Arc::clone(&gate)));
    assert!(machine.negotiate(VERSION_1));
    let mut first = machine.queue(0, 16);
    let mut second = machine.queue(1, 4);
    machine.write(0x44, 0);
    machine.go();
    let at = machine.put(&[0; 4]);
    second.offer(&[(at, 4, WRITE)]);
    machine.kick(&second);
    machine.write(0x50, 1);

    echoes(&mut machine, &mut first);
    assert_eq!(second.poll(), None);
}

//
#[test]
fn a_failed_driver_stops_the_device() {
    let mut machine = Machine::new(Echo::new("failed"));
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 16);
    machine.go();
    echoes(&mut machine, &mut queue);
    machine.write(0x70, 15 | FAILED);
    let at = machine.put(&[0; 4]);
    queue.offer(&[(at, 4, WRITE)]);
    machine.kick(&queue);
    machine.write(0x50, 0);
    std::thread::sleep(Duration::from_millis(20));

    assert_eq!(queue.poll(), None);
    works(&mut machine, 0);
}

//
#[test]
fn nothing_is_served_before_driver_ok_and_what_waits_is_served_then() {
    let mut machine = Machine::new(Echo::new("early"));
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 16);
    let at = machine.put(&[0; 4]);
    queue.offer(&[(at, 4, WRITE)]);
    machine.kick(&queue);
    machine.write(0x50, 0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((queue.poll(), machine.pin().pulses()), (None, 0));

    machine.go();

    assert_eq!(queue.wait(), (0, 4));
}

#[test]
fn a_notification_by_register_does_what_the_doorbell_does() {
    let mut machine = Machine::new(Echo::new("notify"));
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 16);
    machine.go();
    let at = machine.put(&[0; 4]);
    for _ in 0..100 {
        queue.offer(&[(at, 4, WRITE)]);
        machine.write(0x50, 0);
        assert_eq!(queue.wait().1, 4);
    }
}

//
#[test]
fn notifications_of_queues_that_are_not_there_are_nothing() {
    let mut machine = Machine::new(Echo::new("notify-all"));
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 16);
    machine.go();
    echoes(&mut machine, &mut queue);
    idles("notify-all");
    // It waits for a kick, and none of these is one.
    let at = machine.put(&[0; 4]);
    queue.offer(&[(at, 4, WRITE)]);
    for index in (2..=0x1_0001).chain([0x8000_0000, u32::MAX]) {
        machine.write(0x50, index);
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((machine.pin().pulses(), queue.poll()), (1, None));
    machine.kick(&queue);
    assert_eq!(queue.wait().1, 4);
}

//
#[test]
fn a_live_queue_cannot_be_changed() {
    let mut machine = Machine::new(Echo::new("live"));
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 16);
    machine.go();
    let before = machine.dump();
    for at in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        for value in [0, 1, 0x100, u32::MAX] {
            machine.write(0x30, 0);
            machine.write(at, value);
        }
    }
    machine.write(0x44, 1);

    assert_eq!(machine.dump(), before);
    for _ in 0..40 {
        echoes(&mut machine, &mut queue);
    }
}

#[test]
fn a_queue_that_is_taken_back_is_not_touched_any_more_and_the_other_goes_on() {
    let mut machine = Machine::new(Echo::new("back"));
    assert!(machine.negotiate(VERSION_1));
    let mut first = machine.queue(0, 16);
    let mut second = machine.queue(1, 4);
    machine.go();
    echoes(&mut machine, &mut first);
    echoes(&mut machine, &mut second);
    machine.write(0x30, 0);
    machine.write(0x44, 0);
    assert_eq!(machine.read(0x44), 0);
    let at = machine.put(&[0; 4]);
    first.offer(&[(at, 4, WRITE)]);
    machine.kick(&first);
    for _ in 0..10 {
        echoes(&mut machine, &mut second);
    }

    assert_eq!(first.poll(), None);
    machine.write(0x30, 0);
    machine.write(0x44, 1);
    assert_eq!(machine.read(0x44), 0, "not until the next reset");
}

#[test]
fn an_interrupt_bit_stays_until_it_is_acknowledged_and_the_other_stays_after_it() {
    let mut machine = Machine::new(Echo::new("ack"));
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 16);
    machine.go();
    echoes(&mut machine, &mut queue);
    machine.wait_until("the used bit", |machine| machine.read(0x60) == 1);
    // A head that is not there.
    queue.publish(77);
    machine.kick(&queue);
    machine.wait_until("both bits", |machine| machine.read(0x60) == 3);

    machine.write(0x64, 0xffff_fffe);
    assert_eq!(machine.read(0x60), 1);
    machine.write(0x64, 2);
    assert_eq!(machine.read(0x60), 1);
    machine.write(0x64, 1);
    assert_eq!(machine.read(0x60), 0);
}

#[test]
fn a_driver_that_acknowledges_and_then_looks_misses_nothing() {
    let mut machine = Machine::new(Echo::new("edge"));
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 4);
    machine.go();
    let at = machine.put(&[0; 4]);
    let (pin, mut handled) = (machine.pin(), 0);
    for _ in 0..20_000 {
        queue.offer(&[(at, 4, WRITE)]);
        machine.kick(&queue);
        // As an interrupt handler: woken by an edge, it acknowledges, and only then looks.
        loop {
            crate::driver::until("an edge", || (pin.pulses() != handled).then_some(()));
            handled = pin.pulses();
            let status = machine.read(0x60);
            machine.write(0x64, status);
            if queue.poll().is_some() {
                break;
            }
        }
    }
}

//
#[test]
fn reset_gives_back_the_registers_of_power_on_from_every_state() {
    let power_on = idle().dump();
    let mut machine = Machine::new(Echo::new("dump"));
    let echo = machine.dump();
    for status in [0, 1, 3, 11, 15, 15 | FAILED] {
        machine.write(0x70, 0);
        for step in [1, 3, 11, 15].into_iter().filter(|step| step & status == *step) {
            machine.choose(VERSION_1 | EVENT_IDX);
            if step == 15 {
                machine.queue(1, 2);
                machine.queue(0, 16);
            }
            machine.write(0x70, step);
        }
        machine.write(0x70, status);
        for register in [0x14, 0x24, 0x30] {
            machine.write(register, 1);
        }
        machine.point(1, 77, [1, 2, 3]);

        machine.write(0x70, 0);

        // Without the dump's own first choice of selectors.
        assert_eq!([machine.read(0x10), machine.read(0x34)], [echo[4], 256], "from {status:#x}");
        assert_eq!(machine.dump(), echo, "from {status:#x}");
    }
    assert_eq!(power_on[0], echo[0]);
}

#[test]
fn reset_by_the_machine_is_the_same_as_by_the_driver() {
    let mut machine = Machine::new(Echo::new("reset"));
    let power_on = machine.dump();
    works(&mut machine, EVENT_IDX);
    machine.write(0x30, 1);

    machine.device.lock().unwrap().reset();

    assert_eq!(machine.read(0x34), 256);
    assert_eq!(machine.dump(), power_on);
    works(&mut machine, 0);
}

#[test]
fn reset_waits_for_requests_in_flight_and_nothing_is_written_after_it() {
    let gate = Arc::new(Gate::default());
    let mut machine = Machine::new(Echo::behind("flight", Arc::clone(&gate)));
    let power_on = machine.dump();
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 256);
    let at = machine.put(&[0; 64]);
    for i in 0..64 {
        queue.offer(&[(at + i, 1, WRITE)]);
    }
    let closed = gate.closed.lock().unwrap();
    machine.go();
    machine.kick(&queue);
    crate::driver::until("a request at the gate", || (gate.reached.load(Ordering::SeqCst) > 0).then_some(()));
    std::thread::scope(|scope| {
        let reset = scope.spawn(|| machine.write(0x70, 0));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!reset.is_finished(), "a request is still in flight");
        drop(closed);
    });
    let after = machine.bytes(RAM_BASE, 1 << 20);
    let pulses = machine.pin().pulses();

    machine.kick(&queue);
    machine.write(0x50, 0);
    std::thread::sleep(Duration::from_millis(50));

    assert!(machine.bytes(RAM_BASE, 1 << 20) == after);
    assert_eq!(machine.pin().pulses(), pulses);
    assert_eq!(machine.dump(), power_on);
    works(&mut machine, 0);
}

#[test]
fn a_thousand_drivers_one_after_the_other_leave_nothing_behind() {
    let mut machine = Machine::new(Echo::new(&unique("again")));
    works(&mut machine, 0);
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = fds();
    for round in 0..1000u64 {
        assert!(machine.negotiate(VERSION_1 | EVENT_IDX));
        let areas = [RAM_BASE + 0x10_0000, RAM_BASE + 0x11_0000, RAM_BASE + 0x12_0000];
        machine.memory.write_slice(&[0; 1024], GuestAddress(areas[1])).unwrap();
        machine.memory.write_slice(&[0; 1024], GuestAddress(areas[2])).unwrap();
        machine.point(0, 16, areas);
        machine.write(0x44, 1);
        if round % 3 == 0 {
            continue;
        }
        machine.go();
        let [desc, avail, used] = areas;
        let memory = machine.memory.clone();
        let mut queue = Vq { index: 0, size: 16, desc, avail, used, memory, next: 0, slot: 0, seen: 0 };
        queue.offer(&[(RAM_BASE + 0x13_0000, 4, WRITE)]);
        machine.kick(&queue);
        if round % 3 == 1 {
            assert_eq!(queue.wait().1, 4);
        }
    }
    machine.write(0x70, 0);

    // Other tests of this process open and close files too.
    assert!(fds() < before + 500, "{before} files before");
}

/// Any register access a guest can make; the registers that matter come more often.
fn access() -> impl Strategy<Value = (bool, u64, u8, u64)> {
    let registers = prop::sample::select(vec![0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70]);
    let addresses = prop::sample::select(vec![0x80u64, 0x84, 0x90, 0x94, 0xa0, 0xa4]);
    let at = prop_oneof![6 => registers, 3 => addresses, 1 => 0..WINDOW];
    let len = prop_oneof![9 => Just(4u8), 1 => prop::sample::select(vec![1u8, 2, 8])];
    let value = prop_oneof![
        4 => 0u64..16,
        2 => prop::sample::select(vec![1u64, 3, 11, 15, 256, RAM_BASE, RAM_BASE + 0x1000, RAM_BASE + 0x2000]),
        1 => any::<u64>(),
    ];
    (any::<bool>(), at, len, value)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn after_any_register_accesses_a_reset_makes_the_device_work(
        steps in prop::collection::vec(access(), 0..200),
        ram in prop::collection::vec(any::<u64>(), 64),
    ) {
        let mut machine = Machine::new(Echo::new("random"));
        let power_on = machine.dump();
        machine.alloc(0x10_0000, 1);
        for (i, word) in (0u64..).zip(ram) {
            machine.memory.write_obj(word, GuestAddress(RAM_BASE + 0xff8 + 8 * i)).unwrap();
        }
        for (write, at, len, value) in steps {
            let mut data = value.to_le_bytes();
            let data = &mut data[..usize::from(len)];
            if write { machine.store(at, data) } else { machine.access(at, data) }
        }
        machine.write(0x70, 0);
        prop_assert_eq!(machine.dump(), power_on);
        works(&mut machine, 0);
    }
}

#[test]
fn a_model_says_what_its_guest_is_told() {
    let model = MmioModel::new("root", "virtio-blk", Interface::Modern, Idle::new());
    let request = model.request();

    assert_eq!((request.id.as_str(), request.kind.as_str()), ("root", "virtio-blk"));
    assert_eq!(request.needs, Needs::Board { registers: 0x200, irq: Some(Trigger::Edge) });
    assert_eq!(request.description.node, "virtio_mmio");
    assert_eq!(request.description.compatible, ["virtio,mmio"]);
    assert_eq!(request.description.properties, [("dma-coherent".to_owned(), Property::Flag)]);
}

#[test]
fn a_model_builds_one_device() {
    let host = BenchHost::new(1 << 20);
    let model = MmioModel::new("root", "virtio-blk", Interface::Modern, Idle::new());
    let slot = Slot { windows: vec![AddressRange::fixed(0, WINDOW)], irq: None };

    assert!(model.build(&slot, &host).is_ok());
    assert_eq!(model.build(&slot, &host).err().unwrap().to_string(), "device root: it was built before");
}

#[test]
fn a_bit_that_is_not_acknowledged_makes_no_second_edge() {
    let mut machine = Machine::new(Echo::new(&unique("edge")));
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 16);
    machine.go();
    let at = machine.put(&[0; 4]);

    machine.ask(&mut queue, &[(at, 4, WRITE)]);
    machine.wait_until("an interrupt", |machine| machine.pin().pulses() == 1);
    machine.ask(&mut queue, &[(at, 4, WRITE)]);
    machine.ask(&mut queue, &[(at, 4, WRITE)]);
    assert_eq!(machine.pin().pulses(), 1);
    machine.acknowledge();
    machine.ask(&mut queue, &[(at, 4, WRITE)]);

    machine.wait_until("the next edge", |machine| machine.pin().pulses() == 2);
}
