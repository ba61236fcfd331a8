use proptest::prelude::*;

use super::*;

const IDENTITY: Identity = Identity {
    vendor: 0x1122,
    device: 0x3344,
    revision: 0x55,
    class: 0x66_77_88,
    subsystem_vendor: 0x99aa,
    subsystem: 0xbbcc,
};

/// Ports, 32 bits and 64 bits: registers 0, 1, and 2 with 3.
const BARS: [Bar; 3] = [
    Bar { size: 0x40, space: BarSpace::Io },
    Bar { size: 0x1000, space: BarSpace::Mmio32 },
    Bar { size: 0x4000, space: BarSpace::Mmio64 },
];

/// What there is besides zeros, written down from the specification: place, bytes at power-on.
const POWER_ON: &[(usize, &[u8])] = &[
    (0x00, &[0x22, 0x11, 0x44, 0x33, 0x00, 0x00, 0x10, 0x00, 0x55, 0x88, 0x77, 0x66]),
    (0x10, &[0x01, 0, 0, 0, 0x00, 0, 0, 0, 0x0c, 0, 0, 0, 0, 0, 0, 0]),
    (0x2c, &[0xaa, 0x99, 0xcc, 0xbb, 0, 0, 0, 0, 0x40]),
    (0x3c, &[0x00, 0x01]),
    (0x40, &[0x09, 0x48, 1, 2, 3]),
    (0x48, &[0x0b, 0x00, 7, 8, 9, 10]),
];

/// Which bits the guest can change.
const WRITABLE: &[(usize, &[u8])] = &[
    (0x04, &[0x07, 0x04]),
    (0x0c, &[0xff]),
    (0x10, &[0xc0, 0xff, 0xff, 0xff, 0x00, 0xf0, 0xff, 0xff, 0x00, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    (0x3c, &[0xff]),
    (0x4b, &[0xf0, 0x0f]),
];

fn space() -> ConfigSpace {
    let mut space = ConfigSpace::new(IDENTITY, &BARS, true).unwrap();
    assert_eq!(space.append(0x09, &[1, 2, 3], &[]), Ok(0x40));
    assert_eq!(space.append(0x0b, &[7, 8, 9, 10], &[0, 0xf0, 0x0f]), Ok(0x48));
    space
}

/// As [`space`], byte by byte and no more.
struct Table {
    bytes: Vec<u8>,
    writable: Vec<u8>,
}

impl Table {
    fn new() -> Self {
        Self { bytes: Self::laid_out(POWER_ON), writable: Self::laid_out(WRITABLE) }
    }

    fn laid_out(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        for (at, part) in parts {
            bytes[*at..*at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        for (at, new) in (u128::from(at)..).zip(data) {
            if at < 4096 {
                let mask = self.writable[at as usize];
                self.bytes[at as usize] = self.bytes[at as usize] & !mask | new & mask;
            }
        }
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let all = u128::from(at)..u128::from(at) + len as u128;
        all.map(|at| if at < 4096 { self.bytes[at as usize] } else { 0 }).collect()
    }

    fn word(&self, at: usize) -> u64 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap()).into()
    }

    fn places(&self) -> Vec<Option<u64>> {
        let (io, memory) = (self.bytes[4] & 1 != 0, self.bytes[4] & 2 != 0);
        let (ports, low) = (self.word(0x10) & 0xffff_ffc0, self.word(0x14) & 0xffff_f000);
        let high = (self.word(0x18) | self.word(0x1c) << 32) & 0xffff_ffff_ffff_c000;
        vec![
            Some(ports).filter(|at| io && ![0, 0xffff_ffc0].contains(at)),
            Some(low).filter(|at| memory && ![0, 0xffff_f000].contains(at)),
            Some(high).filter(|at| memory && ![0, 0xffff_ffff_ffff_c000].contains(at)),
        ]
    }
}

fn dump(space: &ConfigSpace) -> Vec<u8> {
    let mut bytes = vec![0xee; 4096];
    space.read(0, &mut bytes);
    bytes
}

fn read(space: &ConfigSpace, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    space.read(at, &mut bytes);
    bytes
}

fn write_word(space: &mut ConfigSpace, at: u64, value: u32) -> Change {
    space.write(at, &value.to_le_bytes())
}

fn read_word(space: &ConfigSpace, at: u8) -> u32 {
    u32::from_le_bytes(space.bytes(at))
}

#[test]
fn a_function_begins_as_the_specification_has_it() {
    let space = space();

    assert_eq!(dump(&space), Table::new().bytes);
}

#[test]
fn a_function_without_a_wire_has_no_interrupt_pin() {
    let space = ConfigSpace::new(IDENTITY, &[], false).unwrap();

    assert_eq!(space.bytes(INTERRUPT_PIN), [0]);
}

#[test]
fn without_capabilities_the_status_says_that_there_is_no_list() {
    let space = ConfigSpace::new(IDENTITY, &[], false).unwrap();

    assert_eq!((space.bytes(STATUS), space.bytes(CAPABILITIES)), ([0, 0], [0]));
}

// every byte, past the end too, in each width.
#[test]
fn every_access_of_any_width_and_alignment_is_one_to_its_bytes() {
    let values: [[u8; 8]; 4] = [
        [0xff; 8],
        [0; 8],
        [0x5a, 0xa5, 0x3c, 0xc3, 0x69, 0x96, 0x0f, 0xf0],
        [0x12, 0xef, 0x34, 0xcd, 0, 1, 2, 3],
    ];
    for value in values {
        let (mut space, mut table) = (space(), Table::new());
        for len in [1, 2, 4, 8] {
            let far = [u64::MAX - 8, u64::MAX - 7, u64::MAX - 3, u64::MAX, 1 << 32, 1 << 63];
            for at in (0..4096 + 16).chain(far) {
                let _change = space.write(at, &value[..len]);
                table.write(at, &value[..len]);
                assert_eq!(read(&space, at, len), table.read(at, len), "{len} bytes at {at:#x}");
            }
            assert_eq!(dump(&space), table.bytes);
        }
        space.reset();
        assert_eq!(dump(&space), Table::new().bytes);
    }
}

// C-152.
#[test]
fn each_bar_tells_its_size_when_ones_are_written() {
    let mut space = space();
    for at in [0x10, 0x14, 0x18, 0x1c] {
        let _change = write_word(&mut space, at, u32::MAX);
    }

    let sizes = [0x10, 0x14, 0x18, 0x1c].map(|at| read_word(&space, at));
    assert_eq!(sizes, [0xffff_ffc1, 0xffff_f000, 0xffff_c00c, 0xffff_ffff]);
}

#[test]
fn a_bar_of_4_gib_and_more_tells_its_size_in_its_upper_half() {
    let bars = [Bar { size: 1 << 40, space: BarSpace::Mmio64 }];
    let mut space = ConfigSpace::new(IDENTITY, &bars, false).unwrap();

    let _change = space.write(0x10, &[0xff; 8]);
    assert_eq!(space.bytes(0x10), 0xffff_ff00_0000_000c_u64.to_le_bytes());
}

#[test]
fn registers_without_a_window_read_as_zero_when_ones_are_written() {
    let mut space = space();

    let _change = space.write(0x20, &[0xff; 8]);

    assert_eq!(space.bytes(0x20), [0; 8]);
}

#[test]
fn the_halves_of_a_wide_bar_are_sized_and_set_in_any_order() {
    let both = |first: (u64, u32), second: (u64, u32)| {
        let mut space = space();
        let _decode = space.write(4, &[2]);
        // Sized as one, and with the other half at an address.
        let _change = write_word(&mut space, first.0, u32::MAX);
        let sized = read_word(&space, first.0 as u8);
        let _change = write_word(&mut space, first.0, first.1);
        let _change = write_word(&mut space, second.0, u32::MAX);
        let sizes = [sized, read_word(&space, second.0 as u8)];
        let _change = write_word(&mut space, second.0, second.1);
        (sizes, space.places()[2])
    };

    let (low, high) = ((0x18, 0x4000_4000), (0x1c, 0x80));
    assert_eq!(both(low, high), ([0xffff_c00c, 0xffff_ffff], Some(0x80_4000_4000)));
    assert_eq!(both(high, low), ([0xffff_ffff, 0xffff_c00c], Some(0x80_4000_4000)));
}

#[test]
fn windows_are_where_their_bars_say_while_their_space_is_decoded() {
    let mut space = space();
    let _change = write_word(&mut space, 0x10, 0x1043);
    let _change = write_word(&mut space, 0x14, 0x1000_0fff);
    let _change = space.write(0x18, &0x80_1234_5678_u64.to_le_bytes());

    let mut at = |command: u8| {
        let change = space.write(4, &[command]);
        (change.remap, space.places())
    };
    let (ports, low, high) = (Some(0x1040), Some(0x1000_0000), Some(0x80_1234_4000));
    assert_eq!(at(0), (false, vec![None, None, None]));
    assert_eq!(at(1), (true, vec![ports, None, None]));
    assert_eq!(at(2), (true, vec![None, low, high]));
    assert_eq!(at(3), (true, vec![ports, low, high]));
    assert_eq!(at(7), (false, vec![ports, low, high]));
    assert_eq!(at(0), (true, vec![None, None, None]));
}

#[test]
fn a_bar_at_zero_or_with_all_bits_set_is_nowhere() {
    let mut space = space();
    let _decode = space.write(4, &[3]);

    let change = space.write(0x10, &[0xff; 16]);
    assert_eq!((change.remap, space.places()), (false, vec![None, None, None]));
    let change = space.write(0x10, &[0; 16]);
    assert_eq!((change.remap, space.places()), (false, vec![None, None, None]));
}

#[test]
fn the_windows_know_their_registers() {
    let wide = Bar { size: 0x1000, space: BarSpace::Mmio64 };
    let space = ConfigSpace::new(IDENTITY, &[wide, BARS[0], wide], false).unwrap();

    assert_eq!([0, 1, 2, 3, 4].map(|window| space.register(window)), [None, Some(0), Some(2), Some(3), None]);
    assert_eq!(space.bar(2), Some(BARS[0]));
}

#[test]
fn a_write_tells_what_the_guest_touched() {
    let mut space = space();

    let change = space.write(0x4b, &[0; 2]);

    let touched = (0x48..0x50).filter(|at| change.touches(*at, 1)).collect::<Vec<_>>();
    assert_eq!(touched, [0x4b, 0x4c]);
    assert!(change.touches(0x40, 0x10));
    assert_eq!((change.remap, change.command), (false, false));
}

#[test]
fn a_write_past_the_end_of_all_addresses_touches_nothing() {
    let change = space().write(u64::MAX, &[0xff; 8]);

    assert!(!change.touches(0, 0xff));
}

#[test]
fn a_write_tells_of_the_command_register_if_it_is_another_one() {
    let mut space = space();

    let changes = [4, 4, 0].map(|command| space.write(4, &[command, 0]).command);

    assert_eq!(changes, [true, false, true]);
}

#[test]
fn the_command_register_is_told_bit_by_bit() {
    let mut space = space();
    let mut told = |command: u16| {
        let _change = space.write(4, &command.to_le_bytes());
        (space.is_master(), space.is_intx_disabled())
    };

    assert_eq!([0, 1 << 2, 1 << 10].map(&mut told), [(false, false), (true, false), (false, true)]);
}

#[test]
fn the_interrupt_status_is_the_devices_and_not_the_guests() {
    let mut space = space();
    space.show_interrupt(true);
    let _change = space.write(6, &[0; 2]);
    let wanted = space.bytes(STATUS);
    space.show_interrupt(false);
    let _change = space.write(6, &[0xff; 2]);

    assert_eq!([wanted, space.bytes(STATUS)], [[0x18, 0], [0x10, 0]]);
}

// C-124: from the pointer on, each at a multiple of 4, none over another, inside, and the last one says so.
#[test]
fn the_capability_list_ends_and_stays_inside_whatever_is_appended() {
    let mut space = ConfigSpace::new(IDENTITY, &[], false).unwrap();
    let mut appended = Vec::new();
    for size in (0..15).cycle() {
        match space.append(size + 1, &vec![0xcc; size.into()], &[]) {
            Ok(at) => appended.push((at, size + 1)),
            Err(error) => {
                let at = space.free;
                assert_eq!(error, LayoutError::Capability { id: size + 1, at, size: usize::from(size) + 2 });
                break;
            }
        }
    }

    let mut listed = Vec::new();
    let mut next = space.bytes::<1>(CAPABILITIES)[0];
    while next != 0 && listed.len() < 64 {
        let [id, after] = space.bytes(next);
        listed.push((next, id));
        next = after;
    }
    assert_eq!(listed, appended);
    for pair in listed.windows(2) {
        let (at, id) = pair[0];
        assert!(at.is_multiple_of(4) && at + 2 + (id - 1) <= pair[1].0, "{pair:?}");
    }
}

#[test]
fn the_last_byte_can_belong_to_a_capability_and_no_more() {
    let mut space = ConfigSpace::new(IDENTITY, &[], false).unwrap();
    let too_long = space.append(1, &[0; 191], &[]);
    let fits = space.append(1, &[0xab; 190], &[]);
    let full = space.append(2, &[], &[]);

    assert_eq!(too_long, Err(LayoutError::Capability { id: 1, at: 0x40, size: 193 }));
    assert_eq!(fits, Ok(0x40));
    assert_eq!(full, Err(LayoutError::Capability { id: 2, at: 0x100, size: 2 }));
    assert_eq!(read(&space, 0xfe, 4), [0xab, 0xab, 0, 0]);
}

#[test]
fn the_guest_writes_no_more_of_a_capability_than_it_has() {
    let mut space = ConfigSpace::new(IDENTITY, &[], false).unwrap();
    space.append(1, &[0], &[0xff; 8]).unwrap();

    let _change = space.write(0x40, &[0xff; 8]);

    assert_eq!(space.bytes(0x40), [1, 0, 0xff, 0, 0, 0, 0, 0]);
}

#[test]
fn what_the_device_puts_there_is_not_there_after_a_reset() {
    let mut space = space();
    space.set(0x42, &[0xaa, 0xbb]);
    assert_eq!(space.bytes(0x40), [0x09, 0x48, 0xaa, 0xbb]);

    space.reset();

    assert_eq!(dump(&space), Table::new().bytes);
}

#[test]
fn a_function_that_cannot_be_is_refused() {
    let size = |size, space| ConfigSpace::new(IDENTITY, &[Bar { size, space }], false).err();
    let wrong = |size, space, least, most| Some(LayoutError::Size { window: 1, size, space, least, most });
    let (io, narrow, wide) = (BarSpace::Io, BarSpace::Mmio32, BarSpace::Mmio64);

    assert_eq!(size(0, narrow), wrong(0, narrow, 16, 1 << 31));
    assert_eq!(size(0x1001, narrow), wrong(0x1001, narrow, 16, 1 << 31));
    assert_eq!(size(1 << 32, narrow), wrong(1 << 32, narrow, 16, 1 << 31));
    assert_eq!(size(2, io), wrong(2, io, 4, 256));
    assert_eq!(size(512, io), wrong(512, io, 4, 256));
    assert_eq!(size(8, wide), wrong(8, wide, 16, 1 << 63));
    assert_eq!([size(4, io), size(1 << 31, narrow), size(1 << 63, wide)], [None; 3]);
    let registers = |last| {
        let wide = Bar { size: 16, space: wide };
        ConfigSpace::new(IDENTITY, &[wide, wide, Bar { size: 16, space: narrow }, last], false).err()
    };
    assert_eq!(registers(Bar { size: 16, space: wide }), Some(LayoutError::Registers { window: 4 }));
    assert_eq!(registers(Bar { size: 16, space: narrow }), None);
}

/// A write that a guest who moves BARs about may do: a place in the header and what goes there.
fn programming((choice, len, value): (u8, u8, u64)) -> (u64, Vec<u8>) {
    let at = match choice & 7 {
        0 => 4,
        1 => 0x0c + u64::from(choice >> 3) % 0x1e,
        _ => 0x10 + 4 * (u64::from(choice >> 3) % 5),
    };
    let value = match (len >> 3) % 8 {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << (value % 64),
        3 => u64::MAX << (value % 64),
        _ => value,
    };
    (at, value.to_le_bytes()[..[1, 2, 4, 4, 4, 4, 8, 8][usize::from(len % 8)]].to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

    //
    #[test]
    fn no_programme_of_bars_gives_a_place_that_cannot_be(writes in prop::collection::vec(any::<(u8, u8, u64)>(), 1..12)) {
        let (mut space, mut table) = (space(), Table::new());
        let mut before = space.places();
        for (at, data) in writes.into_iter().map(programming) {
            let change = space.write(at, &data);
            table.write(at, &data);
            let places = space.places();
            prop_assert_eq!(change.remap, places != before);
            prop_assert_eq!(&places, &table.places());
            for (place, bar) in places.iter().zip(BARS) {
                let Some(first) = place else { continue };
                let ceiling = if bar.space == BarSpace::Mmio64 { u64::MAX } else { u32::MAX.into() };
                prop_assert!(*first != 0 && first.is_multiple_of(bar.size));
                prop_assert!(first.checked_add(bar.size - 1).is_some_and(|last| last < ceiling));
            }
            before = places;
        }
        space.reset();
        prop_assert_eq!(dump(&space), Table::new().bytes);
    }
}
