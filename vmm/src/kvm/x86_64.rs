//! What is particular to x86_64: so far its KVM can be asked what it is, and no board is built on it.

use std::convert::Infallible;

use ambit_device_manager::Plan;
use ambit_resources::{IrqPin, PaBits};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::answers::Answers;
use super::error::KvmError;
use crate::vcpu::Stop;

/// Where the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuStart {
    pub entry: u64,
    pub argument: u64,
    pub ipa_bits: PaBits,
}

/// There is no machine with this one yet, so there is no value of it.
pub struct Interrupts(Infallible);

impl Interrupts {
    pub fn create(_: &VmFd, plan: &Plan, _: &mut Answers) -> Result<Self, KvmError> {
        Err(wrong(plan))
    }

    pub fn pins_beside_messages(&self) -> Option<u32> {
        match self.0 {}
    }
}

fn wrong(plan: &Plan) -> KvmError {
    KvmError::WrongArch { host: "x86_64", board: plan.board.clone(), wanted: plan.arch.name() }
}

pub fn create_vm(kvm: &Kvm, _: PaBits) -> Result<VmFd, kvm_ioctls::Error> {
    kvm.create_vm()
}

/// KVM does not name a limit here; it is the processor's physical address width.
pub fn ipa_limit(_: &Kvm) -> (u8, bool) {
    // CPUID 8000_0008h EAX[7:0] (AMD APM volume 3, E.4.7; Intel SDM volume 2, CPUID).
    let leaf = std::arch::x86_64::__cpuid(0x8000_0008);
    let [bits, ..] = leaf.eax.to_le_bytes();
    (bits, true)
}

pub fn gic_versions(_: &Kvm) -> Vec<u8> {
    Vec::new()
}

pub fn has_its(_: &Kvm) -> bool {
    false
}

pub fn prepare(_: &VmFd) {}

pub fn init_vcpu(_: &VmFd, _: &VcpuFd, _: u32, _: &CpuStart) -> Result<(), KvmError> {
    Ok(())
}

pub fn irq_line(pin: IrqPin) -> Option<u32> {
    Some(pin.0)
}

pub fn after_run(_: &VcpuExit<'_>) -> Option<Stop> {
    None
}

pub fn inject_abort(_: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    Err(kvm_ioctls::Error::new(libc::ENOSYS))
}

pub fn whereabouts(vcpu: &VcpuFd) -> String {
    vcpu.get_regs().map_or_else(|_| "rip unknown".into(), |regs| format!("rip {:#x}", regs.rip))
}

pub fn missing(_: &Kvm) -> Option<&'static str> {
    None
}
