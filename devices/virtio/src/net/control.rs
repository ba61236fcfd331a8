//! What the driver tells the card through its control queue (virtio 1.2, 5.1.6.5).

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MAC,
    VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_MQ, VIRTIO_NET_OK,
};

use super::card::Card;
use super::{GUEST_OFFLOADS, Offloads};
use crate::ring::{Broken, Buffer, Chain, Ring, cut, read_front, total, write_front};
use crate::worker::Next;

const OK: u8 = VIRTIO_NET_OK.to_le_bytes()[0];
const ERR: u8 = VIRTIO_NET_ERR.to_le_bytes()[0];

/// Does what waits in the queue. A command is done when its answer is written.
///
/// # Errors
/// [`Broken`] if the ring makes no sense.
pub fn serve(ring: &mut Ring, memory: &GuestMemory, card: &Card, features: u64) -> Result<Next, Broken> {
    ring.serve(memory, |chain| answer(chain, memory, card, features)).map(Next::again_if)
}

fn answer(chain: &Chain, memory: &GuestMemory, card: &Card, features: u64) -> u32 {
    // Nothing is done that nobody could be told of.
    if chain.writable.is_empty() {
        return 0;
    }
    let done = read_front(memory, &chain.readable).is_some_and(|command: [u8; 2]| {
        let (_, data) = cut(&chain.readable, 2);
        act(command, &data, memory, card, features)
    });
    if !done {
        tracing::debug!("a command of a network card's driver is refused");
    }
    write_front(memory, &chain.writable, &[if done { OK } else { ERR }])
}

/// False for what was not agreed on, or makes no sense.
fn act(command: [u8; 2], data: &[Buffer], memory: &GuestMemory, card: &Card, features: u64) -> bool {
    let has = |bit: u32| features & 1 << bit != 0;
    match command.map(u32::from) {
        [VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET] if has(VIRTIO_NET_F_MQ) => {
            exactly(memory, data).is_some_and(|pairs| card.use_pairs(usize::from(u16::from_le_bytes(pairs))))
        }
        [VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET] if has(VIRTIO_NET_F_CTRL_MAC_ADDR) => {
            exactly(memory, data).map(|address| card.set_address(address)).is_some()
        }
        [VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET]
            if has(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) =>
        {
            exactly(memory, data).map(u64::from_le_bytes).is_some_and(|bits| {
                // Only what was agreed on can be on.
                bits & !(features & GUEST_OFFLOADS) == 0 && card.set_offloads(Offloads::of(bits))
            })
        }
        _ => false,
    }
}

/// All of `data`, if that is how long it is.
fn exactly<const N: usize>(memory: &GuestMemory, data: &[Buffer]) -> Option<[u8; N]> {
    read_front(memory, data).filter(|_| total(data) == N as u64)
}
