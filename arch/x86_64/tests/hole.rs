//! `qemu-q35` against vectors: memory below and above 4 GiB, around the range that AMD keeps or moved above it.
//!
//! `x86-amd-hole.csv` has a machine in each line; those of `relocate` without a reserved entry are QEMU 10's own.

use ambit_device_manager::{
    HolePolicy, HostFacts, MachineConfig, MemoryHotplug, Plan, PlanError, Refusal, Remedy, Reserve, Vendor,
    Width, WidthSource, plan,
};
use ambit_resources::{AddressRange, PaBits, human_size, parse_size};
use ambit_x86_64::zero_page::E820Kind;
use ambit_x86_64::{e820, q35};

struct Row {
    reserve: Reserve,
    bits: PaBits,
    memory: u64,
    low: String,
    high: String,
    hole64: String,
    top: u64,
    bits_needed: u8,
    cmos: u64,
    e820: String,
    error: String,
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap()
}

fn row(line: &str) -> Row {
    let words: Vec<&str> = line.split(',').collect();
    let [policy, vendor, bits, ram, low, high, hole64, top, needed, cmos, e820, error] = words[..] else {
        panic!("{line}")
    };
    let policy = if policy == "reloc" { HolePolicy::Relocate } else { HolePolicy::Split };
    let vendor = Some(if vendor == "AMD" { Vendor::Amd } else { Vendor::Intel });
    Row {
        reserve: Reserve { policy, vendor, ..Reserve::default() },
        bits: PaBits::new(bits.parse().unwrap()).unwrap(),
        memory: parse_size(ram).unwrap(),
        low: low.into(),
        high: high.into(),
        hole64: hole64.into(),
        top: hex(top),
        bits_needed: needed.parse().unwrap(),
        cmos: hex(cmos),
        e820: e820.into(),
        error: error.into(),
    }
}

fn rows() -> impl Iterator<Item = (&'static str, Row)> {
    include_str!("x86-amd-hole.csv").lines().skip(1).map(|line| (line, row(line)))
}

fn planned(
    reserve: &Reserve,
    bits: PaBits,
    memory: u64,
    hotplug: Option<MemoryHotplug>,
) -> Result<Plan, Refusal> {
    let config = MachineConfig { memory, hotplug, reserve: reserve.clone(), ..MachineConfig::default() };
    let facts = HostFacts { width: Width { bits, source: WidthSource::User }, ..HostFacts::assumed() };
    plan(&q35(), &config, &facts)
}

/// "0x100000000+1008G 0x10000000000+2G".
fn segments(ranges: impl Iterator<Item = AddressRange>) -> String {
    let words = ranges.map(|range| format!("{:#x}+{}", range.first(), gib(range.size())));
    words.collect::<Vec<_>>().join(" ").replace("0x", "0X").to_uppercase().replace("0X", "0x")
}

fn gib(size: u64) -> String {
    if size.is_multiple_of(1 << 30) { format!("{}G", size >> 30) } else { format!("{}M", size >> 20) }
}

fn told(plan: &Plan) -> String {
    let lines = e820::planned(plan).into_iter().map(|line| {
        let kind = if line.kind == E820Kind::Ram { "RAM" } else { "RESERVED" };
        format!("{kind}:{}", segments([line.range].into_iter()))
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// What QEMU says, with what the refusal has.
fn qemus_words(refusal: &Refusal, top: u64) -> (String, u8) {
    let inner = match &refusal.error {
        PlanError::Around { error, .. } => error,
        error => error,
    };
    let (width, needed) = match inner {
        PlanError::MemoryBeyondWidth { width, needed, .. } => (width, *needed),
        PlanError::WindowBeyondWidth { width, needed, wanted, .. } => {
            assert_eq!(wanted.last(), top);
            (width, *needed)
        }
        other => panic!("{other}"),
    };
    let limit = width.bits.ceiling() - 1;
    let words = format!("Address space limit {limit:#x} < {top:#x} phys-bits too low ({})", width.bits);
    (words, needed)
}

#[test]
fn every_machine_that_fits_is_where_its_vector_says() {
    let mut seen = 0;
    for (line, row) in rows().filter(|(_, row)| row.error.is_empty()) {
        let plan = planned(&row.reserve, row.bits, row.memory, None)
            .unwrap_or_else(|error| panic!("{line}: {error}"));

        let low = plan.range("ram0").unwrap();
        let high = segments(plan.ram().filter(|bank| bank.first() >= 1 << 32));
        let hole64 = plan.range("pci.mmio64").unwrap();
        assert_eq!((low.first(), format!("{:#x}", low.size())), (0, row.low), "{line}");
        assert_eq!(high, row.high, "{line}");
        assert_eq!((format!("0x{:X}", hole64.first()), hole64.last()), (row.hole64, row.top), "{line}");
        assert_eq!(plan.ipa_bits.get(), row.bits_needed, "{line}");
        assert_eq!(q35::cmos_above(&plan), row.cmos, "{line}");
        assert_eq!(told(&plan), row.e820, "{line}");
        seen += 1;
    }
    assert!(seen > 90, "{seen}");
}

#[test]
fn every_machine_that_does_not_fit_is_refused_with_the_bits_of_its_vector() {
    let mut seen = 0;
    for (line, row) in rows().filter(|(_, row)| !row.error.is_empty()) {
        let refusal = planned(&row.reserve, row.bits, row.memory, None).unwrap_err();

        let (words, needed) = qemus_words(&refusal, row.top);
        assert_eq!((words, needed), (row.error, row.bits_needed), "{line}: {refusal}");
        let enough = PaBits::new(row.bits_needed).unwrap();
        let more = Remedy::Bits { bits: enough, source: WidthSource::User };
        assert!(refusal.remedies.contains(&more), "{line}: {:?}", refusal.remedies);
        assert!(planned(&row.reserve, enough, row.memory, None).is_ok(), "{line}");
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn room_for_more_ram_is_drawn_around_the_hole_or_moved_above_it() {
    // Room for more, the window, and the bits; RAM is in GiB.
    let cases = [
        (
            (512, 1024, 4),
            [
                "0x17f80000000 0x20080000000 42",
                "0x10000000000 0x18100000000 41",
                "0x8080000000 0x10180000000 41",
            ],
        ),
        ((4, 8, 2), ["0x180000000 0x300000000 36"; 3]),
        (
            (1000, 1010, 1),
            [
                "0x1f980000000 0x1fc40000000 42",
                "0x10000000000 0x102c0000000 41",
                "0xfa80000000 0xfd40000000 41",
            ],
        ),
    ];
    let of = |policy, vendor| Reserve { policy, vendor: Some(vendor), ..Reserve::default() };
    let reserves = [
        of(HolePolicy::Relocate, Vendor::Amd),
        of(HolePolicy::Split, Vendor::Amd),
        of(HolePolicy::Split, Vendor::Intel),
    ];
    for ((memory, most, slots), expected) in cases {
        let found = reserves.clone().map(|reserve| {
            let hotplug = Some(MemoryHotplug { max_memory: most << 30, slots });
            let plan = planned(&reserve, PaBits::new(48).unwrap(), memory << 30, hotplug).unwrap();
            let first = |name| plan.range(name).unwrap().first();
            format!("{:#x} {:#x} {}", first("ram.hotplug"), first("pci.mmio64"), plan.ipa_bits)
        });

        assert_eq!(found, expected, "{} and room up to {}", human_size(memory << 30), human_size(most << 30));
    }
}

#[test]
fn the_window_that_exactly_fills_the_room_below_the_hole_stays_there() {
    let reserve = Reserve { vendor: Some(Vendor::Amd), ..Reserve::default() };

    let plan = planned(&reserve, PaBits::new(40).unwrap(), 978 << 30, None).unwrap();

    assert_eq!(plan.range("pci.mmio64"), Some(AddressRange::fixed(0xf5_0000_0000, 32 << 30)));
}

#[test]
fn ram_that_ends_exactly_at_the_hole_has_nothing_above_it() {
    let reserve = Reserve { vendor: Some(Vendor::Hygon), ..Reserve::default() };

    let plan = planned(&reserve, PaBits::new(41).unwrap(), 1010 << 30, None).unwrap();

    assert_eq!(plan.ram().last(), Some(AddressRange::fixed(4 << 30, 1008 << 30)));
    assert_eq!(q35::cmos_above(&plan), 0xfc_0000);
}

#[test]
fn a_machine_that_the_hole_makes_too_wide_is_refused_with_the_hole_as_the_cause() {
    let amd = |policy| Reserve { policy, vendor: Some(Vendor::Amd), ..Reserve::default() };
    let said = |policy, bits, memory: u64| {
        let refusal = planned(&amd(policy), PaBits::new(bits).unwrap(), memory, None).unwrap_err();
        (refusal.to_string(), refusal.diagnostic().remedies)
    };

    let why = "reserved.ht [0xfd00000000-0xffffffffff] is kept free: AMD's processors and IOMMUs use it for HyperTransport";
    let less = |most: u64| format!("give the guest at most {most} GiB of memory");
    let without =
        "keep nothing free for the processors (--no-reserve-ht), if the host's devices are never the guest's";
    assert_eq!(
        said(HolePolicy::Relocate, 41, 1 << 40),
        (
            format!(
                "pci.mmio64 at [0x1ff80000000-0x2077fffffff] needs 42 physical address bits, and 41 were allowed; {why}"
            ),
            vec![
                less(994),
                "put RAM on both sides of what is kept free (--hole split)".into(),
                "allow 42 bits, if the host has them".into(),
                without.into(),
            ]
        )
    );
    assert_eq!(
        said(HolePolicy::Split, 40, 1 << 40),
        (
            format!(
                "1 TiB of memory at [0x0-0x1037fffffff] needs 41 physical address bits, and 40 were allowed, which is \
                 14 GiB too few; {why}"
            ),
            vec![less(978), "allow 41 bits, if the host has them".into()]
        )
    );
    let (text, remedies) = said(HolePolicy::Split, 40, 980 << 30);
    assert_eq!(
        text,
        format!(
            "pci.mmio64 at [0x10000000000-0x107ffffffff] needs 41 physical address bits, and 40 were allowed; {why}"
        )
    );
    assert_eq!(remedies, [less(978), "allow 41 bits, if the host has them".into(), without.into()]);
}
