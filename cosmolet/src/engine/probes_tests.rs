//! Stories of proofs: who waits, for how long, and what ends it.

use std::time::Duration;

use super::event::{Event, ProbeOutcome, ProbePurpose, ProbeReport, ProbeRequest, SourceState};
use super::intent::{Decision, WithdrawReason};
use super::observed::{BgpState, KernelEvent, KernelState, LoopbackAddress, Owner, ProberState};
use super::proof::{Proof, Prove};
use super::service::{
    EndpointCondition, EndpointScope, Endpoints, LocalEndpoint, NodeView, ServiceView, Terminating, VipClaim, VipKind,
};
use super::traffic::{TrafficPolicy, TrafficRules};
use super::types::{ObjectKey, PerFamily, Port, Protocol, Timestamp, Vip};
use super::{Engine, Settings};

const PORT: Port = Port { protocol: Protocol::Tcp, number: 80 };
const WAITS: Option<Decision> = Some(Decision::Withdraw(WithdrawReason::Proving));
const UP: Option<Decision> = Some(Decision::Advertise);

fn vip() -> Vip {
    Vip::new([10, 50, 0, 1].into())
}

struct Story {
    engine: Engine,
    now: Timestamp,
}

impl Story {
    fn new(prober: ProberState, kernel: KernelState) -> Self {
        let round = Some(Duration::from_secs(30));
        let settings = Settings { prove: Some(Duration::from_secs(10)), probe_round: round, ..Settings::default() };
        let mut story = Self { engine: Engine::new(settings), now: Timestamp::from_start(Duration::from_secs(1)) };
        story.tell(Event::Prober(prober));
        story.tell(Event::Kernel(KernelEvent::Dump(kernel)));
        story.tell(Event::Bgp(BgpState::Disabled));
        story.tell(Event::Node(NodeView::default()));
        story
    }

    /// A prober runs, and everything was delivered.
    fn synced() -> Self {
        let mut story = Self::new(ProberState::Running, KernelState::default());
        story.tell(Event::Source(SourceState::Synced));
        story
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(event, self.now);
    }

    /// `ready` endpoints, named by `generation`.
    fn service(&mut self, prove: Prove, ready: usize, generation: &str, protocol: Protocol) {
        let pod = |n| LocalEndpoint {
            pod: Some(ObjectKey::new("d", &format!("{generation}{n}"))),
            condition: EndpointCondition::Ready,
        };
        self.tell(Event::Service(Box::new(ServiceView {
            key: ObjectKey::new("d", "web"),
            vips: vec![VipClaim { vip: vip(), kind: VipKind::LoadBalancer, scope: EndpointScope::Local }],
            refused: Vec::new(),
            ports: [Port { protocol, number: 80 }].into(),
            terminating: Terminating::Serving,
            prove,
            policy: TrafficPolicy::default(),
            check: None,
            profile: None,
            endpoints: PerFamily {
                v4: Endpoints { local: (0..ready).map(pod).collect(), ..Endpoints::default() },
                v6: Endpoints::default(),
            },
        })));
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.after(Duration::from_millis(milliseconds));
        self.tell(Event::Tick);
    }

    fn report(&mut self, outcome: ProbeOutcome) {
        self.tell(Event::Probe(vec![ProbeReport { vip: vip(), port: PORT, outcome, complaint: None, latency: None }]));
    }

    fn decision(&self) -> Option<Decision> {
        self.engine.intent().find(|(of, _)| *of == vip()).map(|(_, decision)| decision)
    }

    fn probes(&mut self) -> Vec<ProbeRequest> {
        self.engine.take_probes(10)
    }
}

fn wish(purpose: ProbePurpose) -> Vec<ProbeRequest> {
    vec![ProbeRequest { vip: vip(), ports: vec![(PORT, None)], purpose }]
}

#[test]
fn it_waits_until_a_probe_passes() {
    let mut story = Story::synced();
    story.service(Prove::Wait, 1, "a", Protocol::Tcp);
    assert_eq!(story.decision(), WAITS);
    assert_eq!(story.probes(), wish(ProbePurpose::Proof), "the first probe goes at once");
    assert_eq!(story.probes(), []);
    story.report(ProbeOutcome::RefusedByHost);
    assert_eq!(story.decision(), WAITS);
    story.wait(20);
    assert_eq!(story.probes(), wish(ProbePurpose::Proof), "the next one soon");
    story.report(ProbeOutcome::Passed);
    assert_eq!(story.decision(), UP);
    // Nothing that is up is withdrawn for want of a proof.
    story.report(ProbeOutcome::RefusedByHost);
    story.service(Prove::Wait, 2, "b", Protocol::Tcp);
    assert_eq!(story.decision(), UP);
    // It waits again whenever it comes back.
    story.service(Prove::Wait, 0, "b", Protocol::Tcp);
    story.service(Prove::Wait, 1, "c", Protocol::Tcp);
    assert_eq!(story.decision(), WAITS);
}

#[test]
fn it_waits_for_a_limited_time_and_not_twice_in_vain() {
    let mut story = Story::synced();
    story.service(Prove::Wait, 1, "a", Protocol::Tcp);
    for _ in 0..99 {
        story.wait(100);
        story.report(ProbeOutcome::Silent);
        assert_eq!(story.decision(), WAITS);
    }
    story.wait(100);
    assert_eq!(story.decision(), UP, "unproven");
    story.service(Prove::Wait, 0, "a", Protocol::Tcp);
    story.service(Prove::Wait, 1, "b", Protocol::Tcp);
    assert_eq!(story.decision(), UP, "something refuses probes");
    // Until one passes after all.
    story.report(ProbeOutcome::Passed);
    story.service(Prove::Wait, 0, "b", Protocol::Tcp);
    story.service(Prove::Wait, 1, "c", Protocol::Tcp);
    assert_eq!(story.decision(), WAITS);
}

#[test]
fn required_waits_for_ever_and_never_does_not() {
    let mut story = Story::synced();
    story.service(Prove::Required, 1, "a", Protocol::Tcp);
    for _ in 0..100 {
        story.wait(1000);
        story.report(ProbeOutcome::Silent);
        assert_eq!(story.decision(), Some(Decision::Withdraw(WithdrawReason::Unproven)));
    }
    assert_eq!(story.probes(), wish(ProbePurpose::Proof), "it goes on trying");
    story.report(ProbeOutcome::Passed);
    assert_eq!(story.decision(), UP);
    let mut story = Story::synced();
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    assert_eq!(story.decision(), UP);
}

#[test]
fn nothing_waits_where_probes_are_lost_or_cannot_be_sent() {
    for prove in [Prove::Wait, Prove::Required] {
        let mut story = Story::synced();
        story.service(prove, 1, "a", Protocol::Tcp);
        story.report(ProbeOutcome::Lost);
        assert_eq!(story.decision(), UP);
        let mut story = Story::synced();
        story.service(prove, 1, "a", Protocol::Tcp);
        story.tell(Event::Prober(ProberState::Off("gone".to_owned())));
        assert_eq!(story.decision(), UP);
        let mut story = Story::new(ProberState::Off("too old".to_owned()), KernelState::default());
        story.tell(Event::Source(SourceState::Synced));
        story.service(prove, 1, "a", Protocol::Tcp);
        assert_eq!(story.decision(), UP);
        assert_eq!(story.probes(), []);
        let mut story = Story::synced();
        story.service(prove, 1, "a", Protocol::Udp);
        assert_eq!(story.decision(), UP, "UDP is not probed");
    }
}

#[test]
fn what_was_adopted_never_waits() {
    let held = LoopbackAddress { owner: Owner::Ours, valid_for: Some(Duration::from_secs(60)), prefix_route: false };
    let kernel = KernelState { loopback: [(vip(), held)].into(), ..KernelState::default() };
    for prober in [ProberState::Starting, ProberState::Running] {
        let mut story = Story::new(prober, kernel.clone());
        story.service(Prove::Required, 1, "a", Protocol::Tcp);
        story.tell(Event::Source(SourceState::Synced));
        assert_eq!(story.decision(), UP);
    }
}

#[test]
fn idle_vips_are_probed_once_a_round_and_doubts_are_followed() {
    let mut story = Story::synced();
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    story.wait(1000);
    assert_eq!(story.probes(), wish(ProbePurpose::Round));
    story.report(ProbeOutcome::Silent);
    story.wait(600);
    assert_eq!(story.probes(), [], "what never passed proves nothing by failing");
    story.wait(1000);
    assert_eq!(story.probes(), wish(ProbePurpose::Round));
    story.report(ProbeOutcome::Passed);
    story.report(ProbeOutcome::Silent);
    story.wait(600);
    assert_eq!(story.probes(), wish(ProbePurpose::Conviction));
}

#[test]
fn three_failures_convince_once_one_has_passed_with_these_endpoints() {
    let (rules, now, mut proof) =
        (TrafficRules::default(), Timestamp::from_start(Duration::from_secs(9)), Proof::default());
    for _ in 0..9 {
        proof.record(PORT, ProbeOutcome::Silent, now, &rules);
        assert!(!proof.convinces(PORT, now, &rules) && !proof.doubtful(&rules));
    }
    for outcome in [ProbeOutcome::Passed, ProbeOutcome::Silent, ProbeOutcome::Lost, ProbeOutcome::RefusedByHost] {
        proof.record(PORT, outcome, now, &rules);
    }
    assert!(!proof.convinces(PORT, now, &rules) && proof.doubtful(&rules));
    proof.record(PORT, ProbeOutcome::RefusedByBackend, now, &rules);
    assert!(proof.convinces(PORT, now, &rules));
    assert!(!proof.convinces(Port { number: 81, ..PORT }, now, &rules), "another port's probes");
    proof.renew();
    assert!(!proof.convinces(PORT, now, &rules) && !proof.proven());
}

#[test]
fn failures_of_long_ago_convince_nobody() {
    let (rules, mut proof) = (TrafficRules::default(), Proof::default());
    let at = |seconds| Timestamp::from_start(Duration::from_secs(seconds));
    proof.record(PORT, ProbeOutcome::Passed, at(0), &rules);
    for second in 1..=3 {
        proof.record(PORT, ProbeOutcome::Silent, at(second), &rules);
    }
    assert!(proof.convinces(PORT, at(33), &rules) && !proof.convinces(PORT, at(34), &rules));
    proof.record(PORT, ProbeOutcome::Silent, at(60), &rules);
    assert!(!proof.convinces(PORT, at(60), &rules), "not in a row");
}

#[test]
fn a_reference_is_asked_for_until_one_passes_on_every_port() {
    let (rules, mut proof) = (TrafficRules::default(), Proof::default());
    let at = |seconds| Timestamp::from_start(Duration::from_secs(seconds));
    let udp = Port { protocol: Protocol::Udp, number: 53 };
    let asked = |proof: &mut Proof| (0..100).filter(|second| proof.reference_due(&[PORT, udp], at(*second))).count();
    assert_eq!(asked(&mut proof), 4, "at 0, 10, 30 and 70 s");
    proof.renew();
    assert!(proof.reference_due(&[PORT], at(100)), "other endpoints");
    proof.record(PORT, ProbeOutcome::Passed, at(101), &rules);
    assert!(!proof.reference_due(&[PORT, udp], at(1000)));
    assert!(proof.reference_due(&[PORT, Port { number: 81, ..PORT }], at(1000)));
}
