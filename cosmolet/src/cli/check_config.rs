//! `cosmolet check-config`

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::print;
use crate::args::Reference;
use crate::config::{self, Config, OnExit, Source};
use crate::kubernetes::project::LabelSelector;

/// Validates a file and prints what it means.
///
/// # Errors
/// The file is wrong.
pub fn run(path: &Path) -> Result<ExitCode> {
    let config = Config::load(path).with_context(|| path.display().to_string())?;
    let selector: LabelSelector = config
        .services
        .selector
        .parse()
        .with_context(|| format!("{}: services.selector: {:?}", path.display(), config.services.selector))?;
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let mut text = format!("{}: right\n", path.display());
    for (what, meaning) in meanings(&config, &selector) {
        text.push_str(&format!("  {what:<18}  {meaning}\n"));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints every key there is.
///
/// # Errors
/// Standard output cannot be written.
pub fn keys(how: Reference) -> Result<ExitCode> {
    print(&match how {
        Reference::Text => config::keys::text(),
        Reference::Markdown => config::keys::markdown(),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What the file means, by subject, in the order of its sections.
fn meanings(config: &Config, selector: &LabelSelector) -> Vec<(&'static str, String)> {
    let (services, rules) = (&config.services, &config.services.rules);
    let logs = if config.logging.json { "json" } else { "text" };
    vec![
        ("node", config.node_name.clone()),
        ("Services", sources(config)),
        ("namespaces", list(&services.namespaces, "all")),
        ("selector", list(&[selector], "none")),
        ("types", list(&services.types.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(), "")),
        ("classes", list(&services.load_balancer_classes, "any")),
        ("VIP ranges", list(&rules.ranges, "any address that may be advertised at all")),
        ("drain taints", list(&services.drain_taints, "none")),
        ("cordoned node", if services.cordon_withdraws { "withdraws" } else { "serves on" }.to_owned()),
        ("restarted pods", format!("unusable for {} s", services.restart_hold.as_secs())),
        ("loopback", loopback(config)),
        ("never touched", list(&rules.excluded, "only what others have put there")),
        ("BGP", bgp(config)),
        ("traffic", config.traffic.mode.as_str().to_owned()),
        ("uplinks", list(&config.traffic.interfaces, "found from the routes")),
        ("HTTP", config.http_listen.to_string()),
        ("told in Kubernetes", told(config)),
        ("logs", format!("{}, {logs}", config.logging.level.as_str().to_lowercase())),
    ]
}

fn sources(config: &Config) -> String {
    match &config.services.source {
        Source::Kubernetes => "from the Kubernetes API".to_owned(),
        Source::Manifests(path) => format!("from the files in {}", path.display()),
    }
}

fn told(config: &Config) -> String {
    let kubernetes = &config.kubernetes;
    let parts = [
        (kubernetes.events, "Events on Services"),
        (kubernetes.node_condition, "the node's condition CosmoletReady"),
        (kubernetes.statistics, "the cluster's statistics, by one leader"),
    ];
    list(&parts.iter().filter(|(on, _)| *on).map(|(_, what)| *what).collect::<Vec<_>>(), "nothing")
}

fn loopback(config: &Config) -> String {
    if !config.loopback.enabled {
        return "off: VIPs have no addresses, and a daemon that is gone leaves them advertised".to_owned();
    }
    let lease = config.loopback.lease.map_or_else(|| "for ever".to_owned(), |lease| format!("{} s", lease.as_secs()));
    format!("{}, lease {lease}", config.loopback.interface)
}

fn bgp(config: &Config) -> String {
    if !config.bgp.enabled {
        return "off: the loopback alone".to_owned();
    }
    let asn = config.bgp.asn.map_or_else(|| "asked of FRR".to_owned(), |asn| asn.to_string());
    let mode = config.bgp.mode.map_or("detected", |mode| mode.as_str());
    let exit = match config.bgp.on_exit {
        OnExit::Keep => "kept",
        OnExit::Withdraw => "withdrawn",
    };
    let vrf = config.bgp.vrf.name().map(|name| format!("VRF {name}, ")).unwrap_or_default();
    format!("{vrf}AS {asn}, mode {mode}, VIPs {exit} on exit, sockets in {}", config.frr_sockets.display())
}

fn list(items: &[impl ToString], none: &str) -> String {
    let joined = items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if joined.is_empty() { none.to_owned() } else { joined }
}
