//! What a hostile guest writes, as random bytes: rings, registers and requests.
//!
//! The targets of `fuzz/` are these functions, and tests run them over the inputs that were worth keeping. Each
//! returns for any bytes at all, and panics only over a broken promise.

mod buffers;
mod devices;
mod disk;
mod guest;
mod model;
mod ring;
mod transport;

use arbitrary::{Result, Unstructured};

use crate::driver::Face;

/// What the choices of a body are read from.
type Input<'a> = Unstructured<'a>;

pub use ambit_bus::bench::Target;

/// Every target.
pub const TARGETS: &[Target] = &[
    ("buffers", buffers),
    ("ring", ring),
    ("disk", disk),
    ("block", block),
    ("net", net),
    ("rng", rng),
    ("console", console),
    ("balloon", balloon),
    ("transport_mmio", transport_mmio),
    ("transport_mmio_legacy", transport_mmio_legacy),
    ("transport_pci", transport_pci),
    ("transport_pci_legacy", transport_pci_legacy),
];

/// Ends where the choices do: an input that is too short is a short one.
fn run(bytes: &[u8], body: impl FnOnce(&mut Input<'_>) -> Result<()>) {
    let _end = body(&mut Unstructured::new(bytes));
}

/// Buffers cut, read, written and handed to the kernel, beside a plain account of their bytes.
pub fn buffers(bytes: &[u8]) {
    run(bytes, buffers::body);
}

/// A driver and a device take turns at a ring, beside a plain account of what each must find.
pub fn ring(bytes: &[u8]) {
    run(bytes, ring::body);
}

/// Register accesses and queues on virtio-mmio; what a reset leaves is what power-on gave.
pub fn transport_mmio(bytes: &[u8]) {
    run(bytes, |input| transport::body(Face::Mmio, input));
}

/// As [`transport_mmio`], of a legacy device.
pub fn transport_mmio_legacy(bytes: &[u8]) {
    run(bytes, |input| transport::body(Face::MmioLegacy, input));
}

/// As [`transport_mmio`], of a PCI function and all its windows.
pub fn transport_pci(bytes: &[u8]) {
    run(bytes, |input| transport::body(Face::Pci, input));
}

/// As [`transport_pci`], of a transitional function.
pub fn transport_pci_legacy(bytes: &[u8]) {
    run(bytes, |input| transport::body(Face::PciLegacy, input));
}

/// Requests to a disk, mostly good ones, beside an array of bytes.
pub fn disk(bytes: &[u8]) {
    run(bytes, disk::body);
}

/// A disk before a guest that puts anything into its rings.
pub fn block(bytes: &[u8]) {
    run(bytes, devices::block);
}

/// A card before such a guest, and frames of any length.
pub fn net(bytes: &[u8]) {
    run(bytes, devices::net);
}

/// An entropy device before such a guest.
pub fn rng(bytes: &[u8]) {
    run(bytes, devices::rng);
}

/// A console before such a guest, and keys.
pub fn console(bytes: &[u8]) {
    run(bytes, devices::console);
}

/// A balloon before such a guest, and targets.
pub fn balloon(bytes: &[u8]) {
    run(bytes, devices::balloon);
}

#[cfg(test)]
mod tests {
    use super::TARGETS;

    #[test]
    fn inputs_that_were_worth_keeping_harm_nothing() {
        ambit_bus::bench::replay_all(TARGETS);
    }

    #[test]
    fn random_bytes_harm_nothing() {
        ambit_bus::bench::random_for_all(TARGETS, 50, 600);
    }

    // What has no thread and makes no system call that Miri lacks.
    fn miri(targets: &[fn(&[u8])]) {
        for (number, target) in targets.iter().enumerate() {
            println!("target {number}");
            let (cases, most) = if cfg!(miri) { (1, 80) } else { (100, 200) };
            ambit_bus::bench::random(cases, most, *target);
        }
    }

    #[test]
    fn miri_finds_nothing_in_rings_and_buffers() {
        miri(&[super::ring, super::buffers]);
    }

    #[test]
    fn miri_finds_nothing_in_transports() {
        use super::{transport_mmio, transport_mmio_legacy, transport_pci, transport_pci_legacy};
        miri(&[transport_mmio, transport_mmio_legacy, transport_pci, transport_pci_legacy]);
    }
}
