use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// A program of one segment at 1 MiB: 16 bytes in the file, at its end, and 32 in memory.
fn program() -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    file.extend(0..16_u8);
    put(&mut file, 0, IDENT);
    put(&mut file, CLASS, &[CLASS_64, LITTLE, 1]);
    put(&mut file, TYPE, &TYPE_EXECUTABLE.to_le_bytes());
    put(&mut file, MACHINE, &MACHINE_X86_64.to_le_bytes());
    put(&mut file, ENTRY, &(MIB + 4).to_le_bytes());
    put(&mut file, PROGRAM_HEADERS, &64_u64.to_le_bytes());
    put(&mut file, PROGRAM_HEADER_SIZE, &56_u16.to_le_bytes());
    put(&mut file, PROGRAM_HEADER_COUNT, &1_u16.to_le_bytes());
    put(&mut file, 64, &LOAD.to_le_bytes());
    put(&mut file, 64 + OFFSET, &120_u64.to_le_bytes());
    put(&mut file, 64 + PHYSICAL, &MIB.to_le_bytes());
    put(&mut file, 64 + FILE_SIZE, &16_u64.to_le_bytes());
    put(&mut file, 64 + MEMORY_SIZE, &32_u64.to_le_bytes());
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = program();
    put(&mut file, at, bytes);
    file
}

fn refusal(file: &[u8]) -> String {
    Program::open(file).unwrap_err().to_string()
}

#[test]
fn a_program_is_its_entry_and_its_segments() {
    let file = program();

    let bytes: Vec<u8> = (0..16).collect();
    let segment = Segment { range: AddressRange::fixed(MIB, 32), bytes: &bytes };
    assert_eq!(Program::open(&file), Ok(Program { entry: MIB + 4, pvh: None, segments: vec![segment] }));
}

#[test]
fn what_is_no_program_is_told_what_it_is() {
    let mut arm64 = vec![0; 64];
    put(&mut arm64, 56, b"ARM\x64");
    let give = "give it a bzImage or a static 64-bit ELF program";

    let said = [
        (vec![], "it is empty".into()),
        (b"hello".to_vec(), format!("it is no ELF file; {give}")),
        (arm64, format!("it is an arm64 Image; {give}")),
        (b"\x1f\x8b\x08".to_vec(), format!("it is gzip-compressed; {give}")),
        (with(CLASS, &[1]), format!("it is a 32-bit ELF file; {give}")),
        (with(DATA, &[2]), format!("it is a big-endian ELF file; {give}")),
        (with(MACHINE, &183_u16.to_le_bytes()), format!("it is an ELF file of another processor; {give}")),
        (
            with(TYPE, &TYPE_SHARED.to_le_bytes()),
            format!("it is a position-independent program or a shared library; {give}"),
        ),
        (with(TYPE, &1_u16.to_le_bytes()), format!("it is an object or a core dump; {give}")),
        (with(64, &INTERPRETER.to_le_bytes()), format!("it is a dynamically linked program; {give}")),
        (with(64, &4_u32.to_le_bytes()), "it has no segment to load; it is no program".into()),
    ];

    for (file, expected) in said {
        assert_eq!(refusal(&file), expected);
    }
}

#[test]
fn headers_that_contradict_themselves_are_refused_with_what_is_wrong() {
    let far = u64::MAX - 15;
    let said = [
        (
            with(PROGRAM_HEADER_SIZE, &32_u16.to_le_bytes()),
            "its program headers have 32 bytes each, and those of 64 bits have 56; it is damaged",
        ),
        (
            with(PROGRAM_HEADERS, &u64::MAX.to_le_bytes()),
            "it was cut short: it has 136 bytes, and its table of program headers ends at \
             18446744073709551615; copy it again",
        ),
        (
            with(64 + FILE_SIZE, &33_u64.to_le_bytes()),
            "segment 0 has 33 bytes in the file and 32 in memory; it is damaged",
        ),
        (
            with(64 + OFFSET, &121_u64.to_le_bytes()),
            "it was cut short: it has 136 bytes, and its segment 0 ends at 137; copy it again",
        ),
        (with(64 + PHYSICAL, &far.to_le_bytes()), "segment 0 passes the end of all addresses; it is damaged"),
        (
            with(ENTRY, &(MIB + 32).to_le_bytes()),
            "it begins at 0x100020, where none of its segments is; link it to its physical address",
        ),
    ];

    for (file, expected) in said {
        assert_eq!(refusal(&file), expected);
    }
}

#[test]
fn segments_that_share_a_byte_are_refused() {
    let mut file = program();
    let header = file[64..120].to_vec();
    file.splice(120..120, header);
    put(&mut file, PROGRAM_HEADER_COUNT, &2_u16.to_le_bytes());
    put(&mut file, 120 + PHYSICAL, &(MIB + 31).to_le_bytes());

    assert_eq!(
        refusal(&file),
        "its segments [0x100000-0x10001f] and [0x10001f-0x10003e] overlap; it is damaged"
    );
}

/// `program` with a second segment: these notes.
fn noted(notes: &[(&[u8], u32, &[u8])]) -> Vec<u8> {
    let mut file = program();
    file.splice(120..120, [0; 56]);
    put(&mut file, 64 + OFFSET, &176_u64.to_le_bytes());
    put(&mut file, PROGRAM_HEADER_COUNT, &2_u16.to_le_bytes());
    let first = file.len();
    for (name, kind, description) in notes {
        for number in [name.len(), description.len()] {
            file.extend(u32::try_from(number).unwrap().to_le_bytes());
        }
        file.extend(kind.to_le_bytes());
        for bytes in [name, description] {
            file.extend(*bytes);
            file.resize(file.len().next_multiple_of(4), 0);
        }
    }
    let length = file.len() - first;
    put(&mut file, 120, &NOTE.to_le_bytes());
    put(&mut file, 120 + OFFSET, &first.to_le_bytes());
    put(&mut file, 120 + FILE_SIZE, &length.to_le_bytes());
    file
}

#[test]
fn the_entry_for_pvh_is_in_a_note_among_others() {
    let at = u32::try_from(MIB + 8).unwrap().to_le_bytes();
    let wide = (MIB + 12).to_le_bytes();
    let other: (&[u8], u32, &[u8]) = (b"GNU\0", 18, b"any");
    let pvh = |notes: &[(&[u8], u32, &[u8])]| Program::open(&noted(notes)).unwrap().pvh;

    assert_eq!(pvh(&[other, (b"Xen\0", 17, &[]), (b"Xen\0", 18, &at)]), Some(MIB + 8));
    assert_eq!(pvh(&[(b"Xen\0", 18, &wide)]), Some(MIB + 12));
    assert_eq!(pvh(&[other]), None);
}

#[test]
fn an_entry_for_pvh_that_is_none_is_refused() {
    assert_eq!(
        refusal(&noted(&[(b"Xen\0", 18, &[1])])),
        "its note for PVH has 1 bytes, and the entry in it has 4 or 8; it is damaged"
    );
    assert_eq!(
        refusal(&noted(&[(b"Xen\0", 18, &[0; 4])])),
        "it begins at 0x0, where none of its segments is; link it to its physical address"
    );
}

#[test]
fn notes_that_pass_their_end_are_no_notes() {
    let mut file = noted(&[(b"Xen\0", 18, &[0; 4])]);
    let at = file.len() - 20;
    put(&mut file, at, &u32::MAX.to_le_bytes());

    assert_eq!(Program::open(&file).unwrap().pvh, None);
}

#[test]
fn a_program_cut_short_anywhere_is_refused() {
    let file = program();

    for length in 0..file.len() {
        assert!(Program::open(&file[..length]).is_err(), "{length}");
    }
}

proptest! {
    /// Whatever is in it: no panic, and what is accepted is whole.
    #[test]
    fn any_damage_is_refused_or_leaves_a_program(
        places in prop::collection::vec((0..136_usize, any::<u8>()), 1..12),
    ) {
        let mut file = program();
        for (at, byte) in places {
            file[at] = byte;
        }

        if let Ok(program) = Program::open(&file) {
            let holds_entry = |segment: &Segment| {
                segment.range.first() <= program.entry && program.entry <= segment.range.last()
            };
            prop_assert!(program.segments.iter().any(holds_entry));
            for segment in &program.segments {
                prop_assert!(segment.bytes.len() as u64 <= segment.range.size());
            }
            prop_assert_eq!(overlapping(&program.segments), None);
        }
    }
}
