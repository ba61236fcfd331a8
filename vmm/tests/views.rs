//! The other ways to see a plan: device tree, picture, page; and machines that may lack nothing.

use std::path::Path;
use std::process::{Command, Output};

fn ambit(words: &str) -> Output {
    let mut ambit = Command::new(env!("CARGO_BIN_EXE_ambit"));
    ambit.args(words.split_whitespace()).output().unwrap()
}

fn said(words: &str) -> String {
    let out = ambit(words);
    assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

const MACHINE: &str = "--arch aarch64 --memory 63G --cpus 124 --pa-bits 36 --disk a.img,id=root --net tap0";

#[test]
fn the_device_tree_as_source_has_the_machine_in_it() {
    let source = said(&format!("plan {MACHINE} --cmdline root=/dev/vda --format dts"));

    assert!(source.starts_with("/dts-v1/;\n\n/ {\n"), "{source}");
    let memory =
        "memory@40000000 {\n\t\tdevice_type = \"memory\";\n\t\treg = <0x0 0x40000000 0xf 0xc0000000>;";
    for part in [memory, "bootargs = \"root=/dev/vda\"", "virtio_mmio@2001000 {", "bus-range = <0x0 0xff>;"] {
        assert!(source.contains(part), "no '{part}' in:\n{source}");
    }
    assert_eq!(source.matches("cpu@").count(), 124);
}

#[test]
fn the_device_tree_in_memory_is_whole() {
    let out = ambit(&format!("plan {MACHINE} --format dtb"));

    let word = |at: usize| u32::from_be_bytes(out.stdout[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xd00d_feed);
    assert_eq!(word(4) as usize, out.stdout.len());
}

#[test]
fn the_picture_has_every_region_and_why_one_is_missing() {
    let picture = said(&format!("plan {MACHINE} --format svg"));

    assert!(picture.contains("<svg") && picture.trim_end().ends_with("</svg>"));
    let json: serde_json::Value =
        serde_json::from_str(&said(&format!("plan {MACHINE} --format json"))).unwrap();
    for region in json["regions"].as_array().unwrap() {
        let name = region["name"].as_str().unwrap();
        assert!(picture.contains(&format!("data-name=\"{name}\"")), "no {name} in the picture");
    }
    assert!(picture.contains("needs 37 physical address bits"), "{picture}");
    assert!(picture.contains("36 bits: allowed") && picture.contains("40 bits: assumed of a host"));
}

#[test]
fn the_page_is_one_file_beside_what_is_printed() {
    let scratch = tempfile::tempdir().unwrap();
    let page = scratch.path().join("map.html");

    let table = said(&format!("plan {MACHINE} --html {}", page.display()));

    assert!(table.starts_with("board native (aarch64), 124 vCPUs, 63 GiB of memory\n"), "{table}");
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("<svg") && page.contains("<input") && page.contains("pci.mmio64"));
}

#[test]
fn a_page_that_cannot_be_written_is_named() {
    let out = ambit(&format!("plan {MACHINE} --html {}", Path::new("/nonexistent/map.html").display()));

    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(
        said,
        "ambit: error: /nonexistent/map.html cannot be written: No such file or directory (os error 2)\n"
    );
}

#[test]
fn with_strict_what_is_left_out_is_an_error_with_what_would_help() {
    let lenient = ambit(&format!("plan {MACHINE}"));
    let strict = ambit(&format!("plan {MACHINE} --strict"));
    let whole = ambit("plan --arch aarch64 --memory 62G --pa-bits 36 --strict");

    assert_eq!((lenient.status.code(), strict.status.code()), (Some(0), Some(3)));
    assert_eq!(whole.status.code(), Some(0));
    // The map is shown all the same.
    assert_eq!(lenient.stdout, strict.stdout);
    assert_eq!(
        String::from_utf8(strict.stderr).unwrap(),
        "ambit: error: pci.mmio64 is left out: it needs 37 physical address bits, and 36 were allowed; --strict \
         takes no machine without it\n  help: give the guest at most 62 GiB of memory (1 GiB less), and pci.mmio64 \
         is placed in full\n  help: allow 37 bits, if the host has them, and pci.mmio64 is placed in full\n"
    );
}

#[test]
fn what_the_user_or_the_board_does_without_is_no_loss() {
    for words in ["--pci-window 0", "--pci off", "--board qemu-virt,highmem-mmio=off,highmem-ecam=off"] {
        let out = ambit(&format!("plan --arch aarch64 {words} --strict"));
        assert_eq!(out.status.code(), Some(0), "{words}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn a_window_that_is_cut_short_says_by_how_much() {
    let table = said("plan --arch aarch64 --memory 60G --pa-bits 36 --pci-window 8G");

    assert!(table.contains("3 GiB  pci                   pci.mmio64        -  shrunk from 8 GiB"), "{table}");
    let warning = "warning: pci.mmio64 is smaller than it should be: it has 3 GiB of 8 GiB: it needs 37 physical \
                   address bits, and 36 were allowed\n";
    assert!(table.contains(warning), "{table}");
    for help in ["at most 55 GiB of memory (5 GiB less)", "make the PCI window 3 GiB", "allow 37 bits"] {
        assert!(table.contains(help), "no '{help}' in:\n{table}");
    }
}

#[test]
fn a_guest_that_reaches_less_than_the_host_is_the_limit_and_is_named() {
    let out = ambit("plan --arch aarch64 --memory 300G --guest-reach linux-va39 --pa-bits 48");
    let queues = ambit("plan --arch aarch64 --memory 17T --pa-bits 48 --queue-reach 44");

    let said = |out: Output| String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), queues.status.code()), (Some(3), Some(3)));
    let (out, queues) = (said(out), said(queues));
    assert!(out.contains("needs 39 physical address bits, and the guest can use 38"), "{out}");
    assert!(out.contains("help: use a guest that can use 39 bits (--guest-reach)"), "{out}");
    assert!(queues.contains("the guest's queues reach no address past 44 bits"), "{queues}");
    assert!(queues.contains("help: give the guest at most 16383 GiB of memory\n"), "{queues}");
    assert!(queues.contains("help: use modern virtio devices, which reach everywhere\n"), "{queues}");
}
