//! The file's keys exactly as typed, the defaults of `keys` beneath them. Unknown keys are errors.

use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) node_name: Option<String>,
    pub(super) services: RawServices,
    pub(super) loopback: RawLoopback,
    pub(super) bgp: RawBgp,
    pub(super) frr: RawFrr,
    pub(super) traffic: RawTraffic,
    pub(super) http: RawHttp,
    pub(super) metrics: RawMetrics,
    pub(super) kubernetes: RawKubernetes,
    pub(super) logging: RawLogging,
    /// Of the Go project.
    pub(super) loop_interval_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServices {
    pub(super) source: SourceName,
    pub(super) manifests: Option<String>,
    pub(super) namespaces: Vec<String>,
    pub(super) selector: String,
    pub(super) types: Vec<TypeName>,
    pub(super) load_balancer_classes: Vec<String>,
    pub(super) vip_ranges: Vec<String>,
    pub(super) drain_taints: Vec<String>,
    pub(super) drain_file: Option<String>,
    pub(super) cordon: CordonName,
    pub(super) restart_hold_seconds: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CordonName {
    Ignore,
    Withdraw,
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
#[serde(deny_unknown_fields)]
pub(super) struct RawLoopback {
    pub(super) enabled: bool,
    pub(super) interface: String,
    pub(super) excluded: Vec<String>,
    pub(super) lease_seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBgp {
    pub(super) enabled: bool,
    pub(super) asn: u32,
    pub(super) vrf: String,
    pub(super) mode: ModeName,
    pub(super) on_exit: OnExitName,
    pub(super) drain_seconds: u64,
    pub(super) attributes: RawAttributes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAttributes {
    pub(super) from_services: bool,
    pub(super) communities: Vec<String>,
    pub(super) large_communities: Vec<String>,
    pub(super) extended_communities: Vec<String>,
    pub(super) med: Option<u32>,
    pub(super) prepend: u8,
    pub(super) local_preference: Option<u32>,
    pub(super) origin: OriginName,
    pub(super) weight: WeightName,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OriginName {
    Igp,
    Egp,
    Incomplete,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WeightName {
    None,
    Endpoints,
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
#[serde(deny_unknown_fields)]
pub(super) struct RawFrr {
    pub(super) socket_path: String,
    /// Of the Go project.
    pub(super) config_path: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTraffic {
    pub(super) mode: TrafficModeName,
    pub(super) interfaces: Vec<String>,
    pub(super) prove_seconds: u64,
    pub(super) probe_sources: Vec<String>,
    pub(super) probe_rate: u32,
    pub(super) probe_round_seconds: u64,
    pub(super) check_seconds: u64,
    pub(super) max_ports: u32,
    pub(super) max_handshakes: u32,
    pub(super) ejection_share: f64,
    pub(super) rule: RawRule,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) window_seconds: u64,
    pub(super) min_attempts: u64,
    pub(super) refused_share: f64,
    pub(super) completed_share: f64,
    pub(super) trial_refused_share: f64,
    pub(super) host_backend_seconds: u64,
    pub(super) healthy_share: f64,
    pub(super) broken_share: f64,
    pub(super) threshold: f64,
    pub(super) cap: f64,
    pub(super) trial_share: f64,
    pub(super) votes: f64,
    pub(super) failing_samples: usize,
    pub(super) of_samples: usize,
    pub(super) client_prefixes: u32,
    pub(super) forget_seconds: u64,
    pub(super) endpoint_silence_seconds: u64,
    pub(super) unseen_share: f64,
    pub(super) flood_factor: f64,
    pub(super) flood_rate: f64,
    pub(super) flood_completed_share: f64,
    pub(super) flood_average_seconds: u64,
    pub(super) flood_hold_seconds: u64,
    pub(super) baseline_factor: f64,
    pub(super) baseline_max_share: f64,
    pub(super) baseline_seconds: u64,
    pub(super) longest_burst_seconds: u64,
    pub(super) max_burstiness: f64,
    pub(super) probes: u32,
    pub(super) probe_age_seconds: u64,
    pub(super) suspect_probe_milliseconds: u64,
    pub(super) trial_probe_seconds: u64,
    pub(super) budget: usize,
    pub(super) budget_seconds: u64,
    pub(super) node_share: f64,
    pub(super) node_vips: usize,
    pub(super) hold_seconds: u64,
    pub(super) max_hold_seconds: u64,
    pub(super) idle_trial_seconds: u64,
    pub(super) min_trial_seconds: u64,
    pub(super) forgive_seconds: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TrafficModeName {
    Off,
    Observe,
    Enforce,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) listen: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    pub(super) per_port: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKubernetes {
    /// True where the source is Kubernetes.
    pub(super) events: Option<bool>,
    pub(super) node_condition: bool,
    pub(super) statistics: bool,
    pub(super) namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLogging {
    pub(super) level: LevelName,
    pub(super) format: FormatName,
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
