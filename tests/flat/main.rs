//! Programs with nothing below them, through the program's real way to start a machine, on this machine's own x86_64
//! KVM.
//!
//! `cargo xtask test --flat` builds the monitor and the programs of `tests/payloads`, looks whether this KVM runs one,
//! and only then runs these. By hand: AMBIT_BIN is the monitor, AMBIT_PAYLOADS the directory of the programs.

use ambit_tests::{Boot, Guest, ambit};

mod attacks;
mod soak;

/// Runs a payload to its end: exit code, what it printed, what the monitor said.
fn run(boot: Boot) -> (i32, String, String) {
    let mut guest = boot.start();
    let code = guest.code();
    (code, guest.said_in_all(), guest.all_errors())
}

/// The same of `ends`.
fn ends(how: &str) -> (i32, String, String) {
    let (code, said, errors) = run(Boot::flat("ends").cmdline(&format!("how={how}")));
    let said = said.strip_prefix(&format!("ends by {how}\n")).map(str::to_owned).unwrap_or(said);
    (code, said, errors)
}

fn none() -> String {
    String::new()
}

#[test]
fn a_program_finds_all_that_the_board_has() {
    let (code, said, errors) = run(Boot::flat("tour").cpus(2).memory("64M").words(&["--vendor", "intel"]));

    let (before, bridge) = said.split_once("bridge ").unwrap();
    let (_, after) = bridge.split_once('\n').unwrap();
    assert_eq!(
        before,
        "hello from 64-bit mode\n\
         memory 0x0 0x9fc00 1\n\
         memory 0x100000 0x3f00000 1\n\
         memory 0xe0000000 0x10000000 2\n\
         memory 0xfffbc000 0x4000 2\n"
    );
    assert_eq!(
        after,
        "absent ffffffff\n\
         string of bytes\n\
         other vcpu 101\n\
         virtio 74726976 kind 4\n\
         negotiated true\n\
         used true (0, 64)\n\
         random true\n\
         status 1\n\
         interrupted true\n"
    );
    assert_eq!((code, errors), (0, none()));
}

/// What `tour` says of memory above 4 GiB.
fn above_4_gib(memory: &str, words: &[&str]) -> Vec<String> {
    let (code, said, errors) = run(Boot::flat("tour").memory(memory).words(words));
    assert_eq!((code, errors.as_str()), (0, ""), "{said}");
    let lines = said.lines().filter(|line| line.starts_with("bank ") || line.starts_with("hole "));
    lines.map(str::to_owned).collect()
}

#[test]
fn ram_above_4_gib_is_there_in_each_bank() {
    let whole = |memory| above_4_gib(memory, &["--vendor", "intel"]);

    assert_eq!(whole("3G"), [] as [&str; 0]);
    assert_eq!(whole("5G"), ["bank 0x100000000 to 0x17fffffff keeps [true, true]"]);
    assert_eq!(
        above_4_gib(
            "5G",
            &["--vendor", "intel", "--reserve", "0x120000000+16M", "--reserve", "0x1000000+1M"]
        ),
        [
            "bank 0x100000000 to 0x11fffffff keeps [true, true]",
            "bank 0x121000000 to 0x1810fffff keeps [true, true]",
            "hole 0x120000000 absent [Some(true), Some(true)]",
        ]
    );
}

#[test]
fn a_small_guest_that_straddles_what_amd_keeps_has_ram_on_both_sides() {
    let next_to_it = ["--vendor", "amd", "--reserve", "0x100000000+1007G"];

    assert_eq!(
        above_4_gib("5G", &next_to_it)[..3],
        [
            "bank 0xfcc0000000 to 0xfcffffffff keeps [true, true]",
            "bank 0x10000000000 to 0x1003fffffff keeps [true, true]",
            "hole 0x100000000 absent [Some(true), Some(true)]",
        ]
    );
}

/// A TiB of RAM of which a few pages are ever touched.
#[test]
fn a_guest_of_a_tebibyte_has_ram_on_both_sides_of_what_amd_keeps() {
    let hole = "hole 0xfd00000000 absent [Some(true), Some(true)]";

    assert_eq!(
        above_4_gib("1T", &["--vendor", "amd"]),
        [
            "bank 0x100000000 to 0xfcffffffff keeps [true, true]",
            "bank 0x10000000000 to 0x1033fffffff keeps [true, true]",
            hole,
        ]
    );
    assert_eq!(
        above_4_gib("1T", &["--vendor", "amd", "--hole", "relocate"]),
        ["bank 0x10000000000 to 0x1ff3fffffff keeps [true, true]", hole]
    );
}

#[test]
fn a_machine_without_another_vcpu_never_sees_it_come() {
    let (code, said, _) = run(Boot::flat("tour").cpus(1).memory("64M"));

    assert!(said.contains("\nother vcpu 0\n"), "{said}");
    assert_eq!(code, 0);
}

/// More than 255 are told apart by IDs of 32 bits.
#[test]
fn a_machine_has_as_many_vcpus_as_the_board_and_kvm_have() {
    let probe = ambit(["probe", "--format", "json"]).stdout;
    let probe: serde_json::Value = serde_json::from_str(&probe).unwrap();
    let most = u32::try_from(probe["max_cpus"].as_u64().unwrap()).unwrap().min(1024);
    let off = |cpus| run(Boot::flat("ends").cmdline("how=off").memory("128M").cpus(cpus));

    let (code, said, errors) = off(most);
    assert_eq!((code, said.as_str()), (0, "ends by off\n"));
    let told = format!(" WARN Linux brings up 256 of the {most} vCPUs, ");
    assert_eq!((errors.starts_with(&told), errors.is_empty()), (most > 256, most <= 256), "{errors}");
    let (code, _, errors) = off(most + 1);
    assert!(
        errors.contains(&format!("{} vCPUs are more than {most}, which is all that ", most + 1)),
        "{errors}"
    );
    assert_eq!(code, 3);
}

#[test]
fn a_program_that_switches_off_or_resets_ends_well() {
    assert_eq!(ends("off"), (0, none(), none()));
    assert_eq!(ends("reset"), (0, none(), none()));
}

#[test]
fn a_program_that_fails_ends_as_a_crash_with_what_it_said() {
    assert_eq!(ends("code"), (1, "exit 7\n".into(), none()));
    let (code, said, _) = ends("panic");
    assert!(said.ends_with("a payload that panics\nexit 255\n"), "{said}");
    assert_eq!(code, 1);
}

#[test]
fn an_exception_is_told_with_its_number_and_place() {
    let (code, said, _) = ends("exception");
    assert!(said.starts_with("exception 6 error 0x0 at 0x2"), "{said}");
    assert_eq!(code, 1);

    let (code, said, _) = ends("page");
    assert!(said.starts_with("exception 14 error 0x0 at 0x2"), "{said}");
    assert!(said.ends_with(", address 0x10000000000\nexit 254\n"), "{said}");
    assert_eq!(code, 1);
}

#[test]
fn a_fault_that_nothing_handles_ends_the_machine_and_says_where() {
    let (code, said, errors) = run(Boot::flat("ends").cmdline("how=triple"));

    let expected = "ambit: error: vCPU 0 stopped: the guest took a fault that it handles nowhere (a triple fault), rip 0x";
    assert!(errors.starts_with(expected), "{code}, it said {said:?} and {errors:?}");
    assert_eq!((code, said.as_str()), (1, "ends by triple\n"));
}

#[test]
fn any_vcpu_can_end_the_machine() {
    let (code, said, _) = run(Boot::flat("ends").cmdline("how=other").cpus(2));

    assert_eq!((code, said.as_str()), (1, "ends by other\nexit 9\n"));
}

#[test]
fn what_is_typed_reaches_the_program() {
    let mut guest = Boot::flat("ends").cmdline("how=typed").start();
    guest.wait_for("ends by typed\n");

    guest.press(b"hello\n");

    assert_eq!((guest.code(), guest.said_in_all().as_str()), (0, "ends by typed\nHELLO"));
}

#[test]
fn what_nothing_answers_reads_as_ones_on_both_buses() {
    let (code, said, _) = ends("everywhere");

    assert_eq!((code, said.as_str()), (0, "ports of ones: most true wide true\nmemory of ones: true\n"));
}

#[test]
fn a_machine_that_waits_is_ended_by_its_user() {
    let mut guest: Guest = Boot::flat("ends").cmdline("how=halt").start();
    guest.wait_for("ends by halt\n");

    guest.signal(rustix::process::Signal::TERM);

    assert_eq!(guest.code(), 128 + 15);
}

#[test]
fn what_is_no_program_is_refused_before_there_is_a_machine() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"no program\n").unwrap();
    let path = file.path().to_str().unwrap();

    let ended = ambit(["run", "--board", "pc", "--kernel", path]);

    let why = "it is no ELF file; give it a bzImage or a static 64-bit ELF program";
    let expected = format!("ambit: error: the kernel is not one this board can start: {why}\n");
    assert_eq!((ended.code, ended.stdout, ended.stderr), (2, none(), expected));
}
