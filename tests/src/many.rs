//! A guest in which every vCPU reads its own redistributor, and the first prints what all of them found.

use crate::payload::{self, PRINTER, call, header, put};
use crate::{Boot, Scratch};

// What is where in the image.
const PRINT: usize = 0x40;
const REPORT: usize = 0x80;
const OTHERS: usize = 0xc0;
const FIRST: usize = 0x100;
const TABLE: usize = 0x1000;

/// One row of the table, of which the first has the UART's address and the number of vCPUs and each other one is one
/// vCPU's: MPIDR to start it by, redistributor, MPIDR found, GICR_TYPER found, whether those two are there.
const ROW: usize = 8;

/// What is in the table where a vCPU has not written yet.
const UNWRITTEN: u64 = 0x5555_5555_5555_5555;

/// What the first vCPU knows of another, or of itself.
#[derive(Clone, Copy)]
pub struct Vcpu {
    /// The affinity by which PSCI's CPU_ON finds it.
    pub target: u64,
    /// Where its redistributor is.
    pub redistributor: u64,
}

/// What a vCPU found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Its own MPIDR_EL1 and its redistributor's GICR_TYPER.
    Registers { mpidr: u64, typer: u64 },
    /// It was started and did not come.
    Nothing,
    /// CPU_ON gave this error.
    NotStarted(i64),
}

/// A machine of these vCPUs.
pub fn boot(uart: u64, vcpus: &[Vcpu], scratch: &Scratch) -> Boot {
    payload::boot(&image(uart, vcpus), scratch).cpus(u32::try_from(vcpus.len()).expect("they are few"))
}

/// What the vCPUs found, in their order, by what the guest printed.
pub fn found(printed: &str) -> Vec<Found> {
    let number =
        |line: &str| u64::from_str_radix(line, 16).unwrap_or_else(|_| panic!("'{line}' in {printed}"));
    let numbers: Vec<u64> = printed.lines().map(number).collect();
    let of_one = |pair: &[u64]| match *pair {
        [UNWRITTEN, _] => Found::Nothing,
        [error, UNWRITTEN] => Found::NotStarted(error.cast_signed()),
        [mpidr, typer] => Found::Registers { mpidr, typer },
        _ => panic!("half of a vCPU in {printed}"),
    };
    numbers.chunks(2).map(of_one).collect()
}

fn image(uart: u64, vcpus: &[Vcpu]) -> Vec<u8> {
    let table = table(uart, vcpus);
    let mut image = header(FIRST, TABLE + table.len() * 8);
    put(&mut image, PRINT, &PRINTER);
    put(&mut image, REPORT, &report());
    put(&mut image, OTHERS, &others());
    put(&mut image, FIRST, &first());
    image.resize(TABLE, 0);
    image.extend(table.into_iter().flat_map(u64::to_le_bytes));
    image
}

fn table(uart: u64, vcpus: &[Vcpu]) -> Vec<u64> {
    let mut table = vec![uart, vcpus.len() as u64, 0, 0, 0, 0, 0, 0];
    for vcpu in vcpus {
        table.extend([vcpu.target, vcpu.redistributor, UNWRITTEN, UNWRITTEN, 0, 0, 0, 0]);
    }
    table
}

/// The first vCPU: starts the others and prints what they found as it comes, for a guest that hangs within limits.
fn first() -> Vec<u32> {
    Code::at(FIRST)
        .address(27, TABLE)
        .words(&[
            0xa8c4_6b7c, // ldp x28, x26, [x27], #64: the UART and the number of vCPUs
        ])
        .then(start_the_others)
        .words(&[
            0xd280_0000, // mov x0, #0
        ])
        .call(REPORT)
        .then(print_what_comes)
        .words(&[
            0xd280_0100, // mov x0, #8
            0xf2b0_8000, // movk x0, #0x8400, lsl #16: PSCI's SYSTEM_OFF
            0xd400_0002, // hvc #0
        ])
        .words
}

/// With x27 the first vCPU's row and x26 the number of rows.
fn start_the_others(code: Code) -> Code {
    code.words(&[
        0xd280_0034, // mov x20, #1
        0x9101_0375, // add x21, x27, #64
        0xeb1a_029f, // cmp x20, x26
        0x5400_01a2, // b.hs: after this
        0xf940_02a1, // ldr x1, [x21]
        0xd280_0060, // mov x0, #3
        0xf2b8_8000, // movk x0, #0xc400, lsl #16: PSCI's CPU_ON
    ])
    .address(2, OTHERS)
    .words(&[
        0xaa14_03e3, // mov x3, x20
        0xd400_0002, // hvc #0
        0xb400_0060, // cbz x0: after the two stores
        0xf900_0aa0, // str x0, [x21, #16]
        0xf900_12ba, // str x26, [x21, #32]
        0x9100_0694, // add x20, x20, #1
        0x9101_02b5, // add x21, x21, #64
        0x17ff_fff3, // b: the cmp
    ])
}

/// The same, waiting 100 s for all of them together.
fn print_what_comes(code: Code) -> Code {
    code.words(&[
        0xd53b_e009, // mrs x9, cntfrq_el0
        0xd280_0c8a, // mov x10, #100
        0x9b0a_7d29, // mul x9, x9, x10
        0xd53b_e04a, // mrs x10, cntvct_el0
        0x8b0a_0129, // add x9, x9, x10
        0xaa1b_03f5, // mov x21, x27
        0xd280_0014, // mov x20, #0
        0xf940_12a0, // ldr x0, [x21, #32]
        0xb500_0080, // cbnz x0: the dmb
        0xd53b_e04a, // mrs x10, cntvct_el0
        0xeb09_015f, // cmp x10, x9
        0x54ff_ff83, // b.lo: the ldr
        0xd503_3fbf, // dmb sy
        0xf940_0aa0, // ldr x0, [x21, #16]
    ])
    .call(PRINT)
    .words(&[
        0xf940_0ea0, // ldr x0, [x21, #24]
    ])
    .call(PRINT)
    .words(&[
        0x9101_02b5, // add x21, x21, #64
        0x9100_0694, // add x20, x20, #1
        0xeb1a_029f, // cmp x20, x26
        0x54ff_fe63, // b.lo: the ldr of [x21, #32]
    ])
}

/// Every other vCPU, with its number in x0, as CPU_ON was told.
fn others() -> Vec<u32> {
    Code::at(OTHERS)
        .call(REPORT)
        .words(&[
            0xd503_207f, // wfi
            0x17ff_ffff, // b: the wfi
        ])
        .words
}

/// Fills in the row of vCPU x0, which runs it.
fn report() -> Vec<u32> {
    Code::at(REPORT)
        .address(1, TABLE + ROW * 8)
        .words(&[
            0x8b00_1821, // add x1, x1, x0, lsl #6
            0xf940_0422, // ldr x2, [x1, #8]
            0xf940_0443, // ldr x3, [x2, #8]: GICR_TYPER
            0xd538_00a4, // mrs x4, mpidr_el1
            0xa901_0c24, // stp x4, x3, [x1, #16]
            0xd503_3f9f, // dsb sy
            0xd280_0025, // mov x5, #1
            0xf900_1025, // str x5, [x1, #32]
            0xd65f_03c0, // ret
        ])
        .words
}

/// Instructions that know where in the image they are.
struct Code {
    at: usize,
    words: Vec<u32>,
}

impl Code {
    fn at(at: usize) -> Self {
        Self { at, words: Vec::new() }
    }

    fn here(&self) -> usize {
        self.at + 4 * self.words.len()
    }

    fn words(mut self, words: &[u32]) -> Self {
        self.words.extend(words);
        self
    }

    fn then(self, part: fn(Self) -> Self) -> Self {
        part(self)
    }

    fn call(self, to: usize) -> Self {
        let call = call(self.here(), to);
        self.words(&[call])
    }

    /// adr: what is at `of`, near and at a multiple of 4.
    fn address(self, register: u32, of: usize) -> Self {
        let ahead = u32::try_from(of / 4).and_then(|of| Ok(of.wrapping_sub(u32::try_from(self.here() / 4)?)));
        let ahead = ahead.expect("a payload is small") & 0x7_ffff;
        self.words(&[0x1000_0000 | ahead << 5 | register])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_row_for_the_uart_and_one_for_each_vcpu() {
        let vcpu = |target| Vcpu { target, redistributor: 0xa00_0000 + target * 0x2_0000 };

        let image = image(0x900_0000, &[vcpu(0), vcpu(1)]);

        let words: Vec<u64> =
            image[TABLE..].as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        assert_eq!(words[..2], [0x900_0000, 2]);
        assert_eq!(words[ROW..ROW + 2], [0, 0xa00_0000]);
        assert_eq!(words[2 * ROW..], [1, 0xa02_0000, UNWRITTEN, UNWRITTEN, 0, 0, 0, 0]);
    }
}
