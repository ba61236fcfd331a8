use ambit_bus::bench::{BenchHost, PinLog};
use ambit_bus::{Bar, BarSpace, Host, Trigger};
use ambit_resources::IrqPin;

use super::*;
use crate::{Identity, Place};

const COMMAND: u64 = 0x04;
const STATUS: u64 = 0x06;
const INTX_DISABLE: u16 = 1 << 10;
const MSIX_ENABLE: u16 = 1 << 15;

fn function() -> (Function, Arc<PinLog>) {
    let host = BenchHost::new(0x1000);
    let bars = [Bar { size: 0x1000, space: BarSpace::Mmio32 }];
    let mut config = ConfigSpace::new(Identity::default(), &bars, true).unwrap();
    let wires = Msix::wires(&host, 2).unwrap().unwrap();
    let msix = Msix::new(&mut config, Place { window: 1, table: 0, pba: 0x800 }, wires).unwrap();
    let line = host.irq(IrqPin(3), Trigger::Level).unwrap();
    (Function::new(config, Some(line), Some(msix)), host.pin(IrqPin(3)))
}

fn write(function: &mut Function, byte: u64, value: u16) -> Option<Change> {
    function.write(Offset { window: 0, byte }, &value.to_le_bytes())
}

fn status(function: &mut Function) -> u8 {
    let mut data = [0];
    assert!(function.read(Offset { window: 0, byte: STATUS }, &mut data));
    data[0]
}

fn control(function: &Function) -> u64 {
    function.msix.as_ref().unwrap().control().into()
}

// C-138.
#[test]
fn the_status_register_shows_the_wish_whatever_becomes_of_it() {
    let (mut function, pin) = function();
    let mut seen = vec![(status(&mut function), pin.is_high())];
    function.intx.raise(1);
    seen.push((status(&mut function), pin.is_high()));
    let _change = write(&mut function, COMMAND, INTX_DISABLE);
    seen.push((status(&mut function), pin.is_high()));
    let _change = write(&mut function, COMMAND, 0);
    seen.push((status(&mut function), pin.is_high()));
    function.intx.take();
    seen.push((status(&mut function), pin.is_high()));

    assert_eq!(seen, [(0x10, false), (0x18, true), (0x18, false), (0x18, true), (0x10, false)]);
}

#[test]
fn messages_take_the_place_of_the_line_while_they_are_enabled() {
    let (mut function, pin) = function();
    let control = control(&function);
    function.intx.raise(1);
    let mut seen = vec![pin.is_high()];
    for value in [MSIX_ENABLE, MSIX_ENABLE | 1 << 14, 1 << 14] {
        let _change = write(&mut function, control, value);
        seen.push(pin.is_high());
    }

    assert_eq!(seen, [true, false, false, true]);
}

#[test]
fn message_control_is_heard_in_whatever_width_it_is_written() {
    let (mut function, _) = function();
    let at = control(&function);
    let mut seen = Vec::new();
    let mut enabled = |byte: u64, data: &[u8]| {
        let _change = function.write(Offset { window: 0, byte }, data);
        seen.push(function.msix.as_ref().unwrap().is_enabled());
    };
    enabled(at + 1, &[0x80]);
    enabled(at, &[0; 2]);
    enabled(at - 2, &[0, 0, 0, 0x80]);
    enabled(at - 2, &[0; 8]);
    enabled(at - 3, &[0, 0, 0, 0, 0x80]);
    enabled(at, &[0]);
    enabled(at + 1, &[0]);

    assert_eq!(seen, [true, false, true, false, true, true, false]);
}

#[test]
fn each_access_is_the_functions_or_the_devices() {
    let (mut function, _) = function();
    let mut ours = |window, byte| {
        let at = Offset { window, byte };
        (function.read(at, &mut [0; 4]), function.write(at, &[0; 4]).is_some())
    };

    assert_eq!([ours(0, 0), ours(0, 5000), ours(1, 0x10), ours(1, 0x800)], [(true, true); 4]);
    assert_eq!([ours(1, 0x20), ours(1, 0x808), ours(2, 0)], [(false, false); 3]);
}

#[test]
fn a_write_to_the_table_moves_nothing() {
    let (mut function, _) = function();

    let change = function.write(Offset { window: 1, byte: 4 }, &[0xff; 4]);

    assert_eq!(change, Some(Change::none()));
}

#[test]
fn a_function_without_messages_still_gates_its_line() {
    let host = BenchHost::new(0x1000);
    let config = ConfigSpace::new(Identity::default(), &[], true).unwrap();
    let mut function = Function::new(config, Some(host.irq(IrqPin(3), Trigger::Level).unwrap()), None);
    function.intx.raise(1);

    let _change = write(&mut function, COMMAND, INTX_DISABLE);

    assert!(!host.pin(IrqPin(3)).is_high());
    assert!(!function.read(Offset { window: 1, byte: 0 }, &mut [0; 4]));
}

#[test]
#[cfg_attr(miri, ignore = "Miri takes minutes for whole spaces")]
fn a_reset_lowers_the_line_and_gives_back_the_dump() {
    let (mut function, pin) = function();
    let dump = |function: &mut Function| {
        let mut bytes = vec![0; 4096];
        assert!(function.read(Offset { window: 0, byte: 0 }, &mut bytes));
        bytes
    };
    let power_on = dump(&mut function);
    let _change = function.write(Offset { window: 0, byte: 0 }, &[0xff; 256]);
    function.intx.raise(1);
    let _change = write(&mut function, COMMAND, 2);
    let control = control(&function);
    let _change = write(&mut function, control, 0);
    assert!(pin.is_high() && dump(&mut function) != power_on);

    function.reset();

    assert_eq!((dump(&mut function), pin.is_high(), function.places()), (power_on, false, vec![None]));
    // The gates were opened as well.
    function.intx.raise(1);
    assert!(pin.is_high());
}
