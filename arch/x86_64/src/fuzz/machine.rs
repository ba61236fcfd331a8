//! A small machine, what a kernel is given on it, and what must be there when it starts.

use ambit_device_manager::fuzz::Start;
use ambit_device_manager::{BootError, BootImage, HostFacts, MachineConfig, Payload, Plan, Reserve, plan};
use ambit_resources::AddressRange;
use arbitrary::Result;

use super::Input;
use crate::{boot, pc};

const MIB: u64 = 1 << 20;

pub struct Machine {
    pub plan: Plan,
    pub initrd: Option<Vec<u8>>,
    pub cmdline: String,
    seed: Option<[u8; 64]>,
}

impl Machine {
    /// Of 1 to 64 MiB, some with a hole in it. `None`: there is no such machine.
    pub fn new(input: &mut Input<'_>) -> Result<Option<Self>> {
        let memory = MIB * u64::from(*input.choose(&[64_u8, 1, 2, 3, 17])?) + odd(input)?;
        let mut reserve = Reserve::default();
        if input.ratio(1, 4)? {
            let first = MIB / 2 * u64::from(input.int_in_range(0..=40_u8)?) + odd(input)?;
            reserve.ranges.extend(AddressRange::new(first, odd(input)? + 1));
        }
        let config = MachineConfig { memory, reserve, ..MachineConfig::default() };
        let initrd = match input.int_in_range(0..=7)? {
            0 => Some(Vec::new()),
            1..=4 => Some(vec![0x5a; usize::from(input.arbitrary::<u16>()?)]),
            5 => Some(vec![0x5a; 2 << 20]),
            _ => None,
        };
        let mut cmdline = "a".repeat(*input.choose(&[0, 9, 39, 40, 41, 254, 255, 256, 2047, 2048, 5000])?);
        if input.ratio(1, 8)? {
            cmdline.push_str(input.arbitrary()?);
        }
        let seed = input.arbitrary::<bool>()?.then_some([7; 64]);
        let plan = plan(&pc(), &config, &HostFacts::assumed()).ok();
        Ok(plan.map(|plan| Self { plan, initrd, cmdline, seed }))
    }

    pub fn start<'a>(&'a self, kernel: &'a [u8]) -> Result<BootImage<'a>, BootError> {
        let (initrd, cmdline) = (self.initrd.as_deref(), self.cmdline.as_str());
        boot::image(&self.plan, &Payload { kernel, initrd, cmdline, seed: self.seed })
    }

    /// What holds of all kernels, and what the kernel is told: where its initrd is, and its command line.
    pub fn check<'a>(&self, image: &'a BootImage<'_>) -> (Start<'a>, Option<AddressRange>, String) {
        let start = Start::new(&self.plan, image);
        let initrd = start.place("initrd");
        assert_eq!(initrd.map(AddressRange::size), self.initrd.as_ref().map(|initrd| initrd.len() as u64));
        if let (Some(range), Some(bytes)) = (initrd, &self.initrd) {
            assert!(range.first().is_multiple_of(4096) && range.last() <= u32::MAX.into(), "{range}");
            start.holds(range, bytes);
        }
        let (at, line) = start.piece("command line").expect("there always is one");
        assert_eq!((at.first(), line.last()), (boot::CMDLINE.into(), Some(&0)));
        let line = String::from_utf8(line[..line.len() - 1].to_vec()).expect("it is ASCII");
        assert!(
            line.starts_with(self.cmdline.trim()) && line.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        );
        (start, initrd, line)
    }

    /// Whether nothing is to be said against a kernel that has these places, and an initrd up to `last`.
    pub fn has_room(&self, ranges: &[AddressRange], last: u64) -> bool {
        let banks: Vec<AddressRange> = self.plan.ram().filter(|bank| bank.last() < pc::HOLE).collect();
        let is_ram = |range: &AddressRange| banks.iter().any(|bank| bank.contains(*range));
        if !ranges.iter().all(|range| range.first() >= MIB && is_ram(range)) {
            return false;
        }
        let end = ranges.iter().map(|range| range.last()).max().unwrap_or(0);
        let initrd = self.initrd.as_ref().map(|bytes| bytes.len() as u64);
        initrd.is_none_or(|size| {
            let in_bank = |bank: &AddressRange| {
                let first = bank.first().max(end + 1).next_multiple_of(4096);
                AddressRange::new(first, size).filter(|range| bank.contains(*range))
            };
            banks.iter().find_map(in_bank).is_some_and(|range| range.last() <= last)
        })
    }
}

/// A few bytes more than a round number.
fn odd(input: &mut Input<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=3)? {
        0 => u64::from(input.arbitrary::<u16>()?),
        1 => 4096,
        _ => 0,
    })
}
