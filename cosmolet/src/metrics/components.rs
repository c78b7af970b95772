//! The families of the daemon's parts, written out of the book.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::book::{Book, Summary};
use crate::engine::observed::{BgpState, ProberState, ProgramsState};

#[derive(Debug)]
pub(super) struct Components {
    book: Arc<Book>,
}

impl Components {
    pub(super) const fn new(book: Arc<Book>) -> Self {
        Self { book }
    }
}

impl Collector for Components {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let summary = self.book.summary();
        states(&summary, &mut encoder)?;
        errors(&summary, &mut encoder)?;
        sessions(&summary, &mut encoder)?;
        let running = i64::from(matches!(summary.programs, ProgramsState::Running(_)));
        single(
            &mut encoder,
            "programs_running",
            "1 while eBPF counts traffic; 0 is control plane alone",
            None,
            running,
        )?;
        let services = i64::try_from(summary.services).unwrap_or(i64::MAX);
        single(&mut encoder, "services", "Services selected", None, services)?;
        let problems = i64::try_from(summary.problems.len()).unwrap_or(i64::MAX);
        single(
            &mut encoder,
            "manifest_problems",
            "Files of the manifests directory that cannot be used",
            None,
            problems,
        )?;
        let unusable = i64::try_from(summary.unusable.len()).unwrap_or(i64::MAX);
        single(&mut encoder, "unusable_addresses", "Addresses of Services that are no IP address", None, unusable)?;
        let help = "1 while `cosmolet drain` keeps every VIP off this node";
        single(&mut encoder, "node_drained", help, None, i64::from(summary.drained))?;
        notices(&summary, &mut encoder)?;
        verdict(&summary, &mut encoder)?;
        let age = self.book.now().since(summary.turned_at).as_secs_f64();
        let help = "Time since the last turn of the control loop";
        let family = encoder.encode_descriptor("turn_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        ConstGauge::new(age).encode(family)
    }
}

/// What the traffic verdict says of the node, and how often it agreed with the control plane.
fn verdict(summary: &Summary, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "1 while the handshakes of most VIPs with traffic fail";
    single(encoder, "node_suspect", help, None, i64::from(summary.node_suspect))?;
    let agreement = &summary.agreement;
    let help = "Samples of Services with traffic, by what the control plane and the traffic said of them";
    let mut family = encoder.encode_descriptor("verdict_samples", help, None, MetricType::Counter)?;
    for (control, traffic, count) in [
        ("up", "up", agreement.both_up),
        ("up", "down", agreement.only_traffic_down),
        ("down", "up", agreement.only_control_down),
        ("down", "down", agreement.both_down),
    ] {
        let labels = [("control_plane", control), ("traffic", traffic)];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn single(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: i64,
) -> Result<(), Error> {
    let family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    ConstGauge::new(value).encode(family)
}

/// The parts of the daemon with the state each is in and its error, if it has one.
fn parts(summary: &Summary) -> Vec<(&'static str, &'static str, Option<String>)> {
    use crate::engine::event::SourceState;
    let source = match &summary.source {
        SourceState::Stale(error) => Some(error.clone()),
        SourceState::Syncing | SourceState::Synced => None,
    };
    let (bgp, fault) = match &summary.bgp {
        BgpState::Disabled => ("disabled", None),
        BgpState::Down(fault) => ("down", Some(fault.to_string())),
        BgpState::Up(_) => ("up", None),
    };
    let (programs, off) = match &summary.programs {
        ProgramsState::Off(reason) => ("off", Some(reason.clone())),
        ProgramsState::Running(_) => ("running", None),
    };
    let unprobed = match &summary.prober {
        ProberState::Off(reason) => Some(reason.clone()),
        ProberState::Starting | ProberState::Running => None,
    };
    let mut parts = vec![
        ("source", summary.source.as_str(), source),
        ("frr", bgp, fault),
        ("programs", programs, off),
        ("prober", summary.prober.as_str(), unprobed),
    ];
    parts.extend(summary.told.iter().map(|(function, told)| (*function, told.state, told.error.clone())));
    parts
}

fn states(summary: &Summary, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "1 for the state that a part of the daemon is in";
    let mut family = encoder.encode_descriptor("component_state", help, None, MetricType::Gauge)?;
    for (component, state, _) in parts(summary) {
        let labels = [("component", component), ("state", state)];
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn errors(summary: &Summary, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "1 for what is wrong with a part of the daemon now";
    let mut family = encoder.encode_descriptor("last_error", help, None, MetricType::Gauge)?;
    for (component, _, error) in parts(summary) {
        if let Some(error) = error {
            let labels = [("component", component), ("error", error.as_str())];
            ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Both kinds, always: an alert on the deprecated ones needs their zero.
fn notices(summary: &Summary, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "Annotations of Services that are ignored for a bad value, or deprecated";
    let mut family = encoder.encode_descriptor("annotation_notices", help, None, MetricType::Gauge)?;
    for kind in ["ignored", "deprecated"] {
        let count = summary.notices.iter().filter(|(_, other, _)| *other == kind).count();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        ConstGauge::new(count).encode(family.encode_family(&[("kind", kind)])?)?;
    }
    Ok(())
}

fn sessions(summary: &Summary, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let BgpState::Up(view) = &summary.bgp else { return Ok(()) };
    let help = "1 while the session with a peer is Established";
    let mut family = encoder.encode_descriptor("bgp_session_established", help, None, MetricType::Gauge)?;
    for peer in &view.peers {
        let labels = [("peer", peer.name.as_str())];
        ConstGauge::new(i64::from(peer.established)).encode(family.encode_family(&labels)?)?;
    }
    let help = "1 while BFD finds a peer up; no series where BFD does not watch it";
    let mut family = encoder.encode_descriptor("bgp_peer_bfd_up", help, None, MetricType::Gauge)?;
    for (peer, up) in view.peers.iter().filter_map(|peer| Some((peer, peer.bfd?))) {
        ConstGauge::new(i64::from(up)).encode(family.encode_family(&[("peer", peer.name.as_str())])?)?;
    }
    Ok(())
}
