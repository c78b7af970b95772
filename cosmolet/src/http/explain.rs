//! The explanation of one VIP as JSON: the same words as in status, logs and metrics.

use serde::{Deserialize, Serialize};

use super::status::{TransitionRow, VipRow, seconds, transition_row, vip_row};
use crate::book::{Book, Row};
use crate::engine::explain::{ClaimExplanation, Explanation, Guard, Input, PortExplanation, PortProbe};
use crate::engine::service::{EndpointCounts, EndpointScope};
use crate::engine::traffic::{PortReport, SecondKey, TrafficState};
use crate::engine::types::Timestamp;

/// The answer of `/api/v1/explain/VIP`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explain {
    /// The node's name.
    pub node: String,
    /// The VIP's row, as the status has it.
    pub status: VipRow,
    /// What was heard from outside.
    pub inputs: Vec<InputRow>,
    /// `traffic.mode`
    pub mode: String,
    /// The Services that claim the VIP.
    pub services: Vec<ClaimRow>,
    /// What would change the answer, in sentences.
    pub would_change: Vec<String>,
    /// The last decisions about this VIP among the last 256 of the node, the newest last.
    pub transitions: Vec<TransitionRow>,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputRow {
    /// `services`, `node`, `kernel`, `frr`, `programs` or `prober`.
    pub input: String,
    /// How it is, in a word.
    pub state: String,
    /// What is wrong with it.
    pub error: Option<String>,
    /// How long ago something was last heard of it.
    pub age_seconds: Option<f64>,
}

/// One Service's claim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimRow {
    /// Namespace and name.
    pub service: String,
    /// Its health, from both worlds.
    pub health: String,
    /// Why the control plane says no; nothing where it says yes.
    pub control_plane: Option<String>,
    /// How long ago the control plane last said anything.
    pub control_plane_age_seconds: f64,
    /// Which endpoints count: `Local` or `Cluster`.
    pub scope: Option<String>,
    /// Endpoints on this node.
    pub local: Option<EndpointsRow>,
    /// Endpoints elsewhere.
    pub remote: Option<EndpointsRow>,
    /// The verdict of its traffic.
    pub traffic: VerdictRow,
    /// What its owner wants to be asked.
    #[serde(default)]
    pub check: Option<CheckRow>,
    /// Its declared ports.
    pub ports: Vec<ExplainedPort>,
}

/// What a Service's owner wants to be asked (`cosmolet.io/probe`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckRow {
    /// The question, as `http://:8080/healthz`.
    pub asks: String,
    /// How often; nothing where it is not asked for its own sake.
    pub every_seconds: Option<f64>,
    /// What was wrong with the last answer, until one is good.
    pub complaint: Option<String>,
    /// How long ago it was last answered well with the endpoints as they are; nothing if it never was.
    pub passed_age_seconds: Option<f64>,
    /// How many bad answers in a row have come since.
    pub failures: u32,
    /// Convicted from so many on.
    pub failures_needed: u32,
}

/// Endpoints of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointsRow {
    /// Ready.
    pub ready: u32,
    /// Not ready, serving and terminating.
    pub draining: u32,
    /// Neither.
    pub unusable: u32,
}

/// The verdict of a claim's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictRow {
    /// `unknown`, `blind`, `unproven`, `clear`, `suspect`, `convicted` or `trial`.
    pub verdict: String,
    /// Why, in a word.
    pub reason: Option<String>,
    /// What that means, in a sentence.
    pub explanation: String,
    /// Until when it is withdrawn, in seconds from now.
    pub hold_left_seconds: Option<f64>,
    /// For how long it has been on trial.
    pub trial_seconds: Option<f64>,
    /// How often in a row its traffic has convicted it.
    pub ejections: u32,
    /// Withdrawals that its budget has left.
    pub budget_left: usize,
    /// What must join failing handshakes: `probe` or `passive`.
    pub evidence: String,
    /// It has joined them.
    pub second_key: bool,
    /// A probe has passed with the endpoints as they are.
    pub proven: bool,
    /// The outcome of the last probe.
    pub last_probe: Option<String>,
    /// How long ago that came.
    pub last_probe_age_seconds: Option<f64>,
    /// What keeps a conviction from acting.
    pub guards: Vec<GuardRow>,
    /// For how long nothing is concluded from handshakes, as endpoints have changed.
    pub quiet_left_seconds: Option<f64>,
}

/// What keeps a conviction from acting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardRow {
    /// In a word.
    pub guard: String,
    /// In a sentence.
    pub explanation: String,
}

/// One declared port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainedPort {
    /// The port, as `80/tcp`.
    pub port: String,
    /// Its evidence, once it has seen traffic.
    pub evidence: Option<EvidenceRow>,
    /// Its probes, once one has passed.
    pub probe: Option<ProbeRow>,
}

/// A port's evidence, each value beside its threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvidenceRow {
    /// How long ago the last sample with packets came.
    pub age_seconds: Option<f64>,
    /// `unknown`, `visible` or `blind`: whether answers to clients are seen.
    pub sight: String,
    /// The score of the CUSUM.
    pub score: f64,
    /// Suspect from here on.
    pub threshold: f64,
    /// Seconds with a failing handshake among the last ones with handshakes.
    pub failing_samples: usize,
    /// Suspect from so many on.
    pub failing_samples_needed: usize,
    /// Client prefixes among the failures.
    pub client_prefixes: u32,
    /// Suspect from so many on.
    pub client_prefixes_needed: u32,
    /// The share of failures that is healthy for this port.
    pub healthy_share: f64,
    /// How much its votes are weakened because its failures come together.
    pub burstiness: f64,
    /// SYN arrive in a flood: no handshake is judged.
    pub flood: bool,
    /// It is suspect.
    pub suspect: bool,
    /// New connections within `traffic.rule.window_seconds`.
    pub attempts: u64,
    /// The share of them that this host itself refused; nothing where that is not judged.
    pub refused_share: Option<f64>,
    /// Convicted from here on.
    pub refused_share_needed: f64,
}

/// A port's probes since one passed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// How long ago one last passed.
    pub passed_age_seconds: f64,
    /// How many in a row have failed since.
    pub failures: u32,
    /// Convicted, if suspect, from so many on.
    pub failures_needed: u32,
    /// How long ago the last of them failed.
    pub failed_age_seconds: Option<f64>,
}

impl Explain {
    /// Puts an explanation into words; `book` has the time of day, the packets and the last decisions.
    #[must_use]
    pub fn of(book: &Book, explanation: Explanation) -> Self {
        let now = explanation.at;
        let vip = explanation.status.vip;
        let summary = book.summary();
        let would_change = explanation.would_change();
        let told = book.rows().get(&vip).cloned().unwrap_or_default();
        let since = if told.status.is_some() { told.since } else { explanation.status.since };
        let services = explanation.claims.iter().map(|claim| claim_row(claim, &explanation)).collect();
        let row = Row { status: Some(explanation.status.clone()), since, ..told };
        let of_vip = summary.transitions.iter().filter(|transition| transition.vip == vip);
        Self {
            status: vip_row(vip, &explanation.status, &row, now),
            inputs: explanation.inputs.iter().map(|input| input_row(input, now)).collect(),
            mode: explanation.mode.as_str().to_owned(),
            services,
            would_change,
            transitions: of_vip.map(|transition| transition_row(book, transition)).collect(),
            node: summary.node,
        }
    }
}

fn age(at: Timestamp, now: Timestamp) -> f64 {
    seconds(now.since(at))
}

fn input_row(input: &Input, now: Timestamp) -> InputRow {
    InputRow {
        input: input.name.to_owned(),
        state: input.state.to_owned(),
        error: input.error.clone(),
        age_seconds: input.at.map(|at| age(at, now)),
    }
}

fn claim_row(claim: &ClaimExplanation, whole: &Explanation) -> ClaimRow {
    let scope = |scope| match scope {
        EndpointScope::Local => "Local".to_owned(),
        EndpointScope::Cluster => "Cluster".to_owned(),
    };
    ClaimRow {
        service: claim.status.service.to_string(),
        health: claim.status.health.as_str().to_owned(),
        control_plane: claim.control.err().map(|reason| reason.to_string()),
        control_plane_age_seconds: age(claim.control_at, whole.at),
        scope: claim.endpoints.map(|tally| scope(tally.scope)),
        local: claim.endpoints.map(|tally| endpoints(tally.local)),
        remote: claim.endpoints.map(|tally| endpoints(tally.remote)),
        traffic: verdict_row(claim, whole.at),
        check: check_row(claim, whole),
        ports: claim.ports.iter().map(|port| port_row(port, whole)).collect(),
    }
}

fn check_row(claim: &ClaimExplanation, whole: &Explanation) -> Option<CheckRow> {
    let check = claim.status.check.as_ref()?;
    let probe = claim.checked();
    Some(CheckRow {
        asks: check.to_string(),
        every_seconds: whole.check.map(seconds),
        complaint: claim.status.proof.complaint.map(|complaint| complaint.to_string()),
        passed_age_seconds: probe.map(|probe| age(probe.passed_at, whole.at)),
        failures: probe.map_or(0, |probe| probe.failures),
        failures_needed: whole.rules.probes,
    })
}

const fn endpoints(counts: EndpointCounts) -> EndpointsRow {
    EndpointsRow { ready: counts.ready, draining: counts.draining, unusable: counts.unusable }
}

fn verdict_row(claim: &ClaimExplanation, now: Timestamp) -> VerdictRow {
    let (hold_left_seconds, trial_seconds) = match claim.traffic {
        TrafficState::Convicted(until) => (Some(seconds(until.since(now))), None),
        TrafficState::Trial(since) => (None, Some(age(since, now))),
        TrafficState::Clear | TrafficState::Suspect => (None, None),
    };
    let evidence = match claim.evidence {
        SecondKey::Probe => "probe",
        SecondKey::Passive => "passive",
    };
    let guard = |guard: &Guard| GuardRow { guard: guard.as_str().to_owned(), explanation: guard.explain().to_owned() };
    let verdict = claim.status.verdict;
    VerdictRow {
        verdict: verdict.as_str().to_owned(),
        reason: verdict.reason().map(str::to_owned),
        explanation: verdict.explain().to_owned(),
        hold_left_seconds,
        trial_seconds,
        ejections: claim.status.ejections,
        budget_left: claim.budget_left,
        evidence: evidence.to_owned(),
        second_key: claim.second_key,
        proven: claim.status.proof.proven,
        last_probe: claim.status.proof.last.map(|(_, outcome)| outcome.as_str().to_owned()),
        last_probe_age_seconds: claim.status.proof.last.map(|(at, _)| age(at, now)),
        guards: claim.guards.iter().map(guard).collect(),
        quiet_left_seconds: claim.quiet_until.map(|until| seconds(until.since(now))),
    }
}

fn port_row(port: &PortExplanation, whole: &Explanation) -> ExplainedPort {
    ExplainedPort {
        port: port.port.to_string(),
        evidence: port.evidence.map(|report| evidence_row(&report, whole)),
        probe: port.probe.map(|probe| probe_row(probe, whole)),
    }
}

fn evidence_row(report: &PortReport, whole: &Explanation) -> EvidenceRow {
    let rules = &whole.rules;
    let two = |value: f64| (value * 100.0).round() / 100.0;
    EvidenceRow {
        age_seconds: report.at.map(|at| age(at, whole.at)),
        sight: report.sight.as_str().to_owned(),
        score: two(report.score),
        threshold: rules.threshold,
        failing_samples: report.failing_samples,
        failing_samples_needed: rules.failing_samples,
        client_prefixes: report.client_prefixes,
        client_prefixes_needed: rules.client_prefixes,
        healthy_share: two(report.healthy_share),
        burstiness: two(report.burstiness),
        flood: report.flood,
        suspect: report.suspect,
        attempts: report.refused.map_or(0, |(attempts, _)| attempts),
        refused_share: report.refused.map(|(_, share)| two(share)),
        refused_share_needed: rules.refused_share,
    }
}

fn probe_row(probe: PortProbe, whole: &Explanation) -> ProbeRow {
    ProbeRow {
        passed_age_seconds: age(probe.passed_at, whole.at),
        failures: probe.failures,
        failures_needed: whole.rules.probes,
        failed_age_seconds: probe.failed_at.map(|at| age(at, whole.at)),
    }
}
