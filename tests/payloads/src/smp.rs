//! Other vCPUs.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::{ending, interrupts, patience};

/// Below 1 MiB, free, and its number is the vector of SIPI.
const TRAMPOLINE: u64 = 0x1000;
/// In the trampoline: what LGDT reads.
const TABLE_POINTER: u64 = TRAMPOLINE + 0x100;

const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600 | (TRAMPOLINE >> 12) as u32;

// Real mode to 64-bit mode in one step: paging and protection are switched on together, so that the vCPU never runs
// 32-bit code, which some KVM cannot.
global_asm!(
    ".code16",
    ".global flat_trampoline",
    "flat_trampoline:",
    "cli",
    "xor ax, ax",
    "mov ds, ax",
    "mov eax, 1 << 5",
    "mov cr4, eax",
    "mov eax, 0x9000",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "mov eax, 1 << 8",
    "xor edx, edx",
    "wrmsr",
    "lgdtd ds:[{pointer}]",
    "mov eax, 0x80000011",
    "mov cr0, eax",
    ".byte 0x66, 0xea",
    ".long {at} + (flat_trampoline_64 - flat_trampoline)",
    ".word 0x10",
    ".code64",
    "flat_trampoline_64:",
    "mov ax, 0x18",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "movabs rax, offset flat_other",
    "jmp rax",
    ".global flat_trampoline_end",
    "flat_trampoline_end:",
    "flat_other:",
    "mov rsp, [rip + {stack}]",
    "call {arrive}",
    "ud2",
    pointer = const TABLE_POINTER,
    at = const TRAMPOLINE,
    stack = sym STACK_TOP,
    arrive = sym arrive,
);

unsafe extern "C" {
    safe static flat_trampoline: u8;
    safe static flat_trampoline_end: u8;
}

const STACK_SIZE: usize = 16 << 10;
/// How many there can be besides the first.
pub const MOST: usize = 15;

#[repr(C, align(16))]
struct Stacks(UnsafeCell<[[u8; STACK_SIZE]; MOST]>);

// SAFETY: each is one vCPU's.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_SIZE]; MOST]));
static STACK_TOP: AtomicU64 = AtomicU64::new(0);
static WORK: AtomicUsize = AtomicUsize::new(0);
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// Starts vCPU `id`, 1 or above, at `work`; when that returns, the vCPU halts for ever. True if it came up.
pub fn start(id: u32, work: fn()) -> bool {
    let Some(number) = (id as usize).checked_sub(1).filter(|number| *number < MOST) else { return false };
    place_trampoline();
    STACK_TOP.store(STACKS.0.get() as u64 + ((number + 1) * STACK_SIZE) as u64, Ordering::SeqCst);
    WORK.store(work as usize, Ordering::SeqCst);
    let before = ARRIVED.load(Ordering::SeqCst);
    interrupts::command(id, INIT);
    interrupts::command(id, STARTUP);
    // A vCPU that is not there never comes.
    patience::wait(patience::SHORT, || ARRIVED.load(Ordering::SeqCst) != before)
}

fn place_trampoline() {
    let (first, end) = (&raw const flat_trampoline, &raw const flat_trampoline_end);
    // SAFETY: both are bounds of the code above, and the page it goes to is nobody's.
    unsafe { core::ptr::copy_nonoverlapping(first, TRAMPOLINE as *mut u8, end as usize - first as usize) };
    // The board's descriptors: 4 of them at 0x500.
    crate::register::write16(TABLE_POINTER, 31);
    crate::register::write32(TABLE_POINTER + 2, 0x500);
}

extern "C" fn arrive() -> ! {
    interrupts::use_table();
    interrupts::enable_lapic();
    let work = WORK.load(Ordering::SeqCst);
    ARRIVED.fetch_add(1, Ordering::SeqCst);
    // SAFETY: `start` stored a function there before this vCPU began.
    let work = unsafe { core::mem::transmute::<usize, fn()>(work) };
    work();
    ending::halt()
}
