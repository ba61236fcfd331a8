//! The attacks of the table on the devices of a running monitor, over each transport, with what it uses before and
//! after.

use ambit_tests::{Boot, attacked};

/// Of so many attacks one is done; over another transport and on another device another one. AMBIT_ATTACKS says
/// otherwise: 1 is all.
const EVERY: u8 = 4;

fn attack(transport: &str) {
    let every = std::env::var("AMBIT_ATTACKS").ok().and_then(|every| every.parse().ok());
    attacked::attack(Boot::flat("attacks"), transport, every.unwrap_or(EVERY));
}

#[test]
fn a_monitor_outlives_attacks_over_mmio() {
    attack("mmio");
}

#[test]
fn a_monitor_outlives_attacks_over_legacy_mmio() {
    attack("mmio-legacy");
}

#[test]
fn a_monitor_outlives_attacks_over_pci() {
    attack("pci");
}

#[test]
fn a_monitor_outlives_attacks_over_legacy_pci() {
    attack("pci-legacy");
}
