//! When what was written is on stable storage.

use std::os::fd::AsFd;

use super::*;

const WRITEBACK: u64 = 32;

fn traced(setup: Setup) -> (Bench, Arc<Script>) {
    let script = Script::trace();
    (setup.faulty(&script).bench(), script)
}

impl Bench {
    fn writeback(&self) -> u8 {
        let [mode] = self.config::<1>(WRITEBACK);
        mode
    }

    fn set_writeback(&self, mode: u8) {
        self.machine.put_at(self.machine.spots.config.plus(WRITEBACK), &[mode]);
    }
}

// C-188
#[test]
fn a_flush_comes_after_every_write_that_was_completed() {
    everywhere(|setup| {
        let (mut bench, script) = traced(setup);
        for sector in 0..8 {
            bench.put(0, OUT, sector * 4, &[0x33; 512], 0);
        }
        bench.kick(0);
        for _ in 0..8 {
            bench.queues[0].wait();
        }

        assert_eq!(script.take(), [Act::Write; 8]);
        assert_eq!(bench.status_of(FLUSH_IT, 0, &[], 0), OK);
        assert_eq!(script.take(), [Act::Sync]);
    });
}

// C-187
#[test]
fn a_driver_without_flush_gets_writes_that_are_stable_when_they_complete() {
    everywhere(|setup| {
        let (mut bench, script) = traced(setup.with(|setup| setup.features = 0));

        assert_eq!(bench.status_of(OUT, 1, &[0x33; 512], 0), OK);
        assert_eq!(script.take(), [Act::Write, Act::Sync]);
        assert_eq!(bench.status_of(WRITE_ZEROES, 0, &range(0, 8, 0), 0), OK);
        assert_eq!(script.take().last(), Some(&Act::Sync));
        assert_eq!(bench.status_of(IN, 0, &[], 512), OK);
        assert_eq!(script.take(), [Act::Read]);
    });
}

// C-187
#[test]
fn writes_are_stable_when_they_complete_while_the_driver_has_writeback_off() {
    everywhere(|setup| {
        let (mut bench, script) = traced(setup.with(|setup| setup.features = FLUSH | CONFIG_WCE));
        let mut modes = Vec::new();
        for mode in [1, 0, 1, 0] {
            bench.set_writeback(mode);
            assert_eq!(bench.status_of(OUT, 1, &[0x33; 512], 0), OK);
            modes.push((bench.writeback(), script.take()));
        }

        let (off, on) = ((0, vec![Act::Write, Act::Sync]), (1, vec![Act::Write]));
        assert_eq!(modes, [on.clone(), off.clone(), on, off]);
        // Nothing else means anything, and the padding behind it is not there to be written.
        bench.set_writeback(2);
        bench.machine.put_at(bench.machine.spots.config.plus(WRITEBACK + 1), &[1]);
        assert_eq!(bench.config::<2>(WRITEBACK), [0, 0]);
    });
}

// C-181
#[test]
fn a_modern_driver_that_cannot_flush_reads_writethrough_before_it_is_ready() {
    for engine in engines() {
        for face in [Face::Mmio, Face::Pci] {
            let (mut bench, script) =
                traced(Setup::new(face, engine).with(|setup| setup.features = CONFIG_WCE));
            assert!(bench.machine.negotiate(VERSION_1 | CONFIG_WCE));
            assert_eq!(bench.writeback(), 0);
            bench.begin();

            bench.set_writeback(1);
            assert_eq!(bench.writeback(), 0);
            assert_eq!(bench.status_of(OUT, 1, &[0x33; 512], 0), OK);
            assert_eq!(script.take(), [Act::Write, Act::Sync]);
            // The next one may flush.
            assert!(bench.machine.negotiate(VERSION_1 | CONFIG_WCE | FLUSH));
            assert_eq!(bench.writeback(), 1);
        }
    }
}

#[test]
fn a_modern_driver_that_did_not_ask_for_it_does_not_choose_the_mode() {
    for face in [Face::Mmio, Face::Pci] {
        let bench = Setup::new(face, Engine::Sync).bench();

        bench.set_writeback(0);

        assert_eq!(bench.writeback(), 1);
    }
}

// C-197
#[test]
fn a_legacy_driver_chooses_the_mode_at_any_time_and_no_status_or_feature_changes_it() {
    for engine in engines() {
        for face in [Face::MmioLegacy, Face::PciLegacy] {
            for features in [0, CONFIG_WCE, FLUSH, FLUSH | CONFIG_WCE] {
                for mode in [0, 1] {
                    let mut bench = Setup::new(face, engine).bench();
                    let mut seen = Vec::new();
                    bench.machine.set_status(0);
                    bench.set_writeback(mode);
                    for status in [1, 3] {
                        bench.machine.set_status(status);
                        seen.push(bench.writeback());
                    }
                    bench.machine.choose(features);
                    seen.push(bench.writeback());
                    bench.queues = vec![bench.machine.queue(0, 256)];
                    seen.push(bench.writeback());
                    // Without CONFIG_WCE it may change here.
                    bench.machine.go();
                    if features & CONFIG_WCE != 0 {
                        seen.push(bench.writeback());
                    }
                    bench.works();

                    assert!(seen.iter().all(|now| *now == mode), "{mode} with {features:#x}: {seen:?}");
                }
            }
        }
    }
}

#[test]
fn writethrough_is_where_it_begins_and_where_a_reset_leads_back_to() {
    everywhere(|setup| {
        let setup = setup.with(|setup| {
            setup.features = FLUSH | CONFIG_WCE;
            setup.options.cache = Cache::Writethrough;
        });
        let (mut bench, script) = traced(setup);

        assert_eq!(bench.writeback(), 0);
        assert_eq!(bench.status_of(OUT, 1, &[0x33; 512], 0), OK);
        assert_eq!(script.take(), [Act::Write, Act::Sync]);
        bench.set_writeback(1);
        assert_eq!(bench.writeback(), 1);
        bench.machine.set_status(0);
        assert_eq!(bench.writeback(), 0);
    });
}

#[test]
fn an_unsafe_disk_never_waits_for_storage() {
    everywhere(|setup| {
        let setup = setup.with(|setup| (setup.features, setup.options.cache) = (0, Cache::Unsafe));
        let (mut bench, script) = traced(setup);

        assert_eq!(bench.status_of(OUT, 1, &[0x33; 512], 0), OK);
        assert_eq!(bench.status_of(FLUSH_IT, 0, &[], 0), OK);
        assert_eq!(script.take(), [Act::Write]);
    });
}

/// Reads and writes of buffers that begin and end at odd places, longer than one piece of a copy.
fn moves_odd_buffers(bench: &mut Bench) {
    let data: Vec<u8> = (0..200 * 512).map(|at| (at % 253) as u8).collect();
    let head = bench.machine.put(&header(OUT, 8));
    bench.machine.alloc(1, 1);
    let from = bench.machine.put(&data);
    let status = bench.machine.put(&[UNTOUCHED]);
    let len = data.len() as u32;
    let chain = [(head, 16, 0), (from, 511, 0), (from + 511, len - 511, 0), (status, 1, WRITE)];
    assert_eq!((bench.chain(&chain), bench.machine.bytes(status, 1)), (1, vec![OK]));

    let head = bench.machine.put(&header(IN, 8));
    let into = bench.machine.alloc(u64::from(len) + 4096, 512) + 3;
    let chain =
        [(head, 16, 0), (into, 70_000, WRITE), (into + 70_000, len - 70_000, WRITE), (status, 1, WRITE)];
    assert_eq!((bench.chain(&chain), bench.machine.bytes(status, 1)), (len + 1, vec![OK]));
    assert!(bench.machine.bytes(into, data.len()) == data);

    // It is not enough to begin at the right place.
    let (first, second) = (bench.machine.alloc(4096, 4096), bench.machine.alloc(u64::from(len), 4096));
    let chain = [(head, 16, 0), (first, 516, WRITE), (second, len - 516, WRITE), (status, 1, WRITE)];
    assert_eq!((bench.chain(&chain), bench.machine.bytes(status, 1)), (len + 1, vec![OK]));
    assert!(bench.machine.bytes(first, 516) == data[..516]);
    assert!(bench.machine.bytes(second, data.len() - 516) == data[516..]);

    // Those that fit go straight, and see the same.
    let into = bench.machine.alloc(u64::from(len), 4096);
    let chain = [(head, 16, 0), (into, len, WRITE), (status, 1, WRITE)];
    assert_eq!((bench.chain(&chain), bench.machine.bytes(status, 1)), (len + 1, vec![OK]));
    assert!(bench.machine.bytes(into, data.len()) == data);
}

// F-10
#[test]
fn direct_io_takes_buffers_that_are_not_aligned() {
    for engine in engines() {
        for face in Face::ALL {
            let named = tempfile::NamedTempFile::new().unwrap();
            named.as_file().set_len(1 << 20).unwrap();
            let mut setup = Setup::new(face, engine);
            setup.options.cache = Cache::Direct;
            if let Err(error) = Disk::new(named.reopen().unwrap(), &setup.options) {
                return println!("NOT TESTED: direct I/O, which this file system refuses: {error}");
            }
            let mut bench = setup.on(named.reopen().unwrap());
            let flags = rustix::fs::fcntl_getfl(bench.file.as_fd()).unwrap();

            assert!(flags.contains(rustix::fs::OFlags::DIRECT));
            moves_odd_buffers(&mut bench);
        }
    }
}

// F-10
#[test]
fn what_is_copied_for_direct_io_is_whole_in_any_piece() {
    everywhere(|setup| {
        let align = Alignment { memory: 512, offset: 512 };
        let facts = Some((2048, Blocks { logical: 512, physical: 512 }, Some(align)));
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let mut bench = setup.clone().with(|setup| setup.facts = facts).on(file);
        moves_odd_buffers(&mut bench);
        // More of them than may have a copy at a time: they wait for each other, and none is lost.
        let asked: Vec<_> = (0..60u64).map(|i| bench.put(0, OUT, i, &vec![i as u8; 1024], 0)).collect();
        bench.kick(0);
        let mut heads: Vec<_> = asked.iter().map(|_| bench.queues[0].wait().0).collect();
        heads.sort_unstable();
        let mut expected: Vec<_> = asked.iter().map(|asked| u32::from(asked.head)).collect();
        expected.sort_unstable();
        assert_eq!(heads, expected);
        assert!(asked.iter().all(|asked| bench.answer(asked).0 == OK));
    });
}

// F-10
#[test]
fn a_disk_of_large_blocks_says_so_and_takes_no_part_of_one() {
    everywhere(|setup| {
        let align = Alignment { memory: 512, offset: 4096 };
        let facts = Some((SECTORS, Blocks { logical: 4096, physical: 4096 }, Some(align)));
        let mut bench = setup.with(|setup| setup.facts = facts).bench();

        assert_eq!(u32::from_le_bytes(bench.config(20)), 4096);
        assert_eq!(bench.ask(IN, 8, &[], 4096), (OK, pattern()[4096..8192].to_vec(), 4097));
        assert_eq!(bench.status_of(IN, 1, &[], 4096), IOERR);
        assert_eq!(bench.status_of(OUT, 8, &[0; 512], 0), IOERR);
        assert!(bench.contents() == pattern());
    });
}
