//! Linux has the memory that was asked for, from its first byte to its last.

use ambit_tests::payload::load;
use ambit_tests::{Boot, Guest, Payload, Plan, Scratch, ambit};

const MIB: u64 = 1 << 20;

/// Where the board has RAM begin.
const RAM: u64 = 0x4000_0000;

/// All of the guest's RAM, as /proc/iomem has it: no hole, no byte more or less.
fn has_memory(guest: &mut Guest, bytes: u64) {
    let ram = guest.check("grep 'System RAM' /proc/iomem");
    let total = guest.check("awk '/MemTotal/ { print $2 }' /proc/meminfo");

    assert_eq!(ram, format!("{RAM:08x}-{:08x} : System RAM\n", RAM + bytes - 1));
    let total = total.trim().parse::<u64>().unwrap() << 10;
    // The kernel itself, and its notes on each page.
    let least = bytes - bytes / 32 - 64 * MIB;
    assert!((least..bytes).contains(&total), "{total} of {bytes} bytes can be used, less than {least}");
}

fn boots_with(memory: &str, bytes: u64) {
    let mut guest = Boot::initrd().memory(memory).ready();

    has_memory(&mut guest, bytes);
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn linux_has_128_mib() {
    boots_with("128M", 128 * MIB);
}

#[test]
fn linux_has_512_mib() {
    boots_with("512M", 512 * MIB);
}

#[test]
fn linux_has_3_gib() {
    boots_with("3G", 3 << 30);
}

#[test]
fn linux_has_8_gib() {
    boots_with("8G", 8 << 30);
}

#[test]
fn linux_has_8_gib_in_36_address_bits() {
    let machine = [("--memory", "8G"), ("--pa-bits", "36")];
    let words = machine.iter().flat_map(|(name, value)| [*name, *value]);
    let plan = ambit(["plan", "--format", "json"].into_iter().chain(words)).stdout;
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let boot = machine.iter().fold(Boot::initrd(), |boot, (name, value)| boot.argument(name, *value));

    let mut guest = boot.ready();

    has_memory(&mut guest, 8 << 30);
    assert_eq!(guest.power_off(), 0);
    assert_eq!(plan["pa_bits"], 36);
    // 1 GiB and 8 more take 34.
    assert_eq!(plan["ipa_bits"], 34);
}

#[test]
fn every_gib_of_8_holds_its_own_bytes_to_the_last_and_beyond_is_nothing() {
    // Linux is told to leave all but the first GiB alone, so that /dev/mem gives it to us.
    let mut guest = Boot::initrd().memory("8G").cmdline("mem=1G").ready();
    let last_word = |gib: u64| RAM + ((gib + 1) << 30) - 8;

    for gib in 1..8 {
        guest.check(&format!("devmem {:#x} 64 {:#x}", last_word(gib), 0xa5a5_0000 + gib));
    }
    let mut held = Vec::new();
    for gib in 1..8 {
        held.push(guest.check(&format!("devmem {:#x} 64", last_word(gib))));
    }
    let beyond = guest.check(&format!("devmem {:#x} 64", last_word(7) + 8));

    let written: Vec<_> = (1..8_u64).map(|gib| format!("0x{:016X}\n", 0xa5a5_0000 + gib)).collect();
    assert_eq!(held, written);
    assert_eq!(beyond, "0xFFFFFFFFFFFFFFFF\n");
    assert_eq!(guest.power_off(), 0);
}

/// The board has to have RAM in one piece.
fn both_ends_of_32_gib_hold_what_is_written(board: &[&str]) {
    let machine = [&["--memory", "32G", "--pa-bits", "36"], board].concat();
    let plan = Plan::of(&machine);
    let (uart, ram) = (plan.region("uart0").base, plan.region("ram0"));
    let end = ram.base + ram.size;
    let page = |base: u64| [base, base + 0xff8];
    // The last one is the end of RAM; where another GiB, or another bit of the address, begins; and the first is the
    // payload's own, but for its first instructions, which have run.
    let at = [ram.base, 1 << 32, 1 << 35, end - 0x2000, end - 0x1000].map(page).concat();
    let write = |payload: Payload, at: &u64| payload.write(*at, !at);
    let read = |payload: Payload, at: &u64| payload.access(load(64), *at);
    let scratch = Scratch::new();

    let payload = at.iter().fold(at.iter().fold(Payload::on(uart), write), read).power_off();
    let mut guest = payload.boot(&scratch).words(&machine).start();

    assert_eq!(guest.code(), 0);
    let written: String = at.iter().map(|at| format!("{:016x}\n", !at)).collect();
    assert_eq!(guest.said_in_all(), written);
    assert_eq!((ram.size, plan.ipa_bits), (32 << 30, 36));
    assert_eq!(at.last(), Some(&(end - 8)));
}

#[test]
fn both_ends_of_32_gib_in_36_address_bits_hold_what_is_written() {
    both_ends_of_32_gib_hold_what_is_written(&[]);
}
