//! The emulated host: QEMU emulates a machine with EL2, or an AMD one with SVM, so the Linux in it has real KVM.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use crate::build::Architecture;
use crate::command::{Run, command, last_lines};
use crate::failure::{About, Failure, Result};
use crate::image::{self, Images};
use crate::job::{Job, follow, surroundings};
use crate::places::RunDirectory;
use crate::progress::say;
use crate::terminal;
use crate::tools;

/// A processor model. It decides how wide the guest physical addresses are that KVM can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    CortexA53,
    CortexA72,
    Max,
    /// Not a processor: the host's interrupt controller is the older one, and so is what its KVM has.
    Gicv2,
    /// An x86_64 processor, and all else is of that architecture too.
    Amd,
}

impl Cpu {
    pub const ALL: [Self; 5] = [Self::CortexA53, Self::CortexA72, Self::Max, Self::Gicv2, Self::Amd];

    pub fn architecture(self) -> Architecture {
        match self {
            Self::CortexA53 | Self::CortexA72 | Self::Max | Self::Gicv2 => Architecture::Arm64,
            Self::Amd => Architecture::X86_64,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::CortexA53 => "cortex-a53",
            Self::CortexA72 => "cortex-a72",
            Self::Max => "max",
            Self::Gicv2 => "gicv2",
            Self::Amd => "amd",
        }
    }

    pub fn ipa_bits(self) -> u32 {
        match self {
            Self::CortexA53 | Self::Gicv2 => 40,
            Self::CortexA72 => 44,
            Self::Max | Self::Amd => 48,
        }
    }

    /// As QEMU takes it.
    fn argument(self) -> &'static str {
        match self {
            // The architected pointer authentication is slow to emulate, and so is saving SVE registers.
            Self::Max => "max,pauth-impdef=on,sve=off,sme=off",
            Self::CortexA53 | Self::Gicv2 => "cortex-a53",
            Self::CortexA72 => "cortex-a72",
            // Without what the model has and QEMU cannot emulate, which it would say of each; and without XSAVE, as it
            // does not stop a guest at XSETBV, whose kernel then finds that CPUID knows nothing of it.
            Self::Amd => {
                "EPYC-v1,+svm,phys-bits=48,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,\
                 -nrip-save,-xsavec,-xsave,-xsaveopt,-avx,-avx2,-f16c,-fma"
            }
        }
    }

    /// How many processors it has. Two with SVM, as QEMU 7.2 emulates them, wait for each other for ever now and then.
    fn processors(self) -> &'static str {
        match self {
            Self::Amd => "1",
            _ => "2",
        }
    }

    /// The rest of the machine, as QEMU takes it.
    fn machine(self) -> &'static str {
        match self {
            Self::Gicv2 => "virt,virtualization=on,gic-version=2",
            Self::Amd => "q35",
            _ => "virt,virtualization=on,gic-version=3,its=on",
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

impl Architecture {
    fn emulator(self) -> &'static str {
        match self {
            Self::Arm64 => "qemu-system-aarch64",
            Self::X86_64 => "qemu-system-x86_64",
        }
    }

    fn tools(self) -> &'static [tools::Tool] {
        match self {
            Self::Arm64 => tools::QEMU,
            Self::X86_64 => tools::QEMU_X86_64,
        }
    }

    /// What the host's kernel is told besides. Nothing is protected from an emulated processor's speculation. As
    /// QEMU emulates SVM, nested page tables end the host's kernel in page faults (7.2) or shut a guest down (10.0), so
    /// KVM is to shadow them, which works with 7.2. It was seen to stand still without anything to do, as where a timer's
    /// interrupt is lost, so there always is a next one: a tick.
    fn kernel_words(self) -> &'static str {
        match self {
            Self::Arm64 => "console=ttyAMA0",
            Self::X86_64 => "console=ttyS0 mitigations=off kvm_amd.npt=0 nohz=off highres=off",
        }
    }
}

const MEMORY: &str = "4G";
const REPORT_SIZE: u64 = 64 << 20;

/// Boots the host, runs the job with its output on ours, and gives back its exit status.
pub fn run(images: &Images, cpu: Cpu, job: &Job) -> Result<i32> {
    tools::need(tools::EMULATOR)?;
    let host_root = images.host_root.as_deref().expect("the images were made for an emulated host");
    let directory = RunDirectory::new("host")?;
    let disks = [
        ("root", host_root.to_owned(), true),
        ("payload", payload(&directory, cpu, job)?, true),
        ("scratch", scratch(&directory)?, false),
        ("report", report(&directory)?, false),
    ];
    let boot_log = directory.join("boot.log");
    let mut machine = qemu(images, cpu, job, &disks, &boot_log)?;

    let ended = if job.interactive {
        let _terminal = terminal::Remembered::now();
        let waited = start(cpu, machine.stdin(Stdio::inherit()))?.wait();
        waited.map(drop).map_err(|error| Failure::new(format!("cannot wait for QEMU: {error}")))
    } else {
        follow(&mut start(cpu, machine.stdout(Stdio::piped()))?, job)
    };
    ended
        .and_then(|()| {
            status(&directory)
                .ok_or_else(|| Failure::new("it went down before the command had an exit status"))
        })
        .map_err(|error| {
            let log = fs::read_to_string(&boot_log).unwrap_or_default();
            let log = last_lines(log.trim_end(), 40);
            let log = if log.is_empty() { "nothing".to_owned() } else { format!("\n{log}") };
            Failure::new(format!("emulated host, {cpu}: {error}; its kernel's console said: {log}"))
        })
}

fn payload(directory: &RunDirectory, cpu: Cpu, job: &Job) -> Result<PathBuf> {
    let tree = directory.join("payload");
    fs::create_dir(&tree).about("create", &tree)?;
    let script = tree.join("run");
    fs::write(&script, preamble(cpu, job) + &job.script).about("write", &script)?;
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

fn preamble(cpu: Cpu, job: &Job) -> String {
    // Where the emulated host's init puts them.
    let [payload, images, scratch] = ["/run/payload", "/ambit", "/scratch"].map(Path::new);
    let mut text = surroundings(payload, images, scratch);
    if cpu == Cpu::Amd {
        text.push_str("modprobe kvm_amd\n");
    }
    if job.interactive {
        text.push_str("export PS1='host# '\n");
        if let Some((columns, rows)) = terminal::window() {
            text.push_str(&format!("stty cols {columns} rows {rows}\n"));
        }
    }
    text
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

/// Debian's newest QEMU for arm64 where it can be had, else this machine's; for x86_64 this machine's.
fn emulator(architecture: Architecture) -> Result<Command> {
    // The machine goes when we go, however that happens.
    let mut emulator = command("setpriv", ["--pdeathsig", "KILL"]);
    // Of the other architecture, the newest has not booted a guest in three minutes where KVM shadows its page tables.
    if let (Architecture::Arm64, Some(here)) = (architecture, Architecture::here()) {
        match image::emulator(here) {
            Ok(tree) => {
                let usr = tree.join("usr");
                let libraries = usr.join("lib").join(here.libraries());
                // It is of another Debian than this machine's, perhaps, and so has its own loader and C library.
                emulator.arg(libraries.join(here.loader())).arg("--library-path").arg(&libraries);
                emulator.arg(usr.join("bin").join(architecture.emulator()));
                emulator.arg("-L").arg(usr.join("share/qemu"));
                return Ok(emulator);
            }
            Err(error) => say(&format!(
                "{error}\nso this machine's own QEMU emulates the host; with 7.2 one guest in some thousands was lost"
            )),
        }
    }
    tools::need(architecture.tools())?;
    emulator.arg(architecture.emulator());
    Ok(emulator)
}

fn qemu(
    images: &Images,
    cpu: Cpu,
    job: &Job,
    disks: &[(&str, PathBuf, bool)],
    boot_log: &Path,
) -> Result<Command> {
    let mut qemu = emulator(cpu.architecture())?;
    qemu.args(["-M", cpu.machine(), "-cpu", cpu.argument()])
        .args(["-accel", "tcg,thread=multi", "-smp", cpu.processors(), "-m", MEMORY])
        .args(["-no-reboot", "-nodefaults", "-display", "none", "-monitor", "none"])
        .arg("-kernel")
        .arg(images.kernel())
        .arg("-initrd")
        .arg(images.initrd());
    let mut line = format!("{} quiet panic=-1 root=/dev/vda ro", cpu.architecture().kernel_words());
    if job.interactive
        && let Ok(term) = std::env::var("TERM")
    {
        line.push_str(&format!(" TERM={term}"));
    }
    qemu.args(["-append", &line])
        .arg("-serial")
        .arg(format!("file:{}", boot_log.display()))
        // What the command says, and nothing else. Keys such as ctrl-c and ctrl-a are not QEMU's; and without a person
        // there is no input at all, because at its end QEMU would close the output too.
        .arg("-chardev")
        .arg(if job.interactive {
            "stdio,id=command,signal=off,mux=off"
        } else {
            "file,id=command,path=/dev/stdout"
        })
        .args(["-device", "virtio-serial-pci", "-device"])
        .arg(if job.interactive {
            "virtconsole,chardev=command"
        } else {
            "virtserialport,chardev=command,name=command"
        })
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
    Ok(qemu)
}

fn start(cpu: Cpu, machine: &mut Command) -> Result<Child> {
    let name = cpu.architecture().emulator();
    machine.spawn().map_err(|error| Failure::new(format!("cannot start {name}: {error}")))
}
