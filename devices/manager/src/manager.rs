//! Devices made where the plan says, plugged, moved by the guest, and unplugged.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::iter;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ambit_bus::{
    Backplane, BusError, Device, Doorbell, Effect, Host, HostError, IrqLine, Model, MsiVector, Needs, Owner,
    Shared, Space, Trigger, Written,
};
use ambit_memory::GuestMemory;
use ambit_resources::{AddressRange, IrqPin, PaBits};
use vmm_sys_util::eventfd::EventFd;

use crate::config_ports::{ConfigPorts, Reached};
use crate::decode::Decode;
use crate::firmware::set_bars;
use crate::lines::Levels;
use crate::windows::{Bell, Buses, Windows};
use crate::{Placed, Plan};

/// Every device of a running machine. All vCPUs share it.
///
/// Lock order: the table of devices, then the map of the bus or one device, and never those two at a time. A
/// device that is locked may use its lines, messages and doorbells, whose locks are the last. What is shown to those
/// who only ask has a lock of its own, under which nothing else is taken: a device may not answer, and who waits for
/// it to say its places holds the table.
pub struct DeviceManager {
    buses: Buses,
    config_ports: Option<ConfigPorts>,
    decode: Decode,
    levels: Levels,
    table: Mutex<Table>,
    /// The windows of each device that are on a bus, as they were when the table was last changed.
    shown: Mutex<BTreeMap<Owner, Vec<Decoded>>>,
    // Places that a guest asked for in vain. It can ask for any number, so only some are logged.
    refused: AtomicU64,
    told_of_doorbells: AtomicBool,
    host: Arc<dyn Backplane>,
}

#[derive(Default)]
struct Table {
    next: u64,
    devices: BTreeMap<Owner, Plugged>,
}

struct Plugged {
    id: String,
    device: Shared,
    /// A function of PCI: the guest places its windows, all but the first.
    is_function: bool,
    windows: Windows,
}

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("device {id} cannot be made: {source}")]
    Host { id: String, source: HostError },
    #[error("the plan has a device {0} that the configuration does not have")]
    NoModel(String),
    #[error("the configuration has a device {0} that the plan does not have")]
    NotPlanned(String),
    #[error("device {id} cannot be plugged: {source}")]
    Plug { id: String, source: BusError },
    #[error("device {0} is plugged already; give the new one another id")]
    Twice(String),
}

/// There is no such device to unplug.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no device {0}")]
pub struct NotThere(pub String);

/// What a guest's write comes to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The vCPU goes on.
    Done,
    /// No single window holds the whole access. The vCPU goes on.
    Missed,
    PowerOff,
    Reset,
    /// The guest says that it crashed.
    Crash,
}

/// A window of a device, where it is on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub id: String,
    pub window: u8,
    pub space: Space,
    pub range: AddressRange,
}

impl DeviceManager {
    /// Without any device yet. `host` is the machine that `plan` describes.
    pub fn new(plan: &Plan, host: Arc<dyn Backplane>) -> Self {
        Self {
            buses: Buses::default(),
            config_ports: ConfigPorts::of(plan),
            decode: Decode::of(plan),
            levels: Levels::default(),
            table: Mutex::default(),
            shown: Mutex::default(),
            refused: AtomicU64::new(0),
            told_of_doorbells: AtomicBool::new(false),
            host,
        }
    }

    /// Makes every device of `plan` from the model with its id.
    ///
    /// # Errors
    /// [`BuildError`] for the first one that fails. Those already made are dropped, and with them what
    /// they had of the host.
    pub fn apply(
        plan: &Plan,
        models: &[Arc<dyn Model>],
        host: Arc<dyn Backplane>,
    ) -> Result<Self, BuildError> {
        let mut by_id: BTreeMap<String, &Arc<dyn Model>> =
            models.iter().map(|model| (model.request().id, model)).collect();
        let manager = Self::new(plan, host);
        for placed in &plan.devices {
            let model = by_id.remove(&placed.id).ok_or_else(|| BuildError::NoModel(placed.id.clone()))?;
            manager.plug(placed, &**model)?;
        }
        match by_id.into_keys().next() {
            Some(id) => Err(BuildError::NotPlanned(id)),
            None => Ok(manager),
        }
    }

    /// Makes `model` in its place, before the machine runs or while it does. The windows of a device on the
    /// board's bus are where they were planned, and so is the configuration space of a function; the rest of
    /// a function's windows are where the guest puts them, and on a PC it finds them set to where they were planned.
    ///
    /// # Errors
    /// [`BuildError`]; nothing is left of the device then.
    pub fn plug(&self, placed: &Placed, model: &dyn Model) -> Result<(), BuildError> {
        let id = &placed.id;
        let host = SlotHost { placed, manager: self, bells: RefCell::default() };
        let built = model.build(&placed.slot, &host);
        let device = built.map_err(|source| BuildError::Host { id: id.clone(), source })?;
        let bells = host.bells.into_inner();
        let mut table = lock(&self.table);
        if table.devices.values().any(|plugged| plugged.id == *id) {
            return Err(BuildError::Twice(id.clone()));
        }
        let owner = Owner(table.next);
        table.next += 1;
        let windows = Windows::new(owner, Arc::clone(&device), placed, bells);
        let is_function = placed.function.is_some();
        let mut plugged = Plugged { id: id.clone(), device, is_function, windows };
        let fixed: Vec<_> = plugged.windows.planned().take_while(|(n, ..)| *n == 0 || !is_function).collect();
        if is_function
            && self.decode.is_of_a_pc()
            && let Needs::Pci { bars } = model.request().needs
        {
            let planned: Vec<_> = plugged.windows.planned().skip(1).map(|(.., range)| range).collect();
            set_bars(&mut *plugged.lock(), &bars, planned.into_iter());
        }
        for (number, _, range) in fixed {
            if let Err(source) = self.put_up(&mut plugged, number, range) {
                plugged.off_the_bus(&self.buses);
                return Err(BuildError::Plug { id: id.clone(), source });
            }
        }
        self.follow(&mut plugged);
        self.show(owner, &plugged);
        table.devices.insert(owner, plugged);
        Ok(())
    }

    /// Takes a device out of the machine: no new access finds it, all its work has ended, and what it had of
    /// the host goes with it. That is when this returns, or when a vCPU that had found it before comes back.
    ///
    /// # Errors
    /// [`NotThere`] if no device is called `id`.
    pub fn unplug(&self, id: &str) -> Result<(), NotThere> {
        let mut table = lock(&self.table);
        let owner = table.devices.iter().find(|(_, plugged)| plugged.id == id).map(|(owner, _)| *owner);
        let plugged = owner.and_then(|owner| Some((owner, table.devices.remove(&owner)?)));
        let (owner, mut plugged) = plugged.ok_or_else(|| NotThere(id.into()))?;
        plugged.off_the_bus(&self.buses);
        lock(&self.shown).remove(&owner);
        // Ending its work may take long, and other devices are moved meanwhile.
        drop(table);
        plugged.lock().reset();
        Ok(())
    }

    /// Reads as ones where no single window holds the whole access. True if a device answered.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        self.buses.memory.read(address, data)
    }

    pub fn write(&self, address: u64, data: &[u8]) -> Outcome {
        self.written(self.buses.memory.write(address, data))
    }

    /// As [`DeviceManager::read`], of I/O ports.
    pub fn read_port(&self, port: u16, data: &mut [u8]) -> bool {
        match self.config(port, data.len()) {
            None => self.buses.ports.read(port.into(), data),
            Some((ports, Reached::Address)) => {
                data.copy_from_slice(&ports.address().to_le_bytes());
                true
            }
            Some((_, Reached::Function(address))) => self.read(address, data),
            Some((_, Reached::Nothing)) => {
                data.fill(u8::MAX);
                false
            }
        }
    }

    /// As [`DeviceManager::write`], of I/O ports.
    pub fn write_port(&self, port: u16, data: &[u8]) -> Outcome {
        match self.config(port, data.len()) {
            None => self.written(self.buses.ports.write(port.into(), data)),
            Some((ports, Reached::Address)) => {
                ports.set_address(data);
                Outcome::Done
            }
            Some((_, Reached::Function(address))) => self.write(address, data),
            Some((_, Reached::Nothing)) => Outcome::Missed,
        }
    }

    /// What of configuration space an access reaches by ports. `None`: it is none of that.
    fn config(&self, port: u16, len: usize) -> Option<(&ConfigPorts, Reached)> {
        let ports = self.config_ports.as_ref()?;
        Some((ports, ports.reached(port, len)?))
    }

    fn written(&self, written: Option<Written>) -> Outcome {
        let Some(written) = written else { return Outcome::Missed };
        match written.effect {
            Effect::None => Outcome::Done,
            Effect::PowerOff => Outcome::PowerOff,
            Effect::Reset => Outcome::Reset,
            Effect::Crash => Outcome::Crash,
            Effect::Remap => {
                // One that was unplugged meanwhile has no windows to move.
                if let Some(plugged) = lock(&self.table).devices.get_mut(&written.owner) {
                    self.follow(plugged);
                    self.show(written.owner, plugged);
                }
                Outcome::Done
            }
        }
    }

    fn show(&self, owner: Owner, plugged: &Plugged) {
        let up = plugged.windows.up();
        let up = up.map(|(window, space, range)| Decoded { id: plugged.id.clone(), window, space, range });
        let all = up.collect();
        lock(&self.shown).insert(owner, all);
    }

    /// Every window that is on a bus, that of memory first, lowest first. Waits for no device.
    pub fn decoded(&self) -> Vec<Decoded> {
        let mut all: Vec<Decoded> = lock(&self.shown).values().flatten().cloned().collect();
        all.sort_by_key(|decoded| (decoded.space == Space::Ports, decoded.range.first()));
        all
    }

    /// Stops every device's work; their threads have ended when this returns.
    pub fn stop(&self) {
        let devices: Vec<Shared> =
            lock(&self.table).devices.values().map(|plugged| Arc::clone(&plugged.device)).collect();
        for device in devices {
            lock(&*device).reset();
        }
    }

    /// Puts the windows of a function where the guest wants them now, as far as the plan and what is there
    /// allow; a window that cannot be there is nowhere. Of two at one place, the one that was there stays, and
    /// the other one comes only when its own function is moved again after that.
    fn follow(&self, plugged: &mut Plugged) {
        if !plugged.is_function {
            return;
        }
        // Asked while we hold the table: of two vCPUs that race, the later one here sees what both wrote.
        let places = plugged.lock().places();
        // What the device does not speak of is not decoded.
        let places = places.into_iter().chain(iter::repeat(None));
        let mut wanted = Vec::new();
        for ((number, space, planned), place) in plugged.windows.planned().skip(1).zip(places) {
            let range = place.and_then(|place| {
                let range = self.decode.range(space, planned, place);
                range.map_err(|why| self.refuse(&plugged.id, number, place, &why)).ok()
            });
            wanted.push((number, range));
        }
        // All that move are taken down before any is put up, so that two can change places.
        for (number, range) in &wanted {
            if plugged.windows.range(*number) != *range {
                plugged.windows.take_down(*number, &self.buses);
            }
        }
        for (number, range) in wanted {
            let Some(range) = range.filter(|_| plugged.windows.range(number).is_none()) else { continue };
            if let Err(why) = self.put_up(plugged, number, range) {
                self.refuse(&plugged.id, number, range.first(), &why);
            }
        }
    }

    fn put_up(&self, plugged: &mut Plugged, number: u8, range: AddressRange) -> Result<(), BusError> {
        let refused = plugged.windows.put_up(number, range, &self.buses, &*self.host)?;
        if let Some(why) = refused
            && !self.told_of_doorbells.swap(true, Ordering::Relaxed)
        {
            tracing::info!("doorbells of {} cost an exit each, as the host refused one: {why}", plugged.id);
        }
        Ok(())
    }

    fn refuse(&self, id: &str, window: u8, place: u64, why: &dyn Display) {
        let count = self.refused.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if count.is_power_of_two() {
            tracing::debug!(
                "the guest put window {window} of {id} at {place:#x}, and {why}; it is off ({count} so far)"
            );
        }
    }
}

impl Plugged {
    fn lock(&self) -> MutexGuard<'_, dyn Device + 'static> {
        lock(&*self.device)
    }

    /// The configuration space goes first: then no new access moves the rest.
    fn off_the_bus(&mut self, buses: &Buses) {
        let numbers: Vec<u8> = self.windows.up().map(|(number, ..)| number).collect();
        for number in numbers {
            self.windows.take_down(number, buses);
        }
    }
}

/// The machine as one device sees it.
struct SlotHost<'a> {
    placed: &'a Placed,
    manager: &'a DeviceManager,
    bells: RefCell<Vec<Bell>>,
}

impl Host for SlotHost<'_> {
    fn memory(&self) -> GuestMemory {
        self.manager.host.memory()
    }

    fn pa_bits(&self) -> PaBits {
        self.manager.host.pa_bits()
    }

    fn irq(&self, pin: IrqPin, trigger: Trigger) -> Result<IrqLine, HostError> {
        match trigger {
            Trigger::Level => self.manager.levels.line(pin, &*self.manager.host),
            Trigger::Edge => self.manager.host.irq(pin, trigger),
        }
    }

    fn message(&self) -> Result<Option<MsiVector>, HostError> {
        match self.placed.function {
            Some(number) => self.manager.host.message(u16::from(number) << 3),
            None => Ok(None),
        }
    }

    fn doorbell(&self, at: Doorbell, event: &EventFd) -> Result<(), HostError> {
        let ours = event.try_clone().map_err(|source| HostError { wanted: "an event".into(), source })?;
        self.bells.borrow_mut().push(Bell { at, event: Arc::new(ours) });
        Ok(())
    }
}

/// A device that panicked has ended the program: there is no half-dead machine to protect.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
