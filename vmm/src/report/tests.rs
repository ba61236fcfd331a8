use ambit_bus::{Description, Needs, Request, Trigger};
use ambit_device_manager::{HostFacts, MachineConfig, Plan, PlanError, Width, WidthSource, plan};
use ambit_resources::PaBits;
use serde_json::{Value, json};

use super::*;
use crate::toy::{PC, TOY};

fn facts(bits: u8) -> HostFacts {
    let bits = PaBits::new(bits).unwrap();
    HostFacts { width: Width { bits, source: WidthSource::User }, page_size: 4096, max_cpus: 8, its: true }
}

fn config(memory: u64) -> MachineConfig {
    let disk = Request {
        id: "root".into(),
        kind: "virtio-blk".into(),
        needs: Needs { registers: 0x200, irq: Some(Trigger::Edge) },
        description: Description::default(),
    };
    MachineConfig { cpus: 2, memory, devices: vec![disk] }
}

fn planned() -> Plan {
    plan(&TOY, &config(3 << 30), &facts(36)).unwrap()
}

fn note() -> Diagnostic {
    Diagnostic {
        code: "said-before".into(),
        severity: Severity::Warning,
        message: "this is known without a plan".into(),
        remedies: vec!["change your mind".into()],
    }
}

fn kvm() -> HostKvm {
    HostKvm {
        arch: Arch::Aarch64,
        api_version: 12,
        ipa_limit: 40,
        ipa_limit_known: true,
        gic_versions: vec![2, 3],
        its: true,
        max_vcpus: 512,
        recommended_vcpus: 4,
        memory_slots: 32767,
        page_size: 4096,
    }
}

#[test]
fn a_plan_is_a_table_lowest_first_with_what_was_dropped_at_the_end() {
    assert_eq!(
        plan_table(&planned(), &TOY, &[note()], None),
        "\
board toy (aarch64), 2 vCPUs, 3 GiB of memory, 36 address bits allowed, 32 asked of KVM

BASE        LAST           SIZE  KIND                  NAME      INTID
0x01000000  0x01000fff    4 KiB  pl011                 uart0        32
0x02000000  0x020001ff    512 B  virtio-blk            root         48
0x09000000  0x0900ffff   64 KiB  interrupt-controller  gic.dist      -
0x40000000  0xffffffff    3 GiB  ram                   ram0          -
dropped     -           128 KiB  interrupt-controller  gic.its       -

PIN  INTID  NAME
  0     32  uart0
 16     48  root

warning: this is known without a plan
  help: change your mind

note: gic.its is left out: a toy has none
"
    );
}

#[test]
fn a_narrow_terminal_loses_the_last_address_and_gets_shorter_lines() {
    let text = plan_table(&planned(), &TOY, &[note()], Some(60));

    assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    assert!(text.contains("0x40000000    3 GiB  ram "), "{text}");
    assert!(
        text.starts_with("board toy (aarch64), 2 vCPUs, 3 GiB of memory, 36 address\nbits allowed"),
        "{text}"
    );
}

#[test]
fn a_wide_machine_has_wider_addresses() {
    let plan = plan(&TOY, &config(8 << 30), &facts(36)).unwrap();

    assert!(plan_table(&plan, &TOY, &[], None).contains("0x040000000  0x23fffffff    8 GiB  ram "));
}

#[test]
fn a_plan_as_json_has_every_field_of_schema_1() {
    let text = plan_json(&planned(), &TOY, &[note()]);

    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({
            "schema": 1,
            "board": "toy",
            "arch": "aarch64",
            "pa_bits": 36,
            "ipa_bits": 32,
            "cpus": 2,
            "regions": [
                { "name": "uart0", "kind": "device", "base": "0x1000000", "size": 4096, "status": "placed",
                  "reason": null },
                { "name": "root", "kind": "device", "base": "0x2000000", "size": 512, "status": "placed",
                  "reason": null },
                { "name": "gic.dist", "kind": "interrupt-controller", "base": "0x9000000", "size": 65536,
                  "status": "placed", "reason": null },
                { "name": "ram0", "kind": "ram", "base": "0x40000000", "size": 3u64 << 30, "status": "placed",
                  "reason": null },
                { "name": "gic.its", "kind": "interrupt-controller", "base": null, "size": 131_072,
                  "status": "dropped", "reason": "a toy has none" },
            ],
            "irqs": [
                { "name": "uart0", "pin": 0, "intid": 32 },
                { "name": "root", "pin": 16, "intid": 48 },
            ],
            "diagnostics": [
                { "code": "said-before", "severity": "warning", "message": "this is known without a plan",
                  "remedies": ["change your mind"] },
                { "code": "dropped", "severity": "note", "message": "gic.its is left out: a toy has none",
                  "remedies": [] },
            ],
        })
    );
}

#[test]
fn a_machine_that_does_not_fit_is_an_object_too() {
    let error: PlanError = plan(&TOY, &config(64 << 30), &facts(36)).unwrap_err();

    let text = refusal_json(&TOY, 2, &facts(36), &error, &[]);

    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({
            "schema": 1, "board": "toy", "arch": "aarch64", "pa_bits": 36, "ipa_bits": null, "cpus": 2,
            "regions": [], "irqs": [],
            "diagnostics": [{
                "code": "ram-beyond-width",
                "severity": "error",
                "message": error.to_string(),
                "remedies": error.remedies(),
            }],
        })
    );
}

#[test]
fn a_probe_is_a_list_of_abilities() {
    let probe = Probe { arch: Arch::Aarch64, kvm: Some(kvm()), problems: Vec::new() };

    assert_eq!(
        probe_table(&probe, None),
        "\
architecture               aarch64
KVM                        available, interface version 12
physical address bits      at most 40
interrupt controllers      GICv2, GICv3
translation service (ITS)  yes
vCPUs                      at most 512, 4 recommended
memory slots               32767
page size                  4 KiB
"
    );
    assert_eq!(
        serde_json::from_str::<Value>(&probe_json(&probe)).unwrap(),
        json!({
            "schema": 1, "arch": "aarch64", "kvm": true, "api_version": 12, "ipa_bits": 40,
            "ipa_bits_known": true, "gic_versions": [2, 3], "its": true, "max_cpus": 512,
            "recommended_cpus": 4, "memory_slots": 32767, "page_size": 4096, "problems": [],
        })
    );
}

#[test]
fn a_host_without_kvm_is_a_report_with_a_problem() {
    let probe = Probe::new(Err(KvmError::ApiVersion(11)), &[&TOY, &PC]);

    assert_eq!(
        probe_table(&probe, None),
        format!(
            "architecture  {}\nKVM           not available\n\nerror: {}\n",
            Arch::host().name(),
            KvmError::ApiVersion(11)
        )
    );
    let json: Value = serde_json::from_str(&probe_json(&probe)).unwrap();
    assert_eq!((&json["kvm"], &json["its"]), (&json!(false), &Value::Null));
}

#[test]
fn a_host_that_no_board_is_for_is_told_so() {
    let other = if Arch::host() == Arch::Aarch64 { &PC } else { &TOY };

    let probe = Probe::new(Ok(kvm()), &[other]);

    assert!(probe.problems.iter().any(|problem| problem.code == "no-board"));
}
