//! KVM: the only part of the program that makes virtual machines.
//!
//! This file chooses the architecture; `aarch64.rs` and `x86_64.rs` give the same names.

// The ioctls that take guest memory are unsafe by nature; each block says why it holds here.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

mod answers;
mod error;
mod facts;
mod host;
mod messages;
mod processor;
mod routes;

use std::sync::Arc;

use ambit_device_manager::{BootImage, Plan};
use ambit_memory::GuestMemory;
use ambit_resources::{AddressRange, PaBits};
#[cfg(target_arch = "aarch64")]
use kvm_bindings::kvm_device_attr;
use kvm_bindings::{KVM_EXIT_IO, KVM_EXIT_IO_IN, kvm_userspace_memory_region};
#[cfg(target_arch = "aarch64")]
use kvm_ioctls::DeviceFd;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use answers::Answers;
use messages::Messages;

pub use answers::{Answer, Outcome};
pub use arch::{CpuStart, after_run, inject_abort, whereabouts};
pub use error::{KvmError, Step};
pub use facts::{HostKvm, host_facts, probe};
pub use host::KvmHost;

/// A virtual machine with its RAM, its interrupt controller and its vCPUs; nothing runs yet.
pub struct Vm {
    vcpus: Vec<VcpuFd>,
    // The interrupt controller lives as long as its handles.
    _interrupts: arch::Interrupts,
    handle: Arc<Handle>,
    messages: Option<Arc<Messages>>,
    pa_bits: PaBits,
}

/// The kernel's handle to the machine, and the RAM it maps.
struct Handle {
    // Fields are dropped in this order: the machine goes before its RAM.
    fd: VmFd,
    memory: GuestMemory,
}

impl Vm {
    /// Makes the machine that `plan` describes around `memory`, which holds the plan's RAM.
    ///
    /// # Errors
    /// [`KvmError`] for the first step the kernel refuses. What was made is undone.
    pub fn create(plan: &Plan, memory: GuestMemory) -> Result<Self, KvmError> {
        let vm = Self::build(plan, Some(memory), &mut Answers::FirstRefusal)?;
        Ok(vm.expect("a refusal that is not noted is an error"))
    }

    /// The one order of requests. `None`: the kernel made no machine at all, and that is noted.
    fn build(
        plan: &Plan,
        memory: Option<GuestMemory>,
        answers: &mut Answers,
    ) -> Result<Option<Self>, KvmError> {
        let kvm = open()?;
        if let Some(what) = arch::missing(&kvm) {
            return Err(KvmError::Lacks(what));
        }
        let Some(fd) = create_vm(&kvm, plan.ipa_bits, answers)? else { return Ok(None) };
        let is_mapped = memory.is_some();
        let handle = Arc::new(Handle { fd, memory: memory.unwrap_or_default() });
        for (slot, range) in (0..).zip(plan.ram().flat_map(slots)) {
            let step = Step::AddRam { range };
            if is_mapped {
                answers.hear(step, handle.add_ram(slot, range))?;
            } else {
                answers.not_asked(step);
            }
        }
        let fd = &handle.fd;
        let cpus = arch::Cpus::prepare(&kvm, fd, plan.cpus, answers)?;
        let mut vcpus = Vec::new();
        for id in 0..plan.cpus {
            match answers.hear(Step::CreateVcpu { id }, fd.create_vcpu(u64::from(id)))? {
                Some(vcpu) => {
                    cpus.describe(&vcpu, id, answers)?;
                    vcpus.push(vcpu);
                }
                // Nor will there be any more.
                None => break,
            }
        }
        let interrupts = arch::Interrupts::create(fd, plan, answers)?;
        arch::prepare(fd);
        let messages = interrupts.pins_beside_messages();
        let messages = messages.map(|pins| Arc::new(Messages::new(Arc::clone(&handle), pins)));
        Ok(Some(Self { vcpus, _interrupts: interrupts, handle, messages, pa_bits: plan.ipa_bits }))
    }

    /// Puts every vCPU where it starts: the first at the image's entry, the others waiting for it.
    ///
    /// # Errors
    /// [`KvmError`] if the kernel refuses a register.
    pub fn start_at(&self, image: &BootImage<'_>) -> Result<(), KvmError> {
        let start = CpuStart {
            entry: image.entry,
            argument: image.argument,
            mode: image.mode,
            ipa_bits: self.pa_bits,
        };
        (0..).zip(&self.vcpus).try_for_each(|(id, vcpu)| arch::init_vcpu(&self.handle.fd, vcpu, id, &start))
    }

    /// The vCPUs, each to run on a thread of its own; none is left here. `self` must outlive them.
    pub fn take_vcpus(&mut self) -> Vec<VcpuFd> {
        std::mem::take(&mut self.vcpus)
    }

    /// What its devices see of it.
    pub fn host(&self) -> KvmHost {
        KvmHost::new(Arc::clone(&self.handle), self.pa_bits, self.messages.clone())
    }
}

/// One access to I/O ports, as wide as the instruction had it.
pub enum PortAccess<'a> {
    Read(u16, &'a mut [u8]),
    Write(u16, &'a [u8]),
}

/// What a vCPU that stopped for I/O ports wants: a string instruction wants the same port many times. `act` may end
/// it with `Some`.
pub fn port_accesses<T>(vcpu: &mut VcpuFd, mut act: impl FnMut(PortAccess<'_>) -> Option<T>) -> Option<T> {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != KVM_EXIT_IO {
        return None;
    }
    // SAFETY: the exit reason says which of the union the kernel wrote, and each bit pattern of it is valid.
    let io = unsafe { run.__bindgen_anon_1.io };
    let (size, count) = (usize::from(io.size), usize::try_from(io.count).unwrap_or(0));
    let start = std::ptr::from_mut(run).cast::<u8>();
    let at = usize::try_from(io.data_offset).unwrap_or(0);
    // SAFETY: the kernel has put the data of the exit, `size * count` bytes of one page, at this offset from the start
    // of the mapping that `run` is the first part of.
    let data = unsafe { start.add(at) };
    // SAFETY: as above; nothing else uses the mapping while `vcpu` is borrowed and does not run.
    let data = unsafe { std::slice::from_raw_parts_mut(data, size.saturating_mul(count)) };
    let is_read = u32::from(io.direction) == KVM_EXIT_IO_IN;
    data.chunks_exact_mut(size.max(1)).find_map(|data| {
        act(if is_read { PortAccess::Read(io.port, data) } else { PortAccess::Write(io.port, data) })
    })
}

/// Makes the machine that `plan` describes, and takes it down again: what the kernel said to each step. Without
/// `memory`, RAM is not tried.
///
/// # Errors
/// [`KvmError`] if there is no KVM that could be asked.
pub fn verify(plan: &Plan, memory: Option<GuestMemory>) -> Result<Vec<Answer>, KvmError> {
    let mut answers = Answers::Noted(Vec::new());
    Vm::build(plan, memory, &mut answers)?;
    match answers {
        Answers::Noted(answers) => Ok(answers),
        Answers::FirstRefusal => Ok(Vec::new()),
    }
}

/// A machine of this width. Where answers are noted and the host is too narrow, the widest it has: the rest is
/// tried in that one.
fn create_vm(kvm: &Kvm, ipa_bits: PaBits, answers: &mut Answers) -> Result<Option<VmFd>, KvmError> {
    let mut make =
        |ipa_bits| answers.hear(Step::CreateVm { ipa_bits }, retry(|| arch::create_vm(kvm, ipa_bits)));
    if let Some(fd) = make(ipa_bits)? {
        return Ok(Some(fd));
    }
    let (limit, _) = arch::ipa_limit(kvm);
    PaBits::new(limit).filter(|limit| *limit < ipa_bits).map_or(Ok(None), make)
}

/// The most that one slot is given, in bytes. KVM counts a slot's pages in 31 bits, and they may be 4 KiB.
const SLOT: u64 = 1 << 42;

/// One region of RAM as slots of KVM.
fn slots(ram: AddressRange) -> impl Iterator<Item = AddressRange> {
    let starts = (0..ram.size().div_ceil(SLOT)).map(|slot| slot * SLOT);
    starts.filter_map(move |at| AddressRange::new(ram.first() + at, (ram.size() - at).min(SLOT)))
}

fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|errno| KvmError::new(Step::Open, errno))?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        // The request itself failed: another device answers to the name.
        ..0 => Err(KvmError::NotKvm),
        other => Err(KvmError::ApiVersion(other)),
    }
}

/// A busy host interrupts the creation of a VM; that is no reason to give up.
fn retry<T>(mut act: impl FnMut() -> Result<T, kvm_ioctls::Error>) -> Result<T, kvm_ioctls::Error> {
    let mut tries = 0;
    loop {
        match act() {
            Err(errno) if errno.errno() == libc::EINTR && tries < 5 => tries += 1,
            other => return other,
        }
    }
}

impl Handle {
    fn add_ram(&self, slot: u32, range: AddressRange) -> Result<(), kvm_ioctls::Error> {
        // The planner's RAM and the mapping are the same list, so this is never absent.
        let at = self
            .memory
            .get_host_address(GuestAddress(range.first()))
            .map_err(|_| kvm_ioctls::Error::new(libc::EFAULT))?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: range.first(),
            memory_size: range.size(),
            userspace_addr: at as u64,
        };
        // SAFETY: `at` is the start of a mapping of `range.size()` bytes that `self.memory` keeps
        // alive, and `self.fd` is dropped before it.
        unsafe { self.fd.set_user_memory_region(region) }
    }
}

/// What the kernel has for an attribute of 64 bits, which may itself say which one is asked for.
#[cfg(target_arch = "aarch64")]
fn attribute(device: &DeviceFd, group: u32, attr: u32, which: u64) -> Result<u64, kvm_ioctls::Error> {
    let mut value = which;
    let addr = std::ptr::from_mut(&mut value) as u64;
    let mut asked = kvm_device_attr { flags: 0, group, attr: u64::from(attr), addr };
    // SAFETY: the kernel writes the 8 bytes that attributes of this group have to `value`, which outlives
    // the call.
    unsafe { device.get_device_attr(&mut asked) }?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_of_more_than_a_slot_is_several_without_a_gap() {
        let of = |size| slots(AddressRange::fixed(1 << 30, size)).collect::<Vec<_>>();

        assert_eq!(of(4096), [AddressRange::fixed(1 << 30, 4096)]);
        assert_eq!(of(SLOT), [AddressRange::fixed(1 << 30, SLOT)]);
        let two = [AddressRange::fixed(1 << 30, SLOT), AddressRange::fixed((1 << 30) + SLOT, 4096)];
        assert_eq!(of(SLOT + 4096), two);
    }
}
