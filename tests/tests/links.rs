//! Cards of several queues, and what becomes of a card when the host's end of its wire goes down, up and away.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use ambit_tests::console::HANG;
use ambit_tests::{Boot, Guest, Scratch, Tap};
use ambit_virtio::net::{self, Carrier};

const MIB: u64 = 1 << 20;
/// What each connection carries to the guest and back.
const SIZE: u32 = 4 << 20;

/// A card on each of `taps`, by the transport of the same place. Linux knows those on mmio before those on PCI, so
/// eth0 is the first when they are in that order; only that has its address yet.
fn with_cards(boot: Boot, taps: &[Tap], transports: &[&str], more: &str) -> Boot {
    let cards = taps.iter().zip(transports).enumerate();
    cards.fold(boot.cmdline(&taps[0].cmdline()), |boot, (number, (tap, transport))| {
        boot.argument("--net", format!("tap={},id=card{number},transport={transport}{more}", tap.name))
    })
}

/// The others get theirs, and every wire is tried.
fn give_addresses(guest: &mut Guest, taps: &[Tap]) {
    for (number, tap) in taps.iter().enumerate().skip(1) {
        guest.check(&format!("ip addr add {}/24 dev eth{number} && ip link set eth{number} up", tap.guest()));
    }
    for tap in taps {
        guest.check(&format!("ping -c 2 -i 0.2 -W 20 {}", tap.host()));
    }
}

/// How often each thread called `name` of the monitor has waited, in the order in which they were made.
fn waits(guest: &Guest, name: &str) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap();
    let numbered = tasks.filter_map(|task| {
        let path = task.ok()?.path();
        let comm = fs::read_to_string(path.join("comm")).ok()?;
        let status = fs::read_to_string(path.join("status")).ok().filter(|_| comm.trim() == name)?;
        let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, waits.trim().parse().ok()?))
    });
    numbered.collect::<BTreeMap<u32, u64>>().into_values().collect()
}

/// Sends `SIZE` bytes to whoever connects, and hears them again from whoever connects next; where.
fn echo(tap: &Tap, seed: u32) -> (JoinHandle<bool>, u16) {
    let listener = TcpListener::bind((tap.host(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let run = move || {
        let word = |at: u32| (at ^ seed).wrapping_mul(0x9e37_79b9).to_le_bytes();
        let sent: Vec<u8> = (0..SIZE / 4).flat_map(word).collect();
        listener.accept().unwrap().0.write_all(&sent).unwrap();
        let mut back = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut back).unwrap();
        back == sent
    };
    (thread::spawn(run), port)
}

/// Each processor of the guest has a connection of its own to and fro, all at the same time.
fn every_processor_talks(guest: &mut Guest, tap: &Tap, processors: u32) {
    let (threads, ports): (Vec<_>, Vec<_>) = (0..processors).map(|seed| echo(tap, seed)).unzip();
    let host = tap.host();
    let one = |(number, port): (usize, &u16)| {
        let pinned = format!("taskset {:x}", 1 << number);
        format!(
            "({pinned} nc {host} {port} </dev/null >/tmp/d{number} && {pinned} nc {host} {port} </tmp/d{number}) & "
        )
    };
    let line: String = ports.iter().enumerate().map(one).collect();
    guest.check(&format!("{line} wait"));
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()), "what came back differs");
}

/// How often the interrupts whose names end in one of `names` came.
fn interrupts(guest: &mut Guest, names: &[&str]) -> Vec<u64> {
    let text = guest.check("cat /proc/interrupts");
    let count = |line: &str| {
        let words = line.split_whitespace().skip(1);
        words.map_while(|word| word.parse::<u64>().ok()).sum::<u64>()
    };
    let named = |name: &&str| text.lines().filter(|line| line.ends_with(*name)).map(count).sum();
    names.iter().map(named).collect()
}

// 5.1.6.5.6
#[test]
fn a_guest_of_two_processors_uses_two_pairs_of_queues_over_mmio_and_pci() {
    let taps = [Tap::of_queues(), Tap::of_queues()];
    let boot = with_cards(Boot::initrd().cpus(2), &taps, &["mmio", "pci"], ",queues=2");
    let mut guest = boot.ready();
    give_addresses(&mut guest, &taps);

    for (number, tap) in taps.iter().enumerate() {
        let queues = guest.check(&format!("cd /sys/class/net/eth{number}/queues; echo *; cd /"));
        assert_eq!(queues, "rx-0 rx-1 tx-0 tx-1\n", "{number}");
        let before = waits(&guest, &format!("card{number}"));
        every_processor_talks(&mut guest, tap, 2);
        let after = waits(&guest, &format!("card{number}"));
        let more: Vec<u64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
        assert_eq!(more.len(), 2, "{after:?}");
        // Hundreds, as measured; a pair that is not in use has none.
        assert!(more.iter().all(|waits| *waits > 20), "a pair had next to nothing to do: {more:?}");
    }

    let counts = interrupts(&mut guest, &["input.0", "input.1", "output.0", "output.1"]);
    assert!(counts.iter().all(|count| *count > 20), "of the queues of the card on PCI: {counts:?}");
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn a_guest_has_a_card_on_taps_that_its_monitor_inherits() {
    let taps = [Tap::of_queues(), Tap::new()];
    let opened =
        [(&taps[0], 2), (&taps[1], 1)].map(|(tap, queues)| net::Tap::open(&tap.name, queues).unwrap());
    // Unlike what it is a copy of, this outlives the start of another program.
    let copies = opened
        .each_ref()
        .map(|queues| queues.iter().map(|queue| rustix::io::dup(queue.fd()).unwrap()).collect::<Vec<_>>());
    let [pairs, one] = copies.each_ref().map(|queues| {
        let numbers: Vec<String> = queues.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        numbers.join(":")
    });
    let boot = Boot::initrd().cpus(2).cmdline(&taps[0].cmdline());
    let boot = boot.argument("--net", format!("fd={pairs},id=pairs"));

    let mut guest = boot.argument("--net", format!("fd={one},id=one,transport=pci")).ready();
    drop((opened, copies));

    give_addresses(&mut guest, &taps);
    every_processor_talks(&mut guest, &taps[0], 2);
    assert_eq!(guest.power_off(), 0);
}

/// Ticks of 10 ms that all threads but the vCPUs have used.
fn ticks(guest: &Guest) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    // proc(5): utime and stime are the fields 14 and 15, and the name that ends with ')' is the second.
    let used = stats.filter(|stat| !stat.contains("(vcpu")).flat_map(|stat| {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        [fields[11], fields[12]].map(|field| field.parse::<u64>().unwrap())
    });
    used.sum()
}

/// Nothing of the monitor spins, while the guest still pings.
fn is_calm(guest: &Guest, when: &str) {
    let before = ticks(guest);
    sleep(Duration::from_secs(2));
    let used = ticks(guest) - before;
    assert!(used < 60, "{used} ticks in two seconds {when}");
}

/// Linux says of every card whether it has a link.
fn carriers(guest: &mut Guest, expected: &str) {
    let end = Instant::now() + HANG;
    loop {
        let seen = guest.check("cat /sys/class/net/eth?/carrier | tr -d '\\n'");
        if seen == expected {
            return;
        }
        assert!(Instant::now() < end, "carriers {seen} and not {expected}");
        sleep(Duration::from_millis(100));
    }
}

// C-229, F-15, F-16
#[test]
fn a_tap_that_goes_down_comes_up_and_is_deleted_under_traffic_costs_a_guest_that_link_and_nothing_else() {
    let scratch = Scratch::new();
    let taps = [Tap::new(), Tap::new(), Tap::new(), Tap::new()];
    let disk = scratch.disk("disk", 8 * MIB);
    let boot = with_cards(Boot::initrd(), &taps, &["mmio", "mmio-legacy", "pci", "pci"], "");
    let mut guest = boot.disk(&format!("path={},id=disk", disk.display())).ready();
    give_addresses(&mut guest, &taps);
    // The last card keeps its tap, and is used throughout.
    let (kept, changed) = taps.split_last().unwrap();
    for tap in changed {
        guest.check(&format!("(ping -i 0.05 {} || echo lost) >/dev/null 2>&1 &", tap.host()));
    }
    let others_work = |guest: &mut Guest| {
        guest.check(&format!("ping -c 1 -W 20 {}", kept.host()));
        guest.check("dd if=/dev/urandom of=/dev/vda bs=64k count=4 conv=fsync");
    };

    changed.iter().for_each(|tap| tap.set("down"));
    carriers(&mut guest, "0001");
    is_calm(&guest, "with taps that are down");
    others_work(&mut guest);
    for tap in changed {
        assert_ne!(guest.run(&format!("ping -c 1 -W 1 {}", tap.host())).status, 0);
    }

    changed.iter().for_each(|tap| tap.set("up"));
    carriers(&mut guest, "1111");
    for tap in changed {
        is_reached(&mut guest, tap);
    }

    changed.iter().for_each(Tap::delete);
    carriers(&mut guest, "0001");
    is_calm(&guest, "with taps that are deleted");
    others_work(&mut guest);
    // A card whose tap is gone can still be given up and taken again.
    guest.check("kill $(pidof ping); rmmod virtio_net && insmod /modules/virtio_net.ko");
    carriers_after_a_reload(&mut guest, kept);
    let said = guest.errors();
    assert!(said.lines().count() < 40, "{said}");
    assert_eq!(guest.power_off(), 0);
}

/// Linux gives a neighbour up that has not answered for three seconds, with all that is to go there; so a busy host may
/// cost some pings, and a wire that works carries a later one.
fn is_reached(guest: &mut Guest, tap: &Tap) {
    let end = Instant::now() + HANG;
    while guest.run(&format!("ping -c 1 -W 5 {}", tap.host())).status != 0 {
        if Instant::now() > end {
            let seen = guest.check("ip -s addr; cat /proc/net/arp /proc/interrupts");
            panic!("{} is not reached: {seen}", tap.host());
        }
    }
}

/// All cards are there again, and the one whose tap is there works.
fn carriers_after_a_reload(guest: &mut Guest, kept: &Tap) {
    guest.check("for n in 0 1 2 3; do ip link set eth$n up || exit 1; done");
    carriers(guest, "0001");
    guest.check(&format!("ip addr add {}/24 dev eth3", kept.guest()));
    guest.check(&format!("ping -c 2 -i 0.2 -W 20 {}", kept.host()));
}
