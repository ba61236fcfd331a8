//! A card on a real tap, in a network of its own.

use std::io::Write;

use super::*;
use crate::driver::Face;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// Says so where a test that passes is heard too: the harness keeps what it prints, but not what goes past it.
pub fn not_tested(why: &dyn std::fmt::Display) {
    let _nobody_reads = writeln!(io::stderr(), "NOT TESTED: {why}");
}

/// Runs `ip`; false if it does not.
pub fn ip(words: &str) -> bool {
    let output = std::process::Command::new("ip").args(words.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

/// In a network of this thread's own, which its `ip` and the card's threads share.
pub fn alone(what: impl FnOnce() + Send + 'static) {
    let run = || match tap::enter_own_network() {
        Ok(()) if !ip("-V") => not_tested(&"cards on a tap, as there is no program 'ip'"),
        Ok(()) if !std::path::Path::new(tap::TUN).exists() => {
            not_tested(&"cards on a tap, as this host has none")
        }
        Ok(()) => what(),
        Err(error) => {
            not_tested(&format!("cards on a tap, as this user gets no network of its own: {error}"))
        }
    };
    std::thread::spawn(run).join().unwrap();
}

fn is_up(machine: &Machine) -> bool {
    machine.get::<1>(machine.spots.config.plus(6))[0] & 1 == 1
}

// C-229, F-15, F-16
#[test]
fn the_link_follows_the_tap_down_and_up_and_is_down_for_good_when_it_is_deleted() {
    alone(|| Face::ALL.into_iter().for_each(link_on));
}

fn link_on(face: Face) {
    let id = crate::driver::unique("link");
    let taps = Tap::open(&id, 1).unwrap();
    assert!(ip(&format!("link set {id} up")));
    let mut machine = Machine::with_face(face, Net::new(&id, taps, &Options::new(MAC)).unwrap());
    let features = 1 << VIRTIO_NET_F_STATUS;
    assert!(machine.negotiate(if face.is_legacy() { features } else { VERSION_1 | features }));
    let (rx, mut tx) = (machine.queue(0, 16), machine.queue(1, 16));
    machine.go();
    machine.wait_until("the link to be up", is_up);
    machine.acknowledge();

    assert!(ip(&format!("link set {id} down")));
    machine.wait_until("the link to be down", |machine| !is_up(machine));
    until("an interrupt for it", || (machine.acknowledge() & 2 == 2).then_some(()));
    // The host refuses it, and the head comes back.
    let at = machine.put(&[0; 100]);
    assert_eq!(machine.ask(&mut tx, &[(at, 100, 0)]), 0, "{face:?}");

    assert!(ip(&format!("link set {id} up")));
    machine.wait_until("the link to be up again", is_up);
    until("an interrupt for it", || (machine.acknowledge() & 2 == 2).then_some(()));

    assert!(ip(&format!("link del {id}")));
    machine.wait_until("the link to be down for good", |machine| !is_up(machine));
    machine.kick(&rx);
    assert_eq!(machine.ask(&mut tx, &[(at, 100, 0)]), 0, "{face:?}");
    crate::driver::idles(&id);
}
