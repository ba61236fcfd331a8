//! Exceptions, which end the program, and interrupts, which are counted.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::register::{read32, write32};
use crate::{ending, println};

const LAPIC: u64 = 0xfee0_0000;
const ID: u64 = LAPIC + 0x20;
const END_OF_INTERRUPT: u64 = LAPIC + 0xb0;
const SPURIOUS: u64 = LAPIC + 0xf0;
const IOAPIC: u64 = 0xfec0_0000;

/// The lowest vector that is no exception.
pub const FIRST: u8 = 32;

// 256 stubs of 16 bytes, each leaving the frame of its vector in the same shape: error code, then vector.
global_asm!(
    ".balign 16",
    ".global flat_stubs", "flat_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30",
    ".else",
    "push 0",
    ".endif",
    "push vector",
    "jmp flat_taken",
    ".set vector, vector + 1",
    ".endr",
    "flat_taken:",
    "push rax", "push rcx", "push rdx", "push rsi", "push rdi",
    "push r8", "push r9", "push r10", "push r11", "push rbp",
    "mov rbp, rsp",
    "lea rdi, [rsp + 80]",
    "and rsp, -16",
    "call {taken}",
    "mov rsp, rbp",
    "pop rbp", "pop r11", "pop r10", "pop r9", "pop r8",
    "pop rdi", "pop rsi", "pop rdx", "pop rcx", "pop rax",
    "add rsp, 16",
    "iretq",
    taken = sym taken,
);

unsafe extern "C" {
    safe static flat_stubs: u8;
}

/// What a stub and the processor push.
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
}

static COUNTS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];

extern "C" fn taken(frame: &Frame) {
    if frame.vector < FIRST.into() {
        let fault: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, cr2", out(reg) fault, options(nomem, nostack)) }
        println!(
            "exception {} error {:#x} at {:#x}, address {fault:#x}",
            frame.vector, frame.error, frame.rip
        );
        ending::exit(254);
    }
    COUNTS[frame.vector as usize & 0xff].fetch_add(1, Ordering::Relaxed);
    write32(END_OF_INTERRUPT, 0);
}

/// Descriptors of the 256 stubs (Intel SDM volume 3, 6.14.1).
#[repr(C, align(16))]
struct Table(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once, before there is another vCPU.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; 256]));

pub(crate) fn begin() {
    let first = &raw const flat_stubs as u64;
    for vector in 0..256 {
        let stub = first + 16 * vector as u64;
        let low = stub & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (stub >> 16 & 0xffff) << 48;
        // SAFETY: nobody else runs yet.
        unsafe { (*TABLE.0.get())[vector] = [low, stub >> 32] };
    }
    use_table();
    write32(SPURIOUS, read32(SPURIOUS) | 1 << 8);
}

/// For each vCPU: from here on it takes interrupts as all others do, once they are on.
pub(crate) fn use_table() {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let pointer = Pointer(4095, TABLE.0.get() as u64);
    // SAFETY: the table is whole, and stays.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) }
}

/// Enables the LAPIC of this vCPU.
pub(crate) fn enable_lapic() {
    write32(SPURIOUS, read32(SPURIOUS) | 1 << 8);
}

/// Lets interrupts come to this vCPU.
pub fn on() {
    // SAFETY: every vector has a handler.
    unsafe { asm!("sti", options(nomem, nostack)) }
}

pub fn off() {
    // SAFETY: only this vCPU's flag.
    unsafe { asm!("cli", options(nomem, nostack)) }
}

/// How many interrupts of a vector there were, on all vCPUs.
pub fn count(vector: u8) -> u32 {
    COUNTS[usize::from(vector)].load(Ordering::Relaxed)
}

/// This vCPU's number.
pub fn lapic_id() -> u32 {
    read32(ID) >> 24
}

/// Sends an interrupt command to the vCPU with this number (Intel SDM volume 3, 12.6.1).
pub fn command(lapic: u32, word: u32) {
    write32(LAPIC + 0x310, lapic << 24);
    write32(LAPIC + 0x300, word);
}

/// Makes rising edges of a pin interrupts of the first vCPU.
pub fn route_edge(pin: u32, vector: u8) {
    redirect(pin, u32::from(vector));
}

/// Makes a high level of a pin interrupts of the first vCPU, until it is low.
pub fn route_level(pin: u32, vector: u8) {
    redirect(pin, u32::from(vector) | 1 << 15);
}

pub fn mask(pin: u32) {
    redirect(pin, 1 << 16);
}

/// Writes an entry of the IOAPIC's table, for the vCPU with number 0.
fn redirect(pin: u32, low: u32) {
    let select = |register: u32, value: u32| {
        write32(IOAPIC, register);
        write32(IOAPIC + 0x10, value);
    };
    select(0x10 + 2 * pin, 1 << 16);
    select(0x11 + 2 * pin, 0);
    select(0x10 + 2 * pin, low);
}

/// Address and data of the message that is this vector on the vCPU with this number (Intel SDM volume 3, 12.11).
pub fn message(lapic: u32, vector: u8) -> (u64, u32) {
    (LAPIC | u64::from(lapic) << 12, u32::from(vector))
}
