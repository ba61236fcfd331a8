//! Debian guests under real KVM. `cargo xtask test` builds this, puts it where KVM is, and runs it there.
//!
//! The emulated hosts differ in the width of guest physical addresses that their KVM has. A test in `on_every_host`
//! runs on all of them, one in `on_40_bits`, `on_44_bits` or `on_gicv2` on that one, one in `on_amd` on the one that is
//! x86_64, and any other on the one with 48.

mod attacks;
mod bad_input;
mod boards;
mod boot;
mod console;
mod disks;
mod endings;
mod hotplug;
mod links;
mod memory;
mod network;
mod on_amd;
mod on_every_host;
mod plan;
mod stray;
mod transports;
mod vcpus;
mod vendor;
mod verify;
mod virtio_devices;
