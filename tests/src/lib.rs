//! Boots real guests with the built `ambit` and talks to them: what the tests in `tests/tests/` are written with.
//!
//! They run where KVM is, which on most machines is the emulated host of `cargo xtask test`.

pub mod attacked;
pub mod console;
pub mod control;
pub mod guest;
pub mod many;
pub mod measure;
pub mod payload;
pub mod place;
pub mod plan;
pub mod scratch;
pub mod stream;
mod stuck;
pub mod tap;
pub mod terminal;

pub use control::Control;
pub use guest::{Boot, Ended, Guest, Output, ambit, to_its_end};
pub use payload::Payload;
pub use plan::Plan;
pub use scratch::Scratch;
pub use tap::Tap;
pub use terminal::Terminal;
