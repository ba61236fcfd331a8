//! Disks as the guest sees them, and as their files are afterwards.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use ambit_tests::{Boot, Guest, Output, Scratch};

const MIB: u64 = 1 << 20;

/// One boot for the tests that only look at what it left: a full read-only disk is copied to an empty one, and then
/// written to.
struct Copied {
    /// A line per disk: name, sectors, serial number, and whether it is read-only.
    listing: String,
    write_to_read_only: Output,
    original: Vec<u8>,
    read_only_image: Vec<u8>,
    second_image: Vec<u8>,
}

static COPIED: LazyLock<Copied> = LazyLock::new(|| {
    let scratch = Scratch::new();
    let original = pattern(4 * MIB);
    let (from, to) = (scratch.path("from"), scratch.disk("to", 8 * MIB));
    fs::write(&from, &original).unwrap();
    let mut guest = Boot::initrd()
        .disk(&format!("path={},id=from,readonly=on", from.display()))
        .disk(&format!("path={},id=to", to.display()))
        .ready();

    let listing = guest.check(
        "cd /sys/block; for d in *; do echo $d $(cat $d/size) $(cat $d/serial) $(cat $d/ro); done; cd /",
    );
    guest.check("dd if=/dev/vda of=/dev/vdb bs=1M seek=2 conv=fsync");
    let write_to_read_only = guest.run("dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync");
    assert_eq!(guest.power_off(), 0);

    let [read_only_image, second_image] = [from, to].map(|path| fs::read(path).unwrap());
    Copied { listing, write_to_read_only, original, read_only_image, second_image }
});

#[test]
fn disks_have_the_order_the_sizes_and_the_ids_that_were_asked_for() {
    assert_eq!(COPIED.listing, "vda 8192 from 1\nvdb 16384 to 0\n");
}

#[test]
fn a_read_only_disk_refuses_writes() {
    assert_ne!(COPIED.write_to_read_only.status, 0, "{}", COPIED.write_to_read_only.text);
    assert!(COPIED.read_only_image == COPIED.original, "the image of the read-only disk has changed");
}

#[test]
fn what_is_written_to_the_second_disk_is_in_its_file_and_where_it_was_written() {
    let mut expected = vec![0; 8 << 20];
    expected[2 << 20..6 << 20].copy_from_slice(&COPIED.original);

    assert!(COPIED.second_image == expected, "{}", first_difference(&COPIED.second_image, &expected));
}

#[test]
fn what_is_flushed_to_a_block_device_is_on_it() {
    let scratch = Scratch::new();
    let file = scratch.disk("device", 8 * MIB);
    let device = Loop::over(&file);
    let before = device.flushes();
    let mut guest = Boot::initrd().disk(&format!("path={},id=loop", device.path.display())).ready();

    let sectors = guest.check("cat /sys/block/vda/size");
    guest.check("echo flushed | dd of=/dev/vda bs=512 seek=8192 conv=sync,fsync");

    // Asked while the guest runs: nothing but its flush has had a reason to.
    assert_eq!(sectors, "16384\n");
    assert!(device.flushes() > before, "no flush has reached the block device");
    assert_eq!(read_at(&file, 8192 * 512, 8), b"flushed\n");
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn a_full_host_file_system_is_an_io_error_that_harms_no_other_disk() {
    let scratch = Scratch::new();
    let small = SmallFileSystem::new(&scratch, "2m");
    let full = small.disk("full", 16 * MIB);
    let other = scratch.disk("other", 8 * MIB);
    let mut guest = Boot::initrd()
        .disk(&format!("path={},id=full", full.display()))
        .disk(&format!("path={},id=other", other.display()))
        .ready();
    silence_the_kernel(&mut guest);

    let fits = guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=1 conv=fsync");
    let too_much = guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=8 conv=fsync");

    assert_eq!(fits.status, 0, "{}", fits.text);
    assert_ne!(too_much.status, 0, "{}", too_much.text);
    assert!(too_much.text.contains("Input/output error"), "{}", too_much.text);
    writes_and_reads(&mut guest, "vdb");
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn an_image_cut_short_in_use_is_an_io_error_that_harms_no_other_disk() {
    let scratch = Scratch::new();
    let (cut, other) = (scratch.disk("cut", 8 * MIB), scratch.disk("other", 8 * MIB));
    let mut guest = Boot::initrd()
        .disk(&format!("path={},id=cut", cut.display()))
        .disk(&format!("path={},id=other", other.display()))
        .ready();
    silence_the_kernel(&mut guest);
    let shorter =
        |bytes| File::options().write(true).open(&cut).and_then(|file| file.set_len(bytes)).unwrap();
    let middle = "dd if=/dev/vda of=/dev/null bs=64k skip=64 count=1 iflag=direct";

    let whole = guest.run(middle);
    shorter(MIB);
    let beyond_the_end = guest.run(middle);
    shorter(8 * MIB);
    let whole_again = guest.run(middle);

    let statuses = [&whole, &whole_again].map(|output| output.status);
    assert_eq!(statuses, [0, 0], "{}{}", whole.text, whole_again.text);
    assert_ne!(beyond_the_end.status, 0, "{}", beyond_the_end.text);
    assert!(beyond_the_end.text.contains("Input/output error"), "{}", beyond_the_end.text);
    writes_and_reads(&mut guest, "vdb");
    assert_eq!(guest.power_off(), 0);
}

// F-04
#[test]
fn a_file_that_may_not_be_as_long_as_the_disk_is_an_io_error_that_harms_no_other_disk() {
    let scratch = Scratch::new();
    let (long, other) = (scratch.disk("long", 16 * MIB), scratch.disk("other", 2 * MIB));
    let boot = Boot::initrd().through(&["prlimit", "--fsize=4194304"]);
    let boot = boot.disk(&format!("path={},id=long", long.display()));
    let mut guest =
        boot.disk(&format!("path={},id=other,engine=io_uring,transport=pci", other.display())).ready();
    silence_the_kernel(&mut guest);

    let fits = guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=2 conv=fsync");
    let beyond = guest.run("dd if=/dev/zero of=/dev/vda bs=1M seek=8 count=1 conv=fsync");

    assert_eq!(fits.status, 0, "{}", fits.text);
    assert_ne!(beyond.status, 0, "{}", beyond.text);
    assert!(beyond.text.contains("Input/output error"), "{}", beyond.text);
    writes_and_reads(&mut guest, "vdb");
    assert_eq!(guest.power_off(), 0);
}

// F-07
#[test]
fn an_image_that_is_replaced_in_use_goes_on_as_it_was() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 8 * MIB);
    let mut guest = Boot::initrd().disk(&format!("path={},id=disk", disk.display())).ready();
    writes_and_reads(&mut guest, "vda");

    fs::remove_file(&disk).unwrap();
    fs::write(&disk, pattern(MIB)).unwrap();

    writes_and_reads(&mut guest, "vda");
    assert_eq!(guest.check("cat /sys/block/vda/size"), "16384\n");
    assert!(fs::read(&disk).unwrap() == pattern(MIB), "the new file is nobody's");
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn a_disk_works_when_its_driver_is_loaded_anew() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 8 * MIB);
    let mut guest = Boot::initrd().disk(&format!("path={},id=disk", disk.display())).ready();
    writes_and_reads(&mut guest, "vda");

    guest.check("rmmod virtio_blk && [ ! -e /sys/block/vda ]");
    guest.check("insmod /modules/virtio_blk.ko");

    writes_and_reads(&mut guest, "vda");
    assert_eq!(guest.power_off(), 0);
}

/// What the guest writes there it can read back from the device, not from its own cache.
fn writes_and_reads(guest: &mut Guest, disk: &str) {
    guest.check("dd if=/dev/urandom of=/tmp/data bs=64k count=16");
    guest.check(&format!("dd if=/tmp/data of=/dev/{disk} bs=64k seek=3 conv=fsync"));
    let read = format!("dd if=/dev/{disk} bs=64k skip=3 count=16 iflag=direct | cmp - /tmp/data");
    guest.check(&read);
}

/// The kernel's own complaints would be in the output of commands.
fn silence_the_kernel(guest: &mut Guest) {
    guest.check("dmesg -n 1");
}

/// Bytes of which no two sectors are alike.
fn pattern(bytes: u64) -> Vec<u8> {
    (0..bytes / 8).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

fn first_difference(found: &[u8], expected: &[u8]) -> String {
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        Some(at) => format!("byte {at:#x} is {:#x}, not {:#x}", found[at], expected[at]),
        None => format!("{} bytes, not {}", found.len(), expected.len()),
    }
}

fn read_at(path: &Path, at: u64, bytes: usize) -> Vec<u8> {
    let mut file = File::open(path).unwrap();
    let mut read = vec![0; bytes];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut read)).unwrap();
    read
}

/// A file as a block device of the host.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn over(file: &Path) -> Self {
        // It may be built in.
        let _ = Command::new("modprobe").arg("loop").status();
        let name = host("losetup", &["--find", "--show", &file.to_string_lossy()]);
        Self { path: PathBuf::from(name.trim()) }
    }

    /// How many flushes the device has completed.
    fn flushes(&self) -> u64 {
        let name = self.path.file_name().unwrap().to_string_lossy();
        let counters = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        // Documentation/block/stat.rst in Linux: the sixteenth.
        counters.split_whitespace().nth(15).unwrap().parse().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// A file system that is soon full.
struct SmallFileSystem {
    root: PathBuf,
}

impl SmallFileSystem {
    fn new(scratch: &Scratch, size: &str) -> Self {
        let root = scratch.path("small");
        fs::create_dir(&root).unwrap();
        host("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "small", &root.to_string_lossy()]);
        Self { root }
    }

    /// A file of zeros that takes no room yet.
    fn disk(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.root.join(name);
        File::create(&path).and_then(|file| file.set_len(bytes)).unwrap();
        path
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // The monitor may still have a file there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.root).status();
    }
}

fn host(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// Both engines, every cache, one queue and several.
#[test]
fn disks_of_every_kind_keep_what_is_written() {
    let kinds = [
        "queues=1,engine=sync,cache=writeback",
        "queues=4,engine=sync,cache=none,transport=pci",
        "queues=4,engine=io_uring,cache=none,queue-size=64",
        "queues=2,engine=io_uring,cache=writethrough,transport=pci",
        "engine=io_uring,cache=unsafe,transport=pci-legacy",
        "engine=sync,cache=writethrough,transport=mmio-legacy",
        "engine=io_uring,bandwidth=20M/s,iops=500",
    ];
    let scratch = Scratch::new();
    let mut boot = Boot::initrd().cpus(2);
    for (number, kind) in kinds.iter().enumerate() {
        let path = scratch.disk(&format!("d{number}"), 8 * MIB);
        boot = boot.disk(&format!("path={},id=d{number},{kind}", path.display()));
    }
    let mut guest = boot.ready();

    for disk in ["vda", "vdb", "vdc", "vdd", "vde", "vdf", "vdg"] {
        writes_and_reads(&mut guest, disk);
        guest.check(&format!("blkdiscard -f /dev/{disk} 2>/dev/null || true"));
        writes_and_reads(&mut guest, disk);
    }

    // Linux finds those on mmio before those on PCI, and has a queue for each processor at most.
    let told = guest.check(
        "for d in /sys/block/vd?; do echo $(cat $d/serial) $(ls $d/mq | wc -l) $(cat $d/queue/write_cache); done \
         | sort",
    );
    let expected = [
        "d0 1 write back",
        "d1 2 write back",
        "d2 2 write back",
        "d3 2 write through",
        "d4 1 write back",
        "d5 1 write through",
        "d6 1 write back",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    assert_eq!(guest.power_off(), 0);
}
