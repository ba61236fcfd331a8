//! Single words of a configuration: sizes, widths, names. The same from a file and from an option.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use ambit_device_manager::{HolePolicy, Vendor};
use ambit_resources::{AddressRange, PaBits, SizeError, human_size, parse_size};
use serde::de::{self, Visitor};

/// A word that is not what it should be. The text says what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WordError(pub(super) String);

/// Bytes: 4096 or "512M".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        parse_size(text).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&human_size(self.0))
    }
}

/// How many there are of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u32);

impl FromStr for Count {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let count = text.parse().ok().filter(|_| digits);
        let wanted = format!("write a whole number, at most {}", u32::MAX);
        count.map(Self).ok_or_else(|| WordError(format!("'{}' is not a count; {wanted}", short(text))))
    }
}

/// How many physical address bits may be used: what the host has, or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bits {
    #[default]
    Auto,
    Of(PaBits),
}

impl FromStr for Bits {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let (min, max) = (PaBits::MIN, PaBits::MAX);
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            let wanted = format!("write a number from {min} to {max}, or auto");
            return Err(WordError(format!("'{text}' is not a number of address bits; {wanted}")));
        }
        text.parse().ok().and_then(PaBits::new).map(Self::Of).ok_or_else(|| {
            WordError(format!("{text} physical address bits are not possible; use {min} to {max}"))
        })
    }
}

/// How many address bits a guest can use, by number or by what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach(pub PaBits);

/// What is known of guests, each with where its number is from.
const PROFILES: [(&str, u8); 6] = [
    // 32-bit kernels without LPAE.
    ("aarch32", 32),
    // rust-hypervisor-firmware maps the first 128 GiB (cloud-hypervisor/rust-hypervisor-firmware 355).
    ("hypervisor-fw", 37),
    // A quarter TiB of linear map with CONFIG_ARM64_VA_BITS_39 (Linux arch/arm64/mm/init.c).
    ("linux-va39", 38),
    // 32-bit kernels with long descriptors (Arm ARM, AArch32 VMSAv8-32).
    ("lpae", 40),
    // CONFIG_ARM64_PA_BITS_48, as distributions build it.
    ("linux", 48),
    // CONFIG_ARM64_PA_BITS_52 with pages of 64 KiB.
    ("linux-64k", 52),
];

impl FromStr for Reach {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let by_name = PROFILES.iter().find(|(name, _)| *name == text).map(|(_, bits)| *bits);
        let by_number = || text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        by_name.or_else(by_number).and_then(PaBits::new).map(Self).ok_or_else(|| {
            let names: Vec<&str> = PROFILES.iter().map(|(name, _)| *name).collect();
            let (min, max) = (PaBits::MIN, PaBits::MAX);
            let wanted = format!("write a number from {min} to {max}, or one of {}", names.join(", "));
            WordError(format!("'{}' is not what a guest can use; {wanted}", short(text)))
        })
    }
}

/// How many address bits a queue's place has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueReach(pub u8);

impl FromStr for QueueReach {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        // A 32-bit page number, with pages of 4, 16 and 64 KiB (virtio 1.2, 4.2.4 and 4.1.4.8).
        let known = ["44", "46", "48"].contains(&text).then(|| text.parse().ok()).flatten();
        known.map(Self).ok_or_else(|| {
            let wanted = "write 44 for guests with pages of 4 KiB, 46 with 16 KiB, 48 with 64 KiB";
            WordError(format!("'{}' is not the reach of a legacy queue; {wanted}", short(text)))
        })
    }
}

/// What a device is called: 1 to 64 of `A-Z a-z 0-9 _ . -`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Id {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.into()));
        }
        let wanted = "use 1 to 64 letters, digits, '_', '.' or '-'";
        Err(WordError(format!("'{}' cannot be the id of a device; {wanted}", short(text))))
    }
}

/// The name of a TAP interface, as Linux accepts names (`net/core/dev.c`, `dev_valid_name`), and
/// without the `%` that would make the kernel invent one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapName(String);

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TapName {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let odd = |byte: u8| b"/:%".contains(&byte) || !byte.is_ascii_graphic();
        if (1..=15).contains(&text.len()) && !text.bytes().any(odd) && !matches!(text, "." | "..") {
            return Ok(Self(text.into()));
        }
        let wanted = "use 1 to 15 characters without '/', ':', '%' and spaces";
        Err(WordError(format!("'{}' cannot be the name of a TAP interface; {wanted}", short(text))))
    }
}

/// The address of one network card; never that of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let pair = |text: &str| {
            let hex = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if hex { u8::from_str_radix(text, 16).ok() } else { None }
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(pair).collect();
        let Some(mac) = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) else {
            let wanted = "write six pairs of hex digits, as in 52:54:00:12:34:56";
            return Err(WordError(format!("'{}' is not a MAC address; {wanted}", short(text))));
        };
        if mac == [0; 6] {
            return Err(WordError(format!("{text} is no card's MAC address; use another, or leave it out")));
        }
        if mac[0] & 1 == 1 {
            return Err(WordError(format!(
                "{text} is the MAC address of a group; for one card the first pair is even, as in 52:54:00:12:34:56"
            )));
        }
        Ok(Self(mac))
    }
}

/// on or off; in a file also true or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "on" | "true" => Ok(Self(true)),
            "off" | "false" => Ok(Self(false)),
            _ => Err(WordError(format!("'{}' is neither on nor off", short(text)))),
        }
    }
}

/// Whose processors a machine is for: `None` is the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processors(pub Option<Vendor>);

impl FromStr for Processors {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "intel" => Ok(Self(Some(Vendor::Intel))),
            "amd" => Ok(Self(Some(Vendor::Amd))),
            "hygon" => Ok(Self(Some(Vendor::Hygon))),
            "host" => Ok(Self(None)),
            _ => {
                let wanted = "write intel, amd, hygon or host";
                Err(WordError(format!("'{}' is no maker of processors; {wanted}", short(text))))
            }
        }
    }
}

/// What is done where RAM would be in a range that is kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole(pub HolePolicy);

impl FromStr for Hole {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "split" => Ok(Self(HolePolicy::Split)),
            "relocate" => Ok(Self(HolePolicy::Relocate)),
            _ => Err(WordError(format!("'{}' is neither split nor relocate", short(text)))),
        }
    }
}

/// What is to be kept free: a range, or all that devices of the host keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Range(AddressRange),
    Host,
}

impl FromStr for Kept {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        if text == "host" {
            return Ok(Self::Host);
        }
        let number = |text: &str| match text.strip_prefix("0x") {
            // Signs are no digits.
            Some(digits) if digits.starts_with('+') => None,
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => parse_size(text).ok(),
        };
        let range = text.split_once('+').and_then(|(base, size)| {
            let range = AddressRange::new(number(base)?, number(size)?)?;
            Some(Self::Range(range)).filter(|_| range.last() < 1 << PaBits::MAX.get())
        });
        range.ok_or_else(|| {
            let wanted = "write BASE+SIZE, as in 0x100000000+1G, below 2^52; or host";
            WordError(format!("'{}' is no range to keep free; {wanted}", short(text)))
        })
    }
}

/// What a user wrote may be of any length; an error is not.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Reads a word wherever a string, a whole number or a truth value is written, by its `FromStr`.
pub(super) struct Word<T>(pub(super) PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Word<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one word or a whole number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: de::Error>(self, truth: bool) -> Result<T, E> {
        self.visit_str(if truth { "true" } else { "false" })
    }
}

macro_rules! read_as_words {
    ($($word:ty),*) => { $(
        impl<'de> serde::Deserialize<'de> for $word {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any($crate::config::words::Word(std::marker::PhantomData))
            }
        }
    )* };
}
pub(super) use read_as_words;

read_as_words!(Size, Count, Bits, Reach, QueueReach, Id, TapName, Mac, Switch, Processors, Hole, Kept);

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal<T: FromStr<Err: fmt::Display> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>()
            .map(|word| format!("{word:?} was accepted"))
            .unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn widths_that_are_not_possible_are_refused_by_number() {
        assert_eq!("auto".parse(), Ok(Bits::Auto));
        assert_eq!("36".parse(), Ok(Bits::Of(PaBits::new(36).unwrap())));
        assert_eq!(refusal::<Bits>("31"), "31 physical address bits are not possible; use 32 to 52");
        assert_eq!(refusal::<Bits>("53"), "53 physical address bits are not possible; use 32 to 52");
        assert_eq!(
            refusal::<Bits>("99999999999999999999"),
            "99999999999999999999 physical address bits are not possible; use 32 to 52"
        );
        assert_eq!(
            refusal::<Bits>("-1"),
            "'-1' is not a number of address bits; write a number from 32 to 52, or auto"
        );
    }

    #[test]
    fn a_count_is_a_whole_number() {
        assert_eq!("512".parse(), Ok(Count(512)));
        for text in ["", "-1", "+1", "1.0", "two", "4294967296"] {
            assert_eq!(
                refusal::<Count>(text),
                format!("'{text}' is not a count; write a whole number, at most 4294967295")
            );
        }
    }

    #[test]
    fn an_id_has_1_to_64_plain_characters() {
        assert!("root-disk_0.A".parse::<Id>().is_ok());
        assert!("x".repeat(64).parse::<Id>().is_ok());
        for text in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            let said = refusal::<Id>(text);
            assert!(said.ends_with("use 1 to 64 letters, digits, '_', '.' or '-'"), "{text}: {said}");
        }
    }

    #[test]
    fn a_tap_is_called_what_linux_would_accept() {
        assert!("tap-guest_01.x".parse::<TapName>().is_ok());
        for text in ["", ".", "..", "a/b", "tap%d", "a b", "eth0:1", "a234567890123456"] {
            let said = refusal::<TapName>(text);
            assert!(said.ends_with("use 1 to 15 characters without '/', ':', '%' and spaces"), "{said}");
        }
    }

    #[test]
    fn a_range_is_written_as_its_base_and_its_size() {
        let range = |text: &str| text.parse::<Kept>();

        assert_eq!(range("0x100000000+1G"), Ok(Kept::Range(AddressRange::fixed(1 << 32, 1 << 30))));
        assert_eq!(range("1012G+0x300000000"), Ok(Kept::Range(AddressRange::fixed(1012 << 30, 12 << 30))));
        assert_eq!(range("host"), Ok(Kept::Host));
        for text in
            ["", "1G", "1G+", "+1G", "1G+0", "0x+1", "0x1+0x+1", "-1+1", "0xfffffffffffff+2", "1G+1G+1G"]
        {
            assert_eq!(
                refusal::<Kept>(text),
                format!(
                    "'{text}' is no range to keep free; write BASE+SIZE, as in 0x100000000+1G, below 2^52; or host"
                )
            );
        }
    }

    #[test]
    fn makers_and_policies_are_words() {
        assert_eq!("hygon".parse(), Ok(Processors(Some(Vendor::Hygon))));
        assert_eq!("host".parse(), Ok(Processors(None)));
        assert_eq!("relocate".parse(), Ok(Hole(HolePolicy::Relocate)));
        assert_eq!(
            refusal::<Processors>("AMD"),
            "'AMD' is no maker of processors; write intel, amd, hygon or host"
        );
        assert_eq!(refusal::<Hole>("move"), "'move' is neither split nor relocate");
    }

    #[test]
    fn a_mac_is_that_of_one_card() {
        assert_eq!("52:54:00:12:34:5F".parse(), Ok(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x5f])));
        for text in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52-54-00-12-34-56", "+2:54:00:12:34:56"] {
            let said = refusal::<Mac>(text);
            assert!(said.contains("six pairs of hex digits"), "{text}: {said}");
        }
        assert_eq!(
            refusal::<Mac>("01:00:5e:00:00:01"),
            "01:00:5e:00:00:01 is the MAC address of a group; for one card the first pair is even, as in 52:54:00:12:34:56"
        );
        assert_eq!(
            refusal::<Mac>("00:00:00:00:00:00"),
            "00:00:00:00:00:00 is no card's MAC address; use another, or leave it out"
        );
    }
}
