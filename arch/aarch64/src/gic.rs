//! Where a GIC's frames are, and the numbers one interrupt has: pin, INTID, cells, KVM's word.

use ambit_bus::Trigger;
use ambit_device_manager::{Plan, Region, RegionKind};
use ambit_resources::{AddressRange, IrqPin};

/// The distributor's frame, in bytes (Linux `arch/arm64/include/uapi/asm/kvm.h`).
pub const DIST_SIZE: u64 = 64 << 10;
/// One vCPU's redistributor: the RD and SGI frames. KVM never exposes GICv4's other two.
pub const REDIST_SIZE: u64 = 128 << 10;
/// With the frames that GICv4 adds for virtual LPIs (Arm IHI 0069, 12.10).
pub const REDIST_V4_SIZE: u64 = 256 << 10;
/// Control and translation frames.
pub const ITS_SIZE: u64 = 128 << 10;
/// Every GICv3 frame begins at a multiple of this.
pub const FRAME_ALIGN: u64 = 64 << 10;
/// What KVM takes for GICv2 (`KVM_VGIC_V2_DIST_SIZE`, `KVM_VGIC_V2_CPU_SIZE`), at multiples of 4 KiB.
const V2_DIST_SIZE: u64 = 4 << 10;
const V2_CPU_SIZE: u64 = 8 << 10;
const V2_ALIGN: u64 = 4 << 10;

/// KVM's limit (Linux `include/kvm/arm_vgic.h`, `VGIC_V3_MAX_CPUS`).
pub const MAX_CPUS: u32 = 512;
/// The same of GICv2 (`VGIC_V2_MAX_CPUS`): it names vCPUs by 8 bits.
pub const V2_MAX_CPUS: u32 = 8;
/// KVM counts redistributor regions by 8 bits.
pub const MAX_REDIST_REGIONS: usize = 256;
/// INTID of pin 0.
pub const FIRST_SPI: u32 = 32;
/// KVM takes at most 992 interrupts, and 32 of those are private to a vCPU (its limit of 1023 is no
/// multiple of 32).
pub const SPIS: u32 = 960;

/// The distributor's region.
pub const DIST: &str = "gic.dist";
/// The interrupt translation service's region.
pub const ITS: &str = "gic.its";
/// GICv2's interface to a CPU.
pub const CPU: &str = "gic.cpu";
const REDIST: &str = "gic.redist";

/// The name of redistributor region `index`.
pub fn redist(index: usize) -> String {
    format!("{REDIST}{index}")
}

/// How many vCPUs have room in a GICv3's window of `window` bytes that also holds the distributor, the ITS if
/// there is one, and `pages` of 64 KiB of other devices.
pub fn capacity(window: u64, its: bool, pages: u64) -> u64 {
    let frames = DIST_SIZE + if its { ITS_SIZE } else { 0 };
    let taken = pages.saturating_mul(64 << 10).saturating_add(frames);
    window.saturating_sub(taken) / REDIST_SIZE
}

/// One plan's interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gic {
    pub dist: AddressRange,
    pub cpus: CpuSide,
    /// SGIs, PPIs and SPIs together, as `KVM_DEV_ARM_VGIC_GRP_NR_IRQS` takes it.
    pub interrupts: u32,
}

/// What a GIC has for its vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuSide {
    /// GICv3.
    Redists {
        /// In the order KVM is told of them; together exactly as many redistributors as vCPUs.
        regions: Vec<RedistRegion>,
        /// `None` where the host has none.
        its: Option<AddressRange>,
    },
    /// GICv2: one window that every vCPU sees its own interface in.
    Interface(AddressRange),
}

/// A run of redistributors, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedistRegion {
    pub range: AddressRange,
    /// At least 1.
    pub count: u32,
    /// What the guest is told: `range`, or more where the board keeps room after it.
    pub room: AddressRange,
}

impl RedistRegion {
    /// From one redistributor to the next, in bytes.
    pub fn stride(self) -> u64 {
        self.range.size() / u64::from(self.count.max(1))
    }
}

/// Why a plan is not one of a machine with a GIC. The plans of this crate's boards always are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GicError {
    #[error("the plan has no {0}, and without it there is no GIC")]
    Missing(&'static str),
    #[error("{name} at {range} is not {wanted}")]
    Frame { name: String, range: AddressRange, wanted: String },
    #[error("the plan has {redists} redistributors and {cpus} vCPUs; there must be one for each")]
    Redists { redists: u64, cpus: u32 },
    #[error("the plan has {0} redistributor regions, and KVM takes at most {MAX_REDIST_REGIONS}")]
    Regions(usize),
}

impl Gic {
    /// # Errors
    /// [`GicError`] for a part that is missing, misaligned, of the wrong size or number.
    pub fn from_plan(plan: &Plan) -> Result<Self, GicError> {
        let part = |name| plan.part(RegionKind::InterruptController, name);
        let dist = part(DIST).ok_or(GicError::Missing(DIST))?;
        let interrupts = interrupt_count(plan.highest_pin());
        if let Some(interface) = part(CPU) {
            frame(DIST, dist, V2_DIST_SIZE, V2_ALIGN)?;
            frame(CPU, interface, V2_CPU_SIZE, V2_ALIGN)?;
            return Ok(Self { dist, cpus: CpuSide::Interface(interface), interrupts });
        }
        frame(DIST, dist, DIST_SIZE, FRAME_ALIGN)?;
        let its = part(ITS);
        its.map_or(Ok(()), |range| frame(ITS, range, ITS_SIZE, FRAME_ALIGN))?;
        Ok(Self { dist, cpus: CpuSide::Redists { regions: redist_regions(plan)?, its }, interrupts })
    }

    /// Where messages go, if anywhere.
    pub fn its(&self) -> Option<AddressRange> {
        match &self.cpus {
            CpuSide::Redists { its, .. } => *its,
            CpuSide::Interface(_) => None,
        }
    }

    /// None with a GICv2.
    pub fn redists(&self) -> &[RedistRegion] {
        match &self.cpus {
            CpuSide::Redists { regions, .. } => regions,
            CpuSide::Interface(_) => &[],
        }
    }
}

fn redist_regions(plan: &Plan) -> Result<Vec<RedistRegion>, GicError> {
    let index = |region: &Region| region.name.strip_prefix(REDIST)?.parse::<u32>().ok();
    // A user may well call a device gic.redist1.
    let ours = plan.regions.iter().filter(|region| region.kind == RegionKind::InterruptController);
    let mut regions: Vec<(u32, &Region)> = ours.filter_map(|region| Some((index(region)?, region))).collect();
    regions.sort_by_key(|(index, _)| *index);
    let mut redists = Vec::with_capacity(regions.len());
    for (_, region) in regions {
        let (Some(range), Some(count)) = (region.range, region.frames) else { continue };
        let stride = range.size() / u64::from(count.max(1));
        if !range.size().is_multiple_of(REDIST_SIZE * u64::from(count.max(1))) || stride > REDIST_V4_SIZE {
            let wanted = format!("redistributors of {REDIST_SIZE:#x} or {REDIST_V4_SIZE:#x} bytes");
            return Err(GicError::Frame { name: region.name.clone(), range, wanted });
        }
        frame(&region.name, range, range.size(), FRAME_ALIGN)?;
        redists.push(RedistRegion { range, count, room: region.room.unwrap_or(range) });
    }
    let total = redists.iter().map(|region| u64::from(region.count)).sum();
    if redists.is_empty() {
        return Err(GicError::Missing(REDIST));
    }
    if redists.len() > MAX_REDIST_REGIONS {
        return Err(GicError::Regions(redists.len()));
    }
    if total != u64::from(plan.cpus) {
        return Err(GicError::Redists { redists: total, cpus: plan.cpus });
    }
    Ok(redists)
}

/// At least `size` bytes at a multiple of `align`.
fn frame(name: &str, range: AddressRange, size: u64, align: u64) -> Result<(), GicError> {
    if range.size() >= size && range.first().is_multiple_of(align) {
        return Ok(());
    }
    let wanted = format!("{size:#x} bytes at a multiple of {align:#x}");
    Err(GicError::Frame { name: name.into(), range, wanted })
}

impl RedistRegion {
    /// The word `KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION` takes: count in 63:52, base in 51:16, index in 11:0
    /// (Linux `Documentation/virt/kvm/devices/arm-vgic-v3.rst`).
    pub fn word(self, index: u8) -> u64 {
        u64::from(self.count) << 52 | self.range.first() | u64::from(index)
    }
}

/// How many interrupts KVM is asked for so that `highest` is one of them: a multiple of 32 in 64..=992.
pub fn interrupt_count(highest: Option<IrqPin>) -> u32 {
    let pins = highest.map_or(0, |pin| pin.0.saturating_add(1)).min(SPIS);
    (FIRST_SPI + pins).next_multiple_of(32).max(64)
}

/// The number the guest's interrupt controller has for an interrupt. Not a pin: pin 0 is INTID 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Intid(u32);

impl Intid {
    /// `None` past the last pin that KVM has, 959.
    pub const fn of_pin(pin: IrqPin) -> Option<Self> {
        if pin.0 < SPIS { Some(Self(FIRST_SPI + pin.0)) } else { None }
    }

    /// Private interrupt `number` of each vCPU, 0 to 15.
    const fn of_private(number: u32) -> Self {
        assert!(number < 16, "a vCPU has 16 private peripheral interrupts");
        Self(16 + number)
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    /// `None` for one that is private to a vCPU.
    pub const fn pin(self) -> Option<IrqPin> {
        if self.0 < FIRST_SPI { None } else { Some(IrqPin(self.0 - FIRST_SPI)) }
    }

    /// As a device tree says it (Linux `bindings/interrupt-controller/arm,gic-v3.yaml`): type, number
    /// within the type, flags.
    pub const fn cells(self, trigger: Trigger) -> [u32; 3] {
        let flags = match trigger {
            Trigger::Edge => 1,
            Trigger::Level => 4,
        };
        if self.0 < FIRST_SPI { [1, self.0 - 16, flags] } else { [0, self.0 - FIRST_SPI, flags] }
    }

    /// The `irq` word of `KVM_IRQ_LINE` for an interrupt that all vCPUs share (Linux
    /// `Documentation/virt/kvm/api.rst`): type 1 in 27:24, INTID in 15:0.
    pub const fn line_word(self) -> u32 {
        1 << 24 | self.0
    }
}

/// The timers' private interrupts, which KVM has wired: secure, non-secure, virtual, hypervisor.
pub const TIMERS: [Intid; 4] =
    [Intid::of_private(13), Intid::of_private(14), Intid::of_private(11), Intid::of_private(10)];

/// What KVM puts in MPIDR_EL1 of a vCPU: 16 in each lowest-level cluster, because an SGI's target list
/// has 16 bits (Linux `arch/arm64/kvm/sys_regs.c`, `reset_mpidr`). `vcpu` is below 2^20.
pub const fn mpidr(vcpu: u32) -> u64 {
    1 << 31 | affinity(vcpu) as u64
}

/// The affinity bits of [`mpidr`], 23:0.
pub const fn affinity(vcpu: u32) -> u32 {
    (vcpu >> 12 & 0xff) << 16 | (vcpu >> 4 & 0xff) << 8 | vcpu & 0xf
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(base: u64, count: u32) -> RedistRegion {
        let range = AddressRange::fixed(base, u64::from(count) * REDIST_SIZE);
        RedistRegion { range, count, room: range }
    }

    #[test]
    fn a_redistributor_regions_word_has_count_base_and_index() {
        assert_eq!(region(0x080a_0000, 123).word(0), 0x07b0_0000_080a_0000);
        assert_eq!(region(0x40_0000_0000, 389).word(1), 0x1850_0040_0000_0001);
        assert_eq!(region(0x40_0000_0000, 512).word(1), 0x2000_0040_0000_0001);
    }

    #[test]
    fn the_room_of_a_window_is_what_is_left_beside_the_other_frames() {
        const PAGE: u64 = 64 << 10;
        // Window, ITS, pages of other devices, vCPUs.
        let windows = [
            (16 << 20, false, 0, 127),
            (16 << 20, true, 0, 126),
            // QEMU's first region has redistributors alone.
            (0xf6_0000 + DIST_SIZE, false, 0, 123),
            ((128 << 20) - 3 * PAGE, false, 0, 1022),
            ((128 << 20) - 3 * PAGE, true, 0, 1021),
            (128 << 20, false, 4, 1021),
            (0x403_0000, true, 0, 512),
            (0x201_0000, true, 0, 255),
            (0xf9_0000, true, 0, 123),
            (0xfb_0000, true, 0, 124),
            (0, true, 0, 0),
            (u64::MAX, true, u64::MAX, 0),
        ];

        for (window, its, pages, cpus) in windows {
            assert_eq!(capacity(window, its, pages), cpus, "{window:#x}");
        }
    }

    #[test]
    fn kvms_line_word_has_the_intid_and_not_the_pin() {
        let word = |pin| Intid::of_pin(IrqPin(pin)).map(Intid::line_word);

        assert_eq!(word(1), Some(0x0100_0021));
        assert_eq!(word(959), Some(0x0100_03df));
        assert_eq!(word(960), None);
    }

    #[test]
    fn affinity_has_16_vcpus_in_a_cluster() {
        let vectors = [
            (0, 0x8000_0000),
            (15, 0x8000_000f),
            (16, 0x8000_0100),
            (123, 0x8000_070b),
            (255, 0x8000_0f0f),
            (256, 0x8000_1000),
            (511, 0x8000_1f0f),
        ];

        for (vcpu, expected) in vectors {
            assert_eq!(mpidr(vcpu), expected, "vCPU {vcpu}");
        }
    }

    #[test]
    fn no_two_vcpus_have_one_affinity() {
        let all: std::collections::BTreeSet<u32> = (0..MAX_CPUS).map(affinity).collect();

        assert_eq!(all.len(), MAX_CPUS as usize);
    }

    #[test]
    fn the_interrupt_count_covers_the_highest_pin_and_stays_within_kvms_limits() {
        let count = |pin| interrupt_count(Some(IrqPin(pin)));

        assert_eq!(interrupt_count(None), 64);
        assert_eq!([0, 31, 32, 63, 64, 927, 928, 959].map(count), [64, 64, 96, 96, 128, 960, 992, 992]);
        assert_eq!(count(u32::MAX), 992);
    }

    #[test]
    fn an_intid_has_one_pin_and_a_pin_one_intid() {
        for pin in (0..SPIS).map(IrqPin) {
            assert_eq!(Intid::of_pin(pin).and_then(Intid::pin), Some(pin));
        }
        assert_eq!(TIMERS.map(Intid::pin), [None; 4]);
    }

    #[test]
    fn cells_count_from_the_first_interrupt_of_their_type() {
        let uart = Intid::of_pin(IrqPin(33)).unwrap();

        assert_eq!(uart.cells(Trigger::Level), [0, 33, 4]);
        assert_eq!(uart.cells(Trigger::Edge), [0, 33, 1]);
        assert_eq!(
            TIMERS.map(|timer| timer.cells(Trigger::Level)),
            [[1, 13, 4], [1, 14, 4], [1, 11, 4], [1, 10, 4]]
        );
        assert_eq!(TIMERS.map(Intid::get), [29, 30, 27, 26]);
    }
}
