//! `cosmolet check-config`

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::config::{Config, OnExit, Source};
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
    println!("{}: right", path.display());
    println!("  node                {}", config.node_name);
    println!("  Services            {}", sources(&config));
    println!("  namespaces          {}", list(&config.services.namespaces, "all"));
    println!("  selector            {}", or(&selector.to_string(), "none"));
    let types: Vec<String> = config.services.types.iter().map(|kind| kind.as_str().to_owned()).collect();
    println!("  types               {}", list(&types, ""));
    let ranges: Vec<String> = config.services.rules.ranges.iter().map(ToString::to_string).collect();
    println!("  VIP ranges          {}", list(&ranges, "any address that may be advertised at all"));
    let lease = config.loopback.lease.map_or_else(|| "for ever".to_owned(), |lease| format!("{} s", lease.as_secs()));
    println!("  loopback            {}, lease {lease}", config.loopback.interface);
    println!("  BGP                 {}", bgp(&config));
    println!("  traffic             {}", config.traffic.mode.as_str());
    println!("  uplinks             {}", list(&config.traffic.interfaces, "found from the routes"));
    println!("  HTTP                {}", config.http_listen);
    Ok(ExitCode::SUCCESS)
}

fn sources(config: &Config) -> String {
    match &config.services.source {
        Source::Kubernetes => "from the Kubernetes API".to_owned(),
        Source::Manifests(path) => format!("from the files in {}", path.display()),
    }
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
    format!("AS {asn}, mode {mode}, VIPs {exit} on exit, sockets in {}", config.frr_sockets.display())
}

fn list(items: &[String], none: &str) -> String {
    or(&items.join(", "), none).to_owned()
}

const fn or<'a>(text: &'a str, none: &'a str) -> &'a str {
    if text.is_empty() { none } else { text }
}
