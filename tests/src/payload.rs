//! Guests of a few instructions, for what Linux never does and for what takes no Linux to see.

use std::iter::repeat_n;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Boot, Scratch};

/// Where board `native` has its first UART, whatever else the machine has.
pub const UART: u64 = 0x0100_0000;

/// Where every board for arm64 has RAM, and the payload in it.
const RAM: u64 = 0x4000_0000;

static COUNT: AtomicU32 = AtomicU32::new(0);

// What is where in the image.
const PRINT: usize = 0x100;
const VECTORS: usize = 0x800;
/// The exception that an access of the running code itself causes.
const SYNCHRONOUS: usize = VECTORS + 0x200;
const TABLE: usize = 0x1000;
const CODE: usize = 0x2000;

/// A guest that does what the calls below said, in their order. x28 has the UART; x0 to x5 are for each step.
pub struct Payload {
    code: Vec<u32>,
}

/// What [`Payload::access`] says when the access caused an exception: ESR_EL1 with the top bit set.
pub fn exception(syndrome: u32) -> String {
    format!("{:016x}", 1 << 63 | u64::from(syndrome))
}

/// A data access from the same exception level that nothing answered, as KVM injects it (Arm ARM, ESR_EL1: class 0x25,
/// a 32-bit instruction, fault status 0x10: synchronous external abort).
pub const DATA_ABORT: u32 = 0x9600_0010;
/// The same for an instruction, class 0x21.
pub const INSTRUCTION_ABORT: u32 = 0x8600_0010;

// Instructions, with x1 as the address.
pub const LDP: u32 = 0xa940_0820; // ldp x0, x2, [x1]
pub const STP: u32 = 0xa900_0820; // stp x0, x2, [x1]
pub const LDR_POST: u32 = 0xf840_8420; // ldr x0, [x1], #8
pub const STR_POST: u32 = 0xf800_8423; // str x3, [x1], #8
pub const LDXR: u32 = 0xc85f_7c20; // ldxr x0, [x1]
pub const BLR: u32 = 0xd63f_0020; // blr x1

/// ldrb w0, ldrh w0, ldr w0 or ldr x0.
pub fn load(bits: u32) -> u32 {
    0x3940_0020 | size(bits)
}

/// strb w3, strh w3, str w3 or str x3, of ones.
pub fn store(bits: u32) -> u32 {
    0x3900_0023 | size(bits)
}

/// bl: `to`, in an instruction at `at`.
pub(crate) fn call(at: usize, to: usize) -> u32 {
    let ahead = u32::try_from(to / 4).and_then(|to| Ok(to.wrapping_sub(u32::try_from(at / 4)?)));
    0x9400_0000 | ahead.expect("a payload is small") & 0x03ff_ffff
}

fn size(bits: u32) -> u32 {
    assert!([8, 16, 32, 64].contains(&bits), "no access has {bits} bits");
    (bits / 8).trailing_zeros() << 30
}

impl Payload {
    #[expect(clippy::new_without_default, reason = "an empty one would run into nothing")]
    pub fn new() -> Self {
        Self::on(UART)
    }

    /// For a board that has its first UART elsewhere.
    pub fn on(uart: u64) -> Self {
        let begin = Self { code: Vec::new() };
        // msr vbar_el1, x0
        begin.number(28, uart).number(0, RAM + VECTORS as u64).words(&[0xd518_c000])
    }

    pub fn words(mut self, words: &[u32]) -> Self {
        self.code.extend(words);
        self
    }

    fn number(self, register: u32, value: u64) -> Self {
        let pieces = value.to_le_bytes();
        let movk = (0..).zip(pieces.chunks(2)).map(|(shift, piece)| {
            let (op, half) = (
                if shift == 0 { 0xd280_0000 } else { 0xf280_0000 },
                u16::from_le_bytes([piece[0], piece[1]]),
            );
            op | shift << 21 | u32::from(half) << 5 | register
        });
        let words: Vec<u32> = movk.collect();
        self.words(&words)
    }

    /// Prints `text` on the console.
    pub fn say(self, text: &str) -> Self {
        // movz w3, #byte; strb w3, [x28]
        text.bytes()
            .fold(self, |payload, byte| payload.words(&[0x5280_0003 | u32::from(byte) << 5, 0x3900_0383]))
    }

    /// Runs one instruction with x1 = `address`, x3 = ones and x0 = 0; prints x0 in 16 digits, or the [`exception`], and
    /// ends the line.
    pub fn access(self, instruction: u32, address: u64) -> Self {
        let payload = self.number(1, address).number(3, u64::MAX).number(0, 0).words(&[instruction]);
        let at = CODE + 4 * payload.code.len();
        payload.words(&[call(at, PRINT)])
    }

    /// Writes 64 bits, and prints nothing.
    pub fn write(self, address: u64, value: u64) -> Self {
        // str x3, [x1]
        self.number(1, address).number(3, value).words(&[0xf900_0023])
    }

    /// From here on everything is normal memory, with caches where there is RAM, so that no access has to be aligned.
    pub fn unaligned(self) -> Self {
        // 39-bit addresses in pages of 4 KiB, so that one entry of the only table is 1 GiB; inner shareable, write-back;
        // no upper half; 40-bit physical addresses (Arm ARM, TCR_EL1).
        const TCR: u64 = 2 << 32 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 25;
        self.number(1, TCR).number(2, RAM + TABLE as u64).words(&[
            0xd29f_e880, // mov x0, #0xff44: attribute 0 is non-cacheable, 1 is write-back
            0xd518_a200, // msr mair_el1, x0
            0xd518_2041, // msr tcr_el1, x1
            0xd518_2002, // msr ttbr0_el1, x2
            0xd503_3fdf, // isb
            0xd538_1000, // mrs x0, sctlr_el1
            0xb240_0000, // orr x0, x0, #1
            0xd518_1000, // msr sctlr_el1, x0
            0xd503_3fdf, // isb
        ])
    }

    /// Does nothing for a second.
    pub fn pause(self) -> Self {
        self.words(&[
            0xd53b_e000, // mrs x0, cntfrq_el0
            0xd53b_e041, // mrs x1, cntvct_el0
            0x8b01_0000, // add x0, x0, x1
            0xd53b_e041, // mrs x1, cntvct_el0
            0xeb00_003f, // cmp x1, x0
            0x54ff_ffc3, // b.lo: the last mrs
        ])
    }

    /// Ends with PSCI's SYSTEM_OFF.
    pub fn power_off(self) -> Self {
        self.psci(0x8400_0008)
    }

    /// Ends with PSCI's SYSTEM_RESET.
    pub fn reset(self) -> Self {
        self.psci(0x8400_0009)
    }

    fn psci(self, function: u64) -> Self {
        // hvc #0
        self.number(0, function).words(&[0xd400_0002]).stay()
    }

    /// Sleeps for ever.
    pub fn stay(self) -> Self {
        // wfi; b: the wfi
        self.words(&[0xd503_207f, 0x17ff_ffff])
    }

    /// Prints every byte that is typed, for ever.
    pub fn echo(self) -> Self {
        self.words(&[
            0x5280_0200, // mov w0, #0x10
            0xb900_3b80, // str w0, [x28, #0x38]: the receive interrupt, which nobody takes
            0xb940_1b81, // ldr w1, [x28, #0x18]
            0x3727_ffe1, // tbnz w1, #4: the ldr, until there is a byte
            0x3940_0380, // ldrb w0, [x28]
            0x3900_0380, // strb w0, [x28]
            0x17ff_fffc, // b: the ldr
        ])
    }

    /// As `Documentation/arch/arm64/booting.rst` wants it.
    pub fn image(&self) -> Vec<u8> {
        let size = (CODE + 4 * self.code.len()).next_multiple_of(0x1000);
        let mut image = header(CODE, size);
        put(&mut image, PRINT, &PRINTER);
        put(&mut image, SYNCHRONOUS, &HANDLER);
        image.resize(TABLE, 0);
        image.extend(table().map(u64::to_le_bytes).as_flattened());
        put(&mut image, CODE, &self.code);
        image.resize(size, 0);
        image
    }

    /// A machine that runs it, with its image in `scratch`.
    pub fn boot(&self, scratch: &Scratch) -> Boot {
        boot(&self.image(), scratch)
    }
}

/// The first 64 bytes of an image of `size` bytes, which lead to its `code`.
pub(crate) fn header(code: usize, size: usize) -> Vec<u8> {
    let mut header = Vec::new();
    let branch = 0x1400_0000 | u32::try_from(code / 4).expect("it is near");
    header.extend([branch, 0].map(u32::to_le_bytes).as_flattened());
    // text_offset, image_size; flags: little-endian, pages of 4 KiB, anywhere; three words of nothing.
    header.extend([0, size as u64, 0b1010, 0, 0, 0].map(u64::to_le_bytes).as_flattened());
    header.extend(b"ARM\x64\0\0\0\0");
    header
}

/// A machine that runs `image`, which is put in `scratch`.
pub(crate) fn boot(image: &[u8], scratch: &Scratch) -> Boot {
    // Another monitor may be reading the last one.
    let path = scratch.path(&format!("payload{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&path, image).expect("the scratch directory has room");
    Boot::kernel(&path)
}

pub(crate) fn put(image: &mut Vec<u8>, at: usize, words: &[u32]) {
    assert!(image.len() <= at, "two parts of a payload overlap");
    image.extend(repeat_n(0, at - image.len()));
    image.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

/// Every address as itself: entries of 1 GiB that are valid, accessed, inner shareable, and have attribute 1 where RAM
/// may be, else 0 (Arm ARM, VMSAv8-64 block descriptors).
fn table() -> [u64; 512] {
    std::array::from_fn(|index| {
        let memory = u64::from(index as u64 == RAM >> 30);
        (index as u64) << 30 | 1 << 10 | 3 << 8 | memory << 2 | 1
    })
}

/// Prints x0 in 16 hexadecimal digits and ends the line; changes x1 to x4.
pub(crate) const PRINTER: [u32; 13] = [
    0xd280_0781, // mov x1, #60
    0x9ac1_2402, // lsr x2, x0, x1
    0x9240_0c42, // and x2, x2, #15
    0xf100_285f, // cmp x2, #10
    0x9100_c043, // add x3, x2, #'0'
    0x9101_5c44, // add x4, x2, #'a' - 10
    0x9a84_3063, // csel x3, x3, x4, lo
    0x3900_0383, // strb w3, [x28]
    0xf100_1021, // subs x1, x1, #4
    0x54ff_ff0a, // b.ge: the lsr
    0xd280_0143, // mov x3, #'\n'
    0x3900_0383, // strb w3, [x28]
    0xd65f_03c0, // ret
];

/// Gives x0 what [`exception`] says and goes on after the instruction, or where an instruction was called that could not
/// be read.
const HANDLER: [u32; 10] = [
    0xd538_5200, // mrs x0, esr_el1
    0x2a00_03e0, // mov w0, w0: KVM of Linux 6.1 extends the sign of what it injects
    0xd35a_fc01, // lsr x1, x0, #26
    0xb241_0000, // orr x0, x0, #1 << 63
    0xd538_4022, // mrs x2, elr_el1
    0x9100_1042, // add x2, x2, #4
    0xf100_843f, // cmp x1, #0x21
    0x9a82_03c2, // csel x2, x30, x2, eq
    0xd518_4022, // msr elr_el1, x2
    0xd69f_03e0, // eret
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_begins_with_a_branch_to_its_code_and_the_magic_number() {
        let image = Payload::new().power_off().image();

        assert_eq!(image[..4], [0x00, 0x08, 0x00, 0x14]);
        assert_eq!(image[56..60], *b"ARM\x64");
        assert_eq!(image[CODE..CODE + 4], [0x1c, 0x00, 0x80, 0xd2]);
        assert_eq!(image.len() % 0x1000, 0);
    }

    #[test]
    fn the_bits_of_an_access_are_in_its_instruction() {
        assert_eq!([8, 16, 32, 64].map(load), [0x3940_0020, 0x7940_0020, 0xb940_0020, 0xf940_0020]);
        assert_eq!([8, 16, 32, 64].map(store), [0x3900_0023, 0x7900_0023, 0xb900_0023, 0xf900_0023]);
    }
}
