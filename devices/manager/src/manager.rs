//! Devices made where the plan says, and plugged.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use ambit_bus::{Bus, BusError, Host, HostError, Model, Shared};

use crate::Plan;

/// Every device of a running machine.
pub struct DeviceManager {
    bus: Arc<Bus>,
    // By id.
    devices: BTreeMap<String, Shared>,
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
}

impl DeviceManager {
    /// Makes every device of `plan` from the model with its id.
    ///
    /// # Errors
    /// [`BuildError`] for the first one that fails. Those already made are dropped, and with them what
    /// they had of the host.
    pub fn apply(plan: &Plan, models: &[Arc<dyn Model>], host: &dyn Host) -> Result<Self, BuildError> {
        let mut by_id: BTreeMap<String, &Arc<dyn Model>> =
            models.iter().map(|model| (model.request().id, model)).collect();
        let mut bus = Bus::default();
        let mut devices = BTreeMap::new();
        for placed in &plan.devices {
            let id = &placed.id;
            let model = by_id.remove(id).ok_or_else(|| BuildError::NoModel(id.clone()))?;
            let device = model
                .build(&placed.slot, host)
                .map_err(|source| BuildError::Host { id: id.clone(), source })?;
            for (number, window) in (0..).zip(&placed.slot.windows) {
                bus.plug(*window, Arc::clone(&device), number)
                    .map_err(|source| BuildError::Plug { id: id.clone(), source })?;
            }
            devices.insert(id.clone(), device);
        }
        match by_id.into_keys().next() {
            Some(id) => Err(BuildError::NotPlanned(id)),
            None => Ok(Self { bus: Arc::new(bus), devices }),
        }
    }

    pub fn bus(&self) -> Arc<Bus> {
        Arc::clone(&self.bus)
    }

    /// Stops every device's work; their threads have ended when this returns.
    pub fn stop(&self) {
        for device in self.devices.values() {
            device.lock().unwrap_or_else(PoisonError::into_inner).reset();
        }
    }
}
