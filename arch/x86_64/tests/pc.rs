//! Machines on the board `pc`: where everything is, what a program finds, and why some machines are not possible.

use std::sync::Arc;

use ambit_bus::bench::BenchHost;
use ambit_bus::{
    Bar, BarSpace, Description, Device, Doorbell, Effect, Host, HostError, Match, Model, Needs, Offset,
    Request, Shared, Slot, Space, Trigger, share,
};
use ambit_device_manager::pci::BRIDGE;
use ambit_device_manager::{
    Board, BootError, DeviceManager, Diagnostic, HostFacts, MachineConfig, Outcome, Payload, Plan, Reserve,
    Severity, plan,
};
use ambit_pci::bridge::HostBridge;
use ambit_platform::endings::{EndingModel, Port};
use ambit_platform::serial::SerialModel;
use ambit_resources::AddressRange;
use ambit_x86_64::{acpi, boot, pc};
use vmm_sys_util::eventfd::EventFd;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn virtio(id: &str) -> Request {
    Request {
        id: id.into(),
        kind: "virtio-rng".into(),
        needs: Needs::Board { registers: 0x200, irq: Some(Trigger::Edge) },
        description: Arc::new(Description { node: "virtio_mmio".into(), ..Description::default() }),
        queue_reach: None,
    }
}

const BARS: [Bar; 3] = [
    Bar { size: 0x40, space: BarSpace::Io },
    Bar { size: 0x1000, space: BarSpace::Mmio32 },
    Bar { size: 0x4000, space: BarSpace::Mmio64 },
];

fn card(id: &str) -> Request {
    let needs = Needs::Pci { bars: BARS.into() };
    Request { needs, description: Arc::default(), ..virtio(id) }
}

fn config(memory: u64, devices: Vec<Request>) -> MachineConfig {
    MachineConfig { memory, devices, ..MachineConfig::default() }
}

fn planned(memory: u64, devices: Vec<Request>) -> Plan {
    plan(&pc(), &config(memory, devices), &HostFacts::assumed()).unwrap()
}

fn places(plan: &Plan) -> Vec<String> {
    plan.regions.iter().map(|region| format!("{} {}", region.range.unwrap(), region.name)).collect()
}

fn ports(plan: &Plan) -> Vec<String> {
    plan.ports.iter().map(|claim| format!("{} {}", claim.range, claim.owner)).collect()
}

#[test]
fn the_map_of_a_machine_is_the_boards_table() {
    let plan = planned(2 * GIB, vec![virtio("rng0"), virtio("disk0")]);

    assert_eq!(
        places(&plan),
        [
            "[0x0-0x7fffffff] ram0",
            "[0xc0000000-0xdfffffff] pci.mmio32",
            "[0xe0000000-0xefffffff] pci.ecam",
            "[0xf0000000-0xf0000fff] rng0",
            "[0xf0001000-0xf0001fff] disk0",
            "[0xfec00000-0xfec00fff] ioapic",
            "[0xfee00000-0xfeefffff] lapic",
            "[0xfffbc000-0xfffbffff] reserved.kvm",
            "[0x100000000-0x13fffffff] pci.mmio64",
        ]
    );
    assert_eq!(
        ports(&plan),
        [
            "[0x60-0x64] reset0",
            "[0x3f8-0x3ff] uart0",
            "[0x505-0x505] panic0",
            "[0x600-0x601] power0",
            "[0xcf8-0xcff] pci.config",
            "[0xc000-0xffff] pci.io",
        ]
    );
    let pins: Vec<(u32, &str)> = plan.irqs.owners().map(|(pin, owner)| (pin.0, owner)).collect();
    assert_eq!(
        pins,
        [
            (4, "uart0"),
            (5, "rng0"),
            (6, "disk0"),
            (20, "pci.inta"),
            (21, "pci.intb"),
            (22, "pci.intc"),
            (23, "pci.intd"),
        ]
    );
}

#[test]
fn a_function_has_its_ports_in_the_window_of_ports() {
    let plan = planned(GIB, vec![card("a"), card("b")]);

    let b = plan.device("b").unwrap();
    let windows = [
        AddressRange::fixed(0xe001_0000, 0x1000),
        AddressRange::fixed(0xc040, 0x40),
        AddressRange::fixed(0xc000_1000, 0x1000),
        AddressRange::fixed(0x1_0000_4000, 0x4000),
    ];
    assert_eq!(b.slot.windows, windows);
    let spaces = [0, 1, 2, 3].map(|window| b.space(window));
    assert_eq!(spaces, [Space::Memory, Space::Ports, Space::Memory, Space::Memory]);
}

#[test]
fn a_function_that_is_plugged_has_what_it_would_have_had_from_the_start() {
    let mut plugged = planned(GIB, vec![card("a")]);

    plugged.add(&card("b")).unwrap();

    assert_eq!(plugged.device("b"), planned(GIB, vec![card("a"), card("b")]).device("b"));
}

#[test]
fn ram_that_the_first_3_gib_do_not_hold_goes_on_above_4_gib() {
    let banks = |memory| planned(memory, vec![]).ram().collect::<Vec<_>>();

    assert_eq!(banks(3 * GIB), [AddressRange::fixed(0, 3 * GIB)]);
    assert_eq!(banks(3 * GIB + 4096), [AddressRange::fixed(0, 3 * GIB), AddressRange::fixed(4 * GIB, 4096)]);
    assert_eq!(
        places(&planned(5 * GIB, vec![]))[6..],
        ["[0x100000000-0x17fffffff] ram1", "[0x180000000-0x1bfffffff] pci.mmio64"]
    );
}

#[test]
fn ports_are_only_for_what_has_a_place_on_the_board() {
    let request = Request { needs: Needs::Ports { count: 8, irq: None }, ..virtio("uart1") };

    let refused = plan(&pc(), &config(GIB, vec![request]), &HostFacts::assumed()).unwrap_err();

    assert_eq!(
        refused.to_string(),
        "uart1 wants I/O ports, and only devices at a fixed place of a board that has ports get any"
    );
}

#[test]
fn a_device_cannot_be_called_like_somebodys_ports() {
    let refused = plan(&pc(), &config(GIB, vec![virtio("uart0")]), &HostFacts::assumed()).unwrap_err();

    assert_eq!(
        refused.to_string(),
        "two parts of the machine are called 'uart0'; give the device another id"
    );
}

/// A function whose configuration space is the places of its windows, as numbers of 64 bits; words of 32 bits are
/// what its firmware set.
#[derive(Debug)]
struct Card;

struct CardDevice {
    places: Vec<Option<u64>>,
    set: Vec<(u64, u32)>,
    _bell: EventFd,
}

impl Model for Card {
    fn request(&self) -> Request {
        card("card")
    }

    fn build(&self, slot: &Slot, host: &dyn Host) -> Result<Shared, HostError> {
        let bell = EventFd::new(0).unwrap();
        host.doorbell(Doorbell { window: 1, byte: 16, write: Match::Half(0) }, &bell)?;
        Ok(share(CardDevice { places: vec![None; slot.windows.len() - 1], set: Vec::new(), _bell: bell }))
    }
}

impl Device for CardDevice {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        match self.set.iter().find(|(byte, _)| at.window == 0 && *byte == at.byte) {
            Some((_, word)) => data.copy_from_slice(&word.to_le_bytes()),
            None => data.fill(at.window << 4 | at.byte.to_le_bytes()[0]),
        }
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        if let Ok(word) = data.try_into() {
            self.set.push((at.byte, u32::from_le_bytes(word)));
            return Effect::None;
        }
        let place = u64::from_le_bytes(data.try_into().unwrap());
        self.places[usize::try_from(at.byte / 8).unwrap()] = Some(place);
        Effect::Remap
    }

    fn reset(&mut self) {}

    fn places(&self) -> Vec<Option<u64>> {
        self.places.clone()
    }
}

/// A machine with a card and all fixtures.
fn machine() -> (Plan, Arc<BenchHost>, DeviceManager) {
    let plan = planned(GIB, vec![card("card")]);
    let host = Arc::new(BenchHost::new(4096));
    let (uart, _) = SerialModel::new("uart0", Box::new(|_| {})).unwrap();
    let ending = |id, port| Arc::new(EndingModel::new(id, port)) as Arc<dyn Model>;
    let models: [Arc<dyn Model>; 6] = [
        Arc::new(HostBridge::new(BRIDGE)),
        Arc::new(uart),
        ending("reset0", Port::I8042),
        ending("panic0", Port::Panic),
        ending("power0", Port::Sleep),
        Arc::new(Card),
    ];
    let manager = DeviceManager::apply(&plan, &models, host.clone()).unwrap();
    (plan, host, manager)
}

#[test]
fn a_guest_finds_every_bar_set_to_where_it_was_planned_and_nothing_decoded() {
    let (plan, _, manager) = machine();
    let card = plan.device("card").unwrap();
    let word = |byte: u64| {
        let mut word = [0; 4];
        assert!(manager.read(card.slot.windows[0].first() + byte, &mut word));
        u64::from(u32::from_le_bytes(word))
    };

    let set = [word(0x10), word(0x14), word(0x18) | word(0x1c) << 32];

    assert_eq!(set, [1, 2, 3].map(|window| card.slot.windows[window].first()));
    assert_eq!(set, [0xc000, 0xc000_0000, 0x1_0000_0000]);
    let windows: Vec<u8> =
        manager.decoded().iter().filter(|it| it.id == "card").map(|it| it.window).collect();
    assert_eq!(windows, [0]);
}

#[test]
fn ports_and_memory_at_one_number_are_two_places() {
    let (plan, _, manager) = machine();
    let config = plan.device("card").unwrap().slot.windows[0].first();
    assert_eq!(manager.write(config, &0xc080_u64.to_le_bytes()), Outcome::Done);
    let (mut port, mut memory) = ([0x55; 2], [0x55; 2]);

    assert!(manager.read_port(0xc084, &mut port));
    assert!(!manager.read(0xc084, &mut memory));

    assert_eq!((port, memory), ([0x14; 2], [0xff; 2]));
}

#[test]
fn ports_that_a_guest_moves_go_where_their_window_is_and_take_their_doorbell_along() {
    let (plan, host, manager) = machine();
    let config = plan.device("card").unwrap().slot.windows[0].first();
    let rings = |port: u64| host.signals_in(Space::Ports, port + 16, &[0, 0]);
    let answers = |port: u16| manager.read_port(port, &mut [0]);
    let mut seen = Vec::new();

    for place in [0xc000_u64, 0xffc0, 0x3c0, 0xc000_0000] {
        assert_eq!(manager.write(config, &place.to_le_bytes()), Outcome::Done);
        seen.push([answers(0xc000), rings(0xc000), answers(0xffc0), rings(0xffc0), rings(0x3c0)]);
    }

    let nowhere = [false; 5];
    let expected = [[true, true, false, false, false], [false, false, true, true, false], nowhere, nowhere];
    assert_eq!(seen, expected);
    assert!(!host.signals(0xc000 + 16, &[0, 0]));
}

#[test]
fn a_guest_ends_itself_at_its_ports() {
    let (_, _, manager) = machine();

    let ended = [(0x64, 0xfe), (0x505, 1), (0x600, 0x34), (0x80, 0)]
        .map(|(port, value)| manager.write_port(port, &[value]));

    assert_eq!(ended, [Outcome::Reset, Outcome::Crash, Outcome::PowerOff, Outcome::Missed]);
}

/// An ELF program of these runs of memory, each with one byte in the file, that begins at the first.
fn program(runs: &[(u64, u64)]) -> Vec<u8> {
    let mut file = vec![0; 64];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62]);
    put(24, &runs[0].0.to_le_bytes());
    put(32, &[64]);
    put(54, &[56]);
    put(56, &[u8::try_from(runs.len()).unwrap()]);
    for (first, size) in runs {
        let header = [1, 0, *first, *first, 1, *size, 0];
        file.extend(header.iter().flat_map(|word| word.to_le_bytes()));
    }
    file
}

fn booted<'a>(plan: &Plan, kernel: &'a [u8], cmdline: &'a str) -> Result<Vec<(u64, Vec<u8>)>, BootError> {
    let image = pc().boot_image(plan, &Payload { kernel, cmdline, ..Payload::default() })?;
    Ok(image.pieces.into_iter().map(|piece| (piece.address, piece.bytes.into_owned())).collect())
}

#[test]
fn a_program_finds_itself_its_command_line_and_what_it_starts_with() {
    let plan = planned(64 * MIB, vec![virtio("rng0")]);
    let kernel = program(&[(2 * MIB, 0x1000), (3 * MIB, 8)]);
    let payload = Payload { kernel: &kernel, initrd: Some(b"initrd"), cmdline: " a b ", seed: None };

    let image = pc().boot_image(&plan, &payload).unwrap();

    assert_eq!((image.entry, image.argument), (2 * MIB, boot::ZERO_PAGE.into()));
    let tables = acpi::tables(&plan).unwrap().len();
    let pieces: Vec<(&str, u64, usize)> =
        image.pieces.iter().map(|piece| (piece.name, piece.address, piece.bytes.len())).collect();
    assert_eq!(
        pieces,
        [
            ("segment descriptors", 0x500, 40),
            ("zero page", 0x7000, 4096),
            ("page tables", 0x9000, 4096 * 7),
            ("command line", 0x8000, 39),
            ("pointer to processors", 0x9_fc00, 16),
            ("table of processors", 0xa_0000, 1256),
            ("ACPI tables", 0xe_0000, tables),
            ("reset vector", 0xf_fff0, 8),
            ("kernel", 2 * MIB, 1),
            ("kernel", 3 * MIB, 1),
            ("initrd", 3 * MIB + 4096, 6),
        ]
    );
    assert_eq!(&*image.pieces[3].bytes, b"a b virtio_mmio.device=4K@0xf0000000:5\0".as_slice());
}

/// Before any table is read: what a guest finds at the two ports is what it finds in memory.
#[test]
fn a_guest_finds_the_host_bridge_by_ports_and_in_memory() {
    let (_, _, manager) = machine();
    let word = |port| {
        let mut word = [0; 4];
        manager.read_port(port, &mut word);
        u32::from_le_bytes(word)
    };
    let select = |address: u32| manager.write_port(0xcf8, &address.to_le_bytes());

    assert_eq!(select(0x8000_0008), Outcome::Done);
    let mut class = [0; 4];
    assert!(manager.read(0xe000_0008, &mut class));
    assert_eq!((word(0xcf8), word(0xcfc) >> 16), (0x8000_0008, 0x0600));
    assert_eq!(word(0xcfc), u32::from_le_bytes(class));
    // No function there, and no register.
    assert_eq!(select(0x8000_f800), Outcome::Done);
    assert_eq!(word(0xcfc), u32::MAX);
    assert_eq!(select(0), Outcome::Done);
    assert_eq!((word(0xcfc), manager.write_port(0xcfc, &[0])), (u32::MAX, Outcome::Missed));
}

#[test]
fn a_machine_has_as_many_processors_as_the_board_and_the_hosts_kvm_have() {
    let said = |cpus, max_cpus| {
        let facts = HostFacts { max_cpus, ..HostFacts::assumed() };
        plan(&pc(), &MachineConfig { cpus, ..MachineConfig::default() }, &facts)
            .map_err(|why| why.to_string())
    };

    assert_eq!(said(1024, 4096).unwrap().cpus, 1024);
    assert_eq!(
        said(1025, 4096).unwrap_err(),
        "1025 vCPUs are more than 1024, which is all that board pc has"
    );
    assert_eq!(
        said(1024, 288).unwrap_err(),
        "1024 vCPUs are more than 288, which is all that the KVM of a host like most gives"
    );
}

#[test]
fn more_processors_than_linux_brings_up_are_noted_and_why() {
    let noted = |cpus| {
        let facts = HostFacts { max_cpus: 1024, ..HostFacts::assumed() };
        plan(&pc(), &MachineConfig { cpus, ..MachineConfig::default() }, &facts).unwrap().diagnostics
    };

    assert_eq!(noted(256), []);
    assert_eq!(
        noted(257),
        [Diagnostic {
            code: "cpus-beyond-linux".into(),
            severity: Severity::Note,
            message: "Linux brings up 256 of the 257 vCPUs, those with an APIC ID of at most 255: KVM's IOAPIC and \
                      messages of devices have 8 bits for the ID of whom they interrupt, and nothing remaps interrupts"
                .into(),
            remedies: vec!["give a Linux guest at most 256 vCPUs".into()],
        }]
    );
}

#[test]
fn every_address_of_the_plan_is_mapped_to_itself() {
    let plan = planned(64 * MIB, vec![]);
    let pieces = booted(&plan, &program(&[(MIB, 1)]), "").unwrap();
    let (base, tables) = pieces.iter().find(|(address, _)| *address == boot::PAGE_TABLES).unwrap();
    let word = |at: u64| {
        let at = usize::try_from(at - base).unwrap();
        u64::from_le_bytes(tables[at..at + 8].try_into().unwrap())
    };
    // Intel SDM volume 3, 4.5.4: four levels, the third of which can end in a page of 2 MiB.
    let walk = |address: u64| {
        let mut table = *base;
        for shift in [39, 30, 21] {
            let entry = word(table + (address >> shift & 0x1ff) * 8);
            assert_eq!(entry & 3, 3, "{address:#x}");
            table = entry & 0x000f_ffff_ffff_f000;
            if shift == 21 {
                assert_eq!(entry & 0x80, 0x80, "{address:#x}");
            }
        }
        table + (address & 0x1f_ffff)
    };

    for address in plan.space.claims().flat_map(|claim| [claim.range.first(), claim.range.last()]) {
        assert_eq!(walk(address), address);
    }
}

#[test]
fn the_memory_map_has_all_ram_but_the_firmwares_and_keeps_the_configuration_space() {
    let pieces = booted(&planned(64 * MIB, vec![]), &program(&[(MIB, 1)]), "").unwrap();
    let (_, page) = pieces.iter().find(|(address, _)| *address == u64::from(boot::ZERO_PAGE)).unwrap();
    let line = |index: usize| {
        let at = 0x2d0 + 20 * index;
        let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        (word(at), word(at + 8), page[at + 16])
    };

    let map: Vec<(u64, u64, u8)> = (0..usize::from(page[0x1e8])).map(line).collect();

    assert_eq!(
        map,
        [(0, 0x9_fc00, 1), (MIB, 63 * MIB, 1), (0xe000_0000, 0x1000_0000, 2), (0xfffb_c000, 0x4000, 2),]
    );
}

#[test]
fn a_program_without_room_is_refused_with_how_much_it_needs() {
    let plan = planned(4 * MIB, vec![]);
    let said =
        |runs: &[(u64, u64)], cmdline: &str| booted(&plan, &program(runs), cmdline).unwrap_err().to_string();

    assert_eq!(
        said(&[(2 * MIB, 1), (0x8000, 0x1000)], ""),
        "the kernel is not one this board can start: it wants to be at [0x8000-0x8fff], and below 1 MiB is what it \
         is started with; link it higher"
    );
    assert_eq!(
        said(&[(3 * MIB, 2 * MIB)], ""),
        "the kernel takes 2 MiB, and of 4 MiB of memory 1 MiB are left for it; give the guest at least 5 MiB"
    );
    assert_eq!(
        said(&[(MIB, 1)], "a\tb"),
        "the kernel command line has '\\t' as character 2; use printable ASCII"
    );
    assert_eq!(
        said(&[(MIB, 1)], &"x".repeat(2048)),
        "the kernel command line has 2048 characters with what names the devices, and Linux keeps 2047; shorten it \
         by 1"
    );
}

/// Besides what is below 1 MiB, RAM is from 2 MiB to 3 MiB and from 8 MiB on.
fn planned_around(memory: u64) -> Plan {
    let ranges = [(MIB, MIB), (3 * MIB, 5 * MIB)].map(|(first, size)| AddressRange::fixed(first, size));
    let reserve = Reserve { ranges: ranges.to_vec(), ..Reserve::default() };
    plan(&pc(), &MachineConfig { reserve, ..config(memory, vec![]) }, &HostFacts::assumed()).unwrap()
}

#[test]
fn an_initrd_is_in_the_first_ram_above_the_kernel_that_holds_it() {
    let kernel = program(&[(2 * MIB, MIB / 2)]);
    let placed = |size: u64| {
        let initrd = vec![7; usize::try_from(size).unwrap()];
        let payload = Payload { kernel: &kernel, initrd: Some(&initrd), ..Payload::default() };
        let image = pc().boot_image(&planned_around(4 * MIB), &payload).unwrap();
        image.pieces.iter().find(|piece| piece.name == "initrd").map(|piece| piece.address)
    };

    assert_eq!(placed(MIB / 2), Some(2 * MIB + MIB / 2));
    assert_eq!(placed(MIB / 2 + 1), Some(8 * MIB));
    assert_eq!(placed(2 * MIB), Some(8 * MIB));
}

#[test]
fn more_memory_is_asked_for_only_where_it_helps() {
    let said = |runs: &[(u64, u64)], initrd: Option<&[u8]>| {
        let kernel = program(runs);
        let payload = Payload { kernel: &kernel, initrd, ..Payload::default() };
        pc().boot_image(&planned_around(4 * MIB), &payload).unwrap_err().to_string()
    };

    assert_eq!(
        said(&[(2 * MIB, 2 * MIB)], None),
        "the kernel is not one this board can start: it wants to be at [0x200000-0x3fffff], and 0x300000 is kept \
         free; keep other ranges free (--reserve), or link it elsewhere"
    );
    assert_eq!(
        said(&[(8 * MIB, 3 * MIB)], None),
        "the kernel takes 3 MiB, and of 4 MiB of memory 2 MiB are left for it; give the guest at least 5 MiB"
    );
    assert_eq!(
        said(&[(2 * MIB, 1)], Some(&vec![0; 3 << 20])),
        "the initrd takes 3 MiB, and of 4 MiB of memory 2 MiB are left for it; give the guest at least 5 MiB"
    );
    assert_eq!(
        said(&[(3070 * MIB, 3 * MIB)], None),
        "the kernel is not one this board can start: it wants to be at [0xbfe00000-0xc00fffff], and RAM for it ends \
         at 0xc0000000, for devices; make it smaller, or link it elsewhere"
    );
}

#[test]
fn more_memory_is_not_asked_for_where_something_is_kept_free_right_above() {
    let reserve = Reserve { ranges: vec![AddressRange::fixed(8 * MIB, MIB)], ..Reserve::default() };
    let machine = MachineConfig { reserve, ..config(4 * MIB, vec![]) };
    let plan = plan(&pc(), &machine, &HostFacts::assumed()).unwrap();
    let said = |runs| booted(&plan, &program(runs), "").unwrap_err().to_string();

    assert_eq!(
        said(&[(3 * MIB, 5 * MIB)]),
        "the kernel takes 5 MiB, and of 4 MiB of memory 1 MiB are left for it; give the guest at least 8 MiB"
    );
    assert_eq!(
        said(&[(3 * MIB, 5 * MIB + 1)]),
        "the kernel is not one this board can start: it wants to be at [0x300000-0x800000], and 0x800000 is kept \
         free; keep other ranges free (--reserve), or link it elsewhere"
    );
    assert_eq!(
        said(&[(3 * MIB, 1), (3584 * MIB, 1)]),
        "the kernel is not one this board can start: it wants to be at [0xe0000000-0xe0000000], and RAM for it ends \
         at 0xc0000000, for devices; make it smaller, or link it elsewhere"
    );
}

#[test]
fn an_initrd_that_no_memory_would_hold_is_told_of_what_there_is() {
    let kernel = program(&[(3070 * MIB, 1)]);
    let payload = Payload { kernel: &kernel, initrd: Some(&vec![0; 3 << 20]), ..Payload::default() };

    let said = pc().boot_image(&planned_around(4 * GIB), &payload).unwrap_err().to_string();

    assert_eq!(
        said,
        "the initrd takes 3 MiB, and after the kernel RAM below 4 GiB has 2044 KiB in one piece; make it smaller, \
         or keep less free there (--reserve)"
    );
}

#[test]
fn an_initrd_without_room_is_refused_with_how_much_it_needs() {
    let plan = planned(4 * MIB, vec![]);
    let kernel = program(&[(3 * MIB, MIB / 2)]);
    let large = vec![0; 1 << 20];
    let said = |initrd| {
        let payload = Payload { kernel: &kernel, initrd: Some(initrd), ..Payload::default() };
        pc().boot_image(&plan, &payload).unwrap_err().to_string()
    };

    assert_eq!(said(&[]), "the initrd is empty");
    assert_eq!(
        said(&large),
        "the initrd takes 1 MiB, and of 4 MiB of memory 512 KiB are left for it; give the guest at least 5 MiB"
    );
}
