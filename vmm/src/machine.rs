//! A machine made from its plan: built, started, stopped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ambit_bus::Model;
use ambit_device_manager::{BootImage, BuildError, DeviceManager, Plan};
use ambit_memory::MapError;
use ambit_resources::AddressRange;
use vm_memory::{Bytes, GuestAddress};

use crate::events::{Ending, Endings};
use crate::kvm::{KvmError, Vm};
use crate::timings::{Phase, Timings};
use crate::vcpu::{Stop, Vcpu, allow_interruption};

/// Why there is no running machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error(transparent)]
    Memory(#[from] MapError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Device(#[from] BuildError),
    #[error("the {name} could not be put into guest memory at {address:#x}")]
    Load { name: &'static str, address: u64, source: vm_memory::GuestMemoryError },
    #[error("the host makes no more threads; raise the limit on processes (ulimit -u, the pids cgroup)")]
    Thread(#[source] io::Error),
}

impl MachineError {
    /// True if the host lacks something, false if something went wrong.
    pub fn is_lack(&self) -> bool {
        match self {
            Self::Memory(_) | Self::Thread(_) => true,
            Self::Kvm(error) => error.is_lack(),
            // Nothing of the machine ran yet.
            Self::Device(error) => matches!(error, BuildError::Host { .. }),
            Self::Load { .. } => false,
        }
    }
}

/// A machine whose vCPUs are ready to run.
pub struct Machine {
    vm: Vm,
    devices: Arc<DeviceManager>,
}

/// A machine whose vCPUs run. Dropping it stops them, then every device: no thread of the machine is
/// left after that.
pub struct Running {
    vcpus: Vec<Vcpu>,
    stopping: Arc<AtomicBool>,
    devices: Arc<DeviceManager>,
    // Holds the RAM that the vCPUs run in.
    _vm: Vm,
}

impl Machine {
    /// Makes what `plan` says, with `image` in its RAM and each of `models` in its slot.
    ///
    /// # Errors
    /// [`MachineError`] for the first step that fails. What was made is undone.
    pub fn build(
        plan: &Plan,
        image: &BootImage<'_>,
        models: &[Arc<dyn Model>],
        timings: &Timings,
    ) -> Result<Self, MachineError> {
        let ram: Vec<AddressRange> = plan.ram().collect();
        let memory = ambit_memory::map(&ram)?;
        let vm = Vm::create(plan, memory.clone())?;
        timings.reached(Phase::Vm);
        for piece in &image.pieces {
            let at = GuestAddress(piece.address);
            memory.write_slice(&piece.bytes, at).map_err(|source| MachineError::Load {
                name: piece.name,
                address: piece.address,
                source,
            })?;
        }
        let devices = Arc::new(DeviceManager::apply(plan, models, Arc::new(vm.host()))?);
        vm.start_at(image)?;
        Ok(Self { vm, devices })
    }

    /// Starts every vCPU. What ends the machine is told to `endings`.
    ///
    /// # Errors
    /// [`MachineError::Thread`]; the vCPUs that had started are stopped.
    pub fn start(mut self, endings: &Endings, timings: &Timings) -> Result<Running, MachineError> {
        allow_interruption().map_err(MachineError::Thread)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let fds = self.vm.take_vcpus();
        let mut running = Running { vcpus: Vec::new(), stopping, devices: self.devices, _vm: self.vm };
        timings.reached(Phase::FirstInstruction);
        for (id, fd) in (0..).zip(fds) {
            let endings = endings.clone();
            let report = Box::new(move |stop: Stop| endings.tell(Ending::Machine(stop)));
            let devices = Arc::clone(&running.devices);
            let vcpu = Vcpu::start(id, fd, devices, Arc::clone(&running.stopping), report);
            running.vcpus.push(vcpu.map_err(MachineError::Thread)?);
        }
        Ok(running)
    }
}

impl Running {
    /// For those who plug and unplug.
    pub fn devices(&self) -> Arc<DeviceManager> {
        Arc::clone(&self.devices)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // All of them before the first is waited for: there may be a thousand.
        self.vcpus.iter().for_each(Vcpu::interrupt);
        for vcpu in self.vcpus.drain(..) {
            vcpu.stop();
        }
        self.devices.stop();
    }
}
