//! What a kernel is told when it starts by PVH: `struct hvm_start_info` of version 1, with its lists.
//!
//! Xen `xen/include/public/arch-x86/hvm/start_info.h` and `docs/misc/pvh.pandoc`.

use ambit_resources::AddressRange;

use crate::zero_page::E820;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const HEADER: u64 = 56;
const MODULE: u64 = 32;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartInfo<'a> {
    /// Physical address of the command line, which ends with a NUL.
    pub cmdline: u64,
    pub initrd: Option<AddressRange>,
    /// Physical address of ACPI's root pointer; 0: there is none.
    pub rsdp: u64,
    /// Lowest first.
    pub map: &'a [E820],
}

impl StartInfo<'_> {
    /// As it is in memory at the physical address `at`: first itself, then the initrd as its module, then the map.
    pub fn bytes(&self, at: u64) -> Vec<u8> {
        let modules = at + HEADER;
        let map = modules + MODULE;
        let count = u32::try_from(self.map.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        let word = |bytes: &mut Vec<u8>, word: u32| bytes.extend(word.to_le_bytes());
        let long = |bytes: &mut Vec<u8>, long: u64| bytes.extend(long.to_le_bytes());
        for number in [MAGIC, VERSION, 0, u32::from(self.initrd.is_some())] {
            word(&mut bytes, number);
        }
        for address in [if self.initrd.is_some() { modules } else { 0 }, self.cmdline, self.rsdp, map] {
            long(&mut bytes, address);
        }
        word(&mut bytes, count);
        word(&mut bytes, 0);
        let (first, size) = self.initrd.map_or((0, 0), |initrd| (initrd.first(), initrd.size()));
        for number in [first, size, 0, 0] {
            long(&mut bytes, number);
        }
        for line in self.map {
            long(&mut bytes, line.range.first());
            long(&mut bytes, line.range.size());
            word(&mut bytes, line.kind as u32);
            word(&mut bytes, 0);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zero_page::E820Kind;

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn it_names_the_initrd_the_command_line_the_tables_and_the_map() {
        let map = [E820 { range: AddressRange::fixed(0x1_0000_0000, 0x2000), kind: E820Kind::Reserved }];
        let initrd = Some(AddressRange::fixed(0x20_0000, 0x1234));

        let bytes = StartInfo { cmdline: 0x8000, initrd, rsdp: 0xe0000, map: &map }.bytes(0x7000);

        let header = [0x336e_c578, 1, 0, 1, 0x7038, 0, 0x8000, 0, 0xe0000, 0, 0x7058, 0, 1, 0];
        let module = [0x20_0000, 0, 0x1234, 0, 0, 0, 0, 0];
        let line = [0, 1, 0x2000, 0, 2, 0];
        assert_eq!(words(&bytes), [header.as_slice(), &module, &line].concat());
    }

    #[test]
    fn without_an_initrd_there_is_no_module() {
        let bytes = StartInfo { cmdline: 0x8000, initrd: None, rsdp: 0, map: &[] }.bytes(0x7000);

        assert_eq!(words(&bytes)[..6], [0x336e_c578, 1, 0, 0, 0, 0]);
    }
}
