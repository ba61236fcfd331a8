//! A kernel of any kind that this board starts, told from its file.

use crate::bzimage::{self, BzImage, BzImageError};
use crate::elf::{ElfError, Program};

/// A kernel that can be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel<'a> {
    /// As distributions ship Linux.
    Image(BzImage<'a>),
    /// A program without a system, or Linux as it was linked (`vmlinux`).
    Program(Program<'a>),
}

/// Why a file is no kernel for this board.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error(transparent)]
    Image(#[from] BzImageError),
    #[error(transparent)]
    Program(#[from] ElfError),
}

impl<'a> Kernel<'a> {
    /// Pure; any bytes may be given to it.
    ///
    /// # Errors
    /// [`KernelError`] for the first thing that is wrong. Whether there is RAM for it is not looked at.
    pub fn open(file: &'a [u8]) -> Result<Self, KernelError> {
        if bzimage::claims(file) {
            return Ok(Self::Image(BzImage::open(file)?));
        }
        Ok(Self::Program(Program::open(file)?))
    }
}
