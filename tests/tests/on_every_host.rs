//! What must hold however many address bits the host's KVM has.

use ambit_tests::{Boot, place};

#[test]
fn debian_mounts_its_root_from_a_disk_and_powers_off_with_code_0() {
    let mut guest = Boot::root(&place::image("root.ext4"), "ro").ready();

    let root = guest.check("findmnt --noheadings --output SOURCE,FSTYPE /");

    assert_eq!(root.split_whitespace().collect::<Vec<_>>(), ["/dev/vda", "ext4"]);
    assert_eq!(guest.power_off(), 0);
}
