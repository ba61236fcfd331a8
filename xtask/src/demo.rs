//! `cargo xtask demo`: from a fresh machine to a Debian guest with a disk and a network.

use std::io::IsTerminal;
use std::time::Duration;

use crate::build;
use crate::emulator::Cpu;
use crate::failure::{Failure, Result};
use crate::job::Job;
use crate::progress::say;
use crate::venue::Venue;

pub const HELP: &str = "\
cargo xtask demo [--shell]

Builds ambit, finds KVM that runs a stock arm64 kernel (this machine's, or that of an arm64 host it emulates),
boots a Debian guest from an ext4 disk with a network, runs a few commands in it, shows the plan and how long each
phase took, and powers off.

  --shell   gives you the guest's console instead: poweroff -f ends it, or ctrl-a x
";

pub fn main(words: impl Iterator<Item = String>) -> Result<i32> {
    let mut shell = false;
    for word in words {
        match word.as_str() {
            "--shell" => shell = true,
            _ => return Err(Failure::new(format!("'{word}' is not an option of xtask demo\n\n{HELP}"))),
        }
    }
    if shell && !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(Failure::new("--shell wants a terminal on standard input and output; run it in one"));
    }
    let monitor = build::monitor(build::ARM64, build::CHECKED)?;
    let venue = Venue::find(&monitor)?;
    let job = Job {
        script: format!("interactive={}\n{}", if shell { "1" } else { "" }, include_str!("demo.sh")),
        files: vec![(monitor, "ambit".to_owned())],
        interactive: shell,
        silence: Duration::from_secs(150),
        limit: Duration::from_secs(900),
    };
    say(&format!("a Debian guest on {}", venue.kind(Cpu::Max)));
    venue.run(Cpu::Max, &job)
}
