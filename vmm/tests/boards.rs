//! `ambit board` and `--board FILE` as users meet them. No KVM is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const AMBIT: &str = env!("CARGO_BIN_EXE_ambit");

struct Said {
    exit: i32,
    out: String,
    err: String,
}

fn ambit_in(directory: &Path, line: &str) -> Said {
    let output = Command::new(AMBIT).current_dir(directory).args(line.split_whitespace()).output().unwrap();
    Said {
        exit: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A directory with board files.
struct Desk(TempDir);

impl Desk {
    fn with(files: &[(&str, &str)]) -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = desk.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        desk
    }

    fn ambit(&self, line: &str) -> Said {
        ambit_in(self.0.path(), line)
    }

    /// What is said of a board that cannot be had.
    #[track_caller]
    fn refusal(&self, line: &str) -> String {
        let said = self.ambit(line);
        assert_eq!((said.exit, said.out.as_str()), (2, ""), "ambit {line}: {}", said.err);
        said.err
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn a_list_has_every_board_with_its_options() {
    let said = ambit_in(Path::new("."), "board list");
    assert_eq!((said.exit, said.err.as_str()), (0, ""));
    for line in ["native (aarch64): ", "qemu-virt (aarch64): ", "kvmtool (aarch64): ", "  highmem=on|off "] {
        assert!(said.out.contains(line), "{line}: {}", said.out);
    }

    let json: Value =
        serde_json::from_str(&ambit_in(Path::new("."), "board list --format json").out).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["boards"][1]["name"], "qemu-virt");
    assert_eq!(json["boards"][1]["options"][0]["key"], "highmem");
    assert_eq!(json["boards"][1]["options"][0]["values"], "on|off");
}

#[test]
fn what_is_shown_is_a_board_of_its_own_and_plans_the_same() {
    let desk = Desk::with(&[]);
    for board in
        ["native", "qemu-virt,highmem=off", "qemu-virt,highmem-mmio-size=1T", "kvmtool,gic-version=2"]
    {
        let shown = desk.ambit(&format!("board show {board}"));
        assert_eq!((shown.exit, shown.err.as_str()), (0, ""), "{board}");
        fs::write(desk.0.path().join("shown.toml"), &shown.out).unwrap();

        assert_eq!(desk.ambit("board show shown.toml").out, shown.out, "{board}");
        // It has no options, so none of them is offered.
        let plan = |board: &str| -> Vec<String> {
            let said = desk.ambit(&format!("plan --board {board} --cpus 4 --pa-bits 40"));
            said.out.lines().filter(|line| !line.contains("help: ")).map(String::from).collect()
        };
        assert_eq!(plan("shown.toml"), plan(board));
        assert_eq!(desk.ambit("board check shown.toml").exit, 0, "{board}");
    }
}

#[test]
fn the_examples_are_fine_and_a_machine_can_be_planned_on_each() {
    for (file, cpus) in [("boards/m1-36.toml", 64), ("boards/pi4-gicv2.toml", 8)] {
        let said = ambit_in(&repository(), &format!("board check {file}"));
        let last = said.out.lines().last().unwrap();
        assert_eq!(said.exit, 0, "{}", said.out);
        assert!(last.starts_with(&format!("{file}: fine, 0 warnings, ")), "{}", said.out);

        let plan = format!("plan --board {file} --cpus {cpus} --memory 2G --pa-bits 36 --disk a --net tap0");
        let said = ambit_in(&repository(), &plan);
        assert_eq!(said.exit, 0, "{}", said.err);
    }
}

#[test]
fn every_board_file_of_this_repository_is_checked_by_the_test_above() {
    let mut names: Vec<String> = fs::read_dir(repository().join("boards"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();

    assert_eq!(names, ["m1-36.toml", "pi4-gicv2.toml"]);
}

#[test]
fn a_check_says_all_that_is_wrong_and_ends_with_2() {
    let desk = Desk::with(&[
        ("wrong.toml", "inherit = \"native\"\nwith = 36\n[ram]\nbase = -1\n"),
        (
            "clash.toml",
            "inherit = \"native\"\nname = \"clash\"\n[[reserved]]\nname = \"a\"\nbase = 0\nsize = \"17M\"\n",
        ),
        ("good.toml", "inherit = \"kvmtool\"\nname = \"good\"\n"),
    ]);

    let said = desk.ambit("board check wrong.toml");
    assert_eq!((said.exit, said.err.as_str()), (2, ""));
    assert_eq!(
        said.out,
        "wrong.toml:2:1: error: unknown key 'with'; help: did you mean 'width'?\n\
         wrong.toml:4:8: error: [ram] base is -1, and an address is wanted; help: write a number, or text like \
         \"0x0900_0000\" or \"64K\"\nwrong.toml: 2 errors, 0 warnings, 0 notes\n"
    );

    let said = desk.ambit("board check good.toml clash.toml");
    assert_eq!(said.exit, 2);
    assert!(said.out.contains("good.toml: fine, 0 warnings, "), "{}", said.out);
    assert!(
        said.out.contains(
            "clash.toml:3:1: error: reserved.a at [0x0-0x10fffff] overlaps uart0 at [0x1000000-0x1000fff] \
             (inherited); help: move reserved.a to 0x0100_1000 or above, or make one smaller\n"
        ),
        "{}",
        said.out
    );

    let said = desk.ambit("board check clash.toml --format json");
    let json: Value = serde_json::from_str(&said.out).unwrap();
    let file = &json["files"][0];
    assert_eq!(said.exit, 2);
    assert_eq!((&file["file"], &file["fine"]), (&"clash.toml".into(), &false.into()));
    let first = &file["findings"][0];
    assert_eq!([&first["severity"], &first["file"]], ["error", "clash.toml"]);
    assert_eq!([&first["line"], &first["column"]], [3, 1]);
}

#[test]
fn a_file_inherits_from_one_beside_it_wherever_the_program_runs() {
    let desk = Desk::with(&[
        ("a/top.toml", "inherit = \"../b/base.toml,gic-version=2\"\nname = \"top\"\n"),
        ("b/base.toml", "inherit = \"./root.toml\"\nmax_cpus = 3\n"),
        ("b/root.toml", "inherit = \"native\"\n"),
        ("b/circle.toml", "inherit = \"../b/circle.toml\"\n"),
        ("b/lost.toml", "inherit = \"nowhere.toml\"\n"),
    ]);

    let shown = desk.ambit("board show a/top.toml").out;
    assert!(shown.starts_with("name = \"top\"\n"), "{shown}");
    assert!(shown.contains("max_cpus = 3\n") && shown.contains("version = 2\n"), "{shown}");
    assert_eq!(
        desk.refusal("plan --board b/circle.toml"),
        "ambit: error: b/circle.toml:1:11: files inherit from each other in a circle: b/circle.toml -> \
         b/../b/circle.toml\n  help: let one of them inherit from a board of the program\n"
    );
    assert_eq!(
        desk.refusal("plan --board b/lost.toml"),
        "ambit: error: b/lost.toml:1:11: the board file b/nowhere.toml cannot be read: No such file or directory \
         (os error 2)\n  help: name a file beside this one\n"
    );
}

#[test]
fn a_board_from_a_file_takes_the_options_of_the_one_it_inherits_from() {
    let desk = Desk::with(&[
        ("mine.toml", "inherit = \"qemu-virt\"\nname = \"mine\"\n"),
        ("guest.toml", "board = \"./mine.toml,highmem=off\"\nmemory = \"1G\"\n"),
    ]);

    let said = desk.ambit("plan --config guest.toml --pa-bits 40");
    assert_eq!(said.exit, 0, "{}", said.err);
    assert!(
        said.out.starts_with("board mine (aarch64), 1 vCPU, 1 GiB of memory\n32 address bits of the board, "),
        "{}",
        said.out
    );
    assert_eq!(
        desk.refusal("plan --board mine.toml,himem=off").lines().next().unwrap(),
        "ambit: error: board 'mine' has no option 'himem'; it has highmem, highmem-redists, highmem-ecam, \
         highmem-mmio, highmem-mmio-size, compact-highmem, gic-version"
    );
}

#[test]
fn what_is_no_board_file_is_refused_before_anything_else() {
    let desk = Desk::with(&[("bad.toml", "inherit = \"native\"\n[ram]\nbase = 1\nsize = 2\n")]);
    let put = |name: &str, bytes: &[u8]| fs::write(desk.0.path().join(name), bytes).unwrap();
    put("junk.toml", &vec![b'x'; 10 << 20]);
    put("key.toml", &vec![b'x'; 1 << 20]);
    put("bytes.toml", &[0xff, 0xfe, 0x00]);
    fs::create_dir(desk.0.path().join("dir.toml")).unwrap();
    let cases = [
        ("junk.toml", "the board file junk.toml has more than 1048576 bytes; it is probably another file"),
        ("bytes.toml", "the board file bytes.toml is not text in UTF-8; it is probably another file"),
        ("dir.toml", "the board file dir.toml cannot be read: Is a directory (os error 21)"),
        ("./no", "the board file ./no cannot be read: No such file or directory (os error 2)"),
        (
            "bad.toml",
            "bad.toml:3:8: [ram] base is 0x0000_0001, which is no multiple of 2 MiB (and 1 more; see ambit board \
             check)",
        ),
    ];

    for (file, said) in cases {
        for command in ["plan --board", "run --kernel Image --board", "board show"] {
            let refusal = desk.refusal(&format!("{command} {file}"));
            assert_eq!(refusal.lines().next().unwrap(), format!("ambit: error: {said}"));
        }
        let checked = desk.ambit(&format!("board check {file}"));
        assert_eq!(checked.exit, 2);
        assert!(checked.out.starts_with(file), "{}", checked.out);
    }
    assert!(desk.refusal("plan --board key.toml").len() < 500);
    assert!(desk.refusal("plan --board nativ").contains("did you mean 'native'?"));
}
