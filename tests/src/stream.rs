//! Both ends of a stream of bytes, or of small datagrams, between a guest and its host.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// What came of some work.
#[derive(Debug, Default, Clone, Copy)]
pub struct Done {
    pub requests: u64,
    pub bytes: u64,
    /// From the first to the last of it, if that is not all the time there was.
    pub took: Option<Duration>,
}

const PIECE: usize = 64 << 10;
/// The payload of a small datagram, and of the one that begins and the one that ends.
const SMALL: usize = 18;
const BEGIN: &[u8] = b"begin";
const END: &[u8] = b"end";

/// Sends for so long; done when the other side has it all.
pub fn send(mut socket: TcpStream, time: Duration) -> Done {
    let begun = Instant::now();
    let piece = vec![0x5a; PIECE];
    let mut done = Done::default();
    while begun.elapsed() < time {
        socket.write_all(&piece).expect("the other side reads");
        done.requests += 1;
        done.bytes += PIECE as u64;
    }
    socket.shutdown(std::net::Shutdown::Write).expect("it is connected");
    let _ended = socket.read(&mut [0]);
    Done { took: Some(begun.elapsed()), ..done }
}

pub fn receive(mut socket: TcpStream) -> Done {
    let begun = Instant::now();
    let mut piece = vec![0; PIECE];
    let mut done = Done::default();
    while let Ok(count @ 1..) = socket.read(&mut piece) {
        done.requests += 1;
        done.bytes += count as u64;
    }
    Done { took: Some(begun.elapsed()), ..done }
}

/// Sends small datagrams for so long, and says a few times that this was all.
pub fn flood(socket: &UdpSocket, time: Duration) -> Done {
    let begun = Instant::now();
    let mut done = Done::default();
    while begun.elapsed() < time {
        // What the queue of the interface has no room for is lost, as on any network.
        if socket.send(&[0x5a; SMALL]).is_ok() {
            done.requests += 1;
            done.bytes += SMALL as u64;
        }
    }
    let took = begun.elapsed();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        let _full = socket.send(END);
    }
    Done { took: Some(took), ..done }
}

/// Counts what comes from the first datagram to the last. With `ask` the other side is first told where to send to.
pub fn hear(socket: &UdpSocket, ask: bool) -> Done {
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("it is not zero");
    let mut done = Done::default();
    let mut times: Option<(Instant, Instant)> = None;
    let mut bytes = [0; 2048];
    for _ in 0..40 {
        if ask && times.is_none() {
            socket.send(BEGIN).expect("there is a network");
        }
        loop {
            match socket.recv(&mut bytes) {
                Ok(count) if bytes[..count] == *END => {
                    let took = times.map_or(Duration::ZERO, |(first, last)| last - first);
                    return Done { took: Some(took), ..done };
                }
                Ok(count) if bytes[..count] == *BEGIN => {}
                Ok(count) => {
                    let now = Instant::now();
                    times = Some((times.map_or(now, |(first, _)| first), now));
                    done.requests += 1;
                    done.bytes += count as u64;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("cannot receive: {error}"),
            }
        }
    }
    panic!("nothing came, or no end of it")
}

/// Waits until somebody asks, and sends small datagrams there.
pub fn answer(socket: &UdpSocket, time: Duration) -> Done {
    let mut bytes = [0; 16];
    let (_, peer) = socket.recv_from(&mut bytes).expect("somebody asks");
    socket.connect(peer).expect("there is a network");
    flood(socket, time)
}
