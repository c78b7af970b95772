//! The data plane's half of the engine: samples and probes become verdicts, as far as the guards let them.
//!
//! Owns what concerns several VIPs at once: the verdict over the node, and how often both worlds agree. The rule for one
//! claim is `traffic`'s.

use std::collections::BTreeSet;

use super::engine::{Engine, Timer};
use super::event::{ProbePurpose, SourceState, TrafficSample};
use super::observed::ProberState;
use super::traffic::{OnFault, SecondKey, Terms, TrafficMode, TrafficRules, TrafficState};
use super::types::{Timestamp, Vip};
use super::vip::{Claim, jitter};

/// How often the two worlds agreed: seconds in which a claim had traffic, by what each of them said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Both said that it can be served.
    pub both_up: u64,
    /// Only the traffic said that it cannot.
    pub only_traffic_down: u64,
    /// Only the control plane said that it cannot.
    pub only_control_down: u64,
    /// Both said that it cannot.
    pub both_down: u64,
}

/// What concerns the whole node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NodeSignals {
    pub(super) suspect: bool,
    pub(super) agreement: Agreement,
}

impl Engine {
    /// Most VIPs with traffic are suspect: it is the node, or what it is judged by.
    #[must_use]
    pub const fn node_suspect(&self) -> bool {
        self.signals.suspect
    }

    /// How often the two worlds agreed.
    #[must_use]
    pub const fn agreement(&self) -> Agreement {
        self.signals.agreement
    }

    pub(super) fn traffic(&mut self, samples: &[TrafficSample], now: Timestamp) {
        let (mut seen, mut suspects): (Vec<Vip>, BTreeSet<Vip>) = (Vec::with_capacity(samples.len()), BTreeSet::new());
        for sample in samples {
            if let Some(suspect) = self.observe_traffic(sample, now) {
                seen.push(sample.vip);
                if suspect {
                    suspects.insert(sample.vip);
                }
            }
        }
        seen.sort_unstable();
        seen.dedup();
        self.judge_node(seen.len(), suspects.len());
        for vip in seen {
            self.judge_traffic(vip, now);
            self.compare(vip);
        }
    }

    /// Takes one sample; tells whether handshakes of its VIP fail. Nothing where nobody knows the VIP.
    fn observe_traffic(&mut self, sample: &TrafficSample, now: Timestamp) -> Option<bool> {
        let entry = self.vips.get_mut(&sample.vip)?;
        if sample.counts.completed > 0 {
            entry.served_at = Some(now);
        }
        if let (Some(drain), 1..) = (&mut entry.drain, sample.counts.packets_in) {
            drain.heard(now);
        }
        let rules = &self.settings.traffic;
        let terms = Terms { mode: self.settings.traffic_mode, rules, jitter: 0.0, second_key: false };
        let (served, mut reference, mut suspect) = (sample.counts.completed > 0, false, false);
        for claim in entry.claims.iter_mut().filter(|claim| claim.ports.contains(&sample.port)) {
            claim.traffic.observe(sample, now, &terms);
            suspect |= claim.traffic.fails(now, rules);
            let probed = claim.policy.evidence == SecondKey::Probe && claim.control.is_ok();
            reference |= served && probed && claim.proof.reference_due(&claim.ports, now);
        }
        if reference {
            self.want_probe(sample.vip, ProbePurpose::Reference);
        }
        Some(suspect)
    }

    /// One verdict over the node where most VIPs with traffic are suspect.
    fn judge_node(&mut self, seen: usize, suspects: usize) {
        let rules = &self.settings.traffic;
        #[expect(clippy::cast_precision_loss, reason = "numbers of VIPs")]
        let most = suspects as f64 > rules.node_share * seen as f64;
        self.signals.suspect = seen >= rules.node_vips && most;
    }

    /// Judges the claims of a VIP by what was observed of them and by their probes.
    pub(super) fn judge_traffic(&mut self, vip: Vip, now: Timestamp) {
        let stale = matches!(self.source, SourceState::Stale(_));
        let permitted = self.settings.traffic_mode == TrafficMode::Enforce && self.may_eject(vip).is_ok();
        let (settings, node_suspect) = (&self.settings, self.signals.suspect);
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        let rules = &settings.traffic;
        let (mut changed, mut told, mut doubted, mut wants) = (false, false, false, false);
        for claim in &mut entry.claims {
            claim.weigh_check(now, rules);
            let terms = Terms {
                mode: acting(settings.traffic_mode, claim, stale),
                rules,
                jitter: jitter(settings.seed, vip, claim.traffic.ejections()),
                second_key: second_key(claim, node_suspect, now, rules),
            };
            let mode = if permitted { terms.mode } else { terms.mode.without_effect() };
            changed |= claim.traffic.judge(now, &Terms { mode, ..terms });
            wants |= claim.traffic.is_ejected() || claim.traffic.is_to_be_convicted(now, &terms);
            let verdict = claim.verdict(rules);
            told |= std::mem::replace(&mut claim.told, verdict) != verdict;
            doubted |= claim.traffic.accused(now, rules).next().is_some();
        }
        if doubted {
            self.follow_doubt(vip, now);
        }
        if wants {
            self.want_ejection(vip, true, now);
        }
        if told {
            self.changed.insert(vip);
        }
        if changed {
            self.decide(vip, now);
            self.touch(vip);
        }
    }

    /// While handshakes of a VIP fail, it is probed at a steady pace, beginning at once.
    pub(super) fn follow_doubt(&mut self, vip: Vip, now: Timestamp) {
        if self.observed.prober != ProberState::Running {
            return;
        }
        let rules = &self.settings.traffic;
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        let doubted = entry.claims.iter().any(|claim| claim.traffic.accused(now, rules).next().is_some());
        if doubted && entry.probed_until.is_none_or(|at| at <= now) {
            let next = now.after(rules.suspect_probe);
            entry.probed_until = Some(next);
            self.timers.insert((next, Timer::Probe(vip)));
            self.want_probe(vip, ProbePurpose::Conviction);
        }
    }

    /// A VIP whose hold is over goes on trial only once a probe has passed, where probes have passed before. Where they
    /// neither pass nor fail, because none comes back at all, patience ends.
    pub(super) fn hold_back_trials(&mut self, vip: Vip, now: Timestamp) {
        if self.observed.prober != ProberState::Running {
            return;
        }
        let rules = &self.settings.traffic;
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        let mut wanted = false;
        for claim in entry.claims.iter_mut().filter(|claim| claim.traffic.hold_is_over(now)) {
            let Some(since) = claim.traffic.convicted_at() else { continue };
            let blamed = claim.traffic.blamed();
            let patient = now.since(since) < rules.max_hold.saturating_mul(2) || claim.proof.fails(blamed, now, rules);
            if claim.proof.lacks_one_since(blamed, since) && patient {
                claim.traffic.put_off(Some(now.after(rules.trial_probe)));
                wanted = true;
            }
        }
        if wanted {
            self.want_probe(vip, ProbePurpose::Trial);
        }
    }

    fn compare(&mut self, vip: Vip) {
        let Some(entry) = self.vips.get(&vip) else { return };
        for claim in &entry.claims {
            let blamed = matches!(claim.traffic.state(), TrafficState::Suspect | TrafficState::Convicted(_));
            let count = match (claim.control.is_ok(), blamed) {
                (true, false) => &mut self.signals.agreement.both_up,
                (true, true) => &mut self.signals.agreement.only_traffic_down,
                (false, false) => &mut self.signals.agreement.only_control_down,
                (false, true) => &mut self.signals.agreement.both_down,
            };
            *count = count.saturating_add(1);
        }
    }
}

/// Without the API nobody knows what the others do, and an owner may say that nothing is to be done.
pub(super) fn acting(mode: TrafficMode, claim: &Claim, stale: bool) -> TrafficMode {
    match mode {
        TrafficMode::Enforce if stale || claim.policy.fault == OnFault::Ignore => mode.without_effect(),
        TrafficMode::Off | TrafficMode::Observe | TrafficMode::Enforce => mode,
    }
}

/// Where most VIPs suffer, passive evidence of one of them is no longer its own.
pub(super) fn second_key(claim: &Claim, node_suspect: bool, now: Timestamp, rules: &TrafficRules) -> bool {
    let passive = claim.policy.evidence == SecondKey::Passive && !node_suspect;
    passive || claim.traffic.accused(now, rules).any(|port| claim.proof.convinces(port, now, rules))
}
