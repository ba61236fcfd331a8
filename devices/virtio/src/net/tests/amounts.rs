//! What is counted: frames by whoever asks, and their bytes by the limits.

use std::num::NonZeroU64;

use super::*;
use crate::limit::Rate;

/// So many, and no more in any time that a test takes.
fn only(count: u64) -> Option<Rate> {
    let size = NonZeroU64::new(count).unwrap();
    Some(Rate { size, refill: Duration::from_secs(1 << 20), burst: 0 })
}

fn limited(rx: Limits, tx: Limits) -> (Bench, UnixDatagram, Meter) {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let own_end = near.try_clone().unwrap();
    let told = Arc::default();
    let wire = Wire { socket: near.into(), told: Arc::clone(&told) };
    let id = crate::driver::unique("count");
    let net = Net::new(&id, vec![wire], &Options { rx, tx, ..Options::new(Mac([2; 6])) }).unwrap();
    let meter = net.meter();
    let mut machine = Machine::new(net);
    assert!(machine.negotiate(VERSION_1));
    let (rx, tx) = (machine.queue(0, 64), machine.queue(1, 64));
    machine.go();
    (Bench { id, machine, rx, tx, far, told }, own_end, meter)
}

/// As long as on the wire, without the header.
fn long(len: usize) -> Vec<u8> {
    frame(header::SIZE + len)
}

#[test]
fn a_limit_of_bytes_counts_those_on_the_wire() {
    let both = Limits { bytes: only(200), operations: None };
    let (mut bench, _, _) = limited(both, both);

    for len in [60, 140] {
        bench.post(1600);
        bench.far.send(&long(len)).unwrap();
        assert_eq!(bench.rx.wait().1, (header::SIZE + len) as u32);
        assert_eq!(bench.send(&long(len)), 0);
        assert_eq!(bench.sent(), long(len));
    }

    // There is nothing left in either bucket.
    bench.post(1600);
    bench.far.send(&long(60)).unwrap();
    let at = bench.machine.put(&long(60));
    bench.tx.offer(&[(at, long(60).len() as u32, 0)]);
    bench.machine.kick(&bench.tx);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((bench.rx.poll(), bench.tx.poll()), (None, None));
    bench.idles();
}

#[test]
fn the_limit_of_one_direction_is_not_that_of_the_other() {
    let one = Limits { bytes: None, operations: only(1) };
    for (rx, tx) in [(one, Limits::default()), (Limits::default(), one)] {
        let (mut bench, _, _) = limited(rx, tx);
        for _ in 0..if tx == one { 1 } else { 3 } {
            assert_eq!(bench.send(&long(60)), 0);
        }
        for _ in 0..if rx == one { 1 } else { 3 } {
            bench.post(1600);
            bench.far.send(&long(60)).unwrap();
            bench.rx.wait();
        }
    }
}

#[test]
fn a_frame_that_waits_for_its_carrier_is_paid_for_once() {
    let (mut bench, own_end, meter) = limited(Limits::default(), Limits { bytes: None, operations: only(2) });
    // The wire is full, so this frame is asked for again and again, and then lost.
    while own_end.send(&long(60)).is_ok() {}
    assert_eq!(bench.send(&long(100)), 0);
    bench.far.set_nonblocking(true).unwrap();
    while bench.far.recv(&mut [0; 200]).is_ok() {}
    bench.far.set_nonblocking(false).unwrap();

    assert_eq!(bench.send(&long(80)), 0);

    assert_eq!(bench.sent(), long(80));
    assert_eq!(meter.counts(), Counts { sent: 1, not_sent: 1, ..Counts::default() });
}

// F-15
#[test]
fn frames_are_counted_by_what_became_of_them() {
    let (mut bench, _, meter) = limited(Limits::default(), Limits::default());
    for len in [100, 200, 300] {
        bench.post(1600);
        bench.far.send(&long(len)).unwrap();
        bench.rx.wait();
    }
    for len in [60, ETHERNET, 13, 5] {
        bench.send(&long(len));
    }
    // One that is longer than the buffer, and then one that fits.
    bench.post(1600);
    bench.far.send(&long(2000)).unwrap();
    bench.far.send(&long(60)).unwrap();
    bench.rx.wait();

    assert_eq!(meter.counts(), Counts { received: 4, not_received: 1, sent: 2, not_sent: 2 });
}

#[test]
fn a_frame_in_more_parts_than_the_kernel_takes_is_sent_whole() {
    let (near, far) = UnixDatagram::pair().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    near.set_nonblocking(true).unwrap();
    let wire = Wire { socket: near.into(), told: Arc::default() };
    let options = Options { queue_size: 1024, ..Options::new(Mac([2; 6])) };
    let mut machine = Machine::new(Net::new(&crate::driver::unique("parts"), vec![wire], &options).unwrap());
    assert!(machine.negotiate(VERSION_1));
    let (_rx, mut tx) = (machine.queue(0, 16), machine.queue(1, 1024));
    machine.go();
    let sent = frame(3 * 1024);
    let at = machine.put(&sent);
    let parts: Vec<_> = (0..1024).map(|part| (at + 3 * part, 3, 0)).collect();

    assert_eq!(machine.ask(&mut tx, &parts), 0);

    let mut heard = vec![0; 2 * FRAME];
    let len = far.recv(&mut heard).unwrap();
    assert!(heard[..len] == sent);
}

#[test]
fn what_is_longer_than_any_frame_is_not_received() {
    let mut bench = bench(MRG | TSO, 16);
    let at = bench.post(2 * FRAME as u32);
    bench.far.send(&frame(FRAME + 1)).unwrap();
    bench.far.send(&frame(60)).unwrap();

    assert!(bench.received(at) == seen(60, 1));
}

#[test]
fn a_frame_that_waited_for_room_is_forgotten_at_a_reset() {
    let mut bench = bench(MRG | TSO, 16);
    bench.post(100);
    bench.far.send(&frame(1000)).unwrap();
    std::thread::sleep(Duration::from_millis(20));

    bench.machine.set_status(0);
    assert!(bench.machine.negotiate(VERSION_1 | MRG | TSO));
    (bench.rx, bench.tx) = (bench.machine.queue(0, 16), bench.machine.queue(1, 16));
    bench.machine.go();
    let at = bench.post(2000);
    bench.far.send(&frame(50)).unwrap();

    assert!(bench.received(at) == seen(50, 1));
}
