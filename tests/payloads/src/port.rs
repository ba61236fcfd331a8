//! I/O ports.

use core::arch::asm;

pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: a port answers with a number and touches no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as in `in8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) }
    value
}

pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as in `in8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}

// No `nomem` here: a device may look at memory, so all of it is written before.

pub fn out8(port: u16, value: u8) {
    // SAFETY: devices that write memory write what the program gave them.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

pub fn out16(port: u16, value: u16) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) }
}

pub fn out32(port: u16, value: u32) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

/// `rep outsb`: all of `bytes` to one port, in one instruction.
pub fn out_string(port: u16, bytes: &[u8]) {
    // SAFETY: the instruction reads `bytes.len()` bytes from their start.
    unsafe {
        asm!("cld", "rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _,
             inout("rcx") bytes.len() => _, options(nostack));
    }
}
