//! What a monitor and its vCPUs are at, for people: told of a guest that a test waited for in vain, before it is killed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

const KVM: &str = "/sys/kernel/debug/kvm";
const TRACING: &str = "/sys/kernel/tracing/instances";
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(1);
/// How many of the last things that happened in KVM are told.
const EVENTS: usize = 40;

/// Each thread with where the kernel has it and the time it took, each count of KVM's that changed in a second, and the
/// last of what KVM's tracepoints said in it: where the guest was, and why it left.
pub fn tell(pid: u32) -> String {
    let (threads, counts) = (threads(pid), counts(pid));
    let trace = Trace::begin(pid, &threads);
    sleep(WATCHED);
    let mut told = String::new();
    for (before, after) in threads.iter().zip(self::threads(pid)) {
        let ticks = after.ticks.saturating_sub(before.ticks);
        let Thread { name, id, state, place, .. } = after;
        let _ = writeln!(told, "thread {id} {name}: {state}, in {place}, {ticks} ticks of CPU in a second");
    }
    for ((name, before), (_, after)) in counts.iter().zip(self::counts(pid)) {
        if after != 0 {
            let _ = writeln!(told, "{name}: {after}, {} of them in a second", after.saturating_sub(*before));
        }
    }
    told + &trace.map_or_else(|| "KVM's tracepoints cannot be read here\n".to_owned(), Trace::end)
}

struct Thread {
    id: String,
    name: String,
    state: String,
    place: String,
    ticks: u64,
}

fn threads(pid: u32) -> Vec<Thread> {
    let paths = entries(&Path::new("/proc").join(pid.to_string()).join("task"));
    paths.iter().map(|path| thread(path)).collect()
}

fn thread(path: &Path) -> Thread {
    let read = |file| fs::read_to_string(path.join(file)).unwrap_or_default();
    let stat = read("stat");
    // The name before may have anything in it. proc(5): the state is field 3, the times are 14 and 15.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    Thread {
        id: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        name: read("comm").trim().to_owned(),
        state: field(3).to_owned(),
        place: read("wchan"),
        ticks: [14, 15].iter().filter_map(|number| field(*number).parse::<u64>().ok()).sum(),
    }
}

/// What KVM counts of the machine and of each vCPU, by name.
fn counts(pid: u32) -> Vec<(String, u64)> {
    let machine = format!("{pid}-");
    let of_machine =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&machine));
    let mut places: Vec<PathBuf> = entries(Path::new(KVM)).into_iter().filter(of_machine).collect();
    places.extend(places.clone().iter().flat_map(|path| entries(path)).filter(|path| path.is_dir()));
    let files = places.iter().flat_map(|path| entries(path));
    let count = |path: PathBuf| {
        Some((path.display().to_string(), fs::read_to_string(&path).ok()?.trim().parse().ok()?))
    };
    files.filter_map(count).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// A buffer of the kernel's own for what happens in KVM to the threads of one monitor.
struct Trace(PathBuf);

impl Trace {
    fn begin(pid: u32, threads: &[Thread]) -> Option<Self> {
        let place = Path::new(TRACING).join(format!("ambit-{pid}"));
        fs::create_dir(&place).ok()?;
        let trace = Self(place);
        let threads: Vec<&str> = threads.iter().map(|thread| thread.id.as_str()).collect();
        fs::write(trace.0.join("set_event_pid"), threads.join(" ")).ok()?;
        fs::write(trace.0.join("events/kvm/enable"), "1").ok()?;
        Some(trace)
    }

    fn end(self) -> String {
        let _ = fs::write(self.0.join("events/kvm/enable"), "0");
        let text = fs::read_to_string(self.0.join("trace")).unwrap_or_default();
        let events: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let last = events.len().saturating_sub(EVENTS);
        format!(
            "{} events of KVM in a second, the last of them:\n{}\n",
            events.len(),
            events[last..].join("\n")
        )
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_is_told_by_its_name_and_state() {
        let told = tell(std::process::id());

        assert!(told.lines().any(|line| line.starts_with("thread ") && line.contains(": S, in ")), "{told}");
    }
}
