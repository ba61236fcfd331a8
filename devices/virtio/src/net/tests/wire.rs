//! A card on a real tap, in a network of its own.

use super::*;
use crate::driver::Face;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// Runs `ip`; false if it does not.
fn ip(words: &str) -> bool {
    std::process::Command::new("ip").args(words.split(' ')).status().is_ok_and(|status| status.success())
}

/// In a network of this thread's own, which its `ip` and the card's threads share.
fn alone(what: impl FnOnce()) {
    match tap::enter_own_network() {
        Ok(()) => what(),
        Err(error) => println!("NOT TESTED: this user gets no network of its own: {error}"),
    }
}

fn is_up(machine: &Machine) -> bool {
    machine.get::<1>(machine.spots.config.plus(6))[0] & 1 == 1
}

// C-229, F-15, F-16
#[test]
fn the_link_follows_the_tap_down_and_up_and_is_down_for_good_when_it_is_deleted() {
    std::thread::spawn(|| alone(|| Face::ALL.into_iter().for_each(link_on))).join().unwrap();
}

fn link_on(face: Face) {
    let id = crate::driver::unique("link");
    let taps = match Tap::open(&id, 1) {
        Ok(taps) => taps,
        Err(error) => return println!("NOT TESTED: {error}"),
    };
    if !ip(&format!("link set {id} up")) {
        return println!("NOT TESTED: there is no program 'ip'");
    }
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
