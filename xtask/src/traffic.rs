//! `cargo xtask bench --guest`: a guest's disks and network, beside those of QEMU on the same KVM.

use std::time::Duration;

use crate::bench::{RELEASE, machine, measuring};
use crate::build::{self, ARM64};
use crate::command::joined;
use crate::emulator::Cpu;
use crate::failure::Result;
use crate::job::Job;
use crate::progress::say;
use crate::venue::Venue;

/// Everything, or only what has one of the words in its name.
pub fn main(only: &[&str]) -> Result<i32> {
    let monitor = build::monitor(ARM64, RELEASE)?;
    let traffic = measuring("ambit-traffic-bench", ARM64, RELEASE)?;
    let load = measuring("ambit-load", ARM64, RELEASE)?;
    let venue = Venue::find(&monitor)?.with_qemu()?;
    let cpu = Cpu::Max;
    let mut arguments = vec![machine()?, format!("KVM: {}", venue.kind(cpu))];
    arguments.extend(only.iter().flat_map(|word| ["--only".to_owned(), (*word).to_owned()]));
    let job = Job {
        script: format!(
            "set -- {}\nbench=ambit-traffic-bench\n{}",
            joined(&arguments),
            include_str!("bench.sh")
        ),
        files: vec![
            (monitor, "ambit".to_owned()),
            (traffic, "ambit-traffic-bench".to_owned()),
            (load, "ambit-load".to_owned()),
        ],
        interactive: false,
        silence: Duration::from_secs(10 * 60),
        limit: Duration::from_secs(60 * 60),
    };
    say(&format!("measuring a guest's disks and network on {}", venue.kind(cpu)));
    venue.run(cpu, &job)
}
