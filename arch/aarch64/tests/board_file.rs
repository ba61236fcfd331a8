//! Boards from files: what they say, what is said of those that are wrong, and that nothing breaks the reader.

use std::collections::BTreeMap;

use ambit_aarch64::board_file::{BoardFile, Finding, Source, check, read, shipped, write};
use ambit_aarch64::spec::{BoardSpec, GicSpec, RedistSpec};
use ambit_aarch64::tree::{Change, Edit, Value};
use ambit_device_manager::{Board, Severity, Transport};
use ambit_resources::{AddressRange, PaBits};

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), identity: name.into(), text: text.into() }
}

fn open_none(name: &str, _: &Source) -> Result<Source, String> {
    Err(format!("there is no file {name}"))
}

fn file(text: &str) -> Result<BoardFile, Vec<Finding>> {
    read(source("b.toml", text), &open_none)
}

#[track_caller]
fn spec(text: &str) -> BoardSpec {
    file(text).unwrap_or_else(|findings| panic!("{}", told(&findings))).board.spec
}

fn told(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// What is said of a file that cannot be read.
#[track_caller]
fn refused(text: &str) -> String {
    told(&file(text).expect_err("it can be read"))
}

/// What is said of a file that can be read: errors and warnings.
#[track_caller]
fn checked(text: &str) -> String {
    let file = file(text).unwrap_or_else(|findings| panic!("{}", told(&findings)));
    let findings = check(&file).into_iter().filter(|finding| finding.severity != Severity::Note);
    told(&findings.collect::<Vec<_>>())
}

const SHIPPED: [&str; 3] = ["native", "qemu-virt", "kvmtool"];

/// Every shipped board with each of its options in each of its values.
fn variants() -> Vec<(String, BoardSpec)> {
    let mut all = Vec::new();
    for name in SHIPPED {
        let board = shipped(name).unwrap();
        all.push((name.to_owned(), board.spec.clone()));
        for option in board.options() {
            let values = option.values.replace("SIZE", "1T|512G");
            for value in values.split('|') {
                let words = format!("{name},{}={value}", option.key);
                all.push((words.clone(), shipped(&words).unwrap().spec));
            }
        }
    }
    all
}

#[test]
fn every_shipped_board_is_the_same_after_it_was_written_and_read() {
    for (words, board) in variants() {
        assert_eq!(spec(&write(&board)), board, "{words}");
    }
}

#[test]
fn a_shipped_boards_file_has_no_errors() {
    for (words, board) in variants() {
        let file = file(&write(&board)).unwrap();

        let errors: Vec<Finding> =
            check(&file).into_iter().filter(|finding| finding.severity == Severity::Error).collect();

        assert_eq!(told(&errors), "", "{words}");
    }
}

#[test]
fn a_file_that_only_inherits_is_its_parent() {
    for (words, board) in variants() {
        assert_eq!(spec(&format!("inherit = \"{words}\"")), board);
    }
}

#[test]
fn a_file_changes_what_it_says_and_nothing_else() {
    let board = spec(
        r#"
        inherit = "native"
        name = "mine"
        width = 36
        [gic]
        redistributors = [{ base = "0x0a00_0000", size = "8M" }]
        [[reserved]]
        name = "msi"
        size = "2M"
        [[fixture]]
        id = "rtc0"
        remove = true
        [[fixture]]
        id = "uart0"
        pin = 7
        [interrupts]
        intx = false
        [pci]
        io = false
        [boot]
        kernel_offset = "2M"
        "#,
    );

    let mut expected = ambit_aarch64::native().spec;
    expected.name = "mine".into();
    expected.width = PaBits::new(36);
    let GicSpec::V3 { redists, .. } = &mut expected.gic else { panic!("native has a GICv3") };
    *redists = vec![RedistSpec::Up { window: AddressRange::fixed(0x0a00_0000, 8 << 20), whole: false }];
    expected.reserved[0].1 = AddressRange::fixed(0x0800_0000, 2 << 20);
    expected.fixtures.remove(1);
    expected.fixtures[0].pin = Some(7);
    let pci = expected.pci.as_mut().unwrap();
    (pci.intx, pci.io) = (None, None);
    expected.kernel_offset = 2 << 20;
    assert_eq!(board, expected);
}

#[test]
fn a_tree_says_every_kind_of_value_in_the_order_of_the_file() {
    let board = spec(
        r##"
        inherit = "native"
        [[tree]]
        path = "/soc/led@1"
        unset = ["old"]
        [tree.set]
        compatible = ["b", "a"]
        "#address-cells" = 1
        status = "okay"
        list = [1, 0x10]
        reg = { cells64 = ["0x1_0000_0000", "4K"] }
        flag = true
        blob = { bytes = "00 ff" }
        none = []
        [[tree]]
        path = "/psci"
        remove = true
        "##,
    );

    let set = Change::Set(vec![
        ("compatible".into(), Value::Strings(vec!["b".into(), "a".into()])),
        ("#address-cells".into(), Value::Cells(vec![1])),
        ("status".into(), Value::Strings(vec!["okay".into()])),
        ("list".into(), Value::Cells(vec![1, 16])),
        ("reg".into(), Value::Cells64(vec![1 << 32, 4096])),
        ("flag".into(), Value::Flag),
        ("blob".into(), Value::Bytes(vec![0, 0xff])),
        ("none".into(), Value::Strings(Vec::new())),
    ]);
    let edit = |path: &str, change| Edit { path: path.into(), change };
    assert_eq!(
        board.edits,
        [
            edit("/soc/led@1", Change::Unset(vec!["old".into()])),
            edit("/soc/led@1", set),
            edit("/psci", Change::Remove)
        ]
    );
    assert_eq!(spec(&write(&board)), board);
}

#[test]
fn a_refusal_says_where_what_and_what_instead() {
    // The end of a file that inherits from native, and what is said of it.
    let cases = [
        (
            "[ram]\nbase = -4096",
            "2:8: error: [ram] base is -4096, and an address is wanted; help: write a number, or text like \
             \"0x0900_0000\" or \"64K\"",
        ),
        (
            "[ram]\nbase = 0x4010_0000",
            "2:8: error: [ram] base is 0x4010_0000, which is no multiple of 2 MiB; help: write \"0x4000_0000\" \
             or \"0x4020_0000\"",
        ),
        (
            "[ram]\nbase = \"0x1_0000_0000_0000_0000\"",
            "2:8: error: [ram] base is '0x1_0000_0000_0000_0000', and an address is wanted; help: write a \
             number, or text like \"0x0900_0000\" or \"64K\"",
        ),
        (
            "[ram]\ngrain = 3",
            "2:9: error: [ram] grain is 3, and it is a power of two from 1 to 1T; help: write \"4\"",
        ),
        (
            "[devices]\nsize = \"9000T\"",
            "2:8: error: [devices] size is 0x23280000000000, and no machine has more than 4 PiB; help: write at \
             most 0x10_0000_0000_0000",
        ),
        (
            "[devices]\nsize = 0",
            "2:8: error: [devices] size is 0, and there is nothing without a size; help: write at least 4K",
        ),
        (
            "[[reserved]]\nname = \"top\"\nbase = \"0xf_ffff_ffff_f000\"\nsize = \"8K\"",
            "4:8: error: [[reserved]] 'top' of 8K at 0xf_ffff_ffff_f000 ends past 0xf_ffff_ffff_ffff, the last \
             address any machine has; help: make it smaller, or move it down",
        ),
        (
            "[[reserved]]\nname = \"half\"\nbase = 0",
            "1:1: error: the key 'size' of [[reserved]] 'half' is missing; help: write it, or inherit it from \
             another board (inherit = \"native\")",
        ),
        (
            "[[reserved]]\nname = \"other\"\nremove = true",
            "3:10: error: [[reserved]] 'other' is taken away, and there is none; help: leave this entry out",
        ),
        (
            "[[fixture]]\nid = \"uart0\"\n[[fixture]]\nid = \"uart0\"",
            "4:6: error: [[fixture]] 'uart0' is there twice, first in line 2; help: give it another id, or join \
             them",
        ),
        (
            "[[fixture]]\nid = \"a b\"",
            "2:6: error: [[fixture]] id is 'a b', which is no name; help: write 1 to 64 letters, digits, '-', \
             '.' and '_'",
        ),
        (
            "[gic]\nbasse = 1",
            "2:1: error: unknown key 'basse' in [gic]; help: known are version, dist, cpu, its, redistributors",
        ),
        ("[ram]\nbse = 1", "2:1: error: unknown key 'bse' in [ram]; help: did you mean 'base'?"),
        ("gik = 1", "1:1: error: unknown key 'gik'; help: did you mean 'gic'?"),
        ("width = 31", "1:9: error: width is 31, and possible are 32 to 52; help: write 32"),
        ("[gic]\nversion = 1", "2:11: error: [gic] version is 1, and possible are 2 to 4; help: write 2"),
        (
            "[gic]\ndist = \"0x0900_1000\"",
            "2:8: error: [gic] dist is 0x0900_1000, which is no multiple of 64 KiB; help: write \"0x0900_0000\" \
             or \"0x0901_0000\"",
        ),
        (
            "[gic]\nversion = 2\ndist = \"0x0900_0000\"\ncpu = \"0x0901_0000\"\nits = false",
            "5:1: error: a GICv2 has no 'its'; help: leave it out, or write version = 3",
        ),
        (
            "[gic]\nversion = 2",
            "1:1: error: the key 'dist' of [gic] is missing; help: write it, or inherit it from another board \
             (inherit = \"native\")\nb.toml:1:1: error: the key 'cpu' of [gic] is missing; help: write it, or \
             inherit it from another board (inherit = \"native\")",
        ),
        (
            "[gic]\nits = \"above\"",
            "2:7: error: [gic] its is 'above', and the ITS has a place, or there is none; help: write an \
             address, \"below-redists\", or false",
        ),
        (
            "[gic]\nredistributors = [{ base = 0, top = 65536 }]",
            "2:19: error: an entry of [gic] redistributors has one of base, top and above_ram, and this has 2; \
             help: write { base, size }, { top } or { above_ram }",
        ),
        (
            "[gic]\nredistributors = [{ base = 0, size = \"60K\" }]",
            "2:38: error: [gic] redistributors size is 0x0000_f000, which is no multiple of 64 KiB; help: write \
             \"0x0001_0000\"",
        ),
        (
            "[interrupts]\ndevices = [20, 10]",
            "2:11: error: [interrupts] devices has the first pin, 20, after the last, 10; help: write [10, 20]",
        ),
        (
            "[interrupts]\ncount = 1000",
            "2:9: error: [interrupts] count is 1000, and possible are 1 to 960; help: write 960",
        ),
        (
            "pci = false\n[interrupts]\nintx = 4",
            "3:8: error: [interrupts] intx is for PCI, and this board has none; help: leave it out, or write a \
             table [pci]",
        ),
        (
            "[pci]\necam = { size = \"512M\" }",
            "2:8: error: [pci] ecam has 512M, and 256 buses take 256M; help: write at most \"256M\"",
        ),
        (
            "[pci]\nmmio64 = { size = \"512G\", cap = \"1G\" }",
            "2:27: error: [pci] mmio64 cap goes with no size: a window is by need, or of one size; help: write \
             { room, cap } or { size }",
        ),
        (
            "[boot]\nkernel_offset = \"2G\"",
            "2:17: error: [boot] kernel_offset is 0x8000_0000, and 1G is the most; help: write less: the initrd \
             and the tree come after the kernel",
        ),
        (
            "[[tree]]\npath = \"led\"",
            "2:8: error: [[tree]] path is 'led', and a path begins at the root; help: write /name@address with \
             letters, digits and ',', '.', '_', '+', '-'",
        ),
        (
            "[[tree]]\npath = \"/a b\"",
            "2:8: error: [[tree]] path is '/a b', and 'a b' is no name of a node; help: write /name@address with \
             letters, digits and ',', '.', '_', '+', '-'",
        ),
        (
            "[[tree]]\npath = \"/led\"",
            "1:1: error: [[tree]] '/led' changes nothing; help: write set, unset or remove = true",
        ),
        (
            "[[tree]]\npath = \"/led\"\nset = { reg = 0x1_0000_0000 }",
            "3:15: error: a cell of '/led' reg is 0x100000000, and a cell has 32 bits; help: write it as \
             { cells64 = […] }, which are two cells each",
        ),
        (
            "[[tree]]\npath = \"/led\"\nset = { \"a b\" = true }",
            "3:9: error: 'a b' is no name of a property; help: write letters, digits and ',', '.', '_', '+', \
             '?', '#', '-'",
        ),
        (
            "[[tree]]\npath = \"/led\"\nset = { a = { bytes = \"0g\" } }",
            "3:23: error: '/led' a bytes is '0g', and bytes are two hexadecimal digits each; help: write them as \
             \"00ff\"",
        ),
        (
            "ram = 5",
            "1:7: error: [ram] is 5, and a table is wanted; help: write { base = …, grain = …, slot_room = …, max_slots = … }",
        ),
        (
            "name = \"\"",
            "1:8: error: name is '', which is no name; help: write 1 to 64 letters, digits, '-', '.' and '_'",
        ),
    ];

    for (text, said) in cases {
        // Lines are counted without this one.
        let text = format!("inherit = \"native\"\n{text}\n");
        let findings = file(&text).expect_err(&text);
        let shifted: Vec<Finding> = findings
            .into_iter()
            .map(|mut finding| {
                finding.spot.line -= 1;
                finding
            })
            .collect();

        assert_eq!(told(&shifted).trim_end(), format!("b.toml:{said}"), "{text}");
    }
}

#[test]
fn a_file_without_a_parent_is_told_everything_it_lacks() {
    let help = "help: write it, or inherit it from another board (inherit = \"native\")\n";
    let lacks = |key: &str| format!("b.toml:1:1: error: the key '{key}' is missing; {help}");

    let expected: String = ["name", "ram", "gic", "devices", "interrupts"].map(lacks).concat();

    assert_eq!(refused(""), expected);
}

#[test]
fn the_shortest_file_without_a_parent_is_a_board() {
    let text = r#"
        name = "short"
        ram = { base = "1G" }
        gic = { version = 3, dist = "48M", redistributors = [{ top = "32M" }] }
        devices = { base = "64M", size = "1M" }
        interrupts = { devices = [8, 15] }
        fixture = [{ id = "uart0", kind = "pl011", base = "128M", pin = 0 }]
    "#;

    assert_eq!(
        checked(text),
        "b.toml:4:61: warning: redistributors have room for 256 vCPUs, and max_cpus is 512; help: write \
         max_cpus = 256, or make more room\n"
    );
}

#[test]
fn what_is_no_toml_is_told_so() {
    for text in ["[ram", "ram = {", "= 5", "\u{0}", "[[ram]]\n[ram]", "a = 1\na = 2"] {
        assert!(refused(text).contains("error: this is not TOML: "), "{}", refused(text));
    }
}

#[test]
fn parts_in_each_others_way_are_both_named_and_the_later_one_is_to_move() {
    let said = checked(
        r#"
        inherit = "native"
        [[reserved]]
        name = "a"
        base = "0x0700_0000"
        size = "1M"
        [[reserved]]
        name = "b"
        base = "0x0708_0000"
        size = "1M"
        [[fixture]]
        id = "uart0"
        base = "0x0902_0000"
        "#,
    );

    assert_eq!(
        said,
        "b.toml:7:9: error: reserved.b at [0x7080000-0x717ffff] overlaps reserved.a at [0x7000000-0x70fffff] \
         (line 3 of b.toml); help: move reserved.b to 0x0710_0000 or above, or make one smaller\n\
         b.toml:11:9: error: uart0 at [0x9020000-0x9020fff] overlaps gic.its at [0x9020000-0x903ffff] \
         (inherited); help: move uart0 to 0x0904_0000 or above, or make one smaller\n"
    );
}

#[test]
fn what_makes_no_machine_is_found() {
    // The end of a file that inherits from native, and what is said of it.
    let cases = [
        (
            "width = 32\n[pci]\nmmio32 = { base = \"0x1_0000_0000\" }",
            "4:10: error: pci.mmio32 at [0x100000000-0x11ffeffff] needs 33 address bits, and the board has 32; \
             help: move it below 0x1_0000_0000\nb.toml:4:10: error: pci.mmio32 at [0x100000000-0x11ffeffff] is \
             not below 4 GiB, and no BAR of 32 bits reaches it; help: move it below 0x1_0000_0000",
        ),
        (
            "[ram]\nbase = \"0x0900_0000\"",
            "3:8: error: RAM begins at 0x0900_0000, within gic.dist at [0x9000000-0x900ffff]; help: begin it at \
             0x0920_0000 or above",
        ),
        (
            "[ram]\nbase = \"0x0800_0000\"\n[[reserved]]\nname = \"msi\"\nremove = true",
            "3:8: error: RAM from 0x0800_0000 can come to cover [0x8000000-0x80fffff], where DMA of assigned \
             devices is taken for interrupts; help: begin RAM at 0x0810_0000 or above\nb.toml:3:8: error: RAM \
             from 0x0800_0000 has 16 MiB at most, because of gic.dist at [0x9000000-0x900ffff]; help: begin it \
             lower, or move what is above it",
        ),
        (
            "[[fixture]]\nid = \"rtc0\"\npin = 0",
            "4:7: error: rtc0 has pin 0, which uart0 has; help: give each its own",
        ),
        (
            "[interrupts]\ncount = 64\nintx = 62",
            "4:8: error: pci.intc has pin 64, and the last pin is 63; help: give it one from 0 to 63, or raise \
             [interrupts] count\nb.toml:4:8: error: pci.intd has pin 65, and the last pin is 63; help: give it \
             one from 0 to 63, or raise [interrupts] count\nb.toml:2:2: error: devices have pins 16 to 959, and \
             the last pin is 63; help: end them at 63, or raise [interrupts] count\nb.toml:2:2: warning: pins of \
             devices are 16 to 959, and taken of those are 62 (pci.inta), 63 (pci.intb), 64 (pci.intc), 65 \
             (pci.intd); help: let devices have pins that nobody else has",
        ),
        (
            "[gic]\nits = false\n[interrupts]\nintx = false",
            "5:8: error: PCI has no interrupts: there is no ITS for messages, and no INTx; help: write \
             [interrupts] intx, or pci = false",
        ),
        (
            "[gic]\nredistributors = []",
            "3:18: error: there is no room for a single redistributor of 128K; help: write redistributors = \
             [{ base, size }], with 128K for each vCPU",
        ),
        (
            "[[fixture]]\nid = \"led0\"\nkind = \"pl061\"\nbase = \"0x0102_0000\"",
            "2:1: warning: fixture led0 is a 'pl061', and the program has no such device; help: did you mean \
             'pl031'?",
        ),
        (
            "[[fixture]]\nid = \"rng0\"\nkind = \"pl031\"\nbase = \"0x0102_0000\"\npin = 9",
            "2:1: error: fixture rng0 is called as the program calls a device of the guest's, and no two parts \
             of a machine are called alike; help: give the fixture another id",
        ),
        (
            "[[fixture]]\nid = \"disk7\"\nkind = \"pl031\"\nbase = \"0x0102_0000\"\npin = 9",
            "2:1: warning: fixture disk7 is called as the program calls a device of the guest's, and no two \
             parts of a machine are called alike; help: give the fixture another id",
        ),
        ("[[fixture]]\nid = \"disk07\"\nkind = \"pl031\"\nbase = \"0x0102_0000\"\npin = 9", ""),
        (
            "[[fixture]]\nid = \"uart0\"\nremove = true",
            "1:1: warning: there is no pl011, so the guest has no console; help: add a fixture of kind \
             \"pl011\"",
        ),
        (
            "[[tree]]\npath = \"/led@1\"\nset = { reg = [1, 2] }",
            "3:8: error: reg of /led@1 has 2 cells, and its parent wants 2 for an address and 2 for a size; \
             help: write a multiple of both together; cells64 are two cells each",
        ),
        (
            "[[tree]]\npath = \"/i2c/led@1\"\nset = { reg = [1, 2] }\n[[tree]]\npath = \"/i2c\"\n\
             set = { \"#address-cells\" = 1, \"#size-cells\" = 0 }",
            "",
        ),
        (
            "[[tree]]\npath = \"/led@1\"\nset = { interrupts = [0, 5] }",
            "3:8: error: interrupts of /led@1 has 2 cells, and the GIC wants 3 for each; help: write { cells = \
             [0, PIN, 4] }: shared, its pin, level",
        ),
        (
            "[[tree]]\npath = \"/led@1\"\nset = { interrupts = [0, 960, 4] }",
            "3:8: error: interrupts of /led@1 has type 0 and number 960; help: write type 0 and a pin from 0 to \
             959, or type 1 and a number from 0 to 15",
        ),
        (
            "[[tree]]\npath = \"/nothing\"\nremove = true",
            "3:8: error: [[tree]] '/nothing' takes away what is not there; help: leave this entry out, or \
             correct the path",
        ),
        ("[[tree]]\npath = \"/x\"\nset = { phandle = 2 }", "2:3: error: the device tree cannot be made: "),
        (
            "[devices]\nbase = \"0x0800_0000\"\nsize = \"1M\"",
            "1:1: error: there is no machine with 1 vCPU, 512 MiB and 48 bits: check.disk wants ",
        ),
    ];

    for (text, said) in cases {
        let is = checked(&format!("inherit = \"native\"\n{text}"));
        let is = is.strip_prefix("b.toml:").unwrap_or(&is).trim_end();

        match said.ends_with(' ') {
            true => assert!(is.starts_with(said), "{is}"),
            false => assert_eq!(is, said, "{text}"),
        }
    }
}

/// Reads `first` of some files that know each other by their names.
fn among(files: &[(&str, &str)], first: &str) -> Result<BoardFile, Vec<Finding>> {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let open = |name: &str, _: &Source| match files.get(name) {
        Some(text) => Ok(source(name, text)),
        None => Err(format!("there is no file {name}")),
    };
    read(source(first, files[first]), &open)
}

#[test]
fn a_file_may_inherit_from_a_file_and_its_errors_are_told_where_they_are() {
    let base = ("base.toml", "inherit = \"qemu-virt,highmem=off\"\nname = \"base\"\nmax_cpus = 4");
    let good = ("good.toml", "inherit = \"base.toml,gic-version=2\"\nname = \"good\"");
    let bad = ("bad.toml", "inherit = \"broken.toml\"");
    let broken = ("broken.toml", "inherit = \"native\"\nmax_cpus = 0");
    let files = [base, good, bad, broken];

    let mut expected = shipped("qemu-virt,highmem=off,gic-version=2").unwrap().spec;
    expected.name = "good".into();
    expected.max_cpus = 4;

    assert_eq!(among(&files, "good.toml").unwrap().board.spec, expected);
    assert_eq!(
        told(&among(&files, "bad.toml").unwrap_err()),
        "broken.toml:2:12: error: max_cpus is 0, and possible are 1 to 512; help: write 1\n"
    );
}

#[test]
fn what_cannot_be_inherited_from_is_named() {
    let cases = [
        (
            "native2",
            "there is no board 'native2'; help: did you mean 'native'? a file has a '/' in its name or ends in .toml",
        ),
        (
            "pc",
            "there is no board 'pc'; help: known are native, qemu-virt, kvmtool; a file has a '/' in its name or ends in .toml",
        ),
        ("native,gic-version=5", "board option gic-version=5: write 2 or 3; help: see ambit board list"),
        ("native,x=5", "board 'native' has no option 'x'; it has gic-version; help: see ambit board list"),
        ("native,x", "an option is not of the form key=value; help: write NAME,key=value,…"),
        ("no.toml", "there is no file no.toml; help: name a file beside this one"),
    ];

    for (parent, said) in cases {
        assert_eq!(refused(&format!("inherit = \"{parent}\"")), format!("b.toml:1:11: error: {said}\n"));
    }
    assert_eq!(
        refused("inherit = 5"),
        "b.toml:1:11: error: inherit is 5, and text is wanted; help: write it in quotes\n"
    );
}

#[test]
fn files_do_not_inherit_in_a_circle_or_without_end() {
    let circle = [("a.toml", "inherit = \"b.toml\""), ("b.toml", "\ninherit = \"a.toml\"")];
    let names: Vec<String> = (0..9).map(|index| format!("{index}.toml")).collect();
    let texts: Vec<String> = (1..10).map(|index| format!("inherit = \"{index}.toml\"")).collect();
    let long: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    let mut enough = long.clone();
    enough[7].1 = "inherit = \"native\"";

    assert_eq!(
        told(&among(&circle, "a.toml").unwrap_err()),
        "b.toml:2:11: error: files inherit from each other in a circle: a.toml -> b.toml -> a.toml; help: let \
         one of them inherit from a board of the program\n"
    );
    assert_eq!(
        told(&among(&long, "0.toml").unwrap_err()),
        "7.toml:1:11: error: more than 8 files inherit from each other: 0.toml -> 1.toml -> 2.toml -> 3.toml -> \
         4.toml -> 5.toml -> 6.toml -> 7.toml -> 8.toml; help: join some of them\n"
    );
    assert_eq!(among(&enough, "0.toml").unwrap().board.spec, ambit_aarch64::native().spec);
}

#[test]
fn options_come_before_what_the_file_says() {
    let own = file("inherit = \"native\"\n[gic]\ndist = \"0x0908_0000\"").unwrap().board;
    let option = |value: &str| [("gic-version".to_owned(), value.to_owned())];

    let moved = own.with(&option("2")).unwrap();
    let GicSpec::V2 { dist, .. } = moved.spec.gic else { panic!("it is a GICv2") };
    assert_eq!(dist, AddressRange::fixed(0x0908_0000, 4096));
    assert_eq!(moved.with(&option("3")).unwrap().spec, own.spec);
    assert_eq!(own.options(), ambit_aarch64::native().options());

    let own = file("inherit = \"native\"\n[gic]\nits = false").unwrap().board;
    assert_eq!(
        own.with(&option("2")).unwrap_err().to_string(),
        "board 'b.toml' cannot be had with gic-version=2: b.toml:3:1: a GICv2 has no 'its'"
    );
}

#[test]
fn junk_has_no_end_and_what_is_said_of_it_has() {
    let keys: String = (0..20_000).map(|index| format!("k{index} = {index}\n")).collect();
    let list = format!("inherit = \"native\"\nreserved = [{}]", "{name = \"a\"},".repeat(30_000));
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));

    let properties: String = (0..60_000).map(|index| format!("k{index}=true\n")).collect();
    let properties = format!("inherit = \"native\"\n[[tree]]\npath = \"/a\"\n[tree.set]\n{properties}");
    let place = |index| format!("[[reserved]]\nname = \"r{index}\"\nbase = 0\nsize = \"1G\"\n");
    let places: String = (0..1000).map(place).collect();

    assert_eq!(checked(&format!("inherit = \"native\"\n{places}")).matches("overlaps").count(), 32);
    assert_eq!(
        refused(&properties),
        "b.toml:3:8: error: [[tree]] sets more than 4096 properties; help: a guest reads a tree of at most 2 MiB; \
         leave some out\n"
    );
    assert_eq!(file(&keys).unwrap_err().len(), 100);
    assert_eq!(
        refused(&list),
        "b.toml:2:12: error: reserved has 30000 entries, and 1024 are the most; help: join some of them\n"
    );
    assert!(refused(&deep).contains("this is not TOML"), "{}", refused(&deep));
}

#[test]
fn a_board_says_how_its_devices_are_reached() {
    let said = |text: &str| spec(&format!("inherit = \"native\"\nname = \"mine\"\n{text}"));

    assert_eq!(said("").transport, Transport::Mmio);
    let pci = said("[devices]\ntransport = \"pci-legacy\"");
    assert_eq!((pci.transport, &pci.devices), (Transport::PciLegacy, &said("").devices));
    assert!(write(&pci).contains("transport = \"pci-legacy\"\n"), "{}", write(&pci));
    assert_eq!(
        refused("inherit = \"native\"\n[devices]\ntransport = \"pcie\""),
        "b.toml:3:13: error: [devices] transport is 'pcie', which is no transport; help: did you mean 'pci'?\n"
    );
}

#[test]
fn a_board_without_pci_reaches_no_device_over_it() {
    assert_eq!(
        checked("inherit = \"native\"\nname = \"mine\"\npci = false\n[devices]\ntransport = \"pci-legacy\""),
        "b.toml:5:13: error: devices are reached over pci-legacy, and the board has no PCI; help: write transport = \
         \"mmio-legacy\" in [devices]\n"
    );
}
