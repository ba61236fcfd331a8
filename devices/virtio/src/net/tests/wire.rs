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

/// A tap that keeps what it is told, and may say that it is another.
struct Known {
    tap: Tap,
    interface: Interface,
    told: Arc<Mutex<Vec<Offloads>>>,
}

impl Carrier for Known {
    fn fd(&self) -> BorrowedFd<'_> {
        self.tap.fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.told.lock().unwrap().push(offloads);
        self.tap.set_offloads(offloads)
    }

    fn is_gone(&self) -> bool {
        self.tap.is_gone()
    }

    fn interface(&self) -> Option<&Interface> {
        Some(&self.interface)
    }
}

/// A card on the tap `name`, whose interface `known` describes, and what that is told.
fn known(name: &str, known: impl FnOnce(Interface) -> Interface) -> (Machine, Arc<Mutex<Vec<Offloads>>>) {
    let tap = Tap::open(name, 1).unwrap().remove(0);
    let interface = known(tap.interface().unwrap().clone());
    let told = Arc::default();
    let carrier = Known { tap, interface, told: Arc::clone(&told) };
    (Machine::new(Net::new(name, vec![carrier], &Options::new(MAC)).unwrap()), told)
}

fn begin(machine: &mut Machine, features: u64) {
    assert!(machine.negotiate(VERSION_1 | 1 << VIRTIO_NET_F_STATUS | features));
    let _queues = (machine.queue(0, 16), machine.queue(1, 16));
    machine.go();
}

// C-229
#[test]
fn the_link_is_the_taps_own_from_the_start_and_needs_a_carrier() {
    alone(|| {
        let (mut machine, _) = known("own", |own| own);
        assert!(!is_up(&machine));
        begin(&mut machine, 0);

        assert!(ip("link set own up"));
        machine.wait_until("the link to be up", is_up);
        assert!(ip("link set own carrier off"));
        machine.wait_until("the link to be down", |machine| !is_up(machine));
        assert!(ip("link set own carrier on"));
        machine.wait_until("the link to be up again", is_up);
    });
}

// F-15
#[test]
fn what_becomes_of_other_interfaces_and_of_a_bridge_that_the_tap_was_in_says_nothing_of_the_link() {
    alone(|| {
        let (mut machine, _) = known("here", |own| own);
        assert!(ip("link set here up"));
        begin(&mut machine, 0);
        machine.wait_until("the link to be up", is_up);

        assert!(ip("tuntap add other mode tap") && ip("link set other up") && ip("link del other"));
        if ip("link add bridge type bridge") {
            assert!(ip("link set here master bridge") && ip("link set here nomaster"));
        } else {
            not_tested(&"a tap in a bridge, as this host has none");
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(is_up(&machine));

        // It is followed as before.
        assert!(ip("link set here down"));
        machine.wait_until("the link to be down", |machine| !is_up(machine));
        assert!(ip("link set here up"));
        machine.wait_until("the link to be up", is_up);
    });
}

#[test]
fn an_interface_of_the_same_name_and_another_address_is_not_followed() {
    alone(|| {
        let (mut machine, _) = known("same", |own| Interface { address: [2, 1, 2, 3, 4, 5], ..own });
        begin(&mut machine, 0);

        // Not the state of the one that is here, which is down.
        assert!(is_up(&machine));
    });
}

// F-21
#[test]
fn a_tap_that_comes_up_is_told_again_what_the_guest_takes() {
    alone(|| {
        let (mut machine, told) = known("again", |own| own);
        begin(&mut machine, TSO);
        assert!(ip("link set again up"));
        machine.wait_until("the link to be up", is_up);

        let tso = Offloads { csum: true, tso4: true, ..Offloads::default() };
        until("the second time", || (told.lock().unwrap().len() == 2).then_some(()));
        assert_eq!(*told.lock().unwrap(), [tso, tso]);
    });
}

// F-16
#[test]
fn a_tap_that_is_deleted_before_the_driver_starts_is_a_link_that_is_down() {
    alone(|| {
        let (mut machine, _) = known("before", |own| own);
        assert!(ip("link set before up"));
        assert!(ip("link del before"));

        begin(&mut machine, 0);

        machine.wait_until("the link to be down", |machine| !is_up(machine));
        assert_eq!(machine.status(), 15);
        crate::driver::idles("before");
    });
}
