//! `conformance.toml`: that it has every line of the checklist, that the tests it names exist, and how much they cover;
//! and the same of known regressions, which tests name.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;

mod regressions;

/// The ids of the checklist: its groups leave room for more.
const IDS: [RangeInclusive<u16>; 12] = [
    1..=24,
    30..=61,
    70..=91,
    95..=111,
    120..=153,
    160..=170,
    180..=200,
    210..=231,
    240..=247,
    250..=250,
    251..=251,
    255..=255,
];
const LEVELS: [&str; 5] = ["must", "should", "may", "legacy", "robustness"];
const TRANSPORTS: [&str; 4] = ["mmio", "mmio-legacy", "pci", "pci-legacy"];
const WHY: [&str; 3] = ["not offered", "no vsock yet", "to do"];
/// Where the modules of each kind of test begin.
const ROOTS: [(&str, &str); 3] =
    [("ambit-virtio", "devices/virtio/src"), ("ambit-pci", "devices/pci/src"), ("guests", "tests/tests")];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conformance {
    line: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    section: String,
    level: String,
    transports: Vec<String>,
    tests: Vec<String>,
    why: Option<String>,
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn lines() -> Vec<Line> {
    let text = fs::read_to_string(checkout().join("conformance.toml")).unwrap();
    toml::from_str::<Conformance>(&text).unwrap().line
}

/// "2.7.4.1", "4.2.4 / 2.7.2", "2.2.2 (1.4)", "5.2.3 / MQ", or one of PCI's own specification.
fn is_section(section: &str) -> bool {
    let number = |word: &str| word.split('.').all(|part| part.parse::<u8>().is_ok());
    let one = |part: &str| {
        let part = part.trim_end_matches(" (1.4)");
        match part.strip_prefix("PCI") {
            Some(rest) => rest.split_whitespace().all(number),
            None => number(part) || part == "MQ",
        }
    };
    section.split(" / ").all(one)
}

/// What is wrong with a line, except its id.
fn mistakes(line: &Line) -> Vec<String> {
    let mut all = Vec::new();
    let mut wrong = |what: String| all.push(format!("{}: {what}", line.id));
    if !is_section(&line.section) {
        wrong(format!("'{}' is no section", line.section));
    }
    if !LEVELS.contains(&&*line.level) {
        wrong(format!("'{}' is no level; take one of {LEVELS:?}", line.level));
    }
    let known = |transport: &String| TRANSPORTS.contains(&&**transport);
    let distinct: BTreeSet<&String> = line.transports.iter().collect();
    if line.transports.is_empty()
        || !line.transports.iter().all(known)
        || distinct.len() < line.transports.len()
    {
        wrong(format!("{:?} are not some of {TRANSPORTS:?}, each once", line.transports));
    }
    match (&line.why, line.tests.is_empty()) {
        (None, true) => wrong(format!("no test, and no reason; take one of {WHY:?}")),
        (Some(_), false) => wrong("a reason to have no test, and a test".to_owned()),
        (Some(why), true) if !WHY.contains(&&**why) => wrong(format!("'{why}' is none of {WHY:?}")),
        _ => {}
    }
    line.tests.iter().filter_map(|test| missing(test).err()).for_each(wrong);
    all
}

/// `Err` with the reason if there is no such test: `CRATE module::test`.
fn missing(test: &str) -> Result<(), String> {
    let (kind, path) = test.split_once(' ').ok_or_else(|| format!("'{test}' is not 'CRATE module::test'"))?;
    let (_, root) =
        ROOTS.iter().find(|(name, _)| *name == kind).ok_or_else(|| format!("no tests of '{kind}'"))?;
    let mut modules: Vec<&str> = path.split("::").collect();
    let name = modules.pop().unwrap_or_default();
    let mut directory = checkout().join(root);
    let mut text = None;
    let mut within = Vec::new();
    for module in modules {
        let files = [directory.join(format!("{module}.rs")), directory.join(module).join("mod.rs")];
        match files.iter().find_map(|file| fs::read_to_string(file).ok()) {
            Some(found) if within.is_empty() => text = Some(found),
            _ => within.push(module),
        }
        directory.push(module);
    }
    let text = text.ok_or_else(|| format!("{test}: no such file"))?;
    // A macro may make modules of its own, by their names.
    let has =
        |module: &&str| text.contains(&format!("mod {module} {{")) || text.contains(&format!("{module} \""));
    if !within.iter().all(has) {
        return Err(format!("{test}: no such module"));
    }
    if is_test(&text, name) { Ok(()) } else { Err(format!("{test}: no such test")) }
}

/// A function of that name, with `#[test]` among the attributes before it.
fn is_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    // Not only the first: others may have its name in another module.
    (0..lines.len()).filter(|at| lines[*at].starts_with(&head)).any(|at| {
        let mut before = lines[..at].iter().rev();
        let mut attributes =
            before.by_ref().take_while(|line| line.starts_with('#') || line.starts_with("//"));
        attributes.any(|line| *line == "#[test]")
    })
}

#[test]
fn every_line_of_the_checklist_is_there_once_and_in_order() {
    let expected: Vec<String> = IDS.into_iter().flatten().map(|id| format!("C-{id:03}")).collect();

    let found: Vec<String> = lines().into_iter().map(|line| line.id).collect();

    assert_eq!(found.len(), 194);
    assert_eq!(found, expected);
}

#[test]
fn every_line_is_well_formed_and_its_tests_exist() {
    let all: Vec<String> = lines().iter().flat_map(mistakes).collect();

    assert!(all.is_empty(), "conformance.toml:\n{}", all.join("\n"));
}

#[test]
fn what_is_wrong_with_a_line_is_said() {
    let line = |section: &str, level: &str, transport: &str, tests: &[&str], why: Option<&str>| Line {
        id: "C-001".to_owned(),
        section: section.to_owned(),
        level: level.to_owned(),
        transports: vec![transport.to_owned()],
        tests: tests.iter().map(|test| (*test).to_owned()).collect(),
        why: why.map(str::to_owned),
    };
    let there = "ambit-virtio queue::tests::sizes_are_powers_of_two_up_to_the_maximum";
    let guests = "guests transports::pci_legacy::drivers_come_and_go_50_times";

    assert!(mistakes(&line("2.5 / 4.1.4.3.1", "must", "mmio", &[there, guests], None)).is_empty());
    assert!(mistakes(&line("PCI 3.0 6.8.2", "may", "pci", &[], Some("to do"))).is_empty());
    for wrong in [
        line("2.x", "must", "mmio", &[there], None),
        line("2.7", "M", "mmio", &[there], None),
        line("2.7", "must", "ccw", &[there], None),
        line("2.7", "must", "mmio", &[], None),
        line("2.7", "must", "mmio", &[], Some("later")),
        line("2.7", "must", "mmio", &[there], Some("to do")),
        line("2.7", "must", "mmio", &["queue::tests::sizes"], None),
        line("2.7", "must", "mmio", &["ambit-virtio queue::tests::sizes"], None),
        // There, but no test.
        line("2.7", "must", "mmio", &["ambit-virtio queue::tests::check_block"], None),
        line("2.7", "must", "mmio", &["ambit-virtio queues::tests::sizes"], None),
        line("2.7", "must", "mmio", &["guests transports::ccw::drivers_come_and_go_50_times"], None),
    ] {
        assert_eq!(mistakes(&wrong).len(), 1, "{} {} {:?}", wrong.section, wrong.level, wrong.tests);
    }
}

fn covered<'a>(lines: impl Iterator<Item = &'a Line> + Clone) -> (usize, usize) {
    (lines.clone().filter(|line| !line.tests.is_empty()).count(), lines.count())
}

/// Printed by `cargo xtask test`.
#[test]
fn how_many_lines_are_covered() {
    let lines = lines();
    let (n, of) = covered(lines.iter());
    let level = |level: &&str| {
        let (n, of) = covered(lines.iter().filter(|line| line.level == *level));
        format!("{n} {} of {of}", level.to_uppercase())
    };
    let levels: Vec<String> = LEVELS.iter().map(level).collect();
    // One write, so that no other test's line comes between.
    let mut report = String::new();
    for transport in TRANSPORTS {
        let (n, of) = covered(lines.iter().filter(|line| line.transports.iter().any(|on| on == transport)));
        report += &format!("conformance: {n}/{of} lines covered of those for {transport}\n");
    }
    report += &format!("conformance: {n}/{of} lines covered ({})", levels.join(", "));
    println!("{report}");

    assert!(n > 0);
}
