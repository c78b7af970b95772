//! The engine's stories, one at a time: what comes in, which steps go out.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::{Event, Handshakes, SourceState, TrafficCounts, TrafficSample};
use super::intent::{Decision, WithdrawReason};
use super::observed::{
    BgpFault, BgpState, BgpView, KernelEvent, KernelState, LoopbackAddress, Network, Owner, PeerView,
};
use super::plan::{Applied, Outcome, Step};
use super::service::{
    EndpointCondition, EndpointCounts, EndpointScope, Endpoints, LocalEndpoint, NodeView, PodView, Refusal,
    ServiceView, Terminating, VipClaim, VipKind,
};
use super::status::VipState;
use super::traffic::TrafficMode;
use super::types::{Mode, ObjectKey, PerFamily, Port, Protocol, Timestamp, Vip, Vrf};
use super::{Engine, Settings};

const LEASE: Option<Duration> = Some(Duration::from_secs(120));

fn vip() -> Vip {
    Vip::new([10, 50, 0, 1].into())
}

fn port() -> Port {
    Port { protocol: Protocol::Tcp, number: 80 }
}

fn service(name: &str, ready: usize) -> Event {
    let pod =
        |n| LocalEndpoint { pod: Some(ObjectKey::new("d", &format!("p{n}"))), condition: EndpointCondition::Ready };
    let remote = EndpointCounts { ready: 1, ..EndpointCounts::default() };
    let endpoints = Endpoints { local: (0..ready).map(pod).collect(), remote };
    Event::Service(Box::new(ServiceView {
        key: ObjectKey::new("d", name),
        vips: vec![VipClaim { vip: vip(), kind: VipKind::LoadBalancer, scope: EndpointScope::Local }],
        refused: Vec::new(),
        ports: [port()].into(),
        terminating: Terminating::Serving,
        prove: super::proof::Prove::Wait,
        policy: super::traffic::TrafficPolicy::default(),
        check: None,
        profile: None,
        endpoints: PerFamily { v4: endpoints, v6: Endpoints::default() },
    }))
}

fn bgp(mode: Mode, generation: u64, networks: &[(Vip, Network)]) -> Event {
    Event::Bgp(BgpState::Up(BgpView {
        generation,
        asn: 65001,
        modes: PerFamily { v4: mode, v6: mode },
        networks: networks.iter().copied().collect(),
        peers: Vec::new(),
    }))
}

fn held(owner: Owner, seconds: u64) -> LoopbackAddress {
    LoopbackAddress { owner, valid_for: Some(Duration::from_secs(seconds)), prefix_route: false }
}

struct Story {
    engine: Engine,
    now: Timestamp,
}

impl Story {
    /// A node that is known and healthy, an empty loopback, nothing synced yet.
    fn new(mode: TrafficMode) -> Self {
        let engine = Engine::new(Settings { traffic_mode: mode, ..Settings::default() });
        let mut story = Self { engine, now: Timestamp::ZERO };
        story.tell(Event::Kernel(KernelEvent::Dump(KernelState::default())));
        story.tell(Event::Node(NodeView::default()));
        story
    }

    fn synced(mode: Mode) -> Self {
        let mut story = Self::new(TrafficMode::Enforce);
        story.tell(bgp(mode, 1, &[]));
        story.tell(Event::Source(SourceState::Synced));
        story
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(event, self.now);
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    fn steps(&mut self) -> Vec<Step> {
        self.engine.plan(self.now).into_steps()
    }

    /// Lets every step succeed.
    fn done(&mut self) -> Vec<Step> {
        let steps = self.steps();
        let applied = steps.iter().map(|step| Applied { step: step.clone(), outcome: Outcome::Done }).collect();
        self.tell(Event::Applied(applied));
        steps
    }

    fn decision(&self) -> Option<Decision> {
        self.engine.intent().find(|(of, _)| *of == vip()).map(|(_, decision)| decision)
    }
}

#[test]
fn dynamic_mode_address_then_network_and_back_with_a_linger() {
    let mut story = Story::synced(Mode::Dynamic);
    story.tell(service("web", 1));
    assert_eq!(story.done(), [Step::add_address(vip(), LEASE), Step::advertise(vip())]);
    assert_eq!(story.steps(), []);
    story.tell(service("web", 0));
    assert_eq!(story.done(), [Step::Withdraw(vip())]);
    assert_eq!(story.steps(), [], "the address outlives its network statement");
    story.wait(1);
    assert_eq!(story.done(), [Step::RemoveAddress(vip())]);
    assert_eq!(story.decision(), Some(Decision::Withdraw(WithdrawReason::NoLocalEndpoint)));
}

#[test]
fn connected_mode_is_the_address_alone() {
    let mut story = Story::synced(Mode::Connected);
    story.tell(service("web", 1));
    assert_eq!(story.done(), [Step::add_address(vip(), LEASE)]);
    story.tell(Event::ServiceGone(ObjectKey::new("d", "web")));
    assert_eq!(story.done(), [Step::RemoveAddress(vip())]);
    assert_eq!(story.steps(), []);
    assert_eq!(story.decision(), None, "nothing is remembered of a VIP that nobody claims");
}

#[test]
fn the_mode_changes_under_way() {
    let mut story = Story::synced(Mode::Dynamic);
    story.tell(service("web", 1));
    story.done();
    story.tell(bgp(Mode::Connected, 2, &[(vip(), Network::PLAIN)]));
    assert_eq!(story.done(), [Step::Withdraw(vip())], "only our network statement goes");
    assert_eq!(story.steps(), []);
}

#[test]
fn a_restart_of_frr_is_answered_by_a_replay() {
    let mut story = Story::synced(Mode::Dynamic);
    story.tell(service("web", 1));
    story.done();
    story.tell(Event::Bgp(BgpState::Down(BgpFault::Silent)));
    assert_eq!(story.steps(), []);
    story.tell(bgp(Mode::Dynamic, 2, &[]));
    assert_eq!(story.steps(), [Step::advertise(vip())]);
}

#[test]
fn an_answer_of_an_frr_that_is_gone_proves_nothing() {
    let mut story = Story::synced(Mode::Dynamic);
    story.tell(service("web", 1));
    let steps = story.steps();
    story.tell(bgp(Mode::Dynamic, 2, &[]));
    let applied = steps.into_iter().map(|step| Applied { step, outcome: Outcome::Done }).collect();
    story.tell(Event::Applied(applied));
    assert_eq!(story.steps(), [Step::advertise(vip())]);
}

#[test]
fn every_row_is_told_anew_when_frr_goes() {
    let mut story = Story::synced(Mode::Dynamic);
    story.tell(service("a", 1));
    story.done();
    let state = |story: &Story| story.engine.vip_status(vip()).map(|row| row.state);
    assert_eq!(state(&story), Some(VipState::Advertised));
    story.engine.take_changed(9);
    story.tell(Event::Bgp(BgpState::Down(BgpFault::Silent)));
    assert_eq!((story.engine.take_changed(9), state(&story)), (vec![vip()], Some(VipState::Pending)));
    story.tell(Event::Bgp(BgpState::Down(BgpFault::NoInstance { vrf: Vrf::default(), others: Vec::new() })));
    assert!(!story.engine.has_changed());
}

#[test]
fn while_frr_is_away_nothing_is_added_but_withdrawals_go_on() {
    let mut story = Story::synced(Mode::Connected);
    story.tell(service("web", 1));
    story.done();
    story.tell(Event::Bgp(BgpState::Down(BgpFault::Silent)));
    story.tell(service("web", 0));
    assert_eq!(story.done(), [Step::RemoveAddress(vip())]);
    story.tell(service("web", 1));
    assert_eq!(story.steps(), []);
    story.tell(bgp(Mode::Connected, 2, &[]));
    assert_eq!(story.steps(), [Step::add_address(vip(), LEASE)]);
}

#[test]
fn a_restarted_daemon_adopts_renews_and_cleans_up() {
    let mut story = Story::new(TrafficMode::Observe);
    let stray = Vip::new([10, 50, 0, 9].into());
    let loopback = BTreeMap::from([(vip(), held(Owner::Ours, 100)), (stray, held(Owner::Ours, 100))]);
    story.tell(Event::Kernel(KernelEvent::Dump(KernelState { loopback, ..KernelState::default() })));
    story.tell(bgp(Mode::Dynamic, 1, &[(vip(), Network::PLAIN), (stray, Network::PLAIN)]));
    assert_eq!(story.steps(), [], "nothing moves before the sources have synced");
    story.wait(30);
    assert_eq!(
        story.done(),
        [Step::add_address(vip(), LEASE), Step::add_address(stray, LEASE)],
        "but leases are renewed"
    );
    story.tell(service("web", 1));
    story.tell(Event::Source(SourceState::Synced));
    assert_eq!(story.done(), [Step::Withdraw(stray)]);
    story.wait(1);
    assert_eq!(story.done(), [Step::RemoveAddress(stray)]);
}

#[test]
fn a_lease_is_renewed_every_third_of_it() {
    let mut story = Story::synced(Mode::Connected);
    story.tell(service("web", 1));
    story.done();
    story.wait(39);
    assert_eq!(story.steps(), []);
    story.wait(1);
    assert_eq!(story.done(), [Step::add_address(vip(), LEASE)]);
    story.wait(39);
    assert_eq!(story.steps(), []);
}

#[test]
fn what_others_hold_is_refused_and_never_touched() {
    let mut story = Story::synced(Mode::Dynamic);
    story.tell(Event::Kernel(KernelEvent::Loopback(vip(), held(Owner::Foreign, 100))));
    story.tell(service("web", 1));
    assert_eq!(story.steps(), []);
    let refused = WithdrawReason::Refused(Refusal::ForeignAddress);
    assert_eq!(story.decision(), Some(Decision::Withdraw(refused)));
    story.tell(Event::Kernel(KernelEvent::LoopbackGone(vip())));
    assert_eq!(story.steps(), [Step::add_address(vip(), LEASE), Step::advertise(vip())]);
}

#[test]
fn a_foreign_network_statement_is_left_alone() {
    let mut story = Story::synced(Mode::Dynamic);
    story.tell(bgp(Mode::Dynamic, 1, &[(vip(), Network::Foreign)]));
    story.tell(service("web", 1));
    assert_eq!(story.done(), [Step::add_address(vip(), LEASE)]);
    assert_eq!(story.engine.vip_status(vip()).map(|row| row.state), Some(VipState::Advertised));
    story.tell(service("web", 0));
    assert_eq!(story.done(), [Step::RemoveAddress(vip())]);
}

#[test]
fn a_peers_address_is_no_vip() {
    let mut story = Story::synced(Mode::Connected);
    story.tell(service("web", 1));
    story.done();
    let peer =
        PeerView { name: vip().to_string(), address: Some(vip().address()), established: true, ..PeerView::default() };
    let modes = PerFamily { v4: Mode::Connected, v6: Mode::Connected };
    let view = BgpView { generation: 1, asn: 65001, modes, networks: BTreeMap::new(), peers: vec![peer] };
    story.tell(Event::Bgp(BgpState::Up(view)));
    assert_eq!(story.steps(), [Step::RemoveAddress(vip())]);
}

#[test]
fn restarting_pods_are_held_out_and_come_back() {
    let mut story = Story::synced(Mode::Connected);
    let pod = ObjectKey::new("d", "p0");
    story.tell(Event::Pod(pod.clone(), PodView { restarts: 7, crash_loop: false }));
    story.tell(service("web", 1));
    assert_eq!(story.done().len(), 1, "old restarts are only the baseline");
    story.tell(Event::Pod(pod.clone(), PodView { restarts: 8, crash_loop: false }));
    assert_eq!(story.decision(), Some(Decision::Withdraw(WithdrawReason::PodRestarting)));
    story.wait(30);
    story.tell(Event::Tick);
    assert_eq!(story.decision(), Some(Decision::Advertise));
    story.tell(Event::Pod(pod, PodView { restarts: 8, crash_loop: true }));
    assert_eq!(story.decision(), Some(Decision::Withdraw(WithdrawReason::PodRestarting)));
}

#[test]
fn a_shared_vip_is_up_while_any_of_its_services_is() {
    let mut story = Story::synced(Mode::Connected);
    story.tell(service("a", 0));
    story.tell(service("b", 1));
    assert_eq!(story.decision(), Some(Decision::Advertise));
    story.tell(service("b", 0));
    assert_eq!(story.decision(), Some(Decision::Withdraw(WithdrawReason::NoLocalEndpoint)));
}

#[test]
fn refused_traffic_withdraws_and_a_trial_brings_it_back() {
    let mut story = Story::synced(Mode::Connected);
    story.tell(service("web", 1));
    story.done();
    let counts = TrafficCounts { syn: 9, rst_host: 9, ..TrafficCounts::default() };
    let sample = TrafficSample {
        vip: vip(),
        port: port(),
        span: Duration::from_secs(1),
        counts,
        handshakes: Handshakes::default(),
    };
    story.tell(Event::Traffic(vec![sample]));
    assert_eq!(story.done(), [Step::RemoveAddress(vip())]);
    assert_eq!(story.decision(), Some(Decision::Withdraw(WithdrawReason::HostRefuses)));
    story.wait(26);
    story.tell(Event::Tick);
    assert_eq!(story.steps(), []);
    story.wait(8);
    story.tell(Event::Tick);
    assert_eq!(story.done(), [Step::add_address(vip(), LEASE)]);
}

#[test]
fn failed_steps_are_tried_again_later_unless_the_decision_changes() {
    let mut story = Story::synced(Mode::Connected);
    story.tell(service("web", 1));
    let steps = story.steps();
    let outcome = Outcome::Retry(Duration::from_secs(5), "busy".to_owned());
    story.tell(Event::Applied(steps.into_iter().map(|step| Applied { step, outcome: outcome.clone() }).collect()));
    assert_eq!(story.steps(), []);
    assert_eq!(story.engine.next_timer(), Some(story.now.after(Duration::from_secs(5))));
    story.wait(5);
    assert_eq!(story.steps(), [Step::add_address(vip(), LEASE)]);
}

#[test]
fn the_exit_takes_everything_along() {
    let mut story = Story::synced(Mode::Dynamic);
    story.tell(service("web", 1));
    story.done();
    story.tell(Event::Exit);
    assert_eq!(story.done(), [Step::Withdraw(vip())]);
    story.wait(1);
    assert_eq!(story.done(), [Step::RemoveAddress(vip())]);
}

#[test]
fn withdrawals_have_a_plan_of_their_own_and_any_other_gives_way() {
    let mut story = Story::synced(Mode::Dynamic);
    story.tell(service("web", 1));
    story.done();
    let other = Vip::new([10, 50, 0, 2].into());
    let mut new = service("new", 1);
    if let Event::Service(view) = &mut new {
        view.vips[0].vip = other;
    }
    story.tell(new);
    story.tell(service("web", 0));
    let plan = story.engine.plan(story.now);
    assert_eq!((plan.steps(), plan.gives_way()), (&[Step::Withdraw(vip())][..], false));
    let done = |step: Step| Applied { step, outcome: Outcome::Done };
    story.tell(Event::Applied(vec![done(Step::Withdraw(vip()))]));

    let plan = story.engine.plan(story.now);
    let added = [Step::add_address(other, LEASE), Step::advertise(other)];
    assert_eq!((plan.steps(), plan.gives_way()), (&added[..], true));
    assert!(!story.engine.wants_withdrawal(), "the address that lingers tells nobody");
    let deferred = Applied { step: Step::advertise(other), outcome: Outcome::Deferred };
    story.tell(Event::Applied(vec![done(Step::add_address(other, LEASE)), deferred]));
    assert_eq!(story.steps(), [Step::advertise(other)], "at once");
    assert_eq!(story.engine.vip_status(other).and_then(|row| row.last_error), None);
}

#[test]
fn a_withdrawal_is_told_of_while_another_plan_is_in_flight() {
    for mode in [Mode::Dynamic, Mode::Connected] {
        let mut story = Story::synced(mode);
        story.tell(service("web", 1));
        story.done();
        story.wait(60);
        assert_eq!(story.steps(), [Step::add_address(vip(), LEASE)], "a renewal, in flight from now on");
        assert!(!story.engine.wants_withdrawal());
        story.tell(service("web", 0));
        assert!(story.engine.wants_withdrawal(), "{mode}");
    }
}
