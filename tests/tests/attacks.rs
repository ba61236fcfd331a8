//! Attacks of the table by a program that is alone on board `native`, with what the monitor uses before and after.

use ambit_tests::{Boot, attacked, place};

/// Of so many attacks one is done: each access takes long in an emulated host.
const EVERY: u8 = 4;

fn attack(transport: &str) {
    attacked::attack(Boot::kernel(&place::payload("attacks")), transport, EVERY);
}

#[test]
fn a_monitor_outlives_attacks_over_mmio() {
    attack("mmio");
}

#[test]
fn a_monitor_outlives_attacks_over_pci() {
    attack("pci");
}
