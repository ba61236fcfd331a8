use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::{AddressRange, PaBits};

use super::*;
use crate::driver::{EVENT_IDX, Face, Machine, RAM, Spot, VERSION_1, Vq, WRITE, idles, unique, until};

const SIZE: u64 = 1;
const EMERG: u64 = 4;
const TERMINAL: Size = Size { cols: 80, rows: 0x1234 };
/// What waits for a sink that takes nothing, besides what it has been given.
const AHEAD: usize = 64 << 10;

fn each(test: impl Fn(Face)) {
    for face in Face::ALL {
        eprintln!("on {face:?}");
        test(face);
    }
}

/// What was printed, by a sink that takes nothing while the gate is held.
#[derive(Clone, Default)]
struct Paper {
    gate: Arc<Mutex<()>>,
    pieces: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Paper {
    fn sink(&self) -> Sink {
        let paper = self.clone();
        Box::new(move |bytes| {
            let _open = paper.close();
            paper.pieces.lock().unwrap().push(bytes.to_vec());
        })
    }

    fn close(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap()
    }

    fn text(&self) -> Vec<u8> {
        self.pieces.lock().unwrap().concat()
    }

    /// Waits for as many bytes as `expected` has, and a little longer for those that should not come.
    fn shows(&self, expected: &[u8]) {
        until("output", || (self.text().len() >= expected.len()).then_some(()));
        assert_eq!(self.text(), expected);
    }
}

fn options() -> Options {
    Options { size: Some(TERMINAL), ..Options::new(&unique("con")) }
}

fn console(face: Face) -> (Machine, Input, Paper) {
    let paper = Paper::default();
    let (console, input) = Console::new(paper.sink(), &options()).unwrap();
    (Machine::with_face(face, console), input, paper)
}

fn queues(machine: &mut Machine, features: u64) -> [Vq; 2] {
    assert!(machine.negotiate(VERSION_1 | features));
    let queues = [RECEIVE, TRANSMIT].map(|index| machine.queue(index, 64));
    machine.go();
    queues
}

fn live(face: Face, features: u64) -> (Machine, Input, Paper, [Vq; 2]) {
    let (mut machine, input, paper) = console(face);
    let queues = queues(&mut machine, features);
    (machine, input, paper, queues)
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ (at / 251) as u8).collect()
}

fn said(machine: &mut Machine, bytes: &[u8]) -> (u64, u32, u16) {
    (machine.put(bytes), bytes.len() as u32, 0)
}

/// What [`until`] would wait for comes not.
fn never(what: &str, is: impl Fn() -> bool) {
    std::thread::sleep(Duration::from_millis(50));
    assert!(!is(), "{what}");
}

// C-007, C-010, C-251
#[test]
fn it_has_one_port_and_a_size_only_on_a_terminal() {
    let features = |size| {
        let options = Options { size, ..options() };
        Console::new(Box::new(|_| {}), &options).unwrap().0.features()
    };

    assert_eq!(features(None), EMERG);
    assert_eq!(features(Some(TERMINAL)), SIZE | EMERG);
}

// C-009, C-011
#[test]
fn every_subset_of_its_features_is_accepted_again_and_again() {
    each(|face| {
        let (machine, ..) = console(face);
        for features in [0, SIZE, EMERG, SIZE | EMERG] {
            assert!(machine.negotiate(VERSION_1 | features), "{features:#x}");
            assert!(machine.negotiate(VERSION_1 | features), "{features:#x}");
        }
    });
}

// C-017, C-018, R-08
#[test]
fn the_size_is_read_before_the_driver_runs_and_only_the_host_writes_it() {
    each(|face| {
        let (machine, ..) = console(face);
        let expected = [80, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let config = || machine.get::<16>(machine.spots.config);

        assert_eq!(config(), expected);
        assert!(machine.negotiate(VERSION_1));
        for width in [1, 2, 4, 8] {
            for at in 0..24 {
                machine.put_at(machine.spots.config.plus(at), &vec![0xa5; width]);
            }
        }
        assert_eq!(config(), expected);
    });
}

// C-052
#[test]
fn what_the_guest_prints_comes_out_in_order() {
    each(|face| {
        let (mut machine, _, paper, [_, mut transmit]) = live(face, 0);
        let lines: [&[u8]; 4] = [b"one\n", b"", b"two\0\xff\n", &text(10_000)];

        for line in lines {
            let request = said(&mut machine, line);
            assert_eq!(machine.ask(&mut transmit, &[request]), 0);
        }

        until("an interrupt", || (machine.acknowledge() == 1).then_some(()));
        paper.shows(&lines.concat());
        assert!(paper.pieces.lock().unwrap().iter().all(|piece| piece.len() <= 4096));
    });
}

// R-37, C-033
#[test]
fn output_may_be_split_anywhere() {
    let (mut machine, _, paper, [_, mut transmit]) = live(Face::Mmio, 0);
    let bytes = text(20);
    let at = machine.put(&bytes);
    let mut expected = Vec::new();
    for first in 0..=20 {
        for second in first..=20 {
            let parts = [(0, first), (first, second), (second, 20)]
                .map(|(from, to)| (at + from, (to - from) as u32, 0));
            assert_eq!(machine.ask(&mut transmit, &parts), 0);
            expected.extend(&bytes);
        }
    }

    paper.shows(&expected);
}

// R-37, C-033, C-052
#[test]
fn what_is_typed_fills_buffers_that_are_split_anywhere() {
    let (mut machine, input, _, [mut receive, _]) = live(Face::Mmio, 0);
    for first in 0..=20 {
        for second in first..=20 {
            let at = machine.put(&[0x55; 21]);
            let parts = [(0, first), (first, second), (second, 20)]
                .map(|(from, to)| (at + from, (to - from) as u32, WRITE));
            assert_eq!(input.push(&text(17)), 17);

            assert_eq!(machine.ask(&mut receive, &parts), 17, "split at {first} and {second}");

            assert_eq!(machine.bytes(at, 21), [&text(17)[..], &[0x55; 4]].concat());
        }
    }
}

#[test]
fn what_is_typed_reaches_the_guest_a_buffer_at_a_time() {
    each(|face| {
        let (mut machine, input, _, [mut receive, _]) = live(face, 0);
        let at = machine.alloc(600, 1);
        for place in [0, 3, 6] {
            receive.offer(&[(at + place, 3, WRITE)]);
        }
        machine.kick(&receive);

        assert_eq!(input.push(b"seven k"), 7);

        assert_eq!([(); 3].map(|()| receive.wait().1), [3, 3, 1]);
        assert_eq!(machine.bytes(at, 9), b"seven k\0\0");
        until("an interrupt", || (machine.acknowledge() == 1).then_some(()));
        receive.offer(&[(at, 256, WRITE)]);
        machine.kick(&receive);
        never("a buffer is used while nobody types", || receive.used_index() != 3);
        assert_eq!(machine.acknowledge(), 0, "nor is the guest interrupted");
        assert_eq!(input.push(&text(300)), 300);
        let one = receive.wait().1;
        let two = machine.ask(&mut receive, &[(at, 300, WRITE)]);
        assert_eq!((one, two), (256, 44));
    });
}

#[test]
fn what_is_typed_before_there_is_a_driver_or_a_buffer_waits() {
    each(|face| {
        let (mut machine, input, _) = console(face);
        input.push(b"early ");
        let [mut receive, _] = queues(&mut machine, 0);
        input.push(b"bird ");
        let at = machine.alloc(64, 1);
        let first = machine.ask(&mut receive, &[(at, 8, WRITE)]);
        input.push(b"again");

        machine.set_status(0);
        let [mut receive, _] = queues(&mut machine, 0);
        let second = machine.ask(&mut receive, &[(at + 8, 50, WRITE)]);

        assert_eq!((first, second), (8, 8));
        assert_eq!(machine.bytes(at, 16), b"early bird again");
    });
}

//
#[test]
fn a_guest_that_does_not_read_holds_up_who_types_and_nothing_else() {
    let id = unique("con");
    let (device, input) = Console::new(Box::new(|_| {}), &Options::new(&id)).unwrap();
    let mut machine = Machine::new(device);
    let [mut receive, _] = queues(&mut machine, 0);
    let hears = || input.room_event().read().is_ok();

    assert_eq!(
        (input.room(1), input.push(&text(INPUT_ROOM - 2)), input.room(2)),
        (INPUT_ROOM, INPUT_ROOM - 2, 2)
    );
    assert!(!hears());
    assert_eq!([input.push(b"abc"), input.push(b"d"), input.room(1)], [2, 0, 0]);
    idles(&id);

    let at = machine.alloc(INPUT_ROOM as u64, 1);
    let read = |receive: &mut Vq, from: usize| machine.ask(receive, &[(at + from as u64, 256, WRITE)]);
    assert_eq!((0..7).map(|i| read(&mut receive, 256 * i)).sum::<u32>(), 7 * 256);
    assert!(!hears(), "less than half of the room is free");
    assert_eq!(read(&mut receive, 7 * 256), 256);
    until("the event", || hears().then_some(()));
    assert_eq!(input.room(INPUT_ROOM), INPUT_ROOM / 2);
    assert_eq!((8..16).map(|i| read(&mut receive, 256 * i)).sum::<u32>(), 8 * 256);
    assert!(!hears(), "who was told is not told again");
    assert_eq!(machine.bytes(at, INPUT_ROOM), [&text(INPUT_ROOM - 2)[..], b"ab"].concat());
    idles(&id);
}

//
#[test]
fn who_asks_for_more_room_than_there_is_hears_when_there_is() {
    let (mut machine, input, _, [mut receive, _]) = live(Face::Mmio, 0);
    input.push(&text(INPUT_ROOM - 5));
    let at = machine.alloc(256, 1);
    let mut read = || (0..16).map(|_| machine.ask(&mut receive, &[(at, 256, WRITE)])).sum::<u32>();

    assert_eq!(input.room(5), 5);
    assert_eq!(read(), INPUT_ROOM as u32 - 5);
    assert!(input.room_event().read().is_err(), "it had found enough");

    input.push(&text(INPUT_ROOM - 5));
    assert_eq!(input.room(6), 5);
    assert_eq!(read(), INPUT_ROOM as u32 - 5);
    assert!(input.room_event().read().is_ok());
}

#[test]
fn a_megabyte_typed_by_another_thread_arrives_whole() {
    let (mut machine, input, _, [mut receive, _]) = live(Face::Mmio, 0);
    let bytes = text(1 << 20);
    let typed = bytes.clone();
    let typist = std::thread::spawn(move || {
        let mut rest = &typed[..];
        while !rest.is_empty() {
            rest = &rest[input.push(rest)..];
            if !rest.is_empty() {
                until("room", || input.room_event().read().ok());
            }
        }
    });

    let at = machine.alloc(200, 1);
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let count = machine.ask(&mut receive, &[(at, 200, WRITE)]);
        got.extend(machine.bytes(at, count as usize));
    }

    typist.join().unwrap();
    assert!(got == bytes);
}

// C-056
#[test]
fn kicks_are_asked_for_again_when_a_ring_is_empty() {
    for features in [0, EVENT_IDX] {
        let (mut machine, input, _, [mut receive, mut transmit]) = live(Face::Mmio, features);
        let at = machine.alloc(100, 1);
        input.push(&text(200));
        machine.ask(&mut receive, &[(at, 100, WRITE)]);
        machine.ask(&mut transmit, &[(at, 100, 0)]);

        for (queue, flags) in [(&mut receive, WRITE), (&mut transmit, 0)] {
            let before = queue.slot;
            queue.offer(&[(at, 100, flags)]);
            until("to be wanted", || queue.wants_kick(features != 0, before).then_some(()));
            machine.kick(queue);
            queue.wait();
        }
    }
}

// C-250
#[test]
fn an_emergency_is_heard_in_every_state_of_the_driver() {
    each(|face| {
        let (mut machine, _, paper) = console(face);
        let cry =
            |machine: &Machine, byte: u8| machine.put_at(machine.spots.config.plus(8), &[byte, 1, 2, 3]);
        cry(&machine, b'a');
        for (status, byte) in [(1, b'b'), (3, b'c')] {
            machine.set_status(status);
            cry(&machine, byte);
        }
        queues(&mut machine, 0);
        cry(&machine, b'd');
        machine.set_status(machine.status() | 128);
        cry(&machine, b'e');
        machine.set_status(0);
        cry(&machine, b'f');

        paper.shows(b"abcdef");
    });
}

// C-250, C-018
#[test]
fn an_emergency_is_the_lowest_byte_of_its_field_in_any_width() {
    each(|face| {
        let (machine, _, paper) = console(face);
        let mut expected = Vec::new();
        for width in [1, 2, 4, 8] {
            for at in 0..20u64 {
                let data: Vec<u8> = (0..width).map(|i| b'a' + (at + i) as u8).collect();
                machine.put_at(machine.spots.config.plus(at), &data);
                if (at..at + width).contains(&8) {
                    expected.push(b'a' + 8);
                }
            }
        }

        paper.shows(&expected);
        assert_eq!(machine.get(machine.spots.config.plus(8)), [0; 4], "there is nothing to read");
    });
}

#[test]
fn an_emergency_is_heard_behind_output_that_waits_and_is_bounded_too() {
    let (mut machine, _, paper, [_, mut transmit]) = live(Face::Mmio, 0);
    let closed = paper.close();
    let bytes = text(100_000);
    let request = said(&mut machine, &bytes);
    transmit.offer(&[request]);
    machine.kick(&transmit);
    let cry = |machine: &Machine| machine.put_at(machine.spots.config.plus(8), b"!");

    // The guest's worker stops at some place in the request; then emergencies are all that comes.
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    (0..20_000).for_each(|_| cry(&machine));
    assert!(start.elapsed() < Duration::from_secs(10));
    machine.set_status(0);
    drop(closed);

    // What the sink had, what waited, and what fits on top.
    let cries = |text: &[u8]| text.iter().rev().take_while(|byte| **byte == b'!').count();
    until("all of it", || (cries(&paper.text()) >= 4096).then_some(()));
    never("more than there is room for", || paper.text().len() > 4096 + AHEAD + 4096);
    let text = paper.text();
    assert!(bytes.starts_with(&text[..text.len() - cries(&text)]));
}

//
#[test]
fn a_slow_sink_holds_up_the_output_and_nothing_else() {
    each(|face| {
        let (id, paper) = (unique("con"), Paper::default());
        let (console, input) = Console::new(paper.sink(), &Options::new(&id)).unwrap();
        let mut machine = Machine::with_face(face, console);
        let [mut receive, mut transmit] = queues(&mut machine, 0);
        let bytes = text(1 << 20);
        let at = machine.put(&bytes);
        let closed = paper.close();
        for part in 0..16 {
            transmit.offer(&[(at + (part << 16), 1 << 16, 0)]);
        }
        machine.kick(&transmit);

        let into = machine.alloc(16, 1);
        input.push(b"still");
        assert_eq!(machine.ask(&mut receive, &[(into, 16, WRITE)]), 5);
        idles(&id);
        assert!(transmit.used_index() <= 2, "the guest runs ahead");
        drop(closed);

        (0..16).for_each(|_| assert_eq!(transmit.wait().1, 0));
        paper.shows(&bytes);
        idles(&id);
    });
}

// C-015, R-13
#[test]
fn a_reset_does_not_wait_for_a_slow_sink_and_forgets_what_it_had_no_room_for() {
    each(|face| {
        let (mut machine, _, paper, [_, mut transmit]) = live(face, 0);
        let closed = paper.close();
        let bytes = text(1 << 20);
        let request = said(&mut machine, &bytes);
        transmit.offer(&[request]);
        machine.kick(&transmit);
        std::thread::sleep(Duration::from_millis(20));

        let start = Instant::now();
        machine.set_status(0);
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(machine.status(), 0);

        let [_, mut transmit] = queues(&mut machine, 0);
        let request = said(&mut machine, b"new");
        transmit.offer(&[request]);
        machine.kick(&transmit);
        drop(closed);
        transmit.wait();
        until("the new line", || paper.text().ends_with(b"new").then_some(()));
        let text = paper.text();
        assert!(bytes.starts_with(&text[..text.len() - 3]));
        assert!(text.len() <= 4096 + AHEAD + 3);
    });
}

#[test]
fn a_device_that_is_stopped_and_goes_on_says_nothing_twice() {
    let (mut machine, _, paper, [_, mut transmit]) = live(Face::Pci, 0);
    let bytes = text(1 << 20);
    let request = said(&mut machine, &bytes);
    let master = |machine: &Machine, on: bool| {
        machine.put_at(Spot { window: 0, byte: 4 }, &[if on { 7 } else { 3 }, 0]);
    };
    let closed = paper.close();
    transmit.offer(&[request]);
    machine.kick(&transmit);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(2));
        master(&machine, false);
        master(&machine, true);
    }
    drop(closed);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_micros(300));
        master(&machine, false);
        master(&machine, true);
    }

    assert_eq!(transmit.wait().1, 0);

    until("all of it", || (paper.text().len() >= bytes.len()).then_some(()));
    assert!(paper.text() == bytes);
}

#[test]
fn a_queue_that_is_taken_out_of_use_begins_anew() {
    for face in [Face::MmioLegacy, Face::PciLegacy] {
        let (mut machine, _, paper, [_, mut transmit]) = live(face, 0);
        let closed = paper.close();
        let request = said(&mut machine, &text(1 << 20));
        transmit.offer(&[request]);
        machine.kick(&transmit);
        std::thread::sleep(Duration::from_millis(20));
        machine.select(TRANSMIT);
        machine.set_pfn(0);

        let mut transmit = machine.queue(TRANSMIT, 64);
        let request = said(&mut machine, &[b'.'; 100]);
        transmit.offer(&[request]);
        machine.kick(&transmit);
        drop(closed);

        transmit.wait();
        until("a line", || paper.text().ends_with(&[b'.'; 100]).then_some(()));
    }
}

#[test]
fn what_was_printed_is_out_when_the_device_is_gone() {
    // One piece that the sink has, and more that it takes longer for than the end is patient with one.
    for len in [3, 50_000] {
        let (paper, begun) = (Paper::default(), Arc::new(Mutex::new(false)));
        let (mut sink, began) = (paper.sink(), Arc::clone(&begun));
        let slow: Sink = Box::new(move |bytes| {
            *began.lock().unwrap() = true;
            std::thread::sleep(Duration::from_millis(150));
            sink(bytes);
        });
        let mut machine = Machine::new(Console::new(slow, &options()).unwrap().0);
        let [_, mut transmit] = queues(&mut machine, 0);
        let bytes = text(len);
        let request = said(&mut machine, &bytes);
        machine.ask(&mut transmit, &[request]);
        until("the sink", || begun.lock().unwrap().then_some(()));

        drop(machine);

        assert!(paper.text() == bytes);
    }
}

#[test]
fn a_sink_that_never_comes_back_does_not_hold_up_the_end() {
    let (mut machine, _, paper, [_, mut transmit]) = live(Face::Mmio, 0);
    let _closed = paper.close();
    let request = said(&mut machine, b"nobody");
    machine.ask(&mut transmit, &[request]);

    let start = Instant::now();
    drop(machine);

    assert!(start.elapsed() < Duration::from_secs(15));
}

//
#[test]
fn buffers_of_4_gib_cost_no_memory() {
    const GIB: u64 = 1 << 30;
    each(|face| {
        let paper = Paper::default();
        let closed = paper.close();
        let host = BenchHost::with_ram(&[AddressRange::fixed(RAM_BASE, 5 * GIB)], PaBits::MAX);
        let (console, input) = Console::new(paper.sink(), &options()).unwrap();
        let mut machine = Machine::build(host, face, console);
        let [mut receive, mut transmit] = queues(&mut machine, 0);
        let large = RAM_BASE + GIB / 2;
        input.push(b"hello");
        let before = peak();

        for _ in 0..8 {
            transmit.offer(&[(large, u32::MAX, 0)]);
            machine.kick(&transmit);
        }
        assert_eq!(machine.ask(&mut receive, &[(large, u32::MAX, WRITE)]), 5);
        assert_eq!(machine.bytes(large, 6), b"hello\0");
        never("the guest runs ahead", || transmit.used_index() > 0);

        machine.set_status(0);
        // Other tests run beside this one.
        assert!(peak().saturating_sub(before) < GIB);
        drop(closed);
        never("there was room for it", || paper.text().len() > 4096 + AHEAD);
    });
}

/// The most memory this process ever had, in bytes, as the kernel's counters have it: nearly.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

// C-035, C-036, C-039
#[test]
fn buffers_of_the_wrong_direction_are_refused() {
    each(|face| {
        let (mut machine, input, paper, [mut receive, mut transmit]) = live(face, 0);
        let at = machine.put(b"readable");
        input.push(b"typed");

        assert_eq!(machine.ask(&mut receive, &[(at, 8, 0)]), 0);
        assert_eq!(machine.ask(&mut receive, &[(at, 4, 0), (at + 4, 4, WRITE)]), 0);
        assert_eq!(machine.ask(&mut transmit, &[(at, 8, WRITE)]), 0);
        assert_eq!(machine.ask(&mut transmit, &[(at, 4, 0), (at + 4, 4, WRITE)]), 0);
        assert_eq!(machine.bytes(at, 8), b"readable");

        assert_eq!(machine.ask(&mut receive, &[(at, 8, WRITE)]), 5, "nothing typed was lost");
        assert_eq!(machine.ask(&mut transmit, &[(at, 5, 0)]), 0);
        paper.shows(b"typed");
    });
}

//
#[test]
fn buffers_outside_ram_come_back_with_nothing_done_and_nothing_typed_is_lost() {
    each(|face| {
        let (mut machine, input, paper, [mut receive, mut transmit]) = live(face, 0);
        input.push(b"typed");
        let wild = [0x200_0050, 0, RAM_BASE - 4, RAM_BASE + RAM, RAM_BASE + RAM - 4, u64::MAX - 7];
        for round in 0..5_000 {
            let at = wild[round % wild.len()];
            assert_eq!(machine.ask(&mut receive, &[(at, 8, WRITE)]), 0);
            assert_eq!(machine.ask(&mut transmit, &[(at, 8, 0)]), 0);
        }

        let at = machine.alloc(8, 1);
        assert_eq!(machine.ask(&mut receive, &[(at, 8, WRITE)]), 5);
        assert_eq!(machine.ask(&mut transmit, &[(at, 5, 0)]), 0);
        paper.shows(b"typed");
    });
}

// C-019, C-020
#[test]
fn the_guest_is_told_when_its_terminal_has_another_size() {
    each(|face| {
        let (mut machine, input, _) = console(face);
        queues(&mut machine, SIZE);
        let size = |machine: &Machine| {
            let [c, d, r, s] = machine.get(machine.spots.config);
            Size { cols: u16::from_le_bytes([c, d]), rows: u16::from_le_bytes([r, s]) }
        };
        assert_eq!(machine.acknowledge(), 0);
        assert_eq!(size(&machine), TERMINAL);

        let larger = Size { cols: 132, rows: 50 };
        input.resize(larger);
        assert_eq!((machine.acknowledge(), size(&machine)), (2, larger));
        input.resize(larger);
        assert_eq!(machine.acknowledge(), 0, "it is the same");

        queues(&mut machine, 0);
        input.resize(TERMINAL);
        assert_eq!((machine.acknowledge(), size(&machine)), (0, TERMINAL), "it did not ask to be told");
        machine.set_status(0);
        input.resize(larger);
        assert_eq!(machine.acknowledge(), 0);
    });
}

// C-016, R-13
#[test]
fn a_reset_gives_back_the_state_of_power_on() {
    each(|face| {
        let (mut machine, input, _) = console(face);
        let power_on = machine.dump();
        let [mut receive, mut transmit] = queues(&mut machine, SIZE);
        let at = machine.alloc(8, 1);
        input.push(b"typed");
        machine.ask(&mut receive, &[(at, 8, WRITE)]);
        machine.ask(&mut transmit, &[(at, 8, 0)]);
        input.resize(Size { cols: 1, rows: 2 });
        machine.get::<4>(machine.spots.config);
        input.resize(TERMINAL);

        machine.set_status(0);

        assert_eq!(machine.dump(), power_on);
    });
}
