//! Everything that can happen to the engine.

use std::sync::Arc;
use std::time::Duration;

use super::check::{Check, Complaint};
use super::guard::Permissions;
use super::observed::{BgpState, KernelEvent, ProberState, ProgramsState, RibReport};
use super::plan::Applied;
use super::service::{NodeView, PodView, ServiceView};
use super::types::{PodKey, Port, ServiceKey, Vip};

/// The only way into the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A Service is new or has changed.
    Service(Box<ServiceView>),
    /// A Service is gone, or no longer selected.
    ServiceGone(ServiceKey),
    /// This node is new or has changed.
    Node(NodeView),
    /// A pod of this node is new or has changed.
    Pod(PodKey, PodView),
    /// A pod of this node is gone.
    PodGone(PodKey),
    /// The state of the source of Services.
    Source(SourceState),
    /// What the programs counted, one sample for each declared port that saw packets.
    Traffic(Vec<TrafficSample>),
    /// What became of wire-true probes that [`Engine::take_probes`](super::Engine::take_probes) asked for.
    Probe(Vec<ProbeReport>),
    /// Whether wire-true probes can be sent.
    Prober(ProberState),
    /// What the register says to the ejections that [`Engine::take_wanted_ejections`](super::Engine::take_wanted_ejections) asks
    /// for.
    Permissions(Permissions),
    /// What the kernel holds.
    Kernel(KernelEvent),
    /// What FRR's running configuration holds.
    Bgp(BgpState),
    /// What FRR's RIB holds, for some VIPs.
    Rib(Vec<RibReport>),
    /// Whether the eBPF programs run.
    Programs(ProgramsState),
    /// What became of the steps of the last plan.
    Applied(Vec<Applied>),
    /// Whether `cosmolet drain` has taken the node out.
    Drained(bool),
    /// Time has passed.
    Tick,
    /// The daemon ends and `bgp.on_exit` is `withdraw`.
    Exit,
}

/// How far the source of Services can be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceState {
    /// Not everything has been delivered once: nothing may be withdrawn for not having been seen.
    #[default]
    Syncing,
    /// Everything has been delivered and watches are open.
    Synced,
    /// Delivered once, but a watch is broken: the last good state stands. Holds the last error.
    Stale(String),
}

impl SourceState {
    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Syncing => "syncing",
            Self::Synced => "synced",
            Self::Stale(_) => "stale",
        }
    }
}

/// What the programs counted on the uplinks for one declared port over one span. Facts, no judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficSample {
    /// The VIP.
    pub vip: Vip,
    /// The declared port.
    pub port: Port,
    /// The time between this reading and the one before it.
    pub span: Duration,
    /// The counts within the span.
    pub counts: TrafficCounts,
    /// What became of new connections within the span.
    pub handshakes: Handshakes,
}

/// What became of the handshakes that the programs followed, over a sample's span. At high rates one SYN in `one_in`
/// is followed; a handshake that the table lost is not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    /// The client acknowledged.
    pub completed: u64,
    /// A backend's RST or ICMP error answered the SYN.
    pub refused_backend: u64,
    /// This host's own RST or ICMP error answered the SYN.
    pub refused_host: u64,
    /// No answer within 3 s.
    pub timed_out: u64,
    /// Client prefixes (/24, /56) of the failed ones, each hashed to one of 64 bits.
    pub failed_prefixes: u64,
    /// One SYN in so many was followed; 1 follows all, and 0 says that none was.
    pub one_in: u32,
    /// Completed without a SYN-ACK that this node's egress saw: the answer takes another way (DSR, another uplink, a
    /// CNI that rewrites after us).
    pub unseen_answers: u64,
    /// The sum of the times from SYN to SYN-ACK, in microseconds.
    pub latency_micros: u64,
    /// Time from SYN to SYN-ACK, log2 buckets of microseconds: bucket `i` counts [2^i, 2^(i+1)) µs, the first from 0
    /// and the last without end.
    pub latency: [u32; LATENCY_BUCKETS],
}

/// The buckets of [`Handshakes::latency`].
pub const LATENCY_BUCKETS: usize = 21;

impl Handshakes {
    /// Both spans together.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        let mut latency = self.latency;
        for (sum, more) in latency.iter_mut().zip(other.latency) {
            *sum = sum.saturating_add(more);
        }
        Self {
            completed: self.completed.saturating_add(other.completed),
            refused_backend: self.refused_backend.saturating_add(other.refused_backend),
            refused_host: self.refused_host.saturating_add(other.refused_host),
            timed_out: self.timed_out.saturating_add(other.timed_out),
            failed_prefixes: self.failed_prefixes | other.failed_prefixes,
            one_in: self.one_in.max(other.one_in),
            unseen_answers: self.unseen_answers.saturating_add(other.unseen_answers),
            latency_micros: self.latency_micros.saturating_add(other.latency_micros),
            latency,
        }
    }
}

/// What became of one wire-true probe: a SYN that arrived at an uplink like a client's. Facts, no judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The VIP.
    pub vip: Vip,
    /// The declared port: of TCP, or of UDP where its owner says what to ask.
    pub port: Port,
    /// What came back.
    pub outcome: ProbeOutcome,
    /// What was wrong, where the outcome is [`ProbeOutcome::Unhealthy`].
    pub complaint: Option<Complaint>,
    /// The time from the SYN to its answer, where one came.
    pub latency: Option<Duration>,
}

/// What came back for a wire-true probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeOutcome {
    /// A SYN-ACK; and a good answer, where the Service's owner says what to ask.
    Passed,
    /// RST or ICMP unreachable, made behind this host.
    RefusedByBackend,
    /// RST or ICMP unreachable, made by this host's own stack; or the SYN was about to leave by an uplink again.
    RefusedByHost,
    /// A SYN-ACK, and then no good answer to what the Service's owner wants to be asked.
    Unhealthy,
    /// Nothing, while another probe on that uplink was answered.
    Silent,
    /// Nothing, and neither was there for any other probe on that uplink: it is the probing that fails.
    Lost,
}

impl ProbeOutcome {
    /// All outcomes, for metrics.
    pub const ALL: [Self; 6] =
        [Self::Passed, Self::RefusedByBackend, Self::RefusedByHost, Self::Unhealthy, Self::Silent, Self::Lost];

    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::RefusedByBackend => "refused_backend",
            Self::RefusedByHost => "refused_host",
            Self::Unhealthy => "unhealthy",
            Self::Silent => "silent",
            Self::Lost => "lost",
        }
    }
}

/// A wish for wire-true probes of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// The VIP.
    pub vip: Vip,
    /// The declared ports to probe, each with what its owner wants to be asked. Those without are of TCP.
    pub ports: Vec<(Port, Option<Arc<Check>>)>,
    /// Why.
    pub purpose: ProbePurpose,
}

/// Why the engine wants a probe; the first matter most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbePurpose {
    /// The VIP is suspect: is it so?
    Conviction,
    /// The VIP waits for its advertisement.
    Proof,
    /// The VIP is withdrawn by its traffic and wants to come back.
    Trial,
    /// Its owner wants it asked from time to time.
    Check,
    /// Clients are served, and no probe has passed yet: one that passes now gives one that fails later its meaning.
    Reference,
    /// Nobody has connected for a while.
    Round,
}

impl ProbePurpose {
    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conviction => "conviction",
            Self::Proof => "proof",
            Self::Trial => "trial",
            Self::Check => "check",
            Self::Reference => "reference",
            Self::Round => "round",
        }
    }
}

/// Packets and events, as differences over a span or as sums since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficCounts {
    /// Packets from clients; a GSO buffer counts its segments.
    pub packets_in: u64,
    /// Bytes from clients, from the network header on.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients, from the network header on.
    pub bytes_out: u64,
    /// SYN from clients.
    pub syn: u64,
    /// SYN-ACK to clients, made by a backend behind DNAT.
    pub syn_ack: u64,
    /// SYN-ACK to clients, made by this host's own stack (`ingress_ifindex == 0`).
    pub syn_ack_host: u64,
    /// Handshakes completed: the client acknowledged a SYN-ACK.
    pub completed: u64,
    /// FIN in either direction.
    pub fin: u64,
    /// RST from clients.
    pub rst_client: u64,
    /// RST to clients, made by a backend.
    pub rst_backend: u64,
    /// RST to clients, made by this host's own stack.
    pub rst_host: u64,
    /// ICMP unreachable to clients, made by this host's own stack.
    pub unreachable_host: u64,
    /// ICMP unreachable to clients, made behind this host.
    pub unreachable_backend: u64,
    /// SYN that repeat one which is followed and was not answered.
    pub syn_retransmitted: u64,
    /// RST from clients within an established connection: neither the first answer to a SYN-ACK nor to anything else.
    pub rst_after_data_client: u64,
    /// RST to clients within an established connection, made by a backend.
    pub rst_after_data_backend: u64,
}

impl TrafficCounts {
    /// The sum of two counts, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets_in: self.packets_in.saturating_add(other.packets_in),
            bytes_in: self.bytes_in.saturating_add(other.bytes_in),
            packets_out: self.packets_out.saturating_add(other.packets_out),
            bytes_out: self.bytes_out.saturating_add(other.bytes_out),
            syn: self.syn.saturating_add(other.syn),
            syn_ack: self.syn_ack.saturating_add(other.syn_ack),
            syn_ack_host: self.syn_ack_host.saturating_add(other.syn_ack_host),
            completed: self.completed.saturating_add(other.completed),
            fin: self.fin.saturating_add(other.fin),
            rst_client: self.rst_client.saturating_add(other.rst_client),
            rst_backend: self.rst_backend.saturating_add(other.rst_backend),
            rst_host: self.rst_host.saturating_add(other.rst_host),
            unreachable_host: self.unreachable_host.saturating_add(other.unreachable_host),
            unreachable_backend: self.unreachable_backend.saturating_add(other.unreachable_backend),
            syn_retransmitted: self.syn_retransmitted.saturating_add(other.syn_retransmitted),
            rst_after_data_client: self.rst_after_data_client.saturating_add(other.rst_after_data_client),
            rst_after_data_backend: self.rst_after_data_backend.saturating_add(other.rst_after_data_backend),
        }
    }
}
