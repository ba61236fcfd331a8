//! One vCPU: one thread, one loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ambit_device_manager::{DeviceManager, Outcome};
use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::kvm::{self, KvmError, PortAccess, Step};

/// Why the machine, or one vCPU, stops running.
#[derive(Debug)]
pub enum Stop {
    PowerOff,
    Reset,
    /// The guest reported that it crashed.
    Crash,
    /// An access that KVM could not decode; the vCPU can go on.
    Undecoded,
    Failed(KvmError),
}

/// What a vCPU thread tells the machine when it ends by itself.
pub type Report = Box<dyn FnOnce(Stop) + Send>;

/// A running vCPU.
pub struct Vcpu {
    thread: JoinHandle<()>,
}

/// Makes `Vcpu::stop` able to interrupt a thread that is inside the kernel. Once per process.
///
/// # Errors
/// What `sigaction` says.
pub fn allow_interruption() -> Result<(), std::io::Error> {
    // The signal's only work is to end KVM_RUN with EINTR.
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing).map_err(Into::into)
}

impl Vcpu {
    /// # Errors
    /// If the host makes no more threads.
    pub fn start(
        id: u32,
        mut fd: VcpuFd,
        devices: Arc<DeviceManager>,
        stopping: Arc<AtomicBool>,
        report: Report,
    ) -> Result<Self, std::io::Error> {
        let work = move || {
            if let Some(stop) = run(id, &mut fd, &devices, &stopping) {
                report(stop);
            }
        };
        Ok(Self { thread: thread::Builder::new().name(format!("vcpu{id}")).spawn(work)? })
    }

    /// Has it leave the kernel, unless it is just about to enter it.
    pub fn interrupt(&self) {
        let _gone_already = self.thread.kill(SIGRTMIN());
    }

    /// Ends it; `stopping` was set before. Its thread has ended when this returns.
    pub fn stop(self) {
        // The signal is lost if it comes just before KVM_RUN, so it is sent until it is heard.
        while !self.thread.is_finished() {
            self.interrupt();
            thread::sleep(Duration::from_millis(1));
        }
        // A panic has ended the program already.
        let _ended = self.thread.join();
    }
}

fn run(id: u32, fd: &mut VcpuFd, devices: &DeviceManager, stopping: &AtomicBool) -> Option<Stop> {
    let mut misses = Misses::default();
    while !stopping.load(Ordering::Acquire) {
        let stop = match fd.run() {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => {
                kvm::port_accesses(fd, |access| handle_port(access, devices, &mut misses))
            }
            Ok(exit) => handle(exit, devices, &mut misses),
            Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => None,
            // An access without a decodable syndrome on a kernel that does not hand it over.
            Err(errno) if errno.errno() == libc::ENOSYS => Some(Stop::Undecoded),
            Err(errno) => Some(Stop::Failed(KvmError::new(Step::Run { id }, errno))),
        };
        match stop {
            None => {}
            Some(Stop::Undecoded) => {
                if let Err(errno) = kvm::inject_abort(fd) {
                    return Some(Stop::Failed(KvmError::new(Step::Run { id }, errno)));
                }
            }
            Some(Stop::Failed(KvmError::Stopped { why, .. })) => {
                let why = format!("{why}, {}", kvm::whereabouts(fd));
                return Some(Stop::Failed(KvmError::Stopped { id, why }));
            }
            other => return other,
        }
    }
    None
}

/// Accesses that reached nothing. A guest can make any number, so only some are logged.
#[derive(Default)]
struct Misses(u64);

impl Misses {
    fn count(&mut self, did: &str, address: u64, len: usize) {
        self.0 += 1;
        if self.0.is_power_of_two() {
            tracing::debug!(
                "the guest {did} {len} bytes at {address:#x}, where nothing is ({} so far)",
                self.0
            );
        }
    }
}

/// One exit. `None` lets the vCPU go on.
fn handle(exit: VcpuExit<'_>, devices: &DeviceManager, misses: &mut Misses) -> Option<Stop> {
    if let Some(stop) = kvm::after_run(&exit) {
        return Some(stop);
    }
    match exit {
        VcpuExit::MmioRead(address, data) => {
            if !devices.read(address, data) {
                misses.count("read", address, data.len());
            }
            None
        }
        VcpuExit::MmioWrite(address, data) => {
            let outcome = devices.write(address, data);
            if outcome == Outcome::Missed {
                misses.count("wrote", address, data.len());
            }
            stop_of(outcome)
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Some(Stop::PowerOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Some(Stop::Reset),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => Some(Stop::Crash),
        VcpuExit::Intr | VcpuExit::Hlt => None,
        // The thread knows its number and adds it.
        other => Some(Stop::Failed(KvmError::Stopped {
            id: 0,
            why: format!("{other:?} is not an exit Ambit knows"),
        })),
    }
}

/// One access to a port. `None` lets the vCPU go on.
fn handle_port(access: PortAccess<'_>, devices: &DeviceManager, misses: &mut Misses) -> Option<Stop> {
    match access {
        PortAccess::Read(port, data) => {
            if !devices.read_port(port, data) {
                misses.count("read port", port.into(), data.len());
            }
            None
        }
        PortAccess::Write(port, data) => {
            let outcome = devices.write_port(port, data);
            if outcome == Outcome::Missed {
                misses.count("wrote port", port.into(), data.len());
            }
            stop_of(outcome)
        }
    }
}

fn stop_of(outcome: Outcome) -> Option<Stop> {
    match outcome {
        Outcome::Done | Outcome::Missed => None,
        Outcome::PowerOff => Some(Stop::PowerOff),
        Outcome::Reset => Some(Stop::Reset),
        Outcome::Crash => Some(Stop::Crash),
    }
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::BenchHost;
    use ambit_bus::{Device, Effect, Host, HostError, Model, Offset, Request, Shared, Slot, share};
    use ambit_device_manager::{Board, HostFacts, MachineConfig};

    use super::*;
    use crate::toy::TOY;

    /// A machine without devices.
    fn devices() -> DeviceManager {
        let plan =
            ambit_device_manager::plan(&TOY, &MachineConfig::default(), &HostFacts::assumed()).unwrap();
        DeviceManager::new(&plan, Arc::new(BenchHost::new(0x1000)))
    }

    fn handled(exit: VcpuExit<'_>) -> Option<Stop> {
        handle(exit, &devices(), &mut Misses::default())
    }

    #[test]
    fn a_read_that_no_window_holds_gives_ones_and_the_vcpu_goes_on() {
        let mut data = [0; 4];

        let stop = handled(VcpuExit::MmioRead(0x1000, &mut data));

        assert!(stop.is_none());
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn a_write_that_no_window_holds_does_nothing_and_the_vcpu_goes_on() {
        assert!(handled(VcpuExit::MmioWrite(u64::MAX, &[1, 2, 3, 4])).is_none());
    }

    /// Every write wants an end.
    #[derive(Debug)]
    struct Switch(Effect);

    impl Device for Switch {
        fn read(&mut self, _: Offset, _: &mut [u8]) {}

        fn write(&mut self, _: Offset, _: &[u8]) -> Effect {
            self.0
        }

        fn reset(&mut self) {}
    }

    impl Model for Switch {
        fn request(&self) -> Request {
            TOY.fixtures().remove(0).request
        }

        fn build(&self, _: &Slot, _: &dyn Host) -> Result<Shared, HostError> {
            Ok(share(Self(self.0)))
        }
    }

    #[test]
    fn a_write_that_a_device_ends_the_machine_at_stops_the_vcpu() {
        let stops = [Effect::None, Effect::PowerOff, Effect::Reset].map(|effect| {
            let facts = HostFacts::assumed();
            let plan = ambit_device_manager::plan(&TOY, &MachineConfig::default(), &facts).unwrap();
            let models: [Arc<dyn Model>; 1] = [Arc::new(Switch(effect))];
            let devices = DeviceManager::apply(&plan, &models, Arc::new(BenchHost::new(0x1000))).unwrap();
            let address = plan.range("uart0").unwrap().first();
            handle(VcpuExit::MmioWrite(address, &[0]), &devices, &mut Misses::default())
        });

        assert!(matches!(stops, [None, Some(Stop::PowerOff), Some(Stop::Reset)]), "{stops:?}");
    }

    #[test]
    fn system_events_are_what_the_guest_asked_of_psci() {
        let stops = [KVM_SYSTEM_EVENT_SHUTDOWN, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_CRASH]
            .map(|event| handled(VcpuExit::SystemEvent(event, &[])));

        assert!(matches!(stops, [Some(Stop::PowerOff), Some(Stop::Reset), Some(Stop::Crash)]), "{stops:?}");
    }

    #[test]
    fn an_exit_nobody_knows_stops_the_machine_with_its_name() {
        let stop = handled(VcpuExit::InternalError);

        assert!(
            matches!(stop, Some(Stop::Failed(KvmError::Stopped { why, .. })) if why.contains("InternalError"))
        );
    }
}
