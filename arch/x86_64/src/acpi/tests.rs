use std::path::Path;
use std::process::Command;

use ambit_device_manager::{HostFacts, MachineConfig, Reserve, Vendor, Width, WidthSource, plan};
use ambit_resources::PaBits;

use super::*;
use crate::pc::pc;

fn planned(cpus: u32, memory: u64) -> Plan {
    let mut facts = HostFacts::assumed();
    facts.max_cpus = 1024;
    plan(&pc(), &MachineConfig { cpus, memory, ..MachineConfig::default() }, &facts).unwrap()
}

fn with_cpus(cpus: u32) -> Plan {
    planned(cpus, 64 << 20)
}

/// Every table that the root pointer leads to, by its signature.
fn listed(image: &[u8]) -> Vec<(String, Vec<u8>)> {
    let at = |address: u64| usize::try_from(address - ROOT).unwrap();
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    let table = |at: usize| {
        let length = usize::try_from(word(at + 4)).unwrap();
        (String::from_utf8(image[at..at + 4].to_vec()).unwrap(), image[at..at + length].to_vec())
    };
    let xsdt = at(long(24));
    let entries = (usize::try_from(word(xsdt + 4)).unwrap() - 36) / 8;
    let mut tables: Vec<_> = (0..entries).map(|entry| table(at(long(xsdt + 36 + 8 * entry)))).collect();
    let fadt = at(long(xsdt + 36));
    tables.push(table(at(long(fadt + 140))));
    tables.push(table(xsdt));
    tables
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn every_table_is_reached_from_the_root_and_sums_to_zero() {
    let image = tables(&planned(4, 64 << 20)).unwrap();

    let tables = listed(&image);

    let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["FACP", "APIC", "SRAT", "MCFG", "DSDT", "XSDT"]);
    for (name, table) in &tables {
        assert_eq!(sum(table), 0, "{name}");
    }
    assert_eq!((&image[..8], sum(&image[..20]), sum(&image[..36])), (b"RSD PTR ".as_slice(), 0, 0));
}

fn table(plan: &Plan, name: &str) -> Vec<u8> {
    let image = tables(plan).unwrap();
    listed(&image).into_iter().find(|(called, _)| called == name).unwrap().1
}

/// The entries after the first `skip` bytes, each of which has its length in its second byte.
fn entries(table: &[u8], skip: usize) -> Vec<Vec<u8>> {
    let mut rest = &table[skip..];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, after) = rest.split_at(usize::from(rest[1]));
        entries.push(entry.to_vec());
        rest = after;
    }
    entries
}

#[test]
fn vcpus_past_the_ids_of_8_bits_have_the_entries_of_x2apics() {
    let plan = with_cpus(257);

    let madt = entries(&table(&plan, "APIC"), 44);
    let srat = entries(&table(&plan, "SRAT"), 48);

    let ids = |entries: &[Vec<u8>], kind: u8, at: usize| -> Vec<u8> {
        entries.iter().filter(|entry| entry[0] == kind).map(|entry| entry[at]).collect()
    };
    let all: Vec<u8> = (0..255).collect();
    assert_eq!((ids(&madt, 0, 3), ids(&srat, 0, 3)), (all.clone(), all));
    assert_eq!(madt[255], [9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0]);
    assert_eq!(madt[256], [9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(madt[257], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    let mut last = vec![2, 24, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1];
    last.resize(24, 0);
    assert_eq!(srat[256], last);
}

#[test]
fn the_node_has_the_ram_of_the_plan() {
    let srat = entries(&table(&planned(1, 64 << 20), "SRAT"), 48);

    let mut ram = vec![1, 40];
    ram.resize(19, 0);
    ram.push(4);
    ram.resize(28, 0);
    ram.push(1);
    ram.resize(40, 0);
    assert_eq!(srat[1..], [ram]);
}

#[test]
fn the_machine_ends_by_the_ports_that_the_board_has() {
    let fadt = table(&planned(1, 64 << 20), "FACP");

    let port = |number: u8, high| [1, 8, 0, 1, number, high, 0, 0, 0, 0, 0, 0];
    assert_eq!((&fadt[116..128], fadt[128]), (port(0x64, 0).as_slice(), 0xfe));
    assert_eq!((&fadt[244..256], &fadt[256..268]), (port(0, 6).as_slice(), port(1, 6).as_slice()));
    // Hardware-reduced, with a reset register.
    assert_eq!(
        u32::from_le_bytes(fadt[112..116].try_into().unwrap()) & (1 << 20 | 1 << 10),
        1 << 20 | 1 << 10
    );
}

#[test]
fn tables_for_1024_vcpus_have_room_and_for_too_many_are_refused_with_why() {
    assert!(tables(&with_cpus(1024)).is_ok());

    let refused = tables(&Plan { cpus: 10_000, ..with_cpus(1) }).unwrap_err().to_string();

    assert!(refused.ends_with("there are 131056 for them; use fewer vCPUs or devices"), "{refused}");
}

/// A tebibyte on a host of AMD's: RAM on both sides of the hole.
fn around_the_hole(cpus: u32) -> Plan {
    let reserve = Reserve { vendor: Some(Vendor::Amd), ..Reserve::default() };
    let config = MachineConfig { cpus, memory: 1 << 40, reserve, ..MachineConfig::default() };
    let facts = HostFacts { max_cpus: 1024, width: WIDE, ..HostFacts::assumed() };
    plan(&pc(), &config, &facts).unwrap()
}

const WIDE: Width = Width { bits: PaBits::MAX, source: WidthSource::User };

#[test]
fn the_node_has_ram_on_both_sides_of_the_hole_and_none_in_it() {
    let plan = around_the_hole(1);

    let srat = entries(&table(&plan, "SRAT"), 48);

    let long = |entry: &[u8], at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
    let banks: Vec<(u64, u64)> =
        srat.iter().filter(|entry| entry[0] == 1).map(|entry| (long(entry, 8), long(entry, 16))).collect();
    assert_eq!(banks, [(0, 3 << 30), (4 << 30, 1008 << 30), (1 << 40, 13 << 30)]);
}

#[test]
fn the_hole_is_a_resource_of_the_motherboard() {
    let dsdt = table(&around_the_hole(1), "DSDT");

    // QWordMemory (ACPI 6.5, 6.4.3.5.1), consumed: granularity, first, last, offset, length.
    let words = [0, 0xfd_0000_0000, 0xff_ffff_ffff, 0, 12_u64 << 30].map(u64::to_le_bytes).concat();
    let found = dsdt.windows(words.len()).position(|window| window == words).unwrap();
    assert_eq!(dsdt[found - 6..found - 1], [0x8a, 43, 0, 0, 0x0d]);
}

/// Debian's package acpica-tools; without it there is nothing to hold the tables against.
#[test]
fn the_compiler_of_acpica_reads_every_table_and_finds_nothing_wrong() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("not checked: there is no iasl here (acpica-tools)");
        return;
    }
    for plan in [with_cpus(1), with_cpus(257), around_the_hole(1024)] {
        let scratch = std::env::temp_dir().join(format!("ambit-acpi-{}-{}", std::process::id(), plan.cpus));
        std::fs::create_dir_all(&scratch).unwrap();
        for (name, table) in listed(&tables(&plan).unwrap()) {
            let file = scratch.join(format!("{}.aml", name.to_lowercase()));
            std::fs::write(&file, table).unwrap();
            is_right(&name, &file);
        }
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}

/// Taken apart and made again.
fn is_right(name: &str, file: &Path) {
    let run = |words: &[&str], file: &Path| {
        let output = Command::new("iasl").args(words).arg(file).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };

    let (read, said) = run(&["-d"], file);

    assert!(read && !said.contains("rror") && !said.contains("nvalid"), "{name}: {said}");
    let (compiled, said) = run(&["-we"], &file.with_extension("dsl"));
    assert!(compiled && said.contains("0 Errors, 0 Warnings"), "{name}: {said}");
}
