//! Every case on every device and transport of this process, with what the process uses before and after.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ambit_attacks::layout::{SECTOR, SECTORS, on_disk};
use ambit_attacks::{
    Attack, Counts, Device, Face, Ground, Machine, Spot, Verdict, Windows, begin, run, table,
};
use ambit_bus::bench::RAM_BASE;
use ambit_virtio::balloon::{self, Balloon};
use ambit_virtio::block::{Block, Options};
use ambit_virtio::console::{self, Console};
use ambit_virtio::driver::{self, RAM};
use ambit_virtio::net::{self, Carrier, Mac, Net, Offloads};
use ambit_virtio::rng::{self, Rng};
use vm_memory::{Bytes, GuestAddress};

struct Wire(UnixDatagram);

impl Carrier for Wire {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set_offloads(&self, _: Offloads) -> std::io::Result<()> {
        Ok(())
    }
}

/// A device of this process, and what is at its other end.
struct Here {
    machine: driver::Machine,
    device: Device,
    face: Face,
    disk: Option<File>,
    wire: Option<UnixDatagram>,
}

impl Here {
    fn new(device: Device, face: Face) -> Self {
        let (mut disk, mut wire) = (None, None);
        let id = driver::unique("a");
        let machine = match device {
            Device::Disk | Device::ReadOnlyDisk => {
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(&image(), 0).unwrap();
                let readonly = device == Device::ReadOnlyDisk;
                let options = Options { readonly, ..Options::new(&id) };
                disk = Some(file.try_clone().unwrap());
                on(face, Block::new(file, &options).unwrap())
            }
            Device::Net => {
                let (near, far) = UnixDatagram::pair().unwrap();
                near.set_nonblocking(true).unwrap();
                far.set_nonblocking(true).unwrap();
                wire = Some(far);
                on(face, Net::new(&id, vec![Wire(near)], &net::Options::new(Mac([2; 6]))).unwrap())
            }
            Device::Rng => on(face, Rng::new(File::open("/dev/urandom").unwrap(), &rng::Options::new(&id))),
            Device::Console => {
                on(face, Console::new(Box::new(|_| {}), &console::Options::new(&id)).unwrap().0)
            }
            Device::Balloon => on(face, Balloon::new(&balloon::Options::new(&id)).0),
        };
        Self { machine, device, face, disk, wire }
    }

    /// No case may change a disk or send more than the longest frame.
    fn outside(&self) -> bool {
        let mut now = image();
        let disk = self.disk.as_ref().is_none_or(|file| {
            file.read_exact_at(&mut now, 0).unwrap();
            now == image() && file.metadata().unwrap().len() == SECTORS * SECTOR
        });
        let mut frame = vec![0; 1 << 17];
        let mut next = || self.wire.as_ref()?.recv(&mut frame).ok();
        disk && std::iter::from_fn(&mut next).all(|len| (26..=65_562).contains(&len))
    }
}

fn image() -> Vec<u8> {
    (0..SECTORS * SECTOR).map(on_disk).collect()
}

fn on(face: Face, device: impl ambit_virtio::device::VirtioDevice + 'static) -> driver::Machine {
    let face = match face {
        Face::Mmio => driver::Face::Mmio,
        Face::MmioLegacy => driver::Face::MmioLegacy,
        Face::Pci => driver::Face::Pci,
        Face::PciLegacy => driver::Face::PciLegacy,
    };
    driver::Machine::with_face(face, device)
}

impl Machine for Here {
    fn face(&self) -> Face {
        self.face
    }

    fn device(&self) -> Device {
        self.device
    }

    fn windows(&self) -> Windows {
        let at = |spot: driver::Spot| Spot { window: spot.window, byte: spot.byte };
        let spots = &self.machine.spots;
        let registers = match self.face {
            Face::Mmio | Face::MmioLegacy => Spot::default(),
            Face::Pci => at(spots.common),
            Face::PciLegacy => Spot { window: 1, byte: 0 },
        };
        Windows {
            registers,
            notify: at(spots.notify),
            notify_step: spots.notify_step,
            isr: at(spots.isr),
            config: at(spots.config),
            vectors: at(spots.table),
            pending: at(spots.pending),
            msix: spots.msix,
            access: spots.access,
        }
    }

    fn ground(&self) -> Ground {
        Ground { room: RAM_BASE, end: RAM_BASE + RAM, hole: RAM_BASE / 2, registers: 0x200_0000 }
    }

    fn power_up(&mut self) {
        if self.face.is_pci() {
            self.write(Spot { window: 0, byte: 4 }, 2, 7);
            self.write(Spot { window: 0, byte: self.machine.spots.msix + 2 }, 2, 0);
        }
    }

    fn read(&mut self, at: Spot, width: u8) -> u64 {
        let mut bytes = [0; 8];
        self.machine
            .fetch(driver::Spot { window: at.window, byte: at.byte }, &mut bytes[..usize::from(width)]);
        u64::from_le_bytes(bytes)
    }

    fn write(&mut self, at: Spot, width: u8, value: u64) {
        let bytes = value.to_le_bytes();
        self.machine.put_at(driver::Spot { window: at.window, byte: at.byte }, &bytes[..usize::from(width)]);
    }

    fn load(&mut self, address: u64, bytes: &mut [u8]) {
        let at = GuestAddress(address);
        match <&mut [u8; 2]>::try_from(&mut *bytes) {
            Ok(two) if address.is_multiple_of(2) => {
                *two = self.machine.memory.load::<u16>(at, Ordering::Acquire).unwrap().to_ne_bytes();
            }
            _ => self.machine.memory.read_slice(bytes, at).unwrap(),
        }
    }

    fn store(&mut self, address: u64, bytes: &[u8]) {
        let at = GuestAddress(address);
        match <[u8; 2]>::try_from(bytes) {
            Ok(two) if address.is_multiple_of(2) => {
                self.machine.memory.store(u16::from_ne_bytes(two), at, Ordering::SeqCst).unwrap();
            }
            _ => self.machine.memory.write_slice(bytes, at).unwrap(),
        }
    }

    fn kick(&mut self, queue: u16) {
        let bell = self.machine.doorbell(queue);
        self.machine.host.ring(bell);
    }

    fn pause(&mut self, round: u32) {
        if round < 20 { std::thread::yield_now() } else { std::thread::sleep(Duration::from_micros(100)) }
    }
}

/// Runs the table on one device and face; what failed.
fn all(device: Device, face: Face) -> (Counts, Vec<String>) {
    let mut counts = Counts::default();
    let mut here = Here::new(device, face);
    let mut failed = Vec::new();
    for attack in table::all().filter(|attack| attack.is_for(device, face)) {
        let verdict = run(attack, &mut here);
        counts.count(verdict);
        let outside = here.outside();
        if !outside || matches!(verdict, Verdict::Fail(_) | Verdict::Wedged) {
            let outside = if outside { "" } else { ", and it was seen outside" };
            failed.push(format!(
                "{} {} on {device:?} over {face:?}: {verdict}{outside}",
                attack.row, attack.what
            ));
        }
        if verdict == Verdict::Wedged {
            here = Here::new(device, face);
        }
    }
    (counts, failed)
}

/// What the whole process uses is measured by one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Anonymous memory, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn no_attack_gets_another_answer_than_it_should_on_any_transport() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let places = || Device::ALL.iter().flat_map(|device| Face::ALL.map(|face| (*device, face)));
    let (files, memory) = (open_files(), resident());

    // Most of the time is spent waiting for what must not come.
    let results: Vec<(Counts, Vec<String>)> = std::thread::scope(|scope| {
        let runs: Vec<_> = places().map(|(device, face)| scope.spawn(move || all(device, face))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });

    let counts = results.iter().fold(Counts::default(), |sum, (counts, _)| sum + *counts);
    println!("attacks in process: {counts}");
    let failed: Vec<&String> = results.iter().flat_map(|(_, failed)| failed).collect();
    assert_eq!(failed, Vec::<&String>::new());
    // The harness itself may have had one open before; what leaks would do so with each of thousands of cases.
    assert!(open_files() <= files, "{files} files and then {}", open_files());
    assert!(resident() < memory + (32 << 10), "{memory} KiB and then {} KiB", resident());
}

#[test]
fn the_table_has_no_case_twice_and_at_least_55_of_each_transport() {
    let mut names: Vec<(&str, &str)> = table::all().map(|attack| (attack.row, attack.what)).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();

    assert_eq!(names.len(), all);
    for face in Face::ALL {
        let cases = table::all().filter(|attack| attack.faces.contains(&face)).count();
        assert!(cases >= 55, "{cases} over {face:?}");
    }
}

/// How much time of a processor this process has used, in ticks of 10 ms.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    [fields[11], fields[12]].map(|field| field.parse::<u64>().unwrap()).iter().sum()
}

/// What a batch of attacks uses in a fifth of a second, with all devices left as they are then.
fn used_after(batch: &[(&'static Attack, Device)]) -> u64 {
    let mut left: Vec<Here> = Vec::new();
    for (attack, device) in batch {
        let mut here = Here::new(*device, Face::Mmio);
        begin(attack, &mut here);
        left.push(here);
    }
    std::thread::sleep(Duration::from_millis(50));
    let before = ticks();
    std::thread::sleep(Duration::from_millis(200));
    ticks() - before
}

#[test]
fn no_device_spins_when_it_is_left_as_an_attack_left_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let all: Vec<(&Attack, Device)> = table::all()
        .flat_map(|attack| Device::ALL.map(|device| (attack, device)))
        .filter(|(attack, device)| attack.is_for(*device, Face::Mmio))
        .collect();

    // One by one only those of a batch that does.
    let busy: Vec<String> = all
        .chunks(128)
        .filter(|batch| used_after(batch) > 5)
        .flat_map(|batch| batch.chunks(1))
        .filter(|one| used_after(one) > 5)
        .map(|one| format!("{} {} on {:?}", one[0].0.row, one[0].0.what, one[0].1))
        .collect();

    assert_eq!(busy, Vec::<String>::new());
}
