//! Random boards, machines and hosts, each from one number.

use ambit_aarch64::spec::{
    BoardSpec, FixtureSpec, GicSpec, HighSpec, ItsPlace, Mmio64Spec, PciSpec, RedistSpec,
};
use ambit_aarch64::{SpecBoard, kvmtool, native, qemu_virt};
use ambit_bus::{Bar, BarSpace, Needs, Request, Trigger};
use ambit_device_manager::{
    Board, DevicePlaces, HighPart, HostFacts, Length, MachineConfig, MemoryHotplug, PciConfig, RamPlace,
    Reserve, Transport, Width, WidthSource,
};
use ambit_resources::AddressRange;

use super::{GIB, KIB, MIB, bits, function, virtio};

/// SplitMix64: small, and good enough to find things with.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `count` - 1.
    pub fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    /// From `low` to `high`, both among them.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    fn count(&mut self, low: u32, high: u32) -> u32 {
        u32::try_from(self.range(low.into(), high.into())).unwrap()
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone()
    }

    /// Every magnitude from 2^`low` to 2^`high` as likely as any other.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let shift = self.range(low, high);
        (1 << shift) + self.below(1 << shift)
    }

    fn power(&mut self, low: u64, high: u64) -> u64 {
        1 << self.range(low, high)
    }
}

/// What may be expected of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Native,
    QemuVirt,
    Kvmtool,
    /// Like `native`: nothing that is left out makes room for what comes after it.
    Monotone,
    Wild,
}

pub struct Case {
    pub kind: Kind,
    pub board: Box<dyn Board>,
    /// For the one who reads a failure.
    pub spec: String,
    pub config: MachineConfig,
    pub facts: HostFacts,
}

impl Case {
    pub fn new(seed: u64, kinds: &[Kind]) -> Self {
        let mut rng = Rng::new(seed);
        let kind = rng.pick(kinds);
        let (board, spec): (Box<dyn Board>, String) = match kind {
            Kind::Native => optioned(&mut rng, native(), &[("gic-version", &["2", "3"])]),
            Kind::Kvmtool => optioned(&mut rng, kvmtool(), &[("gic-version", &["2", "3"])]),
            Kind::QemuVirt => optioned(&mut rng, qemu_virt(), QEMU_OPTIONS),
            Kind::Monotone | Kind::Wild => {
                let spec = board_spec(&mut rng, kind);
                (Box::new(SpecBoard::new(spec.clone(), &[])), format!("{spec:#x?}"))
            }
        };
        // Most are asked for what could be, so that not all are refused for their first nonsense.
        let sane = rng.chance(80);
        let facts = host(&mut rng, sane);
        let mut config = machine(&mut rng, &facts, sane);
        // Asking for a length where none is open is refused for that alone.
        let above = board.map(&config, &facts).map(|map| map.above.parts);
        let open = |part: &HighPart| matches!(part.size, Length::Bars { .. });
        if sane && above.is_ok_and(|parts| !parts.iter().any(open)) {
            config.pci = config.pci.map(|_| PciConfig { window: None });
        }
        Self { kind, board, spec, config, facts }
    }
}

const ON_OFF: &[&str] = &["on", "off"];
const QEMU_OPTIONS: &[(&str, &[&str])] = &[
    ("highmem", ON_OFF),
    ("highmem-redists", ON_OFF),
    ("highmem-ecam", ON_OFF),
    ("highmem-mmio", ON_OFF),
    ("compact-highmem", ON_OFF),
    ("highmem-mmio-size", &["512G", "1T", "4T"]),
    ("gic-version", &["2", "3", "4"]),
];

fn optioned(rng: &mut Rng, board: SpecBoard, options: &[(&str, &[&str])]) -> (Box<dyn Board>, String) {
    let mut set = Vec::new();
    for (key, values) in options {
        if rng.chance(15) {
            set.push(((*key).to_owned(), rng.pick(values).to_owned()));
        }
    }
    let said = format!("{} {set:?}", board.name());
    (board.with_options(&set).unwrap(), said)
}

fn host(rng: &mut Rng, sane: bool) -> HostFacts {
    let sources = [WidthSource::Host, WidthSource::User, WidthSource::Guest, WidthSource::Assumed];
    let pa_bits = u8::try_from(rng.range(32, 52)).unwrap();
    HostFacts {
        width: Width { bits: bits(pa_bits), source: rng.pick(&sources) },
        page_size: rng.pick(&[4 * KIB, 4 * KIB, 16 * KIB, 64 * KIB]),
        max_cpus: if sane { 512 } else { rng.pick(&[8, 255, 512, 1024]) },
        gic_versions: match rng.below(20) {
            0..=2 if !sane => vec![2],
            3..=4 if !sane => vec![3],
            5 if !sane => vec![],
            _ => vec![2, 3, 4],
        },
        its: rng.chance(75),
        memory_slots: if sane { 32767 } else { rng.pick(&[2, 32, 509]) },
        processor: None,
    }
}

fn machine(rng: &mut Rng, facts: &HostFacts, sane: bool) -> MachineConfig {
    let cpus = match rng.below(100) {
        0 if !sane => 0,
        1..=2 => rng.count(500, 520),
        3..=15 => rng.count(1, 512),
        16..=30 => rng.count(1, 16),
        _ => rng.count(1, 8),
    };
    let reach = u64::from(facts.width.bits.get());
    let most = (reach + 1).min(rng.range(24, 53));
    let memory = match rng.below(100) {
        0 if !sane => rng.next(),
        1 if !sane => 0,
        2..=9 if !sane => rng.magnitude(12, reach),
        5..=19 => (rng.range(1, 64) * GIB).saturating_sub(rng.below(2) * 64 * KIB),
        20..=29 => (facts.width.bits.ceiling() - GIB).saturating_sub(rng.below(6) * GIB).max(64 * KIB),
        _ => rng.magnitude(16, most.max(17) - 1) & !0xffff,
    };
    let hotplug = rng.chance(20).then(|| MemoryHotplug {
        max_memory: match rng.below(10) {
            0 if !sane => rng.next(),
            1 => memory,
            _ => memory.saturating_add(rng.magnitude(16, reach) & !0xffff),
        },
        slots: if sane { rng.count(1, 8) } else { rng.pick(&[0, 1, 16, 256, 257, 600]) },
    });
    let window = match rng.below(20) {
        0 => Some(0),
        1 if !sane => Some(rng.magnitude(10, 50)),
        2..=5 => Some(rng.magnitude(30, 39) & !(GIB - 1)),
        _ => None,
    };
    let count = if rng.chance(5) { rng.range(20, 60) } else { rng.below(8) };
    let pci = rng.chance(80);
    let mut devices: Vec<Request> = (0..count).map(|index| device(rng, index)).collect();
    if sane {
        let wide = window != Some(0) && rng.chance(50);
        devices.retain(|request| match &request.needs {
            Needs::Board { .. } => true,
            Needs::Ports { .. } => false,
            Needs::Pci { bars } => pci && (wide || !bars.iter().any(|bar| bar.space == BarSpace::Mmio64)),
        });
    }
    for device in &mut devices {
        device.queue_reach = rng.chance(6).then(|| rng.pick(&[36, 40, 44, 46, 48]));
    }
    let alternatives = if rng.chance(60) { alternatives(&devices) } else { Vec::new() };
    MachineConfig {
        cpus,
        memory,
        hotplug,
        pci: pci.then_some(PciConfig { window }),
        queue_reach: rng.chance(8).then(|| rng.pick(&[32, 36, 40, 44, 46, 48])),
        devices,
        alternatives,
        reserve: Reserve::default(),
    }
}

/// What devices ask for over transports that are not theirs.
fn alternatives(devices: &[Request]) -> Vec<Request> {
    let others = devices.iter().flat_map(|device| {
        let own = Transport::of(&device.needs, device.queue_reach);
        Transport::ALL.into_iter().filter(move |other| *other != own).map(|other| Request {
            needs: match other.is_pci() {
                true => Needs::Pci { bars: vec![Bar { size: 0x4000, space: BarSpace::Mmio32 }] },
                false => Needs::Board { registers: 0x200, irq: Some(Trigger::Edge) },
            },
            queue_reach: other.is_legacy().then_some(44),
            ..device.clone()
        })
    });
    others.collect()
}

/// Names that parts of a machine have, if it has them.
const NAMES: [&str; 10] = [
    "gic.cpu",
    "gic.its",
    "gic.redist1",
    "reserved.gic.redist1",
    "pci.ecam",
    "pci.io",
    "pci.mmio32",
    "pci.mmio64",
    "ram.hotplug",
    "pci.inta",
];

pub fn device(rng: &mut Rng, index: u64) -> Request {
    let id = if rng.chance(3) { rng.pick(&NAMES).to_owned() } else { format!("d{index}") };
    if rng.chance(60) {
        let registers = match rng.below(100) {
            0 => rng.below(0x2000),
            1..=10 => rng.power(13, 16),
            _ => rng.power(3, 12),
        };
        let irq = rng.pick(&[Some(Trigger::Edge), Some(Trigger::Edge), Some(Trigger::Level), None]);
        return Request { needs: Needs::Board { registers, irq }, ..virtio(&id) };
    }
    let bars = (0..rng.below(5)).map(|_| {
        let wide = rng.chance(60);
        let size = if wide && rng.chance(30) { rng.power(26, 34) } else { rng.power(4, 24) };
        let size = if rng.chance(1) { rng.below(0x10000) } else { size };
        let space = if wide { BarSpace::Mmio64 } else { BarSpace::Mmio32 };
        Bar { size, space }
    });
    function(&id, bars.collect())
}

/// Puts low parts one above the other, mostly.
struct Layout {
    next: u64,
    stray: u64,
}

impl Layout {
    fn base(&mut self, rng: &mut Rng, size: u64, align: u64) -> u64 {
        if rng.chance(self.stray) {
            return rng.magnitude(16, 40) & !(align - 1);
        }
        let gap = rng.pick(&[0, 0, 64 * KIB, MIB, 37 * 64 * KIB]);
        let base = (self.next + gap).next_multiple_of(align);
        self.next = base + size;
        base
    }

    fn range(&mut self, rng: &mut Rng, size: u64, align: u64) -> AddressRange {
        AddressRange::fixed(self.base(rng, size, align), size)
    }
}

fn board_spec(rng: &mut Rng, kind: Kind) -> BoardSpec {
    let (native, qemu, kvmtool) = (native().spec, qemu_virt().spec, kvmtool().spec);
    let mut spec = match kind {
        Kind::Monotone => native,
        _ => rng.pick(&[native, qemu, kvmtool]),
    };
    let stray = rng.pick(&[0, 0, 0, 0, 2, 10]);
    let layout = &mut Layout { next: rng.below(64) * MIB, stray };
    spec.width = rng.chance(10).then(|| bits(u8::try_from(rng.range(32, 52)).unwrap()));
    spec.max_cpus = rng.pick(&[512, 512, 512, 40]);
    spec.pins = rng.pick(&[64, 224, 256, 960]);
    let size = rng.power(14, 24);
    spec.devices = DevicePlaces {
        window: layout.range(rng, size, 0x1000),
        grain: 1 << rng.pick(&[9, 9, 10, 12, 12, 16]),
        pins: 16..=rng.pick(&[18, 40, spec.pins - 1, spec.pins - 1]),
    };
    spec.fixtures = fixtures(rng, layout, spec.pins);
    spec.reserved = (0..rng.below(4))
        .map(|index| {
            let size = rng.magnitude(3, 24);
            (format!("reserved.{index}"), layout.range(rng, size, 8))
        })
        .collect();
    spec.gic = gic(rng, layout, kind);
    spec.pci = rng.chance(85).then(|| pci(rng, layout, kind));
    let base = if rng.chance(80) { layout.next.next_multiple_of(2 * MIB) } else { rng.magnitude(21, 40) };
    spec.ram = RamPlace {
        base: base & !(2 * MIB - 1),
        grain: rng.pick(&[1, 1, 4 * KIB, 2 * MIB, GIB]),
        slot_room: rng.pick(&[0, 0, GIB, 128 * MIB]),
        max_slots: rng.pick(&[256, 256, 256, 512, 1]),
    };
    spec.floor = rng.pick(&[0, 0, 0, 4 * GIB, 256 * GIB, 3 * GIB + 4 * KIB]);
    spec.holes = rng.chance(30);
    spec
}

fn fixtures(rng: &mut Rng, layout: &mut Layout, pins: u32) -> Vec<FixtureSpec> {
    let all = [("uart0", "pl011", Some(0)), ("rtc0", "pl031", Some(pins - 1)), ("led0", "led", None)];
    let some = all.into_iter().filter(|_| rng.chance(80)).collect::<Vec<_>>();
    let fixture = |(id, kind, pin): (&str, &str, Option<u32>)| FixtureSpec {
        id: id.into(),
        kind: kind.into(),
        base: layout.base(rng, 0x1000, 0x1000),
        pin: pin.map(|pin| if pin > 16 && rng.chance(70) { 1 } else { pin }),
    };
    some.into_iter().map(fixture).collect()
}

fn gic(rng: &mut Rng, layout: &mut Layout, kind: Kind) -> GicSpec {
    if rng.chance(15) {
        let (dist, cpu) = (rng.power(12, 16), rng.power(13, 17));
        let (dist, cpu) = (layout.range(rng, dist, 4 * KIB), layout.range(rng, cpu, 4 * KIB));
        return GicSpec::V2 { dist, cpu, kept: Vec::new() };
    }
    let v4 = rng.chance(20);
    let frame = if v4 { 256 * KIB } else { 128 * KIB };
    let many = rng.chance(8);
    let count = if many { rng.range(20, 260) } else { rng.range(1, 4) };
    let mut redists: Vec<RedistSpec> = (0..count)
        .map(|_| {
            let frames = if many { rng.range(1, 2) } else { rng.range(1, 200) };
            let slop = rng.pick(&[0, 0, 64 * KIB]);
            let high = HighSpec {
                size: frame << rng.below(10),
                off: (kind == Kind::Wild && rng.chance(15)).then(|| "an option".into()),
            };
            match rng.below(if many { 80 } else { 100 }) {
                0..80 => RedistSpec::Up {
                    window: layout.range(rng, frames * frame + slop, 64 * KIB),
                    whole: rng.chance(40),
                },
                80..88 => {
                    RedistSpec::Down { top: layout.base(rng, frames * frame, 64 * KIB) + frames * frame }
                }
                _ => RedistSpec::High { size: high.size, off: high.off },
            }
        })
        .collect();
    if kind == Kind::Monotone {
        // What is left out must not make room for what comes after it: smaller ones first.
        redists.sort_by_key(|redist| match redist {
            RedistSpec::High { size, .. } => *size,
            _ => 0,
        });
    }
    GicSpec::V3 {
        dist: layout.base(rng, 64 * KIB, 64 * KIB),
        its: match rng.below(3) {
            0 => None,
            1 => Some(ItsPlace::BelowRedists),
            _ => Some(ItsPlace::At(layout.base(rng, 128 * KIB, 64 * KIB))),
        },
        redists,
        v4,
    }
}

fn pci(rng: &mut Rng, layout: &mut Layout, kind: Kind) -> PciSpec {
    let wild = kind == Kind::Wild;
    let (ecam, mmio32) = (rng.power(20, 28), rng.power(20, 29));
    let off = |rng: &mut Rng| (wild && rng.chance(15)).then(|| "an option".to_owned());
    PciSpec {
        ecam: layout.range(rng, ecam, MIB),
        // The one above RAM is the larger one.
        high_ecam: (wild && rng.chance(40)).then(|| HighSpec { size: ecam << rng.below(5), off: off(rng) }),
        io: rng.chance(80).then(|| layout.range(rng, 64 * KIB, 64 * KIB)),
        mmio32: layout.range(rng, mmio32, 64 * KIB),
        mmio64: match rng.below(10) {
            0 => None,
            1..=2 => Some(Mmio64Spec::Fixed(HighSpec { size: rng.power(30, 40), off: off(rng) })),
            _ => Some(Mmio64Spec::ByNeed {
                room: rng.pick(&[0, 512 * MIB, GIB, 8 * GIB]),
                cap: rng.pick(&[4 * GIB, 512 * GIB, 512 * GIB]),
            }),
        },
        intx: rng.chance(93).then_some(4),
    }
}
