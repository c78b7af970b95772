//! Everything that is remembered of one declared port's new connections.

use std::collections::VecDeque;

use super::TrafficRules;
use super::baseline::Baseline;
use super::cusum::{Cusum, Votes, float};
use super::flood::Flood;
use super::sight::{Answers, Sight};
use crate::engine::event::{TrafficCounts, TrafficSample};
use crate::engine::types::Timestamp;

/// What counts against this host itself, of one sample or of several.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    syn: u64,
    refused: u64,
    completed: u64,
}

impl Attempts {
    const fn of(counts: &TrafficCounts) -> Self {
        let refused = counts.rst_host.saturating_add(counts.unreachable_host);
        Self { syn: counts.syn, refused, completed: counts.completed }
    }

    const fn plus(self, other: Self) -> Self {
        Self {
            syn: self.syn.saturating_add(other.syn),
            refused: self.refused.saturating_add(other.refused),
            completed: self.completed.saturating_add(other.completed),
        }
    }

    /// The shares of refused and of completed new connections.
    fn shares(self) -> (f64, f64) {
        let attempts = float(self.syn);
        (float(self.refused) / attempts, float(self.completed) / attempts)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct PortEvidence {
    samples: VecDeque<(Timestamp, Attempts)>,
    host_backend_at: Option<Timestamp>,
    cusum: Cusum,
    baseline: Baseline,
    flood: Flood,
    answers: Answers,
    suspect: bool,
}

/// One port's evidence, for a person.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PortReport {
    /// The CUSUM.
    pub score: f64,
    /// Samples with a failure among the last with handshakes.
    pub failing_samples: usize,
    /// Client prefixes among the failures.
    pub client_prefixes: u32,
    /// Whether both directions are seen.
    pub sight: Sight,
    /// SYN arrive in a flood: nothing is judged.
    pub flood: bool,
    /// The share of failures that is healthy for this port.
    pub healthy_share: f64,
    /// How much its votes are weakened because its failures come together.
    pub burstiness: f64,
    /// It is suspect.
    pub suspect: bool,
    /// When the last sample came.
    pub at: Option<Timestamp>,
    /// New connections within the window, and the share of them that this host refused; nothing where none is to be
    /// judged.
    pub refused: Option<(u64, f64)>,
}

impl PortEvidence {
    /// Takes a sample; `quiet` says that nothing is to be concluded from its handshakes.
    pub(super) fn push(&mut self, sample: &TrafficSample, quiet: bool, now: Timestamp, rules: &TrafficRules) {
        if sample.counts.syn_ack_host > 0 {
            self.host_backend_at = Some(now);
        }
        self.samples.push_back((now, Attempts::of(&sample.counts)));
        // A sample covers the tick before its time stamp: three samples of a second are a window of three seconds.
        while self.samples.front().is_some_and(|(at, _)| now.since(*at) >= rules.window) {
            self.samples.pop_front();
        }
        self.flood.add(sample, now, rules);
        self.answers.add(&sample.handshakes);
        if quiet || self.flood.frozen(now) || self.answers.sight(rules) != Sight::Visible {
            return;
        }
        if self.cusum.is_stale(now, rules) {
            self.cusum.reset();
        }
        let (healthy, burstiness) = (self.baseline.healthy_share(rules), self.baseline.burstiness(rules));
        self.cusum.add(&sample.handshakes, healthy, burstiness, now, rules);
        let calm = self.cusum.score() < rules.threshold * rules.trial_share;
        self.baseline.learn(Votes::of(&sample.handshakes, rules), calm, now, rules);
        // Who is suspect stays so until it is calm, or until one broken client alone goes on failing.
        let (share, failing) = if self.suspect { (rules.trial_share, 1) } else { (1.0, rules.failing_samples) };
        self.suspect = self.cusum.exceeds(rules.threshold * share, failing, rules);
    }

    /// Its handshakes fail.
    pub(super) fn suspect(&self, now: Timestamp, rules: &TrafficRules) -> bool {
        self.suspect && self.judgeable(now, rules)
    }

    /// Its handshakes fail by the stricter measure of a trial.
    pub(super) fn fails_trial(&self, now: Timestamp, rules: &TrafficRules) -> bool {
        self.judgeable(now, rules) && self.cusum.exceeds(rules.threshold * rules.trial_share, 1, rules)
    }

    /// What this node sees of the answers.
    pub(super) fn sight(&self, rules: &TrafficRules) -> Sight {
        self.answers.sight(rules)
    }

    fn judgeable(&self, now: Timestamp, rules: &TrafficRules) -> bool {
        !self.flood.frozen(now) && !self.cusum.is_stale(now, rules) && self.answers.sight(rules) == Sight::Visible
    }

    /// The shares of refused and of completed new connections in the newest sample, in the newest two, and so on as far
    /// as the window reaches, wherever there were enough of them to tell. The shortest span sees a sudden end first;
    /// the longest gathers rare connections.
    pub(super) fn shares(
        &self,
        now: Timestamp,
        rules: &TrafficRules,
        min_attempts: u64,
    ) -> impl Iterator<Item = (f64, f64)> + use<'_> {
        let (window, silent) =
            (rules.window, self.host_backend_at.is_some_and(|at| now.since(at) < rules.host_backend));
        let recent = self.samples.iter().rev().take_while(move |(at, _)| !silent && now.since(*at) < window);
        let sums = recent.scan(Attempts::default(), |sum, (_, attempts)| {
            *sum = sum.plus(*attempts);
            Some(*sum)
        });
        sums.filter(move |sum| sum.syn >= min_attempts.max(1)).map(Attempts::shares)
    }

    fn refused(&self, now: Timestamp, rules: &TrafficRules) -> Option<(u64, f64)> {
        let recent = self.samples.iter().filter(|(at, _)| now.since(*at) < rules.window);
        let attempts: u64 = recent.map(|(_, attempts)| attempts.syn).sum();
        self.shares(now, rules, 1).last().map(|(refused, _)| (attempts, refused))
    }

    /// How many samples are held, of both kinds.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.samples.len(), self.cusum.len())
    }

    /// Forgets the evidence and keeps what is usual.
    pub(super) fn restart(&mut self) {
        self.samples.clear();
        self.host_backend_at = None;
        self.cusum.reset();
        self.baseline.discard();
        self.suspect = false;
    }

    /// Forgets what was seen of handshakes: the endpoints behind the port have changed.
    pub(super) fn forget_handshakes(&mut self) {
        self.cusum.reset();
        self.baseline.discard();
        self.suspect = false;
    }

    pub(super) fn report(&self, now: Timestamp, rules: &TrafficRules) -> PortReport {
        PortReport {
            score: self.cusum.score(),
            failing_samples: self.cusum.failing_samples(),
            client_prefixes: self.cusum.client_prefixes(),
            sight: self.answers.sight(rules),
            flood: self.flood.frozen(now),
            healthy_share: self.baseline.healthy_share(rules),
            burstiness: self.baseline.burstiness(rules),
            suspect: self.suspect(now, rules),
            at: self.samples.back().map(|(at, _)| *at),
            refused: self.refused(now, rules),
        }
    }
}
