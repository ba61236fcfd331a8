use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

const ROOM: u64 = 16 << 20;

/// A kernel of 4 KiB that wants 8.
fn kernel() -> Vec<u8> {
    let mut image: Vec<u8> = (0..4096_u32).map(|at| at.to_le_bytes()[0]).collect();
    image[..HEADER].fill(0);
    put(&mut image, 16, &8192_u64.to_le_bytes());
    put(&mut image, 24, &0b1010_u64.to_le_bytes());
    put(&mut image, 56, b"ARM\x64");
    image
}

/// The same with an EFI header, whose one section is the last 1 KiB.
fn efi_kernel() -> Vec<u8> {
    let mut image = kernel();
    put(&mut image, 0, b"MZ");
    put(&mut image, 60, &64_u32.to_le_bytes());
    put(&mut image, 64, b"PE\0\0");
    put(&mut image, 70, &1_u16.to_le_bytes());
    put(&mut image, 84, &160_u16.to_le_bytes());
    put(&mut image, 64 + 24 + 160 + 16, &1024_u32.to_le_bytes());
    put(&mut image, 64 + 24 + 160 + 20, &3072_u32.to_le_bytes());
    image
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn refusal(file: &[u8]) -> String {
    Image::open(file, ROOM).unwrap_err().to_string()
}

#[test]
fn a_plain_image_is_borrowed_and_keeps_the_memory_it_asks_for() {
    let file = kernel();

    let image = Image::open(&file, ROOM).unwrap();

    assert!(matches!(image.bytes, Cow::Borrowed(_)));
    assert_eq!(image, Image { bytes: Cow::Borrowed(&file), text_offset: 0, memory: 8192 });
}

#[test]
fn an_image_longer_than_it_says_keeps_all_its_bytes() {
    let mut file = kernel();
    file.resize(10_000, 0x5a);

    assert_eq!(Image::open(&file, ROOM).unwrap().memory, 10_000);
}

#[test]
fn an_old_image_keeps_its_text_offset() {
    let mut file = kernel();
    put(&mut file, 8, &0x8_0000_u64.to_le_bytes());

    assert_eq!(Image::open(&file, ROOM).unwrap().text_offset, 0x8_0000);
}

#[test]
fn an_efi_image_starts_like_any_other() {
    let file = efi_kernel();

    assert_eq!(Image::open(&file, ROOM).unwrap().bytes, file);
}

#[test]
fn an_efi_image_that_was_cut_short_says_by_how_much() {
    assert_eq!(
        refusal(&efi_kernel()[..4095]),
        "it was cut short: it has 4095 bytes, and its last section ends at 4096; copy it again"
    );
}

#[test]
fn a_gzipped_image_is_the_image() {
    assert_eq!(Image::open(&gzip(&kernel()), ROOM).unwrap().bytes, kernel());
}

#[test]
fn gzip_members_follow_one_another_and_what_comes_after_is_ignored() {
    let image = kernel();
    for split in [1, 63, 64, 65, 2000] {
        let mut file = [gzip(&image[..split]), gzip(&image[split..])].concat();
        file.extend_from_slice(b"\0\0\0junk");

        assert_eq!(Image::open(&file, ROOM).unwrap().bytes, image, "split at {split}");
    }
}

#[test]
fn an_efi_image_that_unpacks_itself_from_gzip_is_unpacked_without_efi() {
    let packed = gzip(&kernel());
    let mut file = vec![0; 512];
    put(&mut file, 0, b"MZ\0\0zimg");
    put(&mut file, 8, &512_u32.to_le_bytes());
    put(&mut file, 12, &u32::try_from(packed.len()).unwrap().to_le_bytes());
    put(&mut file, 24, b"gzip");
    file.extend_from_slice(&packed);
    assert_eq!(Image::open(&file, ROOM).unwrap().bytes, kernel());

    file.truncate(600);
    assert!(refusal(&file).starts_with("it was cut short: it has 600 bytes"));

    put(&mut file, 24, b"zstd22");
    assert_eq!(
        refusal(&file),
        "it is an EFI image that unpacks itself from zstd22; \
         give it the arm64 Image (arch/arm64/boot/Image), plain or gzip-compressed"
    );
}

#[test]
fn a_gzipped_image_that_was_cut_short_or_damaged_says_so() {
    let file = gzip(&kernel());
    assert_eq!(refusal(&file[..file.len() - 9]), "its gzip data was cut short; copy it again");

    let mut damaged = file.clone();
    let checksum = damaged.len() - 8;
    damaged[checksum] ^= 1;
    assert!(refusal(&damaged).starts_with("its gzip data is damaged ("), "{}", refusal(&damaged));
}

#[test]
fn a_gzip_bomb_is_refused_at_the_size_of_its_room() {
    let mut bomb = kernel();
    bomb.resize(64 << 20, 0);
    let file = gzip(&bomb);

    assert_eq!(Image::open(&file, 1 << 20), Err(ImageError::GzipTooLong { room: 1 << 20 }));
}

#[test]
fn a_gzip_file_without_a_kernel_is_refused_by_its_first_bytes() {
    let nested = gzip(&gzip(&kernel()));
    assert!(refusal(&nested).starts_with("it is compressed with gzip twice; give it the arm64 Image"));

    assert!(refusal(&gzip(&[0; 1 << 20])).starts_with("it has no arm64 Image header"));
    assert_eq!(refusal(&gzip(&[])), "it is empty");
}

#[test]
fn a_packed_image_that_wants_more_than_there_is_is_refused_before_it_is_unpacked() {
    let mut image = kernel();
    put(&mut image, 8, &0x8_0000_u64.to_le_bytes());
    put(&mut image, 16, &(ROOM + 1).to_le_bytes());

    let file = gzip(&image);

    assert_eq!(
        Image::open(&file, ROOM),
        Err(ImageError::TooLarge { text_offset: 0x8_0000, memory: ROOM + 1 })
    );
}

#[test]
fn headers_that_cannot_be_started_say_why() {
    let with = |at: usize, bytes: &[u8]| {
        let mut image = kernel();
        put(&mut image, at, bytes);
        refusal(&image)
    };

    assert_eq!(refusal(&[]), "it is empty");
    assert_eq!(
        refusal(&kernel()[..63]),
        "it has 63 bytes, and an Image begins with a header of 64; it was cut short"
    );
    assert_eq!(
        refusal(b"short"),
        "it has 5 bytes, and an Image begins with a header of 64; it was cut short"
    );
    assert_eq!(
        with(24, &[1]),
        "it is big-endian, and this board starts little-endian kernels; build one without CPU_BIG_ENDIAN"
    );
    assert_eq!(
        with(16, &[0; 8]),
        "its header does not say how much memory it needs, as before Linux 3.17; use a newer one"
    );
    assert_eq!(
        with(8, &TWO_MIB.to_le_bytes()),
        "its header wants it 0x200000 bytes after a 2 MiB boundary, which is past the next; it is damaged"
    );
    assert_eq!(
        with(56, b"what"),
        "it has no arm64 Image header (the bytes ARM\\x64 at 56); \
         give it arch/arm64/boot/Image, plain or gzip-compressed"
    );
}

#[test]
fn other_kinds_of_file_are_told_by_name() {
    let file = |at: usize, sign: &[u8]| {
        let mut bytes = vec![0; 1024];
        put(&mut bytes, at, sign);
        bytes
    };
    let elf = |machine: u16| {
        let mut bytes = file(0, b"\x7fELF\x02\x01\x01");
        put(&mut bytes, 18, &machine.to_le_bytes());
        bytes
    };
    let files = [
        (elf(183), "an ELF file for arm64, as vmlinux is"),
        (elf(62), "an ELF file for x86-64, as vmlinux is"),
        (elf(2), "an ELF file for another machine, as vmlinux is"),
        (b"\x7fELF".to_vec(), "an ELF file for another machine, as vmlinux is"),
        (file(0x202, b"HdrS"), "an x86 bzImage"),
        (file(36, &[0x18, 0x28, 0x6f, 0x01]), "a 32-bit Arm zImage"),
        (file(56, b"RSC\x05"), "a RISC-V Image"),
        (file(0, b"MZ"), "an EFI program, but not an arm64 kernel"),
        (file(0, b"070701"), "a cpio archive, as an initrd is"),
        (file(0, &[0xd0, 0x0d, 0xfe, 0xed]), "a device tree or a FIT image"),
        (file(0, &[0x28, 0xb5, 0x2f, 0xfd]), "compressed with zstd"),
        (file(0, &[0xfd, b'7', b'z', b'X', b'Z', 0]), "compressed with xz"),
        (b"#!/bin/sh".to_vec(), "a script"),
    ];

    for (bytes, what) in files {
        assert_eq!(
            refusal(&bytes),
            format!(
                "it is {what}; give it the arm64 Image (arch/arm64/boot/Image), plain or gzip-compressed"
            )
        );
    }
}

proptest! {
    #[test]
    fn no_file_makes_it_panic_or_grow_past_its_room(
        start in prop_oneof![Just(kernel()), Just(efi_kernel()), Just(gzip(&kernel()))],
        damage in prop::collection::vec((0..4096_usize, any::<u8>()), 0..16),
        length in 0..5000_usize,
        room in 0..20_000_u64,
    ) {
        let mut file = start;
        for (at, byte) in damage {
            if let Some(place) = file.get_mut(at % 300) {
                *place = byte;
            }
        }
        file.truncate(length);

        if let Ok(Image { bytes: Cow::Owned(image), .. }) = Image::open(&file, room) {
            prop_assert!(image.len() as u64 <= room);
        }
    }
}
