//! How a guest comes up, and how it goes.

use ambit_tests::{Boot, Scratch, place};

#[test]
fn a_guest_without_disks_stays_in_its_initrd() {
    let mut guest = Boot::initrd().ready();

    let disks = guest.check("ls /sys/block");

    assert_eq!(disks, "");
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn a_gzip_compressed_kernel_boots() {
    let guest =
        Boot::kernel(&place::image("Image.gz")).argument("--initrd", place::image("initrd.gz")).ready();

    assert_eq!(guest.power_off(), 0);
}

#[test]
fn what_is_written_to_the_root_disk_is_there_at_the_next_boot() {
    let scratch = Scratch::new();
    let disk = scratch.root_disk();
    let mut first = Boot::root(&disk, "rw").ready();
    first.check("echo kept >/root/note && sync");
    assert_eq!(first.power_off(), 0);

    // Writable again: it was not unmounted, so mounting it replays the journal.
    let note = Boot::root(&disk, "rw").ready().check("cat /root/note");

    assert_eq!(note, "kept\n");
}

fn brings_up(cpus: u32) {
    let mut guest = Boot::initrd().cpus(cpus).ready();

    let online = guest.check("grep -c ^processor /proc/cpuinfo");

    assert_eq!(online, format!("{cpus}\n"));
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn linux_brings_up_one_processor() {
    brings_up(1);
}

#[test]
fn linux_brings_up_two_processors() {
    brings_up(2);
}

#[test]
fn linux_brings_up_four_processors() {
    brings_up(4);
}
