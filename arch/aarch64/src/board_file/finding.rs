//! What is said of a board file, and where: places, findings, and numbers as a file has them.

use ambit_device_manager::Severity;
use serde::Serialize;

/// The text of a board file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As errors name it.
    pub name: String,
    /// The same for the same file, whatever it is called.
    pub identity: String,
    pub text: String,
}

/// A place in a board file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Spot {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In bytes, from 1.
    pub column: usize,
}

/// Something about a board file that its author should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    #[serde(flatten)]
    pub spot: Spot,
    pub message: String,
    /// What would help.
    pub help: Option<String>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Spot { file, line, column } = &self.spot;
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        write!(f, "{file}:{line}:{column}: {severity}: {}", self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "; help: {help}"))
    }
}

/// As a board file has an address: 0x0900_0000.
pub(super) fn hex(address: u64) -> String {
    let digits = format!("{address:08x}");
    let head = digits.len() % 4;
    let groups = digits.as_bytes()[head..].chunks(4).map(String::from_utf8_lossy);
    let groups = (head > 0).then(|| digits[..head].into()).into_iter().chain(groups);
    format!("0x{}", groups.collect::<Vec<_>>().join("_"))
}

/// As a board file has a size: 64K, or in hexadecimal what has no short form.
pub(super) fn size_text(size: u64) -> String {
    let steps = (size.trailing_zeros() / 10).min(4) as usize;
    let number = size >> (10 * steps);
    match (size, steps) {
        (0..1024, _) => size.to_string(),
        _ if steps == 0 || number > 9999 => hex(size),
        _ => format!("{number}{}", ["", "K", "M", "G", "T"][steps]),
    }
}

/// What may be shown of text that is anything.
pub(super) fn shortened(text: &str) -> String {
    let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() { format!("{shown}…") } else { shown }
}

/// The most similar of `known`, if any is similar at all.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let fold = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = fold(word);
    let likeness = |known: &&str| strsim::jaro_winkler(&word, &fold(known));
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    Some(best).filter(|best| likeness(best) > 0.7)
}
