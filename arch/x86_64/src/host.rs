//! What CPUID says of a host's processor: who made it, its family, and how far its addresses reach.

use ambit_device_manager::Vendor;

/// A leaf of CPUID: eax, ebx, ecx, edx.
pub type Leaf = [u32; 4];

/// What a plan has to know of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub vendor: Vendor,
    /// With the extended family.
    pub family: u32,
    /// Physical address bits, without those that memory encryption takes.
    pub pa_bits: u8,
    /// How many of those a guest can use.
    pub guest_bits: u8,
}

/// What KVM takes a processor to have that does not say (Linux `arch/x86/kvm/cpuid.c`,
/// `cpuid_query_maxphyaddr`).
const UNSAID_BITS: u8 = 36;

/// Reads it with `leaf`, which executes CPUID.
pub fn identify(leaf: impl Fn(u32) -> Leaf) -> Identity {
    let [_, b, c, d] = leaf(0);
    let vendor = match [b, d, c].map(u32::to_le_bytes).concat().as_slice() {
        b"GenuineIntel" => Vendor::Intel,
        b"AuthenticAMD" => Vendor::Amd,
        b"HygonGenuine" => Vendor::Hygon,
        _ => Vendor::Other,
    };
    let [signature, ..] = leaf(1);
    let base = signature >> 8 & 0xf;
    // Only a base family of 15 is extended (Intel SDM volume 2, CPUID; AMD APM volume 3, E.3.2).
    let family = if base == 0xf { base + (signature >> 20 & 0xff) } else { base };
    let [last, ..] = leaf(0x8000_0000);
    let extended = |number: u32| if number <= last { leaf(number) } else { [0; 4] };
    // AMD APM volume 3, E.4.7: [7:0] all, [23:16] what a guest can use, if that is not the same.
    let [all, _, guest, _] = extended(0x8000_0008)[0].to_le_bytes();
    let all = if all == 0 { UNSAID_BITS } else { all };
    // E.4.17, 0x8000_001f EBX[11:6]. Whether encryption is on only the kernel knows.
    let taken = u8::try_from(extended(0x8000_001f)[1] >> 6 & 0x3f).unwrap_or(0);
    let pa_bits = all.saturating_sub(taken);
    let guest_bits = if guest == 0 { pa_bits } else { guest.min(pa_bits) };
    Identity { vendor, family, pa_bits, guest_bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> u32 {
        u32::from_le_bytes(text.as_bytes().try_into().unwrap())
    }

    /// With this vendor, signature, and the extended leaves that matter.
    fn identity(vendor: &str, signature: u32, last: u32, widths: u32, encryption: u32) -> Identity {
        let [b, d, c] = [0, 4, 8].map(|at| word(&vendor[at..at + 4]));
        identify(|leaf| match leaf {
            0 => [1, b, c, d],
            1 => [signature, 0, 0, 0],
            0x8000_0000 => [last, 0, 0, 0],
            0x8000_0008 => [widths, 0, 0, 0],
            0x8000_001f => [0, encryption, 0, 0],
            _ => [0; 4],
        })
    }

    #[test]
    fn a_processor_is_who_made_it_its_family_and_its_width() {
        let milan = identity("AuthenticAMD", 0x00a0_0f11, 0x8000_0023, 0x3030, 0);
        let ice_lake = identity("GenuineIntel", 0x0006_06a6, 0x8000_0008, 0x3934, 0);
        let dhyana = identity("HygonGenuine", 0x0090_0f02, 0x8000_001f, 0x3030, 0);

        let same = |vendor, family, pa_bits| Identity { vendor, family, pa_bits, guest_bits: pa_bits };
        assert_eq!(milan, same(Vendor::Amd, 0x19, 48));
        assert_eq!(ice_lake, same(Vendor::Intel, 6, 52));
        assert_eq!(dhyana, same(Vendor::Hygon, 0x18, 48));
        assert_eq!(identity("BochsCPUIDs.", 0x0f00, 0, 0, 0), same(Vendor::Other, 15, 36));
    }

    #[test]
    fn what_encryption_takes_and_what_a_guest_cannot_use_is_not_there() {
        let widths = |widths, encryption| {
            let it = identity("AuthenticAMD", 0x0080_0f12, 0x8000_001f, widths, encryption);
            (it.pa_bits, it.guest_bits)
        };

        assert_eq!(widths(0x3030, 5 << 6 | 47), (43, 43));
        assert_eq!(widths(0x0028_3034, 0), (52, 40));
        assert_eq!(widths(0x0034_3030, 1 << 6), (47, 47));
        // Without the leaf, whatever CPUID gives there.
        assert_eq!(identity("AuthenticAMD", 0x0f00, 0x8000_0008, 0x28, 5 << 6).pa_bits, 40);
    }
}
