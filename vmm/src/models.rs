//! From the user's words to models of devices. The only place, besides snapshots, that opens files.

mod files;

use ambit_bus::{Description, Needs, Request, Trigger};
use ambit_device_manager::MachineConfig;

use crate::config::Settings;

pub use files::{Files, FilesError, open};

/// The machine to plan. No file is opened.
pub fn machine_config(settings: &Settings<'_>) -> MachineConfig {
    // What is always there comes first, so that disks and nets do not move it.
    let rng = settings.rng.iter().map(|id| virtio(id, "virtio-rng"));
    let disks = settings.disks.iter().map(|disk| virtio(&disk.id, "virtio-blk"));
    let nets = settings.nets.iter().map(|net| virtio(&net.id, "virtio-net"));
    MachineConfig {
        cpus: settings.cpus,
        memory: settings.memory,
        devices: rng.chain(disks).chain(nets).collect(),
    }
}

fn virtio(id: &str, kind: &str) -> Request {
    Request {
        id: id.into(),
        kind: kind.into(),
        needs: Needs { registers: 0x200, irq: Some(Trigger::Edge) },
        description: Description::default(),
    }
}
