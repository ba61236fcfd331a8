//! One machine, as each of the two monitors is told of it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use ambit_tests::{Scratch, Tap, ambit, place};

use crate::payload;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitor {
    Ambit,
    Qemu,
}

impl Monitor {
    pub const BOTH: [Self; 2] = [Self::Ambit, Self::Qemu];

    pub fn program(self) -> OsString {
        match self {
            Self::Ambit => place::monitor().into(),
            Self::Qemu => "qemu-system-aarch64".into(),
        }
    }

    /// Where the machine's PL011 is.
    fn uart(self) -> u64 {
        match self {
            Self::Ambit => uart_of_the_plan(),
            // QEMU, hw/arm/virt.c, VIRT_UART.
            Self::Qemu => 0x0900_0000,
        }
    }
}

fn uart_of_the_plan() -> u64 {
    let plan = ambit(["plan", "--format", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).expect("a plan is JSON");
    let regions = plan["regions"].as_array().expect("a plan has regions");
    let uart = regions.iter().find(|region| region["name"] == "uart0").expect("the board has a UART");
    let base = uart["base"].as_str().and_then(|base| base.strip_prefix("0x"));
    u64::from_str_radix(base.expect("an address is 0x and digits"), 16).expect("an address is hexadecimal")
}

/// Bytes of guest RAM.
pub const MEMORY: u64 = 512 << 20;

/// QEMU's side of the comparison; `its=on` because our board has an ITS too.
pub const QEMU_MACHINE: [&str; 12] = [
    "-M",
    "virt,gic-version=3,its=on",
    "-accel",
    "kvm",
    "-cpu",
    "host",
    "-nodefaults",
    "-display",
    "none",
    "-serial",
    "stdio",
    "-no-reboot",
];

#[derive(Clone)]
pub struct Machine {
    /// What Ambit boots and what QEMU boots: the same, but for a payload, which knows its board's UART.
    kernels: [PathBuf; 2],
    initrd: Option<PathBuf>,
    cmdline: String,
    /// A read-only disk and the tap of a NIC.
    devices: Option<(PathBuf, String)>,
}

impl Machine {
    /// The smallest kernel there can be, and no devices.
    pub fn bare(scratch: &Scratch) -> Self {
        let kernels = written(scratch, "small", payload::alone);
        Self { kernels, initrd: None, cmdline: String::new(), devices: None }
    }

    /// The Debian guest.
    pub fn full(scratch: &Scratch, tap: &Tap) -> Self {
        let kernel = place::image("Image");
        Self {
            kernels: [kernel.clone(), kernel],
            initrd: Some(place::image("initrd.gz")),
            cmdline: format!("console=ttyAMA0 root=/dev/vda ro panic=-1 quiet {}", tap.cmdline()),
            devices: Some((scratch.root_disk(), tap.name.clone())),
        }
    }

    /// The same with a payload for the kernel's first instructions, and the rest of the kernel as it is.
    pub fn with_payload(&self, scratch: &Scratch) -> Self {
        let kernel = place::image("Image");
        let kernel = std::fs::read(&kernel).unwrap_or_else(|error| panic!("{}: {error}", kernel.display()));
        Self { kernels: written(scratch, "large", |uart| payload::inside(&kernel, uart)), ..self.clone() }
    }

    pub fn command(&self, monitor: Monitor) -> Command {
        let mut command = Command::new(monitor.program());
        match monitor {
            Monitor::Ambit => self.for_ambit(&mut command),
            Monitor::Qemu => self.for_qemu(&mut command),
        }
        command
    }

    fn for_ambit(&self, command: &mut Command) {
        command.arg("run").arg("--kernel").arg(&self.kernels[0]);
        command.args(["--memory", &MEMORY.to_string(), "--cpus", "1", "--cmdline", &self.cmdline]);
        if let Some(initrd) = &self.initrd {
            command.arg("--initrd").arg(initrd);
        }
        if let Some((disk, tap)) = &self.devices {
            command.args(["--disk", &format!("path={},id=root,readonly=on", disk.display())]);
            command.args(["--net", &format!("tap={tap},id=net")]);
        }
    }

    fn for_qemu(&self, command: &mut Command) {
        command.args(QEMU_MACHINE).arg("-kernel").arg(&self.kernels[1]);
        let mebibytes = MEMORY >> 20;
        command.args(["-m", &format!("{mebibytes}M"), "-smp", "1", "-append", &self.cmdline]);
        if let Some(initrd) = &self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        if let Some((disk, tap)) = &self.devices {
            let disk = disk.display();
            command
                // Ours are modern too.
                .args(["-global", "virtio-mmio.force-legacy=false"])
                .args(["-drive", &format!("if=none,id=root,format=raw,readonly=on,file={disk}")])
                .args(["-device", "virtio-blk-device,drive=root"])
                .args(["-netdev", &format!("tap,id=net,ifname={tap},script=no,downscript=no")])
                .args(["-device", "virtio-net-device,netdev=net"]);
        }
    }
}

fn written(scratch: &Scratch, name: &str, made: impl Fn(u64) -> Vec<u8>) -> [PathBuf; 2] {
    Monitor::BOTH.map(|monitor| {
        let path = scratch.path(&format!("{name}-{monitor:?}"));
        std::fs::write(&path, made(monitor.uart())).expect("the scratch directory has room");
        path
    })
}
