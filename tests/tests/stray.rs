//! Accesses that reach no device: the guest sees what hardware would do, and the monitor and the devices live on.

use ambit_tests::payload::{self, DATA_ABORT, INSTRUCTION_ABORT, Payload, UART, exception, load, store};
use ambit_tests::{Boot, Plan, Scratch, place};

const WIDTHS: [u32; 4] = [8, 16, 32, 64];

/// Nothing is there on board `native` with 512 MiB, one disk and no network.
const NOWHERE: [u64; 11] = [
    0,
    UART - 8,
    // Between windows: after the UART, after the clock, after the disk.
    UART + 0x1000,
    0x0101_1000,
    0x0200_2000,
    // Reserved; between the distributor and the ITS; after the redistributors.
    0x0800_0000,
    0x0901_0000,
    0x0a02_0000,
    // Kept for a PCI function that is not there; above RAM; the last that 32 address bits can name.
    0x1000_1000,
    0x6000_0000,
    0xffff_fff8,
];

/// The first address that a machine of 32 address bits does not have.
const BEYOND: u64 = 1 << 32;

/// The memory of a machine whose addresses need all of 36 bits.
const IN_36_BITS: [&str; 4] = ["--memory", "32G", "--pa-bits", "36"];

/// What each access of a payload printed, in order, once the payload has ended.
fn seen(payload: Payload) -> Vec<String> {
    seen_in(&[], payload)
}

fn seen_in(machine: &[&str], payload: Payload) -> Vec<String> {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 1 << 20);
    let boot = payload.power_off().boot(&scratch).disk(&disk.display().to_string());
    let mut guest = boot.words(machine).start();

    assert_eq!(guest.code(), 0);
    guest.said_in_all().lines().map(str::to_owned).collect()
}

/// As 64 bits, when `bits` of them are ones.
fn ones(bits: u32) -> String {
    format!("{:016x}", u64::MAX >> (64 - bits))
}

fn nothing() -> String {
    "0".repeat(16)
}

#[test]
fn where_nothing_is_reads_of_every_width_give_ones_and_writes_do_nothing() {
    let accesses = || NOWHERE.into_iter().flat_map(|at| WIDTHS.map(|bits| (at, bits)));
    let payload = accesses()
        .fold(Payload::new(), |payload, (at, bits)| payload.access(store(bits), at).access(load(bits), at));

    let seen = seen(payload);

    let wanted: Vec<String> = accesses().flat_map(|(_, bits)| [nothing(), ones(bits)]).collect();
    assert_eq!(seen, wanted);
}

#[test]
fn above_32_gib_of_memory_nothing_is_up_to_the_last_of_36_address_bits() {
    let plan = Plan::of(&IN_36_BITS);
    let ram = plan.region("ram0");
    let at = [ram.base + ram.size, 12 << 32, (1 << plan.ipa_bits) - 8];
    // Ones would not tell a write that was kept from one that was not.
    let accesses = |payload: Payload, at| payload.access(load(64), at).write(at, 1).access(load(64), at);

    let seen = seen_in(&IN_36_BITS, at.into_iter().fold(Payload::new(), accesses));

    assert_eq!(seen, vec![ones(64); 2 * at.len()]);
    assert_eq!(plan.ipa_bits, 36);
}

#[test]
fn an_access_across_the_edge_of_a_window_reaches_no_device() {
    const RNG: u64 = 0x0200_0000;
    const DISK: u64 = 0x0200_1000;
    let across = [
        (UART - 1, 16),
        (UART - 2, 32),
        (UART - 4, 64),
        (UART + 0xfff, 16),
        (UART + 0xffd, 32),
        (UART + 0xffc, 64),
        (RNG - 4, 64),
        // From one device into the next.
        (DISK - 2, 32),
        (DISK - 7, 64),
        // Into RAM.
        (0x3fff_fffc, 64),
    ];
    let payload = across.into_iter().fold(Payload::new().unaligned(), |payload, (at, bits)| {
        payload.access(load(bits), at).access(store(bits), at)
    });
    // The magic number of virtio-mmio: neither device took the writes amiss.
    let payload = payload.access(load(32), RNG).access(load(32), DISK);

    let seen = seen(payload);

    let mut wanted: Vec<String> = across.into_iter().flat_map(|(_, bits)| [ones(bits), nothing()]).collect();
    wanted.extend([format!("{:016x}", 0x7472_6976), format!("{:016x}", 0x7472_6976)]);
    assert_eq!(seen, wanted);
}

#[test]
fn an_access_past_the_width_of_addresses_is_an_abort_in_the_guest() {
    let at = [BEYOND, 1 << 36, (1 << 39) - 8];
    let payload = at.into_iter().fold(Payload::new().unaligned(), |payload, at| {
        WIDTHS
            .into_iter()
            .fold(payload, |payload, bits| payload.access(load(bits), at).access(store(bits), at))
    });

    let seen = seen(payload);

    assert_eq!(seen.len(), at.len() * WIDTHS.len() * 2);
    let class = |line: &String| line.starts_with("8000000096");
    assert!(seen.iter().all(class), "{seen:?}");
}

#[test]
fn an_access_past_36_address_bits_is_an_abort_in_the_guest() {
    let at = [1 << 36, (1 << 36) + 0x1000, (1 << 37) - 8];
    let accesses = |payload: Payload, at| payload.access(store(64), at).access(load(64), at);

    let seen = seen_in(&IN_36_BITS, at.into_iter().fold(Payload::new().unaligned(), accesses));

    assert_eq!(seen, vec![exception(DATA_ABORT); 2 * at.len()]);
}

#[test]
fn an_access_that_kvm_cannot_decode_is_an_abort_in_the_guest() {
    let undecodable = [payload::LDP, payload::STP, payload::LDR_POST, payload::STR_POST, payload::LDXR];
    let at = [UART + 0x1000, 0x0200_0000, 0x6000_0000];
    let payload = at.into_iter().fold(Payload::new(), |payload, at| {
        undecodable.into_iter().fold(payload, |payload, instruction| payload.access(instruction, at))
    });

    let seen = seen(payload);

    assert_eq!(seen, vec![exception(DATA_ABORT); undecodable.len() * at.len()]);
}

#[test]
fn an_instruction_fetched_from_a_device_or_from_nowhere_is_an_abort_in_the_guest() {
    let at = [UART, UART + 0x1000, 0x6000_0000];
    let payload = at.into_iter().fold(Payload::new(), |payload, at| payload.access(payload::BLR, at));

    let seen = seen(payload);

    assert_eq!(seen, vec![exception(INSTRUCTION_ABORT); at.len()]);
}

#[test]
fn linux_goes_on_after_stray_accesses_from_user_space() {
    let mut guest = Boot::root(&place::image("root.ext4"), "ro").ready();

    let read = guest.check(
        "for at in 0x0 0x1001000 0x8000000 0xf000000 0x60000000 0xfffffff8; do \
         for bits in 8 16 32 64; do busybox devmem $at $bits 0; busybox devmem $at $bits; done; done | sort | uniq -c",
    );
    let across = guest.run("busybox devmem 0x1001fff 32");

    let words: Vec<&str> = read.split_whitespace().collect();
    assert_eq!(words, ["6", "0xFF", "6", "0xFFFF", "6", "0xFFFFFFFF", "6", "0xFFFFFFFFFFFFFFFF"]);
    // Linux maps it as a device, where every access has to be aligned; not every emulated processor minds.
    let bus_error = 128 + 7;
    assert!(across.text == "0xFFFFFFFF\n" || across.status == bus_error, "{across:?}");
    guest.check("dd if=/dev/vda of=/dev/null bs=1M count=4 iflag=direct && head -c 64 /dev/hwrng >/dev/null");
    assert_eq!(guest.power_off(), 0);
}
