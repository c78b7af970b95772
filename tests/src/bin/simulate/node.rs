//! One node with one Service of one port, second by second: the daemon's own engine in a made-up world of clients,
//! backends and probes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use cosmolet::engine::event::{
    Event, Handshakes, ProbeOutcome, ProbeReport, SourceState, TrafficCounts, TrafficSample,
};
use cosmolet::engine::intent::Decision;
use cosmolet::engine::observed::{BgpState, KernelEvent, KernelState, ProberState};
use cosmolet::engine::proof::Prove;
use cosmolet::engine::service::{
    EndpointCondition, EndpointScope, Endpoints, LocalEndpoint, NodeView, ServiceView, Terminating, VipClaim, VipKind,
};
use cosmolet::engine::traffic::{SecondKey, TrafficMode, TrafficPolicy};
use cosmolet::engine::types::{ObjectKey, PerFamily, Port, Protocol, Timestamp, Vip};
use cosmolet::engine::verdict::Verdict;
use cosmolet::engine::{Engine, Settings};

use crate::random::Random;

const SECOND: Duration = Duration::from_secs(1);
const PORT: Port = Port { protocol: Protocol::Tcp, number: 80 };
/// A SYN without an answer counts as failed after so many seconds.
const PATIENCE: usize = 3;

/// What becomes of a connection that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The backend answers RST.
    Refused,
    /// Nobody answers.
    Silent,
    /// This host answers RST.
    Host,
}

/// The node.
pub struct Node {
    engine: Engine,
    vip: Vip,
    now: Timestamp,
    failure: Failure,
    /// The share of connections that fail now, probes among them.
    share: f64,
    /// Probes under way.
    flights: BTreeMap<(Timestamp, u64), ProbeOutcome>,
    sent: u64,
    /// SYN that nobody has answered, of the last seconds, with their clients' prefixes.
    unanswered: VecDeque<(u64, u64)>,
    /// The randomness of its clients.
    pub random: Random,
    /// It is suspect, or convicted.
    pub suspect: bool,
    /// How often it became so.
    pub suspicions: u64,
    /// It is withdrawn.
    pub withdrawn: bool,
    /// How often it was.
    pub withdrawals: u64,
}

impl Node {
    /// A node that is well. Connections that fail do so in this way; a suspicion needs this second key.
    pub fn new(failure: Failure, evidence: SecondKey, seed: u64) -> Self {
        let vip = Vip::new([10, 0, 0, 1].into());
        let engine = Engine::new(Settings { traffic_mode: TrafficMode::Enforce, ..Settings::default() });
        let mut node = Self {
            engine,
            vip,
            now: Timestamp::ZERO,
            failure,
            share: 0.0,
            flights: BTreeMap::new(),
            sent: 0,
            unanswered: VecDeque::new(),
            random: Random(seed),
            suspect: false,
            suspicions: 0,
            withdrawn: false,
            withdrawals: 0,
        };
        for event in [
            Event::Prober(ProberState::Running),
            Event::Kernel(KernelEvent::Dump(KernelState::default())),
            Event::Bgp(BgpState::Disabled),
            Event::Node(NodeView::default()),
            Event::Service(Box::new(service(vip, evidence))),
            Event::Source(SourceState::Synced),
        ] {
            node.tell(event);
        }
        node
    }

    /// One second with this rate of connections, of which this share fails, from this many client prefixes. While the VIP
    /// is withdrawn, nobody comes.
    pub fn second(&mut self, rate: f64, share: f64, clients: u64) {
        self.share = share;
        let rate = if self.withdrawn { 0.0 } else { rate };
        let (failed, completed) = (self.random.poisson(rate * share), self.random.poisson(rate * (1.0 - share)));
        let mut prefixes = 0;
        for _ in 0..failed.min(64) {
            prefixes |= 1 << self.random.below(clients);
        }
        let mut counts =
            TrafficCounts { syn: failed + completed, syn_ack: completed, completed, ..TrafficCounts::default() };
        let mut handshakes = Handshakes { completed, failed_prefixes: prefixes, one_in: 1, ..Handshakes::default() };
        match self.failure {
            Failure::Refused => (counts.rst_backend, handshakes.refused_backend) = (failed, failed),
            Failure::Host => (counts.rst_host, handshakes.refused_host) = (failed, failed),
            Failure::Silent => {
                self.unanswered.push_back((failed, prefixes));
                let old = if self.unanswered.len() > PATIENCE { self.unanswered.pop_front() } else { None };
                (handshakes.timed_out, handshakes.failed_prefixes) = old.unwrap_or_default();
            }
        }
        self.sample(handshakes, counts);
    }

    /// One second with exactly these handshakes and counts.
    pub fn sample(&mut self, handshakes: Handshakes, counts: TrafficCounts) {
        let end = self.now.after(SECOND);
        self.until(end);
        self.now = end;
        // The programs send no sample of a port without packets.
        if counts.syn > 0 || handshakes.timed_out > 0 {
            let sample = TrafficSample { vip: self.vip, port: PORT, span: SECOND, counts, handshakes };
            self.tell(Event::Traffic(vec![sample]));
        }
    }

    /// Lets timers fire and probes come back.
    fn until(&mut self, end: Timestamp) {
        loop {
            let flight = self.flights.first_key_value().map(|(key, outcome)| (*key, *outcome));
            let timer = self.engine.next_timer();
            match flight {
                Some((key, outcome)) if key.0 <= end && timer.is_none_or(|at| key.0 <= at) => {
                    self.flights.remove(&key);
                    self.now = self.now.max(key.0);
                    self.tell(Event::Probe(vec![ProbeReport {
                        vip: self.vip,
                        port: PORT,
                        outcome,
                        complaint: None,
                        latency: None,
                    }]));
                }
                _ => match timer {
                    Some(at) if at <= end => {
                        self.now = self.now.max(at);
                        self.tell(Event::Tick);
                    }
                    Some(_) | None => return,
                },
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(event, self.now);
        if self.engine.wants_plan() {
            self.engine.plan(self.now);
        }
        for request in self.engine.take_probes(8) {
            for _ in &request.ports {
                self.probe();
            }
        }
        self.look();
    }

    /// A probe fares as a client would now.
    fn probe(&mut self) {
        self.sent += 1;
        let fails = self.random.chance(self.share);
        let (outcome, after) = match (fails, self.failure) {
            (false, _) => (ProbeOutcome::Passed, Duration::from_millis(1)),
            (true, Failure::Refused) => (ProbeOutcome::RefusedByBackend, Duration::from_millis(1)),
            (true, Failure::Host) => (ProbeOutcome::RefusedByHost, Duration::from_millis(1)),
            (true, Failure::Silent) => (ProbeOutcome::Silent, SECOND),
        };
        self.flights.insert((self.now.after(after), self.sent), outcome);
    }

    fn look(&mut self) {
        for transition in self.engine.take_transitions() {
            let withdrawn = transition.to != Decision::Advertise;
            self.withdrawals += u64::from(withdrawn && transition.was_up);
            self.withdrawn = withdrawn;
        }
        if self.engine.has_changed() {
            self.engine.take_changed(8);
            let status = self.engine.vip_status(self.vip);
            let verdict = status.and_then(|status| status.services.first().map(|claim| claim.verdict));
            let suspect = matches!(verdict, Some(Verdict::Suspect(_) | Verdict::Convicted(_)));
            self.suspicions += u64::from(suspect && !self.suspect);
            self.suspect = suspect;
        }
    }
}

fn service(vip: Vip, evidence: SecondKey) -> ServiceView {
    let endpoint = LocalEndpoint { pod: None, condition: EndpointCondition::Ready };
    let endpoints = Endpoints { local: vec![endpoint], ..Endpoints::default() };
    ServiceView {
        key: ObjectKey::new("default", "web"),
        vips: vec![VipClaim { vip, kind: VipKind::LoadBalancer, scope: EndpointScope::Local }],
        refused: Vec::new(),
        ports: [PORT].into(),
        terminating: Terminating::Serving,
        prove: Prove::Never,
        policy: TrafficPolicy { evidence, ..TrafficPolicy::default() },
        check: None,
        profile: None,
        endpoints: PerFamily { v4: endpoints.clone(), v6: endpoints },
    }
}
