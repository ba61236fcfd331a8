//! One machine, in words that both QEMU and the board `qemu-virt` take, and what Ambit makes of it.

use std::fmt;

use ambit_aarch64::qemu_virt;
use ambit_device_manager::{
    Board, HostFacts, MachineConfig, MemoryHotplug, Plan, Refusal, Width, WidthSource, plan,
};
use ambit_resources::{PaBits, parse_size};
use ambit_virtio::device::Interface;
use ambit_virtio::mmio;

/// A processor, by its physical address bits: QEMU's models decide which there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    Bits40,
    Bits44,
    Bits48,
    Bits52,
}

/// Sizes and options are as both sides take them.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub cpu: Cpu,
    pub options: &'static str,
    pub memory: &'static str,
    /// Slots for memory to be plugged, and the most there may come to be.
    pub hotplug: Option<(u32, &'static str)>,
    pub cpus: u32,
    pub its: bool,
}

/// One vCPU, 40 bits, an ITS.
pub const fn machine(memory: &'static str) -> Machine {
    Machine { cpu: Cpu::Bits40, options: "", memory, hotplug: None, cpus: 1, its: true }
}

impl Machine {
    pub const fn on(self, cpu: Cpu) -> Self {
        Self { cpu, ..self }
    }

    pub const fn options(self, options: &'static str) -> Self {
        Self { options, ..self }
    }

    pub const fn hotplug(self, slots: u32, most: &'static str) -> Self {
        Self { hotplug: Some((slots, most)), ..self }
    }

    pub const fn cpus(self, cpus: u32) -> Self {
        Self { cpus, ..self }
    }

    pub const fn without_its(self) -> Self {
        Self { its: false, ..self }
    }

    /// As QEMU's option `-m`.
    pub fn qemu_memory(&self) -> String {
        match self.hotplug {
            None => self.memory.to_owned(),
            Some((slots, most)) => format!("{},slots={slots},maxmem={most}", self.memory),
        }
    }

    fn board(&self) -> Box<dyn Board> {
        let options = self.options.split_terminator(',').map(|option| {
            let (key, value) = option.split_once('=').expect("an option has a value");
            (key.to_owned(), value.to_owned())
        });
        qemu_virt().with_options(&options.collect::<Vec<_>>()).unwrap()
    }

    /// Ambit's machine, with a device in each of the 32 windows that QEMU always has.
    pub fn plan(&self) -> Result<Plan, Refusal> {
        let size = |text: &str| parse_size(text).unwrap();
        let config = MachineConfig {
            cpus: self.cpus,
            memory: size(self.memory),
            hotplug: self.hotplug.map(|(slots, most)| MemoryHotplug { max_memory: size(most), slots }),
            devices: (0..32)
                .map(|disk| mmio::request(&format!("disk{disk}"), "virtio-blk", Interface::Modern))
                .collect(),
            ..MachineConfig::default()
        };
        let bits = PaBits::new(self.cpu.bits()).expect("40 to 52 are within 32 to 52");
        let width = Width { bits, source: WidthSource::Host };
        plan(&*self.board(), &config, &HostFacts { width, its: self.its, ..HostFacts::assumed() })
    }

    /// What a guest on `plan` is told.
    pub fn tree(&self, plan: &Plan) -> Vec<u8> {
        self.board().tree(plan, "").unwrap().expect("an arm64 board has a device tree").blob
    }
}

impl Cpu {
    fn bits(self) -> u8 {
        match self {
            Self::Bits40 => 40,
            Self::Bits44 => 44,
            Self::Bits48 => 48,
            Self::Bits52 => 52,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = if self.options.is_empty() { "no options" } else { self.options };
        let its = if self.its { "" } else { ", no ITS" };
        let (bits, memory) = (self.cpu.bits(), self.qemu_memory());
        write!(f, "{bits} bits, -m {memory}, -smp {}, {options}{its}", self.cpus)
    }
}
