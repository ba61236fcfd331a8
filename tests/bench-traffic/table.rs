//! The table at the end, and the same as JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::work::Sample;

/// How the numbers came about, for whoever reads them without the source.
const HOW: &str = "\
Each number is the median of all rounds; a ratio, ambit's by QEMU's, is the median of the ratios of neighbouring runs,
since the monitors take turns. Everything is for one request: of a disk, for one small packet, and for 64 KiB of a
stream. CPU is the time of all the monitor's threads and of the guest in them, devices that of all but the vCPUs.
Exits are all of a guest's, whoever serves them; served are those that the monitor sees. Interrupts are those of
virtio devices. On an emulated host only ratios mean anything.";

/// Less than QEMU's by what two runs of the same differ.
const SPEED_LIMIT: f64 = 0.9;
const EXITS_LIMIT: f64 = 1.1;

/// One thing that both did, in turns.
pub struct Row {
    pub what: String,
    /// A pair for each round: ambit's and QEMU's.
    pub samples: Vec<[Sample; 2]>,
    /// How many bytes count as one request, where requests are not counted.
    pub unit: Option<u64>,
}

/// One number of each sample.
type Measure = fn(&Each) -> f64;

/// What one request of a sample took.
struct Each {
    per_second: f64,
    cpu: f64,
    devices: f64,
    exits: f64,
    served: f64,
    interrupts: f64,
}

const MEASURES: [(&str, Measure); 6] = [
    ("1/s", |each| each.per_second),
    ("CPU us", |each| each.cpu),
    ("devices us", |each| each.devices),
    ("exits", |each| each.exits),
    ("served", |each| each.served),
    ("interrupts", |each| each.interrupts),
];

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "all are counts of a few seconds")]
    fn each(&self, sample: &Sample) -> Each {
        let requests =
            self.unit.map_or(sample.requests as f64, |unit| sample.bytes as f64 / unit as f64).max(1.0);
        let microseconds = |ticks: u64| ticks as f64 * 10_000.0 / requests;
        Each {
            per_second: requests * 1e6 / sample.micros.max(1) as f64,
            cpu: microseconds(sample.cost.all),
            devices: microseconds(sample.cost.devices),
            exits: sample.cost.exits as f64 / requests,
            served: sample.cost.served as f64 / requests,
            interrupts: sample.interrupts as f64 / requests,
        }
    }

    /// The medians of both, and the median of the ratios where there are any.
    fn numbers(&self, measure: Measure) -> (f64, f64, Option<f64>) {
        let pairs: Vec<[f64; 2]> = self
            .samples
            .iter()
            .map(|pair| pair.each_ref().map(|sample| measure(&self.each(sample))))
            .collect();
        let of = |index: usize| median(pairs.iter().map(|pair| pair[index]));
        let ratios: Vec<f64> =
            pairs.iter().filter(|pair| pair[1] > 0.0).map(|pair| pair[0] / pair[1]).collect();
        let ratio = (!ratios.is_empty()).then(|| median(ratios.into_iter()));
        (of(0), of(1), ratio)
    }

    /// What is worse than QEMU's.
    pub fn missed(&self) -> Vec<&'static str> {
        let ratio = |index: usize| self.numbers(MEASURES[index].1).2;
        let mut missed = Vec::new();
        if ratio(0).is_some_and(|ratio| ratio < SPEED_LIMIT) {
            missed.push("SLOWER");
        }
        if ratio(3).is_some_and(|ratio| ratio > EXITS_LIMIT) {
            missed.push("MORE EXITS");
        }
        missed
    }

    fn json(&self) -> Value {
        let mut all = serde_json::Map::new();
        for (name, measure) in MEASURES {
            let (ambit, qemu, ratio) = self.numbers(measure);
            all.insert(name.to_owned(), json!({ "ambit": ambit, "qemu": qemu, "ratio": ratio }));
        }
        json!({ "what": self.what, "rounds": self.samples.len(), "each": all })
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

pub struct Table {
    /// What it was measured on, a sentence each.
    pub about: Vec<String>,
    pub rows: Vec<Row>,
}

impl Table {
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        json!({ "about": self.about, "rows": rows })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        let width = self.rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
        write!(f, "\n{:width$}", "ambit / QEMU = ratio")?;
        MEASURES.iter().try_for_each(|(name, _)| write!(f, "  {name:>21}"))?;
        writeln!(f)?;
        for row in &self.rows {
            write!(f, "{:width$}", row.what)?;
            for (_, measure) in MEASURES {
                let (ambit, qemu, ratio) = row.numbers(measure);
                let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
                write!(f, "  {:>21}", format!("{} / {} = {ratio}", short(ambit), short(qemu)))?;
            }
            writeln!(f, "  {}", row.missed().join(", "))?;
        }
        write!(f, "\n{HOW}")
    }
}

/// Three digits that say something.
fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Cost;

    fn sample(requests: u64, exits: u64) -> Sample {
        let cost = Cost { all: 100, devices: 50, exits, served: 0 };
        Sample { requests, bytes: requests * 4096, micros: 1_000_000, interrupts: requests, cost }
    }

    fn row(samples: Vec<[Sample; 2]>) -> Row {
        Row { what: "read".to_owned(), samples, unit: None }
    }

    #[test]
    fn what_is_slower_or_exits_more_than_qemu_is_named() {
        let equal = row(vec![[sample(100, 100), sample(100, 100)]]);
        let worse = row(vec![[sample(50, 100), sample(100, 100)]]);

        assert_eq!([equal.missed(), worse.missed()], [vec![], vec!["SLOWER", "MORE EXITS"]]);
    }

    #[test]
    fn a_ratio_is_taken_between_neighbours() {
        let pairs = [(10, 20), (100, 200), (5, 5)];
        let pairs = pairs.map(|(ambit, qemu)| [sample(ambit, 0), sample(qemu, 0)]);

        let numbers = row(pairs.to_vec()).numbers(MEASURES[0].1);

        assert_eq!(numbers, (10.0, 20.0, Some(0.5)));
    }

    #[test]
    fn a_stream_is_counted_by_its_bytes() {
        let pair = vec![[sample(64, 0), sample(64, 0)]];

        let numbers = Row { unit: Some(65536), ..row(pair) }.numbers(MEASURES[0].1);

        assert_eq!(numbers, (4.0, 4.0, Some(1.0)));
    }
}
