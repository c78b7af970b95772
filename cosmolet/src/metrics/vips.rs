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

use crate::book::{Book, Row};
use crate::engine::event::TrafficCounts;
use crate::engine::observed::Owner;
use crate::engine::status::{ClaimStatus, VipState, VipStatus};
use crate::engine::types::{Port, Vip};

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
        let advertised = |row: &VipStatus| i64::from(row.state == VipState::Advertised);
        gauge(&rows, &mut encoder, "vip_advertised", "1 while the VIP is advertised from this node", advertised)?;
        let held = |row: &VipStatus| i64::from(row.loopback == Some(Owner::Ours));
        gauge(&rows, &mut encoder, "vip_on_loopback", "1 while cosmolet's address is on the loopback", held)?;
        let valid = |row: &VipStatus| i64::from(row.rib.is_some_and(|rib| rib.valid));
        gauge(&rows, &mut encoder, "vip_in_rib", "1 while FRR's RIB holds a valid path of this node", valid)?;
        let peers = |row: &VipStatus| row.rib.map_or(0, |rib| i64::from(rib.advertised_to));
        gauge(&rows, &mut encoder, "vip_peers", "Peers that FRR advertises the VIP to", peers)?;
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
type Part = (Option<(&'static str, &'static str)>, fn(&TrafficCounts) -> u64);

fn traffic(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let direction = |direction| Some(("direction", direction));
    let by = |by| Some(("by", by));
    let packets: [Part; 2] = [(direction("in"), |c| c.packets_in), (direction("out"), |c| c.packets_out)];
    counter(rows, encoder, "vip_packets", "Packets seen on the uplinks", None, &packets)?;
    let bytes: [Part; 2] = [(direction("in"), |c| c.bytes_in), (direction("out"), |c| c.bytes_out)];
    counter(
        rows,
        encoder,
        "vip_traffic",
        "Bytes seen on the uplinks, from the network header on",
        Some(&Unit::Bytes),
        &bytes,
    )?;
    counter(rows, encoder, "vip_syn", "SYN from clients", None, &[(None, |c| c.syn)])?;
    let syn_ack: [Part; 2] = [(by("backend"), |c| c.syn_ack), (by("host"), |c| c.syn_ack_host)];
    counter(rows, encoder, "vip_syn_ack", "SYN-ACK to clients, by who made it", None, &syn_ack)?;
    counter(rows, encoder, "vip_handshakes", "TCP handshakes completed", None, &[(None, |c| c.completed)])?;
    counter(rows, encoder, "vip_fin", "FIN in either direction", None, &[(None, |c| c.fin)])?;
    let resets: [Part; 3] =
        [(by("client"), |c| c.rst_client), (by("backend"), |c| c.rst_backend), (by("host"), |c| c.rst_host)];
    counter(rows, encoder, "vip_resets", "RST, by who made it", None, &resets)?;
    let unreachable: [Part; 1] = [(None, |c| c.unreachable_host)];
    counter(rows, encoder, "vip_unreachable", "ICMP unreachable made by this host", None, &unreachable)
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
                series(&mut family, row, (*vip, &text), *port, *extra, value(&traffic.total))?;
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
    let claim = row.status.as_ref().and_then(|status| status.services.iter().find(|claim| claim.ports.contains(&port)));
    let number = port.number.to_string();
    let mut labels = identity(claim, vip, text).to_vec();
    labels.extend([("port", number.as_str()), ("protocol", port.protocol.as_str())]);
    labels.extend(extra);
    ConstCounter::new(value).encode(family.encode_family(&labels)?)
}
