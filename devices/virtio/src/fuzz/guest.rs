//! A guest that puts anything into the rings of a device: what it did not name as writable stays as it was, nothing
//! comes back that it did not make available, and after a reset the device serves.

use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::{AddressRange, PaBits};
use arbitrary::Result;
use vm_memory::{Bytes, GuestAddress};

use super::Input;
use crate::device::VirtioDevice;
use crate::driver::{EVENT_IDX, Face, INDIRECT, Machine, TABLE, VERSION_1, Vq, WRITE};

const RAM: u64 = 0x8_0000;
const SIZE: u16 = 8;
/// Indirect tables of 16 entries, behind the rings.
const TABLES: u64 = RAM_BASE + 0x3_0000;
const TABLES_END: u64 = TABLES + 0x400;
const BUFFERS: u64 = RAM_BASE + 0x4_0000;
const BUFFERS_END: u64 = BUFFERS + 0x2_0000;
/// Where the request at the end has its bytes.
const END: u64 = RAM_BASE + RAM;

pub struct Guest {
    pub machine: Machine,
    queues: Vec<Vq>,
    /// What the device may write besides its rings.
    writable: Vec<(u64, u64)>,
    heads: Vec<u16>,
    /// The guest made it unknowable what the device may write, or what it may give back.
    wild: bool,
}

impl Guest {
    /// With features out of `own` and of rings, and the device's first `queues` queues.
    pub fn begin(
        input: &mut Input<'_>,
        device: impl VirtioDevice + 'static,
        queues: u16,
        own: u64,
    ) -> Result<Self> {
        let face = *input.choose(&Face::ALL)?;
        let host = BenchHost::with_ram(&[AddressRange::fixed(RAM_BASE, RAM)], PaBits::MAX);
        let mut machine = Machine::build(host, face, device);
        let ring = *input.choose(&[0, INDIRECT, EVENT_IDX, INDIRECT | EVENT_IDX])?;
        let own = own & input.arbitrary::<u64>()?;
        if !machine.negotiate(VERSION_1 | ring | own) {
            assert!(machine.negotiate(VERSION_1 | ring));
        }
        let queues: Vec<Vq> = (0..queues).map(|index| machine.queue(index, SIZE)).collect();
        machine.memory.write_slice(&[0x77; (BUFFERS_END - BUFFERS) as usize], GuestAddress(BUFFERS)).unwrap();
        Ok(Self { machine, queues, writable: Vec::new(), heads: Vec::new(), wild: false })
    }

    /// The device writes where no descriptor says so.
    pub fn forgive(&mut self) {
        self.wild = true;
    }

    /// Does as `input` says, with `act` for what is particular to the device, and ends with a reset.
    pub fn run(&mut self, input: &mut Input<'_>, mut act: impl FnMut(u8)) -> Result<()> {
        let live = input.arbitrary()?;
        if live {
            self.machine.go();
        }
        for _ in 0..64 {
            if input.is_empty() {
                break;
            }
            match input.int_in_range(0..=15)? {
                0..=6 => self.describe(input)?,
                7..=10 => self.publish(input)?,
                11 => self.fill(input)?,
                12 => self.settle(),
                13 if input.ratio(1, 8)? => {
                    self.wild = true;
                    let queue = &self.queues[input.choose_index(self.queues.len())?];
                    queue.set_index(input.arbitrary()?);
                    self.machine.kick(queue);
                }
                _ => act(input.arbitrary()?),
            }
        }
        if !live {
            self.machine.go();
        }
        self.settle();
        self.machine.set_status(0);
        self.check();
        Ok(())
    }

    fn describe(&mut self, input: &mut Input<'_>) -> Result<()> {
        let chosen = input.choose_index(self.queues.len())?;
        let queue = &self.queues[chosen];
        let entry = input.int_in_range(0..=15u16)?;
        let (table, entry) =
            if input.ratio(3, 4)? { (queue.desc, entry % queue.size.min(16)) } else { (TABLES, entry) };
        let flags: u16 = input.arbitrary()?;
        let flags = if flags >> 8 == 0xff { flags } else { flags & 7 };
        let mut at = if flags & TABLE != 0 { TABLES } else { BUFFERS + u64::from(input.arbitrary::<u16>()?) };
        if input.ratio(1, 12)? {
            at = match input.int_in_range(0..=3)? {
                0 => input.arbitrary()?,
                1 => u64::MAX - u64::from(input.arbitrary::<u8>()?),
                2 => END - u64::from(input.arbitrary::<u8>()?),
                _ => *input.choose(&[0, RAM_BASE, RAM_BASE - 1, queue.desc, queue.used, 0x200_0050])?,
            };
        }
        let len = match input.int_in_range(0..=11)? {
            0 => input.arbitrary()?,
            1 => u32::from(input.arbitrary::<u16>()?),
            2..=4 => 16 * u32::from(input.arbitrary::<u8>()? % 17),
            5..=6 => *input.choose(&[512, 513, 1024, 2048, 4096])?,
            _ => u32::from(input.arbitrary::<u8>()?),
        };
        let next = if input.ratio(1, 16)? { input.arbitrary()? } else { input.int_in_range(0..=7)? };
        self.note((at, len, flags));
        self.queues[chosen].describe(table, entry, (at, len, flags), next);
        Ok(())
    }

    /// What the device may do from now on because of a descriptor.
    fn note(&mut self, (at, len, flags): (u64, u32, u16)) {
        let end = at.saturating_add(u64::from(len));
        if flags & TABLE != 0 {
            self.wild |= at < TABLES || end > TABLES_END;
        }
        if flags & WRITE != 0 {
            // A device that writes descriptors or heads may be led anywhere.
            self.wild |= at < BUFFERS && end > RAM_BASE;
            self.writable.push((at, end));
        }
    }

    fn publish(&mut self, input: &mut Input<'_>) -> Result<()> {
        let chosen = input.choose_index(self.queues.len())?;
        let queue = &mut self.queues[chosen];
        // More than there is room for is a jump of the index.
        if queue.slot.wrapping_sub(queue.used_index()) >= queue.size {
            return Ok(());
        }
        let head =
            if input.ratio(1, 24)? { input.arbitrary()? } else { input.int_in_range(0..=7)? % queue.size };
        self.heads.push(head);
        queue.publish(head);
        if input.ratio(3, 4)? {
            self.machine.kick(queue);
        }
        Ok(())
    }

    /// Bytes where buffers may be: a header of some device, often enough.
    fn fill(&mut self, input: &mut Input<'_>) -> Result<()> {
        let at = BUFFERS + u64::from(input.arbitrary::<u16>()?);
        let bytes: [u8; 24] = input.arbitrary()?;
        self.machine.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
        self.writable.push((at, at + 24));
        Ok(())
    }

    /// Waits until everything came back, or for a little while.
    fn settle(&self) {
        for _ in 0..40 {
            if self.queues.iter().all(|queue| queue.used_index() == queue.slot) {
                break;
            }
            std::thread::yield_now();
        }
    }

    fn check(&mut self) {
        if self.wild {
            return;
        }
        for queue in &mut self.queues {
            assert!(queue.used_index() <= queue.slot, "more came back than was made available");
            while let Some((head, _)) = queue.poll() {
                assert!(
                    self.heads.iter().any(|known| u32::from(*known) == head),
                    "{head} was never made available"
                );
            }
        }
        let first = BUFFERS;
        let mut bytes = vec![0; (END - first) as usize];
        self.machine.memory.read_slice(&mut bytes, GuestAddress(first)).unwrap();
        for (from, to) in &self.writable {
            let (from, to) = ((*from).clamp(first, END) - first, (*to).clamp(first, END) - first);
            let was = |at: u64| if first + at < BUFFERS_END { 0x77 } else { 0 };
            (from..to).for_each(|at| bytes[at as usize] = was(at));
        }
        let (middle, untouched) = bytes.split_at((BUFFERS_END - first) as usize);
        assert!(middle.iter().all(|byte| *byte == 0x77), "a buffer was written that is not for writing");
        assert!(untouched.iter().all(|byte| *byte == 0), "RAM was written that nobody offered");
    }

    /// The first queue of a new driver.
    pub fn again(&mut self) -> Vq {
        assert!(self.machine.negotiate(VERSION_1));
        let queue = self.machine.queue(0, SIZE);
        self.machine.go();
        queue
    }

    /// Memory for the request that shows that the device is well.
    pub fn room(&self, len: u64) -> u64 {
        END - len
    }
}
