//! `traffic.rule.*`: the constants of the traffic verdict, checked one by one and against each other.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

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
