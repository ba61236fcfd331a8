//! Cards on queues of a tap that another program has opened and attached.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};

use super::wire::{alone, ip};
use super::*;
use crate::driver::Face;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
const HOST: [u8; 4] = [10, 9, 8, 1];
const GUEST: [u8; 4] = [10, 9, 8, 2];
const PORT: u16 = 7777;

const ONE: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
const SEVERAL: libc::c_int = ONE | libc::IFF_MULTI_QUEUE;

fn numbers(files: &[File]) -> Vec<RawFd> {
    files.iter().map(AsRawFd::as_raw_fd).collect()
}

/// The host's end of a tap: it is up, has an address, and knows the guest's.
fn host(name: &str) -> UdpSocket {
    assert!(ip(&format!("address add 10.9.8.1/24 dev {name}")));
    assert!(ip(&format!("link set {name} up")));
    assert!(ip(&format!("neighbour replace 10.9.8.2 lladdr 02:00:00:00:00:09 dev {name}")));
    let socket = UdpSocket::bind((std::net::Ipv4Addr::from(HOST), PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// The address of the interface, which the host's end of the wire takes frames for.
fn hardware(name: &str) -> [u8; 6] {
    let text = std::process::Command::new("ip").args(["-o", "link", "show", name]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    let address = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let bytes: Vec<u8> = address.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A frame with a datagram from the guest to the host, behind a header of zeroes.
fn datagram(to: [u8; 6], port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_len = 8 + payload.len() as u16;
    let [total, [high, low]] = [20 + udp_len, udp_len].map(u16::to_be_bytes);
    let [from_port, to_port] = [port, PORT].map(u16::to_be_bytes);
    let mut ip = [&[0x45, 0], &total[..], &[0, 0, 0x40, 0, 64, 17, 0, 0], &GUEST, &HOST].concat();
    let words = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = [&from_port[..], &to_port, &[high, low, 0, 0], payload].concat();
    [&[0; header::SIZE][..], &to, &MAC.0, &[8, 0], &ip, &udp].concat()
}

/// A modern driver that knows several queues, on `face`; its queues for receiving and for sending.
fn driver(face: Face, id: &str, taps: Vec<Tap>) -> (Machine, Vec<Vq>, Vec<Vq>) {
    let pairs = taps.len() as u16;
    let mut machine = Machine::with_face(face, Net::new(id, taps, &Options::new(MAC)).unwrap());
    let some = if pairs > 1 { 1 << VIRTIO_NET_F_MQ | 1 << VIRTIO_NET_F_CTRL_VQ } else { 0 };
    // With mergeable buffers a legacy driver's header is as long as a modern one's.
    let features = some | MRG | if face.is_legacy() { 0 } else { VERSION_1 };
    assert!(machine.negotiate(features));
    let rx = (0..pairs).map(|pair| machine.queue(2 * pair, 64)).collect();
    let tx = (0..pairs).map(|pair| machine.queue(2 * pair + 1, 64)).collect();
    let mut control = (pairs > 1).then(|| machine.queue(2 * pairs, 16));
    machine.go();
    if let Some(control) = &mut control {
        let command = [machine.put(&[4, 0]), machine.put(&pairs.to_le_bytes()), machine.put(&[0x77])];
        machine.ask(control, &[(command[0], 2, 0), (command[1], 2, 0), (command[2], 1, WRITE)]);
        assert_eq!(machine.bytes(command[2], 1), [0]);
    }
    (machine, rx, tx)
}

/// Sends a datagram by each pair and gets the answer, by whichever pair the host chooses.
fn talks(face: Face, files: Vec<File>, name: &str) {
    let id = crate::driver::unique("fds");
    let far = host(name);
    let taps = Tap::from_fds(&numbers(&files)).unwrap();
    // They are the card's own now, whatever becomes of the numbers.
    drop(files);
    let (mut machine, mut rx, mut tx) = driver(face, &id, taps);
    let room: Vec<u64> = rx.iter().map(|_| machine.alloc(16 * 2048, 1)).collect();
    for (queue, at) in rx.iter_mut().zip(&room) {
        for number in 0..16 {
            queue.offer(&[(at + 2048 * number, 2048, WRITE)]);
        }
        machine.kick(queue);
    }
    let to = hardware(name);

    for (number, queue) in tx.iter_mut().enumerate() {
        let said = format!("by pair {number}");
        let frame = datagram(to, 1000 + number as u16, said.as_bytes());
        let at = machine.put(&frame);
        assert_eq!(machine.ask(queue, &[(at, frame.len() as u32, 0)]), 0, "{face:?}");

        let mut heard = [0; 64];
        let (len, from) = far.recv_from(&mut heard).unwrap();
        assert_eq!((&heard[..len], from.port()), (said.as_bytes(), 1000 + number as u16), "{face:?}");

        let answer = format!("answer {number}");
        far.send_to(answer.as_bytes(), from).unwrap();
        let is_it = |frame: &[u8]| frame.ends_with(answer.as_bytes());
        until("the answer", || {
            rx.iter_mut().zip(&room).find_map(|(queue, at)| {
                let (head, len) = queue.poll()?;
                is_it(&machine.bytes(at + 2048 * u64::from(head), len as usize)).then_some(())
            })
        });
    }
}

// Each in a network of its own: a program that another test is just starting has what this one has closed, for a moment.
#[test]
fn an_inherited_queue_carries_frames_both_ways() {
    for face in Face::ALL {
        alone(move || talks(face, vec![tap::attached("one", ONE).unwrap()], "one"));
    }
}

#[test]
fn several_inherited_queues_of_one_tap_carry_frames_both_ways() {
    for face in Face::ALL {
        alone(move || {
            let files = (0..3).map(|_| tap::attached("several", SEVERAL).unwrap()).collect();
            talks(face, files, "several");
        });
    }
}

#[test]
fn an_inherited_queue_of_a_tap_for_several_is_enough_for_one_pair() {
    alone(|| talks(Face::Mmio, vec![tap::attached("multi", SEVERAL).unwrap()], "multi"));
}

#[test]
fn a_queue_is_the_cards_until_it_is_dropped_and_the_number_stays_open() {
    alone(|| {
        let file = tap::attached("stays", ONE).unwrap();
        let tap = Tap::from_fd(file.as_raw_fd(), false).unwrap();
        // What an empty queue says to who does not wait.
        let error = rustix::io::read(tap.fd(), &mut [0; 64]).unwrap_err();
        assert!(matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::IO), "{error}");

        drop(tap);

        let again = Tap::from_fd(file.as_raw_fd(), false).unwrap();
        assert_eq!(again.interface().unwrap().name, "stays");
    });
}

#[test]
fn an_inherited_file_of_another_kind_is_refused_by_what_it_lacks() {
    alone(|| {
        let refusal = |name: &str, flags, several: bool| {
            let file = tap::attached(name, flags).unwrap();
            let error = Tap::from_fd(file.as_raw_fd(), several).unwrap_err().to_string();
            error.replacen(&file.as_raw_fd().to_string(), "N", 1)
        };
        let expected = |name: &str, lacks: &str| {
            format!(
                "file descriptor N is {name}, opened in another way than a guest's card needs: it {lacks}; attach it \
                 to a tap by TUNSETIFF with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR"
            )
        };

        let tun = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        assert_eq!(refusal("tun", tun, false), expected("tun", "carries packets and not frames"));
        let info = libc::IFF_TAP | libc::IFF_VNET_HDR;
        assert_eq!(
            refusal("info", info, false),
            expected("info", "has packet information before every frame")
        );
        let bare = libc::IFF_TAP | libc::IFF_NO_PI;
        assert_eq!(refusal("bare", bare, false), expected("bare", "has no virtio header before every frame"));
        assert_eq!(refusal("single", ONE, true), expected("single", "is for one queue (IFF_MULTI_QUEUE)"));
    });
}

#[test]
fn inherited_files_of_two_taps_and_one_that_is_given_twice_are_refused() {
    alone(|| {
        let files = ["left", "right"].map(|name| tap::attached(name, SEVERAL).unwrap());
        let [left, right] = numbers(&files).try_into().unwrap();

        assert_eq!(
            Tap::from_fds(&[left, right]).unwrap_err().to_string(),
            format!(
                "file descriptors {left} and {right} are of left and right; give a card queues of one tap"
            )
        );
        assert_eq!(
            Tap::from_fds(&[left, left]).unwrap_err().to_string(),
            format!(
                "file descriptor {left} is given twice; each is one pair of queues, so open the tap once for each"
            )
        );
    });
}

#[test]
fn an_inherited_file_that_is_attached_to_nothing_is_no_tap() {
    alone(|| {
        let file = File::options().read(true).write(true).open(tap::TUN).unwrap();

        let error = Tap::from_fd(file.as_raw_fd(), false).unwrap_err();

        assert!(matches!(error, TapError::NoTapFile { .. }), "{error}");
    });
}

// C-228
#[test]
fn all_frames_come_by_the_first_pair_while_no_other_is_in_use() {
    alone(|| {
        let files: Vec<File> = (0..3).map(|_| tap::attached("first", SEVERAL).unwrap()).collect();
        let far = host("first");
        let taps = Tap::from_fds(&numbers(&files)).unwrap();
        let mut machine = Machine::new(Net::new("first", taps, &Options::new(MAC)).unwrap());
        assert!(machine.negotiate(VERSION_1));
        let (mut rx, _tx) = (machine.queue(0, 64), machine.queue(1, 64));
        machine.go();
        let at = machine.alloc(2048, 1);

        // Each is of another flow, which the host would give to any of the queues.
        for port in 1..40 {
            let told = format!("to port {port}");
            far.send_to(told.as_bytes(), (std::net::Ipv4Addr::from(GUEST), port)).unwrap();
            until("the datagram", || {
                rx.offer(&[(at, 2048, WRITE)]);
                machine.kick(&rx);
                let (_, len) = rx.wait();
                machine.bytes(at, len as usize).ends_with(told.as_bytes()).then_some(())
            });
        }
    });
}
