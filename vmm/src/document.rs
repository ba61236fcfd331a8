//! JSON files that come from elsewhere, and files we write for others: whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use crate::config::plain;

/// The largest file that is read, in bytes; a plan with thousands of devices is smaller.
const LARGEST: u64 = 4 << 20;

/// What a file is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Profile,
    Lock,
    Plan,
}

/// The format of every kind that this program reads and writes.
pub const SCHEMA: u32 = 1;

/// The schema a file says it has, which is [`SCHEMA`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema;

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let said = serde_json::Number::deserialize(from)?;
        if said.as_u64() == Some(u64::from(SCHEMA)) {
            return Ok(Self);
        }
        Err(D::Error::custom(format!("schema is {said}, and this Ambit reads {SCHEMA}")))
    }
}

/// Why a file is not what it is meant to be, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the {} {} cannot be read: {source}", .kind.name(), .path.display())]
    Read { kind: Kind, path: PathBuf, source: io::Error },
    #[error(
        "the {} {} has more than {LARGEST} bytes; it is probably another file",
        .kind.name(), .path.display()
    )]
    TooLarge { kind: Kind, path: PathBuf },
    #[error("the {} {} is not text in UTF-8; it is probably another file", .kind.name(), .path.display())]
    NotText { kind: Kind, path: PathBuf },
    #[error("the {} {} is empty", .kind.name(), .path.display())]
    Empty { kind: Kind, path: PathBuf },
    #[error(
        "the {} {} was written by a newer Ambit (schema {schema}, this one reads {SCHEMA})",
        .kind.name(), .path.display()
    )]
    Newer { kind: Kind, path: PathBuf, schema: u64 },
    /// Line and column count from 1.
    #[error("{}:{line}:{column}: {what}", .path.display())]
    Wrong { kind: Kind, path: PathBuf, line: usize, column: usize, what: String },
    #[error("the {} {} {what}", .kind.name(), .path.display())]
    Untrue { kind: Kind, path: PathBuf, what: String },
    #[error("the {} cannot be written to {}: {source}", .kind.name(), .path.display())]
    Write { kind: Kind, path: PathBuf, source: io::Error },
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Profile => "host profile",
            Self::Lock => "lock file",
            Self::Plan => "plan",
        }
    }

    /// How one is made.
    fn recipe(self) -> &'static str {
        match self {
            Self::Profile => "write one on that host with 'ambit probe --save FILE'",
            Self::Lock => "write it again with 'ambit plan --lock FILE'",
            Self::Plan => "write it again with 'ambit plan --format json'",
        }
    }
}

impl DocumentError {
    /// What would help, where the text does not say it.
    pub fn remedies(&self) -> Vec<String> {
        match self {
            Self::Read { .. } | Self::Write { .. } => Vec::new(),
            Self::Newer { .. } => vec!["use that Ambit, or a newer one".into()],
            Self::TooLarge { kind, .. }
            | Self::NotText { kind, .. }
            | Self::Empty { kind, .. }
            | Self::Wrong { kind, .. }
            | Self::Untrue { kind, .. } => vec![kind.recipe().into()],
        }
    }
}

/// The text of the file at `path`, without a byte order mark.
///
/// # Errors
/// [`DocumentError`] if it cannot be read, is too large, empty or not text.
pub fn read(kind: Kind, path: &Path) -> Result<String, DocumentError> {
    let unreadable = |source| DocumentError::Read { kind, path: path.into(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(DocumentError::TooLarge { kind, path: path.into() });
    }
    let text = String::from_utf8(bytes).map_err(|_| DocumentError::NotText { kind, path: path.into() })?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    if text.trim().is_empty() {
        return Err(DocumentError::Empty { kind, path: path.into() });
    }
    Ok(text)
}

/// The object in `text`, which is from the file at `path` and says its schema in a key of that name.
///
/// # Errors
/// [`DocumentError::Newer`] for another schema than ours, [`DocumentError::Wrong`] for what is no such object.
pub fn parse<T: DeserializeOwned>(kind: Kind, text: &str, path: &Path) -> Result<T, DocumentError> {
    let wrong = |line, column, what| DocumentError::Wrong { kind, path: path.into(), line, column, what };
    // serde would take a list for the fields in their order.
    if !text.trim_start().starts_with('{') {
        let what = format!("this is not a JSON object, and a {} is one", kind.name());
        return Err(wrong(1, 1, what));
    }
    // Keys that nobody knows are none of a newer schema's.
    if let Some(schema) = schema_of(text).filter(|schema| *schema > u64::from(SCHEMA)) {
        return Err(DocumentError::Newer { kind, path: path.into(), schema });
    }
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line().max(1), error.column().max(1));
        let said = error.to_string();
        // serde_json writes the place into its text.
        let place = format!(" at line {} column {}", error.line(), error.column());
        wrong(line, column, plain(said.strip_suffix(&place).unwrap_or(&said)))
    })
}

/// `None` where there is none that could be understood.
fn schema_of(text: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Object {
        schema: u64,
    }
    // Most files are ours and say it in their first bytes.
    let first = text.trim_start().strip_prefix('{').map(str::trim_start);
    if let Some(rest) = first.and_then(|text| text.strip_prefix("\"schema\":"))
        && rest.trim_start().starts_with("1,")
    {
        return Some(1);
    }
    serde_json::from_str::<Object>(text).ok().map(|object| object.schema)
}

/// Puts `text` into the file at `path`, in place of what it held. No half file is ever seen there.
///
/// # Errors
/// [`DocumentError::Write`]; what was there before is still there.
pub fn write(kind: Kind, path: &Path, text: &str) -> Result<(), DocumentError> {
    let unwritten = |source| DocumentError::Write { kind, path: path.into(), source };
    // A link stays one, and a device or a pipe is written to.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    if target.exists() && !target.is_file() {
        return fs::write(&target, text).map_err(unwritten);
    }
    let name = target.file_name().ok_or_else(|| unwritten(io::ErrorKind::InvalidFilename.into()))?;
    let mut half_name = std::ffi::OsString::from(".");
    half_name.push(name);
    half_name.push(format!(".{}", std::process::id()));
    let half = target.with_file_name(half_name);
    let written = File::create(&half)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&half, &target));
    written.map_err(|source| {
        // It may never have come to be.
        let _gone = fs::remove_file(&half);
        unwritten(source)
    })
}
