//! Our own programs, built by cargo for the machine they will run on.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::command::{Run, command};
use crate::failure::{Failure, Result};
use crate::places;
use crate::progress::say;
use crate::tools;

pub const ARM64: &str = "aarch64-unknown-linux-musl";
pub const X86_64: &str = "x86_64-unknown-linux-musl";

/// What guests and their hosts are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    Arm64,
    X86_64,
}

impl Architecture {
    /// That of this machine, if it is one of these.
    pub fn here() -> Option<Self> {
        match std::env::consts::ARCH {
            "aarch64" => Some(Self::Arm64),
            "x86_64" => Some(Self::X86_64),
            _ => None,
        }
    }

    /// The file name of what starts programs that use its libraries.
    pub fn loader(self) -> &'static str {
        match self {
            Self::Arm64 => "ld-linux-aarch64.so.1",
            Self::X86_64 => "ld-linux-x86-64.so.2",
        }
    }

    /// What Debian calls it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::X86_64 => "amd64",
        }
    }

    /// Where its libraries are, below `/usr/lib`.
    pub fn libraries(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64-linux-gnu",
            Self::X86_64 => "x86_64-linux-gnu",
        }
    }

    /// Rust's name of it.
    pub fn target(self) -> &'static str {
        match self {
            Self::Arm64 => ARM64,
            Self::X86_64 => X86_64,
        }
    }
}

/// The profile of what runs under emulation: optimised, with its checks.
pub const CHECKED: &str = "checked";

/// The monitor, static.
pub fn monitor(target: &str, profile: &str) -> Result<PathBuf> {
    let cargo = ["build", "--package", "ambit-vmm", "--bin", "ambit"];
    let built = executables(&cargo, target, profile, "ambit")?;
    built
        .into_iter()
        .find(|path| path.ends_with("ambit"))
        .ok_or_else(|| Failure::new("cargo built ambit-vmm, but named no executable 'ambit'"))
}

/// What cargo makes of `subcommand`.
pub fn executables<S: AsRef<OsStr>>(
    subcommand: &[S],
    target: &str,
    profile: &str,
    what: &str,
) -> Result<Vec<PathBuf>> {
    tools::need_target(target)?;
    let architecture = if target == ARM64 { "arm64" } else { "x86_64" };
    say(&format!("building {what} for {architecture}, profile {profile}"));
    let mut cargo = command("cargo", subcommand);
    cargo
        .args(["--target", target, "--profile", profile])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(places::checkout());
    let messages = cargo.answer()?;
    Ok(messages.lines().filter_map(executable).map(PathBuf::from).collect())
}

/// The path in one message of cargo, if it tells of an executable.
fn executable(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(r#""executable":""#)?;
    rest.split_once('"').map(|(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_about_executables_have_a_path() {
        let library = r#"{"reason":"compiler-artifact","filenames":["a.rlib"],"executable":null}"#;
        let program = r#"{"reason":"compiler-artifact","executable":"/t/boot-1f","fresh":true}"#;

        assert_eq!([executable(library), executable(program)], [None, Some("/t/boot-1f")]);
    }
}
