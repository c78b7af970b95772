//! What the traffic and the guards lead to, told as short stories of one node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::attributes::Route;
use super::check::{Check, Complaint};
use super::event::{Event, Handshakes, ProbeOutcome, ProbeReport, SourceState, TrafficCounts, TrafficSample};
use super::intent::{Decision, WithdrawReason};
use super::observed::{BgpState, BgpView, KernelEvent, KernelState, ProberState};
use super::plan::{Applied, Outcome, Step};
use super::service::{
    EndpointCondition, EndpointCounts, EndpointScope, Endpoints, LocalEndpoint, NodeView, ServiceView, Terminating,
    VipClaim, VipKind,
};
use super::signals::Agreement;
use super::status::VipState;
use super::traffic::{Charge, OnFault, SecondKey, TrafficMode, TrafficPolicy};
use super::types::{Mode, ObjectKey, PerFamily, Port, Protocol, Timestamp, Vip};
use super::verdict::Verdict;
use super::{Engine, Settings};

const PORT: Port = Port { protocol: Protocol::Tcp, number: 80 };

fn vip(n: u8) -> Vip {
    Vip::new([10, 50, 0, n].into())
}

fn service(n: u8, endpoints: u8, policy: TrafficPolicy) -> Event {
    Event::Service(Box::new(view(n, endpoints, policy)))
}

/// One whose owner wants something to be asked.
fn asking(n: u8, policy: TrafficPolicy) -> Event {
    let check = Check::parse("http://:80/healthz").ok().map(Arc::new);
    Event::Service(Box::new(ServiceView { check, ..view(n, 1, policy) }))
}

fn view(n: u8, endpoints: u8, policy: TrafficPolicy) -> ServiceView {
    let endpoint = |n: u8| LocalEndpoint {
        pod: Some(ObjectKey::new("d", &format!("pod{n}"))),
        condition: EndpointCondition::Ready,
    };
    let remote = EndpointCounts { ready: 1, ..EndpointCounts::default() };
    let endpoints = Endpoints { local: (0..endpoints).map(endpoint).collect(), remote };
    ServiceView {
        key: ObjectKey::new("d", &format!("svc{n}")),
        vips: vec![VipClaim { vip: vip(n), kind: VipKind::LoadBalancer, scope: EndpointScope::Local }],
        refused: Vec::new(),
        ports: [PORT].into(),
        terminating: Terminating::Serving,
        prove: super::proof::Prove::Never,
        policy,
        check: None,
        profile: None,
        endpoints: PerFamily { v4: endpoints.clone(), v6: endpoints },
    }
}

fn passive() -> TrafficPolicy {
    TrafficPolicy { evidence: SecondKey::Passive, ..TrafficPolicy::default() }
}

fn sample(n: u8, handshakes: Handshakes) -> TrafficSample {
    let failed = handshakes.refused_backend + handshakes.timed_out;
    let counts = TrafficCounts {
        syn: handshakes.completed + failed,
        syn_ack: handshakes.completed,
        completed: handshakes.completed,
        ..TrafficCounts::default()
    };
    TrafficSample { vip: vip(n), port: PORT, span: Duration::from_secs(1), counts, handshakes }
}

fn fine(completed: u64) -> Handshakes {
    Handshakes { completed, one_in: 1, ..Handshakes::default() }
}

fn failing(refused_backend: u64) -> Handshakes {
    Handshakes { refused_backend, failed_prefixes: 0b1011, one_in: 1, ..Handshakes::default() }
}

struct Node {
    engine: Engine,
    now: Timestamp,
}

impl Node {
    fn new(mode: TrafficMode, services: &[(u8, TrafficPolicy)]) -> Self {
        let settings = Settings { traffic_mode: mode, ..Settings::default() };
        let mut node = Self { engine: Engine::new(settings), now: Timestamp::ZERO };
        node.tell(Event::Kernel(KernelEvent::Dump(KernelState::default())));
        node.tell(Event::Bgp(BgpState::Disabled));
        node.tell(Event::Node(NodeView::default()));
        services.iter().for_each(|(n, policy)| node.tell(service(*n, 1, *policy)));
        node.tell(Event::Source(SourceState::Synced));
        node
    }

    fn one(mode: TrafficMode, policy: TrafficPolicy) -> Self {
        let mut node = Self::new(mode, &[(1, policy)]);
        node.seconds(20, fine(10));
        node
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(event, self.now);
    }

    fn seconds(&mut self, seconds: u64, handshakes: Handshakes) {
        for _ in 0..seconds {
            self.second(vec![sample(1, handshakes)]);
        }
    }

    fn second(&mut self, samples: Vec<TrafficSample>) {
        self.now = self.now.after(Duration::from_secs(1));
        self.tell(Event::Traffic(samples));
    }

    fn probe(&mut self, outcome: ProbeOutcome) {
        self.tell(Event::Probe(vec![ProbeReport { vip: vip(1), port: PORT, outcome, complaint: None, latency: None }]));
    }

    /// A node whose VIP's owner wants something to be asked, which was answered well once; nobody connects.
    fn asked(mode: TrafficMode, policy: TrafficPolicy) -> Self {
        let mut node = Self::new(mode, &[]);
        node.tell(Event::Prober(ProberState::Running));
        node.tell(asking(1, policy));
        node.probe(ProbeOutcome::Passed);
        node
    }

    fn unhealthy(&mut self, times: u32) {
        let (outcome, complaint) = (ProbeOutcome::Unhealthy, Some(Complaint::Status(503)));
        for _ in 0..times {
            self.tell(Event::Probe(vec![ProbeReport { vip: vip(1), port: PORT, outcome, complaint, latency: None }]));
        }
    }

    /// So many seconds without anything.
    fn idle(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.after(Duration::from_secs(1));
            self.tell(Event::Tick);
            self.engine.plan(self.now);
        }
    }

    /// Whatever is planned is done.
    fn carry_out(&mut self) -> Vec<Step> {
        let steps = self.engine.plan(self.now).into_steps();
        let applied = steps.iter().map(|step| Applied { step: step.clone(), outcome: Outcome::Done }).collect();
        self.tell(Event::Applied(applied));
        steps
    }

    fn decision(&self, n: u8) -> Decision {
        self.engine.intent().find(|(of, _)| *of == vip(n)).map(|(_, decision)| decision).unwrap()
    }

    fn is_up(&self) -> bool {
        self.decision(1) == Decision::Advertise
    }

    fn health(&self) -> &'static str {
        self.engine.vip_status(vip(1)).unwrap().services[0].health.as_str()
    }
}

const FAILS: Decision = Decision::Withdraw(WithdrawReason::ConnectionsFail);
const UNHEALTHY: Decision = Decision::Withdraw(WithdrawReason::ProbeFails);

#[test]
fn failing_handshakes_are_suspect_in_three_samples_and_convict_nobody_alone() {
    let mut node = Node::one(TrafficMode::Enforce, TrafficPolicy::default());
    node.seconds(2, failing(10));
    assert_eq!(node.health(), "up");
    node.seconds(1, failing(10));
    assert_eq!((node.health(), node.is_up()), ("suspect", true));
    node.seconds(60, failing(10));
    assert!(node.is_up(), "no second key has turned");
}

#[test]
fn three_failed_probes_convict_a_suspect_whose_probes_had_passed() {
    let mut node = Node::one(TrafficMode::Enforce, TrafficPolicy::default());
    node.tell(Event::Prober(ProberState::Running));
    node.probe(ProbeOutcome::Passed);
    node.seconds(3, failing(10));
    assert!(node.engine.wants_probes());
    node.probe(ProbeOutcome::Silent);
    node.probe(ProbeOutcome::Lost);
    node.probe(ProbeOutcome::Silent);
    assert!(node.is_up(), "a lost probe is no failure");
    node.probe(ProbeOutcome::Silent);
    assert_eq!(node.decision(1), FAILS);
}

#[test]
fn probes_that_never_passed_convict_nobody() {
    let mut node = Node::one(TrafficMode::Enforce, TrafficPolicy::default());
    node.tell(Event::Prober(ProberState::Running));
    node.seconds(3, failing(10));
    (0..9).for_each(|_| node.probe(ProbeOutcome::Silent));
    assert!(node.is_up());
}

#[test]
fn a_trial_waits_for_a_probe_to_pass() {
    let mut node = Node::one(TrafficMode::Enforce, TrafficPolicy::default());
    node.tell(Event::Prober(ProberState::Running));
    node.probe(ProbeOutcome::Passed);
    node.seconds(3, failing(10));
    (0..3).for_each(|_| node.probe(ProbeOutcome::Silent));
    assert_eq!(node.decision(1), FAILS);
    for _ in 0..60 {
        node.now = node.now.after(Duration::from_secs(1));
        node.tell(Event::Tick);
        node.engine.plan(node.now);
    }
    assert_eq!(node.decision(1), FAILS, "the hold is over, but no probe has passed");
    node.probe(ProbeOutcome::Passed);
    for _ in 0..4 {
        node.now = node.now.after(Duration::from_secs(1));
        node.tell(Event::Tick);
        node.engine.plan(node.now);
    }
    assert_eq!((node.health(), node.is_up()), ("trial", true));
}

#[test]
fn an_owner_may_choose_passive_evidence_or_none() {
    let mut node = Node::one(TrafficMode::Enforce, passive());
    node.seconds(3, failing(10));
    assert_eq!(node.decision(1), FAILS);
    let ignore = TrafficPolicy { fault: OnFault::Ignore, ..passive() };
    let mut node = Node::one(TrafficMode::Enforce, ignore);
    node.seconds(60, failing(10));
    assert_eq!((node.health(), node.is_up()), ("suspect", true));
}

/// With FRR told by statements of ours; elsewhere there is nothing to say it with.
#[test]
fn an_owner_may_want_it_to_stay_the_last_resort() {
    let gentle = TrafficPolicy { fault: OnFault::Depreference, ..passive() };
    let mut node = Node::one(TrafficMode::Enforce, gentle);
    let view = |v4| BgpView {
        generation: 1,
        asn: 65001,
        modes: PerFamily { v4, v6: v4 },
        networks: BTreeMap::new(),
        peers: Vec::new(),
    };
    node.tell(Event::Bgp(BgpState::Up(view(Mode::Dynamic))));
    node.carry_out();
    node.seconds(3, failing(10));
    let reason = WithdrawReason::ConnectionsFail;
    assert_eq!(node.decision(1), Decision::Depreference(reason));
    let Some(Step::Advertise(_, route)) = node.carry_out().pop() else { panic!("nothing is told to FRR") };
    assert_eq!(route, Route::default().depreferred());
    let row = node.engine.vip_status(vip(1)).unwrap();
    assert_eq!((row.state, row.reason), (VipState::Depreferred, Some(reason)));
    // The operator goes over to Connected mode, and back.
    node.tell(Event::Bgp(BgpState::Up(view(Mode::Connected))));
    assert_eq!(node.decision(1), Decision::Withdraw(reason));
    node.tell(Event::Bgp(BgpState::Up(view(Mode::Dynamic))));
    assert_eq!(node.decision(1), Decision::Depreference(reason));
    // Kubernetes' no is never answered gently.
    node.tell(service(1, 0, gentle));
    assert_eq!(node.decision(1), Decision::Withdraw(WithdrawReason::NoLocalEndpoint));
}

#[test]
fn a_stale_source_lets_no_verdict_act() {
    let mut node = Node::one(TrafficMode::Enforce, passive());
    node.tell(Event::Source(SourceState::Stale("gone".to_owned())));
    node.seconds(60, failing(10));
    assert_eq!((node.health(), node.is_up()), ("suspect", true));
    node.tell(Event::Source(SourceState::Synced));
    node.seconds(1, failing(10));
    assert_eq!(node.decision(1), FAILS);
}

#[test]
fn one_broken_client_and_clients_behind_one_nat_prove_nothing() {
    let mut node = Node::one(TrafficMode::Enforce, passive());
    node.seconds(600, Handshakes { failed_prefixes: 0b11, ..failing(20) });
    assert_eq!((node.health(), node.is_up()), ("up", true));
}

#[test]
fn a_suspicion_ends_when_one_client_alone_goes_on_failing() {
    let mut node = Node::one(TrafficMode::Observe, TrafficPolicy::default());
    node.seconds(3, failing(10));
    assert_eq!(node.health(), "suspect");
    node.seconds(10, Handshakes { failed_prefixes: 0b1, completed: 5, ..failing(5) });
    assert_eq!(node.health(), "up");
}

#[test]
fn nothing_is_judged_where_answers_are_not_seen() {
    let mut node = Node::new(TrafficMode::Enforce, &[(1, passive())]);
    node.seconds(60, Handshakes { unseen_answers: 10, ..fine(10) });
    node.seconds(60, Handshakes { timed_out: 10, refused_backend: 0, ..failing(0) });
    assert!(node.is_up(), "blind");
    let mut node = Node::new(TrafficMode::Enforce, &[(1, passive())]);
    node.seconds(60, Handshakes { timed_out: 10, refused_backend: 0, ..failing(0) });
    assert!(node.is_up(), "no answer was ever seen");
}

#[test]
fn a_flood_freezes_the_verdict() {
    let mut node = Node::one(TrafficMode::Enforce, passive());
    for _ in 0..120 {
        let mut flood = sample(1, Handshakes { timed_out: 500, completed: 1, ..failing(0) });
        flood.counts.syn = 10_000;
        flood.counts.syn_ack = 9_000;
        node.second(vec![flood]);
    }
    assert_eq!((node.health(), node.is_up()), ("up", true));
}

#[test]
fn a_change_of_endpoints_is_followed_by_silence() {
    let mut node = Node::one(TrafficMode::Enforce, passive());
    node.seconds(2, failing(10));
    node.tell(service(1, 2, passive()));
    node.seconds(4, failing(10));
    node.seconds(20, fine(10));
    assert!(node.is_up());
    node.seconds(3, failing(10));
    assert_eq!(node.decision(1), FAILS);
}

#[test]
fn when_most_vips_suffer_passive_evidence_of_one_is_not_its_own() {
    let all: Vec<(u8, TrafficPolicy)> = (1..=4).map(|n| (n, passive())).collect();
    let mut node = Node::new(TrafficMode::Enforce, &all);
    for _ in 0..20 {
        node.second((1..=4).map(|n| sample(n, fine(10))).collect());
    }
    for _ in 0..60 {
        let one_is_fine = |n| if n == 4 { fine(10) } else { failing(10) };
        node.second((1..=4).map(|n| sample(n, one_is_fine(n))).collect());
    }
    assert!(node.engine.node_suspect());
    assert!((1..=4).all(|n| node.decision(n) == Decision::Advertise));
}

#[test]
fn the_traffic_withdraws_a_vip_twice_in_a_quarter_of_an_hour_and_no_more() {
    let mut node = Node::one(TrafficMode::Enforce, passive());
    let mut withdrawals = 0;
    let mut up = true;
    for second in 0..890 {
        node.second(vec![sample(1, if second % 90 < 5 { failing(10) } else { fine(10) })]);
        node.tell(Event::Tick);
        node.engine.plan(node.now);
        withdrawals += u32::from(up && !node.is_up());
        up = node.is_up();
    }
    assert_eq!(withdrawals, 2);
}

#[test]
fn the_two_worlds_are_compared() {
    let mut node = Node::one(TrafficMode::Observe, TrafficPolicy::default());
    let mut refused = sample(1, fine(0));
    (refused.counts.syn, refused.counts.rst_host) = (10, 10);
    (0..3).for_each(|_| node.second(vec![refused]));
    node.tell(service(1, 0, TrafficPolicy::default()));
    (0..2).for_each(|_| node.second(vec![refused]));
    (0..5).for_each(|_| node.second(vec![sample(1, fine(10))]));
    let agreement = node.engine.agreement();
    let expected = Agreement { both_up: 20, only_traffic_down: 3, only_control_down: 5, both_down: 2 };
    assert_eq!(agreement, expected);
}

#[test]
fn three_bad_answers_convict_though_nobody_connects() {
    let mut node = Node::asked(TrafficMode::Enforce, TrafficPolicy::default());
    node.unhealthy(2);
    node.probe(ProbeOutcome::Lost);
    assert_eq!((node.health(), node.is_up()), ("up", true));
    node.unhealthy(1);
    assert_eq!((node.health(), node.decision(1)), ("down", UNHEALTHY));
    // One of them good, and it is not three in a row.
    let mut node = Node::asked(TrafficMode::Enforce, TrafficPolicy::default());
    node.unhealthy(2);
    node.probe(ProbeOutcome::Passed);
    node.unhealthy(2);
    assert!(node.is_up());
    // A port that does not even accept is not healthy either.
    node.probe(ProbeOutcome::RefusedByBackend);
    assert_eq!(node.decision(1), UNHEALTHY);
}

#[test]
fn a_question_that_was_never_answered_well_convicts_nobody() {
    let mut node = Node::new(TrafficMode::Enforce, &[]);
    node.tell(Event::Prober(ProberState::Running));
    node.tell(asking(1, TrafficPolicy::default()));
    for _ in 0..60 {
        node.unhealthy(1);
        node.seconds(1, fine(10));
    }
    assert_eq!((node.health(), node.is_up()), ("up", true));
}

#[test]
fn bad_answers_to_what_nobody_wanted_to_ask_prove_nothing() {
    let mut node = Node::asked(TrafficMode::Enforce, TrafficPolicy::default());
    node.unhealthy(2);
    node.tell(service(1, 1, TrafficPolicy::default()));
    node.unhealthy(9);
    assert_eq!((node.health(), node.is_up()), ("up", true));
    // Handshakes alone are asked for again: what fails is the connections, and nobody makes any.
    (0..9).for_each(|_| node.probe(ProbeOutcome::Silent));
    assert!(node.is_up());
}

#[test]
fn observed_bad_answers_are_shown_until_one_is_good_or_they_are_old() {
    let mut node = Node::asked(TrafficMode::Observe, TrafficPolicy::default());
    node.unhealthy(3);
    assert_eq!((node.health(), node.is_up()), ("suspect", true));
    let verdict = |node: &Node| node.engine.vip_status(vip(1)).unwrap().services[0].verdict;
    assert_eq!(verdict(&node), Verdict::Suspect(Charge::ProbeFails));
    node.probe(ProbeOutcome::Passed);
    assert_eq!(node.health(), "up");
    node.unhealthy(3);
    node.idle(30);
    assert_eq!(node.health(), "suspect");
    node.idle(4);
    assert_eq!(node.health(), "up", "nothing was heard of it for longer than traffic.rule.probe_age");
    // Without the annotation it is over at once.
    node.unhealthy(3);
    assert_eq!(node.health(), "suspect");
    node.tell(service(1, 1, TrafficPolicy::default()));
    node.engine.plan(node.now);
    assert_eq!(node.health(), "up");
}

/// Seldom asked, it stays suspect all the same: what fails is asked again while its failures still count.
#[test]
fn a_suspicion_outlasts_a_long_pause_between_two_checks() {
    let mut node = Node::asked(TrafficMode::Observe, TrafficPolicy::default());
    node.engine.settings.check = Some(Duration::from_secs(600));
    node.tell(asking(1, passive()));
    node.unhealthy(3);
    for second in 0..300 {
        node.idle(1);
        if !node.engine.take_probes(10).is_empty() {
            node.unhealthy(1);
        }
        assert_eq!(node.health(), "suspect", "after {second} s");
    }
}

#[test]
fn bad_answers_go_through_the_guards() {
    let mut stale = Node::asked(TrafficMode::Enforce, TrafficPolicy::default());
    stale.tell(Event::Source(SourceState::Stale("gone".to_owned())));
    stale.unhealthy(9);
    assert_eq!((stale.health(), stale.is_up()), ("suspect", true));
    stale.tell(Event::Source(SourceState::Synced));
    stale.unhealthy(1);
    assert_eq!(stale.decision(1), UNHEALTHY);

    let ignore = TrafficPolicy { fault: OnFault::Ignore, ..TrafficPolicy::default() };
    let mut ignored = Node::asked(TrafficMode::Enforce, ignore);
    ignored.unhealthy(9);
    assert_eq!((ignored.health(), ignored.is_up()), ("suspect", true));

    let mut last = Node::asked(TrafficMode::Enforce, TrafficPolicy::default());
    let Event::Service(mut view) = asking(1, TrafficPolicy::default()) else { panic!() };
    view.endpoints.v4.remote = EndpointCounts::default();
    last.tell(Event::Service(view));
    last.probe(ProbeOutcome::Passed);
    last.unhealthy(9);
    assert_eq!((last.health(), last.is_up()), ("suspect", true));
    let refused = last.engine.vip_status(vip(1)).unwrap().ejection_refused;
    assert_eq!(refused, Some(super::guard::Refused::LastCandidate));
}

#[test]
fn bad_answers_may_make_it_the_last_resort() {
    let gentle = TrafficPolicy { fault: OnFault::Depreference, ..TrafficPolicy::default() };
    let mut node = Node::asked(TrafficMode::Enforce, gentle);
    let modes = PerFamily { v4: Mode::Dynamic, v6: Mode::Dynamic };
    let view = BgpView { generation: 1, asn: 65001, modes, networks: BTreeMap::new(), peers: Vec::new() };
    node.tell(Event::Bgp(BgpState::Up(view)));
    node.unhealthy(3);
    assert_eq!(node.decision(1), Decision::Depreference(WithdrawReason::ProbeFails));
}

#[test]
fn after_bad_answers_a_trial_waits_for_a_good_one_and_fails_by_bad_ones_while_there_is_budget() {
    let mut node = Node::asked(TrafficMode::Enforce, TrafficPolicy::default());
    node.unhealthy(3);
    for _ in 0..120 {
        node.idle(1);
        if !node.engine.take_probes(10).is_empty() {
            node.unhealthy(1);
        }
        assert_eq!(node.decision(1), UNHEALTHY);
    }
    node.probe(ProbeOutcome::Passed);
    node.idle(3);
    assert_eq!((node.health(), node.is_up()), ("trial", true));
    node.unhealthy(2);
    assert_eq!(node.health(), "trial");
    node.unhealthy(1);
    assert_eq!((node.health(), node.decision(1)), ("down", UNHEALTHY));
    // The second time in a quarter of an hour: the third is one too many.
    node.idle(70);
    node.probe(ProbeOutcome::Passed);
    node.idle(3);
    assert_eq!(node.health(), "trial");
    node.unhealthy(9);
    assert_eq!((node.health(), node.is_up()), ("suspect", true));
}

#[test]
fn a_trial_after_bad_answers_ends_well_with_good_ones() {
    let mut node = Node::asked(TrafficMode::Enforce, TrafficPolicy::default());
    node.unhealthy(3);
    node.idle(34);
    node.probe(ProbeOutcome::Passed);
    node.idle(3);
    assert_eq!(node.health(), "trial");
    node.idle(61);
    assert_eq!(node.health(), "up");
}

#[test]
fn bad_answers_of_most_vips_are_no_verdict_over_the_node() {
    let mut node = Node::new(TrafficMode::Observe, &[]);
    node.tell(Event::Prober(ProberState::Running));
    (1..=6).for_each(|n| node.tell(asking(n, TrafficPolicy::default())));
    for outcome in [ProbeOutcome::Passed, ProbeOutcome::Unhealthy, ProbeOutcome::Unhealthy, ProbeOutcome::Unhealthy] {
        let report = |n| ProbeReport { vip: vip(n), port: PORT, outcome, complaint: None, latency: None };
        node.tell(Event::Probe((1..=6).map(report).collect()));
    }
    node.second((1..=6).map(|n| sample(n, fine(10))).collect());
    assert_eq!((node.health(), node.engine.node_suspect()), ("suspect", false));
}

fn some_handshakes() -> impl Strategy<Value = Handshakes> {
    (0..60_u64, 0..60_u64, 0..60_u64, any::<u64>(), 0..60_u64).prop_map(
        |(completed, refused_backend, timed_out, failed_prefixes, unseen_answers)| Handshakes {
            completed,
            refused_backend,
            timed_out,
            failed_prefixes,
            unseen_answers,
            one_in: 1,
            ..Handshakes::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Without a second key no handshake withdraws anything, whatever it is.
    #[test]
    fn handshakes_alone_never_withdraw(all in prop::collection::vec(some_handshakes(), 1..120)) {
        let mut node = Node::new(TrafficMode::Enforce, &[(1, TrafficPolicy::default())]);
        for handshakes in all {
            node.seconds(1, handshakes);
            prop_assert!(node.is_up());
        }
    }

    /// Time-outs never withdraw where no answer is ever seen.
    #[test]
    fn a_blind_node_never_withdraws(all in prop::collection::vec(some_handshakes(), 1..120)) {
        let mut node = Node::new(TrafficMode::Enforce, &[(1, passive())]);
        for handshakes in all {
            let unseen_answers = handshakes.completed;
            node.seconds(1, Handshakes { unseen_answers, refused_backend: 0, ..handshakes });
            prop_assert!(node.is_up());
        }
    }

    /// The same samples give the same verdicts.
    #[test]
    fn the_verdict_is_deterministic(all in prop::collection::vec(some_handshakes(), 1..120)) {
        let run = || {
            let mut node = Node::new(TrafficMode::Enforce, &[(1, passive())]);
            let states = all.iter().map(|handshakes| {
                node.seconds(1, *handshakes);
                (node.decision(1), node.health())
            });
            states.collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }

    /// Who is suspect with some failures is so with more of them.
    #[test]
    fn more_failures_never_clear(failed in 1..20_u64, more in 0..20_u64, served in 0..20_u64) {
        let suspect_after = |failed| {
            let mut node = Node::one(TrafficMode::Enforce, passive());
            (0..60).find(|_| {
                node.seconds(1, Handshakes { completed: served, ..failing(failed) });
                !node.is_up()
            })
        };
        if let Some(first) = suspect_after(failed) {
            prop_assert!(suspect_after(failed + more).is_some_and(|second| second <= first));
        }
    }
}
