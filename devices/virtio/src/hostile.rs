//! Guests that put anything into their rings: whatever it is, the device works again after a reset.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use ambit_bus::bench::RAM_BASE;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use crate::balloon::{self, Balloon};
use crate::block::{Block, BlockError, Engine, Options};
use crate::console::{self, Console};
use crate::driver::{EVENT_IDX, INDIRECT, Machine, RAM, VERSION_1, Vq, WRITE};
use crate::net::{self, Carrier, Mac, Net, Offloads};
use crate::rng::{self, Rng};

const SIZE: u16 = 8;
/// Where buffers and indirect tables are, besides wild places: behind the rings of [`Machine`].
const SCRATCH: u64 = RAM_BASE + 0x10_0000;

/// What a guest puts where descriptors are read from.
type Descriptor = (u64, u32, u16, u16);

#[derive(Clone, Debug)]
struct Attack {
    features: u64,
    /// The table of each queue, and after it the scratch RAM that indirect descriptors point to.
    tables: Vec<Descriptor>,
    /// The available ring: queue and head.
    heads: Vec<(u16, u16)>,
    /// Once in a while the index is not where it should be.
    jump: Option<u16>,
    /// The first bytes of every buffer: a header of some device, often enough.
    scratch: Vec<u8>,
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let at = prop_oneof![
        8 => (0u64..64).prop_map(|i| SCRATCH + 16 * i),
        1 => (0u64..64).prop_map(|i| RAM_BASE + RAM - i),
        1 => prop::sample::select(vec![0, 0x200_0050, RAM_BASE - 1, u64::MAX, u64::MAX - 15]),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![
        6 => prop::sample::select(vec![0u32, 1, 10, 12, 16, 32, 64, 128, 512, 513, 1024, 2048]),
        1 => prop::sample::select(vec![0x1_0000, 0x10_0000, 0x8000_0000, u32::MAX]),
        1 => any::<u32>(),
    ];
    let flags = prop_oneof![8 => 0u16..4, 2 => 0u16..8, 1 => any::<u16>()];
    let next = prop_oneof![8 => 0..SIZE, 1 => any::<u16>()];
    (at, len, flags, next)
}

fn attack() -> impl Strategy<Value = Attack> {
    let header = prop_oneof![
        3 => (0u8..15, 0u8..70).prop_map(|(kind, sector)| {
            let mut bytes = vec![0; 2048];
            (bytes[0], bytes[8]) = (kind, sector);
            bytes
        }),
        1 => prop::collection::vec(any::<u8>(), 2048),
    ];
    (
        prop::sample::select(vec![0, INDIRECT, EVENT_IDX, INDIRECT | EVENT_IDX]),
        prop::collection::vec(descriptor(), usize::from(SIZE) * 6),
        prop::collection::vec((0u16..6, prop_oneof![12 => 0..SIZE, 1 => any::<u16>()]), 0..40),
        prop::option::weighted(0.1, any::<u16>()),
        header,
    )
        .prop_map(|(features, tables, heads, jump, scratch)| Attack {
            features,
            tables,
            heads,
            jump,
            scratch,
        })
}

/// Does it to the device's first `queues` queues, and leaves the device as it is then.
fn launch(machine: &mut Machine, queues: u16, attack: &Attack) {
    assert!(machine.negotiate(VERSION_1 | attack.features));
    let mut queues: Vec<Vq> = (0..queues).map(|index| machine.queue(index, SIZE)).collect();
    machine.memory.write_slice(&attack.scratch, GuestAddress(SCRATCH)).unwrap();
    let (mine, shared) = attack.tables.split_at(2 * usize::from(SIZE));
    for (queue, table) in queues.iter().zip(mine.chunks(usize::from(SIZE))) {
        for (index, (at, len, flags, next)) in (0..).zip(table) {
            queue.describe(queue.desc, index, (*at, *len, *flags), *next);
        }
    }
    if let Some(queue) = queues.first() {
        // Half of what descriptors point to looks like descriptors.
        for (index, (at, len, flags, next)) in (32..).zip(shared) {
            queue.describe(SCRATCH, index, (*at, *len, *flags), *next);
        }
    }
    machine.go();
    for (index, head) in &attack.heads {
        let index = usize::from(*index) % queues.len();
        queues[index].publish(*head);
        machine.kick(&queues[index]);
    }
    if let Some(jump) = attack.jump {
        queues[0].set_index(jump);
        machine.kick(&queues[0]);
    }
    // Long enough that some of it is done when the reset comes, and short enough that some is not.
    std::thread::sleep(Duration::from_micros(300));
}

/// After a reset the first queue serves `request`, writing as many bytes as it should.
fn serves(machine: &mut Machine, request: &[(u64, u32, u16)], used: u32) {
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, SIZE);
    machine.go();
    assert_eq!(machine.ask(&mut queue, request), used);
}

struct Wire(UnixDatagram);

impl Carrier for Wire {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set_offloads(&self, _: Offloads) -> std::io::Result<()> {
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_disk_outlives_any_ring(attack in attack()) {
        for engine in [Engine::Sync, Engine::Uring] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(64 * 512).unwrap();
            let options = Options { engine, queues: 2, ..Options::new("disk") };
            let device = match Block::new(file.try_clone().unwrap(), &options) {
                Err(error @ BlockError::Uring { .. }) => {
                    println!("NOT TESTED: {error}");
                    continue;
                }
                device => device.unwrap(),
            };
            let mut machine = Machine::new(device);
            launch(&mut machine, 2, &attack);
            let header = machine.put(&[0; 16]);
            let into = machine.put(&[0; 513]);
            serves(&mut machine, &[(header, 16, 0), (into, 513, WRITE)], 513);
            prop_assert_eq!(file.metadata().unwrap().len(), 64 * 512);
        }
    }

    #[test]
    fn a_card_outlives_any_ring(attack in attack()) {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        for len in [100, 12, 1000, 3, 5000] {
            far.send(&vec![0; len]).unwrap();
        }
        let mut machine = Machine::new(Net::new("card", vec![Wire(near)], &net::Options::new(Mac([2; 6]))).unwrap());
        launch(&mut machine, 2, &attack);
        machine.write(0x70, 0);
        // The sent ones are not read by anybody, and the others may still wait.
        while far.recv(&mut [0; 16]).is_ok() {}
        let into = machine.alloc(70_000, 1);
        prop_assert!(machine.negotiate(VERSION_1));
        let mut queue = machine.queue(0, SIZE);
        machine.go();
        far.send(&[0; 77]).unwrap();
        for _ in 0..6 {
            if machine.ask(&mut queue, &[(into, 70_000, WRITE)]) == 77 {
                return Ok(());
            }
        }
        prop_assert!(false, "the last frame did not come");
    }

    #[test]
    fn an_entropy_device_outlives_any_ring(attack in attack()) {
        let mut machine = Machine::new(Rng::new(File::open("/dev/zero").unwrap(), &rng::Options::new("rng")));
        launch(&mut machine, 1, &attack);
        let into = machine.put(&[0; 64]);
        serves(&mut machine, &[(into, 64, WRITE)], 64);
    }
    #[test]
    fn a_console_outlives_any_ring(attack in attack()) {
        let (console, input) = Console::new(Box::new(|_| {}), &console::Options::new("console")).unwrap();
        let mut machine = Machine::new(console);
        input.push(&[b'x'; 1000]);
        launch(&mut machine, 2, &attack);
        machine.set_status(0);
        let (left, into) = (console::INPUT_ROOM - input.room(0), machine.put(&[0; 16]));
        input.push(b"key");
        // The guest may have read any part of what was typed before.
        let used = (left + 3).min(16);
        serves(&mut machine, &[(into, 16, WRITE)], used.try_into().unwrap());
    }

    #[test]
    fn a_balloon_outlives_any_ring(attack in attack()) {
        let (balloon, control) = Balloon::new(&balloon::Options::new("balloon"));
        let mut machine = Machine::new(balloon);
        let attack = Attack { features: attack.features | 1 << 5, ..attack };
        launch(&mut machine, 3, &attack);
        machine.set_status(0);
        let page = RAM_BASE + (8 << 20);
        machine.memory.write_slice(&[7; 4096], GuestAddress(page)).unwrap();
        let number = machine.put(&u32::try_from(page >> 12).unwrap().to_le_bytes());
        serves(&mut machine, &[(number, 4, 0)], 0);
        prop_assert_eq!(machine.bytes(page, 4096), [0; 4096]);
        prop_assert_eq!(control.actual(), 0);
    }
}
