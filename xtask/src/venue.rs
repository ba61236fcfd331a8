//! Where there is KVM that really runs a stock arm64 kernel: this machine, or an arm64 host emulated on it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use crate::build::Architecture;
use crate::command::command;
use crate::emulator::{self, Cpu};
use crate::failure::{About, Failure, Result};
use crate::image::Images;
use crate::job::{Job, follow, surroundings};
use crate::places::RunDirectory;
use crate::progress::{say, step};
use crate::tools;

/// How long a guest may take to its init where KVM is the hardware's.
const TRIAL: Duration = Duration::from_secs(30);

pub enum Venue {
    Native(Images),
    Emulated(Images),
}

impl Venue {
    /// Decides by what ran, not by whether there is a device node: some KVM there is cannot run Linux.
    pub fn find(monitor: &Path) -> Result<Self> {
        if Architecture::here() != Some(Architecture::Arm64) {
            say("this machine is not arm64: emulating a host that is, with real KVM in it");
            return Ok(Self::Emulated(Images::ready(Architecture::Arm64, true)?));
        }
        let images = Images::ready(Architecture::Arm64, false)?;
        match step("trying this machine's KVM with a guest", || trial(monitor, &images)) {
            Ok(()) => {
                say("this machine's KVM runs a stock arm64 kernel");
                Ok(Self::Native(images))
            }
            Err(error) => {
                say(&format!("not with this machine's KVM: {error}; emulating an arm64 host instead"));
                Ok(Self::Emulated(Images::ready(Architecture::Arm64, true)?))
            }
        }
    }

    /// The same with QEMU for arm64 where jobs run.
    pub fn with_qemu(self) -> Result<Self> {
        match self {
            Self::Native(images) => tools::need(tools::QEMU).map(|()| Self::Native(images)),
            Self::Emulated(images) => images.with_qemu().map(Self::Emulated),
        }
    }

    /// What kind of KVM a job with this processor model runs on.
    pub fn kind(&self, cpu: Cpu) -> String {
        match self {
            Self::Native(_) => "this machine's own KVM".to_owned(),
            Self::Emulated(_) => format!("real KVM of an emulated host, {cpu} ({} bits)", cpu.ipa_bits()),
        }
    }

    pub fn run(&self, cpu: Cpu, job: &Job) -> Result<i32> {
        match self {
            Self::Native(images) => run_here(images, job),
            Self::Emulated(images) => emulator::run(images, cpu, job),
        }
    }
}

fn trial(monitor: &Path, images: &Images) -> Result<()> {
    let mut child = command(monitor, ["run", "--cmdline", "console=ttyAMA0"])
        .arg("--kernel")
        .arg(images.kernel())
        .arg("--initrd")
        .arg(images.initrd())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .about("start", monitor)?;
    let output = child.stdout.take().expect("the output was asked for");
    let (found, ready) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output).lines().map_while(std::io::Result::ok);
        let _ = found.send(lines.any(|line| line.contains("AMBIT-GUEST-READY")));
    });
    let came = ready.recv_timeout(TRIAL);
    let _ = child.kill();
    let said = child.wait_with_output().map(|output| output.stderr).unwrap_or_default();
    match came {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(String::from_utf8_lossy(&said).trim().to_owned())),
        Err(_) => Err(Failure::new(format!("no guest came up within {} s", TRIAL.as_secs()))),
    }
}

fn run_here(images: &Images, job: &Job) -> Result<i32> {
    let directory = RunDirectory::new("native")?;
    let [payload, scratch] = ["payload", "scratch"].map(|name| directory.join(name));
    for path in [&payload, &scratch] {
        fs::create_dir(path).about("create", path)?;
    }
    for (from, name) in &job.files {
        let to = payload.join(name);
        let parent = to.parent().expect("a file has a directory");
        fs::create_dir_all(parent).about("create", parent)?;
        fs::copy(from, &to).about("copy", from)?;
    }
    let text = surroundings(&payload, &images.guest, &scratch) + &job.script;
    let mut bash = command("bash", ["-c", &text]);
    if job.interactive {
        let status = bash.stdin(Stdio::inherit()).status();
        return status.map(|status| status.code().unwrap_or(1)).about("run", Path::new("bash"));
    }
    let mut child = bash.stdout(Stdio::piped()).spawn().about("run", Path::new("bash"))?;
    follow(&mut child, job)?;
    let status = child.wait().about("wait for", Path::new("bash"))?;
    Ok(status.code().unwrap_or(1))
}
