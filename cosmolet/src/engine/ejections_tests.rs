//! What the guard lets stand, told as short stories of one node whose host refuses every connection.

use std::sync::Arc;
use std::time::Duration;

use super::check::Check;
use super::ejections::Guard;
use super::event::{Event, Handshakes, ProbeOutcome, ProbeReport, SourceState, TrafficCounts, TrafficSample};
use super::guard::{Permissions, Refused, VALID_FOR};
use super::intent::Decision;
use super::observed::{BgpState, KernelEvent, KernelState};
use super::service::{
    EndpointCondition, EndpointCounts, EndpointScope, Endpoints, LocalEndpoint, NodeView, ServiceView, Terminating,
    VipClaim, VipKind,
};
use super::traffic::{TrafficMode, TrafficPolicy};
use super::types::{ObjectKey, PerFamily, Port, Protocol, Timestamp, Vip};
use super::{Engine, Settings};

const PORT: Port = Port { protocol: Protocol::Tcp, number: 80 };

fn vip() -> Vip {
    Vip::new([10, 50, 0, 1].into())
}

fn service(remote: u32) -> Event {
    Event::Service(Box::new(view(remote)))
}

fn view(remote: u32) -> ServiceView {
    let local = LocalEndpoint { pod: None, condition: EndpointCondition::Ready };
    let remote = EndpointCounts { ready: remote, ..EndpointCounts::default() };
    ServiceView {
        key: ObjectKey::new("d", "web"),
        vips: vec![VipClaim { vip: vip(), kind: VipKind::LoadBalancer, scope: EndpointScope::Local }],
        refused: Vec::new(),
        ports: [PORT].into(),
        terminating: Terminating::Serving,
        prove: super::proof::Prove::Never,
        policy: TrafficPolicy::default(),
        check: None,
        profile: None,
        endpoints: PerFamily { v4: Endpoints { local: vec![local], remote }, v6: Endpoints::default() },
    }
}

struct Node {
    engine: Engine,
    now: Timestamp,
}

impl Node {
    fn new(guard: Guard, remote: u32) -> Self {
        let settings = Settings { traffic_mode: TrafficMode::Enforce, guard, ..Settings::default() };
        let mut node = Self { engine: Engine::new(settings), now: Timestamp::ZERO };
        node.tell(Event::Kernel(KernelEvent::Dump(KernelState::default())));
        node.tell(Event::Bgp(BgpState::Disabled));
        node.tell(Event::Node(NodeView::default()));
        node.tell(service(remote));
        node.tell(Event::Source(SourceState::Synced));
        node
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(event, self.now);
        self.engine.plan(self.now);
    }

    fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.after(Duration::from_secs(1));
            self.tell(Event::Tick);
        }
    }

    /// A second in which this host refuses nine new connections, or serves them.
    fn traffic(&mut self, refused: bool) {
        self.seconds(1);
        let counts = if refused {
            TrafficCounts { syn: 9, rst_host: 9, ..TrafficCounts::default() }
        } else {
            TrafficCounts { syn: 9, syn_ack: 9, completed: 9, ..TrafficCounts::default() }
        };
        let (vip, port, span) = (vip(), PORT, Duration::from_secs(1));
        self.tell(Event::Traffic(vec![TrafficSample { vip, port, span, counts, handshakes: Handshakes::default() }]));
    }

    fn answer(&mut self, answer: Result<(), Refused>) {
        self.tell(Event::Permissions(Permissions { answers: [(vip(), answer)].into(), valid_for: VALID_FOR }));
    }

    fn is_up(&self) -> bool {
        self.engine.intent().any(|(_, decision)| decision == Decision::Advertise)
    }

    fn refused(&self) -> Option<Refused> {
        self.engine.vip_status(vip()).unwrap().ejection_refused
    }

    /// How many VIPs are asked for, where that has changed.
    fn asked(&mut self) -> Option<usize> {
        self.engine.take_wanted_ejections().map(|wanted| wanted.len())
    }
}

#[test]
fn where_nobody_can_be_asked_the_last_one_stays() {
    let mut alone = Node::new(Guard::NotAlone, 0);
    (0..5).for_each(|_| alone.traffic(true));
    assert_eq!((alone.is_up(), alone.refused()), (true, Some(Refused::LastCandidate)));
    let mut one_of_two = Node::new(Guard::NotAlone, 1);
    (0..5).for_each(|_| one_of_two.traffic(true));
    assert_eq!((one_of_two.is_up(), one_of_two.refused()), (false, None));
    // The other one goes: this one is back at once.
    one_of_two.tell(service(0));
    assert_eq!((one_of_two.is_up(), one_of_two.refused()), (true, Some(Refused::LastCandidate)));
}

#[test]
fn nothing_is_withdrawn_before_the_register_permits_it() {
    let mut node = Node::new(Guard::Register, 1);
    node.traffic(false);
    assert_eq!(node.asked(), None);
    (0..5).for_each(|_| node.traffic(true));
    assert_eq!((node.asked(), node.asked(), node.is_up()), (Some(1), None, true));
    assert_eq!(node.refused(), Some(Refused::Unanswered));
    node.answer(Err(Refused::ShareSpent));
    node.traffic(true);
    assert_eq!((node.is_up(), node.refused()), (true, Some(Refused::ShareSpent)));
    node.answer(Ok(()));
    assert_eq!((node.is_up(), node.refused()), (false, None));
}

#[test]
fn a_permission_that_is_not_renewed_runs_out() {
    let mut node = Node::new(Guard::Register, 1);
    (0..5).for_each(|_| node.traffic(true));
    node.answer(Ok(()));
    // Withdrawn for longer than a hold: a trial fails, the hold grows.
    node.seconds(20);
    node.answer(Ok(()));
    assert!(!node.is_up());
    node.seconds(VALID_FOR.as_secs() - 1);
    let still = node.is_up();
    node.seconds(2);
    assert!(node.is_up(), "withdrawn without a permission; before: {still}");
    // What was permitted once is not permitted again by that.
    (0..5).for_each(|_| node.traffic(true));
    assert!(node.is_up());
}

#[test]
fn a_permission_that_is_taken_back_ends_the_withdrawal_and_is_still_asked_for() {
    let mut node = Node::new(Guard::Register, 1);
    (0..5).for_each(|_| node.traffic(true));
    node.answer(Ok(()));
    assert!(!node.is_up());
    assert_eq!(node.asked(), Some(1));
    node.answer(Err(Refused::EveryoneSuspects));
    assert!(node.is_up());
    // For a while it goes on telling the others that it suspects the VIP.
    node.seconds(29);
    assert_eq!(node.asked(), None);
    node.seconds(2);
    assert_eq!(node.asked(), Some(0));
    assert_eq!(node.refused(), None);
}

#[test]
fn a_vip_that_is_gone_is_no_longer_asked_for() {
    let mut node = Node::new(Guard::Register, 1);
    (0..5).for_each(|_| node.traffic(true));
    node.answer(Ok(()));
    assert_eq!(node.asked(), Some(1));
    node.tell(Event::ServiceGone(ObjectKey::new("d", "web")));
    node.seconds(31);
    assert_eq!(node.asked(), Some(0));
}

#[test]
fn an_answer_that_comes_too_late_permits_nothing() {
    let mut node = Node::new(Guard::Register, 1);
    node.answer(Ok(()));
    (0..5).for_each(|_| node.traffic(true));
    assert_eq!((node.is_up(), node.refused()), (true, Some(Refused::Unanswered)));
}

#[test]
fn what_its_owner_asks_in_vain_needs_a_permission_too() {
    let mut node = Node::new(Guard::Register, 1);
    let check = Check::parse("http://:80/healthz").ok().map(Arc::new);
    node.tell(Event::Service(Box::new(ServiceView { check, ..view(1) })));
    node.seconds(5);
    let mut tell = |outcome| {
        let (vip, port) = (vip(), PORT);
        node.tell(Event::Probe(vec![ProbeReport { vip, port, outcome, complaint: None, latency: None }]));
    };
    tell(ProbeOutcome::Passed);
    (0..3).for_each(|_| tell(ProbeOutcome::Unhealthy));
    assert_eq!((node.asked(), node.is_up(), node.refused()), (Some(1), true, Some(Refused::Unanswered)));
    node.answer(Err(Refused::EveryoneSuspects));
    assert!(node.is_up());
    node.answer(Ok(()));
    assert!(!node.is_up());
    node.answer(Err(Refused::LastCandidate));
    assert!(node.is_up(), "taken back");
}
