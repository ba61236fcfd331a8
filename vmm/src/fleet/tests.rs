use ambit_aarch64::native;
use serde_json::{Value, json};

use super::*;
use crate::config::{self, Config};

/// Judges hosts with these profiles, by their names, for the machine of `config`.
fn judged(config: &str, hosts: &[(&str, &str)]) -> Fleet {
    judged_on(&native(), config, hosts)
}

fn judged_on(board: &dyn Board, config: &str, hosts: &[(&str, &str)]) -> Fleet {
    let config: Config = toml::from_str(config).unwrap();
    let settings = config::settle(config, &[board], None).unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in hosts {
        fs::write(directory.path().join(format!("{name}.json")), text).unwrap();
    }
    judge(&settings, &profiles(directory.path()).unwrap()).unwrap()
}

fn host(bits: u8, cpus: u32, its: bool) -> String {
    json!({
        "schema": 1, "arch": "aarch64", "ipa_bits": bits, "gic_versions": [3], "its": its, "max_cpus": cpus,
        "memory_slots": 32767, "page_size": 4096,
    })
    .to_string()
}

fn statuses(fleet: &Fleet) -> Vec<(String, &Answer)> {
    fleet.hosts.iter().map(|host| (host.name.clone(), &host.answer)).collect()
}

#[test]
fn a_host_has_the_same_addresses_or_others_or_none() {
    let (wide, narrow, narrower) = (host(48, 512, true), host(36, 512, true), host(35, 512, true));
    let hosts = [("a", wide.as_str()), ("b", narrow.as_str()), ("c", narrower.as_str()), ("d", "junk")];

    let fleet = judged("memory = '63G'", &hosts);

    assert_eq!((fleet.needs, fleet.common), (PaBits::new(37), PaBits::new(35)));
    let unreadable = |answer: &Answer| matches!(answer, Answer::Unreadable { .. });
    let answers = statuses(&fleet);
    assert_eq!(answers[0].1, &Answer::Same);
    assert_eq!(
        answers[1].1,
        &Answer::Differs(
            "pci.mmio64 is left out: it needs 37 physical address bits, and this host has 36".into()
        )
    );
    assert_eq!(
        answers[2].1,
        &Answer::Refused {
            reason:
                "63 GiB of memory at [0x40000000-0xfffffffff] needs 36 physical address bits, and this host \
                     has 35, which is 32 GiB too few"
                    .into(),
            remedies: vec![
                "give the guest at most 31 GiB of memory".into(),
                "use a host with 36 bits".into()
            ],
        }
    );
    assert!(unreadable(answers[3].1));
}

#[test]
fn hosts_of_another_kind_cannot_hold_the_machine_and_do_not_bind_its_width() {
    let other = host(32, 512, true).replace("aarch64", "x86_64");

    let fleet = judged("", &[("arm", &host(40, 512, true)), ("pc", &other)]);

    assert_eq!(fleet.common, PaBits::new(40));
    assert_eq!(
        statuses(&fleet)[1].1,
        &Answer::Refused {
            reason: "this is an x86_64 host, and board native is an aarch64 machine".into(),
            remedies: vec!["use a host that is aarch64".into()],
        }
    );
}

#[test]
fn a_machine_is_drawn_around_what_the_processors_of_these_hosts_keep() {
    let pc = |vendor: &str| {
        let processor = json!({ "vendor": vendor, "family": 6, "pa_bits": 48, "iommu": null });
        let mut host: Value = serde_json::from_str(&host(48, 512, true)).unwrap();
        (host["arch"], host["processor"]) = (json!("x86_64"), processor);
        host.to_string()
    };
    let judged = |vendors: [&str; 2]| {
        let [a, b] = vendors.map(pc);
        judged_on(&ambit_x86_64::pc(), "memory = '1T'", &[("a", &a), ("b", &b)])
    };

    let alike = judged(["intel", "intel"]);
    let mixed = judged(["intel", "amd"]);

    assert!(alike.hosts.iter().all(|host| host.answer == Answer::Same));
    let answers = statuses(&mixed);
    assert!(matches!(answers[0].1, Answer::Differs(why) if why.starts_with("ram1 at 0x100000000")));
    assert_eq!(answers[1].1, &Answer::Same);
}

#[test]
fn the_users_own_limit_makes_narrow_and_wide_hosts_the_same() {
    let fleet = judged(
        "memory = '63G'\npa_bits = 36",
        &[("wide", &host(48, 512, true)), ("narrow", &host(36, 512, true)), ("short", &host(35, 512, true))],
    );

    let answers = statuses(&fleet);
    assert_eq!(answers[0].1, &Answer::Same);
    assert!(matches!(answers[1].1, Answer::Refused { reason, .. } if reason.starts_with("36 physical")));
    assert_eq!(answers[2].1, &Answer::Same);
    assert_eq!(fleet.needs, PaBits::new(36));
}

#[test]
fn the_table_has_a_row_for_each_answer_and_the_json_an_entry_for_each_host() {
    let profiles: Vec<(String, String)> = (0..5)
        .map(|index| (format!("h{index}"), host(40, if index == 4 { 1 } else { 512 }, index != 3)))
        .collect();
    let hosts: Vec<(&str, &str)> =
        profiles.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();

    let fleet = judged("cpus = 2", &hosts);

    assert_eq!(
        report::table(&fleet),
        "\
board native (aarch64), 2 vCPUs, 512 MiB of memory
needs 32 physical address bits; 5 of 5 hosts have them; every host has 40

HOSTS  ANSWER   BITS  NAMES
    3  same     40    h0, h1, h2
    1  differs  40    h3
    1  refused  40    h4

h3 differs: gic.its is left out: this host's KVM has no interrupt translation service

h4 refused: 2 vCPUs are more than 1, which is all that this host's KVM gives
  help: give the guest at most 1 vCPUs
"
    );
    let json: Value = serde_json::from_str(&report::json(&fleet)).unwrap();
    assert_eq!(
        (&json["schema"], &json["needs_bits"], &json["common_bits"]),
        (&json!(1), &json!(32), &json!(40))
    );
    assert_eq!(
        json["hosts"][4],
        json!({
            "name": "h4", "status": "refused", "ipa_bits": 40,
            "reason": "2 vCPUs are more than 1, which is all that this host's KVM gives",
            "remedies": ["give the guest at most 1 vCPUs"],
        })
    );
}

#[test]
fn a_width_with_which_more_hosts_have_the_same_addresses_is_said() {
    let (wide, narrow) = (host(48, 512, true), host(36, 512, true));

    let fleet = judged("memory = '63G'", &[("a", &wide), ("b", &narrow), ("c", &narrow)]);
    let same = judged("memory = '60G'", &[("a", &wide), ("b", &narrow)]);

    assert_eq!(fleet.better, Some((PaBits::new(36).unwrap(), 3)));
    assert!(report::table(&fleet).contains("\nwith --pa-bits 36 the addresses are the same on 3 hosts\n"));
    assert_eq!(same.better, None);
}

#[test]
fn the_names_of_many_hosts_are_counted() {
    let all: Vec<Host> = (0..12)
        .map(|index| Host { name: format!("h{index}"), bits: PaBits::new(40), answer: Answer::Same })
        .collect();
    let fleet = Fleet {
        machine: "m".into(),
        needs: PaBits::new(36),
        common: PaBits::new(40),
        better: None,
        hosts: all,
    };

    assert!(report::table(&fleet).contains("   12  same    40    h0, h1, h2 and 9 more\n"));
}
