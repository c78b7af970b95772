//! Which probes are wanted, and what their outcomes lead to.
//!
//! Owns the wait before an advertisement, the round over VIPs that nobody connects to and the list of wishes. What a claim
//! remembers is `proof`'s; how a probe is made is the edge's.

use std::ops::Bound;
use std::time::Duration;

use super::engine::{Engine, Timer};
use super::event::{ProbeOutcome, ProbePurpose, ProbeReport, ProbeRequest};
use super::intent::{Decision, VipHealth};
use super::observed::ProberState;
use super::proof::Prove;
use super::service::ServiceView;
use super::types::{Port, ServiceKey, Timestamp, Vip};
use super::vip::{Claim, VipEntry};

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
            let ports: Vec<_> = ports.into_iter().map(|port| (port, None)).collect();
            (!ports.is_empty()).then_some(ProbeRequest { vip, ports, purpose })
        });
        taken.collect()
    }

    /// True while some VIP's probe is wanted.
    #[must_use]
    pub fn wants_probes(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Asks for a probe of a VIP; the weightier of two reasons stands. Outcomes come as
    /// [`Event::Probe`](super::event::Event::Probe), and none at all comes while no prober runs.
    pub(super) fn want_probe(&mut self, vip: Vip, purpose: ProbePurpose) {
        if matches!(self.observed.prober, ProberState::Off(_)) {
            return;
        }
        self.wanted.entry(vip).and_modify(|known| *known = purpose.min(*known)).or_insert(purpose);
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
            claim.proof.begin(now, claim.prove == Prove::Required);
            self.prove_on(vip, now);
        }
    }

    /// What was on the loopback before the daemon came never waits.
    pub(super) fn adopt_unproven(&mut self, vip: Vip) {
        for claim in self.vips.get_mut(&vip).iter_mut().flat_map(|entry| &mut entry.claims) {
            claim.proof.stop();
        }
    }

    /// Endpoints of a Service have changed: what probes have shown of the old ones proves nothing of these.
    pub(super) fn renew_proofs(&mut self, old: &ServiceView, new: &ServiceView, now: Timestamp) {
        let rules = &self.settings.traffic;
        for claimed in &new.vips {
            let family = claimed.vip.family();
            if (&old.ports, old.endpoints.get(family)) == (&new.ports, new.endpoints.get(family)) {
                continue;
            }
            if let Some(claim) = self.vips.get_mut(&claimed.vip).and_then(|entry| entry.find(&new.key)) {
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
        let (mut ended, mut doubtful) = (false, false);
        for claim in entry.claims.iter_mut().filter(|claim| claim.ports.contains(&report.port)) {
            ended |= claim.proof.record(report.port, report.outcome, now, rules);
            doubtful |= claim.proof.doubtful(rules);
            if report.outcome == ProbeOutcome::Passed {
                claim.traffic.put_off(None);
            }
        }
        self.changed.insert(report.vip);
        self.judge_traffic(report.vip, now);
        if doubtful {
            self.timers.insert((now.after(DOUBTS), Timer::Probe(report.vip)));
        }
        if ended || report.outcome == ProbeOutcome::Passed {
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

/// The ports that are worth a probe: of TCP, of claims that the control plane says yes to; for a conviction those alone
/// through which one has passed before.
fn probed(claims: &[Claim], purpose: ProbePurpose) -> Vec<Port> {
    let good = claims.iter().filter(|claim| claim.control.is_ok());
    let worth = |claim: &Claim, port: &Port| purpose != ProbePurpose::Conviction || claim.proof.knows(*port);
    let ports = good.flat_map(|claim| claim.ports.iter().filter(move |port| port.is_tcp() && worth(claim, port)));
    let mut ports: Vec<Port> = ports.copied().collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn provable(claim: &Claim) -> bool {
    claim.ports.iter().any(Port::is_tcp)
}

impl VipEntry {
    /// It is advertised, and nobody has completed a handshake for as long as a round takes.
    fn idle(&self, now: Timestamp, round: Duration) -> bool {
        let served = self.served_at.is_some_and(|at| now.since(at) < round);
        let health = |claim: &Claim| matches!(claim.health(), VipHealth::Up | VipHealth::Trial | VipHealth::Suspect(_));
        self.decision == Some(Decision::Advertise) && !served && self.claims.iter().any(health)
    }
}
