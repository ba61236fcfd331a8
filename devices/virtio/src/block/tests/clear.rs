//! Discards and zeroed ranges.

use super::*;

const UNMAP: u32 = 1;

/// What the file does about ranges to clear.
#[derive(Clone, Copy, Debug)]
enum Can {
    Everything,
    /// Refuses these; the rest is up to it.
    Not {
        punch: Option<i32>,
        zero: Option<i32>,
    },
}

fn script(can: Can) -> Arc<Script> {
    use rustix::fs::FallocateFlags as Flags;
    Script::of(move |step| {
        let Can::Not { punch, zero } = can else { return None };
        match step.act {
            Act::Allocate(flags) if flags.contains(Flags::PUNCH_HOLE) => punch.map(error),
            Act::Allocate(_) => zero.map(error),
            _ => None,
        }
    })
}

const NEVER: Option<i32> = Some(libc::EOPNOTSUPP);
const NOT_SO: Option<i32> = Some(libc::EINVAL);

// C-185
#[test]
fn a_zeroed_range_reads_as_zero_whatever_the_file_can_and_unmap_says() {
    let files = [
        Can::Everything,
        Can::Not { punch: NEVER, zero: None },
        Can::Not { punch: None, zero: NEVER },
        Can::Not { punch: NEVER, zero: NEVER },
        Can::Not { punch: NOT_SO, zero: NOT_SO },
        Can::Not { punch: Some(libc::ENOSYS), zero: Some(libc::ENOSYS) },
    ];
    everywhere(|setup| {
        for can in files {
            for discard in [true, false] {
                for unmap in [0, UNMAP] {
                    let setup = setup.clone().with(|setup| setup.options.discard = discard);
                    let mut bench = setup.faulty(&script(can)).bench();

                    let status = bench.status_of(WRITE_ZEROES, 0, &range(3, 9, unmap), 0);
                    let again = bench.status_of(WRITE_ZEROES, 0, &range(20, 1, unmap), 0);

                    let mut expected = pattern();
                    expected[3 * 512..12 * 512].fill(0);
                    expected[20 * 512..21 * 512].fill(0);
                    assert_eq!((status, again), (OK, OK), "{can:?}");
                    assert!(bench.contents() == expected, "{can:?}, unmap {unmap}");
                }
            }
        }
    });
}

// C-185
#[test]
fn zeros_are_written_piece_by_piece_where_there_is_no_other_way() {
    by_engine(|setup| {
        let trace = script(Can::Not { punch: NEVER, zero: NEVER });
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![0x77; 1 << 20]).unwrap();
        let mut bench = setup.faulty(&trace).on(file);

        assert_eq!(bench.status_of(WRITE_ZEROES, 0, &range(1, 2046, UNMAP), 0), OK);

        let mut bytes = vec![0xff; 1 << 20];
        bench.file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..512] == [0x77; 512] && bytes[(1 << 20) - 512..] == [0x77; 512]);
        assert!(bytes[512..(1 << 20) - 512].iter().all(|byte| *byte == 0));
        assert_eq!(trace.take(), [Act::Zero; 16]);
    });
}

// C-186
#[test]
fn a_disk_that_keeps_its_blocks_never_lets_one_go() {
    for (discard, unmaps) in [(true, true), (false, false)] {
        by_engine(|setup| {
            let trace = Script::trace();
            let mut bench = setup.with(|setup| setup.options.discard = discard).faulty(&trace).bench();

            assert_eq!(bench.config::<1>(56), [u8::from(unmaps)]);
            assert_eq!(bench.status_of(WRITE_ZEROES, 0, &range(0, 64, UNMAP), 0), OK);

            let punch = rustix::fs::FallocateFlags::PUNCH_HOLE;
            let punched = |act: &Act| matches!(act, Act::Allocate(flags) if flags.contains(punch));
            assert_eq!(trace.take().iter().any(punched), unmaps);
            let expected = if discard { OK } else { UNSUPP };
            assert_eq!(bench.status_of(DISCARD, 0, &range(0, 8, 0), 0), expected);
        });
    }
}

//
#[test]
fn a_discard_lets_go_of_its_ranges_and_touches_no_others() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        let ranges = [range(0, 8, 0), range(16, 8, 0), range(40, 0, 0)].concat();

        assert_eq!(bench.ask(DISCARD, 0, &ranges, 0), (OK, Vec::new(), 1));

        let (contents, expected) = (bench.contents(), pattern());
        assert!(contents[8 * 512..16 * 512] == expected[8 * 512..16 * 512]);
        assert!(contents[24 * 512..] == expected[24 * 512..]);
        // What it has now is the file's to say; a file that cannot punch holes keeps it.
        assert!([0, 16].map(|at| contents[at * 512]).iter().all(|byte| *byte == 0));
    });
}

#[test]
fn a_discard_is_a_hint_that_a_file_may_not_understand() {
    everywhere(|setup| {
        for can in [Can::Not { punch: NEVER, zero: None }, Can::Not { punch: NOT_SO, zero: None }] {
            let mut bench = setup.clone().faulty(&script(can)).bench();

            let ranges = [range(0, 8, 0), range(16, 8, 0)].concat();
            assert_eq!(bench.status_of(DISCARD, 0, &ranges, 0), OK);
            assert_eq!(bench.status_of(DISCARD, 0, &ranges, 0), OK);
            assert!(bench.contents() == pattern());
        }
    });
}

// C-184, R-42
#[test]
fn unknown_flags_are_unsupported_and_so_is_unmap_on_a_discard() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        for flags in [1, 2, 3, 0x8000_0000, u32::MAX] {
            assert_eq!(bench.status_of(DISCARD, 0, &range(0, 8, flags), 0), UNSUPP, "{flags:#x}");
        }
        for flags in [2, 3, 0x8000_0000, u32::MAX] {
            assert_eq!(bench.status_of(WRITE_ZEROES, 0, &range(0, 8, flags), 0), UNSUPP, "{flags:#x}");
        }
        assert!(bench.contents() == pattern());
    });
}

//
#[test]
fn ranges_are_all_served_or_none_is() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        let good = range(0, 8, 0);
        let wrong: [Vec<u8>; 9] = [
            vec![],
            good[..15].to_vec(),
            [good.as_slice(), &[0]].concat(),
            good.repeat(33),
            [good.clone(), range(SECTORS, 1, 0)].concat(),
            [good.clone(), range(u64::MAX, 1, 0)].concat(),
            [good.clone(), range(1, SECTORS as u32, 0)].concat(),
            [good.clone(), range(0, u32::MAX, 0)].concat(),
            [range(0, u32::MAX, 0), good.clone()].concat(),
        ];
        for ranges in &wrong {
            assert_eq!(bench.status_of(DISCARD, 0, ranges, 0), IOERR, "{ranges:?}");
            assert_eq!(bench.status_of(WRITE_ZEROES, 0, ranges, 0), IOERR, "{ranges:?}");
        }
        assert_eq!(bench.status_of(WRITE_ZEROES, 0, &good.repeat(2), 0), IOERR);
        assert_eq!(bench.status_of(DISCARD, 0, &[good.clone(), range(8, 8, 1)].concat(), 0), UNSUPP);
        assert!(bench.contents() == pattern());
        assert_eq!(bench.status_of(DISCARD, 0, &good.repeat(32), 0), OK);
    });
}

//
#[test]
fn no_range_is_longer_than_was_said() {
    by_engine(|setup| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 30).unwrap();
        let mut bench = setup.on(file);
        let [discard, zeroes] = [36, 48].map(|at| u32::from_le_bytes(bench.config(at)));

        assert_eq!(bench.status_of(DISCARD, 0, &range(0, discard, 0), 0), OK);
        assert_eq!(bench.status_of(DISCARD, 0, &range(0, discard + 1, 0), 0), IOERR);
        assert_eq!(bench.status_of(WRITE_ZEROES, 0, &range(0, zeroes, UNMAP), 0), OK);
        assert_eq!(bench.status_of(WRITE_ZEROES, 0, &range(0, zeroes + 1, UNMAP), 0), IOERR);
        assert_eq!(bench.file.metadata().unwrap().len(), 8 << 30);
    });
}
