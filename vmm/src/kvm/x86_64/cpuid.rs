//! What a vCPU says it is: what KVM has for guests, as one processor of as many cores as the machine has vCPUs.
//!
//! Leaves are those of Intel SDM volume 2, CPUID, and of AMD APM volume 3, appendix E. A core's number is its APIC ID.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// What of KVM is not in its list of what it has for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// Whether its local APICs have the timer that the TSC rings.
    pub tsc_deadline: bool,
}

// Leaf 1, ECX and EDX.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const SEVERAL: u32 = 1 << 28;
/// Leaf 8000_0001h, ECX.
const CORES_NOT_THREADS: u32 = 1 << 1;

// Leaf 0Bh and 1Fh, ECX: what a level is of.
const THREADS: u32 = 1 << 8;
const CORES: u32 = 2 << 8;

/// The leaves of vCPU `id` of `cpus`, out of those that KVM has.
///
/// # Errors
/// If there are more than KVM takes, which it says itself of its own list.
pub fn of_vcpu(has: &CpuId, id: u32, cpus: u32, extras: Extras) -> Result<CpuId, vmm_sys_util::fam::Error> {
    // Levels of cores are listed anew; the domains of 8000_0026h are not.
    let stays = |leaf: &&kvm_cpuid_entry2| !matches!(leaf.function, 0xb | 0x1f | 0x8000_0026);
    let mut leaves: Vec<kvm_cpuid_entry2> = has.as_slice().iter().filter(stays).copied().collect();
    let amd = is_of_amd(&leaves);
    for leaf in &mut leaves {
        describe(leaf, id, cpus, extras);
        if leaf.function == 0x8000_0001 {
            set(&mut leaf.ecx, CORES_NOT_THREADS, amd && cpus > 1);
        }
    }
    let highest = leaves.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.eax);
    for function in [0xb, 0x1f].into_iter().filter(|function| *function <= highest) {
        leaves.extend(levels(function, id, cpus));
    }
    CpuId::from_entries(&leaves)
}

/// Only those have [`CORES_NOT_THREADS`]. On others Linux would take it for one processor for each core.
fn is_of_amd(leaves: &[kvm_cpuid_entry2]) -> bool {
    leaves.iter().find(|leaf| leaf.function == 0).is_some_and(|leaf| {
        let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
        [b"AuthenticAMD", b"HygonGenuine"].iter().any(|amd| name == *amd)
    })
}

/// How many bits of a guest's addresses KVM translates, as far as it says: page tables of four levels end at 48, however
/// wide the processor is. [7:0] of leaf 8000_0008h is what the guest has, and [23:16] what of it KVM maps, which newer
/// kernels say (Linux 6.10 `arch/x86/kvm/cpuid.c`, `__do_cpuid_func`).
pub fn guest_bits(has: &CpuId) -> Option<u8> {
    let widths = has.as_slice().iter().find(|leaf| leaf.function == 0x8000_0008)?.eax;
    let [all, _, mapped, _] = widths.to_le_bytes();
    [all, mapped].into_iter().filter(|bits| *bits > 0).min()
}

fn describe(leaf: &mut kvm_cpuid_entry2, id: u32, cpus: u32, extras: Extras) {
    let last = cpus.saturating_sub(1);
    match (leaf.function, leaf.index) {
        (1, _) => {
            let count = cpus.min(0xff);
            leaf.ebx = leaf.ebx & 0xffff | count << 16 | (id & 0xff) << 24;
            leaf.ecx |= HYPERVISOR | X2APIC;
            set(&mut leaf.ecx, TSC_DEADLINE, extras.tsc_deadline);
            set(&mut leaf.edx, SEVERAL, cpus > 1);
        }
        // A cache: how many APIC IDs share it, and how many the processor has. The third level is everybody's.
        (4, _) if leaf.eax & 0x1f != 0 => {
            let shared = if leaf.eax >> 5 & 7 >= 3 { ids(cpus) - 1 } else { 0 };
            leaf.eax = leaf.eax & 0x3fff | shared.min(0xfff) << 14 | (ids(cpus) - 1).min(0x3f) << 26;
        }
        // How many cores, and how many bits of the APIC ID number them.
        (0x8000_0008, _) => leaf.ecx = leaf.ecx & 0xffff_0f00 | last.min(0xff) | bits(cpus).min(0xf) << 12,
        (0x8000_001d, _) if leaf.eax & 0x1f != 0 => {
            let shared = if leaf.eax >> 5 & 7 >= 3 { last } else { 0 };
            leaf.eax = leaf.eax & 0x3fff | shared.min(0xfff) << 14;
        }
        // The extended APIC ID; the core, of one thread; the node.
        (0x8000_001e, _) => (leaf.eax, leaf.ebx, leaf.ecx) = (id, id & 0xff, 0),
        _ => {}
    }
}

/// One thread for each core, and all cores.
fn levels(function: u32, id: u32, cpus: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, kind| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | kind,
        edx: id,
        ..Default::default()
    };
    [level(0, 0, 1, THREADS), level(1, bits(cpus), cpus, CORES), level(2, 0, 0, 0)]
}

/// How many bits number `cpus` cores.
fn bits(cpus: u32) -> u32 {
    ids(cpus).trailing_zeros()
}

/// The numbers that so many bits have.
fn ids(cpus: u32) -> u32 {
    cpus.next_power_of_two()
}

fn set(word: &mut u32, bit: u32, on: bool) {
    *word = if on { *word | bit } else { *word & !bit };
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTRAS: Extras = Extras { tsc_deadline: true };

    fn leaf(function: u32, index: u32, words: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = words;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn words(has: &[kvm_cpuid_entry2], id: u32, cpus: u32) -> Vec<(u32, u32, [u32; 4])> {
        let leaves = of_vcpu(&CpuId::from_entries(has).unwrap(), id, cpus, EXTRAS).unwrap();
        let words =
            |leaf: &kvm_cpuid_entry2| (leaf.function, leaf.index, [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
        leaves.as_slice().iter().map(words).collect()
    }

    #[test]
    fn a_vcpu_of_any_machine_has_its_place_among_all_cores() {
        let has = [leaf(0, 0, [0x1f, 0, 0, 0]), leaf(0xb, 0, [9, 9, 9, 9]), leaf(0x1f, 0, [9, 9, 9, 9])];

        for (cpus, shift) in [(1, 0), (2, 1), (3, 2), (255, 8), (256, 8), (257, 9), (1000, 10), (1024, 10)] {
            let id = cpus - 1;
            let levels = |function| {
                [
                    (function, 0, [0, 1, 0x100, id]),
                    (function, 1, [shift, cpus, 0x201, id]),
                    (function, 2, [0, 0, 2, id]),
                ]
            };
            let expected = [[(0, 0, [0x1f, 0, 0, 0])].as_slice(), &levels(0xb), &levels(0x1f)].concat();
            assert_eq!(words(&has, id, cpus), expected, "{cpus}");
        }
    }

    #[test]
    fn levels_are_listed_only_as_far_as_leaves_go() {
        let listed: Vec<u32> =
            words(&[leaf(0, 0, [0x10, 0, 0, 0])], 0, 2).iter().map(|(function, ..)| *function).collect();

        assert_eq!(listed, [0, 0xb, 0xb, 0xb]);
    }

    #[test]
    fn the_first_leaf_has_the_apic_id_and_that_this_is_a_guest() {
        let has = [leaf(1, 0, [0xabc, 0x1234_0800, 1, 1])];

        let ecx = 1 | 1 << 21 | 1 << 24 | 1 << 31;
        assert_eq!(words(&has, 3, 4), [(1, 0, [0xabc, 0x0304_0800, ecx, 1 | 1 << 28])]);
        assert_eq!(words(&has, 0, 1), [(1, 0, [0xabc, 0x0001_0800, ecx, 1])]);
        assert_eq!(words(&has, 0x101, 0x200)[0].2[1], 0x01ff_0800);
    }

    #[test]
    fn only_the_third_level_of_caches_is_shared() {
        let intel = |level: u32| leaf(4, level, [0xfc00_8000 | level << 5 | 1, 7, 7, 7]);
        let amd = |level: u32| leaf(0x8000_001d, level, [0x03ff_c000 | level << 5 | 1, 7, 7, 7]);
        let has = [intel(2), intel(3), amd(2), amd(3), leaf(4, 4, [0; 4])];

        let eax: Vec<u32> = words(&has, 0, 6).iter().map(|(_, _, [eax, ..])| *eax).collect();

        let expected = [7 << 26 | 0x41, 7 << 26 | 7 << 14 | 0x61, 0x41, 5 << 14 | 0x61, 0];
        assert_eq!(eax, expected);
    }

    #[test]
    fn only_a_processor_of_amd_says_that_its_threads_are_cores() {
        let said = |name: &str| {
            let [b, d, c] =
                [0, 4, 8].map(|at| u32::from_le_bytes(name.as_bytes()[at..at + 4].try_into().unwrap()));
            let words = words(&[leaf(0, 0, [1, b, c, d]), leaf(0x8000_0001, 0, [0; 4])], 0, 2);
            words[1].2[2]
        };

        assert_eq!(["AuthenticAMD", "HygonGenuine", "GenuineIntel"].map(said), [2, 2, 0]);
    }

    #[test]
    fn what_kvm_maps_of_a_guests_addresses_is_the_lesser_of_both_widths() {
        let bits = |has: &[kvm_cpuid_entry2]| guest_bits(&CpuId::from_entries(has).unwrap());

        assert_eq!(bits(&[leaf(0x8000_0008, 0, [0x0030_3934, 0, 0, 0])]), Some(48));
        assert_eq!(bits(&[leaf(0x8000_0008, 0, [0x302e, 0, 0, 0])]), Some(46));
        assert_eq!(bits(&[leaf(0x8000_0008, 0, [0; 4])]), None);
        assert_eq!(bits(&[leaf(0, 0, [1; 4])]), None);
    }

    #[test]
    fn a_processor_of_amd_counts_its_cores() {
        let has = [
            leaf(0, 0, [1, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            leaf(0x8000_0001, 0, [1, 2, 0, 4]),
            leaf(0x8000_0008, 0, [48, 0, 0x5_f0ff, 0]),
            leaf(0x8000_001e, 0, [9, 0x1ff, 9, 0]),
            leaf(0x8000_0026, 0, [9; 4]),
        ];

        let expected = [
            (0, 0, [1, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            (0x8000_0001, 0, [1, 2, 2, 4]),
            (0x8000_0008, 0, [48, 0, 0x5_3005, 0]),
            (0x8000_001e, 0, [4, 4, 0, 0]),
        ];
        assert_eq!(words(&has, 4, 6), expected);
    }
}
