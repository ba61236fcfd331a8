//! The table: every case, by what it attacks.

mod block;
mod devices;
mod geometry;
mod pci;
mod rings;
mod status;

use crate::attack::Attack;

/// All cases.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    [status::CASES, geometry::CASES, rings::CASES, block::CASES, devices::CASES, pci::CASES]
        .into_iter()
        .flatten()
}
