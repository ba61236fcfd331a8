use std::sync::Arc;

use std::collections::VecDeque;

use ambit_bus::bench::{BenchHost, PinLog};
use ambit_resources::{AddressRange, IrqPin};
use proptest::prelude::*;

use super::uart::*;
use super::*;

const PIN: IrqPin = IrqPin(1);

const OE: u32 = 1 << 10;
const RT: u32 = 1 << 6;
const TX: u32 = 1 << 5;
const RX: u32 = 1 << 4;

const RXFF: u32 = 1 << 6;
const RXFE: u32 = 1 << 4;

const FEN: u32 = 1 << 4;
const WLEN_8: u32 = 3 << 5;

const UARTEN: u32 = 1 << 0;
const LBE: u32 = 1 << 7;
const TXE: u32 = 1 << 8;
const RXE: u32 = 1 << 9;
const DTR: u32 = 1 << 10;
const RTS: u32 = 1 << 11;

/// A UART with everything that is plugged into it.
struct Bench {
    device: Shared,
    input: Input,
    irq: Arc<PinLog>,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Bench {
    fn new() -> Self {
        let host = BenchHost::new(0x1000);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let output = Arc::clone(&sent);
        let sink = move |bytes: &[u8]| output.lock().unwrap().extend(bytes);
        let (model, input) = Pl011Model::new("uart0", Box::new(sink)).unwrap();
        let device = model.build(&slot(), &host).unwrap();
        Self { device, input, irq: host.pin(PIN), sent }
    }

    fn read_bytes<const N: usize>(&self, byte: u64) -> [u8; N] {
        let mut data = [0x55; N];
        self.device.lock().unwrap().read(Offset { window: 0, byte }, &mut data);
        data
    }

    fn write_bytes(&self, byte: u64, data: &[u8]) {
        assert_eq!(self.device.lock().unwrap().write(Offset { window: 0, byte }, data), Effect::None);
    }

    fn read(&self, register: u16) -> u32 {
        u32::from_le_bytes(self.read_bytes(register.into()))
    }

    fn write(&self, register: u16, value: u32) {
        self.write_bytes(register.into(), &value.to_le_bytes());
    }

    fn push(&self, bytes: &[u8]) {
        assert_eq!(self.input.push(bytes), bytes.len());
    }

    /// Whether the event was signalled since it was asked last.
    fn told(&self) -> bool {
        self.input.room_event().read().is_ok()
    }

    fn sent(&self) -> Vec<u8> {
        self.sent.lock().unwrap().clone()
    }

    fn reset(&self) {
        self.device.lock().unwrap().reset();
    }

    /// Every register that a read does not change.
    fn registers(&self) -> Vec<u32> {
        let ids = (PERIPH_ID..0x1000).step_by(4);
        let plain = [RSR_ECR, FR, ILPR, IBRD, FBRD, LCR_H, CR, IFLS, IMSC, RIS, MIS, ICR, DMACR];
        plain.into_iter().chain(ids).map(|register| self.read(register)).collect()
    }

    /// As a driver does: looks, and reads what is there.
    fn drain(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.read(FR) & RXFE == 0 {
            bytes.push(self.read(DR).to_le_bytes()[0]);
        }
        bytes
    }

    /// As Linux opens the port: `pl011_startup`, then `pl011_set_termios`.
    fn open_as_linux(&self) {
        self.write(ICR, OE | RT | RX);
        let masked = self.read(IMSC);
        self.write(IMSC, RT | RX);
        self.write(IMSC, masked);
        self.write(IFLS, 2 << 3 | 2);
        self.write(CR, self.read(CR) & (RTS | DTR) | UARTEN | RXE | TXE);
        self.read(FR);
        self.write(ICR, RT | RX);
        for _ in 0..32 {
            if self.read(FR) & RXFE != 0 {
                break;
            }
            self.read(DR);
        }
        self.write(IMSC, RT | RX);
        self.write(FBRD, 1);
        self.write(IBRD, 13);
        self.write(LCR_H, WLEN_8 | FEN);
        self.write(CR, self.read(CR) | RXE);
    }

    /// As Linux answers the interrupt: `pl011_int`.
    fn interrupt_as_linux(&self) -> Vec<u8> {
        let mut received = Vec::new();
        loop {
            let status = self.read(RIS) & (RT | RX);
            if status == 0 {
                return received;
            }
            self.write(ICR, status & !(RT | RX | TX));
            received.extend(self.drain());
        }
    }
}

fn deaf() -> (Pl011Model, Input) {
    Pl011Model::new("uart0", Box::new(|_| {})).unwrap()
}

fn slot() -> Slot {
    Slot { windows: vec![AddressRange::fixed(0x900_0000, 0x1000)], irq: Some((PIN, Trigger::Level)) }
}

fn digits(count: usize) -> Vec<u8> {
    (b'0'..=b'9').cycle().take(count).collect()
}

// The model

#[test]
fn the_guest_is_told_what_linux_binds_to() {
    let request = deaf().0.request();

    assert_eq!(
        request,
        Request {
            id: "uart0".into(),
            kind: "pl011".into(),
            needs: Needs::Board { registers: 0x1000, irq: Some(Trigger::Level) },
            description: Arc::new(Description {
                node: "pl011".into(),
                compatible: vec!["arm,pl011".into(), "arm,primecell".into()],
                properties: vec![(
                    "clocks".into(),
                    Property::Clocks(vec!["uartclk".into(), "apb_pclk".into()])
                )],
            }),
            queue_reach: None,
        }
    );
}

#[test]
fn what_is_pushed_before_the_device_is_built_is_not_lost() {
    let (model, input) = deaf();
    assert_eq!(input.push(b"early"), 5);
    let host = BenchHost::new(0x1000);

    let device = model.build(&slot(), &host).unwrap();
    let mut byte = [0];
    let write = device.lock().unwrap().write(Offset { window: 0, byte: IMSC.into() }, &[0x50]);
    device.lock().unwrap().read(Offset { window: 0, byte: DR.into() }, &mut byte);

    assert_eq!((write, byte), (Effect::None, [b'e']));
}

#[test]
fn without_an_interrupt_the_device_can_be_polled() {
    let (model, _) = deaf();
    let slot = Slot { irq: None, ..slot() };

    let device = model.build(&slot, &BenchHost::new(0x1000)).unwrap();
    let mut flags = [0; 4];
    device.lock().unwrap().read(Offset { window: 0, byte: FR.into() }, &mut flags);

    assert_eq!(u32::from_le_bytes(flags), 0x97);
}

// Registers

#[test]
fn registers_begin_with_the_reset_values_of_the_manual() {
    let uart = Bench::new();

    let values = [RSR_ECR, ILPR, IBRD, FBRD, LCR_H, CR, IFLS, IMSC, RIS, MIS, DMACR].map(|at| uart.read(at));

    assert_eq!(values, [0, 0, 0, 0, 0, 0x300, 0x12, 0, 0, 0, 0]);
}

#[test]
fn flags_begin_with_both_fifos_empty_and_a_terminal_at_the_other_end() {
    assert_eq!(Bench::new().read(FR), 0x97);
}

#[test]
fn registers_keep_the_bits_that_they_have() {
    let uart = Bench::new();
    let registers = [ILPR, IBRD, FBRD, LCR_H, CR, IFLS, IMSC, DMACR];

    for register in registers {
        uart.write(register, 0xffff_ffff);
    }

    let values = registers.map(|register| uart.read(register));
    assert_eq!(values, [0xff, 0xffff, 0x3f, 0xff, 0xff87, 0x3f, 0x7ff, 7]);
}

#[test]
fn linux_finds_its_driver_by_the_id_registers() {
    let uart = Bench::new();

    let ids: Vec<u32> = (PERIPH_ID..0x1000).step_by(4).map(|register| uart.read(register)).collect();

    assert_eq!(ids, [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
}

#[test]
fn the_id_registers_cannot_be_written() {
    let uart = Bench::new();
    let before = uart.registers();

    for register in (PERIPH_ID..0x1000).step_by(4) {
        uart.write(register, 0xffff_ffff);
    }

    assert_eq!(uart.registers(), before);
}

#[test]
fn reset_brings_back_every_register() {
    let uart = Bench::new();
    let before = uart.registers();
    for register in (4..0x100).step_by(4) {
        uart.write(register, 0xffff_ffff);
    }

    uart.reset();

    assert_eq!(uart.registers(), before);
}

#[test]
fn reset_lowers_the_interrupt() {
    let uart = Bench::new();
    uart.write(IMSC, TX);
    uart.write(DR, b'x'.into());
    assert!(uart.irq.is_high());

    uart.reset();

    assert!(!uart.irq.is_high());
}

// Widths

#[test]
fn a_short_read_gets_the_low_bytes_and_a_long_one_zeros_after_them() {
    let uart = Bench::new();
    uart.write(CR, 0x0301);

    assert_eq!(uart.read_bytes(CR.into()), [0x01]);
    assert_eq!(uart.read_bytes(CR.into()), [0x01, 0x03]);
    assert_eq!(uart.read_bytes(CR.into()), [0x01, 0x03, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_write_of_any_width_sends_its_first_byte() {
    let uart = Bench::new();

    uart.write_bytes(DR.into(), b"a");
    uart.write_bytes(DR.into(), b"bB");
    uart.write_bytes(DR.into(), b"cCCC");
    uart.write_bytes(DR.into(), b"dDDDDDDD");

    assert_eq!(uart.sent(), b"abcd");
}

#[test]
fn a_long_read_takes_one_byte() {
    let uart = Bench::new();
    uart.write(IMSC, RX);
    uart.push(b"ab");

    assert_eq!(uart.read_bytes(DR.into()), [b'a', 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(uart.drain(), b"b");
}

#[test]
fn between_registers_the_window_reads_as_zero_and_cannot_be_written() {
    let uart = Bench::new();
    let before = uart.registers();

    uart.write_bytes(u64::from(DR) + 1, b"x");
    uart.write_bytes(u64::from(CR) + 2, &[0xff; 4]);
    uart.write_bytes(0x800, &[0xff; 8]);

    assert_eq!(uart.read_bytes(u64::from(CR) + 1), [0]);
    assert_eq!(uart.read_bytes(0x800), [0; 8]);
    assert_eq!(uart.registers(), before);
    assert_eq!(uart.sent(), b"");
}

// Sending

#[test]
fn an_early_console_is_heard_though_it_enables_nothing() {
    let uart = Bench::new();
    uart.write(CR, 0);

    for byte in *b"Booting" {
        assert_eq!(uart.read(FR) & 1 << 5, 0);
        uart.write_bytes(DR.into(), &[byte]);
        assert_eq!(uart.read(FR) & 1 << 3, 0);
    }

    assert_eq!(uart.sent(), b"Booting");
}

// R-62
#[test]
fn a_byte_sent_raises_the_transmit_interrupt() {
    let uart = Bench::new();
    uart.write(IMSC, TX);
    assert!(!uart.irq.is_high());

    uart.write(DR, b'x'.into());

    assert_eq!(uart.read(MIS), TX);
    assert!(uart.irq.is_high());
}

#[test]
fn the_transmit_interrupt_waits_for_a_driver_that_unmasks_it_later() {
    let uart = Bench::new();
    uart.write(DR, b'x'.into());

    uart.write(IMSC, TX);

    assert!(uart.irq.is_high());
}

#[test]
fn a_masked_interrupt_is_seen_raw_only() {
    let uart = Bench::new();

    uart.write(DR, b'x'.into());

    assert_eq!([uart.read(RIS), uart.read(MIS)], [TX, 0]);
    assert!(!uart.irq.is_high());
}

#[test]
fn masking_lowers_the_interrupt() {
    let uart = Bench::new();
    uart.write(IMSC, TX);
    uart.write(DR, b'x'.into());

    uart.write(IMSC, 0);

    assert!(!uart.irq.is_high());
    assert_eq!(uart.read(RIS), TX);
}

#[test]
fn a_clear_lowers_the_transmit_interrupt_until_the_next_byte() {
    let uart = Bench::new();
    uart.write(IMSC, TX);
    uart.write(DR, b'x'.into());

    uart.write(ICR, TX);
    assert!(!uart.irq.is_high());

    uart.write(DR, b'y'.into());
    assert!(uart.irq.is_high());
}

#[test]
fn a_clear_of_another_interrupt_leaves_the_transmit_interrupt() {
    let uart = Bench::new();
    uart.write(IMSC, TX);
    uart.write(DR, b'x'.into());

    uart.write(ICR, !TX);

    assert!(uart.irq.is_high());
}

// Receiving

#[test]
fn what_is_typed_reaches_linux_in_order() {
    let uart = Bench::new();
    uart.open_as_linux();

    uart.push(b"uname -a\r");

    assert!(uart.irq.is_high());
    assert_eq!(uart.interrupt_as_linux(), b"uname -a\r");
    assert!(!uart.irq.is_high());
}

#[test]
fn what_is_typed_before_linux_opens_the_port_is_not_lost() {
    let uart = Bench::new();
    let typed = digits(100);
    uart.push(&typed);
    for byte in *b"Booting Linux" {
        uart.read(FR);
        uart.write(DR, byte.into());
        uart.read(FR);
    }

    uart.open_as_linux();

    assert!(uart.irq.is_high());
    assert_eq!(uart.interrupt_as_linux(), typed);
}

#[test]
fn what_is_typed_while_linux_holds_the_line_comes_when_it_lets_go() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.write(IMSC, 0);
    uart.push(b"held");
    assert!(!uart.irq.is_high());

    uart.write(IMSC, RT | RX);

    assert_eq!(uart.interrupt_as_linux(), b"held");
}

#[test]
fn bytes_in_the_fifo_stay_for_a_driver_that_masks_before_it_reads() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.push(&digits(20));
    uart.read(MIS);

    uart.write(IMSC, 0);

    assert_eq!(uart.drain(), digits(16));
}

#[test]
fn a_byte_below_the_trigger_level_raises_the_receive_timeout() {
    let uart = Bench::new();
    uart.open_as_linux();

    uart.push(b"x");

    assert_eq!(uart.read(MIS), RT);
}

#[test]
fn the_receive_interrupt_comes_at_the_level_of_ifls() {
    for (select, level) in [(0, 2), (1, 4), (2, 8), (3, 12), (4, 14)] {
        let uart = Bench::new();
        uart.open_as_linux();
        uart.write(IFLS, select << 3);

        uart.push(&digits(level - 1));
        assert_eq!(uart.read(MIS), RT, "below level {level}");

        uart.push(b"x");
        assert_eq!(uart.read(MIS), RT | RX, "at level {level}");
    }
}

#[test]
fn the_receive_interrupt_ends_below_the_level_and_the_timeout_with_the_last_byte() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.push(&digits(8));
    assert_eq!(uart.read(MIS), RT | RX);

    uart.read(DR);
    assert_eq!(uart.read(MIS), RT);

    uart.drain();
    assert_eq!(uart.read(MIS), 0);
    assert!(!uart.irq.is_high());
}

#[test]
fn without_a_fifo_each_byte_raises_the_receive_interrupt() {
    let uart = Bench::new();
    uart.write(IMSC, RX);

    uart.push(b"ab");

    assert_eq!(uart.read(MIS), RX);
    assert_eq!(uart.read(FR) & (RXFF | RXFE), RXFF);
    assert_eq!(uart.drain(), b"ab");
}

#[test]
fn a_clear_between_the_last_look_and_a_new_byte_does_not_lose_its_interrupt() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.push(b"a");
    assert_eq!(uart.drain(), b"a");

    uart.push(b"b");
    uart.write(ICR, RT | RX);

    assert!(uart.irq.is_high());
    assert_eq!(uart.interrupt_as_linux(), b"b");
}

#[test]
fn a_full_fifo_says_so_and_takes_more_as_it_is_read() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.push(&digits(40));

    assert_eq!(uart.read(FR) & (RXFF | RXFE), RXFF);
    assert_eq!(uart.drain(), digits(40));
    assert_eq!(uart.read(FR) & (RXFF | RXFE), RXFE);
}

#[test]
fn a_flood_never_overruns() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.write(IMSC, RT | RX | OE);

    let flood = digits(3 * LINE);
    let mut rest = &flood[..];
    let mut received = Vec::new();
    while received.len() < flood.len() {
        rest = &rest[uart.input.push(rest)..];
        assert_eq!(uart.read(RIS) & OE, 0);
        received.extend(uart.drain());
    }

    assert_eq!(received, flood);
}

#[test]
fn an_empty_fifo_reads_as_zero() {
    assert_eq!(Bench::new().read(DR), 0);
}

#[test]
fn a_guest_that_polls_gets_what_is_typed() {
    let uart = Bench::new();
    uart.push(b"menu");

    let looks = (1..).find(|_| uart.read(FR) & RXFE == 0);

    assert_eq!(looks, Some(32));
    assert_eq!(uart.drain(), b"menu");
}

#[test]
fn a_guest_known_to_poll_does_not_wait_again() {
    let uart = Bench::new();
    uart.push(b"a");
    while uart.read(FR) & RXFE != 0 {}
    uart.drain();
    uart.write(DR, b'a'.into());

    uart.push(b"b");

    assert_eq!(uart.drain(), b"b");
}

#[test]
fn a_new_driver_is_not_taken_for_a_polling_one() {
    let uart = Bench::new();
    uart.push(b"a");
    while uart.read(FR) & RXFE != 0 {}
    uart.drain();

    uart.write(LCR_H, WLEN_8 | FEN);
    uart.push(b"b");

    assert_eq!(uart.drain(), b"");
}

#[test]
fn a_receiver_that_is_off_gets_nothing_and_loses_nothing() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.write(CR, UARTEN | TXE);
    uart.push(b"later");
    assert!(!uart.irq.is_high());

    uart.write(CR, UARTEN | TXE | RXE);

    assert!(uart.irq.is_high());
    assert_eq!(uart.interrupt_as_linux(), b"later");
}

#[test]
fn switching_the_fifo_off_empties_it() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.push(b"stale");
    uart.read(MIS);

    uart.write(LCR_H, WLEN_8);

    assert_eq!(uart.read(FR) & RXFE, RXFE);
}

#[test]
fn reset_empties_the_fifo_and_keeps_what_waits_on_the_line() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.push(&digits(20));
    uart.read(MIS);

    uart.reset();
    assert_eq!(uart.read(FR) & RXFE, RXFE);

    uart.open_as_linux();
    assert_eq!(uart.interrupt_as_linux(), digits(20)[16..]);
}

// The host's side

#[test]
fn a_full_line_takes_no_more_and_says_how_much_it_took() {
    let uart = Bench::new();
    let bytes = digits(LINE + 10);

    assert_eq!(uart.input.room(0), LINE);
    assert_eq!(uart.input.push(&bytes), LINE);
    assert_eq!(uart.input.push(&bytes[LINE..]), 0);
    assert_eq!(uart.input.room(0), 0);

    uart.open_as_linux();
    assert_eq!(uart.interrupt_as_linux(), bytes[..LINE]);
}

#[test]
fn whoever_found_too_little_room_is_told_once_when_half_of_it_is_free() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.push(&digits(LINE));
    assert_eq!(uart.input.room(1), 0);

    while !uart.told() {
        uart.read(DR);
    }

    assert_eq!(uart.input.room(1), LINE / 2);
    uart.drain();
    assert!(!uart.told());
}

#[test]
fn whoever_could_not_push_all_is_told_when_there_is_room() {
    let uart = Bench::new();
    uart.open_as_linux();
    assert_eq!(uart.input.push(&digits(LINE + 1)), LINE);

    uart.drain();

    assert!(uart.told());
}

#[test]
fn whoever_found_enough_room_is_not_told() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.push(&digits(LINE / 2));
    assert_eq!(uart.input.room(usize::MAX), LINE / 2);

    uart.drain();

    assert!(!uart.told());
}

#[test]
fn the_event_of_the_input_is_the_one_to_wait_for() {
    let (_, input) = deaf();

    assert_eq!(input.as_raw_fd(), input.room_event().as_raw_fd());
}

// Loopback

#[test]
fn in_loopback_what_is_sent_comes_back_and_does_not_go_out() {
    let uart = Bench::new();
    uart.write(LCR_H, FEN);
    uart.write(CR, UARTEN | TXE | RXE | LBE);

    uart.write(DR, b'x'.into());

    assert_eq!(uart.drain(), b"x");
    assert_eq!(uart.sent(), b"");
}

#[test]
fn in_loopback_the_line_waits() {
    let uart = Bench::new();
    uart.open_as_linux();
    uart.write(CR, UARTEN | TXE | RXE | LBE);

    uart.push(b"x");
    assert_eq!(uart.drain(), b"");

    uart.write(CR, UARTEN | TXE | RXE);
    assert_eq!(uart.drain(), b"x");
}

#[test]
fn in_loopback_the_modem_lines_come_back() {
    let uart = Bench::new();

    uart.write(CR, RXE | LBE | RTS);
    assert_eq!(uart.read(FR), 0x91);

    uart.write(CR, RXE | LBE | 1 << 13 | 1 << 12 | DTR);
    assert_eq!(uart.read(FR), 0x196);
}

#[test]
fn in_loopback_a_byte_too_many_is_an_overrun_told_once() {
    let uart = Bench::new();
    uart.write(IMSC, OE);
    uart.write(CR, UARTEN | TXE | RXE | LBE);
    uart.write(DR, b'a'.into());
    assert!(!uart.irq.is_high());

    uart.write(DR, b'b'.into());

    assert!(uart.irq.is_high());
    assert_eq!(uart.read(RSR_ECR), 1 << 3);
    assert_eq!(uart.read(DR), 1 << 11 | u32::from(b'a'));
    assert_eq!(uart.read(RSR_ECR), 0);

    uart.write(ICR, OE);
    assert!(!uart.irq.is_high());
}

#[test]
fn a_write_of_ecr_clears_the_error() {
    let uart = Bench::new();
    uart.write(CR, RXE | LBE);
    uart.write(DR, b'a'.into());
    uart.write(DR, b'b'.into());

    uart.write(RSR_ECR, 0);

    assert_eq!(uart.read(DR), u32::from(b'a'));
}

// Anything at all

#[derive(Clone, Debug)]
enum Step {
    Read { byte: u64, width: u32 },
    Write { byte: u64, width: u32, value: u64 },
    Push(usize),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    // Most accesses are for the registers that do something.
    let byte = || prop_oneof![8 => (0..0x14u64).prop_map(|word| word * 4), 2 => 0..0x1010u64];
    let width = || 0..4u32;
    prop_oneof![
        8 => (byte(), width()).prop_map(|(byte, width)| Step::Read { byte, width }),
        8 => (byte(), width(), any::<u64>())
            .prop_map(|(byte, width, value)| Step::Write { byte, width, value }),
        3 => (0..3000usize).prop_map(Step::Push),
        1 => Just(Step::Reset),
    ]
}

impl Bench {
    fn take(&self, step: Step) {
        match step {
            Step::Read { byte, width } => {
                let mut data = [0x55; 8];
                self.device.lock().unwrap().read(Offset { window: 0, byte }, &mut data[..1 << width]);
            }
            Step::Write { byte, width, value } => self.write_bytes(byte, &value.to_le_bytes()[..1 << width]),
            Step::Push(count) => {
                let room = self.input.room(0);
                assert_eq!(self.input.push(&digits(count)), count.min(room));
            }
            Step::Reset => self.reset(),
        }
    }
}

proptest! {
    // R-62
    #[test]
    fn after_any_accesses_the_interrupt_is_as_the_registers_say(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let uart = Bench::new();

        for step in steps {
            uart.take(step);

            let high = uart.irq.is_high();
            prop_assert_eq!(high, uart.read(MIS) != 0);
            prop_assert_eq!(high, uart.irq.is_high());
            prop_assert_eq!(uart.read(PERIPH_ID), 0x11);
            prop_assert!(uart.input.room(0) <= LINE);
        }
    }

    #[test]
    fn after_any_accesses_and_a_reset_linux_can_use_it(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let uart = Bench::new();
        for step in steps {
            uart.take(step);
        }

        uart.reset();
        let once = uart.registers();
        uart.reset();
        let twice = uart.registers();
        uart.open_as_linux();
        uart.interrupt_as_linux();
        uart.sent.lock().unwrap().clear();
        uart.write(DR, b'>'.into());
        uart.push(b"ls\r");

        prop_assert_eq!(&once, &twice);
        prop_assert_eq!(once, Bench::new().registers());
        prop_assert_eq!(uart.sent(), b">");
        prop_assert_eq!(uart.interrupt_as_linux(), b"ls\r");
    }

    // R-62
    #[test]
    fn no_byte_is_lost_however_linux_and_the_host_take_turns(
        turns in prop::collection::vec((0..1000usize, any::<bool>()), 1..40),
    ) {
        let uart = Bench::new();
        uart.open_as_linux();
        let mut expected = VecDeque::new();
        let mut received = Vec::new();

        for (count, answer) in turns {
            let bytes = digits(count);
            let taken = uart.input.push(&bytes);
            expected.extend(&bytes[..taken]);
            if answer {
                received.extend(uart.interrupt_as_linux());
            }
        }
        received.extend(uart.interrupt_as_linux());

        prop_assert_eq!(received, Vec::from(expected));
    }
}
