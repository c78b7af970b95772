//! The task that sends wire-true probes and tells the engine what became of them.
//!
//! Owns the queue, the rate, the time-outs and the control probes that tell silence from a probe that was lost. Never decides
//! what an outcome means. Where probes cannot be sent it says so, and the daemon goes on without.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::ebpf::CaughtRing;
use crate::engine::check::{Ask, Check, Complaint};
use crate::engine::event::{Event, ProbeOutcome, ProbePurpose, ProbeReport, ProbeRequest};
use crate::engine::observed::ProberState;
use crate::engine::types::{Family, Port, Uplink, Vip};
use crate::metrics::Metrics;
use crate::probe::{Answer, Error, Prober, Reply, Sources, Token, Told};

/// Requests that may wait for the task, each of up to as many VIPs.
const REQUESTS: usize = 16;
/// VIPs in one request.
const VIPS: usize = 64;
/// Probes in one go, about a millisecond's worth; then the others of this thread have their turn.
const BURST: u32 = 16;
/// Probes that may wait to be sent.
const QUEUE: usize = 4096;
/// The most ports of one VIP in one go.
const PORTS: usize = 8;
/// How long an answer may take: for a VIP that waits the next probe follows soon, any other has the time of a client's
/// first retransmission (RFC 6298, 2.1).
const PROOF_LIMIT: Duration = Duration::from_millis(250);
const LIMIT: Duration = Duration::from_secs(1);
/// How long an answer to what an owner asks may take, as for the kubelet's probes.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Questions that are asked at a time.
const TALKS: usize = 32;
/// How long this host itself may take.
const CONTROL_LIMIT: Duration = Duration::from_millis(250);
/// A port where nobody listens (tcpmux).
const CONTROL_PORT: u16 = 1;

/// How probes are sent.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where they come from.
    pub sources: Sources,
    /// The most in a second.
    pub rate: u32,
}

/// The daemon's end of the task.
#[derive(Clone, Debug)]
pub struct ProbingHandle {
    requests: mpsc::Sender<Vec<ProbeRequest>>,
}

impl ProbingHandle {
    /// Hands over what `take` gives for so many VIPs at most, unless the task is busy. Never waits.
    pub fn ask(&self, take: impl FnOnce(usize) -> Vec<ProbeRequest>) {
        if let Ok(permit) = self.requests.try_reserve() {
            permit.send(take(VIPS));
        }
    }
}

/// What the task hears of the programs.
pub struct FromPrograms {
    /// What they catch; closed where they will never run.
    pub ring: oneshot::Receiver<CaughtRing>,
    /// The uplinks by which probes may be sent.
    pub attached: watch::Receiver<Vec<Uplink>>,
}

/// Starts the task.
#[must_use]
pub fn spawn(
    options: Options,
    programs: FromPrograms,
    events: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
) -> ProbingHandle {
    let (requests, inbox) = mpsc::channel(REQUESTS);
    tokio::spawn(run(options, programs, events, metrics, inbox));
    ProbingHandle { requests }
}

async fn run(
    options: Options,
    programs: FromPrograms,
    events: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
    mut inbox: mpsc::Receiver<Vec<ProbeRequest>>,
) {
    let FromPrograms { ring, mut attached } = programs;
    let opened = match ring.await {
        Ok(ring) => Prober::open(options.sources, ring).map_err(|error| error.to_string()),
        Err(_closed) => Err("no eBPF programs run".to_owned()),
    };
    let prober = match opened {
        Ok(prober) => prober,
        Err(reason) => {
            drop(events.send(Event::Prober(ProberState::Off(reason))).await);
            return;
        }
    };
    let mut task = Task::new(prober, options.rate, events, metrics);
    loop {
        let wake = task.wake();
        let room = task.queue.len() < QUEUE;
        tokio::select! {
            biased;
            changed = attached.changed() => {
                if changed.is_err() {
                    return;
                }
                let uplinks = attached.borrow_and_update().clone();
                task.reconcile(&uplinks).await;
            }
            requests = inbox.recv(), if room => match requests {
                Some(requests) => task.queue_up(requests),
                None => return,
            },
            () = task.prober.caught() => {}
            Some(over) = task.talks.join_next() => task.heard(over),
            () = sleep_until(wake) => {}
        }
        task.turn().await;
    }
}

/// What is probed, what it is asked beyond a handshake, and why.
#[derive(Clone, Debug)]
struct Errand {
    vip: Vip,
    port: Port,
    check: Option<Arc<Check>>,
    purpose: ProbePurpose,
}

/// A probe under way.
#[derive(Clone, Debug)]
struct Flight {
    /// `None` is a control probe.
    errand: Option<Errand>,
    path: Path,
    sent: Instant,
    until: Instant,
}

/// An uplink and a family: what a control probe speaks for.
type Path = (u32, Family);

struct Task {
    prober: Prober,
    events: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
    told: Option<ProberState>,
    rate: Rate,
    /// What waits to be sent, in the order of its weight and its coming.
    queue: BTreeMap<(ProbePurpose, u64), Errand>,
    queued: u64,
    flights: BTreeMap<Token, Flight>,
    deadlines: BTreeSet<(Instant, Token)>,
    /// Nothing came back for these; a control probe is to say what that means.
    doubts: Vec<Flight>,
    controls: BTreeSet<Path>,
    /// When the last probe was sent that was answered, on each path.
    answered: BTreeMap<Path, Instant>,
    /// A handshake was well for these, and the question is being asked.
    talks: JoinSet<(Errand, Duration, Told)>,
    /// Likewise, and the question is still to be asked.
    unasked: VecDeque<(Errand, Arc<Check>, Path, Duration)>,
    reports: Vec<ProbeReport>,
}

impl Task {
    fn new(prober: Prober, rate: u32, events: mpsc::Sender<Event>, metrics: Arc<Metrics>) -> Self {
        Self {
            prober,
            events,
            metrics,
            told: None,
            rate: Rate::new(rate),
            queue: BTreeMap::new(),
            queued: 0,
            flights: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            doubts: Vec::new(),
            controls: BTreeSet::new(),
            answered: BTreeMap::new(),
            talks: JoinSet::new(),
            unasked: VecDeque::new(),
            reports: Vec::new(),
        }
    }

    /// Takes other uplinks, and says whether probes can be sent by any.
    async fn reconcile(&mut self, uplinks: &[Uplink]) {
        let state = match self.prober.reconcile(uplinks) {
            Err(error) => ProberState::Off(error.to_string()),
            Ok(results) => state(&results),
        };
        if self.told.as_ref() != Some(&state) {
            self.told = Some(state.clone());
            drop(self.events.send(Event::Prober(state)).await);
        }
    }

    fn running(&self) -> bool {
        self.told == Some(ProberState::Running)
    }

    fn queue_up(&mut self, requests: Vec<ProbeRequest>) {
        for request in requests {
            // A part of very many ports, another one each time.
            let from = usize::try_from(self.queued).unwrap_or(0) % request.ports.len().max(1);
            for (port, check) in request.ports.iter().cycle().skip(from).take(PORTS.min(request.ports.len())) {
                self.queued += 1;
                let (vip, port, check, purpose) = (request.vip, *port, check.clone(), request.purpose);
                self.queue.insert((purpose, self.queued), Errand { vip, port, check, purpose });
            }
        }
    }

    /// When something is to be done though nothing happens.
    fn wake(&self) -> Instant {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let burst = (!self.queue.is_empty()).then(|| self.rate.ready_at());
        let idle = Instant::now() + Duration::from_secs(3600);
        deadline.into_iter().chain(burst).min().unwrap_or(idle)
    }

    async fn turn(&mut self) {
        self.collect();
        let mut left = self.rate.allowed(Instant::now());
        while left > 0
            && let Some((_, errand)) = self.queue.pop_first()
        {
            self.probe(errand);
            left -= 1;
        }
        self.collect();
        self.ask();
        self.expire(Instant::now());
        if !self.reports.is_empty() {
            let reports = std::mem::take(&mut self.reports);
            drop(self.events.send(Event::Probe(reports)).await);
        }
    }

    fn probe(&mut self, errand: Errand) {
        let uplinks: Vec<u32> = self.prober.uplinks().collect();
        let place = usize::try_from(self.rate.sent).unwrap_or(0).checked_rem(uplinks.len());
        let ifindex = place.and_then(|place| uplinks.get(place).copied());
        let family = errand.vip.family();
        let (Some(ifindex), true, true) = (ifindex, self.running(), self.prober.can(family)) else {
            return self.report(&errand, ProbeOutcome::Lost, None);
        };
        let limit = if errand.purpose == ProbePurpose::Proof { PROOF_LIMIT } else { LIMIT };
        let to = SocketAddr::new(errand.vip.address(), errand.port.number);
        if !self.send((ifindex, family), to, Some(errand.clone()), limit) {
            self.report(&errand, ProbeOutcome::Lost, None);
        }
    }

    fn send(&mut self, path: Path, to: SocketAddr, errand: Option<Errand>, limit: Duration) -> bool {
        let sent = Instant::now();
        self.rate.spend(Instant::now());
        let datagram = errand.as_ref().and_then(Errand::datagram);
        match self.prober.send(path.0, to, datagram) {
            Ok(token) => {
                let flight = Flight { errand, path, sent, until: sent + limit };
                self.deadlines.insert((flight.until, token));
                self.flights.insert(token, flight);
                true
            }
            Err(error) => {
                debug!(%error, %to, "a probe was not sent");
                false
            }
        }
    }

    fn collect(&mut self) {
        for Answer { token, reply, latency } in self.prober.collect() {
            let Some(flight) = self.flights.remove(&token) else { continue };
            self.deadlines.remove(&(flight.until, token));
            let outcome = outcome(reply);
            if outcome != ProbeOutcome::Lost {
                self.answered.insert(flight.path, flight.sent);
            }
            match flight.errand {
                Some(errand) => match errand.question() {
                    Some(check) if outcome == ProbeOutcome::Passed => {
                        self.unasked.push_back((errand, check, flight.path, latency));
                    }
                    Some(_) | None => self.report(&errand, outcome, Some(latency)),
                },
                None => {
                    self.controls.remove(&flight.path);
                    self.resolve(flight.path, ProbeOutcome::Silent);
                }
            }
        }
    }

    /// Asks what is to be asked where a handshake was well, some of it at a time.
    fn ask(&mut self) {
        while self.talks.len() < TALKS
            && let Some((errand, check, path, latency)) = self.unasked.pop_front()
        {
            let to = SocketAddr::new(errand.vip.address(), errand.port.number);
            match self.prober.connect(path.0, to) {
                Ok(question) => {
                    self.talks.spawn(async move { (errand, latency, question.ask(&check, ANSWER_LIMIT).await) });
                }
                Err(error) => {
                    debug!(%error, %to, "a probe's connection was not made");
                    self.report(&errand, ProbeOutcome::Lost, None);
                }
            }
        }
    }

    fn heard(&mut self, over: Result<(Errand, Duration, Told), tokio::task::JoinError>) {
        // It neither panics nor is it cancelled while the task lives.
        let Ok((errand, latency, told)) = over else { return };
        match told {
            Told::Well => self.report(&errand, ProbeOutcome::Passed, Some(latency)),
            Told::Lost => self.report(&errand, ProbeOutcome::Lost, None),
            Told::Ill(complaint) => {
                self.report_with(&errand, ProbeOutcome::Unhealthy, Some(complaint), Some(latency));
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((until, token)) = self.deadlines.first().copied()
            && until <= now
        {
            self.deadlines.remove(&(until, token));
            self.prober.give_up(token);
            let Some(flight) = self.flights.remove(&token) else { continue };
            match &flight.errand {
                None => {
                    self.controls.remove(&flight.path);
                    self.resolve(flight.path, ProbeOutcome::Lost);
                }
                Some(errand) if self.answered.get(&flight.path).is_some_and(|at| *at >= flight.sent) => {
                    self.report(errand, ProbeOutcome::Silent, None);
                }
                Some(_) => self.doubt(flight),
            }
        }
    }

    /// Asks this host itself by the same way.
    fn doubt(&mut self, flight: Flight) {
        let path = flight.path;
        self.doubts.push(flight);
        if self.controls.contains(&path) {
            return;
        }
        let control = self.prober.control(path.0, path.1);
        let to = control.map(|address: IpAddr| SocketAddr::new(address, CONTROL_PORT));
        if to.is_some_and(|to| self.send(path, to, None, CONTROL_LIMIT)) {
            self.controls.insert(path);
        } else {
            self.resolve(path, ProbeOutcome::Lost);
        }
    }

    /// It is known now what silence means on a path.
    fn resolve(&mut self, path: Path, outcome: ProbeOutcome) {
        let (resolved, left) = std::mem::take(&mut self.doubts).into_iter().partition(|flight| flight.path == path);
        self.doubts = left;
        let resolved: Vec<Flight> = resolved;
        for errand in resolved.iter().filter_map(|flight| flight.errand.as_ref()) {
            self.report(errand, outcome, None);
        }
    }

    fn report(&mut self, errand: &Errand, outcome: ProbeOutcome, latency: Option<Duration>) {
        self.report_with(errand, outcome, None, latency);
    }

    fn report_with(
        &mut self,
        errand: &Errand,
        outcome: ProbeOutcome,
        complaint: Option<Complaint>,
        latency: Option<Duration>,
    ) {
        self.metrics.probe(errand.purpose, outcome, latency);
        self.reports.push(ProbeReport { vip: errand.vip, port: errand.port, outcome, complaint, latency });
    }
}

impl Errand {
    /// What is sent in the place of a SYN.
    fn datagram(&self) -> Option<&[u8]> {
        match &self.check.as_ref()?.ask {
            Ask::Datagram(bytes) => Some(bytes),
            Ask::Hello | Ask::Get(_) | Ask::Grpc(_) => None,
        }
    }

    /// What is asked over a connection, once a handshake was well.
    fn question(&self) -> Option<Arc<Check>> {
        self.check.clone().filter(|check| !matches!(check.ask, Ask::Datagram(_)))
    }
}

const fn outcome(reply: Reply) -> ProbeOutcome {
    match reply {
        Reply::Accepted => ProbeOutcome::Passed,
        Reply::RefusedBehind => ProbeOutcome::RefusedByBackend,
        Reply::RefusedHere => ProbeOutcome::RefusedByHost,
        // Its answer takes another way, so that nothing can be said of it.
        Reply::Passing => ProbeOutcome::Lost,
    }
}

fn state(results: &[(Uplink, Result<(), Error>)]) -> ProberState {
    let failures = results.iter().filter_map(|(_, result)| result.as_ref().err());
    match (results.iter().any(|(_, result)| result.is_ok()), failures.map(ToString::to_string).next()) {
        (true, _) => ProberState::Running,
        (false, Some(failure)) => ProberState::Off(failure),
        (false, None) => ProberState::Off("the programs are not attached to every uplink".to_owned()),
    }
}

/// So many probes in a second, in bursts.
#[derive(Debug)]
struct Rate {
    pause: Duration,
    /// Everything sent up to here has been paid for by then.
    paid_until: Instant,
    sent: u64,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        Self { pause: Duration::from_secs(1) / per_second.max(1), paid_until: Instant::now(), sent: 0 }
    }

    fn burst(&self) -> Duration {
        self.pause * BURST
    }

    /// How many may be sent now.
    fn allowed(&self, now: Instant) -> u32 {
        let credit = (now + self.burst()).saturating_duration_since(self.paid_until);
        let probes = credit.as_nanos() / self.pause.as_nanos().max(1);
        u32::try_from(probes).unwrap_or(BURST).min(BURST)
    }

    /// When one more may be sent.
    fn ready_at(&self) -> Instant {
        (self.paid_until + self.pause).checked_sub(self.burst()).unwrap_or(self.paid_until)
    }

    fn spend(&mut self, now: Instant) {
        self.sent += 1;
        self.paid_until = self.paid_until.max(now) + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut rate = Rate::new(100);
        let start = Instant::now();
        for _ in 0..BURST {
            assert!(rate.allowed(start) > 0);
            rate.spend(start);
        }
        assert_eq!(rate.allowed(start), 0);
        let later = start + Duration::from_millis(101);
        assert!((9..=11).contains(&rate.allowed(later)), "{}", rate.allowed(later));
        assert_eq!(rate.allowed(start + Duration::from_secs(60)), BURST);
    }
}
