//! `kubectl cosmolet drain` and `undrain`: a taint that the node's daemon follows.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::runtime::Runtime;

use super::fleet::Fleet;
use crate::cli::{drain, print};
use crate::http::status::Status;
use crate::kubernetes::daemons::DRAIN_TAINT;

/// Taints the node, and waits for `limit` seconds at most until it carries no VIP.
pub(super) fn drain(runtime: &Runtime, fleet: &Fleet, node: &str, limit: Option<u64>) -> Result<ExitCode> {
    let said = if runtime.block_on(fleet.taint(node, true))? { "is" } else { "was already" };
    print(&format!(
        "{node} {said} drained by the taint {DRAIN_TAINT}; kubectl cosmolet undrain {node} brings it back\n"
    ))?;
    match limit {
        None => Ok(ExitCode::SUCCESS),
        Some(limit) => drain::wait(|| runtime.block_on(ask(fleet, node)), Duration::from_secs(limit)),
    }
}

/// Takes the taint away.
pub(super) fn undrain(runtime: &Runtime, fleet: &Fleet, node: &str) -> Result<ExitCode> {
    let said = if runtime.block_on(fleet.taint(node, false))? {
        "is back: its VIPs are advertised again"
    } else {
        "has no taint of ours: it was not drained, or by `cosmolet drain` on the node itself"
    };
    print(&format!("{node} {said}\n"))?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(fleet: &Fleet, node: &str) -> Result<Status> {
    let answers = fleet.ask("/api/v1/status", Some(node)).await?;
    let answer = answers.into_iter().next().ok_or_else(|| anyhow!("no daemon is on node {node:?}"))?;
    answer.said.map_err(|error| anyhow!("{node}: {error}"))
}
