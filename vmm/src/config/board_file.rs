//! Boards from files: opening them, and those that they inherit from.

use std::fs;
use std::path::Path;

use ambit_aarch64::board_file::{self, BoardFile, Finding, Source};

use super::text::{Unread, read_text};

/// Why a file gives no board.
#[derive(Debug, thiserror::Error)]
pub enum BoardFileError {
    #[error("the board file {path} {why}")]
    Unread { path: String, why: Unread },
    #[error("{}", wrong(.0))]
    Wrong(Vec<Finding>),
}

impl BoardFileError {
    /// What would help.
    pub fn remedies(&self) -> Vec<String> {
        match self {
            Self::Unread { .. } => Vec::new(),
            Self::Wrong(findings) => {
                findings.first().and_then(|first| first.help.clone()).into_iter().collect()
            }
        }
    }
}

/// The first, and how many more there are.
fn wrong(findings: &[Finding]) -> String {
    let Some(first) = findings.first() else { return String::new() };
    let more = match findings.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more; see ambit board check)"),
    };
    format!("{}:{}:{}: {}{more}", first.spot.file, first.spot.line, first.spot.column, first.message)
}

/// Reads the board of the file called `name`.
///
/// # Errors
/// [`BoardFileError`] with all that is wrong.
pub fn read(name: &str) -> Result<BoardFile, BoardFileError> {
    let unread = |why| BoardFileError::Unread { path: name.into(), why };
    let source = source(name, Path::new(name)).map_err(unread)?;
    board_file::read(source, &parent).map_err(BoardFileError::Wrong)
}

/// The file that `from` inherits from; `name` is as from the directory of that one.
fn parent(name: &str, from: &Source) -> Result<Source, String> {
    let beside = Path::new(&from.name).parent().unwrap_or(Path::new(""));
    let path = beside.join(name);
    let shown = path.display().to_string();
    source(&shown, &path).map_err(|why| format!("the board file {shown} {why}"))
}

fn source(name: &str, path: &Path) -> Result<Source, Unread> {
    let text = read_text(path)?;
    // One file may be found by many names.
    let identity = fs::canonicalize(path).unwrap_or_else(|_| path.into()).display().to_string();
    Ok(Source { name: name.into(), identity, text })
}
