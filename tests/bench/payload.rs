//! A kernel that writes one byte to the UART and powers off: nothing is faster to show that the guest runs.

/// What it writes.
pub const SAYS: &str = "!";

/// The size that the header claims, in RAM; the file is as long.
const ALONE: usize = 4096;

/// The header of an arm64 `Image` (Linux, Documentation/arm64/booting.rst) takes so many bytes.
const HEADER: usize = 64;

/// Behind the PE header of any `Image`; the text proper begins here.
const INSIDE: usize = 0x1_0000;

/// An arm64 `Image` with nothing else in it.
pub fn alone(uart: u64) -> Vec<u8> {
    let mut image = vec![0; ALONE];
    put(&mut image, 0, &branch(0, HEADER).to_le_bytes());
    put(&mut image, 16, &(ALONE as u64).to_le_bytes());
    // Little-endian, pages of 4 KiB, anywhere in RAM.
    put(&mut image, 24, &0b1010_u64.to_le_bytes());
    put(&mut image, 56, b"ARM\x64");
    put(&mut image, HEADER, &code(uart));
    image
}

/// `kernel` with its first instructions replaced, so that a monitor has as much to load.
pub fn inside(kernel: &[u8], uart: u64) -> Vec<u8> {
    assert!(kernel.starts_with(b"MZ"), "Debian's kernel is an Image with a PE header");
    let mut image = kernel.to_vec();
    // "MZ" is an instruction without effect, and the second one is the branch into the kernel.
    put(&mut image, 4, &branch(4, INSIDE).to_le_bytes());
    put(&mut image, INSIDE, &code(uart));
    image
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// `b to`, for an instruction at `from`.
fn branch(from: usize, to: usize) -> u32 {
    0x1400_0000 | u32::try_from((to - from) / 4).expect("the branch is short")
}

fn code(uart: u64) -> Vec<u8> {
    let half = |shift: u32| u32::try_from((uart >> shift) & 0xffff).expect("16 bits fit");
    let says = u32::from(SAYS.as_bytes()[0]);
    let words = [
        0xd280_0001 | half(0) << 5,  // movz x1, #…
        0xf2a0_0001 | half(16) << 5, // movk x1, #…, lsl #16
        0xf2c0_0001 | half(32) << 5, // movk x1, #…, lsl #32
        0x5280_0002 | says << 5,     // movz w2, #…
        0xb900_0022,                 // str w2, [x1]: the data register
        0x5280_0100,                 // movz w0, #8
        0x72b0_8000,                 // movk w0, #0x8400, lsl #16: PSCI SYSTEM_OFF
        0xd400_0002,                 // hvc #0
        0x1400_0000,                 // b .
    ];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_inside_a_kernel_changes_nothing_but_its_first_instructions() {
        let mut kernel = vec![7; INSIDE + 100];
        kernel[..2].copy_from_slice(b"MZ");

        let image = inside(&kernel, 0x0900_0000);

        let differ: Vec<usize> = (0..kernel.len()).filter(|&at| kernel[at] != image[at]).collect();
        let code_ends = INSIDE + code(0).len();
        assert!(differ.iter().all(|at| (4..8).contains(at) || (INSIDE..code_ends).contains(at)));
        assert_eq!(image[4..8], [0xff, 0x3f, 0x00, 0x14]);
    }
}
