//! What a function cannot be: mistakes of ours when it is made, never of the guest.

use std::io;

use ambit_bus::{BarSpace, HostError};

/// Why a function cannot be laid out as it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error(
        "window {window} has {size} bytes, and a base address register in {space:?} space has a power of two \
         from {least} to {most}"
    )]
    Size { window: usize, size: u64, space: BarSpace, least: u64, most: u64 },
    #[error(
        "window {window} has no base address register left; a function has six, and one of 64 bits takes two"
    )]
    Registers { window: usize },
    #[error("capability {id:#04x} has {size} bytes at {at:#x}, and the list ends at 0x100")]
    Capability { id: u8, at: usize, size: usize },
    #[error("{0} MSI-X vectors are wanted, and there can be 1 to 2048")]
    Vectors(usize),
    #[error(
        "the MSI-X table at {table:#x} and its pending bits at {pba:#x} must be aligned to 8 bytes, apart, and \
         inside window {window}, which is memory"
    )]
    Table { window: u8, table: u32, pba: u32 },
}

impl From<LayoutError> for HostError {
    fn from(error: LayoutError) -> Self {
        Self { wanted: "a PCI function".into(), source: io::Error::new(io::ErrorKind::InvalidInput, error) }
    }
}
