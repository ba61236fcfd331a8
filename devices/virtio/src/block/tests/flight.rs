//! Many requests at once: queues, limits, order, and what is on its way when the device stops.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ambit_bus::Host;
use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::PaBits;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::driver::{EVENT_IDX, INDIRECT, RAM, TABLE};
use crate::interrupt::{Event, Interrupt, Signal};
use crate::limit::Rate;
use crate::queue::{Areas, QueueSetup};

const NEEDS_RESET: u32 = 64;

// C-200
#[test]
fn every_queue_works_alone_and_together_and_answers_where_it_was_asked() {
    everywhere(|setup| {
        let queues = 4;
        let mut bench = setup.with(|setup| setup.options.queues = queues).bench();
        let queues = usize::from(queues);

        assert_eq!(bench.config::<2>(34), [4, 0]);
        for queue in 0..queues {
            let asked = bench.put(queue, IN, queue as u64, &[], 512);
            bench.kick(queue);
            assert_eq!(bench.queues[queue].wait(), (u32::from(asked.head), 513));
            assert!(bench.answer(&asked).1 == pattern()[queue * 512..][..512]);
            let idle =
                (0..queues).filter(|other| *other != queue).map(|other| bench.queues[other].used_index());
            assert!(idle.zip(0..queues).all(|(used, _)| used <= 1), "nobody else answered");
        }
        let mut all = Vec::new();
        for i in 0..16u64 {
            for queue in 0..queues {
                all.push((queue, i, bench.put(queue, IN, i * 4 + queue as u64, &[], 512)));
            }
        }
        (0..queues).for_each(|queue| bench.kick(queue));
        for queue in 0..queues {
            let mut heads: Vec<_> = (0..16).map(|_| bench.queues[queue].wait()).collect();
            heads.sort_unstable();
            let own = all.iter().filter(|(of, ..)| *of == queue);
            let mut expected: Vec<_> = own.map(|(.., asked)| (u32::from(asked.head), 513)).collect();
            expected.sort_unstable();
            assert_eq!(heads, expected, "queue {queue}");
        }
        for (queue, i, asked) in &all {
            let at = (i * 4 + *queue as u64) as usize * 512;
            assert!(bench.answer(asked) == (OK, pattern()[at..at + 512].to_vec()));
        }
    });
}

// C-200
#[test]
fn a_driver_need_not_use_all_queues() {
    everywhere(|setup| {
        let mut bench = setup.with(|setup| setup.options.queues = 16).bench();
        assert!(bench.machine.negotiate(VERSION_1 | FLUSH));
        bench.queues = vec![bench.machine.queue(5, 64)];
        bench.machine.go();

        bench.works();
    });
}

/// Reads of it wait until somebody writes, and no offset matters.
fn pipe() -> (File, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    (File::from(std::os::fd::OwnedFd::from(reader)), writer)
}

/// With io_uring, on a file that answers when the test says so. `None` if this host has no io_uring.
fn waiting(face: Face, change: impl FnOnce(&mut Setup)) -> Option<(Bench, io::PipeWriter)> {
    let engine = *engines().iter().find(|engine| **engine == Engine::Uring)?;
    let (file, writer) = pipe();
    let setup = Setup::new(face, engine).with(|setup| setup.facts = plain(1 << 40)).with(change);
    Some((setup.on(file), writer))
}

impl Bench {
    /// Everything that was put into the first queue is on its way when this returns.
    fn all_taken(&mut self) {
        // It needs nothing of the file, so it is answered before those that came before it.
        let probe = self.put(0, GET_ID, 0, &[], 20);
        self.kick(0);
        assert_eq!(self.queues[0].wait().0, u32::from(probe.head));
    }
}

//
#[test]
fn a_head_that_is_available_twice_breaks_the_queue_and_a_reset_mends_it() {
    for face in Face::ALL {
        for times in [1, 64, 255] {
            let Some((mut bench, writer)) = waiting(face, |_| {}) else { return };
            let asked = bench.put(0, IN, 0, &[], 512);
            bench.kick(0);
            for _ in 0..times {
                bench.queues[0].publish(asked.head);
            }
            bench.kick(0);

            if face.is_legacy() {
                // Such a driver cannot be asked, so it only goes unanswered.
                std::thread::sleep(Duration::from_millis(20));
            } else {
                bench.machine.wait_until("a reset", |machine| machine.status() & NEEDS_RESET != 0);
            }
            assert_eq!(bench.queues[0].used_index(), 0, "{face:?}, {times}");
            drop(writer);
            bench.begin();
            assert_eq!(bench.ask(GET_ID, 0, &[], 20).0, OK);
        }
    }
}

//
#[test]
fn a_head_that_is_twice_in_one_batch_breaks_the_queue() {
    by_engine(|setup| {
        let mut bench = setup.bench();
        let asked = bench.put(0, IN, 0, &[], 512);
        bench.queues[0].publish(asked.head);
        bench.kick(0);

        bench.machine.wait_until("a reset", |machine| machine.status() & NEEDS_RESET != 0);

        bench.begin();
        bench.works();
    });
}

/// What this process has of address space, in bytes.
fn size() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<usize>().unwrap() * 4096
}

//
#[test]
fn requests_of_4_gib_that_never_end_take_no_memory_by_their_length() {
    let Some((mut bench, writer)) = waiting(Face::Mmio, |setup| setup.features = FLUSH | INDIRECT) else {
        return;
    };
    let head = bench.machine.put(&header(IN, 0));
    let status = bench.machine.put(&[UNTOUCHED]);
    let table = bench.machine.alloc(16 * 256, 16);
    let queue = &mut bench.queues[0];
    queue.describe(table, 0, (head, 16, 1), 1);
    for i in 1..=254 {
        queue.describe(table, i, (RAM_BASE, RAM as u32, WRITE | 1), i + 1);
    }
    queue.describe(table, 255, (status, 1, WRITE), 0);
    let before = size();

    let offer = |_| queue.offer(&[(table, 16 * 256, TABLE)]);
    let heads: Vec<u16> = (0..250).map(offer).collect();
    bench.all_taken();
    // None of these is free.
    for head in &heads {
        bench.queues[0].publish(*head);
    }
    bench.kick(0);
    bench.machine.wait_until("a reset", |machine| machine.status() & NEEDS_RESET != 0);

    // Of what was asked, which is a tebibyte, next to nothing; other tests take some meanwhile.
    assert!(size().saturating_sub(before) < 2 << 30);
    drop(writer);
    bench.begin();
    assert_eq!(bench.ask(GET_ID, 0, &[], 20).0, OK);
}

//
#[test]
fn a_reset_waits_for_all_that_is_on_its_way_and_nothing_is_written_after_it() {
    for face in Face::ALL {
        for count in [1usize, 2, 80] {
            let Some((mut bench, mut writer)) = waiting(face, |_| {}) else { return };
            let asked: Vec<_> = (0..count).map(|i| bench.put(0, IN, i as u64, &[], 4096)).collect();
            bench.all_taken();

            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(20));
                    writer.write_all(&vec![0x5a; count * 4096]).unwrap();
                });
                bench.machine.set_status(0);
            });

            for asked in &asked {
                assert!(bench.answer(asked) == (OK, vec![0x5a; 4096]), "{face:?}, {count}");
                bench.machine.memory.write_slice(&[0xcc; 4096], GuestAddress(asked.data)).unwrap();
            }
            // Nobody may read this for a request from before.
            writer.write_all(&[0x77; 8192]).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            assert!(asked.iter().all(|asked| bench.machine.bytes(asked.data, 4096) == [0xcc; 4096]));
            bench.begin();
            let (status, _, used) = bench.ask(IN, 0, &[], 4096);
            assert_eq!((status, used), (OK, 4097), "{face:?}");
        }
    }
}

//
#[test]
fn a_device_that_goes_away_waits_for_what_is_on_its_way() {
    let Some((mut bench, mut writer)) = waiting(Face::Mmio, |_| {}) else { return };
    let asked: Vec<_> = (0..16u64).map(|i| bench.put(0, IN, i, &[], 4096)).collect();
    bench.all_taken();
    let memory = bench.machine.memory.clone();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            writer.write_all(&[0x5a; 16 * 4096]).unwrap();
        });
        drop(bench);
    });

    for asked in asked {
        let mut data = [0; 4096];
        memory.read_slice(&mut data, GuestAddress(asked.data)).unwrap();
        assert!(data == [0x5a; 4096]);
    }
}

//
#[test]
fn a_function_that_may_not_master_the_bus_for_a_while_loses_no_request() {
    let Some((mut bench, mut writer)) = waiting(Face::Pci, |_| {}) else { return };
    let command = crate::driver::Spot { window: 0, byte: 4 };
    let asked: Vec<_> = (0..8u64).map(|i| bench.put(0, IN, i, &[], 4096)).collect();
    bench.all_taken();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            writer.write_all(&[0x5a; 8 * 4096]).unwrap();
        });
        bench.machine.put_at(command, &[2, 0]);
    });
    bench.machine.put_at(command, &[6, 0]);

    for _ in &asked {
        assert_eq!(bench.queues[0].wait().1, 4097);
    }
    assert!(asked.iter().all(|asked| bench.answer(asked) == (OK, vec![0x5a; 4096])));
}

fn rate(size: u64, refill: Duration) -> Option<Rate> {
    Some(Rate { size: NonZeroU64::new(size).unwrap(), refill, burst: 0 })
}

#[test]
fn a_limit_holds_for_all_queues_together_and_what_waits_is_not_lost() {
    by_engine(|setup| {
        for by_bytes in [false, true] {
            let mut setup = setup.clone();
            setup.options.queues = 2;
            let refill = Duration::from_millis(100);
            let size = if by_bytes { 2 * 512 } else { 2 };
            let limits = &mut setup.options.limits;
            *(if by_bytes { &mut limits.bytes } else { &mut limits.operations }) = rate(size, refill);
            let mut bench = setup.bench();
            let start = Instant::now();
            let asked: Vec<_> = (0..8).map(|i| bench.put(i % 2, IN, i as u64, &[], 512)).collect();
            (0..2).for_each(|queue| bench.kick(queue));

            for i in 0..8 {
                assert_eq!(bench.queues[i % 2].wait().1, 513);
            }

            // Two at once, and two more with each refill.
            assert!(start.elapsed() >= Duration::from_millis(290), "{:?}", start.elapsed());
            for (i, asked) in asked.iter().enumerate() {
                assert!(bench.answer(asked) == (OK, pattern()[i * 512..][..512].to_vec()));
            }
        }
    });
}

#[test]
fn what_is_larger_than_the_limit_goes_through_and_the_next_one_waits_for_it() {
    by_engine(|setup| {
        let setup = setup.with(|setup| setup.options.limits.bytes = rate(512, Duration::from_millis(50)));
        let mut bench = setup.bench();

        assert_eq!(bench.ask(IN, 0, &[], 4 * 512).0, OK);
        let start = Instant::now();
        assert_eq!(bench.ask(IN, 0, &[], 512).0, OK);

        assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
    });
}

#[test]
fn a_reset_does_not_wait_for_a_limit() {
    everywhere(|setup| {
        let slow = rate(1, Duration::from_secs(3600));
        let mut bench = setup.with(|setup| setup.options.limits.operations = slow).bench();
        for i in 0..4 {
            bench.put(0, IN, i, &[], 512);
        }
        bench.kick(0);
        assert_eq!(bench.queues[0].wait().1, 513);

        bench.begin();

        assert_eq!(bench.queues[0].poll(), None);
    });
}

/// Counts messages.
struct Messages(Arc<AtomicUsize>);

impl Signal for Messages {
    fn message(&self, event: Event) -> bool {
        self.0.fetch_add(usize::from(event == Event::Used(0)), Ordering::SeqCst);
        true
    }

    fn status(&self, _: u8, _: u8) {}
}

#[test]
fn a_batch_is_published_and_told_once() {
    for engine in engines() {
        for features in [0, EVENT_IDX] {
            let memory = BenchHost::new(RAM).memory();
            let count = Arc::new(AtomicUsize::new(0));
            let interrupt = Arc::new(Interrupt::new(Messages(Arc::clone(&count))));
            let areas = Areas { desc: RAM_BASE, avail: RAM_BASE + 0x4000, used: RAM_BASE + 0x5000 };
            let setup = QueueSetup { areas, ..QueueSetup::at_reset(256) };
            let mut queue = setup.check(&memory, PaBits::MAX).unwrap().queue().unwrap();
            queue.set_event_idx(features != 0);
            let kick = EventFd::new(EFD_NONBLOCK).unwrap();
            let call = Arc::clone(&interrupt);
            let ring = Ring { index: 0, queue, indirect: false, told: 0, kick, call };
            let Areas { desc, avail, used } = areas;
            let vq = (desc, avail, used, memory.clone());
            let mut vq = Vq {
                index: 0,
                size: 256,
                desc: vq.0,
                avail: vq.1,
                used: vq.2,
                memory: vq.3,
                next: 0,
                slot: 0,
                seen: 0,
            };
            let (at, status) = (RAM_BASE + 0x1_0000, RAM_BASE + 0x2_0000);
            memory.write_slice(&header(IN, 0), GuestAddress(at)).unwrap();
            for i in 0..32u64 {
                vq.offer(&[(at, 16, 0), (at + 0x1000, 512, WRITE), (status + i, 1, WRITE)]);
            }
            let options = Options { engine, ..Options::new("disk0") };
            let mut block = Block::new(image(), &options).unwrap();

            let features = VERSION_1 | FLUSH | features;
            block.start(Start { rings: vec![ring], memory, features, interrupt }).unwrap();
            for _ in 0..32 {
                vq.wait();
            }
            block.stop();

            // What the kernel has not at hand comes in a batch of its own.
            let told = count.load(Ordering::SeqCst);
            assert!(told == 1 || engine == Engine::Uring && told < 8, "{engine:?}: {told} messages");
        }
    }
}

#[test]
fn a_disk_that_has_nothing_to_do_sleeps() {
    by_engine(|setup| {
        let id = crate::driver::unique("disk");
        let mut bench = setup.with(|setup| setup.options.id = id.clone()).bench();
        bench.works();

        crate::driver::idles(&id);
    });
}
