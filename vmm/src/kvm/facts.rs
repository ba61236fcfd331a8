//! What this host's KVM can do, asked once.

use ambit_device_manager::{Arch, HostFacts, Processor, Width, WidthSource};
use ambit_resources::PaBits;
use kvm_ioctls::Kvm;

use super::processor::processor;
use super::{KvmError, arch, open};

/// What `ambit probe` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKvm {
    pub arch: Arch,
    pub api_version: i32,
    /// The most physical address bits of a virtual machine.
    pub ipa_limit: u8,
    /// False: this kernel cannot be asked, and the limit is the implicit one.
    pub ipa_limit_known: bool,
    /// Versions of the GIC it can give a guest, lowest first; none on x86_64.
    pub gic_versions: Vec<u8>,
    pub its: bool,
    pub max_vcpus: usize,
    /// More than this many work, but slowly.
    pub recommended_vcpus: usize,
    pub memory_slots: usize,
    /// In bytes.
    pub page_size: u64,
    /// Of an x86_64 host.
    pub processor: Option<Processor>,
}

/// Asks everything. Makes a few empty virtual machines for a moment, to see what they can have.
///
/// # Errors
/// [`KvmError`] if there is no usable KVM here.
pub fn probe() -> Result<HostKvm, KvmError> {
    let kvm = open()?;
    let (ipa_limit, ipa_limit_known) = arch::ipa_limit(&kvm);
    Ok(HostKvm {
        arch: Arch::host(),
        api_version: kvm.get_api_version(),
        ipa_limit,
        ipa_limit_known,
        gic_versions: arch::gic_versions(&kvm),
        its: arch::has_its(&kvm),
        max_vcpus: kvm.get_max_vcpus(),
        recommended_vcpus: kvm.get_nr_vcpus(),
        memory_slots: kvm.get_nr_memslots(),
        page_size: page_size(),
        processor: processor(),
    })
}

/// What the planner has to know, for a machine of the host's own kind.
///
/// # Errors
/// [`KvmError`] if there is no usable KVM here.
pub fn host_facts() -> Result<HostFacts, KvmError> {
    let kvm = open()?;
    Ok(HostFacts {
        width: Width { bits: pa_bits(&kvm), source: WidthSource::Host },
        page_size: page_size(),
        max_cpus: u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX),
        gic_versions: arch::gic_versions(&kvm),
        its: arch::has_its(&kvm),
        memory_slots: u32::try_from(kvm.get_nr_memslots()).unwrap_or(u32::MAX),
        processor: processor(),
    })
}

/// The kernel's limit, within what a plan can use.
fn pa_bits(kvm: &Kvm) -> PaBits {
    let (limit, _) = arch::ipa_limit(kvm);
    PaBits::new(limit.clamp(PaBits::MIN.get(), PaBits::MAX.get())).expect("clamped to the valid range")
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}
