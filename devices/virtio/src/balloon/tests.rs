use std::fs::File;
use std::os::unix::fs::FileExt;

use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::PaBits;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::driver::hand::Hand;
use crate::driver::{Face, Machine, RAM, VERSION_1, Vq, WRITE, unique};

const REPORTING: u64 = 1 << 5;
const POISONED: u64 = 1 << 4;
const ON_OOM: u64 = 1 << 2;
/// Where tests have pages to give away: behind the rings of [`Machine`].
const PAGES: u64 = RAM_BASE + (8 << 20);

fn each(test: impl Fn(Face)) {
    for face in Face::ALL {
        eprintln!("on {face:?}");
        test(face);
    }
}

fn options() -> Options {
    Options::new(&unique("balloon"))
}

fn balloon(face: Face) -> (Machine, BalloonControl) {
    let (balloon, control) = Balloon::new(&options());
    (Machine::with_face(face, balloon), control)
}

/// A device that runs, its inflate, deflate and reporting queues, and pages that are not zero.
fn live(face: Face, features: u64) -> (Machine, BalloonControl, [Vq; 3]) {
    let (mut machine, control) = balloon(face);
    fill(&machine, PAGES, 64);
    assert!(machine.negotiate(VERSION_1 | features));
    let queues = [0, 1, 2].map(|index| machine.queue(index, 128));
    machine.go();
    (machine, control, queues)
}

fn fill(machine: &Machine, at: u64, pages: u64) {
    machine.memory.write_slice(&vec![7; (pages * PAGE) as usize], GuestAddress(at)).unwrap();
}

/// Which of the 64 pages at [`PAGES`] are zero. The others have all their bytes.
fn zeroes(machine: &Machine) -> Vec<u64> {
    let is_zero = |page: &u64| {
        let bytes = machine.bytes(PAGES + page * PAGE, PAGE as usize);
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "part of page {page} is gone");
        bytes[0] == 0
    };
    (0..64).filter(is_zero).collect()
}

/// Whether the kernel has memory behind the page at `at`, by `Documentation/admin-guide/mm/pagemap.rst`.
fn is_resident(machine: &Machine, at: u64) -> bool {
    let host = machine.memory.get_host_address(GuestAddress(at)).unwrap() as u64;
    let mut entry = [0; 8];
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    pagemap.read_exact_at(&mut entry, host / PAGE * 8).unwrap();
    u64::from_le_bytes(entry) >> 63 == 1
}

/// The numbers of pages after [`PAGES`], as the driver writes them.
fn numbers(pages: &[u64]) -> Vec<u8> {
    pages.iter().flat_map(|page| u32::try_from(PAGES / PAGE + page).unwrap().to_le_bytes()).collect()
}

fn list(machine: &mut Machine, bytes: &[u8]) -> (u64, u32, u16) {
    (machine.put(bytes), bytes.len() as u32, 0)
}

fn field(machine: &Machine, at: u64) -> u32 {
    u32::from_le_bytes(machine.get(machine.spots.config.plus(at)))
}

fn write_field(machine: &Machine, at: u64, data: &[u8]) {
    machine.put_at(machine.spots.config.plus(at), data);
}

// C-007, C-010
#[test]
fn it_offers_what_it_was_given_and_a_poison_only_with_reports() {
    let offered = |deflate_on_oom, reporting| {
        let (balloon, _) = Balloon::new(&Options { deflate_on_oom, reporting, ..options() });
        (balloon.features(), balloon.queue_sizes().len(), balloon.config().len())
    };

    assert_eq!(offered(false, false), (0, 2, 8));
    assert_eq!(offered(true, false), (ON_OOM, 2, 8));
    assert_eq!(offered(true, true), (ON_OOM | REPORTING | POISONED, 5, 16));
}

// C-009, C-011
#[test]
fn every_subset_of_its_features_is_accepted_again_and_again() {
    each(|face| {
        let (machine, _) = balloon(face);
        for features in (0..64).filter(|features| features & !(ON_OOM | REPORTING | POISONED) == 0) {
            assert!(machine.negotiate(VERSION_1 | features), "{features:#x}");
            assert!(machine.negotiate(VERSION_1 | features), "{features:#x}");
        }
    });
}

#[test]
fn pages_that_are_put_away_go_back_to_the_host() {
    each(|face| {
        let (mut machine, _, [mut inflate, ..]) = live(face, 0);
        assert!(is_resident(&machine, PAGES + 5 * PAGE));
        let request = list(&mut machine, &numbers(&[5, 6, 7, 40]));

        assert_eq!(machine.ask(&mut inflate, &[request]), 0);

        assert!(![5, 6, 7, 40].iter().any(|page| is_resident(&machine, PAGES + page * PAGE)));
        assert_eq!(zeroes(&machine), [5, 6, 7, 40]);
    });
}

#[test]
fn page_numbers_may_come_in_any_order_and_twice() {
    let (mut machine, _, [mut inflate, ..]) = live(Face::Mmio, 0);
    let request = list(&mut machine, &numbers(&[9, 3, 8, 9, 10, 3, 63, 0]));

    machine.ask(&mut inflate, &[request]);

    assert_eq!(zeroes(&machine), [0, 3, 8, 9, 10, 63]);
}

#[test]
fn pages_that_lie_side_by_side_are_given_back_as_one() {
    let all = |numbers: &[u32]| runs(&mut numbers.to_vec()).collect::<Vec<_>>();

    assert_eq!(all(&[9, 3, 8, 9, 10, 3]), [(3 << 12, 1 << 12), (8 << 12, 3 << 12)]);
    assert_eq!(all(&[0, u32::MAX, u32::MAX - 1]), [(0, 1 << 12), (0xfff_ffff_e000, 2 << 12)]);
    assert_eq!(all(&[]), []);
}

#[test]
fn a_page_that_is_taken_out_again_keeps_what_is_written_since() {
    let (mut machine, _, [mut inflate, mut deflate, _]) = live(Face::Mmio, 0);
    let request = list(&mut machine, &numbers(&[5]));
    machine.ask(&mut inflate, &[request]);
    fill(&machine, PAGES + 5 * PAGE, 1);

    assert_eq!(machine.ask(&mut deflate, &[request]), 0);

    assert_eq!(zeroes(&machine), [] as [u64; 0]);
}

// R-37, C-033
#[test]
fn a_list_of_pages_may_be_split_anywhere() {
    let (mut machine, _, [mut inflate, ..]) = live(Face::Mmio, 0);
    let bytes = numbers(&[5, 6, 40]);
    let at = machine.put(&bytes);
    let last = bytes.len() as u64;
    for first in 0..=last {
        for second in first..=last {
            fill(&machine, PAGES, 64);
            let parts = [(0, first), (first, second), (second, last)]
                .map(|(from, to)| (at + from, (to - from) as u32, 0));

            assert_eq!(machine.ask(&mut inflate, &parts), 0);

            assert_eq!(zeroes(&machine), [5, 6, 40], "split at {first} and {second}");
        }
    }
}

//
#[test]
fn page_numbers_that_are_no_ram_are_left_out_and_the_others_are_not() {
    each(|face| {
        let (mut machine, _, [mut inflate, mut deflate, _]) = live(face, 0);
        // At both ends of RAM, of the numbers, and where the device itself is.
        let wild =
            [0, 0xffff_ffff, 0xffff_fffe, 0x8000_0000, 0x3_ffff, ((RAM_BASE + RAM) / PAGE) as u32, 0x2000];
        let mut bytes: Vec<u8> = wild.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend(numbers(&[5]));
        // A number without its last byte is none.
        bytes.extend(&numbers(&[6])[..3]);
        let request = list(&mut machine, &bytes);

        assert_eq!(machine.ask(&mut deflate, &[request]), 0);
        assert_eq!(zeroes(&machine), [] as [u64; 0]);
        assert_eq!(machine.ask(&mut inflate, &[request]), 0);

        assert_eq!(zeroes(&machine), [5]);
    });
}

//
#[test]
fn lists_and_reports_outside_ram_come_back_with_nothing_done_a_hundred_thousand_times() {
    let (mut machine, _, mut queues) = live(Face::Mmio, REPORTING);
    let wild = [0x200_0050, 0, RAM_BASE - 4, RAM_BASE + RAM, RAM_BASE + RAM - 4, u64::MAX - 7];
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();

    for round in 0..34_000 {
        for (queue, flags) in queues.iter_mut().zip([0, 0, WRITE]) {
            assert_eq!(machine.ask(queue, &[(wild[round % wild.len()], 8, flags)]), 0);
        }
    }

    assert_eq!(zeroes(&machine), [] as [u64; 0]);
    // Other tests open some beside this one.
    assert!(files() < before + 1000);
    let request = list(&mut machine, &numbers(&[5]));
    machine.ask(&mut queues[0], &[request]);
    assert_eq!(zeroes(&machine), [5]);
}

//
#[test]
fn a_guest_may_put_away_its_own_rings_and_the_device_works_after_a_reset() {
    each(|face| {
        let (mut machine, _, [mut inflate, ..]) = live(face, 0);
        let first = (RAM_BASE / PAGE) as u32;
        let all: Vec<u8> = (first..first + (RAM / PAGE) as u32).flat_map(u32::to_le_bytes).collect();
        let request = list(&mut machine, &all);
        inflate.offer(&[request]);
        machine.kick(&inflate);
        // The used ring is gone too, so nobody hears of it; all of RAM goes at once.
        machine.wait_until("all pages", |machine| machine.bytes(RAM_BASE + RAM - 8, 8) == [0; 8]);
        machine.wait_until("all pages", |machine| machine.bytes(PAGES, 8) == [0; 8]);

        assert!(machine.negotiate(VERSION_1));
        let mut inflate = machine.queue(0, 128);
        machine.go();
        fill(&machine, PAGES, 64);
        let request = list(&mut machine, &numbers(&[5]));
        machine.ask(&mut inflate, &[request]);
        assert_eq!(zeroes(&machine), [5]);
    });
}

//
#[test]
fn a_list_or_a_report_of_4_gib_costs_no_memory_and_ends() {
    const GIB: u64 = 1 << 30;
    let host = BenchHost::with_ram(&[AddressRange::fixed(RAM_BASE, 5 * GIB)], PaBits::MAX);
    let (balloon, _) = Balloon::new(&options());
    let mut machine = Machine::with_host(host, balloon);
    fill(&machine, PAGES, 64);
    assert!(machine.negotiate(VERSION_1 | REPORTING));
    let mut queues = [0, 1, 4].map(|index| machine.queue(index, 16));
    machine.go();
    let request = list(&mut machine, &numbers(&[5]));
    let before = peak();

    // Behind what is read of a list, nothing is.
    let zeros = RAM_BASE + GIB;
    for _ in 0..4 {
        assert_eq!(machine.ask(&mut queues[0], &[(zeros, u32::MAX, 0)]), 0);
        assert_eq!(machine.ask(&mut queues[1], &[(zeros, u32::MAX, 0)]), 0);
        assert_eq!(machine.ask(&mut queues[2], &[(zeros, u32::MAX, WRITE)]), 0);
    }
    let many = [(request.0, 4, 0), (zeros, u32::MAX - 4, 0)];
    assert_eq!(machine.ask(&mut queues[0], &many), 0);

    // Other tests run beside this one.
    assert!(peak().saturating_sub(before) < GIB);
    assert_eq!(zeroes(&machine), [5]);
}

/// The most memory this process ever had, in bytes, as the kernel's counters have it: nearly.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

// C-035, C-039, R-37
#[test]
fn buffers_of_the_wrong_direction_are_refused() {
    let (mut machine, _, [mut inflate, _, mut report]) = live(Face::Mmio, REPORTING);
    let (at, len, _) = list(&mut machine, &numbers(&[5]));
    let page = PAGES + 9 * PAGE;

    assert_eq!(machine.ask(&mut inflate, &[(at, len, WRITE)]), 0);
    assert_eq!(machine.ask(&mut inflate, &[(at, len, 0), (page, 4096, WRITE)]), 0);
    assert_eq!(machine.ask(&mut report, &[(page, 4096, 0)]), 0);
    assert_eq!(machine.ask(&mut report, &[(at, len, 0), (page, 4096, WRITE)]), 0);

    assert_eq!(machine.bytes(at, len as usize), numbers(&[5]));
    assert_eq!(zeroes(&machine), [] as [u64; 0]);
}

#[test]
fn reported_pages_go_back_to_the_host_and_only_whole_ones() {
    each(|face| {
        let (machine, _, [.., mut report]) = live(face, REPORTING);
        let chain = [
            (PAGES + 5 * PAGE, 3 * 4096, WRITE),
            (PAGES + 20 * PAGE + 1, 2 * 4096, WRITE),
            (PAGES + 30 * PAGE, 4095, WRITE),
        ];

        assert_eq!(machine.ask(&mut report, &chain), 0);

        assert!(!is_resident(&machine, PAGES + 6 * PAGE));
        assert_eq!(zeroes(&machine), [5, 6, 7, 21]);
    });
}

// Linux's reporting queue is the third if no others are negotiated, and by the specification it is the fifth.
#[test]
fn reports_are_taken_from_any_queue_after_the_first_two() {
    for index in [2, 3, 4] {
        let (mut machine, _) = balloon(Face::Mmio);
        fill(&machine, PAGES, 64);
        assert!(machine.negotiate(VERSION_1 | REPORTING));
        let mut report = machine.queue(index, 32);
        machine.go();

        machine.ask(&mut report, &[(PAGES + PAGE, 4096, WRITE)]);

        assert_eq!(zeroes(&machine), [1]);
    }
}

// C-012
#[test]
fn reports_of_a_driver_that_did_not_choose_them_do_nothing() {
    let (machine, _, [.., mut report]) = live(Face::Mmio, 0);

    assert_eq!(machine.ask(&mut report, &[(PAGES + PAGE, 4096, WRITE)]), 0);

    assert_eq!(zeroes(&machine), [] as [u64; 0]);
}

#[test]
fn reported_pages_keep_the_pattern_of_a_guest_that_wants_one() {
    each(|face| {
        for (poison, features, taken) in
            [(0, POISONED, true), (0x0707_0707_u32, POISONED, false), (0x0707_0707, 0, true)]
        {
            let (mut machine, _) = balloon(face);
            fill(&machine, PAGES, 64);
            assert!(machine.negotiate(VERSION_1 | REPORTING | features));
            write_field(&machine, 12, &poison.to_le_bytes());
            let mut report = machine.queue(2, 128);
            machine.go();

            machine.ask(&mut report, &[(PAGES, 4096, WRITE)]);

            assert_eq!(zeroes(&machine) == [0], taken, "{poison:#x}, {features:#x}");
        }
    });
}

// C-017, C-020, C-019
#[test]
fn a_target_is_read_before_the_driver_runs_and_told_when_it_changes() {
    each(|face| {
        let (balloon, control) = Balloon::new(&Options { target: 3 << 20, ..options() });
        let mut machine = Machine::with_face(face, balloon);
        assert_eq!((field(&machine, 0), control.target()), (768, 3 << 20));
        assert!(machine.negotiate(VERSION_1));
        machine.queue(0, 128);
        machine.go();
        assert_eq!(machine.acknowledge(), 0);

        control.set_target((5 << 20) + 4095);
        assert_eq!(machine.acknowledge(), 2);
        assert_eq!((field(&machine, 0), control.target()), (1280, 5 << 20));
        control.set_target(5 << 20);
        assert_eq!(machine.acknowledge(), 0, "it is the same");

        for most in [1 << 44, u64::MAX] {
            control.set_target(most);
            assert_eq!((field(&machine, 0), control.target()), (u32::MAX, (1 << 44) - 4096));
        }
    });
}

// C-015, C-016, R-13
#[test]
fn a_reset_forgets_what_the_driver_wrote_and_keeps_the_target() {
    each(|face| {
        let (mut machine, control) = balloon(face);
        control.set_target(1 << 20);
        let power_on = machine.dump();
        assert!(machine.negotiate(VERSION_1 | REPORTING | POISONED));
        write_field(&machine, 12, &[7; 4]);
        let mut inflate = machine.queue(0, 128);
        machine.go();
        let request = list(&mut machine, &numbers(&[5]));
        machine.ask(&mut inflate, &[request]);
        write_field(&machine, 4, &9u32.to_le_bytes());
        assert_eq!(control.actual(), 9 * PAGE);

        machine.set_status(0);

        assert_eq!(machine.dump(), power_on);
        assert_eq!((control.actual(), control.target()), (0, 1 << 20));
        control.set_target(2 << 20);
        assert_eq!(machine.acknowledge(), 0, "nobody is told of anything after a reset");
    });
}

//
#[test]
fn actual_is_what_the_driver_says_but_no_more_than_there_is() {
    each(|face| {
        let (machine, control, _queues) = live(face, 0);
        let actual = |pages: u32| {
            write_field(&machine, 4, &pages.to_le_bytes());
            (field(&machine, 4) == pages).then_some(control.actual())
        };

        assert_eq!([0, 1, 4095, 4096].map(actual), [0, 1, 4095, 4096].map(|pages| Some(pages * PAGE)));
        assert_eq!([4097, 0x8000_0000, u32::MAX].map(actual), [Some(RAM); 3]);
        assert_eq!(actual(2), Some(2 * PAGE));
    });
}

// 5.5.6.2.1
#[test]
fn actual_counts_when_its_last_byte_is_written() {
    each(|face| {
        let (machine, control, _queues) = live(face, 0);
        write_field(&machine, 4, &0x0000_0200_u32.to_le_bytes());

        let said = [(4, 0x34), (5, 1), (6, 0), (7, 0)].map(|(at, byte)| {
            write_field(&machine, at, &[byte]);
            control.actual()
        });

        assert_eq!(said, [0x200 * PAGE, 0x200 * PAGE, 0x200 * PAGE, 0x134 * PAGE]);
    });
}

// C-018, R-08
#[test]
fn only_its_own_fields_are_the_drivers_to_write_in_any_width() {
    each(|face| {
        for width in [1, 2, 4, 8] {
            let (machine, control, _queues) = live(face, 0);
            control.set_target(3 << 20);
            let mut expected = vec![0; 32];
            expected[1] = 3;
            expected[4..8].fill(0xa5);
            expected[12..16].fill(0xa5);

            for at in 0..=32 - width {
                write_field(&machine, at, &vec![0xa5; width as usize]);
            }

            let mut all = vec![0; 32];
            machine.fetch(machine.spots.config, &mut all[..16]);
            machine.fetch(machine.spots.config.plus(16), &mut all[16..]);
            assert_eq!(all, expected, "{width} bytes at once");
            assert_eq!(control.target(), 3 << 20);
        }
    });
}

//
#[test]
fn no_more_than_16384_pages_of_one_list_are_looked_at() {
    let (mut machine, _, [mut inflate, ..]) = live(Face::Mmio, 0);
    let list = |machine: &mut Machine, same: usize| {
        let pages: Vec<u64> = std::iter::repeat_n(5, same).chain([6]).collect();
        list(machine, &numbers(&pages))
    };

    let longer = list(&mut machine, 16 << 10);
    assert_eq!(machine.ask(&mut inflate, &[longer]), 0);
    assert_eq!(zeroes(&machine), [5]);
    let longest = list(&mut machine, (16 << 10) - 1);
    assert_eq!(machine.ask(&mut inflate, &[longest]), 0);
    assert_eq!(zeroes(&machine), [5, 6]);
}

/// One turn after another until the ring has no more, and what was used after each.
fn turns(hand: &mut Hand, pages: &mut Pages, most: usize) -> Vec<(Next, u16)> {
    let mut turns = Vec::new();
    while turns.len() < most && turns.last().is_none_or(|(next, _)| *next != Next::Wait) {
        let next = hand.serve_by(|ring, memory| pages.serve(ring, memory)).unwrap();
        turns.push((next, hand.driver.used_index()));
    }
    turns
}

fn begin(hand: &mut Hand, pages: &mut Pages, features: u64) {
    let (memory, interrupt) = hand.serve_by(|ring, memory| (memory.clone(), Arc::clone(&ring.call)));
    pages.begin(&Run { features, memory, interrupt, queues: vec![0] }).unwrap();
}

fn hand() -> (Hand, Pages) {
    let mut pages = Pages::new(Arc::new(Config::new(vec![0; 16])));
    let mut hand = Hand::new(VERSION_1);
    fill(&hand.machine, PAGES, 64);
    begin(&mut hand, &mut pages, REPORTING);
    (hand, pages)
}

//
#[test]
fn a_long_list_takes_several_turns_and_comes_back_once_when_all_of_it_is_given() {
    let (mut hand, mut pages) = hand();
    // Where most of them say there is no RAM, but they come first.
    let scattered = (0..4094u32).flat_map(|i| (2 * i).to_le_bytes());
    let bytes: Vec<u8> = scattered.chain(numbers(&[1, 3])).collect();
    let request = list(&mut hand.machine, &bytes);
    hand.driver.offer(&[request]);

    let first = (turns(&mut hand, &mut pages, 2), zeroes(&hand.machine));
    // Stopped here, it is begun anew.
    begin(&mut hand, &mut pages, REPORTING);
    let rest = turns(&mut hand, &mut pages, 10);

    assert_eq!(first, (vec![(Next::Again, 0); 2], vec![]));
    assert_eq!(rest, [(Next::Again, 0), (Next::Again, 0), (Next::Again, 0), (Next::Wait, 1)]);
    assert_eq!(zeroes(&hand.machine), [1, 3]);
}

//
#[test]
fn a_long_run_is_cut_where_no_page_is_and_given_piece_by_piece() {
    const MIB: u64 = 1 << 20;
    let (hand, _) = hand();
    let (memory, run) = (&hand.machine.memory, (15 * MIB + 4096, 66 * MIB));

    let mut done = 0;
    let turns = [(); 3].map(|()| {
        let mut left = Left { calls: 10, bytes: 20 * MIB };
        give_all(memory, std::iter::once(run), &mut done, &mut left)
    });

    let cut: Vec<_> = pieces(run.0, run.1).map(|(first, len)| (first, first + len)).collect();
    let ends = [16, 32, 48, 64, 80].map(|end| end * MIB);
    let firsts = std::iter::once(run.0).chain(ends);
    assert_eq!(cut, firsts.zip(ends.into_iter().chain([run.0 + run.1])).collect::<Vec<_>>());
    assert_eq!(turns, [false, false, true]);
    assert_eq!(pieces(u64::MAX - 1, 5).collect::<Vec<_>>(), [(u64::MAX - 1, 1)]);
}
