//! Does what is asked of a running machine, by the steps that made it: planned, then built.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ambit_device_manager::pci::BRIDGE;
use ambit_device_manager::{BuildError, Decoded, DeviceManager, NotThere, Placed, Plan};

use super::action::{Action, ActionError, HELP};
use crate::config::{ConsoleTo, Device, Settings, check_names};
use crate::models::{self, Seen};

/// A machine that runs, and the plan that it is made by.
///
/// Lock order: `changes`, then `paper`; nothing waits while it holds the paper.
pub struct Controller<'b> {
    devices: Arc<DeviceManager>,
    /// Held by whoever changes the machine, so that one does after the other.
    changes: Mutex<()>,
    paper: Mutex<Paper<'b>>,
}

/// What there is, as far as it is written down.
struct Paper<'b> {
    plan: Plan,
    /// The machine as it began, without what left since; then each device that came.
    settings: Vec<Settings<'b>>,
    disks: Seen,
}

impl<'b> Controller<'b> {
    /// Of the machine that `plan` describes and `settings` wanted, whose disks are `disks`.
    pub fn new(devices: Arc<DeviceManager>, plan: Plan, settings: Settings<'b>, disks: Seen) -> Self {
        let paper = Paper { plan, settings: vec![settings], disks };
        Self { devices, changes: Mutex::default(), paper: Mutex::new(paper) }
    }

    /// Does it, and says what came of it. Where it fails, all is as before.
    ///
    /// # Errors
    /// [`ActionError`].
    pub fn act(&self, action: Action) -> Result<String, ActionError> {
        match action {
            Action::Help => Ok(HELP.into()),
            Action::Devices => Ok(self.list()),
            Action::Plug(device) => self.plug(*device),
            Action::Unplug(id) => self.unplug(&id),
        }
    }

    fn list(&self) -> String {
        let decoded = self.devices.decoded();
        let devices: Vec<String> =
            lock(&self.paper).plan.devices.iter().map(|device| line(device, &decoded)).collect();
        devices.join("; ")
    }

    fn plug(&self, device: Device) -> Result<String, ActionError> {
        let _changes = lock(&self.changes);
        let (one, mut plan, mut disks) = {
            let paper = lock(&self.paper);
            let machine = paper.settings.first().expect("what the machine began with stays");
            let one = device.settle(machine, |id| paper.has(id))?;
            let all: Vec<&Settings<'_>> = paper.settings.iter().chain([&one]).collect();
            check_names(&all)?;
            (one, paper.plan.clone(), paper.disks.clone())
        };
        if let Some(console) = one.console.as_ref().filter(|console| console.to == ConsoleTo::Stdio) {
            return Err(ActionError::Stdio { id: console.id.clone() });
        }
        let request = models::machine_config(&one).devices.pop().expect("it is settings of one device");
        let over = models::transport(&request);
        if !over.is_pci() {
            return Err(ActionError::Transport { id: request.id, over });
        }
        let placed = plan.add(&request)?.clone();
        let files = models::open_disks(&one.disks, &mut disks)?;
        let made = models::make_devices(&one, files, |_: &[u8]| {})?;
        let model = made.all.first().ok_or_else(|| BuildError::NoModel(placed.id.clone()))?;
        self.devices.plug(&placed, &**model)?;
        let mut paper = lock(&self.paper);
        paper.plan = plan;
        paper.settings.push(one);
        paper.disks = disks;
        Ok(line(&placed, &[]))
    }

    fn unplug(&self, id: &str) -> Result<String, ActionError> {
        let _changes = lock(&self.changes);
        let placed = lock(&self.paper).plan.device(id).cloned().ok_or_else(|| NotThere(id.into()))?;
        match placed.function {
            None => return Err(ActionError::Stays { id: placed.id, over: placed.transport }),
            Some(_) if placed.id == BRIDGE => return Err(ActionError::Bridge(placed.id)),
            Some(_) => {}
        }
        // Its place is not given to another one before it has left.
        self.devices.unplug(id)?;
        let mut paper = lock(&self.paper);
        paper.plan.remove(id);
        paper.settings.iter_mut().for_each(|settings| settings.forget(id));
        let mut first = true;
        paper.settings.retain(|settings| std::mem::take(&mut first) || !settings.has_no_device());
        paper.disks.forget(id);
        Ok(placed.id)
    }
}

impl Paper<'_> {
    fn has(&self, id: &str) -> bool {
        self.plan.device(id).is_some()
    }
}

/// A device and where it is. BARs are where the guest has them now, if it has them anywhere, and else where the
/// planner found room.
fn line(device: &Placed, decoded: &[Decoded]) -> String {
    let mut line = format!("{} {} {}", device.id, device.kind, device.transport);
    let windows = device.slot.windows.iter();
    match device.function {
        None => windows.for_each(|window| put(&mut line, format_args!(" {window}"))),
        Some(function) => {
            put(&mut line, format_args!(" 00:{function:02x}.0"));
            for (number, planned) in (1u8..).zip(windows.skip(1)) {
                let is_it = |it: &&Decoded| it.id == device.id && it.window == number;
                let window = decoded.iter().find(is_it).map_or(*planned, |it| it.range);
                put(&mut line, format_args!(" bar{}={window}", number - 1));
            }
        }
    }
    line
}

fn put(line: &mut String, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("a String takes every line");
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
