//! One clock, as Linux's rtc-pl031 driver expects it: it tells the host's time of day.

use std::sync::Arc;

use ambit_bus::{
    Description, Device, Effect, Host, HostError, Model, Needs, Offset, Property, Request, Shared, Slot,
    Trigger, share,
};
use vm_superio::Rtc;
use vm_superio::rtc_pl031::NoEvents;

use crate::access;

/// Size of the register window in bytes.
pub const WINDOW: u64 = access::WINDOW;

/// What a clock called `id` asks of the planner.
///
/// Linux `Documentation/devicetree/bindings/rtc/arm,pl031.yaml`.
pub fn request(id: &str) -> Request {
    Request {
        id: id.into(),
        kind: "pl031".into(),
        needs: Needs::Board { registers: WINDOW, irq: Some(Trigger::Level) },
        description: Arc::new(Description {
            node: "pl031".into(),
            compatible: vec!["arm,pl031".into(), "arm,primecell".into()],
            properties: vec![("clocks".into(), Property::Clocks(vec!["apb_pclk".into()]))],
        }),
        queue_reach: None,
    }
}

/// A clock as configured.
#[derive(Debug)]
pub struct Pl031Model {
    id: String,
}

impl Pl031Model {
    pub fn new(id: &str) -> Self {
        Self { id: id.into() }
    }
}

impl Model for Pl031Model {
    fn request(&self) -> Request {
        request(&self.id)
    }

    /// The interrupt is never raised, so the host is not asked for its line.
    fn build(&self, _: &Slot, _: &dyn Host) -> Result<Shared, HostError> {
        Ok(share(Pl031(Rtc::new())))
    }
}

/// Seconds since 1970 by the host's clock, or by what the guest has loaded since the last reset.
///
/// The match register keeps its value and does nothing else: an alarm that a guest sets never comes.
/// Linux reads the time at boot and sets it, and needs no more.
///
/// Accesses of every width and alignment are defined as they are for the UART.
struct Pl031(Rtc<NoEvents>);

impl Device for Pl031 {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        // What the register model does not know, it leaves as it is.
        let mut value = [0; 4];
        if let Some(register) = access::register(at) {
            self.0.read(register, &mut value);
        }
        access::answer(data, u32::from_le_bytes(value));
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        if let Some(register) = access::register(at) {
            self.0.write(register, &access::written(data).to_le_bytes());
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.0 = Rtc::new();
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;
    use std::time::{SystemTime, UNIX_EPOCH};

    use ambit_bus::bench::BenchHost;
    use ambit_resources::{AddressRange, IrqPin};
    use proptest::prelude::*;

    use super::*;

    const DR: u64 = 0x000;
    const MR: u64 = 0x004;
    const LR: u64 = 0x008;
    const CR: u64 = 0x00c;
    const IMSC: u64 = 0x010;
    const RIS: u64 = 0x014;
    const MIS: u64 = 0x018;
    const ICR: u64 = 0x01c;

    const PIN: IrqPin = IrqPin(2);

    fn build(host: &BenchHost) -> Shared {
        let slot =
            Slot { windows: vec![AddressRange::fixed(0x901_0000, 0x1000)], irq: Some((PIN, Trigger::Level)) };
        Pl031Model::new("rtc0").build(&slot, host).unwrap()
    }

    fn rtc() -> Shared {
        build(&BenchHost::new(0x1000))
    }

    fn read<const N: usize>(rtc: &Shared, byte: u64) -> [u8; N] {
        let mut data = [0x55; N];
        rtc.lock().unwrap().read(Offset { window: 0, byte }, &mut data);
        data
    }

    fn read32(rtc: &Shared, byte: u64) -> u32 {
        u32::from_le_bytes(read(rtc, byte))
    }

    fn write(rtc: &Shared, byte: u64, data: &[u8]) {
        assert_eq!(rtc.lock().unwrap().write(Offset { window: 0, byte }, data), Effect::None);
    }

    fn write32(rtc: &Shared, byte: u64, value: u32) {
        write(rtc, byte, &value.to_le_bytes());
    }

    fn host_time() -> u32 {
        u32::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
    }

    /// The tests of a busy machine run slowly.
    fn about(time: u32) -> RangeInclusive<u32> {
        time..=time + 600
    }

    #[test]
    fn the_clock_tells_the_hosts_time() {
        let before = host_time();

        let told = read32(&rtc(), DR);

        assert!((before..=host_time()).contains(&told), "{told} is not {before}");
    }

    #[test]
    fn linux_finds_its_driver_by_the_id_registers() {
        let rtc = rtc();

        let ids: Vec<u32> = (0xfe0..0x1000).step_by(4).map(|byte| read32(&rtc, byte)).collect();

        assert_eq!(ids, [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    #[test]
    fn linux_finds_the_clock_running() {
        assert_eq!(read32(&rtc(), CR), 1);
    }

    //
    #[test]
    fn a_time_that_the_guest_loads_goes_on_from_there() {
        let rtc = rtc();

        write32(&rtc, LR, 1_000_000_000);

        assert!(about(1_000_000_000).contains(&read32(&rtc, DR)));
        assert_eq!(read32(&rtc, LR), 1_000_000_000);
    }

    #[test]
    fn reset_forgets_what_the_guest_loaded() {
        let rtc = rtc();
        let before = host_time();
        write32(&rtc, LR, 1_000_000_000);
        write32(&rtc, MR, 5);
        write32(&rtc, IMSC, 1);

        rtc.lock().unwrap().reset();

        assert!(about(before).contains(&read32(&rtc, DR)));
        assert_eq!([LR, MR, IMSC].map(|register| read32(&rtc, register)), [0, 0, 0]);
    }

    #[test]
    fn match_and_mask_read_back_as_written() {
        let rtc = rtc();

        write32(&rtc, MR, 0x1234_5678);
        write32(&rtc, IMSC, 0xffff_ffff);

        assert_eq!([read32(&rtc, MR), read32(&rtc, IMSC)], [0x1234_5678, 1]);
    }

    #[test]
    fn an_alarm_in_the_past_does_not_come() {
        let host = BenchHost::new(0x1000);
        let rtc = build(&host);

        write32(&rtc, IMSC, 1);
        write32(&rtc, MR, 1);

        assert_eq!([RIS, MIS, ICR].map(|register| read32(&rtc, register)), [0, 0, 0]);
        assert!(!host.pin(PIN).is_high());
    }

    //
    #[test]
    fn a_short_read_gets_the_low_bytes_and_a_long_one_zeros_after_them() {
        let rtc = rtc();
        write32(&rtc, MR, 0x4433_2211);

        assert_eq!(read(&rtc, MR), [0x11]);
        assert_eq!(read(&rtc, MR), [0x11, 0x22]);
        assert_eq!(read(&rtc, MR), [0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0]);
    }

    #[test]
    fn a_short_write_writes_zeros_to_the_other_bytes() {
        let rtc = rtc();
        write32(&rtc, MR, 0xffff_ffff);

        write(&rtc, MR, &[0x11]);

        assert_eq!(read32(&rtc, MR), 0x11);
    }

    #[test]
    fn a_long_write_writes_its_first_four_bytes() {
        let rtc = rtc();

        write(&rtc, MR, &0x8877_6655_4433_2211_u64.to_le_bytes());

        assert_eq!(read32(&rtc, MR), 0x4433_2211);
    }

    #[test]
    fn between_registers_the_window_reads_as_zero_and_cannot_be_written() {
        let rtc = rtc();

        write(&rtc, MR + 2, &[0xff; 2]);
        write(&rtc, 0x200, &[0xff; 4]);

        assert_eq!(read(&rtc, DR + 1), [0; 2]);
        assert_eq!(read(&rtc, 0x200), [0; 4]);
        assert_eq!(read32(&rtc, MR), 0);
    }

    #[test]
    fn the_guest_is_told_what_linux_binds_to() {
        let told = Pl031Model::new("rtc0").request();

        assert_eq!(
            told,
            Request {
                id: "rtc0".into(),
                kind: "pl031".into(),
                needs: Needs::Board { registers: 0x1000, irq: Some(Trigger::Level) },
                description: Arc::new(Description {
                    node: "pl031".into(),
                    compatible: vec!["arm,pl031".into(), "arm,primecell".into()],
                    properties: vec![("clocks".into(), Property::Clocks(vec!["apb_pclk".into()]))],
                }),
                queue_reach: None,
            }
        );
    }

    proptest! {
        //
        #[test]
        fn no_access_panics_and_none_outlives_reset(
            accesses in prop::collection::vec((0..0x1010u64, 0..4u32, any::<u64>(), any::<bool>()), 0..200),
        ) {
            let rtc = rtc();
            let before = host_time();

            for (byte, width, value, is_write) in accesses {
                let data = &mut value.to_le_bytes()[..1 << width];
                if is_write {
                    write(&rtc, byte, data);
                } else {
                    rtc.lock().unwrap().read(Offset { window: 0, byte }, data);
                }
            }
            rtc.lock().unwrap().reset();

            prop_assert!(about(before).contains(&read32(&rtc, DR)));
            prop_assert_eq!(read32(&rtc, MR), 0);
        }
    }
}
