use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use ambit_bus::bench::{BenchHost, MsiLog};
use ambit_bus::{Bar, Message, MsiWire};
use proptest::prelude::*;

use super::*;
use crate::{Function, Identity};

const TABLE: u32 = 0x800;
const PBA: u32 = 0x1800;
const BAR: Bar = Bar { size: 0x4000, space: BarSpace::Mmio64 };
const PLACE: Place = Place { window: 1, table: TABLE, pba: PBA };

const MASTER: u16 = 1 << 2;

/// A function with MSI-X only, as its driver and its threads see it.
struct Bench {
    function: Function,
    msix: Arc<Msix>,
    logs: Vec<Arc<MsiLog>>,
}

impl Bench {
    fn new(count: u16) -> Self {
        let host = BenchHost::new(0x1000);
        let wires = Msix::wires(&host, count).unwrap().unwrap();
        let mut config = ConfigSpace::new(Identity::default(), &[BAR], false).unwrap();
        let msix = Msix::new(&mut config, PLACE, wires).unwrap();
        let function = Function::new(config, None, Some(msix));
        let msix = function.msix.clone().unwrap();
        Self { function, msix, logs: host.messages() }
    }

    /// With messages enabled, the function unmasked and master of the bus.
    fn enabled(count: u16) -> Self {
        let mut bench = Self::new(count);
        bench.command(MASTER);
        bench.control(ENABLE);
        bench
    }

    fn command(&mut self, value: u16) {
        let _change = self.function.write(Offset { window: 0, byte: 4 }, &value.to_le_bytes());
    }

    fn control(&mut self, value: u16) {
        let at = Offset { window: 0, byte: self.msix.control().into() };
        let _change = self.function.write(at, &value.to_le_bytes());
    }

    fn address(&mut self, vector: u16, address: u64) {
        self.msix.write(entry(vector, 0), &address.to_le_bytes());
    }

    fn data(&mut self, vector: u16, data: u32) {
        self.msix.write(entry(vector, 8), &data.to_le_bytes());
    }

    fn mask(&self, vector: u16, masked: bool) {
        self.msix.write(entry(vector, 12), &u32::from(masked).to_le_bytes());
    }

    /// Gives the vector its message and unmasks it.
    fn set_up(&mut self, vector: u16) {
        self.address(vector, message(vector).address);
        self.data(vector, message(vector).data);
        self.mask(vector, false);
    }

    fn sent(&self, vector: u16) -> Vec<Message> {
        self.logs[usize::from(vector)].sent()
    }

    fn pending(&self) -> Vec<u64> {
        let words = (0..self.msix.count().div_ceil(64) as u64)
            .map(|word| Offset { window: 1, byte: u64::from(PBA) + 8 * word });
        words.map(|at| u64::from_le_bytes(self.read(at))).collect()
    }

    fn read<const N: usize>(&self, at: Offset) -> [u8; N] {
        let mut data = [0xee; N];
        assert!(self.msix.read(at, &mut data));
        data
    }

    /// All that the guest can read of it.
    fn dump(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        assert!(self.function.read(Offset { window: 0, byte: 0 }, &mut bytes));
        for part in [self.msix.table(), self.msix.pba()] {
            for byte in part.step_by(8) {
                bytes.extend(self.read::<8>(Offset { window: 1, byte }));
            }
        }
        bytes
    }
}

fn entry(vector: u16, byte: u64) -> Offset {
    Offset { window: 1, byte: u64::from(TABLE) + 16 * u64::from(vector) + byte }
}

fn message(vector: u16) -> Message {
    Message { address: 0x8_0809_0040, data: 0x100 + u32::from(vector) }
}

fn wires(count: u16) -> Vec<MsiVector> {
    Msix::wires(&BenchHost::new(0x1000), count).unwrap().unwrap()
}

/// The capability of so many vectors at `place`.
fn capability(count: u16, place: Place) -> Result<[u8; 12], LayoutError> {
    let small = Bar { size: 256, space: BarSpace::Mmio32 };
    let ports = Bar { size: 256, space: BarSpace::Io };
    let mut config = ConfigSpace::new(Identity::default(), &[BAR, small, BAR, ports], false).unwrap();
    let msix = Msix::new(&mut config, place, wires(count))?;
    Ok(config.bytes(msix.control() - 2))
}

// C-144.
#[test]
fn the_capability_says_how_many_vectors_there_are_and_where() {
    let place = Place { window: 3, table: 0x1000, pba: 0x2008 };

    let found = capability(67, place);

    assert_eq!(found, Ok([0x11, 0, 66, 0, 0x03, 0x10, 0, 0, 0x0b, 0x20, 0, 0]));
}

// C-143.
#[test]
fn there_can_be_1_to_2048_vectors() {
    let large = Bar { size: 0x1_0000, space: BarSpace::Mmio32 };
    let place = Place { window: 1, table: 0, pba: 0x8000 };
    let count = |count| {
        let mut config = ConfigSpace::new(Identity::default(), &[large], false).unwrap();
        Msix::new(&mut config, place, wires(count)).map(|msix| msix.count())
    };

    let wrong = LayoutError::Vectors;
    assert_eq!([0, 1, 2048, 2049].map(count), [Err(wrong(0)), Ok(1), Ok(2048), Err(wrong(2049))]);
}

#[test]
fn a_machine_without_messages_has_no_vectors() {
    let host = BenchHost::new(0x1000).without_messages();

    assert!(Msix::wires(&host, 4).unwrap().is_none());
}

#[test]
fn a_table_that_cannot_be_there_is_refused() {
    let wrong = [
        Place { window: 1, table: 4, pba: 0x1000 },
        Place { window: 1, table: 0, pba: 0x1004 },
        // The last byte of one is the first of the other.
        Place { window: 1, table: 0, pba: 0x418 },
        Place { window: 1, table: 8, pba: 0 },
        Place { window: 1, table: 0x3be8, pba: 0 },
        Place { window: 1, table: 0, pba: 0x3ff8 },
        Place { window: 1, table: 0xffff_fff8, pba: 0 },
        Place { window: 2, table: 0, pba: 0x1000 },
        Place { window: 0, table: 0, pba: 0x1000 },
        Place { window: 5, table: 0, pba: 0x1000 },
    ];
    for place in wrong {
        let Place { window, table, pba } = place;
        assert_eq!(capability(66, place), Err(LayoutError::Table { window, table, pba }));
    }
    let ports = Place { window: 4, table: 0, pba: 0x80 };
    assert_eq!(capability(2, ports), Err(LayoutError::Table { window: 4, table: 0, pba: 0x80 }));
    let right = [
        Place { window: 1, table: 0, pba: 0x420 },
        Place { window: 1, table: 0x10, pba: 0 },
        Place { window: 1, table: 0x3be0, pba: 0 },
        Place { window: 3, table: 0, pba: 0x3ff0 },
    ];
    for place in right {
        assert!(capability(66, place).is_ok(), "{place:?}");
    }
}

#[test]
fn every_vector_begins_masked() {
    let bench = Bench::new(3);

    for vector in 0..3 {
        assert_eq!(bench.read(entry(vector, 8)), [0, 0, 0, 0, 1, 0, 0, 0]);
    }
}

#[test]
fn an_entry_reads_back_in_words_of_both_lengths() {
    let bench = Bench::new(3);
    for (word, value) in [(0, 0x1122_3347_u32), (4, 0x5566_7788), (8, 0x99aa_bbcc), (12, 0xffff_fffe)] {
        bench.msix.write(entry(1, word), &value.to_le_bytes());
    }
    bench.msix.write(entry(2, 0), &0x0102_0304_0506_0707_u64.to_le_bytes());
    bench.msix.write(entry(2, 8), &0xffff_ffff_1234_5678_u64.to_le_bytes());

    let words = [0, 8].map(|byte| u64::from_le_bytes(bench.read(entry(1, byte))));
    assert_eq!(words, [0x5566_7788_1122_3344, 0x0000_0000_99aa_bbcc]);
    let words = [0, 4, 8, 12].map(|byte| u32::from_le_bytes(bench.read(entry(2, byte))));
    assert_eq!(words, [0x0506_0704, 0x0102_0304, 0x1234_5678, 1]);
}

// the whole window and past its end, in every width, at every offset.
#[test]
fn accesses_that_are_not_aligned_words_read_as_zero_and_change_nothing() {
    const COUNT: u16 = 66;
    let bench = Bench::new(COUNT);
    for vector in [0, 3, 64] {
        bench.msix.fire(vector);
    }
    // What can be read and written, byte by byte: the address but for two bits, the data, the mask.
    let mut bytes = vec![0u8; BAR.size as usize + 80];
    let mut writable = vec![0u8; bytes.len()];
    for vector in 0..COUNT {
        let at = entry(vector, 0).byte as usize;
        bytes[at + 12] = 1;
        writable[at..at + 13]
            .copy_from_slice(&[0xfc, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }
    (bytes[PBA as usize], bytes[PBA as usize + 8]) = (0b1001, 0b1);
    let table = u64::from(TABLE)..u64::from(TABLE) + 16 * u64::from(COUNT);
    let pba = u64::from(PBA)..u64::from(PBA) + 16;

    for value in [0xff, 0, 0x5a] {
        for len in [1, 2, 4, 8, 16] {
            for byte in 0..BAR.size + 64 {
                let touched = |range: &Range<u64>| byte < range.end && range.start < byte + len;
                let ours = touched(&table) || touched(&pba);
                let at = Offset { window: 1, byte };
                let len = len as usize;
                assert_eq!(bench.msix.write(at, &vec![value; len]), ours, "{len} bytes at {byte:#x}");
                let within = byte as usize..byte as usize + len;
                let word = [4, 8].contains(&len) && (byte as usize).is_multiple_of(len);
                if word {
                    for at in within.clone() {
                        bytes[at] = bytes[at] & !writable[at] | value & writable[at];
                    }
                }
                let mut read = vec![0xee; len];
                assert_eq!(bench.msix.read(at, &mut read), ours);
                let expected = match (ours, word) {
                    (true, true) => bytes[within].to_vec(),
                    (true, false) => vec![0; len],
                    (false, _) => vec![0xee; len],
                };
                assert_eq!(read, expected, "{len} bytes at {byte:#x}");
            }
        }
    }
}

#[test]
fn other_windows_and_the_end_of_all_addresses_are_not_the_tables() {
    let bench = Bench::new(2);
    for at in [
        Offset { window: 0, byte: TABLE.into() },
        Offset { window: 2, byte: TABLE.into() },
        Offset { window: 1, byte: u64::MAX },
        Offset { window: 1, byte: u64::MAX - 7 },
    ] {
        assert_eq!((bench.msix.read(at, &mut [0; 8]), bench.msix.write(at, &[0; 8])), (false, false));
    }
}

#[test]
fn a_vector_that_may_be_sent_is_sent_once_for_each_event() {
    let mut bench = Bench::enabled(2);
    bench.set_up(1);

    bench.msix.fire(1);
    bench.msix.fire(1);

    assert_eq!((bench.sent(0), bench.sent(1)), (vec![], vec![message(1); 2]));
    assert_eq!(bench.pending(), [0]);
}

// C-151.
#[test]
fn whatever_withholds_a_message_it_is_pending_and_delivered_once() {
    type Turn = fn(&mut Bench, bool);
    let withheld: [Turn; 4] = [
        |bench, withhold| bench.mask(1, withhold),
        |bench, withhold| bench.control(if withhold { ENABLE | FUNCTION_MASK } else { ENABLE }),
        |bench, withhold| bench.control(if withhold { 0 } else { ENABLE }),
        |bench, withhold| bench.command(if withhold { 0 } else { MASTER }),
    ];
    for turn in withheld {
        let mut bench = Bench::enabled(2);
        bench.set_up(1);
        turn(&mut bench, true);
        bench.msix.fire(1);
        bench.msix.fire(1);
        let before = (bench.sent(1), bench.pending());
        turn(&mut bench, false);
        let after = (bench.sent(1), bench.pending());
        turn(&mut bench, true);
        turn(&mut bench, false);

        assert_eq!(before, (vec![], vec![0b10]));
        assert_eq!(after, (vec![message(1)], vec![0]));
        assert_eq!(bench.sent(1), [message(1)]);
    }
}

#[test]
fn a_pending_message_waits_until_nothing_withholds_it() {
    let mut bench = Bench::new(1);
    bench.address(0, message(0).address);
    bench.data(0, message(0).data);
    bench.msix.fire(0);
    let mut sent = Vec::new();
    bench.mask(0, false);
    sent.push(bench.sent(0).len());
    bench.control(ENABLE | FUNCTION_MASK);
    sent.push(bench.sent(0).len());
    bench.control(ENABLE);
    sent.push(bench.sent(0).len());
    bench.command(MASTER);
    sent.push(bench.sent(0).len());

    assert_eq!(sent, [0, 0, 0, 1]);
}

#[test]
fn pending_bits_are_where_their_vectors_are() {
    let bench = Bench::new(130);
    for vector in [0, 9, 63, 64, 129] {
        bench.msix.fire(vector);
    }

    assert_eq!(bench.pending(), [1 << 63 | 1 << 9 | 1, 1, 0b10]);
    let half: [u8; 4] = bench.read(Offset { window: 1, byte: u64::from(PBA) + 4 });
    assert_eq!(half, [0, 0, 0, 0x80]);
}

#[test]
fn a_new_message_of_an_unmasked_vector_takes_effect() {
    let mut bench = Bench::enabled(1);
    bench.set_up(0);
    bench.msix.fire(0);
    bench.data(0, 7);
    bench.msix.fire(0);
    bench.address(0, 0xffff_0000);
    bench.msix.fire(0);

    let first = message(0);
    let expected = [first, Message { data: 7, ..first }, Message { address: 0xffff_0000, data: 7 }];
    assert_eq!(bench.sent(0), expected);
}

#[test]
fn a_message_that_is_changed_while_it_is_pending_goes_out_as_it_is_then() {
    let mut bench = Bench::enabled(1);
    bench.msix.fire(0);

    bench.set_up(0);

    assert_eq!(bench.sent(0), [message(0)]);
}

//
#[test]
fn a_vector_that_there_is_not_does_nothing() {
    let mut bench = Bench::enabled(2);
    bench.set_up(0);
    bench.set_up(1);
    for vector in [2, 3, 64, 2048, u16::MAX] {
        bench.msix.fire(vector);
    }

    assert_eq!((bench.sent(0), bench.sent(1), bench.pending()), (vec![], vec![], vec![0]));
}

/// The bench refuses messages there.
const REFUSED: u64 = 1 << 63;

#[test]
fn a_refused_message_is_dropped_until_the_guest_writes_another() {
    let mut bench = Bench::enabled(2);
    bench.set_up(1);
    bench.address(1, REFUSED);
    bench.msix.fire(1);
    let refused = (bench.sent(1), bench.pending());
    bench.address(1, message(1).address);
    let again = bench.sent(1);
    bench.msix.fire(1);

    assert_eq!((refused, again), ((vec![], vec![0]), vec![]));
    assert_eq!(bench.sent(1), [message(1)]);
}

#[test]
fn a_pending_message_that_is_refused_is_not_owed_any_more() {
    let mut bench = Bench::enabled(1);
    bench.address(0, REFUSED);
    bench.msix.fire(0);
    bench.mask(0, false);
    let pending = bench.pending();
    bench.set_up(0);

    assert_eq!((pending, bench.sent(0)), (vec![0], vec![]));
}

/// Keeps what is asked of it; of messages it takes those alone that have data.
#[derive(Clone, Default)]
struct Wire {
    routes: Arc<Mutex<Vec<Option<Message>>>>,
    pulses: Arc<AtomicUsize>,
}

impl MsiWire for Wire {
    fn route(&self, message: Option<Message>) -> Result<(), HostError> {
        self.routes.lock().unwrap().push(message);
        match message {
            Some(Message { data: 0, .. }) => {
                Err(HostError { wanted: "a message".into(), source: std::io::ErrorKind::Other.into() })
            }
            _ => Ok(()),
        }
    }

    fn pulse(&self) {
        self.pulses.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wire {
    /// A function whose only vector has it.
    fn bench(&self) -> Bench {
        let mut config = ConfigSpace::new(Identity::default(), &[BAR], false).unwrap();
        let msix = Msix::new(&mut config, PLACE, vec![MsiVector::new(self.clone())]).unwrap();
        let function = Function::new(config, None, Some(msix));
        let msix = function.msix.clone().unwrap();
        Bench { function, msix, logs: vec![] }
    }

    fn asked(&self) -> Vec<Option<Message>> {
        std::mem::take(&mut *self.routes.lock().unwrap())
    }
}

#[test]
fn a_wire_that_is_refused_is_not_pulsed_and_is_tried_again_when_the_guest_unmasks() {
    let wire = Wire::default();
    let mut bench = wire.bench();
    bench.command(MASTER);
    bench.control(ENABLE);
    bench.mask(0, false);
    bench.msix.fire(0);
    bench.mask(0, true);
    bench.mask(0, false);
    bench.msix.fire(0);

    let refused = Some(Message { address: 0, data: 0 });
    assert_eq!((wire.asked(), wire.pulses.load(Ordering::SeqCst)), (vec![refused, refused], 0));
}

#[test]
fn a_wire_is_routed_only_when_something_changes() {
    let wire = Wire::default();
    let mut bench = wire.bench();
    let to = Some(message(0));

    bench.address(0, message(0).address);
    bench.data(0, message(0).data);
    bench.command(MASTER);
    bench.control(ENABLE | FUNCTION_MASK);
    bench.control(ENABLE);
    assert_eq!(wire.asked(), [], "while the vector is masked");
    bench.mask(0, false);
    assert_eq!(wire.asked(), [to]);
    bench.mask(0, false);
    bench.address(0, message(0).address);
    bench.data(0, message(0).data);
    bench.control(ENABLE);
    bench.command(MASTER);
    bench.msix.fire(0);
    assert_eq!(wire.asked(), [], "while it stays as it is");
    bench.mask(0, true);
    bench.control(ENABLE | FUNCTION_MASK);
    bench.mask(0, false);
    assert_eq!(wire.asked(), [None], "for two masks");
    bench.control(ENABLE);
    bench.control(0);
    bench.function.reset();
    assert_eq!(wire.asked(), [to, None]);
}

#[test]
fn a_reset_takes_back_table_pending_bits_and_routes() {
    let mut bench = Bench::new(66);
    let power_on = bench.dump();
    bench.command(MASTER);
    bench.control(ENABLE);
    bench.set_up(0);
    bench.msix.fire(65);
    assert_ne!(bench.dump(), power_on);
    assert_eq!(bench.logs[0].route(), Some(message(0)));

    bench.function.reset();

    assert_eq!((bench.dump(), bench.msix.is_enabled(), bench.logs[0].route()), (power_on, false, None));
}

/// What a guest, and a device, may do to two vectors.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fire(u16),
    Mask(u16, bool),
    Data(u16, u32),
    Command(u16),
    Control(u16),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let vector = || 0u16..3;
    let control = prop::sample::select(vec![0, FUNCTION_MASK, ENABLE, ENABLE, ENABLE | FUNCTION_MASK]);
    prop_oneof![
        6 => vector().prop_map(Step::Fire),
        4 => (0u16..2, any::<bool>()).prop_map(|(vector, masked)| Step::Mask(vector, masked)),
        1 => (0u16..2, 0u32..3).prop_map(|(vector, data)| Step::Data(vector, data)),
        2 => prop::sample::select(vec![0, MASTER, MASTER]).prop_map(Step::Command),
        3 => control.prop_map(Step::Control),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    /// The rules once more, without routes.
    #[test]
    fn messages_go_out_as_the_rules_say(steps in prop::collection::vec(step(), 0..60)) {
        let mut bench = Bench::new(2);
        let (mut command, mut control) = (0, 0);
        let (mut masked, mut owed, mut data) = ([true; 2], [false; 2], [0; 2]);
        let mut sent = [vec![], vec![]];
        for step in steps {
            let mut fired = None;
            match step {
                Step::Fire(vector) => {
                    bench.msix.fire(vector);
                    fired = Some(vector);
                }
                Step::Mask(vector, value) => {
                    bench.mask(vector, value);
                    masked[usize::from(vector)] = value;
                }
                Step::Data(vector, value) => {
                    bench.data(vector, value);
                    data[usize::from(vector)] = value;
                }
                Step::Command(value) => {
                    bench.command(value);
                    command = value;
                }
                Step::Control(value) => {
                    bench.control(value);
                    control = value;
                }
                Step::Reset => {
                    bench.function.reset();
                    (command, control, masked, owed, data) = (0, 0, [true; 2], [false; 2], [0; 2]);
                }
            }
            for (index, vector) in (0..).zip([0u16, 1]) {
                let index: usize = index;
                owed[index] |= fired == Some(vector);
                if owed[index] && !masked[index] && control == ENABLE && command == MASTER {
                    owed[index] = false;
                    sent[index].push(Message { address: 0, data: data[index] });
                }
                prop_assert_eq!(&bench.sent(vector), &sent[index]);
            }
            prop_assert_eq!(bench.pending(), [u64::from(owed[0]) | u64::from(owed[1]) << 1]);
            prop_assert_eq!(bench.msix.is_enabled(), control & ENABLE != 0);
        }
    }
}

/// Withholds messages in one way after another, for a moment each.
fn withhold_in_turn(bench: &mut Bench, round: u16) {
    let vector = round % 3;
    match round % 5 {
        0 => bench.control(ENABLE | FUNCTION_MASK),
        1 => bench.control(0),
        2 => bench.command(0),
        3 => bench.data(vector, message(vector).data),
        _ => bench.mask(vector, true),
    }
    thread::yield_now();
    bench.command(MASTER);
    bench.control(ENABLE);
    bench.mask(vector, false);
}

// R-72 and C-151. A thread for each vector waits for the message of each event before the next: one that is
// lost is waited for until it hangs, one that is sent twice is one too many.
#[test]
fn events_are_delivered_once_each_while_the_guest_masks_and_unmasks() {
    const TIMES: usize = 2000;
    const HANG: Duration = Duration::from_secs(60);
    let mut bench = Bench::enabled(3);
    for vector in 0..3 {
        bench.set_up(vector);
    }
    let (msix, logs) = (Arc::clone(&bench.msix), bench.logs.clone());
    let start = Barrier::new(5);
    let left = AtomicUsize::new(3);
    let began = Instant::now();

    thread::scope(|scope| {
        let (msix, start, left) = (&msix, &start, &left);
        for (vector, log) in (0..).zip(&logs) {
            scope.spawn(move || {
                start.wait();
                for sent in 0..TIMES {
                    // So that it does not run to its end while nobody masks.
                    thread::yield_now();
                    msix.fire(vector);
                    while log.sent().len() <= sent && began.elapsed() < HANG {
                        thread::yield_now();
                    }
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        // A second processor of the guest, on the table alone.
        scope.spawn(move || {
            start.wait();
            while left.load(Ordering::SeqCst) > 0 {
                for masked in [1, 0] {
                    for vector in 0..3 {
                        msix.write(entry(vector, 12), &[masked, 0, 0, 0]);
                    }
                    thread::yield_now();
                }
            }
        });
        start.wait();
        for round in (0..5).cycle().take_while(|_| left.load(Ordering::SeqCst) > 0) {
            withhold_in_turn(&mut bench, round);
        }
    });

    for vector in 0..3 {
        assert_eq!(bench.sent(vector), vec![message(vector); TIMES]);
    }
    assert_eq!(bench.pending(), [0]);
}

// Events of a vector that is masked are one message; the last event is followed by one all the same.
#[test]
fn events_of_one_vector_become_at_most_as_many_messages_and_at_least_one_after_the_last() {
    const TIMES: usize = 5000;
    let mut bench = Bench::enabled(1);
    bench.set_up(0);
    let msix = Arc::clone(&bench.msix);
    let start = Barrier::new(3);

    let before = thread::scope(|scope| {
        let firing = [0, 1].map(|_| {
            scope.spawn(|| {
                start.wait();
                for _ in 1..TIMES {
                    msix.fire(0);
                }
                let before = bench.logs[0].sent().len();
                msix.fire(0);
                before
            })
        });
        start.wait();
        while !firing.iter().all(|one| one.is_finished()) {
            bench.mask(0, true);
            bench.mask(0, false);
        }
        firing.map(|one| one.join().unwrap())
    });

    let sent = bench.sent(0).len();
    assert!(before.iter().all(|before| *before < sent) && sent <= 2 * TIMES, "{before:?} {sent}");
    assert_eq!(bench.pending(), [0]);
}
