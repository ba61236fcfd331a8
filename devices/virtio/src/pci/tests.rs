use std::time::Duration;

use ambit_bus::bench::{BenchHost, MsiLog};
use ambit_bus::{Message, Trigger};
use proptest::prelude::*;

use super::*;
use crate::driver::{
    ECHO, Echo, Face, Machine, RAM, Spot, VERSION_1, Vq, WRITE, bar_windows, capabilities, unique,
};

const NEEDS_RESET: u32 = 64;
const PCI: [Face; 2] = [Face::Pci, Face::PciLegacy];

fn echo(face: Face) -> Machine {
    Machine::with_face(face, Echo::new(&unique("pci")))
}

fn config(byte: u64) -> Spot {
    Spot { window: 0, byte }
}

fn half(machine: &Machine, at: Spot) -> u16 {
    u16::from_le_bytes(machine.get(at))
}

fn word(machine: &Machine, at: Spot) -> u32 {
    u32::from_le_bytes(machine.get(at))
}

fn live(machine: &mut Machine) -> Vq {
    assert!(machine.negotiate(VERSION_1));
    let queue = machine.queue(0, 16);
    machine.go();
    queue
}

fn asks(machine: &mut Machine, queue: &mut Vq) {
    let at = machine.put(&[0; 4]);
    assert_eq!(machine.ask(queue, &[(at, 4, WRITE)]), 4);
    assert_eq!(machine.bytes(at, 4), [ECHO; 4]);
}

/// Where a driver of this kind writes the vectors: of the configuration, and of the queue that is selected.
fn vector_fields(machine: &Machine) -> [Spot; 2] {
    match machine.face {
        Face::PciLegacy => [20, 22].map(|byte| Spot { window: 1, byte }),
        _ => [16, 26].map(|byte| machine.spots.common.plus(byte)),
    }
}

fn enable_msix(machine: &Machine) {
    machine.put_at(config(machine.spots.msix + 2), &0x8000u16.to_le_bytes());
}

/// Has `vector` send a message of its own, and not masked.
fn open_vector(machine: &Machine, vector: u64) -> Message {
    let message = Message { address: 0x808_0040 + vector * 0x1000, data: 0x77 + vector as u32 };
    let entry = machine.spots.table.plus(16 * vector);
    machine.put_at(entry, &message.address.to_le_bytes());
    machine.put_at(entry.plus(8), &message.data.to_le_bytes());
    machine.put_at(entry.plus(12), &[0; 4]);
    message
}

fn sent(machine: &Machine) -> Vec<Message> {
    machine.host.messages().iter().flat_map(|log: &std::sync::Arc<MsiLog>| log.sent()).collect()
}

/// What a transport needs of a device that this test only looks at.
struct Typed(u32, Echo);

impl VirtioDevice for Typed {
    fn device_type(&self) -> u32 {
        self.0
    }

    fn features(&self) -> u64 {
        self.1.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.1.queue_sizes()
    }

    fn config(&self) -> &Arc<crate::config::Config> {
        self.1.config()
    }

    fn start(&mut self, start: crate::device::Start) -> Result<(), crate::device::StartError> {
        self.1.start(start)
    }

    fn stop(&mut self) -> Vec<crate::ring::Ring> {
        self.1.stop()
    }
}

// C-120, C-121, C-160
#[test]
fn a_function_says_what_it_is_by_the_ids_of_its_kind() {
    let ids = |face, kind| {
        let machine = Machine::with_face(face, Typed(kind, Echo::new(&unique("typed"))));
        let [revision] = machine.get(config(8));
        (half(&machine, config(0)), half(&machine, config(2)), revision, half(&machine, config(0x2e)))
    };

    assert_eq!(ids(Face::Pci, 2), (0x1af4, 0x1042, 1, 0x1042));
    assert_eq!(ids(Face::Pci, 42), (0x1af4, 0x106a, 1, 0x106a));
    let transitional = [(1, 0x1000), (2, 0x1001), (5, 0x1002), (3, 0x1003), (4, 0x1005)];
    for (kind, device) in transitional {
        assert_eq!(ids(Face::PciLegacy, kind), (0x1af4, device, 0, kind as u16));
    }
}

// C-123, C-124, C-125, C-136, C-137, C-139, C-141
#[test]
fn the_capability_list_ends_and_each_structure_is_inside_its_bar_and_apart() {
    for face in PCI {
        let machine = echo(face);
        let bars = bar_windows(&machine.needs);
        let Needs::Pci { bars: sizes } = &machine.needs else { panic!() };
        let mut kinds = Vec::new();
        let mut ranges: Vec<(u8, u64, u64)> = Vec::new();
        let mut ends = Vec::new();
        for (at, id) in capabilities(&machine) {
            if id != 9 {
                assert_eq!(id, 0x11);
                ends.push((at, at + 12));
                continue;
            }
            let [_, _, len, kind, bar] = machine.get::<5>(config(at));
            let (offset, length) = (word(&machine, config(at + 8)), word(&machine, config(at + 12)));
            ends.push((at, at + u64::from(len)));
            assert_eq!(len, if [2, 5].contains(&kind) { 20 } else { 16 });
            kinds.push(kind);
            if kind == 5 {
                continue;
            }
            let (_, window) = *bars.iter().find(|(number, _)| *number == bar).unwrap();
            let end = u64::from(offset) + u64::from(length);
            assert!(end <= sizes[usize::from(window) - 1].size);
            assert!(offset.is_multiple_of(4) && length > 0);
            ranges.push((window, offset.into(), end));
        }
        kinds.sort_unstable();
        assert_eq!(kinds, [1, 2, 3, 4, 5]);
        ends.sort_unstable();
        assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0) && ends.last().unwrap().1 <= 256);
        for (i, a) in ranges.iter().enumerate() {
            assert!(ranges[i + 1..].iter().all(|b| a.0 != b.0 || a.2 <= b.1 || b.2 <= a.1));
        }
        assert_eq!(machine.spots.notify_step, 4);
    }
}

// C-139
#[test]
fn a_device_without_a_configuration_has_no_capability_for_one() {
    let host = BenchHost::new(RAM);
    let source = std::fs::File::open("/dev/urandom").unwrap();
    let machine =
        Machine::build(host, Face::Pci, crate::rng::Rng::new(source, &crate::rng::Options::new("rng")));
    let kinds: Vec<u8> = capabilities(&machine)
        .into_iter()
        .filter(|(_, id)| *id == 9)
        .map(|(at, _)| machine.get::<4>(config(at))[3])
        .collect();

    assert!(!kinds.contains(&4) && kinds.len() == 4, "{kinds:?}");
}

// C-161, C-162, C-165, C-169
#[test]
fn a_transitional_function_has_the_legacy_header_in_ports_and_a_modern_one_has_no_ports() {
    let machine = echo(Face::PciLegacy);
    assert_eq!(word(&machine, config(0x10)) & 1, 1);
    assert_eq!(word(&echo(Face::Pci), config(0x10)) & 1, 0);
    machine.select(0);
    let size = Spot { window: 1, byte: 12 };
    machine.put_at(size, &[4, 0]);

    assert_eq!(half(&machine, size), 256);
    machine.select(1);
    assert_eq!(half(&machine, size), 4);
    machine.select(2);
    assert_eq!(half(&machine, size), 0);
}

// C-163, C-164, R-78
#[test]
fn the_legacy_configuration_moves_with_msix_and_reads_the_same_in_any_width() {
    let machine = echo(Face::PciLegacy);
    let bytes = |at: u64| machine.get::<12>(Spot { window: 1, byte: at });
    let expected = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0];
    for round in 0..4 {
        let on = round % 2 == 1;
        machine.put_at(config(machine.spots.msix + 2), &(u16::from(on) << 15).to_le_bytes());
        let at = if on { 24 } else { 20 };

        assert_eq!(bytes(at), expected);
        let by_one: Vec<u8> =
            (0..12).map(|i| machine.get::<1>(Spot { window: 1, byte: at + i })[0]).collect();
        assert_eq!(by_one, expected);
        let by_two: Vec<u8> =
            (0..6).flat_map(|i| machine.get::<2>(Spot { window: 1, byte: at + 2 * i })).collect();
        assert_eq!(by_two, expected);
        // Across the end of the header.
        assert_eq!(machine.get::<4>(Spot { window: 1, byte: at - 2 })[2..], [1, 2]);
    }
}

// C-023
#[test]
fn a_transitional_function_serves_whichever_driver_comes_after_a_reset() {
    let mut machine = echo(Face::PciLegacy);
    for round in 0..6 {
        machine.face = PCI[round % 2];
        let mut queue = live(&mut machine);
        asks(&mut machine, &mut queue);
        assert_eq!(machine.offered() >> 32, if round % 2 == 0 { 1 } else { 0 });
    }
}

#[test]
fn what_comes_through_the_registers_of_the_other_kind_of_driver_is_ignored_but_a_reset() {
    let mut machine = echo(Face::PciLegacy);
    let mut queue = live(&mut machine);
    machine.face = Face::Pci;
    for status in [8, 11, 15, 128] {
        machine.set_status(status);
    }
    machine.choose(u64::MAX);
    machine.select(0);
    machine.place(4, [0x4000_0000; 3]);
    machine.enable();
    machine.face = Face::PciLegacy;

    asks(&mut machine, &mut queue);
    machine.face = Face::Pci;
    machine.set_status(0);
    assert_eq!(machine.status(), 0);
}

// C-131, C-146, R-08, R-09
#[test]
fn a_queue_that_is_not_there_reads_as_nothing_and_takes_nothing() {
    let machine = echo(Face::Pci);
    assert!(machine.negotiate(VERSION_1));
    // The last that there is has a vector of its own.
    machine.select(1);
    machine.put_at(machine.spots.common.plus(26), &[2, 0]);
    for queue in [2, 3, 0x7fff, 0xffff] {
        machine.select(queue);
        machine.place(16, [0x4000_0000, 0x4000_1000, 0x4000_2000]);
        machine.enable();
        machine.put_at(machine.spots.common.plus(26), &[1, 0]);
        let fields = machine.get::<32>(machine.spots.common.plus(24));
        let mut nothing = [0; 32];
        // No vector.
        nothing[2..4].fill(0xff);
        assert_eq!(fields, nothing);
    }
    machine.select(1);
    assert_eq!(half(&machine, machine.spots.common.plus(26)), 2);
    assert_eq!(machine.status(), 11);
    assert_eq!(half(&machine, machine.spots.common.plus(18)), 2);
}

// C-132, R-02, R-06
#[test]
fn a_size_that_is_none_reads_back_as_it_was() {
    let machine = echo(Face::Pci);
    assert!(machine.negotiate(VERSION_1));
    machine.select(0);
    for size in [0, 3, 255, 257, 512, 0x8000, 0xffff] {
        machine.place(size, [0; 3]);
        assert_eq!(machine.largest(), 256, "{size}");
    }
    machine.place(8, [0; 3]);
    assert_eq!(machine.largest(), 8);
}

// C-133
#[test]
fn a_queue_is_not_taken_back_and_read_only_fields_are_not_written() {
    let mut machine = echo(Face::Pci);
    let mut queue = live(&mut machine);
    machine.select(0);
    machine.put_at(machine.spots.common.plus(28), &[0, 0]);
    for (at, len) in [(4, 4), (18, 2), (21, 1), (30, 2)] {
        let field = machine.spots.common.plus(at);
        let before = machine.get::<4>(field);
        machine.put_at(field, &[0xa5; 4][..len]);
        assert_eq!(machine.get::<4>(field), before);
    }

    assert!(machine.is_ready());
    asks(&mut machine, &mut queue);
}

// C-122
#[test]
fn both_halves_of_an_address_are_written_and_read_by_themselves_or_at_once() {
    let machine = echo(Face::Pci);
    assert!(machine.negotiate(VERSION_1));
    machine.select(0);
    for field in [32, 40, 48].map(|at| machine.spots.common.plus(at)) {
        machine.put_at(field.plus(4), &[5, 6, 7, 8]);
        machine.put_at(field, &[1, 2, 3, 4]);
        assert_eq!(machine.get::<8>(field), [1, 2, 3, 4, 5, 6, 7, 8]);
        machine.put_at(field, &[9; 8]);
        assert_eq!((machine.get::<4>(field), machine.get::<4>(field.plus(4))), ([9; 4], [9; 4]));
        machine.put_at(field.plus(2), &[1; 4]);
        machine.put_at(field.plus(1), &[1]);
        assert_eq!(machine.get::<8>(field), [9; 8]);
    }
}

// C-137, C-138, C-170
#[test]
fn without_msix_a_used_buffer_raises_inta_until_the_status_is_read() {
    for face in PCI {
        let mut machine = echo(face);
        let mut queue = live(&mut machine);
        asks(&mut machine, &mut queue);

        machine.wait_until("INTA", |machine| machine.pin().is_high());
        assert_eq!(machine.get::<1>(config(6))[0] & 8, 8);
        // INTx disable.
        machine.put_at(config(4), &[7, 4]);
        assert!(!machine.pin().is_high());
        machine.put_at(config(4), &[7, 0]);
        assert!(machine.pin().is_high());
        assert_eq!(machine.acknowledge(), 1);
        assert!(!machine.pin().is_high());
        assert_eq!((machine.acknowledge(), machine.get::<1>(config(6))[0] & 8), (0, 0));
        assert_eq!(sent(&machine), []);
    }
}

// C-144, C-145, C-146, C-149, R-71
#[test]
fn with_msix_each_event_sends_the_message_that_it_is_mapped_to_and_no_other() {
    for face in PCI {
        let mut machine = echo(face);
        enable_msix(&machine);
        let messages: Vec<Message> = (0..3).map(|vector| open_vector(&machine, vector)).collect();
        assert!(machine.negotiate(VERSION_1));
        let mut queue = machine.queue(0, 16);
        let [_, of_queue] = vector_fields(&machine);
        machine.go();
        let mut expected = Vec::new();
        for vector in [0u16, 1, 2, NO_VECTOR, 1, 3, 0x800, 0] {
            machine.select(0);
            machine.put_at(of_queue, &vector.to_le_bytes());
            let mapped = messages.get(usize::from(vector));
            assert_eq!(half(&machine, of_queue), if mapped.is_some() { vector } else { NO_VECTOR });
            let before = sent(&machine).len();
            asks(&mut machine, &mut queue);
            if let Some(message) = mapped {
                machine.wait_until("a message", |machine| sent(machine).len() > before);
                expected.push(*message);
            } else {
                std::thread::sleep(Duration::from_millis(10));
            }
        }

        let key = |message: &Message| message.data;
        let mut all = sent(&machine);
        all.sort_by_key(key);
        expected.sort_by_key(key);
        assert_eq!(all, expected);
        assert!(!machine.pin().is_high());
    }
}

// C-147, R-13
#[test]
fn a_reset_unmaps_every_event_and_leaves_msix_as_the_guest_set_it() {
    for face in PCI {
        let mut machine = echo(face);
        enable_msix(&machine);
        open_vector(&machine, 1);
        let mut queue = live(&mut machine);
        let fields = vector_fields(&machine);
        machine.select(0);
        fields.iter().for_each(|field| machine.put_at(*field, &[1, 0]));
        asks(&mut machine, &mut queue);

        machine.set_status(0);

        assert_eq!(fields.map(|field| half(&machine, field)), [NO_VECTOR; 2]);
        assert_eq!(half(&machine, config(machine.spots.msix + 2)) >> 15, 1);
    }
}

// C-003, C-137, C-150
#[test]
fn a_device_that_needs_a_reset_sets_the_status_and_sends_the_configurations_message() {
    let machine = echo(Face::Pci);
    enable_msix(&machine);
    let message = open_vector(&machine, 2);
    assert!(machine.negotiate(VERSION_1));
    machine.put_at(vector_fields(&machine)[0], &[2, 0]);
    machine.select(0);
    machine.place(16, [8, 0, 0]);

    machine.enable();

    assert_eq!((machine.status(), sent(&machine)), (11 | NEEDS_RESET, vec![message]));
    assert_eq!(machine.acknowledge(), 2);
}

// C-148, C-150
#[test]
fn a_configuration_without_a_vector_sends_nothing() {
    for (vector, expected) in [(NO_VECTOR, 0), (3, 0), (2, 1)] {
        let machine = echo(Face::Pci);
        enable_msix(&machine);
        for vector in 0..3 {
            open_vector(&machine, vector);
        }
        assert!(machine.negotiate(VERSION_1));
        let [of_config, _] = vector_fields(&machine);
        machine.put_at(of_config, &[1, 0]);
        machine.put_at(of_config, &vector.to_le_bytes());
        assert_eq!(half(&machine, of_config), if expected == 1 { vector } else { NO_VECTOR });
        machine.select(0);
        machine.place(16, [8, 0, 0]);

        machine.enable();

        assert_eq!((machine.status(), sent(&machine).len()), (11 | NEEDS_RESET, expected));
        assert!(!machine.pin().is_high());
    }
}

// C-153
#[test]
fn a_function_that_may_not_master_the_bus_serves_nothing_until_it_may() {
    let mut machine = echo(Face::Pci);
    machine.put_at(config(4), &[3, 0]);
    let mut queue = live(&mut machine);
    let at = machine.put(&[0; 4]);
    queue.offer(&[(at, 4, WRITE)]);
    machine.kick(&queue);
    machine.notify(0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((queue.poll(), machine.status()), (None, 15));

    machine.put_at(config(4), &[7, 0]);
    assert_eq!(queue.wait(), (0, 4));
    for _ in 0..3 {
        machine.put_at(config(4), &[3, 0]);
        machine.put_at(config(4), &[7, 0]);
        asks(&mut machine, &mut queue);
    }
}

// C-023, C-153
#[test]
fn a_legacy_driver_needs_no_bus_master_and_what_it_makes_of_it_counts_for_a_modern_one_after_it() {
    let mut machine = echo(Face::PciLegacy);
    let master = |machine: &Machine, may: bool| machine.put_at(config(4), &[if may { 7 } else { 3 }, 0]);
    let mut queue = live(&mut machine);
    for may in [false, true, false] {
        master(&machine, may);
        asks(&mut machine, &mut queue);
    }
    machine.face = Face::Pci;
    let mut queue = live(&mut machine);
    let at = machine.put(&[0; 4]);
    queue.offer(&[(at, 4, WRITE)]);
    machine.kick(&queue);
    std::thread::sleep(Duration::from_millis(20));

    assert_eq!((queue.poll(), machine.status()), (None, 15));
    machine.face = Face::PciLegacy;
    let mut queue = live(&mut machine);
    asks(&mut machine, &mut queue);
    master(&machine, true);
    machine.face = Face::Pci;
    let mut queue = live(&mut machine);
    asks(&mut machine, &mut queue);
}

// C-141, C-142, R-74
#[test]
fn the_configuration_space_reaches_bars_inside_them_aligned_and_nowhere_else() {
    for face in PCI {
        let machine = echo(face);
        let access = config(machine.spots.access);
        let bar = if face == Face::Pci { 0 } else { 1 };
        let through = |bar: u8, at: u32, len: u32| {
            machine.put_at(access.plus(4), &[bar]);
            machine.put_at(access.plus(8), &at.to_le_bytes());
            machine.put_at(access.plus(12), &len.to_le_bytes());
        };
        let data = access.plus(16);
        // The status register of the common configuration.
        through(bar, 20, 1);
        machine.put_at(data, &[1]);
        assert_eq!(machine.get::<1>(data), [1]);
        assert_eq!(machine.get::<1>(machine.spots.common.plus(20)), [1]);
        // The first bytes of the device's configuration.
        through(bar, 0x800, 4);
        assert_eq!(machine.get::<4>(data), [1, 2, 3, 4]);

        for (bar, at, len) in [
            (6, 0, 4),
            (255, 0, 4),
            (bar, 0x4000, 4),
            (bar, 0x3ffe, 4),
            (bar, u32::MAX, 1),
            (bar, u32::MAX - 3, 4),
            (bar, 21, 2),
            (bar, 20, 0),
            (bar, 20, 3),
            (bar, 21, 3),
            (bar, 0, 0),
            (bar, 20, 8),
            (bar, 20, u32::MAX),
        ] {
            through(bar, at, len);
            machine.put_at(data, &[2; 4]);
            assert_eq!(machine.get::<4>(data), [2; 4], "{bar} {at:#x} {len}: only what was written");
        }
        assert_eq!(machine.get::<1>(machine.spots.common.plus(20)), [1]);
    }
}

#[test]
fn without_messages_there_is_no_msix_and_inta_works() {
    let host = BenchHost::new(RAM).without_messages();
    let mut machine = Machine::build(host, Face::Pci, Echo::new(&unique("nomsi")));
    assert!(capabilities(&machine).iter().all(|(_, id)| *id == 9));
    let mut queue = live(&mut machine);

    asks(&mut machine, &mut queue);

    machine.wait_until("INTA", |machine| machine.pin().is_high());
}

#[test]
fn what_a_function_asks_for_is_planned_below_4_gib_and_reaches_44_bits_if_it_is_transitional() {
    let modern = request("a", "virtio-blk", Interface::Modern);
    let legacy = request("a", "virtio-blk", Interface::Legacy);

    let memory = Bar { size: 0x4000, space: BarSpace::Mmio32 };
    assert_eq!(modern.needs, Needs::Pci { bars: vec![memory] });
    let ports = Bar { size: 0x80, space: BarSpace::Io };
    assert_eq!(legacy.needs, Needs::Pci { bars: vec![ports, memory] });
    assert_eq!((modern.queue_reach, legacy.queue_reach), (None, Some(44)));
    let model = PciModel::new("a", "virtio-blk", Interface::Modern, Echo::new(&unique("once")));
    assert_eq!(model.request(), modern);
    let slot = Slot { windows: Vec::new(), irq: Some((ambit_resources::IrqPin(1), Trigger::Level)) };
    assert!(model.build(&slot, &BenchHost::new(4096)).is_ok());
    let again = model.build(&slot, &BenchHost::new(4096)).err().unwrap();
    assert_eq!(again.to_string(), "device a: it was built before");
}

fn access() -> impl Strategy<Value = (bool, u8, u64, usize, u64)> {
    let at = prop_oneof![
        4 => 0u64..64,
        2 => 0x40u64..0x100,
        2 => prop::sample::select(vec![0x400u64, 0x800, 0x1000, 0x1004, 0x2000, 0x200c, 0x201c, 0x3000]),
        1 => 0u64..0x4040,
    ];
    let value = prop_oneof![4 => 0u64..16, 1 => Just(u64::MAX), 1 => any::<u64>(), 1 => Just(0x4000_0000)];
    (any::<bool>(), 0u8..4, at, prop::sample::select(vec![1usize, 2, 4, 8]), value)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    //
    #[test]
    fn after_any_accesses_a_reset_makes_the_function_work(
        steps in prop::collection::vec(access(), 0..200),
        legacy in any::<bool>(),
    ) {
        let face = PCI[usize::from(legacy)];
        let mut machine = echo(face);
        let power_on = machine.dump();
        machine.alloc(0x10_0000, 1);
        for (write, window, byte, len, value) in steps {
            let mut data = value.to_le_bytes();
            let data = &mut data[..len];
            let at = Spot { window, byte };
            if write { machine.put_at(at, data) } else { machine.fetch(at, data) }
        }
        machine.device.lock().unwrap().reset();
        machine.put_at(config(4), &[7, 0]);
        prop_assert_eq!(machine.dump(), power_on);
        let mut queue = live(&mut machine);
        asks(&mut machine, &mut queue);
    }
}
