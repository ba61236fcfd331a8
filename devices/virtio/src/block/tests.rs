use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::disk::{Alignment, Blocks, Disk};
use super::job::{Act, Step};
use super::lane::Faults;
use super::*;
use crate::driver::{Face, Machine, VERSION_1, Vq, WRITE};

mod cache;
mod clear;
mod faults;
mod flight;
mod model;
mod requests;
mod shape;

const SECTORS: u64 = 64;
const DISK: usize = (SECTORS * SECTOR) as usize;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_IT: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What a status byte is before the device writes it.
const UNTOUCHED: u8 = 0xa5;
/// What a buffer is before the device writes it.
const EMPTY: u8 = 0xee;

/// A disk whose every byte is known.
fn pattern() -> Vec<u8> {
    (0..DISK).map(|at| (at / 7 % 251) as u8).collect()
}

fn image() -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&pattern()).unwrap();
    file
}

/// The engines of this host.
fn engines() -> Vec<Engine> {
    let disk = Disk::new(image(), &Options::new("probe")).unwrap();
    match uring::Uring::new(4, Arc::new(disk)) {
        Ok(_) => vec![Engine::Sync, Engine::Uring],
        Err(error) => {
            println!("NOT TESTED: io_uring, which this host refuses: {error}");
            vec![Engine::Sync]
        }
    }
}

/// A disk and its driver, to be.
#[derive(Clone)]
struct Setup {
    face: Face,
    options: Options,
    features: u64,
    size: u16,
    faults: Option<Arc<dyn Faults>>,
    /// Sectors, blocks and alignment, for files that do not say it, or so that they say something else.
    facts: Option<(u64, Blocks, Option<Alignment>)>,
}

impl Setup {
    fn new(face: Face, engine: Engine) -> Self {
        let options = Options { engine, ..Options::new("disk0") };
        Self { face, options, features: FLUSH, size: 256, faults: None, facts: None }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn faulty(mut self, script: &Arc<Script>) -> Self {
        let script: Arc<Script> = Arc::clone(script);
        self.faults = Some(script);
        self
    }

    fn bench(self) -> Bench {
        self.on(image())
    }

    fn on(self, file: File) -> Bench {
        let kept = file.try_clone().unwrap();
        let mut disk = match self.facts {
            None => Disk::new(file, &self.options).unwrap(),
            Some((sectors, blocks, direct)) => Disk::with(file, &self.options, sectors, blocks, direct),
        };
        disk.faults = self.faults.clone();
        let block = Block::of(Arc::new(disk), &self.options).unwrap();
        let size = block.size();
        let machine = Machine::with_face(self.face, block);
        let mut bench = Bench { machine, queues: Vec::new(), file: kept, size, setup: self };
        bench.begin();
        bench
    }
}

/// What is said of files that are none.
fn plain(sectors: u64) -> Option<(u64, Blocks, Option<Alignment>)> {
    Some((sectors, Blocks { logical: 512, physical: 512 }, None))
}

type Before = dyn Fn(&mut Step) -> Option<io::Result<usize>> + Send + Sync;

/// Does wrong what it is told to, and keeps a list of what was done.
struct Script {
    before: Box<Before>,
    done: Mutex<Vec<Act>>,
}

impl Script {
    fn of(before: impl Fn(&mut Step) -> Option<io::Result<usize>> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { before: Box::new(before), done: Mutex::default() })
    }

    /// Everything works.
    fn trace() -> Arc<Self> {
        Self::of(|_| None)
    }

    /// What was done since the last time.
    fn take(&self) -> Vec<Act> {
        std::mem::take(&mut *self.done.lock().unwrap())
    }
}

impl Faults for Script {
    fn before(&self, _queue: u16, step: &mut Step) -> Option<io::Result<usize>> {
        (self.before)(step)
    }

    fn after(&self, _queue: u16, step: &Step, result: &io::Result<usize>) {
        if result.is_ok() {
            self.done.lock().unwrap().push(step.act);
        }
    }
}

fn error<T>(number: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(number))
}

/// Every engine of this host on every transport.
fn everywhere(test: impl Fn(Setup)) {
    for engine in engines() {
        for face in Face::ALL {
            println!("{engine:?} on {face:?}");
            test(Setup::new(face, engine));
        }
    }
}

/// Every engine of this host.
fn by_engine(test: impl Fn(Setup)) {
    for engine in engines() {
        println!("{engine:?}");
        test(Setup::new(Face::Mmio, engine));
    }
}

struct Bench {
    machine: Machine,
    queues: Vec<Vq>,
    file: File,
    size: Arc<Size>,
    setup: Setup,
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat()
}

/// Sector, number and flags.
fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [sector.to_le_bytes().as_slice(), &count.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// A request that was made and not waited for.
struct Asked {
    head: u16,
    status: u64,
    data: u64,
    len: usize,
}

impl Bench {
    /// From the reset to a device that runs.
    fn begin(&mut self) {
        let Setup { features, size, ref options, .. } = self.setup;
        assert!(self.machine.negotiate(VERSION_1 | features));
        self.queues = (0..options.queues).map(|index| self.machine.queue(index, size)).collect();
        self.machine.go();
    }

    /// Puts a request in the usual framing into a queue, without a kick.
    fn put(&mut self, queue: usize, kind: u32, sector: u64, out: &[u8], into: usize) -> Asked {
        let head = self.machine.put(&header(kind, sector));
        let from = self.machine.put(out);
        let data = self.machine.put(&vec![EMPTY; into]);
        let status = self.machine.put(&[UNTOUCHED]);
        let mut chain = vec![(head, 16, 0)];
        if !out.is_empty() {
            chain.push((from, out.len() as u32, 0));
        }
        if into > 0 {
            chain.push((data, into as u32, WRITE));
        }
        chain.push((status, 1, WRITE));
        let head = self.queues[queue].offer(&chain);
        Asked { head, status, data, len: into }
    }

    fn kick(&self, queue: usize) {
        self.machine.kick(&self.queues[queue]);
    }

    fn answer(&self, asked: &Asked) -> (u8, Vec<u8>) {
        (self.machine.bytes(asked.status, 1)[0], self.machine.bytes(asked.data, asked.len))
    }

    /// A request in the usual framing on the first queue; its status, what it wrote, and the used length.
    fn ask(&mut self, kind: u32, sector: u64, out: &[u8], into: usize) -> (u8, Vec<u8>, u32) {
        let asked = self.put(0, kind, sector, out, into);
        self.kick(0);
        let (head, used) = self.queues[0].wait();
        assert_eq!(head, u32::from(asked.head));
        let (status, data) = self.answer(&asked);
        (status, data, used)
    }

    fn status_of(&mut self, kind: u32, sector: u64, out: &[u8], into: usize) -> u8 {
        self.ask(kind, sector, out, into).0
    }

    fn chain(&mut self, chain: &[(u64, u32, u16)]) -> u32 {
        self.machine.ask(&mut self.queues[0], chain)
    }

    fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; DISK];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn config<const N: usize>(&self, at: u64) -> [u8; N] {
        self.machine.get(self.machine.spots.config.plus(at))
    }

    fn works(&mut self) {
        let (status, data, used) = self.ask(IN, 3, &[], 512);
        assert_eq!((status, used), (OK, 513));
        assert_eq!(data, pattern()[3 * 512..4 * 512]);
    }
}
