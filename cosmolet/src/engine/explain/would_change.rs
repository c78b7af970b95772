//! What would change the answer, in sentences: made of the facts of an explanation, each with the value as it is now.

use super::{ClaimExplanation, Explanation, PortExplanation, PortProbe, Tally};
use crate::engine::intent::{VipHealth, WithdrawReason};
use crate::engine::service::EndpointScope;
use crate::engine::traffic::{Charge, PortReport, SecondKey, Sight, TrafficMode, TrafficRules, TrafficState};
use crate::engine::types::Timestamp;
use crate::engine::verdict::Verdict;

impl Explanation {
    /// What would change the answer.
    #[must_use]
    pub fn would_change(&self) -> Vec<String> {
        if self.claims.is_empty() {
            return vec!["advertised once a Service claims it".to_owned()];
        }
        if let Some(reason) = self.status.reason.filter(|reason| is_above_services(*reason)) {
            return vec![format!("advertised once this no longer holds: {}", reason.explain())];
        }
        let several = self.claims.len() > 1;
        let mut sentences = Vec::new();
        for claim in &self.claims {
            let name = if several { format!("{}: ", claim.status.service) } else { String::new() };
            sentences.extend(self.of_claim(claim).into_iter().map(|sentence| format!("{name}{sentence}")));
        }
        if several {
            sentences.push("it is advertised while any of these Services can be served".to_owned());
        }
        sentences
    }

    fn of_claim(&self, claim: &ClaimExplanation) -> Vec<String> {
        let mut sentences = vec![control_plane(claim)];
        if claim.control.is_err() {
            return sentences;
        }
        if claim.status.health == VipHealth::Proving {
            let latest = match claim.waits_until {
                Some(Some(until)) => format!(", in {} at the latest", seconds(until.since(self.at))),
                Some(None) | None => String::new(),
            };
            sentences.push(match &claim.status.check {
                Some(check) => format!("advertised once {check} is answered well{latest}"),
                None => format!("advertised once a probe passes{latest}"),
            });
        }
        if self.mode != TrafficMode::Off {
            sentences.extend(self.of_traffic(claim));
        }
        sentences
    }

    fn of_traffic(&self, claim: &ClaimExplanation) -> Vec<String> {
        let mut sentences = Vec::new();
        match claim.traffic {
            TrafficState::Convicted(until) => {
                let proven = claim.status.proof.proven;
                let probe = if proven { " and once a probe passes" } else { "" };
                return vec![format!("on trial in {}{probe}", seconds(until.since(self.at)))];
            }
            TrafficState::Trial(since) => {
                let (least, idle) = (self.rules.min_trial, self.rules.idle_trial);
                let (least, idle) = (since.after(least).since(self.at), since.after(idle).since(self.at));
                sentences.push(format!(
                    "clear once a handshake completes in {} or later, or in {} without any",
                    seconds(least),
                    seconds(idle)
                ));
            }
            TrafficState::Clear | TrafficState::Suspect => {}
        }
        for port in claim.ports.iter().filter(|port| port.port.is_tcp()) {
            sentences.push(host_refusals(port, &self.rules));
            sentences.push(handshakes(port, claim, &self.rules, self.at));
        }
        sentences.extend(second_key(claim, &self.rules));
        sentences.extend(check(claim, &self.rules, self.at));
        sentences.extend(claim.guards.iter().map(|guard| format!("no conviction acts: {}", guard.explain())));
        sentences
    }
}

/// The reasons that stand whatever the Services are like.
const fn is_above_services(reason: WithdrawReason) -> bool {
    match reason {
        WithdrawReason::NodeExcluded
        | WithdrawReason::NodeNetworkUnavailable
        | WithdrawReason::NodeTainted
        | WithdrawReason::NodeCordoned
        | WithdrawReason::NodeDrained
        | WithdrawReason::NodeUnknown
        | WithdrawReason::ServiceGone
        | WithdrawReason::Refused(_)
        | WithdrawReason::Exit => true,
        WithdrawReason::NoLocalEndpoint
        | WithdrawReason::NoEndpoint
        | WithdrawReason::PodRestarting
        | WithdrawReason::HostRefuses
        | WithdrawReason::ConnectionsFail
        | WithdrawReason::ProbeFails
        | WithdrawReason::Proving
        | WithdrawReason::Unproven => false,
    }
}

fn control_plane(claim: &ClaimExplanation) -> String {
    match (claim.control, claim.endpoints) {
        (Ok(()), Some(tally)) => {
            let (where_, usable) = counted(&tally);
            format!("withdrawn when no endpoint {where_} is usable (now {usable} of {})", all(&tally))
        }
        (Ok(()), None) => "withdrawn when Kubernetes says so".to_owned(),
        (Err(WithdrawReason::NoLocalEndpoint | WithdrawReason::NoEndpoint), Some(tally)) => {
            let (where_, usable) = counted(&tally);
            format!("advertised once an endpoint {where_} is usable (now {usable} of {})", all(&tally))
        }
        (Err(reason), _) => format!("advertised once this no longer holds: {}", reason.explain()),
    }
}

const fn counted(tally: &Tally) -> (&'static str, u32) {
    let local = tally.local.ready + tally.local.draining;
    match tally.scope {
        EndpointScope::Local => ("on this node", local),
        EndpointScope::Cluster => ("anywhere", local + tally.remote.ready + tally.remote.draining),
    }
}

const fn all(tally: &Tally) -> u32 {
    let local = tally.local.ready + tally.local.draining + tally.local.unusable;
    match tally.scope {
        EndpointScope::Local => local,
        EndpointScope::Cluster => local + tally.remote.ready + tally.remote.draining + tally.remote.unusable,
    }
}

fn host_refusals(port: &PortExplanation, rules: &TrafficRules) -> String {
    let now = match port.evidence {
        Some(PortReport { refused: Some((attempts, share)), .. }) => {
            format!("now {} of {attempts}", percent(share))
        }
        Some(_) | None => "now none".to_owned(),
    };
    format!(
        "{}: convicted when this host itself refuses {} of at least {} new connections within {} ({now})",
        port.port,
        percent(rules.refused_share),
        rules.min_attempts,
        seconds(rules.window)
    )
}

fn handshakes(port: &PortExplanation, claim: &ClaimExplanation, rules: &TrafficRules, at: Timestamp) -> String {
    let name = port.port;
    let Some(report) = port.evidence else {
        return format!("{name}: its handshakes are judged once some are seen");
    };
    if let Some(until) = claim.quiet_until {
        let left = seconds(until.since(at));
        return format!("{name}: its handshakes are judged again in {left}, as its endpoints have changed");
    }
    match report.sight {
        Sight::Unknown => format!("{name}: its handshakes are judged once some are followed"),
        Sight::Blind => format!("{name}: its handshakes are judged once their answers pass this node's uplinks"),
        Sight::Visible if report.flood => {
            format!("{name}: its handshakes are judged again once the flood of SYN is over")
        }
        Sight::Visible if report.suspect => {
            let clear = rules.threshold * rules.trial_share;
            let (score, prefixes) = (report.score, report.client_prefixes);
            let needed = rules.client_prefixes;
            format!(
                "{name}: no longer suspect once its score is below {clear:.1} (now {score:.1}), or its failures come from fewer than \
                 {needed} client prefixes (now {prefixes})"
            )
        }
        Sight::Visible => format!(
            "{name}: suspect once its score is {:.1} (now {:.1}), {} of the last {} seconds with handshakes hold a failure (now \
             {}) and they come from {} client prefixes (now {})",
            rules.threshold,
            report.score,
            rules.failing_samples,
            rules.of_samples,
            report.failing_samples,
            rules.client_prefixes,
            report.client_prefixes
        ),
    }
}

/// What joins a suspicion; of interest while there is one or may be one.
fn second_key(claim: &ClaimExplanation, rules: &TrafficRules) -> Option<String> {
    let judged = claim.ports.iter().any(|port| port.evidence.is_some_and(|report| report.sight == Sight::Visible));
    let alone = matches!(claim.status.verdict, Verdict::Suspect(Charge::HostRefuses | Charge::ProbeFails));
    if !judged || alone {
        return None;
    }
    let failures = claim.status.proof.failures;
    Some(match (claim.evidence, claim.status.proof.proven) {
        (SecondKey::Passive, _) => {
            "a suspicion convicts by itself (cosmolet.io/on-traffic-evidence: passive)".to_owned()
        }
        (SecondKey::Probe, true) => {
            format!("a suspicion convicts once {} probes in a row fail (now {failures})", rules.probes)
        }
        (SecondKey::Probe, false) => {
            "a suspicion convicts nobody before a probe has passed with the endpoints as they are".to_owned()
        }
    })
}

/// What its owner wants to be asked.
fn check(claim: &ClaimExplanation, rules: &TrafficRules, at: Timestamp) -> Option<String> {
    let check = claim.status.check.as_ref()?;
    Some(match claim.checked() {
        None => format!("{check} convicts nobody before it has been answered well with the endpoints as they are"),
        Some(PortProbe { failed_at: Some(failed_at), .. })
            if claim.status.verdict == Verdict::Suspect(Charge::ProbeFails) =>
        {
            let left = seconds(failed_at.after(rules.probe_age).since(at));
            format!("no longer suspect once {check} is answered well, or in {left} without another bad answer")
        }
        Some(probe) => format!(
            "convicted once {check} is not answered well {} times in a row (now {})",
            rules.probes, probe.failures
        ),
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares are 0 to a few")]
fn percent(share: f64) -> String {
    format!("{} %", (share * 100.0).round() as u64)
}

fn seconds(duration: std::time::Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64().ceil())
}
