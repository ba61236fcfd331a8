//! What is particular to arm64: the GIC, the ITS, vCPU set-up and PSCI.

use ambit_aarch64::boot::PSTATE;
use ambit_aarch64::gic::{CpuSide, FIRST_SPI, Gic, Intid, RedistRegion};
use ambit_aarch64::stage2;
use ambit_device_manager::{CpuMode, Plan};
use ambit_resources::{AddressRange, IrqPin, PaBits};
use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_CAP_ARM_NISV_TO_USER, KVM_DEV_ARM_VGIC_CTRL_INIT,
    KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_EXIT_ARM_NISV,
    KVM_MSI_VALID_DEVID, KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, kvm_create_device, kvm_device_attr,
    kvm_device_type, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_enable_cap, kvm_vcpu_init,
};
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuExit, VcpuFd, VmFd};

use super::answers::Answers;
use super::attribute;
use super::error::{KvmError, Step};
use crate::vcpu::Stop;

/// Where the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuStart {
    /// Guest physical address of the first instruction.
    pub entry: u64,
    /// x0: guest physical address of the device tree.
    pub argument: u64,
    /// There is only one.
    pub mode: CpuMode,
    /// The machine's width, which the guest is told.
    pub ipa_bits: PaBits,
}

/// Registers by their KVM number (Linux `Documentation/virt/kvm/api.rst`, 4.68: arm64 core registers,
/// 64 bits wide, numbered by their offset in `struct kvm_regs` in 32-bit words).
const REG_X0: (u64, &str) = (0x6030_0000_0010_0000, "x0");
const REG_PC: (u64, &str) = (0x6030_0000_0010_0040, "pc");
const REG_PSTATE: (u64, &str) = (0x6030_0000_0010_0042, "pstate");
/// System register 3, 0, 0, 7, 0 (the same section: op0, op1, CRn, CRm, op2 in the low 16 bits).
const REG_ID_AA64MMFR0: u64 = 0x6030_0000_0013_c038;

pub fn create_vm(kvm: &Kvm, ipa_bits: PaBits) -> Result<VmFd, kvm_ioctls::Error> {
    // Type 0 means 40 bits and is right only where the kernel cannot be asked for a number.
    if kvm.get_host_ipa_limit() <= 0 {
        return kvm.create_vm_with_type(0);
    }
    kvm.create_vm_with_ipa_size(u32::from(ipa_bits.get()))
}

/// The most physical address bits a virtual machine can have here; the bool is false if the kernel
/// cannot be asked, and then it is 40.
pub fn ipa_limit(kvm: &Kvm) -> (u8, bool) {
    match u8::try_from(kvm.get_host_ipa_limit()) {
        Ok(bits) if bits > 0 => (bits, true),
        _ => (40, false),
    }
}

/// Which versions of the GIC this host can give, seen by making each in a machine of its own.
pub fn gic_versions(kvm: &Kvm) -> Vec<u8> {
    let versions =
        [(2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2), (3, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)];
    versions.into_iter().filter(|(_, kind)| can_make(kvm, &[*kind])).map(|(version, _)| version).collect()
}

/// Whether it can give an interrupt translation service, seen in the same way.
pub fn has_its(kvm: &Kvm) -> bool {
    can_make(kvm, &[kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS])
}

fn can_make(kvm: &Kvm, kinds: &[kvm_device_type]) -> bool {
    let Ok(vm) = create_vm(kvm, PaBits::MIN) else { return false };
    // All are kept until all are made.
    let made: Result<Vec<_>, _> = kinds.iter().map(|kind| make_device(&vm, *kind)).collect();
    made.is_ok()
}

/// The flags of a message in the table of GSIs: an ITS looks it up by who sent it.
pub const MESSAGE_FLAGS: u32 = KVM_MSI_VALID_DEVID;

/// Where the kernel takes a pin, each as a chip and its input.
pub fn pin_inputs(pin: u32) -> Vec<(u32, u32)> {
    vec![(0, pin)]
}

/// What every vCPU needs to be one: nothing before it is set up.
pub struct Cpus;

impl Cpus {
    pub fn prepare(_: &Kvm, _: &VmFd, _: u32, _: &mut Answers) -> Result<Self, KvmError> {
        Ok(Self)
    }

    pub fn describe(&self, _: &VcpuFd, _: u32, _: &mut Answers) -> Result<(), KvmError> {
        Ok(())
    }
}

/// The GIC's devices. They must outlive every vCPU's last run.
pub struct Interrupts {
    // `None` only where a refusal was noted.
    _gic: Option<DeviceFd>,
    its: Option<DeviceFd>,
    pins: u32,
}

impl Interrupts {
    /// How many pins the GIC has, if it also has an ITS, which takes messages.
    pub fn pins_beside_messages(&self) -> Option<u32> {
        self.its.as_ref().map(|_| self.pins)
    }

    /// After all vCPUs, before the first run. In the order that works on every kernel: GIC, lines,
    /// distributor, redistributors, ITS, start.
    pub fn create(vm: &VmFd, plan: &Plan, answers: &mut Answers) -> Result<Self, KvmError> {
        let layout = Gic::from_plan(plan).map_err(|error| KvmError::Plan(error.to_string()))?;
        let (kind, dist_type) = match layout.cpus {
            CpuSide::Redists { .. } => (kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, KVM_VGIC_V3_ADDR_TYPE_DIST),
            CpuSide::Interface(_) => (kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, KVM_VGIC_V2_ADDR_TYPE_DIST),
        };
        let Some(gic) = answers.hear(Step::CreateGic, make_device(vm, kind))? else {
            return Ok(Self { _gic: None, its: None, pins: 0 });
        };
        let lines = layout.interrupts;
        answers.hear(Step::GicLines { count: lines }, set(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &lines))?;
        place(&gic, dist_type, layout.dist.first(), frame("the distributor", layout.dist), answers)?;
        let its = match &layout.cpus {
            CpuSide::Redists { regions, its } => {
                place_redists(&gic, regions, answers)?;
                its.map_or(Ok(None), |range| create_its(vm, range, answers))?
            }
            CpuSide::Interface(range) => {
                let step = frame("the CPU interface", *range);
                place(&gic, KVM_VGIC_V2_ADDR_TYPE_CPU, range.first(), step, answers)?;
                None
            }
        };
        answers.hear(Step::InitGic, start(&gic))?;
        // The kernel counts a vCPU's own interrupts among the lines.
        Ok(Self { _gic: Some(gic), its, pins: lines.saturating_sub(FIRST_SPI) })
    }
}

fn frame(what: &str, range: AddressRange) -> Step {
    Step::GicFrame { what: what.into(), range }
}

fn place_redists(gic: &DeviceFd, regions: &[RedistRegion], answers: &mut Answers) -> Result<(), KvmError> {
    for (index, region) in (0..).zip(regions) {
        let step = frame(&format!("redistributor region {index} of {} vCPUs", region.count), region.range);
        place(gic, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, region.word(index), step, answers)?;
    }
    Ok(())
}

fn create_its(vm: &VmFd, range: AddressRange, answers: &mut Answers) -> Result<Option<DeviceFd>, KvmError> {
    let made = make_device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS);
    let Some(its) = answers.hear(Step::CreateIts, made)? else { return Ok(None) };
    place(&its, KVM_VGIC_ITS_ADDR_TYPE, range.first(), frame("the ITS", range), answers)?;
    answers.hear(Step::InitIts, start(&its))?;
    Ok(Some(its))
}

fn make_device(vm: &VmFd, kind: kvm_device_type) -> Result<DeviceFd, kvm_ioctls::Error> {
    vm.create_device(&mut kvm_create_device { type_: kind, fd: 0, flags: 0 })
}

fn place(
    device: &DeviceFd,
    attr: u32,
    value: u64,
    step: Step,
    answers: &mut Answers,
) -> Result<(), KvmError> {
    let answer = set(device, KVM_DEV_ARM_VGIC_GRP_ADDR, attr, &value);
    // A redistributor region is asked for by its number in the lowest bits, which addresses have at 0.
    let name = || attribute(device, KVM_DEV_ARM_VGIC_GRP_ADDR, attr, value & 0xfff);
    answers.hear_again(step, answer, value, name)
}

fn start(device: &DeviceFd) -> Result<(), kvm_ioctls::Error> {
    device.set_device_attr(&kvm_device_attr {
        group: KVM_DEV_ARM_VGIC_GRP_CTRL,
        attr: u64::from(KVM_DEV_ARM_VGIC_CTRL_INIT),
        ..Default::default()
    })
}

/// The kernel reads `value` during the call and keeps nothing of it.
fn set<T>(device: &DeviceFd, group: u32, attr: u32, value: &T) -> Result<(), kvm_ioctls::Error> {
    let addr = std::ptr::from_ref(value) as u64;
    device.set_device_attr(&kvm_device_attr { flags: 0, group, attr: u64::from(attr), addr })
}

/// A load or store that KVM cannot decode comes to us instead of ending the machine.
pub fn prepare(vm: &VmFd) {
    let cap = kvm_enable_cap { cap: KVM_CAP_ARM_NISV_TO_USER, ..Default::default() };
    if vm.enable_cap(&cap).is_err() {
        tracing::debug!("this kernel does not hand over accesses it cannot decode");
    }
}

pub fn init_vcpu(vm: &VmFd, vcpu: &VcpuFd, id: u32, at: &CpuStart) -> Result<(), KvmError> {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target).map_err(|errno| KvmError::new(Step::PreferredTarget, errno))?;
    target.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    if id != 0 {
        target.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    vcpu.vcpu_init(&target).map_err(|errno| KvmError::new(Step::InitVcpu { id }, errno))?;
    lower_parange(vcpu, id, at.ipa_bits);
    if id == 0 {
        let values = [(REG_PSTATE, PSTATE), (REG_PC, at.entry), (REG_X0, at.argument)];
        for ((number, name), value) in values {
            vcpu.set_one_reg(number, &value.to_le_bytes())
                .map_err(|errno| KvmError::new(Step::SetRegister { id, name }, errno))?;
        }
    }
    Ok(())
}

/// Tells the guest no more address bits than it has. KVM tells it the host's, whatever the machine's width, and
/// kernels before 6.7 do not let that be changed.
fn lower_parange(vcpu: &VcpuFd, id: u32, ipa_bits: PaBits) {
    const PARANGE: u64 = 0xf;
    let wanted = u64::from(stage2::parange(ipa_bits));
    let mut value = [0; 8];
    if vcpu.get_one_reg(REG_ID_AA64MMFR0, &mut value).is_err() {
        return;
    }
    let told = u64::from_le_bytes(value);
    if told & PARANGE <= wanted {
        return;
    }
    let lowered = told & !PARANGE | wanted;
    let set = vcpu.set_one_reg(REG_ID_AA64MMFR0, &lowered.to_le_bytes());
    // What one vCPU is refused, all are.
    if let Err(errno) = set
        && id == 0
    {
        tracing::debug!(
            "the guest is told more address bits than it has, as this kernel allows no other: {errno}"
        );
    }
}

/// The word `KVM_IRQ_LINE` takes for a pin. `None` if the GIC has no such pin.
pub fn irq_line(pin: IrqPin) -> Option<u32> {
    Intid::of_pin(pin).map(Intid::line_word)
}

/// Exits that only this architecture has. `None` if there is nothing to stop for.
pub fn after_run(exit: &VcpuExit<'_>) -> Option<Stop> {
    match exit {
        VcpuExit::Unsupported(KVM_EXIT_ARM_NISV) => Some(Stop::Undecoded),
        _ => None,
    }
}

/// The guest takes a data abort at the instruction that KVM could not decode, as it would for an
/// access that no bus answers.
pub fn inject_abort(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut events = vcpu.get_vcpu_events()?;
    events.exception.ext_dabt_pending = 1;
    vcpu.set_vcpu_events(&events)
}

/// Where the vCPU is, for the message about why it stopped.
pub fn whereabouts(vcpu: &VcpuFd) -> String {
    let mut value = [0; 8];
    match vcpu.get_one_reg(REG_PC.0, &mut value) {
        Ok(_) => format!("pc {:#x}", u64::from_le_bytes(value)),
        Err(_) => "pc unknown".into(),
    }
}

/// What the host's KVM must have and lacks.
pub fn missing(kvm: &Kvm) -> Option<&'static str> {
    let needed = [(Cap::ArmPsci02, "PSCI 0.2"), (Cap::Irqfd, "irqfd"), (Cap::Ioeventfd, "ioeventfd")];
    needed.into_iter().find(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use ambit_bus::{Backplane, Match, Message, Space, Trigger};
    use ambit_device_manager::{HostFacts, MachineConfig};
    use kvm_bindings::KVM_DEV_ARM_VGIC_GRP_DIST_REGS;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::super::Vm;
    use super::*;

    // These need KVM: cargo test --no-run --target aarch64-unknown-linux-musl -p ambit-vmm --lib, then
    // cargo xtask host --file PROGRAM -- /run/payload/PROGRAM kvm::aarch64 --ignored

    fn machine() -> Vm {
        let config = MachineConfig { memory: 64 << 20, ..MachineConfig::default() };
        let facts = HostFacts { gic_versions: vec![3], ..HostFacts::assumed() };
        let plan = ambit_device_manager::plan(&ambit_aarch64::native(), &config, &facts).unwrap();
        let ram: Vec<AddressRange> = plan.ram().collect();
        Vm::create(&plan, ambit_memory::map(&ram).unwrap()).unwrap()
    }

    /// Waits until the GIC has a pin of the first 32 pending.
    fn is_pending(vm: &Vm, pin: IrqPin) -> bool {
        // GICD_ISPENDR1 (Arm IHI 0069, 12.9.19); KVM reads it as the guest would.
        let gic = vm._interrupts._gic.as_ref().unwrap();
        let pending = || attribute(gic, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0x204, 0).unwrap();
        let begun = Instant::now();
        while pending() & 1 << pin.0 == 0 {
            if begun.elapsed() > Duration::from_secs(20) {
                return false;
            }
        }
        true
    }

    #[test]
    #[ignore = "needs KVM"]
    fn pins_are_wired_with_messages_as_without() {
        let vm = machine();
        let host = vm.host();
        let [before, after] = [16, 17].map(|pin| host.irq(IrqPin(pin), Trigger::Edge).unwrap());

        let vector = host.message(8).unwrap().unwrap();
        vector.route(Some(Message { address: 0x808_0040, data: 1 })).unwrap();
        before.pulse();
        drop(vector);
        after.pulse();

        assert_eq!([16, 17].map(|pin| is_pending(&vm, IrqPin(pin))), [true, true]);
    }

    #[test]
    #[ignore = "needs KVM"]
    fn messages_and_doorbells_that_are_gone_leave_room_for_the_next() {
        let vm = machine();
        let host = vm.host();
        let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = files();

        // More than there are GSIs.
        (0..5000).for_each(|_| drop(host.message(8).unwrap()));
        for turn in 0..100 {
            let vector = host.message(8).unwrap().unwrap();
            for data in [Some(turn), None, Some(turn), Some(turn + 1)] {
                vector.route(data.map(|data| Message { address: 0x808_0040, data })).unwrap();
                vector.pulse();
            }
            let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
            for write in [Match::Any, Match::Half(1), Match::Word(1)] {
                drop(host.doorbell(Space::Memory, 0x200_0000, write, &event).unwrap());
            }
        }

        assert_eq!(files(), before);
    }

    #[test]
    #[ignore = "needs KVM"]
    fn every_gsi_above_the_pins_can_be_a_message() {
        let vm = machine();
        let host = vm.host();

        let mut vectors = Vec::new();
        let error = loop {
            match host.message(8) {
                Ok(vector) => vectors.push(vector.unwrap()),
                Err(error) => break error,
            }
        };
        let last = vectors.last().unwrap().route(Some(Message { address: 0x808_0040, data: 1 }));

        assert!(last.is_ok(), "{last:?}");
        assert_eq!(vectors.len(), 4096 - 32);
        assert_eq!(error.source.raw_os_error(), Some(libc::ENOSPC));
    }
}
