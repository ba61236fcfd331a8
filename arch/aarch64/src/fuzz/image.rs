//! Headers of any kind, packed in any way, with an initrd and a command line.

use std::io::Write as _;

use ambit_device_manager::fuzz::{Start, damage};
use ambit_device_manager::{Board as _, HostFacts, MachineConfig, Payload, Plan, Reserve, plan};
use ambit_resources::AddressRange;
use arbitrary::{Result, Unstructured};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::image::Image;
use crate::native;

type Input<'a> = Unstructured<'a>;

const MIB: u64 = 1 << 20;
const BASE: u64 = 0x4000_0000;
/// The places in an `Image` of how far it is from a boundary and of how much memory is its own.
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;

pub fn body(input: &mut Input<'_>) -> Result<()> {
    let Some(plan) = machine(input)? else { return Ok(()) };
    let initrd = match input.int_in_range(0..=7)? {
        0 => Some(Vec::new()),
        1..=4 => Some(vec![0x5a; usize::from(input.arbitrary::<u16>()?)]),
        5 => Some(vec![0x5a; 2 << 20]),
        _ => None,
    };
    let mut cmdline = "a".repeat(*input.choose(&[0, 9, 2046, 2047, 2048, 5000])?);
    if input.ratio(1, 8)? {
        cmdline.push_str(input.arbitrary()?);
    }
    let seed = input.arbitrary::<bool>()?.then_some([7; 64]);
    let mut kernel = kernel(input)?;
    let mut whole = damage(input, &mut kernel, 1)?;
    let mut file = pack(input, &kernel)?;
    if input.ratio(1, 4)? {
        whole &= damage(input, &mut file, 1)?;
    }
    let ram = plan.ram().next().expect("a machine has RAM");
    let payload = Payload { kernel: &file, initrd: initrd.as_deref(), cmdline: &cmdline, seed };
    let started = native().boot_image(&plan, &payload);
    if whole {
        assert_eq!(Image::open(&file, u64::MAX).map(|image| image.bytes.into_owned()), Ok(kernel));
    }
    let Ok(started) = started else { return Ok(()) };
    let Ok(opened) = Image::open(&file, ram.size()) else { panic!("what is no kernel was started") };
    check(&plan, &started, &opened.bytes, initrd.as_deref());
    Ok(())
}

/// The kernel has all it asks for, and nothing else is there.
fn check(plan: &Plan, started: &ambit_device_manager::BootImage<'_>, kernel: &[u8], initrd: Option<&[u8]>) {
    let start = Start::new(plan, started);
    let long = |at: usize| u64::from_le_bytes(kernel[at..at + 8].try_into().expect("a header has 64 bytes"));
    let own = AddressRange::new(started.entry, long(IMAGE_SIZE).max(kernel.len() as u64));
    start.holds(own.expect("it has an end"), kernel);
    assert_eq!(started.entry % (2 * MIB), long(TEXT_OFFSET));
    let place = start.place("initrd");
    assert_eq!(place.is_some(), initrd.is_some());
    for (place, bytes) in place.into_iter().zip(initrd) {
        start.holds(place, bytes);
        assert!(place.last() - started.entry / (1 << 30) * (1 << 30) < 32 << 30);
    }
    let (place, tree) = start.piece("device tree").expect("there always is one");
    assert_eq!((place.first(), &tree[..4]), (started.argument, &0xd00d_feed_u32.to_be_bytes()[..]));
    assert!(place.first().is_multiple_of(8) && place.first() / (2 * MIB) == place.last() / (2 * MIB));
}

/// Of 1 to 64 MiB, some with a hole in it. `None`: there is no such machine.
fn machine(input: &mut Input<'_>) -> Result<Option<Plan>> {
    let memory = MIB * u64::from(*input.choose(&[64_u8, 1, 2, 3, 17])?) + odd(input)?;
    let mut reserve = Reserve::default();
    if input.ratio(1, 4)? {
        let first = BASE + MIB / 2 * u64::from(input.int_in_range(0..=40_u8)?) + odd(input)?;
        reserve.ranges.extend(AddressRange::new(first, odd(input)? + 1));
    }
    let config = MachineConfig { memory, reserve, ..MachineConfig::default() };
    Ok(plan(&native(), &config, &HostFacts::assumed()).ok())
}

/// A few bytes more than a round number.
fn odd(input: &mut Input<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=3)? {
        0 => u64::from(input.arbitrary::<u16>()?),
        1 => 4096,
        _ => 0,
    })
}

/// A good one, wherever it wants to be and however much it wants.
fn kernel(input: &mut Input<'_>) -> Result<Vec<u8>> {
    let code: u16 = input.int_in_range(64..=2000)?;
    let mut kernel: Vec<u8> = (0..code).map(|at| at as u8).collect();
    kernel[..64].fill(0);
    let offset: u64 = *input.choose(&[0, 0x8_0000, 0x1f_ffff, 0x1000])?;
    let memory: u64 = *input.choose(&[MIB, 1, 0x2345, 16 * MIB, 63 * MIB, 64 * MIB, u64::MAX])?;
    kernel[TEXT_OFFSET..IMAGE_SIZE].copy_from_slice(&offset.to_le_bytes());
    kernel[IMAGE_SIZE..IMAGE_SIZE + 8].copy_from_slice(&memory.to_le_bytes());
    kernel[24] = input.arbitrary::<u8>()? & 0xfe;
    kernel[56..60].copy_from_slice(b"ARM\x64");
    if kernel.len() > 200 && input.arbitrary::<bool>()? {
        // As an EFI program too, whose one section ends where the file does.
        let (end, first) = (u32::from(code), u32::from(input.int_in_range(0..=code)?));
        kernel[..2].copy_from_slice(b"MZ");
        kernel[60..64].copy_from_slice(&64_u32.to_le_bytes());
        kernel[64..88].copy_from_slice(b"PE\0\0\x64\xaa\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\x08\0\x06\x02");
        kernel[96 + 16..96 + 20].copy_from_slice(&(end - first).to_le_bytes());
        kernel[96 + 20..96 + 24].copy_from_slice(&first.to_le_bytes());
    }
    Ok(kernel)
}

fn pack(input: &mut Input<'_>, kernel: &[u8]) -> Result<Vec<u8>> {
    let gzip = |bytes: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).and_then(|()| packed.finish()).expect("a vector takes everything")
    };
    Ok(match input.int_in_range(0..=5)? {
        0 => gzip(kernel),
        1 => {
            // Two members, which are one file.
            let (first, second) = kernel.split_at(usize::from(input.arbitrary::<u16>()?) % kernel.len());
            [gzip(first), gzip(second)].concat()
        }
        2 => {
            // Linux drivers/firmware/efi/libstub/zboot-header.S.
            let packed = gzip(kernel);
            let mut file = vec![0; 64];
            file[..8].copy_from_slice(b"MZ\0\0zimg");
            file[8..12].copy_from_slice(&64_u32.to_le_bytes());
            file[12..16].copy_from_slice(&(packed.len() as u32).to_le_bytes());
            file[24..28].copy_from_slice(b"gzip");
            [file, packed].concat()
        }
        _ => kernel.to_vec(),
    })
}
