//! Everything behind the answer for one VIP: each input with its age, the votes, the thresholds and the guards.
//!
//! Owns the facts; `would_change` makes sentences of them. Never decides anything, and never changes the engine.

mod would_change;

use std::time::Duration;

use super::engine::Engine;
use super::event::{Event, SourceState};
use super::guard::Refused;
use super::intent::WithdrawReason;
use super::observed::{BgpState, ProberState, ProgramsState};
use super::service::{EndpointCondition, EndpointCounts, EndpointScope, NodeView};
use super::signals::{acting, second_key};
use super::status::{ClaimStatus, VipStatus};
use super::traffic::{OnFault, PortReport, SecondKey, TrafficMode, TrafficRules, TrafficState};
use super::types::{Port, Timestamp, Vip};
use super::vip::Claim;

/// The whole explanation.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// When it was made.
    pub at: Timestamp,
    /// The row that the status has.
    pub status: VipStatus,
    /// What was heard from outside, for all VIPs.
    pub inputs: Vec<Input>,
    /// The Services that claim the VIP.
    pub claims: Vec<ClaimExplanation>,
    /// `traffic.mode`
    pub mode: TrafficMode,
    /// `traffic.rule`
    pub rules: TrafficRules,
    /// `traffic.check_seconds`; `None` is never.
    pub check: Option<Duration>,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// `services`, `node`, `kernel`, `frr`, `programs` or `prober`.
    pub name: &'static str,
    /// How it is, in a word.
    pub state: &'static str,
    /// What is wrong with it.
    pub error: Option<String>,
    /// When something was last heard of it; `None` if nothing was.
    pub at: Option<Timestamp>,
}

/// When each input was last heard of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    pub(super) source: Option<Timestamp>,
    pub(super) node: Option<Timestamp>,
    pub(super) kernel: Option<Timestamp>,
    pub(super) bgp: Option<Timestamp>,
    pub(super) programs: Option<Timestamp>,
    pub(super) prober: Option<Timestamp>,
}

impl Heard {
    pub(super) const fn note(&mut self, event: &Event, now: Timestamp) {
        let place = match event {
            Event::Source(_) | Event::Service(_) | Event::ServiceGone(_) => &mut self.source,
            Event::Node(_) => &mut self.node,
            Event::Kernel(_) => &mut self.kernel,
            Event::Bgp(_) | Event::Rib(_) => &mut self.bgp,
            Event::Programs(_) | Event::Traffic(_) => &mut self.programs,
            Event::Prober(_) | Event::Probe(_) => &mut self.prober,
            Event::Pod(..)
            | Event::PodGone(_)
            | Event::Permissions(_)
            | Event::Applied(_)
            | Event::Drained(_)
            | Event::Tick
            | Event::Exit => return,
        };
        *place = Some(now);
    }
}

/// One Service's claim.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimExplanation {
    /// The row that the status has.
    pub status: ClaimStatus,
    /// What the control plane says.
    pub control: Result<(), WithdrawReason>,
    /// When it last said anything.
    pub control_at: Timestamp,
    /// Which endpoints count, and how many there are.
    pub endpoints: Option<Tally>,
    /// What must join failing handshakes.
    pub evidence: SecondKey,
    /// It has joined them.
    pub second_key: bool,
    /// The state of the traffic verdict.
    pub traffic: TrafficState,
    /// Why a conviction would not act now.
    pub guards: Vec<Guard>,
    /// Withdrawals that the budget has left.
    pub budget_left: usize,
    /// Nothing is concluded from handshakes until then, as endpoints have changed.
    pub quiet_until: Option<Timestamp>,
    /// The latest end of its wait for a first probe; `Some(None)` waits for ever.
    pub waits_until: Option<Option<Timestamp>>,
    /// Its declared ports.
    pub ports: Vec<PortExplanation>,
}

impl ClaimExplanation {
    /// The probes of the port of which its owner wants something to be asked, once one has passed.
    #[must_use]
    pub fn checked(&self) -> Option<PortProbe> {
        let check = self.status.check.as_ref()?;
        self.ports.iter().find(|port| port.port == check.port)?.probe
    }
}

/// The endpoints of a claim's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Which of them count.
    pub scope: EndpointScope,
    /// On this node.
    pub local: EndpointCounts,
    /// Elsewhere.
    pub remote: EndpointCounts,
}

/// One declared port.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PortExplanation {
    /// The port.
    pub port: Port,
    /// Its evidence, once it has seen traffic.
    pub evidence: Option<PortReport>,
    /// Its probes, once one has passed.
    pub probe: Option<PortProbe>,
}

/// What probes have shown of a port since one passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortProbe {
    /// When one last passed.
    pub passed_at: Timestamp,
    /// How many in a row have failed since.
    pub failures: u32,
    /// When the last of those came.
    pub failed_at: Option<Timestamp>,
}

/// What keeps a conviction from acting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// `traffic.mode` is not `enforce`.
    Mode,
    /// The source of Services is stale.
    StaleSource,
    /// `cosmolet.io/on-traffic-fault: ignore`
    Ignored,
    /// The handshakes of most VIPs fail.
    NodeSuspect,
    /// Its traffic has withdrawn it often enough.
    BudgetSpent,
    /// The other nodes cannot spare this one.
    Refused(Refused),
}

impl Guard {
    /// The word used in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mode => "Mode",
            Self::StaleSource => "StaleSource",
            Self::Ignored => "Ignored",
            Self::NodeSuspect => "NodeSuspect",
            Self::BudgetSpent => "BudgetSpent",
            Self::Refused(refused) => refused.as_str(),
        }
    }

    /// What it means, in a sentence.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::Mode => "traffic.mode is not enforce: the verdict is only shown",
            Self::StaleSource => "the source of Services is stale: no traffic verdict acts",
            Self::Ignored => "its Service says cosmolet.io/on-traffic-fault: ignore",
            Self::NodeSuspect => "the handshakes of most VIPs with traffic fail: passive evidence alone does not act",
            Self::Refused(refused) => refused.explain(),
            Self::BudgetSpent => "its traffic has withdrawn it as often as traffic.rule.budget allows",
        }
    }
}

impl Engine {
    /// Explains a VIP; `None` if no Service and nothing on this node names it.
    #[must_use]
    pub fn explain(&self, vip: Vip, now: Timestamp) -> Option<Explanation> {
        let entry = self.vips.get(&vip)?;
        let status = self.vip_status(vip)?;
        let claims = entry.claims.iter().zip(&status.services);
        let claims = claims.map(|(claim, status)| self.explain_claim(vip, claim, status, now)).collect();
        let (mode, rules, check) = (self.settings.traffic_mode, self.settings.traffic, self.settings.check);
        Some(Explanation { at: now, inputs: self.inputs(), claims, mode, rules, check, status })
    }

    fn inputs(&self) -> Vec<Input> {
        let heard = &self.heard;
        let input = |name, state, error: Option<String>, at| Input { name, state, error, at };
        let stale = match &self.source {
            SourceState::Stale(error) => Some(error.clone()),
            SourceState::Syncing | SourceState::Synced => None,
        };
        let (node, excluded) = match self.node.as_ref().map(NodeView::check) {
            None => ("unseen", None),
            Some(Ok(())) => ("eligible", None),
            Some(Err(reason)) => ("excluded", Some(reason.explain().to_owned())),
        };
        let kernel = if self.observed.kernel.is_some() { "read" } else { "unread" };
        let (bgp, fault) = match &self.observed.bgp {
            BgpState::Disabled => ("disabled", None),
            BgpState::Down(fault) => ("down", Some(fault.to_string())),
            BgpState::Up(_) => ("up", None),
        };
        let (programs, off) = match &self.observed.programs {
            ProgramsState::Running(_) => ("running", None),
            ProgramsState::Off(reason) => ("off", Some(reason.clone())),
        };
        let no_probes = match &self.observed.prober {
            ProberState::Off(reason) => Some(reason.clone()),
            ProberState::Starting | ProberState::Running => None,
        };
        vec![
            input("services", self.source.as_str(), stale, heard.source),
            input("node", node, excluded, heard.node),
            input("kernel", kernel, None, heard.kernel),
            input("frr", bgp, fault, heard.bgp),
            input("programs", programs, off, heard.programs),
            input("prober", self.observed.prober.as_str(), no_probes, heard.prober),
        ]
    }

    fn explain_claim(&self, vip: Vip, claim: &Claim, status: &ClaimStatus, now: Timestamp) -> ClaimExplanation {
        let rules = &self.settings.traffic;
        let limit = claim.limit(self.settings.prove);
        ClaimExplanation {
            status: status.clone(),
            control: claim.control,
            control_at: claim.control_at,
            endpoints: self.tally(vip, claim),
            evidence: claim.policy.evidence,
            second_key: second_key(claim, self.signals.suspect, now, rules),
            traffic: claim.traffic.state(),
            guards: self.guards(vip, claim, now),
            budget_left: claim.traffic.budget_left(now, rules),
            quiet_until: claim.traffic.quiet_until(now),
            waits_until: claim.proof.waits_until(limit),
            ports: ports(claim, now, rules),
        }
    }

    fn guards(&self, vip: Vip, claim: &Claim, now: Timestamp) -> Vec<Guard> {
        let stale = matches!(self.source, SourceState::Stale(_));
        let enforced = self.settings.traffic_mode == TrafficMode::Enforce;
        let acts = acting(self.settings.traffic_mode, claim, stale) == TrafficMode::Enforce;
        let spent = claim.traffic.budget_left(now, &self.settings.traffic) == 0;
        let all = [
            (!enforced, Guard::Mode),
            (enforced && !acts && stale, Guard::StaleSource),
            (claim.policy.fault == OnFault::Ignore, Guard::Ignored),
            (self.signals.suspect && claim.policy.evidence == SecondKey::Passive, Guard::NodeSuspect),
            (spent, Guard::BudgetSpent),
        ];
        let held = all.into_iter().filter_map(|(holds, guard)| holds.then_some(guard));
        held.chain(self.ejection_refused(vip).map(Guard::Refused)).collect()
    }

    fn tally(&self, vip: Vip, claim: &Claim) -> Option<Tally> {
        let view = self.services.get(&claim.service)?;
        let scope = view.vips.iter().find(|claimed| claimed.vip == vip)?.scope;
        let endpoints = view.endpoints.get(vip.family());
        let mut local = EndpointCounts::default();
        for endpoint in &endpoints.local {
            match endpoint.condition {
                EndpointCondition::Ready => local.ready += 1,
                EndpointCondition::Draining => local.draining += 1,
                EndpointCondition::Unusable => local.unusable += 1,
            }
        }
        Some(Tally { scope, local, remote: endpoints.remote })
    }
}

fn ports(claim: &Claim, now: Timestamp, rules: &TrafficRules) -> Vec<PortExplanation> {
    let explain =
        |port: &Port| PortExplanation {
            port: *port,
            evidence: claim.traffic.reports(now, rules).find(|(of, _)| of == port).map(|(_, report)| report),
            probe: claim.proof.ports().find(|(of, ..)| of == port).map(|(_, passed_at, failures, failed_at)| {
                PortProbe { passed_at, failures, failed_at: (failures > 0).then_some(failed_at) }
            }),
        };
    claim.ports.iter().map(explain).collect()
}

#[cfg(test)]
#[path = "explain/tests.rs"]
mod tests;
