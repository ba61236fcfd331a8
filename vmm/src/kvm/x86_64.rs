//! What is particular to x86_64: the interrupt controllers, CPUID, 64-bit mode and I/O ports.

use ambit_device_manager::{CpuMode, Plan};
use ambit_resources::{IrqPin, PaBits};
use ambit_x86_64::acpi::FIRST_WIDE_ID;
use ambit_x86_64::{boot, pc};
use kvm_bindings::{
    CpuId, KVM_CAP_X2APIC_API, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, Msrs,
    kvm_dtable, kvm_enable_cap, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};

mod cpuid;

use self::cpuid::Extras;
use super::answers::Answers;
use super::error::{KvmError, Step};
use super::processor;
use crate::vcpu::Stop;

/// Where the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuStart {
    /// Guest physical address of the first instruction.
    pub entry: u64,
    /// Guest physical address of the zero page, in rsi; or of the start info, in rbx.
    pub argument: u64,
    pub mode: CpuMode,
    pub ipa_bits: PaBits,
}

const fn msr(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, reserved: 0, data }
}

/// Intel SDM volume 4, 2.1: memory is write-back unless page tables say otherwise (IA32_MTRR_DEF_TYPE, enabled), and
/// string instructions are fast (IA32_MISC_ENABLE, which KVM has on AMD too). PAT is right from reset.
const FIRMWARE_MSRS: [kvm_msr_entry; 2] = [msr(0x2ff, 1 << 11 | 6), msr(0x1a0, 1)];

/// The bits that page tables of four levels hold.
const FOUR_LEVELS: u8 = 48;

/// The flags of a message in the table of GSIs: nobody looks at who sent it.
pub const MESSAGE_FLAGS: u32 = 0;

/// What every vCPU needs to be one.
pub struct Cpus {
    // `None` only where a refusal was noted.
    cpuid: Option<CpuId>,
    extras: Extras,
    count: u32,
}

impl Cpus {
    /// Before the first vCPU: KVM gives a vCPU its own interrupt controller only if the machine has one.
    pub fn prepare(kvm: &Kvm, vm: &VmFd, count: u32, answers: &mut Answers) -> Result<Self, KvmError> {
        let pages = pc::KVM_PAGES.first();
        // On Intel, real mode runs with the first page and the other three; elsewhere nobody touches them.
        let identity = vm.set_identity_map_address(pages);
        answers.hear(Step::KvmPages { address: pages }, identity)?;
        let state = usize::try_from(pages + 0x1000).map_err(|_| kvm_ioctls::Error::new(libc::EINVAL));
        let state = state.and_then(|address| vm.set_tss_address(address));
        answers.hear(Step::KvmPages { address: pages + 0x1000 }, state)?;
        answers.hear(Step::CreateIrqchip, vm.create_irq_chip())?;
        if count > FIRST_WIDE_ID {
            let mut wide = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, ..Default::default() };
            wide.args[0] = u64::from(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
            answers.hear(Step::WideIds, vm.enable_cap(&wide))?;
        }
        let cpuid = answers.hear(Step::SupportedCpuid, kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))?;
        let extras = Extras { tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer) };
        Ok(Self { cpuid, extras, count })
    }

    /// Tells a vCPU what it is, and gives it the memory types and settings that firmware would.
    pub fn describe(&self, vcpu: &VcpuFd, id: u32, answers: &mut Answers) -> Result<(), KvmError> {
        let Some(has) = &self.cpuid else { return Ok(()) };
        let leaves = cpuid::of_vcpu(has, id, self.count, self.extras);
        let leaves = leaves.map_err(|_| kvm_ioctls::Error::new(libc::E2BIG));
        let said = leaves.and_then(|leaves| vcpu.set_cpuid2(&leaves));
        answers.hear(Step::DescribeVcpu { id }, said)?;
        let refused = |_| kvm_ioctls::Error::new(libc::E2BIG);
        let set = Msrs::from_entries(&FIRMWARE_MSRS).map_err(refused).and_then(|msrs| vcpu.set_msrs(&msrs));
        // It says how many it took.
        let set = set.and_then(|taken| match taken == FIRMWARE_MSRS.len() {
            true => Ok(()),
            false => Err(kvm_ioctls::Error::new(libc::EINVAL)),
        });
        answers.hear(Step::SetRegister { id, name: "MTRRdefType and MISC_ENABLE" }, set).map(drop)
    }
}

/// The interrupt controllers, which are the kernel's from [`Cpus::prepare`] on.
pub struct Interrupts;

impl Interrupts {
    pub fn create(_: &VmFd, plan: &Plan, _: &mut Answers) -> Result<Self, KvmError> {
        if plan.irqs.count() != pc::PINS {
            return Err(KvmError::Plan(format!(
                "it has {} pins, and KVM's IOAPIC has {}",
                plan.irqs.count(),
                pc::PINS
            )));
        }
        Ok(Self)
    }

    /// How many pins the IOAPIC has; vCPUs take messages themselves.
    pub fn pins_beside_messages(&self) -> Option<u32> {
        Some(pc::PINS)
    }
}

/// Where the kernel takes a pin, each as a chip and its input: as in its own first table, the pins of a PC's 8259s
/// are also pins of the IOAPIC (Linux `arch/x86/kvm/irq_comm.c`, `default_routing`).
pub fn pin_inputs(pin: u32) -> Vec<(u32, u32)> {
    let old = match pin {
        0..8 => Some((KVM_IRQCHIP_PIC_MASTER, pin)),
        8..16 => Some((KVM_IRQCHIP_PIC_SLAVE, pin - 8)),
        _ => None,
    };
    [(KVM_IRQCHIP_IOAPIC, pin)].into_iter().chain(old).collect()
}

pub fn create_vm(kvm: &Kvm, _: PaBits) -> Result<VmFd, kvm_ioctls::Error> {
    kvm.create_vm()
}

/// KVM does not name a limit here; it is the processor's physical address width, as far as KVM maps it.
pub fn ipa_limit(kvm: &Kvm) -> (u8, bool) {
    let has = processor::guest_bits();
    // No table of KVM's holds less, and to ask takes a while.
    if has <= FOUR_LEVELS {
        return (has, true);
    }
    let maps =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).ok().and_then(|cpuid| cpuid::guest_bits(&cpuid));
    (maps.map_or(has, |maps| maps.min(has)), true)
}

pub fn gic_versions(_: &Kvm) -> Vec<u8> {
    Vec::new()
}

pub fn has_its(_: &Kvm) -> bool {
    false
}

pub fn prepare(_: &VmFd) {}

// Control registers (Intel SDM volume 3, 2.5) and IA32_EFER (2.2.1).
const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG: u64 = 1 << 8 | 1 << 10;
/// Always set (Intel SDM volume 1, 3.4.3).
const RFLAGS: u64 = 1 << 1;
/// The top of what is free below the zero page; whoever uses a stack brings one.
const STACK: u64 = boot::ZERO_PAGE as u64;

/// The first vCPU starts in 64-bit mode; the others are as KVM made them, and wait for INIT and SIPI.
pub fn init_vcpu(_: &VmFd, vcpu: &VcpuFd, id: u32, at: &CpuStart) -> Result<(), KvmError> {
    if id != 0 {
        return Ok(());
    }
    let refused = |name| move |errno| KvmError::new(Step::SetRegister { id, name }, errno);
    let mut system = vcpu.get_sregs().map_err(refused("cs"))?;
    let mut registers = kvm_regs { rip: at.entry, rsp: STACK, rflags: RFLAGS, ..Default::default() };
    match at.mode {
        CpuMode::Usual => {
            flat(&mut system, boot::CODE);
            long_mode(&mut system);
            registers.rsi = at.argument;
        }
        CpuMode::Protected => {
            flat(&mut system, boot::CODE_32);
            protected_mode(&mut system);
            registers.rbx = at.argument;
        }
    }
    vcpu.set_sregs(&system).map_err(refused("cs"))?;
    vcpu.set_regs(&registers).map_err(refused("rip"))
}

fn flat(system: &mut kvm_sregs, code: u16) {
    let data = segment(boot::DATA);
    system.cs = segment(code);
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
    let limit = u16::try_from(size_of_val(&boot::descriptors()) - 1).unwrap_or(u16::MAX);
    system.gdt = kvm_dtable { base: boot::GDT, limit, ..Default::default() };
    system.idt = kvm_dtable::default();
}

/// As PVH has it (Xen `docs/misc/pvh.pandoc`).
fn protected_mode(system: &mut kvm_sregs) {
    system.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    system.cr4 = 0;
    system.efer = 0;
    // A task state segment of 32 bits, busy.
    let limit = 0x67;
    system.tr = kvm_segment { limit, type_: 11, present: 1, ..Default::default() };
}

fn long_mode(system: &mut kvm_sregs) {
    system.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE | CR0_PAGING;
    system.cr3 = boot::PAGE_TABLES;
    system.cr4 = CR4_PAE;
    system.efer = EFER_LONG;
}

/// What a vCPU has of the descriptor that `selector` selects (Intel SDM volume 3, 3.4.5).
fn segment(selector: u16) -> kvm_segment {
    let descriptor = boot::descriptors().get(usize::from(selector / 8)).copied().unwrap_or(0);
    let bits = |first: u32, count: u32| descriptor >> first & ((1 << count) - 1);
    let byte = |first, count| bits(first, count).to_le_bytes()[0];
    let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let pages = bits(0, 16) | bits(48, 4) << 16;
    let granular = byte(55, 1);
    kvm_segment {
        base: bits(16, 24) | bits(56, 8) << 24,
        limit: if granular == 1 { word(pages << 12 | 0xfff) } else { word(pages) },
        selector,
        type_: byte(40, 4),
        s: byte(44, 1),
        dpl: byte(45, 2),
        present: byte(47, 1),
        avl: byte(52, 1),
        l: byte(53, 1),
        db: byte(54, 1),
        g: granular,
        ..Default::default()
    }
}

/// The word `KVM_IRQ_LINE` takes for a pin. `None` if the IOAPIC has no such pin.
pub fn irq_line(pin: IrqPin) -> Option<u32> {
    Some(pin.0).filter(|pin| *pin < pc::PINS)
}

/// Exits that only this architecture has. `None` if there is nothing to stop for.
pub fn after_run(exit: &VcpuExit<'_>) -> Option<Stop> {
    match exit {
        VcpuExit::Shutdown => Some(Stop::Failed(KvmError::Stopped {
            id: 0,
            why: "the guest took a fault that it handles nowhere (a triple fault)".into(),
        })),
        _ => None,
    }
}

pub fn inject_abort(_: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    Err(kvm_ioctls::Error::new(libc::ENOSYS))
}

pub fn whereabouts(vcpu: &VcpuFd) -> String {
    vcpu.get_regs().map_or_else(|_| "rip unknown".into(), |regs| format!("rip {:#x}", regs.rip))
}

/// What the host's KVM must have and lacks.
pub fn missing(kvm: &Kvm) -> Option<&'static str> {
    let needed = [
        (Cap::Irqchip, "interrupt controllers of its own"),
        (Cap::IrqRouting, "a table of GSIs"),
        (Cap::Irqfd, "irqfd"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::ExtCpuid, "the processor's features"),
    ];
    needed.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_flat_and_code_is_of_64_bits() {
        let data = kvm_segment {
            limit: u32::MAX,
            selector: boot::DATA,
            type_: 3,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };

        assert_eq!(segment(boot::DATA), data);
        assert_eq!(segment(boot::CODE), kvm_segment { selector: boot::CODE, type_: 11, db: 0, l: 1, ..data });
    }

    #[test]
    fn pins_of_the_old_controllers_are_pins_of_the_new_one_too() {
        assert_eq!(pin_inputs(4), [(KVM_IRQCHIP_IOAPIC, 4), (KVM_IRQCHIP_PIC_MASTER, 4)]);
        assert_eq!(pin_inputs(15), [(KVM_IRQCHIP_IOAPIC, 15), (KVM_IRQCHIP_PIC_SLAVE, 7)]);
        assert_eq!(pin_inputs(16), [(KVM_IRQCHIP_IOAPIC, 16)]);
    }
}
