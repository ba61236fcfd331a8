//! What a guest costs its host: time of processors, and exits.

use std::fs;
use std::path::{Path, PathBuf};

/// So far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Of all threads of the monitor, with the guest in them, in ticks of 10 ms.
    pub all: u64,
    /// Of those that are not a vCPU: what the devices take.
    pub devices: u64,
    /// Times that a vCPU left the guest, whoever served it.
    pub exits: u64,
    /// Of these, accesses that the monitor itself served.
    pub served: u64,
}

impl Cost {
    pub fn of(process: u32) -> Self {
        let root = PathBuf::from(format!("/proc/{process}"));
        let all = ticks(&root).expect("the monitor runs");
        let tasks = fs::read_dir(root.join("task")).expect("the monitor runs").flatten();
        let vcpus: u64 =
            tasks.filter_map(|task| is_vcpu(&task.path()).then(|| ticks(&task.path())).flatten()).sum();
        let of_kvm = |name| sum_of(process, name);
        Self {
            all,
            devices: all.saturating_sub(vcpus),
            exits: of_kvm("exits"),
            served: of_kvm("mmio_exit_user"),
        }
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            all: self.all.saturating_sub(before.all),
            devices: self.devices.saturating_sub(before.devices),
            exits: self.exits.saturating_sub(before.exits),
            served: self.served.saturating_sub(before.served),
        }
    }
}

/// As ambit or QEMU names the thread of a vCPU.
fn is_vcpu(task: &Path) -> bool {
    let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
    name.starts_with("vcpu") || name.starts_with("CPU ")
}

/// User and system time of a process, or of one thread.
fn ticks(of: &Path) -> Option<u64> {
    // After the name in brackets: user time is the 12th field, system time the 13th.
    let stat = fs::read_to_string(of.join("stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// A count that KVM keeps of the virtual machines of a process.
fn sum_of(process: u32, count: &str) -> u64 {
    let root = Path::new("/sys/kernel/debug/kvm");
    let machines = fs::read_dir(root).unwrap_or_else(|error| panic!("{}: {error}", root.display())).flatten();
    let ours =
        machines.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{process}-")));
    let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    ours.filter_map(|entry| read(entry.path().join(count))).sum()
}
