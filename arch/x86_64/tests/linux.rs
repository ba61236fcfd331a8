//! Linux on the board `pc`: where a bzImage and its initrd go, what it is told, and why some are refused.

use ambit_device_manager::{
    Board, BootError, BootImage, CpuMode, HostFacts, MachineConfig, Payload, Plan, Reserve, plan,
};
use ambit_resources::AddressRange;
use ambit_x86_64::{acpi, boot, pc};

const MIB: u64 = 1 << 20;

fn planned(memory: u64) -> Plan {
    let config = MachineConfig { memory, ..MachineConfig::default() };
    plan(&pc(), &config, &HostFacts::assumed()).unwrap()
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage of 1 KiB of code that wants to be at 16 MiB, to have 2 MiB there, its initrd below 20 MiB, and a command
/// line of 40 characters.
fn image() -> Vec<u8> {
    let mut file = vec![0; 1024];
    file.extend([0x55; 1024]);
    let words: [(usize, &[u8]); 9] = [
        (0x1f1, &[1, 0, 0, 64]),
        (0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]),
        (0x202, b"HdrS\x0f\x02"),
        (0x211, &[1]),
        (0x22c, &[0xff, 0xff, 0x3f, 1]),
        (0x236, &[1, 0]),
        (0x238, &[40]),
        (0x258, &[0, 0, 0, 1]),
        (0x260, &[0, 0, 0x20]),
    ];
    for (at, bytes) in words {
        put(&mut file, at, bytes);
    }
    file
}

/// A program at 2 MiB with a note that it begins 4 bytes after that by PVH.
fn vmlinux() -> Vec<u8> {
    let mut file = vec![0; 64 + 2 * 56];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &[2, 0, 62]);
    put(&mut file, 24, &(2 * MIB).to_le_bytes());
    put(&mut file, 32, &[64]);
    put(&mut file, 54, &[56, 0, 2]);
    let load = [1, 0, 2 * MIB, 2 * MIB, 4, 4096, 0];
    let note = [4, 176, 0, 0, 20, 20, 0];
    for (at, header) in [(64, load), (120, note)] {
        let bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        put(&mut file, at, &bytes);
    }
    file.extend([4, 4, 18].iter().flat_map(|word: &u32| word.to_le_bytes()));
    file.extend(b"Xen\0");
    file.extend([4, 0, 0x20, 0]);
    file
}

fn booted<'a>(memory: u64, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
    pc().boot_image(&planned(memory), payload)
}

fn piece<'a>(image: &'a BootImage, name: &str) -> (u64, &'a [u8]) {
    let piece = image.pieces.iter().find(|piece| piece.name == name).unwrap();
    (piece.address, &piece.bytes)
}

#[test]
fn a_kernel_is_where_it_wants_to_be_and_its_initrd_after_all_it_needs() {
    let kernel = image();
    let payload = Payload { kernel: &kernel, initrd: Some(b"initrd"), cmdline: "console=ttyS0", seed: None };

    let image = booted(64 * MIB, &payload).unwrap();

    let argument = u64::from(boot::ZERO_PAGE);
    assert_eq!((image.entry, image.argument, image.mode), (16 * MIB + 0x200, argument, CpuMode::Usual));
    assert_eq!(piece(&image, "kernel"), (16 * MIB, [0x55; 1024].as_slice()));
    assert_eq!(piece(&image, "initrd"), (18 * MIB, b"initrd".as_slice()));
    assert_eq!(piece(&image, "command line").1, b"console=ttyS0\0");
    assert_eq!(piece(&image, "ACPI tables").0, acpi::ROOT);
    let (_, page) = piece(&image, "zero page");
    assert_eq!(
        (&page[0x70..0x78], &page[0x258..0x260]),
        (&[0, 0, 0x0e, 0, 0, 0, 0, 0][..], &kernel[0x258..0x260])
    );
}

#[test]
fn no_two_pieces_overlap() {
    let kernel = image();
    let seed = Some([7; 64]);
    let payload = Payload { kernel: &kernel, initrd: Some(&[1; 5000]), cmdline: &"x".repeat(40), seed };
    let mut ranges: Vec<(u64, u64)> = booted(64 * MIB, &payload)
        .unwrap()
        .pieces
        .iter()
        .map(|piece| (piece.address, piece.address + piece.bytes.len() as u64))
        .collect();

    ranges.sort_unstable();

    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");
}

#[test]
fn a_seed_is_one_more_thing_that_the_zero_page_leads_to() {
    let kernel = image();

    let image =
        booted(64 * MIB, &Payload { kernel: &kernel, seed: Some([7; 64]), ..Payload::default() }).unwrap();

    let (_, page) = piece(&image, "zero page");
    let (at, seed) = piece(&image, "seed");
    assert_eq!(page[0x250..0x258], at.to_le_bytes());
    assert_eq!(seed, [&[0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 64, 0, 0, 0], [7; 64].as_slice()].concat());
}

#[test]
fn a_program_with_a_note_begins_by_pvh() {
    let kernel = vmlinux();
    let payload = Payload { kernel: &kernel, initrd: Some(b"initrd"), cmdline: "a", seed: None };

    let image = booted(64 * MIB, &payload).unwrap();

    let at = u64::from(boot::ZERO_PAGE);
    assert_eq!((image.entry, image.argument, image.mode), (2 * MIB + 4, at, CpuMode::Protected));
    let (place, info) = piece(&image, "start info");
    assert_eq!((place, &info[..4]), (at, [0x78, 0xc5, 0x6e, 0x33].as_slice()));
    // The root pointer of ACPI; the module.
    assert_eq!((&info[32..36], &info[56..60]), (&[0, 0, 0x0e, 0][..], &[0, 0x10, 0x20, 0][..]));
}

#[test]
fn what_the_kernel_would_not_find_or_read_is_refused_with_its_limit() {
    let kernel = image();
    let said = |memory, initrd, cmdline: &str| {
        let payload = Payload { kernel: &kernel, initrd, cmdline, seed: None };
        booted(memory, &payload).unwrap_err().to_string()
    };
    let large = vec![0; 3 << 20];

    assert_eq!(
        said(64 * MIB, Some(&large), ""),
        "the initrd has 3145728 bytes, and this kernel finds one up to 0x13fffff (its initrd_addr_max), which leaves \
         2 MiB after the kernel; make it smaller"
    );
    assert_eq!(
        said(64 * MIB, None, &"x".repeat(41)),
        "the kernel command line has 41 characters, and Linux keeps 40; shorten it by 1"
    );
    assert_eq!(
        said(17 * MIB, None, ""),
        "the kernel takes 2 MiB, and of 17 MiB of memory 1 MiB are left for it; give the guest at least 18 MiB"
    );
}

#[test]
fn a_memory_map_longer_than_linux_reads_is_refused_however_it_begins() {
    let refused = |count: u64| {
        // Pages that nobody may use, each with a page of RAM behind it.
        let ranges =
            (0..count).filter_map(|place| AddressRange::new((1 << 30) + place * 8192, 4096)).collect();
        let reserve = Reserve { ranges, ..Reserve::default() };
        let config = MachineConfig { memory: 2 << 30, reserve, ..MachineConfig::default() };
        let plan = plan(&pc(), &config, &HostFacts::assumed()).unwrap();
        [image(), vmlinux()].map(|kernel| {
            let payload = Payload { kernel: &kernel, initrd: None, cmdline: "", seed: None };
            pc().boot_image(&plan, &payload).err().map(|error| error.to_string())
        })
    };
    let lines = |count: usize| {
        Some(format!("the guest's memory map has {count} lines, and Linux reads 128; reserve fewer ranges"))
    };

    // Each range is two lines more.
    let first = (0..128).find(|count| refused(*count) != [None, None]).unwrap();
    assert!((50..64).contains(&first), "{first}");
    let [short, long] = [refused(first), refused(first + 40)];
    let least = if short[0] == lines(129) { 129 } else { 130 };
    assert_eq!(short, [lines(least), lines(least)]);
    assert_eq!(long, [lines(least + 80), lines(least + 80)]);
}

#[test]
fn an_initrd_and_a_command_line_may_be_just_as_long_as_the_kernel_says() {
    let kernel = image();
    let whole = |initrd: usize, cmdline: usize| {
        let (initrd, cmdline) = (vec![1; initrd], "x".repeat(cmdline));
        let payload = Payload { kernel: &kernel, initrd: Some(&initrd), cmdline: &cmdline, seed: None };
        booted(64 * MIB, &payload)
            .map(|image| image.pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>())
    };
    let smallest = whole(1, 0).unwrap();

    // From 18 MiB up to its initrd_addr_max, which is the last byte of 20 MiB.
    assert_eq!(whole(2 << 20, 40), Ok(smallest + (2 << 20) - 1 + 40));
    assert!(matches!(whole((2 << 20) + 1, 40), Err(BootError::Initrd(_))));
    assert!(matches!(whole(2 << 20, 41), Err(BootError::Cmdline(_))));
    assert!(matches!(whole(0, 0), Err(BootError::Initrd(_))));
}

/// Programs and kernels that say nothing of it have what Linux has had for long.
#[test]
fn a_command_line_that_no_limit_is_said_of_has_that_of_its_kind() {
    let mut old = image();
    put(&mut old, 0x238, &[0]);
    let fits = |kernel: &[u8], length: usize| {
        let cmdline = "x".repeat(length);
        booted(64 * MIB, &Payload { kernel, cmdline: &cmdline, ..Payload::default() }).is_ok()
    };

    assert_eq!([255, 256].map(|length| fits(&old, length)), [true, false]);
    assert_eq!([2047, 2048].map(|length| fits(&vmlinux(), length)), [true, false]);
}

#[test]
fn a_damaged_or_foreign_kernel_is_refused_by_the_board_with_what_it_is() {
    let with = |file: Vec<u8>, at: usize, bytes: &[u8]| {
        let mut file = file;
        put(&mut file, at, bytes);
        file
    };
    let cut = |mut file: Vec<u8>, length: usize| {
        file.truncate(length);
        file
    };
    let end = u64::MAX.to_le_bytes();
    // In the first program header: where in the file, at which address, how much of the file, how much memory.
    let [offset, physical, in_file, memory] = [8, 24, 32, 40].map(|field| 64 + field);
    let cases = [
        (
            with(vmlinux(), 4, &[1]),
            "it is a 32-bit ELF file; give it a bzImage or a static 64-bit ELF program",
        ),
        (
            with(image(), 0x236, &[0]),
            "it is a 32-bit kernel, and this board starts kernels by their 64-bit entry",
        ),
        (with(image(), 0x206, &[0x0b, 2]), "its boot protocol is 2.11, and the 64-bit entry came with 2.12"),
        (cut(image(), 0x260), "it was cut short: it has 608 bytes, and its init_size ends at 612"),
        (cut(image(), 0x200), "it is no ELF file"),
        (with(vmlinux(), offset, &end), "it was cut short: it has 196 bytes, and its segment 0 ends at"),
        (with(vmlinux(), physical, &end), "segment 0 passes the end of all addresses"),
        (
            with(vmlinux(), in_file, &end),
            "segment 0 has 18446744073709551615 bytes in the file and 4096 in memory",
        ),
        (with(vmlinux(), memory, &end), "segment 0 passes the end of all addresses"),
        (
            with(vmlinux(), 32, &end),
            "it was cut short: it has 196 bytes, and its table of program headers ends at",
        ),
    ];

    for (kernel, why) in cases {
        let said =
            booted(64 * MIB, &Payload { kernel: &kernel, ..Payload::default() }).unwrap_err().to_string();
        let expected = format!("the kernel is not one this board can start: {why}");
        assert!(said.starts_with(&expected), "{said}\nand not\n{expected}");
    }
}

/// In RAM, or not at all: none of these wraps into something small.
#[test]
fn a_program_that_wants_far_more_than_there_can_be_is_refused() {
    for memory in [1 << 40, (1 << 63) - 1, u64::MAX - 2 * MIB] {
        let mut kernel = vmlinux();
        put(&mut kernel, 64 + 40, &memory.to_le_bytes());

        let refused = booted(64 * MIB, &Payload { kernel: &kernel, ..Payload::default() }).unwrap_err();

        let expected =
            "and RAM for it ends at 0xc0000000, for devices; make it smaller, or link it elsewhere";
        assert!(refused.to_string().ends_with(expected), "{refused}");
    }
}
