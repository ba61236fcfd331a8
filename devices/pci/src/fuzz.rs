//! What a hostile guest writes to a function, as random bytes: configuration space and the MSI-X table.
//!
//! The targets of `fuzz/` are these functions. Each returns for any bytes at all, and panics only over a broken
//! promise.

mod messages;
mod space;

use arbitrary::Unstructured;

type Input<'a> = Unstructured<'a>;

pub use ambit_bus::bench::Target;

/// Every target.
pub const TARGETS: &[Target] = &[("pci_config", pci_config), ("pci_msix", pci_msix)];

/// Configuration space by accesses of any width at any place, beside a table of which bits can be written.
pub fn pci_config(bytes: &[u8]) {
    let _end = space::body(&mut Unstructured::new(bytes));
}

/// The MSI-X table, its masks, and vectors that fire meanwhile, beside a plain account of the messages.
pub fn pci_msix(bytes: &[u8]) {
    let _end = messages::body(&mut Unstructured::new(bytes));
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::{random_for_all, replay_all};

    use super::TARGETS;

    #[test]
    fn inputs_that_were_worth_keeping_harm_nothing() {
        replay_all(TARGETS);
    }

    #[test]
    fn random_bytes_harm_nothing() {
        let (cases, most) = if cfg!(miri) { (2, 80) } else { (300, 300) };
        random_for_all(TARGETS, cases, most);
    }
}
