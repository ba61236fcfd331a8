//! Reads, writes and what is refused, however it is framed.

use super::*;
use crate::driver::{INDIRECT, TABLE};

#[test]
fn a_read_gives_what_the_file_has_and_says_how_much_it_wrote() {
    everywhere(|setup| {
        let mut bench = setup.bench();

        let (status, data, used) = bench.ask(IN, 5, &[], 1024);

        assert_eq!((status, used), (OK, 1025));
        assert_eq!(data, pattern()[5 * 512..7 * 512]);
    });
}

#[test]
fn a_write_changes_its_sectors_and_no_others() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        let data = vec![0x77; 1024];

        let (status, _, used) = bench.ask(OUT, 10, &data, 0);

        let mut expected = pattern();
        expected[10 * 512..12 * 512].copy_from_slice(&data);
        assert_eq!((status, used), (OK, 1));
        assert!(bench.contents() == expected);
    });
}

#[test]
fn a_write_may_be_split_at_any_byte() {
    let data: Vec<u8> = (0..512u32).map(|at| (at * 3) as u8).collect();
    let request = [header(OUT, 1), data.clone()].concat();
    by_engine(|setup| {
        let mut bench = setup.bench();
        for at in 1..request.len() {
            bench.file.write_all_at(&[0; 512], 512).unwrap();
            let from = bench.machine.put(&request);
            let status = bench.machine.put(&[UNTOUCHED]);
            let (first, second) = (at as u32, (request.len() - at) as u32);

            let used = bench.chain(&[(from, first, 0), (from + at as u64, second, 0), (status, 1, WRITE)]);

            assert_eq!((bench.machine.bytes(status, 1), used), (vec![OK], 1), "split at {at}");
            assert!(bench.contents()[512..1024] == data, "split at {at}");
        }
    });
}

// C-192
#[test]
fn a_read_may_be_split_at_any_byte_and_the_status_is_the_last_one() {
    let mut expected = pattern()[1024..1536].to_vec();
    expected.push(OK);
    everywhere(|setup| {
        let mut bench = setup.bench();
        let head = bench.machine.put(&header(IN, 2));
        for at in 0..=512u32 {
            let into = bench.machine.put(&[UNTOUCHED; 513]);

            let used =
                bench.chain(&[(head, 16, 0), (into, at, WRITE), (into + u64::from(at), 513 - at, WRITE)]);

            assert_eq!(used, 513, "split at {at}");
            assert!(bench.machine.bytes(into, 513) == expected, "split at {at}");
        }
    });
}

// C-192, C-193
#[test]
fn a_request_of_single_bytes_works() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        let head = bench.machine.put(&header(GET_ID, 0));
        let into = bench.machine.put(&[UNTOUCHED; 21]);
        let chain: Vec<_> =
            (0..16).map(|i| (head + i, 1, 0)).chain((0..21).map(|i| (into + i, 1, WRITE))).collect();

        assert_eq!(bench.chain(&chain), 21);
        assert_eq!(bench.machine.bytes(into, 21), b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    });
}

// C-198
#[test]
fn a_legacy_driver_that_does_not_take_any_layout_is_served_in_its_three_buffers() {
    for engine in engines() {
        for face in [Face::MmioLegacy, Face::PciLegacy] {
            let mut bench = Setup::new(face, engine).with(|setup| setup.features = 0).bench();
            let any_layout = 1 << 27;

            assert_eq!(bench.machine.offered() & any_layout, any_layout);
            assert_eq!(bench.status_of(OUT, 10, &[0x77; 512], 0), OK);
            assert_eq!(bench.ask(IN, 10, &[], 512), (OK, vec![0x77; 512], 513));
        }
    }
}

// C-190, R-41
#[test]
fn what_is_beyond_the_last_sector_is_refused_and_nothing_is_touched() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        for sector in [SECTORS - 1, SECTORS, SECTORS + 1, 1 << 55, (1 << 55) - 1, u64::MAX - 1, u64::MAX] {
            for count in [1u32, 2, SECTORS as u32] {
                if (sector, count) == (SECTORS - 1, 1) {
                    continue;
                }
                let what = format!("{count} at {sector:#x}");
                let len = count as usize * 512;
                let (status, data, used) = bench.ask(IN, sector, &[], len);
                assert_eq!((status, used), (IOERR, 0), "read {what}");
                assert!(data.iter().all(|byte| *byte == EMPTY));
                assert_eq!(bench.status_of(OUT, sector, &vec![0x11; len], 0), IOERR, "write {what}");
                for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, 1)] {
                    let status = bench.status_of(kind, 0, &range(sector, count, flags), 0);
                    assert_eq!(status, IOERR, "type {kind} {what}");
                }
            }
        }
        assert!(bench.contents() == pattern());
        assert_eq!(bench.status_of(IN, SECTORS - 1, &[], 512), OK);
        assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * SECTOR);
    });
}

// C-191, R-40
#[test]
fn data_that_is_not_whole_sectors_is_refused_whole() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        for len in [1usize, 511, 513, 1023] {
            let (status, data, _) = bench.ask(IN, 0, &[], len);
            assert_eq!(status, IOERR, "{len}");
            assert!(data.iter().all(|byte| *byte == EMPTY));
            assert_eq!(bench.status_of(OUT, 0, &vec![0x11; len], 0), IOERR, "{len}");
        }
        assert!(bench.contents() == pattern());
    });
}

// C-183, R-44
#[test]
fn a_read_only_disk_refuses_writes_even_of_a_file_opened_for_them() {
    // RO is not negotiated, and the file could be written.
    everywhere(|setup| {
        let mut bench = setup.with(|setup| setup.options.readonly = true).bench();
        let offered = bench.machine.offered();
        let bits = [VIRTIO_BLK_F_RO, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES];

        assert_eq!(bits.map(|bit| offered & 1 << bit != 0), [true, false, false]);
        assert_eq!(bench.status_of(OUT, 0, &[0x11; 512], 0), IOERR);
        assert_eq!(bench.status_of(DISCARD, 0, &range(0, 8, 0), 0), IOERR);
        assert_eq!(bench.status_of(WRITE_ZEROES, 0, &range(0, 8, 0), 0), IOERR);
        assert_eq!(bench.status_of(WRITE_ZEROES, 0, &range(0, 8, 1), 0), IOERR);
        assert!(bench.contents() == pattern());
        assert_eq!(bench.status_of(FLUSH_IT, 0, &[], 0), OK);
        bench.works();
    });
}

// C-192, R-43
#[test]
fn unknown_types_are_unsupported_the_scsi_ones_too() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        let scsi = 1 << 7;
        let barrier = 1;

        assert_eq!(bench.machine.offered() & (scsi | barrier), 0);
        for kind in [2, 3, 6, 7, 9, 10, 12, 14, 15, 24, 0x8000_0000, 0x8000_0001, u32::MAX] {
            assert_eq!(bench.status_of(kind, 0, &[0; 512], 512), UNSUPP, "type {kind:#x}");
        }
        assert!(bench.contents() == pattern());
    });
}

// C-199
#[test]
fn the_old_name_of_a_flush_is_for_legacy_drivers_and_barriers_were_never_offered() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        let expected = if bench.machine.face.is_legacy() { OK } else { UNSUPP };

        assert_eq!(bench.status_of(5, 0, &[], 0), expected);
        assert_eq!(bench.status_of(0x8000_0001, 0, &[0x11; 512], 0), UNSUPP);
        assert!(bench.contents() == pattern());
    });
}

// C-195
#[test]
fn a_flush_completes_whatever_comes_with_it() {
    everywhere(|setup| {
        let mut bench = setup.bench();

        assert_eq!(bench.status_of(FLUSH_IT, 0, &[], 0), OK);
        assert_eq!(bench.status_of(FLUSH_IT, u64::MAX, &[1; 100], 0), OK);
        assert_eq!(bench.status_of(FLUSH_IT, 0, &[], 100), OK);
    });
}

// C-193
#[test]
fn the_serial_is_20_bytes_without_a_terminator() {
    everywhere(|setup| {
        let mut bench = setup.with(|setup| setup.options.id = "a-name-of-more-than-20-bytes".into()).bench();

        assert_eq!(bench.ask(GET_ID, 0, &[], 20), (OK, b"a-name-of-more-than-".to_vec(), 21));
        assert_eq!(bench.status_of(GET_ID, 0, &[], 19), IOERR);
        let (status, data, used) = bench.ask(GET_ID, 0, &[], 24);
        assert_eq!((status, used), (OK, 20));
        assert_eq!(data[20..], [EMPTY; 4]);
    });
}

//
#[test]
fn without_room_for_a_status_nothing_is_done_and_the_head_comes_back() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        let head = bench.machine.put(&header(OUT, 0));
        let data = bench.machine.put(&[0x11; 512]);
        let into = bench.machine.put(&[EMPTY; 512]);
        let status = bench.machine.put(&[UNTOUCHED]);
        let chains: [&[(u64, u32, u16)]; 4] = [
            &[(head, 16, 0), (data, 512, 0)],
            // One that may only be read.
            &[(head, 16, 0), (data, 512, 0), (status, 1, 0)],
            &[(head, 16, 0), (data, 512, 0), (status, 0, WRITE)],
            // In the middle.
            &[(head, 16, 0), (status, 1, WRITE), (data, 512, 0)],
        ];

        for chain in chains {
            assert_eq!(bench.chain(chain), 0, "{chain:?}");
        }
        // The last byte is the status, wherever the driver meant it to be.
        let read = bench.machine.put(&header(IN, 0));
        assert_eq!(bench.chain(&[(read, 16, 0), (status, 1, WRITE), (into, 512, WRITE)]), 513);

        assert!(bench.contents() == pattern());
        assert_eq!(bench.machine.bytes(into, 512)[511], OK);
        bench.works();
    });
}

#[test]
fn a_header_that_is_too_short_is_an_error() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        let head = bench.machine.put(&header(IN, 0));
        for len in [0, 1, 15] {
            let status = bench.machine.put(&[UNTOUCHED]);
            bench.chain(&[(head, len, 0), (status, 1, WRITE)]);
            assert_eq!(bench.machine.bytes(status, 1), [IOERR], "{len} bytes");
        }
        bench.works();
    });
}

/// A read of two sectors into `segments` buffers by an indirect table: the first are of 4 bytes.
fn segmented(bench: &mut Bench, segments: u16) -> (u8, Vec<u8>, u32) {
    let head = bench.machine.put(&header(IN, 0));
    let table = bench.machine.alloc(16 * (u64::from(segments) + 2), 1);
    let into = bench.machine.put(&[EMPTY; 1025]);
    let small = segments - 1;
    let queue = &mut bench.queues[0];
    queue.describe(table, 0, (head, 16, 1), 1);
    for i in 0..small {
        queue.describe(table, i + 1, (into + 4 * u64::from(i), 4, WRITE | 1), i + 2);
    }
    let rest = (into + 4 * u64::from(small), 1024 - 4 * u32::from(small), WRITE | 1);
    queue.describe(table, segments, rest, segments + 1);
    queue.describe(table, segments + 1, (into + 1024, 1, WRITE), 0);
    let used = bench.chain(&[(table, 16 * (u32::from(segments) + 2), TABLE)]);
    (bench.machine.bytes(into + 1024, 1)[0], bench.machine.bytes(into, 1024), used)
}

// C-196
#[test]
fn as_many_segments_as_are_advertised_work_on_a_queue_smaller_than_they() {
    everywhere(|setup| {
        let mut bench = setup.with(|setup| (setup.features, setup.size) = (FLUSH | INDIRECT, 16)).bench();
        let segments = u32::from_le_bytes(bench.config(12));

        assert_eq!(segments, 254);
        assert_eq!(segmented(&mut bench, 254), (OK, pattern()[..1024].to_vec(), 1025));
    });
}

// C-194
#[test]
fn one_segment_more_than_is_advertised_is_refused_and_not_cut() {
    everywhere(|setup| {
        let mut bench = setup.with(|setup| setup.features = FLUSH | INDIRECT).bench();
        // Header and status may be in one buffer with data, so that as many entries hold one segment more.
        let head = bench.machine.put(&header(IN, 0));
        let into = bench.machine.put(&[EMPTY; 1025]);
        let table = bench.machine.alloc(16 * 256, 1);
        let queue = &mut bench.queues[0];
        queue.describe(table, 0, (head, 16, 1), 1);
        for i in 0..254 {
            queue.describe(table, i + 1, (into + 4 * u64::from(i), 4, WRITE | 1), i + 2);
        }
        queue.describe(table, 255, (into + 1016, 9, WRITE), 0);

        let used = bench.chain(&[(table, 16 * 256, TABLE)]);

        assert_eq!((bench.machine.bytes(into + 1024, 1), used), (vec![IOERR], 0));
        assert!(bench.machine.bytes(into, 1024) == [EMPTY; 1024]);
        bench.works();
    });
}

//
#[test]
fn a_raw_disk_with_the_magic_of_another_format_stays_raw() {
    let magics: [&[u8]; 5] = [b"QFI\xfb\0\0\0\x03", b"KDMV\x01\0\0\0", b"vhdxfile", b"conectix", b"<<< "];
    everywhere(|setup| {
        for magic in magics {
            let mut bench = setup.clone().bench();
            let mut sector = vec![0; 512];
            sector[..magic.len()].copy_from_slice(magic);
            assert_eq!(bench.status_of(OUT, 0, &sector, 0), OK);

            let mut again = setup.clone().on(bench.file.try_clone().unwrap());

            assert_eq!(again.config::<8>(0), SECTORS.to_le_bytes());
            assert_eq!(again.ask(IN, 0, &[], 512), (OK, sector, 513));
        }
    });
}
