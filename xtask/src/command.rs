//! Other programs: run them, and when one fails say which, how, and what it printed.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use crate::failure::{Failure, Result};

pub fn command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

pub trait Run {
    /// Runs to the end with its output on our own; a non-zero status is an error.
    fn show(&mut self) -> Result<()>;
    /// Runs to the end and gives back its standard output; standard error is shown only on failure.
    fn capture(&mut self) -> Result<String>;
    /// As `capture`, with standard error on our own as it comes.
    fn answer(&mut self) -> Result<String>;
}

impl Run for Command {
    fn show(&mut self) -> Result<()> {
        let status = self.status().map_err(|e| not_started(self, &e))?;
        if status.success() {
            return Ok(());
        }
        Err(failed(self, status))
    }

    fn capture(&mut self) -> Result<String> {
        let output = self.output().map_err(|e| not_started(self, &e))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let mut said = text.trim_end().to_owned();
        said.push_str(String::from_utf8_lossy(&output.stderr).trim_end());
        Err(Failure::new(format!("{}\n{}", failed(self, output.status), last_lines(&said, 30))))
    }

    fn answer(&mut self) -> Result<String> {
        let output = self.stderr(Stdio::inherit()).output().map_err(|e| not_started(self, &e))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(failed(self, output.status))
    }
}

fn failed(command: &Command, status: std::process::ExitStatus) -> Failure {
    Failure::new(format!("{}: {status}", line(command)))
}

pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// One word that a shell reads back as `text`.
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A command line from words.
pub fn joined(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn line(command: &Command) -> String {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    joined(&words)
}

fn not_started(command: &Command, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot start {}: {error}", line(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_comes_back_whole_from_a_shell() {
        let word = "a 'b' $c \"d\" \\e *";

        let back = command("sh", ["-c", &format!("printf %s {}", quoted(word))]).capture().unwrap();

        assert_eq!(back, word);
    }

    #[test]
    fn a_failed_command_says_its_line_its_status_and_its_last_words() {
        let error = command("sh", ["-c", "echo the disk is full >&2; exit 3"]).capture().unwrap_err();

        assert_eq!(
            error.to_string(),
            "sh -c 'echo the disk is full >&2; exit 3': exit status: 3\nthe disk is full"
        );
    }
}
