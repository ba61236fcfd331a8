use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// As `ambit probe --save` writes it.
fn saved() -> Value {
    json!({
        "schema": 1, "arch": "aarch64", "kvm": true, "api_version": 12, "ipa_bits": 40, "ipa_bits_known": true,
        "gic_versions": [2, 3], "its": true, "max_cpus": 512, "recommended_cpus": 4, "memory_slots": 32767,
        "page_size": 4096, "problems": [],
    })
}

fn read(profile: &Value) -> Result<Profile, DocumentError> {
    parse(&profile.to_string(), Path::new("host.json"))
}

/// What is said to a profile whose `key` is `value`, without the place.
fn said(key: &str, value: Value) -> String {
    let mut profile = saved();
    profile[key] = value;
    match read(&profile).unwrap_err() {
        DocumentError::Wrong { what, .. } => what,
        other => other.to_string(),
    }
}

#[test]
fn a_profile_is_what_probe_printed() {
    let profile = read(&saved()).unwrap();

    assert_eq!(
        profile,
        Profile {
            name: None,
            arch: Arch::Aarch64,
            facts: HostFacts {
                width: Width { bits: PaBits::new(40).unwrap(), source: WidthSource::Host },
                page_size: 4096,
                max_cpus: 512,
                gic_versions: vec![2, 3],
                its: true,
                memory_slots: 32767,
                processor: None,
            },
        }
    );
}

#[test]
fn the_shortest_profile_says_only_what_a_plan_needs() {
    let short = json!({
        "schema": 1, "arch": "aarch64", "name": "rack 1", "ipa_bits": 40, "gic_versions": [3, 2, 3], "its": true,
        "max_cpus": 512, "memory_slots": 32767, "page_size": 4096,
    });

    let named = read(&short).unwrap();

    assert_eq!(named.name.as_deref(), Some("rack 1"));
    assert_eq!(named.facts, read(&saved()).unwrap().facts);
}

#[test]
fn a_number_that_no_host_has_is_refused_with_what_hosts_have() {
    for bits in [31, 53, -1, 0, 255, 4096] {
        assert_eq!(
            said("ipa_bits", json!(bits)),
            format!("ipa_bits is {bits}, and a host has 32 to 52 physical address bits")
        );
    }
    for size in [0, 1, 8192, 2048, 131_072, -4096] {
        assert_eq!(
            said("page_size", json!(size)),
            format!("page_size is {size}, and a host has pages of 4096, 16384 or 65536 bytes")
        );
    }
    assert_eq!(said("max_cpus", json!(0)), "max_cpus is 0, and a host has 1 to 4294967295 vCPUs for a guest");
    assert_eq!(
        said("memory_slots", json!(0)),
        "memory_slots is 0, and a host has 1 to 4294967295 memory slots"
    );
    assert_eq!(said("gic_versions", json!([3, 9])), "gic_versions has 9, and a host has 2, 3 and 4");
    assert_eq!(
        said("ipa_bits", json!(40.0)),
        "ipa_bits is 40.0, and a host has 32 to 52 physical address bits"
    );
    assert_eq!(
        said("ipa_bits", json!(40.5)),
        "ipa_bits is 40.5, and a host has 32 to 52 physical address bits"
    );
}

#[test]
fn what_is_no_number_is_refused_with_what_it_should_be() {
    assert_eq!(
        said("ipa_bits", json!("40")),
        "invalid type: string \"40\", expected ipa_bits as a number: 32 to 52 physical address bits"
    );
    assert_eq!(said("its", json!(1)), "invalid type: integer '1', expected a boolean");
    assert_eq!(said("arch", json!("riscv64")), "unknown variant 'riscv64', expected 'aarch64' or 'x86_64'");
}

#[test]
fn a_profile_of_a_newer_schema_is_not_guessed_at() {
    let mut newer = saved();
    newer["schema"] = json!(2);
    newer["colour"] = json!("blue");

    assert_eq!(
        read(&newer).unwrap_err().to_string(),
        "the host profile host.json was written by a newer Ambit (schema 2, this one reads 1)"
    );
    assert_eq!(said("schema", json!(0)), "schema is 0, and this Ambit reads 1");
    assert_eq!(said("schema", json!(-1)), "schema is -1, and this Ambit reads 1");
}

#[test]
fn a_key_that_nobody_knows_is_refused_with_the_nearest_and_one_that_is_missing_by_its_name() {
    assert_eq!(said("ipa_bit", json!(40)), "unknown key 'ipa_bit'; did you mean 'ipa_bits'?");

    for key in ["ipa_bits", "page_size", "max_cpus", "gic_versions", "its", "memory_slots"] {
        let mut without = saved();
        without.as_object_mut().unwrap().remove(key);
        assert_eq!(
            read(&without).unwrap_err().to_string(),
            format!("the host profile host.json does not say {key}")
        );
    }
}

#[test]
fn a_key_that_is_there_twice_is_refused_at_its_line() {
    let text = "{\n  \"schema\": 1,\n  \"arch\": \"aarch64\",\n  \"its\": true,\n  \"its\": false\n}\n";

    let error = parse(text, Path::new("host.json")).unwrap_err();

    assert_eq!(error.to_string(), "host.json:5:7: the key 'its' is there twice");
}

#[test]
fn a_host_without_kvm_is_refused_as_such() {
    let none = json!({
        "schema": 1, "arch": "x86_64", "kvm": false, "api_version": null, "ipa_bits": null, "ipa_bits_known": null,
        "gic_versions": null, "its": null, "max_cpus": null, "recommended_cpus": null, "memory_slots": null,
        "page_size": null, "problems": [],
    });

    assert_eq!(
        read(&none).unwrap_err().to_string(),
        "the host profile host.json says that this host has no KVM, so no guest can be planned for it"
    );
}

#[test]
fn an_x86_64_host_has_pages_of_4_kib() {
    let mut host = saved();
    host["arch"] = json!("x86_64");
    host["page_size"] = json!(65536);

    assert_eq!(
        read(&host).unwrap_err().to_string(),
        "the host profile host.json says page_size 65536, and an x86_64 host has pages of 4096 bytes"
    );
}

fn arbitrary_profile() -> impl Strategy<Value = Value> {
    let gics = proptest::sample::subsequence(vec![2, 3, 4], 0..=3);
    let pages = proptest::sample::select(vec![4096, 16384, 65536]);
    (32_u8..=52, pages, 1..=u32::MAX, gics, any::<bool>(), 1..=u32::MAX).prop_map(
        |(bits, page_size, cpus, gics, its, slots)| {
            json!({
                "schema": 1, "arch": "aarch64", "ipa_bits": bits, "page_size": page_size, "max_cpus": cpus,
                "gic_versions": gics, "its": its, "memory_slots": slots,
            })
        },
    )
}

proptest! {
    #[test]
    fn what_a_profile_says_is_what_is_planned_with(profile in arbitrary_profile()) {
        let facts = read(&profile).unwrap().facts;

        let back = json!({
            "schema": 1, "arch": "aarch64", "ipa_bits": facts.width.bits, "page_size": facts.page_size,
            "max_cpus": facts.max_cpus, "gic_versions": facts.gic_versions, "its": facts.its,
            "memory_slots": facts.memory_slots,
        });
        prop_assert_eq!(back, profile);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _refused = parse(&text, Path::new("host.json"));
        let _refused = parse(&String::from_utf8_lossy(&bytes), Path::new("host.json"));
    }

    #[test]
    fn no_change_to_a_profile_makes_the_reader_panic(
        at in any::<proptest::sample::Index>(),
        with in "\\PC{0,3}",
        count in 0_usize..20,
    ) {
        let text = saved().to_string();
        let from = at.index(text.len());
        let to = (from + count).min(text.len());

        let _refused = parse(&format!("{}{with}{}", &text[..from], &text[to..]), Path::new("host.json"));
    }
}
