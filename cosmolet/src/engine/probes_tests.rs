//! Stories of proofs: who waits, for how long, and what ends it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::check::{Check, Complaint};
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

fn check(text: &str) -> Arc<Check> {
    Arc::new(Check::parse(text).unwrap())
}

fn report(outcome: ProbeOutcome) -> ProbeReport {
    ProbeReport { vip: vip(), port: PORT, outcome, complaint: None, latency: None }
}

fn unhealthy(port: Port) -> ProbeReport {
    ProbeReport { port, complaint: Some(Complaint::Status(503)), ..report(ProbeOutcome::Unhealthy) }
}

struct Story {
    engine: Engine,
    now: Timestamp,
    /// What the owner of the next Services wants to be asked.
    asks: Option<Arc<Check>>,
    /// The name of the next Services.
    name: &'static str,
}

impl Story {
    fn new(prober: ProberState, kernel: KernelState) -> Self {
        let round = Some(Duration::from_secs(30));
        let (prove, check) = (Some(Duration::from_secs(10)), Some(Duration::from_secs(5)));
        let settings = Settings { prove, probe_round: round, check, ..Settings::default() };
        let now = Timestamp::from_start(Duration::from_secs(1));
        let mut story = Self { engine: Engine::new(settings), now, asks: None, name: "web" };
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
        let checked = self.asks.as_ref().map(|check| check.port);
        let ports: BTreeSet<Port> = [Port { protocol, number: 80 }].into_iter().chain(checked).collect();
        self.tell(Event::Service(Box::new(ServiceView {
            key: ObjectKey::new("d", self.name),
            vips: vec![VipClaim { vip: vip(), kind: VipKind::LoadBalancer, scope: EndpointScope::Local }],
            refused: Vec::new(),
            ports: ports.into_iter().collect(),
            terminating: Terminating::Serving,
            prove,
            policy: TrafficPolicy::default(),
            check: self.asks.clone(),
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
        self.hear(report(outcome));
    }

    fn hear(&mut self, report: ProbeReport) {
        self.tell(Event::Probe(vec![report]));
    }

    /// The times, in milliseconds from now on, at which something is asked for its own sake.
    fn checks(&mut self, seconds: u64) -> Vec<u64> {
        let (at, mut asked) = (self.now, Vec::new());
        for _ in 0..seconds * 20 {
            self.wait(50);
            let check = |request: &ProbeRequest| request.purpose == ProbePurpose::Check;
            if self.probes().iter().any(check) {
                asked.push(u64::try_from(self.now.since(at).as_millis()).unwrap());
            }
        }
        asked
    }

    fn proven(&self, claim: usize) -> bool {
        self.engine.vip_status(vip()).unwrap().services[claim].proof.proven
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
        proof.record(&report(ProbeOutcome::Silent), now, &rules);
        assert!(!proof.convinces(PORT, now, &rules) && !proof.doubtful(&rules));
    }
    for outcome in [ProbeOutcome::Passed, ProbeOutcome::Silent, ProbeOutcome::Lost, ProbeOutcome::RefusedByHost] {
        proof.record(&report(outcome), now, &rules);
    }
    assert!(!proof.convinces(PORT, now, &rules) && proof.doubtful(&rules));
    proof.record(&report(ProbeOutcome::RefusedByBackend), now, &rules);
    assert!(proof.convinces(PORT, now, &rules));
    assert!(!proof.convinces(Port { number: 81, ..PORT }, now, &rules), "another port's probes");
    proof.renew();
    assert!(!proof.convinces(PORT, now, &rules) && !proof.proven());
}

#[test]
fn failures_of_long_ago_convince_nobody() {
    let (rules, mut proof) = (TrafficRules::default(), Proof::default());
    let at = |seconds| Timestamp::from_start(Duration::from_secs(seconds));
    proof.record(&report(ProbeOutcome::Passed), at(0), &rules);
    for second in 1..=3 {
        proof.record(&report(ProbeOutcome::Silent), at(second), &rules);
    }
    assert!(proof.convinces(PORT, at(33), &rules) && !proof.convinces(PORT, at(34), &rules));
    proof.record(&report(ProbeOutcome::Silent), at(60), &rules);
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
    proof.record(&report(ProbeOutcome::Passed), at(101), &rules);
    assert!(!proof.reference_due(&[PORT, udp], at(1000)));
    assert!(proof.reference_due(&[PORT, Port { number: 81, ..PORT }], at(1000)));
}

const OTHER: Port = Port { protocol: Protocol::Tcp, number: 8080 };

#[test]
fn what_an_owner_asks_goes_with_its_port_alone_and_udp_is_proven_by_it() {
    let mut story = Story::synced();
    story.asks = Some(check("http://:8080/healthz"));
    story.service(Prove::Wait, 1, "a", Protocol::Tcp);
    let ports = vec![(PORT, None), (OTHER, story.asks.clone())];
    assert_eq!(story.probes(), [ProbeRequest { vip: vip(), ports, purpose: ProbePurpose::Proof }]);

    let mut story = Story::synced();
    story.asks = Some(check("udp://:80/x"));
    story.service(Prove::Wait, 1, "a", Protocol::Udp);
    assert_eq!(story.decision(), WAITS);
    let udp = Port { protocol: Protocol::Udp, number: 80 };
    assert_eq!(story.probes()[0].ports, [(udp, story.asks.clone())]);
    story.hear(ProbeReport { port: udp, ..report(ProbeOutcome::Passed) });
    assert_eq!(story.decision(), UP);
}

#[test]
fn it_waits_for_its_owners_question_to_be_answered_well() {
    let mut story = Story::synced();
    story.asks = Some(check("http://:8080/healthz"));
    story.service(Prove::Required, 1, "a", Protocol::Tcp);
    story.report(ProbeOutcome::Passed);
    story.hear(unhealthy(OTHER));
    assert_eq!(story.decision(), Some(Decision::Withdraw(WithdrawReason::Unproven)), "only the other port has passed");
    story.hear(ProbeReport { port: OTHER, ..report(ProbeOutcome::Passed) });
    assert_eq!(story.decision(), UP);
}

#[test]
fn a_question_that_is_never_answered_well_is_waited_for_once() {
    let mut story = Story::synced();
    story.asks = Some(check("http://:8080/wrong"));
    story.service(Prove::Wait, 1, "a", Protocol::Tcp);
    story.report(ProbeOutcome::Passed);
    story.wait(9900);
    assert_eq!(story.decision(), WAITS);
    story.wait(100);
    assert_eq!(story.decision(), UP);
    story.service(Prove::Wait, 0, "a", Protocol::Tcp);
    story.service(Prove::Wait, 1, "b", Protocol::Tcp);
    assert_eq!(story.decision(), UP, "in vain");
    story.service(Prove::Wait, 0, "b", Protocol::Tcp);
    story.asks = Some(check("http://:8080/right"));
    story.service(Prove::Wait, 1, "c", Protocol::Tcp);
    assert_eq!(story.decision(), WAITS, "another question may be answered");
}

#[test]
fn what_is_up_is_asked_every_few_seconds_whether_clients_come_or_not() {
    let mut story = Story::synced();
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    assert_eq!(story.checks(30), [0; 0], "nobody wants anything to be asked");
    story.asks = Some(check("http://:8080/healthz"));
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    story.engine.settings.probe_round = None;
    let times = story.checks(60);
    assert_eq!(times.len(), 12);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 5000), "{times:?}");
    story.service(Prove::Never, 0, "a", Protocol::Tcp);
    assert_eq!(story.checks(30), [0; 0], "it is down");
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    assert_eq!(story.checks(30).len(), 6, "up again");
    story.engine.settings.check = None;
    assert_eq!(story.checks(30), [0; 0], "traffic.check_seconds: 0");
}

#[test]
fn a_check_is_of_the_port_of_which_something_is_asked() {
    let mut story = Story::synced();
    story.asks = Some(check("http://:8080/healthz"));
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    story.engine.want_probe(vip(), ProbePurpose::Check);
    let of_one = vec![(OTHER, story.asks.clone())];
    assert_eq!(story.probes(), [ProbeRequest { vip: vip(), ports: of_one, purpose: ProbePurpose::Check }]);
    // Who wants all ports gets them.
    for purpose in [ProbePurpose::Round, ProbePurpose::Reference] {
        story.engine.want_probe(vip(), ProbePurpose::Check);
        story.engine.want_probe(vip(), purpose);
        story.engine.want_probe(vip(), ProbePurpose::Check);
        let ports = vec![(PORT, None), (OTHER, story.asks.clone())];
        assert_eq!(story.probes(), [ProbeRequest { vip: vip(), ports, purpose }]);
    }
}

#[test]
fn vips_are_asked_each_at_a_time_of_its_own() {
    let mut story = Story::synced();
    let vips = (0..100).map(|n| Vip::new([10, 51, 0, n].into()));
    let asks = check("http://:80/healthz");
    story.engine.settings.probe_round = None;
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    let key = ObjectKey::new("d", "web");
    let mut view = story.engine.services.get(&key).cloned().unwrap();
    let claim = view.vips[0];
    view.vips = vips.map(|vip| VipClaim { vip, ..claim }).collect();
    view.check = Some(asks);
    story.tell(Event::Service(Box::new(view)));
    let mut asked = Vec::new();
    for _ in 0..10 {
        story.wait(500);
        let requests = story.engine.take_probes(1000);
        asked.push(requests.iter().filter(|request| request.purpose == ProbePurpose::Check).count());
    }
    assert_eq!(asked.iter().sum::<usize>(), 100, "{asked:?}");
    assert!(asked.iter().all(|count| (1..30).contains(count)), "{asked:?}");
}

#[test]
fn a_bad_answer_is_followed_soon_and_one_that_never_was_good_is_not() {
    let mut story = Story::synced();
    story.asks = Some(check("http://:80/healthz"));
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    story.hear(unhealthy(PORT));
    story.wait(600);
    story.probes();
    story.wait(600);
    let conviction = |story: &mut Story| story.probes().iter().any(|wish| wish.purpose == ProbePurpose::Conviction);
    assert!(!conviction(&mut story));
    story.report(ProbeOutcome::Passed);
    for _ in 0..2 {
        story.hear(unhealthy(PORT));
        story.wait(600);
        assert!(conviction(&mut story));
    }
    story.hear(unhealthy(PORT));
    story.wait(600);
    assert!(!conviction(&mut story), "three are enough");
}

#[test]
fn another_question_is_another_proof() {
    let mut story = Story::synced();
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    story.report(ProbeOutcome::Passed);
    assert!(story.proven(0));
    story.asks = Some(check("http://:80/a"));
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    assert!(!story.proven(0), "a handshake passed, not an answer");
    story.report(ProbeOutcome::Passed);
    assert!(!story.proven(0), "that was asked before");
    story.wait(5000);
    story.report(ProbeOutcome::Passed);
    assert!(story.proven(0));
    story.asks = Some(check("http://:80/b"));
    story.service(Prove::Never, 1, "a", Protocol::Tcp);
    assert!(!story.proven(0));
}

#[test]
fn a_bad_answer_concerns_those_alone_who_asked_for_it() {
    let mut story = Story::synced();
    for (name, asks) in [("a", Some("http://:80/a")), ("b", Some("http://:80/b")), ("c", None)] {
        (story.name, story.asks) = (name, asks.map(check));
        story.service(Prove::Never, 1, "x", Protocol::Tcp);
    }
    // Who comes first is not the alphabet's to say.
    let order: Vec<String> = story.engine.claimed_by(vip()).map(|service| service.name.to_string()).collect();
    let place = |name: &str| order.iter().position(|known| known == name).unwrap();
    let (first, second) = if place("a") < place("b") { ("a", "b") } else { ("b", "a") };
    let of = [first, second, "c"].map(place);
    story.engine.want_probe(vip(), ProbePurpose::Round);
    assert_eq!(story.probes()[0].ports, [(PORT, Some(check(&format!("http://:80/{first}"))))]);
    story.hear(unhealthy(PORT));
    assert_eq!(of.map(|claim| story.proven(claim)), [false, false, true], "a handshake is all that the third wants");
    story.report(ProbeOutcome::Passed);
    assert_eq!(of.map(|claim| story.proven(claim)), [true, false, true], "the second one's was not asked");
    let failures = |story: &Story| {
        let row = story.engine.vip_status(vip()).unwrap();
        of.map(|claim| row.services[claim].proof.failures)
    };
    story.hear(unhealthy(PORT));
    assert_eq!(failures(&story), [1, 0, 0]);
    story.report(ProbeOutcome::RefusedByBackend);
    assert_eq!(failures(&story), [2, 0, 1], "no handshake at all concerns everybody who was asked for");
}

#[test]
fn what_was_wrong_is_remembered_until_it_is_answered_well() {
    let (rules, now, mut proof) = (TrafficRules::default(), Timestamp::ZERO, Proof::default());
    proof.record(&unhealthy(PORT), now, &rules);
    let complaint = Some(Complaint::Status(503));
    assert_eq!(proof.status().complaint, complaint);
    proof.record(&report(ProbeOutcome::Lost), now, &rules);
    proof.record(&ProbeReport { port: OTHER, ..report(ProbeOutcome::Passed) }, now, &rules);
    assert_eq!(proof.status().complaint, complaint, "neither concerns it");
    proof.record(&report(ProbeOutcome::Passed), now, &rules);
    assert_eq!(proof.status().complaint, None);
}
