//! A host profile: what `ambit probe` says of a host, read back to plan for that host elsewhere.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use ambit_device_manager::{Arch, Diagnostic, HostFacts, Processor, Severity, Width, WidthSource};
use ambit_resources::{PaBits, human_size};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, SeqAccess, Visitor};

use crate::document::{self, DocumentError, Kind, Schema};

/// One host, as its profile says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    pub name: Option<String>,
    pub arch: Arch,
    pub facts: HostFacts,
}

/// The keys of the file: those of `ambit probe --format json`, and a name. Null is what was not asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a host profile")]
struct File {
    #[serde(rename = "schema")]
    _schema: Schema,
    arch: Arch,
    #[serde(default)]
    name: Option<String>,
    #[serde(default = "yes")]
    kvm: bool,
    #[serde(default, rename = "api_version")]
    _api_version: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "ipa_bits")]
    ipa_bits: Option<u64>,
    #[serde(default, rename = "ipa_bits_known")]
    _ipa_bits_known: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "gic_versions")]
    gic_versions: Option<Vec<u8>>,
    #[serde(default)]
    its: Option<bool>,
    #[serde(default, deserialize_with = "max_cpus")]
    max_cpus: Option<u64>,
    #[serde(default, rename = "recommended_cpus")]
    _recommended_cpus: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "memory_slots")]
    memory_slots: Option<u64>,
    #[serde(default, deserialize_with = "page_size")]
    page_size: Option<u64>,
    #[serde(default)]
    processor: Option<Processor>,
    #[serde(default, rename = "problems")]
    _problems: Option<IgnoredAny>,
}

fn yes() -> bool {
    true
}

/// A number within limits that a host has, or null.
struct Number {
    key: &'static str,
    limits: RangeInclusive<u64>,
    /// What hosts have.
    have: &'static str,
}

impl Number {
    fn checked<E: de::Error>(&self, number: impl fmt::Display, value: Option<u64>) -> Result<Option<u64>, E> {
        match value.filter(|value| self.limits.contains(value)) {
            Some(value) => Ok(Some(value)),
            None => Err(E::custom(format!("{} is {number}, and a host has {}", self.key, self.have))),
        }
    }
}

impl Visitor<'_> for Number {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as a number: {}", self.key, self.have)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Option<u64>, E> {
        self.checked(number, Some(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Option<u64>, E> {
        self.checked(number, u64::try_from(number).ok())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Option<u64>, E> {
        // 40.0 is not written as the number that would do.
        self.checked(format!("{number:?}"), None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<u64>, E> {
        Ok(None)
    }
}

fn ipa_bits<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let limits = u64::from(PaBits::MIN.get())..=u64::from(PaBits::MAX.get());
    from.deserialize_any(Number { key: "ipa_bits", limits, have: "32 to 52 physical address bits" })
}

fn max_cpus<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let limits = 1..=u64::from(u32::MAX);
    from.deserialize_any(Number { key: "max_cpus", limits, have: "1 to 4294967295 vCPUs for a guest" })
}

fn memory_slots<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let limits = 1..=u64::from(u32::MAX);
    from.deserialize_any(Number { key: "memory_slots", limits, have: "1 to 4294967295 memory slots" })
}

const PAGES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

fn page_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    const HAVE: &str = "pages of 4096, 16384 or 65536 bytes";
    let size = from.deserialize_any(Number { key: "page_size", limits: 0..=u64::MAX, have: HAVE })?;
    match size.filter(|size| !PAGES.contains(size)) {
        Some(size) => Err(de::Error::custom(format!("page_size is {size}, and a host has {HAVE}"))),
        None => Ok(size),
    }
}

fn gic_versions<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
    struct Versions;

    impl<'de> Visitor<'de> for Versions {
        type Value = Option<Vec<u8>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("gic_versions as a list of 2, 3 and 4")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut from: S) -> Result<Self::Value, S::Error> {
            let mut versions = Vec::new();
            while let Some(version) = from.next_element::<u64>()? {
                match u8::try_from(version) {
                    Ok(version) if (2..=4).contains(&version) => versions.push(version),
                    _ => {
                        let text = format!("gic_versions has {version}, and a host has 2, 3 and 4");
                        return Err(de::Error::custom(text));
                    }
                }
            }
            versions.sort_unstable();
            versions.dedup();
            Ok(Some(versions))
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    from.deserialize_any(Versions)
}

/// The profile in the file at `path`.
///
/// # Errors
/// [`DocumentError`] if it cannot be read, is none, or is one of a host without KVM.
pub fn read(path: &Path) -> Result<Profile, DocumentError> {
    parse(&document::read(Kind::Profile, path)?, path)
}

/// The profile in `text`, which is from the file at `path`.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, path: &Path) -> Result<Profile, DocumentError> {
    let file: File = document::parse(Kind::Profile, text, path)?;
    let untrue = |what: String| DocumentError::Untrue { kind: Kind::Profile, path: path.into(), what };
    if !file.kvm {
        return Err(untrue("says that this host has no KVM, so no guest can be planned for it".into()));
    }
    let missing = |key: &str| untrue(format!("does not say {key}"));
    let bits = file.ipa_bits.ok_or_else(|| missing("ipa_bits"))?;
    let bits =
        u8::try_from(bits).ok().and_then(PaBits::new).expect("checked to be 32 to 52 when it was read");
    let page_size = file.page_size.ok_or_else(|| missing("page_size"))?;
    if file.arch == Arch::X86_64 && page_size != PAGES[0] {
        return Err(untrue(format!(
            "says page_size {page_size}, and an x86_64 host has pages of 4096 bytes"
        )));
    }
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(Profile {
        name: file.name,
        arch: file.arch,
        facts: HostFacts {
            width: Width { bits, source: WidthSource::Host },
            page_size,
            max_cpus: count(file.max_cpus.ok_or_else(|| missing("max_cpus"))?),
            gic_versions: file.gic_versions.ok_or_else(|| missing("gic_versions"))?,
            its: file.its.ok_or_else(|| missing("its"))?,
            memory_slots: count(file.memory_slots.ok_or_else(|| missing("memory_slots"))?),
            processor: file.processor,
        },
    })
}

/// The facts in the file at `path`, of a host for `arch`, and the note that they are not this host's.
///
/// # Errors
/// As [`read`], and for a host of another architecture.
pub fn facts(path: &Path, arch: Arch) -> Result<(HostFacts, Diagnostic), DocumentError> {
    let profile = read(path)?;
    if profile.arch != arch {
        let what =
            format!("is of an {} host, and the board is an {} machine", profile.arch.name(), arch.name());
        return Err(DocumentError::Untrue { kind: Kind::Profile, path: path.into(), what });
    }
    let note = note(&profile, path);
    Ok((profile.facts, note))
}

fn note(profile: &Profile, path: &Path) -> Diagnostic {
    let facts = &profile.facts;
    let name = profile.name.as_ref().map(|name| format!(" '{name}'")).unwrap_or_default();
    let gics: Vec<String> = facts.gic_versions.iter().map(|version| format!("GICv{version}")).collect();
    Diagnostic {
        code: "host-from-file".into(),
        severity: Severity::Note,
        message: format!(
            "\"this host\" is{name} of {}: {} physical address bits, pages of {}, {} vCPUs, {}, {} ITS",
            path.display(),
            facts.width.bits,
            human_size(facts.page_size),
            facts.max_cpus,
            if gics.is_empty() { "no GIC".into() } else { gics.join(" and ") },
            if facts.its { "an" } else { "no" },
        ),
        remedies: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
