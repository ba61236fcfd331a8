//! Boards from random files and files of random boards: nothing is lost, and nothing breaks the reader.

use std::fmt;

use ambit_aarch64::board_file::{BoardFile, Finding, Source, check, read, shipped, write};
use ambit_aarch64::spec::{BoardSpec, FixtureSpec, GicSpec, HighSpec, Mmio64Spec, RedistSpec};
use ambit_aarch64::tree::{Change, Edit, Value};
use ambit_resources::{AddressRange, PaBits};
use proptest::prelude::*;

const SHIPPED: [&str; 3] = ["native", "qemu-virt", "kvmtool"];

fn file(text: &str) -> Result<BoardFile, Vec<Finding>> {
    let source = Source { name: "b.toml".into(), identity: "b.toml".into(), text: text.into() };
    read(source, &|name, _| Err(format!("there is no file {name}")))
}

fn told(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// What random text is made of: things that a board file may well have.
fn words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "[ram]\n",
        "[gic]\n",
        "[pci]\n",
        "[[reserved]]\n",
        "[[fixture]]\n",
        "[[tree]]\n",
        "[tree.set]\n",
        "[devices]\n",
        "[interrupts]\n",
        "[boot]\n",
        "base",
        "size",
        "name",
        "inherit",
        "version",
        "dist",
        "redistributors",
        "path",
        "set",
        "unset",
        "pin",
        "id",
        " = ",
        "\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"",
        "0x",
        "-1",
        "0",
        "1",
        "2",
        "3",
        "\"64K\"",
        "\"native\"",
        "\"0xffff_ffff_ffff_ffff\"",
        "18446744073709551615",
        "false",
        "true",
        "\"/a@1/b\"",
        "\"b.toml\"",
        "#",
        "'",
        "é",
        "1e9",
        "1979-05-27",
    ]);
    prop::collection::vec(word, 0..80).prop_map(|words| words.concat())
}

/// A change to a board.
struct Twist(Box<dyn Fn(&mut BoardSpec)>);

impl fmt::Debug for Twist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a change; the board is in the message")
    }
}

/// One change to a board after which it is still one that a file can say.
fn change() -> impl Strategy<Value = Twist> {
    fn boxed(change: impl Fn(&mut BoardSpec) + 'static) -> Twist {
        Twist(Box::new(change))
    }
    let page = (0_u64..1 << 40).prop_map(|page| page << 12);
    let range = ((0_u64..1 << 30), (1_u64..1 << 9))
        .prop_map(|(base, size)| AddressRange::fixed(base << 21, size << 20));
    let name = "[a-z][a-z0-9._-]{0,20}";
    let value = prop_oneof![
        Just(Value::Flag),
        prop::collection::vec(any::<u32>(), 0..5).prop_map(Value::Cells),
        prop::collection::vec(any::<u64>(), 0..5).prop_map(Value::Cells64),
        prop::collection::vec("[^\u{0}]{0,12}", 0..4).prop_map(Value::Strings),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Bytes),
    ];
    let values = prop::collection::btree_map("[a-zA-Z0-9,._+?#-]{1,12}", value, 0..5);
    let path = "(/[a-zA-Z0-9,._+-]{1,12}(@[0-9a-f]{1,9})?){1,4}";
    prop_oneof![
        name.prop_map(|name| boxed(move |spec| spec.name.clone_from(&name))),
        "[^\\p{C}]{0,40}".prop_map(|about| boxed(move |spec| spec.about.clone_from(&about))),
        prop::option::of(32_u8..=52)
            .prop_map(|bits| boxed(move |spec| spec.width = bits.and_then(PaBits::new))),
        (1_u32..=512).prop_map(|cpus| boxed(move |spec| spec.max_cpus = cpus)),
        (0_u64..1 << 31, 0_u32..40, 0_u64..1 << 52, 0_u32..32767).prop_map(|(base, grain, room, slots)| {
            boxed(move |spec| {
                (spec.ram.base, spec.ram.grain) = (base << 21, 1 << grain);
                (spec.ram.slot_room, spec.ram.max_slots) = (room, slots);
            })
        }),
        (name, range.clone()).prop_map(|(name, range)| boxed(move |spec| {
            spec.reserved.retain(|(known, _)| *known != name);
            spec.reserved.push((name.clone(), range));
        })),
        (name, name, page.clone(), prop::option::of(0_u32..960)).prop_map(|(id, kind, base, pin)| {
            boxed(move |spec| {
                spec.fixtures.retain(|known| known.id != id);
                spec.fixtures.push(FixtureSpec { id: id.clone(), kind: kind.clone(), base, pin });
            })
        }),
        (range.clone(), range.clone()).prop_map(|(dist, cpu)| boxed(move |spec| {
            spec.gic = GicSpec::V2 { dist, cpu, kept: Vec::new() };
        })),
        prop::collection::vec((range.clone(), any::<bool>()), 0..5).prop_map(|windows| boxed(move |spec| {
            let up =
                |(window, whole): &(AddressRange, bool)| RedistSpec::Up { window: *window, whole: *whole };
            let redists = windows.iter().map(up).collect();
            spec.gic = GicSpec::V3 { dist: 0x0900_0000, its: None, redists, v4: windows.len() == 3 };
        })),
        (range.clone(), range.clone(), 0_u32..10, prop::option::of(name)).prop_map(|(io, low, gib, off)| {
            boxed(move |spec| {
                if let Some(pci) = &mut spec.pci {
                    (pci.io, pci.mmio32) = (Some(io), low);
                    pci.mmio64 =
                        Some(Mmio64Spec::Fixed(HighSpec { size: 1 << (30 + gib), off: off.clone() }));
                }
            })
        }),
        Just(()).prop_map(|()| boxed(|spec| spec.pci = None)),
        (path, values).prop_map(|(path, values)| boxed(move |spec| {
            let change = Change::Set(values.clone().into_iter().collect());
            spec.edits.push(Edit { path: path.clone(), change });
        })),
        (path, prop::collection::btree_set(name, 0..4)).prop_map(|(path, names)| boxed(move |spec| {
            let change = match names.is_empty() {
                true => Change::Remove,
                false => Change::Unset(names.iter().cloned().collect()),
            };
            spec.edits.push(Edit { path: path.clone(), change });
        })),
    ]
}

proptest! {
    #[test]
    fn any_board_is_the_same_after_it_was_written_and_read(
        name in prop::sample::select(SHIPPED.to_vec()),
        changes in prop::collection::vec(change(), 0..8),
    ) {
        let mut board = shipped(name).unwrap().spec;
        changes.iter().for_each(|change| (change.0)(&mut board));

        let text = write(&board);
        let read = file(&text).map_err(|findings| TestCaseError::fail(told(&findings)))?;
        prop_assert_eq!(&read.board.spec, &board);

        // And whatever it is, it can be checked.
        check(&read);
    }

    #[test]
    fn bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        examine(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn words_are_read_or_refused(text in words()) {
        examine(&text);
        examine(&format!("inherit = \"native\"\n{text}"));
    }

    #[test]
    fn a_damaged_board_is_read_or_refused(
        name in prop::sample::select(SHIPPED.to_vec()),
        at in any::<prop::sample::Index>(),
        length in 0_usize..12,
        put in words(),
    ) {
        let text = write(&shipped(name).unwrap().spec);
        let at = at.index(text.len());
        let (before, after) = (text.get(..at), text.get((at + length).min(text.len())..));
        if let (Some(before), Some(after)) = (before, after) {
            examine(&format!("{before}{put}{after}"));
        }
    }

    #[test]
    fn a_board_with_another_number_is_read_or_refused(
        name in prop::sample::select(SHIPPED.to_vec()),
        which in any::<prop::sample::Index>(),
        number in prop_oneof![
            any::<u64>(),
            (0_u32..64).prop_map(|bit| 1 << bit),
            (1_u32..64).prop_map(|bit| (1 << bit) - 1),
            Just(0),
        ],
    ) {
        let text = write(&shipped(name).unwrap().spec);
        let numbers: Vec<&str> = text.split('"').filter(|word| word.starts_with("0x")).collect();
        let old = numbers[which.index(numbers.len())];
        examine(&text.replacen(old, &format!("{number:#x}"), 1));
    }
}

/// Reads and checks `text`, whatever it is. Each finding has a place in it.
fn examine(text: &str) {
    let findings = match file(text) {
        Ok(file) => check(&file),
        Err(findings) => {
            assert!(!findings.is_empty());
            findings
        }
    };
    for finding in findings {
        let line = text.split('\n').nth(finding.spot.line - 1).expect("the line is there");
        assert!(finding.spot.column <= line.len() + 1, "{finding}");
        assert!(!finding.message.contains('\n'), "{finding}");
    }
}
