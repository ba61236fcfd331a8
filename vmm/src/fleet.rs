//! `ambit fleet`: which of many hosts can hold one machine with the very same addresses.

mod report;

use std::collections::HashMap;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ambit_device_manager::{
    Board, HostFacts, MachineConfig, Plan, Processor, Refusal, Region, Status, Vendor, Width, WidthSource,
    attempt, plan,
};
use ambit_resources::{PaBits, human_size};

use crate::cli::FleetArgs;
use crate::config::{Bits, Settings};
use crate::failure::{Exit, Failure};
use crate::map::Map;
use crate::models;
use crate::profile::{self, Profile};
use crate::report::{Format, counted, print};

/// Why a directory is none of host profiles.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("the directory of hosts {} cannot be read: {source}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "the directory of hosts {} has no *.json; write a profile of each host with 'ambit probe --save'",
        .path.display()
    )]
    Empty { path: PathBuf },
}

/// What one host is to the machine, best first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// Every address is that of a host which can hold everything.
    Same,
    /// It runs, with these differences.
    Differs(String),
    Refused {
        reason: String,
        remedies: Vec<String>,
    },
    Unreadable {
        reason: String,
        remedies: Vec<String>,
    },
}

/// One host with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    name: String,
    /// `None` if its profile cannot be read.
    bits: Option<PaBits>,
    answer: Answer,
}

/// What is to be said of all hosts.
struct Fleet {
    /// What the machine is, in a line.
    machine: String,
    /// The fewest bits with which it has all its addresses.
    needs: Option<PaBits>,
    /// What every host of its kind has.
    common: Option<PaBits>,
    /// A width to allow with which more hosts have the same addresses, and how many.
    better: Option<(PaBits, usize)>,
    hosts: Vec<Host>,
}

/// # Errors
/// [`Failure`] if the machine fits nowhere, or the directory cannot be read.
pub fn fleet(args: &FleetArgs, boards: &[&dyn Board]) -> Result<Exit, Failure> {
    let mut machine = args.machine.clone();
    machine.config = args.file.clone().or(machine.config);
    let settings = machine.settings(boards, None)?;
    let fleet = judge(&settings, &profiles(&args.hosts)?)?;
    print(&match args.format {
        Format::Json => report::json(&fleet),
        Format::Table => report::table(&fleet),
    })?;
    let unreadable = |host: &Host| matches!(host.answer, Answer::Unreadable { .. });
    let broken = fleet.hosts.iter().filter(|host| unreadable(host)).count();
    let same = fleet.hosts.iter().filter(|host| host.answer == Answer::Same).count();
    Ok(match fleet.hosts.len() - broken {
        0 => Exit::BadInput,
        _ if broken > 0 && args.machine.strict => Exit::BadInput,
        readable if readable == same => Exit::Done,
        _ => Exit::DoesNotFit,
    })
}

/// Every `*.json` in `directory`, sorted by name.
fn profiles(directory: &Path) -> Result<Vec<PathBuf>, FleetError> {
    let unreadable = |source| FleetError::Directory { path: directory.into(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    if paths.is_empty() { Err(FleetError::Empty { path: directory.into() }) } else { Ok(paths) }
}

/// A host's name, and its profile or why there is none and what would help.
type Read = (String, Result<Profile, (String, Vec<String>)>);

/// Answers for every host in `paths`.
///
/// # Errors
/// [`Failure`] if the machine fits no host whatever.
fn judge(settings: &Settings<'_>, paths: &[PathBuf]) -> Result<Fleet, Failure> {
    let mut progress = Progress::new(paths.len());
    let mut hosts = Vec::with_capacity(paths.len());
    for (index, path) in paths.iter().enumerate() {
        progress.reached(index);
        let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let profile = read(path);
        let own = profile.as_ref().ok().and_then(|profile| profile.name.clone());
        hosts.push((own.unwrap_or_else(stem), profile));
    }
    let arch = settings.board.arch();
    let of_arch = |profile: &&Profile| profile.arch == arch;
    let readable = hosts.iter().filter_map(|(_, profile)| profile.as_ref().ok());
    let facts: Vec<HostFacts> = readable.filter(of_arch).map(|profile| profile.facts.clone()).collect();
    progress.over();
    let judge = Judge::new(settings, able(PaBits::MAX, settings, &facts))?;
    Ok(judge.judge(hosts, &facts, &mut progress))
}

fn read(path: &Path) -> Result<Profile, (String, Vec<String>)> {
    // A pipe would be waited for.
    if fs::metadata(path).is_ok_and(|about| !about.is_file() && !about.is_dir()) {
        return Err((format!("{} is not a file", path.display()), Vec::new()));
    }
    profile::read(path).map_err(|error| (error.to_string(), error.remedies()))
}

/// What of a host has a say in its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    bits: PaBits,
    page_size: u64,
    max_cpus: u32,
    gic_versions: Vec<u8>,
    its: bool,
    memory_slots: u32,
    processor: Option<Processor>,
}

impl From<&HostFacts> for Key {
    fn from(facts: &HostFacts) -> Self {
        Self {
            bits: facts.width.bits,
            page_size: facts.page_size,
            max_cpus: facts.max_cpus,
            gic_versions: facts.gic_versions.clone(),
            its: facts.its,
            memory_slots: facts.memory_slots,
            processor: facts.processor.clone(),
        }
    }
}

/// One machine, held against hosts. What was said of one host is said of all that are like it.
struct Judge<'a> {
    settings: &'a Settings<'a>,
    /// A host that has all there is.
    able: HostFacts,
    config: MachineConfig,
    reference: Plan,
    map: Map,
    known: HashMap<Key, Answer>,
    /// What would help, by what was refused.
    help: HashMap<String, Vec<String>>,
}

impl<'a> Judge<'a> {
    /// # Errors
    /// [`Failure`] if the machine fits no host whatever.
    fn new(settings: &'a Settings<'a>, able: HostFacts) -> Result<Self, Failure> {
        let config = models::machine_config(settings);
        let facts = settings.facts(able.clone())?;
        let reference = plan(&*settings.board, &config, &facts)?;
        let map = Map::of(&reference);
        let (known, help) = (HashMap::new(), HashMap::new());
        Ok(Self { settings, able, config, reference, map, known, help })
    }

    /// `facts` are of those that are of the board's kind.
    fn judge(mut self, all: Vec<Read>, facts: &[HostFacts], progress: &mut Progress) -> Fleet {
        let mut hosts = Vec::with_capacity(all.len());
        for (index, (name, profile)) in all.into_iter().enumerate() {
            progress.reached(index);
            hosts.push(match profile {
                Ok(profile) => {
                    Host { name, bits: Some(profile.facts.width.bits), answer: self.answer(&profile) }
                }
                Err((reason, remedies)) => {
                    Host { name, bits: None, answer: Answer::Unreadable { reason, remedies } }
                }
            });
        }
        progress.over();
        let same = hosts.iter().filter(|host| host.answer == Answer::Same).count();
        let common = facts.iter().map(|facts| facts.width.bits).min();
        let better = common.and_then(|bits| self.better(bits, facts, same));
        Fleet { machine: self.machine(), needs: self.needs(), common, better, hosts }
    }

    fn answer(&mut self, profile: &Profile) -> Answer {
        let board = &*self.settings.board;
        if profile.arch != board.arch() {
            let (host, name, wanted) = (profile.arch.name(), board.name(), board.arch().name());
            let reason = format!("this is an {host} host, and board {name} is an {wanted} machine");
            return Answer::Refused { reason, remedies: vec![format!("use a host that is {wanted}")] };
        }
        self.known_or_found(&profile.facts)
    }

    fn known_or_found(&mut self, facts: &HostFacts) -> Answer {
        let key = Key::from(facts);
        if let Some(answer) = self.known.get(&key) {
            return answer.clone();
        }
        let answer = self.find(facts);
        self.known.insert(key, answer.clone());
        answer
    }

    fn find(&mut self, host: &HostFacts) -> Answer {
        let facts = match self.settings.facts(host.clone()) {
            Ok(facts) => facts,
            Err(error) => {
                return Answer::Refused { reason: error.to_string(), remedies: error.remedies() };
            }
        };
        let board = &*self.settings.board;
        match attempt(board, &self.config, &facts) {
            Ok(plan) => match Map::of(&plan) == self.map {
                true => Answer::Same,
                false => Answer::Differs(self.difference(&plan)),
            },
            Err(error) => {
                // What would help is a search, and the same wherever the same is refused.
                let config = &self.config;
                let search = || match plan(board, config, &facts) {
                    Err(Refusal { remedies, .. }) => remedies.iter().map(ToString::to_string).collect(),
                    Ok(_) => Vec::new(),
                };
                let reason = error.to_string();
                let remedies = self.help.entry(reason.clone()).or_insert_with(search).clone();
                Answer::Refused { reason, remedies }
            }
        }
    }

    /// The regions that are not as they are elsewhere, with why; else the first thing that is not.
    fn difference(&self, plan: &Plan) -> String {
        let worse = |region: &&Region| {
            let elsewhere = self.reference.region(&region.name).map(|region| region.status);
            region.status != Status::Placed && elsewhere != Some(region.status)
        };
        let lost: Vec<String> = plan
            .regions
            .iter()
            .filter(worse)
            .map(|region| {
                let verb = if region.status == Status::Dropped { "is left out" } else { "is smaller" };
                let why = region.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                format!("{} {verb}{why}", region.name)
            })
            .collect();
        if !lost.is_empty() {
            return lost.join("; ");
        }
        let differences = self.map.differences(&Map::of(plan));
        differences.first().map_or_else(|| "its map is another".into(), ToString::to_string)
    }

    /// The fewest bits with which a host that has all else has all addresses.
    fn needs(&self) -> Option<PaBits> {
        let all = (PaBits::MIN.get()..=PaBits::MAX.get()).filter_map(PaBits::new);
        let same = |bits: &PaBits| {
            let width = Width { bits: *bits, ..self.able.width };
            let Ok(facts) = self.settings.facts(HostFacts { width, ..self.able.clone() }) else {
                return false;
            };
            attempt(&*self.settings.board, &self.config, &facts).is_ok_and(|plan| Map::of(&plan) == self.map)
        };
        all.into_iter().find(same)
    }

    /// How many of `hosts` have the same addresses if the machine is allowed no more than `bits`, where that is
    /// more than `same`.
    fn better(&self, bits: PaBits, hosts: &[HostFacts], same: usize) -> Option<(PaBits, usize)> {
        let mut settings = self.settings.clone();
        if same == hosts.len() || matches!(settings.bits, Bits::Of(allowed) if allowed <= bits) {
            return None;
        }
        settings.bits = Bits::Of(bits);
        let mut judge = Judge::new(&settings, self.able.clone()).ok()?;
        let answers = hosts.iter().map(|facts| judge.known_or_found(facts));
        let count = answers.filter(|answer| *answer == Answer::Same).count();
        Some((bits, count)).filter(|_| count > same)
    }

    fn machine(&self) -> String {
        let plan = &self.reference;
        let memory = plan.ram().map(|range| range.size()).sum();
        let (memory, cpus) = (human_size(memory), counted(u64::from(plan.cpus), "vCPU"));
        format!("board {} ({}), {cpus}, {memory} of memory", plan.board, plan.arch.name())
    }
}

/// A host of this width that has all else, and of a processor that keeps free what those of `hosts` do by their vendor.
fn able(bits: PaBits, settings: &Settings<'_>, hosts: &[HostFacts]) -> HostFacts {
    let width = Width { bits, source: WidthSource::Host };
    let assumed = settings.assumed();
    let vendors = || hosts.iter().filter_map(|host| Some(host.processor.as_ref()?.vendor));
    let keeps = |vendor: &Vendor| matches!(vendor, Vendor::Amd | Vendor::Hygon);
    let vendor = vendors().find(keeps).or(vendors().next());
    let processor = assumed.processor.map(|any| Processor { vendor: vendor.unwrap_or(any.vendor), ..any });
    HostFacts { width, max_cpus: u32::MAX, memory_slots: u32::MAX, processor, ..assumed }
}

/// Says on a terminal how far a long look has come.
struct Progress {
    all: usize,
    began: Instant,
    said: bool,
}

impl Progress {
    const PATIENCE: Duration = Duration::from_secs(2);

    fn new(all: usize) -> Self {
        Self { all, began: Instant::now(), said: false }
    }

    fn reached(&mut self, index: usize) {
        if index.is_multiple_of(256) && self.began.elapsed() > Self::PATIENCE && io::stderr().is_terminal() {
            self.said = true;
            // Nothing depends on its being seen.
            let _unseen = write!(io::stderr(), "\r{index} of {} hosts", self.all);
        }
    }

    fn over(&self) {
        if self.said {
            let _unseen = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests;
