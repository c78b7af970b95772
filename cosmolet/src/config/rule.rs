//! `traffic.rule.*`: the constants of the traffic verdict, checked one by one and against each other.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use super::parse::{ConfigError, broken};
use super::raw::RawRule;
use crate::engine::traffic::TrafficRules;

/// Turns what was typed into the engine's constants.
pub(super) fn validate(raw: &RawRule) -> Result<TrafficRules, ConfigError> {
    let rules = TrafficRules {
        window: seconds("window_seconds", raw.window_seconds, 1..=60)?,
        min_attempts: within("min_attempts", raw.min_attempts, 1..=1_000_000)?,
        refused_share: share("refused_share", raw.refused_share)?,
        completed_share: share("completed_share", raw.completed_share)?,
        trial_refused_share: share("trial_refused_share", raw.trial_refused_share)?,
        host_backend: seconds("host_backend_seconds", raw.host_backend_seconds, 1..=86_400)?,
        healthy_share: share("healthy_share", raw.healthy_share)?,
        broken_share: share("broken_share", raw.broken_share)?,
        threshold: within("threshold", raw.threshold, 1.0..=1000.0)?,
        cap: within("cap", raw.cap, 1.0..=1000.0)?,
        trial_share: share("trial_share", raw.trial_share)?,
        votes: within("votes", raw.votes, 1.0..=1000.0)?,
        failing_samples: within("failing_samples", raw.failing_samples, 1..=60)?,
        of_samples: within("of_samples", raw.of_samples, 1..=60)?,
        client_prefixes: within("client_prefixes", raw.client_prefixes, 1..=32)?,
        forget: seconds("forget_seconds", raw.forget_seconds, 10..=86_400)?,
        endpoint_silence: seconds("endpoint_silence_seconds", raw.endpoint_silence_seconds, 0..=600)?,
        unseen_share: share("unseen_share", raw.unseen_share)?,
        flood_factor: within("flood_factor", raw.flood_factor, 1.0..=1000.0)?,
        flood_rate: within("flood_rate", raw.flood_rate, 1.0..=1_000_000_000.0)?,
        flood_completed: share("flood_completed_share", raw.flood_completed_share)?,
        flood_average: seconds("flood_average_seconds", raw.flood_average_seconds, 10..=86_400)?,
        flood_hold: seconds("flood_hold_seconds", raw.flood_hold_seconds, 1..=3600)?,
        baseline_factor: within("baseline_factor", raw.baseline_factor, 1.0..=20.0)?,
        baseline_max: share("baseline_max_share", raw.baseline_max_share)?,
        baseline_span: seconds("baseline_seconds", raw.baseline_seconds, 60..=2_592_000)?,
        longest_burst: seconds("longest_burst_seconds", raw.longest_burst_seconds, 1..=3600)?,
        max_burstiness: within("max_burstiness", raw.max_burstiness, 1.0..=100.0)?,
        probes: within("probes", raw.probes, 1..=20)?,
        probe_age: seconds("probe_age_seconds", raw.probe_age_seconds, 1..=3600)?,
        suspect_probe: within("suspect_probe_milliseconds", raw.suspect_probe_milliseconds, 10..=10_000)
            .map(Duration::from_millis)?,
        trial_probe: seconds("trial_probe_seconds", raw.trial_probe_seconds, 1..=600)?,
        budget: within("budget", raw.budget, 1..=1000)?,
        budget_window: seconds("budget_seconds", raw.budget_seconds, 1..=86_400)?,
        node_share: share("node_share", raw.node_share)?,
        node_vips: within("node_vips", raw.node_vips, 1..=100_000)?,
        hold: seconds("hold_seconds", raw.hold_seconds, 1..=3600)?,
        max_hold: seconds("max_hold_seconds", raw.max_hold_seconds, 1..=86_400)?,
        idle_trial: seconds("idle_trial_seconds", raw.idle_trial_seconds, 1..=3600)?,
        min_trial: seconds("min_trial_seconds", raw.min_trial_seconds, 1..=3600)?,
        forgive: seconds("forgive_seconds", raw.forgive_seconds, 1..=86_400)?,
    };
    together(&rules)?;
    Ok(rules)
}

/// The constants as a file would have them: each key below `traffic.rule` with its value.
#[must_use]
pub fn rule_values(rules: &TrafficRules) -> Map<String, Value> {
    match serde_json::to_value(typed(rules)) {
        Ok(Value::Object(values)) => values,
        // A struct of numbers is nothing else.
        Ok(_) | Err(_) => Map::new(),
    }
}

/// Reads such values; a key that is not among them keeps its default.
///
/// # Errors
/// A key is unknown, or a value is wrong by itself or beside the others.
pub fn rule_of_values(values: Map<String, Value>) -> Result<TrafficRules, ConfigError> {
    let mut all = rule_values(&TrafficRules::default());
    for (name, value) in values {
        let key = format!("traffic.rule.{name}");
        let Some(place) = all.get_mut(&name) else {
            let error = "there is no such key; `cosmolet check-config --keys` prints all of them".to_owned();
            return Err(ConfigError::Value { key, error });
        };
        *place = value;
    }
    let read = serde_path_to_error::deserialize(Value::Object(all));
    validate(&read.map_err(|error| {
        let (key, error) = (format!("traffic.rule.{}", error.path()), error.into_inner().to_string());
        ConfigError::Value { key, error }
    })?)
}

/// What would have to be typed for these constants.
fn typed(rules: &TrafficRules) -> RawRule {
    RawRule {
        window_seconds: rules.window.as_secs(),
        min_attempts: rules.min_attempts,
        refused_share: rules.refused_share,
        completed_share: rules.completed_share,
        trial_refused_share: rules.trial_refused_share,
        host_backend_seconds: rules.host_backend.as_secs(),
        healthy_share: rules.healthy_share,
        broken_share: rules.broken_share,
        threshold: rules.threshold,
        cap: rules.cap,
        trial_share: rules.trial_share,
        votes: rules.votes,
        failing_samples: rules.failing_samples,
        of_samples: rules.of_samples,
        client_prefixes: rules.client_prefixes,
        forget_seconds: rules.forget.as_secs(),
        endpoint_silence_seconds: rules.endpoint_silence.as_secs(),
        unseen_share: rules.unseen_share,
        flood_factor: rules.flood_factor,
        flood_rate: rules.flood_rate,
        flood_completed_share: rules.flood_completed,
        flood_average_seconds: rules.flood_average.as_secs(),
        flood_hold_seconds: rules.flood_hold.as_secs(),
        baseline_factor: rules.baseline_factor,
        baseline_max_share: rules.baseline_max,
        baseline_seconds: rules.baseline_span.as_secs(),
        longest_burst_seconds: rules.longest_burst.as_secs(),
        max_burstiness: rules.max_burstiness,
        probes: rules.probes,
        probe_age_seconds: rules.probe_age.as_secs(),
        suspect_probe_milliseconds: u64::try_from(rules.suspect_probe.as_millis()).unwrap_or(u64::MAX),
        trial_probe_seconds: rules.trial_probe.as_secs(),
        budget: rules.budget,
        budget_seconds: rules.budget_window.as_secs(),
        node_share: rules.node_share,
        node_vips: rules.node_vips,
        hold_seconds: rules.hold.as_secs(),
        max_hold_seconds: rules.max_hold.as_secs(),
        idle_trial_seconds: rules.idle_trial.as_secs(),
        min_trial_seconds: rules.min_trial.as_secs(),
        forgive_seconds: rules.forgive.as_secs(),
    }
}

/// What no value says alone: the CUSUM needs three shares in this order, and a bound must leave room.
fn together(rules: &TrafficRules) -> Result<(), ConfigError> {
    let whole = [("healthy_share", rules.healthy_share), ("broken_share", rules.broken_share)];
    if let Some((name, value)) = whole.into_iter().find(|(_, share)| *share >= 1.0) {
        return Err(wrong(name, value));
    }
    if rules.baseline_max < rules.healthy_share {
        return Err(wrong("baseline_max_share", rules.baseline_max));
    }
    if rules.broken_share <= rules.healthy_share.max(rules.baseline_max) {
        return Err(wrong("broken_share", rules.broken_share));
    }
    if rules.cap < rules.threshold {
        return Err(wrong("cap", rules.cap));
    }
    if rules.failing_samples > rules.of_samples {
        return Err(wrong("failing_samples", rules.failing_samples));
    }
    if rules.max_hold < rules.hold {
        return Err(wrong("max_hold_seconds", rules.max_hold.as_secs()));
    }
    Ok(())
}

fn seconds(name: &str, value: u64, range: RangeInclusive<u64>) -> Result<Duration, ConfigError> {
    within(name, value, range).map(Duration::from_secs)
}

fn share(name: &str, value: f64) -> Result<f64, ConfigError> {
    within(name, value, f64::MIN_POSITIVE..=1.0)
}

fn within<T: PartialOrd + Display>(name: &str, value: T, range: RangeInclusive<T>) -> Result<T, ConfigError> {
    if range.contains(&value) { Ok(value) } else { Err(wrong(name, value)) }
}

fn wrong(name: &str, value: impl Display) -> ConfigError {
    broken(&format!("traffic.rule.{name}"), value)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::keys::KEYS;
    use super::*;

    fn rule(text: &str) -> Result<TrafficRules, ConfigError> {
        let text = format!("traffic: {{rule: {{{text}}}}}");
        Config::parse(&text, |_| None, "n1").map(|config| config.traffic.rule)
    }

    #[test]
    fn the_defaults_are_the_engines() {
        assert_eq!(rule("").unwrap(), TrafficRules::default());
    }

    #[test]
    fn what_was_read_is_written_as_it_was_typed() {
        let changed = rule("threshold: 20.5, hold_seconds: 60, suspect_probe_milliseconds: 50, budget: 7").unwrap();
        let values = rule_values(&changed);
        assert_eq!(values.len(), KEYS.iter().filter(|key| key.name.starts_with("traffic.rule.")).count());
        assert_eq!((&values["threshold"], &values["hold_seconds"]), (&Value::from(20.5), &Value::from(60)));
        assert_eq!(rule_of_values(values).unwrap(), changed);
        assert_eq!(rule_of_values(Map::new()).unwrap(), TrafficRules::default());
        for (key, value, said) in [
            ("threshhold", Value::from(1), "traffic.rule.threshhold: there is no such key"),
            ("threshold", Value::from("x"), "traffic.rule.threshold: invalid type"),
            ("threshold", Value::from(0), "traffic.rule.threshold: \"0\": must be 1 to 1000"),
            ("threshold", Value::from(30), "traffic.rule.cap"),
        ] {
            let error = rule_of_values(Map::from_iter([(key.to_owned(), value)])).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }

    #[test]
    fn one_value_changes_one_constant() {
        let changed = rule("threshold: 20, hold_seconds: 60").unwrap();
        let hold = Duration::from_secs(60);
        assert_eq!(changed, TrafficRules { threshold: 20.0, hold, ..TrafficRules::default() });
    }

    #[test]
    fn every_constant_has_its_bounds() {
        for key in KEYS.iter().filter_map(|key| key.name.strip_prefix("traffic.rule.")) {
            let error = rule(&format!("{key}: 1000000000000")).unwrap_err().to_string();
            assert!(error.contains(&format!("traffic.rule.{key}")), "{key}: {error}");
        }
    }

    #[test]
    fn values_that_contradict_each_other_are_named() {
        for (text, key) in [
            ("healthy_share: 0", "healthy_share"),
            ("healthy_share: .nan", "healthy_share"),
            ("healthy_share: 0.3", "baseline_max_share"),
            ("broken_share: 0.2", "broken_share"),
            ("broken_share: 1", "broken_share"),
            ("threshold: 30", "cap"),
            ("failing_samples: 11", "failing_samples"),
            ("hold_seconds: 301", "max_hold_seconds"),
            ("threshhold: 1", "threshhold"),
        ] {
            let error = rule(text).unwrap_err().to_string();
            assert!(error.contains("traffic.rule") && error.contains(key), "{text}: {error}");
        }
    }
}
