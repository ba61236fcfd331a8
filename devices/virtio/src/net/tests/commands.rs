//! What the driver's commands for offloads and pairs do to the carriers (virtio 1.2, 5.1.6.5).

use super::*;

const CTRL: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
const MQ: u64 = CTRL | 1 << VIRTIO_NET_F_MQ;
const OFFLOADS: u64 = CTRL | 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS | TSO;
const OK: u8 = 0;
const ERR: u8 = 1;

/// What a carrier is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Offloads(Offloads),
    Attach(bool),
}

/// A carrier that keeps what it is asked for, and refuses what it is told to refuse.
struct Recorder {
    socket: UnixDatagram,
    asked: Arc<Mutex<Vec<Asked>>>,
    refused: Arc<Mutex<Option<Asked>>>,
}

impl Recorder {
    fn keep(&self, asked: Asked) -> io::Result<()> {
        if *self.refused.lock().unwrap() == Some(asked) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.asked.lock().unwrap().push(asked);
        Ok(())
    }
}

impl Carrier for Recorder {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.keep(Asked::Offloads(offloads))
    }

    fn attach(&self, attached: bool) -> io::Result<()> {
        self.keep(Asked::Attach(attached))
    }
}

struct Card {
    machine: Machine,
    control: Vq,
    /// Of each carrier.
    asked: Vec<Arc<Mutex<Vec<Asked>>>>,
    refused: Vec<Arc<Mutex<Option<Asked>>>>,
    _far: Vec<UnixDatagram>,
}

/// A card of `pairs`, of which the driver sets up the first `set_up`.
fn card(features: u64, pairs: u16, set_up: u16) -> Card {
    let asked: Vec<Arc<Mutex<Vec<Asked>>>> = (0..pairs).map(|_| Arc::default()).collect();
    let refused: Vec<Arc<Mutex<Option<Asked>>>> = (0..pairs).map(|_| Arc::default()).collect();
    let mut far = Vec::new();
    let recorder = |pair: u16| {
        let (near, other) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.push(other);
        let (asked, refused) = (&asked[usize::from(pair)], &refused[usize::from(pair)]);
        Recorder { socket: near, asked: Arc::clone(asked), refused: Arc::clone(refused) }
    };
    let carriers = (0..pairs).map(recorder).collect();
    let options = Options::new(Mac([2; 6]));
    let mut machine = Machine::new(Net::new(&crate::driver::unique("cmd"), carriers, &options).unwrap());
    let control = start(&mut machine, features, pairs, set_up);
    Card { machine, control, asked, refused, _far: far }
}

fn start(machine: &mut Machine, features: u64, pairs: u16, set_up: u16) -> Vq {
    assert!(machine.negotiate(VERSION_1 | features));
    for queue in 0..2 * set_up {
        machine.queue(queue, 16);
    }
    let used = if features & MQ == MQ { pairs } else { 1 };
    let control = machine.queue(2 * used, 16);
    machine.go();
    control
}

impl Card {
    fn command(&mut self, command: [u8; 2], data: &[u8]) -> u8 {
        let parts = [self.machine.put(&command), self.machine.put(data), self.machine.put(&[0x77])];
        let chain = [(parts[0], 2, 0), (parts[1], data.len() as u32, 0), (parts[2], 1, WRITE)];
        assert_eq!(self.machine.ask(&mut self.control, &chain), 1);
        self.machine.bytes(parts[2], 1)[0]
    }

    fn offloads(&mut self, bits: u64) -> u8 {
        self.command([5, 0], &bits.to_le_bytes())
    }

    fn pairs(&mut self, pairs: u16) -> u8 {
        self.command([4, 0], &pairs.to_le_bytes())
    }

    /// What each carrier was asked for since the last time.
    fn asked(&self) -> Vec<Vec<Asked>> {
        self.asked.iter().map(|asked| std::mem::take(&mut *asked.lock().unwrap())).collect()
    }
}

fn told(features: u64) -> Asked {
    Asked::Offloads(Offloads::of(features))
}

#[test]
fn offloads_are_what_the_driver_says_out_of_what_it_agreed_to() {
    let mut card = card(OFFLOADS, 1, 1);
    assert_eq!(card.asked(), [[told(TSO)]]);

    assert_eq!(card.offloads(GUEST_CSUM), OK);
    assert_eq!(card.asked(), [[told(GUEST_CSUM)]]);
    assert_eq!(card.offloads(0), OK);
    assert_eq!(card.asked(), [[told(0)]]);
    assert_eq!(card.offloads(TSO), OK);
    assert_eq!(card.asked(), [[told(TSO)]]);

    // TSO6, ECN, a part of the other direction, and nothing known.
    for bit in [8, 9, 11, 0, 63] {
        assert_eq!(card.offloads(TSO | 1 << bit), ERR, "{bit}");
    }
    assert_eq!(card.asked(), [[]]);
}

#[test]
fn offloads_stay_until_the_reset_and_are_then_what_is_agreed_to_anew() {
    let mut card = card(OFFLOADS, 1, 1);
    assert_eq!(card.offloads(GUEST_CSUM), OK);
    card.asked();
    // A queue is taken away, so the others stop and start.
    card.machine.write(0x30, 1);
    card.machine.write(0x44, 0);
    assert_eq!(card.asked(), [[told(GUEST_CSUM)]]);

    card.machine.set_status(0);
    start(&mut card.machine, OFFLOADS, 1, 1);

    assert_eq!(card.asked(), [[told(TSO)]]);
}

#[test]
fn offloads_that_the_carrier_does_not_do_are_an_error_and_those_before_stay() {
    let mut card = card(OFFLOADS, 1, 1);
    card.asked();
    *card.refused[0].lock().unwrap() = Some(told(0));

    assert_eq!(card.offloads(0), ERR);

    card.machine.write(0x30, 1);
    card.machine.write(0x44, 0);
    assert_eq!(card.asked(), [[told(TSO)]]);
}

// C-224
#[test]
fn commands_of_features_that_were_not_agreed_on_are_errors() {
    let mut card = card(CTRL | TSO, 1, 1);
    card.asked();

    assert_eq!(card.offloads(0), ERR);
    assert_eq!(card.pairs(1), ERR);
    assert_eq!(card.command([1, 1], &[2, 9, 9, 9, 9, 9]), ERR);

    assert_eq!(card.asked(), [[]]);
    let mac: Vec<u8> =
        (0..6).map(|at| card.machine.get::<1>(card.machine.spots.config.plus(at))[0]).collect();
    assert_eq!(mac, [2; 6]);
}

// C-228
#[test]
fn carriers_of_pairs_that_are_not_in_use_are_detached() {
    let mut card = card(MQ, 3, 3);
    let off = Asked::Attach(false);
    let on = Asked::Attach(true);
    assert_eq!(card.asked(), [vec![told(0)], vec![off], vec![off]]);

    assert_eq!(card.pairs(3), OK);
    assert_eq!(card.asked(), [vec![], vec![on], vec![on]]);
    assert_eq!(card.pairs(2), OK);
    assert_eq!(card.asked(), [vec![], vec![], vec![off]]);
    card.machine.set_status(0);
    assert_eq!(card.asked(), [vec![], vec![off], vec![]]);
}

#[test]
fn every_pair_that_comes_into_use_has_the_offloads_of_the_card() {
    let mut card = card(MQ | OFFLOADS, 2, 2);
    assert_eq!(card.offloads(GUEST_CSUM), OK);
    card.asked();

    assert_eq!(card.pairs(2), OK);
    assert_eq!(card.offloads(TSO), OK);

    assert_eq!(card.asked(), [vec![told(TSO)], vec![Asked::Attach(true), told(TSO)]]);
}

#[test]
fn pairs_that_a_carrier_does_not_come_to_are_an_error_and_none_stays_attached() {
    let mut card = card(MQ, 3, 3);
    card.asked();
    *card.refused[2].lock().unwrap() = Some(Asked::Attach(true));

    assert_eq!(card.pairs(3), ERR);

    let back = [vec![], vec![Asked::Attach(true), Asked::Attach(false)], vec![Asked::Attach(false)]];
    assert_eq!(card.asked(), back);
    assert_eq!(card.pairs(2), OK);
}

//
#[test]
fn pairs_whose_queues_are_not_set_up_are_an_error() {
    let mut card = card(MQ, 3, 2);

    assert_eq!(card.pairs(3), ERR);
    assert_eq!(card.pairs(0), ERR);
    assert_eq!(card.pairs(2), OK);
}

// 5.1.2
#[test]
fn without_multiple_queues_the_third_queue_is_for_control_whatever_the_card_has() {
    let mut card = card(CTRL | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR, 3, 1);

    assert_eq!(card.command([1, 1], &[2, 1, 1, 1, 1, 1]), OK);
}

// 5.1.2
#[test]
fn without_a_control_queue_the_third_queue_is_for_nothing() {
    let mut card = card(0, 1, 1);
    let parts = [card.machine.put(&[1, 1]), card.machine.put(&[0x77])];
    card.control.offer(&[(parts[0], 2, 0), (parts[1], 1, WRITE)]);
    card.machine.kick(&card.control);
    std::thread::sleep(Duration::from_millis(20));

    assert_eq!((card.control.poll(), card.machine.bytes(parts[1], 1)), (None, vec![0x77]));
}
