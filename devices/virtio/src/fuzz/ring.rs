//! A driver and a device at one ring, action by action, and what each action must do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_resources::PaBits;
use arbitrary::Result;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use super::Input;
use super::model::{BASE, Ram, Table, address, length};
use crate::interrupt::{Event, Interrupt, Signal};
use crate::queue::{Areas, QueueSetup};
use crate::ring::{Chain, Ring, write_front};

/// The most entries of the queue.
const MAX: u16 = 8;
const AVAIL: u64 = BASE + 0x400;
const USED: u64 = BASE + 0x600;

/// How often the driver was told of used buffers.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Signal for Calls {
    fn message(&self, event: Event) -> bool {
        assert_eq!(event, Event::Used(3));
        self.0.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn status(&self, _: u8, _: u8) {}
}

/// The device's ring, and what must be true of it.
struct Bench {
    ram: Ram,
    ring: Ring,
    calls: Calls,
    table: Table,
    size: u16,
    event_idx: bool,
    next_avail: u16,
    next_used: u16,
    told: u16,
    told_of: usize,
    /// Requests that were taken and not given back, oldest first.
    taken: Vec<(u16, Option<Chain>)>,
}

pub fn body(input: &mut Input<'_>) -> Result<()> {
    let mut bench = Bench::new(input)?;
    while !input.is_empty() {
        if !bench.act(input)? {
            break;
        }
    }
    bench.ram.check();
    Ok(())
}

impl Bench {
    fn new(input: &mut Input<'_>) -> Result<Self> {
        let ram = Ram::new();
        let size = *input.choose(&[1, 2, 4, 8])?;
        let [indirect, event_idx] = input.arbitrary()?;
        let areas = Areas { desc: BASE, avail: AVAIL, used: USED };
        let setup = QueueSetup { size: u32::from(size), areas, ..QueueSetup::at_reset(MAX) };
        let mut queue = setup.check(&ram.memory, PaBits::MAX).unwrap().queue().unwrap();
        queue.set_event_idx(event_idx);
        let calls = Calls::default();
        let call = Arc::new(Interrupt::new(calls.clone()));
        let ring = Ring { index: 3, queue, indirect, told: 0, kick: EventFd::new(0).unwrap(), call };
        let table = Table { at: BASE, size, max: MAX, indirect };
        let (next_avail, next_used, told, told_of) = (0, 0, 0, 0);
        let taken = Vec::new();
        Ok(Self { ram, ring, calls, table, size, event_idx, next_avail, next_used, told, told_of, taken })
    }

    /// False when the ring is broken.
    fn act(&mut self, input: &mut Input<'_>) -> Result<bool> {
        match input.int_in_range(0..=15)? {
            0..=3 => self.describe(input)?,
            4..=6 => self.publish(input)?,
            7 => {
                let index: u16 = input.arbitrary()?;
                self.ram.write(AVAIL + 2, &index.to_le_bytes());
            }
            8..=9 => return Ok(self.take()),
            10 => self.finish(input)?,
            11 => self.finish_all(input)?,
            12 => self.tell(),
            13 => self.listen(input.arbitrary()?),
            14 => {
                let (flags, event): (u16, u16) = input.arbitrary()?;
                self.ram.write(AVAIL, &(flags & 3).to_le_bytes());
                self.ram.write(AVAIL + 4 + 2 * u64::from(self.size), &event.to_le_bytes());
            }
            _ => self.put_back(),
        }
        Ok(true)
    }

    /// Writes a descriptor into the queue's table, or somewhere else where an indirect one may be.
    fn describe(&mut self, input: &mut Input<'_>) -> Result<()> {
        let index = u64::from(input.int_in_range(0..=MAX)?);
        let table =
            if input.ratio(2, 3)? { BASE } else { BASE + 0x1000 + u64::from(input.arbitrary::<u8>()? & 3) };
        let at = if input.ratio(1, 4)? { BASE + 0x1000 } else { address(input)? };
        let flags: u16 = input.arbitrary()?;
        // Few have a flag that does not exist.
        let flags = if flags & 0xf000 == 0 { flags } else { flags & 7 };
        let next: u16 = if input.ratio(1, 16)? { input.arbitrary()? } else { input.int_in_range(0..=MAX)? };
        let descriptor = u128::from(at)
            | u128::from(length(input)?) << 64
            | u128::from(flags) << 96
            | u128::from(next) << 112;
        self.ram.write(table + 16 * index, &descriptor.to_le_bytes());
        Ok(())
    }

    fn publish(&mut self, input: &mut Input<'_>) -> Result<()> {
        let index = self.ram.half(AVAIL + 2);
        let head: u16 =
            if input.ratio(1, 32)? { input.arbitrary()? } else { input.int_in_range(0..=7)? % self.size };
        self.ram.write(AVAIL + 4 + 2 * u64::from(index % self.size), &head.to_le_bytes());
        self.ram.write(AVAIL + 2, &index.wrapping_add(1).to_le_bytes());
        Ok(())
    }

    fn take(&mut self) -> bool {
        let waiting = self.ram.half(AVAIL + 2).wrapping_sub(self.next_avail);
        let head = self.ram.half(AVAIL + 4 + 2 * u64::from(self.next_avail % self.size));
        let taken = self.ring.next(&self.ram.memory);
        if waiting > self.size || waiting > 0 && head >= self.size {
            assert!(taken.is_err(), "head {head}, {waiting} waiting: {taken:?}");
            return false;
        }
        if waiting == 0 {
            assert_eq!(taken, Ok(None));
            return true;
        }
        let (_, chain) = taken.unwrap().expect("one is waiting");
        let sides = self.table.chain(&self.ram, head);
        let expected = sides.map(|(readable, writable)| Chain { head, readable, writable });
        assert_eq!(chain.as_ref().ok(), expected.as_ref(), "{chain:?}");
        self.next_avail = self.next_avail.wrapping_add(1);
        self.taken.push((head, expected));
        true
    }

    /// What the device writes for a request: into its buffers, and how much.
    fn serve(&mut self, chain: Option<Chain>, len: usize) -> u32 {
        let Some(chain) = chain else { return 0 };
        let all = self.ram.gather(&chain.writable).len();
        let bytes: Vec<u8> = (0..len).map(|at| at as u8 | 1).collect();
        let written = write_front(&self.ram.memory, &chain.writable, &bytes);
        assert_eq!(written as usize, len.min(all));
        self.ram.scatter(&chain.writable, &bytes[..len.min(all)]);
        written
    }

    fn used(&mut self, head: u16, len: u32) {
        let at = USED + 4 + 8 * u64::from(self.next_used % self.size);
        let element = u64::from(head) | u64::from(len) << 32;
        assert!(self.ram.account(at, &element.to_le_bytes()));
        self.next_used = self.next_used.wrapping_add(1);
    }

    fn publish_used(&mut self) {
        assert!(self.ram.account(USED + 2, &self.next_used.to_le_bytes()));
    }

    fn finish(&mut self, input: &mut Input<'_>) -> Result<()> {
        let Some(last) = self.taken.len().checked_sub(1) else { return Ok(()) };
        let (head, chain) = self.taken.remove(input.int_in_range(0..=last)?);
        let written = self.serve(chain, usize::from(input.arbitrary::<u8>()?) * 4);
        self.ring.finish(&self.ram.memory, head, written).unwrap();
        self.used(head, written);
        self.publish_used();
        Ok(())
    }

    fn finish_all(&mut self, input: &mut Input<'_>) -> Result<()> {
        let mut list = Vec::new();
        for (head, chain) in std::mem::take(&mut self.taken) {
            list.push((head, self.serve(chain, usize::from(input.arbitrary::<u8>()?))));
        }
        self.ring.finish_all(&self.ram.memory, &list).unwrap();
        for (head, written) in &list {
            self.used(*head, *written);
        }
        if !list.is_empty() {
            self.publish_used();
        }
        Ok(())
    }

    /// Whoever waits for one of the entries since the last time is told, once (2.7.7 and 2.7.10).
    fn tell(&mut self) {
        let news = self.next_used.wrapping_sub(self.told);
        let event = self.ram.half(AVAIL + 4 + 2 * u64::from(self.size));
        let wanted = if self.event_idx {
            (0..news).any(|more| self.told.wrapping_add(more) == event)
        } else {
            news > 0 && self.ram.half(AVAIL) & 1 == 0
        };
        self.ring.tell(&self.ram.memory).unwrap();
        self.told = self.next_used;
        self.told_of += usize::from(wanted);
        assert_eq!(self.calls.0.load(Ordering::SeqCst), self.told_of);
    }

    fn listen(&mut self, listen: bool) {
        if listen {
            let more = self.ring.listen(&self.ram.memory).unwrap();
            if self.event_idx {
                let at = USED + 4 + 8 * u64::from(self.size);
                assert!(self.ram.account(at, &self.next_avail.to_le_bytes()));
            }
            assert_eq!(more, self.ram.half(AVAIL + 2) != self.next_avail);
        } else {
            self.ring.quiet(&self.ram.memory).unwrap();
        }
        if !self.event_idx {
            assert!(self.ram.account(USED, &u16::from(!listen).to_le_bytes()));
        }
    }

    fn put_back(&mut self) {
        if self.taken.pop().is_some() {
            self.ring.put_back(1);
            self.next_avail = self.next_avail.wrapping_sub(1);
        }
    }
}
