//! Samples, probes and permissions as a recording has them: what is 0 is left out.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::words::{self, PortText};
use crate::engine::check::Complaint;
use crate::engine::event::{Handshakes, LATENCY_BUCKETS, ProbeOutcome, ProbeReport, TrafficCounts, TrafficSample};
use crate::engine::guard::{Permissions, Refused};
use crate::engine::types::Vip;

/// One sample of a port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    vip: IpAddr,
    port: PortText,
    /// In nanoseconds, as all times.
    span: u64,
    #[serde(with = "Counts", default, skip_serializing_if = "is_default")]
    counts: TrafficCounts,
    #[serde(with = "Followed", default, skip_serializing_if = "is_default")]
    handshakes: Handshakes,
}

/// What became of one probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    vip: IpAddr,
    port: PortText,
    #[serde(with = "words::outcome")]
    outcome: ProbeOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complaint: Option<Wrong>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latency: Option<u64>,
}

/// What the register of ejections has answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    valid_for: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    permitted: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refused: Vec<No>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct No {
    vip: IpAddr,
    #[serde(with = "words::refused")]
    reason: Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wrong {
    Status(u16),
    NotServing(Option<u16>),
    NoAnswer,
    Closed,
    Garbled,
}

/// Mirrors a struct of counters, all of which may be left out.
macro_rules! counters {
    ($name:ident of $remote:literal { $($field:ident: $type:ty),+ $(,)? }) => {
        #[derive(Serialize, Deserialize)]
        #[serde(remote = $remote, deny_unknown_fields)]
        struct $name {
            $(#[serde(default, skip_serializing_if = "is_default")] $field: $type,)+
        }
    };
}

counters!(Counts of "TrafficCounts" {
    packets_in: u64, bytes_in: u64, packets_out: u64, bytes_out: u64,
    syn: u64, syn_ack: u64, syn_ack_host: u64, completed: u64, fin: u64,
    rst_client: u64, rst_backend: u64, rst_host: u64,
    unreachable_host: u64, unreachable_backend: u64, syn_retransmitted: u64,
    rst_after_data_client: u64, rst_after_data_backend: u64,
});

counters!(Followed of "Handshakes" {
    completed: u64, refused_backend: u64, refused_host: u64, timed_out: u64, failed_prefixes: u64,
    one_in: u32, unseen_answers: u64, latency_micros: u64, latency: [u32; LATENCY_BUCKETS],
});

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// In nanoseconds; at most 584 years.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl From<&TrafficSample> for Sample {
    fn from(sample: &TrafficSample) -> Self {
        let TrafficSample { vip, port, span, counts, handshakes } = *sample;
        Self { vip: vip.address(), port: PortText(port), span: nanos(span), counts, handshakes }
    }
}

impl From<Sample> for TrafficSample {
    fn from(sample: Sample) -> Self {
        let Sample { vip, port, span, counts, handshakes } = sample;
        Self { vip: Vip::new(vip), port: port.0, span: Duration::from_nanos(span), counts, handshakes }
    }
}

impl From<&ProbeReport> for Probe {
    fn from(report: &ProbeReport) -> Self {
        let ProbeReport { vip, port, outcome, complaint, latency } = *report;
        let complaint = complaint.map(|complaint| match complaint {
            Complaint::Status(status) => Wrong::Status(status),
            Complaint::NotServing(code) => Wrong::NotServing(code),
            Complaint::NoAnswer => Wrong::NoAnswer,
            Complaint::Closed => Wrong::Closed,
            Complaint::Garbled => Wrong::Garbled,
        });
        Self { vip: vip.address(), port: PortText(port), outcome, complaint, latency: latency.map(nanos) }
    }
}

impl From<Probe> for ProbeReport {
    fn from(probe: Probe) -> Self {
        let complaint = probe.complaint.map(|complaint| match complaint {
            Wrong::Status(status) => Complaint::Status(status),
            Wrong::NotServing(code) => Complaint::NotServing(code),
            Wrong::NoAnswer => Complaint::NoAnswer,
            Wrong::Closed => Complaint::Closed,
            Wrong::Garbled => Complaint::Garbled,
        });
        let latency = probe.latency.map(Duration::from_nanos);
        Self { vip: Vip::new(probe.vip), port: probe.port.0, outcome: probe.outcome, complaint, latency }
    }
}

impl From<&Permissions> for Answers {
    fn from(permissions: &Permissions) -> Self {
        let mut answers = Self { valid_for: nanos(permissions.valid_for), permitted: Vec::new(), refused: Vec::new() };
        for (vip, answer) in &permissions.answers {
            match answer {
                Ok(()) => answers.permitted.push(vip.address()),
                Err(reason) => answers.refused.push(No { vip: vip.address(), reason: *reason }),
            }
        }
        answers
    }
}

impl From<Answers> for Permissions {
    fn from(answers: Answers) -> Self {
        let permitted = answers.permitted.into_iter().map(|vip| (Vip::new(vip), Ok(())));
        let refused = answers.refused.into_iter().map(|no| (Vip::new(no.vip), Err(no.reason)));
        Self { answers: permitted.chain(refused).collect(), valid_for: Duration::from_nanos(answers.valid_for) }
    }
}
