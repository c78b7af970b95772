//! Whether SYN arrive in a flood: an attacker must not be able to choose who withdraws.

use super::TrafficRules;
use super::cusum::float;
use crate::engine::event::TrafficSample;
use crate::engine::types::Timestamp;

/// The memory of one port's rate of SYN.
#[derive(Clone, Debug, Default)]
pub(super) struct Flood {
    /// SYN a second; a flood is no part of it.
    average: f64,
    sampled_at: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Flood {
    pub(super) fn add(&mut self, sample: &TrafficSample, now: Timestamp, rules: &TrafficRules) {
        let span = sample.span.as_secs_f64().max(0.001);
        let counts = &sample.counts;
        let rate = float(counts.syn) / span;
        let memory = rules.flood_average.as_secs_f64();
        let high = (rules.flood_factor * self.average).max(self.average + rules.flood_rate);
        let answered = float(counts.syn_ack.saturating_add(counts.syn_ack_host));
        if rate > high && float(counts.completed) < rules.flood_completed * answered.max(1.0) {
            self.until = Some(now.after(rules.flood_hold));
        } else {
            let idle = self.sampled_at.map_or(0.0, |at| now.since(at).as_secs_f64());
            let fresh = 1.0 - (-span / memory).exp();
            self.average = self.average * (-idle.max(span) / memory).exp() + rate * fresh;
        }
        self.sampled_at = Some(now);
    }

    pub(super) fn frozen(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}
