//! `ambit board`: the boards there are, one as a file, and whether a file makes sense.

use std::fmt::Write as _;

use ambit_aarch64::board_file::{self, Finding};
use ambit_device_manager::{Arch, Board, BoardOption, Severity};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::config::{self, BoardFileError, ConfigError};
use crate::failure::{Exit, Failure};
use crate::report::{self, Format};

const EXAMPLES: &str = "\
Examples:
  ambit board list
  ambit board show qemu-virt,highmem=off > mine.toml
  ambit board check mine.toml
  ambit run --board mine.toml --kernel Image";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BoardArgs {
    #[command(subcommand)]
    pub command: BoardCommand,
}

#[derive(Debug, Subcommand)]
pub enum BoardCommand {
    /// Print the boards of this program and their options
    #[command(after_help = EXAMPLES)]
    List {
        /// For people or for programs
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: Format,
    },
    /// Print a board as a TOML file that says all of it
    #[command(after_help = EXAMPLES)]
    Show {
        #[arg(value_name = "NAME|FILE.toml[,KEY=VALUE]…")]
        board: String,
    },
    /// Say what is wrong with board files. Nothing but they and those they inherit from is opened
    #[command(after_help = EXAMPLES)]
    Check {
        #[arg(value_name = "FILE", required = true)]
        files: Vec<String>,
        /// For people or for programs
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: Format,
    },
}

/// What a report for programs is called by; it counts the times its fields broke.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct ListReport<'a> {
    schema: u32,
    boards: Vec<BoardReport<'a>>,
}

#[derive(Serialize)]
struct BoardReport<'a> {
    name: &'a str,
    arch: Arch,
    about: String,
    options: Vec<BoardOption>,
}

#[derive(Serialize)]
struct CheckReport {
    schema: u32,
    files: Vec<FileReport>,
}

#[derive(Serialize)]
struct FileReport {
    file: String,
    /// Whether a machine can be planned on it.
    fine: bool,
    /// Why the file cannot be read. Null if it can.
    unread: Option<String>,
    findings: Vec<Finding>,
}

/// `ambit board`, with the boards of this program.
///
/// # Errors
/// [`Failure`] for a board that there is not, and for output that cannot be written.
pub fn run(args: &BoardArgs, boards: &[&dyn Board]) -> Result<Exit, Failure> {
    match &args.command {
        BoardCommand::List { format } => report::print(&list(boards, *format)).map(|()| Exit::Done),
        BoardCommand::Show { board } => report::print(&show(board, boards)?).map(|()| Exit::Done),
        BoardCommand::Check { files, format } => check(files, *format),
    }
}

fn list(boards: &[&dyn Board], format: Format) -> String {
    if matches!(format, Format::Json) {
        let report = |board: &&'_ dyn Board| (board.arch(), board.about(), board.options());
        let all = boards.iter().map(|board| {
            let (arch, about, options) = report(board);
            BoardReport { name: board.name(), arch, about, options }
        });
        return json(&ListReport { schema: SCHEMA, boards: all.collect() });
    }
    let mut text = String::new();
    for board in boards {
        line(&mut text, &format!("{} ({}): {}", board.name(), board.arch().name(), board.about()));
        let options = board.options();
        let words = |option: &BoardOption| format!("{}={}", option.key, option.values);
        let width = options.iter().map(|option| words(option).len()).max().unwrap_or(0);
        for option in &options {
            line(&mut text, &format!("  {:width$}  {}", words(option), option.about));
        }
    }
    text
}

/// Of a shipped board or a file's; what another crate's board is made of is not known.
fn show(words: &str, boards: &[&dyn Board]) -> Result<String, Failure> {
    let board = config::find_board(boards, Some(words), None)?;
    let name = words.split(',').next().unwrap_or_default();
    if board_file::is_file(name) {
        let file = config::read_board(name).map_err(ConfigError::from)?;
        let options = config::board_options(words)?;
        let board = file.board.with(&options).map_err(ConfigError::from)?;
        return Ok(board_file::write(&board.spec));
    }
    match board_file::shipped(words) {
        Ok(spec) => Ok(board_file::write(&spec.spec)),
        Err(_) => Err(ConfigError::NotData(board.name().into()).into()),
    }
}

fn check(files: &[String], format: Format) -> Result<Exit, Failure> {
    let reports: Vec<FileReport> = files.iter().map(|file| check_one(file)).collect();
    let fine = reports.iter().all(|report| report.fine);
    let text = match format {
        Format::Json => json(&CheckReport { schema: SCHEMA, files: reports }),
        _ => reports.iter().map(told).collect(),
    };
    report::print(&text)?;
    Ok(if fine { Exit::Done } else { Exit::BadInput })
}

fn check_one(name: &str) -> FileReport {
    let (findings, unread) = match config::read_board(name) {
        Ok(file) => (board_file::check(&file), None),
        Err(BoardFileError::Wrong(findings)) => (findings, None),
        Err(error @ BoardFileError::Unread { .. }) => (Vec::new(), Some(error.to_string())),
    };
    let wrong = findings.iter().any(|finding| finding.severity == Severity::Error);
    FileReport { file: name.into(), fine: unread.is_none() && !wrong, unread, findings }
}

fn told(report: &FileReport) -> String {
    let mut text = String::new();
    if let Some(why) = &report.unread {
        line(&mut text, &format!("{}: error: {why}", report.file));
        return text;
    }
    for finding in &report.findings {
        line(&mut text, &finding.to_string());
    }
    let count = |severity, one: &str| {
        let count = report.findings.iter().filter(|finding| finding.severity == severity).count();
        match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {one}s"),
        }
    };
    let errors = count(Severity::Error, "error");
    let rest = format!("{}, {}", count(Severity::Warning, "warning"), count(Severity::Note, "note"));
    let result = if report.fine { format!("fine, {rest}") } else { format!("{errors}, {rest}") };
    line(&mut text, &format!("{}: {result}", report.file));
    text
}

fn json(report: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(report)
        .expect("strings, numbers and lists of them always have a JSON form");
    text.push('\n');
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes every line");
}
