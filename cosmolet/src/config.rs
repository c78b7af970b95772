//! The configuration: a YAML file and `COSMOLET_…` variables become validated types, or errors that name key, value
//! and rule.
//!
//! Owns the keys, their defaults and their rules. Never does anything with them.

pub mod keys;
mod kubernetes;
mod parse;
mod raw;
mod rule;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::engine::attributes::Attributes;
use crate::engine::rules::VipRules;
use crate::engine::service::VipKind;
use crate::engine::traffic::{TrafficMode, TrafficRules};
use crate::engine::types::{Mode, Vrf};

pub use kubernetes::is_label;
pub use parse::ConfigError;
pub use rule::{rule_of_values, rule_values};

/// Everything an operator can choose, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name of this node as Kubernetes has it.
    pub node_name: String,
    /// Which Services count and where they come from.
    pub services: Services,
    /// The loopback.
    pub loopback: Loopback,
    /// BGP.
    pub bgp: Bgp,
    /// `frr.socket_path`: the directory of FRR's vty sockets.
    pub frr_sockets: PathBuf,
    /// The data plane's verdict.
    pub traffic: Traffic,
    /// `http.listen`
    pub http_listen: SocketAddr,
    /// `metrics.per_port`
    pub metrics_per_port: usize,
    /// What is told in Kubernetes' own words.
    pub kubernetes: Kubernetes,
    /// Logs.
    pub logging: Logging,
    /// Keys that no longer mean anything, each with what to do instead.
    pub warnings: Vec<String>,
}

/// `services.*`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// `services.source` and `services.manifests`.
    pub source: Source,
    /// `services.namespaces`; empty is all.
    pub namespaces: Vec<String>,
    /// `services.selector`, a Kubernetes label selector; empty selects all.
    pub selector: String,
    /// `services.types`
    pub types: Vec<VipKind>,
    /// `services.load_balancer_classes`; empty is all.
    pub load_balancer_classes: Vec<String>,
    /// `services.vip_ranges` and `loopback.excluded`.
    pub rules: VipRules,
    /// `services.drain_taints`: taint keys that take the node out.
    pub drain_taints: Vec<String>,
    /// `services.drain_file`: while it is there the node is drained.
    pub drain_file: Option<PathBuf>,
    /// `services.cordon` is `withdraw`.
    pub cordon_withdraws: bool,
    /// `services.restart_hold_seconds`
    pub restart_hold: Duration,
}

/// Where Services come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The Kubernetes API, in the cluster or by `KUBECONFIG`.
    Kubernetes,
    /// A directory of YAML files.
    Manifests(PathBuf),
}

/// `loopback.*`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loopback {
    /// `loopback.enabled`
    pub enabled: bool,
    /// `loopback.interface`
    pub interface: String,
    /// `loopback.lease_seconds`; `None` is for ever.
    pub lease: Option<Duration>,
}

/// `bgp.*`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bgp {
    /// `bgp.enabled`
    pub enabled: bool,
    /// `bgp.asn`; `None` asks FRR.
    pub asn: Option<u32>,
    /// `bgp.vrf`
    pub vrf: Vrf,
    /// `bgp.mode`; `None` detects it from FRR's running configuration.
    pub mode: Option<Mode>,
    /// `bgp.on_exit`
    pub on_exit: OnExit,
    /// `bgp.drain_seconds`; `None` withdraws at once.
    pub drain: Option<Duration>,
    /// `bgp.attributes.*`: what VIPs are advertised with where their Service says nothing.
    pub attributes: Attributes,
    /// `bgp.attributes.from_services`
    pub attributes_from_services: bool,
}

/// What becomes of the VIPs when the daemon ends by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// They stay until their lease ends: a rolling upgrade moves no route.
    Keep,
    /// They are withdrawn first.
    Withdraw,
}

/// `traffic.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// `traffic.mode`
    pub mode: TrafficMode,
    /// `traffic.interfaces`; empty finds them from the routes.
    pub interfaces: Vec<String>,
    /// `traffic.prove_seconds`; `None` never waits.
    pub prove: Option<Duration>,
    /// `traffic.probe_*`
    pub probe: Probe,
    /// `traffic.max_ports`; `None` takes as many as fit some memory.
    pub max_ports: Option<u32>,
    /// `traffic.max_handshakes`
    pub max_handshakes: u32,
    /// `traffic.ejection_share`: above 0, at most 1.
    pub ejection_share: f64,
    /// `traffic.rule.*`
    pub rule: TrafficRules,
}

/// `traffic.probe_*`, `traffic.check_seconds`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `traffic.probe_sources`, at most one of each family; without any there are no probes.
    pub sources: Vec<IpNet>,
    /// `traffic.probe_rate`: the most in a second.
    pub rate: u32,
    /// `traffic.probe_round_seconds`; `None` never probes idle VIPs.
    pub round: Option<Duration>,
    /// `traffic.check_seconds`; `None` never asks what Services want to be asked for its own sake.
    pub check: Option<Duration>,
}

/// `kubernetes.*`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// `kubernetes.events`: Events on Services.
    pub events: bool,
    /// `kubernetes.node_condition`: the condition `CosmoletReady` of this node.
    pub node_condition: bool,
    /// `kubernetes.statistics`: the cluster's figures, by the daemon that holds the Lease.
    pub statistics: bool,
    /// `kubernetes.namespace`, where the Lease is; `None` is the pod's own.
    pub namespace: Option<String>,
}

/// `logging.*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging {
    /// `logging.level`
    pub level: tracing::Level,
    /// `logging.format` is `json`.
    pub json: bool,
}

impl Config {
    /// Reads a file, lets `COSMOLET_…` variables override it and validates the outcome.
    ///
    /// # Errors
    /// The file cannot be read, or a key, a value or a combination is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), error: error.to_string() })?;
        Self::parse(&text, |name| std::env::var(name).ok(), &hostname())
    }

    /// The same from a text, with the environment and the host's name handed in.
    ///
    /// # Errors
    /// A key, a value or a combination is wrong.
    pub fn parse(
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
        hostname: &str,
    ) -> Result<Self, ConfigError> {
        let raw = parse::raw(text, &environment)?;
        parse::validate(raw, environment("NODE_NAME"), hostname)
    }

    /// The excluded prefixes, for the netlink edge.
    #[must_use]
    pub fn excluded(&self) -> &[IpNet] {
        &self.services.rules.excluded
    }
}

/// The kernel's name for this host; empty if it has none that is text.
fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}
