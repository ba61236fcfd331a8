//! `ambit plan --diff`: what is not the same in two machines, each a lock, a printed plan or a configuration.

use std::path::Path;

use ambit_device_manager::{Arch, Board, HostFacts, RegionKind, Reservation};
use ambit_resources::PaBits;
use serde::{Deserialize, Serialize};

use crate::config::{self, FileError};
use crate::document::{self, DocumentError, Kind, SCHEMA, Schema};
use crate::failure::{Exit, Failure};
use crate::map::{Address, Difference, Map, MapIrq, MapRegion};
use crate::report::{self, Format};
use crate::{cli, lock, models};

/// As `plan --format json` prints it; what else it has does not matter here.
#[derive(Deserialize)]
struct Printed {
    #[serde(rename = "schema")]
    _schema: Schema,
    board: String,
    arch: Arch,
    /// Null where there was no plan.
    ipa_bits: Option<PaBits>,
    cpus: u32,
    regions: Vec<PrintedRegion>,
    irqs: Vec<MapPin>,
}

#[derive(Deserialize)]
struct PrintedRegion {
    name: String,
    kind: RegionKind,
    /// Null where it was dropped.
    base: Option<Address>,
    size: u64,
    #[serde(default)]
    room: Option<u64>,
}

#[derive(Deserialize)]
struct MapPin {
    name: String,
    pin: u32,
}

/// The keys by which a lock and a plan are told from a configuration and from one another.
#[derive(Deserialize)]
struct Keys {
    plan: Option<serde::de::IgnoredAny>,
    sha256: Option<serde::de::IgnoredAny>,
    regions: Option<serde::de::IgnoredAny>,
}

/// Asks this host what it can do. `None`: there is no KVM.
pub type Here<'a> = &'a dyn Fn() -> Option<HostFacts>;

/// The map in the file at `path`, by what is in it. A configuration is planned for the host in the
/// file `host`, or for this one, as `ambit plan` does.
///
/// # Errors
/// [`Failure`] if it is none of the three, or a configuration without a plan.
fn map(path: &Path, boards: &[&dyn Board], host: Option<&Path>, here: Here<'_>) -> Result<Map, Failure> {
    let text = match document::read(Kind::Plan, path) {
        // A configuration may say nothing.
        Err(DocumentError::Empty { .. }) if path.extension().is_some_and(|it| it == "toml") => String::new(),
        read => read?,
    };
    if let Ok(keys) = serde_json::from_str::<Keys>(&text) {
        if keys.sha256.is_some() || keys.plan.is_some() {
            return Ok(lock::parse(&text, path)?.map);
        }
        if keys.regions.is_some() {
            return printed(&text, path);
        }
    }
    let config = config::parse(&text, path).map_err(|error| match error {
        // Nothing says that it was meant to be a configuration.
        FileError::Wrong { path, line, column, what } => {
            let what = format!("this is no lock, no printed plan and no configuration: {what}");
            FileError::Wrong { path, line, column, what }
        }
        other => other,
    });
    let settings = config::settle(config.map_err(config::ConfigError::from)?, boards, None)?;
    let (host, _) = cli::host_for(host, settings.board.arch(), here)?;
    let plan = models::plan(&settings, host.as_ref())?;
    Ok(Map::new(&plan, &settings))
}

fn printed(text: &str, path: &Path) -> Result<Map, Failure> {
    let plan: Printed = document::parse(Kind::Plan, text, path)?;
    let Some(ipa_bits) = plan.ipa_bits else {
        let what = "is of a machine that did not fit, and has no addresses".into();
        return Err(DocumentError::Untrue { kind: Kind::Plan, path: path.into(), what }.into());
    };
    let placed = plan.regions.into_iter().filter(|region| !Reservation::is(region.kind, &region.name));
    let placed = placed.filter_map(|region| {
        let PrintedRegion { name, kind, base, size, room } = region;
        Some(MapRegion { name, kind, base: base?, size, room })
    });
    Ok(Map {
        board: plan.board,
        board_options: None,
        particulars: Vec::new(),
        arch: plan.arch,
        cpus: plan.cpus,
        ipa_bits,
        regions: placed.collect(),
        devices: None,
        irqs: plan.irqs.into_iter().map(|MapPin { name, pin }| MapIrq { name, pin }).collect(),
    })
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    same: bool,
    differences: &'a [Difference],
}

/// Says what is not the same in `after` as in `before`, like `diff`: exits with 1 if anything is.
///
/// # Errors
/// [`Failure`] if one of the files has no map, or the output cannot be written.
pub fn diff(
    before: &Path,
    after: &Path,
    boards: &[&dyn Board],
    host: Option<&Path>,
    here: Here<'_>,
    format: Format,
) -> Result<Exit, Failure> {
    let (before, after) = (map(before, boards, host, here)?, map(after, boards, host, here)?);
    let differences = before.differences(&after);
    let same = differences.is_empty();
    report::print(&match format {
        Format::Json => report::json(&Report { schema: SCHEMA, same, differences: &differences }),
        Format::Table if same => "the maps are the same\n".into(),
        Format::Table => differences.iter().map(|difference| format!("{difference}\n")).collect(),
    })?;
    Ok(if same { Exit::Done } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use ambit_device_manager::{Width, WidthSource};

    use super::*;
    use crate::toy::{PC, TOY};

    #[test]
    fn a_configuration_is_planned_for_this_host_where_it_could_run_there() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let (own, other) = if Arch::host() == Arch::Aarch64 { ("toy", "pc") } else { ("pc", "toy") };
        let planned = |board: &str, bits: u8| {
            std::fs::write(path.path(), format!("board = '{board}'\nmemory = '2000G'\n")).unwrap();
            let width = Width { bits: PaBits::new(bits).unwrap(), source: WidthSource::Host };
            let here = || Some(HostFacts { width, ..HostFacts::assumed() });
            map(path.path(), &[&TOY, &PC], None, &here).map_err(|failure| failure.to_string())
        };

        assert_eq!(planned(own, 48).unwrap().ipa_bits.get(), 41);
        assert!(planned(own, 36).unwrap_err().contains("this host has 36"));
        assert!(planned(other, 48).unwrap_err().contains("40 were assumed"));
    }
}
