//! `cargo xtask host`: one command, or a shell, in the emulated host.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use crate::build;
use crate::command::joined;
use crate::emulator::{self, Cpu};
use crate::failure::{Failure, Result};
use crate::image::Images;
use crate::job::Job;
use crate::progress::say;

pub const HELP: &str = "\
cargo xtask host [--cpu MODEL] [--profile P] [--no-build] [--file PATH]… [--limit SECONDS] [-- COMMAND…]

Boots the emulated host, runs COMMAND in it as root with bash, and exits with its status. One word is a
whole shell line; several words are one command and its arguments. Without COMMAND, in a terminal: a shell.

  --cpu MODEL      cortex-a53 (40 bits of guest physical addresses), cortex-a72 (44), max (48, the default), or
                   gicv2 (40, with the older interrupt controller); or amd, an x86_64 host (48)
  --profile P      how ambit is built: checked (the default), release or dev
  --no-build       do not build ambit; /ambit/ambit is then missing
  --file PATH      put a file of this machine at /run/payload/NAME; may be repeated
  --limit SECONDS  stop the host after so long; 1800 unless given

In there: /ambit/ambit (built from this checkout), /ambit/{Image,Image.gz,initrd.gz,root.ext4} (a Debian guest,
read-only), the working directory /scratch (empty, writable, 6 GiB), /dev/kvm, tun, ip, ping, strace, busybox.

  cargo xtask host -- ambit probe
  cargo xtask host -- 'dmesg | grep -i kvm'
  cargo xtask host -- ambit run --kernel /ambit/Image --initrd /ambit/initrd.gz --cmdline console=ttyAMA0
  cargo xtask host --cpu cortex-a53 -- 'cp --sparse=always /ambit/root.ext4 d && echo poweroff -f | timeout 60 \\
    ambit run --kernel /ambit/Image --initrd /ambit/initrd.gz --disk path=d --cmdline \"console=ttyAMA0 root=/dev/vda rw\"'
";

struct Arguments {
    cpu: Cpu,
    profile: String,
    build: bool,
    files: Vec<PathBuf>,
    limit: Duration,
    command: Vec<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments = Arguments {
        cpu: Cpu::Max,
        profile: build::CHECKED.to_owned(),
        build: true,
        files: Vec::new(),
        limit: Duration::from_secs(1800),
        command: Vec::new(),
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Failure::new(format!("{word} wants a value")));
        match word.as_str() {
            "--cpu" => arguments.cpu = value()?.parse()?,
            "--profile" => arguments.profile = value()?,
            "--file" => arguments.files.push(value()?.into()),
            "--limit" => {
                let seconds = value()?;
                let seconds = seconds
                    .parse()
                    .map_err(|_| Failure::new(format!("--limit wants whole seconds, not '{seconds}'")))?;
                arguments.limit = Duration::from_secs(seconds);
            }
            "--no-build" => arguments.build = false,
            "--" => {
                arguments.command = words.collect();
                break;
            }
            _ => {
                return Err(Failure::new(format!(
                    "'{word}' is not an option of xtask host; the command comes after --\n\n{HELP}"
                )));
            }
        }
    }
    Ok(arguments)
}

pub fn main(words: impl Iterator<Item = String>) -> Result<i32> {
    let arguments = parse(words)?;
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let line = match arguments.command.as_slice() {
        [] if interactive => "bash --norc".to_owned(),
        [] => return Err(Failure::new(format!("no command, and no terminal for a shell\n\n{HELP}"))),
        [line] => line.clone(),
        words => joined(words),
    };
    let mut files: Vec<_> = Vec::new();
    for file in &arguments.files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        files.push((file.clone(), name.into_owned()));
    }
    if arguments.build {
        files.push((
            build::monitor(arguments.cpu.architecture().target(), &arguments.profile)?,
            "ambit".to_owned(),
        ));
    }
    let images = Images::ready(arguments.cpu.architecture(), true)?;
    let job = Job {
        script: format!("{line}\n"),
        files,
        interactive,
        silence: arguments.limit,
        limit: arguments.limit,
    };
    let cpu = arguments.cpu;
    say(&format!("emulated host, {cpu} ({} bits): {line}", cpu.ipa_bits()));
    emulator::run(&images, cpu, &job)
}
