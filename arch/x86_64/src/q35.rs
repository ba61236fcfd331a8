//! `qemu-q35`: where QEMU's machine `q35` puts memory, bit by bit, with the limits it has.
//!
//! Numbers are those of QEMU's `hw/i386/pc_q35.c` (`pc_q35_init`) and `hw/i386/pc.c` (`pc_memory_init`). With `--hole
//! relocate` RAM moves above 1 TiB as it does there; with `split` it is drawn around what AMD keeps.

use ambit_bus::Request;
use ambit_device_manager::{
    Arch, Board, BoardOption, BootError, BootImage, Diagnostic, Fit, Fixture, HostFacts, Length,
    MachineConfig, MemoryMap, OptionError, Payload, Plan, PlanError, RamPlace, Transport,
};
use ambit_resources::{AddressRange, IrqPin, parse_size};

use crate::pc::{self, FOUR_GIB, Pc, Places};

pub const NAME: &str = "qemu-q35";

const GIB: u64 = 1 << 30;
/// The most RAM that is all below 4 GiB.
const ALL_LOW: u64 = 0xb000_0000;
/// How much of more RAM is below 4 GiB.
const LOW: u64 = 2 * GIB;
const HOLE64: u64 = 32 * GIB;

const ECAM: AddressRange = AddressRange::fixed(0xb000_0000, 256 << 20);
const MMIO32: AddressRange = AddressRange::fixed(0xc000_0000, 0x3eb0_0000);
// QEMU's microvm has them there; its q35 has none.
const DEVICES: AddressRange = AddressRange::fixed(0xfeb0_0000, 1 << 20);

/// QEMU's x86_64 machine.
pub fn q35() -> Q35 {
    Q35 { hole64: HOLE64 }
}

/// See [`q35`].
#[derive(Clone, Copy, Debug)]
pub struct Q35 {
    /// How long the window for 64-bit BARs is, in bytes.
    hole64: u64,
}

impl Board for Q35 {
    fn name(&self) -> &str {
        NAME
    }

    fn arch(&self) -> Arch {
        Arch::X86_64
    }

    fn about(&self) -> String {
        "the map of QEMU's q35 machine (10.0), with its limits".into()
    }

    fn options(&self) -> Vec<BoardOption> {
        vec![BoardOption {
            key: "pci-hole64-size",
            values: "SIZE",
            about: "of the window for 64-bit BARs: whole GiB, at least 1G [32G]",
        }]
    }

    fn with_options(&self, options: &[(String, String)]) -> Result<Box<dyn Board>, OptionError> {
        const WANTED: &str = "whole GiB, from 1G to 1024T";
        let mut board = *self;
        for (key, value) in options {
            if key != "pci-hole64-size" {
                let known = self.options().iter().map(|option| option.key).collect();
                return Err(OptionError::Unknown { board: NAME.into(), key: key.clone(), known });
            }
            let whole = |size: &u64| (GIB..=1 << 50).contains(size) && size.is_multiple_of(GIB);
            board.hole64 = parse_size(value).ok().filter(whole).ok_or_else(|| OptionError::Value {
                key: key.clone(),
                value: value.clone(),
                wanted: WANTED.into(),
            })?;
        }
        Ok(Box::new(board))
    }

    fn transport(&self) -> Transport {
        Transport::Pci
    }

    fn map(&self, config: &MachineConfig, facts: &HostFacts) -> Result<MemoryMap, PlanError> {
        let places = Places {
            low: if config.memory >= ALL_LOW { LOW } else { ALL_LOW },
            ram: RamPlace { base: 0, grain: 1, slot_room: GIB, max_slots: 256 },
            mmio32: MMIO32,
            ecam: ECAM,
            devices: DEVICES,
            mmio64: (Length::Of(self.hole64), Fit::Required),
        };
        pc::map(self.name(), places, config, facts)
    }

    fn fixtures(&self) -> Vec<Fixture> {
        Pc.fixtures()
    }

    fn interrupt_id(&self, pin: IrqPin) -> u32 {
        Pc.interrupt_id(pin)
    }

    fn remarks(&self, plan: &Plan) -> Vec<Diagnostic> {
        Pc.remarks(plan)
    }

    fn boot_image<'a>(&self, plan: &Plan, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
        Pc.boot_image(plan, payload)
    }

    fn model(&self, fixture: &Request) -> Option<std::sync::Arc<dyn ambit_bus::Model>> {
        Pc.model(fixture)
    }
}

/// What the clock's registers 0x5b to 0x5d say: the RAM of the first bank above 4 GiB in units of 64 KiB, as far as
/// 24 bits hold it. QEMU does not say where that is.
pub fn cmos_above(plan: &Plan) -> u64 {
    let above = plan.ram().find(|bank| bank.first() >= FOUR_GIB);
    above.map_or(0, |bank| bank.size() >> 16 & 0x00ff_ffff)
}
