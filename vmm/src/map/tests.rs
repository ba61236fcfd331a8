use super::*;

/// A machine with a console, a disk, and a function on PCI.
pub fn map() -> Map {
    let region = |name: &str, kind, base, size| MapRegion {
        name: name.into(),
        kind,
        base: Address(base),
        size,
        room: None,
    };
    let span = |base, size| Span { base: Address(base), size };
    let device = |name: &str, kind: &str, function, windows, pin: Option<u32>| MapDevice {
        name: name.into(),
        kind: kind.into(),
        function,
        windows,
        legacy: false,
        pin,
        level: pin.map(|pin| pin == 0),
    };
    Map {
        board: "native".into(),
        board_options: Some(Vec::new()),
        particulars: Vec::new(),
        arch: Arch::Aarch64,
        cpus: 2,
        ipa_bits: PaBits::new(36).unwrap(),
        regions: vec![
            region("uart0", RegionKind::Device, 0x100_0000, 0x1000),
            region("disk0", RegionKind::Device, 0x200_1000, 0x1000),
            region("ram0", RegionKind::Ram, 0x4000_0000, 1 << 30),
        ],
        devices: Some(vec![
            device("disk0", "virtio-blk", None, vec![span(0x200_1000, 0x1000)], Some(17)),
            device("nvme", "nvme", Some(1), vec![span(0x1000_8000, 0x1000), span(0x2000_0000, 0x4000)], None),
            device("uart0", "pl011", None, vec![span(0x100_0000, 0x1000)], Some(0)),
        ]),
        irqs: vec![MapIrq { name: "uart0".into(), pin: 0 }, MapIrq { name: "disk0".into(), pin: 17 }],
    }
}

fn sentences(before: &Map, after: &Map) -> Vec<String> {
    before.differences(after).iter().map(ToString::to_string).collect()
}

#[test]
fn a_map_has_no_differences_from_itself() {
    assert_eq!(map().differences(&map()), []);
}

#[test]
fn what_has_an_address_comes_first_and_the_lowest_first_of_all() {
    let mut after = map();
    after.cpus = 4;
    after.ipa_bits = PaBits::new(37).unwrap();
    after.board_options = Some(vec!["gic-version=2".into()]);
    after.regions[2].size = 2 << 30;
    after.regions[1].base = Address(0x200_2000);
    after.irqs[1].pin = 18;
    after.devices.as_mut().unwrap()[1].windows[1].base = Address(0x3000_0000);

    assert_eq!(
        sentences(&map(), &after),
        [
            "disk0 moved from 0x2001000 to 0x2002000",
            "nvme BAR 0 moved from 0x20000000 to 0x30000000",
            "ram0 at 0x40000000 grew from 1 GiB to 2 GiB",
            "the pin of disk0 was 17 and is 18",
            "board options: none -> gic-version=2",
            "vCPUs: 2 -> 4",
            "IPA bits: 36 -> 37",
        ]
    );
}

#[test]
fn what_is_new_or_gone_is_said_once() {
    let mut after = map();
    after.regions.remove(1);
    after.irqs.remove(1);
    after.devices.as_mut().unwrap().truncate(1);
    after.devices.as_mut().unwrap().remove(0);

    assert_eq!(
        sentences(&map(), &after),
        ["disk0 is gone: 4 KiB at 0x2001000", "nvme is gone: 4 KiB at 0x10008000"]
    );
    assert_eq!(
        sentences(&after, &map()),
        ["disk0 is new: 4 KiB at 0x2001000", "nvme is new: 4 KiB at 0x10008000"]
    );
}

#[test]
fn a_device_that_became_another_is_a_difference() {
    let mut after = map();
    after.devices.as_mut().unwrap()[0].kind = "virtio-net".into();
    after.devices.as_mut().unwrap()[2].level = Some(false);
    after.regions[2].kind = RegionKind::Reserved;

    assert_eq!(
        sentences(&map(), &after),
        [
            "the interrupt of uart0 was level and is edge",
            "disk0 was virtio-blk and is virtio-net",
            "ram0 was ram and is reserved",
        ]
    );
}

#[test]
fn frames_that_have_other_room_are_a_difference_although_those_in_use_are_where_they_were() {
    let of = |room| {
        let mut map = map();
        map.regions[1].room = room;
        map
    };

    assert_eq!(sentences(&of(Some(0x8000)), &of(Some(0x8000))), Vec::<String>::new());
    assert_eq!(sentences(&of(Some(0x1000)), &of(None)), Vec::<String>::new());
    assert_eq!(
        sentences(&of(None), &of(Some(0x8000))),
        ["the room of disk0 at 0x2001000 grew from 4 KiB to 32 KiB"]
    );
}

#[test]
fn the_room_of_frames_is_in_the_map_of_their_machine() {
    let board = ambit_aarch64::qemu_virt();
    let config = crate::config::Config { board: Some("qemu-virt".into()), ..Default::default() };
    let settings = crate::config::settle(config, &[&board], None).unwrap();
    let plan = crate::models::plan(&settings, None).unwrap();

    let map = Map::of(&plan);

    let frames = plan.regions.iter().find(|region| region.frames == Some(1)).unwrap();
    let mapped = map.regions.iter().find(|region| region.name == frames.name).unwrap();
    assert_eq!(mapped.room, Some(frames.room.unwrap().size()));
}

#[test]
fn a_device_that_went_to_another_transport_is_a_difference() {
    let mut legacy = map();
    legacy.devices.as_mut().unwrap()[0].legacy = true;
    let mut moved = map();
    moved.regions.remove(1);
    let disk = &mut moved.devices.as_mut().unwrap()[0];
    (disk.function, disk.windows) = (Some(2), vec![Span { base: Address(0x1001_0000), size: 0x1000 }]);

    assert_eq!(sentences(&map(), &legacy), ["disk0 was virtio-blk and is virtio-blk, legacy"]);
    assert_eq!(
        sentences(&map(), &moved),
        ["disk0 is gone: 4 KiB at 0x2001000", "disk0 is new: 4 KiB at 0x10010000"]
    );
}

#[test]
fn the_text_of_a_map_without_legacy_devices_is_what_it_was() {
    let text = serde_json::to_string(&map()).unwrap();

    assert!(!text.contains("legacy"), "{text}");
    assert_eq!(serde_json::from_str::<Map>(&text).unwrap(), map());
}

#[test]
fn what_one_of_two_maps_does_not_know_is_not_compared() {
    let mut printed = map();
    printed.devices = None;
    printed.board_options = None;

    assert_eq!(map().differences(&printed), []);
}

#[test]
fn an_address_has_one_spelling() {
    let read = |text: &str| serde_json::from_str::<Address>(text).ok();

    assert_eq!(read("\"0x2000000\""), Some(Address(0x200_0000)));
    for other in ["\"0x02000000\"", "\"0X2000000\"", "\"2000000\"", "\"0xA\"", "\"0x+1\"", "\"\"", "33554432"]
    {
        assert_eq!(read(other), None, "{other}");
    }
}

#[test]
fn a_board_that_edits_its_tree_or_moves_its_kernel_is_another_unless_the_board_is_not_known() {
    let mut edited = map();
    edited.particulars = vec!["kernel_offset = \"2M\"".into()];
    let unknown = Map { board_options: None, ..map() };

    assert_eq!(sentences(&map(), &edited), ["board particulars: none -> kernel_offset = \"2M\""]);
    assert_eq!(sentences(&edited, &map()), ["board particulars: kernel_offset = \"2M\" -> none"]);
    assert_eq!(sentences(&unknown, &edited), Vec::<String>::new());
}

#[test]
fn the_particulars_of_a_boards_file_are_in_the_map_of_its_machine() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mine.toml");
    let text = "name = \"mine\"\ninherit = \"native\"\n[boot]\nkernel_offset = \"2M\"\n";
    std::fs::write(&file, text).unwrap();
    let native = ambit_aarch64::native();
    let board = Some(file.to_str().unwrap().to_owned());
    let config = crate::config::Config { board, ..Default::default() };
    let settings = crate::config::settle(config, &[&native], None).unwrap();
    let plan = crate::models::plan(&settings, None).unwrap();

    let map = Map::new(&plan, &settings);

    assert_eq!(map.particulars, ["kernel_offset = \"2M\""]);
}
