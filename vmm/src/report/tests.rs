use std::sync::Arc;

use ambit_bus::{Needs, Request, Trigger};
use ambit_device_manager::{HostFacts, MachineConfig, Width, WidthSource, plan};
use ambit_resources::PaBits;
use serde_json::{Value, json};

use super::*;
use crate::toy::{PC, TOY};

fn facts(bits: u8) -> HostFacts {
    let bits = PaBits::new(bits).unwrap();
    HostFacts { width: Width { bits, source: WidthSource::User }, max_cpus: 8, ..HostFacts::assumed() }
}

fn config(memory: u64) -> MachineConfig {
    let disk = Request {
        id: "root".into(),
        kind: "virtio-blk".into(),
        needs: Needs::Board { registers: 0x200, irq: Some(Trigger::Edge) },
        description: Arc::default(),
        queue_reach: None,
    };
    MachineConfig { cpus: 2, memory, devices: vec![disk], ..MachineConfig::default() }
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
        processor: None,
    }
}

#[test]
fn a_plan_is_a_table_lowest_first_with_what_was_dropped_at_the_end() {
    assert_eq!(
        plan_table(&planned(), &TOY, &[note()], Paper::default()),
        "\
board toy (aarch64), 2 vCPUs, 3 GiB of memory
36 address bits allowed, 32 asked of KVM

BASE        LAST           SIZE  KIND                  NAME      INTID
0x01000000  0x01000fff    4 KiB  pl011                 uart0        32  mmio
0x02000000  0x020001ff    512 B  virtio-blk            root         48  mmio
0x09000000  0x0900ffff   64 KiB  interrupt-controller  gic.dist      -
0x40000000  0xffffffff    3 GiB  ram                   ram0          -
dropped     -           128 KiB  interrupt-controller  gic.its       -

PIN  INTID  NAME
  0     32  uart0
 16     48  root
15 of 16 pins for devices (16 to 31) are free

warning: this is known without a plan
  help: change your mind

note: gic.its is left out: a toy has none
"
    );
}

#[test]
fn a_narrow_terminal_loses_the_last_address_and_gets_shorter_lines() {
    let narrow = Paper { columns: Some(64), colours: false };

    let text = plan_table(&planned(), &TOY, &[note()], narrow);

    assert!(text.lines().all(|line| line.chars().count() <= 64), "{text}");
    assert!(text.contains("0x40000000    3 GiB  ram "), "{text}");
    assert!(
        text.starts_with("board toy (aarch64), 2 vCPUs, 3 GiB of memory\n36 address bits allowed"),
        "{text}"
    );
}

#[test]
fn colours_are_for_what_is_missing_and_change_no_character() {
    let plain = plan_table(&planned(), &TOY, &[note()], Paper::default());

    let coloured = plan_table(&planned(), &TOY, &[note()], Paper { columns: None, colours: true });

    assert!(coloured.contains("\x1b[31mdropped "), "{coloured}");
    assert!(coloured.contains("\x1b[33mwarning\x1b[0m: this is known"), "{coloured}");
    let without = ["\x1b[31m", "\x1b[33m", "\x1b[0m"];
    assert_eq!(without.iter().fold(coloured, |text, colour| text.replace(colour, "")), plain);
}

#[test]
fn a_wide_machine_has_wider_addresses() {
    let plan = plan(&TOY, &config(8 << 30), &facts(36)).unwrap();

    assert!(
        plan_table(&plan, &TOY, &[], Paper::default()).contains("0x040000000  0x23fffffff    8 GiB  ram ")
    );
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
            "pa_bits_source": "user",
            "ipa_bits": 32,
            "page_tables": null,
            "devices": [
                { "name": "uart0", "kind": "pl011", "transport": "mmio" },
                { "name": "root", "kind": "virtio-blk", "transport": "mmio" },
            ],
            "functions": [],
            "device_pins": { "first": 16, "last": 31, "free": 15 },
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
    let refusal = plan(&TOY, &config(64 << 30), &facts(36)).unwrap_err();

    let text = refusal_json(&TOY, 2, &facts(36), &refusal, &[]);

    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({
            "schema": 1, "board": "toy", "arch": "aarch64", "pa_bits": 36, "pa_bits_source": "user",
            "ipa_bits": null, "page_tables": null, "cpus": 2,
            "regions": [], "devices": [], "functions": [], "irqs": [], "device_pins": null,
            "diagnostics": [{
                "code": "ram-beyond-width",
                "severity": "error",
                "message": refusal.to_string(),
                "remedies": ["give the guest at most 63 GiB of memory", "allow 37 bits, if the host has them"],
            }],
        })
    );
}

#[test]
fn a_probe_is_a_list_of_abilities() {
    let probe = Probe { arch: Arch::Aarch64, kvm: Some(kvm()), problems: Vec::new() };

    assert_eq!(
        probe_table(&probe, Paper::default()),
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
        probe_table(&probe, Paper::default()),
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
