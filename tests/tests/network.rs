//! What a guest and its host say to each other over a tap.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::LazyLock;
use std::thread::{self, JoinHandle};

use ambit_tests::{Boot, Guest, Tap};

const SIZE: usize = 64 << 20;

/// Both ways, and not once by chance.
fn pings(guest: &mut Guest, tap: &Tap) {
    guest.check(&format!("ping -c 3 -i 0.2 -W 20 {}", tap.host()));
    let host =
        Command::new("ping").args(["-c", "3", "-i", "0.2", "-W", "20", &tap.guest()]).output().unwrap();
    assert!(host.status.success(), "{}", String::from_utf8_lossy(&host.stdout));
}

#[test]
fn guest_and_host_ping_each_other_also_after_the_interface_was_down() {
    let tap = Tap::new();
    let mut guest = Boot::initrd().net(&tap).ready();
    pings(&mut guest, &tap);

    guest.check("ip link set eth0 down && ip link set eth0 up");

    pings(&mut guest, &tap);
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn a_card_works_when_its_driver_is_loaded_anew() {
    let tap = Tap::new();
    let mut guest = Boot::initrd().net(&tap).ready();
    pings(&mut guest, &tap);

    guest.check("rmmod virtio_net && [ ! -e /sys/class/net/eth0 ]");
    guest.check("insmod /modules/virtio_net.ko");
    guest.check(&format!("ip addr add {}/24 dev eth0 && ip link set eth0 up", tap.guest()));

    pings(&mut guest, &tap);
    assert_eq!(guest.power_off(), 0);
}

#[test]
fn two_cards_have_the_addresses_that_were_asked_for_and_each_its_own_wire() {
    let taps = [Tap::new(), Tap::new()];
    let macs = ["02:00:00:aa:bb:01", "02:00:00:aa:bb:02"];
    let [first, second] = &taps;
    let mut guest = Boot::initrd()
        .argument("--net", format!("tap={},id=first,mac={}", first.name, macs[0]))
        .argument("--net", format!("tap={},id=second,mac={}", second.name, macs[1]))
        .cmdline(&first.cmdline())
        .ready();
    guest.check(&format!("ip addr add {}/24 dev eth1 && ip link set eth1 up", second.guest()));

    let seen = guest.check("cat /sys/class/net/eth0/address /sys/class/net/eth1/address");

    assert_eq!(seen.lines().collect::<Vec<_>>(), macs);
    for tap in &taps {
        pings(&mut guest, tap);
    }
    assert_eq!(guest.power_off(), 0);
}

/// One boot for the tests that only look at what it left: 64 MiB go to the guest and come back.
struct Transfer {
    sent: Vec<u8>,
    /// Of what the guest got.
    checksum: String,
    came_back: Vec<u8>,
    /// That the guest received and sent, in this order.
    packets: [usize; 2],
    /// A digit per feature bit, the lowest first.
    features: String,
}

static TRANSFER: LazyLock<Transfer> = LazyLock::new(|| {
    let tap = Tap::new();
    let mut guest = Boot::initrd().net(&tap).ready();
    let sent = noise(SIZE);
    let features = guest.check("cat /sys/class/net/eth0/device/features");
    let packets = ["rx", "tx"].map(|way| format!("cat /sys/class/net/eth0/statistics/{way}_packets"));

    let (to_guest, port) = serve(&tap, {
        let sent = sent.clone();
        move |mut stream| stream.write_all(&sent).map(|()| Vec::new())
    });
    guest.check(&format!("nc {} {port} </dev/null >/tmp/data", tap.host()));
    to_guest.join().unwrap();
    let checksum = guest.check("sha256sum /tmp/data");
    let (from_guest, port) = serve(&tap, |mut stream| {
        let mut all = Vec::with_capacity(SIZE);
        stream.read_to_end(&mut all).map(|_| all)
    });
    guest.check(&format!("nc {} {port} </tmp/data", tap.host()));
    let came_back = from_guest.join().unwrap();

    let packets = packets.map(|line| guest.check(&line).trim().parse().unwrap());
    assert_eq!(guest.power_off(), 0);
    Transfer { sent, checksum, came_back, packets, features }
});

#[test]
fn what_the_host_sends_reaches_the_guest_whole() {
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&TRANSFER.sent).unwrap();
    let expected = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();

    let checksum = |line: &str| line.split(' ').next().unwrap().to_owned();
    assert_eq!(checksum(&TRANSFER.checksum), checksum(&expected));
}

#[test]
fn what_the_guest_sends_reaches_the_host_whole() {
    assert_eq!(TRANSFER.came_back.len(), TRANSFER.sent.len());
    assert!(TRANSFER.came_back == TRANSFER.sent, "as many bytes, but not the same");
}

#[test]
fn the_driver_takes_checksum_and_segmentation_offloads_and_mergeable_buffers() {
    // virtio 1.2, 5.1.3
    let offered = [
        (0, "CSUM"),
        (1, "GUEST_CSUM"),
        (5, "MAC"),
        (7, "GUEST_TSO4"),
        (8, "GUEST_TSO6"),
        (11, "HOST_TSO4"),
        (12, "HOST_TSO6"),
        (15, "MRG_RXBUF"),
    ];

    let missing = offered.iter().filter(|(bit, _)| TRANSFER.features.as_bytes()[*bit] != b'1');

    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&(usize, &str)>::new(), "of {}", TRANSFER.features);
}

#[test]
fn packets_far_larger_than_the_wire_allows_cross_the_card_both_ways() {
    // Without offloads there are two packets per 3000 bytes.
    let most = SIZE / 4096;

    let [received, sent] = TRANSFER.packets;

    assert!(received < most, "the guest received {received} packets for 64 MiB");
    assert!(sent < most, "the guest sent {sent} packets for 64 MiB");
}

/// Waits at the host's end for one connection, in a thread of its own; and where.
fn serve(
    tap: &Tap,
    talk: impl FnOnce(TcpStream) -> std::io::Result<Vec<u8>> + Send + 'static,
) -> (JoinHandle<Vec<u8>>, u16) {
    let listener = TcpListener::bind((tap.host(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (thread::spawn(move || listener.accept().and_then(|(stream, _)| talk(stream)).unwrap()), port)
}

/// Bytes that are never again the same in this order (xorshift, Marsaglia 2003).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes / 8).flat_map(word).collect()
}
