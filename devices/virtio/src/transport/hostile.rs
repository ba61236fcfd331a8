//! Drivers that go on where they should stop, and what a device may not do unasked.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::driver::idles;

//
#[test]
fn ten_thousand_drivers_that_stop_anywhere_leave_nothing_behind() {
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    each(|face| {
        let before = files();
        let mut machine = echo(face);
        let power_on = machine.dump();
        let held = machine.host.held();
        let at = machine.put(&[0; 4]);
        let free = machine.mark();
        for round in 0..2_500 {
            // The device of the last round may still be at work before.
            machine.set_status(0);
            machine.forget(free);
            assert!(machine.negotiate(VERSION_1), "round {round}");
            if round % 8 == 0 {
                continue;
            }
            let mut queue = machine.queue(0, 16);
            if round % 8 == 1 {
                continue;
            }
            machine.go();
            queue.offer(&[(at, 4, WRITE)]);
            machine.kick(&queue);
            // The others stop with a request on its way.
            if round % 2 == 0 {
                assert_eq!(queue.wait(), (0, 4), "round {round}");
            }
        }
        machine.set_status(0);

        assert_eq!((machine.host.held(), machine.dump() == power_on), (held, true));
        // Other tests open some, too, but not one for each driver.
        assert!(files() < before + 1000, "{before} open files and then {}", files());
        machine.forget(free);
        works(&mut machine);
    });
}

//
#[test]
fn a_live_queue_works_on_while_another_vcpu_rewrites_its_registers() {
    const WRITES: u32 = 250_000;
    const REQUESTS: u32 = 200;
    each(|face| {
        let mut machine = echo(face);
        let mut queue = live(&mut machine, 0);
        let at = machine.put(&[0; 4]);
        machine.select(0);
        let size = machine.largest();
        let machine = &machine;
        let (written, asked) = (AtomicU32::new(0), AtomicU32::new(0));
        let over = || written.load(Ordering::SeqCst) >= WRITES && asked.load(Ordering::SeqCst) >= REQUESTS;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let places = [0, RAM_BASE, RAM_BASE + crate::driver::RAM - 16, 1 << 40, u64::MAX << 12];
                for round in (0..).take_while(|_| !over()) {
                    let [desc, avail, used] = [0, 1, 2].map(|more| places[(round + more) % 5]);
                    // A legacy driver names the page of the table, and takes the queue back with page 0.
                    let desc = if face.is_legacy() { desc.max(4096) & 0xfff_ffff_f000 } else { desc };
                    machine.place([0, 1, 4, 0x8000, 0xffff, u32::MAX][round % 6], [desc, avail, used]);
                    machine.enable();
                    written.fetch_add(if face == Face::PciLegacy { 1 } else { 8 }, Ordering::SeqCst);
                }
            });
            while !over() {
                assert_eq!(machine.ask(&mut queue, &[(at, 4, WRITE)]), 4);
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });

        assert_eq!((machine.largest(), machine.bytes(at, 4)), (size, vec![ECHO; 4]));
        assert_eq!(machine.status() & NEEDS_RESET, 0);
    });
}

//
#[test]
fn whatever_a_modern_device_cannot_start_with_it_asks_for_a_reset_once_and_the_write_returns() {
    let end = RAM_BASE + crate::driver::RAM;
    let good = [RAM_BASE + 0x10_0000, RAM_BASE + 0x11_0000, RAM_BASE + 0x12_0000];
    let mut steps: Vec<(bool, [u64; 3])> = vec![(true, good)];
    for area in 0..3 {
        for wrong in [0, end - 4, end, u64::MAX - 3, good[area] + 1] {
            let mut areas = good;
            areas[area] = wrong;
            steps.push((false, areas));
        }
    }
    for face in [Face::Mmio, Face::Pci] {
        for (refusing, areas) in &steps {
            let mut machine = match refusing {
                true => Machine::with_face(face, Refusing(Echo::new(&unique("refusing")))),
                false => echo(face),
            };
            assert!(machine.negotiate(VERSION_1));
            machine.point(0, 16, *areas);
            machine.enable();

            machine.go();

            assert_eq!(machine.status(), 15 | NEEDS_RESET, "{face:?} {areas:x?}");
            assert_eq!([machine.acknowledge(), machine.acknowledge()], [2, 0], "{face:?} {areas:x?}");
            machine.notify(0);
            machine.set_status(0);
            assert_eq!(machine.status(), 0);
            if !refusing {
                works(&mut machine);
            }
        }
    }
}

//
#[test]
fn no_interrupt_comes_without_a_cause_and_no_second_one_with_it() {
    each(|face| {
        let id = unique("quiet");
        let mut machine = Machine::with_face(face, Echo::new(&id));
        let told = |machine: &Machine| {
            let pin = machine.pin();
            (machine.acknowledge(), pin.is_high(), pin.pulses())
        };
        let mut queue = live(&mut machine, 0);
        let at = machine.put(&[0; 4]);
        for _ in 0..100 {
            machine.kick(&queue);
            machine.notify(0);
            machine.notify(1);
        }
        // Takes a while, and sees that the kicks are over.
        idles(&id);
        assert_eq!(told(&machine), (0, false, 0));

        let edges = usize::from(!face.is_pci());
        for request in 1..=100 {
            machine.ask(&mut queue, &[(at, 4, WRITE)]);
            machine.wait_until("an interrupt", |machine| machine.acknowledge() == 1);
            assert_eq!(told(&machine), (0, false, request * edges));
        }
        idles(&id);
        machine.set_status(0);
        assert_eq!(told(&machine), (0, false, 100 * edges));
    });
}

// where the low byte of an index wraps, whoever reads or writes it in two steps is 256 off.
#[test]
fn indices_are_never_seen_half_written_by_either_side() {
    const REQUESTS: u32 = 50_000;
    each(|face| {
        let mut machine = echo(face);
        let mut queue = live(&mut machine, 0);
        let at = machine.put(&[0; 4]);
        let head = queue.chain(&[(at, 4, WRITE)]);
        let mut done = 0;
        let mut asked = 0;
        let mut last = 0;
        let start = std::time::Instant::now();
        while done < REQUESTS {
            while asked < REQUESTS && asked - done < 12 {
                queue.publish(head);
                asked += 1;
            }
            machine.kick(&queue);
            let used = queue.used_index();
            let new = u32::from(used.wrapping_sub(last));
            assert!(new <= asked - done, "{face:?}: {last:#x} and then {used:#x}, of {}", asked - done);
            if new == 0 {
                assert_eq!(machine.status() & NEEDS_RESET, 0, "after {done} requests");
                assert!(start.elapsed() < Duration::from_secs(60), "hung after {done} requests");
            }
            (done, last) = (done + new, used);
        }
        assert_eq!(machine.status() & NEEDS_RESET, 0);
    });
}
