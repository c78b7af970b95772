//! The families of VIPs, written out of the book.

use std::collections::BTreeMap;
use std::fmt::Error;

use super::exposition::{Family, Type, labels};
use super::ports;
use crate::book::{Book, Row};
use crate::engine::observed::Owner;
use crate::engine::status::{ClaimStatus, VipState, VipStatus};
use crate::engine::types::{Timestamp, Vip};

pub(super) type Rows = BTreeMap<Vip, Row>;

/// Writes them all; of each VIP `per_port` ports have series of their own.
pub(super) fn encode(book: &Book, per_port: usize, text: &mut String) -> Result<(), Error> {
    let now = book.now();
    let rows = book.rows();
    by_state(&rows, text)?;
    lease(&rows, now, text)?;
    let claims = claims(&rows);
    states(&claims, text)?;
    let advertised = |row: &VipStatus| u64::from(row.state.is_advertised());
    gauge(&claims, text, "vip_advertised", "1 while the VIP is advertised from this node", advertised)?;
    let held = |row: &VipStatus| u64::from(row.loopback == Some(Owner::Ours));
    gauge(&claims, text, "vip_on_loopback", "1 while cosmolet's address is on the loopback", held)?;
    let valid = |row: &VipStatus| u64::from(row.rib.as_ref().is_some_and(|rib| rib.valid));
    gauge(&claims, text, "vip_in_rib", "1 while FRR's RIB holds a valid path of this node", valid)?;
    let peers =
        |row: &VipStatus| row.rib.as_ref().map_or(0, |rib| u64::try_from(rib.advertised_to.len()).unwrap_or(u64::MAX));
    gauge(&claims, text, "vip_peers", "Peers that FRR advertises the VIP to", peers)?;
    ready(&claims, text)?;
    verdicts(&claims, text)?;
    held_back(&claims, text)?;
    ports::encode(&rows, per_port, text)
}

/// A claim of a VIP, or a VIP that nobody claims any more, with its labels.
struct Claim<'a> {
    status: &'a VipStatus,
    claim: Option<&'a ClaimStatus>,
    labels: String,
}

fn claims(rows: &Rows) -> Vec<Claim<'_>> {
    let mut claims = Vec::with_capacity(rows.len());
    for status in rows.values().filter_map(|row| row.status.as_ref()) {
        let labels = |claim| identity(claim, status.vip);
        if status.services.is_empty() {
            claims.push(Claim { status, claim: None, labels: labels(None) });
        }
        let each =
            status.services.iter().map(|claim| Claim { status, claim: Some(claim), labels: labels(Some(claim)) });
        claims.extend(each);
    }
    claims
}

/// The labels that every family of VIPs begins with; the Service's are empty where nobody claims the VIP any more.
pub(super) fn identity(claim: Option<&ClaimStatus>, vip: Vip) -> String {
    labels(&[
        ("namespace", claim.map_or("", |claim| claim.service.namespace.as_ref())),
        ("service", claim.map_or("", |claim| claim.service.name.as_ref())),
        ("vip", &vip.to_string()),
        ("family", vip.family().as_str()),
    ])
}

fn by_state(rows: &Rows, text: &mut String) -> Result<(), Error> {
    let mut counts: BTreeMap<VipState, u64> = VipState::ALL.into_iter().map(|state| (state, 0)).collect();
    for status in rows.values().filter_map(|row| row.status.as_ref()) {
        *counts.entry(status.state).or_default() += 1;
    }
    let mut family = Family::begin(text, "vips", Type::Gauge, None, "VIPs by state")?;
    counts.into_iter().try_for_each(|(state, count)| family.sample("", &[("state", state.as_str())], count))
}

/// The shortest lease of all: a daemon that no longer renews shows here first.
fn lease(rows: &Rows, now: Timestamp, text: &mut String) -> Result<(), Error> {
    let until = rows.values().filter_map(|row| row.status.as_ref()?.lease_until).min();
    let Some(until) = until else { return Ok(()) };
    let help = "Until the kernel removes the first of our addresses, if it is not renewed";
    let mut family = Family::begin(text, "lease_remaining", Type::Gauge, Some("seconds"), help)?;
    family.sample("", &[], until.since(now).as_secs_f64())
}

fn states(claims: &[Claim<'_>], text: &mut String) -> Result<(), Error> {
    let help = "1 for the state that the VIP is in, with the reason, the Service's health and FRR's mode";
    let mut family = Family::begin(text, "vip_state", Type::Gauge, None, help)?;
    claims.iter().try_for_each(|Claim { status, claim, labels }| {
        let words = [
            ("state", status.state.as_str()),
            ("reason", status.reason.map_or("", |reason| reason.as_str())),
            ("health", claim.map_or("", |claim| claim.health.as_str())),
            ("mode", status.mode.map_or("", |mode| mode.as_str())),
        ];
        family.sample(labels, &words, 1_u64)
    })
}

fn ready(claims: &[Claim<'_>], text: &mut String) -> Result<(), Error> {
    let help = "Ready endpoints of the Service on this node, in the VIP's family";
    let mut family = Family::begin(text, "vip_endpoints_ready", Type::Gauge, None, help)?;
    let mut known = claims.iter().filter_map(|one| Some((&one.labels, one.claim?)));
    known.try_for_each(|(labels, claim)| family.sample(labels, &[], claim.ready_here))
}

fn verdicts(claims: &[Claim<'_>], text: &mut String) -> Result<(), Error> {
    let help = "1 for what the traffic verdict says of the Service's VIP, with the reason";
    let mut family = Family::begin(text, "vip_verdict", Type::Gauge, None, help)?;
    let mut known = claims.iter().filter_map(|one| Some((&one.labels, one.claim?.verdict)));
    known.try_for_each(|(labels, verdict)| {
        let words = [("verdict", verdict.as_str()), ("reason", verdict.reason().unwrap_or_default())];
        family.sample(labels, &words, 1_u64)
    })
}

/// Only where there is something to tell.
fn held_back(claims: &[Claim<'_>], text: &mut String) -> Result<(), Error> {
    let help = "1 while the VIP should be withdrawn for its traffic and the guard forbids it, with the reason";
    let mut family = Family::begin(text, "vip_ejection_refused", Type::Gauge, None, help)?;
    let mut refused = claims.iter().filter_map(|one| Some((&one.labels, one.status.ejection_refused?)));
    refused.try_for_each(|(labels, reason)| family.sample(labels, &[("reason", reason.as_str())], 1_u64))
}

fn gauge(
    claims: &[Claim<'_>],
    text: &mut String,
    name: &str,
    help: &str,
    value: impl Fn(&VipStatus) -> u64,
) -> Result<(), Error> {
    let mut family = Family::begin(text, name, Type::Gauge, None, help)?;
    claims.iter().try_for_each(|one| family.sample(&one.labels, &[], value(one.status)))
}
