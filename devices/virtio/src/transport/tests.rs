//! What holds on every transport, seen through each.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::{AddressRange, PaBits};

use crate::driver::{
    ECHO, EVENT_IDX, Echo, Face, Gate, INDIRECT, Machine, VERSION_1, Vq, WRITE, unique, until,
};

const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;
const DRIVER_OK: u32 = 4;
const ANY_LAYOUT: u64 = 1 << 27;

fn echo(face: Face) -> Machine {
    Machine::with_face(face, Echo::new(&unique("echo")))
}

fn live(machine: &mut Machine, features: u64) -> Vq {
    assert!(machine.negotiate(VERSION_1 | features));
    let queue = machine.queue(0, 16);
    machine.go();
    queue
}

fn echoes(machine: &mut Machine, queue: &mut Vq) {
    let at = machine.put(&[0; 4]);
    assert_eq!(machine.ask(queue, &[(at, 4, WRITE)]), 4);
    assert_eq!(machine.bytes(at, 4), [ECHO; 4]);
}

fn works(machine: &mut Machine) {
    let mut queue = live(machine, 0);
    echoes(machine, &mut queue);
}

fn each(test: impl Fn(Face)) {
    for face in Face::ALL {
        eprintln!("on {face:?}");
        test(face);
    }
}

/// The whole rule for features that are agreeable: what status follows on a write.
fn next_status(face: Face, before: u32, written: u32) -> u32 {
    let kept = before & !NEEDS_RESET;
    let may: &[u32] = match (kept, face.is_legacy()) {
        _ if written == 0 => return 0,
        (0, _) => &[1],
        (1, _) => &[3],
        (3, false) => &[11],
        (3, true) => &[7, 11],
        (11, _) => &[15],
        _ => &[],
    };
    match written & !NEEDS_RESET {
        _ if kept & FAILED != 0 => before,
        written if written == kept | FAILED => before | FAILED,
        written if may.contains(&written) => before & NEEDS_RESET | written,
        _ => before,
    }
}

// C-004, C-005, C-105, R-03
#[test]
fn status_moves_by_one_bit_at_a_time_from_every_state_for_every_write() {
    each(|face| {
        let machine = echo(face);
        let write = |status| {
            machine.choose(VERSION_1);
            machine.set_status(status);
        };
        let paths: [&[u32]; 6] = [&[], &[1], &[1, 3], &[1, 3, 11], &[1, 3, 11, 15], &[1, 3, 7]];
        for path in paths {
            for written in 0..256 {
                write(0);
                path.iter().for_each(|status| write(*status));
                let before = machine.status();

                write(written);

                assert_eq!(machine.status(), next_status(face, before, written), "{before:#x}, {written:#x}");
            }
        }
    });
}

// C-021, C-104, C-110, C-111, C-166
#[test]
fn a_modern_driver_is_offered_version_1_and_a_legacy_one_any_layout_and_no_more_than_32_bits() {
    each(|face| {
        let offered = echo(face).offered();
        let own = if face.is_legacy() { ANY_LAYOUT } else { VERSION_1 };
        assert_eq!(offered, own | INDIRECT | EVENT_IDX);
    });
}

// C-012
#[test]
fn what_was_not_offered_is_refused_or_for_a_legacy_driver_dropped() {
    each(|face| {
        let mut machine = echo(face);
        if face.is_legacy() {
            assert!(machine.negotiate(1 << 3));
            machine.queue(0, 16);
            machine.go();
            assert_eq!(machine.status(), 7);
        } else {
            assert!(!machine.negotiate(VERSION_1 | 1 << 3));
            assert!(!machine.negotiate(0));
            assert!(!machine.negotiate(VERSION_1 | 1 << 63));
        }
        works(&mut machine);
    });
}

#[test]
fn a_device_works_through_every_face_and_again_after_a_reset() {
    each(|face| {
        let mut machine = echo(face);
        for features in [0, EVENT_IDX, INDIRECT | EVENT_IDX] {
            let mut queue = live(&mut machine, features);
            for _ in 0..20 {
                echoes(&mut machine, &mut queue);
            }
        }
    });
}

// C-107, C-108
#[test]
fn a_legacy_queue_is_served_before_driver_ok_and_a_modern_one_is_not() {
    each(|face| {
        let mut machine = echo(face);
        assert!(machine.negotiate(VERSION_1));
        let mut queue = machine.queue(0, 16);
        let at = machine.put(&[0; 4]);
        queue.offer(&[(at, 4, WRITE)]);
        machine.kick(&queue);
        if face.is_legacy() {
            assert_eq!(queue.wait(), (0, 4));
            machine.go();
            echoes(&mut machine, &mut queue);
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(queue.poll(), None);
        machine.go();
        assert_eq!(queue.wait(), (0, 4));
    });
}

#[test]
fn a_legacy_driver_may_add_a_queue_while_the_first_one_works() {
    each(|face| {
        let mut machine = echo(face);
        assert!(machine.negotiate(VERSION_1));
        let mut first = machine.queue(0, 16);
        if face.is_legacy() {
            echoes(&mut machine, &mut first);
        }
        let mut second = machine.queue(1, 4);
        machine.go();
        echoes(&mut machine, &mut second);
        echoes(&mut machine, &mut first);
        assert_eq!(first.used_index(), if face.is_legacy() { 2 } else { 1 });
    });
}

// C-100, C-101, F.5.1
#[test]
fn page_0_takes_a_legacy_queue_out_of_use_and_only_that_one() {
    each(|face| {
        if !face.is_legacy() {
            return;
        }
        let mut machine = echo(face);
        assert!(machine.negotiate(0));
        let mut first = machine.queue(0, 16);
        let mut second = machine.queue(1, 4);
        machine.go();
        echoes(&mut machine, &mut second);

        machine.select(1);
        assert!(machine.is_ready());
        machine.set_pfn(0);

        assert!(!machine.is_ready());
        let at = machine.put(&[0; 4]);
        second.offer(&[(at, 4, WRITE)]);
        machine.kick(&second);
        echoes(&mut machine, &mut first);
        assert_eq!(second.poll(), None);
        machine.select(0);
        assert!(machine.is_ready());
        machine.set_status(0);
        assert!(!machine.is_ready());
    });
}

// F.5.6, F.5.8, C-097
#[test]
fn a_legacy_queue_outside_ram_reads_page_0_asks_for_nothing_and_harms_nothing() {
    each(|face| {
        if !face.is_legacy() {
            return;
        }
        let mut machine = echo(face);
        assert!(machine.negotiate(0));
        machine.select(0);
        for pfn in [1, 0x3_ffff, 0x4_1000, 0x10_0000, 0x100_0000, u32::MAX] {
            machine.place(16, [u64::from(pfn) << 12, 0, 0]);
            assert!(!machine.is_ready(), "{pfn:#x}");
        }
        machine.go();
        assert_eq!((machine.status(), machine.pin().pulses()), (7, 0));
        works(&mut machine);
    });
}

// R-01, C-082, C-134
#[test]
fn a_live_queue_keeps_its_size_and_places_whatever_is_written() {
    each(|face| {
        let mut machine = echo(face);
        let mut queue = live(&mut machine, 0);
        machine.select(0);
        machine.place(8, [RAM_BASE + 0x10_0000, RAM_BASE + 0x11_0000, RAM_BASE + 0x12_0000]);
        machine.enable();

        assert!(machine.is_ready());
        for _ in 0..40 {
            echoes(&mut machine, &mut queue);
        }
    });
}

// C-016, R-13
#[test]
fn reset_gives_back_the_registers_of_power_on() {
    each(|face| {
        let mut machine = echo(face);
        let power_on = machine.dump();
        for status in [0, 1, 3, DRIVER_OK | 3, 11, 15, FAILED | 15] {
            assert!(machine.negotiate(VERSION_1 | EVENT_IDX));
            machine.queue(1, 2);
            machine.queue(0, 16);
            machine.go();
            machine.set_status(status);
            machine.offered_word(1);
            machine.choose_word(1, 7);
            machine.select(1);

            machine.set_status(0);

            assert_eq!(machine.dump(), power_on, "from {status:#x}");
        }
        works(&mut machine);
    });
}

// C-015, R-46
#[test]
fn reset_waits_for_requests_in_flight_and_nothing_is_written_after_it() {
    each(|face| {
        let gate = Arc::new(Gate::default());
        let mut machine = Machine::with_face(face, Echo::behind(&unique("flight"), Arc::clone(&gate)));
        // Before the first queue: a legacy one is looked at as soon as it is there.
        let closed = gate.closed.lock().unwrap();
        assert!(machine.negotiate(VERSION_1));
        let mut queue = machine.queue(0, 256);
        let at = machine.put(&[0; 64]);
        for i in 0..64 {
            queue.offer(&[(at + i, 1, WRITE)]);
        }
        machine.go();
        machine.kick(&queue);
        until("a request at the gate", || (gate.reached.load(Ordering::SeqCst) > 0).then_some(()));
        std::thread::scope(|scope| {
            let reset = scope.spawn(|| machine.set_status(0));
            std::thread::sleep(Duration::from_millis(30));
            assert!(!reset.is_finished(), "a request is still in flight");
            drop(closed);
        });
        let after = machine.bytes(RAM_BASE, 1 << 20);

        machine.kick(&queue);
        machine.notify(0);
        std::thread::sleep(Duration::from_millis(30));

        assert!(machine.bytes(RAM_BASE, 1 << 20) == after);
        works(&mut machine);
    });
}

// C-091, R-07
#[test]
fn notifications_of_queues_that_are_not_there_are_nothing() {
    each(|face| {
        let mut machine = echo(face);
        let mut queue = live(&mut machine, 0);
        let past = if face == Face::Pci { 2..=1023 } else { 2..=0xffff };
        past.for_each(|index| machine.notify(index));

        echoes(&mut machine, &mut queue);
    });
}

// F.5: the vectors, through each face
#[test]
fn the_queue_vectors_hold_on_every_transport() {
    const GIB: u64 = 1 << 30;
    each(|face| {
        let ram = [AddressRange::fixed(GIB, 63 * GIB)];
        let host = BenchHost::with_ram(&ram, PaBits::new(36).unwrap());
        let machine = Machine::build(host, face, Echo::new(&unique("vector")));
        let taken = |areas: [u64; 3]| {
            assert!(machine.negotiate(VERSION_1));
            machine.select(0);
            machine.place(256, areas);
            machine.enable();
            machine.is_ready()
        };
        let (avail, used) = (2 * GIB, 3 * GIB);
        if face.is_legacy() {
            let pages = [0x4_0000, 0x3_ffff, 0xff_fffd, 0xff_fffe, 0x100_0000, 0xffff_ffff, 0];
            let results = pages.map(|pfn: u64| taken([pfn << 12, 0, 0]));
            assert_eq!(results, [true, false, true, false, false, false, false]);
            return;
        }
        assert!(taken([0xf_ffff_f000, avail, used]));
        assert!(!taken([0xf_ffff_f010, avail, used]));
        assert!(!taken([GIB, 0xffff_ffff_ffff_fffe, used]));
        assert!(!taken([GIB + 8, avail, used]));
        assert_eq!(machine.status(), 11 | NEEDS_RESET);
    });
}
