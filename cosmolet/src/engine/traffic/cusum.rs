//! The score of one port: a capped CUSUM over the outcomes of handshakes (Page 1954).
//!
//! Owns the score and the floors under it: failures in several samples, from several client prefixes. Knows nothing of
//! floods, of sight or of time-outs.

use std::collections::VecDeque;

use super::TrafficRules;
use crate::engine::event::Handshakes;
use crate::engine::types::Timestamp;

/// What the handshakes of one sample say, as votes: at most `rules.votes` together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Votes {
    pub(super) ok: f64,
    pub(super) failed: f64,
}

impl Votes {
    pub(super) fn of(handshakes: &Handshakes, rules: &TrafficRules) -> Self {
        let (ok, failed) = (float(handshakes.completed), float(failures(handshakes)));
        let all = ok + failed;
        let weight = if all > rules.votes { rules.votes / all } else { 1.0 };
        Self { ok: ok * weight, failed: failed * weight }
    }

    pub(super) const fn all(self) -> f64 {
        self.ok + self.failed
    }
}

/// Handshakes that failed on this side: not those that the client gave up.
pub(super) const fn failures(handshakes: &Handshakes) -> u64 {
    handshakes.refused_backend.saturating_add(handshakes.refused_host).saturating_add(handshakes.timed_out)
}

#[expect(clippy::cast_precision_loss, reason = "counts of connections far below 2^52")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}

/// The score and the last samples that held handshakes.
#[derive(Clone, Debug, Default)]
pub(super) struct Cusum {
    score: f64,
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Timestamp,
    failed: bool,
    prefixes: u64,
}

impl Cusum {
    /// Adds the votes of a sample. `healthy` is the share of failures that this port may have; `burstiness` weakens
    /// the votes of one whose failures come together.
    pub(super) fn add(
        &mut self,
        handshakes: &Handshakes,
        healthy: f64,
        burstiness: f64,
        now: Timestamp,
        rules: &TrafficRules,
    ) {
        let votes = Votes::of(handshakes, rules);
        if votes.all() <= 0.0 {
            return;
        }
        // The logarithms of the likelihood ratios of "broken" against "healthy".
        let against = (rules.broken_share / healthy).ln();
        let in_favour = ((1.0 - healthy) / (1.0 - rules.broken_share)).ln();
        let step = (against * votes.failed - in_favour * votes.ok) / burstiness.max(1.0);
        self.score = (self.score + step).clamp(0.0, rules.cap);
        let sample = Sample { at: now, failed: votes.failed > 0.0, prefixes: handshakes.failed_prefixes };
        self.samples.push_back(sample);
        while self.samples.len() > rules.of_samples {
            self.samples.pop_front();
        }
    }

    /// The score, at least `threshold`, stands on failures of several samples and of several clients.
    pub(super) fn exceeds(&self, threshold: f64, failing_samples: usize, rules: &TrafficRules) -> bool {
        self.score >= threshold
            && self.failing_samples() >= failing_samples
            && self.client_prefixes() >= rules.client_prefixes
    }

    /// What was seen is too old to mean anything.
    pub(super) fn is_stale(&self, now: Timestamp, rules: &TrafficRules) -> bool {
        self.samples.back().is_some_and(|sample| now.since(sample.at) >= rules.forget)
    }

    pub(super) const fn score(&self) -> f64 {
        self.score
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.samples.len()
    }

    pub(super) fn failing_samples(&self) -> usize {
        self.samples.iter().filter(|sample| sample.failed).count()
    }

    pub(super) fn client_prefixes(&self) -> u32 {
        self.samples.iter().fold(0, |bits, sample| bits | sample.prefixes).count_ones()
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}
