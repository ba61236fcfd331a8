//! The person's terminal, by way of stty.

use std::process::Stdio;

use crate::command::{Run, command};
use crate::failure::Result;

/// The settings of the terminal, put back when dropped: a killed program leaves it as it happens to be.
pub struct Remembered(String);

impl Remembered {
    pub fn now() -> Option<Self> {
        Some(Self(stty(["-g"]).ok()?.trim().to_owned()))
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        let _ = stty([self.0.as_str()]);
    }
}

/// Columns and rows.
pub fn window() -> Option<(String, String)> {
    let size = stty(["size"]).ok()?;
    let (rows, columns) = size.trim().split_once(' ')?;
    Some((columns.to_owned(), rows.to_owned()))
}

fn stty<const N: usize>(arguments: [&str; N]) -> Result<String> {
    command("stty", arguments).stdin(Stdio::inherit()).capture()
}
