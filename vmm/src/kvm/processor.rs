//! The processor of this host, and what its IOMMU keeps of the address space.

use std::path::Path;

use ambit_device_manager::{IommuRegion, Processor};
use ambit_x86_64::host::Identity;
use ambit_x86_64::reserved::parse_regions;

/// Linux `Documentation/ABI/testing/sysfs-kernel-iommu_groups`.
const GROUPS: &str = "/sys/kernel/iommu_groups";

/// `None` on hosts of another kind than x86_64.
pub fn processor() -> Option<Processor> {
    let Identity { vendor, family, pa_bits, .. } = identity()?;
    Some(Processor { vendor, family, pa_bits, iommu: iommu(Path::new(GROUPS)) })
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

/// What all groups in the directory at `groups` say together. `None`: there is none, so there is no IOMMU.
fn iommu(groups: &Path) -> Option<Vec<IommuRegion>> {
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
        all.sort_unstable();
        all.dedup();
    }
    all
}

#[cfg(test)]
mod tests {
    use ambit_device_manager::IommuKind;
    use ambit_resources::AddressRange;

    use super::*;

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

        let regions = iommu(groups(&[msi, &both]).path());

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
        assert_eq!(iommu(groups(&[]).path()), None);
        assert_eq!(iommu(Path::new("/nowhere")), None);
        assert_eq!(iommu(groups(&["0x0 0xfff reserved\n", "nonsense\n"]).path()), None);
        assert_eq!(iommu(groups(&[""]).path()), Some(vec![]));
    }
}
