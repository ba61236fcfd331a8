//! What holds on every transport, seen through each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::{AddressRange, PaBits};

use crate::config::Config;
use crate::device::{Start, StartError, VirtioDevice};
use crate::driver::{
    ECHO, EVENT_IDX, Echo, Face, Gate, INDIRECT, Machine, Spot, VERSION_1, Vq, WRITE, idles, unique, until,
};
use crate::ring::Ring;

mod hostile;

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

/// An echo with queues of these sizes, whose driver is told when the configuration changes.
struct Shaped(Echo, &'static [u16]);

impl VirtioDevice for Shaped {
    fn device_type(&self) -> u32 {
        self.0.device_type()
    }

    fn features(&self) -> u64 {
        self.0.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.1
    }

    fn config(&self) -> &Arc<Config> {
        self.0.config()
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        self.config().attach(&start.interrupt);
        self.0.start(start)
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.config().detach();
        self.0.stop()
    }
}

fn shaped(face: Face, sizes: &'static [u16]) -> (Machine, Arc<Config>) {
    let device = Shaped(Echo::new(&unique("shaped")), sizes);
    let config = Arc::clone(device.config());
    (Machine::with_face(face, device), config)
}

/// An echo that the host has nothing left for.
struct Refusing(Echo);

impl VirtioDevice for Refusing {
    fn device_type(&self) -> u32 {
        self.0.device_type()
    }

    fn features(&self) -> u64 {
        self.0.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.0.queue_sizes()
    }

    fn config(&self) -> &Arc<Config> {
        self.0.config()
    }

    fn start(&mut self, _: Start) -> Result<(), StartError> {
        Err(StartError { wanted: "a thread", source: std::io::ErrorKind::WouldBlock.into() })
    }

    fn stop(&mut self) -> Vec<Ring> {
        Vec::new()
    }
}

/// The whole rule for features that are agreeable: what status follows on a write. Legacy drivers of firmware write
/// ACKNOWLEDGE and DRIVER at once.
fn next_status(face: Face, before: u32, written: u32) -> u32 {
    let kept = before & !NEEDS_RESET;
    let may: &[u32] = match (kept, face.is_legacy()) {
        _ if written == 0 => return 0,
        (0, false) => &[1],
        (0, true) => &[1, 3],
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

// F.5.6, F.5.8, C-097, R-10
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

// F.5.8, R-11
#[test]
fn a_legacy_queue_that_comes_too_late_for_a_device_that_broke_reads_page_0() {
    for face in [Face::MmioLegacy, Face::PciLegacy] {
        let mut machine = echo(face);
        let queue = live(&mut machine, 0);
        machine.select(0);
        let first = machine.is_ready();
        queue.set_index(0x8000);
        machine.kick(&queue);
        std::thread::sleep(Duration::from_millis(20));

        machine.queue(1, 4);

        machine.select(1);
        assert_eq!((first, machine.is_ready()), (true, false));
        machine.select(0);
        assert!(machine.is_ready(), "nothing was said about this one");
        works(&mut machine);
    }
}

// F.5.8, R-11
#[test]
fn a_queue_that_is_taken_out_of_a_legacy_device_that_broke_takes_the_others_along_and_they_read_page_0() {
    for face in [Face::MmioLegacy, Face::PciLegacy] {
        let mut machine = echo(face);
        let before = machine.dump();
        assert!(machine.negotiate(0));
        let (broken, mut other) = (machine.queue(0, 16), machine.queue(1, 4));
        machine.go();
        broken.set_index(0x8000);
        machine.kick(&broken);
        // One thread serves both, in this order.
        echoes(&mut machine, &mut other);

        machine.select(0);
        machine.set_pfn(0);

        let at = machine.put(&[0; 4]);
        other.offer(&[(at, 4, WRITE)]);
        machine.kick(&other);
        machine.notify(1);
        let ready = [0, 1].map(|index| {
            machine.select(index);
            machine.is_ready()
        });
        assert_eq!((ready, machine.status(), other.poll()), ([false; 2], 7, None));
        machine.place(4, [other.desc, 0, 0]);
        assert!(!machine.is_ready(), "it serves nothing before its reset");
        machine.set_status(0);
        assert_eq!(machine.dump(), before);
        works(&mut machine);
    }
}

// F.5.8, R-11
#[test]
fn a_legacy_queue_that_a_device_cannot_start_with_reads_page_0() {
    for face in [Face::MmioLegacy, Face::PciLegacy] {
        let mut machine = Machine::with_face(face, Refusing(Echo::new(&unique("refusing"))));
        assert!(machine.negotiate(VERSION_1));

        machine.queue(0, 16);

        assert!(!machine.is_ready());
        machine.notify(0);
        machine.set_status(0);
        assert_eq!(machine.status(), 0);
    }
}

// R-01, C-082, C-134
#[test]
fn a_live_queue_keeps_its_size_and_places_whatever_is_written() {
    each(|face| {
        let mut machine = echo(face);
        let mut queue = live(&mut machine, 0);
        machine.select(0);
        let before = machine.dump();
        machine.place(8, [RAM_BASE + 0x10_0000, RAM_BASE + 0x11_0000, RAM_BASE + 0x12_0000]);
        machine.enable();

        assert!(machine.is_ready());
        assert_eq!(machine.dump(), before);
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
        let id = unique("bells");
        let mut machine = Machine::with_face(face, Echo::new(&id));
        let mut queue = live(&mut machine, 0);
        echoes(&mut machine, &mut queue);
        idles(&id);
        // It waits for a kick, and none of these is one.
        let at = machine.put(&[0; 4]);
        queue.offer(&[(at, 4, WRITE)]);
        let past = if face == Face::Pci { 2..=1023 } else { 2..=0xffff };
        past.for_each(|index| machine.notify(index));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(queue.poll(), None);

        machine.kick(&queue);
        assert_eq!(queue.wait().1, 4);
    });
}

// F.5: the vectors, through each face, R-10
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

// C-003, C-019, C-020, C-078, C-128, R-15
#[test]
fn a_change_of_the_configuration_is_told_and_has_another_generation_if_it_was_read() {
    each(|face| {
        let (mut machine, config) = shaped(face, &[16]);
        let mut queue = live(&mut machine, 0);
        let generation = |machine: &Machine| match face {
            Face::Mmio => machine.read(0xfc).to_le_bytes()[0],
            Face::Pci => machine.get::<1>(machine.spots.common.plus(21))[0],
            // Their drivers read until twice the same comes.
            Face::MmioLegacy | Face::PciLegacy => 0,
        };
        for value in 11..20 {
            let before = (machine.get::<4>(machine.spots.config), generation(&machine));
            assert_eq!((machine.get::<4>(machine.spots.config), generation(&machine)), before);
            assert_eq!(machine.acknowledge() & 2, 0);

            config.announce(|bytes| bytes[..4].fill(value));

            assert_eq!(machine.acknowledge() & 2, 2);
            let after = generation(&machine);
            assert_eq!(after != before.1, !face.is_legacy());
            // Nobody has read what changes now.
            config.announce(|bytes| bytes[..4].fill(value + 100));
            assert_eq!((machine.acknowledge() & 2, generation(&machine)), (2, after));
            assert_eq!(machine.get::<4>(machine.spots.config), [value + 100; 4]);
        }
        echoes(&mut machine, &mut queue);
    });
}

// C-168, R-15
#[test]
fn a_change_of_the_configuration_is_never_seen_half() {
    each(|face| {
        let (machine, config) = shaped(face, &[16]);
        config.announce(|bytes| bytes.fill(0));
        let racing = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while racing.load(Ordering::Relaxed) {
                    config.announce(|bytes| bytes.iter_mut().for_each(|byte| *byte = !*byte));
                }
            });
            let reads = (0..20_000).map(|_| machine.get::<8>(machine.spots.config));
            let torn = { reads }.find(|bytes| ![[0; 8], [0xff; 8]].contains(bytes));
            // Whatever comes of it, the other thread ends.
            racing.store(false, Ordering::Relaxed);
            assert_eq!(torn, None);
        });
    });
}

// C-046
#[test]
fn the_largest_queue_there_can_be_works_past_the_wrap_of_its_indices() {
    each(|face| {
        let (mut machine, _) = shaped(face, &[0x8000]);
        assert!(machine.negotiate(VERSION_1 | EVENT_IDX));
        let mut queue = machine.queue(0, 0x8000);
        machine.go();
        let at = machine.put(&[0; 4]);
        for _ in 0..7 {
            (0..0x8000).for_each(|_| {
                queue.offer(&[(at, 4, WRITE)]);
            });
            machine.kick(&queue);
            for _ in 0..0x8000 {
                assert_eq!(queue.wait().1, 4);
            }
        }
        assert_eq!((queue.poll(), queue.seen), (None, 0x8000));
    });
}

// C-082, C-134, R-01
#[test]
fn a_ready_queue_keeps_its_size_and_places_before_driver_ok_too() {
    each(|face| {
        let mut machine = echo(face);
        assert!(machine.negotiate(VERSION_1));
        let mut queue = machine.queue(0, 16);
        let before = machine.dump();
        machine.place(8, [RAM_BASE + 0x10_0000, RAM_BASE + 0x11_0000, RAM_BASE + 0x12_0000]);
        machine.enable();
        assert_eq!(machine.dump(), before);
        machine.go();
        for _ in 0..40 {
            echoes(&mut machine, &mut queue);
        }
    });
}

// C-126, C-127, C-013
#[test]
fn feature_words_of_a_modern_function_read_back_what_counts_and_there_are_two() {
    let machine = echo(Face::Pci);
    let common = machine.spots.common;
    let chosen = |select: u32| {
        machine.put_at(common.plus(8), &select.to_le_bytes());
        u32::from_le_bytes(machine.get(common.plus(12)))
    };
    for select in [2, 3, 0x8000_0000, u32::MAX] {
        assert_eq!(machine.offered_word(select), 0);
    }
    machine.set_status(1);
    machine.set_status(3);
    for word in [0, (EVENT_IDX | INDIRECT) as u32, EVENT_IDX as u32] {
        machine.choose_word(0, word);
        machine.choose_word(1, 1);
        for select in [2, 3, u32::MAX] {
            machine.choose_word(select, u32::MAX);
            assert_eq!(chosen(select), 0);
        }
        assert_eq!([chosen(0), chosen(1)], [word, 1]);
    }

    machine.set_status(11);
    machine.choose(0);

    assert_eq!((machine.status(), chosen(0), chosen(1)), (11, EVENT_IDX as u32, 1));
}

// C-013
#[test]
fn the_features_of_a_legacy_driver_are_settled_by_its_first_queue() {
    let mut machine = echo(Face::PciLegacy);
    let chosen = |machine: &Machine| u32::from_le_bytes(machine.get(Spot { window: 1, byte: 4 }));
    assert!(machine.negotiate(EVENT_IDX));
    let mut queue = machine.queue(0, 256);

    machine.choose(INDIRECT);

    assert_eq!(chosen(&machine), EVENT_IDX as u32);
    machine.go();
    echoes(&mut machine, &mut queue);
}

// C-095
#[test]
fn legacy_mmio_is_version_1_and_has_none_of_the_registers_of_version_2() {
    let mut machine = echo(Face::MmioLegacy);
    let modern = [0x44, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac, 0xb0, 0xb4, 0xb8, 0xbc, 0xc0, 0xfc];
    let mut queue = live(&mut machine, 0);
    let before = machine.dump();
    for at in modern {
        for value in [0, 1, u32::MAX] {
            machine.write(at, value);
        }
        assert_eq!(machine.read(at), 0, "{at:#x}");
    }

    assert_eq!([0x0, 0x4, 0x8, 0xc].map(|at| machine.read(at)), [0x7472_6976, 1, 42, 0x5442_4d41]);
    assert_eq!(machine.dump(), before);
    echoes(&mut machine, &mut queue);
}

/// A legacy driver's queue 0 with pages and an alignment of its choice; it says no size.
fn legacy_queue(machine: &Machine, at: u64, page: Option<u32>, align: u32) -> Vq {
    machine.select(0);
    page.iter().for_each(|page| machine.write(0x28, *page));
    machine.write(0x3c, align);
    machine.set_pfn((at / u64::from(page.unwrap_or(4096).max(1))) as u32);
    let (size, memory) = (256, machine.memory.clone());
    let (avail, used) = (at + 4096, at + (4096 + 6 + 512u64).next_multiple_of(u64::from(align.max(1))));
    Vq { index: 0, size, desc: at, avail, used, memory, next: 0, slot: 0, seen: 0 }
}

// C-096, C-099, R-05
#[test]
fn a_legacy_queue_wants_pages_and_an_alignment_that_are_powers_of_two() {
    const AT: u64 = RAM_BASE + 0x10_0000;
    let machine = echo(Face::MmioLegacy);
    let taken = |page, align| {
        assert!(machine.negotiate(0));
        legacy_queue(&machine, AT, page, align);
        (machine.is_ready(), machine.status())
    };
    // Never said, so there are no pages to count.
    assert_eq!(taken(None, 4096), (false, 3));
    for page in [0, 1, 3, 4095, 12_288, u32::MAX] {
        assert_eq!(taken(Some(page), 4096), (false, 3), "{page}");
    }
    for align in [0, 1, 2, 3, 4095, 12_288, u32::MAX] {
        assert_eq!(taken(Some(4096), align), (false, 3), "{align}");
    }
    assert_eq!(taken(Some(4096), 4096), (true, 3));
}

// C-097, C-098, C-103
#[test]
fn a_legacy_queue_is_where_its_pages_and_its_alignment_say_and_as_large_as_it_can_be() {
    let mut machine = echo(Face::MmioLegacy);
    machine.alloc(0x40_0000, 0x10_0000);
    for (round, (page, align)) in (1u64..).zip([(4096, 4096), (65_536, 4096), (16_384, 65_536), (4096, 4)]) {
        assert!(machine.negotiate(0));
        let mut queue = legacy_queue(&machine, RAM_BASE + round * 0x8_0000, Some(page), align);
        machine.go();
        // More than any smaller queue has.
        for _ in 0..300 {
            echoes(&mut machine, &mut queue);
        }
    }
}

// C-102
#[test]
fn the_largest_size_of_a_live_legacy_queue_can_be_read_and_nothing_comes_of_it() {
    each(|face| {
        if !face.is_legacy() {
            return;
        }
        let mut machine = echo(face);
        let mut queue = live(&mut machine, 0);
        for _ in 0..20 {
            machine.select(0);
            assert_eq!((machine.largest(), machine.is_ready()), (256, true));
            echoes(&mut machine, &mut queue);
        }
    });
}

// C-047, C-048
#[test]
fn an_interrupt_follows_each_use_on_every_transport_unless_the_flag_says_no() {
    each(|face| {
        let mut machine = echo(face);
        let mut queue = live(&mut machine, 0);
        for event in 0..20 {
            // Says nothing without EVENT_IDX.
            queue.set_used_event(0x7777 + event);
            echoes(&mut machine, &mut queue);
            machine.wait_until("an interrupt", |machine| machine.acknowledge() == 1);
        }
        let mut queue = live(&mut machine, 0);
        queue.set_avail_flags(1);
        for _ in 0..20 {
            echoes(&mut machine, &mut queue);
        }
        assert_eq!(machine.acknowledge(), 0);
    });
}

// C-049, C-050
#[test]
fn an_interrupt_comes_on_every_transport_when_the_index_passes_the_event_and_not_before() {
    each(|face| {
        let mut machine = echo(face);
        let mut queue = live(&mut machine, EVENT_IDX);
        for round in 0..200 {
            // Says nothing with EVENT_IDX.
            queue.set_avail_flags(round % 2);
            queue.set_used_event(queue.seen.wrapping_add(2));
            echoes(&mut machine, &mut queue);
            echoes(&mut machine, &mut queue);
            assert_eq!(machine.acknowledge(), 0, "round {round}");
            echoes(&mut machine, &mut queue);
            machine.wait_until("an interrupt", |machine| machine.acknowledge() == 1);
        }
    });
}
