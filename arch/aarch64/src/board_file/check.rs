//! What is wrong with a board although its file can be read: parts in each other's way, parts that nothing
//! reaches, pins with two owners.

use ambit_bus::Needs;
use ambit_device_manager::{Severity, pci};
use ambit_resources::{AddressRange, PaBits, bits_for, human_size};

use super::finding::{Finding, Spot, hex, size_text};
use super::{BoardFile, trial};
use crate::gic;
use crate::spec::{BoardSpec, GicSpec, ItsPlace, RedistSpec, reserved_name};

// Rule: no RAM where Linux's SMMU driver puts the MSI doorbell of a guest's devices (arm-smmu-v3,
// MSI_IOVA_BASE and MSI_IOVA_LENGTH): with device assignment a DMA to it never reaches RAM.
const MSI_WINDOW: AddressRange = AddressRange::fixed(0x0800_0000, 1 << 20);
/// BARs of 32 bits are there.
const LOW: AddressRange = AddressRange::fixed(0, 1 << 32);
/// The smallest machine that is of use, in bytes of RAM.
pub(super) const SMALL: u64 = 512 << 20;
/// How many overlaps are told.
const MOST: usize = 32;
/// How many holes are told.
const HOLES: usize = 4;
/// Smaller ones are nobody's concern, in bytes.
const HOLE: u64 = 1 << 20;

/// Everything its author should know of a board, worst first.
pub fn check(file: &BoardFile) -> Vec<Finding> {
    let mut check = Check { file, spec: &file.board.spec, findings: Vec::new() };
    let mut parts = check.parts();
    parts.sort_by_key(|part| part.range.first());
    check.overlaps(&parts);
    check.reach(&parts);
    check.ram(&parts);
    check.devices(&parts);
    check.redistributors();
    check.pins();
    check.pci();
    check.fixtures();
    check.holes(&parts);
    check.name();
    if !check.findings.iter().any(|finding| finding.severity == Severity::Error) {
        check.findings.extend(trial::run(file));
    }
    check.findings.sort_by_key(|finding| std::cmp::Reverse(rank(finding.severity)));
    check.findings
}

fn rank(severity: Severity) -> u8 {
    match severity {
        Severity::Note => 0,
        Severity::Warning => 1,
        Severity::Error => 2,
    }
}

/// How many vCPUs the interrupt controller has room for, wherever RAM ends.
pub(super) fn most_cpus(gic: &GicSpec) -> u64 {
    let GicSpec::V3 { redists, v4, .. } = gic else { return u64::from(gic::V2_MAX_CPUS) };
    let stride = if *v4 { gic::REDIST_V4_SIZE } else { gic::REDIST_SIZE };
    let room = |redist: &RedistSpec| match redist {
        RedistSpec::Up { window, .. } => window.size() / stride,
        RedistSpec::Down { top } => top / stride,
        RedistSpec::High { off: Some(_), .. } => 0,
        RedistSpec::High { size, .. } => size / stride,
    };
    redists.iter().map(room).fold(0, u64::saturating_add)
}

pub(super) struct Check<'f> {
    pub file: &'f BoardFile,
    pub spec: &'f BoardSpec,
    findings: Vec<Finding>,
}

/// A part with a place whatever the machine.
struct Part {
    name: String,
    range: AddressRange,
    /// The marks that say it, best first.
    marks: Vec<String>,
}

fn part(name: &str, range: AddressRange, marks: &[&str]) -> Part {
    let marks = std::iter::once(name).chain(marks.iter().copied()).map(String::from).collect();
    Part { name: name.into(), range, marks }
}

impl Check<'_> {
    pub fn say(&mut self, severity: Severity, spot: Spot, message: String, help: impl Into<Option<String>>) {
        self.findings.push(Finding { severity, spot, message, help: help.into() });
    }

    fn spot(&self, part: &Part) -> Spot {
        self.file.marks.at(&part.marks.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// All parts below RAM, with the room they have for as many vCPUs as there may be.
    fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        parts.extend(self.spec.reserved.iter().map(|(name, range)| part(&reserved_name(name), *range, &[])));
        match &self.spec.gic {
            GicSpec::V2 { dist, cpu, .. } => {
                parts.push(part(gic::DIST, *dist, &["gic"]));
                parts.push(part(gic::CPU, *cpu, &["gic"]));
            }
            GicSpec::V3 { dist, its, redists, v4 } => {
                let frame = |at, size| AddressRange::new(at, size);
                parts.extend(frame(*dist, gic::DIST_SIZE).map(|range| part(gic::DIST, range, &["gic"])));
                let low: Vec<Part> =
                    self.redists(redists, if *v4 { gic::REDIST_V4_SIZE } else { gic::REDIST_SIZE });
                let its = match its {
                    Some(ItsPlace::At(at)) => Some(*at),
                    Some(ItsPlace::BelowRedists) => {
                        let lowest = low.iter().map(|part| part.range.first()).min();
                        lowest.and_then(|lowest| lowest.checked_sub(gic::ITS_SIZE))
                    }
                    None => None,
                };
                let its = its.and_then(|at| frame(at, gic::ITS_SIZE));
                parts.extend(its.map(|range| part(gic::ITS, range, &["gic"])));
                parts.extend(low);
            }
        }
        if let Some(pci) = &self.spec.pci {
            parts.push(part(pci::ECAM, pci.ecam, &["pci"]));
            parts.extend(pci.io.map(|io| part(pci::IO, io, &["pci"])));
            parts.push(part(pci::MMIO32, pci.mmio32, &["pci"]));
        }
        for fixture in &self.spec.fixtures {
            let Needs::Board { registers, .. } = fixture.fixture().request.needs else { continue };
            let mark = format!("fixture.{}", fixture.id);
            let range = AddressRange::new(fixture.base, registers);
            parts.extend(range.map(|range| part(&fixture.id, range, &[&mark])));
        }
        parts
    }

    fn redists(&self, redists: &[RedistSpec], stride: u64) -> Vec<Part> {
        let mut left = u64::from(self.spec.max_cpus.min(self.spec.gic.max_cpus()));
        let mut parts = Vec::new();
        for (index, redist) in redists.iter().enumerate() {
            let Some(range) = redist.low(left, stride) else { continue };
            left = left.saturating_sub(range.size() / stride);
            parts.push(part(&gic::redist(index), range, &["gic.redistributors", "gic"]));
        }
        parts
    }

    fn overlaps(&mut self, parts: &[Part]) {
        let marks = &self.file.marks;
        let said = |part: &Part| marks.find(&part.marks.iter().map(String::as_str).collect::<Vec<_>>());
        let mut found = Vec::new();
        for (index, first) in parts.iter().enumerate() {
            let after = parts[index + 1..].iter().take_while(|next| next.range.first() <= first.range.last());
            for second in after {
                if found.len() == MOST {
                    break;
                }
                // The one that is written later is to move.
                let (stays, moves) =
                    if said(first) > said(second) { (second, first) } else { (first, second) };
                let place = said(stays).filter(|(_, spot)| !spot.file.is_empty()).map_or_else(
                    || "inherited".to_owned(),
                    |(_, spot)| format!("line {} of {}", spot.line, spot.file),
                );
                let message = format!(
                    "{} at {} overlaps {} at {} ({place})",
                    moves.name, moves.range, stays.name, stays.range
                );
                let help = format!(
                    "move {} to {} or above, or make one smaller",
                    moves.name,
                    hex(stays.range.last().saturating_add(1))
                );
                found.push((self.spot(moves), message, help));
            }
        }
        for (spot, message, help) in found {
            self.say(Severity::Error, spot, message, help);
        }
    }

    /// Whether everything is within the width, and what has to be low is.
    fn reach(&mut self, parts: &[Part]) {
        let width = self.spec.width.unwrap_or(PaBits::MAX);
        for part in parts.iter().filter(|part| !width.reach().contains(part.range)) {
            let message = format!(
                "{} at {} needs {} address bits, and the board has {width}",
                part.name,
                part.range,
                bits_for(part.range.last())
            );
            self.say(
                Severity::Error,
                self.spot(part),
                message,
                format!("move it below {}", hex(width.ceiling())),
            );
        }
        let low = |part: &&Part| part.name == pci::MMIO32 && !LOW.contains(part.range);
        if let Some(part) = parts.iter().find(low) {
            let message = format!(
                "{} at {} is not below 4 GiB, and no BAR of 32 bits reaches it",
                part.name, part.range
            );
            self.say(Severity::Error, self.spot(part), message, "move it below 0x1_0000_0000".to_owned());
        }
        if self.spec.width.is_some() {
            return;
        }
        let highest = parts
            .iter()
            .filter(|part| width.reach().contains(part.range))
            .max_by_key(|part| part.range.last());
        if let Some(part) = highest.filter(|part| !LOW.contains(part.range)) {
            let message = format!(
                "{} at {} needs {} address bits, so there is no machine on a host with fewer",
                part.name,
                part.range,
                bits_for(part.range.last())
            );
            self.say(Severity::Note, self.spot(part), message, None);
        }
    }

    fn ram(&mut self, parts: &[Part]) {
        let base = self.spec.ram.base;
        let spot = self.file.marks.at(&["ram.base", "ram"]);
        if let Some(part) = parts.iter().find(|part| part.range.contains_address(base)) {
            let message = format!("RAM begins at {}, within {} at {}", hex(base), part.name, part.range);
            let help = format!(
                "begin it at {} or above",
                hex(part.range.last().saturating_add(1).next_multiple_of(2 << 20))
            );
            self.say(Severity::Error, spot, message, help);
            return;
        }
        let wall = parts.iter().find(|part| part.range.first() > base);
        let ceiling = self.spec.width.unwrap_or(PaBits::MAX).ceiling();
        let end = wall.map_or(ceiling, |part| part.range.first());
        let most = end.saturating_sub(base);
        let room = AddressRange::new(base, most);
        if room.is_some_and(|room| room.overlaps(MSI_WINDOW)) {
            let message = format!(
                "RAM from {} can come to cover {MSI_WINDOW}, where DMA of assigned devices is taken for interrupts",
                hex(base)
            );
            let help = format!("begin RAM at {} or above", hex(MSI_WINDOW.last() + 1));
            self.say(Severity::Error, spot.clone(), message, help);
        }
        if most < SMALL {
            let what = wall
                .map_or_else(|| "the width".to_owned(), |part| format!("{} at {}", part.name, part.range));
            let message =
                format!("RAM from {} has {} at most, because of {what}", hex(base), human_size(most));
            self.say(Severity::Error, spot, message, "begin it lower, or move what is above it".to_owned());
        } else if let Some(part) = wall {
            let message =
                format!("{} at {} ends RAM: there are at most {}", part.name, part.range, human_size(most));
            self.say(Severity::Note, self.spot(part), message, None);
        }
    }

    /// The window of optional devices, which may have parts in it and RAM over it, but then less room.
    fn devices(&mut self, parts: &[Part]) {
        let window = self.spec.devices.window;
        let spot = self.file.marks.at(&["devices.base", "devices"]);
        let width = self.spec.width.unwrap_or(PaBits::MAX);
        if !width.reach().contains(window) {
            let message = format!(
                "the devices' window {window} needs {} address bits, and the board has {width}",
                bits_for(window.last())
            );
            self.say(Severity::Error, spot, message, format!("move it below {}", hex(width.ceiling())));
            return;
        }
        if window.last() >= self.spec.ram.base {
            let room = window.first().saturating_sub(self.spec.ram.base);
            let message = format!("RAM of more than {} takes the devices' window {window}", human_size(room));
            self.say(Severity::Warning, spot.clone(), message, "move it below RAM".to_owned());
        }
        for part in parts.iter().filter(|part| part.range.overlaps(window)).take(HOLES) {
            let message = format!("the devices' window {window} has {} at {} in it", part.name, part.range);
            self.say(Severity::Note, spot.clone(), message, None);
        }
    }

    fn redistributors(&mut self) {
        let GicSpec::V3 { redists, v4, its, .. } = &self.spec.gic else { return };
        let stride = if *v4 { gic::REDIST_V4_SIZE } else { gic::REDIST_SIZE };
        let spot = self.file.marks.at(&["gic.redistributors", "gic"]);
        let total = most_cpus(&self.spec.gic);
        let low = redists.iter().any(|redist| !matches!(redist, RedistSpec::High { .. }));
        if total == 0 {
            let message = format!("there is no room for a single redistributor of {}", size_text(stride));
            let help = "write redistributors = [{ base, size }], with 128K for each vCPU".to_owned();
            self.say(Severity::Error, spot, message, help);
        } else if total < u64::from(self.spec.max_cpus) {
            let message =
                format!("redistributors have room for {total} vCPUs, and max_cpus is {}", self.spec.max_cpus);
            self.say(
                Severity::Warning,
                spot,
                message,
                format!("write max_cpus = {total}, or make more room"),
            );
        } else if !low && *its == Some(ItsPlace::BelowRedists) {
            let message = "the ITS is below the redistributors, and none of those is below RAM".to_owned();
            self.say(
                Severity::Error,
                self.file.marks.at(&["gic.its", "gic"]),
                message,
                "write its address".to_owned(),
            );
        }
    }

    fn name(&mut self) {
        if self.file.marks.find(&["name"]).is_none() {
            let message = format!("it has the name of the board it inherits from, '{}'", self.spec.name);
            self.say(Severity::Note, self.file.marks.at(&[]), message, "write name".to_owned());
        }
    }

    /// What is nobody's below RAM, lowest first.
    fn holes(&mut self, parts: &[Part]) {
        let window = Part { name: "devices".into(), range: self.spec.devices.window, marks: Vec::new() };
        let mut taken: Vec<AddressRange> = parts.iter().chain([&window]).map(|part| part.range).collect();
        taken.sort_by_key(|range| range.first());
        let (mut next, mut holes) = (0_u64, Vec::new());
        for range in taken {
            let end = range.first().min(self.spec.ram.base);
            holes.extend(AddressRange::new(next, end.saturating_sub(next)));
            next = next.max(range.last().saturating_add(1));
        }
        holes.extend(AddressRange::new(next, self.spec.ram.base.saturating_sub(next)));
        holes.retain(|hole| hole.size() >= HOLE);
        let spot = self.file.marks.at(&["ram.base", "ram"]);
        for hole in holes.iter().take(HOLES) {
            let message = format!("{hole} below RAM is nobody's: {}", human_size(hole.size()));
            self.say(Severity::Note, spot.clone(), message, None);
        }
        let more = match holes.len().saturating_sub(HOLES) {
            0 => return,
            1 => "1 more hole is below RAM".to_owned(),
            more => format!("{more} more holes are below RAM"),
        };
        self.say(Severity::Note, spot, more, None);
    }
}
