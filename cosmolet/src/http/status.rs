//! The status as JSON: the same words as in logs and metrics.

use serde::{Deserialize, Serialize};

pub use super::bgp::{BgpStatus, PeerRow, RibRow};
use super::troubles::troubles;
use super::{bgp, since_1970};
use crate::book::{Book, PortTraffic, Row, Summary, Told};
use crate::engine::event::{Handshakes, TrafficCounts};
use crate::engine::intent::VipHealth;
use crate::engine::observed::{Owner, ProberState, ProgramsState};
use crate::engine::status::{ClaimStatus, VipStatus};
use crate::engine::types::{Port, Timestamp, Vip};
use crate::engine::{Transition, event::SourceState};

/// The answer of `/api/v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// How long the daemon has run.
    pub uptime_seconds: f64,
    /// `cosmolet drain` has taken the node out.
    #[serde(default)]
    pub drained: bool,
    /// Why the Node object keeps every VIP off this node, in a word: `NodeTainted`, `NodeExcluded` …
    #[serde(default)]
    pub node_out: Option<String>,
    /// The source of Services.
    pub source: SourceStatus,
    /// FRR.
    pub bgp: BgpStatus,
    /// The data plane.
    pub traffic: TrafficStatus,
    /// The functions of `kubernetes.*` that are switched on.
    #[serde(default)]
    pub kubernetes: Vec<FunctionStatus>,
    /// Services selected.
    pub services: usize,
    /// One row for each VIP.
    pub vips: Vec<VipRow>,
    /// Addresses of Services that are no IP address.
    pub unusable_addresses: Vec<UnusableAddress>,
    /// Files of the manifests directory that cannot be used.
    pub manifest_problems: Vec<ManifestProblem>,
    /// Annotations of Services that are ignored or deprecated.
    pub annotation_notices: Vec<AnnotationNotice>,
    /// The last decisions, the newest last.
    pub transitions: Vec<TransitionRow>,
}

/// The answer of `/api/v1/node`: the same without VIPs, and what is wrong with the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The rest.
    #[serde(flatten)]
    pub status: Status,
    /// A sentence for each trouble; those of single VIPs are not in it.
    pub troubles: Vec<String>,
}

impl NodeStatus {
    /// Reads the book.
    #[must_use]
    pub fn of(book: &Book) -> Self {
        let status = Status::without_vips(book);
        Self { troubles: troubles(&status), status }
    }
}

/// An annotation of a Service that is ignored or deprecated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnnotationNotice {
    /// Namespace and name.
    pub service: String,
    /// `ignored` or `deprecated`.
    pub kind: String,
    /// What is wrong, and what to do instead.
    pub notice: String,
}

/// The source of Services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `kubernetes` or `manifests`.
    pub kind: String,
    /// `syncing`, `synced` or `stale`.
    pub state: String,
    /// It has delivered everything once: VIPs are decided.
    pub delivered: bool,
    /// Why it is stale.
    pub error: Option<String>,
}

/// One function of `kubernetes.*`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// `events`, `node_condition` or `statistics`.
    pub function: String,
    /// `on`, `failing`, `leader` or `follower`.
    pub state: String,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// The data plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// `off`, `observe` or `enforce`.
    pub mode: String,
    /// The interfaces whose traffic is counted.
    pub interfaces: Vec<String>,
    /// Why no traffic is counted: the control plane decides alone.
    pub control_plane_alone: Option<String>,
    /// Wire-true probes: `starting`, `running` or `off`.
    pub probes: String,
    /// Why no probe can be sent.
    pub no_probes: Option<String>,
    /// The handshakes of most VIPs with traffic fail: it is this node, or what it is judged by.
    #[serde(default)]
    pub node_suspect: bool,
    /// How often traffic and control plane agreed.
    #[serde(default)]
    pub agreement: AgreementRow,
}

/// Samples of Services with traffic, about one a second each, by what the two worlds said of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgreementRow {
    /// Both: it can be served.
    pub both_up: u64,
    /// The traffic alone says that it cannot.
    pub only_traffic_down: u64,
    /// The control plane alone says that it cannot.
    pub only_control_down: u64,
    /// Both: it cannot.
    pub both_down: u64,
}

/// One VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipRow {
    /// The address.
    pub vip: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// `undecided`, `pending`, `advertised`, `withdrawing`, `withdrawn` or `refused`.
    pub state: String,
    /// Why it is not advertised, in a word.
    pub reason: Option<String>,
    /// Why it is not advertised, in a sentence.
    pub explanation: Option<String>,
    /// Since when it is in this state, for this reason.
    pub since_seconds: f64,
    /// `connected` or `dynamic`.
    pub mode: Option<String>,
    /// Whose address is on the loopback: `ours`, `foreign`, or `off` where `loopback.enabled` is false.
    pub loopback: Option<String>,
    /// The rest of the address's lease.
    pub lease_left_seconds: Option<f64>,
    /// Whose `network` statement FRR has: `ours` or `foreign`.
    pub network: Option<String>,
    /// The BGP attributes that it is to be advertised with.
    #[serde(default)]
    pub attributes: Option<AttributesRow>,
    /// It is de-preferred for so long yet at most, before it is withdrawn: the node is being drained.
    #[serde(default)]
    pub drain_left_seconds: Option<f64>,
    /// What FRR's RIB holds.
    pub rib: Option<RibRow>,
    /// The last error of a step, until one succeeds.
    pub last_error: Option<String>,
    /// Why it may not be withdrawn for its traffic, where it should be: a reason, and a sentence about it.
    pub ejection_refused: Option<RefusedRow>,
    /// The Services that claim it.
    pub services: Vec<ServiceRow>,
    /// What was counted, by declared port.
    pub traffic: Vec<PortRow>,
}

/// The BGP attributes of a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributesRow {
    /// In words: `community 65000:100, med 50`.
    pub wanted: String,
    /// The route-map that sets them.
    pub route_map: String,
    /// FRR's `network` statement has that route-map. Never in Connected mode, where only a route-map on the operator's
    /// `redistribute connected` can set anything.
    pub set: bool,
}

/// Why a node may not withdraw a VIP for its traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// One word.
    pub reason: String,
    /// One sentence.
    pub explanation: String,
}

/// A Service that claims a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `LoadBalancer`, `ClusterIP` or `ExternalIP`.
    pub kind: String,
    /// `unknown`, `proving`, `up`, `suspect`, `down` or `trial`.
    pub health: String,
    /// Why it cannot be served for this Service, whatever others that share it say.
    pub reason: Option<String>,
    /// What its traffic says while nothing acts on it, in a word.
    pub suspicion: Option<String>,
    /// What the traffic verdict says: `unknown`, `blind`, `unproven`, `clear`, `suspect`, `convicted` or `trial`.
    #[serde(default)]
    pub verdict: String,
    /// Why it says so, in a word.
    #[serde(default)]
    pub verdict_reason: Option<String>,
    /// How often in a row its traffic has convicted it.
    pub ejections: u32,
    /// The outcome of the last wire-true probe.
    pub probe: Option<String>,
    /// A probe has passed with the endpoints as they are.
    pub proven: bool,
    /// What its owner wants to be asked (`cosmolet.io/probe`).
    #[serde(default)]
    pub probe_check: Option<String>,
    /// What was wrong with the last answer to that, until one is good.
    #[serde(default)]
    pub probe_complaint: Option<String>,
}

/// What was counted for one port since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// SYN from clients.
    pub syn: u64,
    /// SYN-ACK by backends.
    pub syn_ack: u64,
    /// SYN-ACK by this host's own stack.
    pub syn_ack_host: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    /// FIN in either direction.
    pub fin: u64,
    /// RST by clients.
    pub rst_client: u64,
    /// RST by backends.
    pub rst_backend: u64,
    /// RST by this host's own stack.
    pub rst_host: u64,
    /// ICMP unreachable by this host.
    pub unreachable_host: u64,
    /// ICMP unreachable by backends.
    #[serde(default)]
    pub unreachable_backend: u64,
    /// SYN that repeat a followed one which was not answered.
    #[serde(default)]
    pub syn_retransmitted: u64,
    /// RST by clients within established connections.
    #[serde(default)]
    pub rst_after_data_client: u64,
    /// RST by backends within established connections.
    #[serde(default)]
    pub rst_after_data_backend: u64,
}

/// What became of the handshakes of one port that were followed, since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// The client acknowledged.
    pub completed: u64,
    /// Of these, the ones whose answer did not leave by this node's uplinks.
    pub unseen_answers: u64,
    /// A backend refused.
    pub refused_backend: u64,
    /// This host refused.
    pub refused_host: u64,
    /// Nothing answered in 3 s.
    pub timed_out: u64,
    /// One SYN in so many is followed now.
    pub one_in: u32,
}

/// One declared port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortRow {
    /// The port, as `80/tcp`.
    pub port: String,
    /// Sums since the daemon's start.
    pub total: Counts,
    /// Of TCP, what became of new connections.
    #[serde(default)]
    pub followed: Followed,
    /// How long ago the last packet was counted.
    pub last_seen_seconds: f64,
}

/// An address of a Service that is no IP address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnusableAddress {
    /// The Service.
    pub service: String,
    /// The address as the object has it.
    pub address: String,
    /// Why, in a word.
    pub reason: String,
}

/// A file of the manifests directory that cannot be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestProblem {
    /// The file's name.
    pub file: String,
    /// What is wrong, with the line where it is known.
    pub problem: String,
}

/// A decision that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransitionRow {
    /// Seconds since 1970.
    pub at: f64,
    /// The VIP.
    pub vip: String,
    /// `advertise`, `depreference` or `withdraw`.
    pub to: String,
    /// Why it is not advertised like any other.
    pub reason: Option<String>,
    /// The reason in a sentence.
    #[serde(default)]
    pub message: Option<String>,
}

impl Status {
    /// Reads the book.
    #[must_use]
    pub fn of(book: &Book) -> Self {
        let now = book.now();
        let row = |(vip, row): (&Vip, &Row)| Some(vip_row(*vip, row.status.as_ref()?, row, now));
        Self { vips: book.rows().iter().filter_map(row).collect(), ..Self::without_vips(book) }
    }

    /// The same, and no VIP in it.
    #[must_use]
    fn without_vips(book: &Book) -> Self {
        let now = book.now();
        let summary = book.summary();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: seconds(now.since_start()),
            source: source(&summary),
            bgp: bgp::bgp(&summary.bgp),
            traffic: traffic(&summary),
            kubernetes: summary.told.iter().map(|(function, told)| function_row(function, told)).collect(),
            services: summary.services,
            vips: Vec::new(),
            unusable_addresses: summary
                .unusable
                .iter()
                .map(|(key, text, reason)| UnusableAddress {
                    service: key.to_string(),
                    address: text.clone(),
                    reason: reason.to_string(),
                })
                .collect(),
            manifest_problems: summary
                .problems
                .iter()
                .map(|(file, problem)| ManifestProblem { file: file.clone(), problem: problem.clone() })
                .collect(),
            annotation_notices: summary
                .notices
                .iter()
                .map(|(key, kind, text)| AnnotationNotice {
                    service: key.to_string(),
                    kind: (*kind).to_owned(),
                    notice: text.clone(),
                })
                .collect(),
            transitions: summary.transitions.iter().map(|transition| transition_row(book, transition)).collect(),
            drained: summary.drained,
            node_out: summary.node_out.map(|reason| reason.as_str().to_owned()),
            node: summary.node,
        }
    }
}

/// Milliseconds are enough for a person and keep the JSON short.
pub(super) fn seconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

fn source(summary: &Summary) -> SourceStatus {
    let error = match &summary.source {
        SourceState::Stale(error) => Some(error.clone()),
        SourceState::Syncing | SourceState::Synced => None,
    };
    SourceStatus {
        kind: summary.source_kind.to_owned(),
        state: summary.source.as_str().to_owned(),
        delivered: summary.synced,
        error,
    }
}

fn function_row(function: &str, told: &Told) -> FunctionStatus {
    FunctionStatus { function: function.to_owned(), state: told.state.to_owned(), error: told.error.clone() }
}

fn traffic(summary: &Summary) -> TrafficStatus {
    let (interfaces, control_plane_alone) = match &summary.programs {
        ProgramsState::Running(interfaces) => (interfaces.clone(), None),
        ProgramsState::Off(reason) => (Vec::new(), Some(reason.clone())),
    };
    let no_probes = match &summary.prober {
        ProberState::Off(reason) => Some(reason.clone()),
        ProberState::Starting | ProberState::Running => None,
    };
    TrafficStatus {
        mode: summary.traffic_mode.as_str().to_owned(),
        interfaces,
        control_plane_alone,
        probes: summary.prober.as_str().to_owned(),
        no_probes,
        node_suspect: summary.node_suspect,
        agreement: AgreementRow {
            both_up: summary.agreement.both_up,
            only_traffic_down: summary.agreement.only_traffic_down,
            only_control_down: summary.agreement.only_control_down,
            both_down: summary.agreement.both_down,
        },
    }
}

fn owner(owner: Owner) -> String {
    match owner {
        Owner::Ours => "ours".to_owned(),
        Owner::Foreign => "foreign".to_owned(),
    }
}

pub(super) fn vip_row(vip: Vip, status: &VipStatus, row: &Row, now: Timestamp) -> VipRow {
    VipRow {
        vip: vip.to_string(),
        family: vip.family().to_string(),
        state: status.state.as_str().to_owned(),
        reason: status.reason.map(|reason| reason.to_string()),
        explanation: status.reason.map(|reason| reason.explain().to_owned()),
        since_seconds: seconds(now.since(row.since)),
        mode: status.mode.map(|mode| mode.to_string()),
        loopback: status.loopback.map(owner).or_else(|| status.bare.then(|| "off".to_owned())),
        lease_left_seconds: status.lease_until.map(|until| seconds(until.since(now))),
        network: status.network.map(owner),
        attributes: status.attributes.as_ref().map(|attributes| AttributesRow {
            wanted: attributes.route.to_string(),
            route_map: attributes.route.map.to_string(),
            set: attributes.set,
        }),
        drain_left_seconds: status.drain_ends.as_ref().map(|ends| seconds(ends.since(now))),
        rib: status.rib.as_ref().map(bgp::rib),
        last_error: status.last_error.clone(),
        ejection_refused: status.ejection_refused.map(|refused| RefusedRow {
            reason: refused.as_str().to_owned(),
            explanation: refused.explain().to_owned(),
        }),
        services: status.services.iter().map(service_row).collect(),
        traffic: row.traffic.iter().map(|(port, traffic)| port_row(*port, traffic, now)).collect(),
    }
}

fn service_row(claim: &ClaimStatus) -> ServiceRow {
    let (reason, suspicion) = match claim.health {
        VipHealth::Suspect(reason) => (None, Some(reason.to_string())),
        VipHealth::Down(reason) => (Some(reason.to_string()), None),
        VipHealth::Unknown | VipHealth::Proving | VipHealth::Up | VipHealth::Trial => (None, None),
    };
    ServiceRow {
        reason,
        suspicion,
        namespace: claim.service.namespace.to_string(),
        name: claim.service.name.to_string(),
        kind: claim.kind.as_str().to_owned(),
        health: claim.health.as_str().to_owned(),
        verdict: claim.verdict.as_str().to_owned(),
        verdict_reason: claim.verdict.reason().map(str::to_owned),
        ejections: claim.ejections,
        probe: claim.proof.last.map(|(_, outcome)| outcome.as_str().to_owned()),
        proven: claim.proof.proven,
        probe_check: claim.check.as_ref().map(ToString::to_string),
        probe_complaint: claim.proof.complaint.map(|complaint| complaint.to_string()),
    }
}

fn port_row(port: Port, traffic: &PortTraffic, now: Timestamp) -> PortRow {
    PortRow {
        port: port.to_string(),
        total: counts(&traffic.total),
        followed: followed(&traffic.handshakes),
        last_seen_seconds: seconds(now.since(traffic.at)),
    }
}

const fn counts(counts: &TrafficCounts) -> Counts {
    Counts {
        packets_in: counts.packets_in,
        bytes_in: counts.bytes_in,
        packets_out: counts.packets_out,
        bytes_out: counts.bytes_out,
        syn: counts.syn,
        syn_ack: counts.syn_ack,
        syn_ack_host: counts.syn_ack_host,
        handshakes: counts.completed,
        fin: counts.fin,
        rst_client: counts.rst_client,
        rst_backend: counts.rst_backend,
        rst_host: counts.rst_host,
        unreachable_host: counts.unreachable_host,
        unreachable_backend: counts.unreachable_backend,
        syn_retransmitted: counts.syn_retransmitted,
        rst_after_data_client: counts.rst_after_data_client,
        rst_after_data_backend: counts.rst_after_data_backend,
    }
}

const fn followed(handshakes: &Handshakes) -> Followed {
    Followed {
        completed: handshakes.completed,
        unseen_answers: handshakes.unseen_answers,
        refused_backend: handshakes.refused_backend,
        refused_host: handshakes.refused_host,
        timed_out: handshakes.timed_out,
        one_in: handshakes.one_in,
    }
}

pub(super) fn transition_row(book: &Book, transition: &Transition) -> TransitionRow {
    let reason = transition.to.reason();
    TransitionRow {
        at: since_1970(book, transition.at),
        vip: transition.vip.to_string(),
        to: transition.to.as_str().to_owned(),
        reason: reason.map(|reason| reason.to_string()),
        message: reason.map(|reason| reason.explain().to_owned()),
    }
}
