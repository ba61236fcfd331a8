//! Files that fail, and what the guest hears of it (host-faults F-01 to F-11).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::block::flushes::{Flushes, Turn};

/// The acts of a request, with what it needs besides.
const REQUESTS: [(u32, bool); 5] =
    [(IN, false), (OUT, true), (FLUSH_IT, false), (DISCARD, true), (WRITE_ZEROES, true)];

impl Bench {
    /// One request of this kind on the first sector.
    fn one(&mut self, kind: u32) -> (u8, u32) {
        let (status, _, used) = match kind {
            IN => self.ask(IN, 0, &[], 512),
            OUT => self.ask(OUT, 0, &[0x11; 512], 0),
            DISCARD | WRITE_ZEROES => self.ask(kind, 0, &range(0, 8, 0), 0),
            kind => self.ask(kind, 0, &[], 0),
        };
        (status, used)
    }
}

// F-01, F-03, F-04
#[test]
fn an_error_of_the_host_is_the_guests_io_error_and_is_counted() {
    for number in [libc::EIO, libc::ENOSPC, libc::EFBIG, libc::EDQUOT, libc::EBADF] {
        everywhere(|setup| {
            let fails = Arc::new(AtomicU32::new(0));
            let left = Arc::clone(&fails);
            let script = Script::of(move |_| (left.load(Ordering::SeqCst) > 0).then(|| error(number)));
            let mut bench = setup.faulty(&script).bench();
            for (count, (kind, writes)) in (1..).zip(REQUESTS) {
                fails.store(1, Ordering::SeqCst);
                // Only what has no data for the guest counts its status byte.
                let used = u32::from(kind != IN);
                assert_eq!(bench.one(kind), (IOERR, used), "type {kind}");
                assert_eq!(bench.size.counts().errors, count, "type {kind}");
                fails.store(0, Ordering::SeqCst);
                assert!(!writes || bench.contents() == pattern(), "type {kind}");
                bench.works();
            }
        });
    }
}

// F-03
#[test]
fn a_full_device_is_an_io_error() {
    everywhere(|setup| {
        let full = std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let mut bench = setup.with(|setup| setup.facts = plain(SECTORS)).on(full);

        assert_eq!(bench.status_of(OUT, 0, &[0x11; 512], 0), IOERR);
        assert_eq!(bench.ask(IN, 0, &[], 512), (OK, vec![0; 512], 513));
    });
}

// F-06
#[test]
fn a_file_that_became_shorter_is_an_io_error_and_the_disk_keeps_its_size() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        bench.file.set_len(4 * 512).unwrap();

        let (status, _, used) = bench.ask(IN, 3, &[], 1024);

        assert_eq!((status, used), (IOERR, 0));
        assert_eq!(bench.config::<8>(0), SECTORS.to_le_bytes());
        bench.works();
        // A write brings back what it writes.
        assert_eq!(bench.status_of(OUT, 60, &[0x11; 512], 0), OK);
        assert_eq!(bench.ask(IN, 60, &[], 512), (OK, vec![0x11; 512], 513));
    });
}

// F-06, C-185
#[test]
fn zeros_behind_the_end_of_a_file_that_became_shorter_can_be_read() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        bench.file.set_len(4 * 512).unwrap();

        assert_eq!(bench.status_of(WRITE_ZEROES, 0, &range(8, 8, 0), 0), OK);
        assert_eq!(bench.ask(IN, 8, &[], 8 * 512), (OK, vec![0; 8 * 512], 8 * 512 + 1));
    });
}

#[test]
fn a_file_that_cannot_be_written_after_all_is_an_io_error() {
    everywhere(|setup| {
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().write_all(&pattern()).unwrap();
        let mut bench = setup.on(File::open(named.path()).unwrap());

        assert_eq!(bench.one(OUT), (IOERR, 1));
        assert_eq!(bench.one(WRITE_ZEROES), (IOERR, 1));
        assert!(bench.contents() == pattern());
        bench.works();
    });
}

/// Ends the first step of `len` bytes after `first` of them, by doing no more.
fn short(len: u64, first: &Arc<AtomicU64>) -> Arc<Script> {
    let first = Arc::clone(first);
    Script::of(move |step| {
        if step.len == len {
            step.len = first.load(Ordering::SeqCst);
        }
        None
    })
}

// F-02, R-35
#[test]
fn what_comes_up_short_goes_on_at_the_exact_byte_wherever_buffers_end() {
    const LEN: u64 = 2048;
    let cuts = (1..LEN).filter(|at| at % 29 == 0 || (at + 1) % 512 < 3 || (at + 1) % 300 < 3);
    let cuts: Vec<u64> = cuts.collect();
    by_engine(|setup| {
        let first = Arc::new(AtomicU64::new(0));
        let mut bench = setup.faulty(&short(LEN, &first)).bench();
        for at in &cuts {
            first.store(*at, Ordering::SeqCst);
            let read = bench.machine.put(&header(IN, 2));
            let write = bench.machine.put(&header(OUT, 40));
            let into = bench.machine.put(&[EMPTY; 2048]);
            let status = bench.machine.put(&[UNTOUCHED]);

            let buffers = [(0, 300), (300, 212), (512, 1000), (1512, 536)];
            let chain = |head: u64, flags: u16| {
                let data = buffers.map(|(at, len)| (into + at, len, flags));
                [(head, 16, 0)].into_iter().chain(data).chain([(status, 1, WRITE)]).collect::<Vec<_>>()
            };
            assert_eq!(bench.chain(&chain(read, WRITE)), 2049, "cut at {at}");
            let (data, expected) = (bench.machine.bytes(into, 2048), &pattern()[1024..3072]);
            assert!(data == expected, "cut at {at}");
            bench.file.write_all_at(&[0; 2048], 40 * 512).unwrap();
            assert_eq!(bench.chain(&chain(write, 0)), 1, "cut at {at}");
            assert!(bench.contents()[40 * 512..44 * 512] == *expected, "cut at {at}");
            assert_eq!(bench.machine.bytes(status, 1), [OK], "cut at {at}");
        }
    });
}

// F-02
#[test]
fn no_progress_is_an_error_and_not_a_loop() {
    everywhere(|setup| {
        let mut bench = setup.faulty(&Script::of(|_| Some(Ok(0)))).bench();

        assert_eq!(bench.one(OUT), (IOERR, 1));
        assert_eq!(bench.one(IN), (IOERR, 0));
    });
}

// F-11
#[test]
fn what_passes_is_tried_again_and_what_does_not_pass_ends() {
    for number in [libc::EINTR, libc::EAGAIN] {
        everywhere(|setup| {
            let left = Arc::new(AtomicU32::new(0));
            let count = Arc::clone(&left);
            let script = Script::of(move |_| {
                let more = count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                more.is_ok().then(|| error(number))
            });
            let mut bench = setup.faulty(&script).bench();
            for (kind, _) in REQUESTS {
                left.store(50, Ordering::SeqCst);
                assert_eq!(bench.one(kind).0, OK, "type {kind}");
            }
            left.store(u32::MAX, Ordering::SeqCst);
            assert_eq!(bench.one(OUT), (IOERR, 1));
        });
    }
}

// F-05, F-01
#[test]
fn after_a_failed_flush_no_other_works_until_the_driver_begins_anew() {
    everywhere(|setup| {
        let fails = Arc::new(AtomicU32::new(1));
        let left = Arc::clone(&fails);
        let script = Script::of(move |step| {
            let now = step.act == Act::Sync && left.swap(0, Ordering::SeqCst) > 0;
            now.then(|| error(libc::EIO))
        });
        let mut bench = setup.faulty(&script).bench();
        assert_eq!(bench.one(OUT), (OK, 1));

        // Once the kernel fails, and from then on it would say that all is well.
        let flushes: Vec<_> = (0..3).map(|_| bench.one(FLUSH_IT)).collect();

        assert_eq!(flushes, [(IOERR, 1); 3]);
        assert_eq!(bench.size.counts(), Counts { errors: 1, failed_flushes: 1 });
        assert_eq!(bench.one(OUT), (OK, 1));
        assert_eq!(bench.one(IN), (OK, 513));
        bench.begin();
        assert_eq!(bench.one(FLUSH_IT), (OK, 1));
    });
}

// F-05, C-187
#[test]
fn a_write_that_should_be_stable_fails_with_its_flush_in_every_queue() {
    everywhere(|setup| {
        let fails = Arc::new(AtomicU32::new(1));
        let left = Arc::clone(&fails);
        let script = Script::of(move |step| {
            let now = step.act == Act::Sync && left.swap(0, Ordering::SeqCst) > 0;
            now.then(|| error(libc::EIO))
        });
        let setup = setup.with(|setup| (setup.features, setup.options.queues) = (0, 2));
        let mut bench = setup.faulty(&script).bench();

        assert_eq!(bench.one(OUT), (IOERR, 1));
        let other = bench.put(1, OUT, 0, &[0x22; 512], 0);
        bench.kick(1);
        bench.queues[1].wait();
        assert_eq!(bench.answer(&other).0, IOERR);
    });
}

/// The first flush waits until the channel has something, and then fails.
fn first_flush_fails_late() -> (Arc<Script>, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (reaches, reached) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let first = Mutex::new(Some((reaches, gate)));
    let script = Script::of(move |step| {
        let now = (step.act == Act::Sync).then(|| first.lock().unwrap().take()).flatten();
        now.map(|(reaches, gate): (mpsc::Sender<()>, mpsc::Receiver<()>)| {
            reaches.send(()).unwrap();
            gate.recv().unwrap();
            error(libc::EIO).map(|()| 0)
        })
    });
    (script, reached, open)
}

// F-05
#[test]
fn no_flush_works_that_was_asked_for_while_one_in_another_queue_was_about_to_fail() {
    everywhere(|setup| {
        let (script, reached, open) = first_flush_fails_late();
        let mut bench = setup.with(|setup| setup.options.queues = 2).faulty(&script).bench();
        let first = bench.put(0, FLUSH_IT, 0, &[], 0);
        bench.kick(0);
        reached.recv().unwrap();

        let others: Vec<_> = (0..3).map(|_| bench.put(1, FLUSH_IT, 0, &[], 0)).collect();
        bench.kick(1);
        // Time for a wrong answer: to a flush of its own, the kernel says that all is well.
        std::thread::sleep(Duration::from_millis(20));
        open.send(()).unwrap();

        bench.queues[0].wait();
        others.iter().for_each(|_| assert_eq!(bench.queues[1].wait().1, 1));
        assert_eq!(bench.answer(&first).0, IOERR);
        assert_eq!([0, 1, 2].map(|i: usize| bench.answer(&others[i]).0), [IOERR; 3]);
    });
}

// F-05, R-46
#[test]
fn flushes_that_wait_for_each_other_are_over_when_a_reset_returns() {
    everywhere(|setup| {
        let (script, reached, open) = first_flush_fails_late();
        let mut bench = setup.with(|setup| setup.options.queues = 2).faulty(&script).bench();
        let mut asked = vec![bench.put(0, FLUSH_IT, 0, &[], 0)];
        bench.kick(0);
        reached.recv().unwrap();
        asked.extend((0..3).map(|i| bench.put(i % 2, FLUSH_IT, 0, &[], 0)));
        bench.kick(1);

        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                open.send(()).unwrap();
            });
            bench.machine.set_status(0);
        });

        let told: Vec<_> = asked.iter().map(|asked| bench.answer(asked).0).collect();
        assert!(told.iter().all(|status| [IOERR, UNTOUCHED].contains(status)), "{told:?}");
        bench.begin();
        assert_eq!(bench.one(FLUSH_IT), (OK, 1));
    });
}

#[test]
fn a_flush_stands_for_those_that_were_asked_for_before_it_began() {
    let flushes = Flushes::default();
    let bell = Arc::new(OwnedFd::from(io::pipe().unwrap().1));
    let first = flushes.begun();
    assert_eq!(flushes.ask(first, &bell), Turn::Now);

    // What is written from here on is not sure to be in it.
    let later = flushes.begun();
    let asked = [flushes.ask(later, &bell), flushes.ask(later, &bell)];
    flushes.end(true);
    let turn = flushes.ask(later, &bell);
    flushes.end(false);
    let again = flushes.wait(later);
    flushes.end(true);

    assert_eq!((asked, turn, again), ([Turn::Later; 2], Turn::Now, Turn::Now));
    assert_eq!((flushes.wait(later), flushes.ask(flushes.begun(), &bell)), (Turn::Done, Turn::Now));
}
