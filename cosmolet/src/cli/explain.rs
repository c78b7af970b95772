//! `cosmolet explain`

use std::process::ExitCode;

use anyhow::Result;

use super::table::{age, aligned, printable, utc};
use super::{client, print};
use crate::args::Output;
use crate::http::explain::{CheckRow, ClaimRow, EvidenceRow, Explain, ExplainedPort, VerdictRow};
use crate::http::status::AttributesRow;

/// Asks a daemon about one VIP and prints its answer.
///
/// # Errors
/// No daemon answers there, or it does not know the VIP.
pub fn run(server: &str, vip: std::net::IpAddr, output: Output) -> Result<ExitCode> {
    let explain: Explain = client::ask(server, &format!("/api/v1/explain/{vip}"))?;
    match output {
        Output::Json => print(&(serde_json::to_string_pretty(&explain)? + "\n"))?,
        Output::Table => print(&text(&explain))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The explanation as text, each line ended. Nothing in it can move a terminal's cursor.
#[must_use]
pub fn text(explain: &Explain) -> String {
    let mut lines = vec![headline(explain)];
    if let Some(explanation) = &explain.status.explanation {
        lines.push(format!("  {explanation}"));
    }
    lines.extend(explain.status.attributes.as_ref().map(|row| attributes(row, explain.status.mode.as_deref())));
    if let Some(left) = explain.status.drain_left_seconds {
        lines.push(format!(
            "  de-preferred, and withdrawn in {} at the latest, or as soon as its traffic is gone",
            age(left)
        ));
    }
    if let Some(error) = &explain.status.last_error {
        lines.push(format!("  last error: {error}"));
    }
    lines.extend(["".to_owned(), "What was heard".to_owned()]);
    let inputs: Vec<[String; 4]> = explain.inputs.iter().map(input).collect();
    lines.extend(aligned(&inputs).into_iter().map(|line| format!("  {line}")));
    for claim in &explain.services {
        lines.push(String::new());
        lines.extend(service(claim, &explain.mode));
    }
    lines.extend(["".to_owned(), "What would change the answer".to_owned()]);
    lines.extend(explain.would_change.iter().map(|sentence| format!("  {sentence}")));
    if !explain.transitions.is_empty() {
        lines.extend(["".to_owned(), "The last decisions".to_owned()]);
        lines.extend(decisions(explain));
    }
    lines.iter().map(|line| format!("{}\n", printable(line).trim_end())).collect()
}

fn headline(explain: &Explain) -> String {
    let row = &explain.status;
    let reason = row.reason.as_ref().map_or_else(String::new, |reason| format!(", {reason}"));
    format!("{} on {}: {}{reason}, for {}", row.vip, explain.node, row.state, age(row.since_seconds))
}

fn attributes(row: &AttributesRow, mode: Option<&str>) -> String {
    let state = match (row.set, mode) {
        (true, _) => format!("route-map {}", row.route_map),
        (false, Some("connected")) => {
            "NOT set: in Connected mode only a route-map on FRR's `redistribute connected` can".to_owned()
        }
        (false, _) => "not set yet".to_owned(),
    };
    format!("  attributes: {} ({state})", row.wanted)
}

fn input(row: &crate::http::explain::InputRow) -> [String; 4] {
    let heard = row.age_seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", age(seconds)));
    [row.input.clone(), row.state.clone(), heard, row.error.clone().unwrap_or_default()]
}

fn service(claim: &ClaimRow, mode: &str) -> Vec<String> {
    let says = claim.control_plane.clone().unwrap_or_else(|| "yes".to_owned());
    let heard = age(claim.control_plane_age_seconds);
    let mut rows = vec![["control plane".to_owned(), format!("{says}, {heard} ago{}", endpoints(claim))]];
    rows.push(["traffic".to_owned(), verdict(&claim.traffic, mode)]);
    for guard in &claim.traffic.guards {
        rows.push([String::new(), format!("held by {}: {}", guard.guard, guard.explanation)]);
    }
    rows.extend(claim.check.as_ref().map(|row| ["probe".to_owned(), check(row)]));
    for port in &claim.ports {
        rows.push([port.port.clone(), port.evidence.as_ref().map_or_else(|| "no traffic yet".to_owned(), evidence)]);
        rows.push([String::new(), probe(port, &claim.traffic)]);
    }
    let lines = aligned(&rows).into_iter().map(|line| format!("  {line}"));
    std::iter::once(format!("Service {}: {}", claim.service, claim.health)).chain(lines).collect()
}

fn endpoints(claim: &ClaimRow) -> String {
    let (Some(scope), Some(local), Some(remote)) = (&claim.scope, claim.local, claim.remote) else {
        return String::new();
    };
    let elsewhere = if scope == "Local" { String::new() } else { format!(", {} elsewhere", remote.ready) };
    let draining = if local.draining > 0 { format!(", {} draining", local.draining) } else { String::new() };
    format!("; {scope}: {} ready here{draining}{elsewhere}", local.ready)
}

fn verdict(row: &VerdictRow, mode: &str) -> String {
    let reason = row.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    let hold = row.hold_left_seconds.map_or_else(String::new, |left| format!("; hold ends in {}", age(left)));
    let trial = row.trial_seconds.map_or_else(String::new, |seconds| format!("; on trial for {}", age(seconds)));
    let ejected = match row.ejections {
        0 => String::new(),
        count => format!("; convicted {count} times in a row, budget for {} more", row.budget_left),
    };
    format!("{}{reason}: {}{hold}{trial}{ejected}; mode {mode}", row.verdict, row.explanation)
}

fn check(row: &CheckRow) -> String {
    let every = row.every_seconds.map_or_else(String::new, |seconds| format!(" every {seconds} s"));
    let wrong = row.complaint.as_deref();
    let answer = match (row.failures, row.passed_age_seconds) {
        (0, Some(passed)) => format!("answered well {} ago", age(passed)),
        (failures, Some(_)) => format!("{}, {failures} in a row", wrong.unwrap_or("does not take connections")),
        (_, None) => format!("{}; never answered well, which proves nothing", wrong.unwrap_or("no answer yet")),
    };
    format!("{}{every}: {answer}", row.asks)
}

fn evidence(row: &EvidenceRow) -> String {
    let age = row.age_seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", age(seconds)));
    let flood = if row.flood { ", flood of SYN" } else { "" };
    let refused = row.refused_share.map_or_else(String::new, |share| {
        let (share, needed) = (share * 100.0, row.refused_share_needed * 100.0);
        format!(", host refused {share:.0} % of {} (of {needed:.0} %)", row.attempts)
    });
    format!(
        "answers {}, score {:.1} of {:.1}, failing seconds {} of {}, client prefixes {} of {}{refused}{flood}, {age}",
        row.sight,
        row.score,
        row.threshold,
        row.failing_samples,
        row.failing_samples_needed,
        row.client_prefixes,
        row.client_prefixes_needed
    )
}

fn probe(port: &ExplainedPort, verdict: &VerdictRow) -> String {
    match (&port.probe, &verdict.last_probe) {
        (Some(probe), _) => {
            let failed = match probe.failed_age_seconds {
                Some(failed) => {
                    format!("; {} of {} failed since, {} ago", probe.failures, probe.failures_needed, age(failed))
                }
                None => String::new(),
            };
            format!("probe passed {} ago{failed}", age(probe.passed_age_seconds))
        }
        (None, Some(last)) => format!("no probe has passed with these endpoints; the last one: {last}"),
        (None, None) => "not probed yet".to_owned(),
    }
}

fn decisions(explain: &Explain) -> Vec<String> {
    let rows: Vec<[String; 3]> = explain
        .transitions
        .iter()
        .map(|row| [utc(row.at), row.to.clone(), row.reason.clone().unwrap_or_default()])
        .collect();
    aligned(&rows).into_iter().map(|line| format!("  {line}")).collect()
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
