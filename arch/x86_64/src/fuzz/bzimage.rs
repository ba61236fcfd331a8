//! Setup headers of any kind, with code behind them.

use ambit_device_manager::CpuMode;
use ambit_resources::AddressRange;
use arbitrary::Result;

use super::machine::Machine;
use ambit_device_manager::fuzz::damage;

use super::Input;
use crate::boot;
use crate::kernel::Kernel;

const MIB: u64 = 1 << 20;

/// Places in the file, by Linux's `Documentation/arch/x86/boot.rst`.
const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const INITRD_ADDR_MAX: usize = 0x22c;
const CMDLINE_SIZE: usize = 0x238;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

pub fn body(input: &mut Input<'_>) -> Result<()> {
    let Some(machine) = Machine::new(input)? else { return Ok(()) };
    let mut file = file(input)?;
    let whole = damage(input, &mut file, 0)?;
    let Ok(opened) = Kernel::open(&file) else {
        assert!(!whole, "nothing is wrong with it");
        return Ok(());
    };
    let started = machine.start(&file);
    if !matches!(opened, Kernel::Image(_)) {
        return Ok(());
    }
    let (pref, size) = (long(&file, PREF_ADDRESS), word(&file, SYSSIZE) as usize * 16);
    let code = (usize::from(if file[SETUP_SECTS] == 0 { 4 } else { file[SETUP_SECTS] }) + 1) * 512;
    let code = &file[code..code + size];
    let own = AddressRange::new(pref, u64::from(word(&file, INIT_SIZE)).max(size as u64));
    let own = own.expect("it does not pass the end of all addresses");
    let (last, most) = (u64::from(word(&file, INITRD_ADDR_MAX)), word(&file, CMDLINE_SIZE) as usize);
    let most = if most == 0 { 255 } else { most };
    let Ok(image) = started else {
        let odd = machine.cmdline.len() > most.min(4095) || !machine.cmdline.is_ascii();
        let odd = odd || machine.cmdline.bytes().any(|byte| !matches!(byte, b' '..=b'~'));
        assert!(odd || machine.initrd.as_ref().is_some_and(Vec::is_empty) || !machine.has_room(&[own], last));
        return Ok(());
    };
    let (start, initrd, line) = machine.check(&image);
    assert!(own.first() >= MIB);
    start.holds(own, code);
    assert!(line.len() <= most);
    assert_eq!((image.entry, image.mode), (pref + 0x200, CpuMode::Usual));
    let (at, page) = start.piece("zero page").expect("it is told by one");
    assert_eq!((at.first(), at.size()), (image.argument, 4096));
    let (first, size) = initrd.map_or((0, 0), |initrd| (initrd.first(), initrd.size()));
    assert!(initrd.is_none_or(|initrd| initrd.last() <= last));
    let told = [0x228, CMDLINE_SIZE, 0x218, 0x21c].map(|at| u64::from(word(page, at)));
    if initrd.is_some() {
        assert_eq!(told, [boot::CMDLINE.into(), line.len() as u64, first, size]);
    } else {
        assert_eq!(told[..2], [boot::CMDLINE.into(), line.len() as u64]);
    }
    // The rest of the header is the kernel's own: its version and where it wants to be among it.
    assert_eq!((long(page, PREF_ADDRESS), page[0x206]), (pref, file[0x206]));
    Ok(())
}

/// A good one, wherever it wants to be.
fn file(input: &mut Input<'_>) -> Result<Vec<u8>> {
    let sectors: u8 = *input.choose(&[1, 0, 4, 30])?;
    let blocks: u8 = input.int_in_range(33..=100)?;
    let code = (usize::from(if sectors == 0 { 4 } else { sectors }) + 1) * 512;
    let mut file = vec![0; code];
    file.extend((0..usize::from(blocks) * 16).map(|at| at as u8));
    let version: u16 = *input.choose(&[0x20f, 0x20c, 0x20d])?;
    let end: u8 = *input.choose(&[0x6a, 0x62, 0xff])?;
    let pref =
        MIB * u64::from(*input.choose(&[1_u8, 2, 16, 63, 64])?) + u64::from(input.arbitrary::<u8>()?) * 16;
    let memory: u32 = *input.choose(&[0, 1 << 20, 2 << 20, 0x1234, 62 << 20, u32::MAX])?;
    let last: u32 = *input.choose(&[0x7fff_ffff, 0x0140_0000, 0x0123_4567, u32::MAX, 0])?;
    let cmdline: u32 = *input.choose(&[2047, 0, 40, 255, u32::MAX])?;
    let fields: [(usize, &[u8]); 12] = [
        (SETUP_SECTS, &[sectors]),
        (SYSSIZE, &[blocks]),
        (0x1fe, &[0x55, 0xaa]),
        (0x201, &[end]),
        (0x202, b"HdrS"),
        (0x206, &version.to_le_bytes()),
        (0x211, &[1]),
        (INITRD_ADDR_MAX, &last.to_le_bytes()),
        (0x236, &[input.arbitrary::<u8>()? | 1]),
        (CMDLINE_SIZE, &cmdline.to_le_bytes()),
        (PREF_ADDRESS, &pref.to_le_bytes()),
        (INIT_SIZE, &memory.to_le_bytes()),
    ];
    for (at, bytes) in fields {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    Ok(file)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
