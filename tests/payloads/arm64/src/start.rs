//! The first instructions of an image, up to its `main`, and its end.

use core::arch::{asm, global_asm};

use crate::println;

global_asm!(
    // The header of an image: a branch, text_offset 0, image_size, flags (little-endian, pages of 4 KiB, anywhere).
    ".section .head, \"ax\"",
    ".global _start",
    "_start:",
    "b 1f",
    ".word 0",
    ".quad 0",
    ".quad image_size",
    ".quad 0b1010",
    ".quad 0, 0, 0",
    ".ascii \"ARM\\x64\"",
    ".word 0",
    // 39-bit addresses in pages of 4 KiB, so that an entry of the only table is 1 GiB; inner shareable, write-back; no
    // upper half; 40-bit physical addresses (Arm ARM, TCR_EL1). Attribute 0 is without caches, 1 with.
    "1:",
    "adrp x0, raw_vectors",
    "add x0, x0, :lo12:raw_vectors",
    "msr vbar_el1, x0",
    "mov x0, #0xff44",
    "msr mair_el1, x0",
    "ldr x0, =0x200803519",
    "msr tcr_el1, x0",
    "adrp x0, {table}",
    "msr ttbr0_el1, x0",
    // Floating-point registers may be used.
    "mov x0, #3 << 20",
    "msr cpacr_el1, x0",
    "isb",
    "mrs x0, sctlr_el1",
    "orr x0, x0, #1",
    "orr x0, x0, #1 << 2",
    "bic x0, x0, #2",
    "msr sctlr_el1, x0",
    "isb",
    "adrp x0, {stack}",
    "add x0, x0, {size}",
    "mov sp, x0",
    "bl {begin}",
    "b .",
    ".ltorg",
    // Sixteen entries of 128 bytes; whichever is taken, the program is over.
    ".section .vectors, \"ax\"",
    ".balign 0x800",
    "raw_vectors:",
    ".rept 16",
    "b 2f",
    ".balign 0x80",
    ".endr",
    "2:",
    "mrs x0, esr_el1",
    "mrs x1, elr_el1",
    "mrs x2, far_el1",
    "bl {fault}",
    "b .",
    table = sym TABLE,
    stack = sym STACK,
    size = const STACK_SIZE,
    begin = sym begin,
    fault = sym fault,
);

const STACK_SIZE: usize = 64 << 10;

#[repr(C, align(4096))]
struct Stack(core::cell::UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: only the stack pointer of the one vCPU is ever in it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; STACK_SIZE]));

/// Blocks of 1 GiB that are mapped to themselves: valid, accessed, inner shareable; the second with caches, and the
/// others without and not to be executed.
#[repr(C, align(4096))]
struct Table([u64; 512]);

#[unsafe(link_section = ".tables")]
static TABLE: Table = {
    const NEVER_EXECUTED: u64 = 3 << 53;
    let mut table = [0; 512];
    let mut gib = 0;
    while gib < 8 {
        let block = (gib as u64) << 30 | 1 << 10 | 3 << 8 | 1;
        table[gib] = if gib == 1 { block | 1 << 2 } else { block | NEVER_EXECUTED };
        gib += 1;
    }
    Table(table)
};

unsafe extern "Rust" {
    safe fn raw_main() -> u8;
}

extern "C" fn begin() -> ! {
    exit(raw_main())
}

extern "C" fn fault(syndrome: u64, at: u64, address: u64) -> ! {
    println!("exception {syndrome:#x} at {at:#x}, address {address:#x}");
    exit(254)
}

/// Switches the machine off.
pub fn exit(code: u8) -> ! {
    if code != 0 {
        println!("exit {code}");
    }
    // SAFETY: SYSTEM_OFF of PSCI; no vCPU runs on after it.
    unsafe { asm!("hvc #0", in("x0") 0x8400_0008_u64, options(nomem, nostack)) }
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{info}");
    exit(255)
}

/// Makes `$main`, a `fn() -> u8`, the program.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn raw_main() -> u8 {
            $main()
        }
    };
}
