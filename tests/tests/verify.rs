//! `ambit verify`: the plan beside what a real KVM says to it.

use std::fs;

use ambit_tests::{Ended, Scratch, ambit};
use serde_json::{Value, json};

/// Runs `ambit verify` with the words of `line`, and gives its report back, too.
fn verify(line: &str) -> (Ended, Value) {
    let ended = ambit(["verify", "--format", "json"].into_iter().chain(line.split_whitespace()));
    let report = serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{line}: {error}: {}{}", ended.stdout, ended.stderr));
    (ended, report)
}

/// Step, planned and answer of each row.
fn rows(report: &Value) -> Vec<[String; 3]> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = report["steps"].as_array().unwrap().iter();
    rows.map(|row| ["step", "planned", "answer"].map(|key| text(row, key))).collect()
}

/// The profile of a host like this one, but for its address bits.
fn wide_host(scratch: &Scratch) -> String {
    let path = scratch.path("wide.json");
    let saved = ambit(["probe", "--save", path.to_str().unwrap()]);
    assert_eq!(saved.code, 0, "{}", saved.stderr);
    let mut host: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    host["ipa_bits"] = json!(52);
    fs::write(&path, host.to_string()).unwrap();
    path.display().to_string()
}

#[test]
fn kvm_takes_every_board_as_planned_with_1_124_and_512_vcpus() {
    for board in ["native", "qemu-virt", "kvmtool"] {
        for cpus in [1, 124, 512] {
            let (ended, report) = verify(&format!("--board {board} --cpus {cpus} --memory 3G"));

            assert_eq!(ended.code, 0, "{board}, {cpus} vCPUs: {report:#}");
            assert_eq!(report["as_planned"], true);
            let rows = rows(&report);
            assert!(rows.iter().all(|[_, _, answer]| answer == "ok"), "{rows:?}");
            assert!(rows.contains(&["make vCPUs", &cpus.to_string(), "ok"].map(str::to_owned)), "{rows:?}");
            assert!(rows.iter().any(|[step, ..]| step == "start the GIC"), "{rows:?}");
        }
    }
}

#[test]
fn every_part_of_the_gic_is_told_beside_its_place_in_the_plan() {
    let (ended, report) = verify("--board native --cpus 2");

    let expected = [
        ["make the virtual machine", "32 address bits", "ok"],
        ["map RAM", "[0x40000000-0x5fffffff]", "ok"],
        ["make vCPUs", "2", "ok"],
        ["make the GIC", "GICv3", "ok"],
        ["set its interrupt lines", "64", "ok"],
        ["set the distributor", "[0x9000000-0x900ffff]", "ok"],
        ["set redistributor region 0 of 2 vCPUs", "[0xa000000-0xa03ffff]", "ok"],
        ["make the ITS", "-", "ok"],
        ["set the ITS", "[0x9020000-0x903ffff]", "ok"],
        ["start the ITS", "-", "ok"],
        ["start the GIC", "-", "ok"],
    ];
    assert_eq!(ended.code, 0);
    assert_eq!(rows(&report), expected.map(|row| row.map(str::to_owned)));
}

#[test]
fn a_plan_for_a_wider_host_is_refused_here_step_by_step() {
    let scratch = Scratch::new();
    let host = wide_host(&scratch);

    // What is above the room for RAM is above what this host has.
    let machine = "--board qemu-virt --cpus 512 --memory 1G --max-memory 300T --memory-slots 1";
    let (ended, report) = verify(&format!("{machine} --host {host}"));

    let rows = rows(&report);
    let answer = |wanted: &str| {
        let found = rows.iter().find(|[step, ..]| step.starts_with(wanted));
        found.map(|[_, _, answer]| answer.as_str())
    };
    assert_eq!(ended.code, 3, "{report:#}");
    assert_eq!(report["as_planned"], false);
    assert_eq!(answer("make the virtual machine"), Some("refused"));
    // The rest is tried in a machine as wide as there can be.
    assert_eq!(answer("map RAM"), Some("ok"));
    assert_eq!(answer("set redistributor region 0"), Some("ok"));
    assert_eq!(answer("set redistributor region 1"), Some("refused"));
}

#[test]
fn memory_that_no_process_can_map_is_said_and_the_rest_is_asked() {
    let scratch = Scratch::new();
    let host = wide_host(&scratch);

    let (ended, report) = verify(&format!("--memory 1000T --host {host}"));

    let rows = rows(&report);
    assert_eq!(ended.code, 3, "{report:#}");
    assert_eq!(rows[0][0], "map RAM in this program");
    assert_eq!(rows[0][2], "refused");
    assert!(rows.iter().any(|[step, _, answer]| step == "map RAM" && answer == "not-asked"), "{rows:?}");
    assert!(rows.iter().any(|[step, _, answer]| step == "start the GIC" && answer == "ok"), "{rows:?}");
}

#[test]
fn a_table_is_for_people() {
    let ended = ambit(["verify", "--cpus", "2"]);

    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let first = "board native (aarch64), 2 vCPUs: this host's KVM takes the machine as planned\n\nSTEP ";
    assert!(ended.stdout.starts_with(first), "{}", ended.stdout);
}

#[test]
fn a_locked_machine_starts_only_as_it_was_locked() {
    let scratch = Scratch::new();
    let lock = scratch.path("lock").display().to_string();
    let locked = ambit(["plan", "--lock", &lock]);
    assert_eq!(locked.code, 0, "{}", locked.stderr);
    let kernel = ambit_tests::place::image("Image").display().to_string();

    let moved = ambit(["run", "--kernel", &kernel, "--locked", &lock, "--cpus", "2"]);

    assert_eq!(moved.code, 3);
    assert!(
        moved.stderr.contains("gic.redist0 at 0xa000000 grew from 128 KiB to 256 KiB"),
        "{}",
        moved.stderr
    );
}

mod on_40_bits {
    use super::*;

    #[test]
    fn ram_that_ends_past_what_this_host_has_is_refused_where_it_is() {
        let scratch = Scratch::new();
        let host = wide_host(&scratch);

        let (ended, report) = verify(&format!("--memory 6T --host {host}"));

        let expected = [
            ["make the virtual machine", "43 address bits", "refused"],
            ["make the virtual machine", "40 address bits, the most this host has", "ok"],
            ["map RAM", "[0x40000000-0x4003fffffff]", "refused"],
        ];
        assert_eq!(ended.code, 3, "{report:#}");
        assert_eq!(rows(&report)[..3], expected.map(|row| row.map(str::to_owned)));
        assert!(report["steps"][2]["detail"].as_str().unwrap().ends_with("bits of the virtual machine"));
    }
}
