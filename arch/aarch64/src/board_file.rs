//! Boards from TOML files: read, written, and checked.
//!
//! A file says what is different from the board it inherits from, or all of it. Nothing is opened here: who
//! reads a file is asked for the text of another that it names.
//!
//! ```toml
//! inherit = "native"              # or "qemu-virt,highmem=off", or another file; without it: everything
//! name = "mine"
//! about = "what it is for"
//! width = 36                      # a number of bits it does not go past, or false
//! max_cpus = 64
//!
//! [ram]                           # one bank, from its base up
//! base = "0x4000_0000"
//! grain = 1                       # RAM is taken to end at a multiple of this
//! slot_room = 0                   # kept for each slot of hot-plugged RAM
//! max_slots = 256
//!
//! [[reserved]]                    # merged by name; remove = true takes one away
//! name = "msi"
//! base = "0x0800_0000"
//! size = "1M"
//!
//! [gic]                           # another version than the inherited one begins from nothing
//! version = 3
//! dist = "0x0900_0000"            # { base, size } with version 2, and cpu = { base, size }
//! its = "0x0902_0000"             # or "below-redists", or false
//! redistributors = [{ base = "0x0a00_0000", size = "64M", keep = false }]
//! # or { top = … } downward, or { above_ram = "64M" }; the list is replaced as a whole
//!
//! [interrupts]
//! count = 960
//! devices = [16, 959]             # pins of optional devices, both ends included
//! intx = 2                        # the first of four, or false
//!
//! [devices]                       # where optional devices are
//! base = "0x0200_0000"
//! size = "16M"
//! grain = "4K"
//! transport = "mmio"              # or "mmio-legacy", "pci", "pci-legacy": of devices that do not say theirs
//!
//! [[fixture]]                     # merged by id; remove = true takes one away
//! id = "uart0"
//! kind = "pl011"
//! base = "0x0100_0000"
//! pin = 0                         # or false
//!
//! [pci]                           # or pci = false
//! ecam = { base = "0x1000_0000", size = "256M" }
//! high_ecam = false               # or a size: above RAM, where the width holds it
//! io = { base = "0x3fff_0000", size = "64K" }      # or false
//! mmio32 = { base = "0x2000_0000", size = "0x1fff_0000" }
//! mmio64 = { room = "512M", cap = "512G" }         # or { size = "512G" }, or false
//!
//! [above_ram]
//! floor = 0                       # nothing but RAM is above RAM and below this
//! holes = false                   # what is left out leaves a hole of its size
//!
//! [boot]
//! kernel_offset = 0
//!
//! [[tree]]                        # made in this order, after those that are inherited
//! path = "/led@1"
//! unset = ["old"]                 # properties to take away
//! [tree.set]                      # true is a flag, text strings, a number one cell
//! compatible = ["a", "b"]
//! reg = { cells = [0, 1] }        # or cells64, or bytes = "00ff"
//!
//! [[tree]]
//! path = "/rtc@2"
//! remove = true                   # the node, with all below it
//! ```

mod check;
mod edits;
mod finding;
mod gic;
mod parts;
mod text;
mod trial;
mod wiring;
mod write;

use std::collections::BTreeMap;

use ambit_device_manager::OptionError;
use toml::de::DeValue;

use crate::spec::{BoardSpec, SpecBoard};
use finding::{nearest, shortened};
use text::{Item, Reader, Table};

pub use check::check;
pub use finding::{Finding, Source, Spot};
pub(crate) use write::particulars;
pub use write::write;

/// How many files may inherit from each other.
const DEEPEST: usize = 8;

/// A board with where in its files what is said.
#[derive(Clone, Debug)]
pub struct BoardFile {
    pub board: SpecBoard,
    marks: Marks,
}

/// What a board was made of.
#[derive(Debug)]
pub(crate) struct Lineage {
    /// `None`: the last file says everything.
    pub root: Option<Box<SpecBoard>>,
    /// The first inherits from the next.
    files: Vec<Source>,
}

/// Where parts of a board are said, by their names; what is inherited from the program is said nowhere.
#[derive(Clone, Debug, Default)]
struct Marks {
    /// With the number of the file, from 0: the higher one inherits from the lower.
    spots: BTreeMap<String, (usize, Spot)>,
    depth: usize,
}

impl Marks {
    fn put(&mut self, name: impl Into<String>, spot: Spot) {
        self.spots.insert(name.into(), (self.depth, spot));
    }

    fn find(&self, names: &[&str]) -> Option<&(usize, Spot)> {
        names.iter().find_map(|name| self.spots.get(*name))
    }

    /// Where the first of `names` that is said is said, or else what is inherited from.
    fn at(&self, names: &[&str]) -> Spot {
        let spot = self.find(names).or_else(|| self.find(&["inherit", "file"]));
        spot.map(|(_, spot)| spot.clone()).expect("every file has a beginning, marked before it is read")
    }
}

/// The board of this program called `words`: `NAME,key=value,…`.
///
/// # Errors
/// What is wrong, and what would help, for a person.
pub fn shipped(words: &str) -> Result<SpecBoard, (String, String)> {
    let (name, words) = words.split_once(',').map_or((words, None), |(name, words)| (name, Some(words)));
    let boards = [crate::native(), crate::qemu_virt(), crate::kvmtool()];
    let names: Vec<&str> = boards.iter().map(|board| board.spec.name.as_str()).collect();
    let Some(board) = boards.iter().find(|board| board.spec.name == name) else {
        let help = match nearest(name, &names) {
            Some(near) => format!("did you mean '{near}'? a file has a '/' in its name or ends in .toml"),
            None => format!("known are {}; a file has a '/' in its name or ends in .toml", names.join(", ")),
        };
        return Err((format!("there is no board '{}'", shortened(name)), help));
    };
    with_words(board, words)
}

fn with_words(board: &SpecBoard, words: Option<&str>) -> Result<SpecBoard, (String, String)> {
    let words = words.into_iter().flat_map(|words| words.split(','));
    let options: Option<Vec<(String, String)>> =
        words.map(|word| word.split_once('=').map(|(key, value)| (key.into(), value.into()))).collect();
    let Some(options) = options else {
        return Err(("an option is not of the form key=value".into(), "write NAME,key=value,…".into()));
    };
    board.with(&options).map_err(|error| (error.to_string(), "see ambit board list".into()))
}

/// Whether `name` is a file's and not a board's.
pub fn is_file(name: &str) -> bool {
    name.contains('/') || name.ends_with(".toml")
}

/// Reads a board. `open` gives the file of a name that another file says.
///
/// # Errors
/// All that is wrong, in the order it is written.
pub fn read(
    source: Source,
    open: &dyn Fn(&str, &Source) -> Result<Source, String>,
) -> Result<BoardFile, Vec<Finding>> {
    let lineage = lineage(source, open).map_err(|finding| vec![finding])?;
    let (spec, marks) = lineage.make()?;
    Ok(BoardFile { board: SpecBoard::from_files(spec, lineage), marks })
}

/// Follows `inherit` from file to file.
fn lineage(
    source: Source,
    open: &dyn Fn(&str, &Source) -> Result<Source, String>,
) -> Result<Lineage, Finding> {
    let mut files = vec![source];
    // What each file says after the name of the one that it inherits from.
    let mut options: Vec<(usize, String)> = Vec::new();
    let root = loop {
        let last = files.last().expect("there is one file from the start, and none is removed");
        let Some((at, words)) = inherited(last)? else { break None };
        let refuse = |(message, help): (String, String)| refusal(last, at, message, help);
        let (name, rest) = words.split_once(',').map_or((&*words, None), |(name, rest)| (name, Some(rest)));
        if !is_file(name) {
            break Some(Box::new(shipped(&words).map_err(refuse)?));
        }
        options.extend(rest.map(|rest| (files.len() - 1, rest.to_owned())));
        let next = open(name, last).map_err(|why| refuse((why, "name a file beside this one".into())))?;
        let chain = || {
            let names = files.iter().chain([&next]).map(|file| file.name.as_str());
            names.collect::<Vec<_>>().join(" -> ")
        };
        if files.iter().any(|file| file.identity == next.identity) {
            let help = "let one of them inherit from a board of the program".into();
            return Err(refuse((format!("files inherit from each other in a circle: {}", chain()), help)));
        }
        if files.len() == DEEPEST {
            let message = format!("more than {DEEPEST} files inherit from each other: {}", chain());
            return Err(refuse((message, "join some of them".into())));
        }
        files.push(next);
    };
    let mut lineage = Lineage { root, files };
    for (index, words) in options.into_iter().rev() {
        let source = &lineage.files[index];
        let at = inherited(source)?.map_or(0, |(at, _)| at);
        let root = lineage.root.take().ok_or_else(|| {
            let message = "a board that inherits from none of the program has no options".to_owned();
            refusal(source, at, message, "leave the options out".into())
        })?;
        let set = with_words(&root, Some(&words));
        lineage.root = Some(Box::new(set.map_err(|(message, help)| refusal(source, at, message, help))?));
    }
    Ok(lineage)
}

fn refusal(source: &Source, at: usize, message: String, help: String) -> Finding {
    let mut reader = Reader::new(source);
    reader.refuse(at, message, help);
    reader.findings.swap_remove(0)
}

/// What `source` inherits from, and where it says so.
fn inherited(source: &Source) -> Result<Option<(usize, String)>, Finding> {
    let mut reader = Reader::new(source);
    let document = reader.document();
    let found = document.as_ref().and_then(|document| {
        let table = Table::new("", 0, document.get_ref());
        let item = table.item("inherit")?;
        Some((item.at, reader.text(item)?.to_owned()))
    });
    reader.findings.pop().map_or(Ok(found), Err)
}

impl Lineage {
    /// The same files over a root with these options.
    pub(crate) fn with(&self, options: &[(String, String)]) -> Result<SpecBoard, OptionError> {
        let root = self.root.as_ref().map(|root| root.with(options).map(Box::new)).transpose()?;
        let lineage = Self { root, files: self.files.clone() };
        let made = lineage.make().map_err(|findings| OptionError::Refused {
            board: self.files.first().map_or_else(String::new, |file| file.name.clone()),
            options: options
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(","),
            why: findings.first().map_or_else(String::new, |finding| {
                let Spot { file, line, column } = &finding.spot;
                format!("{file}:{line}:{column}: {}", finding.message)
            }),
        });
        made.map(|(spec, _)| SpecBoard::from_files(spec, lineage))
    }

    fn make(&self) -> Result<(BoardSpec, Marks), Vec<Finding>> {
        let mut spec = self.root.as_ref().map_or_else(parts::nothing, |root| root.spec.clone());
        let (mut marks, mut findings) = (Marks::default(), Vec::new());
        for (depth, source) in self.files.iter().rev().enumerate() {
            let mut reader = Reader::new(source);
            marks.depth = depth;
            marks.put("file", reader.spot(0));
            if let Some(document) = reader.document() {
                let table = Table::new("", 0, document.get_ref());
                let fresh = depth == 0 && self.root.is_none();
                parts::apply(&mut reader, &table, fresh, &mut spec, &mut marks);
            }
            reader.findings.sort_by(|a, b| a.spot.cmp(&b.spot));
            findings.append(&mut reader.findings);
        }
        if findings.is_empty() { Ok((spec, marks)) } else { Err(findings) }
    }
}

/// Whether `item` is `false`, which takes something away.
fn is_false(item: &Item<'_>) -> bool {
    matches!(item.value, DeValue::Boolean(false))
}
