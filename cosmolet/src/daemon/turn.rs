//! The control loop: take what has happened, decide, carry one plan out at a time, tell the book.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::unseen::Unseen;
use crate::apply::{Applier, GiveWay};
use crate::book::Book;
use crate::engine::event::{Event, SourceState};
use crate::engine::guard::Wanted;
use crate::engine::intent::{Decision, WithdrawReason};
use crate::engine::observed::{BgpState, Owner, PeerView, ProberState};
use crate::engine::plan::{Applied, Outcome};
use crate::engine::types::Vip;
use crate::engine::{Engine, Transition};
use crate::frr::FrrHandle;
use crate::kubernetes::events::{Announcement, Announcer};
use crate::metrics::Metrics;
use crate::probing::ProbingHandle;
use crate::questions::Questions;
use crate::recording::tap::Tap;

/// Events taken in one turn at most.
const BATCH: usize = 256;
/// Rows written to the book in one turn at most.
const ROWS: usize = 256;
/// Decisions announced in one turn at most: a log line costs as much as a command to FRR.
const ANNOUNCEMENTS: usize = 128;
/// The rest that FRR and the kernel get between two such portions while a plan is in flight: of ten thousand VIPs that leave at
/// once the fabric is told first.
const REST: Duration = Duration::from_millis(50);
/// How soon the book is tried again while somebody reads it.
const BOOK_BUSY: Duration = Duration::from_millis(5);

/// What the loop tells and asks besides the plan.
pub(super) struct Surroundings {
    pub(super) book: Arc<Book>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) frr: Option<FrrHandle>,
    pub(super) peers: watch::Sender<Vec<PeerView>>,
    /// Where Kubernetes is told, if it is.
    pub(super) announcer: Option<Announcer>,
    /// Where the register of ejections is asked, if there is one.
    pub(super) ejections: Option<watch::Sender<Wanted>>,
    pub(super) probing: Option<ProbingHandle>,
    pub(super) questions: Questions,
    pub(super) tap: Tap,
}

type Flight = Pin<Box<dyn Future<Output = (Applier, Vec<Applied>)> + Send>>;

/// The loop's state.
pub(super) struct Control {
    engine: Engine,
    inbox: mpsc::Receiver<Event>,
    around: Surroundings,
    /// At rest between plans.
    applier: Option<Applier>,
    give_way: GiveWay,
    /// The one plan in flight, and when the first event came that it answers.
    flight: Option<Flight>,
    flight_since: Instant,
    /// When it was made.
    departed: Instant,
    /// The first event since the last plan was made.
    waiting_since: Option<Instant>,
    /// What FRR's RIB does not show yet.
    unseen: Unseen,
    /// Decisions that nobody has been told of yet.
    unannounced: VecDeque<Transition>,
    /// Some rows are not in the book yet.
    behind: Behind,
    /// Nothing more is told before this point while a plan is in flight: much was told just now.
    rest_until: Instant,
    /// The FRR connection whose adopted VIPs are being watched in the RIB.
    watched: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    No,
    More,
    Busy,
}

impl Control {
    pub(super) fn new(engine: Engine, applier: Applier, inbox: mpsc::Receiver<Event>, around: Surroundings) -> Self {
        Self {
            engine,
            inbox,
            around,
            give_way: applier.give_way(),
            applier: Some(applier),
            flight: None,
            flight_since: Instant::now(),
            departed: Instant::now(),
            unseen: Unseen::default(),
            waiting_since: None,
            unannounced: VecDeque::new(),
            behind: Behind::No,
            rest_until: Instant::now(),
            watched: None,
        }
    }

    /// Runs for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.turn(&mut tick).await;
        }
    }

    /// Runs until nothing of ours is left on the loopback and in FRR.
    pub(super) async fn run_until_empty(&mut self) {
        let mut tick = interval(Duration::from_millis(100));
        loop {
            self.turn(&mut tick).await;
            if self.flight.is_none()
                && self.inbox.is_empty()
                && !self.engine.wants_plan()
                && self.is_empty()
                && self.unannounced.is_empty()
            {
                return;
            }
        }
    }

    fn is_empty(&self) -> bool {
        let ours = |owner: Owner| owner == Owner::Ours;
        let observed = self.engine.observed();
        let address = observed.kernel.iter().flat_map(|kernel| kernel.loopback.values()).any(|held| ours(held.owner));
        let network = match &observed.bgp {
            BgpState::Up(view) => view.networks.values().any(|network| ours(network.owner())),
            BgpState::Disabled | BgpState::Down(_) => false,
        };
        !address && !network
    }

    async fn turn(&mut self, tick: &mut tokio::time::Interval) {
        let timer = self.engine.next_timer().map(|at| Instant::now() + at.since(self.around.book.now()));
        let (tells_at, more_to_tell) = (self.tells_at(), self.has_more_to_tell());
        let landed = tokio::select! {
            biased;
            landed = land(&mut self.flight) => Some(landed),
            event = self.inbox.recv() => {
                // The daemon itself keeps a sender for as long as it runs.
                if let Some(event) = event {
                    self.handle(event);
                }
                None
            }
            _ = tick.tick() => {
                self.handle(Event::Tick);
                self.tell_unusable();
                None
            }
            () = at(timer) => { self.handle(Event::Tick); None }
            () = self.around.questions.asked() => None,
            () = self.around.tap.asked() => None,
            () = sleep_until(tells_at), if more_to_tell => None,
            () = sleep(BOOK_BUSY), if self.behind == Behind::Busy => None,
        };
        let started = Instant::now();
        if let Some((applier, applied)) = landed {
            self.landed(applier, applied);
        }
        for _ in 1..BATCH {
            let Ok(event) = self.inbox.try_recv() else { break };
            self.handle(event);
        }
        self.depart();
        // The first bytes leave before anybody is told.
        if let Some(flight) = &mut self.flight
            && let Poll::Ready((applier, applied)) = futures::poll!(flight.as_mut())
        {
            self.flight = None;
            self.landed(applier, applied);
        }
        if let Some(ejections) = &self.around.ejections
            && let Some(wanted) = self.engine.take_wanted_ejections()
        {
            ejections.send_replace(wanted);
        }
        if let Some(probing) = &self.around.probing
            && self.engine.wants_probes()
        {
            probing.ask(|limit| self.engine.take_probes(limit));
        }
        self.around.questions.answer(&self.engine, self.around.book.now());
        self.summarise();
        let transitions = self.engine.take_transitions();
        self.around.tap.decided(&transitions, self.around.book.now());
        self.around.tap.turned(&self.engine, self.around.book.now());
        self.unannounced.extend(transitions);
        if self.flight.is_none() || self.rest_until <= Instant::now() {
            self.announce_some();
            self.tell_some();
            if self.has_more_to_tell() {
                self.rest_until = Instant::now() + REST;
            }
        }
        self.around.metrics.turn(started.elapsed().as_secs_f64());
    }

    fn handle(&mut self, event: Event) {
        self.note(&event);
        let now = self.around.book.now();
        self.around.tap.event(&event, now);
        self.engine.handle(event, now);
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    /// Tells the world what concerns it in an event, before the engine swallows it.
    fn note(&mut self, event: &Event) {
        if let Event::Rib(reports) = event {
            let seen = reports.iter().filter_map(|report| self.unseen.read(report));
            seen.for_each(|since| self.around.metrics.stage("rib", since.elapsed()));
        }
        if matches!(event, Event::Bgp(BgpState::Down(_))) {
            self.unseen.clear();
        }
        let book = &self.around.book;
        match event {
            Event::Source(state) => {
                match state {
                    SourceState::Stale(error) => {
                        warn!(%error, "the source of Services is stale: the last state stands")
                    }
                    SourceState::Syncing | SourceState::Synced => info!(state = state.as_str(), "source of Services"),
                }
                book.summarise(|summary| {
                    summary.source = state.clone();
                    summary.synced |= *state == SourceState::Synced;
                });
            }
            Event::Bgp(state) => self.note_bgp(state),
            Event::Programs(state) => book.summarise(|summary| summary.programs = state.clone()),
            Event::Prober(state) => {
                match state {
                    ProberState::Off(reason) => warn!(%reason, "no wire-true probes: nothing waits for a proof"),
                    ProberState::Starting => {}
                    ProberState::Running => info!("wire-true probes can be sent"),
                }
                book.summarise(|summary| summary.prober = state.clone());
            }
            Event::Drained(drained) => {
                info!(drained, "cosmolet drain");
                book.summarise(|summary| summary.drained = *drained);
            }
            Event::Node(view) => book.summarise(|summary| summary.node_out = view.check().err()),
            Event::Kernel(_) => book.summarise(|summary| summary.kernel_seen = true),
            Event::Service(_)
            | Event::ServiceGone(_)
            | Event::Pod(..)
            | Event::PodGone(_)
            | Event::Traffic(_)
            | Event::Probe(_)
            | Event::Permissions(_)
            | Event::Rib(_)
            | Event::Applied(_)
            | Event::Tick
            | Event::Exit => {}
        }
    }

    fn note_bgp(&self, state: &BgpState) {
        let told = &self.engine.observed().bgp;
        match state {
            BgpState::Down(fault) if *told != *state => warn!(reason = fault.as_str(), "{fault}"),
            BgpState::Up(view) => {
                let known = match told {
                    BgpState::Up(old) => old.generation == view.generation && old.modes == view.modes,
                    BgpState::Disabled | BgpState::Down(_) => false,
                };
                if !known {
                    info!(asn = view.asn, ipv4 = %view.modes.v4, ipv6 = %view.modes.v6, "FRR's bgpd is up");
                }
                self.around.peers.send_if_modified(|peers| {
                    let changed = *peers != view.peers;
                    peers.clone_from(&view.peers);
                    changed
                });
            }
            BgpState::Down(_) | BgpState::Disabled => {}
        }
        // The networks are in the rows; ten thousand of them need no second copy.
        let mut state = state.clone();
        if let BgpState::Up(view) = &mut state {
            view.networks.clear();
        }
        self.around.book.summarise(|summary| summary.bgp = state);
    }

    fn landed(&mut self, applier: Applier, applied: Vec<Applied>) {
        self.applier = Some(applier);
        for one in &applied {
            let outcome = match &one.outcome {
                Outcome::Done => "done",
                Outcome::Retry(..) => "retry",
                Outcome::GiveUp(_) => "give_up",
                Outcome::Deferred => "deferred",
            };
            self.around.metrics.step(one.step.as_str(), outcome);
            match &one.outcome {
                Outcome::Done if one.step.is_anew() => {
                    warn!(vip = %one.step.vip(), "FRR has missed its address: it was removed and put on anew");
                }
                Outcome::Done => debug!(step = one.step.as_str(), vip = %one.step.vip(), "done"),
                Outcome::Deferred => {
                    debug!(step = one.step.as_str(), vip = %one.step.vip(), "gave way to a withdrawal")
                }
                Outcome::Retry(after, error) => {
                    debug!(step = one.step.as_str(), vip = %one.step.vip(), ?after, %error, "to be tried again");
                }
                Outcome::GiveUp(error) => {
                    warn!(step = one.step.as_str(), vip = %one.step.vip(), %error, "given up for a while");
                }
            }
        }
        let now = Instant::now();
        self.around.metrics.reaction(now.duration_since(self.flight_since).as_secs_f64());
        self.around.metrics.stage("wait", self.departed.duration_since(self.flight_since));
        self.around.metrics.stage("steps", now.duration_since(self.departed));
        applied.iter().for_each(|one| self.unseen.applied(one, self.engine.observed(), now));
        self.engine.handle(Event::Applied(applied), self.around.book.now());
    }

    /// Starts the next plan, unless one is in flight or there is nothing to do.
    fn depart(&mut self) {
        // A plan that is about to leave begins with every withdrawal there is.
        self.give_way.set(self.flight.is_some() && self.engine.wants_withdrawal());
        if self.flight.is_none() {
            let plan = self.engine.plan(self.around.book.now());
            let since = self.waiting_since.take();
            if !plan.is_empty()
                && let Some(mut applier) = self.applier.take()
            {
                self.departed = Instant::now();
                self.flight_since = since.unwrap_or(self.departed);
                self.flight = Some(Box::pin(async move {
                    let applied = applier.apply(plan).await;
                    (applier, applied)
                }));
            }
        }
        self.watch_adopted();
    }

    /// When more may be told.
    fn tells_at(&self) -> Instant {
        if self.flight.is_some() { self.rest_until } else { Instant::now() }
    }

    fn has_more_to_tell(&self) -> bool {
        self.behind == Behind::More || !self.unannounced.is_empty()
    }

    fn announce_some(&mut self) {
        for _ in 0..ANNOUNCEMENTS {
            let Some(transition) = self.unannounced.pop_front() else { break };
            self.announce(transition);
        }
    }

    fn announce(&self, transition: Transition) {
        let vip = transition.vip;
        let claimed_by: Vec<_> = self.engine.claimed_by(vip).collect();
        let services = claimed_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let (to, reason) = (transition.to.as_str(), transition.to.reason());
        match reason {
            None => info!(%vip, services, "{to}"),
            Some(reason) => info!(%vip, services, %reason, "{to}: {}", reason.explain()),
        }
        self.around.metrics.transition(to, reason.map_or("", WithdrawReason::as_str));
        self.around.book.remember(transition);
        if let (Some(announcer), true) = (&self.around.announcer, concerns_users(transition)) {
            let services = claimed_by.into_iter().cloned().collect();
            announcer.announce(Announcement { services, vip, decision: transition.to });
        }
    }

    /// After FRR has come (back), follows in its RIB what is advertised already and needs no step.
    fn watch_adopted(&mut self) {
        let (Some(frr), BgpState::Up(view)) = (&self.around.frr, &self.engine.observed().bgp) else { return };
        if self.watched != Some(view.generation) && self.engine.is_synced() {
            self.watched = Some(view.generation);
            let advertised: Vec<Vip> =
                self.engine.intent().filter(|(_, decision)| decision.is_up()).map(|(vip, _)| vip).collect();
            frr.watch_rib(advertised, true);
        }
    }

    fn summarise(&self) {
        let now = self.around.book.now();
        let engine = &self.engine;
        self.around.book.summarise(|summary| {
            summary.turned_at = now;
            summary.services = engine.service_count();
            (summary.node_suspect, summary.agreement) = (engine.node_suspect(), engine.agreement());
        });
    }

    /// Writes rows to the book.
    fn tell_some(&mut self) {
        let Self { engine, around, .. } = self;
        if !engine.has_changed() {
            self.behind = Behind::No;
            return;
        }
        let mut rows = 0;
        let written = around.book.try_write(|| {
            let changed = engine.take_changed(ROWS);
            rows = changed.len();
            changed.into_iter().map(|vip| (vip, engine.vip_status(vip))).collect()
        });
        self.behind = match (written, rows == ROWS) {
            (false, _) => Behind::Busy,
            (true, true) => Behind::More,
            (true, false) => Behind::No,
        };
    }

    /// Once a tick: the addresses that are no addresses.
    fn tell_unusable(&self) {
        let unusable = self.engine.unusable_addresses();
        let unusable = unusable.map(|(key, text, reason)| (key.clone(), text.to_owned(), reason)).collect();
        self.around.book.summarise(|summary| summary.unusable = unusable);
    }
}

/// Whether a Service's users see a difference: not where a VIP was adopted, nor where one that is down has another reason.
const fn concerns_users(transition: Transition) -> bool {
    match transition.to {
        Decision::Withdraw(WithdrawReason::Refused(_)) | Decision::Depreference(_) => true,
        Decision::Advertise => !transition.was_up || matches!(transition.from, Some(Decision::Depreference(_))),
        Decision::Withdraw(_) => transition.was_up,
    }
}

async fn land(flight: &mut Option<Flight>) -> (Applier, Vec<Applied>) {
    match flight {
        Some(running) => {
            let landed = running.await;
            *flight = None;
            landed
        }
        None => std::future::pending().await,
    }
}

async fn at(timer: Option<Instant>) {
    match timer {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
