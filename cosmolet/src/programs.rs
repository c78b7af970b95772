//! The task that owns the eBPF programs: attaches them to the uplinks, tracks VIPs, reads the counters each second.
//!
//! Never judges what was counted. Without the right to run programs it says so once and ends: the daemon goes on with
//! the control plane alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use crate::book::Book;
use crate::ebpf::{CaughtRing, Error, Options, Programs};
use crate::engine::event::Event;
use crate::engine::observed::ProgramsState;
use crate::engine::plan::{Applied, Outcome, Step};
use crate::engine::types::Uplink;
use crate::metrics::Metrics;

/// The time between two readings of the counters.
const TICK: Duration = Duration::from_secs(1);

struct Request {
    steps: Vec<Step>,
    reply: oneshot::Sender<Vec<Applied>>,
}

/// What probing needs to know of the programs.
pub struct ForProbing {
    /// Gets what the egress programs catch, once they are loaded; dropped where they never will be.
    pub ring: oneshot::Sender<CaughtRing>,
    /// The uplinks, while every one of them has the programs; else none: a probe's answer might leave the node.
    pub attached: watch::Sender<Vec<Uplink>>,
}

/// The daemon's end of the task.
#[derive(Clone, Debug)]
pub struct ProgramsHandle {
    requests: mpsc::Sender<Request>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl ProgramsHandle {
    /// Carries out `TrackVip` and `UntrackVip` steps.
    pub async fn apply(&self, steps: Vec<Step>) -> Vec<Applied> {
        let (reply, answer) = oneshot::channel();
        let spare = steps.clone();
        let sent = self.requests.send(Request { steps, reply }).await.is_ok();
        match answer.await {
            Ok(applied) if sent => applied,
            _ => {
                let outcome = Outcome::Retry(TICK, "the programs do not run".to_owned());
                spare.into_iter().map(|step| Applied { step, outcome: outcome.clone() }).collect()
            }
        }
    }
}

/// Starts the task.
#[must_use]
pub fn spawn(
    options: Options,
    uplinks: watch::Receiver<Vec<Uplink>>,
    events: mpsc::Sender<Event>,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    probing: Option<ForProbing>,
) -> ProgramsHandle {
    let (requests, inbox) = mpsc::channel(4);
    tokio::spawn(run(options, uplinks, events, book, metrics, probing, inbox));
    ProgramsHandle { requests }
}

async fn run(
    options: Options,
    uplinks: watch::Receiver<Vec<Uplink>>,
    events: mpsc::Sender<Event>,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    probing: Option<ForProbing>,
    mut inbox: mpsc::Receiver<Request>,
) {
    let mut programs = match Programs::load(&options) {
        Ok(programs) => programs,
        Err(error) => {
            let reason = chain(&error);
            warn!(%reason, "no eBPF: deciding by the control plane alone");
            drop(events.send(Event::Programs(ProgramsState::Off(reason))).await);
            return;
        }
    };
    let attached = probing.and_then(|probing| {
        programs.take_caught().map(|ring| drop(probing.ring.send(ring)))?;
        Some(probing.attached)
    });
    let (told, failing, read_at) = (None, false, Instant::now());
    let mut task = Task { programs, uplinks, events, book, metrics, attached, told, failing, read_at };
    task.attach().await;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            request = inbox.recv() => match request {
                Some(request) => task.serve(request),
                None => return,
            },
            Ok(()) = task.uplinks.changed() => task.attach().await,
            _ = tick.tick() => task.tick().await,
        }
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

struct Task {
    programs: Programs,
    uplinks: watch::Receiver<Vec<Uplink>>,
    events: mpsc::Sender<Event>,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    attached: Option<watch::Sender<Vec<Uplink>>>,
    told: Option<ProgramsState>,
    failing: bool,
    read_at: Instant,
}

impl Task {
    async fn attach(&mut self) {
        let wanted = self.uplinks.borrow_and_update().clone();
        let mut failure = None;
        let mut running = Vec::new();
        for (uplink, result) in self.programs.attach(&wanted) {
            match result {
                Ok(()) => running.push(uplink.name),
                Err(error) => {
                    if !self.failing {
                        warn!(interface = %uplink.name, %error, "the programs cannot be attached, trying on");
                    }
                    failure = Some(chain(&error));
                }
            }
        }
        self.failing = failure.is_some();
        if let Some(attached) = &self.attached {
            let all = if self.failing { Vec::new() } else { wanted };
            // Told even where nothing has changed: the first time says that probing may begin or not.
            attached.send_replace(all);
        }
        let state = if running.is_empty() {
            let none = || "no uplink is known: neither a default route nor a route to a BGP peer".to_owned();
            ProgramsState::Off(failure.unwrap_or_else(none))
        } else {
            ProgramsState::Running(running)
        };
        self.tell(state).await;
    }

    async fn tell(&mut self, state: ProgramsState) {
        if self.told.as_ref() == Some(&state) {
            return;
        }
        match &state {
            ProgramsState::Running(interfaces) => info!(?interfaces, "counting traffic"),
            ProgramsState::Off(reason) => warn!(%reason, "not counting traffic: deciding by the control plane alone"),
        }
        self.told = Some(state.clone());
        drop(self.events.send(Event::Programs(state)).await);
    }

    fn serve(&mut self, request: Request) {
        let applied = request.steps.into_iter().map(|step| self.step(step)).collect();
        // Whoever asked may be gone by now; then nobody wants the answer.
        drop(request.reply.send(applied));
    }

    fn step(&mut self, step: Step) -> Applied {
        let result = match &step {
            Step::TrackVip(vip, ports) => self.programs.track(*vip, ports),
            Step::UntrackVip(vip) => self.programs.untrack(*vip),
            Step::AddAddress(..) | Step::Advertise(..) | Step::Withdraw(_) | Step::RemoveAddress(_) => Ok(()),
        };
        let outcome = match result {
            Ok(()) => Outcome::Done,
            Err(error @ Error::Full { .. }) => Outcome::Retry(Duration::from_secs(10), error.to_string()),
            Err(error) => Outcome::GiveUp(chain(&error)),
        };
        Applied { step, outcome }
    }

    async fn tick(&mut self) {
        if self.failing {
            self.attach().await;
        }
        let started = Instant::now();
        let samples = self.programs.sample(started.duration_since(self.read_at));
        self.read_at = started;
        match samples {
            Ok(samples) => {
                self.metrics.sampling(started.elapsed().as_secs_f64());
                if !samples.is_empty() {
                    self.book.add_traffic(&samples);
                    drop(self.events.send(Event::Traffic(samples)).await);
                }
            }
            Err(error) => warn!(%error, "the counters cannot be read, trying again"),
        }
        match self.programs.oddities() {
            Ok(oddities) => oddities.by_kind().into_iter().for_each(|(kind, sum)| self.metrics.odd(kind, sum)),
            Err(error) => debug!(%error, "the oddities cannot be read"),
        }
        self.programs.flush_log();
    }
}
