//! A recording, told to an engine at its own times.
//!
//! Owns the engine of the replay, its clock and its made-up world, in which every step of a plan succeeds at once. Answers
//! nothing that was not recorded: what a probe of the replay would have found out nobody knows.

use std::io::BufRead;
use std::net::IpAddr;

use super::compare::{Difference, Made, Row, compare};
use super::format::{Bgp, Header, What};
use super::reader::{Error, Moment, Reader};
use crate::engine::ejections::Guard;
use crate::engine::event::{Event, TrafficSample};
use crate::engine::guard::Permissions;
use crate::engine::intent::{Decision, WithdrawReason};
use crate::engine::observed::{
    BgpFault, BgpState, BgpView, KernelEvent, KernelState, LoopbackAddress, Network, Owner, PeerView,
};
use crate::engine::plan::{self, Applied};
use crate::engine::service::Refusal;
use crate::engine::traffic::{PortReport, TrafficMode};
use crate::engine::types::{Family, Mode, Port, Timestamp, Vip};
use crate::engine::verdict::Verdict;
use crate::engine::{Engine, Settings};

/// What a replay has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The recording's first line.
    pub header: Header,
    /// When it began.
    pub begun: Timestamp,
    /// When its last record was.
    pub ended: Timestamp,
    /// The last record was cut short.
    pub cut: bool,
    /// Where records are missing, and how many.
    pub missed: Vec<(Timestamp, u64)>,
    /// Records that were read.
    pub records: usize,
    /// VIPs that it begins with otherwise.
    pub differences: Vec<Difference>,
    /// The decisions of both, in the order of time.
    pub rows: Vec<Row>,
    /// The verdict's course of the VIP that was asked for.
    pub course: Vec<Point>,
    /// The VIP that was asked for is in it.
    pub known: bool,
    /// Nobody had been asked whether a VIP may be withdrawn, so that all are taken to permit it.
    pub permitted: bool,
}

/// The verdict on one port at one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When.
    pub at: Timestamp,
    /// The port.
    pub port: Port,
    /// Followed handshakes that were completed, and that failed.
    pub handshakes: (u64, u64),
    /// The evidence after the sample.
    pub evidence: PortReport,
    /// The score from which on the port is suspect.
    pub threshold: f64,
    /// The verdict on the claim of the Service.
    pub verdict: Verdict,
}

/// Replays a recording; `vip` leaves out the decisions about all others and adds the verdict's course.
///
/// # Errors
/// The recording cannot be read to its end.
pub fn replay(reader: &mut Reader<impl BufRead>, settings: Settings, vip: Option<Vip>) -> Result<Outcome, Error> {
    let recorded = reader.header().settings.settings()?;
    let mut replay = Replay::new(settings, &recorded, reader, vip);
    while let Some(moment) = reader.read()? {
        replay.take(moment);
    }
    Ok(replay.end(reader))
}

struct Replay {
    engine: Engine,
    begun: Timestamp,
    now: Timestamp,
    vip: Option<Vip>,
    bgp: Bgp,
    /// Every ejection that is wanted is permitted: the recorded daemon has asked nobody.
    permitted: bool,
    standing: Vec<(Vip, Decision)>,
    /// The world of the beginning stands, and events may come.
    open: bool,
    recorded: Vec<Made>,
    replayed: Vec<Made>,
    records: usize,
    known: bool,
    missed: Vec<(Timestamp, u64)>,
    differences: Vec<Difference>,
    course: Vec<Point>,
}

impl Replay {
    fn new<R: BufRead>(settings: Settings, recorded: &Settings, reader: &Reader<R>, vip: Option<Vip>) -> Self {
        let asked = recorded.traffic_mode == TrafficMode::Enforce;
        let acts = settings.traffic_mode == TrafficMode::Enforce;
        let permitted = acts && !asked && settings.guard == Guard::Register;
        Self {
            engine: Engine::new(settings),
            begun: reader.begun(),
            now: reader.begun(),
            vip,
            bgp: reader.header().bgp,
            permitted,
            standing: Vec::new(),
            open: false,
            recorded: Vec::new(),
            replayed: Vec::new(),
            records: 0,
            known: vip.is_none(),
            missed: Vec::new(),
            differences: Vec::new(),
            course: Vec::new(),
        }
    }

    fn take(&mut self, Moment { at, what }: Moment) {
        self.records += 1;
        match what {
            What::Standing(vip, decision) => self.standing.push((vip, decision)),
            What::Decision(vip, decision) => self.recorded.push((at, vip, decision)),
            What::Missed(count) => self.missed.push((at, count)),
            What::Live => {
                self.open();
                self.differences = self.differences();
                self.replayed.clear();
            }
            What::Event(event) => {
                self.open();
                self.event(event, at);
            }
        }
    }

    /// Makes the kernel and FRR hold what the standing decisions say of them.
    fn open(&mut self) {
        if !std::mem::replace(&mut self.open, true) {
            let (kernel, bgp) = world(&self.standing, self.bgp);
            self.tell(Event::Kernel(KernelEvent::Dump(kernel)));
            self.tell(Event::Bgp(bgp));
        }
    }

    fn event(&mut self, event: Event, at: Timestamp) {
        self.until(at);
        let mut sampled = Vec::new();
        if let (Event::Traffic(samples), Some(vip)) = (&event, self.vip) {
            sampled.extend(samples.iter().filter(|sample| sample.vip == vip).copied());
        }
        self.tell(event);
        self.course.extend(sampled.iter().filter_map(|sample| point(&self.engine, sample, at)));
        self.known |= self.vip.is_some_and(|vip| !self.known && self.engine.vip_status(vip).is_some());
    }

    /// Lets the time pass until then: timers fire in their order, as in the daemon.
    fn until(&mut self, at: Timestamp) {
        while let Some(timer) = self.engine.next_timer().filter(|timer| *timer <= at) {
            self.now = self.now.max(timer);
            self.tell(Event::Tick);
        }
        self.now = self.now.max(at);
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(event, self.now);
        self.carry_out();
        if let Some(wanted) = self.engine.take_wanted_ejections()
            && self.permitted
        {
            let answers = wanted.into_keys().map(|vip| (vip, Ok(()))).collect();
            let valid_for = std::time::Duration::from_secs(u32::MAX.into());
            self.engine.handle(Event::Permissions(Permissions { answers, valid_for }), self.now);
            self.carry_out();
        }
        // Nobody answers them, and nobody is to wait for room among them.
        drop(self.engine.take_probes(usize::MAX));
        self.engine.take_changed(usize::MAX);
        let made = self.engine.take_transitions();
        self.replayed.extend(made.iter().map(|transition| (transition.at, transition.vip, transition.to)));
    }

    fn carry_out(&mut self) {
        while self.engine.wants_plan() {
            let steps = self.engine.plan(self.now).into_steps();
            if !steps.is_empty() {
                let done = |step| Applied { step, outcome: plan::Outcome::Done };
                self.engine.handle(Event::Applied(steps.into_iter().map(done).collect()), self.now);
            }
        }
    }

    /// What the replay begins with otherwise than the daemon that was recorded; what is withdrawn and unclaimed may be forgotten.
    fn differences(&self) -> Vec<Difference> {
        let mut vips: std::collections::BTreeMap<Vip, Difference> = std::collections::BTreeMap::new();
        let unknown = |vip| Difference { vip, recorded: None, replayed: None };
        for (vip, decision) in &self.standing {
            vips.entry(*vip).or_insert_with(|| unknown(*vip)).recorded = Some(*decision);
        }
        for (vip, decision) in self.engine.intent() {
            vips.entry(vip).or_insert_with(|| unknown(vip)).replayed = Some(decision);
        }
        let up = |decision: Option<Decision>| decision.is_some_and(Decision::is_up);
        let differs = |one: &Difference| match (one.recorded, one.replayed) {
            (Some(recorded), Some(replayed)) => recorded != replayed,
            (recorded, replayed) => up(recorded) || up(replayed),
        };
        vips.into_values().filter(differs).collect()
    }

    fn end<R: BufRead>(self, reader: &Reader<R>) -> Outcome {
        let asked = |vip: Vip| self.vip.is_none_or(|asked| asked == vip);
        let only = |made: &[Made]| -> Vec<Made> { made.iter().filter(|made| asked(made.1)).copied().collect() };
        Outcome {
            header: reader.header().clone(),
            begun: self.begun,
            ended: self.now,
            cut: reader.is_cut(),
            records: self.records,
            differences: self.differences.iter().filter(|one| asked(one.vip)).copied().collect(),
            rows: compare(&only(&self.recorded), &only(&self.replayed)),
            known: self.known,
            permitted: self.permitted,
            missed: self.missed,
            course: self.course,
        }
    }
}

/// The kernel and FRR in which these decisions stand: what is up has its address, what is refused for something that is there
/// finds it.
fn world(standing: &[(Vip, Decision)], bgp: Bgp) -> (KernelState, BgpState) {
    let held =
        |vip: Vip, owner| (vip, LoopbackAddress { owner, valid_for: None, prefix_route: vip.family() == Family::V6 });
    let up = || standing.iter().filter(|(_, decision)| decision.is_up()).map(|(vip, _)| *vip);
    let refused = |refusal: Refusal| {
        let reason = Decision::Withdraw(WithdrawReason::Refused(refusal));
        standing.iter().filter(move |(_, decision)| *decision == reason).map(|(vip, _)| *vip)
    };
    let foreign = refused(Refusal::ForeignAddress).map(|vip| held(vip, Owner::Foreign));
    let kernel = KernelState {
        loopback: up().map(|vip| held(vip, Owner::Ours)).chain(foreign).collect(),
        own: refused(Refusal::OwnAddress).map(Vip::address).collect(),
    };
    let bgp = match bgp {
        Bgp::Disabled => BgpState::Disabled,
        Bgp::Down => BgpState::Down(BgpFault::Starting),
        Bgp::Up(modes) => {
            let modes = modes.by_family();
            let told = up().filter(|vip| *modes.get(vip.family()) == Mode::Dynamic);
            let peer = |address: IpAddr| PeerView { address: Some(address), ..PeerView::default() };
            BgpState::Up(BgpView {
                generation: 1,
                asn: 0,
                modes,
                networks: told.map(|vip| (vip, Network::PLAIN)).collect(),
                peers: refused(Refusal::PeerAddress).map(|vip| peer(vip.address())).collect(),
            })
        }
    };
    (kernel, bgp)
}

/// The evidence after a sample.
fn point(engine: &Engine, sample: &TrafficSample, at: Timestamp) -> Option<Point> {
    let told = engine.explain(sample.vip, at)?;
    let found = told.claims.iter().find_map(|claim| {
        let port = claim.ports.iter().find(|port| port.port == sample.port)?;
        Some((port.evidence?, claim.status.verdict))
    });
    let (evidence, verdict) = found?;
    let seen = &sample.handshakes;
    let failed = seen.refused_backend.saturating_add(seen.refused_host).saturating_add(seen.timed_out);
    let (port, threshold) = (sample.port, told.rules.threshold);
    Some(Point { at, port, handshakes: (seen.completed, failed), evidence, threshold, verdict })
}
