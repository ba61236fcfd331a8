//! How long planning takes: in this process, and as a program from exec to exit. Needs no KVM.

use std::sync::Arc;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ambit_bus::{Description, Needs, Property, Request, Trigger};
use ambit_device_manager::{HostFacts, MachineConfig, attempt, plan};
use ambit_resources::PaBits;

/// Of one plan of a full machine.
const PLAN_LIMIT: Duration = Duration::from_micros(50);
/// Of `ambit plan`, from exec to exit.
const PROGRAM_LIMIT: Duration = Duration::from_millis(5);
/// Of `ambit fleet` with so many hosts.
const FLEET_LIMIT: Duration = Duration::from_secs(1);
const HOSTS: usize = 10_000;

const USAGE: &str = "usage: ambit-plan-bench AMBIT, a release of the program for this machine";

fn main() -> ExitCode {
    let Some(program) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut report = Report { missed: false };
    report.limited("one plan of 512 vCPUs and 64 devices", median(2001, || one(64)), PLAN_LIMIT);
    report.growth();
    report.limited(
        "ambit plan, exec to exit",
        median(201, || run(&program, &["plan", "--arch", "aarch64"])),
        PROGRAM_LIMIT,
    );
    report.limited(&format!("ambit fleet with {HOSTS} hosts"), fleet(&program), FLEET_LIMIT);
    ExitCode::from(u8::from(report.missed))
}

struct Report {
    missed: bool,
}

impl Report {
    fn limited(&mut self, what: &str, took: Duration, limit: Duration) {
        let missed = took > limit;
        self.missed |= missed;
        println!("{what}: {took:.1?}, limit {limit:?}{}", if missed { "  MISSED" } else { "" });
    }

    /// Ten times the devices may take 10 log(10 n) / log(n) times as long, and caches a little more.
    fn growth(&mut self) {
        let counts = [9_u32, 94, 940];
        let took = counts.map(|count| median(301, || one(count as usize)));
        for (pair, times) in counts.windows(2).zip(took.windows(2)) {
            let [few, many] = [pair[0], pair[1]].map(|count| f64::from(count + 16));
            let allowed = 1.5 * many * many.log2() / (few * few.log2());
            let grew = times[1].as_secs_f64() / times[0].as_secs_f64();
            let missed = grew > allowed;
            self.missed |= missed;
            println!(
                "{} devices {:.1?}, {} devices {:.1?}: {grew:.1} times as long, n log n allows {allowed:.1}{}",
                pair[0],
                times[0],
                pair[1],
                times[1],
                if missed { "  MISSED" } else { "" }
            );
        }
    }
}

fn median(count: usize, mut measure: impl FnMut() -> Duration) -> Duration {
    let mut took: Vec<Duration> = (0..count).map(|_| measure()).collect();
    took.sort_unstable();
    took[count / 2]
}

/// One plan of a machine with 512 vCPUs and so many devices.
fn one(devices: usize) -> Duration {
    let board = ambit_aarch64::native();
    let config = MachineConfig {
        cpus: 512,
        memory: 64 << 30,
        devices: (0..devices).map(|index| device(&format!("disk{index}"))).collect(),
        ..MachineConfig::default()
    };
    let facts = HostFacts::assumed();
    assert!(plan(&board, &config, &facts).is_ok(), "the machine to measure with does not fit");
    let began = Instant::now();
    let planned = attempt(black_box(&board), black_box(&config), black_box(&facts));
    let took = began.elapsed();
    drop(black_box(planned));
    took
}

fn device(id: &str) -> Request {
    Request {
        id: id.into(),
        kind: "virtio-blk".into(),
        needs: Needs::Board { registers: 0x200, irq: Some(Trigger::Edge) },
        description: Arc::new(Description {
            node: "virtio_mmio".into(),
            compatible: vec!["virtio,mmio".into()],
            properties: vec![("dma-coherent".into(), Property::Flag)],
        }),
        queue_reach: None,
    }
}

fn run(program: &Path, arguments: &[&str]) -> Duration {
    let began = Instant::now();
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("the program to measure cannot be started");
    let took = began.elapsed();
    assert!(matches!(status.code(), Some(0 | 3)), "{arguments:?} ended with {status}");
    took
}

/// Hosts of every width, each a little different.
fn fleet(program: &Path) -> Duration {
    let scratch = tempfile::tempdir().expect("there is no room for a directory of hosts");
    let hosts = scratch.path().join("hosts");
    std::fs::create_dir(&hosts).expect("a new directory can have another in it");
    let widths = (36..=52).filter_map(PaBits::new).cycle();
    for (index, bits) in widths.take(HOSTS).enumerate() {
        let cpus = 64 + index % 449;
        let profile = format!(
            "{{\"schema\":1,\"arch\":\"aarch64\",\"kvm\":true,\"api_version\":12,\"ipa_bits\":{bits},\
             \"ipa_bits_known\":true,\"gic_versions\":[2,3],\"its\":true,\"max_cpus\":{cpus},\
             \"recommended_cpus\":4,\"memory_slots\":32767,\"page_size\":4096,\"problems\":[]}}\n"
        );
        std::fs::write(hosts.join(format!("host{index:05}.json")), profile)
            .expect("a small file can be written");
    }
    let config = scratch.path().join("guest.toml");
    std::fs::write(&config, "memory = \"40G\"\ncpus = 96\n").expect("a small file can be written");
    let (hosts, config) = (hosts.display().to_string(), config.display().to_string());
    median(5, || run(program, &["fleet", "--hosts", &hosts, &config]))
}
