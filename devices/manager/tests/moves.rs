//! A function's windows are where the guest puts them, as far as the plan allows, and its doorbells go along.

mod pci;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ambit_bus::bench::{BenchHost, Held};
use ambit_bus::{Backplane, BarSpace, HostError, IrqLine, Match, Model, MsiVector, Space, Trigger, Wired};
use ambit_device_manager::{BuildError, Decoded, NotThere, Outcome, pci as parts};
use ambit_memory::GuestMemory;
use ambit_resources::{AddressRange, IrqPin, PaBits};
use vmm_sys_util::eventfd::EventFd;

use pci::{BARS, BELL, CONSOLE, Card, ECAM, IO, MMIO32, Machine, RAM, card};

const LOW: u64 = MMIO32.first();
/// How long anything may take before it counts as hung.
const HANG: Duration = Duration::from_secs(20);

fn at(id: &str, window: u8, first: u64) -> (String, u8, u64) {
    (id.into(), window, first)
}

fn high(machine: &Machine) -> AddressRange {
    machine.plan.range(parts::MMIO64).unwrap()
}

#[test]
fn before_the_guest_has_placed_anything_only_configuration_spaces_answer() {
    let machine = Machine::new(&[("a", 0x20)]);

    let decoded = |id: &str, range| Decoded { id: id.into(), window: 0, space: Space::Memory, range };
    assert_eq!(
        machine.manager.decoded(),
        [
            decoded("console", CONSOLE),
            decoded(parts::BRIDGE, machine.plan.device(parts::BRIDGE).unwrap().slot.windows[0]),
            decoded("a", machine.plan.device("a").unwrap().slot.windows[0])
        ]
    );
    assert_eq!([machine.byte(CONSOLE.first()), machine.byte(machine.config("a"))], [0xcc, 0x20]);
}

#[test]
fn a_window_answers_where_the_guest_puts_it_and_no_longer_where_it_was() {
    let machine = Machine::new(&[("a", 0x20)]);

    machine.put("a", 2, Some(LOW));
    let before = [LOW, LOW + 0xfff, LOW + 0x1000, LOW + 0x2000].map(|address| machine.byte(address));
    machine.put("a", 2, Some(LOW + 0x2000));
    let moved = [LOW, LOW + 0x2000].map(|address| machine.byte(address));
    machine.put("a", 2, None);

    assert_eq!(before, [0x22, 0x22, 0xff, 0xff]);
    assert_eq!(moved, [0xff, 0x22]);
    assert_eq!(machine.placed(), []);
}

#[test]
fn a_wide_window_may_be_in_either_window_of_memory_and_ports_are_numbers() {
    let machine = Machine::new(&[("a", 0x20)]);
    let top = high(&machine).last() - 0x3fff;

    machine.put("a", 1, Some(top));
    machine.put("a", 4, Some(0xffc0));
    let placed = machine.placed();
    machine.put("a", 1, Some(LOW));

    assert_eq!(placed, [at("a", 4, IO.first() + 0xffc0), at("a", 1, top)]);
    assert_eq!(machine.placed(), [at("a", 4, IO.first() + 0xffc0), at("a", 1, LOW)]);
}

#[test]
fn a_window_put_where_it_cannot_be_is_nowhere_and_everything_else_is_as_it_was() {
    for place in [0, RAM.first(), CONSOLE.first(), ECAM.first(), IO.first(), LOW + 4, LOW - 0x1000, 1 << 63] {
        let machine = Machine::new(&[("a", 0x20)]);
        let before = machine.manager.decoded();
        machine.put("a", 2, Some(LOW));

        machine.put("a", 2, Some(place));

        assert_eq!(machine.manager.decoded(), before, "{place:#x}");
        assert_eq!(machine.byte(CONSOLE.first()), 0xcc, "{place:#x}");
    }
}

#[test]
fn of_two_at_one_place_the_first_stays_and_the_other_comes_when_it_is_moved_again() {
    let machine = Machine::new(&[("a", 0x20), ("b", 0x40)]);
    machine.put("a", 1, Some(LOW));

    machine.put("b", 2, Some(LOW + 0x3000));
    let both = machine.placed();
    machine.put("a", 1, None);
    let gone = machine.placed();
    machine.put("b", 3, None);

    assert_eq!(both, [at("a", 1, LOW)]);
    assert_eq!(gone, []);
    assert_eq!(machine.placed(), [at("b", 2, LOW + 0x3000)]);
}

#[test]
fn two_windows_of_a_function_can_change_places_at_once() {
    let machine = Machine::new(&[("a", 0x20)]);
    machine.put("a", 2, Some(LOW));
    machine.put("a", 3, Some(LOW + 0x1000));

    // Two vCPUs write, and the first one's move sees both.
    machine.put_quietly("a", 2, LOW + 0x1000);
    machine.put("a", 3, Some(LOW));

    assert_eq!(machine.placed(), [at("a", 3, LOW), at("a", 2, LOW + 0x1000)]);
}

#[test]
fn doorbells_ring_where_their_window_is_and_nowhere_else() {
    let machine = Machine::new(&[("a", 0x20)]);
    let rings = |address: u64| machine.host.signals(address + BELL, &[1, 0]);
    machine.put("a", 1, Some(LOW));

    let first = [rings(LOW), rings(LOW + 0x4000)];
    machine.put("a", 1, Some(LOW + 0x4000));
    let moved = [rings(LOW), rings(LOW + 0x4000)];
    machine.put("a", 1, Some(RAM.first()));

    assert_eq!((first, moved), ([true, false], [false, true]));
    assert_eq!(machine.host.held().doorbells, 0);
}

#[test]
fn where_the_host_has_no_room_for_a_doorbell_the_device_is_called() {
    let machine = Machine::on(BenchHost::new(4096).with_doorbells(1), &[("a", 0x20)]);
    machine.put("a", 1, Some(LOW));
    let write = |value: u8| {
        let data = [value, 0];
        machine.host.signals(LOW + BELL, &data) || machine.manager.write(LOW + BELL, &data) == Outcome::Missed
    };

    let taken = [write(0), write(1)];

    assert_eq!(taken, [true, false]);
    assert_eq!(machine.byte(LOW), 0x31);
}

#[test]
fn functions_on_one_wire_hold_it_together() {
    // Numbers 1 and 5.
    let cards: Vec<String> = (1..=5).map(|n| format!("c{n}")).collect();
    let cards: Vec<(&str, u8)> = cards.iter().map(|id| (id.as_str(), 0)).collect();
    let machine = Machine::new(&cards);
    let pin = machine.host.pin(IrqPin(4));
    let mut seen = Vec::new();

    for (id, high) in [("c1", true), ("c5", true), ("c1", false), ("c5", false), ("c2", true)] {
        machine.raise(id, high);
        seen.push(pin.is_high());
    }

    assert_eq!(seen, [true, true, true, false, false]);
    assert_eq!(machine.host.held().lines, 4);
}

#[test]
fn an_unplugged_function_is_gone_with_all_it_had() {
    let machine = Machine::new(&[("a", 0x20)]);
    let held = machine.host.held();
    let late = card("b", 0x40);
    let mut plan = machine.plan.clone();
    let placed = plan.add(&late.request()).unwrap().clone();
    machine.manager.plug(&placed, &late).unwrap();
    let machine = Machine { plan, ..machine };
    machine.put("b", 1, Some(LOW));
    machine.raise("b", true);
    let there = [machine.byte(machine.config("b")), machine.byte(LOW)];

    machine.manager.unplug("b").unwrap();

    assert_eq!(there, [0x40, 0x41]);
    assert_eq!([machine.byte(machine.config("b")), machine.byte(LOW)], [0xff, 0xff]);
    assert_eq!(late.resets.load(Ordering::SeqCst), 1);
    assert_eq!(machine.host.held(), held);
    let (pin, _) = placed.slot.irq.unwrap();
    assert!(!machine.host.pin(pin).is_high());
    assert_eq!(machine.manager.unplug("b"), Err(NotThere("b".into())));
}

#[test]
fn a_device_is_plugged_once() {
    let machine = Machine::new(&[("a", 0x20)]);
    let (before, held) = (machine.manager.decoded(), machine.host.held());

    let again = machine.manager.plug(machine.plan.device("a").unwrap(), &card("a", 0x60));

    assert!(matches!(again, Err(BuildError::Twice(id)) if id == "a"));
    assert_eq!((machine.manager.decoded(), machine.host.held()), (before, held));
}

#[test]
fn a_device_that_finds_its_place_taken_leaves_nothing_behind() {
    let machine = Machine::new(&[("a", 0x20)]);
    let held = machine.host.held();
    let free = AddressRange::fixed(0x10_0000, 0x1000);
    let mut placed = machine.plan.device("a").unwrap().clone();
    (placed.id, placed.function) = ("b".into(), None);
    placed.slot.windows.insert(0, free);

    let refused = machine.manager.plug(&placed, &card("b", 0x60)).unwrap_err();

    assert_eq!(
        refused.to_string(),
        "device b cannot be plugged: the window [0x10008000-0x10008fff] overlaps another one on the bus"
    );
    assert_eq!([machine.byte(free.first()), machine.byte(machine.config("a"))], [0xff, 0x20]);
    assert_eq!(machine.host.held(), held);
}

/// Random numbers, the same every time (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Somewhere good, somewhere bad, or nowhere, for a window of `size` bytes.
    fn place(&mut self, size: u64, high: AddressRange) -> Option<u64> {
        let inside = |window: AddressRange, step: u64| window.first() + step * size % window.size();
        let step = self.next() >> 16;
        Some(match self.below(16) {
            0..5 => inside(MMIO32, step),
            5..8 => inside(high, step),
            8..11 => step * size % IO.size(),
            11 => inside(RAM, step),
            12 => [0, CONSOLE.first(), ECAM.first() + 0x8000, IO.first(), 0u64.wrapping_sub(size)]
                [usize::try_from(step % 5).unwrap()],
            13 => inside(MMIO32, step) + (step & 0xff),
            14 => [MMIO32.last() + 1, high.last() + 1, MMIO32.first() - size, IO.size()]
                [usize::try_from(step % 4).unwrap()],
            _ => return None,
        })
    }
}

/// Where windows must be, decided in the plainest way.
struct Oracle {
    high: AddressRange,
    wanted: [[Option<u64>; 4]; 6],
    up: Vec<(usize, usize, u64, u64)>,
}

impl Oracle {
    /// First and size, if the place is a good one.
    fn good(&self, card: usize, bar: usize) -> Option<(u64, u64)> {
        let (place, size) = (self.wanted[card][bar]?, BARS[bar].size);
        let holds = |window: AddressRange, first: u128| {
            first >= window.first().into() && first + u128::from(size) <= u128::from(window.last()) + 1
        };
        let first = match BARS[bar].space {
            BarSpace::Io => u128::from(IO.first()) + u128::from(place),
            BarSpace::Mmio32 | BarSpace::Mmio64 => place.into(),
        };
        let windows = match BARS[bar].space {
            BarSpace::Io => vec![IO],
            BarSpace::Mmio32 | BarSpace::Mmio64 => vec![MMIO32, self.high],
        };
        let good = place % size == 0 && windows.into_iter().any(|window| holds(window, first));
        good.then(|| (u64::try_from(first).unwrap(), size))
    }

    fn moved(&mut self, card: usize) {
        let good: Vec<_> = (0..4).map(|bar| self.good(card, bar)).collect();
        self.up.retain(|(owner, bar, first, size)| *owner != card || good[*bar] == Some((*first, *size)));
        for (bar, good) in good.into_iter().enumerate() {
            let Some((first, size)) = good else { continue };
            let is_up = self.up.iter().any(|it| (it.0, it.1) == (card, bar));
            let is_free = self.up.iter().all(|it| it.2 + it.3 <= first || first + size <= it.2);
            if !is_up && is_free {
                self.up.push((card, bar, first, size));
            }
        }
    }
}

///
#[test]
fn ten_thousand_random_moves_leave_the_bus_as_the_rules_say_each_time() {
    let ids = ["a", "b", "c", "d", "e", "f"];
    let cards: Vec<(&str, u8)> = ids.into_iter().zip((1..).map(|n| n * 0x10)).collect();
    let machine = Machine::new(&cards);
    let fixed = machine.manager.decoded();
    let mut oracle = Oracle { high: high(&machine), wanted: Default::default(), up: Vec::new() };
    let mut rng = Rng(73);
    for turn in 0..10_000 {
        let (card, bar) = (usize::try_from(rng.below(6)).unwrap(), usize::try_from(rng.below(4)).unwrap());
        let place = rng.place(BARS[bar].size, oracle.high);

        machine.put(ids[card], bar as u64 + 1, place);
        oracle.wanted[card][bar] = place;
        oracle.moved(card);

        let mut expected = fixed.clone();
        expected.extend(oracle.up.iter().map(|(card, bar, first, size)| Decoded {
            space: Space::Memory,
            id: ids[*card].into(),
            window: u8::try_from(*bar).unwrap() + 1,
            range: AddressRange::fixed(*first, *size),
        }));
        expected.sort_by_key(|decoded| decoded.range.first());
        assert_eq!(machine.manager.decoded(), expected, "turn {turn}");
        for (card, bar, first, size) in &oracle.up {
            let byte = cards[*card].1 + u8::try_from(*bar).unwrap() + 1;
            assert_eq!([machine.byte(*first), machine.byte(first + size - 1)], [byte; 2], "turn {turn}");
        }
        let bells: Vec<u64> = oracle.up.iter().filter(|it| it.1 == 0).map(|it| it.2).collect();
        assert_eq!(machine.host.held().doorbells, 2 * bells.len(), "turn {turn}");
        assert!(bells.iter().all(|first| machine.host.signals(first + BELL, &[0, 0])), "turn {turn}");
        assert_eq!(machine.byte(CONSOLE.first()), 0xcc, "turn {turn}");
        assert_eq!(machine.byte(RAM.first()), 0xff, "turn {turn}");
    }
}

/// A machine whose next doorbell takes until it is told.
struct Gate {
    bench: BenchHost,
    inside: mpsc::Sender<()>,
    leave: Mutex<mpsc::Receiver<()>>,
}

impl Backplane for Gate {
    fn memory(&self) -> GuestMemory {
        Backplane::memory(&self.bench)
    }

    fn pa_bits(&self) -> PaBits {
        Backplane::pa_bits(&self.bench)
    }

    fn irq(&self, pin: IrqPin, trigger: Trigger) -> Result<IrqLine, HostError> {
        Backplane::irq(&self.bench, pin, trigger)
    }

    fn message(&self, requester: u16) -> Result<Option<MsiVector>, HostError> {
        Backplane::message(&self.bench, requester)
    }

    fn doorbell(
        &self,
        space: Space,
        address: u64,
        write: Match,
        event: &Arc<EventFd>,
    ) -> Result<Wired, HostError> {
        if write == Match::Half(0) {
            self.inside.send(()).unwrap();
            self.leave.lock().unwrap().recv_timeout(HANG).unwrap();
        }
        Backplane::doorbell(&self.bench, space, address, write, event)
    }
}

#[test]
fn a_move_that_waited_for_another_sees_what_was_written_meanwhile() {
    let (inside, is_inside) = mpsc::channel();
    let (leave, told) = mpsc::channel();
    let gate = Gate { bench: BenchHost::new(4096), inside, leave: Mutex::new(told) };
    let machine = Machine::on(gate, &[("a", 0x20), ("b", 0x40)]);

    thread::scope(|scope| {
        scope.spawn(|| machine.put("b", 1, Some(LOW + 0x8000)));
        is_inside.recv_timeout(HANG).unwrap();
        scope.spawn(|| machine.put("a", 2, Some(LOW)));
        let begun = Instant::now();
        while machine.said("a", 2) != Some(LOW) && begun.elapsed() < HANG {
            thread::yield_now();
        }
        // One that had asked the device before its turn would have done so by now.
        thread::sleep(Duration::from_millis(20));
        machine.put_quietly("a", 2, LOW + 0x1000);
        leave.send(()).unwrap();
    });

    assert_eq!(machine.placed(), [at("a", 2, LOW + 0x1000), at("b", 1, LOW + 0x8000)]);
}

#[test]
fn vcpus_that_move_everything_at_once_end_where_the_registers_say() {
    let machine = Machine::new(&[("a", 0x20), ("b", 0x40)]);
    let windows = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)];

    thread::scope(|scope| {
        for (half, (id, number)) in (0..).zip(windows) {
            let machine = &machine;
            // Each has room of its own, so that where it ends does not hang on who was first.
            let room = LOW + half * 0x8000;
            scope.spawn(move || {
                for step in 0..2000 {
                    machine.put(id, number, Some(room + step % 2 * 0x4000));
                    machine.byte(room);
                }
            });
        }
    });

    let said =
        windows.map(|(id, number)| at(id, u8::try_from(number).unwrap(), machine.said(id, number).unwrap()));
    assert_eq!(machine.placed(), said);
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

///
#[test]
fn ten_thousand_plugs_and_unplugs_leave_every_count_where_it_was() {
    let machine = Machine::new(&[("a", 0x20)]);
    machine.put("a", 1, Some(LOW));
    let mut plan = machine.plan.clone();
    let before = (plan.clone(), machine.manager.decoded(), machine.host.held());
    let mut most = Held { lines: 0, messages: 0, doorbells: 0 };

    for turn in 0..10_000_u64 {
        let card: Card = card("b", 0x40);
        let placed = plan.add(&card.request()).unwrap().clone();
        let config = placed.slot.windows[0].first();
        machine.manager.plug(&placed, &card).unwrap();
        for place in [LOW + 0x4000, high(&machine).first(), RAM.first(), LOW + 0x8000] {
            let moved = machine.manager.write(config + 8, &place.to_le_bytes());
            assert_eq!(moved, Outcome::Done);
        }
        assert_eq!(machine.manager.write(config, &[u8::try_from(turn % 2).unwrap()]), Outcome::Done);
        most = machine.host.held();
        machine.manager.unplug("b").unwrap();
        plan.remove("b").unwrap();
    }

    assert_eq!(most, Held { lines: 2, messages: 4, doorbells: 4 });
    assert_eq!((plan, machine.manager.decoded(), machine.host.held()), before);
}

#[test]
fn no_file_stays_open_for_a_function_that_is_gone() {
    // In a process of its own: other tests open files too.
    if std::env::var_os("AMBIT_TEST_ALONE").is_none() {
        let name = "no_file_stays_open_for_a_function_that_is_gone";
        let program = std::env::current_exe().unwrap();
        let alone =
            std::process::Command::new(program).args([name, "--exact"]).env("AMBIT_TEST_ALONE", "1").output();
        let alone = alone.unwrap();
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stdout));
        return;
    }
    let machine = Machine::new(&[]);
    let mut plan = machine.plan.clone();
    let before = open_files();

    for _ in 0..100 {
        let card: Card = card("b", 0x40);
        let placed = plan.add(&card.request()).unwrap().clone();
        machine.manager.plug(&placed, &card).unwrap();
        assert!(open_files() > before);
        machine.manager.unplug("b").unwrap();
        plan.remove("b").unwrap();
    }

    assert_eq!(open_files(), before);
}

// F-08
#[test]
fn what_is_decoded_is_known_while_a_function_that_is_moved_does_not_answer() {
    let machine = Machine::new(&[("a", 0x20)]);
    machine.put("a", 1, Some(LOW));
    let mut plan = machine.plan.clone();
    let card: Card = card("b", 0x40);
    let placed = plan.add(&card.request()).unwrap().clone();
    machine.manager.plug(&placed, &card).unwrap();
    let config = placed.slot.windows[0].first();
    let before = machine.manager.decoded();
    let asked = card.gate.asked.load(Ordering::SeqCst);

    let during = std::thread::scope(|scope| {
        let closed = card.gate.closed.lock().unwrap();
        scope.spawn(|| machine.manager.write(config + 8, &(LOW + 0x4000).to_le_bytes()));
        while card.gate.asked.load(Ordering::SeqCst) == asked {
            std::thread::yield_now();
        }
        let (answers, answer) = mpsc::channel();
        let manager = &machine.manager;
        scope.spawn(move || answers.send(manager.decoded()));
        let during = answer.recv_timeout(HANG);
        drop(closed);
        during
    });

    assert_eq!(during, Ok(before));
    assert!(machine.placed().contains(&("b".into(), 1, LOW + 0x4000)));
    machine.manager.unplug("b").unwrap();
    assert_eq!(machine.placed(), [("a".into(), 1, LOW)]);
}
