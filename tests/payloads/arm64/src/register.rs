//! Memory and registers, of any width and at any alignment. A hostile program may name any address: it is its own
//! machine that it harms.

use core::arch::asm;

macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal) => {
        pub fn $read(address: u64) -> $type {
            let value: u64;
            // One plain instruction, which KVM can tell the monitor of; what was written elsewhere before is seen after.
            // SAFETY: what is at the address is only read.
            unsafe {
                asm!($load, "dmb sy", a = in(reg) address, v = out(reg) value, options(nostack, preserves_flags))
            }
            value as $type
        }

        pub fn $write(address: u64, value: $type) {
            // SAFETY: whoever names an address in RAM knows whose it is.
            unsafe {
                asm!("dmb sy", $store, "dmb sy", a = in(reg) address, v = in(reg) u64::from(value),
                     options(nostack, preserves_flags));
            }
        }
    };
}

access!(read8, write8, u8, "ldrb {v:w}, [{a}]", "strb {v:w}, [{a}]");
access!(read16, write16, u16, "ldrh {v:w}, [{a}]", "strh {v:w}, [{a}]");
access!(read32, write32, u32, "ldr {v:w}, [{a}]", "str {v:w}, [{a}]");
access!(read64, write64, u64, "ldr {v}, [{a}]", "str {v}, [{a}]");
