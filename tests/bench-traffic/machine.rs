//! One guest with two disks and a network, as each of the two monitors is told of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use ambit_tests::{Guest, Scratch, Tap, guest::READY, place};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitor {
    Ambit,
    Qemu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Mmio,
    Pci,
}

impl Transport {
    pub const BOTH: [Self; 2] = [Self::Mmio, Self::Pci];

    pub fn name(self) -> &'static str {
        match self {
            Self::Mmio => "mmio",
            Self::Pci => "pci",
        }
    }
}

/// As ambit and QEMU call the same thing.
pub const ENGINES: [(&str, &str); 2] = [("sync", "threads"), ("io_uring", "io_uring")];

pub const MEMORY: &str = "256M";
/// Of each disk. What is measured is the monitor, so it all stays in the host's page cache.
const DISK: usize = 64 << 20;

/// QEMU's machine; `its=on` because our board has an ITS too.
pub const QEMU_MACHINE: &str = "-M virt,gic-version=3,its=on -accel kvm -cpu host -nodefaults -display none \
                                -serial stdio -no-reboot -name guest,debug-threads=on \
                                -global virtio-mmio.force-legacy=false";

/// A guest that is up, and its network.
pub struct Machine {
    pub guest: Guest,
    pub tap: Tap,
}

impl Machine {
    pub fn boot(monitor: Monitor, transport: Transport, scratch: &Scratch) -> Self {
        let tap = Tap::new();
        let disks = ENGINES.map(|(engine, _)| {
            let path = scratch.path(&format!("{monitor:?}-{}-{engine}", transport.name()));
            std::fs::write(&path, vec![1; DISK]).expect("the scratch directory has room");
            path
        });
        let mut command = match monitor {
            Monitor::Ambit => ambit(transport, &disks, &tap, &program(scratch)),
            Monitor::Qemu => qemu(transport, &disks, &tap, &program(scratch)),
        };
        let mut guest = Guest::of(&mut command);
        guest.wait_for(READY);
        guest.check(
            "for disk in /sys/block/vd*; do [ $(cat $disk/serial) = load ] && \
             dd if=/dev/${disk##*/} of=/tmp/load bs=64k; done; chmod +x /tmp/load",
        );
        Self { guest, tap }
    }
}

/// A disk whose content is the program that makes the load.
fn program(scratch: &Scratch) -> PathBuf {
    let path = scratch.path("load");
    let from = place::payload("ambit-load");
    let mut program = std::fs::read(&from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    program.resize(program.len().next_multiple_of(4096), 0);
    std::fs::write(&path, program).expect("the scratch directory has room");
    path
}

fn cmdline(tap: &Tap) -> String {
    format!("console=ttyAMA0 panic=-1 quiet {}", tap.cmdline())
}

fn ambit(transport: Transport, disks: &[PathBuf; 2], tap: &Tap, load: &Path) -> Command {
    let mut command = Command::new(place::monitor());
    let over = transport.name();
    command.arg("run").arg("--kernel").arg(place::image("Image"));
    command.arg("--initrd").arg(place::image("initrd.gz"));
    command.args(["--memory", MEMORY, "--cpus", "1", "--cmdline", &cmdline(tap)]);
    for (disk, (engine, _)) in disks.iter().zip(ENGINES) {
        let disk = format!("path={},id={engine},engine={engine},transport={over}", disk.display());
        command.args(["--disk", &disk]);
    }
    command.args(["--disk", &format!("path={},id=load,readonly=on,transport={over}", load.display())]);
    command.args(["--net", &format!("tap={},id=net,transport={over}", tap.name)]);
    command
}

fn qemu(transport: Transport, disks: &[PathBuf; 2], tap: &Tap, load: &Path) -> Command {
    let mut command = Command::new("qemu-system-aarch64");
    let (kind, modern) = match transport {
        Transport::Mmio => ("device", ""),
        Transport::Pci => ("pci", ",disable-legacy=on"),
    };
    // A card's own program for booting is in another package, and nobody boots by it.
    let rom = if transport == Transport::Pci { ",romfile=" } else { "" };
    command.args(QEMU_MACHINE.split_whitespace()).args(["-m", MEMORY, "-smp", "1"]);
    command.arg("-kernel").arg(place::image("Image")).arg("-initrd").arg(place::image("initrd.gz"));
    command.args(["-append", &cmdline(tap)]);
    let mut disk = |id: &str, more: &str, path: &Path| {
        command.arg("-drive").arg(format!("if=none,id={id},format=raw{more},file={}", path.display()));
        command.arg("-device").arg(format!("virtio-blk-{kind},drive={id},serial={id}{modern}"));
    };
    for (path, (engine, theirs)) in disks.iter().zip(ENGINES) {
        disk(engine, &format!(",cache=writeback,aio={theirs}"), path);
    }
    disk("load", ",readonly=on", load);
    command.arg("-netdev").arg(format!("tap,id=net,ifname={},script=no,downscript=no,vhost=off", tap.name));
    command.arg("-device").arg(format!("virtio-net-{kind},netdev=net{modern}{rom}"));
    command
}
