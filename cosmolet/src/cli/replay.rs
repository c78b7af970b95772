//! `cosmolet replay`

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::table::{aligned, printable, utc};
use super::{TROUBLE, print};
use crate::args::Output;
use crate::config::keys::KEYS;
use crate::config::{Config, ConfigError, rule_of_values, rule_values};
use crate::engine::Settings;
use crate::engine::intent::Decision;
use crate::engine::types::{Timestamp, Vip};
use crate::recording::format::Recorded;
use crate::recording::{Found, Outcome, Point, Reader, Row, replay};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The recording; `-` is standard input.
    pub file: &'a Path,
    /// Settings instead of the recorded ones.
    pub config: Option<&'a Path>,
    /// Single settings over these: keys with their values.
    pub set: &'a [(String, String)],
    /// Only this VIP.
    pub vip: Option<Vip>,
    /// How to print it.
    pub output: Output,
}

/// Replays a recording and prints what it decides beside what had been decided.
///
/// # Errors
/// The recording cannot be read, a setting is wrong, or the VIP is not in it.
pub fn run(request: &Request<'_>) -> Result<ExitCode> {
    let name = request.file.display().to_string();
    let input: Box<dyn BufRead> = if request.file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(request.file).with_context(|| name.clone())?))
    };
    let mut reader = Reader::open(input).with_context(|| name.clone())?;
    let recorded = reader.header().settings.settings().with_context(|| format!("{name}: line 1"))?;
    let settings = change(recorded, request)?;
    let changed = Recorded::of(&settings) != reader.header().settings;
    let outcome = replay::replay(&mut reader, settings, request.vip).with_context(|| name.clone())?;
    if let (Some(vip), false) = (request.vip, outcome.known) {
        bail!("{name}: no Service in it names {vip}");
    }
    print(&match request.output {
        Output::Table => text(&outcome, changed),
        Output::Json => serde_json::to_string_pretty(&document(&outcome, changed))? + "\n",
    })?;
    Ok(if differing(&outcome) == 0 { ExitCode::SUCCESS } else { ExitCode::from(TROUBLE) })
}

/// The recorded settings, changed by a file and by single keys. The node's spread of timers and whom it asks stay as they were.
fn change(recorded: Settings, request: &Request<'_>) -> Result<Settings> {
    let mut settings = recorded;
    if let Some(path) = request.config {
        let config = Config::load(path).with_context(|| path.display().to_string())?;
        settings.rules = config.services.rules;
        settings.traffic_mode = config.traffic.mode;
        settings.traffic = config.traffic.rule;
        settings.prove = config.traffic.prove;
        settings.probe_round = config.traffic.probe.round;
        settings.pod_hold = config.services.restart_hold;
    }
    let mut rule = rule_values(&settings.traffic);
    for (key, value) in request.set {
        match (key.strip_prefix("traffic.rule."), key.as_str()) {
            (Some(name), _) => {
                let value: Value = serde_yaml_ng::from_str(value).with_context(|| format!("--set {key}={value}"))?;
                rule.insert(name.to_owned(), value);
            }
            (None, "traffic.mode") => settings.traffic_mode = one(key, value)?.traffic.mode,
            (None, "traffic.prove_seconds") => settings.prove = one(key, value)?.traffic.prove,
            (None, "services.restart_hold_seconds") => settings.pod_hold = one(key, value)?.services.restart_hold,
            (None, other) => bail!(
                "--set {other}={value}: a replay has traffic.rule.KEY, traffic.mode, traffic.prove_seconds and \
                 services.restart_hold_seconds; `cosmolet check-config --keys` prints them"
            ),
        }
    }
    settings.traffic = rule_of_values(rule).context("--set")?;
    Ok(settings)
}

/// The configuration in which this key alone is not the default.
fn one(key: &str, value: &str) -> Result<Config> {
    let variable = KEYS.iter().find(|known| known.name == key).map(crate::config::keys::Key::variable);
    ensure!(variable.is_some(), "--set {key}: there is no such key");
    let named = |name: &str| (variable.as_deref() == Some(name)).then(|| value.to_owned());
    let read: Result<Config, ConfigError> = Config::parse("", named, "replay");
    read.with_context(|| format!("--set {key}={value}"))
}

fn differing(outcome: &Outcome) -> usize {
    let rows = outcome.rows.iter().filter(|row| row.found != Found::AsRecorded).count();
    rows + outcome.differences.len()
}

fn text(outcome: &Outcome, changed: bool) -> String {
    let header = &outcome.header;
    let mut text = format!(
        "{}, cosmolet {}: {:.1} s from {}, {} records\n",
        printable(&header.node),
        printable(&header.version),
        seconds(outcome, outcome.ended),
        utc(header.clock),
        outcome.records
    );
    let mut rows: Vec<(Timestamp, [String; 4])> = Vec::new();
    let time = |at| format!("{:>9.3}", seconds(outcome, at));
    for one in &outcome.differences {
        let say = |decision: Option<Decision>| decision.map_or_else(|| "nothing".to_owned(), said);
        let other = format!("at the start, where the replay has {}", say(one.replayed));
        rows.push((outcome.begun, [time(outcome.begun), one.vip.to_string(), say(one.recorded), other]));
    }
    for (at, count) in &outcome.missed {
        let what = [time(*at), "!".to_owned(), format!("{count} records are missing"), NOT_TRUSTED.to_owned()];
        rows.push((*at, what));
    }
    rows.extend(
        outcome
            .course
            .iter()
            .map(|point| (point.at, [time(point.at), point.port.to_string(), seen(point), evidence(point)])),
    );
    for row in &outcome.rows {
        rows.push((row.at, [time(row.at), row.vip.to_string(), said(row.to), found(row)]));
    }
    rows.sort_by_key(|(at, _)| *at);
    let rows: Vec<[String; 4]> = rows.into_iter().map(|(_, row)| row).collect();
    aligned(&rows).iter().for_each(|line| text.push_str(&format!("{line}\n")));
    notes(outcome, changed).iter().for_each(|note| text.push_str(&format!("! {note}\n")));
    let differ = differing(outcome);
    let alike = outcome.rows.len() + outcome.differences.len() - differ;
    let verb = if differ == 1 { "differs" } else { "differ" };
    text.push_str(&format!("{alike} decisions alike, {differ} {verb}\n"));
    text
}

const NOT_TRUSTED: &str = "from here on the replay cannot be trusted";

/// What one should know of the outcome.
fn notes(outcome: &Outcome, changed: bool) -> Vec<&'static str> {
    let all = [
        (
            changed,
            "the settings are not the recorded ones; the probes, and what the other nodes answered, are those that the recorded \
             settings asked for",
        ),
        (
            outcome.permitted,
            "the recorded daemon only observed, and asked no other node: all are taken to permit every withdrawal",
        ),
        (
            !outcome.differences.is_empty(),
            "what had led to a decision before the recording began is not in it: begin a minute before what matters",
        ),
        (outcome.cut, "the last line is cut short: the recording was interrupted there"),
        (!outcome.missed.is_empty(), "records are missing: the recording's reader was too slow"),
    ];
    all.into_iter().filter(|(holds, _)| *holds).map(|(_, note)| note).collect()
}

fn seconds(outcome: &Outcome, at: Timestamp) -> f64 {
    at.since(outcome.begun).as_secs_f64()
}

fn said(decision: Decision) -> String {
    match decision.reason() {
        Some(reason) => format!("{} ({reason})", decision.as_str()),
        None => decision.as_str().to_owned(),
    }
}

fn found(row: &Row) -> String {
    match row.found {
        Found::AsRecorded => "as recorded".to_owned(),
        Found::Moved(was) if was < row.at => format!("{:.1} s later", row.at.since(was).as_secs_f64()),
        Found::Moved(was) => format!("{:.1} s sooner", was.since(row.at).as_secs_f64()),
        Found::New => "new".to_owned(),
        Found::DidNotHappen => "did not happen".to_owned(),
    }
}

fn seen(point: &Point) -> String {
    let (completed, failed) = point.handshakes;
    format!("{completed} completed, {failed} failed")
}

fn evidence(point: &Point) -> String {
    let evidence = &point.evidence;
    let mut text = format!(
        "score {:.1} of {:.1}, failing in {}, from {} prefixes: {}",
        evidence.score,
        point.threshold,
        evidence.failing_samples,
        evidence.client_prefixes,
        point.verdict.as_str()
    );
    if let Some(reason) = point.verdict.reason() {
        text.push_str(&format!(" ({reason})"));
    }
    if evidence.flood {
        text.push_str(", flood");
    }
    text
}

fn document(outcome: &Outcome, changed: bool) -> Value {
    let header = &outcome.header;
    let differ = differing(outcome);
    let time = |at| (seconds(outcome, at) * 1000.0).round() / 1000.0;
    let words = |decision: Option<Decision>| {
        decision.map(|to| json!({ "to": to.as_str(), "reason": to.reason().map(|reason| reason.as_str()) }))
    };
    let decision = |row: &Row| {
        let (found, was) = match row.found {
            Found::AsRecorded => ("as_recorded", None),
            Found::Moved(was) => ("moved", Some(time(was))),
            Found::New => ("new", None),
            Found::DidNotHappen => ("did_not_happen", None),
        };
        json!({
            "at_seconds": time(row.at), "vip": row.vip.to_string(), "to": row.to.as_str(),
            "reason": row.to.reason().map(|reason| reason.as_str()), "found": found, "recorded_at_seconds": was,
        })
    };
    let course = |point: &Point| {
        json!({
            "at_seconds": time(point.at), "port": point.port.to_string(),
            "completed": point.handshakes.0, "failed": point.handshakes.1,
            "score": point.evidence.score, "threshold": point.threshold,
            "failing_samples": point.evidence.failing_samples, "client_prefixes": point.evidence.client_prefixes,
            "flood": point.evidence.flood, "suspect": point.evidence.suspect,
            "verdict": point.verdict.as_str(), "reason": point.verdict.reason(),
        })
    };
    json!({
        "node": header.node, "version": header.version, "began": header.clock,
        "seconds": time(outcome.ended), "records": outcome.records, "cut": outcome.cut,
        "missed": outcome.missed.iter().map(|(at, count)| json!({ "at_seconds": time(*at), "count": count })).collect::<Vec<_>>(),
        "settings_changed": changed, "permitted": outcome.permitted,
        "alike": outcome.rows.len() + outcome.differences.len() - differ, "differ": differ,
        "at_start": outcome.differences.iter().map(|one| json!({
            "vip": one.vip.to_string(), "recorded": words(one.recorded), "replayed": words(one.replayed),
        })).collect::<Vec<_>>(),
        "decisions": outcome.rows.iter().map(decision).collect::<Vec<_>>(),
        "course": outcome.course.iter().map(course).collect::<Vec<_>>(),
    })
}
