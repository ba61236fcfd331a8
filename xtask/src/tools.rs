//! The programs and Rust targets of this machine that everything else needs, installed when they are missing.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::command::{Run, command};
use crate::failure::{Failure, Result};
use crate::places::{self, CacheLock};
use crate::progress::{say, step};

/// A program, and the Debian package that brings it.
pub type Tool = (&'static str, &'static str);

/// What making images takes.
pub const IMAGES: &[Tool] = &[
    ("dpkg", "dpkg"),
    ("depmod", "kmod"),
    ("gzip", "gzip"),
    ("mke2fs", "e2fsprogs"),
    ("tar", "tar"),
    ("sha256sum", "coreutils"),
];

/// What the board `qemu-virt` is compared with, and how fast its guests are.
pub const QEMU: &[Tool] = &[("qemu-system-aarch64", "qemu-system-arm")];

/// What the start of a PC is compared with.
pub const QEMU_X86_64: &[Tool] = &[("qemu-system-x86_64", "qemu-system-x86")];

/// What ACPI tables are held against.
pub const ACPI: &[Tool] = &[("iasl", "acpica-tools")];

/// What the emulated host takes besides its QEMU.
pub const EMULATOR: &[Tool] = &[("setpriv", "util-linux")];

/// What counts instructions.
pub const COUNTING: &[Tool] = &[("valgrind", "valgrind"), ("setarch", "util-linux")];

pub fn need(tools: &[Tool]) -> Result<()> {
    let mut packages: Vec<&str> =
        tools.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    packages.dedup();
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        return Err(Failure::new(format!(
            "this host lacks programs that Debian has in the packages {list}, and there is no apt-get to install them; \
             install what brings {}",
            missing(tools).join(", ")
        )));
    }
    install(&packages).map_err(|error| {
        Failure::new(format!("{error}\nnothing else can go on before: apt-get install {list}"))
    })?;
    match missing(tools).as_slice() {
        [] => Ok(()),
        still => Err(Failure::new(format!(
            "{list} were installed, but {} cannot be found in PATH, /usr/sbin or /sbin",
            still.join(", ")
        ))),
    }
}

fn missing(tools: &[Tool]) -> Vec<&'static str> {
    let programs = tools.iter().map(|(program, _)| *program);
    programs.filter(|program| find(program).is_none()).collect()
}

/// Looks where root would look too: mke2fs and depmod are not in everybody's PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Runs a tool from wherever `find` sees it.
pub fn tool<S: AsRef<std::ffi::OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> std::process::Command {
    command(find(program).unwrap_or_else(|| program.into()), arguments)
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    // A package list that was never fetched, or is old, makes the first try fail.
    let install = ["install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"];
    step(&format!("installing {list}"), || {
        let with = |arguments: &[&str]| as_root("apt-get", arguments)?.capture();
        let wanted: Vec<&str> = install.iter().chain(packages).copied().collect();
        if with(&wanted).is_ok() {
            return Ok(());
        }
        say("fetching this machine's package lists first");
        with(&["update", "-o", "DPkg::Lock::Timeout=600"])?;
        with(&wanted).map(drop)
    })
}

pub fn is_root() -> bool {
    command("id", ["-u"]).capture().is_ok_and(|id| id.trim() == "0")
}

fn as_root(program: &str, arguments: &[&str]) -> Result<std::process::Command> {
    let mut words = Vec::new();
    if !is_root() {
        if find("sudo").is_none() {
            return Err(Failure::new(format!(
                "'{program} {}' must run as root and there is no sudo; run it as root yourself, then try again",
                arguments.join(" ")
            )));
        }
        words.push("sudo");
        if !std::io::stdin().is_terminal() {
            words.push("--non-interactive");
        }
    }
    words.extend(["env", "DEBIAN_FRONTEND=noninteractive", program]);
    words.extend(arguments);
    Ok(command(words[0], &words[1..]))
}

/// The machine's program of this crate, or one of our own of this version.
pub fn crate_program(name: &str, version: &str) -> Result<PathBuf> {
    if let Some(installed) = find(name) {
        return Ok(installed);
    }
    let root = places::cache().join("tools");
    let ours = root.join("bin").join(name);
    let _lock = CacheLock::take()?;
    if ours.exists() {
        return Ok(ours);
    }
    // Not optimised: it runs for a second, and compiling is what takes time.
    let mut install = command("cargo", ["install", "--locked", "--quiet", "--version", version]);
    install.args(["--profile", "dev", "--config", "profile.dev.debug=false", name, "--root"]).arg(&root);
    install.env("CARGO_TARGET_DIR", root.join("build")).current_dir(places::checkout());
    step(&format!("building {name}, once: a minute or two"), || install.capture())?;
    let _ = std::fs::remove_dir_all(root.join("build"));
    Ok(ours)
}

/// Adds a Rust target to the pinned toolchain.
pub fn need_target(target: &str) -> Result<()> {
    let sysroot = command("rustc", ["--print", "sysroot"]).capture()?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib");
    if library.is_dir() {
        return Ok(());
    }
    step(&format!("adding the Rust target {target}"), || {
        command("rustup", ["target", "add", target]).capture().map(drop).map_err(|error| {
            Failure::new(format!(
                "the Rust standard library for {target} is missing, and rustup cannot add it to the toolchain in {}:\n\
                 {error}\nput the library at {} by other means and try again",
                sysroot.trim(),
                library.display()
            ))
        })
    })
}
