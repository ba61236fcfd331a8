//! Who owns which guest physical address and which interrupt pin.
//!
//! Arithmetic and nothing else: no host, no KVM, no files, no clock. The same questions always get
//! the same answers.

#![forbid(unsafe_code)]

mod irq;
mod range;
mod size;
mod space;

pub use irq::{IrqError, IrqPin, IrqPool};
pub use range::{AddressRange, PaBits, PaBitsError, bits_for};
pub use size::{SizeError, human_size, parse_size};
pub use space::{AddressSpace, Claim, SpaceError};
