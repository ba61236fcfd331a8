//! The board `qemu-virt` beside the QEMU of this machine: both are asked for the same machines, and what the
//! two device trees say of addresses and interrupts is the same; and so is what is refused.

mod machine;
mod qemu;
mod told;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Mutex;

use ambit_device_manager::{PlanError, RegionKind};
use machine::{Cpu, Machine, machine};
use told::Told;

/// Both make `machine`, and it is the same one.
fn same(machine: Machine) {
    let Some(answer) = asked(&machine) else { return };
    let qemus = answer.unwrap_or_else(|refusal| panic!("QEMU refuses {machine}: {refusal}"));
    let plan = machine.plan().unwrap_or_else(|refusal| panic!("Ambit refuses {machine}: {refusal}"));
    let ours = machine.tree(&plan);
    let (qemus, ours) = (Told::read(&qemus), Told::read(&ours));

    let (said, expected) = (ours.lines(), expected(qemus.lines()));
    assert!(
        said == expected,
        "{machine}\n  QEMU alone says {:#?}\n  Ambit alone says {:#?}",
        expected.difference(&said).collect::<Vec<_>>(),
        said.difference(&expected).collect::<Vec<_>>(),
    );
    for (name, ranges) in qemus.others() {
        for range in ranges {
            let kept = plan.regions.iter().filter(|region| region.kind == RegionKind::Reserved);
            let mut kept = kept.filter_map(|region| region.range);
            assert!(kept.any(|kept| kept.contains(range)), "{machine}: {name} of QEMU's is at {range}");
        }
    }
    assert_eq!(ours.others().into_keys().collect::<Vec<_>>(), Vec::<String>::new(), "{machine}");
}

/// What Ambit should say where QEMU says `lines`.
fn expected(lines: BTreeSet<String>) -> BTreeSet<String> {
    // GICv2 has no ITS. QEMU has an MSI frame instead, KVM and so Ambit do not; its place is kept.
    lines.into_iter().filter(|line| !line.contains(" msi-map 0 arm,gic-v2m-frame ")).collect()
}

/// Neither makes `machine`, and where both say a number it is the same one.
fn refused(machine: Machine) {
    let Some(answer) = asked(&machine) else { return };
    let Err(qemus) = answer else { panic!("QEMU makes {machine}") };
    let Err(ours) = machine.plan() else { panic!("Ambit makes {machine}, QEMU does not: {qemus}") };

    let number = match ours.error {
        // By how many bytes it goes past the width.
        PlanError::MemoryBeyondWidth { short, .. } | PlanError::HotplugBeyondWidth { short, .. } => short,
        PlanError::TooManyCpus { limit, .. } => u64::from(limit),
        PlanError::MemorySlots { wanted, .. } => u64::from(wanted),
        PlanError::HotplugBelowMemory { .. } => return,
        _ => panic!("{machine} is refused for another reason than QEMU's:\n  {qemus}\n  {ours}"),
    };
    let mut words = qemus.split(|c: char| !c.is_ascii_digit());
    assert!(words.any(|word| word == number.to_string()), "{machine}\n  QEMU: {qemus}\n  Ambit: {ours}");
}

/// QEMU's answer. Options that this QEMU is too old for are said once, where a passing test shows it too.
fn asked(machine: &Machine) -> Option<Result<Vec<u8>, String>> {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let answer = qemu::ask(machine);
    if answer.is_none() && SAID.lock().unwrap().insert(machine.options) {
        // Not `eprintln!`, which the harness keeps to itself.
        let _ =
            writeln!(std::io::stderr(), "left out, as QEMU 8.0 is the first to have it: {}", machine.options);
    }
    answer
}

#[test]
fn every_amount_of_memory_has_qemus_map() {
    for memory in ["256M", "1G", "3G", "4G", "8G", "255G", "256G", "511G", "512G", "1023G"] {
        same(machine(memory));
    }
    for memory in ["1023G", "1T", "15T"] {
        same(machine(memory).on(Cpu::Bits44));
    }
    same(machine("1T").on(Cpu::Bits48));
    same(machine("1T").on(Cpu::Bits52));
    // Not a whole GiB: what is above begins at the next one.
    same(machine("3000M"));
    same(machine("262145M"));
}

#[test]
fn every_number_of_vcpus_has_qemus_redistributors() {
    for cpus in [2, 8, 16, 17, 123, 124, 255] {
        same(machine("256M").cpus(cpus));
    }
    same(machine("256G").cpus(512));
    same(machine("1T").cpus(124).on(Cpu::Bits44));
}

#[test]
fn without_highmem_all_is_below_4_gib_as_in_qemu() {
    for memory in ["256M", "1G", "3G"] {
        same(machine(memory).options("highmem=off"));
    }
    same(machine("3G").options("highmem=off").cpus(123).on(Cpu::Bits48));
    same(machine("1G").options("highmem=off").hotplug(1, "2G"));
}

#[test]
fn what_is_switched_off_moves_the_rest_as_in_qemu() {
    for options in [
        "highmem-redists=off",
        "highmem-ecam=off",
        "highmem-mmio=off",
        "compact-highmem=off",
        "highmem-redists=off,compact-highmem=off",
        "highmem-ecam=off,compact-highmem=off",
        "highmem-mmio=off,compact-highmem=off",
        "highmem-redists=off,highmem-ecam=off",
        "highmem-redists=off,highmem-ecam=off,compact-highmem=off",
        "highmem-redists=off,highmem-ecam=off,highmem-mmio=off",
    ] {
        for memory in ["8G", "256G", "600G"] {
            same(machine(memory).options(options));
        }
        same(machine("1T").options(options).on(Cpu::Bits44));
    }
    same(machine("8G").options("highmem-ecam=off").cpus(124));
    same(machine("8G").options("highmem-redists=off").cpus(123));
    // Without an ITS this is also a machine that QEMU 7.2 has.
    for memory in ["8G", "256G", "600G"] {
        same(machine(memory).options("highmem-ecam=off,compact-highmem=off").without_its());
    }
}

#[test]
fn without_an_its_nothing_moves_as_in_qemu() {
    same(machine("1G").without_its());
}

#[test]
fn room_for_memory_to_be_plugged_moves_the_rest_as_in_qemu() {
    for (slots, most) in [(1, "5G"), (2, "8G"), (256, "8G"), (2, "255G"), (2, "1020G"), (2, "1021G")] {
        same(machine("4G").hotplug(slots, most));
    }
    // The ECAM and the redistributors fit, the window does not.
    same(machine("4G").hotplug(2, "1020G").cpus(124));
    same(machine("200G").hotplug(4, "300G").on(Cpu::Bits44));
    same(machine("4G").hotplug(0, "4G"));
    // Up to the last byte of 52 bits.
    same(machine("4G").hotplug(1, "4194302G").on(Cpu::Bits52));
}

#[test]
fn a_gicv2_is_where_qemu_has_it() {
    for cpus in [1, 2, 8] {
        same(machine("1G").options("gic-version=2").cpus(cpus));
    }
    // The redistributors it does not have keep their place above RAM.
    same(machine("256G").options("gic-version=2"));
    same(machine("8G").options("gic-version=2,highmem-redists=off"));
    same(machine("8G").options("highmem-redists=off,gic-version=2,compact-highmem=off"));
}

#[test]
fn a_gicv4_has_room_for_as_many_vcpus_as_qemus() {
    for cpus in [1, 61, 62, 317] {
        same(machine("8G").options("gic-version=4").cpus(cpus));
    }
}

#[test]
fn vcpus_that_qemu_has_no_room_for_are_refused() {
    refused(machine("256M").cpus(513));
    refused(machine("256M").cpus(124).options("highmem=off"));
    refused(machine("8G").cpus(124).options("highmem-redists=off"));
    // The second region of redistributors would be past the last byte.
    refused(machine("4G").cpus(124).hotplug(2, "1021G"));
    refused(machine("1023G").cpus(124));
    refused(machine("1G").cpus(9).options("gic-version=2"));
    refused(machine("1G").cpus(318).options("gic-version=4"));
    refused(machine("1G").cpus(62).options("gic-version=4,highmem=off"));
}

#[test]
fn memory_past_the_width_is_refused_by_as_many_bytes_as_in_qemu() {
    refused(machine("1T"));
    refused(machine("1047553M"));
    refused(machine("15T"));
    refused(machine("16T").on(Cpu::Bits44));
    for memory in ["3073M", "4G", "8G", "256G"] {
        refused(machine(memory).options("highmem=off"));
    }
}

#[test]
fn room_for_memory_past_the_width_is_refused_by_as_many_bytes_as_in_qemu() {
    refused(machine("4G").hotplug(2, "1022G"));
    refused(machine("4G").hotplug(256, "768G"));
    refused(machine("1G").hotplug(2, "2G").options("highmem=off"));
    refused(machine("4G").hotplug(1, "256T").on(Cpu::Bits48));
    refused(machine("4G").hotplug(1, "4194303G").on(Cpu::Bits52));
    refused(machine("4G").hotplug(256, "16777210T"));
    refused(machine("4G").hotplug(257, "8G"));
    refused(machine("4G").hotplug(1, "2G"));
}
