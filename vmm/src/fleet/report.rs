//! What `ambit fleet` prints: groups for people, a list for schedulers.

use std::collections::BTreeMap;

use ambit_resources::PaBits;
use serde::Serialize;

use super::{Answer, Fleet, Host};
use crate::document::SCHEMA;
use crate::report::{self, Align, Grid};

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    machine: &'a str,
    /// Null if no host has all its addresses.
    needs_bits: Option<PaBits>,
    common_bits: Option<PaBits>,
    /// A width to allow with which more hosts have the same addresses; null if there is none.
    better_bits: Option<PaBits>,
    hosts: Vec<HostReport<'a>>,
}

#[derive(Serialize)]
struct HostReport<'a> {
    name: &'a str,
    status: &'static str,
    ipa_bits: Option<PaBits>,
    reason: Option<&'a str>,
    remedies: &'a [String],
}

impl Answer {
    fn status(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Differs(_) => "differs",
            Self::Refused { .. } => "refused",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Same => None,
            Self::Differs(reason) | Self::Refused { reason, .. } | Self::Unreadable { reason, .. } => {
                Some(reason)
            }
        }
    }

    fn remedies(&self) -> &[String] {
        match self {
            Self::Same | Self::Differs(_) => &[],
            Self::Refused { remedies, .. } | Self::Unreadable { remedies, .. } => remedies,
        }
    }
}

/// For programs.
pub fn json(fleet: &Fleet) -> String {
    let hosts = fleet.hosts.iter().map(|host| HostReport {
        name: &host.name,
        status: host.answer.status(),
        ipa_bits: host.bits,
        reason: host.answer.reason(),
        remedies: host.answer.remedies(),
    });
    report::json(&Report {
        schema: SCHEMA,
        machine: &fleet.machine,
        needs_bits: fleet.needs,
        common_bits: fleet.common,
        better_bits: fleet.better.map(|(bits, _)| bits),
        hosts: hosts.collect(),
    })
}

/// For people: hosts with the same answer are one row.
pub fn table(fleet: &Fleet) -> String {
    let mut text = format!("{}\n{}\n\n", fleet.machine, width(fleet));
    let mut grid = Grid::new(&[
        ("HOSTS", Align::Right),
        ("ANSWER", Align::Left),
        ("BITS", Align::Left),
        ("NAMES", Align::Left),
    ]);
    let groups = groups(fleet);
    for (answer, hosts) in &groups {
        grid.row([hosts.len().to_string(), answer.status().into(), bits(hosts), names(hosts)]);
    }
    text += &grid.text();
    for (answer, hosts) in &groups {
        let Some(reason) = answer.reason() else { continue };
        text += &format!("\n{} {}: {reason}\n", names(hosts), answer.status());
        for remedy in answer.remedies() {
            text += &format!("  help: {remedy}\n");
        }
    }
    text
}

fn width(fleet: &Fleet) -> String {
    let read: Vec<PaBits> = fleet.hosts.iter().filter_map(|host| host.bits).collect();
    let needs = match fleet.needs {
        Some(needs) => {
            let have = read.iter().filter(|bits| **bits >= needs).count();
            format!("needs {needs} physical address bits; {have} of {} hosts have them", read.len())
        }
        None => "no number of physical address bits is enough for all of it".into(),
    };
    let common = fleet.common.map(|common| format!("; every host has {common}")).unwrap_or_default();
    let better = fleet.better.map(|(bits, count)| {
        let hosts = report::counted(count as u64, "host");
        format!("\nwith --pa-bits {bits} the addresses are the same on {hosts}")
    });
    format!("{needs}{common}{}", better.unwrap_or_default())
}

/// Hosts with the same answer, in the order of answers.
fn groups(fleet: &Fleet) -> Vec<(&Answer, Vec<&Host>)> {
    let mut groups: BTreeMap<&Answer, Vec<&Host>> = BTreeMap::new();
    for host in &fleet.hosts {
        groups.entry(&host.answer).or_default().push(host);
    }
    groups.into_iter().collect()
}

/// "40" or "36-48"; "-" where it is not known.
fn bits(hosts: &[&Host]) -> String {
    let all = || hosts.iter().filter_map(|host| host.bits);
    match (all().min(), all().max()) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("{least}-{most}"),
        _ => "-".into(),
    }
}

/// The first few, and how many more.
fn names(hosts: &[&Host]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = hosts.iter().take(SHOWN).map(|host| host.name.as_str()).collect();
    match hosts.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
