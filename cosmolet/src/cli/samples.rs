//! A status to start tests from.

use crate::http::status::{
    AgreementRow, BgpStatus, Counts, Followed, PeerRow, PortRow, RibRow, ServiceRow, SourceStatus, Status,
    TrafficStatus, VipRow,
};

/// A node that is well: one VIP advertised with traffic on it, one withdrawn for a good reason.
pub(crate) fn healthy() -> Status {
    let peer = |name: &str| PeerRow { name: name.to_owned(), established: true, since: Some(1_795_713_453), bfd: None };
    Status {
        version: "0.1.0".to_owned(),
        drained: false,
        node_out: None,
        node: "node1".to_owned(),
        uptime_seconds: 7200.0,
        source: SourceStatus {
            kind: "kubernetes".to_owned(),
            state: "synced".to_owned(),
            delivered: true,
            error: None,
        },
        bgp: BgpStatus {
            state: "up".to_owned(),
            reason: None,
            error: None,
            asn: Some(65001),
            ipv4_mode: Some("dynamic".to_owned()),
            ipv6_mode: Some("connected".to_owned()),
            peers: vec![peer("10.1.1.1"), peer("fe80::1")],
        },
        traffic: TrafficStatus {
            mode: "observe".to_owned(),
            interfaces: vec!["uplink".to_owned()],
            control_plane_alone: None,
            probes: "running".to_owned(),
            no_probes: None,
            node_suspect: false,
            agreement: AgreementRow::default(),
        },
        kubernetes: Vec::new(),
        services: 2,
        vips: vec![advertised(), withdrawn()],
        unusable_addresses: Vec::new(),
        manifest_problems: Vec::new(),
        annotation_notices: Vec::new(),
        transitions: Vec::new(),
    }
}

fn advertised() -> VipRow {
    let total = Counts { packets_in: 6000, packets_out: 6345, rst_backend: 2, rst_host: 1, ..Counts::default() };
    VipRow {
        loopback: Some("ours".to_owned()),
        lease_left_seconds: Some(100.0),
        network: Some("ours".to_owned()),
        rib: Some(RibRow {
            valid: true,
            best: true,
            since: Some(1_795_713_453),
            advertised_to: 1,
            peers: vec!["10.1.1.1".to_owned()],
        }),
        traffic: vec![PortRow {
            port: "80/tcp".to_owned(),
            total,
            followed: Followed::default(),
            last_seen_seconds: 0.5,
        }],
        ..row("10.100.0.1", "advertised", "web", "up")
    }
}

fn withdrawn() -> VipRow {
    VipRow {
        reason: Some("NoLocalEndpoint".to_owned()),
        explanation: Some("its traffic policy is Local and this node has no usable endpoint".to_owned()),
        rib: Some(RibRow { valid: false, best: false, since: None, advertised_to: 0, peers: vec![] }),
        ..row("10.100.0.2", "withdrawn", "mail", "down")
    }
}

fn row(vip: &str, state: &str, service: &str, health: &str) -> VipRow {
    let service = ServiceRow {
        namespace: "default".to_owned(),
        name: service.to_owned(),
        kind: "LoadBalancer".to_owned(),
        health: health.to_owned(),
        reason: None,
        suspicion: None,
        verdict: "clear".to_owned(),
        verdict_reason: None,
        ejections: 0,
        probe: None,
        proven: false,
        probe_check: None,
        probe_complaint: None,
    };
    VipRow {
        vip: vip.to_owned(),
        family: "ipv4".to_owned(),
        state: state.to_owned(),
        reason: None,
        explanation: None,
        since_seconds: 7200.0,
        mode: Some("dynamic".to_owned()),
        loopback: None,
        lease_left_seconds: None,
        network: None,
        attributes: None,
        drain_left_seconds: None,
        rib: None,
        last_error: None,
        ejection_refused: None,
        services: vec![service],
        traffic: Vec::new(),
    }
}
