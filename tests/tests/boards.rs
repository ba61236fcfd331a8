//! Every board boots, and where its plan says that things are, there they are.

use ambit_tests::payload::{Payload, load, store};
use ambit_tests::{Boot, Plan, Scratch, ambit, place};

/// What Linux says of where its machine is: base and last address of each line of /proc/iomem that is not indented.
fn claims(text: &str) -> Vec<(u64, u64)> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let claim = |line: &str| {
        let (range, _) = line.split_once(" : ")?;
        let (first, last) = range.split_once('-')?;
        hex(first).zip(hex(last))
    };
    text.lines().filter(|line| !line.starts_with(' ')).filter_map(claim).collect()
}

/// A Debian guest on `board` comes up with its disk, has all its RAM, and claims the windows of its devices.
fn boots_on(board: &str) {
    let root = place::image("root.ext4");
    let machine = ["--board", board, "--cpus", "2", "--memory", "768M"];
    let disk = format!("path={},id=root,readonly=on", root.display());
    let plan = Plan::of(&[machine.as_slice(), &["--disk", &disk]].concat());

    let mut guest = Boot::root(&root, "ro").words(&machine).ready();
    let claims = claims(&guest.check("cat /proc/iomem"));
    let online = guest.check("cat /sys/devices/system/cpu/online");
    guest.check("dd if=/dev/vda of=/dev/null bs=1M count=8 iflag=direct");

    for name in ["ram0", "uart0", "rtc0", "root", "rng0", "pci.ecam", "pci.mmio32"] {
        let region = plan.region(name);
        let range = (region.base, region.base + region.size - 1);
        assert!(claims.contains(&range), "{board}: Linux has no {name} at {range:x?}: {claims:x?}");
    }
    assert_eq!(online, "0-1\n", "{board}");
    assert_eq!(guest.power_off(), 0, "{board}");
}

#[test]
fn debian_boots_on_qemus_map() {
    boots_on("qemu-virt");
}

#[test]
fn debian_boots_on_qemus_map_below_4_gib() {
    boots_on("qemu-virt,highmem=off");
}

#[test]
fn debian_boots_on_kvmtools_map() {
    boots_on("kvmtool");
}

fn boots_on_file(file: &str) {
    boots_on(&place::board(file).display().to_string());
}

#[test]
fn debian_boots_on_a_board_for_hosts_of_36_bits() {
    boots_on_file("m1-36.toml");
}

/// In a machine of 36 bits whose window for BARs ends where its addresses do.
#[test]
fn the_window_for_bars_is_ours_up_to_the_last_address() {
    let machine = ["--memory", "62G", "--pa-bits", "36"];
    let window = Plan::of(&machine).region("pci.mmio64");
    let last = window.base + window.size - 8;
    assert_eq!(last, (1 << 36) - 8);
    let scratch = Scratch::new();
    let payload = [window.base, last]
        .into_iter()
        .fold(Payload::new(), |payload, at| payload.access(store(64), at).access(load(64), at));

    let mut guest = payload.power_off().boot(&scratch).words(&machine).start();

    assert_eq!(guest.code(), 0);
    let (nothing, ones) = ("0".repeat(16), "f".repeat(16));
    assert_eq!(guest.said_in_all().lines().collect::<Vec<_>>(), [&nothing, &ones, &nothing, &ones]);
}

/// On a host whose KVM has only a GICv2.
mod on_gicv2 {
    use super::{ambit, boots_on, boots_on_file, place};

    #[test]
    fn debian_boots_on_the_default_board_with_a_gicv2() {
        boots_on("native,gic-version=2");
    }

    #[test]
    fn debian_boots_on_the_other_boards_with_a_gicv2() {
        boots_on("qemu-virt,gic-version=2");
        boots_on("kvmtool,gic-version=2");
    }

    #[test]
    fn debian_boots_on_a_board_like_a_raspberry_pi_4() {
        boots_on_file("pi4-gicv2.toml");
    }

    #[test]
    fn a_board_with_a_gicv3_is_refused_with_the_way_out() {
        let kernel = place::image("Image").display().to_string();

        let refused = ambit(["run", "--kernel", &kernel]);

        assert_eq!((refused.code, refused.stdout.as_str()), (4, ""), "{}", refused.stderr);
        for wanted in ["board 'native' needs a GICv3", "this host's KVM has GICv2", "option gic-version=2"] {
            assert!(refused.stderr.contains(wanted), "no '{wanted}' in: {}", refused.stderr);
        }
    }

    #[test]
    fn nine_vcpus_are_one_too_many() {
        let kernel = place::image("Image").display().to_string();

        let refused = ambit(["run", "--kernel", &kernel, "--board", "native,gic-version=2", "--cpus", "9"]);

        assert_eq!(refused.code, 3, "{}", refused.stderr);
        assert!(refused.stderr.contains("9 vCPUs are more than 8"), "{}", refused.stderr);
    }
}
