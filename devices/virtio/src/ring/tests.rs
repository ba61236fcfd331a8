use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::{AddressRange, PaBits};

use super::*;
use crate::driver::hand::Hand;
use crate::driver::{
    ECHO, EVENT_IDX, Echo, Face, Gate, INDIRECT, Machine, NEXT, Silent, TABLE, VERSION_1, Vq, WRITE, idles,
    unique, until,
};
use crate::queue::{Areas, QueueSetup};

const NEEDS_RESET: u32 = 64;

struct Bench {
    id: String,
    gate: Arc<Gate>,
    machine: Machine,
    queue: Vq,
}

fn bench(features: u64, size: u16) -> Bench {
    on(Face::Mmio, features, size)
}

/// The same on every transport; the queues of a legacy function are larger.
fn each(features: u64, test: impl Fn(Bench)) {
    for face in Face::ALL {
        eprintln!("on {face:?}");
        test(on(face, features, 16));
    }
}

fn on(face: Face, features: u64, size: u16) -> Bench {
    let id = unique("echo");
    let gate = Arc::new(Gate::default());
    let mut machine = Machine::with_face(face, Echo::behind(&id, Arc::clone(&gate)));
    let queue = begin(&mut machine, features, size);
    Bench { id, gate, machine, queue }
}

fn begin(machine: &mut Machine, features: u64, size: u16) -> Vq {
    assert!(machine.negotiate(VERSION_1 | features));
    let queue = machine.queue(0, size);
    machine.go();
    queue
}

impl Bench {
    fn works(&mut self) {
        let at = self.machine.put(&[0; 8]);
        assert_eq!(self.machine.ask(&mut self.queue, &[(at, 4, 0), (at + 4, 4, WRITE)]), 4);
        assert_eq!(self.machine.bytes(at, 8), [0, 0, 0, 0, ECHO, ECHO, ECHO, ECHO]);
    }

    /// The chain's head comes back with nothing written, without the device seeing any of it, and the
    /// next request is served.
    fn refuses(&mut self, head: u16, what: &str) {
        let seen = self.gate.reached.load(Ordering::SeqCst);
        self.queue.publish(head);
        self.machine.kick(&self.queue);
        assert_eq!(self.queue.wait(), (u32::from(head), 0), "{what}");
        assert_eq!(self.gate.reached.load(Ordering::SeqCst), seen, "{what}");
        self.queue.next = 0;
        self.works();
    }

    /// The device asks for a reset, does nothing more, and works again after it.
    fn breaks(&mut self, what: &str) {
        self.machine.kick(&self.queue);
        self.machine.wait_until(what, |machine| machine.status() & NEEDS_RESET != 0);
        assert_eq!(self.machine.acknowledge() & 2, 2, "{what}: a configuration interrupt");
        self.machine.kick(&self.queue);
        idles(&self.id);
        self.queue = begin(&mut self.machine, 0, self.queue.size);
        self.works();
    }
}

//
#[test]
fn a_chain_that_never_ends_is_refused() {
    each(0, |mut bench| {
        let at = bench.machine.alloc(64, 1);
        for len in [1u16, 2, 16] {
            for index in 0..len {
                bench.queue.describe(bench.queue.desc, index, (at, 4, NEXT), (index + 1) % len);
            }
            bench.refuses(0, &format!("a loop of {len}"));
        }
    });
}

//
#[test]
fn a_chain_that_leaves_its_table_is_refused() {
    let mut bench = bench(0, 16);
    let at = bench.machine.alloc(64, 1);
    for next in [16, 17, 0x7fff, 0xffff] {
        bench.queue.describe(bench.queue.desc, 3, (at, 4, NEXT), next);
        bench.refuses(3, &format!("next is {next}"));
    }
}

//
#[test]
fn a_head_beyond_the_table_breaks_the_queue_until_reset() {
    for face in [Face::Mmio, Face::Pci] {
        let mut bench = on(face, 0, 16);
        for head in [16, 17, 0x8000, 0xffff] {
            bench.queue.publish(head);
            bench.breaks(&format!("head {head}"));
        }
    }
}

//
#[test]
fn an_available_index_that_jumps_breaks_the_queue_until_reset() {
    for face in [Face::Mmio, Face::Pci] {
        let mut bench = on(face, 0, 16);
        for jump in [17u16, 0xffff, 0x8000, 0x4000] {
            bench.works();
            bench.queue.set_index(bench.queue.slot.wrapping_add(jump));
            bench.breaks(&format!("a jump of {jump}"));
        }
    }
}

//
#[test]
fn a_chain_may_have_every_descriptor_of_its_queue() {
    let mut bench = bench(INDIRECT, 16);
    for len in [15u64, 16] {
        bench.queue.next = 0;
        let at = bench.machine.put(&[0; 16]);
        let chain: Vec<_> = (0..len).map(|i| (at + i, 1, WRITE)).collect();
        assert_eq!(u64::from(bench.machine.ask(&mut bench.queue, &chain)), len);
    }
}

//
#[test]
fn an_indirect_table_may_have_as_many_entries_as_the_largest_queue_and_no_more() {
    let mut bench = bench(INDIRECT, 16);
    let at = bench.machine.alloc(300, 1);
    let table = bench.machine.alloc(16 * 300, 1);
    for (len, written) in [(255, 255), (256, 256), (257, 0)] {
        for i in 0..len {
            let flags = if i + 1 < len { WRITE | NEXT } else { WRITE };
            bench.queue.describe(table, i, (at + u64::from(i), 1, flags), i + 1);
        }
        assert_eq!(bench.machine.ask(&mut bench.queue, &[(table, u32::from(len) * 16, TABLE)]), written);
    }
}

//
#[test]
fn an_indirect_table_needs_no_alignment_and_its_write_flag_says_nothing() {
    each(INDIRECT, |mut bench| {
        let at = bench.machine.put(&[0; 4]);
        for offset in 0..16 {
            let table = bench.machine.alloc(64, 16) + offset;
            bench.queue.describe(table, 0, (at, 4, WRITE), 0);
            for flags in [TABLE, TABLE | WRITE] {
                assert_eq!(bench.machine.ask(&mut bench.queue, &[(table, 16, flags)]), 4);
            }
        }
    });
}

#[test]
fn direct_descriptors_may_come_before_an_indirect_one() {
    each(INDIRECT, |mut bench| {
        let at = bench.machine.put(&[0; 12]);
        let table = bench.machine.alloc(64, 16);
        bench.queue.describe(table, 0, (at + 4, 4, WRITE | NEXT), 1);
        bench.queue.describe(table, 1, (at + 8, 4, WRITE), 0);

        let used = bench.machine.ask(&mut bench.queue, &[(at, 2, 0), (at + 2, 2, WRITE), (table, 32, TABLE)]);

        assert_eq!(used, 10);
        assert_eq!(bench.machine.bytes(at, 12), [&[0; 2][..], &[ECHO; 10]].concat());
    });
}

//
#[test]
fn indirect_tables_that_break_a_rule_are_refused() {
    each(INDIRECT, |mut bench| {
        let at = bench.machine.put(&[0; 8]);
        let table = bench.machine.alloc(64, 16);
        let good = |bench: &Bench| bench.queue.describe(table, 0, (at, 4, WRITE), 0);
        for (what, table_at, len, flags) in [
            ("empty", table, 0, TABLE),
            ("half a descriptor", table, 8, TABLE),
            ("one and a half", table, 24, TABLE),
            ("4 GiB", table, 0xffff_fff0, TABLE),
            ("65536 entries", table, 16 << 16, TABLE),
            ("with a successor", table, 16, TABLE | NEXT),
            ("not in RAM", 0, 16, TABLE),
            ("wraps", u64::MAX - 7, 16, TABLE),
        ] {
            good(&bench);
            bench.queue.describe(bench.queue.desc, 5, (table_at, len, flags), 6);
            bench.queue.describe(bench.queue.desc, 6, (at, 4, WRITE), 0);
            bench.refuses(5, what);
        }
        let other = bench.machine.alloc(64, 16);
        bench.queue.describe(other, 0, (at, 4, WRITE), 0);
        for (what, entry, next) in [
            ("nested", (other, 16, TABLE), 0),
            ("a loop in it", (at, 4, WRITE | NEXT), 0),
            ("leaves it", (at, 4, WRITE | NEXT), 1),
            ("leaves it by far", (at, 4, NEXT), 0xffff),
        ] {
            bench.queue.describe(table, 0, entry, next);
            bench.queue.describe(table, 1, (at, 4, WRITE), 0);
            bench.queue.describe(bench.queue.desc, 5, (table, 16, TABLE), 0);
            bench.refuses(5, what);
        }
    });
}

//
#[test]
fn an_indirect_table_that_was_not_negotiated_is_refused() {
    each(0, |mut bench| {
        let at = bench.machine.put(&[0; 4]);
        let table = bench.machine.alloc(64, 16);
        bench.queue.describe(table, 0, (at, 4, WRITE), 0);
        bench.queue.describe(bench.queue.desc, 2, (table, 16, TABLE), 0);

        bench.refuses(2, "not negotiated");
        assert_eq!(bench.machine.bytes(at, 4), [0; 4]);
    });
}

#[test]
fn a_readable_buffer_after_a_writable_one_is_refused_even_if_that_is_empty() {
    each(0, |mut bench| {
        let at = bench.machine.put(&[0; 8]);
        for len in [4, 0] {
            bench.queue.describe(bench.queue.desc, 0, (at, len, WRITE | NEXT), 1);
            bench.queue.describe(bench.queue.desc, 1, (at + 4, 4, NEXT), 2);
            bench.queue.describe(bench.queue.desc, 2, (at + 4, 4, WRITE), 0);
            bench.refuses(0, "out of order");
        }
        assert_eq!(bench.machine.bytes(at, 8), [0; 8]);
    });
}

//
#[test]
fn empty_buffers_are_passed_over() {
    each(0, |mut bench| {
        let at = bench.machine.put(&[0; 8]);

        assert_eq!(bench.machine.ask(&mut bench.queue, &[(0, 0, 0), (at, 0, 0), (at, 0, WRITE)]), 0);
        assert_eq!(
            bench.machine.ask(&mut bench.queue, &[(0, 0, 0), (at, 4, WRITE), (u64::MAX, 0, WRITE)]),
            4
        );
    });
}

//
#[test]
fn a_chain_has_no_buffer_without_a_byte() {
    let mut hand = Hand::new(VERSION_1);
    let at = hand.machine.alloc(4, 1);
    let head = hand.driver.offer(&[(0, 0, 0), (at, 4, WRITE), (u64::MAX, 0, WRITE)]);

    let taken = hand.serve_by(|ring, memory| ring.next(memory)).unwrap();

    let buffer = Buffer { address: GuestAddress(at), len: 4 };
    assert_eq!(taken, Some((head, Ok(Chain { head, readable: Vec::new(), writable: vec![buffer] }))));
}

//
#[test]
fn buffers_outside_ram_are_refused() {
    each(0, |mut bench| {
        let end = RAM_BASE + crate::driver::RAM;
        for (at, len) in [
            (0, 1),
            (RAM_BASE - 1, 2),
            (end - 1, 2),
            (end, 1),
            (0x200_0050, 4),
            (u64::MAX - 255, 512),
            (u64::MAX, 1),
            (RAM_BASE, u32::MAX),
        ] {
            for flags in [0, WRITE] {
                bench.queue.describe(bench.queue.desc, 0, (at, len, flags), 0);
                bench.refuses(0, &format!("{len:#x} bytes at {at:#x}"));
            }
        }
        bench.queue.describe(bench.queue.desc, 0, (end - 1, 1, WRITE), 0);
        bench.queue.publish(0);
        bench.machine.kick(&bench.queue);
        assert_eq!(bench.queue.wait(), (0, 1));
    });
}

//
#[test]
fn a_chain_of_4_gib_is_refused() {
    // RAM nobody touches costs nothing.
    let host = BenchHost::with_ram(&[AddressRange::fixed(RAM_BASE, 1 << 30)], PaBits::MAX);
    let gate = Arc::new(Gate::default());
    let mut machine = Machine::with_host(host, Echo::behind("big", Arc::clone(&gate)));
    let mut queue = begin(&mut machine, 0, 16);
    let mut chain = [(RAM_BASE, 1 << 30, 0); 4];

    assert_eq!(machine.ask(&mut queue, &chain), 0);
    assert_eq!(gate.reached.load(Ordering::SeqCst), 0);
    chain[3].1 -= 1;
    assert_eq!(machine.ask(&mut queue, &chain), 0);
    assert_eq!(gate.reached.load(Ordering::SeqCst), 1);
}

//
#[test]
fn a_buffer_may_lie_in_two_regions_that_touch_but_not_across_a_hole() {
    let mib = 1 << 20;
    let ram = [
        AddressRange::fixed(RAM_BASE, mib),
        AddressRange::fixed(RAM_BASE + mib, mib),
        AddressRange::fixed(RAM_BASE + 3 * mib, mib),
    ];
    let gate = Arc::new(Gate::default());
    let echo = Echo::behind("regions", Arc::clone(&gate));
    let mut machine = Machine::with_host(BenchHost::with_ram(&ram, PaBits::MAX), echo);
    let mut queue = begin(&mut machine, 0, 16);

    assert_eq!(machine.ask(&mut queue, &[(RAM_BASE + mib - 3, 8, WRITE)]), 8);
    assert_eq!(machine.bytes(RAM_BASE + mib - 3, 8), [ECHO; 8]);
    assert_eq!(machine.ask(&mut queue, &[(RAM_BASE + 2 * mib - 3, 8, WRITE)]), 0);
    assert_eq!(machine.ask(&mut queue, &[(RAM_BASE + 2 * mib - 3, mib as u32 + 8, WRITE)]), 0);
    assert_eq!(gate.reached.load(Ordering::SeqCst), 1, "the device sees none that is not all RAM");
}

#[test]
fn indices_wrap_without_loss() {
    for (size, features) in [(2, 0), (4, EVENT_IDX), (256, EVENT_IDX)] {
        let mut bench = bench(features, size);
        let at = bench.machine.put(&[0; 4]);
        let mut done = 0u32;
        while done < 200_000 {
            for _ in 0..size {
                bench.queue.offer(&[(at, 4, WRITE)]);
            }
            bench.machine.kick(&bench.queue);
            for _ in 0..size {
                assert_eq!(bench.queue.wait().1, 4);
                done += 1;
            }
        }
        assert_eq!(bench.queue.poll(), None);
    }
}

#[test]
fn a_driver_that_kicks_only_when_asked_is_never_left_waiting() {
    for features in [0, EVENT_IDX] {
        let mut bench = bench(features, 4);
        let at = bench.machine.put(&[0; 4]);
        for _ in 0..50_000 {
            let before = bench.queue.slot;
            bench.queue.offer(&[(at, 4, WRITE)]);
            if bench.queue.wants_kick(features == EVENT_IDX, before) {
                bench.machine.kick(&bench.queue);
            }
            assert_eq!(bench.queue.wait().1, 4);
        }
    }
}

#[test]
fn an_interrupt_follows_each_use_unless_the_flag_says_no() {
    let mut bench = bench(0, 16);
    let at = bench.machine.put(&[0; 4]);
    let pulses = |bench: &Bench| bench.machine.pin().pulses();
    for expected in 1..=5 {
        // Without EVENT_IDX the event field says nothing.
        bench.queue.set_used_event(0x7777);
        bench.machine.ask(&mut bench.queue, &[(at, 4, WRITE)]);
        until("an interrupt", || (pulses(&bench) == expected).then_some(()));
        bench.machine.acknowledge();
    }
    bench.queue.set_avail_flags(1);
    for _ in 0..5 {
        bench.machine.ask(&mut bench.queue, &[(at, 4, WRITE)]);
    }
    // The device has looked at the last of them when it sleeps.
    idles(&bench.id);
    assert_eq!(pulses(&bench), 5);
}

#[test]
fn with_event_indices_an_interrupt_comes_when_the_index_passes_the_event_and_not_otherwise() {
    let mut bench = bench(EVENT_IDX, 16);
    let at = bench.machine.put(&[0; 4]);
    // Past the wrap of the index, once in three.
    for round in 0..25_000u32 {
        bench.queue.set_avail_flags(1);
        let event = bench.queue.seen.wrapping_add(2);
        bench.queue.set_used_event(event);
        for _ in 0..3 {
            bench.machine.ask(&mut bench.queue, &[(at, 4, WRITE)]);
        }
        let expected = round as usize + 1;
        until("an interrupt", || (bench.machine.pin().pulses() >= expected).then_some(()));
        assert_eq!(bench.machine.pin().pulses(), expected, "round {round}");
        bench.machine.acknowledge();
    }
}

#[test]
fn used_flags_are_0_with_event_indices() {
    let mut bench = bench(EVENT_IDX, 16);
    for _ in 0..100 {
        bench.works();
        assert_eq!(bench.queue.used_flags(), 0);
    }
}

// C-051: in the order of the program; what a processor makes of it is not seen here.
#[test]
fn a_used_element_is_whole_before_the_index_says_that_it_is_there() {
    let mut bench = bench(0, 16);
    let at = bench.machine.alloc(256, 1);
    for round in 0..100_000u32 {
        // Another length than what was in its place 16 rounds ago.
        let len = round % 251 + 1;
        let head = bench.queue.offer(&[(at, len, WRITE)]);
        bench.machine.kick(&bench.queue);
        let start = Instant::now();
        let used = loop {
            if let Some(used) = bench.queue.poll() {
                break used;
            }
            assert!(start.elapsed().as_secs() < 20, "hung");
        };
        assert_eq!(used, (u32::from(head), len), "round {round}");
    }
}

// C-054
#[test]
fn used_flags_are_0_or_1_without_event_indices() {
    let mut bench = bench(0, 16);
    let at = bench.machine.put(&[0; 4]);
    for _ in 0..500 {
        bench.queue.offer(&[(at, 4, WRITE)]);
        bench.machine.kick(&bench.queue);
        until("a used buffer", || {
            assert!(bench.queue.used_flags() <= 1);
            bench.queue.poll()
        });
    }
}

#[test]
fn the_descriptor_table_and_the_available_ring_are_never_written() {
    each(EVENT_IDX, |mut bench| {
        let at = bench.machine.put(&[0; 4]);
        let head = bench.queue.chain(&[(at, 4, WRITE)]);
        let read = |bench: &Bench| {
            (bench.machine.bytes(bench.queue.desc, 256), bench.machine.bytes(bench.queue.avail + 4, 34))
        };
        for _ in 0..16 {
            bench.queue.publish(head);
        }
        let before = read(&bench);
        bench.machine.kick(&bench.queue);
        for _ in 0..16 {
            bench.queue.wait();
        }

        assert!(read(&bench) == before);
    });
}

#[test]
fn kicks_without_work_do_no_harm() {
    let mut bench = bench(0, 16);
    for _ in 0..10_000 {
        bench.machine.kick(&bench.queue);
    }
    idles(&bench.id);
    assert_eq!(bench.machine.pin().pulses(), 0);
    bench.works();
}

//
#[test]
fn a_guest_that_changes_descriptors_while_they_are_read_harms_only_itself() {
    let mut bench = bench(INDIRECT, 16);
    let at = bench.machine.alloc(4096, 16);
    let start = Instant::now();
    let racing = Arc::new(AtomicBool::new(true));
    let racer = {
        let (memory, desc, racing) = (bench.machine.memory.clone(), bench.queue.desc, racing.clone());
        std::thread::spawn(move || {
            let mut seed = 1u64;
            while racing.load(Ordering::Relaxed) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let slot = desc + 16 * (seed >> 60);
                let addresses = [at, at + 8, 0, u64::MAX - 3];
                memory.write_obj(addresses[(seed >> 33) as usize % 4], GuestAddress(slot)).unwrap();
                memory.write_obj((seed >> 20) as u32 % 64, GuestAddress(slot + 8)).unwrap();
                // Every flag, and successors inside the table and just beyond it.
                memory.write_obj((seed >> 10) as u16 & 7, GuestAddress(slot + 12)).unwrap();
                memory.write_obj((seed >> 40) as u16 % 17, GuestAddress(slot + 14)).unwrap();
            }
        })
    };
    while start.elapsed().as_millis() < 500 {
        for head in 0..16 {
            bench.queue.publish(head);
        }
        bench.machine.kick(&bench.queue);
        for _ in 0..16 {
            bench.queue.wait();
        }
    }
    racing.store(false, Ordering::Relaxed);
    racer.join().unwrap();

    bench.queue = begin(&mut bench.machine, 0, 16);
    bench.works();
}

//
#[test]
fn a_buffer_is_checked_as_it_is_used_however_fast_its_descriptor_changes() {
    let mut hand = Hand::new(VERSION_1);
    let inside = hand.machine.alloc(64, 16);
    hand.driver.offer(&[(inside, 64, 0)]);
    let (memory, desc) = (hand.machine.memory.clone(), GuestAddress(hand.driver.desc));
    let racing = AtomicBool::new(true);
    let (mut taken, mut refused, mut outside) = (0, 0, 0);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            while racing.load(Ordering::Relaxed) {
                for address in [u64::MAX - 3, inside] {
                    memory.store(address, desc, Ordering::Relaxed).unwrap();
                }
            }
        });
        let start = Instant::now();
        // Until the guest was fast enough to be seen both ways, if this machine runs both sides at once.
        while (taken < 50_000 || refused < 50_000) && start.elapsed().as_secs() < 20 {
            let again = |ring: &mut Ring, memory: &GuestMemory| {
                let taken = ring.next(memory);
                ring.put_back(1);
                taken
            };
            match hand.serve_by(again).unwrap().unwrap().1 {
                Ok(chain) => {
                    taken += 1;
                    outside += chain.readable.iter().filter(|buffer| !buffer.is_ram(&memory)).count();
                }
                Err(_) => refused += 1,
            }
        }
        racing.store(false, Ordering::Relaxed);
    });

    assert_eq!(outside, 0, "of {taken} chains");
}

//
#[test]
fn a_flood_on_one_queue_does_not_keep_the_other_or_a_reset_waiting() {
    let mut bench = bench(0, 256);
    assert!(bench.machine.negotiate(VERSION_1));
    let (mut flooded, mut other) = (bench.machine.queue(0, 256), bench.machine.queue(1, 4));
    bench.machine.go();
    let at = bench.machine.alloc(0x10_0000, 1);
    let racing = AtomicBool::new(true);
    let machine = &bench.machine;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // There is always something available: what is used is made so again at once.
            let head = flooded.chain(&[(at, 0x10_0000, WRITE)]);
            (0..256).for_each(|_| flooded.publish(head));
            machine.kick(&flooded);
            while racing.load(Ordering::Relaxed) {
                if flooded.poll().is_some() {
                    flooded.publish(head);
                    machine.kick(&flooded);
                }
            }
        });
        until("the flood", || (bench.gate.reached.load(Ordering::SeqCst) > 300).then_some(()));
        for _ in 0..50 {
            // Never, if the flood had to end first.
            machine.ask(&mut other, &[(at, 4, WRITE)]);
        }
        machine.write(0x70, 0);
        assert_eq!(machine.status(), 0);
        racing.store(false, Ordering::Relaxed);
    });
}

#[test]
fn cutting_buffers_loses_no_byte() {
    let buffer = |at, len| Buffer { address: GuestAddress(at), len };
    let buffers = [buffer(0, 3), buffer(10, 1), buffer(20, 4)];
    for at in 0..10 {
        let (first, second) = cut(&buffers, at);

        assert_eq!(total(&first), at.min(8));
        let bytes = |list: &[Buffer]| -> Vec<u64> {
            list.iter().flat_map(|b| (0..u64::from(b.len)).map(|i| b.address.0 + i)).collect()
        };
        assert_eq!([bytes(&first), bytes(&second)].concat(), bytes(&buffers));
    }
}

/// A queue of four entries whose driver is another thread: each chain is one buffer, as long as the chain's number.
/// Miri lets a load see what was there before, unless something orders the two.
// C-057
#[test]
fn miri_sees_a_chain_with_the_index_that_makes_it_available() {
    const DESC: u64 = 0;
    const AVAIL: u64 = 0x400;
    const USED: u64 = 0x600;
    let chains = if cfg!(miri) { 40 } else { 20_000 };
    let memory = ambit_memory::map(&[AddressRange::fixed(0, 0x1_0000)]).unwrap();
    let areas = Areas { desc: DESC, avail: AVAIL, used: USED };
    let setup = QueueSetup { size: 4, areas, ..QueueSetup::at_reset(4) };
    let queue = setup.check(&memory, PaBits::MAX).unwrap().queue().unwrap();
    let call = Arc::new(Interrupt::new(Silent));
    let mut ring = Ring { index: 0, queue, indirect: false, told: 0, kick: EventFd::new(0).unwrap(), call };
    let start = Instant::now();
    let index = |at| memory.load::<u16>(GuestAddress(at + 2), Ordering::Acquire).unwrap();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=chains {
                // The device is done with the chain that was in this place.
                while (number as u16).wrapping_sub(index(USED)) > 4 {
                    assert!(start.elapsed().as_secs() < 600, "hung before chain {number}");
                    std::thread::yield_now();
                }
                let slot = (number - 1) % 4;
                let at = GuestAddress(DESC + 16 * slot);
                memory.write_obj(0x8000_u64, at).unwrap();
                memory.write_obj(number, GuestAddress(at.0 + 8)).unwrap();
                memory.write_obj(slot as u16, GuestAddress(AVAIL + 4 + 2 * slot)).unwrap();
                memory.store(number as u16, GuestAddress(AVAIL + 2), Ordering::Release).unwrap();
            }
        });
        for number in 1..=chains {
            let taken = std::iter::repeat_with(|| ring.next(&memory).unwrap());
            let (head, chain) = taken.inspect(|_| std::thread::yield_now()).flatten().next().unwrap();
            let buffer = Buffer { address: GuestAddress(0x8000), len: number as u32 };
            let expected = Chain { head, readable: vec![buffer], writable: Vec::new() };
            assert_eq!((u64::from(head), chain), ((number - 1) % 4, Ok(expected)));
            ring.finish(&memory, head, 0).unwrap();
        }
    });
}
