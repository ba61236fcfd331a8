//! How long a start took, phase by phase, for `--timings`.

use std::time::Instant;

/// A moment worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Every address is decided.
    Plan,
    /// The virtual machine has its RAM, vCPUs and interrupt controller.
    Vm,
    /// The first vCPU enters the guest.
    FirstInstruction,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Vm => "vm",
            Self::FirstInstruction => "first-instruction",
        }
    }
}

/// Counts from when the program began to run.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    began: Instant,
    print: bool,
}

impl Timings {
    pub fn new(began: Instant, print: bool) -> Self {
        Self { began, print }
    }

    pub fn reached(&self, phase: Phase) {
        if self.print {
            let micros = self.began.elapsed().as_micros();
            // \r: the terminal may be raw already.
            eprint!("ambit: timing {} {}.{:03} ms\r\n", phase.name(), micros / 1000, micros % 1000);
        }
    }
}
