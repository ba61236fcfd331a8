//! The emulated arm64 host: QEMU emulates a machine with EL2, so the Linux in it has real KVM.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::command::{Run, command, last_lines};
use crate::failure::{About, Failure, Result};
use crate::image::{self, Images};
use crate::places::RunDirectory;
use crate::tools;

/// A processor model. It decides how wide the guest physical addresses are that KVM can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    CortexA53,
    CortexA72,
    Max,
}

impl Cpu {
    pub const ALL: [Self; 3] = [Self::CortexA53, Self::CortexA72, Self::Max];

    pub fn name(self) -> &'static str {
        match self {
            Self::CortexA53 => "cortex-a53",
            Self::CortexA72 => "cortex-a72",
            Self::Max => "max",
        }
    }

    pub fn ipa_bits(self) -> u32 {
        match self {
            Self::CortexA53 => 40,
            Self::CortexA72 => 44,
            Self::Max => 48,
        }
    }

    /// As QEMU takes it.
    fn argument(self) -> &'static str {
        match self {
            // The architected pointer authentication is slow to emulate, and so is saving SVE registers.
            Self::Max => "max,pauth-impdef=on,sve=off,sme=off",
            other => other.name(),
        }
    }
}

impl FromStr for Cpu {
    type Err = Failure;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|cpu| cpu.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Failure::new(format!(
                "'{name}' is not a processor model of the emulated host; take one of {known}"
            ))
        })
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One command for one life of the emulated host.
pub struct Job {
    pub cpu: Cpu,
    /// A bash script. `/ambit` has the guest's images and the monitor, the working directory is writable.
    pub script: String,
    /// Files for `/run/payload`, each with its name there.
    pub files: Vec<(PathBuf, String)>,
    /// The terminal belongs to the command.
    pub interactive: bool,
    /// How long the command may say nothing, and how long it may take.
    pub silence: Duration,
    pub limit: Duration,
}

const MEMORY: &str = "4G";
const PROCESSORS: &str = "2";
const REPORT_SIZE: u64 = 64 << 20;

/// Boots the host, runs the job with its output on ours, and gives back its exit status.
pub fn run(images: &Images, job: &Job) -> Result<i32> {
    tools::need(tools::EMULATOR)?;
    let host_root = images.host_root.as_deref().expect("the images were made for an emulated host");
    let directory = RunDirectory::new("host")?;
    let disks = [
        ("root", host_root.to_owned(), true),
        ("payload", payload(&directory, job)?, true),
        ("scratch", scratch(&directory)?, false),
        ("report", report(&directory)?, false),
    ];
    let boot_log = directory.join("boot.log");
    let mut machine = qemu(images, job, &disks, &boot_log);

    let terminal = job.interactive.then(Terminal::remember).flatten();
    let ended = if job.interactive {
        machine.stdin(Stdio::inherit());
        start(&mut machine)?.wait().map(|_| Ok(())).unwrap_or_else(|_| Ok(()))
    } else {
        machine.stdout(Stdio::piped());
        follow(start(&mut machine)?, job)
    };
    drop(terminal);

    let boot_log = fs::read_to_string(&boot_log).unwrap_or_default();
    let about_boot = |what: &str| {
        Failure::new(format!(
            "{what}; the last lines of its kernel's console:\n{}",
            last_lines(boot_log.trim_end(), 40)
        ))
    };
    if let Err(error) = ended {
        return Err(about_boot(&error.to_string()));
    }
    status(&directory)
        .ok_or_else(|| about_boot("the emulated host went down before the command had an exit status"))
}

fn payload(directory: &RunDirectory, job: &Job) -> Result<PathBuf> {
    let tree = directory.join("payload");
    fs::create_dir(&tree).about("create", &tree)?;
    let script = tree.join("run");
    fs::write(&script, &job.script).about("write", &script)?;
    if job.interactive {
        let mark = tree.join("interactive");
        fs::write(&mark, "").about("write", &mark)?;
    }
    let mut bytes = 0;
    for (from, name) in &job.files {
        let to = tree.join(name);
        let parent = to.parent().expect("a file has a directory");
        fs::create_dir_all(parent).about("create", parent)?;
        bytes += fs::copy(from, &to).about("copy to the emulated host", from)?;
    }
    let image = directory.join("payload.ext4");
    let mebibytes = 16 + (bytes >> 20) * 5 / 4;
    image::file_system(&tree, &format!("{mebibytes}M"), &image)?;
    Ok(image)
}

fn scratch(directory: &RunDirectory) -> Result<PathBuf> {
    let tree = directory.join("empty");
    fs::create_dir(&tree).about("create", &tree)?;
    let image = directory.join("scratch.ext4");
    image::file_system(&tree, "6G", &image)?;
    Ok(image)
}

fn report(directory: &RunDirectory) -> Result<PathBuf> {
    let image = directory.join("report");
    let file = fs::File::create(&image).about("create", &image)?;
    file.set_len(REPORT_SIZE).about("size", &image)?;
    Ok(image)
}

fn status(directory: &RunDirectory) -> Option<i32> {
    let report = directory.join("report");
    let extract = [Path::new("-xOf"), &report, Path::new("./status")];
    tools::tool("tar", extract).capture().ok()?.trim().parse().ok()
}

fn qemu(images: &Images, job: &Job, disks: &[(&str, PathBuf, bool)], boot_log: &Path) -> Command {
    // The machine goes when we go, however that happens.
    let mut qemu = command("setpriv", ["--pdeathsig", "KILL", "qemu-system-aarch64"]);
    qemu.args(["-M", "virt,virtualization=on,gic-version=3,its=on", "-cpu", job.cpu.argument()])
        .args(["-accel", "tcg,thread=multi", "-smp", PROCESSORS, "-m", MEMORY])
        .args(["-no-reboot", "-nodefaults", "-display", "none", "-monitor", "none"])
        .arg("-kernel")
        .arg(images.kernel())
        .arg("-initrd")
        .arg(images.initrd());
    let mut line = "console=ttyAMA0 quiet panic=-1 root=/dev/vda ro".to_owned();
    if job.interactive
        && let Ok(term) = std::env::var("TERM")
    {
        line.push_str(&format!(" TERM={term}"));
    }
    qemu.args(["-append", &line])
        .arg("-serial")
        .arg(format!("file:{}", boot_log.display()))
        // The second console: what the command says, and nothing else. Keys such as ctrl-c and ctrl-a are not QEMU's.
        .args(["-chardev", "stdio,id=command,signal=off,mux=off"])
        .args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=command"])
        .args(["-device", "virtio-rng-pci"]);
    for (serial, file, readonly) in disks {
        let readonly = if *readonly { "on" } else { "off" };
        // What is on these disks is not worth a flush: after a power cut everything is made again.
        qemu.arg("-drive")
            .arg(format!(
                "if=none,id={serial},format=raw,cache=unsafe,readonly={readonly},file={}",
                file.display()
            ))
            .args(["-device", &format!("virtio-blk-pci,drive={serial},serial={serial}")]);
    }
    qemu
}

fn start(machine: &mut Command) -> Result<Child> {
    machine.spawn().map_err(|error| Failure::new(format!("cannot start qemu-system-aarch64: {error}")))
}

/// Passes the output on as it comes, until the end or a limit.
fn follow(mut machine: Child, job: &Job) -> Result<()> {
    let begun = Instant::now();
    let heard = Arc::new(Mutex::new(begun));
    let mut output = machine.stdout.take().expect("the output was asked for");
    let reader = {
        let heard = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                *heard.lock().unwrap() = Instant::now();
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(&bytes[..count]).and_then(|()| out.flush());
            }
        })
    };
    let ended = loop {
        let quiet = heard.lock().unwrap().elapsed();
        if machine.try_wait().is_ok_and(|status| status.is_some()) {
            break Ok(());
        }
        let excess = if quiet > job.silence {
            format!("said nothing for {} s", quiet.as_secs())
        } else if begun.elapsed() > job.limit {
            format!("was not done after {} s", job.limit.as_secs())
        } else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let _ = machine.kill();
        let _ = machine.wait();
        break Err(Failure::new(format!("the command in the emulated host {excess} and was stopped")));
    };
    let _ = reader.join();
    ended
}

/// The settings of the terminal, put back when dropped: QEMU does so itself unless it is killed.
struct Terminal(String);

impl Terminal {
    fn remember() -> Option<Self> {
        let settings = stty(["-g"]).ok()?;
        Some(Self(settings.trim().to_owned()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = stty([self.0.as_str()]);
    }
}

fn stty<const N: usize>(arguments: [&str; N]) -> Result<String> {
    command("stty", arguments).stdin(Stdio::inherit()).capture()
}

/// Columns and rows, for a shell that draws.
pub fn window() -> Option<(String, String)> {
    let size = stty(["size"]).ok()?;
    let (rows, columns) = size.trim().split_once(' ')?;
    Some((columns.to_owned(), rows.to_owned()))
}
