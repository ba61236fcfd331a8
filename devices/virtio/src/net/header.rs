//! The header in front of every frame, and what of it passes (virtio 1.2, 5.1.6).

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

/// In bytes, between us and the carrier always; to and from a legacy guest it may be two less.
pub const SIZE: usize = 12;
const LEGACY_SIZE: usize = 10;

// Bits and numbers of one byte each.
const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM.to_le_bytes()[0];
const DATA_VALID: u8 = VIRTIO_NET_HDR_F_DATA_VALID.to_le_bytes()[0];
const NONE: u8 = VIRTIO_NET_HDR_GSO_NONE.to_le_bytes()[0];
const TCPV4: u8 = VIRTIO_NET_HDR_GSO_TCPV4.to_le_bytes()[0];
const TCPV6: u8 = VIRTIO_NET_HDR_GSO_TCPV6.to_le_bytes()[0];
const ECN: u8 = VIRTIO_NET_HDR_GSO_ECN.to_le_bytes()[0];

/// `struct virtio_net_hdr_v1`, read once and kept where the guest cannot change it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub flags: u8,
    pub gso: u8,
    pub header_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
    /// How many of the guest's buffers a frame is in; not there in the short form.
    pub buffers: u16,
}

/// How long the guest's header is: a legacy driver's has no number of buffers unless they are mergeable (5.1.6.1).
pub fn size(features: u64) -> usize {
    let long = features & (1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF) != 0;
    if long { SIZE } else { LEGACY_SIZE }
}

impl Header {
    pub fn of(bytes: [u8; SIZE]) -> Self {
        let [flags, gso, a, b, c, d, e, f, g, h, i, j] = bytes;
        let [header_len, gso_size, csum_start, csum_offset, buffers] =
            [[a, b], [c, d], [e, f], [g, h], [i, j]].map(u16::from_le_bytes);
        Self { flags, gso, header_len, gso_size, csum_start, csum_offset, buffers }
    }

    pub fn bytes(&self) -> [u8; SIZE] {
        let fields = [self.header_len, self.gso_size, self.csum_start, self.csum_offset, self.buffers];
        let [[a, b], [c, d], [e, f], [g, h], [i, j]] = fields.map(u16::to_le_bytes);
        [self.flags, self.gso, a, b, c, d, e, f, g, h, i, j]
    }

    /// What the host is told of a frame of `len` bytes that the guest sends with this header. `None`: the guest
    /// asks for what was not agreed on. The host checks where the checksum is to go, and refuses what is outside.
    pub fn to_host(self, features: u64, len: usize) -> Option<Self> {
        let has = |bit: u32| features & 1 << bit != 0;
        let allowed = |tcp: u8| match tcp {
            NONE => true,
            TCPV4 => has(VIRTIO_NET_F_HOST_TSO4),
            TCPV6 => has(VIRTIO_NET_F_HOST_TSO6),
            _ => false,
        };
        if !allowed(self.gso & !ECN) || self.gso & ECN != 0 && !has(VIRTIO_NET_F_HOST_ECN) {
            return None;
        }
        // Other flags mean nothing (5.1.6.2.2).
        let sums = self.flags & NEEDS_CSUM != 0 && has(VIRTIO_NET_F_CSUM);
        Some(Self {
            flags: if sums { NEEDS_CSUM } else { 0 },
            gso: self.gso,
            // Only a hint (5.1.6.2.2), and the host takes none that is longer than the frame.
            header_len: self.header_len.min(u16::try_from(len).unwrap_or(u16::MAX)),
            gso_size: if self.gso == NONE { 0 } else { self.gso_size },
            csum_start: if sums { self.csum_start } else { 0 },
            csum_offset: if sums { self.csum_offset } else { 0 },
            buffers: 0,
        })
    }

    /// What the guest is told of a frame that came with this header. `None`: it takes no such frame. One from
    /// before the driver's choice may come after it.
    pub fn to_guest(self, features: u64) -> Option<Self> {
        let has = |bit: u32| features & 1 << bit != 0;
        let sums = self.flags & NEEDS_CSUM != 0;
        if sums && !has(VIRTIO_NET_F_GUEST_CSUM) {
            return None;
        }
        let allowed = match self.gso & !ECN {
            NONE => self.gso == NONE,
            // A segment to be split has sums to be made (5.1.6.4.1).
            TCPV4 => has(VIRTIO_NET_F_GUEST_TSO4) && sums && self.gso_size > 0,
            TCPV6 => has(VIRTIO_NET_F_GUEST_TSO6) && sums && self.gso_size > 0,
            _ => false,
        };
        if !allowed || self.gso & ECN != 0 && !has(VIRTIO_NET_F_GUEST_ECN) {
            return None;
        }
        // A tap says of some frames that their sum is good; only who agreed to sums may be told.
        let told = if has(VIRTIO_NET_F_GUEST_CSUM) { NEEDS_CSUM | DATA_VALID } else { 0 };
        Some(Self { flags: self.flags & told, ..self })
    }

    /// Whether it is one frame as it is on the wire, and not a segment to be split.
    pub fn is_plain(&self) -> bool {
        self.gso & !ECN == NONE
    }
}
