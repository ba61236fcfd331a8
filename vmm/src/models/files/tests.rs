use std::os::unix::fs::symlink;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::config::{Config, Disk, settle};
use crate::toy::TOY;

/// A directory with a kernel and two disks that can be used.
struct Bench {
    directory: TempDir,
    config: Config,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, length) in [("Image", 100), ("a.img", 1024), ("b.img", 512)] {
            fs::write(directory.path().join(name), vec![b'x'; length]).unwrap();
        }
        let kernel = Some(directory.path().join("Image"));
        Self { directory, config: Config { kernel, ..Config::default() } }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn kernel(mut self, name: &str) -> Self {
        self.config.kernel = Some(self.path(name));
        self
    }

    fn initrd(mut self, name: &str) -> Self {
        self.config.initrd = Some(self.path(name));
        self
    }

    /// With options after the name, as on the command line.
    fn disk(mut self, name: &str) -> Self {
        let disk: Disk = format!("{}/{name}", self.directory.path().display()).parse().unwrap();
        self.config.disks.push(disk);
        self
    }

    fn memory(mut self, bytes: &str) -> Self {
        self.config.memory = Some(bytes.parse().unwrap());
        self
    }

    fn open(&self) -> Result<Files, FilesError> {
        open(&settle(self.config.clone(), &[&TOY], None).unwrap())
    }

    /// The error and its remedies, line by line, with the directory left out.
    fn refusal(&self) -> String {
        let error = self.open().unwrap_err();
        let lines: Vec<String> = [error.to_string()].into_iter().chain(error.remedies()).collect();
        lines.join("\n").replace(&format!("{}/", self.directory.path().display()), "")
    }
}

#[test]
fn what_can_be_used_is_read_and_opened() {
    let files = Bench::new().initrd("b.img").disk("a.img").disk("b.img,readonly=on").open().unwrap();

    assert_eq!(files.kernel, [b'x'; 100]);
    assert_eq!(files.initrd, Some(vec![b'x'; 512]));
    assert_eq!(files.disks.len(), 2);
}

#[test]
fn a_machine_without_a_kernel_is_not_started() {
    let mut bench = Bench::new();
    bench.config.kernel = None;

    assert_eq!(bench.refusal(), "there is no kernel to start; give one with --kernel FILE");
}

#[test]
fn amounts_are_refused_before_any_file_is_looked_at() {
    let bench = Bench::new().kernel("missing").memory("0");

    assert_eq!(bench.refusal(), "a machine has memory, and none was asked for");
}

#[test]
fn a_kernel_that_is_not_there_is_missed_by_name() {
    assert_eq!(Bench::new().kernel("missing").refusal(), "the kernel missing does not exist");
}

#[test]
fn a_relative_name_is_told_with_the_directory_it_was_looked_up_in() {
    let mut bench = Bench::new();
    bench.config.kernel = Some("ambit-is-not-here".into());

    let here = std::env::current_dir().unwrap();
    assert_eq!(
        bench.refusal(),
        format!("the kernel ambit-is-not-here does not exist\nits name is relative to {}", here.display())
    );
}

#[test]
fn a_kernel_that_is_no_regular_file_is_told_what_it_is() {
    let bench = Bench::new();
    fs::create_dir(bench.path("linux")).unwrap();

    assert_eq!(bench.kernel("linux").refusal(), "the kernel linux is a directory\ngive a regular file");
}

#[test]
fn an_empty_kernel_or_initrd_is_refused() {
    let bench = Bench::new();
    fs::write(bench.path("empty"), b"").unwrap();

    let bench = bench.kernel("empty");
    assert_eq!(bench.refusal(), "the kernel empty is empty");
    assert_eq!(bench.kernel("Image").initrd("empty").refusal(), "the initrd empty is empty");
}

#[test]
fn a_kernel_that_cannot_fit_is_not_read() {
    let bench = Bench::new();
    File::create(bench.path("huge")).unwrap().set_len(1 << 40).unwrap();

    assert_eq!(
        bench.kernel("huge").refusal(),
        "the kernel huge takes 1 TiB, and the guest has 512 MiB of memory\n\
         give the guest more memory, if this is the right file"
    );
}

#[test]
fn a_disk_that_is_not_there_is_missed_by_name_and_id() {
    assert_eq!(Bench::new().disk("missing,id=root").refusal(), "disk 'root' (missing) does not exist");
}

#[test]
fn a_disk_is_a_file_or_a_block_device_and_nothing_else() {
    let bench = Bench::new();
    let made = Command::new("mkfifo").arg(bench.path("pipe")).status().unwrap();
    assert!(made.success());
    fs::create_dir(bench.path("directory")).unwrap();
    symlink("/dev/null", bench.path("null")).unwrap();

    for (name, is) in [("pipe", "a pipe"), ("directory", "a directory"), ("null", "a character device")] {
        let mut config = bench.config.clone();
        config.disks = vec![bench.path(name).display().to_string().parse().unwrap()];
        let error = open(&settle(config, &[&TOY], None).unwrap()).unwrap_err();

        assert!(error.to_string().ends_with(&format!("{name}) is {is}")), "{error}");
        assert_eq!(error.remedies(), ["give a raw image or a block device"]);
    }
}

#[test]
fn a_disk_of_no_length_is_refused() {
    let bench = Bench::new();
    fs::write(bench.path("empty"), b"").unwrap();

    assert_eq!(
        bench.disk("empty").refusal(),
        "disk 'disk0' (empty) is empty\nmake it as large as the disk shall be: truncate -s 1G empty"
    );
}

#[test]
fn a_disk_of_odd_length_is_told_how_to_be_even() {
    let bench = Bench::new();
    fs::write(bench.path("odd"), [0; 1025]).unwrap();
    fs::write(bench.path("tiny"), [0; 3]).unwrap();

    let bench = bench.disk("odd");
    assert_eq!(
        bench.refusal(),
        "disk 'disk0' (odd) is 1025 bytes long, which is not a multiple of 512\n\
         fill it up with zeros: truncate -s 1536 odd\n\
         cut its end off: truncate -s 1024 odd"
    );

    let mut bench = bench;
    bench.config.disks.clear();
    assert_eq!(
        bench.disk("tiny").refusal(),
        "disk 'disk0' (tiny) is 3 bytes long, which is not a multiple of 512\n\
         fill it up with zeros: truncate -s 512 tiny"
    );
}

#[test]
fn one_file_is_not_two_disks_that_write_whatever_it_is_called() {
    let bench = Bench::new();
    symlink("a.img", bench.path("symbolic")).unwrap();
    fs::hard_link(bench.path("a.img"), bench.path("hard")).unwrap();

    let help = "\ngive each its own copy\nadd readonly=on to both";
    let mut bench = bench.disk("a.img");
    for other in ["a.img", "symbolic", "hard"] {
        bench = bench.disk(other);
        assert_eq!(
            bench.refusal(),
            format!(
                "disk 'disk0' (a.img) and disk 'disk1' ({other}) are the same file, and both may write it{help}"
            )
        );
        bench.config.disks.pop();
    }

    assert_eq!(
        bench.disk("hard,readonly=on").refusal(),
        format!(
            "disk 'disk0' (a.img) and disk 'disk1' (hard) are the same file, and one of them may write it{help}"
        )
    );
}

#[test]
fn one_file_can_be_two_disks_that_only_read() {
    let bench = Bench::new().disk("a.img,readonly=on").disk("a.img,readonly=on");

    assert!(bench.open().is_ok());
}

#[test]
fn a_disk_that_another_monitor_may_write_is_refused() {
    let writer = Bench::new().disk("a.img");
    let _running = writer.open().unwrap();

    assert_eq!(
        writer.refusal(),
        "disk 'disk0' (a.img) is in use by another program, probably another monitor\n\
         stop that one; lslocks names it\n\
         add readonly=on to both, if neither guest need write it\n\
         add lock=off, if both guests know how to share it"
    );
    let mut reader = writer;
    reader.config.disks.clear();
    assert_eq!(
        reader.disk("a.img,readonly=on").refusal(),
        "disk 'disk0' (a.img) is in use by another program, probably another monitor\n\
         stop that one; lslocks names it\n\
         add lock=off, if both guests know how to share it"
    );
}

// F-09
#[test]
fn a_disk_that_is_not_locked_is_had_beside_another_monitor_and_keeps_none_away() {
    let mut bench = Bench::new().disk("a.img");
    let locking = bench.open().unwrap();
    bench.config.disks.clear();
    bench = bench.disk("a.img,lock=off");

    let sharing = bench.open();

    assert!(sharing.is_ok());
    drop(locking);
    bench.config.disks.clear();
    assert!(bench.disk("a.img").open().is_ok());
}

#[test]
fn two_monitors_may_read_one_disk() {
    let reader = Bench::new().disk("a.img,readonly=on");
    let _running = reader.open().unwrap();

    assert!(reader.open().is_ok());
}

#[test]
fn a_disk_is_free_again_when_its_monitor_has_ended() {
    let writer = Bench::new().disk("a.img");
    drop(writer.open().unwrap());

    assert!(writer.open().is_ok());
}
