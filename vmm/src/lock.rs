//! `plan --lock` and `run --locked`: a map in a file, and the promise that a machine still has it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ambit_device_manager::Plan;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Settings;
use crate::document::{self, DocumentError, Kind, SCHEMA, Schema};
use crate::map::{Difference, Map};

/// A map that was promised to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    path: PathBuf,
    pub map: Map,
}

#[derive(Serialize)]
struct Written<'a> {
    schema: u32,
    sha256: String,
    plan: &'a Map,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a lock file")]
struct Read {
    #[serde(rename = "schema")]
    _schema: Schema,
    sha256: String,
    plan: Map,
}

/// Why a machine may not be built.
#[derive(Debug, thiserror::Error)]
#[error(
    "this machine is not the one that {} locks: {first}{}",
    .path.display(), more(*.others)
)]
pub struct Moved {
    path: PathBuf,
    first: Box<Difference>,
    others: usize,
}

fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => ", and 1 more difference".into(),
        others => format!(", and {others} more differences"),
    }
}

impl Moved {
    /// What would help.
    pub fn remedies(&self) -> Vec<String> {
        vec![
            "start the machine that was locked; 'ambit plan --diff' with the lock file says all that differs"
                .into(),
            "if the guest may see another machine, lock this one with 'ambit plan --lock'".into(),
        ]
    }
}

/// Of the map's canonical text: compact JSON in the order of the fields, as `jq -cj .plan` writes it.
fn hash(map: &Map) -> String {
    let text = serde_json::to_string(map).expect("strings, numbers and lists of them have a JSON form");
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every byte");
        text
    })
}

/// The text of the file that locks `map`.
fn text(map: &Map) -> String {
    let written = Written { schema: SCHEMA, sha256: hash(map), plan: map };
    let mut text = serde_json::to_string_pretty(&written).expect("the map has a JSON form");
    text.push('\n');
    text
}

/// Locks `plan`, which is of the machine `settings` want, in the file at `path`.
///
/// # Errors
/// [`DocumentError::Write`].
pub fn write(path: &Path, plan: &Plan, settings: &Settings<'_>) -> Result<(), DocumentError> {
    document::write(Kind::Lock, path, &text(&Map::new(plan, settings)))
}

/// The lock in the file at `path`.
///
/// # Errors
/// [`DocumentError`] if it cannot be read, is none, or is not as it was written.
pub fn read(path: &Path) -> Result<Lock, DocumentError> {
    parse(&document::read(Kind::Lock, path)?, path)
}

/// The lock in `text`, which is from the file at `path`.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, path: &Path) -> Result<Lock, DocumentError> {
    let read: Read = document::parse(Kind::Lock, text, path)?;
    let is = hash(&read.plan);
    if is != read.sha256 {
        let what = format!("was edited: its plan has the SHA-256 {is}, and the file says {}", read.sha256);
        return Err(DocumentError::Untrue { kind: Kind::Lock, path: path.into(), what });
    }
    Ok(Lock { path: path.into(), map: read.plan })
}

impl Lock {
    /// # Errors
    /// [`Moved`] with the first thing of `plan` that is not as it is locked.
    pub fn check(&self, plan: &Plan, settings: &Settings<'_>) -> Result<(), Moved> {
        let mut differences = self.map.differences(&Map::new(plan, settings)).into_iter();
        match differences.next() {
            None => Ok(()),
            Some(first) => {
                Err(Moved { path: self.path.clone(), first: Box::new(first), others: differences.count() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_refused_when_a_single_byte_of_its_plan_is_another() {
        let map = crate::map::tests::map();
        let path = Path::new("lock.json");

        let whole = parse(&text(&map), path).unwrap();
        let edited = parse(&text(&map).replace("0x40000000", "0x50000000"), path).unwrap_err();

        assert_eq!(whole.map, map);
        assert!(
            edited.to_string().starts_with("the lock file lock.json was edited: its plan has the SHA-256 ")
        );
    }

    #[test]
    fn a_locks_hash_is_of_its_plan_and_not_of_its_spaces() {
        let map = crate::map::tests::map();
        let compact: String = text(&map).split_whitespace().collect();

        assert_eq!(parse(&compact, Path::new("lock.json")).unwrap().map, map);
    }
}
