//! Register accesses of any width at any place, queues of any content, and notifications, on each transport.

use std::sync::Arc;

use ambit_bus::Offset;
use ambit_bus::bench::{BenchHost, RAM_BASE};
use arbitrary::Result;
use vm_memory::{Bytes, GuestAddress};

use super::Input;
use crate::config::Config;
use crate::device::{Interface, Start, StartError, VirtioDevice};
use crate::driver::{ECHO, EVENT_IDX, Echo, Face, INDIRECT, Machine, Spot, VERSION_1, WRITE};
use crate::ring::Ring;

const RAM: u64 = 0x10_0000;
/// Where the guest puts rings and buffers: the rest is for the request at the end.
const SCRATCH: u64 = RAM_BASE + 0x8_0000;

/// An echo that hears of its configuration, and counts how it is begun and ended.
struct Listener {
    echo: Echo,
    runs: bool,
    /// Under Miri nobody works on them: it has no epoll as a worker needs it.
    idle: Vec<Ring>,
}

impl VirtioDevice for Listener {
    fn device_type(&self) -> u32 {
        self.echo.device_type()
    }

    fn features(&self) -> u64 {
        0xff
    }

    fn accepts(&self, features: u64) -> bool {
        features & 3 != 1
    }

    fn queue_sizes(&self) -> &[u16] {
        self.echo.queue_sizes()
    }

    fn config(&self) -> &Arc<Config> {
        self.echo.config()
    }

    fn write_config(&mut self, at: u64, data: &[u8], _: Interface) {
        assert!(!data.is_empty());
        self.config().update(|config| {
            config.iter_mut().skip(at as usize).zip(data).for_each(|(to, from)| *to = *from);
        });
    }

    fn start(&mut self, start: Start) -> std::result::Result<(), StartError> {
        assert!(!std::mem::replace(&mut self.runs, true), "a device is started once");
        assert!(!start.rings.is_empty() || self.queue_sizes().len() == 2);
        if cfg!(miri) {
            self.idle = start.rings;
            return Ok(());
        }
        self.echo.start(start)
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.runs = false;
        if cfg!(miri) { std::mem::take(&mut self.idle) } else { self.echo.stop() }
    }

    fn reset(&mut self) {
        assert!(!self.runs, "a device that runs is not reset");
        self.config().reset(|config| (1..).zip(config).for_each(|(n, byte)| *byte = n));
        self.echo.reset();
    }
}

pub fn body(face: Face, input: &mut Input<'_>) -> Result<()> {
    let host = BenchHost::with_ram(
        &[ambit_resources::AddressRange::fixed(RAM_BASE, RAM)],
        ambit_resources::PaBits::MAX,
    );
    let listener = Listener { echo: Echo::new("fuzz"), runs: false, idle: Vec::new() };
    let mut machine = Machine::build(host, face, listener);
    machine.device.lock().unwrap().reset();
    let power_on = dump(&machine);
    let mut guest = Guest { machine: &mut machine, begun: 0 };
    for _ in 0..96 {
        if input.is_empty() {
            break;
        }
        guest.act(input)?;
    }
    machine.device.lock().unwrap().reset();
    assert_eq!(dump(&machine), power_on, "a reset brings everything back");
    works(&mut machine);
    Ok(())
}

/// Everything that can be read and has a meaning, as each selector shows it.
fn dump(machine: &Machine) -> Vec<u8> {
    let spots = machine.spots;
    let parts = if machine.face.is_pci() {
        let space = (Spot::default(), 256);
        let header = (Spot { window: 1, byte: 0 }, 40);
        let table = [(spots.table, 16 * 3), (spots.pending, 8)];
        vec![space, (spots.common, 64), (spots.config, 16), (spots.isr, 1), header, table[0], table[1]]
    } else {
        vec![(Spot::default(), 0x140)]
    };
    let mut all = Vec::new();
    for (spot, len) in parts {
        for byte in (0..len).step_by(4) {
            all.extend(machine.get::<4>(spot.plus(byte)));
        }
    }
    for select in 0..3 {
        machine.select(select);
        let words = [machine.offered_word(select.into()), machine.largest(), u32::from(machine.is_ready())];
        all.extend(words.into_iter().flat_map(u32::to_le_bytes));
    }
    machine.select(0);
    machine.offered_word(0);
    all
}

/// After all that, a well-behaved driver is served.
fn works(machine: &mut Machine) {
    machine.device.lock().unwrap().reset();
    if machine.face.is_pci() {
        machine.put_at(Spot { window: 0, byte: 4 }, &[7, 0]);
    }
    assert!(machine.negotiate(VERSION_1));
    let mut queue = machine.queue(0, 16);
    machine.go();
    if cfg!(miri) {
        return;
    }
    let at = machine.put(&[0; 4]);
    assert_eq!(machine.ask(&mut queue, &[(at, 4, WRITE)]), 4);
    assert_eq!(machine.bytes(at, 4), [ECHO; 4]);
}

struct Guest<'a> {
    machine: &'a mut Machine,
    begun: usize,
}

impl Guest<'_> {
    fn act(&mut self, input: &mut Input<'_>) -> Result<()> {
        match input.int_in_range(0..=15)? {
            0..=3 => self.write(input)?,
            4..=6 => self.read(input)?,
            7 => {
                let status: u8 = if input.ratio(1, 4)? {
                    input.arbitrary()?
                } else {
                    *input.choose(&[1, 3, 11, 15, 7])?
                };
                self.machine.set_status(u32::from(status));
            }
            8 => {
                let features =
                    *input.choose(&[0, 2, 3, 1, INDIRECT, EVENT_IDX, INDIRECT | EVENT_IDX, 1 << 27])?;
                self.machine.choose(VERSION_1 | features);
            }
            9 => self.queue(input)?,
            10 => self.begin(input)?,
            11 => self.fill(input)?,
            12..=13 => {
                let queue: u32 =
                    if input.ratio(1, 4)? { input.arbitrary()? } else { input.int_in_range(0..=2)? };
                self.machine.notify(queue);
                // As the kernel does where a doorbell takes it.
                if let Ok(queue @ 0..2) = u16::try_from(queue) {
                    self.machine.host.ring(self.machine.doorbell(queue));
                }
            }
            14 => {
                self.machine.acknowledge();
            }
            _ => self.machine.device.lock().unwrap().reset(),
        }
        Ok(())
    }

    /// Any place in any window, and a little beyond.
    fn spot(&self, input: &mut Input<'_>) -> Result<Spot> {
        let spots = &self.machine.spots;
        let near = u64::from(input.arbitrary::<u8>()?);
        let known = [spots.common, spots.notify, spots.isr, spots.config, spots.table, spots.pending];
        let access = Spot { window: 0, byte: spots.access };
        let header = Spot { window: 1, byte: 0 };
        Ok(match input.int_in_range(0..=11)? {
            at @ 0..6 => known[usize::from(at as u8)].plus(near % 64),
            6 => access.plus(near % 24),
            7 => Spot { window: 0, byte: near },
            8 => header.plus(near % 40),
            9 => Spot { window: near as u8 % 4, byte: u64::from(input.arbitrary::<u16>()?) },
            10 => Spot { window: near as u8, byte: input.arbitrary()? },
            _ => Spot { window: 0, byte: near % 0x20 * 8 },
        })
    }

    fn write(&mut self, input: &mut Input<'_>) -> Result<()> {
        let Spot { window, byte } = self.spot(input)?;
        let mut data = input.arbitrary::<u64>()?.to_le_bytes();
        if input.arbitrary()? {
            data[1..].fill(0);
        }
        let len = *input.choose(&[4, 2, 1, 8, 3, 5])?;
        let _moved = self.machine.device.lock().unwrap().write(Offset { window, byte }, &data[..len]);
        Ok(())
    }

    /// What is read hangs on what is there, not on what was in the vCPU's buffer.
    fn read(&self, input: &mut Input<'_>) -> Result<()> {
        let Spot { window, byte } = self.spot(input)?;
        let len = *input.choose(&[4, 2, 1, 8, 3, 5])?;
        let mut device = self.machine.device.lock().unwrap();
        let [mut a, mut b] = [[0x55; 8], [0xaa; 8]];
        device.read(Offset { window, byte }, &mut a[..len]);
        device.read(Offset { window, byte }, &mut b[..len]);
        assert_eq!((&a[len..], &b[len..]), (&[0x55; 8][len..], &[0xaa; 8][len..]));
        let untouched = |n: usize| a[n] == 0x55 && b[n] == 0xaa;
        assert!(!(0..len).any(untouched), "{len} bytes at {byte:#x} of window {window} were not all read");
        Ok(())
    }

    /// A queue, usually where one may be.
    fn queue(&mut self, input: &mut Input<'_>) -> Result<()> {
        let index = input.int_in_range(0..=2)?;
        let size = if input.ratio(1, 8)? { input.arbitrary()? } else { *input.choose(&[1, 2, 4, 256])? };
        let mut areas = [0, 0x2000, 0x4000].map(|at| SCRATCH + at);
        for at in &mut areas {
            *at += u64::from(input.arbitrary::<u8>()? & 0x1c);
            if input.ratio(1, 16)? {
                *at = *input.choose(&[0, RAM_BASE + RAM - 16, RAM_BASE - 4, u64::MAX - 7, 0x200_0000])?;
            }
        }
        if self.machine.face.is_legacy() {
            // As many bits as a page number can name.
            areas = areas.map(|at| at & 0xfff_ffff_ffff);
        }
        self.machine.point(index, size, areas);
        self.machine.enable();
        Ok(())
    }

    /// All the way to a device that runs.
    fn begin(&mut self, input: &mut Input<'_>) -> Result<()> {
        // Each takes rings of its own.
        if self.begun == 2 {
            return Ok(());
        }
        self.begun += 1;
        if self.machine.face.is_pci() {
            self.machine.put_at(Spot { window: 0, byte: 4 }, &[7, 0]);
        }
        let features = *input.choose(&[0, INDIRECT, EVENT_IDX])?;
        if self.machine.negotiate(VERSION_1 | features) {
            let mut queue = self.machine.queue(0, 16);
            self.machine.go();
            for _ in 0..input.int_in_range(0..=4)? {
                let (at, len) = (SCRATCH + u64::from(input.arbitrary::<u16>()?), input.arbitrary::<u8>()?);
                queue.offer(&[(at, u32::from(len), input.arbitrary::<u16>()? & 7)]);
            }
            self.machine.host.ring(self.machine.doorbell(0));
        }
        Ok(())
    }

    /// Bytes where rings and tables may be.
    fn fill(&mut self, input: &mut Input<'_>) -> Result<()> {
        let at = SCRATCH + u64::from(input.arbitrary::<u16>()? & 0x7ff8);
        let words: [u64; 4] = input.arbitrary()?;
        let addresses = words.map(|word| if word & 1 == 0 { word } else { SCRATCH | word & 0xffff });
        for (at, word) in (at..).step_by(8).zip(addresses) {
            self.machine.memory.write_obj(word.to_le(), GuestAddress(at)).unwrap();
        }
        Ok(())
    }
}
