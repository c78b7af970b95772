//! Writes families in the OpenMetrics text format (OpenMetrics 1.0, "Text format").
//!
//! By hand, for the families of VIPs alone: of them there may be a hundred thousand series, whose labels are mostly the same
//! and are escaped once.

use std::fmt::{Error, Write as _};

/// The end of an exposition.
pub(super) const END: &str = "# EOF\n";
const PREFIX: &str = "cosmolet_";

/// One family, as it is being written.
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: String,
    /// What each sample begins with, up to its labels.
    head: String,
}

/// The number of a sample.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(u64),
    Seconds(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Seconds(value)
    }
}

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Gauge,
    Counter,
    Histogram,
}

impl<'a> Family<'a> {
    /// Begins a family. `unit` is the name's last part as well.
    pub(super) fn begin(
        text: &'a mut String,
        name: &str,
        of: Type,
        unit: Option<&str>,
        help: &str,
    ) -> Result<Self, Error> {
        let name = unit.map_or_else(|| format!("{PREFIX}{name}"), |unit| format!("{PREFIX}{name}_{unit}"));
        let (word, suffix) = match of {
            Type::Gauge => ("gauge", ""),
            Type::Counter => ("counter", "_total"),
            Type::Histogram => ("histogram", ""),
        };
        write!(text, "# HELP {name} {help}.\n# TYPE {name} {word}\n")?;
        if let Some(unit) = unit {
            writeln!(text, "# UNIT {name} {unit}")?;
        }
        let head = format!("{name}{suffix}");
        Ok(Self { text, name, head })
    }

    /// One sample. `labels` are written already; `more` holds words of our own, which need no escape.
    pub(super) fn sample(
        &mut self,
        labels: &str,
        more: &[(&str, &str)],
        value: impl Into<Number>,
    ) -> Result<(), Error> {
        line(self.text, &self.head, labels, more, value.into())
    }

    /// A histogram: the upper end and the count of each bucket, not summed up, the last without end.
    pub(super) fn histogram(&mut self, labels: &str, sum: f64, buckets: &[(f64, u64)]) -> Result<(), Error> {
        let [bucket, sum_of, count_of] = ["_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", self.name));
        let mut count = 0;
        for (end, own) in buckets {
            count += own;
            let end = if end.is_infinite() { "+Inf".to_owned() } else { end.to_string() };
            line(self.text, &bucket, labels, &[("le", &end)], count.into())?;
        }
        line(self.text, &sum_of, labels, &[], sum.into())?;
        line(self.text, &count_of, labels, &[], count.into())
    }
}

/// Few and large pieces: there are a hundred thousand lines.
fn line(text: &mut String, head: &str, labels: &str, more: &[(&str, &str)], value: Number) -> Result<(), Error> {
    text.push_str(head);
    let mut before = '{';
    if !labels.is_empty() {
        text.push('{');
        text.push_str(labels);
        before = ',';
    }
    for (key, word) in more {
        text.push(before);
        text.push_str(key);
        text.push_str("=\"");
        text.push_str(word);
        text.push('"');
        before = ',';
    }
    if before == ',' {
        text.push('}');
    }
    match value {
        Number::Whole(0) => text.push_str(" 0\n"),
        Number::Whole(1) => text.push_str(" 1\n"),
        Number::Whole(value) => writeln!(text, " {value}")?,
        Number::Seconds(value) => writeln!(text, " {value}")?,
    }
    Ok(())
}

/// Labels as [`Family::sample`] takes them, whatever characters the values have.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(key);
        text.push_str("=\"");
        if !value.contains(['\\', '"', '\n']) {
            text.push_str(value);
            text.push('"');
            continue;
        }
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_openmetrics_wants_them() -> Result<(), Error> {
        let mut text = String::new();
        let of_vip = labels(&[("service", "a\"b\\c\nd"), ("vip", "::1")]);
        Family::begin(&mut text, "vips", Type::Gauge, None, "VIPs")?.sample("", &[("state", "up")], 2_u64)?;
        Family::begin(&mut text, "lease", Type::Gauge, Some("seconds"), "Lease")?.sample("", &[], 1.5)?;
        let mut counter = Family::begin(&mut text, "vip_syn", Type::Counter, None, "SYN")?;
        counter.sample(&of_vip, &[("by", "host")], 3_u64)?;
        let mut histogram = Family::begin(&mut text, "vip_rtt", Type::Histogram, Some("seconds"), "RTT")?;
        histogram.histogram("vip=\"::1\"", 0.25, &[(0.001, 1), (f64::INFINITY, 2)])?;
        let expected = "\
# HELP cosmolet_vips VIPs.
# TYPE cosmolet_vips gauge
cosmolet_vips{state=\"up\"} 2
# HELP cosmolet_lease_seconds Lease.
# TYPE cosmolet_lease_seconds gauge
# UNIT cosmolet_lease_seconds seconds
cosmolet_lease_seconds 1.5
# HELP cosmolet_vip_syn SYN.
# TYPE cosmolet_vip_syn counter
cosmolet_vip_syn_total{service=\"a\\\"b\\\\c\\nd\",vip=\"::1\",by=\"host\"} 3
# HELP cosmolet_vip_rtt_seconds RTT.
# TYPE cosmolet_vip_rtt_seconds histogram
# UNIT cosmolet_vip_rtt_seconds seconds
cosmolet_vip_rtt_seconds_bucket{vip=\"::1\",le=\"0.001\"} 1
cosmolet_vip_rtt_seconds_bucket{vip=\"::1\",le=\"+Inf\"} 3
cosmolet_vip_rtt_seconds_sum{vip=\"::1\"} 0.25
cosmolet_vip_rtt_seconds_count{vip=\"::1\"} 3
";
        assert_eq!(text, expected);
        Ok(())
    }
}
