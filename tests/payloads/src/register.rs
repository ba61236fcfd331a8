//! Registers in memory, of any width and at any alignment. A hostile program may name any address: it is its own
//! machine that it harms.

use core::arch::asm;

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $class:ident, $load:literal, $store:literal) => {
        pub fn $read(address: u64) -> $type {
            let value;
            // One plain instruction, so that the device sees one access of this width.
            // SAFETY: what is at the address is only read.
            unsafe { asm!($load, a = in(reg) address, v = out($class) value, options(nostack, preserves_flags)) }
            value
        }

        pub fn $write(address: u64, value: $type) {
            // SAFETY: whoever names an address in RAM knows whose it is.
            unsafe { asm!($store, a = in(reg) address, v = in($class) value, options(nostack, preserves_flags)) }
        }
    };
}

access!(read8, write8, u8, reg_byte, "mov {v}, byte ptr [{a}]", "mov byte ptr [{a}], {v}");
access!(read16, write16, u16, reg, "mov {v:x}, word ptr [{a}]", "mov word ptr [{a}], {v:x}");
access!(read32, write32, u32, reg, "mov {v:e}, dword ptr [{a}]", "mov dword ptr [{a}], {v:e}");
access!(read64, write64, u64, reg, "mov {v}, qword ptr [{a}]", "mov qword ptr [{a}], {v}");
