//! The table at the end.

use std::fmt;
use std::time::Duration;

#[derive(Debug, Default)]
pub struct Report {
    /// What it was measured on, a sentence each.
    pub about: Vec<String>,
    pub rows: Vec<Row>,
    /// How the numbers came about, for whoever reads them without the source.
    pub how: &'static str,
}

#[derive(Debug)]
pub struct Row {
    what: String,
    ambit: String,
    qemu: Option<String>,
    ratio: Option<f64>,
    limit: Option<Limit>,
    runs: Option<usize>,
}

#[derive(Debug)]
struct Limit {
    text: String,
    met: bool,
}

impl Report {
    pub fn is_met(&self) -> bool {
        self.rows.iter().all(Row::is_met)
    }
}

impl Row {
    /// A size in bytes, with a limit of its own.
    pub fn size(what: &str, ambit: u64, qemu: Option<u64>, limit: Option<u64>) -> Self {
        let kibibytes = |bytes: u64| format!("{} KiB", bytes.div_ceil(1024));
        #[expect(clippy::cast_precision_loss, reason = "sizes of programs are small")]
        let ratio = |qemu: u64| ambit as f64 / qemu as f64;
        Self {
            what: what.to_owned(),
            ambit: kibibytes(ambit),
            qemu: qemu.map(kibibytes),
            ratio: qemu.map(ratio),
            limit: limit.map(|limit| Limit { text: kibibytes(limit), met: ambit <= limit }),
            runs: None,
        }
    }

    /// A time, with a limit on its ratio to QEMU's.
    pub fn time(
        what: &str,
        ambit: Duration,
        qemu: Option<(Duration, f64)>,
        limit: Option<f64>,
        runs: usize,
    ) -> Self {
        let milliseconds = |time: Duration| format!("{:.1} ms", milliseconds(time));
        let ratio = qemu.map(|(_, ratio)| ratio);
        let judged = |limit: f64| Limit {
            text: format!("{limit} of QEMU"),
            met: ratio.is_some_and(|ratio| ratio <= limit),
        };
        Self {
            what: what.to_owned(),
            ambit: milliseconds(ambit),
            qemu: qemu.map(|(time, _)| milliseconds(time)),
            ratio,
            limit: limit.map(judged),
            runs: Some(runs),
        }
    }

    /// A time with a limit of its own, whatever QEMU takes.
    pub fn bounded(what: &str, ambit: Duration, qemu: (Duration, f64), limit: Duration, runs: usize) -> Self {
        let limit = Limit { text: format!("{:.1} ms", milliseconds(limit)), met: ambit <= limit };
        Self { limit: Some(limit), ..Self::time(what, ambit, Some(qemu), None, runs) }
    }

    #[must_use]
    pub fn with_runs(self, runs: usize) -> Self {
        Self { runs: Some(runs), ..self }
    }

    pub fn is_met(&self) -> bool {
        self.limit.as_ref().is_none_or(|limit| limit.met)
    }

    fn cells(&self) -> [String; 7] {
        let or_empty = |text: Option<String>| text.unwrap_or_default();
        let verdict = self.limit.as_ref().map(|limit| if limit.met { "met" } else { "MISSED" });
        [
            self.what.clone(),
            self.ambit.clone(),
            or_empty(self.qemu.clone()),
            or_empty(self.ratio.map(|ratio| format!("{ratio:.2}"))),
            or_empty(self.runs.map(|runs| runs.to_string())),
            or_empty(self.limit.as_ref().map(|limit| limit.text.clone())),
            or_empty(verdict.map(str::to_owned)),
        ]
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.about {
            writeln!(f, "{line}")?;
        }
        let head = ["", "ambit", "QEMU", "ratio", "n", "limit", ""].map(str::to_owned);
        let lines: Vec<[String; 7]> = std::iter::once(head).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|cells| cells[column].len()).max().unwrap_or(0);
        let widths: [usize; 7] = std::array::from_fn(width);
        writeln!(f)?;
        for cells in &lines {
            let mut line = format!("{:<1$}", cells[0], widths[0]);
            for (cell, width) in cells.iter().zip(widths).skip(1) {
                line.push_str(&format!("  {cell:>width$}"));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        write!(f, "\n{}", self.how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misses_its_limit_stands_out() {
        let ms = Duration::from_millis;
        let rows = vec![
            Row::size("size", 5 << 20, None, Some(4 << 20)),
            Row::time("time", ms(20), Some((ms(100), 0.2)), Some(0.5), 15),
        ];
        let report = Report { about: vec!["a machine".to_owned()], rows, how: "so" };

        let text = report.to_string();

        let expected = "\
a machine

         ambit      QEMU  ratio   n        limit
size  5120 KiB                          4096 KiB  MISSED
time   20.0 ms  100.0 ms   0.20  15  0.5 of QEMU     met

so";
        assert_eq!(text, expected);
        assert!(!report.is_met());
    }
}
