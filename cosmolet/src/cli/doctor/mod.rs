//! `cosmolet doctor`: what an operator gets wrong, what was seen of it, why it matters, and the exact fix.

mod bgp;
pub(super) mod facts;
mod finding;
mod node;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::table::printable;
use super::{TROUBLE, client, print};
use crate::args::{Output, Reference};
use crate::config::Config;
use crate::engine::types::Vrf;
use crate::http::troubles::troubles;
use finding::{Finding, Findings, Verdict};

/// The exit code where there is advice at most.
const ADVICE: u8 = 4;

/// Looks at everything and prints what was found.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(config: &Path, server: &str, output: Output) -> Result<ExitCode> {
    let found = examine(config, server);
    match output {
        Output::Json => print(&(serde_json::to_string_pretty(&found)? + "\n"))?,
        Output::Table => print(&text(&found))?,
    }
    Ok(match found.iter().map(|finding| finding.verdict).max() {
        Some(Verdict::Wrong) => ExitCode::from(TROUBLE),
        Some(Verdict::Advice | Verdict::Unknown) => ExitCode::from(ADVICE),
        Some(Verdict::Ok) | None => ExitCode::SUCCESS,
    })
}

/// Prints the checks there are.
///
/// # Errors
/// Standard output cannot be written.
pub fn list(how: Reference) -> Result<ExitCode> {
    print(&match how {
        Reference::Text => finding::CHECKS.iter().map(|check| format!("{}\n    {}\n", check.name, check.why)).collect(),
        Reference::Markdown => finding::markdown(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Looks at everything.
pub(super) fn examine(path: &Path, server: &str) -> Vec<Finding> {
    let mut findings = Findings::default();
    let config = configuration(path, &mut findings);
    let counting = daemon(server, &mut findings);
    let sockets = config.as_ref().map_or(Path::new("/var/run/frr"), |config| config.frr_sockets.as_path());
    let frr = if config.as_ref().is_some_and(|config| !config.bgp.enabled) {
        findings.ok("frr-vty", "bgp.enabled is false: FRR is not asked");
        None
    } else {
        let vrf = config.as_ref().map(|config| config.bgp.vrf.clone()).unwrap_or_default();
        frr(sockets, &vrf, &mut findings)
    };
    if let Some(frr) = &frr {
        bgp::examine(frr, config.as_ref(), &mut findings);
    }
    match facts::node(config.as_ref(), frr.as_ref()) {
        Ok(facts) => node::examine(&facts, counting, &mut findings),
        Err(error) => findings.unknown("node-forwarding", format!("the kernel cannot be asked: {error:#}"), ""),
    }
    findings.sorted()
}

fn configuration(path: &Path, findings: &mut Findings) -> Option<Config> {
    match Config::load(path) {
        Ok(config) => {
            match config.warnings.first() {
                Some(warning) => {
                    findings.advice("configuration", warning, format!("cosmolet check-config {}", path.display()))
                }
                None => findings.ok("configuration", format!("{} is right", path.display())),
            }
            Some(config)
        }
        Err(error) => {
            let fix =
                format!("correct it, or name another file with --config; cosmolet check-config {}", path.display());
            findings.wrong("configuration", error.to_string(), fix);
            None
        }
    }
}

/// Whether a running daemon counts traffic; `None` if it is not to, or there is no daemon.
fn daemon(server: &str, findings: &mut Findings) -> Option<Result<(), String>> {
    let status = match client::status(server) {
        Ok(status) => status,
        Err(error) => {
            findings.unknown("daemon", format!("{error:#}"), "start it, or name where it listens with --server");
            return None;
        }
    };
    let wrong = troubles(&status);
    for trouble in &wrong {
        findings.wrong("daemon", trouble, "cosmolet status; cosmolet explain VIP");
    }
    if wrong.is_empty() {
        findings.ok("daemon", format!("{} VIPs, all as decided", status.vips.len()));
    }
    match (status.traffic.mode.as_str(), status.traffic.control_plane_alone) {
        ("off", _) => None,
        (_, Some(why)) => Some(Err(why)),
        (_, None) => Some(Ok(())),
    }
}

fn frr(sockets: &Path, vrf: &Vrf, findings: &mut Findings) -> Option<bgp::Frr> {
    match facts::frr(sockets, vrf) {
        Ok(frr) => {
            findings.ok("frr-vty", format!("bgpd answers in {}", sockets.display()));
            Some(bgp::Frr { saved: facts::saved(), ..frr })
        }
        Err(error) => {
            let fix = if error.contains("frrvty") {
                "usermod -aG frrvty USER, or supplementalGroups in the pod; root without capabilities is refused too"
            } else {
                "start FRR with bgpd, or set frr.socket_path to the directory of its sockets"
            };
            findings.wrong("frr-vty", error, fix);
            None
        }
    }
}

/// The findings as text, the worst last, where a terminal shows them.
fn text(found: &[Finding]) -> String {
    let mut ordered: Vec<&Finding> = found.iter().collect();
    ordered.sort_by_key(|finding| finding.verdict);
    let mut lines = Vec::new();
    for finding in ordered {
        lines.push(format!("{:<8} {:<26} {}", finding.verdict.as_str(), finding.check, finding.seen));
        if finding.verdict != Verdict::Ok {
            lines.push(format!("           why  {}", finding.why));
            lines.extend((!finding.fix.is_empty()).then(|| format!("           fix  {}", finding.fix)));
        }
    }
    let count = |verdict| found.iter().filter(|finding| finding.verdict == verdict).count();
    lines.push(format!(
        "{} ok, {} unknown, {} advice, {} wrong",
        count(Verdict::Ok),
        count(Verdict::Unknown),
        count(Verdict::Advice),
        count(Verdict::Wrong)
    ));
    lines.iter().map(|line| format!("{}\n", printable(line))).collect()
}
