//! Remedies, done as they say.

use ambit_device_manager::{
    Board, HostFacts, MachineConfig, Plan, PlanError, Remedy, Transport, WidthSource, attempt,
};
use ambit_resources::{PaBits, parse_size};

/// Plans again with `remedy`.
pub fn remedied(
    board: &dyn Board,
    config: &MachineConfig,
    facts: &HostFacts,
    remedy: &Remedy,
) -> Result<Plan, PlanError> {
    let (config, facts) = remedy.apply(config, facts);
    match remedy {
        Remedy::BoardOption { key, value } => {
            let board = board.with_options(&[(key.clone(), value.clone())]).unwrap();
            attempt(board.as_ref(), &config, &facts)
        }
        _ => attempt(board, &config, &facts),
    }
}

/// A remedy as a user reads it, with what it brings back cut off.
pub fn read(text: &str) -> Remedy {
    let said = text.split_once(", and ").map_or(text, |(said, _)| said);
    let said = said.split(" (").next().unwrap();
    let words: Vec<&str> = said.split(' ').collect();
    let bits = |text: &str| PaBits::new(text.parse().unwrap()).unwrap();
    let by = |text: &str, source| Remedy::Bits { bits: bits(text), source };
    match words[..] {
        ["give", "the", "guest", "at", "most", number, unit, "of", "memory"] => {
            Remedy::Memory(size(number, unit))
        }
        ["give", "the", "guest", "at", "most", count, "vCPUs"] => Remedy::Cpus(count.parse().unwrap()),
        ["give", "the", "guest", "at", "most", count, "devices"] => Remedy::Devices(count.parse().unwrap()),
        ["give", "the", "guest", "fewer", "devices"] => Remedy::Devices(0),
        ["give", "the", "guest", number, unit] => Remedy::Pages(size(number, unit)),
        ["let", "memory", "grow", "to", "at", "most", number, unit] => Remedy::MaxMemory(size(number, unit)),
        ["make", "the", "PCI", "window", number, unit] => Remedy::PciWindow(size(number, unit)),
        ["do", "without", "PCI"] => Remedy::NoPci,
        ["have", "PCI"] => Remedy::Pci,
        ["give", ..] if text.contains(" transport=") => Remedy::Transports(changes(&said["give ".len()..])),
        ["use", "modern", ..] => Remedy::NoQueueReach,
        ["allow", count, "bits,", ..] => by(count, WidthSource::User),
        ["use", "a", "guest", "that", "can", "use", count, "bits"] => by(count, WidthSource::Guest),
        ["use", "a", "host", "with", count, "bits"] => by(count, WidthSource::Host),
        ["set", "the", "board's", "option", option] => {
            let (key, value) = option.split_once('=').unwrap();
            Remedy::BoardOption { key: key.into(), value: value.into() }
        }
        _ => panic!("no remedy: {text}"),
    }
}

/// "a, b and c transport=mmio and d transport=pci".
fn changes(said: &str) -> Vec<(String, Transport)> {
    let (mut changes, mut waiting) = (Vec::new(), Vec::new());
    for word in said.split(", ").flat_map(|words| words.split(" and ")) {
        let (id, transport) = word.split_once(" transport=").map_or((word, None), |(id, to)| (id, Some(to)));
        waiting.push(id.to_owned());
        if let Some(to) = transport.map(|to| Transport::named(to).unwrap()) {
            changes.extend(waiting.drain(..).map(|id| (id, to)));
        }
    }
    changes
}

/// As `human_size` says it, PiB and EiB too.
fn size(number: &str, unit: &str) -> u64 {
    let more = match unit {
        "PiB" => 10,
        "EiB" => 20,
        _ => return parse_size(&format!("{number} {unit}")).unwrap(),
    };
    parse_size(&format!("{number} TiB")).unwrap() << more
}
