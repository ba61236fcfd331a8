//! Guest RAM: planned ranges become host memory.

mod discard;
mod map;

pub use discard::discard;
pub use map::{MapError, map};

/// All of a guest's RAM. Cloning it is cheap and gives the same RAM.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
