//! Hosts in files, locked maps and fleets, as users meet them. No KVM is needed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const AMBIT: &str = env!("CARGO_BIN_EXE_ambit");

#[derive(Debug)]
struct Said {
    exit: i32,
    out: String,
    err: String,
}

/// A directory with a profile of a 40-bit host, and with what is none.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.put("host.json", profile().to_string().as_bytes());
        let mut image = vec![0; 64];
        image[16..24].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        image[56..60].copy_from_slice(b"ARM\x64");
        desk.put("Image", &image);
        desk
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    /// Puts a profile whose `key` is `value`.
    fn put_profile(&self, name: &str, key: &str, value: Value) {
        let mut profile = profile();
        profile[key] = value;
        self.put(name, format!("{profile:#}").as_bytes());
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }

    /// Runs `ambit` with the words of `line`, in this directory.
    fn ambit(&self, line: &str) -> Said {
        let mut command = Command::new(AMBIT);
        command.current_dir(self.path()).args(line.split_whitespace()).stdin(Stdio::null());
        let output = command.output().unwrap();
        Said {
            exit: output.status.code().expect("it ends by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What is on standard error when `line` is refused with `exit`.
    #[track_caller]
    fn refusal(&self, exit: i32, line: &str) -> String {
        let said = self.ambit(line);
        assert_eq!(said.exit, exit, "ambit {line}: {}{}", said.out, said.err);
        said.err
    }

    #[track_caller]
    fn done(&self, line: &str) -> String {
        let said = self.ambit(line);
        assert_eq!((said.exit, said.err.as_str()), (0, ""), "ambit {line}: {}", said.out);
        said.out
    }
}

fn profile() -> Value {
    json!({
        "schema": 1, "arch": "aarch64", "kvm": true, "api_version": 12, "ipa_bits": 40, "ipa_bits_known": true,
        "gic_versions": [2, 3], "its": true, "max_cpus": 512, "recommended_cpus": 4, "memory_slots": 32767,
        "page_size": 4096, "problems": [],
    })
}

const HELP: &str = "  help: write one on that host with 'ambit probe --save FILE'\n";

#[test]
fn a_plan_for_a_host_in_a_file_has_that_hosts_limits_and_says_so() {
    let desk = Desk::new();
    desk.put_profile("host.json", "ipa_bits", json!(36));

    let out = desk.done("plan --host host.json --memory 60G");
    let refused = desk.refusal(3, "plan --host host.json --memory 64G");

    assert!(
        out.starts_with(
            "board native (aarch64), 1 vCPU, 60 GiB of memory\n36 address bits of this host, 36 asked of KVM"
        ),
        "{out}"
    );
    assert!(out.ends_with(
        "note: \"this host\" is of host.json: 36 physical address bits, pages of 4 KiB, 512 vCPUs, GICv2 and \
         GICv3, an ITS\n"
    ));
    assert!(!out.contains("no host was asked"));
    assert!(refused.contains("needs 37 physical address bits, and this host has 36"), "{refused}");
    assert!(refused.contains("is of host.json"), "{refused}");
}

#[test]
fn pages_of_16_and_64_kib_are_that_hosts_pages() {
    let desk = Desk::new();
    for size in [4096, 16384, 65536] {
        desk.put_profile("host.json", "page_size", json!(size));

        let said = desk.ambit(&format!("plan --host host.json --memory {}", 512_u64 * (1 << 20) + 4096));

        assert_eq!(said.exit, if size == 4096 { 0 } else { 2 }, "{size}: {}", said.err);
    }
}

#[test]
fn what_is_no_profile_is_refused_by_file_place_and_remedy() {
    let desk = Desk::new();
    desk.put("empty", b"");
    desk.put("blank", b" \n\n");
    desk.put("junk", b"junk");
    desk.put("list", b"[1, 2]");
    desk.put("latin1", b"{\"schema\": 1, \"name\": \"\xe9\"}");
    desk.put("large", &vec![b'x'; 10 << 20]);
    desk.put("cut", b"{\"schema\": 1,\n \"arch\"");
    desk.put("twice", b"{\"schema\": 1,\n \"its\": true,\n \"its\": true}");
    fs::create_dir(desk.path().join("directory")).unwrap();

    let refused = |name: &str| desk.refusal(2, &format!("plan --host {name}"));

    assert_eq!(
        refused("nowhere"),
        "ambit: error: the host profile nowhere cannot be read: No such file or directory (os error 2)\n"
    );
    assert_eq!(
        refused("directory"),
        "ambit: error: the host profile directory cannot be read: Is a directory (os error 21)\n"
    );
    assert_eq!(refused("empty"), format!("ambit: error: the host profile empty is empty\n{HELP}"));
    assert_eq!(refused("blank"), format!("ambit: error: the host profile blank is empty\n{HELP}"));
    assert_eq!(
        refused("junk"),
        format!("ambit: error: junk:1:1: this is not a JSON object, and a host profile is one\n{HELP}")
    );
    assert_eq!(
        refused("list"),
        format!("ambit: error: list:1:1: this is not a JSON object, and a host profile is one\n{HELP}")
    );
    assert_eq!(
        refused("latin1"),
        format!(
            "ambit: error: the host profile latin1 is not text in UTF-8; it is probably another file\n{HELP}"
        )
    );
    assert_eq!(
        refused("large"),
        format!(
            "ambit: error: the host profile large has more than 4194304 bytes; it is probably another file\n\
             {HELP}"
        )
    );
    assert_eq!(refused("cut"), format!("ambit: error: cut:2:7: EOF while parsing an object\n{HELP}"));
    assert_eq!(refused("twice"), format!("ambit: error: twice:3:6: the key 'its' is there twice\n{HELP}"));
}

#[test]
fn a_number_or_key_that_no_profile_has_is_refused_at_its_line_with_the_limit() {
    let desk = Desk::new();
    let refused = |key: &str, value: Value| {
        desk.put_profile("host.json", key, value);
        let said = desk.refusal(2, "plan --host host.json");
        let (place, what) = said.strip_prefix("ambit: error: host.json:").unwrap().split_once(": ").unwrap();
        assert!(place.split(':').all(|number| number.parse::<u32>().unwrap() > 0), "{said}");
        what.to_owned()
    };

    for bits in [31, 53, -1] {
        let expected = format!("ipa_bits is {bits}, and a host has 32 to 52 physical address bits\n{HELP}");
        assert_eq!(refused("ipa_bits", json!(bits)), expected);
    }
    for size in [0, 8192] {
        let expected =
            format!("page_size is {size}, and a host has pages of 4096, 16384 or 65536 bytes\n{HELP}");
        assert_eq!(refused("page_size", json!(size)), expected);
    }
    assert_eq!(
        refused("max_cpu", json!(1)),
        format!("unknown key 'max_cpu'; did you mean 'max_cpus'?\n{HELP}")
    );
}

#[test]
fn a_profile_from_the_future_is_refused_as_one() {
    let desk = Desk::new();
    desk.put_profile("host.json", "schema", json!(2));

    assert_eq!(
        desk.refusal(2, "plan --host host.json"),
        "ambit: error: the host profile host.json was written by a newer Ambit (schema 2, this one reads 1)\n  \
         help: use that Ambit, or a newer one\n"
    );
}

#[test]
fn a_host_of_another_kind_is_refused() {
    let desk = Desk::new();
    desk.put_profile("pc.json", "arch", json!("x86_64"));

    assert_eq!(
        desk.refusal(2, "plan --host pc.json"),
        format!(
            "ambit: error: the host profile pc.json is of an x86_64 host, and the board is an aarch64 machine\n\
             {HELP}"
        )
    );
}

#[test]
fn a_host_that_is_asked_for_a_guest_is_this_one() {
    let desk = Desk::new();

    assert!(desk.refusal(2, "run --kernel Image --host host.json").contains("unexpected argument '--host'"));
}

#[test]
fn the_lock_of_a_machine_is_the_same_on_a_wider_host() {
    let desk = Desk::new();
    desk.put_profile("wide.json", "ipa_bits", json!(52));
    desk.put_profile("pages.json", "page_size", json!(65536));
    desk.put_profile("few.json", "max_cpus", json!(4));

    for (host, lock) in [("host", "1"), ("wide", "2"), ("pages", "3"), ("few", "4")] {
        desk.done(&format!("plan --cpus 4 --memory 8G --disk root.img --host {host}.json --lock {lock}"));
    }

    let first = desk.read("1");
    assert!(first.starts_with("{\n  \"schema\": 1,\n  \"sha256\": \""), "{first}");
    for other in ["2", "3", "4"] {
        assert_eq!(desk.read(other), first);
    }
}

#[test]
fn a_lock_replaces_the_file_that_was_there_and_leaves_no_other() {
    let desk = Desk::new();
    desk.put("lock", b"something else");

    desk.done("plan --host host.json --lock lock");

    assert!(desk.read("lock").starts_with("{\n"));
    let mut names: Vec<_> =
        fs::read_dir(desk.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["Image", "host.json", "lock"]);
    assert_eq!(
        desk.refusal(2, "plan --host host.json --lock nowhere/lock"),
        "ambit: error: the lock file cannot be written to nowhere/lock: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_machine_that_does_not_fit_is_not_locked() {
    let desk = Desk::new();

    desk.refusal(3, "plan --host host.json --memory 2T --lock lock");

    assert!(!desk.path().join("lock").exists());
}

#[test]
fn a_machine_that_moved_is_not_started_and_the_first_move_is_named() {
    let desk = Desk::new();
    desk.put("a.img", &[0; 512]);
    desk.done("plan --host host.json --disk a.img --lock lock");

    let moved = desk.refusal(3, "run --kernel Image --rng off --disk a.img --locked lock");
    let more = desk.refusal(3, "run --kernel Image --disk a.img --cpus 2 --locked lock");

    let help = "  help: start the machine that was locked; 'ambit plan --diff' with the lock file says all that \
                differs\n  help: if the guest may see another machine, lock this one with 'ambit plan --lock'\n";
    assert_eq!(
        moved,
        format!(
            "ambit: error: this machine is not the one that lock locks: rng0 is gone: 4 KiB at 0x2000000, and 2 \
             more differences\n{help}"
        )
    );
    assert_eq!(
        more,
        format!(
            "ambit: error: this machine is not the one that lock locks: gic.redist0 at 0xa000000 grew from 128 \
             KiB to 256 KiB, and 1 more difference\n{help}"
        )
    );
}

#[test]
fn a_machine_that_is_as_it_was_locked_gets_past_its_lock() {
    if std::env::consts::ARCH == "aarch64" {
        return;
    }
    let desk = Desk::new();
    desk.done("plan --host host.json --lock lock");

    let refused = desk.refusal(4, "run --kernel Image --locked lock");

    assert!(refused.contains("board native is an aarch64 machine; use a host of that kind"), "{refused}");
}

#[test]
fn a_lock_that_was_edited_or_is_none_is_refused_before_anything() {
    let desk = Desk::new();
    desk.done("plan --host host.json --lock lock");
    let text = desk.read("lock");
    desk.put("edited", text.replace("0x40000000", "0x80000000").as_bytes());
    desk.put("newer", text.replace("\"schema\": 1", "\"schema\": 7").as_bytes());
    desk.put("more", text.replace("\"cpus\": 1,", "\"cpus\": 1,\n    \"cpu\": 1,").as_bytes());
    desk.put("less", text.replace("\"cpus\": 1,", "").as_bytes());
    desk.put("hexadecimal", text.replace("0x40000000", "40000000").as_bytes());

    let refused = |name: &str| desk.refusal(2, &format!("run --kernel Image --locked {name}"));

    let help = "  help: write it again with 'ambit plan --lock FILE'\n";
    let edited = refused("edited");
    assert!(
        edited.starts_with("ambit: error: the lock file edited was edited: its plan has the SHA-256 "),
        "{edited}"
    );
    assert!(edited.ends_with(help), "{edited}");
    assert_eq!(
        refused("newer"),
        "ambit: error: the lock file newer was written by a newer Ambit (schema 7, this one reads 1)\n  help: use \
         that Ambit, or a newer one\n"
    );
    assert!(refused("more").contains("unknown key 'cpu'; did you mean 'cpus'?\n"));
    assert!(refused("less").contains("the key 'cpus' is missing\n"));
    assert!(refused("hexadecimal").contains("'40000000' is not an address; write 0x2000000\n"));
    assert!(refused("host.json").contains("host.json:1:"));
}

#[test]
fn the_difference_of_two_machines_is_told_whatever_they_are_written_as() {
    let desk = Desk::new();
    desk.put("one.toml", b"memory = '1G'\ndisks = [{ path = 'a' }]\n");
    desk.put("two.json", b"{\"memory\": \"1G\", \"rng\": false, \"disks\": [{\"path\": \"a\"}]}");
    let printed = desk.done("plan --config one.toml --format json --host host.json");
    desk.put("printed.json", printed.as_bytes());
    desk.done("plan --config one.toml --lock lock --host host.json");

    for same in ["one.toml", "printed.json", "lock"] {
        for other in ["one.toml", "printed.json", "lock"] {
            assert_eq!(desk.done(&format!("plan --diff {same} {other}")), "the maps are the same\n");
        }
        let said = desk.ambit(&format!("plan --diff {same} two.json"));
        assert_eq!((said.exit, said.err.as_str()), (1, ""));
        assert_eq!(
            said.out,
            "\
rng0 is gone: 4 KiB at 0x2000000
disk0 moved from 0x2001000 to 0x2000000
the pin of disk0 was 17 and is 16
"
        );
    }
}

#[test]
fn the_difference_as_json_has_both_places() {
    let desk = Desk::new();
    desk.put("one.toml", b"memory = '1G'\ndisks = [{ path = 'a' }]\n");
    desk.put("two.toml", b"memory = '64G'\nrng = false\ndisks = [{ path = 'a' }]\n");

    let said = desk.ambit("plan --diff one.toml two.toml --format json");

    let json: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.exit, &json["schema"], &json["same"]), (1, &json!(1), &json!(false)));
    let span = |base: &str, size: u64| json!({ "base": base, "size": size });
    assert_eq!(
        json["differences"][1],
        json!({
            "name": "disk0", "change": "moved", "from": span("0x2001000", 4096), "to": span("0x2000000", 4096),
        })
    );
    assert_eq!(
        json["differences"][2],
        json!({
            "name": "ram0", "change": "resized", "from": span("0x40000000", 1 << 30),
            "to": span("0x40000000", 64 << 30),
        })
    );
    let bits = json["differences"].as_array().unwrap().last().unwrap();
    assert_eq!(bits, &json!({ "name": "IPA bits", "change": "machine", "from": "32", "to": "37" }));
}

#[test]
fn configurations_are_compared_on_the_host_that_is_given() {
    let desk = Desk::new();
    desk.put("one.toml", b"memory = '60G'\n");
    desk.put("two.toml", b"memory = '63G'\n");
    desk.put_profile("narrow.json", "ipa_bits", json!(36));
    desk.put_profile("pc.json", "arch", json!("x86_64"));

    let said = desk.ambit("plan --diff one.toml two.toml --host narrow.json");

    assert_eq!(
        (said.exit, said.out.as_str()),
        (1, "ram0 at 0x40000000 grew from 60 GiB to 63 GiB\npci.mmio64 is gone: 1 GiB at 0xf40000000\n")
    );
    assert!(desk.refusal(2, "plan --diff one.toml two.toml --host pc.json").contains("of an x86_64 host"));
}

#[test]
fn what_differences_are_not_asked_with_is_refused_and_not_ignored() {
    let desk = Desk::new();
    desk.put("one.toml", b"");

    for words in ["--memory 9G", "--config one.toml", "--strict", "--html map.html", "--arch aarch64"] {
        let said = desk.refusal(2, &format!("plan --diff one.toml one.toml {words}"));
        assert!(said.contains("cannot be used with"), "{words}: {said}");
    }
    assert_eq!(desk.done("plan --diff one.toml one.toml"), "the maps are the same\n", "it may be empty");
}

#[test]
fn what_has_no_map_is_refused_where_differences_are_asked_for() {
    let desk = Desk::new();
    desk.put("one.toml", b"memory = '1G'\n");
    desk.put("bad.toml", b"memory = '1G'\ncpu = 3\n");
    let refusal = desk.ambit("plan --memory 2T --format json --host host.json");
    desk.put("refused.json", refusal.out.as_bytes());

    assert_eq!(
        desk.refusal(2, "plan --diff one.toml bad.toml"),
        "ambit: error: bad.toml:2:1: this is no lock, no printed plan and no configuration: unknown key 'cpu'; did \
         you mean 'cpus'?\n"
    );
    assert_eq!(
        desk.refusal(2, "plan --diff refused.json one.toml"),
        "ambit: error: the plan refused.json is of a machine that did not fit, and has no addresses\n  help: write \
         it again with 'ambit plan --format json'\n"
    );
    assert!(desk.refusal(2, "plan --diff one.toml nowhere").contains("the plan nowhere cannot be read"));
    assert!(desk.refusal(2, "plan --diff one.toml").contains("2 values required"));
}

#[test]
fn a_host_of_another_kind_cannot_be_asked_what_it_makes_of_a_plan() {
    if std::env::consts::ARCH == "aarch64" {
        return;
    }
    let desk = Desk::new();

    assert!(
        desk.refusal(4, "verify --board native --cpus 2")
            .ends_with("use a host of that kind, or one of the boards for x86_64 (ambit board list)\n")
    );
    assert!(desk.refusal(2, "verify --cpus 0").contains("at least one vCPU"));
    assert!(desk.refusal(2, "verify --host Image").contains("Image"));
}

#[test]
fn a_fleet_is_told_by_its_answers_and_its_exit_code() {
    let desk = Desk::new();
    fs::create_dir(desk.path().join("hosts")).unwrap();
    desk.put("guest.toml", b"memory = '63G'\n");
    desk.put_profile("hosts/a.json", "ipa_bits", json!(40));
    desk.put_profile("hosts/b.json", "ipa_bits", json!(48));
    desk.put("hosts/notes.txt", b"not a host");

    let all = desk.ambit("fleet --hosts hosts guest.toml");
    desk.put("hosts/broken.json", b"{}");
    let broken = desk.ambit("fleet --hosts hosts --config guest.toml");
    let strict = desk.ambit("fleet --hosts hosts guest.toml --strict");
    desk.put_profile("hosts/c.json", "ipa_bits", json!(36));
    let narrow = desk.ambit("fleet --hosts hosts guest.toml --format json");

    assert_eq!(
        (all.exit, all.out.as_str()),
        (
            0,
            "\
board native (aarch64), 1 vCPU, 63 GiB of memory
needs 37 physical address bits; 2 of 2 hosts have them; every host has 40

HOSTS  ANSWER  BITS   NAMES
    2  same    40-48  a, b
"
        )
    );
    assert_eq!((broken.exit, strict.exit, narrow.exit), (0, 2, 3));
    assert!(broken.out.contains("broken unreadable: hosts/broken.json:1:2: the key 'schema' is missing\n"));
    let json: Value = serde_json::from_str(&narrow.out).unwrap();
    assert_eq!((&json["needs_bits"], &json["common_bits"]), (&json!(37), &json!(36)));
    let statuses: Vec<_> = json["hosts"].as_array().unwrap().iter().map(|host| &host["status"]).collect();
    assert_eq!(statuses, ["same", "same", "unreadable", "differs"]);
}

#[test]
fn a_fleet_without_hosts_is_refused() {
    let desk = Desk::new();
    fs::create_dir(desk.path().join("none")).unwrap();
    fs::create_dir_all(desk.path().join("odd/directory.json")).unwrap();

    assert_eq!(
        desk.refusal(2, "fleet --hosts nowhere"),
        "ambit: error: the directory of hosts nowhere cannot be read: No such file or directory (os error 2)\n"
    );
    assert_eq!(
        desk.refusal(2, "fleet --hosts none"),
        "ambit: error: the directory of hosts none has no *.json; write a profile of each host with 'ambit probe \
         --save'\n"
    );
    assert_eq!(desk.refusal(2, "fleet --hosts odd"), "");
    assert!(desk.refusal(2, "fleet").contains("--hosts <DIR>"));
}

#[test]
fn a_pipe_among_the_hosts_is_not_waited_for() {
    let desk = Desk::new();
    fs::create_dir(desk.path().join("hosts")).unwrap();
    let made = Command::new("mkfifo").arg(desk.path().join("hosts/pipe.json")).status().unwrap();
    assert!(made.success());

    let began = Instant::now();
    let said = desk.ambit("fleet --hosts hosts");

    assert!(said.out.contains("pipe unreadable: hosts/pipe.json is not a file\n"), "{}", said.out);
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_new_commands_have_help_with_examples() {
    let desk = Desk::new();

    for line in ["verify --help", "fleet --help"] {
        assert!(desk.done(line).contains("Examples:\n  ambit "), "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_any_reader_of_files_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let desk = Desk::new();
        desk.put("file", &bytes);

        for line in ["plan --host file", "run --kernel Image --locked file", "plan --diff host.json file"] {
            let said = desk.ambit(line);
            prop_assert_eq!(said.exit, 2, "{}: {}", line, said.err);
            prop_assert!(said.err.starts_with("ambit: error: "), "{}: {}", line, said.err);
        }
    }
}
