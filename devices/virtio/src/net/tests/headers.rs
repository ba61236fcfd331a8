//! What of a frame's header passes, each way, by what was agreed on: every choice of offloads with every kind of frame.

use crate::net::header::Header;

const KINDS: [u8; 10] = [0, 1, 2, 3, 4, 5, 0x80, 0x81, 0x84, 0x85];
const FLAGS: [u8; 6] = [0, 1, 2, 3, 0xfe, 0xff];

/// Every set of `bits`, and every flags and kind of a frame of 200 bytes.
fn each(bits: [u32; 4], mut see: impl FnMut(u64, Header)) {
    for choice in 0..16u64 {
        let features = (0..).zip(bits).filter(|(at, _)| choice >> at & 1 == 1);
        let features = features.fold(0, |all, (_, bit)| all | 1 << bit);
        for (flags, gso) in FLAGS.into_iter().flat_map(|flags| KINDS.map(|gso| (flags, gso))) {
            let lengths = Header {
                header_len: 54,
                gso_size: 100,
                csum_start: 34,
                csum_offset: 16,
                ..Header::default()
            };
            see(features, Header { flags, gso, buffers: 9, ..lengths });
        }
    }
}

// C-212, C-213, C-214
#[test]
fn to_the_host_goes_what_was_agreed_and_nothing_else_of_a_header() {
    each([0, 11, 12, 13], |features, header| {
        let has = |bit: u32| features >> bit & 1 == 1;
        // CSUM 0, HOST_TSO4 11, HOST_TSO6 12, HOST_ECN 13
        let agreed = match header.gso {
            0 => true,
            1 => has(11),
            4 => has(12),
            0x80 => has(13),
            0x81 => has(11) && has(13),
            0x84 => has(12) && has(13),
            _ => false,
        };
        let sums = has(0) && header.flags & 1 == 1;
        let told = Header {
            flags: u8::from(sums),
            gso: header.gso,
            header_len: 54,
            gso_size: if header.gso == 0 { 0 } else { 100 },
            csum_start: if sums { 34 } else { 0 },
            csum_offset: if sums { 16 } else { 0 },
            buffers: 0,
        };

        assert_eq!(header.to_host(features, 200), agreed.then_some(told), "{features:#x} {header:?}");
    });
}

// C-214
#[test]
fn the_length_of_headers_is_never_more_than_the_frames() {
    for (said, frame, told) in
        [(54, 200, 54), (200, 200, 200), (201, 200, 200), (0xffff, 60, 60), (0xffff, 70_000, 0xffff)]
    {
        let header = Header { header_len: said, ..Header::default() };

        assert_eq!(header.to_host(0, frame).unwrap().header_len, told, "{said} of {frame}");
    }
}

// C-217, C-218
#[test]
fn to_the_guest_goes_no_frame_and_no_flag_that_was_not_agreed() {
    each([1, 7, 8, 9], |features, header| {
        let has = |bit: u32| features >> bit & 1 == 1;
        // GUEST_CSUM 1, GUEST_TSO4 7, GUEST_TSO6 8, GUEST_ECN 9
        let sums = header.flags & 1 == 1;
        let kind = match header.gso {
            0 => true,
            1 => has(7) && sums,
            4 => has(8) && sums,
            0x81 => has(7) && has(9) && sums,
            0x84 => has(8) && has(9) && sums,
            _ => false,
        };
        let agreed = kind && (has(1) || !sums);
        let told = Header { flags: if has(1) { header.flags & 3 } else { 0 }, ..header };

        assert_eq!(header.to_guest(features), agreed.then_some(told), "{features:#x} {header:?}");
    });
}

// C-218
#[test]
fn a_segment_without_a_size_is_not_the_guests_to_split() {
    for gso in [1, 4, 0x81, 0x84] {
        let header = Header { flags: 1, gso, gso_size: 0, ..Header::default() };

        assert_eq!(header.to_guest(u64::MAX), None, "{gso:#x}");
    }
}
