//! Ends its machine as the word `how=` of the command line says.

#![no_std]
#![no_main]

use core::arch::asm;

use flat::{ending, interrupts, port, println, register, smp};

flat::program!(main);

fn main() -> u8 {
    let how = flat::argument("how").unwrap_or("");
    println!("ends by {how}");
    match how {
        "off" => 0,
        "code" => 7,
        "reset" => ending::reset(),
        "panic" => panic!("a payload that panics"),
        "typed" => echo(),
        "halt" => ending::halt(),
        // An instruction that there is not.
        "exception" => {
            // SAFETY: it is what is wanted.
            unsafe { asm!("ud2") };
            1
        }
        // An address that nothing maps.
        "page" => register::read8(1 << 40),
        "triple" => {
            let nothing = [0_u64; 2];
            // SAFETY: the same without a table of handlers.
            unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const nothing) };
            1
        }
        "other" => {
            smp::start(1, || flat::exit(9));
            ending::halt()
        }
        "everywhere" => everywhere(),
        _ => 1,
    }
}

/// Gives back what is typed, up to a line's end.
fn echo() -> u8 {
    loop {
        match flat::console::typed() {
            Some(b'\n' | b'\r') => return 0,
            Some(byte) => flat::print!("{}", char::from(byte.to_ascii_uppercase())),
            None => core::hint::spin_loop(),
        }
    }
}

/// Reads every port but those that are the kernel's, at each width, and what nothing answers in memory.
fn everywhere() -> u8 {
    interrupts::off();
    let ones = (0..=u16::MAX).filter(|at| port::in8(*at) == u8::MAX).count();
    let wide = (0..=u16::MAX).filter(|at| port::in32(*at) == u32::MAX).count();
    println!("ports of ones: most {} wide {}", ones > 65_000, wide > 65_000);
    let memory = [0xc000_0000, 0xdfff_fff1, 0xf0ff_fff8, 0xf100_0000, 0x1_3fff_fff8];
    println!("memory of ones: {}", memory.iter().all(|at| register::read64(*at) == u64::MAX));
    0
}
