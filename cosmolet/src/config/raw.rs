//! The file's keys exactly as typed. Every key stands here once; unknown ones are errors.

use serde::Deserialize;

/// The keys that a `COSMOLET_…` variable may override: `bgp.asn` is `COSMOLET_BGP_ASN`.
pub(super) const KEYS: &[&str] = &[
    "node_name",
    "services.source",
    "services.manifests",
    "services.namespaces",
    "services.selector",
    "services.types",
    "services.load_balancer_classes",
    "services.vip_ranges",
    "services.drain_taints",
    "loopback.interface",
    "loopback.excluded",
    "loopback.lease_seconds",
    "bgp.enabled",
    "bgp.asn",
    "bgp.mode",
    "bgp.on_exit",
    "frr.socket_path",
    "traffic.mode",
    "traffic.interfaces",
    "http.listen",
    "kubernetes.events",
    "logging.level",
    "logging.format",
];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) node_name: Option<String>,
    pub(super) services: RawServices,
    pub(super) loopback: RawLoopback,
    pub(super) bgp: RawBgp,
    pub(super) frr: RawFrr,
    pub(super) traffic: RawTraffic,
    pub(super) http: RawHttp,
    pub(super) kubernetes: RawKubernetes,
    pub(super) logging: RawLogging,
    /// Of the Go project.
    pub(super) loop_interval_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServices {
    pub(super) source: SourceName,
    pub(super) manifests: Option<String>,
    pub(super) namespaces: Vec<String>,
    pub(super) selector: String,
    pub(super) types: Vec<TypeName>,
    pub(super) load_balancer_classes: Vec<String>,
    pub(super) vip_ranges: Vec<String>,
    pub(super) drain_taints: Vec<String>,
}

impl Default for RawServices {
    fn default() -> Self {
        Self {
            source: SourceName::Auto,
            manifests: None,
            namespaces: Vec::new(),
            selector: String::new(),
            types: vec![TypeName::LoadBalancer],
            load_balancer_classes: Vec::new(),
            vip_ranges: Vec::new(),
            drain_taints: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SourceName {
    Auto,
    Kubernetes,
    Manifests,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum TypeName {
    LoadBalancer,
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    #[serde(rename = "ExternalIP")]
    ExternalIp,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLoopback {
    pub(super) interface: String,
    pub(super) excluded: Vec<String>,
    pub(super) lease_seconds: u64,
}

impl Default for RawLoopback {
    fn default() -> Self {
        Self { interface: "lo".to_owned(), excluded: Vec::new(), lease_seconds: 120 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBgp {
    pub(super) enabled: bool,
    pub(super) asn: u32,
    pub(super) mode: ModeName,
    pub(super) on_exit: OnExitName,
}

impl Default for RawBgp {
    fn default() -> Self {
        Self { enabled: true, asn: 0, mode: ModeName::Auto, on_exit: OnExitName::Keep }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ModeName {
    Auto,
    Connected,
    Dynamic,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnExitName {
    Keep,
    Withdraw,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFrr {
    pub(super) socket_path: String,
    /// Of the Go project.
    pub(super) config_path: Option<String>,
}

impl Default for RawFrr {
    fn default() -> Self {
        Self { socket_path: "/var/run/frr".to_owned(), config_path: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTraffic {
    pub(super) mode: TrafficModeName,
    pub(super) interfaces: Vec<String>,
}

impl Default for RawTraffic {
    fn default() -> Self {
        Self { mode: TrafficModeName::Observe, interfaces: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TrafficModeName {
    Off,
    Observe,
    Enforce,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHttp {
    pub(super) listen: String,
}

impl Default for RawHttp {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9470".to_owned() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKubernetes {
    /// True where the source is Kubernetes.
    pub(super) events: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLogging {
    pub(super) level: LevelName,
    pub(super) format: FormatName,
}

impl Default for RawLogging {
    fn default() -> Self {
        Self { level: LevelName::Info, format: FormatName::Text }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LevelName {
    Error,
    #[serde(alias = "warning")]
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FormatName {
    #[serde(alias = "console")]
    Text,
    Json,
}
