//! When the two sides of a ring ring for each other: the device's part, over whatever holds the ring's words.
//!
//! Each side says in one word when it wants to be rung for, and then looks at the other's index once more. Each side
//! moves its index, and then looks at the other's word. With a fence between the two steps of both, one of them sees
//! what the other did, whatever the order. `bells/tests.rs` tries every order.

use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};

/// The words of one ring (virtio 1.2, 2.7.6 to 2.7.10).
pub trait Words {
    type Error;

    /// How far the driver has come: the index of its ring.
    fn available(&self) -> Result<u16, Self::Error>;

    /// The flags of the driver's ring.
    fn flags(&self) -> Result<u16, Self::Error>;

    /// The entry of the used ring that the driver waits for.
    fn used_event(&self) -> Result<u16, Self::Error>;

    /// Sets the flags of the device's ring.
    fn set_flags(&self, flags: u16) -> Result<(), Self::Error>;

    /// Sets the entry of the available ring that the device waits for.
    fn set_avail_event(&self, event: u16) -> Result<(), Self::Error>;

    /// Sequentially consistent.
    fn fence(&self);
}

/// How the sides of a ring say when they want to be rung for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Flags,
    /// `VIRTIO_F_EVENT_IDX` was negotiated.
    Index,
}

/// What serves a ring.
pub trait Side {
    type Error;

    /// Asks for no kicks.
    fn quiet(&mut self) -> Result<(), Self::Error>;

    /// Asks for kicks again. True if there is something already.
    fn listen(&mut self) -> Result<bool, Self::Error>;

    /// Serves the next request. False if there is none.
    fn serve(&mut self) -> Result<bool, Self::Error>;

    /// Others have to have their turn now.
    fn is_over(&self) -> bool;

    /// Rings for the driver if it wants that.
    fn tell(&mut self) -> Result<(), Self::Error>;
}

/// Asks for no kicks.
pub fn quiet<W: Words>(words: &W, by: By) -> Result<(), W::Error> {
    match by {
        By::Flags => words.set_flags(NO_NOTIFY),
        // The entry that is waited for is behind us soon, and nothing rings for it.
        By::Index => Ok(()),
    }
}

/// Asks for kicks again by a device that has taken all before `next`. True if there is more already: its kick may
/// never come.
pub fn listen<W: Words>(words: &W, by: By, next: u16) -> Result<bool, W::Error> {
    match by {
        By::Flags => words.set_flags(0)?,
        By::Index => words.set_avail_event(next)?,
    }
    words.fence();
    Ok(words.available()? != next)
}

/// Whether the driver wants to be rung for, now that the used ring has moved from `told` to `used`.
pub fn wants_call<W: Words>(words: &W, by: By, told: u16, used: u16) -> Result<bool, W::Error> {
    words.fence();
    let wanted = match by {
        By::Flags => words.flags()? & NO_INTERRUPT == 0,
        // If what it waits for is among the entries just written.
        By::Index => used.wrapping_sub(words.used_event()?).wrapping_sub(1) < used.wrapping_sub(told),
    };
    Ok(wanted && used != told)
}

const NO_NOTIFY: u16 = half(VRING_USED_F_NO_NOTIFY);
const NO_INTERRUPT: u16 = half(VRING_AVAIL_F_NO_INTERRUPT);

/// Flags have 16 bits, and the bindings' constants 32.
const fn half(flags: u32) -> u16 {
    let [a, b, ..] = flags.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// Serves requests until there are none and the driver was asked to ring for the next, or a turn is over. True if
/// there may be more.
pub fn serve<S: Side>(side: &mut S) -> Result<bool, S::Error> {
    side.quiet()?;
    let more = loop {
        if side.is_over() {
            break true;
        }
        if side.serve()? {
            continue;
        }
        if !side.listen()? {
            break false;
        }
        side.quiet()?;
    };
    side.tell()?;
    Ok(more)
}

#[cfg(test)]
#[path = "bells/tests.rs"]
mod tests;
