//! The families of VIPs, written out of the book.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::book::{Book, PortTraffic, Row};
use crate::engine::event::LATENCY_BUCKETS;
use crate::engine::observed::Owner;
use crate::engine::status::{ClaimStatus, VipState, VipStatus};
use crate::engine::types::{Port, Timestamp, Vip};

#[derive(Debug)]
pub(super) struct Vips {
    book: Arc<Book>,
}

impl Vips {
    pub(super) const fn new(book: Arc<Book>) -> Self {
        Self { book }
    }
}

type Rows = BTreeMap<Vip, Row>;

impl Collector for Vips {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let rows = self.book.rows();
        by_state(&rows, &mut encoder)?;
        states(&rows, &mut encoder)?;
        let advertised = |row: &VipStatus| i64::from(row.state.is_advertised());
        gauge(&rows, &mut encoder, "vip_advertised", "1 while the VIP is advertised from this node", advertised)?;
        let held = |row: &VipStatus| i64::from(row.loopback == Some(Owner::Ours));
        gauge(&rows, &mut encoder, "vip_on_loopback", "1 while cosmolet's address is on the loopback", held)?;
        let valid = |row: &VipStatus| i64::from(row.rib.as_ref().is_some_and(|rib| rib.valid));
        gauge(&rows, &mut encoder, "vip_in_rib", "1 while FRR's RIB holds a valid path of this node", valid)?;
        let peers = |row: &VipStatus| {
            row.rib.as_ref().map_or(0, |rib| i64::try_from(rib.advertised_to.len()).unwrap_or(i64::MAX))
        };
        gauge(&rows, &mut encoder, "vip_peers", "Peers that FRR advertises the VIP to", peers)?;
        ready(&rows, &mut encoder)?;
        verdicts(&rows, &mut encoder)?;
        held_back(&rows, &mut encoder)?;
        lease(&rows, self.book.now(), &mut encoder)?;
        traffic(&rows, &mut encoder)
    }
}

fn by_state(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let mut counts: BTreeMap<VipState, i64> = VipState::ALL.into_iter().map(|state| (state, 0)).collect();
    for status in rows.values().filter_map(|row| row.status.as_ref()) {
        *counts.entry(status.state).or_default() += 1;
    }
    let mut family = encoder.encode_descriptor("vips", "VIPs by state", None, MetricType::Gauge)?;
    for (state, count) in counts {
        ConstGauge::new(count).encode(family.encode_family(&[("state", state.as_str())])?)?;
    }
    Ok(())
}

fn states(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "1 for the state that the VIP is in, with the reason, the Service's health and FRR's mode";
    let mut family = encoder.encode_descriptor("vip_state", help, None, MetricType::Gauge)?;
    for_claims(rows, |status, claim, vip| {
        let mut labels = identity(claim, status.vip, vip).to_vec();
        labels.extend([
            ("state", status.state.as_str()),
            ("reason", status.reason.map_or("", |reason| reason.as_str())),
            ("health", claim.map_or("", |claim| claim.health.as_str())),
            ("mode", status.mode.map_or("", |mode| mode.as_str())),
        ]);
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)
    })
}

fn ready(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "Ready endpoints of the Service on this node, in the VIP's family";
    let mut family = encoder.encode_descriptor("vip_endpoints_ready", help, None, MetricType::Gauge)?;
    for_claims(rows, |status, claim, vip| {
        let Some(ready) = claim.map(|claim| claim.ready_here) else { return Ok(()) };
        ConstGauge::new(i64::from(ready)).encode(family.encode_family(&identity(claim, status.vip, vip))?)
    })
}

fn verdicts(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "1 for what the traffic verdict says of the Service's VIP, with the reason";
    let mut family = encoder.encode_descriptor("vip_verdict", help, None, MetricType::Gauge)?;
    for_claims(rows, |status, claim, vip| {
        let Some(verdict) = claim.map(|claim| claim.verdict) else { return Ok(()) };
        let mut labels = identity(claim, status.vip, vip).to_vec();
        labels.extend([("verdict", verdict.as_str()), ("reason", verdict.reason().unwrap_or_default())]);
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)
    })
}

/// Only where there is something to tell.
fn held_back(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "1 while the VIP should be withdrawn for its traffic and the guard forbids it, with the reason";
    let mut family = encoder.encode_descriptor("vip_ejection_refused", help, None, MetricType::Gauge)?;
    for_claims(rows, |status, claim, vip| {
        let Some(refused) = status.ejection_refused else { return Ok(()) };
        let mut labels = identity(claim, status.vip, vip).to_vec();
        labels.push(("reason", refused.as_str()));
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)
    })
}

/// The shortest lease of all: a daemon that no longer renews shows here first.
fn lease(rows: &Rows, now: Timestamp, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let until = rows.values().filter_map(|row| row.status.as_ref()?.lease_until).min();
    let Some(until) = until else { return Ok(()) };
    let help = "Until the kernel removes the first of our addresses, if it is not renewed";
    let unit = Some(&Unit::Seconds);
    let family = encoder.encode_descriptor("lease_remaining", help, unit, MetricType::Gauge)?;
    ConstGauge::new(until.since(now).as_secs_f64()).encode(family)
}

fn gauge(
    rows: &Rows,
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl Fn(&VipStatus) -> i64,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for_claims(rows, |status, claim, vip| {
        let labels = identity(claim, status.vip, vip);
        ConstGauge::new(value(status)).encode(family.encode_family(&labels)?)
    })
}

/// The labels that every family of VIPs begins with; the Service's are empty where nobody claims the VIP any more.
fn identity<'a>(claim: Option<&'a ClaimStatus>, vip: Vip, text: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("namespace", claim.map_or("", |claim| claim.service.namespace.as_ref())),
        ("service", claim.map_or("", |claim| claim.service.name.as_ref())),
        ("vip", text),
        ("family", vip.family().as_str()),
    ]
}

/// Calls `each` for every claim of every VIP, and once without a claim for a VIP that nobody claims any more.
fn for_claims(
    rows: &Rows,
    mut each: impl FnMut(&VipStatus, Option<&ClaimStatus>, &str) -> Result<(), Error>,
) -> Result<(), Error> {
    for status in rows.values().filter_map(|row| row.status.as_ref()) {
        let vip = status.vip.to_string();
        if status.services.is_empty() {
            each(status, None, &vip)?;
        }
        for claim in &status.services {
            each(status, Some(claim), &vip)?;
        }
    }
    Ok(())
}

/// One counter of a port: its extra label, if it has one, and its value.
type Part = (Option<(&'static str, &'static str)>, fn(&PortTraffic) -> u64);

fn traffic(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let direction = |direction| Some(("direction", direction));
    let by = |by| Some(("by", by));
    let packets: [Part; 2] = [(direction("in"), |p| p.total.packets_in), (direction("out"), |p| p.total.packets_out)];
    counter(rows, encoder, "vip_packets", "Packets seen on the uplinks", None, &packets)?;
    let bytes: [Part; 2] = [(direction("in"), |p| p.total.bytes_in), (direction("out"), |p| p.total.bytes_out)];
    counter(
        rows,
        encoder,
        "vip_traffic",
        "Bytes seen on the uplinks, from the network header on",
        Some(&Unit::Bytes),
        &bytes,
    )?;
    counter(rows, encoder, "vip_syn", "SYN from clients", None, &[(None, |p| p.total.syn)])?;
    let syn_ack: [Part; 2] = [(by("backend"), |p| p.total.syn_ack), (by("host"), |p| p.total.syn_ack_host)];
    counter(rows, encoder, "vip_syn_ack", "SYN-ACK to clients, by who made it", None, &syn_ack)?;
    counter(rows, encoder, "vip_handshakes", "TCP handshakes completed", None, &[(None, |p| p.total.completed)])?;
    counter(rows, encoder, "vip_fin", "FIN in either direction", None, &[(None, |p| p.total.fin)])?;
    let resets: [Part; 3] = [
        (by("client"), |p| p.total.rst_client),
        (by("backend"), |p| p.total.rst_backend),
        (by("host"), |p| p.total.rst_host),
    ];
    counter(rows, encoder, "vip_resets", "RST, by who made it", None, &resets)?;
    let late: [Part; 2] =
        [(by("client"), |p| p.total.rst_after_data_client), (by("backend"), |p| p.total.rst_after_data_backend)];
    counter(rows, encoder, "vip_late_resets", "RST within established connections, by who made it", None, &late)?;
    let repeated: [Part; 1] = [(None, |p| p.total.syn_retransmitted)];
    counter(rows, encoder, "vip_syn_retransmitted", "SYN that repeat a followed one", None, &repeated)?;
    let unreachable: [Part; 2] =
        [(by("backend"), |p| p.total.unreachable_backend), (by("host"), |p| p.total.unreachable_host)];
    counter(rows, encoder, "vip_unreachable", "ICMP unreachable to clients, by who made it", None, &unreachable)?;
    followed(rows, encoder)
}

fn followed(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let outcome = |outcome| Some(("outcome", outcome));
    let outcomes: [Part; 4] = [
        (outcome("completed"), |p| p.handshakes.completed),
        (outcome("refused_backend"), |p| p.handshakes.refused_backend),
        (outcome("refused_host"), |p| p.handshakes.refused_host),
        (outcome("timed_out"), |p| p.handshakes.timed_out),
    ];
    counter(rows, encoder, "vip_followed", "Followed handshakes, by what became of them", None, &outcomes)?;
    let unseen: [Part; 1] = [(None, |p| p.handshakes.unseen_answers)];
    counter(rows, encoder, "vip_unseen_answers", "Followed handshakes completed by an answer not seen", None, &unseen)?;
    latency(rows, encoder)
}

/// The upper ends of the histogram's buckets, as powers of two of a microsecond: 256 µs, then each four times as long.
const LATENCY_ENDS: [u32; 7] = [8, 10, 12, 14, 16, 18, 20];

/// Only for ports that have something to tell: a series for each bucket is a lot.
fn latency(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "Time from SYN to SYN-ACK of followed handshakes, at the uplink";
    let mut family = encoder.encode_descriptor("vip_handshake", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (vip, row) in rows {
        let text = vip.to_string();
        for (port, traffic) in &row.traffic {
            let seen: u64 = traffic.handshakes.latency.iter().copied().map(u64::from).sum();
            if seen == 0 {
                continue;
            }
            let number = port.number.to_string();
            let mut labels = identity(row.claim(*port), *vip, &text).to_vec();
            labels.extend([("port", number.as_str()), ("protocol", port.protocol.as_str())]);
            let sum = traffic.handshakes.latency_micros as f64 / 1e6;
            let buckets = latency_buckets(&traffic.handshakes.latency);
            family.encode_family(&labels)?.encode_histogram::<[(&str, &str); 0]>(sum, seen, &buckets, None)?;
        }
    }
    Ok(())
}

/// Each bucket's upper end in seconds and its own count, the last without end.
fn latency_buckets(latency: &[u32; LATENCY_BUCKETS]) -> Vec<(f64, u64)> {
    let mut buckets: Vec<_> = LATENCY_ENDS.iter().map(|end| (f64::from(1_u32 << end) / 1e6, 0)).collect();
    buckets.push((f64::INFINITY, 0));
    for (power, count) in (0_u32..).zip(latency) {
        let at = LATENCY_ENDS.iter().filter(|end| **end <= power).count();
        if let Some((_, sum)) = buckets.get_mut(at) {
            *sum += u64::from(*count);
        }
    }
    buckets
}

fn counter(
    rows: &Rows,
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    parts: &[Part],
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    for (vip, row) in rows {
        let text = vip.to_string();
        for (port, traffic) in &row.traffic {
            for (extra, value) in parts {
                series(&mut family, row, (*vip, &text), *port, *extra, value(traffic))?;
            }
        }
    }
    Ok(())
}

fn series(
    family: &mut MetricEncoder<'_>,
    row: &Row,
    (vip, text): (Vip, &str),
    port: Port,
    extra: Option<(&'static str, &'static str)>,
    value: u64,
) -> Result<(), Error> {
    let number = port.number.to_string();
    let mut labels = identity(row.claim(port), vip, text).to_vec();
    labels.extend([("port", number.as_str()), ("protocol", port.protocol.as_str())]);
    labels.extend(extra);
    ConstCounter::new(value).encode(family.encode_family(&labels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_below_the_ends_of_their_buckets() {
        let mut latency = [0; LATENCY_BUCKETS];
        // 128 to 256 µs, 256 to 512 µs, 512 µs to 1 ms, and more than a second.
        for (power, count) in [(7, 1), (8, 2), (9, 4), (20, 8)] {
            latency[power] = count;
        }
        let buckets = latency_buckets(&latency);
        assert_eq!(buckets[..2], [(0.000_256, 1), (0.001_024, 6)]);
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 8)));
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 15);
    }
}
