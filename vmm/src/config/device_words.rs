//! Single words of a device's options: transports, queues, caches, limits. The same from a file and an option.

use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::str::FromStr;

use ambit_device_manager::Transport;
use ambit_resources::parse_size;
use serde::{Deserialize, Deserializer};

use super::text::unknown;
use super::words::{Word, WordError, read_as_words, short};

/// The transport of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over(pub Transport);

impl FromStr for Over {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let names = Transport::ALL.map(Transport::name);
        Transport::named(text).map(Self).ok_or_else(|| WordError(unknown("transport", &short(text), &names)))
    }
}

/// What becomes of what the guest writes to a disk before it asks for a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// The host keeps it until then.
    #[default]
    Writeback,
    /// The host has stored it before the guest hears that it is written.
    Writethrough,
    /// The host keeps nothing: reads and writes go past its page cache (O_DIRECT).
    None,
    /// The host keeps it, whatever the guest asks for; a crash of the host may lose all of it.
    Unsafe,
}

const CACHES: [(&str, Cache); 4] = [
    ("writeback", Cache::Writeback),
    ("writethrough", Cache::Writethrough),
    ("none", Cache::None),
    ("unsafe", Cache::Unsafe),
];

impl FromStr for Cache {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        chosen("cache", text, &CACHES)
    }
}

/// How the host reads and writes for a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// One request after the other.
    #[default]
    Sync,
    /// Many at once, where the host's kernel has io_uring.
    IoUring,
}

const ENGINES: [(&str, Engine); 2] = [("sync", Engine::Sync), ("io_uring", Engine::IoUring)];

impl FromStr for Engine {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        chosen("engine", text, &ENGINES)
    }
}

fn chosen<T: Copy>(what: &str, text: &str, known: &[(&str, T)]) -> Result<T, WordError> {
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        WordError(unknown(what, &short(text), &names))
    })
}

/// How many queues, or pairs of them: 1 to `MOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues<const MOST: u16>(pub u16);

impl<const MOST: u16> FromStr for Queues<MOST> {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let count = digits(text).and_then(|text| text.parse().ok());
        count.filter(|count| (1..=MOST).contains(count)).map(Self).ok_or_else(|| {
            WordError(format!("{} queues are not possible; write a number from 1 to {MOST}", quoted(text)))
        })
    }
}

/// The most entries of a queue: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSize(pub u16);

impl QueueSize {
    /// virtio 1.2 (2.7) allows 32768; more than this costs memory and gains nothing.
    const MOST: u16 = 1024;
    /// A request to a disk has a head and a status at least.
    const LEAST: u16 = 2;
}

impl Default for QueueSize {
    fn default() -> Self {
        Self(256)
    }
}

impl FromStr for QueueSize {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let size: Option<u16> = digits(text).and_then(|text| text.parse().ok());
        let allowed = Self::LEAST..=Self::MOST;
        size.filter(|size| size.is_power_of_two() && allowed.contains(size)).map(Self).ok_or_else(|| {
            let wanted = format!("write a power of two from {} to {}", Self::LEAST, Self::MOST);
            WordError(format!("a queue of {} entries is not possible; {wanted}", quoted(text)))
        })
    }
}

/// Bytes in each second: "100M" or "100M/s".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth(pub NonZeroU64);

impl FromStr for Bandwidth {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let size = parse_size(text.strip_suffix("/s").unwrap_or(text));
        let bytes = size.map_err(|error| WordError(error.to_string()))?;
        not_nothing(bytes).map(Self)
    }
}

/// Requests, or frames, in each second: 500 or "500/s".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSecond(pub NonZeroU64);

impl FromStr for PerSecond {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let number = digits(text.strip_suffix("/s").unwrap_or(text)).and_then(|text| text.parse().ok());
        let wanted = || WordError(format!("{} is not a rate; write a whole number per second", quoted(text)));
        not_nothing(number.ok_or_else(wanted)?).map(Self)
    }
}

fn not_nothing(rate: u64) -> Result<NonZeroU64, WordError> {
    let never = "a limit of 0 lets nothing through; leave it out for no limit";
    NonZeroU64::new(rate).ok_or_else(|| WordError(never.into()))
}

impl From<Bandwidth> for NonZeroU64 {
    fn from(rate: Bandwidth) -> Self {
        rate.0
    }
}

impl From<PerSecond> for NonZeroU64 {
    fn from(rate: PerSecond) -> Self {
        rate.0
    }
}

/// TAP interfaces that are open already, one for each pair of queues: "3" or "3:4".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fds(pub Vec<RawFd>);

impl FromStr for Fds {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        // 0 to 2 are the console and the log.
        let fd = |text: &str| digits(text)?.parse().ok().filter(|fd| *fd > 2);
        let fds: Option<Vec<RawFd>> = text.split(':').map(fd).collect();
        fds.map(Self).ok_or_else(|| {
            let wanted = "write its number, 3 or more, and ':' between several, one for each queue";
            WordError(format!("{} is no open file for a net; {wanted}", quoted(text)))
        })
    }
}

fn digits(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn quoted(text: &str) -> String {
    format!("'{}'", short(text))
}

read_as_words!(Over, Cache, Engine, QueueSize, Bandwidth, PerSecond, Fds);

impl<'de, const MOST: u16> Deserialize<'de> for Queues<MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Word(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Disk, Net, Plain, Single};

    fn refusal<T: FromStr<Err: std::fmt::Display> + std::fmt::Debug>(text: &str) -> String {
        text.parse::<T>()
            .map(|word| format!("{word:?} was accepted"))
            .unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn a_queue_has_a_power_of_two_of_entries_within_what_there_may_be() {
        for size in [2, 4, 256, 1024] {
            assert_eq!(size.to_string().parse(), Ok(QueueSize(size)));
        }
        for size in ["0", "1", "3", "300", "1023", "2048", "32768", "65536", "-2", "", "0x100"] {
            assert_eq!(
                refusal::<QueueSize>(size),
                format!("a queue of '{size}' entries is not possible; write a power of two from 2 to 1024")
            );
        }
    }

    #[test]
    fn queues_are_counted_from_one_to_as_many_as_a_device_has() {
        assert_eq!("16".parse(), Ok(Queues::<16>(16)));
        assert_eq!(refusal::<Queues<8>>("9"), "'9' queues are not possible; write a number from 1 to 8");
        for text in ["0", "17", "", "-1", "99999999"] {
            let wanted = format!("'{text}' queues are not possible; write a number from 1 to 16");
            assert_eq!(refusal::<Queues<16>>(text), wanted);
        }
    }

    #[test]
    fn a_word_like_a_known_one_is_told_with_it() {
        assert_eq!(refusal::<Over>("pcie"), "unknown transport 'pcie'; did you mean 'pci'?");
        assert_eq!(
            refusal::<Over>("usb"),
            "unknown transport 'usb'; known are mmio, mmio-legacy, pci, pci-legacy"
        );
        assert_eq!(refusal::<Cache>("write-back"), "unknown cache 'write-back'; did you mean 'writeback'?");
        assert_eq!(refusal::<Engine>("iouring"), "unknown engine 'iouring'; did you mean 'io_uring'?");
    }

    #[test]
    fn a_limit_lets_something_through() {
        let rate = |number: u64| NonZeroU64::new(number).unwrap();
        assert_eq!("100M/s".parse(), Ok(Bandwidth(rate(100 << 20))));
        assert_eq!("500".parse(), Ok(PerSecond(rate(500))));
        assert_eq!(refusal::<Bandwidth>("0"), "a limit of 0 lets nothing through; leave it out for no limit");
        assert_eq!(
            refusal::<PerSecond>("0/s"),
            "a limit of 0 lets nothing through; leave it out for no limit"
        );
        assert_eq!(refusal::<PerSecond>("5K"), "'5K' is not a rate; write a whole number per second");
    }

    #[test]
    fn an_open_file_is_none_of_the_programs_own() {
        assert_eq!("3:4".parse(), Ok(Fds(vec![3, 4])));
        for text in ["", "2", "3:", "3:x", "-3", "99999999999"] {
            let said = refusal::<Fds>(text);
            assert!(said.starts_with(&format!("'{text}' is no open file for a net; ")), "{said}");
        }
    }

    #[test]
    fn the_keys_of_an_option_are_told_as_those_of_a_file() {
        assert_eq!(refusal::<Disk>("a,queue-siz=4"), "unknown key 'queue-siz'; did you mean 'queue-size'?");
        assert_eq!(
            refusal::<Net>("t,tx-bandwith=4"),
            "unknown key 'tx-bandwith'; did you mean 'tx-bandwidth'?"
        );
        assert_eq!(refusal::<Disk>("a,queue-size=4,queue_size=8"), "the key 'queue-size' is there twice");
        assert_eq!(refusal::<Net>("t,fd=3"), "'tap' and 'fd' are two interfaces; a net has one of them");
    }

    #[test]
    fn a_switch_may_be_followed_by_options_if_it_is_on() {
        let pci = || Plain { transport: Some(Over(Transport::Pci)), id: None };
        assert_eq!("transport=pci".parse(), Ok(Single::With(pci())));
        assert_eq!("on,transport=pci".parse(), Ok(Single::With(pci())));
        assert_eq!(refusal::<Single<Plain>>("off,transport=pci"), "what is off has no options");
        assert_eq!(refusal::<Single<Plain>>("yes"), "'yes' is neither on nor off, nor of the form key=value");
        assert_eq!(
            refusal::<Single<Plain>>("transprot=pci"),
            "unknown key 'transprot'; did you mean 'transport'?"
        );
        assert_eq!(
            refusal::<Single<Plain>>("on,pci"),
            "'pci' is not of the form key=value; a comma in a value is written twice"
        );
    }
}
