//! The first instructions of a program, up to its `main`.

use core::arch::global_asm;

use crate::port::out8;
use crate::{ending, interrupts, zero_page};

global_asm!(
    ".global _start",
    "_start:",
    "lea rsp, [rip + {stack} + {size}]",
    "mov rdi, rsi",
    "call {begin}",
    "ud2",
    stack = sym STACK,
    size = const STACK_SIZE,
    begin = sym begin,
);

const STACK_SIZE: usize = 64 << 10;

#[repr(C, align(16))]
struct Stack(core::cell::UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: only the first vCPU's stack pointer is ever in it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; STACK_SIZE]));

unsafe extern "Rust" {
    safe fn flat_main() -> u8;
}

extern "C" fn begin(page: u64) -> ! {
    zero_page::found_at(page);
    // Every input of both 8259s is masked: interrupts come by the IOAPIC or as messages.
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    interrupts::begin();
    ending::exit(flat_main())
}

/// Makes `$main`, a `fn() -> u8`, the program.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn flat_main() -> u8 {
            $main()
        }
    };
}
