//! Runs of an engine, recorded as the daemon records them, and what their replays say.

use std::collections::VecDeque;
use std::time::Duration;

use super::replay::{Outcome, replay};
use super::tap::tests::{begin, text};
use super::tap::{Recorder, Tap, Tape, channel};
use super::{Found, Reader};
use crate::args::Output;
use crate::cli::replay as command;
use crate::engine::ejections::Guard;
use crate::engine::event::{Event, Handshakes, ProbeOutcome, ProbeReport, SourceState, TrafficCounts, TrafficSample};
use crate::engine::guard::{Permissions, VALID_FOR};
use crate::engine::intent::{Decision, WithdrawReason};
use crate::engine::observed::{BgpState, KernelEvent, KernelState, ProberState};
use crate::engine::plan::{self, Applied};
use crate::engine::proof::Prove;
use crate::engine::service::{
    EndpointCondition, EndpointCounts, EndpointScope, Endpoints, LocalEndpoint, NodeView, ServiceView, Terminating,
    VipClaim, VipKind,
};
use crate::engine::traffic::{TrafficMode, TrafficPolicy};
use crate::engine::types::{ObjectKey, PerFamily, Port, Protocol, Timestamp, Vip};
use crate::engine::verdict::Verdict;
use crate::engine::{Engine, Settings};

const PORT: Port = Port { protocol: Protocol::Tcp, number: 80 };
const SECOND: Duration = Duration::from_secs(1);

fn vip() -> Vip {
    Vip::new([10, 50, 0, 1].into())
}

fn service(endpoints: usize) -> Event {
    let endpoint = LocalEndpoint { pod: None, condition: EndpointCondition::Ready };
    let remote = EndpointCounts { ready: 1, ..EndpointCounts::default() };
    let endpoints = Endpoints { local: vec![endpoint; endpoints], remote };
    Event::Service(Box::new(ServiceView {
        key: ObjectKey::new("default", "web"),
        vips: vec![VipClaim { vip: vip(), kind: VipKind::LoadBalancer, scope: EndpointScope::Local }],
        refused: Vec::new(),
        ports: [PORT].into(),
        terminating: Terminating::Serving,
        prove: Prove::Wait,
        policy: TrafficPolicy::default(),
        check: None,
        profile: None,
        endpoints: PerFamily { v4: endpoints.clone(), v6: endpoints },
    }))
}

fn enforcing() -> Settings {
    Settings { traffic_mode: TrafficMode::Enforce, prove: Some(Duration::from_secs(10)), ..Settings::default() }
}

/// An engine with its tap, told things in the order in which the daemon's loop does; its backend may refuse.
struct Node {
    engine: Engine,
    recorder: Recorder,
    tap: Tap,
    now: Timestamp,
    broken: bool,
    /// Probes that are under way.
    flights: VecDeque<Timestamp>,
}

impl Node {
    fn new(settings: Settings) -> Self {
        let (recorder, tap) = channel();
        let engine = Engine::new(settings);
        let mut node = Self { engine, recorder, tap, now: Timestamp::ZERO, broken: false, flights: VecDeque::new() };
        for event in [
            Event::Prober(ProberState::Running),
            Event::Kernel(KernelEvent::Dump(KernelState::default())),
            Event::Bgp(BgpState::Disabled),
            Event::Node(NodeView::default()),
            service(1),
            Event::Source(SourceState::Synced),
        ] {
            node.turn(event);
        }
        node
    }

    fn record(&mut self) -> Tape {
        begin(&self.recorder, &mut self.tap, &self.engine, self.now)
    }

    fn turn(&mut self, event: Event) {
        self.tap.event(&event, self.now);
        self.engine.handle(event, self.now);
        while self.engine.wants_plan() {
            let steps = self.engine.plan(self.now).into_steps();
            let done = |step| Applied { step, outcome: plan::Outcome::Done };
            self.engine.handle(Event::Applied(steps.into_iter().map(done).collect()), self.now);
        }
        let wanted = self.engine.take_wanted_ejections();
        let asks = self.engine.settings().traffic_mode == TrafficMode::Enforce;
        let asks = asks && self.engine.settings().guard == Guard::Register;
        let probes = self.engine.take_probes(8).iter().map(|request| request.ports.len()).sum();
        self.flights.extend(std::iter::repeat_n(self.now.after(Duration::from_millis(1)), probes));
        let transitions = self.engine.take_transitions();
        self.tap.decided(&transitions, self.now);
        self.tap.turned(&self.engine, self.now);
        if let (Some(wanted), true) = (wanted, asks) {
            let answers = wanted.into_keys().map(|vip| (vip, Ok(()))).collect();
            self.turn(Event::Permissions(Permissions { answers, valid_for: VALID_FOR }));
        }
    }

    /// Seconds with ten connections each, which are refused while the backend is broken.
    fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds {
            let end = self.now.after(SECOND);
            while let Some(at) = self.next().filter(|at| *at <= end) {
                self.now = self.now.max(at);
                if self.flights.front() == Some(&at) {
                    self.flights.pop_front();
                    self.probe();
                } else {
                    self.turn(Event::Tick);
                }
            }
            self.now = end;
            self.sample();
        }
    }

    fn next(&self) -> Option<Timestamp> {
        self.engine.next_timer().into_iter().chain(self.flights.front().copied()).min()
    }

    fn probe(&mut self) {
        let outcome = if self.broken { ProbeOutcome::RefusedByBackend } else { ProbeOutcome::Passed };
        let report = ProbeReport { vip: vip(), port: PORT, outcome, complaint: None, latency: None };
        self.turn(Event::Probe(vec![report]));
    }

    fn sample(&mut self) {
        if !self.is_up() {
            return;
        }
        let (completed, failed) = if self.broken { (0, 10) } else { (10, 0) };
        let counts = TrafficCounts { syn: 10, syn_ack: completed, completed, ..TrafficCounts::default() };
        let handshakes = Handshakes {
            completed,
            refused_backend: failed,
            failed_prefixes: if failed > 0 { 0b1111 } else { 0 },
            one_in: 1,
            ..Handshakes::default()
        };
        self.turn(Event::Traffic(vec![TrafficSample { vip: vip(), port: PORT, span: SECOND, counts, handshakes }]));
    }

    fn is_up(&self) -> bool {
        self.engine.intent().any(|(_, decision)| decision.is_up())
    }

    /// Its backend refuses for a while; returns the recording of that, which begins before.
    fn incident(&mut self) -> String {
        self.seconds(70);
        let mut tape = self.record();
        self.seconds(30);
        self.broken = true;
        self.seconds(20);
        self.broken = false;
        self.seconds(60);
        text(&mut tape)
    }
}

fn replayed(recording: &str, change: impl FnOnce(&mut Settings), vip: Option<Vip>) -> Outcome {
    let mut reader = Reader::open(recording.as_bytes()).unwrap();
    let mut settings = reader.header().settings.settings().unwrap();
    change(&mut settings);
    replay(&mut reader, settings, vip).unwrap()
}

fn found(outcome: &Outcome) -> Vec<(Decision, Found)> {
    outcome.rows.iter().map(|row| (row.to, row.found)).collect()
}

const FAILS: Decision = Decision::Withdraw(WithdrawReason::ConnectionsFail);

#[test]
fn the_replay_of_a_run_is_the_run() {
    let recording = Node::new(enforcing()).incident();
    let outcome = replayed(&recording, |_| {}, None);
    let expected = [(FAILS, Found::AsRecorded), (Decision::Advertise, Found::AsRecorded)];
    assert_eq!((found(&outcome), outcome.differences.len(), outcome.cut), (expected.to_vec(), 0, false));
    assert_eq!(outcome.ended.since(outcome.begun), Duration::from_secs(110));
    // To the nanosecond: what the recording has of the decisions is not looked at.
    let recorded: Vec<String> =
        recording.lines().filter(|line| line.contains("{\"decision\"")).map(str::to_owned).collect();
    for (line, row) in recorded.iter().zip(&outcome.rows) {
        assert!(line.contains(&format!("\"at\":{},", super::format::nanos(row.at))), "{line}: {row:?}");
    }
}

#[test]
fn a_control_planes_decisions_are_replayed_too() {
    let mut node = Node::new(enforcing());
    let mut tape = node.record();
    node.seconds(5);
    node.turn(service(0));
    node.seconds(5);
    node.turn(service(1));
    node.seconds(15);
    node.turn(Event::Drained(true));
    node.seconds(2);
    let outcome = replayed(&text(&mut tape), |_| {}, None);
    let none = Decision::Withdraw(WithdrawReason::NoLocalEndpoint);
    let told: Vec<Decision> = outcome.rows.iter().map(|row| row.to).collect();
    assert!(told.contains(&none) && told.contains(&Decision::Withdraw(WithdrawReason::NodeDrained)), "{told:?}");
    assert!(outcome.rows.iter().all(|row| row.found == Found::AsRecorded), "{:?}", outcome.rows);
}

/// What is up when a recording begins does not wait for a proof, and what waits goes on.
#[test]
fn it_begins_with_what_stood() {
    let mut node = Node::new(enforcing());
    assert!(!node.is_up(), "it waits for a probe");
    let waits = text(&mut node.record());
    assert!(replayed(&waits, |_| {}, None).differences.is_empty());
    node.seconds(30);
    let up = text(&mut node.record());
    let outcome = replayed(&up, |_| {}, None);
    assert_eq!((outcome.differences.len(), outcome.rows.len()), (0, 0));
    node.broken = true;
    node.seconds(20);
    let convicted = text(&mut node.record());
    let outcome = replayed(&convicted, |_| {}, None);
    assert_eq!(outcome.differences.len(), 1, "nobody knows what led to it");
    assert_eq!(outcome.differences[0].recorded, Some(FAILS));
}

#[test]
fn a_raised_threshold_is_never_reached() {
    let recording = Node::new(enforcing()).incident();
    let raise = |settings: &mut Settings| (settings.traffic.threshold, settings.traffic.cap) = (900.0, 1000.0);
    let outcome = replayed(&recording, raise, Some(vip()));
    let expected = [(FAILS, Found::DidNotHappen), (Decision::Advertise, Found::DidNotHappen)];
    assert_eq!(found(&outcome), expected);
}

#[test]
fn the_course_of_a_verdict_is_told_by_the_second() {
    let recording = Node::new(enforcing()).incident();
    let outcome = replayed(&recording, |_| {}, Some(vip()));
    assert!(outcome.known && outcome.course.len() > 30, "{}", outcome.course.len());
    let suspect = outcome.course.iter().find(|point| point.evidence.suspect).unwrap();
    assert!(suspect.evidence.score >= suspect.threshold && suspect.handshakes == (0, 10), "{suspect:?}");
    assert!(matches!(suspect.verdict, Verdict::Suspect(_)), "{suspect:?}");
    assert!(outcome.course[..30].iter().all(|point| point.evidence.score == 0.0 && point.handshakes == (10, 0)));
    let other = Vip::new([10, 50, 0, 2].into());
    let outcome = replayed(&recording, |_| {}, Some(other));
    assert!(!outcome.known && outcome.course.is_empty() && outcome.rows.is_empty());
}

/// Nobody was asked while the daemon only observed: whoever wants to see what it would have done is permitted all.
#[test]
fn what_was_observed_can_be_enforced() {
    for guard in [Guard::NotAlone, Guard::Register] {
        let observing = Settings { traffic_mode: TrafficMode::Observe, guard, ..enforcing() };
        let recording = Node::new(observing).incident();
        assert!(replayed(&recording, |_| {}, None).rows.is_empty());
        let outcome = replayed(&recording, |settings| settings.traffic_mode = TrafficMode::Enforce, None);
        assert_eq!(found(&outcome).first(), Some(&(FAILS, Found::New)), "{guard:?}");
        assert_eq!(outcome.permitted, guard == Guard::Register);
    }
}

#[test]
fn what_the_register_permitted_is_replayed() {
    let recording = Node::new(Settings { guard: Guard::Register, ..enforcing() }).incident();
    let outcome = replayed(&recording, |_| {}, None);
    assert_eq!(found(&outcome).first(), Some(&(FAILS, Found::AsRecorded)), "{:?}", outcome.rows);
    assert!(outcome.rows.iter().all(|row| row.found == Found::AsRecorded) && !outcome.permitted);
    let refused = recording.replace("\"permitted\":[\"10.50.0.1\"]", "\"permitted\":[]");
    assert_eq!(found(&replayed(&refused, |_| {}, None))[0], (FAILS, Found::DidNotHappen));
}

#[test]
fn what_is_missing_is_told() {
    let recording = Node::new(enforcing()).incident();
    let live = recording.find("\"live\"}\n").unwrap() + 8;
    let at = Reader::open(recording.as_bytes()).unwrap().header().at;
    let missed = format!("{{\"at\":{at},\"record\":{{\"missed\":7}}}}\n");
    let holed = format!("{}{missed}{}", &recording[..live], &recording[live..recording.len() - 5]);
    let outcome = replayed(&holed, |_| {}, None);
    assert_eq!((outcome.missed, outcome.cut), (vec![(outcome.begun, 7)], true));
}

fn run(recording: &str, set: &[(&str, &str)], vip: Option<Vip>, output: Output) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), recording).unwrap();
    let set: Vec<_> = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let request = command::Request { file: file.path(), config: None, set: &set, vip, output };
    command::run(&request).map(|code| format!("{code:?}")).map_err(|error| format!("{error:#}"))
}

#[test]
fn the_command_says_by_its_exit_code_whether_anything_differs() {
    let recording = Node::new(enforcing()).incident();
    let code = |code: u8| Ok(format!("{:?}", std::process::ExitCode::from(code)));
    let raised = [("traffic.rule.threshold", "900"), ("traffic.rule.cap", "1000")];
    for output in [Output::Table, Output::Json] {
        assert_eq!(run(&recording, &[], Some(vip()), output), code(0));
        assert_eq!(run(&recording, &raised, None, output), code(3));
    }
    assert_eq!(run(&recording, &[("traffic.mode", "observe")], None, Output::Table), code(3));
    assert_eq!(run(&recording, &[("traffic.prove_seconds", "0")], None, Output::Table), code(0));
    for (key, value, says) in [
        (
            "traffic.rule.threshhold",
            "1",
            "traffic.rule.threshhold: there is no such key; `cosmolet check-config --keys`",
        ),
        ("traffic.rule.threshold", "much", "traffic.rule.threshold: invalid type: string \"much\""),
        ("traffic.rule.threshold", "30", "traffic.rule.cap: \"23\": must be 1 to 1000 and at least"),
        ("traffic.rule.threshold", "[", "--set traffic.rule.threshold=["),
        ("traffic.mode", "sideways", "--set traffic.mode=sideways"),
        ("traffic.prove_seconds", "601", "must be 0 to 600 seconds"),
        ("bgp.asn", "1", "--set bgp.asn=1: a replay has traffic.rule.KEY"),
    ] {
        let error = run(&recording, &[(key, value)], None, Output::Table).unwrap_err();
        assert!(error.contains(says), "{key}={value}: {error}");
    }
    let unknown = run(&recording, &[], Some(Vip::new([1, 2, 3, 4].into())), Output::Table).unwrap_err();
    assert!(unknown.ends_with("no Service in it names 1.2.3.4"), "{unknown}");
    let broken = recording.replacen("\"live\"", "\"dead\"", 1);
    let line = recording.lines().position(|line| line.contains("\"live\"")).unwrap() + 1;
    let error = run(&broken, &[], None, Output::Table).unwrap_err();
    assert!(error.contains(&format!("line {line}: unknown variant `dead`")), "{error}");
}

/// Recordings of incidents, each of which this version decides as it was decided then. See docs/replay.md.
#[test]
fn incidents_are_decided_as_they_were() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/recording/incidents");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let recording = std::fs::read_to_string(&path).unwrap();
        let outcome = replayed(&recording, |_| {}, None);
        assert!(outcome.differences.is_empty() && !outcome.cut, "{}: {:?}", path.display(), outcome.differences);
        assert!(!outcome.rows.is_empty(), "{} decides nothing", path.display());
        let differing: Vec<_> = outcome.rows.iter().filter(|row| row.found != Found::AsRecorded).collect();
        assert!(differing.is_empty(), "{}: {differing:#?}", path.display());
        seen += 1;
    }
    assert!(seen > 0);
}
