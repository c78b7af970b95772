//! The task that watches bgpd: connects, reads, tells the engine, and notices at once when bgpd goes.
//!
//! Owns the session that reads. Never changes bgpd's configuration itself.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::apply::{Admission, Applier};
use super::error::FrrError;
use super::observe::{self, RunningConfig, Sessions};
use super::rib::Schedule;
use super::vty::{Line, Reply, Session, Status};
use super::{Options, Request};
use crate::engine::event::Event;
use crate::engine::observed::{BgpFault, BgpState, BgpView, PeerNames, RibReport, RibState, steady};
use crate::engine::types::Vrf;

const RUNNING_CONFIG: Line = Line::fixed("show running-config");
const NEIGHBORS: &str = "neighbors json";
/// With more peers than these BFD is not asked for: the answer has 5 kB for each.
const MOST_NEIGHBORS: usize = 16;

/// How long the quick polls last after bgpd went away or came back.
const QUICK: Duration = Duration::from_secs(5);
/// A poll while bgpd starts (a refused connect costs some 10 µs): a replay within some 10 ms keeps a graceful restart free
/// of a gap.
const QUICK_POLL: Duration = Duration::from_millis(2);
/// A poll after that.
const POLL: Duration = Duration::from_millis(100);
/// A poll for what only an operator can mend.
const OPERATOR_POLL: Duration = Duration::from_secs(1);
/// The first re-reading after a change, doubled until it is as long as the period: vtysh may still be loading the
/// configuration, and a command that timed out may still run.
const SETTLE: Duration = Duration::from_millis(50);
/// A reading that overlapped with steps is repeated after this time, this often.
const OVERLAP: (Duration, u32) = (Duration::from_millis(20), 10);

/// The channel to the daemon, or every handle, is closed: the task ends.
struct Finished;

/// Why a connection ended.
enum End {
    Finished,
    Lost(FrrError),
}

impl From<Finished> for End {
    fn from(_: Finished) -> Self {
        Self::Finished
    }
}

impl From<FrrError> for End {
    fn from(error: FrrError) -> Self {
        Self::Lost(error)
    }
}

pub(super) struct Observer {
    pub(super) path: PathBuf,
    pub(super) options: Options,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) requests: mpsc::UnboundedReceiver<Request>,
    pub(super) admission: watch::Sender<Admission>,
    pub(super) applier: Arc<Applier>,
    pub(super) memory: Memory,
}

/// What outlives a connection.
pub(super) struct Memory {
    /// Connections so far.
    generation: u64,
    /// What the engine was told last.
    told: Option<BgpState>,
    /// The engine knows more than it was told, by steps of its own: the next reading is news even if it is the same, as
    /// somebody may have undone them.
    outdated: bool,
    /// When bgpd was last seen to go or come.
    changed: Instant,
    rib: Schedule,
    peers: Shared,
}

impl Default for Memory {
    fn default() -> Self {
        let (rib, peers) = (Schedule::default(), Shared::default());
        Self { generation: 0, told: None, outdated: false, changed: Instant::now(), rib, peers }
    }
}

/// The sets of peers that VIPs are advertised to, each held once: ten thousand VIPs have one or two of them.
#[derive(Default)]
struct Shared(BTreeSet<PeerNames>);

impl Shared {
    fn share(&mut self, names: &mut PeerNames) {
        if let Some(known) = self.0.get(names) {
            *names = Arc::clone(known);
            return;
        }
        self.0.retain(|known| Arc::strong_count(known) > 1);
        self.0.insert(Arc::clone(names));
    }
}

/// When to read the running configuration next, on one connection.
struct Cadence {
    /// The time until the next reading when nothing changes.
    settle: Duration,
    /// Readings in a row that overlapped with steps.
    overlaps: u32,
    /// bgpd answered at least once.
    answered: bool,
}

impl Observer {
    /// Runs until the daemon goes.
    pub(super) async fn run(mut self) {
        loop {
            let error = match Session::open(&self.path, self.options.patience).await {
                Ok(session) => match self.serve(session).await {
                    End::Finished => return,
                    End::Lost(error) => error,
                },
                Err(error) => error,
            };
            tracing::debug!(%error, "no connection to bgpd");
            let pause = self.pause_after(&error);
            if self.tell_down(error.fault()).await.is_err() || self.rest(pause).await.is_err() {
                return;
            }
        }
    }

    fn pause_after(&self, error: &FrrError) -> Duration {
        match error {
            FrrError::PermissionDenied { .. } => OPERATOR_POLL,
            FrrError::Unreachable { .. }
            | FrrError::Closed
            | FrrError::Timeout(_)
            | FrrError::InstanceGone(_)
            | FrrError::Garbled(_) => self.poll(),
        }
    }

    fn poll(&self) -> Duration {
        if self.memory.changed.elapsed() < QUICK { QUICK_POLL } else { POLL }
    }

    /// Waits, but keeps taking requests.
    async fn rest(&mut self, pause: Duration) -> Result<(), Finished> {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                request = self.requests.recv() => { self.note(request)?; }
            }
        }
    }

    /// Uses one connection until it ends.
    async fn serve(&mut self, session: Session) -> End {
        let mut cadence = Cadence { settle: SETTLE, overlaps: 0, answered: false };
        let Err(end) = self.converse(session, &mut cadence).await;
        if cadence.answered {
            self.memory.changed = Instant::now();
        }
        end
    }

    async fn converse(&mut self, mut session: Session, cadence: &mut Cadence) -> Result<Infallible, End> {
        self.memory.generation += 1;
        self.memory.rib.touch_all(Instant::now());
        self.applier.renew().await?;
        let mut read_at = Instant::now();
        loop {
            if read_at <= Instant::now() {
                read_at = Instant::now() + self.read(&mut session, cadence).await?;
            }
            let rib_at = self.memory.rib.next_at();
            tokio::select! {
                biased;
                error = session.closed() => return Err(error.into()),
                request = self.requests.recv() => {
                    if self.note(request)? {
                        read_at = Instant::now();
                    }
                }
                () = sleep_until(read_at) => {}
                () = sleep_until(rib_at.unwrap_or(read_at)), if rib_at.is_some() => self.read_rib(&mut session).await?,
            }
        }
    }

    /// Takes a request; true if the configuration has to be read again.
    fn note(&mut self, request: Option<Request>) -> Result<bool, Finished> {
        let now = Instant::now();
        let rib = &mut self.memory.rib;
        match request.ok_or(Finished)? {
            Request::Reread => return Ok(true),
            Request::Touched { vips, present } => {
                self.memory.outdated = true;
                vips.into_iter().for_each(|vip| rib.touch(vip, present, now));
            }
            Request::Expected { vips, present } => vips.into_iter().for_each(|vip| rib.expect(vip, present, now)),
        }
        Ok(false)
    }

    /// Reads the configuration and tells the engine; returns when to read next.
    async fn read(&mut self, session: &mut Session, cadence: &mut Cadence) -> Result<Duration, End> {
        let quiet = self.applier.quiet();
        let replies = session.ask_all(&[RUNNING_CONFIG, Line::summary(&self.options.vrf)]).await?;
        let (config, mut sessions) = understand(&replies, &self.options.vrf)?;
        if config.bfd && sessions.peers.len() <= MOST_NEIGHBORS {
            let reply = session.ask(&Line::bgp(&self.options.vrf, NEIGHBORS)).await?;
            // What BFD finds is shown and decides nothing: without it all goes on.
            sessions.bfd = observe::bfd(&reply.text).unwrap_or_default();
        }
        if !cadence.answered {
            cadence.answered = true;
            self.memory.changed = Instant::now();
        }
        let state = config.view(self.memory.generation, self.options.asn, self.options.mode, &sessions);
        let state = state.and_then(|view| {
            if self.options.addresses || config.unchecked { Ok(view) } else { Err(BgpFault::ImportCheck) }
        });
        if quiet.is_none() || quiet != self.applier.quiet() {
            // Steps were under way: the reading may be older than what the engine knows from them.
            cadence.overlaps += 1;
            if self.is_told_up() && cadence.overlaps < OVERLAP.1 {
                return Ok(OVERLAP.0);
            }
        }
        cadence.overlaps = 0;
        match state {
            Ok(view) => {
                self.applier.mind(&config, quiet).await?;
                let changed = self.tell_up(view, &config).await?;
                cadence.settle = if changed { SETTLE } else { (cadence.settle * 2).min(self.options.period) };
                Ok(cadence.settle)
            }
            Err(fault) => {
                let pause = if matches!(fault, BgpFault::NoInstance { .. }) { self.poll() } else { OPERATOR_POLL };
                self.tell_down(fault).await?;
                Ok(pause)
            }
        }
    }

    /// The engine knows this connection as usable.
    fn is_told_up(&self) -> bool {
        matches!(&self.memory.told, Some(BgpState::Up(view)) if view.generation == self.memory.generation)
    }

    async fn read_rib(&mut self, session: &mut Session) -> Result<(), End> {
        if self.applier.quiet().is_none() {
            // bgpd has one thread, and it is for the steps now.
            self.memory.rib.rest(Instant::now());
            return Ok(());
        }
        let vips = self.memory.rib.take(Instant::now());
        let questions = vips.iter().map(|vip| Line::prefix_query(&self.options.vrf, *vip));
        let replies = session.ask_all(&questions.collect::<Vec<_>>()).await?;
        let peers = &mut self.memory.peers;
        let report = |(vip, reply)| {
            let mut rib = rib_state(reply)?;
            peers.share(&mut rib.advertised_to);
            Ok(RibReport { vip, rib })
        };
        let reports = vips.into_iter().zip(&replies).map(report);
        let reports = reports.collect::<Result<Vec<_>, FrrError>>()?;
        self.events.send(Event::Rib(reports)).await.map_err(|_closed| End::Finished)
    }

    /// True if that was news.
    async fn tell_up(&mut self, mut view: BgpView, config: &RunningConfig) -> Result<bool, Finished> {
        if let Some(BgpState::Up(told)) = &self.memory.told {
            for peer in &mut view.peers {
                let before = told.peers.iter().find(|other| other.name == peer.name);
                peer.since = steady(peer.since, before.and_then(|before| before.since));
            }
        }
        self.admission.send_replace(Admission::Open {
            foreign: Arc::new(observe::foreign(&view.networks)),
            asn: view.asn,
            door: config.door(view.asn),
        });
        self.tell(BgpState::Up(view)).await
    }

    async fn tell_down(&mut self, fault: BgpFault) -> Result<bool, Finished> {
        self.admission.send_replace(Admission::Closed(fault.clone()));
        self.tell(BgpState::Down(fault)).await
    }

    async fn tell(&mut self, state: BgpState) -> Result<bool, Finished> {
        let news = self.memory.told.as_ref() != Some(&state);
        if news || std::mem::take(&mut self.memory.outdated) {
            self.memory.told = Some(state.clone());
            self.events.send(Event::Bgp(state)).await.map_err(|_closed| Finished)?;
        }
        Ok(news)
    }
}

/// Reads the replies to [`RUNNING_CONFIG`] and [`Line::summary`].
fn understand(replies: &[Reply], vrf: &Vrf) -> Result<(RunningConfig, Sessions), FrrError> {
    let [config, summary] = replies else { return Err(FrrError::Garbled("replies are missing".to_owned())) };
    if config.status != Status::Success {
        return Err(FrrError::Garbled(format!("`{}`: {}", RUNNING_CONFIG.as_str(), config.summary())));
    }
    let sessions = Sessions::parse(&summary.text)
        .map_err(|error| FrrError::Garbled(format!("`show bgp summary json`: {error}")))?;
    Ok((RunningConfig::parse(&config.text, vrf), sessions))
}

/// FRR answers a warning, without an instance or without the prefix.
fn rib_state(reply: &Reply) -> Result<RibState, FrrError> {
    if reply.status != Status::Success {
        return Ok(RibState::default());
    }
    observe::rib(&reply.text).map_err(|error| FrrError::Garbled(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vips_that_are_advertised_alike_share_their_peers() {
        let names = |names: &[&str]| Arc::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let mut shared = Shared::default();
        let (mut first, mut second, mut other) = (names(&["a", "b"]), names(&["a", "b"]), names(&["a"]));
        [&mut first, &mut second, &mut other].into_iter().for_each(|names| shared.share(names));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
        drop((first, second));
        shared.share(&mut names(&["c"]));
        assert_eq!(shared.0.len(), 2, "what nobody has any more is forgotten");
    }
}
