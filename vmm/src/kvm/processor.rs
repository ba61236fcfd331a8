//! The processor of this host, and what its IOMMU keeps of the address space.
//!
//! VFIO's own list of what it maps is the reach of a device's domain without its reserved regions, and exists only once
//! a device is attached, which takes that device from the host: a container has no IOMMU, and so no list, before its
//! first group (`VFIO_SET_IOMMU`), and an IOAS of iommufd that has no device says all addresses are free (Linux
//! `include/uapi/linux/iommufd.h`, IOMMU_IOAS_IOVA_RANGES). So both of what the list is made of are read here: the
//! regions of each group, and the reach of each unit of Intel's. The page tables of AMD's hold 48 bits at the least, and
//! how many more is not read.

use std::path::Path;

use ambit_device_manager::{IommuRegion, Processor};
use ambit_x86_64::host::Identity;
use ambit_x86_64::reserved::{beyond, parse_regions};

/// Linux `Documentation/ABI/testing/sysfs-kernel-iommu_groups`.
const GROUPS: &str = "/sys/kernel/iommu_groups";
/// Linux `Documentation/ABI/testing/sysfs-class-iommu` and `sysfs-class-iommu-intel-iommu`.
const UNITS: &str = "/sys/class/iommu";

/// `None` on hosts of another kind than x86_64.
pub fn processor() -> Option<Processor> {
    let Identity { vendor, family, pa_bits, .. } = identity()?;
    Some(Processor { vendor, family, pa_bits, iommu: iommu(Path::new(GROUPS), Path::new(UNITS)) })
}

/// How many address bits a guest can use here.
#[cfg(target_arch = "x86_64")]
pub fn guest_bits() -> u8 {
    identity().map_or(0, |identity| identity.guest_bits)
}

#[cfg(target_arch = "x86_64")]
fn identity() -> Option<Identity> {
    Some(ambit_x86_64::host::identify(|number| {
        let leaf = std::arch::x86_64::__cpuid(number);
        [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
    }))
}

#[cfg(not(target_arch = "x86_64"))]
fn identity() -> Option<Identity> {
    None
}

/// What all groups in the directory at `groups` say together, and how far the units at `units` do not reach. `None`:
/// there is no group, so there is no IOMMU.
fn iommu(groups: &Path, units: &Path) -> Option<Vec<IommuRegion>> {
    let groups = std::fs::read_dir(groups).ok()?;
    let mut all: Option<Vec<IommuRegion>> = None;
    for group in groups.flatten() {
        let path = group.path().join("reserved_regions");
        let regions = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        match regions.and_then(|text| parse_regions(&text).map_err(|error| error.to_string())) {
            Ok(regions) => all.get_or_insert_default().extend(regions),
            Err(error) => {
                // What cannot be read may keep anything: as if there were no IOMMU to say that it does not.
                tracing::warn!("{} is left out: {error}", path.display());
                return None;
            }
        }
    }
    if let Some(all) = &mut all {
        // Any of them may be the one of a device that is passed through.
        all.extend(capabilities(units).into_iter().filter_map(beyond).min_by_key(|region| region.range));
        all.sort_unstable();
        all.dedup();
    }
    all
}

/// The capability register of each of Intel's units.
fn capabilities(units: &Path) -> Vec<u64> {
    let units = std::fs::read_dir(units).into_iter().flatten().flatten();
    let texts = units.filter_map(|unit| std::fs::read_to_string(unit.path().join("intel-iommu/cap")).ok());
    texts.filter_map(|text| u64::from_str_radix(text.trim(), 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use ambit_device_manager::IommuKind;
    use ambit_resources::AddressRange;

    use super::*;

    const NO_UNITS: &str = "/nowhere";

    fn groups(texts: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (number, text) in texts.iter().enumerate() {
            let group = directory.path().join(number.to_string());
            std::fs::create_dir(&group).unwrap();
            std::fs::write(group.join("reserved_regions"), text).unwrap();
        }
        directory
    }

    #[test]
    fn all_groups_together_say_each_region_once() {
        let msi = "0x00000000fee00000 0x00000000feefffff msi\n";
        let both = format!("{msi}0x000000fd00000000 0x000000ffffffffff reserved\n");

        let regions = iommu(groups(&[msi, &both]).path(), NO_UNITS.as_ref());

        let region = |first, size, kind| IommuRegion { range: AddressRange::fixed(first, size), kind };
        assert_eq!(
            regions,
            Some(vec![
                region(0xfee0_0000, 1 << 20, IommuKind::Msi),
                region(0xfd_0000_0000, 12 << 30, IommuKind::Reserved)
            ])
        );
    }

    #[test]
    fn a_host_without_groups_has_no_iommu_and_one_that_says_nonsense_is_not_believed() {
        let said = |groups: &Path| iommu(groups, NO_UNITS.as_ref());

        assert_eq!(said(groups(&[]).path()), None);
        assert_eq!(said(Path::new("/nowhere")), None);
        assert_eq!(said(groups(&["0x0 0xfff reserved\n", "nonsense\n"]).path()), None);
        assert_eq!(said(groups(&[""]).path()), Some(vec![]));
    }

    #[test]
    fn the_unit_that_reaches_least_is_the_one_that_counts() {
        let units = tempfile::tempdir().unwrap();
        // Bits of Intel's registers as Linux writes them, and a unit of AMD's.
        for (name, file, text) in [
            ("dmar0", "intel-iommu/cap", "260400\n"),
            ("dmar1", "intel-iommu/cap", "2f0600\n"),
            ("ivhd0", "amd-iommu/cap", "190b640f\n"),
        ] {
            let file = units.path().join(name).join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }

        let regions = iommu(groups(&[""]).path(), units.path());

        let range = AddressRange::spanning(1 << 39, (1 << 52) - 1).unwrap();
        assert_eq!(regions, Some(vec![IommuRegion { range, kind: IommuKind::Beyond }]));
        assert_eq!(iommu(groups(&[]).path(), units.path()), None);
    }
}
