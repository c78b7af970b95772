//! What the control loop has told the world: read by metrics, status and probes, at their own pace.
//!
//! Owns a copy of every VIP's row and of the components' states. The loop never waits for a reader: it writes a row
//! only while nobody reads, and otherwise keeps it for its next turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Instant, SystemTime};

use tokio::sync::broadcast;

use crate::advertised::Dated;
use crate::engine::Transition;
use crate::engine::event::{Handshakes, SourceState, TrafficCounts, TrafficSample};
use crate::engine::intent::WithdrawReason;
use crate::engine::observed::{BgpFault, BgpState, ProberState, ProgramsState};
use crate::engine::signals::Agreement;
use crate::engine::status::{ClaimStatus, VipStatus};
use crate::engine::traffic::TrafficMode;
use crate::engine::types::{Port, ServiceKey, Timestamp, Vip};

/// How many decisions are remembered for the status.
const TRANSITIONS: usize = 256;
/// How many decisions whoever follows them may be behind; it is told how many it has missed.
const BEHIND: usize = 1024;

/// One VIP as the world may see it.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The engine's row.
    pub status: Option<VipStatus>,
    /// Since when it is in its state, for its reason.
    pub since: Timestamp,
    /// What the programs counted, by declared port.
    pub traffic: BTreeMap<Port, PortTraffic>,
    /// The book's revision when anything of it was last written.
    pub revision: u64,
}

impl Row {
    fn tell(&mut self, status: VipStatus, now: Timestamp) {
        let as_before = |old: &VipStatus| (old.state, old.reason) == (status.state, status.reason);
        if !self.status.as_ref().is_some_and(as_before) {
            self.since = now;
        }
        self.status = Some(status);
    }

    /// Who claims this port.
    #[must_use]
    pub fn claim(&self, port: Port) -> Option<&ClaimStatus> {
        self.status.as_ref()?.services.iter().find(|claim| claim.ports.contains(&port))
    }
}

/// What the programs counted for one port.
#[derive(Clone, Copy, Debug, Default)]
pub struct PortTraffic {
    /// Since the daemon's start.
    pub total: TrafficCounts,
    /// What became of the followed handshakes since the daemon's start.
    pub handshakes: Handshakes,
    /// In the last sample that saw anything.
    pub last: TrafficCounts,
    /// When that was.
    pub at: Timestamp,
}

/// How one of the functions of `kubernetes.*` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// A word: `on`, `failing`, `leader`, `follower`.
    pub state: &'static str,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// The daemon as a whole.
#[derive(Clone, Debug)]
pub struct Summary {
    /// This node's name.
    pub node: String,
    /// The kind of the source of Services: `kubernetes` or `manifests`.
    pub source_kind: &'static str,
    /// Its state.
    pub source: SourceState,
    /// Everything has been delivered once.
    pub synced: bool,
    /// The kernel's addresses have been read.
    pub kernel_seen: bool,
    /// FRR.
    pub bgp: BgpState,
    /// The eBPF programs.
    pub programs: ProgramsState,
    /// The wire-true probe.
    pub prober: ProberState,
    /// Whether the traffic verdict acts.
    pub traffic_mode: TrafficMode,
    /// Most VIPs with traffic are suspect.
    pub node_suspect: bool,
    /// `cosmolet drain` has taken the node out.
    pub drained: bool,
    /// Why the Node object keeps every VIP off this node.
    pub node_out: Option<WithdrawReason>,
    /// How often traffic and control plane agreed.
    pub agreement: Agreement,
    /// Services selected.
    pub services: usize,
    /// Addresses of Services that are no addresses.
    pub unusable: Vec<(ServiceKey, String, WithdrawReason)>,
    /// What is told in Kubernetes' own words: each function with its state.
    pub told: BTreeMap<&'static str, Told>,
    /// The cluster's figures, while this node leads.
    pub statistics: Option<Arc<Dated>>,
    /// Files of the manifests directory that could not be read, with the reason.
    pub problems: Vec<(String, String)>,
    /// What is wrong with the annotations of Services: `deprecated` or `ignored`, and the sentence.
    pub notices: Vec<(ServiceKey, &'static str, String)>,
    /// The last turn of the control loop.
    pub turned_at: Timestamp,
    /// The last decisions, the newest last.
    pub transitions: VecDeque<Transition>,
}

/// The book. See the module.
#[derive(Debug)]
pub struct Book {
    started: Instant,
    started_at: SystemTime,
    rows: Mutex<BTreeMap<Vip, Row>>,
    /// Counts what is written to rows; changed under their lock.
    revision: AtomicU64,
    summary: Mutex<Summary>,
    followers: broadcast::Sender<Transition>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// An empty book that begins now.
    #[must_use]
    pub fn new(node: String, source_kind: &'static str, traffic_mode: TrafficMode) -> Self {
        let summary = Summary {
            node,
            source_kind,
            source: SourceState::Syncing,
            synced: false,
            kernel_seen: false,
            bgp: BgpState::Down(BgpFault::Starting),
            programs: ProgramsState::Off("not started".to_owned()),
            prober: ProberState::Off("not started".to_owned()),
            traffic_mode,
            node_suspect: false,
            drained: false,
            node_out: None,
            agreement: Agreement::default(),
            services: 0,
            unusable: Vec::new(),
            told: BTreeMap::new(),
            statistics: None,
            problems: Vec::new(),
            notices: Vec::new(),
            turned_at: Timestamp::ZERO,
            transitions: VecDeque::new(),
        };
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            rows: Mutex::default(),
            revision: AtomicU64::new(0),
            summary: Mutex::new(summary),
            followers: broadcast::Sender::new(BEHIND),
        }
    }

    /// Now, on the daemon's monotonic clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_start(self.started.elapsed())
    }

    /// A point of the daemon's clock as a time of day.
    #[must_use]
    pub fn time_of_day(&self, at: Timestamp) -> SystemTime {
        self.started_at + at.since_start()
    }

    /// Reads all rows. Keep it short.
    pub fn rows(&self) -> MutexGuard<'_, BTreeMap<Vip, Row>> {
        lock(&self.rows)
    }

    /// The last revision that a row has.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    fn next_revision(&self) -> u64 {
        self.revision.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A copy of the summary.
    #[must_use]
    pub fn summary(&self) -> Summary {
        lock(&self.summary).clone()
    }

    /// Changes the summary.
    pub fn summarise(&self, change: impl FnOnce(&mut Summary)) {
        change(&mut lock(&self.summary));
    }

    /// Remembers a decision.
    pub fn remember(&self, transition: Transition) {
        let mut summary = lock(&self.summary);
        if summary.transitions.len() == TRANSITIONS {
            summary.transitions.pop_front();
        }
        summary.transitions.push_back(transition);
        // Nobody may be following. Under the lock: whoever begins to sees each decision once.
        drop(self.followers.send(transition));
    }

    /// The decisions that are remembered, and those to come.
    #[must_use]
    pub fn follow(&self) -> (VecDeque<Transition>, broadcast::Receiver<Transition>) {
        let summary = lock(&self.summary);
        (summary.transitions.clone(), self.followers.subscribe())
    }

    /// Writes rows (`None` forgets a VIP) unless somebody is reading. Returns false if nothing was written.
    pub fn try_write(&self, rows: impl FnOnce() -> Vec<(Vip, Option<VipStatus>)>) -> bool {
        let mut book = match self.rows.try_lock() {
            Ok(book) => book,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let now = self.now();
        for (vip, status) in rows() {
            match status {
                Some(status) => {
                    let row = book.entry(vip).or_default();
                    row.tell(status, now);
                    row.revision = self.next_revision();
                }
                None => drop(book.remove(&vip)),
            }
        }
        true
    }

    /// Adds what the programs counted; for the sampler, which may wait for a reader. A VIP without a row has been
    /// forgotten meanwhile, and its last packets with it.
    pub fn add_traffic(&self, samples: &[TrafficSample]) {
        let now = self.now();
        let mut book = lock(&self.rows);
        for sample in samples {
            let Some(row) = book.get_mut(&sample.vip) else { continue };
            let traffic = row.traffic.entry(sample.port).or_default();
            traffic.total = traffic.total.plus(sample.counts);
            let one_in = sample.handshakes.one_in;
            traffic.handshakes = Handshakes { one_in, ..traffic.handshakes.plus(&sample.handshakes) };
            row.revision = self.next_revision();
            // Silence that became a failure is told without any packet.
            if sample.counts != TrafficCounts::default() {
                traffic.last = sample.counts;
                traffic.at = now;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::status::VipState;

    fn told(state: VipState, reason: Option<WithdrawReason>) -> VipStatus {
        VipStatus { state, reason, ..pending(Vip::new([10, 0, 0, 1].into())) }
    }

    /// A row of a VIP of which nothing is known.
    pub(crate) fn pending(vip: Vip) -> VipStatus {
        VipStatus {
            vip,
            state: VipState::Pending,
            reason: None,
            since: Timestamp::ZERO,
            mode: None,
            bare: false,
            loopback: None,
            lease_until: None,
            network: None,
            attributes: None,
            drain_ends: None,
            rib: None,
            last_error: None,
            ejection_refused: None,
            services: Vec::new(),
        }
    }

    #[test]
    fn a_row_keeps_its_time_while_state_and_reason_stay() {
        let at = |seconds| Timestamp::from_start(std::time::Duration::from_secs(seconds));
        let mut row = Row::default();
        let mut since = |status, now| {
            row.tell(status, at(now));
            row.since
        };
        assert_eq!(since(told(VipState::Pending, None), 5), at(5));
        assert_eq!(
            since(
                VipStatus { network: Some(crate::engine::observed::Owner::Ours), ..told(VipState::Pending, None) },
                6
            ),
            at(5)
        );
        assert_eq!(since(told(VipState::Advertised, None), 7), at(7));
        assert_eq!(since(told(VipState::Withdrawn, Some(WithdrawReason::NoEndpoint)), 8), at(8));
        assert_eq!(since(told(VipState::Withdrawn, Some(WithdrawReason::NodeExcluded)), 9), at(9));
    }
}
