//! The end of a console's line that the user types into, whichever UART is at the other.

use vmm_sys_util::eventfd::EventFd;

/// Takes what is typed. Used from any thread.
pub trait Receiver: Send {
    /// Takes as many of `bytes` as there is room for, from the first; how many that were. The rest stays with
    /// the caller, and [`Receiver::room_event`] is signalled when there is room again.
    fn push(&self, bytes: &[u8]) -> usize;

    /// How many bytes [`Receiver::push`] takes now; only a push makes it less. If fewer than `wanted`, up to
    /// half of all the room, [`Receiver::room_event`] is signalled when that half is free.
    fn room(&self, wanted: usize) -> usize;

    /// Signalled when there is room again for somebody who found too little.
    fn room_event(&self) -> &EventFd;
}
