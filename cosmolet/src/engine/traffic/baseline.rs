//! What is usual for one port: how much of it fails on an ordinary day, and whether failures come together.
//!
//! Learns only while nothing is suspected, so that an outage never becomes the usual. Both make the rule slower, never
//! faster.

use super::TrafficRules;
use super::cusum::Votes;
use crate::engine::types::Timestamp;

/// An average of fewer votes than this says nothing yet.
const ENOUGH: f64 = 500.0;
/// Votes that are compared with what independent failures would give: ten busy samples.
const GROUP: f64 = 50.0;
/// Groups weigh against so much of independence that is assumed beforehand.
const PRIOR: f64 = 5.0;
/// The smallest usual share that groups are compared with.
const LEAST_SHARE: f64 = 0.01;

/// Sums that forget over `baseline_span`.
#[derive(Clone, Debug, Default)]
pub(super) struct Baseline {
    at: Timestamp,
    usual: Votes,
    group: Votes,
    /// Squared deviations of groups from the usual share, and what independent failures would give.
    spread: Spread,
    /// Of groups whose burst is not over yet, since when it lasts.
    pending: Spread,
    unrest: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Spread {
    seen: f64,
    independent: f64,
}

impl Spread {
    fn add(&mut self, other: Self) {
        self.seen += other.seen;
        self.independent += other.independent;
    }
}

impl Baseline {
    /// Takes the votes of a sample; `calm` says that the score is far from suspicion.
    pub(super) fn learn(&mut self, votes: Votes, calm: bool, now: Timestamp, rules: &TrafficRules) {
        self.forget(now, rules);
        if calm {
            self.usual.ok += votes.ok;
            self.usual.failed += votes.failed;
        }
        self.group.ok += votes.ok;
        self.group.failed += votes.failed;
        if self.group.all() >= GROUP {
            let group = std::mem::take(&mut self.group);
            let (all, share) = (group.all(), self.share().max(LEAST_SHARE));
            let deviation = all.mul_add(-share, group.failed);
            self.pending.add(Spread { seen: deviation * deviation, independent: all * share * (1.0 - share) });
        }
        self.settle(calm, now, rules);
    }

    /// A burst that is over is usual; one that does not end is an outage.
    fn settle(&mut self, calm: bool, now: Timestamp, rules: &TrafficRules) {
        let since = *self.unrest.get_or_insert(now);
        if now.since(since) > rules.longest_burst {
            self.pending = Spread::default();
        }
        if calm {
            self.unrest = None;
            self.spread.add(std::mem::take(&mut self.pending));
        }
    }

    /// Nothing is learnt of what led to a conviction.
    pub(super) fn discard(&mut self) {
        self.pending = Spread::default();
        self.group = Votes::default();
        self.unrest = None;
    }

    fn forget(&mut self, now: Timestamp, rules: &TrafficRules) {
        let keep = (-now.since(self.at).as_secs_f64() / rules.baseline_span.as_secs_f64()).exp();
        self.at = now;
        for sum in [&mut self.usual.ok, &mut self.usual.failed, &mut self.spread.seen, &mut self.spread.independent] {
            *sum *= keep;
        }
    }

    /// The share of failures on an ordinary day; 0 until enough was seen.
    pub(super) fn share(&self) -> f64 {
        let all = self.usual.all();
        if all < ENOUGH { 0.0 } else { self.usual.failed / all }
    }

    /// The share of failures that is healthy for this port.
    pub(super) fn healthy_share(&self, rules: &TrafficRules) -> f64 {
        let usual = self.share();
        if usual > rules.healthy_share {
            (rules.baseline_factor * usual).min(rules.baseline_max).max(rules.healthy_share)
        } else {
            rules.healthy_share
        }
    }

    /// How much more failures come together than independent ones would: the design effect of cluster sampling
    /// (Kish 1965), 1 for independent ones.
    pub(super) fn burstiness(&self, rules: &TrafficRules) -> f64 {
        let effect = (self.spread.seen + PRIOR) / (self.spread.independent + PRIOR);
        effect.clamp(1.0, rules.max_burstiness)
    }
}
