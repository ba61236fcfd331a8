//! What the user says of devices: nothing is filled in. Keys are the same in an option and in a file.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::device_words::{Bandwidth, Cache, Engine, Fds, Over, PerSecond, QueueSize, Queues};
use super::text;
use super::words::{Id, Mac, Switch, TapName};

/// `path=F[,id=I]…`, or a table with these keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with at least a path")]
pub struct Disk {
    pub path: PathBuf,
    #[serde(default, deserialize_with = "present")]
    pub id: Option<Id>,
    #[serde(default, deserialize_with = "present")]
    pub readonly: Option<Switch>,
    #[serde(default, deserialize_with = "present")]
    pub transport: Option<Over>,
    #[serde(default, deserialize_with = "present")]
    pub queues: Option<Queues<16>>,
    #[serde(rename = "queue-size", alias = "queue_size", default, deserialize_with = "present")]
    pub queue_size: Option<QueueSize>,
    #[serde(default, deserialize_with = "present")]
    pub cache: Option<Cache>,
    #[serde(default, deserialize_with = "present")]
    pub engine: Option<Engine>,
    #[serde(default, deserialize_with = "present")]
    pub discard: Option<Switch>,
    #[serde(default, deserialize_with = "present")]
    pub lock: Option<Switch>,
    #[serde(default, deserialize_with = "present")]
    pub bandwidth: Option<Bandwidth>,
    #[serde(rename = "bandwidth-burst", alias = "bandwidth_burst", default, deserialize_with = "present")]
    pub bandwidth_burst: Option<Bandwidth>,
    #[serde(default, deserialize_with = "present")]
    pub iops: Option<PerSecond>,
    #[serde(rename = "iops-burst", alias = "iops_burst", default, deserialize_with = "present")]
    pub iops_burst: Option<PerSecond>,
}

/// `tap=T[,id=I]…`, or a table with these keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, try_from = "NetKeys", expecting = "a table with at least a tap")]
pub struct Net(pub NetKeys);

/// The keys of a [`Net`], which has either a tap or an fd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table with at least a tap")]
pub struct NetKeys {
    #[serde(deserialize_with = "present")]
    pub tap: Option<TapName>,
    #[serde(deserialize_with = "present")]
    pub fd: Option<Fds>,
    #[serde(deserialize_with = "present")]
    pub id: Option<Id>,
    #[serde(deserialize_with = "present")]
    pub mac: Option<Mac>,
    #[serde(deserialize_with = "present")]
    pub transport: Option<Over>,
    #[serde(deserialize_with = "present")]
    pub queues: Option<Queues<8>>,
    #[serde(rename = "queue-size", alias = "queue_size", deserialize_with = "present")]
    pub queue_size: Option<QueueSize>,
    #[serde(deserialize_with = "present")]
    pub offloads: Option<Switch>,
    #[serde(deserialize_with = "present")]
    pub mergeable: Option<Switch>,
    #[serde(rename = "rx-bandwidth", alias = "rx_bandwidth", deserialize_with = "present")]
    pub rx_bandwidth: Option<Bandwidth>,
    #[serde(rename = "rx-bandwidth-burst", alias = "rx_bandwidth_burst", deserialize_with = "present")]
    pub rx_bandwidth_burst: Option<Bandwidth>,
    #[serde(rename = "rx-packets", alias = "rx_packets", deserialize_with = "present")]
    pub rx_packets: Option<PerSecond>,
    #[serde(rename = "rx-packets-burst", alias = "rx_packets_burst", deserialize_with = "present")]
    pub rx_packets_burst: Option<PerSecond>,
    #[serde(rename = "tx-bandwidth", alias = "tx_bandwidth", deserialize_with = "present")]
    pub tx_bandwidth: Option<Bandwidth>,
    #[serde(rename = "tx-bandwidth-burst", alias = "tx_bandwidth_burst", deserialize_with = "present")]
    pub tx_bandwidth_burst: Option<Bandwidth>,
    #[serde(rename = "tx-packets", alias = "tx_packets", deserialize_with = "present")]
    pub tx_packets: Option<PerSecond>,
    #[serde(rename = "tx-packets-burst", alias = "tx_packets_burst", deserialize_with = "present")]
    pub tx_packets_burst: Option<PerSecond>,
}

/// `id=I,transport=T`, or a table with these keys: a device without more to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "on, off, or a table of keys")]
pub struct Plain {
    #[serde(deserialize_with = "present")]
    pub id: Option<Id>,
    #[serde(deserialize_with = "present")]
    pub transport: Option<Over>,
}

/// `to=stdio|FILE[,id=I][,transport=T]`, or a table with these keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "on, off, or a table of keys")]
pub struct Console {
    #[serde(deserialize_with = "present")]
    pub id: Option<Id>,
    #[serde(deserialize_with = "present")]
    pub transport: Option<Over>,
    #[serde(deserialize_with = "present")]
    pub to: Option<PathBuf>,
}

/// A device of which there is one or none: `on`, `off`, or its options, which mean that it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Single<T> {
    Is(Switch),
    With(T),
}

impl<T: Default> Single<T> {
    /// What was said of it; `None` if it is not there. `by_default` is for where nothing was said.
    pub fn settle(said: Option<Self>, by_default: bool) -> Option<T> {
        match said.unwrap_or(Self::Is(Switch(by_default))) {
            Self::Is(Switch(false)) => None,
            Self::Is(Switch(true)) => Some(T::default()),
            Self::With(options) => Some(options),
        }
    }
}

/// The values of an option are plain words, which serde does not take for an `Option`.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text::parse_option(text, Some("path"))
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text::parse_option(text, Some("tap"))
    }
}

impl TryFrom<NetKeys> for Net {
    type Error = &'static str;

    fn try_from(keys: NetKeys) -> Result<Self, &'static str> {
        match (&keys.tap, &keys.fd) {
            (None, None) => Err("the key 'tap' is missing, or 'fd' for one that is open"),
            (Some(_), Some(_)) => Err("'tap' and 'fd' are two interfaces; a net has one of them"),
            _ => Ok(Self(keys)),
        }
    }
}

impl<T: DeserializeOwned> FromStr for Single<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, rest) = text.split_once(',').map_or((text, None), |(first, rest)| (first, Some(rest)));
        if first.contains('=') {
            return text::parse_option(text, None).map(Self::With);
        }
        let switch: Switch = first.parse().map_err(|error| format!("{error}, nor of the form key=value"))?;
        match rest {
            None => Ok(Self::Is(switch)),
            Some(_) if !switch.0 => Err("what is off has no options".into()),
            Some(rest) => text::parse_option(rest, None).map(Self::With),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Single<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(SingleVisitor(PhantomData))
    }
}

struct SingleVisitor<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for SingleVisitor<T> {
    type Value = Single<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("on, off, or a table of keys")
    }

    fn visit_bool<E: de::Error>(self, is: bool) -> Result<Single<T>, E> {
        Ok(Single::Is(Switch(is)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Single<T>, E> {
        text.parse().map(Single::Is).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Single<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Single::With)
    }
}
