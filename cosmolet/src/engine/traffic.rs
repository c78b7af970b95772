//! The data plane's verdict over one Service's claim to a VIP.
//!
//! Owns the rule and its memory. Two things are held against a claim: this host itself answers new connections with RST
//! or ICMP unreachable, which means that nothing translates the VIP to a backend and convicts by itself; or handshakes
//! fail (`cusum`), which only makes it suspect until a second key turns. Never judges by what clients do.

mod baseline;
mod budget;
mod cusum;
mod flood;
mod port;
mod rules;
mod sight;

use std::collections::BTreeMap;

use super::event::TrafficSample;
use super::intent::WithdrawReason;
use super::types::{Port, Protocol, Timestamp};
use budget::Budget;
use port::PortEvidence;

pub use port::PortReport;
pub use rules::TrafficRules;
pub use sight::Sight;

/// Whether the verdict acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficMode {
    /// No programs, no counters, no verdict.
    Off,
    /// Says what it would have done, and does nothing.
    #[default]
    Observe,
    /// Withdraws what it convicts.
    Enforce,
}

impl TrafficMode {
    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }

    /// The same, but it only says what it would have done.
    #[must_use]
    pub const fn without_effect(self) -> Self {
        match self {
            Self::Off => Self::Off,
            Self::Observe | Self::Enforce => Self::Observe,
        }
    }
}

/// What the traffic says of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficState {
    /// Nothing against it.
    #[default]
    Clear,
    /// Something is held against it, and nothing acts on that.
    Suspect,
    /// Withdrawn until then.
    Convicted(Timestamp),
    /// Advertised again since then, judged more strictly.
    Trial(Timestamp),
}

/// What is held against a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Charge {
    /// This host itself refuses new connections. Needs no second key.
    HostRefuses,
    /// Handshakes fail.
    ConnectionsFail,
    /// What its owner wants to be asked is not answered well. Needs no second key: it is asked three times.
    ProbeFails,
}

impl Charge {
    /// The reason of a withdrawal for it.
    #[must_use]
    pub const fn reason(self) -> WithdrawReason {
        match self {
            Self::HostRefuses => WithdrawReason::HostRefuses,
            Self::ConnectionsFail => WithdrawReason::ConnectionsFail,
            Self::ProbeFails => WithdrawReason::ProbeFails,
        }
    }
}

/// What a Service's owner wants of the verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// `cosmolet.io/on-traffic-fault`
    pub fault: OnFault,
    /// `cosmolet.io/on-traffic-evidence`
    pub evidence: SecondKey,
}

/// What a conviction leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFault {
    /// The VIP is withdrawn.
    #[default]
    Withdraw,
    /// The VIP is de-preferred, where FRR is told by `network` statements of ours; withdrawn elsewhere.
    Depreference,
    /// Nothing: it stays suspect.
    Ignore,
}

/// What must join a suspicion before it convicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecondKey {
    /// Three wire-true probes in a row fail, of endpoints with which one had passed.
    #[default]
    Probe,
    /// Nothing: the owner trusts the traffic alone.
    Passive,
}

/// The terms on which a claim is judged.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Whether a conviction acts.
    pub mode: TrafficMode,
    /// The constants.
    pub rules: &'a TrafficRules,
    /// In -0.1 to 0.1: spreads the returns of many nodes.
    pub jitter: f64,
    /// The second key has turned: a suspicion convicts.
    pub second_key: bool,
}

/// The memory of one claim's traffic.
#[derive(Clone, Debug, Default)]
pub struct TrafficHealth {
    ports: BTreeMap<Port, PortEvidence>,
    state: TrafficState,
    charge: Option<Charge>,
    quiet_until: Option<Timestamp>,
    /// The port of which its owner's question is answered badly, as its probes have it.
    failing_check: Option<Port>,
    /// What only a conviction makes; most claims never see one.
    record: Option<Box<Record>>,
}

/// What is remembered of convictions.
#[derive(Clone, Debug, Default)]
struct Record {
    /// How many in a row there were.
    ejections: u32,
    /// When the last one was.
    convicted_at: Timestamp,
    /// The ports that it was for.
    blamed: Vec<Port>,
    /// The trial waits for a probe, until this point at least.
    put_off: Option<Timestamp>,
    budget: Budget,
}

impl TrafficHealth {
    /// What the traffic says now.
    #[must_use]
    pub const fn state(&self) -> TrafficState {
        self.state
    }

    /// What is held against it, or was when it was convicted.
    #[must_use]
    pub const fn charge(&self) -> Option<Charge> {
        self.charge
    }

    /// How often in a row the traffic has convicted this claim.
    #[must_use]
    pub fn ejections(&self) -> u32 {
        self.record.as_ref().map_or(0, |record| record.ejections)
    }

    /// The point of the last conviction.
    #[must_use]
    pub fn convicted_at(&self) -> Option<Timestamp> {
        self.record.as_ref().map(|record| record.convicted_at)
    }

    /// The ports that it was last convicted for.
    #[must_use]
    pub fn blamed(&self) -> &[Port] {
        self.record.as_ref().map_or(&[], |record| &record.blamed)
    }

    /// Takes one sample of a declared port and judges. Returns true where the state has changed.
    pub fn sample(&mut self, sample: &TrafficSample, now: Timestamp, terms: &Terms<'_>) -> bool {
        self.observe(sample, now, terms);
        self.judge(now, terms)
    }

    /// Takes one sample of a declared port.
    pub fn observe(&mut self, sample: &TrafficSample, now: Timestamp, terms: &Terms<'_>) {
        // Only TCP tells a new connection from an old one by a single packet.
        if sample.port.protocol == Protocol::Tcp && terms.mode != TrafficMode::Off {
            // What still comes to a withdrawn VIP is neither evidence nor usual.
            let withdrawn = matches!(self.state, TrafficState::Convicted(_));
            let quiet = withdrawn || self.quiet_until.is_some_and(|until| now < until);
            self.ports.entry(sample.port).or_default().push(sample, quiet, now, terms.rules);
        }
    }

    /// Takes the port of which its owner's question is answered badly, where probes convince of that.
    pub const fn set_failing_check(&mut self, port: Option<Port>) {
        self.failing_check = port;
    }

    /// Its owner's question is answered badly.
    #[must_use]
    pub const fn check_fails(&self) -> bool {
        self.failing_check.is_some()
    }

    /// Judges by what was observed. Returns true where the state has changed.
    pub fn judge(&mut self, now: Timestamp, terms: &Terms<'_>) -> bool {
        let before = (self.state, self.charge);
        if terms.mode != TrafficMode::Off {
            match self.state {
                TrafficState::Clear | TrafficState::Suspect => self.judge_anew(now, terms),
                TrafficState::Trial(since) => self.judge_trial(since, now, terms),
                TrafficState::Convicted(_) => {}
            }
        }
        (self.state, self.charge) != before
    }

    /// Lets time pass. Returns true where the state has changed.
    pub fn tick(&mut self, now: Timestamp, rules: &TrafficRules) -> bool {
        let before = self.state;
        match self.state {
            TrafficState::Convicted(_) if self.hold_is_over(now) => {
                self.put_off(None);
                self.ports.values_mut().for_each(PortEvidence::restart);
                self.state = TrafficState::Trial(now);
            }
            TrafficState::Trial(since) if now.since(since) >= rules.idle_trial => self.clear(),
            TrafficState::Suspect if self.charge_now(now, rules).is_none() => self.clear(),
            TrafficState::Clear | TrafficState::Suspect | TrafficState::Convicted(_) | TrafficState::Trial(_) => {}
        }
        self.state != before
    }

    /// When time alone may change the state.
    #[must_use]
    pub fn next_change(&self, now: Timestamp, rules: &TrafficRules) -> Option<Timestamp> {
        match self.state {
            TrafficState::Clear => None,
            TrafficState::Suspect => Some(now.after(rules.window)),
            TrafficState::Convicted(until) => Some(self.put_off_until().map_or(until, |later| later.max(until))),
            TrafficState::Trial(since) => Some(since.after(rules.idle_trial)),
        }
    }

    /// Its hold is over: it may go on trial now.
    #[must_use]
    pub fn hold_is_over(&self, now: Timestamp) -> bool {
        let over = matches!(self.state, TrafficState::Convicted(until) if now >= until);
        over && self.put_off_until().is_none_or(|until| now >= until)
    }

    /// Handshakes of some port fail.
    #[must_use]
    pub fn fails(&self, now: Timestamp, rules: &TrafficRules) -> bool {
        self.ports.values().any(|port| port.suspect(now, rules))
    }

    /// The ports whose handshakes fail, on trial by the stricter measure.
    pub fn accused(&self, now: Timestamp, rules: &TrafficRules) -> impl Iterator<Item = Port> {
        let trial = matches!(self.state, TrafficState::Trial(_));
        let fails =
            move |port: &PortEvidence| if trial { port.fails_trial(now, rules) } else { port.suspect(now, rules) };
        self.ports.iter().filter(move |(_, evidence)| fails(evidence)).map(|(port, _)| *port)
    }

    /// What this node sees of the answers to its clients: of the port of which it sees least, among those with handshakes.
    #[must_use]
    pub fn sight(&self, rules: &TrafficRules) -> Sight {
        self.ports.values().map(|port| port.sight(rules)).max().unwrap_or_default()
    }

    /// Nothing is concluded from its handshakes until then, as its endpoints have changed.
    #[must_use]
    pub fn quiet_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.quiet_until.filter(|until| now < *until)
    }

    /// It is withdrawn, or was and is on trial.
    #[must_use]
    pub const fn is_ejected(&self) -> bool {
        matches!(self.state, TrafficState::Convicted(_) | TrafficState::Trial(_))
    }

    /// It would be convicted now, if that was permitted.
    #[must_use]
    pub fn is_to_be_convicted(&self, now: Timestamp, terms: &Terms<'_>) -> bool {
        self.state == TrafficState::Suspect
            && self.charges(now, terms.rules).any(|charge| self.convicts(charge, now, terms))
    }

    /// Ends a withdrawal that is no longer permitted: nothing is proven against it any more. Returns true where it was withdrawn.
    pub fn set_free(&mut self) -> bool {
        let withdrawn = matches!(self.state, TrafficState::Convicted(_));
        if withdrawn {
            self.ports.values_mut().for_each(PortEvidence::restart);
            self.state = TrafficState::Suspect;
        }
        withdrawn
    }

    /// Puts its trial off until then, or no longer.
    pub fn put_off(&mut self, until: Option<Timestamp>) {
        if let Some(record) = &mut self.record {
            record.put_off = until;
        }
    }

    fn put_off_until(&self) -> Option<Timestamp> {
        self.record.as_ref().and_then(|record| record.put_off)
    }

    /// The endpoints have changed: their handshakes say nothing for a while.
    pub fn endpoints_changed(&mut self, now: Timestamp, rules: &TrafficRules) {
        if !self.ports.is_empty() {
            self.quiet_until = Some(now.after(rules.endpoint_silence));
            self.ports.values_mut().for_each(PortEvidence::forget_handshakes);
        }
    }

    /// Forgets the ports that are no longer declared.
    pub fn keep_ports(&mut self, declared: &[Port]) {
        self.ports.retain(|port, _| declared.contains(port));
        self.failing_check = self.failing_check.filter(|port| declared.contains(port));
        if let Some(record) = &mut self.record {
            record.blamed.retain(|port| declared.contains(port));
        }
    }

    /// What is held against it now: the weightiest.
    #[must_use]
    pub fn charge_now(&self, now: Timestamp, rules: &TrafficRules) -> Option<Charge> {
        self.charges(now, rules).next()
    }

    /// All that is held against it now, the weightier first.
    fn charges(&self, now: Timestamp, rules: &TrafficRules) -> impl Iterator<Item = Charge> + use<> {
        let all = [
            (self.refused_now(now, rules), Charge::HostRefuses),
            (self.fails(now, rules), Charge::ConnectionsFail),
            (self.check_fails(), Charge::ProbeFails),
        ];
        all.into_iter().filter_map(|(stands, charge)| stands.then_some(charge))
    }

    /// The withdrawals that the budget has left.
    #[must_use]
    pub fn budget_left(&self, now: Timestamp, rules: &TrafficRules) -> usize {
        self.record.as_ref().map_or(rules.budget, |record| record.budget.left(now, rules))
    }

    /// The evidence of each port that has seen traffic, for a person.
    pub fn reports(&self, now: Timestamp, rules: &TrafficRules) -> impl Iterator<Item = (Port, PortReport)> {
        self.ports.iter().map(move |(port, evidence)| (*port, evidence.report(now, rules)))
    }

    fn clear(&mut self) {
        self.state = TrafficState::Clear;
        self.charge = None;
    }

    fn judge_anew(&mut self, now: Timestamp, terms: &Terms<'_>) {
        let Some(weightiest) = self.charge_now(now, terms.rules) else { return self.clear() };
        // One that lacks its second key does not stand before one that needs none.
        let proven = self.charges(now, terms.rules).find(|charge| self.convicts(*charge, now, terms));
        self.charge = Some(proven.unwrap_or(weightiest));
        if proven.is_some() {
            let forgiven = self.convicted_at().is_none_or(|at| now.since(at) >= terms.rules.forgive);
            let ejections = if forgiven { 1 } else { self.ejections().saturating_add(1) };
            self.convict(ejections, now, terms);
        } else {
            self.state = TrafficState::Suspect;
        }
    }

    /// The charge is proven, and acts.
    fn convicts(&self, charge: Charge, now: Timestamp, terms: &Terms<'_>) -> bool {
        let proven = match charge {
            Charge::HostRefuses | Charge::ProbeFails => true,
            Charge::ConnectionsFail => terms.second_key,
        };
        proven && terms.mode == TrafficMode::Enforce && self.budget_left(now, terms.rules) > 0
    }

    fn refused_now(&self, now: Timestamp, rules: &TrafficRules) -> bool {
        self.ports
            .values()
            .flat_map(|port| port.shares(now, rules, rules.min_attempts))
            .any(|(refused, completed)| refused >= rules.refused_share && completed < rules.completed_share)
    }

    /// A failed trial for the host's refusals is damped by its growing hold alone. Failing handshakes and probes, the weaker
    /// evidence, need room in the budget, and the former their second key here too.
    fn judge_trial(&mut self, since: Timestamp, now: Timestamp, terms: &Terms<'_>) {
        let rules = terms.rules;
        let shares = || self.ports.values().flat_map(|port| port.shares(now, rules, 1));
        let acts = terms.mode == TrafficMode::Enforce;
        let budgeted = acts && self.budget_left(now, rules) > 0;
        let fails = self.ports.values().any(|port| port.fails_trial(now, rules));
        if shares().any(|(refused, _)| refused >= rules.trial_refused_share) {
            self.fail_trial(Charge::HostRefuses, acts, now, terms);
        } else if fails && (!acts || terms.second_key) {
            self.fail_trial(Charge::ConnectionsFail, budgeted, now, terms);
        } else if self.check_fails() {
            self.fail_trial(Charge::ProbeFails, budgeted, now, terms);
        } else if !fails && now.since(since) >= rules.min_trial && shares().any(|(_, completed)| completed > 0.0) {
            self.clear();
        }
    }

    fn fail_trial(&mut self, charge: Charge, acts: bool, now: Timestamp, terms: &Terms<'_>) {
        self.charge = Some(charge);
        if acts {
            self.convict(self.ejections().saturating_mul(2).max(1), now, terms);
        } else {
            self.state = TrafficState::Suspect;
        }
    }

    fn to_blame(&self, now: Timestamp, rules: &TrafficRules) -> Vec<Port> {
        let refuses =
            |port: &PortEvidence| port.shares(now, rules, 1).any(|(refused, _)| refused >= rules.trial_refused_share);
        match self.charge {
            Some(Charge::ConnectionsFail) => self.accused(now, rules).collect(),
            Some(Charge::ProbeFails) => self.failing_check.into_iter().collect(),
            Some(Charge::HostRefuses) | None => {
                self.ports.iter().filter(|(_, evidence)| refuses(evidence)).map(|(port, _)| *port).collect()
            }
        }
    }

    fn convict(&mut self, ejections: u32, now: Timestamp, terms: &Terms<'_>) {
        let hold = terms.rules.hold.saturating_mul(ejections).min(terms.rules.max_hold);
        let blamed = self.to_blame(now, terms.rules);
        let record = self.record.get_or_insert_default();
        record.budget.spend(now, terms.rules);
        (record.ejections, record.convicted_at, record.blamed, record.put_off) = (ejections, now, blamed, None);
        self.ports.values_mut().for_each(PortEvidence::forget_handshakes);
        self.state = TrafficState::Convicted(now.after(hold.mul_f64(1.0 + terms.jitter.clamp(-0.1, 0.1))));
    }
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
