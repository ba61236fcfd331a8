//! MSI-X as a driver programmes it while vectors fire.

use std::sync::Arc;

use ambit_bus::bench::{BenchHost, MsiLog};
use ambit_bus::{Bar, BarSpace, Message, Offset};
use arbitrary::Result;

use super::Input;
use crate::{ConfigSpace, Function, Identity, Msix, Place};

const TABLE: u64 = 0x800;
const PENDING: u64 = 0x1000;
const COUNT: u16 = 5;

/// A vector as the specification has it (PCI 3.0, 6.8.2).
#[derive(Default)]
struct Vector {
    address: u64,
    data: u32,
    unmasked: bool,
    pending: bool,
    sent: Vec<Message>,
}

struct Bench {
    function: Function,
    msix: Arc<Msix>,
    logs: Vec<Arc<MsiLog>>,
    vectors: Vec<Vector>,
    enabled: bool,
    masked: bool,
    master: bool,
}

pub fn body(input: &mut Input<'_>) -> Result<()> {
    let host = BenchHost::new(0x1000);
    let wires = Msix::wires(&host, COUNT).unwrap().unwrap();
    let bars = [Bar { size: 0x4000, space: BarSpace::Mmio64 }];
    let mut config = ConfigSpace::new(Identity::default(), &bars, false).unwrap();
    let place = Place { window: 1, table: TABLE as u32, pba: PENDING as u32 };
    let msix = Msix::new(&mut config, place, wires).unwrap();
    let function = Function::new(config, None, Some(msix));
    let msix = function.msix.clone().unwrap();
    let vectors = (0..COUNT).map(|_| Vector::default()).collect();
    let logs = host.messages();
    let mut bench = Bench { function, msix, logs, vectors, enabled: false, masked: false, master: false };
    while !input.is_empty() {
        bench.act(input)?;
        bench.check();
    }
    Ok(())
}

impl Bench {
    fn act(&mut self, input: &mut Input<'_>) -> Result<()> {
        match input.int_in_range(0..=11)? {
            0..=3 => self.table(input)?,
            4..=6 => {
                let number =
                    if input.ratio(1, 16)? { input.arbitrary()? } else { input.int_in_range(0..=COUNT)? };
                self.msix.fire(number);
                let open = self.is_open();
                if let Some(vector) = self.vectors.get_mut(usize::from(number)) {
                    vector.fire(open);
                }
            }
            7 => {
                self.master = input.arbitrary()?;
                self.space(4, u16::from(self.master) << 2);
            }
            8 => {
                [self.enabled, self.masked] = input.arbitrary()?;
                let control = u16::from(self.enabled) << 15 | u16::from(self.masked) << 14;
                self.space(u64::from(self.msix.control()), control);
            }
            9 => {
                self.function.reset();
                (self.enabled, self.masked, self.master) = (false, false, false);
                for vector in &mut self.vectors {
                    *vector = Vector { sent: std::mem::take(&mut vector.sent), ..Vector::default() };
                }
            }
            10 => self.outside(input)?,
            _ => self.undefined(input)?,
        }
        let open = self.is_open();
        self.vectors.iter_mut().for_each(|vector| vector.settle(open));
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.enabled && !self.masked && self.master
    }

    fn space(&mut self, byte: u64, value: u16) {
        let _change = self.function.write(Offset { window: 0, byte }, &value.to_le_bytes());
    }

    /// A write of 4 or 8 bytes, each field of which has a meaning.
    fn table(&mut self, input: &mut Input<'_>) -> Result<()> {
        let (number, field) = (input.int_in_range(0..=COUNT - 1)?, input.int_in_range(0..=5u8)?);
        let value: u64 = input.arbitrary()?;
        let entry = TABLE + 16 * u64::from(number);
        let vector = &mut self.vectors[usize::from(number)];
        let (low, high) = (value as u32, (value >> 32) as u32);
        let set = |word: usize, value: u32, vector: &mut Vector| match word {
            0 => vector.address = vector.address >> 32 << 32 | u64::from(value & !3),
            1 => vector.address = vector.address & 0xffff_ffff | u64::from(value) << 32,
            2 => vector.data = value,
            _ => vector.unmasked = value & 1 == 0,
        };
        let word = usize::from(field % 4);
        if field < 4 {
            set(word, low, vector);
            self.msix.write(Offset { window: 1, byte: entry + 4 * word as u64 }, &low.to_le_bytes());
        } else {
            let word = usize::from(field % 2) * 2;
            set(word, low, vector);
            set(word + 1, high, vector);
            self.msix.write(Offset { window: 1, byte: entry + 4 * word as u64 }, &value.to_le_bytes());
        }
        Ok(())
    }

    /// Other widths and places in table and pending bits write nothing, and read as zeros.
    fn undefined(&self, input: &mut Input<'_>) -> Result<()> {
        let base = *input.choose(&[TABLE, PENDING])?;
        let end = if base == TABLE { 16 * u64::from(COUNT) } else { 8 };
        let byte = base + u64::from(input.arbitrary::<u8>()?) % end;
        let len = *input.choose(&[1, 2, 3, 4, 5, 8, 9, 16])?;
        if matches!(len, 4 | 8) && byte.is_multiple_of(len as u64) {
            return Ok(());
        }
        let mut data = vec![0xff; len];
        assert!(self.msix.write(Offset { window: 1, byte }, &data));
        assert!(self.msix.read(Offset { window: 1, byte }, &mut data));
        assert_eq!(data, vec![0; len]);
        Ok(())
    }

    /// Whatever touches neither is not theirs.
    fn outside(&self, input: &mut Input<'_>) -> Result<()> {
        let at = Offset { window: input.arbitrary()?, byte: input.arbitrary()? };
        let len = u64::from(input.int_in_range(1..=8u8)?);
        let meets = |from: u64, size: u64| {
            at.window == 1 && at.byte < from + size && u128::from(at.byte) + u128::from(len) > from.into()
        };
        if !meets(TABLE, 16 * u64::from(COUNT)) && !meets(PENDING, 8) {
            assert!(!self.msix.write(at, &[0xff; 8][..len as usize]));
            assert!(!self.msix.read(at, &mut [0xff; 8][..len as usize]));
        }
        Ok(())
    }

    fn check(&self) {
        let mut pending = 0u64;
        for (number, (vector, log)) in self.vectors.iter().zip(&self.logs).enumerate() {
            let mut there = [0; 16];
            for (byte, word) in (TABLE + 16 * number as u64..).step_by(4).zip(there.chunks_exact_mut(4)) {
                assert!(self.msix.read(Offset { window: 1, byte }, word));
            }
            let entry = u128::from(vector.address)
                | u128::from(vector.data) << 64
                | u128::from(!vector.unmasked) << 96;
            assert_eq!(u128::from_le_bytes(there), entry, "entry {number}");
            assert_eq!(log.sent(), vector.sent, "messages of {number}");
            pending |= u64::from(vector.pending) << number;
        }
        let mut bits = [0; 8];
        assert!(self.msix.read(Offset { window: 1, byte: PENDING }, &mut bits));
        assert_eq!(u64::from_le_bytes(bits), pending);
        assert_eq!(self.msix.is_enabled(), self.enabled);
    }
}

impl Vector {
    fn fire(&mut self, open: bool) {
        self.pending = true;
        self.settle(open);
    }

    /// What is pending goes out when nothing masks it. The host refuses messages with the top bit.
    fn settle(&mut self, open: bool) {
        if open && self.unmasked && std::mem::take(&mut self.pending) && self.address >> 63 == 0 {
            self.sent.push(Message { address: self.address, data: self.data });
        }
    }
}
