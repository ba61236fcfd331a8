//! The host's end of a guest's network.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A tap interface with a static address, removed when dropped. Making one takes root.
pub struct Tap {
    pub name: String,
    /// The third byte of the network 10.77.x.0/24, unlike that of any other tap of this run.
    network: u32,
}

impl Tap {
    #[expect(clippy::new_without_default, reason = "it makes an interface")]
    pub fn new() -> Self {
        Self::made(&[])
    }

    /// One for several queues.
    pub fn of_queues() -> Self {
        Self::made(&["multi_queue"])
    }

    fn made(how: &[&str]) -> Self {
        let tap = Self::unmade();
        ip(&[&["tuntap", "add", &tap.name, "mode", "tap"], how].concat());
        ip(&["address", "add", &format!("{}/24", tap.host()), "dev", &tap.name]);
        tap.set("up");
        tap
    }

    /// One that only this user may use, besides those who may do everything to networks.
    pub fn of_user(id: u32) -> Self {
        let tap = Self::unmade();
        ip(&["tuntap", "add", &tap.name, "mode", "tap", "user", &id.to_string()]);
        tap
    }

    /// Only a name that no interface has: the monitor makes it, and it goes with the monitor.
    pub fn unmade() -> Self {
        let network = COUNT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("ambit{}-{network}", std::process::id()), network }
    }

    /// Takes the interface `up` or `down`.
    pub fn set(&self, state: &str) {
        ip(&["link", "set", &self.name, state]);
    }

    pub fn delete(&self) {
        ip(&["link", "delete", &self.name]);
    }

    pub fn exists(&self) -> bool {
        Path::new("/sys/class/net").join(&self.name).exists()
    }

    /// The address of the host's end.
    pub fn host(&self) -> String {
        format!("10.77.{}.1", self.network)
    }

    /// The address that the guest is given with `ambit.ip=` and the length of its prefix.
    pub fn guest(&self) -> String {
        format!("10.77.{}.2", self.network)
    }

    /// The word of the guest's command line that gives it its address.
    pub fn cmdline(&self) -> String {
        format!("ambit.ip={}/24", self.guest())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.exists() {
            let _ = Command::new("ip").args(["link", "delete", &self.name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("the host has iproute2");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}", arguments.join(" "));
}
