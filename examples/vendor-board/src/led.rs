//! A row of 32 LEDs, one bit each.
//!
//! | at | register | |
//! |---|---|---|
//! | 0x0 | ID | reads as [`ID`] |
//! | 0x4 | LIT | which are on; reads back as written |
//! | 0x8 | WRITES | how often LIT was written since reset |
//!
//! Registers are accessed as words. Any other access reads as zeros and writes nothing.

use std::sync::Arc;

use ambit_bus::{
    Description, Device, Effect, Host, HostError, Model, Needs, Offset, Property, Request, Shared, Slot,
    share,
};

/// What a board calls a device of this kind.
pub const KIND: &str = "acme-led";
/// "LED0" in ASCII, the first byte lowest.
const ID: u32 = u32::from_le_bytes(*b"LED0");
const COUNT: u32 = 32;
/// Of the window, in bytes. A host maps no less than a page, so less would gain nothing.
const WINDOW: u64 = 0x1000;

const ID_AT: u64 = 0x0;
const LIT_AT: u64 = 0x4;
const WRITES_AT: u64 = 0x8;

/// A row of LEDs as configured.
#[derive(Debug)]
pub struct LedModel {
    id: String,
}

impl LedModel {
    pub fn new(id: &str) -> Self {
        Self { id: id.into() }
    }
}

impl Model for LedModel {
    fn request(&self) -> Request {
        Request {
            id: self.id.clone(),
            kind: KIND.into(),
            needs: Needs::Board { registers: WINDOW, irq: None },
            description: Arc::new(Description {
                node: "led".into(),
                compatible: vec!["acme,led".into()],
                properties: vec![("acme,leds".into(), Property::Cells(vec![COUNT]))],
            }),
            queue_reach: None,
        }
    }

    fn build(&self, _: &Slot, _: &dyn Host) -> Result<Shared, HostError> {
        Ok(share(Led::default()))
    }
}

#[derive(Default)]
struct Led {
    lit: u32,
    writes: u32,
}

impl Device for Led {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        data.fill(0);
        let value = match at.byte {
            ID_AT => ID,
            LIT_AT => self.lit,
            WRITES_AT => self.writes,
            _ => return,
        };
        if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = value.to_le_bytes();
        }
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        if let (LIT_AT, Ok(word)) = (at.byte, data.try_into()) {
            self.lit = u32::from_le_bytes(word);
            // The guest can write for ever, and must not make us panic.
            self.writes = self.writes.wrapping_add(1);
        }
        Effect::None
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::BenchHost;
    use ambit_resources::AddressRange;

    use super::*;

    /// As a machine would make it.
    fn led() -> Shared {
        let slot = Slot { windows: vec![AddressRange::fixed(0x3001_0000, WINDOW)], irq: None };
        LedModel::new("led0").build(&slot, &BenchHost::new(0x1000)).unwrap()
    }

    fn read<const N: usize>(led: &Shared, byte: u64) -> [u8; N] {
        let mut data = [0x55; N];
        led.lock().unwrap().read(Offset { window: 0, byte }, &mut data);
        data
    }

    fn write(led: &Shared, byte: u64, data: &[u8]) {
        assert_eq!(led.lock().unwrap().write(Offset { window: 0, byte }, data), Effect::None);
    }

    fn registers(led: &Shared) -> [u32; 3] {
        [ID_AT, LIT_AT, WRITES_AT].map(|at| u32::from_le_bytes(read(led, at)))
    }

    #[test]
    fn at_first_no_led_is_lit() {
        assert_eq!(registers(&led()), [0x3044_454c, 0, 0]);
    }

    #[test]
    fn what_is_lit_reads_back_and_every_write_is_counted() {
        let led = led();

        write(&led, LIT_AT, &[0xff; 4]);
        write(&led, LIT_AT, &0x1234_5678_u32.to_le_bytes());

        assert_eq!(registers(&led), [ID, 0x1234_5678, 2]);
    }

    #[test]
    fn id_and_count_cannot_be_written() {
        let led = led();

        write(&led, ID_AT, &[0xff; 4]);
        write(&led, WRITES_AT, &[0xff; 4]);

        assert_eq!(registers(&led), [ID, 0, 0]);
    }

    #[test]
    fn reset_is_as_built() {
        let led = led();
        write(&led, LIT_AT, &[0xff; 4]);

        led.lock().unwrap().reset();

        assert_eq!(registers(&led), [ID, 0, 0]);
    }

    #[test]
    fn only_words_at_registers_are_answered() {
        let led = led();
        write(&led, LIT_AT, &[0xff; 4]);

        // A board may give more room than was asked for.
        for byte in (0..2 * WINDOW).filter(|byte| ![ID_AT, LIT_AT, WRITES_AT].contains(byte)) {
            write(&led, byte, &[0; 4]);
            assert_eq!(read(&led, byte), [0; 4], "at {byte:#x}");
        }
        for byte in [ID_AT, LIT_AT, WRITES_AT] {
            for data in [&[0][..], &[0; 2], &[0; 8]] {
                write(&led, byte, data);
            }
            assert_eq!((read(&led, byte), read(&led, byte), read(&led, byte)), ([0], [0; 2], [0; 8]));
        }
        assert_eq!(registers(&led), [ID, u32::MAX, 1]);
    }
}
