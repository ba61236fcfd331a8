use ambit_device_manager::{Board, HostFacts, MachineConfig, Reserve, Width, WidthSource, plan};
use ambit_resources::PaBits;
use proptest::prelude::*;

use super::*;
use crate::native;

const MIB: u64 = 1 << 20;

fn machine(memory: u64) -> Plan {
    interrupted(memory, None)
}

/// With a page kept free.
fn interrupted(memory: u64, page: Option<u64>) -> Plan {
    let ranges = page.and_then(|page| AddressRange::new(page, 4096)).into_iter().collect();
    let reserve = Reserve { ranges, ..Reserve::default() };
    let width = Width { bits: PaBits::new(40).unwrap(), source: WidthSource::Host };
    let facts = HostFacts { width, ..HostFacts::assumed() };
    plan(&native(), &MachineConfig { memory, reserve, ..MachineConfig::default() }, &facts).unwrap()
}

/// A kernel file of 4 KiB that wants `memory`.
fn kernel(text_offset: u64, memory: u64) -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[8..16].copy_from_slice(&text_offset.to_le_bytes());
    image[16..24].copy_from_slice(&memory.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

fn boot<'a>(plan: &Plan, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
    native().boot_image(plan, payload)
}

fn refusal(memory: u64, payload: &Payload) -> String {
    boot(&machine(memory), payload).unwrap_err().to_string()
}

fn places(image: &BootImage) -> Vec<(&'static str, u64)> {
    image.pieces.iter().map(|piece| (piece.name, piece.address)).collect()
}

#[test]
fn kernel_initrd_and_tree_follow_one_another_from_the_start_of_ram() {
    let (kernel, initrd) = (kernel(0, 27 * MIB + 1), vec![7; 5000]);
    let payload = Payload { kernel: &kernel, initrd: Some(&initrd), ..Payload::default() };

    let image = boot(&machine(128 * MIB), &payload).unwrap();

    assert_eq!(
        places(&image),
        [("kernel", 0x4000_0000), ("initrd", 0x41b1_0000), ("device tree", 0x41b2_0000)]
    );
    assert_eq!((image.entry, image.argument), (0x4000_0000, 0x41b2_0000));
}

#[test]
fn the_kernel_begins_at_its_offset_from_a_boundary() {
    let kernel = kernel(0x8_0000, MIB);

    let image = boot(&machine(128 * MIB), &Payload { kernel: &kernel, ..Payload::default() }).unwrap();

    assert_eq!(places(&image), [("kernel", 0x4008_0000), ("device tree", 0x4018_0000)]);
    assert_eq!(image.entry, 0x4008_0000);
}

#[test]
fn what_was_given_is_borrowed_and_not_copied() {
    let (kernel, initrd) = (kernel(0, MIB), vec![7; 5000]);
    let payload = Payload { kernel: &kernel, initrd: Some(&initrd), ..Payload::default() };

    let image = boot(&machine(128 * MIB), &payload).unwrap();

    let borrowed = |at: usize| matches!(image.pieces[at].bytes, Cow::Borrowed(_));
    assert!(borrowed(0) && borrowed(1));
}

#[test]
fn what_does_not_fit_says_what_it_takes_and_how_much_would_do() {
    let (small, large, initrd) = (kernel(0, 4 * MIB), kernel(0, 200 * MIB), vec![0; 96 << 20]);
    let only = |kernel| Payload { kernel, ..Payload::default() };

    assert_eq!(
        refusal(128 * MIB, &only(&large)),
        "the kernel takes 200 MiB, and of 128 MiB of memory 128 MiB are left for it; \
         give the guest at least 202 MiB"
    );
    assert_eq!(
        refusal(64 * MIB, &Payload { initrd: Some(&initrd), ..only(&small) }),
        "the initrd takes 96 MiB, and of 64 MiB of memory 60 MiB are left for it; \
         give the guest at least 102 MiB"
    );
    assert_eq!(
        refusal(100 * MIB, &Payload { initrd: Some(&initrd), ..only(&small) }),
        "the device tree takes 3 KiB, and of 100 MiB of memory 0 B are left for it; \
         give the guest at least 102 MiB"
    );
    assert_eq!(
        refusal(4096, &only(&small)),
        "the kernel takes 4 MiB, and of 4 KiB of memory 4 KiB are left for it; give the guest at least 6 MiB"
    );
}

#[test]
fn a_header_that_wants_the_whole_address_space_is_an_error_and_not_a_panic() {
    let kernel = kernel(0x8_0000, u64::MAX);

    let said = refusal(128 * MIB, &Payload { kernel: &kernel, ..Payload::default() });

    assert!(said.starts_with("the kernel takes "), "{said}");
}

#[test]
fn what_is_no_kernel_is_refused_with_what_it_is() {
    assert_eq!(
        refusal(128 * MIB, &Payload { kernel: b"\x7fELF", ..Payload::default() }),
        "the kernel is not one this board can start: it is an ELF file for another machine, as vmlinux is; \
         give it the arm64 Image (arch/arm64/boot/Image), plain or gzip-compressed"
    );
}

#[test]
fn an_empty_initrd_is_refused() {
    let kernel = kernel(0, MIB);
    let payload = Payload { kernel: &kernel, initrd: Some(&[]), ..Payload::default() };

    assert_eq!(refusal(128 * MIB, &payload), "the initrd is empty");
}

#[test]
fn an_initrd_ends_within_32_gib_of_the_kernels_window() {
    let ram = AddressRange::fixed(0x4000_0000, 64 << 30);
    let kernel = AddressRange::fixed(0x4000_0000, MIB);
    let place = |size| {
        let mut room = Room { ram, kept_free: None, next: kernel.last() + 1, enough: 0 };
        place_initrd(&mut room, kernel, size)
    };

    assert_eq!(place((32 << 30) - MIB).map(AddressRange::last), Ok(0x8_3fff_ffff));
    assert_eq!(
        place((32 << 30) - MIB + 1).unwrap_err().to_string(),
        "the initrd ends at 0x840000000, and Linux finds it only within 32 GiB of the kernel; make it smaller"
    );
}

#[test]
fn a_tree_never_crosses_a_2_mib_boundary() {
    let ram = AddressRange::fixed(0x4000_0000, 16 * MIB);
    let place = |next, size| {
        let mut room = Room { ram, kept_free: None, next, enough: 0 };
        room.take_unbroken("the device tree", size).map(AddressRange::first)
    };

    assert_eq!(place(0x401f_0000, 0x1_0000), Ok(0x401f_0000));
    assert_eq!(place(0x401f_0000, 0x1_0001), Ok(0x4020_0000));
    assert_eq!(place(0x4000_0001, TWO_MIB), Ok(0x4020_0000));
}

#[test]
fn more_memory_is_advised_only_where_it_goes_to_the_payload() {
    let (small, large) = (kernel(0, MIB), kernel(0, 33 * MIB));
    let initrd = [0; 40 << 10].repeat(1 << 10);
    let refused = |kernel, initrd, memory| {
        boot(&interrupted(memory, Some(0x4200_0000)), &Payload { kernel, initrd, ..Payload::default() })
            .unwrap_err()
            .to_string()
    };

    let has = |what: &str, free: u32| {
        format!(
            "{what}, and {free} MiB are left for it below 0x42000000, which is kept free; keep less free there (--reserve), \
             or start with a smaller kernel or initrd"
        )
    };
    let first = "the kernel takes 1 MiB, and of 1000 KiB of memory 1000 KiB are left for it; give the guest at least 4 MiB";
    assert_eq!(refused(&small, None, 1000 << 10), first);
    for memory in [30 * MIB, 32 * MIB, 1024 * MIB] {
        let free = if memory == 30 * MIB { [30, 29] } else { [32, 31] };
        assert_eq!(refused(&large, None, memory), has("the kernel takes 33 MiB", free[0]));
        assert_eq!(refused(&small, Some(&initrd), memory), has("the initrd takes 40 MiB", free[1]));
    }
}

#[test]
fn a_command_line_has_2047_characters_at_most() {
    let kernel = kernel(0, MIB);
    let (longest, long) = ("x".repeat(2047), "x".repeat(3000));
    let payload = |cmdline| Payload { kernel: &kernel, cmdline, ..Payload::default() };

    assert!(boot(&machine(128 * MIB), &payload(&longest)).is_ok());
    assert_eq!(
        refusal(128 * MIB, &payload(&long)),
        "the kernel command line has 3000 characters and Linux keeps 2047; shorten it by 953"
    );
}

#[test]
fn a_command_line_is_printable_ascii() {
    let kernel = kernel(0, MIB);
    let refused = |cmdline| refusal(128 * MIB, &Payload { kernel: &kernel, cmdline, ..Payload::default() });

    assert_eq!(refused("quiet\0"), "the kernel command line has '\\0' as character 6; use printable ASCII");
    assert_eq!(refused("name=Ĳ"), "the kernel command line has 'Ĳ' as character 6; use printable ASCII");
    assert_eq!(refused("a\nb"), "the kernel command line has '\\n' as character 2; use printable ASCII");
}

#[test]
fn the_command_line_reaches_the_tree_without_the_space_around_it() {
    assert_eq!(command_line(" console=ttyAMA0 -- -x "), Ok("console=ttyAMA0 -- -x".into()));
    assert_eq!(command_line(""), Ok(String::new()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Pieces lie in RAM, apart from each other and from what the kernel needs free; and where they do
    /// not fit, the memory that the refusal names is enough.
    #[test]
    fn pieces_lie_in_ram_and_apart_or_the_refusal_names_enough_memory(
        pages in 1..20_000_u64,
        kernel_memory in 1..40_000_000_u64,
        text_offset in 0..TWO_MIB / 4096,
        initrd in prop::option::of(1..20_000_000_usize),
        kept_free in prop::option::of(1..20_000_u64),
    ) {
        let page = kept_free.map(|page| 0x4000_0000 + page * 4096);
        let kernel = kernel(text_offset * 4096, kernel_memory);
        let initrd = initrd.map(|size| vec![0; size]);
        let payload = Payload { kernel: &kernel, initrd: initrd.as_deref(), ..Payload::default() };
        let (plan, image) = match boot(&interrupted(pages * 4096, page), &payload) {
            // Where the page is far away, nothing is in the way of what would be enough.
            Err(BootError::Interrupted { .. }) => {
                prop_assert!(page.is_some_and(|page| page < 0x4000_0000 + 66 * MIB));
                return Ok(());
            }
            Err(BootError::TooLarge { enough, .. }) => {
                let plan = interrupted(enough, page);
                let image = boot(&plan, &payload).unwrap();
                (plan, image)
            }
            other => (interrupted(pages * 4096, page), other.unwrap()),
        };

        let mut ranges: Vec<AddressRange> = image.pieces.iter()
            .map(|piece| AddressRange::new(piece.address, piece.bytes.len() as u64).unwrap())
            .collect();
        ranges.push(AddressRange::new(image.entry + 4096, kernel_memory.max(4097) - 4096).unwrap());
        for (at, range) in ranges.iter().enumerate() {
            prop_assert!(plan.ram().next().unwrap().contains(*range), "{range}");
            prop_assert!(ranges[..at].iter().all(|other| !other.overlaps(*range)), "{ranges:?}");
        }
    }
}
