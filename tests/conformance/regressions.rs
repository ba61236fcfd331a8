//! The known bugs that hostile guests made use of elsewhere (`R-nn`), and the tests of ours that would find them here.
//!
//! A test says so in a comment right above its attributes: `// R-20, R-36`. A case of the attack table has its row.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ambit_attacks::table;

use super::checkout;

/// Of the transports, of rings, of the devices that there are, and of PCI. What is left out is of what is not offered:
/// packed rings (22), dirty logs (39), vsock (54 to 59), files on a DAX window (65), devices passed through (77).
const ROWS: [RangeInclusive<u8>; 7] = [1..=16, 20..=21, 23..=38, 40..=53, 60..=64, 70..=76, 78..=78];
/// Where tests are.
const SOURCES: [&str; 6] = ["devices", "memory", "arch", "vmm/src", "tests/tests", "tests/conformance"];

type Named = BTreeMap<String, BTreeSet<String>>;

fn rows() -> BTreeSet<String> {
    ROWS.into_iter().flatten().map(|row| format!("R-{row:02}")).collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .collect();
    all.sort();
    all
}

/// Every `R-nn` in `text`.
fn ids(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("R-").filter_map(move |(at, _)| {
        let digits = text.get(at + 2..at + 4)?;
        let ends = text[at + 4..].chars().next().is_none_or(|next| !next.is_ascii_alphanumeric());
        (ends && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| format!("R-{digits}"))
    })
}

/// The rows that the tests in `text` are of, by test, and the lines that name rows and are above no test.
fn labels(text: &str) -> (Named, Vec<usize>) {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let (mut of, mut astray) = (Named::new(), Vec::new());
    for (at, line) in lines.iter().enumerate() {
        if !line.starts_with("//") || line.starts_with("//!") || ids(line).next().is_none() {
            continue;
        }
        let above = |line: &&&str| line.starts_with('#') || line.starts_with("//");
        let head: Vec<&str> = lines[at..].iter().take_while(above).copied().collect();
        let name = lines.get(at + head.len()).and_then(|line| line.strip_prefix("fn "));
        match name.and_then(|line| line.split_once('(')) {
            Some((name, _)) if head.contains(&"#[test]") => {
                of.entry(name.to_owned()).or_default().extend(ids(line));
            }
            _ => astray.push(at + 1),
        }
    }
    (of, astray)
}

/// Every row that is named, with the tests and cases that are of it, and what is wrong.
fn covered() -> (Named, Vec<String>) {
    let (mut named, mut wrong) = (Named::new(), Vec::new());
    let all = SOURCES.iter().flat_map(|directory| files(&checkout().join(directory)));
    for path in all {
        let (of, astray) = labels(&fs::read_to_string(&path).unwrap());
        let place = path.strip_prefix(checkout()).unwrap().display();
        wrong.extend(astray.iter().map(|line| format!("{place}:{line}: a row, but no test below it")));
        for (test, ids) in of {
            for id in ids {
                named.entry(id).or_default().insert(format!("{place} {test}"));
            }
        }
    }
    for attack in table::all() {
        named.entry(attack.row.to_owned()).or_default().insert(format!("case: {}", attack.what));
    }
    let unknown = named.iter().filter(|(id, _)| !rows().contains(*id));
    wrong.extend(unknown.map(|(id, tests)| format!("{id} is no row of ours, of {tests:?}")));
    (named, wrong)
}

#[test]
fn a_label_is_of_the_test_below_it() {
    let text = "// C-001, R-02\n/// R-03.\n#[test]\nfn one() {}\n\n// R-04\nfn two() {}\n// XR-5 R-6 R-777\n";

    let of: Vec<(String, Vec<String>)> =
        labels(text).0.into_iter().map(|(test, ids)| (test, ids.into_iter().collect())).collect();

    assert_eq!(of, [("one".to_owned(), vec!["R-02".to_owned(), "R-03".to_owned()])]);
    assert_eq!(labels(text).1, [6]);
}

/// Printed by `cargo xtask test`.
#[test]
fn every_row_has_a_test_that_is_of_it() {
    let (named, wrong) = covered();
    let missing: Vec<String> = rows().into_iter().filter(|row| !named.contains_key(row)).collect();
    let tests: BTreeSet<&String> =
        named.values().flatten().filter(|test| !test.starts_with("case: ")).collect();

    println!(
        "hostile guests: {}/{} rows covered, by {} tests and {} cases of the attack table",
        rows().len() - missing.len(),
        rows().len(),
        tests.len(),
        table::all().count(),
    );
    assert_eq!((missing, wrong), (Vec::new(), Vec::new()));
}

// whoever has a slice of RAM may not see it change, so no device has one. All that it takes is `unsafe`, which is in
// few files; the program makes one of a vCPU's own page.
#[test]
fn nothing_makes_a_slice_of_guest_memory() {
    let makers = ["from_raw_parts", "transmute", "slice_from_raw"];
    let all = ["devices", "memory", "arch"].iter().flat_map(|directory| files(&checkout().join(directory)));
    let found: Vec<String> = all
        .filter(|path| makers.iter().any(|maker| fs::read_to_string(path).unwrap().contains(maker)))
        .map(|path| path.display().to_string())
        .collect();

    assert_eq!(found, Vec::<String>::new());
}
