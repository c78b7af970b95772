//! A measured figure: its samples, the baseline of the same run, its target, and the table and JSON of many. Pure.

use std::time::Duration;

use serde::Serialize;

use crate::report::Table;

/// What many samples come to, in one unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The number of samples.
    pub samples: usize,
    /// The median.
    pub p50: f64,
    /// The value that 99 of 100 samples do not exceed (nearest rank); the largest while there are fewer than 100.
    pub p99: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Sums samples up; all values are NaN without samples.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |hundredths: usize| {
            let place = (sorted.len() * hundredths).div_ceil(100).saturating_sub(1);
            sorted.get(place).copied().unwrap_or(f64::NAN)
        };
        Self { samples: sorted.len(), p50: rank(50), p99: rank(99), min: rank(0), max: rank(100) }
    }

    /// Sums spans up, in milliseconds.
    #[must_use]
    pub fn of_spans(spans: &[Duration]) -> Self {
        Self::of(&spans.iter().map(|span| span.as_secs_f64() * 1e3).collect::<Vec<_>>())
    }
}

/// What is compared with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The median divided by the baseline's.
    Ratio,
    /// The median less the baseline's.
    OverBaseline,
    /// The median itself.
    P50,
    /// The 99th percentile itself.
    P99,
    /// The 99th percentile divided by the baseline's.
    P99Ratio,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured, such as `1000 VIPs advertised`.
    pub name: String,
    /// The unit of all values but ratios.
    pub unit: &'static str,
    /// Our own.
    pub own: Summary,
    /// What the baseline is, such as `raw vty client`.
    pub against: String,
    /// The baseline's, measured turn by turn with our own; `None` where the target is absolute.
    pub baseline: Option<Summary>,
    /// What is compared.
    pub measure: Measure,
    /// The most it may be; `None` where it is only told.
    pub target: Option<f64>,
}

impl Figure {
    /// A figure that is a ratio to a baseline, without a target.
    pub fn ratio(name: impl Into<String>, own: Summary, against: impl Into<String>, baseline: Summary) -> Self {
        let (name, against, baseline) = (name.into(), against.into(), Some(baseline));
        Self { name, unit: "ms", own, against, baseline, measure: Measure::Ratio, target: None }
    }

    /// The same with the most it may be.
    #[must_use]
    pub const fn at_most(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }

    /// The value that the target is about; NaN where the baseline is missing.
    #[must_use]
    pub fn value(&self) -> f64 {
        let baseline = self.baseline.map_or(f64::NAN, |baseline| baseline.p50);
        match self.measure {
            Measure::Ratio => self.own.p50 / baseline,
            Measure::OverBaseline => self.own.p50 - baseline,
            Measure::P50 => self.own.p50,
            Measure::P99 => self.own.p99,
            Measure::P99Ratio => self.own.p99 / self.baseline.map_or(f64::NAN, |baseline| baseline.p99),
        }
    }

    /// Whether the target is met; `None` without a target.
    #[must_use]
    pub fn is_met(&self) -> Option<bool> {
        // A value that is no number meets nothing.
        self.target.map(|target| self.value() <= target)
    }

    fn cells(&self) -> [String; 8] {
        let (unit, sign) = (self.unit, self.sign());
        let baseline = self.baseline.map_or_else(String::new, |b| format!("{} {unit}", number(b.p50)));
        [
            self.name.clone(),
            format!("{} {unit}", number(self.own.p50)),
            format!("{} {unit}", number(self.own.p99)),
            baseline,
            self.against.clone(),
            format!("{}{sign}", number(self.value())),
            self.target.map_or_else(String::new, |target| format!("<= {}{sign}", number(target))),
            match self.is_met() {
                Some(true) => "met",
                Some(false) => "NOT MET",
                None => "",
            }
            .to_owned(),
        ]
    }

    fn sign(&self) -> String {
        match self.measure {
            Measure::Ratio | Measure::P99Ratio => " x".to_owned(),
            Measure::OverBaseline | Measure::P50 | Measure::P99 => format!(" {}", self.unit),
        }
    }
}

/// Three digits, or as many as stand before the point.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        medium if medium >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// One row for each figure.
#[must_use]
pub fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new(["figure", "p50", "p99", "baseline p50", "baseline", "compared", "target", ""]);
    figures.iter().for_each(|figure| table.row(figure.cells()));
    table
}

/// The figures as a JSON document: each with its samples' summary, its value and whether its target is met.
#[must_use]
pub fn json(figures: &[Figure]) -> serde_json::Value {
    let rows = figures.iter().map(|figure| {
        let mut row = serde_json::json!(figure);
        row["value"] = figure.value().into();
        row["met"] = figure.is_met().into();
        row
    });
    serde_json::json!({ "figures": rows.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(p50: f64) -> Summary {
        Summary { samples: 3, p50, p99: p50 * 2.0, min: p50, max: p50 * 2.0 }
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let found = Summary::of(&samples);
        assert_eq!(found, Summary { samples: 200, p50: 100.0, p99: 198.0, min: 1.0, max: 200.0 });
        assert_eq!(Summary::of(&[5.0, 1.0, 3.0]), Summary { samples: 3, p50: 3.0, p99: 5.0, min: 1.0, max: 5.0 });
        let none = Summary::of(&[]);
        assert!(none.samples == 0 && none.p50.is_nan() && none.p99.is_nan());
        assert_eq!(Summary::of_spans(&[Duration::from_micros(1500)]).p50, 1.5);
    }

    #[test]
    fn each_measure_compares_what_it_says() {
        let figure = Figure::ratio("x", summary(12.0), "y", summary(10.0)).at_most(1.1);
        let value = |measure| Figure { measure, ..figure.clone() }.value();
        assert_eq!(value(Measure::Ratio), 1.2);
        assert_eq!(value(Measure::OverBaseline), 2.0);
        assert_eq!(value(Measure::P50), 12.0);
        assert_eq!(value(Measure::P99), 24.0);
        assert_eq!(value(Measure::P99Ratio), 1.2);
        assert_eq!(figure.is_met(), Some(false));
        assert_eq!(figure.clone().at_most(1.2).is_met(), Some(true));
        assert_eq!(Figure { target: None, ..figure.clone() }.is_met(), None);
        assert_eq!(Figure { baseline: None, ..figure }.is_met(), Some(false), "no baseline meets no ratio");
    }

    #[test]
    fn the_table_and_the_json_say_whether_a_target_is_met() {
        let good = Figure::ratio("one VIP", summary(52.0), "raw", summary(50.0)).at_most(1.1);
        let bad = Figure {
            name: "share".to_owned(),
            baseline: None,
            against: String::new(),
            measure: Measure::P99,
            target: Some(3.0),
            ..good.clone()
        };
        let text = table(&[good.clone(), bad.clone()]).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].ends_with("1.04 x    <= 1.10 x   met"), "{text}");
        assert!(lines[3].ends_with("104 ms    <= 3.00 ms  NOT MET"), "{text}");
        let document = json(&[good, bad]);
        assert_eq!(document["figures"][0]["met"], true);
        assert_eq!(document["figures"][1]["met"], false);
        assert_eq!(document["figures"][1]["value"], 104.0);
        assert_eq!(document["figures"][0]["baseline"]["p50"], 50.0);
        assert_eq!(document["figures"][1]["measure"], "p99");
    }
}
