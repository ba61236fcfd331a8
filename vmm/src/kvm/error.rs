//! What the kernel refused, as a sentence.

use ambit_bus::Space;
use ambit_resources::{AddressRange, PaBits, human_size};

/// Why there is no machine, or why it stopped.
#[derive(Debug, thiserror::Error)]
// No architecture has all of them.
#[allow(dead_code)]
pub enum KvmError {
    #[error("{}{}", .step.what(), .step.why(.source.raw_os_error().unwrap_or(0)))]
    Refused { step: Step, source: std::io::Error },
    #[error(
        "/dev/kvm is there, but it is not KVM; look at it (ls -l /dev/kvm) and make it again \
         (mknod /dev/kvm c 10 232)"
    )]
    NotKvm,
    #[error("/dev/kvm speaks version {0} of its interface and this program version 12")]
    ApiVersion(i32),
    #[error(
        "this host's KVM runs {host} guests, and board {board} is an {wanted} machine; use a host of that kind, \
         or one of the boards for {host} (ambit board list)"
    )]
    WrongArch { host: &'static str, board: String, wanted: &'static str },
    #[error("this host's KVM lacks {0}, which Ambit needs; use a newer kernel")]
    Lacks(&'static str),
    #[error("the plan is not one this program can build: {0}")]
    Plan(String),
    #[error("vCPU {id} stopped: {why}")]
    Stopped { id: u32, why: String },
}

/// One request to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
// No architecture has all of them.
#[allow(dead_code)]
pub enum Step {
    Open,
    CreateVm { ipa_bits: PaBits },
    AddRam { range: AddressRange },
    CreateVcpu { id: u32 },
    KvmPages { address: u64 },
    CreateIrqchip,
    WideIds,
    SupportedCpuid,
    DescribeVcpu { id: u32 },
    CreateGic,
    GicLines { count: u32 },
    GicFrame { what: String, range: AddressRange },
    CreateIts,
    InitIts,
    InitGic,
    PreferredTarget,
    InitVcpu { id: u32 },
    SetRegister { id: u32, name: &'static str },
    Irq { pin: u32 },
    Message { requester: u16 },
    Doorbell { space: Space, address: u64 },
    Run { id: u32 },
}

impl KvmError {
    pub fn new(step: Step, errno: kvm_ioctls::Error) -> Self {
        Self::Refused { step, source: errno.into() }
    }

    /// True if the host lacks something, false if a machine that could run went wrong.
    pub fn is_lack(&self) -> bool {
        match self {
            Self::Refused { step, .. } => !matches!(step, Step::Run { .. }),
            Self::NotKvm | Self::ApiVersion(_) | Self::WrongArch { .. } | Self::Lacks(_) => true,
            Self::Plan(_) | Self::Stopped { .. } => false,
        }
    }
}

impl Step {
    fn what(&self) -> String {
        match self {
            Self::Open => "/dev/kvm cannot be opened".into(),
            Self::CreateVm { ipa_bits } => {
                format!("the kernel made no virtual machine with {ipa_bits} physical address bits")
            }
            Self::AddRam { range } => {
                format!("the kernel did not take {} of RAM at {range}", human_size(range.size()))
            }
            Self::CreateVcpu { id } => format!("the kernel made no vCPU {id}"),
            Self::KvmPages { address } => {
                format!("the kernel did not take the pages at {address:#x} for its own use")
            }
            Self::CreateIrqchip => "the kernel made no interrupt controllers".into(),
            Self::WideIds => "the kernel took no APIC IDs of 32 bits, which more than 255 vCPUs need".into(),
            Self::SupportedCpuid => "the kernel did not say what its vCPUs can do".into(),
            Self::DescribeVcpu { id } => format!("vCPU {id} did not take what it is told of itself"),
            Self::CreateGic => "the kernel made no GIC".into(),
            Self::GicLines { count } => format!("the GIC did not take {count} interrupt lines"),
            Self::GicFrame { what, range } => format!("the GIC did not take {what} at {range}"),
            Self::CreateIts => "the kernel made no interrupt translation service".into(),
            Self::InitIts => "the interrupt translation service did not start".into(),
            Self::InitGic => "the GIC did not start".into(),
            Self::PreferredTarget => "the kernel named no vCPU type for this host".into(),
            Self::InitVcpu { id } => format!("vCPU {id} could not be set up"),
            Self::SetRegister { id, name } => format!("register {name} of vCPU {id} could not be set"),
            Self::Irq { pin } => format!("interrupt pin {pin} could not be wired"),
            Self::Message { requester } => {
                format!("a message of PCI device {} could not be wired", requester >> 3)
            }
            Self::Doorbell { space: Space::Memory, address } => {
                format!("the doorbell at {address:#x} could not be wired")
            }
            Self::Doorbell { space: Space::Ports, address } => {
                format!("the doorbell at port {address:#x} could not be wired")
            }
            Self::Run { id } => format!("vCPU {id} could not go on"),
        }
    }

    /// What an errno means at this step (Linux `Documentation/virt/kvm/`, `arm-vgic-v3.rst`, and the
    /// kernel's own checks). Empty where the errno says it all.
    pub fn why(&self, errno: i32) -> &'static str {
        match (self, errno) {
            (Self::Open, libc::ENOENT) => {
                ": there is none; this kernel has no KVM, the processor cannot virtualise, \
                 or firmware has it switched off"
            }
            (Self::Open, libc::EACCES | libc::EPERM) => {
                ": this user may not; join the group that owns it (often 'kvm'), or run as root"
            }
            (Self::Open, libc::ENXIO | libc::ENODEV) => {
                ": the file is there and no KVM behind it; load the module (modprobe kvm)"
            }
            (Self::CreateVm { .. }, libc::EINVAL) => {
                ": it is more than this host's KVM can give; see 'ambit probe'"
            }
            (Self::AddRam { .. }, libc::EFAULT) => {
                ": it ends past the physical address bits of the virtual machine"
            }
            (Self::AddRam { .. }, libc::EEXIST) => ": it overlaps RAM the virtual machine has",
            (Self::AddRam { .. }, libc::EINVAL) => {
                ": KVM takes fewer than 2^31 pages at once, and whole pages; give the guest less memory"
            }
            (Self::CreateVcpu { .. }, libc::EINVAL | libc::E2BIG) => {
                ": KVM has no more; see 'ambit probe' for the most it gives"
            }
            (Self::CreateVcpu { .. }, libc::EMFILE | libc::ENFILE) => {
                ": too many open files; raise 'ulimit -n' to more than the vCPUs and devices together"
            }
            (Self::CreateGic, libc::ENODEV) => ": this host has no GIC of the version that the board needs",
            (Self::CreateGic, libc::E2BIG) => ": there are more vCPUs than the GIC serves",
            (Self::CreateIts, libc::ENODEV) => ": this host's KVM has none",
            (Self::GicLines { .. }, libc::EINVAL) => ": KVM takes a multiple of 32 from 64 to 992",
            (Self::GicFrame { .. }, libc::E2BIG) => {
                ": it ends past the physical address bits of the virtual machine"
            }
            (Self::GicFrame { .. }, libc::EINVAL) => {
                ": it is not aligned to 64 KiB, or overlaps another part of the GIC"
            }
            (Self::GicFrame { .. }, libc::EEXIST) => ": it has an address already",
            (Self::GicFrame { .. }, libc::ENXIO | libc::ENODEV) => ": this KVM knows no such part",
            (Self::InitVcpu { .. }, libc::EINVAL | libc::ENOENT) => {
                ": this host's processor does not have what was asked of it"
            }
            (Self::Irq { .. }, libc::EBUSY | libc::EEXIST) => ": it is wired already",
            (Self::Message { .. }, libc::ENOSPC) => {
                ": KVM has 4096 interrupts and all are taken; give the guest fewer devices, or fewer queues"
            }
            (Self::Message { .. }, libc::EINVAL) => ": KVM did not take the table of interrupts with it",
            (Self::Doorbell { .. }, libc::ENOSPC) => ": KVM has no room for more",
            (Self::Doorbell { .. }, libc::EEXIST) => ": there is one already",
            (Self::Run { .. }, libc::ENXIO) => ": the GIC is not complete",
            (Self::Run { .. }, libc::EFAULT) => ": the host could not give it the memory it touched",
            (Self::Run { .. }, libc::ENOMEM) => ": the host has no memory left",
            (_, libc::ENOMEM) => ": the host has no memory left",
            (_, libc::EMFILE | libc::ENFILE) => ": too many open files; raise 'ulimit -n'",
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(step: Step, errno: i32) -> String {
        KvmError::new(step, kvm_ioctls::Error::new(errno)).to_string()
    }

    #[test]
    fn a_missing_kvm_says_what_may_be_the_cause() {
        assert_eq!(
            said(Step::Open, libc::ENOENT),
            "/dev/kvm cannot be opened: there is none; this kernel has no KVM, the processor cannot \
             virtualise, or firmware has it switched off"
        );
    }

    #[test]
    fn a_forbidden_kvm_says_how_to_be_allowed() {
        assert_eq!(
            said(Step::Open, libc::EACCES),
            "/dev/kvm cannot be opened: this user may not; join the group that owns it (often 'kvm'), or run as root"
        );
    }

    #[test]
    fn too_many_bits_name_the_number() {
        let ipa_bits = PaBits::new(48).unwrap();

        assert_eq!(
            said(Step::CreateVm { ipa_bits }, libc::EINVAL),
            "the kernel made no virtual machine with 48 physical address bits: it is more than this host's \
             KVM can give; see 'ambit probe'"
        );
    }

    #[test]
    fn a_refused_gic_frame_names_its_place() {
        let range = AddressRange::fixed(0x10_0000_0000, 0x10000);
        let what = "the distributor".to_owned();

        assert_eq!(
            said(Step::GicFrame { what, range }, libc::E2BIG),
            "the GIC did not take the distributor at [0x1000000000-0x100000ffff]: it ends past the physical \
             address bits of the virtual machine"
        );
    }

    #[test]
    fn a_message_too_many_says_what_to_do() {
        assert_eq!(
            said(Step::Message { requester: 3 << 3 }, libc::ENOSPC),
            "a message of PCI device 3 could not be wired: KVM has 4096 interrupts and all are taken; give the \
             guest fewer devices, or fewer queues"
        );
    }

    #[test]
    fn an_errno_without_a_story_still_says_which_step_failed() {
        assert_eq!(said(Step::CreateGic, libc::EPERM), "the kernel made no GIC");
    }
}
