use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::engine::check::{Check, Complaint};
use crate::engine::event::{Event, Handshakes, ProbeOutcome, ProbeReport, TrafficCounts, TrafficSample};
use crate::engine::observed::{KernelEvent, KernelState};
use crate::engine::proof::Prove;
use crate::engine::service::{Endpoints, LocalEndpoint, ServiceView, Terminating, VipClaim, VipKind};
use crate::engine::traffic::{Charge, TrafficPolicy};
use crate::engine::types::{ObjectKey, PerFamily, Protocol};
use crate::engine::verdict::Verdict;
use crate::engine::{Engine, Settings};

const PORT: Port = Port { protocol: Protocol::Tcp, number: 80 };

fn vip() -> Vip {
    Vip::new([10, 50, 0, 1].into())
}

fn engine(mode: TrafficMode, ready: usize) -> Engine {
    asking(mode, ready, None)
}

/// One whose Service's owner wants this to be asked.
fn asking(mode: TrafficMode, ready: usize, check: Option<&str>) -> Engine {
    let every = Some(Duration::from_secs(5));
    let mut engine = Engine::new(Settings { traffic_mode: mode, check: every, ..Settings::default() });
    let endpoint = LocalEndpoint { pod: None, condition: EndpointCondition::Ready };
    let remote = EndpointCounts { ready: 1, ..EndpointCounts::default() };
    let endpoints = Endpoints { local: vec![endpoint; ready], remote };
    let service = ServiceView {
        key: ObjectKey::new("d", "web"),
        vips: vec![VipClaim { vip: vip(), kind: VipKind::LoadBalancer, scope: EndpointScope::Local }],
        refused: Vec::new(),
        ports: [PORT].into(),
        terminating: Terminating::Serving,
        prove: Prove::Never,
        policy: TrafficPolicy::default(),
        check: check.and_then(|text| Check::parse(text).ok()).map(Arc::new),
        profile: None,
        endpoints: PerFamily { v4: endpoints.clone(), v6: endpoints },
    };
    for event in [
        Event::Prober(ProberState::Running),
        Event::Kernel(KernelEvent::Dump(KernelState::default())),
        Event::Bgp(BgpState::Disabled),
        Event::Node(NodeView::default()),
        Event::Service(Box::new(service)),
        Event::Source(SourceState::Synced),
    ] {
        engine.handle(event, Timestamp::ZERO);
    }
    engine
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_secs(second))
}

fn second(engine: &mut Engine, second: u64, completed: u64, refused_backend: u64) {
    let handshakes =
        Handshakes { completed, refused_backend, failed_prefixes: 0b111, one_in: 1, ..Handshakes::default() };
    let counts = TrafficCounts { syn: completed + refused_backend, completed, ..TrafficCounts::default() };
    let span = Duration::from_secs(1);
    engine.handle(Event::Traffic(vec![TrafficSample { vip: vip(), port: PORT, span, counts, handshakes }]), at(second));
}

fn probe(engine: &mut Engine, second: u64, outcome: ProbeOutcome) {
    engine.handle(
        Event::Probe(vec![ProbeReport { vip: vip(), port: PORT, outcome, complaint: None, latency: None }]),
        at(second),
    );
}

fn unhealthy(engine: &mut Engine, second: u64, status: u16) {
    let (outcome, complaint) = (ProbeOutcome::Unhealthy, Some(Complaint::Status(status)));
    let report = ProbeReport { vip: vip(), port: PORT, outcome, complaint, latency: None };
    engine.handle(Event::Probe(vec![report]), at(second));
}

fn says(engine: &Engine, second: u64, part: &str) {
    let sentences = engine.explain(vip(), at(second)).unwrap().would_change();
    assert!(sentences.iter().any(|sentence| sentence.contains(part)), "no {part:?} in {sentences:#?}");
}

#[test]
fn an_unknown_vip_is_not_explained() {
    assert!(engine(TrafficMode::Observe, 1).explain(Vip::new([10, 9, 9, 9].into()), at(1)).is_none());
}

#[test]
fn inputs_have_their_age() {
    let mut engine = engine(TrafficMode::Observe, 1);
    second(&mut engine, 7, 5, 0);
    let explanation = engine.explain(vip(), at(9)).unwrap();
    let heard = |name| explanation.inputs.iter().find(|input| input.name == name).unwrap();
    assert_eq!((heard("programs").at, heard("services").at), (Some(at(7)), Some(at(0))));
    assert_eq!((heard("services").state, heard("node").state, heard("frr").state), ("synced", "eligible", "disabled"));
    let report = explanation.claims[0].ports[0].evidence.unwrap();
    assert_eq!(report.at, Some(at(7)));
}

#[test]
fn the_control_plane_comes_first() {
    let none = engine(TrafficMode::Enforce, 0);
    says(&none, 1, "advertised once an endpoint on this node is usable (now 0 of 0)");
    let mut excluded = engine(TrafficMode::Enforce, 2);
    says(&excluded, 1, "withdrawn when no endpoint on this node is usable (now 2 of 2)");
    excluded.handle(Event::Node(NodeView { excluded: true, ..NodeView::default() }), at(1));
    says(&excluded, 1, "advertised once this no longer holds: the node is labelled");
    excluded.handle(Event::ServiceGone(ObjectKey::new("d", "web")), at(2));
    if let Some(explanation) = excluded.explain(vip(), at(2)) {
        assert_eq!(explanation.would_change(), ["advertised once a Service claims it"]);
    }
}

#[test]
fn each_state_of_the_verdict_says_what_ends_it() {
    let mut engine = engine(TrafficMode::Enforce, 1);
    says(&engine, 1, "80/tcp: its handshakes are judged once some are seen");
    for t in 2..20 {
        second(&mut engine, t, 10, 0);
    }
    says(&engine, 20, "suspect once its score is 16.1 (now 0.0), 3 of the last 10 seconds");
    says(&engine, 20, "a suspicion convicts nobody before a probe has passed");
    probe(&mut engine, 20, ProbeOutcome::Passed);
    says(&engine, 20, "a suspicion convicts once 3 probes in a row fail (now 0)");
    for t in 21..24 {
        second(&mut engine, t, 0, 10);
    }
    let explanation = engine.explain(vip(), at(24)).unwrap();
    assert_eq!((explanation.claims[0].traffic, explanation.claims[0].second_key), (TrafficState::Suspect, false));
    says(&engine, 24, "no longer suspect once its score is below 8.1 (now 23.0)");
    for _ in 0..3 {
        probe(&mut engine, 24, ProbeOutcome::Silent);
    }
    says(&engine, 24, " s and once a probe passes");
}

#[test]
fn what_keeps_a_conviction_from_acting_is_named() {
    let mut engine = engine(TrafficMode::Observe, 1);
    assert_eq!(engine.explain(vip(), at(1)).unwrap().claims[0].guards, [Guard::Mode]);
    says(&engine, 1, "no conviction acts: traffic.mode is not enforce");
    engine.settings.traffic_mode = TrafficMode::Enforce;
    engine.handle(Event::Source(SourceState::Stale("gone".to_owned())), at(2));
    assert_eq!(engine.explain(vip(), at(2)).unwrap().claims[0].guards, [Guard::StaleSource]);
}

#[test]
fn what_its_owner_asks_is_explained() {
    let asks = Some("http://:80/healthz");
    let mut engine = asking(TrafficMode::Observe, 1, asks);
    unhealthy(&mut engine, 1, 404);
    says(&engine, 1, "http://:80/healthz convicts nobody before it has been answered well");
    let explanation = engine.explain(vip(), at(1)).unwrap();
    let claim = &explanation.claims[0];
    assert_eq!((explanation.check, claim.checked()), (Some(Duration::from_secs(5)), None));
    assert_eq!(claim.status.proof.complaint, Some(Complaint::Status(404)));
    probe(&mut engine, 2, ProbeOutcome::Passed);
    unhealthy(&mut engine, 3, 503);
    says(&engine, 3, "convicted once http://:80/healthz is not answered well 3 times in a row (now 1)");
    unhealthy(&mut engine, 3, 503);
    unhealthy(&mut engine, 3, 503);
    says(
        &engine,
        5,
        "no longer suspect once http://:80/healthz is answered well, or in 28 s without another bad answer",
    );
    says(&engine, 5, "no conviction acts: traffic.mode is not enforce");
    let claim = engine.explain(vip(), at(5)).unwrap().claims.remove(0);
    assert_eq!((claim.checked().unwrap().failures, claim.status.verdict), (3, Verdict::Suspect(Charge::ProbeFails)));
    let mut engine = asking(TrafficMode::Enforce, 1, asks);
    probe(&mut engine, 2, ProbeOutcome::Passed);
    (0..3).for_each(|_| unhealthy(&mut engine, 3, 503));
    says(&engine, 3, " s and once a probe passes");
}
