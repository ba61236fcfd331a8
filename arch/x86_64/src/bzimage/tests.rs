use proptest::prelude::*;

use super::*;

const CODE: usize = 2 * 512;

/// A kernel of one setup sector and 1 KiB of code, which wants to be at 16 MiB and to have 2 MiB there.
pub fn image() -> Vec<u8> {
    let mut file = vec![0; CODE];
    file.extend((0..1024_u32).map(|byte| byte.to_le_bytes()[0]));
    let fields: [(usize, &[u8]); 11] = [
        (SETUP_SECTORS, &[1]),
        (CODE_SIZE, &64_u32.to_le_bytes()),
        (BOOT_FLAG, &[0x55, 0xaa]),
        (HEADER_LENGTH, &[0x6a]),
        (MAGIC, b"HdrS"),
        (VERSION, &0x20f_u16.to_le_bytes()),
        (LOAD_FLAGS, &[1]),
        (INITRD_LAST, &0x7fff_ffff_u32.to_le_bytes()),
        (MORE_FLAGS, &[0x3f]),
        (CMDLINE_SIZE, &2047_u32.to_le_bytes()),
        (PREFERRED, &(16 * MIB).to_le_bytes()),
    ];
    for (at, bytes) in fields {
        put(&mut file, at, bytes);
    }
    put(&mut file, INIT_SIZE, &(2_u32 << 20).to_le_bytes());
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn refusal(at: usize, bytes: &[u8]) -> String {
    let mut file = image();
    put(&mut file, at, bytes);
    BzImage::open(&file).unwrap_err().to_string()
}

#[test]
fn a_kernel_is_its_code_and_what_its_header_wants() {
    let file = image();

    let expected = BzImage {
        header: &file[0x1f1..0x26c],
        code: &file[CODE..],
        preferred: 16 * MIB,
        memory: 2 * MIB,
        initrd_last: 0x7fff_ffff,
        cmdline: 2047,
    };
    assert_eq!(BzImage::open(&file), Ok(expected));
}

#[test]
fn a_kernel_that_wants_too_little_has_what_the_file_has() {
    let mut file = image();
    put(&mut file, INIT_SIZE, &[0; 4]);

    assert_eq!(BzImage::open(&file).unwrap().memory, 1024);
}

#[test]
fn what_cannot_be_started_is_refused_with_what_is_wrong_and_what_would_help() {
    let damaged = "it is damaged, copy it again";

    let said = [
        (refusal(BOOT_FLAG, &[0]), format!("it lacks the boot flag 0xaa55 at 510; {damaged}")),
        (refusal(LOAD_FLAGS, &[0]), "it is a zImage, which is loaded below 1 MiB; build a bzImage".into()),
        (
            refusal(VERSION, &[0x0a, 2]),
            "its boot protocol is 2.10, and the 64-bit entry came with 2.12; use Linux 3.8 or newer".into(),
        ),
        (
            refusal(MORE_FLAGS, &[0x3e]),
            "it is a 32-bit kernel, and this board starts kernels by their 64-bit entry; use one for amd64"
                .into(),
        ),
        (
            refusal(HEADER_LENGTH, &[0x61]),
            format!("its setup header has 114 bytes, and that of 2.12 has 115; {damaged}"),
        ),
        (
            refusal(CODE_SIZE, &[32]),
            format!("its code has 512 bytes, and its 64-bit entry is at 512; {damaged}"),
        ),
        (
            refusal(PREFERRED, &[0, 0, 0, 0]),
            format!("its pref_address is 0x0, and the first MiB is what it is started with; {damaged}"),
        ),
        (
            refusal(PREFERRED, &[0xff; 8]),
            format!(
                "its init_size is 0x200000, and from its pref_address 0xffffffffffffffff that passes the end \
                 of all addresses; {damaged}"
            ),
        ),
    ];

    for (said, expected) in said {
        assert_eq!(said, expected);
    }
}

#[test]
fn a_kernel_cut_short_inside_any_field_of_its_header_is_refused_with_that_field() {
    let file = image();

    for (what, at, size) in FIELDS {
        for length in at..at + size {
            let needs = (at + size) as u64;
            let expected = BzImageError::CutShort { what, has: length as u64, needs };
            assert_eq!(BzImage::open(&file[..length]), Err(expected));
        }
    }
    assert_eq!(
        BzImage::open(&file[..0x22f]).unwrap_err().to_string(),
        "it was cut short: it has 559 bytes, and its initrd_addr_max ends at 560; copy it again"
    );
}

#[test]
fn a_kernel_cut_short_anywhere_is_refused() {
    let file = image();

    for length in 0..file.len() {
        let refused = BzImage::open(&file[..length]);
        assert!(matches!(refused, Err(BzImageError::CutShort { .. })), "{length}: {refused:?}");
    }
}

#[test]
fn what_follows_the_code_is_a_signature_and_not_loaded() {
    let mut file = image();
    file.extend([0x55; 100]);

    assert_eq!(BzImage::open(&file).unwrap().code.len(), 1024);
}

proptest! {
    /// Whatever is in it: no panic, and what is accepted keeps its promises.
    #[test]
    fn any_damage_is_refused_or_leaves_a_kernel(
        places in prop::collection::vec((0x1f1..0x270_usize, any::<u8>()), 1..12),
    ) {
        let mut file = image();
        for (at, byte) in places {
            file[at] = byte;
        }

        if let Ok(image) = BzImage::open(&file) {
            prop_assert!(image.preferred >= MIB && image.preferred.checked_add(image.memory).is_some());
            prop_assert!(image.code.len() as u64 > ENTRY && image.memory >= image.code.len() as u64);
            prop_assert!((HEADER + image.header.len()) <= HEADER_MOST);
        }
    }
}
