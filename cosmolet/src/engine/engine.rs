//! The engine: takes events with their time, keeps a decision for every VIP, hands out plans.
//!
//! An event costs what it changes: it re-decides the VIPs it touches, and a plan looks at the VIPs that were touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::control::PodRecord;
use super::diff::{DiffContext, difference};
use super::ejections::{Asked, Guard};
use super::event::{Event, ProbePurpose, SourceState};
use super::explain::Heard;
use super::intent::Decision;
use super::lost::Anew;
use super::observed::{BgpState, Observed};
use super::plan::{Plan, Step};
use super::probes::Round;
use super::rules::VipRules;
use super::service::{NodeView, ServiceView};
use super::signals::NodeSignals;
use super::traffic::{TrafficMode, TrafficRules};
use super::types::{PodKey, ServiceKey, Timestamp, Vip};
use super::vip::VipEntry;

/// What the engine needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which addresses may be VIPs.
    pub rules: VipRules,
    /// VIPs are put on the loopback. If not, a `network` statement is all that they are, in Dynamic mode.
    pub addresses: bool,
    /// The lease of an address on the loopback; `None` is for ever.
    pub lease: Option<Duration>,
    /// Whether the traffic verdict acts.
    pub traffic_mode: TrafficMode,
    /// The constants of the traffic verdict.
    pub traffic: TrafficRules,
    /// Who is asked before it acts.
    pub guard: Guard,
    /// How long a claim waits for a probe to pass before it is advertised; `None` never waits, unless it must.
    pub prove: Option<Duration>,
    /// The time in which every VIP that nobody connects to is probed once; `None` never does.
    pub probe_round: Option<Duration>,
    /// The time between two probes of what a Service's owner wants to be asked; `None` never asks for its own sake.
    pub check: Option<Duration>,
    /// How long a pod counts as unusable after a container of it was restarted.
    pub pod_hold: Duration,
    /// How long a VIP that is to leave as planned is de-preferred first, at most; `None` withdraws it at once.
    pub drain: Option<Duration>,
    /// How long an address stays after its `network` statement is gone.
    pub linger: Duration,
    /// Spreads timers over the nodes; derived from the node's name.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: VipRules::default(),
            addresses: true,
            lease: Some(Duration::from_secs(120)),
            traffic_mode: TrafficMode::default(),
            traffic: TrafficRules::default(),
            guard: Guard::default(),
            prove: None,
            probe_round: None,
            check: None,
            pod_hold: Duration::from_secs(30),
            drain: None,
            linger: Duration::from_secs(1),
            seed: 0,
        }
    }
}

/// A decision that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The VIP.
    pub vip: Vip,
    /// When.
    pub at: Timestamp,
    /// What was decided before; `None` if nothing was.
    pub from: Option<Decision>,
    /// What is decided now.
    pub to: Decision,
    /// It was up before: advertised by the last decision, or found on the loopback as ours where there was none.
    pub was_up: bool,
}

/// The VIPs that one plan covers at the most, so that what is decided meanwhile has its turn.
const PLAN_LIMIT: usize = 512;
/// The same for a plan of withdrawals: nothing else is urgent meanwhile, and bgpd, which takes 0.1 ms for each, need not wait
/// between two plans.
const WITHDRAWAL_LIMIT: usize = 16_384;

/// The pure decider. See the module.
#[derive(Debug)]
pub struct Engine {
    pub(super) settings: Settings,
    pub(super) services: BTreeMap<ServiceKey, ServiceView>,
    pub(super) vips: BTreeMap<Vip, VipEntry>,
    pub(super) node: Option<NodeView>,
    pub(super) source: SourceState,
    pub(super) observed: Observed,
    pub(super) pods: BTreeMap<PodKey, PodRecord>,
    /// Every source has delivered everything once.
    pub(super) synced: bool,
    pub(super) exiting: bool,
    /// `cosmolet drain` has taken the node out.
    pub(super) drained: bool,
    /// VIPs to look at in the next plan that peers may still be told of and should not be.
    pub(super) leaving: BTreeSet<Vip>,
    /// All others to look at in a next plan. They wait for `leaving`.
    pub(super) dirty: BTreeSet<Vip>,
    pub(super) timers: BTreeSet<(Timestamp, Timer)>,
    pub(super) transitions: Vec<Transition>,
    /// VIPs whose row may read differently since somebody looked.
    pub(super) changed: BTreeSet<Vip>,
    /// The FRR connection that the plan in flight was made for.
    pub(super) planned_for: Option<u64>,
    /// VIPs whose probes are wanted, and why.
    pub(super) wanted: BTreeMap<Vip, ProbePurpose>,
    /// When each VIP is to be asked next of whose ports somebody wants something to be asked.
    pub(super) checks: BTreeMap<Vip, Timestamp>,
    pub(super) round: Round,
    pub(super) signals: NodeSignals,
    pub(super) heard: Heard,
    pub(super) asked: Asked,
    pub(super) anew: Anew,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Vip(Vip),
    Probe(Vip),
    Check(Vip),
    Pod(PodKey),
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            services: BTreeMap::new(),
            vips: BTreeMap::new(),
            node: None,
            source: SourceState::default(),
            observed: Observed::default(),
            pods: BTreeMap::new(),
            synced: false,
            exiting: false,
            drained: false,
            leaving: BTreeSet::new(),
            dirty: BTreeSet::new(),
            timers: BTreeSet::new(),
            transitions: Vec::new(),
            changed: BTreeSet::new(),
            planned_for: None,
            wanted: BTreeMap::new(),
            checks: BTreeMap::new(),
            round: Round::default(),
            signals: NodeSignals::default(),
            heard: Heard::default(),
            asked: Asked::default(),
            anew: Anew::default(),
        }
    }

    /// Takes one event. Never fails; what it cannot use it ignores.
    pub fn handle(&mut self, event: Event, now: Timestamp) {
        self.fire_timers(now);
        self.heard.note(&event, now);
        match event {
            Event::Service(view) => self.service(*view, now),
            Event::ServiceGone(key) => self.service_gone(&key, now),
            Event::Node(node) => {
                if self.node.as_ref() != Some(&node) {
                    self.node = Some(node);
                    self.decide_all(now);
                }
            }
            Event::Pod(key, view) => self.pod(key, view, now),
            Event::PodGone(key) => self.pod_gone(&key, now),
            Event::Source(state) => self.source(state, now),
            Event::Traffic(samples) => self.traffic(&samples, now),
            Event::Probe(reports) => reports.iter().for_each(|report| self.probe(report, now)),
            Event::Prober(state) => self.prober(state, now),
            Event::Permissions(permissions) => self.permissions(permissions, now),
            Event::Kernel(event) => self.kernel(event, now),
            Event::Bgp(state) => self.bgp(state, now),
            Event::Rib(reports) => reports.iter().for_each(|report| self.rib(report, now)),
            Event::Programs(state) => self.programs(state),
            Event::Applied(applied) => applied.into_iter().for_each(|one| self.applied(one, now)),
            Event::Drained(drained) => self.drained(drained, now),
            Event::Tick => self.probe_some(now),
            Event::Exit => {
                self.exiting = true;
                self.decide_all(now);
            }
        }
    }

    /// The steps that lead from what is there to what is wanted, for the VIPs that may differ. Empty where nothing
    /// does. One plan at a time: hand its outcome back as [`Event::Applied`] before asking again.
    ///
    /// Withdrawals have plans of their own; a plan of anything else gives way to them ([`Plan::gives_way`]).
    pub fn plan(&mut self, now: Timestamp) -> Plan {
        self.fire_timers(now);
        self.planned_for = self.generation();
        let mut left = WITHDRAWAL_LIMIT;
        let mut steps = Vec::new();
        while left > 0
            && let Some(vip) = self.leaving.pop_first()
        {
            left -= usize::from(self.plan_vip(vip, now, &mut steps));
        }
        if !steps.is_empty() {
            return Plan::new(steps);
        }
        left = PLAN_LIMIT;
        while left > 0
            && let Some(vip) = self.dirty.pop_first()
        {
            left -= usize::from(self.plan_vip(vip, now, &mut steps));
        }
        Plan::new(steps).giving_way()
    }

    /// Adds what is to be done for one VIP; false if there is nothing now.
    fn plan_vip(&mut self, vip: Vip, now: Timestamp, steps: &mut Vec<Step>) -> bool {
        self.settle(vip, now);
        let Some(entry) = self.vips.get(&vip) else { return false };
        let context = DiffContext {
            observed: &self.observed,
            addresses: self.settings.addresses,
            lease: self.settings.lease,
            linger: self.settings.linger,
            drain_ends: self.drain_ends(vip).filter(|ends| *ends > now),
            now,
        };
        let mut found = difference(vip, entry, &context);
        let any = !found.steps.is_empty();
        steps.append(&mut found.steps);
        let health = entry.claims.iter().filter_map(|claim| claim.traffic.next_change(now, &self.settings.traffic));
        let proof = entry.claims.iter().filter_map(|claim| claim.proof.next_change(claim.limit(self.settings.prove)));
        if let Some(at) = found.look_again.into_iter().chain(health).chain(proof).min() {
            self.timers.insert((at, Timer::Vip(vip)));
        }
        self.forget_if_idle(vip);
        any
    }

    /// Takes the decisions that changed since the last call, in the order in which they did.
    pub fn take_transitions(&mut self) -> Vec<Transition> {
        std::mem::take(&mut self.transitions)
    }

    /// True while some VIP's status row may have changed since it was last taken.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Takes up to `limit` VIPs whose status row may have changed since it was last taken.
    pub fn take_changed(&mut self, limit: usize) -> Vec<Vip> {
        std::iter::from_fn(|| self.changed.pop_first()).take(limit).collect()
    }

    /// The decision for every VIP: what is wanted, complete.
    pub fn intent(&self) -> impl Iterator<Item = (Vip, Decision)> {
        self.vips.iter().filter_map(|(vip, entry)| Some((*vip, entry.decision?)))
    }

    /// When to send a [`Event::Tick`] though nothing else happens.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// True while some VIP has to be looked at by [`Engine::plan`].
    #[must_use]
    pub fn wants_plan(&self) -> bool {
        !(self.leaving.is_empty() && self.dirty.is_empty())
    }

    /// True while a withdrawal waits for the next plan: one in flight that [gives way](Plan::gives_way) should land.
    #[must_use]
    pub fn wants_withdrawal(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// What was observed.
    #[must_use]
    pub const fn observed(&self) -> &Observed {
        &self.observed
    }

    pub(super) fn generation(&self) -> Option<u64> {
        match &self.observed.bgp {
            BgpState::Up(view) => Some(view.generation),
            BgpState::Disabled | BgpState::Down(_) => None,
        }
    }

    fn fire_timers(&mut self, now: Timestamp) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            match self.timers.pop_first() {
                Some((_, Timer::Vip(vip))) => {
                    self.settle(vip, now);
                    self.touch(vip);
                }
                Some((_, Timer::Probe(vip))) => {
                    self.follow_doubt(vip, now);
                    self.want_doubtful(vip);
                }
                Some((_, Timer::Check(vip))) => self.check(vip, now),
                Some((_, Timer::Pod(pod))) => self.refresh_pod(&pod, now),
                None => {}
            }
        }
    }

    /// Lets the time that has passed count for one VIP.
    pub(super) fn settle(&mut self, vip: Vip, now: Timestamp) {
        self.prove_on(vip, now);
        self.settle_ejection(vip, now);
        self.hold_back_trials(vip, now);
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        let rules = &self.settings.traffic;
        let ticked = entry.claims.iter_mut().map(|claim| {
            claim.weigh_check(now, rules);
            claim.traffic.tick(now, rules)
        });
        if ticked.fold(false, |any, changed| any | changed) {
            self.decide(vip, now);
        }
    }
}
