//! What a kernel is told when it starts: `struct boot_params`, Linux's "zero page".
//!
//! Linux `Documentation/arch/x86/zero-page.rst` and `boot.rst`, `arch/x86/include/uapi/asm/bootparam.h`.

use ambit_resources::AddressRange;

use crate::bzimage::{self, BOOT_FLAG, LOAD_FLAGS, MAGIC, VERSION};

/// In bytes.
pub const SIZE: usize = 4096;
/// The most lines of the memory map.
pub const MAX_E820: usize = 128;

const RSDP: usize = 0x70;
const E820_COUNT: usize = 0x1e8;
const LOADER: usize = 0x210;
const INITRD: usize = 0x218;
const INITRD_SIZE: usize = 0x21c;
const CMDLINE: usize = 0x228;
const KERNEL_ALIGNMENT: usize = 0x230;
const CMDLINE_SIZE: usize = 0x238;
const SETUP_DATA: usize = 0x250;
const E820: usize = 0x2d0;
const E820_LINE: usize = 20;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeroPage<'a> {
    /// The setup header that the kernel's file has. Empty: one is made up.
    pub header: &'a [u8],
    /// Where the command line is, below 4 GiB, and how long it is without its final NUL.
    pub cmdline: (u32, u32),
    /// Below 4 GiB.
    pub initrd: Option<AddressRange>,
    /// Lowest first.
    pub e820: Vec<E820>,
    /// Physical address of ACPI's root pointer.
    pub rsdp: u64,
    /// Physical address of the first of a list of more to say; 0: there is none.
    pub setup_data: u64,
}

/// One entry of that list: random bytes (Linux `arch/x86/include/uapi/asm/setup_data.h`, SETUP_RNG_SEED).
pub fn seed(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&0_u64.to_le_bytes(), 9_u32.to_le_bytes().as_slice(), &length.to_le_bytes(), bytes].concat()
}

/// One line of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820 {
    pub range: AddressRange,
    pub kind: E820Kind,
}

/// By the number that the map has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E820Kind {
    Ram = 1,
    Reserved = 2,
}

impl ZeroPage<'_> {
    /// As it is in memory. There are at most [`MAX_E820`] lines.
    pub fn bytes(&self) -> Vec<u8> {
        let mut page = vec![0; SIZE];
        if self.header.is_empty() {
            put(&mut page, BOOT_FLAG, &0xaa55_u16.to_le_bytes());
            put(&mut page, MAGIC, b"HdrS");
            put(&mut page, VERSION, &0x020f_u16.to_le_bytes());
            // The kernel is at 1 MiB or above.
            put(&mut page, LOAD_FLAGS, &[1]);
            put(&mut page, KERNEL_ALIGNMENT, &0x0100_0000_u32.to_le_bytes());
        } else {
            put(&mut page, bzimage::HEADER, self.header);
        }
        // A loader without a number of its own.
        put(&mut page, LOADER, &[0xff]);
        put(&mut page, RSDP, &self.rsdp.to_le_bytes());
        put(&mut page, SETUP_DATA, &self.setup_data.to_le_bytes());
        let (at, length) = self.cmdline;
        put(&mut page, CMDLINE, &at.to_le_bytes());
        put(&mut page, CMDLINE_SIZE, &length.to_le_bytes());
        if let Some(initrd) = self.initrd {
            let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
            put(&mut page, INITRD, &word(initrd.first()));
            put(&mut page, INITRD_SIZE, &word(initrd.size()));
        }
        let mut count = 0_u8;
        for (index, line) in self.e820.iter().take(MAX_E820).enumerate() {
            let at = E820 + index * E820_LINE;
            put(&mut page, at, &line.range.first().to_le_bytes());
            put(&mut page, at + 8, &line.range.size().to_le_bytes());
            put(&mut page, at + 16, &(line.kind as u32).to_le_bytes());
            count += 1;
        }
        put(&mut page, E820_COUNT, &[count]);
        page
    }
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(first: u64, size: u64, kind: E820Kind) -> E820 {
        E820 { range: AddressRange::fixed(first, size), kind }
    }

    #[test]
    fn a_page_says_where_the_kernel_looks() {
        let page = ZeroPage {
            header: &[],
            cmdline: (0x8000, 0x1234),
            rsdp: 0xe0000,
            setup_data: 0x600,
            initrd: Some(AddressRange::fixed(0x0123_4000, 0x5678)),
            e820: vec![line(0, 0x9fc00, E820Kind::Ram), line(0xe000_0000, 0x1000_0000, E820Kind::Reserved)],
        };

        let page = page.bytes();

        let mut said: Vec<(usize, u8)> = page.iter().copied().enumerate().collect();
        said.retain(|(_, byte)| *byte != 0);
        let numbers: [(usize, &[u8]); 16] = [
            (0x70, &[0, 0, 0x0e]),
            (0x1e8, &[2]),
            (0x1fe, &[0x55, 0xaa]),
            (0x202, b"HdrS"),
            (0x206, &[0x0f, 0x02]),
            (0x210, &[0xff]),
            (0x211, &[1]),
            (0x218, &[0, 0x40, 0x23, 0x01]),
            (0x21c, &[0x78, 0x56]),
            (0x228, &[0, 0x80]),
            (0x230, &[0, 0, 0, 1]),
            (0x238, &[0x34, 0x12]),
            (0x250, &[0, 6]),
            (0x2d0, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfc, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
            (0x2e4, &[0, 0, 0, 0xe0, 0, 0, 0, 0]),
            (0x2ec, &[0, 0, 0, 0x10, 0, 0, 0, 0, 2]),
        ];
        let mut expected: Vec<(usize, u8)> =
            numbers.iter().flat_map(|(at, bytes)| (*at..).zip(bytes.iter().copied())).collect();
        expected.retain(|(_, byte)| *byte != 0);
        assert_eq!(said, expected);
        assert_eq!(page.len(), SIZE);
    }

    #[test]
    fn a_kernels_own_header_is_kept_but_for_what_its_loader_says() {
        let header: Vec<u8> = (0..0x7b).collect();
        let e820 = Vec::new();

        let page =
            ZeroPage { header: &header, cmdline: (0x8000, 5), initrd: None, e820, rsdp: 0, setup_data: 0 }
                .bytes();

        let mut expected = header;
        let said: [(usize, &[u8]); 4] =
            [(0x210, &[0xff]), (0x228, &[0, 0x80, 0, 0]), (0x238, &[5, 0, 0, 0]), (0x250, &[0; 8])];
        for (at, bytes) in said {
            put(&mut expected, at - 0x1f1, bytes);
        }
        // No number of lines of the memory map.
        assert_eq!(page[0x1f1..0x26c], expected);
    }

    #[test]
    fn a_map_too_long_is_cut() {
        let e820 = (0..200).map(|at| line(at * 0x1000, 0x1000, E820Kind::Ram)).collect();

        let page =
            ZeroPage { header: &[], cmdline: (0, 0), initrd: None, e820, rsdp: 0, setup_data: 0 }.bytes();

        assert_eq!((page[0x1e8], page[0x2d0 + 127 * 20 + 16], page[0xcd0]), (128, 1, 0));
    }
}
