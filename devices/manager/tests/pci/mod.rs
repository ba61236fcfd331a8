//! A board with PCI, and functions that go where a guest writes, for tests of the device manager.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ambit_bus::bench::BenchHost;
use ambit_bus::{
    Backplane, Bar, BarSpace, Device, Doorbell, Effect, Host, HostError, IrqLine, Match, Message, Model,
    MsiVector, Needs, Offset, Request, Shared, Slot, share,
};
use ambit_device_manager::{
    Above, Arch, Board, BootError, BootImage, DeviceManager, DevicePlaces, Fit, Fixture, HighPart, HostFacts,
    Length, MachineConfig, MemoryMap, Outcome, Part, Payload, PciPlaces, Place, Plan, PlanError, RamPlace,
    RegionKind, pci, plan,
};
use ambit_resources::{AddressRange, IrqPin};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub const ECAM: AddressRange = AddressRange::fixed(0x1000_0000, 1 << 20);
pub const IO: AddressRange = AddressRange::fixed(0x0f00_0000, 1 << 16);
pub const MMIO32: AddressRange = AddressRange::fixed(0x1100_0000, 0x4_0000);
pub const CONSOLE: AddressRange = AddressRange::fixed(0x20_0000, 0x1000);
pub const RAM: AddressRange = AddressRange::fixed(0x4000_0000, 64 << 20);
const MMIO64_SIZE: u64 = 0x4_0000;

pub struct PciBoard;

impl Board for PciBoard {
    fn name(&self) -> &str {
        "toy-pci"
    }

    fn arch(&self) -> Arch {
        Arch::Aarch64
    }

    fn map(&self, _: &MachineConfig, _: &HostFacts) -> Result<MemoryMap, PlanError> {
        let part =
            |name: &str, range| Part { name: name.into(), kind: RegionKind::Pci, place: Place::At(range) };
        let high = HighPart {
            name: pci::MMIO64.into(),
            kind: RegionKind::Pci,
            size: Length::Of(MMIO64_SIZE),
            align: 1 << 30,
            fit: Fit::Whole,
        };
        Ok(MemoryMap {
            parts: vec![part(pci::ECAM, ECAM), part(pci::IO, IO), part(pci::MMIO32, MMIO32)],
            ram: RamPlace { base: RAM.first(), grain: 1, slot_room: 0, max_slots: 4 },
            gap: None,
            reserved: Vec::new(),
            above: Above { floor: 0, holes: false, parts: vec![high] },
            frames: None,
            devices: DevicePlaces { window: AddressRange::fixed(0x10_0000, 0x4000), grain: 1, pins: 8..=15 },
            pins: 16,
            pci: Some(PciPlaces { intx: Some(IrqPin(3)), msi: true, ports: None }),
            max_cpus: 8,
            width: None,
        })
    }

    fn fixtures(&self) -> Vec<Fixture> {
        vec![Fixture { request: console().request(), base: CONSOLE.first(), pin: None }]
    }

    fn interrupt_id(&self, pin: IrqPin) -> u32 {
        pin.0
    }

    fn boot_image<'a>(&self, _: &Plan, _: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
        Err(BootError::Kernel("a toy starts nothing".into()))
    }
}

/// What a card has: three windows of memory, and one of ports.
pub const BARS: [Bar; 4] = [
    Bar { size: 0x4000, space: BarSpace::Mmio64 },
    Bar { size: 0x1000, space: BarSpace::Mmio32 },
    Bar { size: 0x1000, space: BarSpace::Mmio32 },
    Bar { size: 0x40, space: BarSpace::Io },
];

/// In window 1.
pub const BELL: u64 = 0x100;
/// In the configuration space.
const QUIET: u64 = 0x100;

/// A device that reads as its byte, and whose configuration space is the places of its windows.
#[derive(Debug)]
pub struct Card {
    pub id: String,
    pub byte: u8,
    pub resets: Arc<AtomicUsize>,
    pub gate: Arc<Gate>,
    needs: Needs,
}

/// A card does not say where its windows are while this is locked.
#[derive(Debug, Default)]
pub struct Gate {
    pub closed: Mutex<()>,
    /// How often it was asked.
    pub asked: AtomicUsize,
}

pub fn card(id: &str, byte: u8) -> Card {
    Card {
        id: id.into(),
        byte,
        resets: Arc::default(),
        gate: Arc::default(),
        needs: Needs::Pci { bars: BARS.into() },
    }
}

fn console() -> Card {
    Card { needs: Needs::Board { registers: CONSOLE.size(), irq: None }, ..card("console", 0xcc) }
}

struct CardDevice {
    byte: u8,
    resets: Arc<AtomicUsize>,
    gate: Arc<Gate>,
    places: Vec<Option<u64>>,
    line: Option<IrqLine>,
    _messages: Vec<Option<MsiVector>>,
    _bells: Vec<EventFd>,
}

impl Model for Card {
    fn request(&self) -> Request {
        Request {
            id: self.id.clone(),
            kind: "card".into(),
            needs: self.needs.clone(),
            description: Arc::default(),
            queue_reach: None,
        }
    }

    fn build(&self, slot: &Slot, host: &dyn Host) -> Result<Shared, HostError> {
        let line = slot.irq.map(|(pin, trigger)| host.irq(pin, trigger)).transpose()?;
        let messages = vec![host.message()?, host.message()?];
        for message in messages.iter().flatten() {
            message.route(Some(Message { address: 0x1000, data: 1 }))?;
        }
        let bell = |value| {
            let event = EventFd::new(EFD_NONBLOCK).unwrap();
            host.doorbell(Doorbell { window: 1, byte: BELL, write: Match::Half(value) }, &event)?;
            Ok::<_, HostError>(event)
        };
        Ok(share(CardDevice {
            byte: self.byte,
            resets: Arc::clone(&self.resets),
            gate: Arc::clone(&self.gate),
            places: vec![None; slot.windows.len().saturating_sub(1)],
            line,
            _messages: messages,
            _bells: vec![bell(0)?, bell(1)?],
        }))
    }
}

impl Device for CardDevice {
    /// In the configuration space places read as they were written, and all else as the card's byte.
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        data.fill(self.byte.wrapping_add(at.window));
        let number = usize::try_from(at.byte / 8).unwrap();
        if at.window == 0 && number > 0 {
            data.copy_from_slice(&self.places[number - 1].unwrap_or(u64::MAX).to_le_bytes());
        }
    }

    /// In the configuration space: 8 bytes at 8n are the place of window n, all ones that it has none, and
    /// byte 0 is the level of the line. The machine is not told of places at [`QUIET`] + 8n. Outside the
    /// configuration space a write is seen in what is read.
    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        if at.window != 0 {
            self.byte = self.byte.wrapping_add(0x10);
            return Effect::None;
        }
        if let (0, Some(line)) = (at.byte, &self.line) {
            line.set(data != [0]);
            return Effect::None;
        }
        let number = usize::try_from(at.byte % QUIET / 8).unwrap();
        let place = u64::from_le_bytes(data.try_into().unwrap());
        self.places[number - 1] = (place != u64::MAX).then_some(place);
        if at.byte < QUIET { Effect::Remap } else { Effect::None }
    }

    fn reset(&mut self) {
        self.places.fill(None);
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    fn places(&self) -> Vec<Option<u64>> {
        self.gate.asked.fetch_add(1, Ordering::SeqCst);
        let _open = self.gate.closed.lock().unwrap();
        self.places.clone()
    }
}

/// The host bridge, which has nothing but its configuration space.
#[derive(Debug)]
struct Bridge;

impl Model for Bridge {
    fn request(&self) -> Request {
        let needs = Needs::Pci { bars: Vec::new() };
        Request { id: pci::BRIDGE.into(), kind: pci::BRIDGE_KIND.into(), needs, ..card("", 0).request() }
    }

    fn build(&self, _: &Slot, _: &dyn Host) -> Result<Shared, HostError> {
        Ok(share(Self))
    }
}

impl Device for Bridge {
    fn read(&mut self, _: Offset, data: &mut [u8]) {
        data.fill(0xb0);
    }

    fn write(&mut self, _: Offset, _: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {}
}

pub fn config(cards: &[&str]) -> MachineConfig {
    let devices = cards.iter().map(|id| card(id, 0).request()).collect();
    MachineConfig { memory: RAM.size(), devices, ..MachineConfig::default() }
}

pub fn planned(cards: &[&str]) -> Plan {
    plan(&PciBoard, &config(cards), &HostFacts::assumed()).unwrap()
}

/// A machine with cards, and its guest.
pub struct Machine<H = BenchHost> {
    pub plan: Plan,
    pub host: Arc<H>,
    pub manager: DeviceManager,
}

impl Machine {
    /// Each card reads as its byte.
    pub fn new(cards: &[(&str, u8)]) -> Self {
        Self::on(BenchHost::new(4096), cards)
    }
}

impl<H: Backplane + 'static> Machine<H> {
    pub fn on(host: H, cards: &[(&str, u8)]) -> Self {
        let ids: Vec<&str> = cards.iter().map(|(id, _)| *id).collect();
        let (plan, host) = (planned(&ids), Arc::new(host));
        let cards = cards.iter().map(|(id, byte)| card(id, *byte)).chain([console()]);
        let cards = cards.map(|card| Arc::new(card) as Arc<dyn Model>);
        let models: Vec<Arc<dyn Model>> = cards.chain([Arc::new(Bridge) as Arc<dyn Model>]).collect();
        let manager = DeviceManager::apply(&plan, &models, host.clone()).unwrap();
        Self { plan, host, manager }
    }

    /// Where the configuration space of a card is.
    pub fn config(&self, id: &str) -> u64 {
        self.plan.device(id).unwrap().slot.windows[0].first()
    }

    /// The guest puts window `number` of a card at `place`, or nowhere.
    pub fn put(&self, id: &str, number: u64, place: Option<u64>) {
        let place = place.unwrap_or(u64::MAX).to_le_bytes();
        assert_eq!(self.manager.write(self.config(id) + 8 * number, &place), Outcome::Done);
    }

    /// Where the register of window `number` says that it is.
    pub fn said(&self, id: &str, number: u64) -> Option<u64> {
        let mut data = [0; 8];
        self.manager.read(self.config(id) + 8 * number, &mut data);
        Some(u64::from_le_bytes(data)).filter(|place| *place != u64::MAX)
    }

    /// As [`Machine::put`], but the machine is not told.
    pub fn put_quietly(&self, id: &str, number: u64, place: u64) {
        let address = self.config(id) + QUIET + 8 * number;
        assert_eq!(self.manager.write(address, &place.to_le_bytes()), Outcome::Done);
    }

    /// Sets the line of a card.
    pub fn raise(&self, id: &str, high: bool) {
        assert_eq!(self.manager.write(self.config(id), &[u8::from(high)]), Outcome::Done);
    }

    pub fn byte(&self, address: u64) -> u8 {
        let mut data = [0x55];
        self.manager.read(address, &mut data);
        data[0]
    }

    /// All windows that the guest may place: the card, the number, the first address.
    pub fn placed(&self) -> Vec<(String, u8, u64)> {
        let all = self.manager.decoded().into_iter().filter(|it| it.window > 0);
        all.map(|it| (it.id, it.window, it.range.first())).collect()
    }
}
