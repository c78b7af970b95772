//! Which probes are wanted, and what their outcomes lead to.
//!
//! Owns the wait before an advertisement, the round over VIPs that nobody connects to, the times at which owners want
//! something to be asked and the list of wishes. What a claim remembers is `proof`'s; how a probe is made is the edge's.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::check::Check;
use super::engine::{Engine, Timer};
use super::event::{ProbeOutcome, ProbePurpose, ProbeReport, ProbeRequest};
use super::intent::{Decision, VipHealth};
use super::observed::ProberState;
use super::proof::Prove;
use super::service::ServiceView;
use super::types::{Port, ServiceKey, Timestamp, Vip};
use super::vip::{Claim, VipEntry, jitter};

/// The round makes its steps this far apart.
const STEP: Duration = Duration::from_secs(1);
/// After a failed probe of the round the next two follow soon: three in a row say something.
const DOUBTS: Duration = Duration::from_millis(500);

/// Where the round over the idle VIPs is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    next: Timestamp,
    after: Option<Vip>,
}

impl Engine {
    /// Takes up to `limit` wishes for probes, those for convictions first.
    pub fn take_probes(&mut self, limit: usize) -> Vec<ProbeRequest> {
        let mut wanted: Vec<(ProbePurpose, Vip)> = self.wanted.iter().map(|(vip, why)| (*why, *vip)).collect();
        wanted.sort_unstable();
        wanted.truncate(limit);
        let taken = wanted.into_iter().filter_map(|(purpose, vip)| {
            self.wanted.remove(&vip);
            let ports = self.vips.get(&vip).map(|entry| probed(&entry.claims, purpose)).unwrap_or_default();
            (!ports.is_empty()).then_some(ProbeRequest { vip, ports, purpose })
        });
        taken.collect()
    }

    /// True while some VIP's probe is wanted.
    #[must_use]
    pub fn wants_probes(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Asks for a probe of a VIP; the weightier of two reasons stands, and [`ProbePurpose::Check`], which is of fewer ports,
    /// behind all others. Outcomes come as
    /// [`Event::Probe`](super::event::Event::Probe), and none at all comes while no prober runs.
    pub(super) fn want_probe(&mut self, vip: Vip, purpose: ProbePurpose) {
        if matches!(self.observed.prober, ProberState::Off(_)) {
            return;
        }
        let weightier = |known| match (purpose, known) {
            (ProbePurpose::Check, other) | (other, ProbePurpose::Check) => other,
            (one, other) => one.min(other),
        };
        self.wanted.entry(vip).and_modify(|known| *known = weightier(*known)).or_insert(purpose);
    }

    /// After a failed probe another one is wanted, until enough have failed or one passes.
    pub(super) fn want_doubtful(&mut self, vip: Vip) {
        let rules = &self.settings.traffic;
        let doubtful = |entry: &VipEntry| entry.claims.iter().any(|claim| claim.proof.doubtful(rules));
        if self.vips.get(&vip).is_some_and(doubtful) {
            self.want_probe(vip, ProbePurpose::Conviction);
        }
    }

    /// A claim was judged anew; `came` tells that the control plane says yes and did not before.
    pub(super) fn proof_of(&mut self, vip: Vip, service: &ServiceKey, came: bool, now: Timestamp) {
        let up = self.vips.get(&vip).is_some_and(|entry| entry.decision.is_some_and(Decision::is_up));
        let off = matches!(self.observed.prober, ProberState::Off(_));
        let prove = self.settings.prove;
        let Some(claim) = self.vips.get_mut(&vip).and_then(|entry| entry.find(service)) else { return };
        let wanted = claim.prove == Prove::Required || (claim.prove == Prove::Wait && prove.is_some());
        if claim.control.is_err() || !wanted || !provable(claim) {
            claim.proof.stop();
        } else if came && !off && !up {
            claim.proof.begin(claim.checked_port(), now, claim.prove == Prove::Required);
            self.prove_on(vip, now);
        }
    }

    /// What was on the loopback before the daemon came never waits.
    pub(super) fn adopt_unproven(&mut self, vip: Vip) {
        for claim in self.vips.get_mut(&vip).iter_mut().flat_map(|entry| &mut entry.claims) {
            claim.proof.stop();
        }
    }

    /// Endpoints of a Service have changed, or what is asked of them: what probes have shown before proves nothing of these.
    pub(super) fn renew_proofs(&mut self, old: &ServiceView, new: &ServiceView, now: Timestamp) {
        let rules = &self.settings.traffic;
        for claimed in &new.vips {
            let family = claimed.vip.family();
            let asked_anew = old.check != new.check;
            let moved = (&old.ports, old.endpoints.get(family)) != (&new.ports, new.endpoints.get(family));
            let Some(claim) = self.vips.get_mut(&claimed.vip).and_then(|entry| entry.find(&new.key)) else { continue };
            if asked_anew {
                claim.proof.ask_anew(new.check.as_ref().map(|check| check.port), now);
            }
            if moved {
                claim.proof.renew();
                claim.traffic.endpoints_changed(now, rules);
            }
        }
    }

    /// Lets time pass for the claims of a VIP that wait: asks for the probes that are due, ends waits that took too long.
    pub(super) fn prove_on(&mut self, vip: Vip, now: Timestamp) {
        let prove = self.settings.prove;
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        let (mut due, mut ended, mut next) = (false, false, None::<Timestamp>);
        for claim in entry.claims.iter_mut().filter(|claim| claim.proof.waits()) {
            let limit = claim.limit(prove);
            ended |= claim.proof.tick(now, limit);
            due |= claim.proof.due(now);
            next = claim.proof.next_change(limit).into_iter().chain(next).min();
        }
        if let Some(at) = next {
            self.timers.insert((at, Timer::Vip(vip)));
        }
        if due {
            self.want_probe(vip, ProbePurpose::Proof);
        }
        if ended {
            self.decide(vip, now);
            self.touch(vip);
        }
    }

    pub(super) fn probe(&mut self, report: &ProbeReport, now: Timestamp) {
        let rules = &self.settings.traffic;
        let Some(entry) = self.vips.get_mut(&report.vip) else { return };
        let asked = asked(&entry.claims, report.port).cloned();
        let (mut ended, mut doubtful, mut passed) = (false, false, false);
        for claim in entry.claims.iter_mut().filter(|claim| claim.ports.contains(&report.port)) {
            let Some(heard) = claim.hears(report, asked.as_ref()) else { continue };
            ended |= claim.proof.record(&heard, now, rules);
            doubtful |= claim.proof.doubtful(rules);
            if heard.outcome == ProbeOutcome::Passed {
                claim.traffic.put_off(None);
                passed = true;
            }
        }
        self.changed.insert(report.vip);
        self.judge_traffic(report.vip, now);
        self.check_sooner(report.vip, now);
        if doubtful {
            self.timers.insert((now.after(DOUBTS), Timer::Probe(report.vip)));
        }
        if ended || passed {
            self.settle(report.vip, now);
            self.decide(report.vip, now);
            self.touch(report.vip);
        }
    }

    pub(super) fn prober(&mut self, state: ProberState, now: Timestamp) {
        let off = matches!(state, ProberState::Off(_));
        self.observed.prober = state;
        if off {
            self.wanted.clear();
            let vips: Vec<Vip> = self.vips.keys().copied().collect();
            for vip in vips {
                self.adopt_unproven(vip);
                self.decide(vip, now);
                self.touch(vip);
            }
        }
    }

    /// From now on what the owners of a VIP's Services want to be asked is asked for, while it is up.
    pub(super) fn follow_checks(&mut self, vip: Vip, now: Timestamp) {
        let Some(pause) = self.settings.check else { return };
        if !self.checks.contains_key(&vip) && self.vips.get(&vip).is_some_and(VipEntry::is_checked) {
            // Each VIP at a time of its own.
            let share = (jitter(self.settings.seed, vip, 0) + 0.1) * 5.0;
            self.check_at(vip, now.after(pause.mul_f64(share.clamp(0.0, 1.0))));
        }
    }

    fn check_at(&mut self, vip: Vip, at: Timestamp) {
        self.checks.insert(vip, at);
        self.timers.insert((at, Timer::Check(vip)));
    }

    /// It may be time to ask of a VIP what its owners want to be asked.
    pub(super) fn check(&mut self, vip: Vip, now: Timestamp) {
        let Some(pause) = self.settings.check else { return };
        if self.checks.get(&vip).is_none_or(|at| now < *at) {
            return;
        }
        if self.vips.get(&vip).is_some_and(VipEntry::is_checked) {
            self.want_probe(vip, ProbePurpose::Check);
            self.check_at(vip, now.after(pause));
        } else {
            self.checks.remove(&vip);
        }
    }

    /// What fails is asked again before its failures are too old to mean anything.
    fn check_sooner(&mut self, vip: Vip, now: Timestamp) {
        let sooner = now.after(self.settings.traffic.probe_age / 2);
        let fails = |entry: &VipEntry| entry.claims.iter().any(|claim| claim.traffic.check_fails());
        if self.checks.get(&vip).is_some_and(|at| sooner < *at) && self.vips.get(&vip).is_some_and(fails) {
            self.check_at(vip, sooner);
        }
    }

    /// A part of the round over the VIPs that are up and that nobody has connected to: all of them in one round's time.
    pub(super) fn probe_some(&mut self, now: Timestamp) {
        let Some(time) = self.settings.probe_round else { return };
        if now < self.round.next || self.observed.prober != ProberState::Running || self.vips.is_empty() {
            return;
        }
        self.round.next = now.after(STEP);
        let steps = usize::try_from(time.as_secs()).unwrap_or(usize::MAX).max(1);
        let count = self.vips.len().div_ceil(steps);
        let from = self.round.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut seen: Vec<(Vip, bool)> = self
            .vips
            .range((from, Bound::Unbounded))
            .take(count)
            .map(|(vip, entry)| (*vip, entry.idle(now, time)))
            .collect();
        if seen.len() < count {
            let rest = count - seen.len();
            seen.extend(self.vips.iter().take(rest).map(|(vip, entry)| (*vip, entry.idle(now, time))));
        }
        self.round.after = seen.last().map(|(vip, _)| *vip);
        for (vip, _) in seen.into_iter().filter(|(_, idle)| *idle) {
            self.want_probe(vip, ProbePurpose::Round);
        }
    }
}

/// The ports that are worth a probe, of claims that the control plane says yes to, with what is to be asked of each: those of
/// TCP, and others where something is to be asked; for a conviction those alone through which one has passed before, for a
/// check those of which something is to be asked.
fn probed(claims: &[Claim], purpose: ProbePurpose) -> Vec<(Port, Option<Arc<Check>>)> {
    let mut ports = Vec::new();
    for claim in claims.iter().filter(|claim| claim.control.is_ok()) {
        for port in claim.ports.iter() {
            let check = asked(claims, *port);
            let worth = match purpose {
                ProbePurpose::Conviction => claim.proof.knows(*port),
                ProbePurpose::Check => check.is_some(),
                ProbePurpose::Proof | ProbePurpose::Trial | ProbePurpose::Reference | ProbePurpose::Round => true,
            };
            if worth && (port.is_tcp() || check.is_some()) {
                ports.push((*port, check.cloned()));
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// What is asked of a port: as the first of its Services wants that wants anything.
fn asked(claims: &[Claim], port: Port) -> Option<&Arc<Check>> {
    let good = claims.iter().filter(|claim| claim.control.is_ok());
    good.filter_map(|claim| claim.check.as_ref()).find(|check| check.port == port)
}

fn provable(claim: &Claim) -> bool {
    claim.check.is_some() || claim.ports.iter().any(Port::is_tcp)
}

impl Claim {
    /// What an answer to `asked`, or to a SYN alone, says of this claim: a bad answer is of no concern to who wants nothing to
    /// be asked, and who wants something else learns nothing.
    fn hears(&self, report: &ProbeReport, asked: Option<&Arc<Check>>) -> Option<ProbeReport> {
        match (&self.check, report.outcome) {
            (Some(own), _) if own.port == report.port => (Some(own) == asked).then_some(*report),
            _ if !report.port.is_tcp() => None,
            (_, ProbeOutcome::Unhealthy) => {
                Some(ProbeReport { outcome: ProbeOutcome::Passed, complaint: None, ..*report })
            }
            (_, _) => Some(*report),
        }
    }
}

impl VipEntry {
    /// It is advertised, and nobody has completed a handshake for as long as a round takes.
    fn idle(&self, now: Timestamp, round: Duration) -> bool {
        let served = self.served_at.is_some_and(|at| now.since(at) < round);
        self.serves(|_| true) && !served
    }

    /// It is advertised, and the owner of a Service that can be served wants something to be asked.
    fn is_checked(&self) -> bool {
        self.serves(|claim| claim.check.is_some())
    }

    fn serves(&self, whom: impl Fn(&Claim) -> bool) -> bool {
        let up = |claim: &Claim| matches!(claim.health(), VipHealth::Up | VipHealth::Trial | VipHealth::Suspect(_));
        self.decision == Some(Decision::Advertise) && self.claims.iter().any(|claim| up(claim) && whom(claim))
    }
}
