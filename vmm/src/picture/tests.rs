use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::layout::{Area, Layout};
use super::*;

/// A band of `size` bytes at `first`.
fn band(name: &str, kind: &'static str, kind_label: &str, first: u64, size: u64) -> Band {
    Band {
        name: name.into(),
        kind,
        kind_label: kind_label.into(),
        range: Some((first, first.saturating_add(size.saturating_sub(1)))),
        size,
        status: BandStatus::Placed,
        reason: None,
        interrupt: None,
        inside: Vec::new(),
    }
}

fn of_kind(name: &str, kind: &'static str, first: u64, size: u64) -> Band {
    band(name, kind, kind, first, size)
}

fn device(name: &str, kind_label: &str, first: u64, interrupt: u64) -> Band {
    let band = band(name, "device", kind_label, first, 4096);
    Band { interrupt: Some(interrupt.to_string()), ..band }
}

fn limit(label: &str, bits: u32, binding: bool) -> Limit {
    Limit { label: label.into(), address: 1 << bits, binding }
}

fn dropped(band: Band, reason: &str) -> Band {
    Band { range: None, status: BandStatus::Dropped, reason: Some(reason.into()), ..band }
}

fn shrunk(band: Band, reason: &str) -> Band {
    Band { status: BandStatus::Shrunk, reason: Some(reason.into()), ..band }
}

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
const T: u64 = 1 << 40;

fn interrupt_controller(cpus: u64) -> Vec<Band> {
    vec![
        of_kind("reserved.msi", "reserved", 0x800_0000, M),
        of_kind("gic.dist", "interrupt-controller", 0x900_0000, 64 * K),
        of_kind("gic.its", "interrupt-controller", 0x902_0000, 128 * K),
        of_kind("gic.redist0", "interrupt-controller", 0xa00_0000, cpus * 128 * K),
    ]
}

fn small_machine() -> Scene {
    let mut regions = vec![device("uart0", "pl011", 0x100_0000, 33), device("rtc0", "pl031", 0x101_0000, 34)];
    let kinds = [("disk0", "virtio-blk"), ("net0", "virtio-net"), ("rng0", "virtio-rng")];
    for ((name, kind), number) in kinds.into_iter().zip(0..) {
        regions.push(device(name, kind, 0x200_0000 + number * 0x1_0000, 48 + number));
    }
    regions.extend(interrupt_controller(2));
    regions.extend([
        of_kind("pci.ecam", "pci", 0x1000_0000, 256 * M),
        of_kind("pci.mmio32", "pci", 0x2000_0000, 511 * M),
        of_kind("pci.io", "pci", 0x3fff_0000, 64 * K),
        of_kind("ram0", "ram", 0x4000_0000, 512 * M),
        of_kind("pci.mmio64", "pci", 0x8000_0000, G),
    ]);
    Scene {
        title: "native, 2 vCPUs, 512 MiB".into(),
        subtitle: "40 address bits of this host, 40 asked of KVM".into(),
        regions,
        limits: vec![limit("40 bits: this host", 40, true)],
        notes: Vec::new(),
    }
}

fn narrow_machine() -> Scene {
    let mut regions =
        vec![device("uart0", "pl011", 0x100_0000, 33), device("disk0", "virtio-blk", 0x200_0000, 48)];
    regions.extend(interrupt_controller(124));
    let window = of_kind("pci.mmio32", "pci", 0x2000_0000, 384 * M);
    let bar = |name: &str, first| band(name, "device", "virtio-net", first, 512 * K);
    regions.push(of_kind("pci.ecam", "pci", 0x1000_0000, 256 * M));
    regions.push(Band {
        inside: vec![bar("net1", 0x2000_0000), bar("net2", 0x2008_0000)],
        ..shrunk(window, "RAM begins at 1 GiB, and the window wanted 511 MiB beside the frames of the devices that come after it")
    });
    regions.push(of_kind("ram0", "ram", 0x4000_0000, 63 * G));
    regions.push(dropped(
        of_kind("pci.mmio64", "pci", 0, 512 * G),
        "its 512 GiB end above 36 address bits, which is all this host has; give the guest less memory, or \
         fewer devices with large BARs",
    ));
    regions.push(dropped(of_kind("gic.redist1", "interrupt-controller", 0, 64 * M), "no vCPU needs it"));
    Scene {
        title: "native, 124 vCPUs, 63 GiB".into(),
        subtitle: "36 address bits of this host, 36 asked of KVM".into(),
        regions,
        limits: vec![
            limit("36 bits: this host", 36, true),
            limit("44 bits: queue reach of disk0", 44, false),
        ],
        notes: vec!["warning: pci.mmio64 has no room\n  help: --memory 32G".into()],
    }
}

fn wide_machine() -> Scene {
    let mut regions = vec![
        band("flash0", "device", "pflash", 0, 64 * M),
        of_kind("gic.dist", "interrupt-controller", 0x800_0000, 64 * K),
        of_kind("gic.its", "interrupt-controller", 0x808_0000, 128 * K),
        of_kind("gic.redist0", "interrupt-controller", 0x80a_0000, 0xf6_0000),
        device("uart0", "pl011", 0x900_0000, 33),
        device("rtc0", "pl031", 0x901_0000, 34),
        device("gpio0", "pl061", 0x903_0000, 39),
    ];
    regions.extend(
        (0..32).map(|n| device(&format!("virtio{n}"), "virtio-mmio", 0xa00_0000 + n * 0x200, 48 + n)),
    );
    regions.extend([
        of_kind("pci.mmio32", "pci", 0x1000_0000, 0x2eff_0000),
        of_kind("pci.io", "pci", 0x3eff_0000, 64 * K),
        of_kind("ram0", "ram", 0x4000_0000, T),
        of_kind("gic.redist1", "interrupt-controller", 0x100_4000_0000, 64 * M),
        of_kind("pci.ecam", "pci", 0x100_5000_0000, 256 * M),
        of_kind("pci.mmio64", "pci", 0x180_0000_0000, 512 * G),
    ]);
    Scene {
        title: "virt, 512 vCPUs, 1 TiB".into(),
        subtitle: "48 address bits of this host, 42 asked of KVM".into(),
        regions,
        limits: vec![
            limit("41 bits: queue reach of disk0", 41, false),
            limit("44 bits: queue reach of net0", 44, false),
            limit("48 bits: this host", 48, true),
        ],
        notes: Vec::new(),
    }
}

fn crowded_machine() -> Scene {
    let mut regions = vec![device("uart0", "pl011", 0x100_0000, 33), device("rtc0", "pl031", 0x101_0000, 34)];
    let windows = |n| 0x200_0000 + n * 0x1000;
    regions.extend((0..64).map(|n| device(&format!("disk{n}"), "virtio-blk", windows(n), 48 + n)));
    regions.extend((0..2).map(|n| device(&format!("net{n}"), "virtio-net", windows(64 + n), 112 + n)));
    regions.push(device("rng0", "virtio-rng", windows(66), 114));
    regions.extend(interrupt_controller(512));
    regions.push(of_kind("ram0", "ram", 0x4000_0000, 3 * G));
    regions.push(of_kind("hotplug0", "ram-hotplug", 0x1_0000_0000, 12 * G));
    Scene {
        title: "native, 512 vCPUs, 3 GiB".into(),
        subtitle: "40 address bits allowed, 40 asked of KVM".into(),
        regions,
        limits: vec![limit("32 bits: DMA of old devices", 32, false), limit("40 bits: allowed", 40, true)],
        notes: Vec::new(),
    }
}

fn machines() -> Vec<Scene> {
    vec![small_machine(), narrow_machine(), wide_machine(), crowded_machine()]
}

/// All that is hard at once.
fn extremes() -> Vec<Scene> {
    let of = |regions: Vec<Band>, limits: Vec<Limit>| Scene { regions, limits, ..Scene::default() };
    let limits = (32..=52).map(|bits| limit("some", bits, bits == 36)).collect();
    let spread = (0..1000).map(|n| device(&format!("disk{n}"), "virtio-blk", n << 40, n)).collect();
    let packed = (0..944).map(|n| device(&format!("disk{n}"), "virtio-blk", n * 4096, n)).collect();
    let window = Band { inside: packed, ..of_kind("window", "pci", 0, G) };
    let backwards = Band { range: Some((9, 3)), ..of_kind("backwards", "ram", 0, 0) };
    let long = Scene { title: "W".repeat(500), subtitle: "word ".repeat(500), ..Scene::default() };
    vec![
        Scene::default(),
        long,
        of(Vec::new(), limits),
        of(
            vec![of_kind("all", "ram", 0, u64::MAX)],
            vec![Limit { address: u64::MAX, ..limit("end", 1, true) }],
        ),
        of(vec![of_kind("top", "ram", u64::MAX, 1), of_kind("nothing", "?", 0, 0), backwards], Vec::new()),
        of(spread, vec![Limit { address: 0, ..limit("begin", 1, true) }]),
        of(vec![window], vec![limit("within", 21, false), limit("beside", 21, true)]),
        of(vec![shrunk(of_kind(&"i".repeat(900), "ram", 1, M), &"w".repeat(9000))], Vec::new()),
    ]
}

fn overlap(a: Area, b: Area) -> bool {
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
}

fn assert_tidy(scene: &Scene) {
    let layout = Layout::new(scene);
    let labels: Vec<_> = layout.labels().filter(|label| !label.text.is_empty()).collect();
    for (index, label) in labels.iter().enumerate() {
        let Area { x, y, width, height } = label.area;
        assert!(x > 0 && y > 0 && x + width < layout::WIDTH && y + height < layout.height, "{label:?}");
        let other = labels[..index].iter().find(|other| overlap(label.area, other.area));
        assert!(other.is_none(), "{label:?} overlaps {other:?}");
    }
    let heights: Vec<_> = layout.lines.iter().map(|line| (line.address, line.y)).collect();
    assert!(heights.is_sorted_by(|a, b| a.0 > b.0 && a.1 < b.1), "{heights:?}");
}

/// Whether every tag of `text` is closed, its attributes are quoted and no sign is left bare.
fn assert_well_formed(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text.strip_prefix("<!DOCTYPE html>").unwrap_or(text);
    while let Some((before, after)) = rest.split_once('<') {
        let raw = matches!(open.last(), Some(&"style" | &"script"));
        assert!(raw || !before.contains('>'), "{before}");
        let bare = before.split('&').skip(1).any(|part| !part.contains(';'));
        assert!(raw || !bare, "{before}");
        let (tag, after) = after.split_once('>').expect("a tag ends");
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).expect("a tag has a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed by {tag}");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        rest = after;
    }
    assert_eq!((open, rest.trim()), (Vec::new(), ""));
}

#[test]
fn labels_are_inside_and_never_overlap() {
    machines().iter().chain(&extremes()).for_each(assert_tidy);
}

#[test]
fn every_region_is_named_with_its_base() {
    for scene in machines() {
        let (picture, digits) = (svg(&scene), scene.digits());

        for Row { band, .. } in scene.rows() {
            assert!(picture.contains(&band.name), "{}", band.name);
            let base = band.range.map_or("dropped".to_owned(), |(first, _)| hex(first, digits));
            assert!(picture.contains(&base), "{} at {base}", band.name);
        }
    }
}

#[test]
fn what_is_dropped_is_struck_out_with_its_reason() {
    let scene = Scene {
        regions: vec![dropped(of_kind("pci.mmio64", "pci", 0, G), "no room below 36 bits")],
        ..Scene::default()
    };

    let picture = svg(&scene);

    assert!(picture.contains("<title>pci.mmio64: dropped, 1 GiB, pci: no room below 36 bits</title>"));
    assert!(picture.lines().any(|l| l.starts_with("<text class=\"struck\"") && l.contains(">pci.mmio64<")));
    assert!(picture.lines().any(|l| l.starts_with("<text class=\"reason\"") && l.contains(">no room below")));
}

#[test]
fn a_long_reason_is_cut_in_the_picture_and_whole_in_its_title() {
    let reason = "as long as a sentence gets ".repeat(20) + "and ends";
    let scene = Scene { regions: vec![dropped(of_kind("a", "ram", 0, G), &reason)], ..Scene::default() };

    let picture = svg(&scene);

    assert_eq!(picture.matches("class=\"reason\"").count(), 3);
    assert_eq!(picture.matches("and ends").count(), 1);
}

#[test]
fn many_small_neighbours_are_drawn_as_one() {
    let layout_of = |disks| {
        let disk = |n| device(&format!("disk{n}"), "virtio-blk", 0x200_0000 + n * 4096, n);
        let scene = Scene { regions: (0..disks).map(disk).collect(), ..Scene::default() };
        let layout = Layout::new(&scene);
        layout.blocks.iter().map(|block| block.name.clone()).collect::<Vec<_>>()
    };

    assert_eq!(layout_of(3), ["disk2", "disk1", "disk0"]);
    assert_eq!(layout_of(32), ["disk0 … disk31"]);
}

#[test]
fn the_map_is_in_order_with_its_gaps_and_limits() {
    let scene = Scene {
        regions: vec![of_kind("low", "device", 16 * M, M), of_kind("high", "ram", 32 * M, G)],
        limits: vec![limit("40 bits", 40, true), limit("29 bits", 29, false)],
        ..Scene::default()
    };

    let layout = Layout::new(&scene);
    let blocks = layout.blocks.iter().map(|block| (block.area.y, block.name.as_str()));
    let gaps = layout.gaps.iter().map(|gap| (gap.area.y, gap.label.text.as_str()));
    let lines = layout.lines.iter().map(|line| (line.y, line.labels[1].text.as_str()));
    let mut rows: Vec<_> = blocks.chain(gaps).chain(lines).collect();
    rows.sort();

    let names: Vec<&str> = rows.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["40 bits", "gap ~1023 GiB", "high", "29 bits", "gap 15 MiB", "low", "gap 16 MiB"]);
}

#[test]
fn sizes_are_short_and_say_when_they_are_not_exact() {
    let sizes = [0, 4096, 1536 * K, G + 4096, 0xf7_0000, T - 1, u64::MAX].map(short_size);

    assert_eq!(sizes, ["0 B", "4 KiB", "1536 KiB", "~1 GiB", "~15.4 MiB", "~1024 GiB", "~16 EiB"]);
}

#[test]
fn text_of_users_is_escaped() {
    let hostile = "</text><script>alert(\"1\" & '2')</script>\u{0}\u{ffff}";
    let escaped =
        "&lt;/text&gt;&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;\u{fffd}\u{fffd}";
    let region = Band { interrupt: Some(hostile.into()), ..band(hostile, "ram", hostile, 0, M) };
    let scene = Scene {
        title: hostile.into(),
        subtitle: hostile.into(),
        regions: vec![shrunk(region, hostile)],
        limits: vec![limit(hostile, 36, true)],
        notes: vec![hostile.into()],
    };

    let page = html(&scene);

    assert!(page.contains(&format!("<li>{escaped}</li>")));
    assert!(!page.contains("<script>alert"));
    assert_well_formed(&page);
}

#[test]
fn pictures_and_pages_are_well_formed() {
    for scene in machines().iter().chain(&extremes()) {
        assert_well_formed(&svg(scene));
        assert_well_formed(&html(scene));
    }
}

#[test]
fn the_same_scene_is_drawn_alike() {
    for scene in machines() {
        assert_eq!(html(&scene), html(&scene.clone()));
    }
}

#[test]
fn nothing_is_from_elsewhere() {
    for scene in machines() {
        let page = html(&scene);

        assert_eq!(
            page.matches("http").count(),
            page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count()
        );
        assert!(!page.contains("src=") && !page.contains("@import"));
    }
}

#[test]
fn the_page_lists_every_region_and_links_it_to_its_block() {
    for scene in machines().iter().chain(&extremes()) {
        let page = html(scene);
        let targets: BTreeSet<&str> =
            page.split("<g id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();

        for Row { number, .. } in scene.rows() {
            let row = page.split(&format!("<tr id=\"row-{number}\"")).nth(1).expect("there is a row");
            let target = row.split("href=\"#").nth(1).and_then(|rest| rest.split('"').next());
            assert!(targets.contains(target.unwrap()), "{target:?}");
        }
    }
}

fn any_address() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0_u32..64).prop_map(|(address, shift)| address >> shift)
}

fn any_band(depth: u32) -> BoxedStrategy<Band> {
    let kinds =
        select(vec!["ram", "ram-hotplug", "reserved", "interrupt-controller", "device", "pci", "new"]);
    let statuses = select(vec![BandStatus::Placed, BandStatus::Shrunk, BandStatus::Dropped]);
    let inside = match depth {
        0 => Just(Vec::new()).boxed(),
        _ => vec(any_band(depth - 1), 0..4).boxed(),
    };
    let places = (option::weighted(0.9, any_address()), any_address());
    let texts = (".{1,70}", ".{0,60}", option::of(".{0,300}"), option::of(".{0,8}"));
    (kinds, statuses, places, texts, inside)
        .prop_map(|(kind, status, (first, size), (name, kind_label, reason, interrupt), inside)| {
            let range = first.map(|first| (first, first.saturating_add(size)));
            Band { name, kind, kind_label, range, size, status, reason, interrupt, inside }
        })
        .boxed()
}

prop_compose! {
    fn any_scene()(
        title in ".{0,200}",
        subtitle in ".{0,200}",
        regions in vec(any_band(2), 0..12),
        small in vec((0_u64..4000, 0_u64..9000), 0..60),
        limits in vec((".{0,90}", any_address(), any::<bool>()), 0..8),
    ) -> Scene {
        let limits = limits.into_iter().map(|(label, address, binding)| Limit { label, address, binding });
        let small = small.into_iter().map(|(page, size)| band("d", "device", "virtio-blk", page * 4096, size));
        Scene {
            title,
            subtitle,
            regions: regions.into_iter().chain(small).collect(),
            limits: limits.collect(),
            notes: Vec::new(),
        }
    }
}

proptest! {
    #[test]
    fn any_scene_is_drawn_tidily(scene in any_scene()) {
        assert_tidy(&scene);
        assert_well_formed(&html(&scene));
    }
}
