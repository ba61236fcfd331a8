//! What cannot be: a clear error and an exit code before anything is made, on a host that has KVM.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use ambit_tests::{Boot, Payload, Scratch, Tap, Terminal, place};

/// A directory with what a machine needs and with what it cannot use, and a terminal.
struct Desk {
    scratch: Scratch,
    terminal: Terminal,
    /// What the monitor would make as soon as it could.
    tap: Tap,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { scratch: Scratch::new(), terminal: Terminal::open().unwrap(), tap: Tap::unmade() };
        // Others than root come here too.
        fs::set_permissions(desk.scratch.path("."), Permissions::from_mode(0o755)).unwrap();
        for name in ["Image", "Image.gz", "initrd.gz"] {
            symlink(place::image(name), desk.scratch.path(name)).unwrap();
        }
        desk.scratch.disk("a", 1 << 20);
        desk
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.scratch.path(name), bytes).unwrap();
    }

    /// Has `line` refused, with the words of `through` before it, and gives back the exit code and what was said.
    #[track_caller]
    fn refused(&self, through: &[&str], line: &str) -> (i32, String) {
        let before = self.terminal.settings();
        let monitor = place::monitor();
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60"]).args(through).arg(monitor).arg("run").args(line.split_whitespace());
        command.current_dir(self.scratch.path(".")).stdin(self.terminal.program.try_clone().unwrap());

        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();

        let said = String::from_utf8(output.stderr).unwrap();
        let is_error = |line: &&str| line.starts_with("ambit: error: ") || line.starts_with("error: ");
        assert_eq!(said.lines().filter(is_error).count(), 1, "{line}: {said}");
        assert_eq!(said.lines().position(|line| is_error(&line)), Some(0), "{line}: {said}");
        assert_eq!(output.stdout, b"", "{line}");
        assert_eq!(self.terminal.settings(), before, "{line}");
        assert!(!self.tap.exists(), "{line}: the interface it made is left");
        (output.status.code().unwrap_or_else(|| panic!("{line}: {}", output.status)), said)
    }

    /// As `refused`, with a machine that is right but for its host.
    #[track_caller]
    fn refused_by_host(&self, through: &[&str]) -> (i32, String) {
        self.refused(through, &format!("--kernel Image --initrd initrd.gz --disk a --net {}", self.tap.name))
    }
}

/// The words that run a shell line in mounts of its own, before the program.
macro_rules! with_mounts {
    ($line:literal) => {
        ["unshare", "--mount", "sh", "-c", concat!($line, " && exec \"$@\""), "sh"]
    };
}

macro_rules! with_limit {
    ($line:literal) => {
        ["sh", "-c", concat!("ulimit ", $line, " && exec \"$@\""), "sh"]
    };
}

const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
/// Root, who may use KVM, but neither makes interfaces nor uses those of others.
const NO_NET_ADMIN: [&str; 2] = ["setpriv", "--bounding-set=-net_admin"];

#[track_caller]
fn says((code, said): (i32, String), wanted_code: i32, wanted: &[&str]) {
    assert_eq!(code, wanted_code, "{said}");
    for words in wanted {
        assert!(said.contains(words), "'{words}' is not in: {said}");
    }
}

/// Each with its exit code and words that a user needs.
const REFUSALS: [(&str, i32, &str); 38] = [
    ("", 2, "there is no kernel to start; give one with --kernel FILE"),
    ("--kernel nowhere", 2, "the kernel nowhere does not exist"),
    ("--kernel empty", 2, "the kernel empty is empty"),
    ("--kernel directory", 2, "the kernel directory is a directory"),
    ("--kernel zeros", 2, "it has no arm64 Image header"),
    ("--kernel elf", 2, "give it the arm64 Image (arch/arm64/boot/Image)"),
    ("--kernel short", 2, "it was cut short: it has 10485760 bytes"),
    ("--kernel short.gz", 2, "its gzip data was cut short; copy it again"),
    ("--kernel Image.gz --memory 16M", 2, "and of 16 MiB of memory 16 MiB are left for it"),
    ("--kernel Image --memory 8M", 2, "and the guest has 8 MiB of memory"),
    ("--kernel Image --initrd nowhere", 2, "the initrd nowhere does not exist"),
    ("--kernel Image --initrd empty", 2, "the initrd empty is empty"),
    ("--kernel Image --initrd large", 2, "the initrd large takes 1 GiB, and the guest has 512 MiB of memory"),
    ("--kernel Image --initrd large --memory 1G", 2, "the initrd takes 1 GiB, and of 1 GiB of memory"),
    ("--kernel Image --disk nowhere", 2, "disk 'disk0' (nowhere) does not exist"),
    ("--kernel Image --disk directory", 2, "disk 'disk0' (directory) is a directory"),
    ("--kernel Image --disk /dev/null", 2, "disk 'disk0' (/dev/null) is a character device"),
    ("--kernel Image --disk empty", 2, "make it as large as the disk shall be"),
    ("--kernel Image --disk odd", 2, "is 1000 bytes long, which is not a multiple of 512"),
    ("--kernel Image --disk a --disk a", 2, "are the same file, and both may write it"),
    (
        "--kernel Image --disk a --disk path=link,readonly=on",
        2,
        "are the same file, and one of them may write it",
    ),
    ("--kernel Image --disk path=a,id=x --disk path=b,id=x", 2, "are both called 'x'"),
    ("--kernel Image --disk path=a,id=uart0", 2, "uart0"),
    ("--kernel Image --net a234567890123456", 2, "use 1 to 15 characters"),
    ("--kernel Image --net t --net t,id=x", 2, "both want the TAP interface 't'"),
    ("--kernel Image --memory 0", 2, "a machine has memory, and none was asked for"),
    ("--kernel Image --memory 1", 2, "1 B of memory is not a multiple of the host's page size"),
    ("--kernel Image --memory 536870913", 2, "536870913 B of memory is not a multiple"),
    ("--kernel Image --memory 4P", 2, "'4P' is not a size"),
    ("--kernel Image --memory 8G --pa-bits 33", 3, "needs 34 physical address bits, and 33 were allowed"),
    ("--kernel Image --memory 4096T", 3, "physical address bits, and this host has"),
    ("--kernel Image --cpus 0", 2, "a machine has at least one vCPU"),
    ("--kernel Image --cpus 513", 3, "513 vCPUs are more than"),
    ("--kernel Image --pa-bits 31", 2, "31 physical address bits are not possible; use 32 to 52"),
    ("--kernel Image --pa-bits 53", 2, "53 physical address bits are not possible; use 32 to 52"),
    ("--kernel Image --pa-bits 52", 4, "52 physical address bits were asked for, and this host has"),
    ("--config typo.toml", 2, "typo.toml:2:1: unknown key 'memroy'; did you mean 'memory'?"),
    ("--kernel Image --board natve", 2, "unknown board 'natve'; did you mean 'native'?"),
];

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let desk = Desk::new();
    let image = fs::read(place::image("Image")).unwrap();
    desk.put("short", &image[..10 << 20]);
    desk.put("short.gz", &fs::read(place::image("Image.gz")).unwrap()[..1 << 20]);
    desk.put("elf", &fs::read(place::monitor()).unwrap());
    desk.put("zeros", &[0; 4096]);
    desk.put("empty", b"");
    desk.put("odd", &[0; 1000]);
    desk.put("typo.toml", b"kernel = 'Image'\nmemroy = '1G'\n");
    desk.scratch.disk("b", 1 << 20);
    desk.scratch.disk("large", 1 << 30);
    fs::create_dir(desk.scratch.path("directory")).unwrap();
    symlink("a", desk.scratch.path("link")).unwrap();
    let trace = ["strace", "-f", "-qq", "-e", "trace=ioctl", "-o", "trace"];

    for (line, code, wanted) in REFUSALS {
        let refused = desk.refused(&trace, &format!("{line} --net {},id=made", desk.tap.name));

        says(refused, code, &[wanted]);
        let trace = fs::read_to_string(desk.scratch.path("trace")).unwrap();
        for step in ["TUNSETIFF", "TCSETS", "KVM_CREATE_VCPU", "KVM_SET_USER_MEMORY_REGION"] {
            assert!(!trace.contains(step), "{line}: {step} came before the refusal");
        }
    }
}

#[test]
fn a_host_without_kvm_is_told_from_one_that_does_not_allow_it_and_one_that_has_something_else() {
    let desk = Desk::new();

    let missing = desk.refused_by_host(&with_mounts!("mount -t tmpfs none /dev"));
    let forbidden = {
        fs::set_permissions(desk.scratch.path("a"), Permissions::from_mode(0o666)).unwrap();
        desk.refused_by_host(&NOBODY)
    };
    let other = desk.refused_by_host(&with_mounts!("mount --bind /dev/null /dev/kvm"));

    says(missing, 4, &["/dev/kvm cannot be opened: there is none; this kernel has no KVM"]);
    says(forbidden, 4, &["/dev/kvm cannot be opened: this user may not; join the group that owns it"]);
    says(other, 4, &["/dev/kvm is there, but it is not KVM"]);
}

#[test]
fn a_disk_that_this_user_may_not_write_is_refused_with_a_way_out() {
    let desk = Desk::new();

    let refused = desk.refused(&NOBODY, "--kernel Image --disk a");

    says(refused, 2, &["disk 'disk0' (a) cannot be written", "help: add readonly=on"]);
}

#[test]
fn memory_that_the_host_cannot_give_is_refused_with_a_way_out() {
    let desk = Desk::new();
    let machine = format!("--kernel Image --net {}", desk.tap.name);

    let unmapped = desk.refused(&with_limit!("-v 500000"), &format!("{machine} --memory 1G"));
    says(unmapped, 4, &["this host cannot map 1 GiB", "give the guest less memory"]);
}

#[test]
fn more_vcpus_than_open_files_are_refused_with_a_way_out() {
    let desk = Desk::new();

    let refused =
        desk.refused(&with_limit!("-n 40"), &format!("--kernel Image --cpus 64 --net {}", desk.tap.name));

    says(refused, 4, &["too many open files; raise 'ulimit -n'"]);
}

#[test]
fn a_tap_that_cannot_be_had_is_refused_by_its_name_and_reason() {
    let desk = Desk::new();
    let with = |net: &str| format!("--kernel Image --net {net}");
    let taken = Tap::new();
    let others = Tap::of_user(65534);
    let scratch = Scratch::new();
    let first = Payload::new().say("up").stay().boot(&scratch).net(&taken).start();
    first.wait_for("up");

    let busy = desk.refused(&[], &with(&taken.name));
    let not_made = desk.refused(&NO_NET_ADMIN, &with(&desk.tap.name));
    let not_ours = desk.refused(&NO_NET_ADMIN, &with(&others.name));
    let not_a_tap = desk.refused(&[], &with("lo"));
    let no_tun = desk.refused(&with_mounts!("mount -t tmpfs none /dev/net"), &with(&desk.tap.name));

    says(busy, 4, &[&format!("tap {} is in use by another program", taken.name)]);
    says(not_made, 4, &[&format!("ip tuntap add {} mode tap user", desk.tap.name)]);
    says(not_ours, 4, &[&format!("tap {} is not this user's", others.name)]);
    says(not_a_tap, 2, &["lo is a network interface, and not a tap"]);
    says(no_tun, 4, &["/dev/net/tun is not there; load the module (modprobe tun)"]);
    assert!(others.exists());
}

#[test]
fn a_disk_that_another_monitor_has_is_refused_until_that_one_ends() {
    let desk = Desk::new();
    let scratch = Scratch::new();
    let disk = desk.scratch.path("a").display().to_string();
    let sleeper = |disk: &str| -> Boot { Payload::new().say("up").stay().boot(&scratch).disk(disk) };
    let writer = sleeper(&disk).start();
    writer.wait_for("up");

    let second = desk.refused(&[], "--kernel Image --disk a");
    let reader = desk.refused(&[], "--kernel Image --disk path=a,readonly=on");
    drop(writer);
    let readers = [0; 2].map(|_| sleeper(&format!("path={disk},readonly=on")).start());
    for reader in &readers {
        reader.wait_for("up");
    }
    let beside_readers = desk.refused(&[], "--kernel Image --disk a");

    says(second, 2, &["disk 'disk0' (a) is in use by another program", "help: stop that one"]);
    says(reader, 2, &["disk 'disk0' (a) is in use by another program"]);
    says(beside_readers, 2, &["disk 'disk0' (a) is in use by another program"]);
}
