use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use ambit_bus::bench::BenchHost;
use ambit_bus::{Device, Effect, Host, HostError, Model, Needs, Offset, Request, Shared, Slot, share};
use ambit_resources::AddressRange;
use tempfile::TempDir;

use super::*;
use crate::config::{Config, settle};
use crate::models;

/// A machine of this program, whose interrupts and doorbells are plain values.
struct Bench {
    desk: TempDir,
    host: Arc<BenchHost>,
    controller: Controller<'static>,
}

impl Bench {
    fn new() -> Self {
        Self::with("")
    }

    /// A disk `root` on PCI, and what else `more` says.
    fn with(more: &str) -> Self {
        let desk = TempDir::new().unwrap();
        let root = image(&desk, "root.img");
        let text = format!(
            "memory = '64M'\nkernel = '{0}'\n{more}\n[[disks]]\npath = '{0}'\nid = 'root'\nreadonly = true\n\
             transport = 'pci'",
            root.display()
        );
        let config: Config = crate::config::parse(&text, Path::new("guest.toml")).unwrap();
        let native: &'static _ = Box::leak(Box::new(ambit_aarch64::native()));
        let settings = settle(config, &[native], None).unwrap();
        let files = models::open(&settings).unwrap();
        let plan = models::plan(&settings, None).unwrap();
        let ram: Vec<AddressRange> = plan.ram().collect();
        let host = Arc::new(BenchHost::with_ram(&ram, plan.width.bits));
        let made = models::make(&settings, &plan, files.disks, |_: &[u8]| {}).unwrap();
        let backplane: Arc<BenchHost> = Arc::clone(&host);
        let devices = Arc::new(DeviceManager::apply(&plan, &made.all, backplane).unwrap());
        let controller = Controller::new(devices, plan, settings, files.seen);
        Self { desk, host, controller }
    }

    fn image(&self, name: &str) -> PathBuf {
        image(&self.desk, name)
    }

    fn ask(&self, line: &str) -> String {
        let done = Action::read(line.as_bytes()).and_then(|action| self.controller.act(action));
        done.unwrap_or_else(|error| error.answer())
    }

    fn plan(&self) -> Plan {
        lock(&self.controller.paper).plan.clone()
    }
}

fn image(desk: &TempDir, name: &str) -> PathBuf {
    let path = desk.path().join(name);
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    path
}

/// How often this process has the file open.
fn opened(path: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    all.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to == path)).count()
}

#[test]
fn what_is_plugged_is_listed_and_what_is_unplugged_leaves_nothing() {
    let bench = Bench::new();
    let disk = bench.image("data");
    let (plan, list) = (bench.plan(), bench.ask("devices"));
    let held = bench.host.held();

    let mut said = Vec::new();
    for _ in 0..20 {
        for engine in ["sync", "io_uring"] {
            let answer = bench.ask(&format!("plug --disk {},id=data,engine={engine}", disk.display()));
            if answer.starts_with("error: ") && engine == "io_uring" {
                println!("NOT TESTED: io_uring: {answer}");
                continue;
            }
            assert_eq!((opened(&disk), bench.ask("devices").contains(&answer)), (1, true), "{answer}");
            said.push(answer);
            assert_eq!(bench.ask("unplug data"), "data");
            assert_eq!(opened(&disk), 0);
        }
    }

    assert!(said[0].starts_with("data virtio-blk pci 00:02.0 bar0=["), "{}", said[0]);
    assert!(said.iter().all(|other| *other == said[0]), "the same place each time: {said:?}");
    assert_eq!((bench.plan(), bench.ask("devices"), bench.host.held()), (plan, list, held));
}

#[test]
fn a_function_from_the_start_leaves_too_and_its_name_and_file_are_free_again() {
    let bench = Bench::new();
    let root = bench.desk.path().join("root.img");
    let said = bench.ask("devices");

    let left = bench.ask("unplug root");
    let came = bench.ask(&format!("plug --disk {},id=root", root.display()));

    assert!(said.contains("root virtio-blk pci 00:01.0 bar0=["), "{said}");
    assert_eq!(left, "root");
    assert!(came.starts_with("root virtio-blk pci 00:01.0 "), "{came}");
    assert_eq!(opened(&root), 1);
}

#[test]
fn every_kind_of_device_that_needs_nothing_of_the_host_comes_and_goes() {
    let bench = Bench::new();
    let log = bench.desk.path().join("log");
    let console = format!("plug --console to={},id=log", log.display());

    let came = [console.as_str(), "plug --rng id=more", "plug --rng", "plug --balloon transport=pci-legacy"]
        .map(|line| bench.ask(line));
    let left = ["log", "more", "rng1", "balloon0"].map(|id| bench.ask(&format!("unplug {id}")));

    let starts = [
        "log virtio-console pci 00:02.0 bar0=[",
        "more virtio-rng pci 00:03.0 bar0=[",
        "rng1 virtio-rng pci 00:04.0 bar0=[",
        "balloon0 virtio-balloon pci-legacy 00:05.0 bar0=[",
    ];
    for (said, start) in came.iter().zip(starts) {
        assert!(said.starts_with(start), "{said}");
    }
    assert_eq!(left, ["log", "more", "rng1", "balloon0"]);
    // What prints for a console ends by itself, as the file may take its time.
    let end = Instant::now() + Duration::from_secs(60);
    while opened(&log) > 0 {
        assert!(Instant::now() < end, "the console's file is still open");
        thread::yield_now();
    }
}

#[test]
fn what_cannot_be_plugged_is_refused_in_the_words_of_the_command_line_and_changes_nothing() {
    let bench = Bench::new();
    let data = bench.image("data").display().to_string();
    let root = bench.desk.path().join("root.img").display().to_string();
    let (plan, held) = (bench.plan(), bench.host.held());

    let cases = [
        (
            format!("plug --disk {data},transport=mmio"),
            "error: disk0 would be on mmio, and only PCI functions come and go while the guest runs; help: say \
             transport=pci or transport=pci-legacy, or leave it out"
                .to_owned(),
        ),
        (
            format!("plug --disk {data},id=root"),
            format!(
                "error: the disk {root} and the disk {data} are both called 'root'; give one of them another id"
            ),
        ),
        (
            format!("plug --disk {data},id=uart0"),
            "error: two parts of the machine are called 'uart0'; give the device another id".to_owned(),
        ),
        (
            "plug --disk /nonexistent,id=x".to_owned(),
            "error: disk 'x' (/nonexistent) does not exist".to_owned(),
        ),
        (
            format!("plug --disk {root},id=x"),
            format!(
                "error: disk 'root' ({root}) and disk 'x' ({root}) are the same file, and one of them may write it; \
                 help: give each its own copy; help: add readonly=on to both"
            ),
        ),
        (
            "plug --console on".to_owned(),
            "error: console0 has no keyboard to take: standard input and output belong to the consoles from the \
             start; help: give a file for what the guest says, to=FILE"
                .to_owned(),
        ),
        (
            "plug --net fd=100000,id=n".to_owned(),
            "error: net 'n': file descriptor 100000 is not open; start this program with a tap open as that number \
             (100000<>/dev/net/tun, attached by TUNSETIFF), or give the name of a tap; cause: Bad file descriptor (os \
             error 9)"
                .to_owned(),
        ),
    ];
    for (line, expected) in cases {
        assert_eq!(bench.ask(&line), expected);
    }

    assert_eq!((bench.plan(), bench.host.held()), (plan, held));
    assert_eq!(opened(Path::new(&data)), 0);
}

#[test]
fn only_functions_that_are_there_leave() {
    let bench = Bench::new();
    let plan = bench.plan();

    let said = ["nobody", "uart0", "rng0", BRIDGE].map(|id| bench.ask(&format!("unplug {id}")));

    assert_eq!(
        said,
        [
            "error: there is no device nobody; help: 'devices' lists those that are there",
            "error: uart0 is on mmio and stays: only PCI functions come and go while the guest runs",
            "error: rng0 is on mmio and stays: only PCI functions come and go while the guest runs",
            "error: pci.bridge is the host bridge, which PCI is not without",
        ]
    );
    assert_eq!(bench.plan(), plan);
}

#[test]
fn a_full_bus_says_so_and_takes_more_when_one_has_left() {
    let bench = Bench::new();
    for number in 2..=31 {
        let said = bench.ask("plug --rng");
        assert!(said.contains(&format!(" 00:{number:02x}.0 ")), "{said}");
    }

    let full = bench.ask("plug --rng id=more");
    bench.ask("unplug rng7");
    let came = bench.ask("plug --rng id=more");

    assert_eq!(
        full,
        "error: more wants a place on PCI bus 0, and all 31 are taken; help: unplug another one first"
    );
    assert!(came.starts_with("more virtio-rng pci 00:08.0 "), "{came}");
}

#[test]
fn a_machine_without_pci_says_how_to_have_it() {
    let desk = TempDir::new().unwrap();
    let kernel = image(&desk, "kernel");
    let config = Config { kernel: Some(kernel), pci: Some("off".parse().unwrap()), ..Config::default() };
    let native: &'static _ = Box::leak(Box::new(ambit_aarch64::native()));
    let settings = settle(config, &[native], None).unwrap();
    let plan = models::plan(&settings, None).unwrap();
    let devices = Arc::new(DeviceManager::new(&plan, Arc::new(BenchHost::new(1 << 20))));
    let controller = Controller::new(devices, plan, settings, Seen::default());

    let refused = Action::read(b"plug --rng id=x").and_then(|action| controller.act(action));

    assert_eq!(
        refused.unwrap_err().answer(),
        "error: x wants PCI, and this machine has none; help: start the machine with --pci on, on a board that \
         has PCI"
    );
}

/// A function whose work ends when the test says so.
#[derive(Debug)]
struct Hanging(Mutex<Option<Receiver<()>>>);

struct HangingDevice(Option<Receiver<()>>);

impl Model for Hanging {
    fn request(&self) -> Request {
        Request {
            id: "hanging".into(),
            kind: "toy".into(),
            needs: Needs::Pci { bars: Vec::new() },
            description: Arc::default(),
            queue_reach: None,
        }
    }

    fn build(&self, _: &Slot, _: &dyn Host) -> Result<Shared, HostError> {
        Ok(share(HangingDevice(lock(&self.0).take())))
    }
}

impl Device for HangingDevice {
    fn read(&mut self, _: Offset, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _: Offset, _: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        if let Some(end) = self.0.take() {
            end.recv().unwrap();
        }
    }
}

// F-08
#[test]
fn a_function_whose_work_does_not_end_keeps_its_place_until_it_has_and_holds_up_no_list() {
    let bench = Bench::new();
    let (end, ends) = channel();
    let model = Hanging(Mutex::new(Some(ends)));
    let placed = lock(&bench.controller.paper).plan.add(&model.request()).unwrap().clone();
    bench.controller.devices.plug(&placed, &model).unwrap();
    let ecam = placed.slot.windows[0].first();

    thread::scope(|scope| {
        let unplugged = scope.spawn(|| bench.ask("unplug hanging"));
        // No access finds it any more, though its work goes on.
        while bench.controller.devices.read(ecam, &mut [0; 4]) {
            thread::yield_now();
        }

        let (list, finished) = (bench.ask("devices"), unplugged.is_finished());
        end.send(()).unwrap();

        assert!(list.contains("hanging toy pci 00:02.0"), "{list}");
        assert!(!finished);
        assert_eq!(unplugged.join().unwrap(), "hanging");
    });

    assert!(bench.ask("plug --rng id=next").starts_with("next virtio-rng pci 00:02.0 "));
}
