//! What `ambit plan --format json` prints is what its JSON Schema says, and nothing else.

use std::process::Command;

use serde_json::{Value, json};

const PLANS: [&str; 10] = [
    "",
    "--memory 8G --cpus 4 --pa-bits 36 --disk a.img --net tap0",
    "--memory 63G --pa-bits 36 --cpus 124",
    "--memory 62G --pa-bits 36 --pci-window 4G",
    "--memory 4G --max-memory 16G --memory-slots 2 --queue-reach 44 --guest-reach linux",
    "--pci off --rng off",
    "--disk a.img,transport=pci-legacy --net tap0,transport=pci --rng transport=mmio-legacy --console on --balloon on",
    "--board qemu-virt --cpus 300 --pa-bits 40 --memory 256G",
    "--board qemu-virt,gic-version=2 --pa-bits 36",
    "--board kvmtool --cpus 512 --pa-bits 52 --memory 1T",
];
const PCS: [&str; 6] = [
    "--vendor amd --memory 1T --pa-bits 48",
    "--vendor intel --memory 2G --reserve 0x10000000+1M",
    "--vendor hygon --memory 1T --pa-bits 40",
    "--board qemu-q35 --vendor amd --hole relocate --memory 1T --pa-bits 42",
    "--board qemu-q35,pci-hole64-size=64G --no-reserve-ht --memory 512M --pa-bits 36",
    "--board qemu-q35 --vendor amd --memory 1T --pa-bits 36",
];
const REFUSALS: [&str; 6] = [
    "--memory 64G --pa-bits 36",
    "--cpus 0",
    "--cpus 124 --board qemu-virt --pa-bits 36",
    "--memory 1G --max-memory 512M",
    "--memory 16T --pa-bits 48 --disk a.img,transport=mmio-legacy",
    "--pci off --disk a.img,transport=pci",
];

fn schema() -> Value {
    serde_json::from_str(include_str!("../schema/plan.schema.json")).unwrap()
}

fn plan(words: &str) -> Value {
    plan_for("aarch64", words)
}

fn plan_for(arch: &str, words: &str) -> Value {
    let mut ambit = Command::new(env!("CARGO_BIN_EXE_ambit"));
    ambit.args(["plan", "--arch", arch, "--format", "json"]).args(words.split_whitespace());
    let out = ambit.output().unwrap();
    serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|error| panic!("{words}: {error}: {}", String::from_utf8_lossy(&out.stderr)))
}

fn complaints(schema: &Value, instance: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(schema).unwrap();
    validator.iter_errors(instance).map(|error| format!("{} at {}", error, error.instance_path())).collect()
}

#[test]
fn the_schema_is_one() {
    jsonschema::meta::validate(&schema()).unwrap();
}

#[test]
fn every_plan_and_every_refusal_is_what_the_schema_says() {
    for words in PLANS.iter().chain(&REFUSALS) {
        assert_eq!(complaints(&schema(), &plan(words)), Vec::<String>::new(), "{words}");
    }
}

#[test]
fn every_pc_is_what_the_schema_says_with_its_memory_map() {
    for words in PCS {
        let plan = plan_for("x86_64", words);
        assert_eq!(complaints(&schema(), &plan), Vec::<String>::new(), "{words}");
    }
    assert_eq!(
        plan_for("x86_64", PCS[3])["e820"],
        json!([
            { "base": "0x0", "size": 2_u64 << 30, "type": "ram" },
            { "base": "0xfd00000000", "size": 12_u64 << 30, "type": "reserved" },
            { "base": "0x10000000000", "size": 1022_u64 << 30, "type": "ram" },
        ])
    );
    let mut other = plan_for("x86_64", PCS[0]);
    other.as_object_mut().unwrap().remove("e820");
    assert_ne!(complaints(&schema(), &other), Vec::<String>::new());
}

/// Takes away, adds and changes what a plan has, one thing at a time.
#[test]
fn what_is_no_plan_is_not_what_the_schema_says() {
    let whole = plan(PLANS[2]);
    for key in whole.as_object().unwrap().keys() {
        let mut less = whole.clone();
        less.as_object_mut().unwrap().remove(key);
        assert_ne!(complaints(&schema(), &less), Vec::<String>::new(), "without {key}");
    }

    let changes: [(&str, Value); 9] = [
        ("/schema", 2.into()),
        ("/pa_bits", 53.into()),
        ("/regions/0/base", "1000000".into()),
        ("/regions/0/kind", "thing".into()),
        ("/regions/0/status", "dropped".into()),
        ("/devices/0/transport", "bus".into()),
        ("/functions/0/number", 32.into()),
        ("/irqs/0/pin", (-1).into()),
        ("/diagnostics/0/code", "Not A Code".into()),
    ];
    for (path, value) in changes {
        let mut other = whole.clone();
        *other.pointer_mut(path).unwrap_or_else(|| panic!("a plan has no {path}")) = value;
        assert_ne!(complaints(&schema(), &other), Vec::<String>::new(), "{path}");
    }
}
