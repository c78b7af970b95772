//! `cosmolet status`

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::client;
use crate::args::Output;
use crate::http::status::{Status, VipRow};

/// The exit code that says: it answers, but something is wrong.
const TROUBLE: u8 = 3;

/// Asks a daemon and prints its answer.
///
/// # Errors
/// No daemon answers there.
pub fn run(server: &str, output: Output) -> Result<ExitCode> {
    let body = client::get(server, "/api/v1/status")?;
    let status: Status =
        serde_json::from_slice(&body).context("the daemon's answer cannot be read; another version?")?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Table => print!("{}", table(&status)),
    }
    Ok(if troubles(&status).is_empty() { ExitCode::SUCCESS } else { ExitCode::from(TROUBLE) })
}

/// The status for a person, each line ended.
#[must_use]
pub fn table(status: &Status) -> String {
    let advertised = status.vips.iter().filter(|vip| vip.state == "advertised").count();
    let mut text = format!(
        "{}: {advertised} of {} VIPs advertised; Services from {} ({}), FRR {}, traffic {} {}\n",
        status.node,
        status.vips.len(),
        status.source.kind,
        status.source.state,
        frr(status),
        status.traffic.mode,
        if status.traffic.interfaces.is_empty() {
            "(control plane alone)".to_owned()
        } else {
            format!("on {}", status.traffic.interfaces.join(", "))
        },
    );
    for trouble in troubles(status) {
        text.push_str(&format!("! {trouble}\n"));
    }
    if !status.vips.is_empty() {
        text.push('\n');
        let mut rows =
            vec![["VIP", "STATE", "REASON", "SINCE", "MODE", "IN RIB", "TRAFFIC", "SERVICE"].map(str::to_owned)];
        rows.extend(status.vips.iter().map(row));
        text.push_str(&aligned(&rows));
    }
    text
}

fn frr(status: &Status) -> String {
    match status.bgp.asn {
        Some(asn) => format!("AS {asn}"),
        None => status.bgp.state.clone(),
    }
}

/// Everything that an operator should know of at once.
#[must_use]
pub fn troubles(status: &Status) -> Vec<String> {
    let mut troubles = Vec::new();
    troubles.extend(status.source.error.iter().map(|error| format!("Services: {error}; the last state stands")));
    troubles.extend(status.bgp.error.iter().map(|error| format!("FRR: {error}")));
    if status.traffic.mode != "off" {
        let alone = status.traffic.control_plane_alone.iter();
        troubles.extend(alone.map(|reason| format!("traffic: not counted, the control plane decides alone: {reason}")));
    }
    for problem in &status.manifest_problems {
        troubles.push(format!("manifests: {}: {}", problem.file, problem.problem));
    }
    for unusable in &status.unusable_addresses {
        troubles.push(format!("Service {}: address {:?}: {}", unusable.service, unusable.address, unusable.reason));
    }
    for vip in &status.vips {
        if let Some(error) = &vip.last_error {
            troubles.push(format!("VIP {}: {error}", vip.vip));
        }
    }
    troubles
}

fn row(vip: &VipRow) -> [String; 8] {
    let dash = || "-".to_owned();
    let in_rib = match &vip.rib {
        Some(rib) if rib.valid => format!("yes, to {}", rib.advertised_to),
        Some(_) => "no".to_owned(),
        None => dash(),
    };
    let (packets, resets) = vip.traffic.iter().fold((0_u64, 0_u64), |(packets, resets), port| {
        let total = &port.total;
        (packets + total.packets_in + total.packets_out, resets + total.rst_backend + total.rst_host)
    });
    let traffic = match (packets, resets) {
        (0, _) => dash(),
        (packets, 0) => format!("{packets} pkts"),
        (packets, resets) => format!("{packets} pkts, {resets} RST"),
    };
    let services: Vec<String> =
        vip.services.iter().map(|service| format!("{}/{}", service.namespace, service.name)).collect();
    let suspect = vip.services.iter().any(|service| service.health == "suspect" || service.health == "trial");
    let state = match (suspect, vip.services.first()) {
        (true, Some(service)) => format!("{} ({})", vip.state, service.health),
        _ => vip.state.clone(),
    };
    [
        vip.vip.clone(),
        state,
        vip.reason.clone().unwrap_or_else(dash),
        age(vip.since_seconds),
        vip.mode.clone().unwrap_or_else(dash),
        in_rib,
        traffic,
        if services.is_empty() { dash() } else { services.join(",") },
    ]
}

/// As kubectl prints ages: the two largest units at most.
fn age(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an age is not negative and fits")]
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..=119 => format!("{whole}s"),
        120..=7199 => format!("{}m{}s", whole / 60, whole % 60),
        7200..=172_799 => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
