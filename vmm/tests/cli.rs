//! The program as its users meet it. No KVM is needed: bad input is refused before KVM is looked for.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const AMBIT: &str = env!("CARGO_BIN_EXE_ambit");

#[derive(Debug)]
struct Said {
    exit: i32,
    out: String,
    err: String,
}

/// A directory with what a machine needs, and with what it cannot use.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.put("Image", &kernel(1 << 20));
        desk.put("a.img", &[0; 1024]);
        desk.put("b.img", &[0; 512]);
        desk.put("odd.img", &[0; 1000]);
        desk.put("empty", b"");
        fs::create_dir(desk.path().join("directory")).unwrap();
        desk
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    fn command(&self, program: &Path, line: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.path()).args(line.split_whitespace());
        command
    }

    /// Runs `ambit` with the words of `line`, in this directory.
    fn ambit(&self, line: &str) -> Said {
        said(&mut self.command(Path::new(AMBIT), line))
    }

    /// What is on standard error when `line` is refused with `exit`.
    #[track_caller]
    fn refusal(&self, exit: i32, line: &str) -> String {
        let said = self.ambit(line);
        assert_eq!((said.exit, said.out.as_str()), (exit, ""), "ambit {line}: {}", said.err);
        said.err.replace(&format!("{}", self.path().display()), "DESK")
    }
}

/// The shortest file that is an arm64 `Image`, which wants `memory` bytes of RAM.
fn kernel(memory: u64) -> Vec<u8> {
    let mut image = vec![0; 64];
    image[16..24].copy_from_slice(&memory.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    Said {
        exit: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Where a host can run the machine, its abilities are in the plan.
fn host_has_a_say() -> bool {
    std::env::consts::ARCH == "aarch64" && Path::new("/dev/kvm").exists()
}

#[test]
fn every_command_has_help_with_examples() {
    let desk = Desk::new();

    for line in ["--help", "run --help", "plan --help", "probe --help"] {
        let said = desk.ambit(line);
        assert_eq!((said.exit, said.err.as_str()), (0, ""));
        assert!(said.out.contains("Examples:\n  ambit "), "{line}: {}", said.out);
    }
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(Desk::new().ambit("--version").out, concat!("ambit ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_plan_is_a_table_of_everything_with_an_address() {
    if host_has_a_say() {
        return;
    }
    let said =
        Desk::new().ambit("plan --memory 3G --cpus 2 --pa-bits 36 --disk nowhere.img,id=root --net tap0");

    assert_eq!((said.exit, said.err.as_str()), (0, ""));
    assert_eq!(
        said.out,
        "\
board native (aarch64), 2 vCPUs, 3 GiB of memory
36 address bits allowed, 33 asked of KVM; stage 2: 2 levels from level 2 (8 tables side by side), T0SZ 31, SL0 0, pages of 4 KiB

BASE         LAST               SIZE  KIND                  NAME          INTID
0x001000000  0x001000fff       4 KiB  pl011                 uart0            32  mmio
0x001010000  0x001010fff       4 KiB  pl031                 rtc0             33  mmio
0x002000000  0x002000fff       4 KiB  virtio-rng            rng0             48  mmio
0x002001000  0x002001fff       4 KiB  virtio-blk            root             49  mmio
0x002002000  0x002002fff       4 KiB  virtio-net            net0             50  mmio
0x008000000  0x0080fffff       1 MiB  reserved              reserved.msi      -
0x009000000  0x00900ffff      64 KiB  interrupt-controller  gic.dist          -
0x009020000  0x00903ffff     128 KiB  interrupt-controller  gic.its           -
0x00a000000  0x00a03ffff     256 KiB  interrupt-controller  gic.redist0       -  2 vCPUs
0x010000000  0x01fffffff     256 MiB  pci                   pci.ecam          -
0x020000000  0x03ffeffff  524224 KiB  pci                   pci.mmio32        -
0x03fff0000  0x03fffffff      64 KiB  pci                   pci.io            -
0x040000000  0x0ffffffff       3 GiB  ram                   ram0              -
0x100000000  0x13fffffff       1 GiB  pci                   pci.mmio64        -

BASE         SIZE  DEVICE   KIND             NAME
0x10000000  4 KiB  00:00.0  pci-host-bridge  pci.bridge.config  pci

PIN  INTID  NAME
  0     32  uart0
  1     33  rtc0
  2     34  pci.inta  shared by PCI functions without MSI
  3     35  pci.intb  shared by PCI functions without MSI
  4     36  pci.intc  shared by PCI functions without MSI
  5     37  pci.intd  shared by PCI functions without MSI
 16     48  rng0
 17     49  root
 18     50  net0
941 of 944 pins for devices (16 to 959) are free

note: no host was asked; assumed is one with pages of 4096 bytes, 512 vCPUs and an ITS
  help: plan on the host itself
"
    );
}

#[test]
fn a_plan_as_json_is_the_table() {
    let desk = Desk::new();
    let line = "plan --memory 8G --cpus 4 --pa-bits 36 --disk a.img --net tap0";

    let table = desk.ambit(line).out;
    let json: Value = serde_json::from_str(&desk.ambit(&format!("{line} --format json")).out).unwrap();

    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    // Base, size and name of each region.
    let from_table: Vec<(u64, u64, String)> = table
        .lines()
        // Below the regions are the windows of PCI functions.
        .take_while(|line| !line.contains("DEVICE"))
        .filter(|line| line.starts_with("0x"))
        .map(|line| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            (number(cells[0]), number(cells[1]) - number(cells[0]) + 1, cells[5].into())
        })
        .collect();
    let from_json: Vec<(u64, u64, String)> = json["regions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|region| region["status"] == "placed")
        .map(|region| {
            let base = number(region["base"].as_str().unwrap());
            (base, region["size"].as_u64().unwrap(), region["name"].as_str().unwrap().into())
        })
        .collect();
    assert_eq!(from_table, from_json);
    assert!(from_json.len() >= 9);
    let head = ["schema", "board", "arch", "pa_bits", "ipa_bits", "cpus"].map(|key| json[key].to_string());
    assert_eq!(head, ["1", "\"native\"", "\"aarch64\"", "36", "34", "4"]);
}

#[test]
fn a_plan_that_does_not_fit_ends_with_3_and_says_what_would_help() {
    let desk = Desk::new();

    let said = desk.refusal(3, "plan --memory 64G --pa-bits 36");
    // What was assumed comes first, where something was.
    let error = said.find("ambit: error").unwrap();
    assert_eq!(
        &said[error..],
        "ambit: error: 64 GiB of memory at [0x40000000-0x103fffffff] needs 37 physical address bits, and 36 were \
         allowed, which is 1 GiB too few\n  help: give the guest at most 63 GiB of memory\n  help: allow 37 bits, if the host has them\n"
    );

    let said = desk.ambit("plan --memory 64G --pa-bits 36 --format json");
    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(said.exit, 3);
    assert_eq!(json["regions"], Value::Array(Vec::new()));
    assert_eq!(json["diagnostics"][0]["code"], "ram-beyond-width");
    assert_eq!(json["diagnostics"][0]["remedies"][0], "give the guest at most 63 GiB of memory");
}

#[test]
fn a_probe_prints_a_report_wherever_it_runs() {
    let desk = Desk::new();

    let table = desk.ambit("probe");
    let json: Value = serde_json::from_str(&desk.ambit("probe --format json").out).unwrap();

    assert!(matches!(table.exit, 0 | 4));
    assert!(table.out.contains(std::env::consts::ARCH), "{}", table.out);
    assert_eq!((&json["schema"], &json["arch"]), (&1.into(), &std::env::consts::ARCH.into()));
    assert_eq!(table.exit == 0, json["problems"] == Value::Array(Vec::new()));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let desk = Desk::new();
    let line = format!("{AMBIT} plan --cpus 4 | true; exit ${{PIPESTATUS[0]}}");

    let said = said(Command::new("bash").current_dir(desk.path()).args(["-c", &line]));

    assert_eq!((said.exit, said.err.as_str()), (0, ""));
}

#[test]
fn a_file_and_options_make_one_configuration() {
    let desk = Desk::new();
    desk.put("guest.toml", b"memory = '1G'\ncpus = 2\n[[disks]]\npath = 'a.img'\nid = 'first'\n");
    desk.put("guest.json", br#"{"memory": "1G", "cpus": 2, "disks": [{"path": "a.img", "id": "first"}]}"#);

    let options = "--memory 2G --disk b.img,id=second";
    let from_toml = desk.ambit(&format!("plan --config guest.toml {options}")).out;
    let from_json = desk.ambit(&format!("plan --config guest.json {options}")).out;
    let from_options = desk.ambit(&format!("plan --cpus 2 --disk path=a.img,id=first {options}")).out;

    assert_eq!(from_toml, from_options);
    assert_eq!(from_json, from_options);
    assert!(from_options.contains("2 vCPUs, 2 GiB of memory"), "{from_options}");
}

#[test]
fn a_typo_in_a_file_is_told_with_its_place() {
    let desk = Desk::new();
    desk.put("guest.toml", b"kernel = 'Image'\nmemroy = '1G'\n");

    assert_eq!(
        desk.refusal(2, "run --config guest.toml"),
        "ambit: error: guest.toml:2:1: unknown key 'memroy'; did you mean 'memory'?\n"
    );
    assert_eq!(
        desk.refusal(2, "run --config missing.toml"),
        "ambit: error: the configuration missing.toml cannot be read: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_bad_option_is_told_with_what_is_wrong_in_it() {
    let desk = Desk::new();
    let cases = [
        ("--memroy 1G", "a similar argument exists: '--memory'"),
        ("--disk path=a.img,redonly=on", "unknown key 'redonly'; did you mean 'readonly'?"),
        ("--disk id=a", "the key 'path' is missing"),
        ("--disk path=a.img,id=a/b", "'a/b' cannot be the id of a device; use 1 to 64 letters"),
        ("--net tap=a234567890123456", "cannot be the name of a TAP interface; use 1 to 15 characters"),
        ("--net tap0,mac=01:00:00:00:00:01", "01:00:00:00:00:01 is the MAC address of a group"),
        ("--net tap0,mac=52:54", "'52:54' is not a MAC address; write six pairs of hex digits"),
        ("--memory 12X", "'12X' is not a size; write a whole number of bytes"),
        ("--memory -1", "unexpected argument '-1' found"),
        ("--memory 99999999999999999999", "is more than 2^64 - 1 bytes"),
        ("--cpus two", "invalid value 'two' for '--cpus <N>': 'two' is not a count"),
        ("--cpus 4294967296", "'4294967296' is not a count; write a whole number, at most 4294967295"),
        ("--pa-bits 31", "31 physical address bits are not possible; use 32 to 52"),
        ("--pa-bits 53", "53 physical address bits are not possible; use 32 to 52"),
        ("--pa-bits many", "'many' is not a number of address bits; write a number from 32 to 52, or auto"),
        ("--kernel Image --kernel Image", "cannot be used multiple times"),
        ("--rng maybe", "'maybe' is neither on nor off"),
    ];

    for (options, wanted) in cases {
        for command in ["plan", "run --kernel Image"] {
            let said = desk.refusal(2, &format!("{command} {options}"));
            assert!(said.starts_with("error: ") && said.contains(wanted), "{command} {options}: {said}");
        }
    }
}

#[test]
fn a_machine_that_makes_no_sense_is_refused_wherever_it_is_said() {
    let desk = Desk::new();
    let cases = [
        ("--cpus 0", "a machine has at least one vCPU, and 0 were asked for"),
        ("--memory 0", "a machine has memory, and none was asked for"),
        ("--memory 1", "1 B of memory is not a multiple of the host's page size, 4 KiB"),
        ("--memory 4097", "4097 B of memory is not a multiple of the host's page size, 4 KiB"),
        (
            "--disk a.img,id=x --disk b.img,id=x",
            "the disk a.img and the disk b.img are both called 'x'; give one of them another id",
        ),
        (
            "--net t0 --net t0,id=x",
            "net 'net0' and net 'x' both want the TAP interface 't0'; give each its own",
        ),
        ("--board natve", "unknown board 'natve'; did you mean 'native'?"),
    ];

    for (options, wanted) in cases {
        for command in ["plan", "run --kernel Image"] {
            let said = desk.refusal(2, &format!("{command} {options}"));
            assert_eq!(said.lines().next(), Some(format!("ambit: error: {wanted}").as_str()));
        }
    }
}

#[test]
fn an_architecture_has_its_own_board_and_takes_no_other() {
    let desk = Desk::new();

    assert!(desk.ambit("plan --arch x86_64").out.starts_with("board pc (x86_64), "));
    assert_eq!(
        desk.refusal(2, "plan --arch x86_64 --board native"),
        "ambit: error: board 'native' is an aarch64 machine, and --arch asks for x86_64; leave one of them out\n"
    );
}

#[test]
fn what_makers_keep_free_is_for_x86_64_machines_and_named_where_it_is_in_the_way() {
    let desk = Desk::new();

    assert_eq!(
        desk.refusal(3, "plan --arch x86_64 --vendor amd --memory 1T --pa-bits 40"),
        "ambit: error: 1 TiB of memory at [0x0-0x1033fffffff] needs 41 physical address bits, and 40 were allowed, \
         which is 13 GiB too few; reserved.ht [0xfd00000000-0xffffffffff] is kept free: AMD's processors and IOMMUs \
         use it for HyperTransport\n  \
         help: give the guest at most 1011 GiB of memory\n  \
         help: allow 41 bits, if the host has them\n"
    );
    assert_eq!(
        desk.refusal(2, "plan --arch aarch64 --hole relocate"),
        "ambit: error: --hole makes no sense on a board that is no x86_64 machine\n"
    );
    assert_eq!(
        desk.refusal(2, "plan --arch x86_64 --reserve 0x1000+4K"),
        "ambit: error: board 'pc' starts its guests in the first MiB, so [0x1000-0x1fff] cannot be kept free of RAM\n  \
         help: do not keep [0x1000-0x1fff] free (--reserve)\n"
    );
    assert_eq!(
        desk.refusal(3, "plan --arch x86_64 --vendor intel --reserve 0xe0000000+4K"),
        "ambit: error: pci.ecam is at [0xe0000000-0xefffffff] on this board, and reserved.user0 \
         [0xe0000000-0xe0000fff] is kept free: the user says so (--reserve)\n  \
         help: do not keep [0xe0000000-0xe0000fff] free (--reserve)\n"
    );
    let cut = desk.ambit("plan --arch x86_64 --vendor intel --reserve 0xc0000000+4K").out;
    assert!(
        cut.ends_with(
            "note: pci.mmio32 is smaller than it should be: of [0xc0000000-0xdfffffff], reserved.user0 \
             [0xc0000000-0xc0000fff] is kept free: the user says so (--reserve)\n"
        ),
        "{cut}"
    );
}

#[test]
fn files_that_cannot_be_used_are_refused_before_kvm_is_looked_for() {
    let desk = Desk::new();
    symlink("a.img", desk.path().join("link.img")).unwrap();
    let cases = [
        ("run", "there is no kernel to start; give one with --kernel FILE\n"),
        ("run --kernel nowhere", "the kernel nowhere does not exist\n  help: its name is relative to DESK\n"),
        ("run --kernel directory", "the kernel directory is a directory\n  help: give a regular file\n"),
        ("run --kernel empty", "the kernel empty is empty\n"),
        ("run --kernel Image --initrd empty", "the initrd empty is empty\n"),
        (
            "run --kernel Image --disk empty",
            "disk 'disk0' (empty) is empty\n  help: make it as large as the disk shall be: truncate -s 1G empty\n",
        ),
        (
            "run --kernel Image --disk directory",
            "disk 'disk0' (directory) is a directory\n  help: give a raw image or a block device\n",
        ),
        (
            "run --kernel Image --disk odd.img",
            "disk 'disk0' (odd.img) is 1000 bytes long, which is not a multiple of 512\n  help: fill it up with \
             zeros: truncate -s 1024 odd.img\n  help: cut its end off: truncate -s 512 odd.img\n",
        ),
        (
            "run --kernel Image --disk a.img --disk link.img",
            "disk 'disk0' (a.img) and disk 'disk1' (link.img) are the same file, and both may write it\n  help: \
             give each its own copy\n  help: add readonly=on to both\n",
        ),
    ];

    for (line, wanted) in cases {
        assert_eq!(desk.refusal(2, line), format!("ambit: error: {wanted}"), "{line}");
    }
}

#[test]
fn what_cannot_be_in_ram_is_refused_before_kvm_is_looked_for() {
    let desk = Desk::new();
    desk.put("bzImage", &[0x5a; 4096]);
    desk.put("large", &kernel(1 << 30));
    desk.put("short", &kernel(1 << 20)[..60]);
    desk.put("initrd", &[0; 3 << 20]);
    let cases = [
        ("--kernel bzImage", "the kernel is not one this board can start: it has no arm64 Image header"),
        ("--kernel short", "the kernel is not one this board can start: it has 60 bytes"),
        ("--kernel large", "the kernel takes 1 GiB, and of 512 MiB of memory 512 MiB are left for it"),
        (
            "--kernel Image --initrd initrd --memory 3M",
            "the initrd takes 3 MiB, and of 3 MiB of memory 2 MiB are left",
        ),
        (
            "--kernel Image --initrd initrd --memory 2M",
            "the initrd initrd takes 3 MiB, and the guest has 2 MiB",
        ),
    ];

    for (options, wanted) in cases {
        let said = desk.refusal(2, &format!("run --board native {options}"));
        assert!(said.starts_with(&format!("ambit: error: {wanted}")), "{options}: {said}");
    }
}

#[test]
fn a_kernel_for_another_kind_of_host_is_named_unless_a_board_for_it_is() {
    if std::env::consts::ARCH == "aarch64" {
        return;
    }
    let desk = Desk::new();
    desk.put("guest.toml", b"kernel = 'Image'\nboard = 'native'\n");

    assert_eq!(
        desk.refusal(2, "run --kernel Image"),
        "ambit: error: the kernel is not one this board can start: it is an arm64 Image; give it a bzImage or a \
         static 64-bit ELF program\n"
    );
    assert!(desk.refusal(4, "run --config guest.toml").contains("board native is an aarch64 machine"));
}

#[test]
fn files_that_this_user_may_not_use_are_refused() {
    let desk = Desk::new();
    let mode = |name: &str, mode| {
        fs::set_permissions(desk.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    // Root may use every file, so if we are root somebody else asks; he has to reach the program.
    let ambit = desk.path().join("ambit");
    fs::copy(AMBIT, &ambit).unwrap();
    fs::set_permissions(desk.path(), fs::Permissions::from_mode(0o755)).unwrap();
    mode("Image", 0o000);
    mode("a.img", 0o444);
    mode("b.img", 0o000);
    let refusal = |line: &str| {
        let mut command = desk.command(&ambit, line);
        if fs::File::open(desk.path().join("Image")).is_ok() {
            command.uid(65534);
        }
        let said = said(&mut command);
        assert_eq!(said.exit, 2, "{line}: {}", said.err);
        said.err
    };

    assert_eq!(
        refusal("run --kernel Image"),
        "ambit: error: the kernel Image cannot be read: Permission denied (os error 13)\n  help: let this user read \
         it\n"
    );
    mode("Image", 0o444);
    assert_eq!(
        refusal("run --kernel Image --disk a.img"),
        "ambit: error: disk 'disk0' (a.img) cannot be written: Permission denied (os error 13)\n  help: add \
         readonly=on, if the guest need not write it\n  help: let this user write it\n"
    );
    assert_eq!(
        refusal("run --kernel Image --disk b.img"),
        "ambit: error: disk 'disk0' (b.img) cannot be read: Permission denied (os error 13)\n  help: let this user \
         read it\n"
    );
}

#[test]
fn a_host_of_another_kind_is_told_of_only_when_everything_else_is_right() {
    if std::env::consts::ARCH == "aarch64" {
        return;
    }
    let desk = Desk::new();

    let said = desk.refusal(4, "run --board native --kernel Image --initrd b.img --disk a.img");

    assert!(said.contains("board native is an aarch64 machine"), "{said}");
}
