//! The one error type here: a sentence for the person at the terminal, and what is behind it.

use std::error::Error;
use std::fmt;
use std::path::Path;

pub type Result<T> = std::result::Result<T, Failure>;

#[derive(Debug)]
pub struct Failure {
    what: String,
    source: Option<std::io::Error>,
}

impl Failure {
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Says what was wanted of a file when the operating system says no.
pub trait About<T> {
    fn about(self, wanted: &str, path: &Path) -> Result<T>;
}

impl<T> About<T> for std::io::Result<T> {
    fn about(self, wanted: &str, path: &Path) -> Result<T> {
        self.map_err(|source| Failure {
            what: format!("cannot {wanted} {}", path.display()),
            source: Some(source),
        })
    }
}
