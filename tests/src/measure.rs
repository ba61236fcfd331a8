//! What programs that measure monitors have in common.

pub mod memory;
pub mod report;
pub mod started;
pub mod statistics;
