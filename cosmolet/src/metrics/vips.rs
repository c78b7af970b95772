//! The families of VIPs, written out of the book.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::ports;
use crate::book::{Book, Row};
use crate::engine::observed::Owner;
use crate::engine::status::{ClaimStatus, VipState, VipStatus};
use crate::engine::types::{Timestamp, Vip};

#[derive(Debug)]
pub(super) struct Vips {
    book: Arc<Book>,
    /// `metrics.per_port`
    per_port: usize,
}

impl Vips {
    pub(super) const fn new(book: Arc<Book>, per_port: usize) -> Self {
        Self { book, per_port }
    }
}

pub(super) type Rows = BTreeMap<Vip, Row>;

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
        ports::encode(&rows, self.per_port, &mut encoder)
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
pub(super) fn identity<'a>(claim: Option<&'a ClaimStatus>, vip: Vip, text: &'a str) -> [(&'static str, &'a str); 4] {
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
