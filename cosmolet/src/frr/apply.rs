//! Steps into bgpd: one session of its own, so that they never wait behind a read.
//!
//! Owns that session and what it knows of it. Never decides which steps to take, but refuses those that would change
//! somebody else's `network` statement.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::error::FrrError;
use super::render::{Batch, Batches, LOST_RETRY, Role, outcome};
use super::vty::{Reply, Session, Status};
use crate::engine::observed::BgpFault;
use crate::engine::plan::{Applied, Outcome, Step};
use crate::engine::types::Vip;

/// Batches that may be under way: enough to keep bgpd busy while this task waits for a processor (some 30 ms), little
/// enough for the socket's buffer and for bgpd's unbounded one.
const WINDOW: usize = 128;

/// While at least this many batches are under way, replies are gathered for a while instead of being fetched one by one
/// as bgpd writes them: bgpd has some ms of work left, and on a small machine needs the processor more than we do.
const BUSY: usize = WINDOW / 2;
/// How long they are gathered.
const GATHER: Duration = Duration::from_millis(1);

/// Whether steps may be carried out, as the last observation has it.
#[derive(Clone, Debug)]
pub(super) enum Admission {
    /// No, for this reason.
    Closed(BgpFault),
    /// Yes, but not for these VIPs: their `network` statement is somebody else's.
    Open(Arc<BTreeSet<Vip>>),
}

/// The apply half of the edge.
#[derive(Debug)]
pub(super) struct Applier {
    path: PathBuf,
    patience: Duration,
    connection: Mutex<Option<Connection>>,
    /// Odd while commands are under way; moves twice with every run.
    sequence: AtomicU64,
}

#[derive(Debug)]
struct Connection {
    session: Session,
    /// The route-map was made sure of since this connection was opened, hence since bgpd started.
    route_map: bool,
}

impl Applier {
    pub(super) fn new(path: PathBuf, patience: Duration) -> Self {
        Self { path, patience, connection: Mutex::new(None), sequence: AtomicU64::new(0) }
    }

    /// Opens a new connection before the first step needs it. Leaves a run that is under way alone: it will see for
    /// itself that its connection has ended.
    pub(super) async fn renew(&self) -> Result<(), FrrError> {
        if let Ok(mut slot) = self.connection.try_lock() {
            *slot = None;
            *slot = Some(self.connect().await?);
        }
        Ok(())
    }

    /// A number that is the same before and after a read exactly if no step was under way meanwhile; `None` while one
    /// is.
    pub(super) fn quiet(&self) -> Option<u64> {
        let sequence = self.sequence.load(Ordering::Acquire);
        sequence.is_multiple_of(2).then_some(sequence)
    }

    /// Carries out steps, pipelined, and says what became of each. Those that are refused beforehand come last.
    pub(super) async fn run(&self, steps: Vec<Step>, admission: &Admission) -> Vec<Applied> {
        let (steps, refused) = admit(steps, admission);
        if steps.is_empty() {
            return refused;
        }
        let mut slot = self.connection.lock().await;
        let _running = Running::start(&self.sequence);
        let mut outcomes = vec![None; steps.len()];
        let result = match slot.take().filter(|connection| connection.session.is_idle()) {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        };
        let result = match result {
            Ok(mut connection) => match connection.pump(&steps, &mut outcomes).await {
                Ok(()) => {
                    *slot = Some(connection);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let lost = result.err().map_or_else(|| "no reply".to_owned(), |error| error.to_string());
        let known = steps.into_iter().zip(outcomes).map(|(step, outcome)| Applied {
            step,
            outcome: outcome.unwrap_or_else(|| Outcome::Retry(LOST_RETRY, lost.clone())),
        });
        known.chain(refused).collect()
    }

    async fn connect(&self) -> Result<Connection, FrrError> {
        Ok(Connection { session: Session::open(&self.path, self.patience).await?, route_map: false })
    }
}

/// Marks a run in the sequence, also when it is dropped half-way.
struct Running<'sequence>(&'sequence AtomicU64);

impl<'sequence> Running<'sequence> {
    fn start(sequence: &'sequence AtomicU64) -> Self {
        sequence.fetch_add(1, Ordering::AcqRel);
        Self(sequence)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl Connection {
    async fn pump(&mut self, steps: &[Step], outcomes: &mut [Option<Outcome>]) -> Result<(), FrrError> {
        let first = !self.route_map && steps.iter().any(|step| matches!(step, Step::Advertise(_)));
        let mut batches = first.then(Batch::route_map).into_iter().chain(Batches::new(steps));
        let mut flight = VecDeque::with_capacity(WINDOW);
        loop {
            while flight.len() < WINDOW
                && let Some(batch) = batches.next()
            {
                self.session.send(batch.bytes(), batch.roles().len()).await?;
                flight.push_back(Flight { batch, replies: 0, refused: None });
            }
            let under_way = flight.len();
            let Some(oldest) = flight.front_mut() else { return Ok(()) };
            let reply = match self.session.reply_at_hand()? {
                Some(reply) => reply,
                None => {
                    if under_way >= BUSY {
                        tokio::time::sleep(GATHER).await;
                    }
                    self.session.reply().await?
                }
            };
            oldest.take(&reply, steps, outcomes);
            if oldest.is_over() {
                self.route_map |= oldest.made_route_map();
                flight.pop_front();
            }
        }
    }
}

/// A batch that was sent.
struct Flight {
    batch: Batch,
    /// The replies that came so far.
    replies: usize,
    /// The first refusal of a command that opens a node.
    refused: Option<String>,
}

impl Flight {
    fn take(&mut self, reply: &Reply, steps: &[Step], outcomes: &mut [Option<Outcome>]) {
        let role = self.batch.roles().get(self.replies).copied();
        self.replies += 1;
        match role {
            Some(Role::Enter) if reply.status != Status::Success && self.refused.is_none() => {
                self.refused = Some(reply.summary());
            }
            Some(Role::Step(index)) => {
                if let (Some(step), Some(slot)) = (steps.get(index), outcomes.get_mut(index)) {
                    *slot = Some(outcome(step, self.refused.as_deref(), reply));
                }
            }
            Some(Role::Enter | Role::Leave) | None => {}
        }
    }

    fn is_over(&self) -> bool {
        self.replies == self.batch.roles().len()
    }

    fn made_route_map(&self) -> bool {
        self.refused.is_none() && !self.batch.roles().iter().any(|role| matches!(role, Role::Step(_)))
    }
}

/// Parts the steps that may be carried out from those that may not, which get their outcome at once.
fn admit(steps: Vec<Step>, admission: &Admission) -> (Vec<Step>, Vec<Applied>) {
    let mut refused = Vec::new();
    let admitted = steps.into_iter().filter_map(|step| match refusal(&step, admission) {
        None => Some(step),
        Some(outcome) => {
            refused.push(Applied { step, outcome });
            None
        }
    });
    (admitted.collect(), refused)
}

fn refusal(step: &Step, admission: &Admission) -> Option<Outcome> {
    if !matches!(step, Step::Advertise(_) | Step::Withdraw(_)) {
        return Some(Outcome::GiveUp(format!("{} is no step for FRR", step.as_str())));
    }
    match admission {
        Admission::Closed(fault) => Some(Outcome::Retry(LOST_RETRY, format!("FRR cannot be used: {}", fault.as_str()))),
        Admission::Open(foreign) if foreign.contains(&step.vip()) => {
            Some(Outcome::GiveUp("its `network` statement is somebody else's".to_owned()))
        }
        Admission::Open(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(text: &str) -> Vip {
        Vip::new(text.parse().unwrap())
    }

    #[test]
    fn what_is_somebody_elses_is_left_alone() {
        let steps = vec![
            Step::Advertise(vip("10.0.0.1")),
            Step::Advertise(vip("10.0.0.2")),
            Step::Withdraw(vip("10.0.0.2")),
            Step::AddAddress(vip("10.0.0.3"), None),
        ];
        let admission = Admission::Open(Arc::new(BTreeSet::from([vip("10.0.0.2")])));
        let (admitted, refused) = admit(steps.clone(), &admission);
        assert_eq!(admitted, steps[..1]);
        assert!(refused.iter().all(|applied| matches!(applied.outcome, Outcome::GiveUp(_))));
        assert_eq!(refused.len(), 3);
    }

    #[test]
    fn nothing_is_sent_while_frr_cannot_be_used() {
        let steps = vec![Step::Advertise(vip("10.0.0.1"))];
        let (admitted, refused) = admit(steps, &Admission::Closed(BgpFault::NoInstance));
        assert!(admitted.is_empty());
        assert!(matches!(&refused[0].outcome, Outcome::Retry(_, why) if why.contains("NoInstance")));
    }
}
