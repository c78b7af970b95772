//! A strict reader of the OpenMetrics 1.0 text format: what a scraper might let through is an error here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

/// The families of one exposition, by name.
pub type Families = BTreeMap<String, Family>;
/// Labels of one series.
pub type Labels = BTreeMap<String, String>;

/// One metric family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// What it is about.
    pub help: String,
    /// Its unit, which also ends its name.
    pub unit: Option<String>,
    /// Its samples in their order.
    pub samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name with the suffix of its kind.
    pub name: String,
    /// The labels.
    pub labels: Labels,
    /// The value.
    pub value: f64,
}

impl Family {
    /// The samples with this label.
    pub fn with<'a>(&'a self, label: &'a str, value: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.labels.get(label).is_some_and(|found| found == value))
    }
}

/// Reads a whole exposition.
///
/// # Errors
/// It breaks a rule of the format; the line is named.
pub fn parse(text: &str) -> Result<Families> {
    let body = text.strip_suffix("# EOF\n").context("it does not end with # EOF")?;
    ensure!(body.is_empty() || body.ends_with('\n'), "# EOF stands behind something");
    let (mut families, mut current) = (Families::new(), String::new());
    for (number, line) in body.lines().enumerate() {
        read(line, &mut families, &mut current).with_context(|| format!("line {}: {line:?}", number + 1))?;
    }
    for (name, family) in &families {
        check(name, family).with_context(|| format!("family {name}"))?;
    }
    Ok(families)
}

fn read(line: &str, families: &mut Families, current: &mut String) -> Result<()> {
    let Some(comment) = line.strip_prefix("# ") else {
        let sample = sample(line)?;
        let family = families.get_mut(current.as_str()).context("a sample before any family")?;
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total", "_created"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count", "_created"],
            "info" => &["_info"],
            kind => bail!("the type {kind:?}"),
        };
        let fits = suffixes.iter().any(|suffix| sample.name == format!("{current}{suffix}"));
        ensure!(fits, "{} is no sample of the {} {current}", sample.name, family.kind);
        family.samples.push(sample);
        return Ok(());
    };
    let (keyword, rest) = comment.split_once(' ').context("a comment without content")?;
    let (name, content) = rest.split_once(' ').context("metadata without content")?;
    ensure!(is_name(name), "the name {name:?}");
    if name != current {
        ensure!(!families.contains_key(name), "a second block of the family {name}");
        families.insert(name.to_owned(), Family::default());
        name.clone_into(current);
    }
    let family = families.get_mut(name).context("no such family")?;
    ensure!(family.samples.is_empty(), "metadata after samples");
    match keyword {
        "TYPE" if family.kind.is_empty() => content.clone_into(&mut family.kind),
        "HELP" if family.help.is_empty() => content.clone_into(&mut family.help),
        "UNIT" if family.unit.is_none() => family.unit = Some(content.to_owned()),
        _ => bail!("{keyword} is unknown or told twice"),
    }
    Ok(())
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("neither labels nor a value")?;
    let (name, rest) = line.split_at(end);
    ensure!(is_name(name), "the name {name:?}");
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    let value = rest.strip_prefix(' ').context("no space before the value")?;
    ensure!(!value.contains(' '), "more than a value");
    let value: f64 = value.parse().with_context(|| format!("the value {value:?}"))?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// Reads up to the closing brace; returns the labels and what follows it.
fn labels(mut rest: &str) -> Result<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        if !labels.is_empty() {
            rest = rest.strip_prefix(',').context("no comma between labels")?;
        }
        let (name, after) = rest.split_once("=\"").context("a label without a quoted value")?;
        ensure!(is_name(name) && !name.contains(':'), "the label {name:?}");
        let (value, after) = quoted(after)?;
        ensure!(labels.insert(name.to_owned(), value).is_none(), "the label {name} twice");
        rest = after;
    }
}

/// Reads up to the closing quote; only `\\`, `\"` and `\n` are escapes.
fn quoted(text: &str) -> Result<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match characters.next() {
                Some((_, '\\')) => '\\',
                Some((_, '"')) => '"',
                Some((_, 'n')) => '\n',
                other => bail!("the escape {other:?}"),
            }),
            plain => value.push(plain),
        }
    }
    bail!("no closing quote")
}

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

fn check(name: &str, family: &Family) -> Result<()> {
    ensure!(!family.kind.is_empty() && !family.help.is_empty(), "no type or no help");
    if let Some(unit) = &family.unit {
        ensure!(name.ends_with(&format!("_{unit}")), "its name does not end in its unit {unit}");
    }
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        ensure!(seen.insert((&sample.name, &sample.labels)), "the series {sample:?} twice");
        let counts = family.kind == "counter" || sample.name.ends_with("_bucket");
        ensure!(!counts || sample.value >= 0.0, "{sample:?} counts backwards");
    }
    if family.kind == "histogram" { buckets(family) } else { Ok(()) }
}

/// Buckets add up, and the last one holds all.
fn buckets(family: &Family) -> Result<()> {
    let mut last: BTreeMap<Labels, (f64, f64)> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        if sample.name.ends_with("_bucket") {
            let bound: f64 = labels.remove("le").context("a bucket without le")?.replace("+Inf", "inf").parse()?;
            let (below, count) = last.insert(labels, (bound, sample.value)).unwrap_or((f64::NEG_INFINITY, 0.0));
            ensure!(below < bound && count <= sample.value, "the buckets do not add up at {sample:?}");
        }
    }
    for sample in family.samples.iter().filter(|sample| sample.name.ends_with("_count")) {
        let all = last.get(&sample.labels).map(|(bound, count)| (bound.is_infinite(), *count));
        ensure!(all == Some((true, sample.value)), "{sample:?}, but the last bucket holds {all:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# HELP a_seconds How long.
# TYPE a_seconds histogram
# UNIT a_seconds seconds
a_seconds_sum 1.5
a_seconds_count 3
a_seconds_bucket{le=\"1.0\"} 2
a_seconds_bucket{le=\"+Inf\"} 3
# HELP b Things.
# TYPE b counter
b_total{x=\"q\\\"\\\\\\n\",y=\"}\"} 7
# EOF
";

    #[test]
    fn reads_what_is_right() {
        let families = parse(GOOD).unwrap();
        assert_eq!(families.len(), 2);
        let sample = &families["b"].samples[0];
        assert_eq!((sample.labels["x"].as_str(), sample.labels["y"].as_str()), ("q\"\\\n", "}"));
        assert_eq!(families["b"].with("y", "}").count(), 1);
        assert_eq!(families["a_seconds"].unit.as_deref(), Some("seconds"));
    }

    #[test]
    fn refuses_what_is_wrong() {
        for (from, to) in [
            ("# EOF\n", ""),
            ("# EOF\n", "# EOF\nb_total 1\n"),
            ("b_total{", "b{"),
            ("b_total{", "c_total{"),
            ("\"q\\", "\"q\\t\\"),
            ("y=\"}\"", "x=\"}\""),
            ("y=\"}\"}", "y=\"}"),
            ("} 7", "} seven"),
            ("} 7", "} -7"),
            ("} 7", "}7"),
            ("le=\"+Inf\"} 3", "le=\"+Inf\"} 4"),
            ("le=\"1.0\"} 2", "le=\"1.0\"} 9"),
            ("UNIT a_seconds seconds", "UNIT a_seconds bytes"),
            ("# TYPE b counter\n", ""),
            ("# HELP b Things.\n", "# HELP a_seconds Again.\n# HELP b Things.\n"),
            ("b_total{", "b_total 1\nb_total 1\nb_total{"),
        ] {
            let broken = GOOD.replacen(from, to, 1);
            assert_ne!(broken, GOOD);
            assert!(parse(&broken).is_err(), "{broken}");
        }
    }
}
