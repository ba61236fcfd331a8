use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use super::*;
use crate::driver::{INDIRECT, Machine, Silent, TABLE, VERSION_1, Vq, WRITE};
use crate::interrupt::Interrupt;

const SECTORS: u64 = 64;
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What a status byte is before the device writes it.
const UNTOUCHED: u8 = 0xa5;

struct Bench {
    machine: Machine,
    queue: Vq,
    file: File,
}

/// A disk whose every byte is known.
fn pattern() -> Vec<u8> {
    (0..SECTORS * SECTOR).map(|at| (at / 7 % 251) as u8).collect()
}

fn bench(id: &str, readonly: bool, features: u64, size: u16) -> Bench {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&pattern()).unwrap();
    let device = Block::new(id, file.try_clone().unwrap(), readonly).unwrap();
    let mut machine = Machine::new(device);
    assert!(machine.negotiate(VERSION_1 | features));
    let queue = machine.queue(0, size);
    machine.go();
    Bench { machine, queue, file }
}

fn disk() -> Bench {
    bench("disk0", false, FLUSH, 256)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat()
}

impl Bench {
    /// A request in the usual framing; its status, what it wrote, and the used length.
    fn ask(&mut self, kind: u32, sector: u64, out: &[u8], into: u32) -> (u8, Vec<u8>, u32) {
        let head = self.machine.put(&header(kind, sector));
        let from = self.machine.put(out);
        let to = self.machine.put(&vec![0xee; into as usize]);
        let status = self.machine.put(&[UNTOUCHED]);
        let mut chain = vec![(head, 16, 0)];
        if !out.is_empty() {
            chain.push((from, out.len() as u32, 0));
        }
        if into > 0 {
            chain.push((to, into, WRITE));
        }
        chain.push((status, 1, WRITE));
        let used = self.machine.ask(&mut self.queue, &chain);
        let status = self.machine.bytes(status, 1)[0];
        (status, self.machine.bytes(to, into as usize), used)
    }

    fn status_of(&mut self, kind: u32, sector: u64, out: &[u8], into: u32) -> u8 {
        self.ask(kind, sector, out, into).0
    }

    fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; (SECTORS * SECTOR) as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn works(&mut self) {
        let (status, data, used) = self.ask(VIRTIO_BLK_T_IN, 3, &[], 512);
        assert_eq!((status, used), (OK, 513));
        assert_eq!(data, pattern()[3 * 512..4 * 512]);
    }
}

#[test]
fn a_read_gives_what_the_file_has_and_says_how_much_it_wrote() {
    let mut bench = disk();

    let (status, data, used) = bench.ask(VIRTIO_BLK_T_IN, 5, &[], 1024);

    assert_eq!((status, used), (OK, 1025));
    assert_eq!(data, pattern()[5 * 512..7 * 512]);
}

#[test]
fn a_write_changes_its_sectors_and_no_others() {
    let mut bench = disk();
    let data = vec![0x77; 1024];

    let (status, _, used) = bench.ask(VIRTIO_BLK_T_OUT, 10, &data, 0);

    let mut expected = pattern();
    expected[10 * 512..12 * 512].copy_from_slice(&data);
    assert_eq!((status, used), (OK, 1));
    assert!(bench.contents() == expected);
}

#[test]
fn a_write_may_be_split_at_any_byte() {
    let data: Vec<u8> = (0..512u32).map(|at| (at * 3) as u8).collect();
    let request = [header(VIRTIO_BLK_T_OUT, 1), data.clone()].concat();
    let mut bench = disk();
    for at in 1..request.len() {
        bench.file.write_all_at(&[0; 512], 512).unwrap();
        let from = bench.machine.put(&request);
        let status = bench.machine.put(&[UNTOUCHED]);
        let (first, second) = (at as u32, (request.len() - at) as u32);

        let chain = [(from, first, 0), (from + at as u64, second, 0), (status, 1, WRITE)];
        let used = bench.machine.ask(&mut bench.queue, &chain);

        assert_eq!((bench.machine.bytes(status, 1), used), (vec![OK], 1), "split at {at}");
        assert!(bench.contents()[512..1024] == data, "split at {at}");
    }
}

#[test]
fn a_read_may_be_split_at_any_byte_and_the_status_is_the_last_one() {
    let mut bench = disk();
    let head = bench.machine.put(&header(VIRTIO_BLK_T_IN, 2));
    let mut expected = pattern()[1024..1536].to_vec();
    expected.push(OK);
    for at in 0..=512u32 {
        let into = bench.machine.put(&[UNTOUCHED; 513]);

        let chain = [(head, 16, 0), (into, at, WRITE), (into + u64::from(at), 513 - at, WRITE)];
        let used = bench.machine.ask(&mut bench.queue, &chain);

        assert_eq!(used, 513, "split at {at}");
        assert!(bench.machine.bytes(into, 513) == expected, "split at {at}");
    }
}

#[test]
fn a_request_of_single_bytes_works() {
    let mut bench = disk();
    let head = bench.machine.put(&header(VIRTIO_BLK_T_GET_ID, 0));
    let into = bench.machine.put(&[UNTOUCHED; 21]);
    let chain: Vec<_> =
        (0..16).map(|i| (head + i, 1, 0)).chain((0..21).map(|i| (into + i, 1, WRITE))).collect();

    assert_eq!(bench.machine.ask(&mut bench.queue, &chain), 21);
    assert_eq!(bench.machine.bytes(into, 21), b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn what_is_beyond_the_last_sector_is_refused_and_nothing_is_touched() {
    let mut bench = disk();
    let beyond = [(SECTORS - 1, 1024), (SECTORS, 512), (SECTORS + 1, 512), (1 << 55, 512), (u64::MAX, 512)];
    for (sector, len) in beyond {
        let (status, data, used) = bench.ask(VIRTIO_BLK_T_IN, sector, &[], len);
        assert_eq!((status, used), (IOERR, 0), "read {len} at {sector:#x}");
        assert!(data.iter().all(|byte| *byte == 0xee));

        let out = vec![0x11; len as usize];
        assert_eq!(bench.status_of(VIRTIO_BLK_T_OUT, sector, &out, 0), IOERR, "write {len} at {sector:#x}");
    }
    assert!(bench.contents() == pattern());
    assert_eq!(bench.status_of(VIRTIO_BLK_T_IN, SECTORS - 1, &[], 512), OK);
    assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * SECTOR);
}

#[test]
fn data_that_is_not_whole_sectors_is_refused_whole() {
    let mut bench = disk();
    for len in [1u32, 511, 513, 1023] {
        assert_eq!(bench.status_of(VIRTIO_BLK_T_IN, 0, &[], len), IOERR, "{len}");
        assert_eq!(bench.status_of(VIRTIO_BLK_T_OUT, 0, &vec![0x11; len as usize], 0), IOERR, "{len}");
    }
    assert!(bench.contents() == pattern());
}

#[test]
fn a_read_only_disk_refuses_writes_even_of_a_file_opened_for_them() {
    // RO is not negotiated, and the file could be written.
    let mut bench = bench("disk0", true, FLUSH, 256);

    assert_eq!(bench.machine.offered() & 1 << VIRTIO_BLK_F_RO, 1 << VIRTIO_BLK_F_RO);
    assert_eq!(bench.status_of(VIRTIO_BLK_T_OUT, 0, &[0x11; 512], 0), IOERR);
    assert!(bench.contents() == pattern());
    assert_eq!(bench.status_of(VIRTIO_BLK_T_FLUSH, 0, &[], 0), OK);
    bench.works();
}

#[test]
fn unknown_types_are_unsupported_the_scsi_ones_too() {
    let mut bench = disk();
    for kind in [2, 3, 5, 6, 7, 11, 13, 14, 24, 0x8000_0000, u32::MAX] {
        assert_eq!(bench.status_of(kind, 0, &[0; 512], 512), UNSUPP, "type {kind:#x}");
    }
    assert!(bench.contents() == pattern());
}

#[test]
fn a_flush_completes_whatever_comes_with_it() {
    let mut bench = disk();

    assert_eq!(bench.status_of(VIRTIO_BLK_T_FLUSH, 0, &[], 0), OK);
    assert_eq!(bench.status_of(VIRTIO_BLK_T_FLUSH, u64::MAX, &[1; 100], 0), OK);
    assert_eq!(bench.status_of(VIRTIO_BLK_T_FLUSH, 0, &[], 100), OK);
}

#[test]
fn the_serial_is_20_bytes_without_a_terminator() {
    let mut long = bench("a-name-of-more-than-20-bytes", false, FLUSH, 256);

    assert_eq!(long.ask(VIRTIO_BLK_T_GET_ID, 0, &[], 20), (OK, b"a-name-of-more-than-".to_vec(), 21));
    assert_eq!(long.status_of(VIRTIO_BLK_T_GET_ID, 0, &[], 19), IOERR);
    let (status, data, used) = long.ask(VIRTIO_BLK_T_GET_ID, 0, &[], 24);
    assert_eq!((status, used), (OK, 20));
    assert_eq!(data[20..], [0xee; 4]);
}

#[test]
fn without_room_for_a_status_nothing_is_written_and_the_head_comes_back() {
    let mut bench = disk();
    let head = bench.machine.put(&header(VIRTIO_BLK_T_OUT, 0));
    let data = bench.machine.put(&[0x11; 512]);

    let used = bench.machine.ask(&mut bench.queue, &[(head, 16, 0), (data, 512, 0)]);

    assert_eq!(used, 0);
    assert!(bench.contents() == pattern());
    bench.works();
}

#[test]
fn a_header_that_is_too_short_is_an_error() {
    let mut bench = disk();
    let head = bench.machine.put(&header(VIRTIO_BLK_T_IN, 0));
    for len in [0, 1, 15] {
        let status = bench.machine.put(&[UNTOUCHED]);
        bench.machine.ask(&mut bench.queue, &[(head, len, 0), (status, 1, WRITE)]);
        assert_eq!(bench.machine.bytes(status, 1), [IOERR], "{len} bytes");
    }
    bench.works();
}

#[test]
fn an_error_of_the_host_is_the_guests_io_error_and_the_device_lives() {
    let mut bench = disk();
    bench.file.set_len(4 * 512).unwrap();

    let (status, _, used) = bench.ask(VIRTIO_BLK_T_IN, 3, &[], 1024);

    assert_eq!((status, used), (IOERR, 0));
    bench.works();
}

#[test]
fn a_file_that_cannot_be_written_after_all_is_an_io_error() {
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().write_all(&pattern()).unwrap();
    let device = Block::new("disk0", File::open(named.path()).unwrap(), false).unwrap();
    let mut machine = Machine::new(device);
    assert!(machine.negotiate(VERSION_1 | FLUSH));
    let queue = machine.queue(0, 256);
    machine.go();
    let mut bench = Bench { machine, queue, file: named.reopen().unwrap() };

    assert_eq!(bench.status_of(VIRTIO_BLK_T_OUT, 0, &[0x11; 512], 0), IOERR);
    assert!(bench.contents() == pattern());
    bench.works();
}

#[test]
fn as_many_segments_as_are_advertised_work_on_a_queue_smaller_than_they() {
    let mut bench = bench("disk0", false, FLUSH | INDIRECT, 16);
    let segments = bench.machine.read(0x10c);
    let head = bench.machine.put(&header(VIRTIO_BLK_T_IN, 0));
    let table = bench.machine.alloc(16 * 256, 1);
    // Two sectors in all: the first buffers are of 4 bytes, the last takes what is left.
    let into = bench.machine.alloc(1025, 1);
    let small = segments - 1;
    bench.queue.describe(table, 0, (head, 16, 1), 1);
    for i in 0..small as u16 {
        let buffer = (into + 4 * u64::from(i), 4, WRITE | 1);
        bench.queue.describe(table, i + 1, buffer, i + 2);
    }
    let rest = 1024 - 4 * small;
    bench.queue.describe(
        table,
        small as u16 + 1,
        (into + 4 * u64::from(small), rest, WRITE | 1),
        small as u16 + 2,
    );
    bench.queue.describe(table, small as u16 + 2, (into + 1024, 1, WRITE), 0);

    let used = bench.machine.ask(&mut bench.queue, &[(table, 16 * (segments + 2), TABLE)]);

    assert_eq!((segments, used), (254, 1025));
    assert!(bench.machine.bytes(into, 1024) == pattern()[..1024]);
}

#[test]
fn a_driver_without_flush_gets_writes_that_are_stable_when_they_complete() {
    let file = tempfile::tempfile().unwrap();
    let mut disk = Disk { file, readonly: false, sectors: 0, id: [0; 20], write_through: false };

    let run = |features| {
        let interrupt = Arc::new(Interrupt::new(Silent));
        Run { features, memory: GuestMemory::default(), interrupt, queues: vec![0] }
    };
    disk.begin(&run(VERSION_1)).unwrap();
    assert!(disk.write_through);
    disk.begin(&run(VERSION_1 | FLUSH)).unwrap();
    assert!(!disk.write_through);
}

#[test]
fn the_configuration_has_the_capacity_and_nothing_behind_seg_max() {
    let mut odd = tempfile::tempfile().unwrap();
    odd.write_all(&[0; 512 * 3 + 511]).unwrap();
    let machine = Machine::new(Block::new("disk0", odd, false).unwrap());

    let mut config = [0x55; 32];
    machine.access(0x100, &mut config[..8]);
    assert_eq!(u64::from_le_bytes(config[..8].try_into().unwrap()), 3);
    for at in (0x110..0x200).step_by(8) {
        let mut data = [0x55; 8];
        machine.access(at, &mut data);
        assert_eq!(data, [0; 8], "{at:#x}");
    }
}

#[test]
fn a_disk_larger_than_it_was_when_opened_keeps_its_size() {
    let mut bench = disk();
    bench.file.set_len(2 * SECTORS * SECTOR).unwrap();

    assert_eq!(bench.status_of(VIRTIO_BLK_T_IN, SECTORS, &[], 512), IOERR);
}

#[test]
fn a_raw_disk_with_the_magic_of_another_format_stays_raw() {
    let mut bench = disk();
    let mut sector = vec![0; 512];
    (&b"QFI\xfb\0\0\0\x03"[..]).read_exact(&mut sector[..8]).unwrap();
    assert_eq!(bench.status_of(VIRTIO_BLK_T_OUT, 0, &sector, 0), OK);

    let mut again = Block::new("disk0", bench.file.try_clone().unwrap(), false).unwrap();

    let mut capacity = [0; 8];
    again.config().read(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
    again.stop();
}
