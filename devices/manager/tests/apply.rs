//! Devices are made where the plan says, from the models with their ids.

mod toy;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ambit_bus::bench::BenchHost;
use ambit_bus::{Device, Effect, Host, HostError, Model, Offset, Request, Shared, Slot, share};
use ambit_device_manager::{BuildError, DeviceManager, Plan};
use toy::{LOW, device, planned};

/// Reads as the byte it was made with, and counts its resets.
#[derive(Debug)]
struct Echo {
    id: &'static str,
    byte: u8,
    resets: Arc<AtomicUsize>,
    fails: bool,
}

struct EchoDevice {
    byte: u8,
    resets: Arc<AtomicUsize>,
}

impl Model for Echo {
    fn request(&self) -> Request {
        device(self.id)
    }

    fn build(&self, slot: &Slot, host: &dyn Host) -> Result<Shared, HostError> {
        if self.fails {
            let source = io::Error::from(io::ErrorKind::OutOfMemory);
            return Err(HostError { wanted: "a thread".into(), source });
        }
        if let Some((pin, trigger)) = slot.irq {
            host.irq(pin, trigger)?.pulse();
        }
        Ok(share(EchoDevice { byte: self.byte, resets: Arc::clone(&self.resets) }))
    }
}

impl Device for EchoDevice {
    fn read(&mut self, _: Offset, data: &mut [u8]) {
        data.fill(self.byte);
    }

    fn write(&mut self, _: Offset, _: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

fn echo(id: &'static str, byte: u8) -> Echo {
    Echo { id, byte, resets: Arc::default(), fails: false }
}

fn models(echoes: impl IntoIterator<Item = Echo>) -> Vec<Arc<dyn Model>> {
    echoes.into_iter().map(|echo| Arc::new(echo) as Arc<dyn Model>).collect()
}

fn plan_of(ids: &[&str]) -> Plan {
    planned(&LOW, ids.iter().map(|id| device(id)).collect()).unwrap()
}

fn bench() -> Arc<BenchHost> {
    Arc::new(BenchHost::new(4096))
}

fn refusal(plan: &Plan, models: &[Arc<dyn Model>]) -> String {
    let built: Result<DeviceManager, BuildError> = DeviceManager::apply(plan, models, bench());
    built.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_device_answers_where_its_id_was_placed_whatever_the_order_of_models() {
    let (plan, host) = (plan_of(&["a", "b"]), bench());
    let models = models([echo("b", 0xbb), echo("console", 0xcc), echo("a", 0xaa)]);

    let manager = DeviceManager::apply(&plan, &models, host).unwrap();

    for (id, byte) in [("a", 0xaa), ("b", 0xbb), ("console", 0xcc)] {
        let mut data = [0; 4];
        assert!(manager.read(plan.range(id).unwrap().first(), &mut data));
        assert_eq!(data, [byte; 4], "{id}");
    }
}

#[test]
fn a_device_gets_the_pin_of_its_slot() {
    let (plan, host) = (plan_of(&["a"]), bench());

    DeviceManager::apply(&plan, &models([echo("a", 0), echo("console", 0)]), host.clone()).unwrap();

    for placed in &plan.devices {
        let (pin, _) = placed.slot.irq.unwrap();
        assert_eq!(host.pin(pin).pulses(), 1, "{}", placed.id);
    }
}

#[test]
fn models_and_plan_that_do_not_match_are_refused_by_id() {
    assert_eq!(
        refusal(&plan_of(&["a"]), &models([echo("console", 0)])),
        "the plan has a device a that the configuration does not have"
    );
    assert_eq!(
        refusal(&plan_of(&[]), &models([echo("console", 0), echo("a", 0)])),
        "the configuration has a device a that the plan does not have"
    );
}

#[test]
fn a_device_that_cannot_be_made_is_named() {
    let broken = Echo { fails: true, ..echo("a", 0) };

    assert_eq!(
        refusal(&plan_of(&["a"]), &models([echo("console", 0), broken])),
        "device a cannot be made: a thread: out of memory"
    );
}

#[test]
fn stop_ends_every_devices_work() {
    let (console, a) = (echo("console", 0), echo("a", 0));
    let counts = [Arc::clone(&console.resets), Arc::clone(&a.resets)];
    let manager = DeviceManager::apply(&plan_of(&["a"]), &models([console, a]), bench()).unwrap();

    manager.stop();

    assert_eq!(counts.map(|count| count.load(Ordering::SeqCst)), [1, 1]);
}
