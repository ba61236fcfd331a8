//! QEMU's `microvm` with a ROM that writes a line from its first instructions on.

use std::path::PathBuf;
use std::process::Command;

use ambit_tests::Scratch;

/// What the guest writes, and a line's end.
pub const SAYS: &str = "!";

/// QEMU's exit code after zero was written to its port for that.
pub const ENDED: i32 = 1;

/// No firmware of its own, and nothing else that takes time; CPU features that some KVM has no register for left out.
const MACHINE: [&str; 14] = [
    "-M",
    "microvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on",
    "-accel",
    "kvm",
    "-cpu",
    "host,-arch-capabilities,migratable=off",
    "-nodefaults",
    "-display",
    "none",
    "-serial",
    "stdio",
    "-no-reboot",
    "-device",
    "isa-debug-exit,iobase=0xf4,iosize=1",
];

/// The smallest that a microvm takes; it is mapped up to 4 GiB, and a processor begins 16 bytes below that.
const ROM: usize = 64 << 10;
const RESET: usize = ROM - 16;

/// In real mode: mov dx, 0x3f8; mov al, '!'; out dx, al; mov al, '\n'; out dx, al.
const SAY: [u8; 9] = [0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0xb0, b'\n', 0xee];
/// mov dx, 0xf4; mov al, 0; out dx, al.
const END: [u8; 6] = [0xba, 0xf4, 0x00, 0xb0, 0x00, 0xee];
/// hlt; jmp to it.
const STAY: [u8; 3] = [0xf4, 0xeb, 0xfd];

pub struct Microvm {
    mebibytes: u64,
    ends: PathBuf,
    stays: PathBuf,
}

impl Microvm {
    pub fn new(scratch: &Scratch, memory: u64) -> Self {
        let written = |name: &str, code: &[&[u8]]| {
            let path = scratch.path(name);
            std::fs::write(&path, rom(&code.concat())).expect("the scratch directory has room");
            path
        };
        let ends = written("ends.rom", &[&SAY, &END, &STAY]);
        Self { mebibytes: memory >> 20, ends, stays: written("stays.rom", &[&SAY, &STAY]) }
    }

    /// What it is, for a reader.
    pub fn line(&self) -> String {
        let version = Command::new("qemu-system-x86_64").arg("--version").output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let version = version.unwrap_or_else(|error| panic!("cannot start qemu-system-x86_64: {error}"));
        format!("{}; {}", version.lines().next().unwrap_or_default(), MACHINE.join(" "))
    }

    pub fn that_ends(&self) -> Command {
        self.command(&self.ends)
    }

    pub fn that_stays(&self) -> Command {
        self.command(&self.stays)
    }

    fn command(&self, rom: &PathBuf) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(MACHINE).args(["-smp", "1", "-m", &format!("{}M", self.mebibytes), "-bios"]).arg(rom);
        command
    }
}

/// `code` at the beginning, and a jump there where a processor begins.
fn rom(code: &[u8]) -> Vec<u8> {
    let mut rom = vec![0; ROM];
    rom[..code.len()].copy_from_slice(code);
    // jmp, by how far it is from the end of this instruction in the same segment.
    let back = u16::try_from(ROM - RESET - 3).expect("it is a few bytes").to_le_bytes();
    rom[RESET..RESET + 3].copy_from_slice(&[0xe9, back[0], back[1]]);
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a processor computes it, the instruction pointer wrapping in its segment of 64 KiB.
    #[test]
    fn a_processor_that_begins_comes_to_the_code() {
        let rom = rom(&SAY);

        let jump = &rom[RESET..RESET + 3];
        let next = u16::try_from(RESET + 3).unwrap();
        assert_eq!((jump[0], next.wrapping_add(u16::from_le_bytes([jump[1], jump[2]]))), (0xe9, 0));
        assert_eq!(rom[..SAY.len()], SAY);
    }
}
