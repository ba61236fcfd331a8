//! `acme-edge`, a small machine without PCI: all of it is a table.
//!
//! ```text
//! 0x1000_0000  gic.dist
//! 0x1100_0000  gic.redist0          128 KiB for each vCPU, at most 1 MiB
//! 0x2000_0000  optional devices     1 MiB, the first at its start
//! 0x3000_0000  uart0
//! 0x3001_0000  led0                 ours: `led.rs`
//! 0x8000_0000  ram0
//! ```

use std::sync::Arc;

use ambit_aarch64::SpecBoard;
use ambit_aarch64::gic;
use ambit_aarch64::spec::{BoardSpec, FixtureSpec, GicSpec, MakeModel, RedistSpec};
use ambit_device_manager::{DevicePlaces, RamPlace, Transport};
use ambit_resources::AddressRange;

use crate::led;

const MAX_CPUS: u32 = 8;
const GIC_DIST: u64 = 0x1000_0000;
const GIC_REDISTS: AddressRange = AddressRange::fixed(0x1100_0000, MAX_CPUS as u64 * gic::REDIST_SIZE);
const OPTIONAL: AddressRange = AddressRange::fixed(0x2000_0000, 1 << 20);
const UART: u64 = 0x3000_0000;
// 64 KiB on, so that each is on its own page whatever size the host's pages have.
const LED: u64 = 0x3001_0000;
const RAM: u64 = 0x8000_0000;

/// The kinds of fixture that Ambit does not have.
const KINDS: &[(&str, MakeModel)] = &[(led::KIND, |id| Arc::new(led::LedModel::new(id)))];

pub fn acme_edge() -> SpecBoard {
    // No options. Those of the shipped boards show how: arch/aarch64/src/native.rs.
    SpecBoard::new(spec(), &[]).with_kinds(KINDS)
}

fn spec() -> BoardSpec {
    BoardSpec {
        name: "acme-edge".into(),
        about: "ACME Edge: 8 vCPUs, RAM from 2 GiB, LEDs, no PCI".into(),
        width: None,
        max_cpus: MAX_CPUS,
        ram: RamPlace { base: RAM, grain: 1, slot_room: 0, max_slots: 4 },
        reserved: Vec::new(),
        gic: GicSpec::V3 {
            dist: GIC_DIST,
            its: None,
            redists: vec![RedistSpec::Up { window: GIC_REDISTS, whole: false }],
            v4: false,
        },
        pins: 64,
        devices: DevicePlaces { window: OPTIONAL, grain: 0x1000, pins: 32..=63 },
        transport: Transport::Mmio,
        fixtures: vec![
            FixtureSpec { id: "uart0".into(), kind: "pl011".into(), base: UART, pin: Some(1) },
            FixtureSpec { id: "led0".into(), kind: led::KIND.into(), base: LED, pin: None },
        ],
        pci: None,
        floor: 0,
        holes: false,
        edits: Vec::new(),
        kernel_offset: 0,
    }
}

#[cfg(test)]
mod tests {
    use ambit_device_manager::{Board, HostFacts, MachineConfig, Plan, plan};

    use super::*;

    fn planned(cpus: u32) -> Plan {
        let machine = MachineConfig { cpus, memory: 1 << 30, ..MachineConfig::default() };
        plan(&acme_edge(), &machine, &HostFacts::assumed()).unwrap()
    }

    #[test]
    fn the_map_is_the_table() {
        let places: Vec<String> =
            planned(2).regions.iter().map(|it| format!("{} {}", it.range.unwrap(), it.name)).collect();

        assert_eq!(
            places,
            [
                "[0x10000000-0x1000ffff] gic.dist",
                "[0x11000000-0x1103ffff] gic.redist0",
                "[0x30000000-0x30000fff] uart0",
                "[0x30010000-0x30010fff] led0",
                "[0x80000000-0xbfffffff] ram0",
            ]
        );
    }

    #[test]
    fn a_full_machine_has_everything() {
        assert_eq!(planned(MAX_CPUS).diagnostics, []);
    }

    #[test]
    fn the_guest_is_told_of_the_leds() {
        let tree = acme_edge().tree(&planned(1), "").unwrap().unwrap().source;

        let (_, node) = tree.split_once("led@30010000 {").unwrap();
        let (node, _) = node.split_once('}').unwrap();
        let lines: Vec<&str> = node.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(
            lines,
            [r#"compatible = "acme,led";"#, "reg = <0x0 0x30010000 0x0 0x1000>;", "acme,leds = <0x20>;",]
        );
    }

    #[test]
    fn the_board_has_a_model_for_the_fixture_that_ambit_does_not_have() {
        let board = acme_edge();

        let own: Vec<bool> =
            board.fixtures().iter().map(|fixture| board.model(&fixture.request).is_some()).collect();

        assert_eq!(own, [false, true]);
    }
}
