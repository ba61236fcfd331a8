//! What the processors and IOMMUs of x86_64 hosts keep of the address space.
//!
//! AMD and Hygon translate no DMA in 12 GiB below 1 TiB (AMD IOMMU specification 48882, 2.1.2), and a guest's address
//! is the one that its devices use. From family 17h on, processors keep the top 12 GiB of what they can address, too.

use ambit_device_manager::{HostFacts, IommuKind, IommuRegion, Processor, Reservation, Reserve, Vendor};
use ambit_resources::{AddressRange, PaBits};

const GIB: u64 = 1 << 30;
/// Interrupts, configuration cycles and whatever else HyperTransport carries as addresses.
pub const HT: AddressRange = AddressRange::fixed(0xfd_0000_0000, 12 * GIB);
/// The family since which the top of the address space is kept.
const ZEN: u32 = 0x17;
/// Below so many bits there is nothing to keep.
const LEAST_BITS: u8 = 40;

/// Everything that a machine as in `config` has to keep free on a host of which `facts` are known.
pub fn reservations(config: &Reserve, facts: &HostFacts) -> Vec<Reservation> {
    let mut kept = Vec::new();
    // Whose processors the user names may be those of another host: then only what all of those keep is known.
    let processor = facts.processor.as_ref().filter(|_| config.vendor.is_none());
    let vendor = config.vendor.or(processor.map(|processor| processor.vendor));
    if let Some(name) = vendor.filter(|_| !config.without_ht).and_then(ht_of) {
        if processor.is_none_or(keeps_ht) {
            let why = format!("{name}'s processors and IOMMUs use it for HyperTransport");
            kept.push(Reservation { name: "reserved.ht".into(), range: HT, why });
        }
        let top = processor.and_then(top).filter(|top| !kept.iter().any(|it| it.range == *top));
        if let Some(range) = top {
            let why = format!("{name}'s processors use the top of their addresses for HyperTransport");
            kept.push(Reservation { name: "reserved.ht-top".into(), range, why });
        }
    }
    let regions = facts.processor.iter().filter_map(|processor| processor.iommu.as_deref()).flatten();
    kept.extend(of_iommu(regions.copied().collect(), config));
    kept
}

/// Who keeps [`HT`], if that vendor does.
fn ht_of(vendor: Vendor) -> Option<&'static str> {
    match vendor {
        Vendor::Amd => Some("AMD"),
        Vendor::Hygon => Some("Hygon"),
        Vendor::Intel | Vendor::Other => None,
    }
}

/// An IOMMU that treats [`HT`] as ordinary memory (HTRangeIgnore) does not report it, and nothing else tells.
fn keeps_ht(processor: &Processor) -> bool {
    let reported = |regions: &Vec<IommuRegion>| {
        regions.iter().any(|region| region.kind == IommuKind::Reserved && region.range.overlaps(HT))
    };
    // On an older processor the range is no memory either.
    processor.family < ZEN || processor.iommu.as_ref().is_none_or(reported)
}

fn top(processor: &Processor) -> Option<AddressRange> {
    let reached = processor.family >= ZEN && (LEAST_BITS..64).contains(&processor.pa_bits);
    let end = reached.then(|| 1_u64 << processor.pa_bits)?;
    AddressRange::new(end - HT.size(), HT.size())
}

/// What the host says of its IOMMU, each range once. Where messages go the board has its own vCPUs' registers.
fn of_iommu(mut regions: Vec<IommuRegion>, config: &Reserve) -> Vec<Reservation> {
    regions.retain(|region| match region.kind {
        // Said above, or not wanted.
        IommuKind::Reserved => !HT.contains(region.range),
        IommuKind::Direct | IommuKind::Beyond => config.of_devices,
        IommuKind::DirectRelaxable | IommuKind::Msi => false,
    });
    regions.sort_unstable();
    regions.dedup_by_key(|region| region.range);
    let named = |(number, region): (usize, IommuRegion)| Reservation {
        name: format!("reserved.iommu{number}"),
        range: region.range,
        why: match region.kind {
            IommuKind::Direct => "a device of this host has it mapped to itself".into(),
            IommuKind::Beyond => "this host's IOMMU translates no such address".into(),
            _ => "this host's IOMMU keeps it".into(),
        },
    };
    regions.into_iter().enumerate().map(named).collect()
}

/// What no device reaches behind a unit of Intel's IOMMU of which this is the capability register, as Linux has it in
/// `/sys/class/iommu/*/intel-iommu/cap`. Linux's domains end at the lesser of both widths there (VT-d 4.1, 11.4.2).
/// `None`: it reaches all addresses that there can be.
pub fn beyond(capabilities: u64) -> Option<IommuRegion> {
    // MGAW: the most address bits. SAGAW: a bit for each depth of its page tables, bit 1 for three levels.
    let most = (capabilities >> 16 & 0x3f) + 1;
    let depths = capabilities >> 8 & 0x1f;
    let tables = depths.checked_ilog2().map_or(most, |deepest| 30 + 9 * u64::from(deepest));
    let first = 1_u64.checked_shl(u32::try_from(most.min(tables)).ok()?)?;
    let range = AddressRange::spanning(first, PaBits::MAX.ceiling() - 1)?;
    Some(IommuRegion { range, kind: IommuKind::Beyond })
}

/// Why a line of `reserved_regions` is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, '{text}', is not of the form FIRST LAST TYPE")]
pub struct RegionError {
    pub line: usize,
    pub text: String,
}

/// Reads `/sys/kernel/iommu_groups/*/reserved_regions`: "0x00000000fee00000 0x00000000feefffff msi". Types that Linux
/// may have in the future are read as those of which nothing is known but that they are kept.
///
/// # Errors
/// [`RegionError`] for the first line that is no region.
pub fn parse_regions(text: &str) -> Result<Vec<IommuRegion>, RegionError> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let regions = numbered.map(|(index, line)| {
        parse_region(line).ok_or_else(|| RegionError { line: index + 1, text: line.trim().into() })
    });
    regions.collect()
}

fn parse_region(line: &str) -> Option<IommuRegion> {
    let mut words = line.split_whitespace();
    let mut address = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let range = AddressRange::spanning(address()?, address()?)?;
    let kind = match words.next()? {
        "direct" => IommuKind::Direct,
        "direct-relaxable" => IommuKind::DirectRelaxable,
        "msi" => IommuKind::Msi,
        _ => IommuKind::Reserved,
    };
    words.next().is_none().then_some(IommuRegion { range, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(vendor: Vendor, family: u32, pa_bits: u8, iommu: Option<&str>) -> HostFacts {
        let iommu = iommu.map(|text| parse_regions(text).unwrap());
        let processor = Some(Processor { vendor, family, pa_bits, iommu });
        HostFacts { processor, ..HostFacts::assumed() }
    }

    fn kept(config: &Reserve, facts: &HostFacts) -> Vec<(String, u64, u64)> {
        let all = reservations(config, facts).into_iter();
        all.map(|it| (it.name, it.range.first(), it.range.size())).collect()
    }

    fn of(vendor: Vendor) -> Reserve {
        Reserve { vendor: Some(vendor), ..Reserve::default() }
    }

    const AMD: &str = "0x00000000fee00000 0x00000000feefffff msi\n\
                       0x000000fd00000000 0x000000ffffffffff reserved\n";

    fn ht() -> (String, u64, u64) {
        ("reserved.ht".into(), 0xfd_0000_0000, 12 * GIB)
    }

    fn ht_top(bits: u8) -> (String, u64, u64) {
        ("reserved.ht-top".into(), (1 << bits) - 12 * GIB, 12 * GIB)
    }

    #[test]
    fn amd_and_hygon_keep_the_range_below_a_tebibyte_and_others_do_not() {
        let nobody = HostFacts::assumed();

        assert_eq!(kept(&of(Vendor::Amd), &nobody), [ht()]);
        assert_eq!(kept(&of(Vendor::Hygon), &nobody), [ht()]);
        assert_eq!(kept(&of(Vendor::Intel), &nobody), []);
        assert_eq!(kept(&Reserve { without_ht: true, ..of(Vendor::Amd) }, &nobody), []);
    }

    #[test]
    fn the_hosts_own_vendor_counts_unless_the_user_names_one() {
        let amd = host(Vendor::Amd, 0x15, 48, None);

        assert_eq!(kept(&Reserve::default(), &amd), [ht()]);
        assert_eq!(kept(&of(Vendor::Intel), &amd), []);
        assert_eq!(kept(&Reserve::default(), &host(Vendor::Intel, 6, 46, None)), []);
    }

    #[test]
    fn from_family_17h_on_the_top_is_kept_too() {
        assert_eq!(kept(&Reserve::default(), &host(Vendor::Amd, 0x16, 48, None)), [ht()]);
        assert_eq!(kept(&Reserve::default(), &host(Vendor::Amd, 0x17, 48, None)), [ht(), ht_top(48)]);
        assert_eq!(kept(&Reserve::default(), &host(Vendor::Hygon, 0x18, 43, None)), [ht(), ht_top(43)]);
        // There both are the same.
        assert_eq!(kept(&Reserve::default(), &host(Vendor::Amd, 0x17, 40, None)), [ht()]);
        assert_eq!(kept(&Reserve::default(), &host(Vendor::Amd, 0x17, 39, None)), [ht()]);
        assert_eq!(kept(&of(Vendor::Amd), &host(Vendor::Amd, 0x17, 48, None)), [ht()]);
    }

    #[test]
    fn an_iommu_that_does_not_report_the_range_does_not_keep_it() {
        let reports = host(Vendor::Amd, 0x19, 48, Some(AMD));
        let ignores = host(Vendor::Amd, 0x1a, 48, Some("0x00000000fee00000 0x00000000feefffff msi\n"));

        assert_eq!(kept(&Reserve::default(), &reports), [ht(), ht_top(48)]);
        assert_eq!(kept(&Reserve::default(), &ignores), [ht_top(48)]);
        assert_eq!(kept(&of(Vendor::Amd), &ignores), [ht()]);
    }

    #[test]
    fn what_an_iommu_keeps_is_kept_once_and_what_devices_keep_if_that_is_asked_for() {
        let text = "0x0000000010000000 0x00000000100fffff direct\n\
                    0x0000000020000000 0x00000000200fffff direct-relaxable\n\
                    0x0000000030000000 0x00000000300fffff reserved\n\
                    0x0000000030000000 0x00000000300fffff reserved\n";
        let intel = host(Vendor::Intel, 6, 46, Some(text));
        let with_devices = Reserve { of_devices: true, ..Reserve::default() };

        assert_eq!(kept(&Reserve::default(), &intel), [("reserved.iommu0".into(), 0x3000_0000, 1 << 20)]);
        assert_eq!(
            kept(&with_devices, &intel),
            [
                ("reserved.iommu0".into(), 0x1000_0000, 1 << 20),
                ("reserved.iommu1".into(), 0x3000_0000, 1 << 20)
            ]
        );
    }

    #[test]
    fn an_iommu_of_intel_reaches_as_far_as_its_tables_and_its_bits() {
        let from =
            |capabilities| beyond(capabilities).map(|region| (region.range.first(), region.range.last()));
        let last = (1 << 52) - 1;

        // The graphics unit and the other one of one processor, then one with tables of five levels.
        assert_eq!(from(0x01c0_000c_4066_0462), Some((1 << 39, last)));
        assert_eq!(from(0x00d2_008c_4066_0462), Some((1 << 39, last)));
        assert_eq!(from(38 << 16 | 0b110 << 8), Some((1 << 39, last)));
        assert_eq!(from(47 << 16 | 0b010 << 8), Some((1 << 39, last)));
        assert_eq!(from(47 << 16 | 0b110 << 8), Some((1 << 48, last)));
        assert_eq!(from(56 << 16 | 0b1100 << 8), None);
        assert_eq!(from(u64::MAX), None);
    }

    #[test]
    fn what_an_iommu_does_not_reach_is_kept_for_who_passes_devices_through() {
        let mut intel = host(Vendor::Intel, 6, 46, Some(""));
        let regions = intel.processor.as_mut().and_then(|processor| processor.iommu.as_mut());
        regions.unwrap().extend(beyond(38 << 16 | 0b110 << 8));
        let with_devices = Reserve { of_devices: true, ..Reserve::default() };

        assert_eq!(kept(&Reserve::default(), &intel), []);
        let size = (1 << 52) - (1 << 39);
        assert_eq!(kept(&with_devices, &intel), [("reserved.iommu0".into(), 1 << 39, size)]);
    }

    #[test]
    fn regions_are_read_as_linux_writes_them() {
        let region = |first, size, kind| IommuRegion { range: AddressRange::fixed(first, size), kind };

        assert_eq!(
            parse_regions(AMD).unwrap(),
            [
                region(0xfee0_0000, 1 << 20, IommuKind::Msi),
                region(0xfd_0000_0000, 12 * GIB, IommuKind::Reserved)
            ]
        );
        assert_eq!(parse_regions("\n").unwrap(), []);
        assert_eq!(parse_regions("0x0 0xfff new-kind\n").unwrap(), [region(0, 0x1000, IommuKind::Reserved)]);
    }

    #[test]
    fn what_is_no_region_is_refused_with_its_line() {
        let refused = |line: &str| parse_regions(&format!("{AMD}{line}\n")).unwrap_err().to_string();

        assert_eq!(refused("0x1000 msi"), "line 3, '0x1000 msi', is not of the form FIRST LAST TYPE");
        let odd =
            ["0x2000 0x1000 msi", "1000 2000 msi", "0x0 0xffffffffffffffff msi", "0x1 0x2", "0x1 0x2 msi a"];
        assert!(odd.iter().all(|line| refused(line).starts_with("line 3, ")));
    }
}
