//! Interrupts of a board that nobody gets, or two get, and fixtures that nobody can use.

use ambit_device_manager::Severity;

use super::check::Check;
use super::finding::{Spot, nearest};
use super::gic::has_its;
use crate::spec::FIXTURE_KINDS;

impl Check<'_> {
    /// Every pin that is given to somebody from the start, with who has it.
    fn owners(&self) -> Vec<(u32, String, Spot)> {
        let marks = &self.file.marks;
        let mut owners: Vec<(u32, String, Spot)> = Vec::new();
        for fixture in &self.spec.fixtures {
            let (pin, whole) = (format!("fixture.{}.pin", fixture.id), format!("fixture.{}", fixture.id));
            owners.extend(fixture.pin.map(|at| (at, fixture.id.clone(), marks.at(&[&pin, &whole]))));
        }
        let intx = self.spec.pci.as_ref().and_then(|pci| pci.intx);
        for (number, wire) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let spot = marks.at(&["interrupts.intx", "interrupts", "pci"]);
            let pin = intx.map(|first| first.saturating_add(u32::try_from(number).unwrap_or(0)));
            owners.extend(pin.map(|pin| (pin, format!("pci.int{wire}"), spot)));
        }
        owners
    }

    pub fn pins(&mut self) {
        let owners = self.owners();
        for (index, (pin, owner, spot)) in owners.iter().enumerate() {
            if *pin >= self.spec.pins {
                let last = self.spec.pins - 1;
                let message = format!("{owner} has pin {pin}, and the last pin is {last}");
                self.say(
                    Severity::Error,
                    spot.clone(),
                    message,
                    format!("give it one from 0 to {last}, or raise [interrupts] count"),
                );
            }
            if let Some((_, other, _)) = owners[..index].iter().find(|(other, ..)| other == pin) {
                let message = format!("{owner} has pin {pin}, which {other} has");
                self.say(Severity::Error, spot.clone(), message, "give each its own".to_owned());
            }
        }
        let devices = &self.spec.devices.pins;
        let spot = self.file.marks.at(&["interrupts.devices", "interrupts"]);
        if *devices.end() >= self.spec.pins {
            let last = self.spec.pins - 1;
            let message = format!(
                "devices have pins {} to {}, and the last pin is {last}",
                devices.start(),
                devices.end()
            );
            self.say(
                Severity::Error,
                spot.clone(),
                message,
                format!("end them at {last}, or raise [interrupts] count"),
            );
        }
        let taken: Vec<String> = owners
            .iter()
            .filter(|(pin, ..)| devices.contains(pin))
            .map(|(pin, owner, _)| format!("{pin} ({owner})"))
            .collect();
        if !taken.is_empty() {
            let message = format!(
                "pins of devices are {} to {}, and taken of those are {}",
                devices.start(),
                devices.end(),
                taken.join(", ")
            );
            self.say(
                Severity::Warning,
                spot,
                message,
                "let devices have pins that nobody else has".to_owned(),
            );
        }
    }

    pub fn pci(&mut self) {
        if self.spec.pci.is_none() && self.spec.transport.is_pci() {
            let message =
                format!("devices are reached over {}, and the board has no PCI", self.spec.transport);
            let help = format!("write transport = \"{}\" in [devices]", self.spec.transport.off_pci());
            self.say(
                Severity::Error,
                self.file.marks.at(&["devices.transport", "pci", "devices"]),
                message,
                help,
            );
        }
        let Some(pci) = &self.spec.pci else { return };
        let spot = self.file.marks.at(&["interrupts.intx", "pci", "interrupts"]);
        match (pci.intx, has_its(&self.spec.gic)) {
            (None, false) => {
                let message = "PCI has no interrupts: there is no ITS for messages, and no INTx".to_owned();
                self.say(
                    Severity::Error,
                    spot,
                    message,
                    "write [interrupts] intx, or pci = false".to_owned(),
                );
            }
            (None, true) => {
                let message = "without INTx, PCI is only for hosts with an ITS".to_owned();
                self.say(Severity::Note, spot, message, "write [interrupts] intx".to_owned());
            }
            _ => {}
        }
    }

    pub fn fixtures(&mut self) {
        for fixture in &self.spec.fixtures {
            let spot = self.file.marks.at(&[&format!("fixture.{}", fixture.id)]);
            if let Some(severity) = clash(&fixture.id) {
                let message = format!(
                    "fixture {} is called as the program calls a device of the guest's, and no two parts of a \
                     machine are called alike",
                    fixture.id
                );
                self.say(severity, spot.clone(), message, "give the fixture another id".to_owned());
            }
            if !FIXTURE_KINDS.contains(&fixture.kind.as_str()) {
                let message = format!(
                    "fixture {} is a '{}', and the program has no such device",
                    fixture.id, fixture.kind
                );
                let help = match nearest(&fixture.kind, &FIXTURE_KINDS) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!(
                        "known are {}; others are for a program of your own",
                        FIXTURE_KINDS.join(", ")
                    ),
                };
                self.say(Severity::Warning, spot, message, help);
            } else if fixture.pin.is_none() {
                let message =
                    format!("fixture {} has no pin, and Linux takes no {} without", fixture.id, fixture.kind);
                self.say(Severity::Warning, spot, message, "write pin".to_owned());
            }
        }
        if !self.spec.fixtures.iter().any(|fixture| fixture.kind == "pl011") {
            let message = "there is no pl011, so the guest has no console".to_owned();
            self.say(
                Severity::Warning,
                self.file.marks.at(&["file"]),
                message,
                "add a fixture of kind \"pl011\"".to_owned(),
            );
        }
    }
}

/// How bad it is if a fixture is called so. Every machine of the program has an `rng0` unless the user says
/// otherwise; the rest is there, and is called so, only if the user wants it.
fn clash(id: &str) -> Option<Severity> {
    let of_many = ["disk", "net"].into_iter().filter_map(|kind| id.strip_prefix(kind));
    let numbered = |number: &str| number.parse::<u32>().is_ok_and(|parsed| parsed.to_string() == number);
    match id {
        "rng0" => Some(Severity::Error),
        "balloon0" | "console0" => Some(Severity::Warning),
        _ => of_many.into_iter().any(numbered).then_some(Severity::Warning),
    }
}
