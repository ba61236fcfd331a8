//! Machines of many vCPUs: each is who it should be, and has the redistributor that the plan has for it.

use std::ops::Range;

use ambit_tests::many::{self, Found, Vcpu};
use ambit_tests::plan::Region;
use ambit_tests::{Boot, Guest, Plan, Scratch, ambit, place};

/// An RD and an SGI frame.
const REDISTRIBUTOR: u64 = 0x2_0000;

/// The affinity in MPIDR_EL1.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// What a vCPU's own redistributor says of it (GICR_TYPER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Redistributor {
    affinity: u64,
    number: u64,
    last: bool,
}

impl Redistributor {
    fn read(typer: u64) -> Self {
        Self { affinity: typer >> 32, number: typer >> 8 & 0xffff, last: typer >> 4 & 1 == 1 }
    }
}

/// The affinity that KVM gives vCPU `id` (Linux `arch/arm64/kvm/sys_regs.c`, `reset_mpidr`).
fn affinity(id: u64) -> u64 {
    (id >> 12 & 0xff) << 16 | (id >> 4 & 0xff) << 8 | id & 0xf
}

/// Where the redistributors are, a range for each region, in the order of the vCPUs.
fn redistributors(plan: &Plan) -> Vec<Range<u64>> {
    let named = |index| plan.regions.iter().find(|region| region.name == format!("gic.redist{index}"));
    let range = |region: &Region| {
        let count = region.count.unwrap_or(region.size / REDISTRIBUTOR);
        region.base..region.base + count * REDISTRIBUTOR
    };
    (0..).map_while(named).map(range).collect()
}

/// What the redistributor of each vCPU has to say. Software that looks for its own goes from one to the next up to the
/// one that is the last, so this is one that no other follows directly.
fn wanted(regions: &[Range<u64>]) -> Vec<(u64, Redistributor)> {
    let step = usize::try_from(REDISTRIBUTOR).unwrap();
    let frames = regions.iter().flat_map(|region| region.clone().step_by(step));
    let is_last = |frame: u64| !regions.iter().any(|region| region.contains(&(frame + REDISTRIBUTOR)));
    let numbered = frames.zip(0..);
    numbered
        .map(|(frame, id)| {
            (frame, Redistributor { affinity: affinity(id), number: id, last: is_last(frame) })
        })
        .collect()
}

/// On a machine of `count` vCPUs that is otherwise made of these words.
fn every_vcpu_has_its_own_redistributor(count: u32, machine: &[&str]) {
    let plan = Plan::of(&[&["--cpus", &count.to_string()], machine].concat());
    let wanted = wanted(&redistributors(&plan));
    let vcpu = |(redistributor, wanted): &(u64, Redistributor)| Vcpu {
        target: wanted.affinity,
        redistributor: *redistributor,
    };
    let vcpus: Vec<Vcpu> = wanted.iter().map(vcpu).collect();
    assert_eq!(vcpus.len(), count as usize, "{machine:?}: the plan has a redistributor for each vCPU");
    let scratch = Scratch::new();

    let mut guest = many::boot(plan.region("uart0").base, &vcpus, &scratch).words(machine).start();

    assert_eq!(guest.code(), 0, "{machine:?}");
    let found = many::found(&guest.said_in_all());
    assert_eq!(found.len(), vcpus.len(), "{machine:?}");
    for (id, (found, (frame, wanted))) in found.iter().zip(&wanted).enumerate() {
        let Found::Registers { mpidr, typer } = *found else { panic!("{machine:?}, vCPU {id}: {found:?}") };
        let read = (mpidr & AFFINITY, Redistributor::read(typer));
        let wanted = (wanted.affinity, *wanted);
        assert_eq!(read, wanted, "{machine:?}, vCPU {id}, redistributor at {frame:#x}");
    }
}

fn every_vcpu_has_its_own_redistributor_in_36_and_in_40_bits(count: u32) {
    for bits in ["36", "40"] {
        every_vcpu_has_its_own_redistributor(count, &["--pa-bits", bits]);
    }
}

#[test]
fn the_only_vcpu_has_its_own_redistributor() {
    every_vcpu_has_its_own_redistributor_in_36_and_in_40_bits(1);
}

/// As many as QEMU's machine `virt` has room for in one region.
#[test]
fn each_of_123_vcpus_has_its_own_redistributor() {
    every_vcpu_has_its_own_redistributor_in_36_and_in_40_bits(123);
}

#[test]
fn each_of_124_vcpus_has_its_own_redistributor() {
    every_vcpu_has_its_own_redistributor_in_36_and_in_40_bits(124);
}

#[test]
fn each_of_512_vcpus_has_its_own_redistributor() {
    every_vcpu_has_its_own_redistributor_in_36_and_in_40_bits(512);
}

/// 123 of them in QEMU's first region, and the others above RAM.
#[test]
fn redistributors_in_two_regions_are_those_of_their_vcpus() {
    for count in [124, 512] {
        every_vcpu_has_its_own_redistributor(count, &["--board", "qemu-virt", "--pa-bits", "40"]);
    }
}

/// Downward from the distributor, which follows the last one directly.
#[test]
fn redistributors_that_grow_downward_are_those_of_their_vcpus() {
    every_vcpu_has_its_own_redistributor(512, &["--board", "kvmtool"]);
}

#[test]
fn the_513th_vcpu_is_refused_by_plan_and_run_alike() {
    let kernel = place::image("Image").display().to_string();

    let refused = ["plan", "run"].map(|verb| ambit([verb, "--kernel", &kernel, "--cpus", "513"]));

    for refused in refused {
        assert_eq!((refused.code, refused.stdout.as_str()), (3, ""), "{}", refused.stderr);
        let wanted = "513 vCPUs are more than 512";
        assert!(refused.stderr.contains(wanted), "no '{wanted}' in: {}", refused.stderr);
    }
}

/// As Linux has them: how many it works with, those, and those there may be.
fn processors(guest: &mut Guest) -> [String; 3] {
    ["nproc", "cat /sys/devices/system/cpu/online", "cat /sys/devices/system/cpu/possible"]
        .map(|line| guest.check(line).trim().to_owned())
}

#[test]
fn linux_brings_up_four_of_123_processors() {
    let mut guest = Boot::initrd().cpus(123).cmdline("maxcpus=4").ready();

    assert_eq!(processors(&mut guest), ["4", "0-3", "0-122"]);
    assert_eq!(guest.power_off(), 0);
}
