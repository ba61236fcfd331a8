//! Reading a configuration from a file or an option, with errors that say where and what instead.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::de::value::{Error as OptionError, MapDeserializer};

use super::Config;

/// The largest file of the user's that is read as text, in bytes; enough for thousands of devices.
const LARGEST: u64 = 1 << 20;

/// Why a file gives no text.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("has more than {LARGEST} bytes; it is probably another file")]
    TooLarge,
    #[error("is not text in UTF-8; it is probably another file")]
    NotText,
}

/// # Errors
/// [`Unread`] for what is not a short text.
pub fn read_text(path: &Path) -> Result<String, Unread> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Unread::Io)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(Unread::Io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Unread::TooLarge);
    }
    let text = String::from_utf8(bytes).map_err(|_| Unread::NotText)?;
    // Some editors begin a file with a byte order mark.
    Ok(text.strip_prefix('\u{feff}').map(String::from).unwrap_or(text))
}

/// Why a configuration file gives no configuration.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the configuration {} cannot be read: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration {} has more than {LARGEST} bytes; it is probably another file", .path.display())]
    TooLarge { path: PathBuf },
    #[error("the configuration {} is not text in UTF-8; it is probably another file", .path.display())]
    NotText { path: PathBuf },
    #[error("{}:{line}:{column}: {what}", .path.display())]
    Wrong { path: PathBuf, line: usize, column: usize, what: String },
}

/// # Errors
/// [`FileError`] if it cannot be read, or is not a configuration.
pub fn read(path: &Path) -> Result<Config, FileError> {
    let text = read_text(path).map_err(|why| match why {
        Unread::Io(source) => FileError::Read { path: path.into(), source },
        Unread::TooLarge => FileError::TooLarge { path: path.into() },
        Unread::NotText => FileError::NotText { path: path.into() },
    })?;
    parse(&text, path)
}

/// TOML or JSON: by the extension of `path`, and where that says neither, by the first character.
pub fn parse(text: &str, path: &Path) -> Result<Config, FileError> {
    let json = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("toml") => false,
        _ => text.trim_start().starts_with('{'),
    };
    let parsed = if json { parse_json(text) } else { parse_toml(text) };
    parsed.map_err(|(line, column, what)| FileError::Wrong { path: path.into(), line, column, what })
}

/// Line and column, both from 1, and what is wrong there.
type Wrong = (usize, usize, String);

fn parse_json(text: &str) -> Result<Config, Wrong> {
    // serde would take a list for the fields in their order.
    if !text.trim_start().starts_with('{') {
        return Err((1, 1, "this is not a JSON object; is it TOML? then call it *.toml".into()));
    }
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let said = error.to_string();
        // serde_json writes the place into its text.
        let place = format!(" at line {line} column {column}");
        (line, column, plain(said.strip_suffix(&place).unwrap_or(&said)))
    })
}

fn parse_toml(text: &str) -> Result<Config, Wrong> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = &text.as_bytes()[..at];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, at - line_start + 1, plain(error.message().trim_end()))
    })
}

/// Reads `key=value,key=value` by the same model as a table of a file. A first part without `=` is
/// the value of `first`, if there is such a key. A comma in a value is written twice.
///
/// # Errors
/// What is wrong, for a person.
pub fn parse_option<T: DeserializeOwned>(text: &str, first: Option<&str>) -> Result<T, String> {
    let mut pairs = Vec::new();
    for (index, part) in split_commas(text).into_iter().enumerate() {
        match (part.split_once('='), first) {
            (Some((key, value)), _) => pairs.push((key.to_owned(), value.to_owned())),
            (None, Some(first)) if index == 0 && !part.is_empty() => pairs.push((first.to_owned(), part)),
            (None, _) => {
                return Err(format!(
                    "'{part}' is not of the form key=value; a comma in a value is written twice"
                ));
            }
        }
    }
    let keys: Vec<String> = pairs.iter().map(|(key, _)| key.clone()).collect();
    T::deserialize(MapDeserializer::<_, OptionError>::new(pairs.into_iter())).map_err(|error| {
        let said = plain(&error.to_string());
        // A file name with '=' in it, given without its key, looks like a key that nobody knows.
        match keys.first().zip(first) {
            Some((key, first)) if said.starts_with(&format!("unknown key '{key}'")) => {
                format!("{said} (a name with '=' in it is written {first}=NAME)")
            }
            _ => said,
        }
    })
}

fn split_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let last = parts.last_mut().expect("there is one part from the start, and none is removed");
        if character != ',' || characters.next_if_eq(&',').is_some() {
            last.push(character);
        } else {
            parts.push(String::new());
        }
    }
    parts
}

/// What serde says, in the words of a user.
pub fn plain(said: &str) -> String {
    // serde_core::de::Error's default texts; a test pins them.
    if let Some((key, known)) = quoted_after(said, "unknown field ") {
        let all: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        // Of a key that may be written in two ways, one is told.
        let told = |key: &&str| !key.contains('_') || !all.contains(&key.replace('_', "-").as_str());
        let known: Vec<&str> = all.iter().copied().filter(told).collect();
        return unknown("key", key, &known);
    }
    if let Some((key, _)) = quoted_after(said, "missing field ") {
        return format!("the key '{key}' is missing");
    }
    if let Some((key, _)) = quoted_after(said, "duplicate field ") {
        return format!("the key '{key}' is there twice");
    }
    if said == "duplicate key" {
        return "this key is there twice".into();
    }
    said.replace('`', "'")
}

fn quoted_after<'a>(said: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    said.strip_prefix(start)?.strip_prefix('`')?.split_once('`')
}

/// Says that nobody knows `word`, and which of `known` was probably meant.
pub fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(near) => format!("unknown {what} '{word}'; did you mean '{near}'?"),
        None => format!("unknown {what} '{word}'; known are {}", known.join(", ")),
    }
}

// The most similar of `known`, if any is similar at all.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let fold = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = fold(word);
    let likeness = |known: &&str| strsim::jaro_winkler(&word, &fold(known));
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    Some(best).filter(|best| likeness(best) > 0.7)
}

#[cfg(test)]
mod tests;
