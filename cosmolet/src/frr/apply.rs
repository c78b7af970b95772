//! Steps into bgpd: one session of its own, so that they never wait behind a read.
//!
//! Owns that session and what it knows of it. Never decides which steps to take, but refuses those that would change
//! somebody else's `network` statement.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::FrrError;
use super::maps::{FrrMap, Names};
use super::observe::{RunningConfig, has_instance};
use super::render::{Batch, Batches, Door, INSTANCES, LOST_RETRY, Role, outcome};
use super::vty::{Line, Reply, Session, Status};
use super::withdrawn::Withdrawn;
use crate::engine::attributes::{MapName, Route};
use crate::engine::observed::BgpFault;
use crate::engine::plan::{Applied, Outcome, Step};
use crate::engine::types::{Vip, Vrf};

/// Batches that may be under way: enough to keep bgpd busy while this task waits for a processor (some 30 ms), little
/// enough for the socket's buffer and for bgpd's unbounded one.
const WINDOW: usize = 128;

/// While at least this many batches are under way, replies are gathered for a while instead of being fetched one by one
/// as bgpd writes them: bgpd has some ms of work left, and on a small machine needs the processor more than we do.
const BUSY: usize = WINDOW / 2;
/// How long they are gathered.
const GATHER: Duration = Duration::from_millis(1);

/// A withdrawn VIP stays denied for as long at least: FRR takes 50 ms to forget its `network`.
const DENIED_FOR: Duration = Duration::from_secs(1);

/// Whether steps may be carried out, as the last observation has it.
#[derive(Clone, Debug)]
pub(super) enum Admission {
    /// No, for this reason.
    Closed(BgpFault),
    /// Yes.
    Open {
        /// But not for these VIPs: their `network` statement is somebody else's.
        foreign: Arc<BTreeSet<Vip>>,
        /// FRR's AS number.
        asn: u32,
        /// How to get into the instance.
        door: Door,
    },
}

/// The apply half of the edge.
#[derive(Debug)]
pub(super) struct Applier {
    path: PathBuf,
    patience: Duration,
    slot: Mutex<Slot>,
    /// Odd while commands are under way; moves twice with every run.
    sequence: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    connection: Option<Connection>,
    /// What our route-maps are called: this outlasts a connection.
    names: Names,
    /// The lists that the operator lends.
    withdrawn: Withdrawn,
    /// When something was last withdrawn.
    withdrew_at: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    session: Session,
    /// The route-maps that were made since this connection was opened, hence since bgpd started.
    maps: BTreeSet<FrrMap>,
}

impl Applier {
    pub(super) fn new(path: PathBuf, patience: Duration) -> Self {
        Self { path, patience, slot: Mutex::default(), sequence: AtomicU64::new(0) }
    }

    /// Opens a new connection before the first step needs it. Leaves a run that is under way alone: it will see for
    /// itself that its connection has ended.
    pub(super) async fn renew(&self) -> Result<(), FrrError> {
        if let Ok(mut slot) = self.slot.try_lock() {
            slot.connection = None;
            slot.connection = Some(self.connect().await?);
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
        let (steps, mut refused) = admit(steps, admission);
        let (false, Admission::Open { asn, door, .. }) = (steps.is_empty(), admission) else { return refused };
        let mut slot = self.slot.lock().await;
        let _running = Running::start(&self.sequence);
        let at_hand = slot.connection.take();
        let (mut connection, unmade) = match self.ready(at_hand, &steps, &slot.names, *asn).await {
            Ok(ready) => ready,
            Err(error) => return steps.into_iter().map(|step| lost(step, &error)).chain(refused).collect(),
        };
        let steps = without(steps, &unmade, &mut refused);
        let mut outcomes = vec![None; steps.len()];
        let result = slot.carry_out(&mut connection, &steps, door, &mut outcomes).await;
        if result.is_ok() {
            slot.connection = Some(connection);
        }
        let lost = result.err().map_or_else(|| "no reply".to_owned(), |error| error.to_string());
        let known = steps.into_iter().zip(outcomes).map(|(step, outcome)| Applied {
            step,
            outcome: outcome.unwrap_or_else(|| Outcome::Retry(LOST_RETRY, lost.clone())),
        });
        known.chain(refused).collect()
    }

    /// A connection, the one at hand if it will do, on which the route-maps of the steps are made; and those that FRR refused.
    async fn ready(
        &self,
        at_hand: Option<Connection>,
        steps: &[Step],
        names: &Names,
        asn: u32,
    ) -> Result<(Connection, BTreeMap<MapName, String>), FrrError> {
        let mut connection = match at_hand.filter(|connection| connection.session.is_idle()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let unmade = connection.make_maps(steps, names, asn).await?;
        Ok((connection, unmade))
    }

    /// Learns which of our route-maps FRR has: those that somebody removed from under our statements are made again, by
    /// their other name, when they are needed. What nothing needs any more is removed, unless a step was under way since the
    /// reading began (`quiet`). Leaves a run that is under way alone.
    pub(super) async fn mind(&self, config: &RunningConfig, quiet: Option<u64>) -> Result<(), FrrError> {
        let Ok(mut slot) = self.slot.try_lock() else { return Ok(()) };
        for removed in config.removed_maps() {
            tracing::warn!(map = %removed, "a route-map of ours was removed from FRR: putting it back");
            slot.names.avoid(removed, &config.version);
        }
        if let Some(connection) = &mut slot.connection {
            connection.maps.retain(|map| config.maps.contains(map));
        }
        if quiet.is_none() || quiet != self.quiet() {
            return Ok(());
        }
        slot.withdrawn.learn(&config.withdrawn, config.networks.len());
        let unused = config.unused_maps();
        let mut batches = Batch::no_route_maps(&unused);
        if slot.withdrew_at.is_none_or(|at| at.elapsed() >= DENIED_FOR) {
            batches.extend(Batch::lines(&slot.withdrawn.clear(|vip| config.networks.contains_key(&vip))));
        }
        if batches.is_empty() {
            return Ok(());
        }
        // Without one the next reading finds the same to do.
        let at_hand = slot.connection.take().filter(|connection| connection.session.is_idle());
        let Some(mut connection) = at_hand else { return Ok(()) };
        for batch in batches {
            connection.carry_out(&batch).await?;
        }
        connection.maps.retain(|map| !unused.contains(map));
        slot.connection = Some(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, FrrError> {
        Ok(Connection { session: Session::open(&self.path, self.patience).await?, maps: BTreeSet::new() })
    }
}

impl Slot {
    async fn carry_out(
        &mut self,
        connection: &mut Connection,
        steps: &[Step],
        door: &Door,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), FrrError> {
        let mut lines = self.withdrawn.permit(steps);
        lines.extend(self.withdrawn.deny(steps));
        for batch in Batch::lines(&lines) {
            if let Some(refused) = connection.carry_out(&batch).await? {
                // The `network` statements are on their way all the same.
                tracing::debug!(%refused, "FRR does not take an entry of the list of withdrawn VIPs");
            }
        }
        if steps.iter().any(|step| matches!(step, Step::Withdraw(_))) {
            self.withdrew_at = Some(Instant::now());
        }
        connection.pump(steps, &self.names, door, outcomes).await
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
    /// Makes the route-maps of the steps that this connection has not made yet. Returns those that FRR refused, each with
    /// its words: nothing may be advertised with half of its attributes.
    async fn make_maps(
        &mut self,
        steps: &[Step],
        names: &Names,
        asn: u32,
    ) -> Result<BTreeMap<MapName, String>, FrrError> {
        let routes: BTreeMap<MapName, &Route> = steps.iter().filter_map(Step::route).map(|r| (r.map, r)).collect();
        let mut unmade = BTreeMap::new();
        for (content, route) in routes {
            let map = names.of(content);
            if self.maps.contains(&map) {
                continue;
            }
            let mut refused = None;
            for batch in Batch::route_map(map, route, asn) {
                refused = refused.or(self.carry_out(&batch).await?);
            }
            match refused {
                Some(refusal) => drop(unmade.insert(content, refusal)),
                None => drop(self.maps.insert(map)),
            }
        }
        Ok(unmade)
    }

    /// Sends a batch without steps, and returns the first refusal among the replies.
    async fn carry_out(&mut self, batch: &Batch) -> Result<Option<String>, FrrError> {
        self.session.send(batch.bytes(), batch.roles().len()).await?;
        let mut refused = None;
        for _ in batch.roles() {
            let reply = self.session.reply().await?;
            refused = refused.or_else(|| (reply.status != Status::Success).then(|| reply.summary()));
        }
        Ok(refused)
    }

    async fn pump(
        &mut self,
        steps: &[Step],
        names: &Names,
        door: &Door,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), FrrError> {
        let mut batches = Batches::new(steps, names, door);
        let window = match door {
            Door::Only => WINDOW,
            Door::Named { vrf, .. } => {
                self.session.ask(&Line::fixed(INSTANCES)).await.and_then(|reply| there(&reply, vrf))?;
                1
            }
        };
        let mut flight = VecDeque::with_capacity(window);
        loop {
            while flight.len() < window
                && let Some(batch) = batches.next()
            {
                if let Err(error) = self.session.send(batch.bytes(), batch.roles().len()).await {
                    // What was answered before the connection ended is known.
                    while let Some(reply) = self.session.reply_left()? {
                        let _about = settle(&mut flight, &reply, steps, outcomes);
                    }
                    return Err(error);
                }
                flight.push_back(Flight { batch, replies: 0, refused: None });
            }
            let under_way = flight.len();
            if under_way == 0 {
                return Ok(());
            }
            let reply = match self.session.reply_at_hand()? {
                Some(reply) => reply,
                None => {
                    if under_way >= BUSY {
                        tokio::time::sleep(GATHER).await;
                    }
                    self.session.reply().await?
                }
            };
            let role = settle(&mut flight, &reply, steps, outcomes);
            if let (Some(Role::Instances), Door::Named { vrf, .. }) = (role, door) {
                there(&reply, vrf)?;
            }
        }
    }
}

/// The instance is there still. Without this check its name would make it anew after an operator has removed it.
fn there(reply: &Reply, vrf: &Vrf) -> Result<(), FrrError> {
    if has_instance(&reply.text, vrf) { Ok(()) } else { Err(FrrError::InstanceGone(vrf.clone())) }
}

/// Gives a reply to the batch that it answers, the oldest one, and says what it was about.
fn settle(
    flight: &mut VecDeque<Flight>,
    reply: &Reply,
    steps: &[Step],
    outcomes: &mut [Option<Outcome>],
) -> Option<Role> {
    let oldest = flight.front_mut()?;
    let role = oldest.take(reply, steps, outcomes);
    if oldest.is_over() {
        flight.pop_front();
    }
    role
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
    fn take(&mut self, reply: &Reply, steps: &[Step], outcomes: &mut [Option<Outcome>]) -> Option<Role> {
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
            Some(Role::Enter | Role::Setting | Role::Leave | Role::Instances) | None => {}
        }
        role
    }

    fn is_over(&self) -> bool {
        self.replies == self.batch.roles().len()
    }
}

fn lost(step: Step, error: &FrrError) -> Applied {
    Applied { step, outcome: Outcome::Retry(LOST_RETRY, error.to_string()) }
}

/// The steps but for those whose route-map FRR refused, which get that for an answer.
fn without(steps: Vec<Step>, unmade: &BTreeMap<MapName, String>, answered: &mut Vec<Applied>) -> Vec<Step> {
    let refusal = |step: &Step| step.route().and_then(|route| unmade.get(&route.map));
    let (refused, steps): (Vec<Step>, _) = steps.into_iter().partition(|step| refusal(step).is_some());
    answered.extend(refused.into_iter().map(|step| {
        let why = refusal(&step).map(|why| format!("FRR refuses its attributes: {why}")).unwrap_or_default();
        Applied { step, outcome: Outcome::GiveUp(why) }
    }));
    steps
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
    if !matches!(step, Step::Advertise(..) | Step::Withdraw(_)) {
        return Some(Outcome::GiveUp(format!("{} is no step for FRR", step.as_str())));
    }
    match admission {
        Admission::Closed(fault) => Some(Outcome::Retry(LOST_RETRY, format!("FRR cannot be used: {}", fault.as_str()))),
        Admission::Open { foreign, .. } if foreign.contains(&step.vip()) => {
            Some(Outcome::GiveUp("its `network` statement is somebody else's".to_owned()))
        }
        Admission::Open { .. } => None,
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
            Step::advertise(vip("10.0.0.1")),
            Step::advertise(vip("10.0.0.2")),
            Step::Withdraw(vip("10.0.0.2")),
            Step::add_address(vip("10.0.0.3"), None),
        ];
        let admission =
            Admission::Open { foreign: Arc::new(BTreeSet::from([vip("10.0.0.2")])), asn: 65001, door: Door::Only };
        let (admitted, refused) = admit(steps.clone(), &admission);
        assert_eq!(admitted, steps[..1]);
        assert!(refused.iter().all(|applied| matches!(applied.outcome, Outcome::GiveUp(_))));
        assert_eq!(refused.len(), 3);
    }

    #[test]
    fn nothing_is_sent_while_frr_cannot_be_used() {
        let steps = vec![Step::advertise(vip("10.0.0.1"))];
        let (admitted, refused) = admit(steps, &Admission::Closed(BgpFault::Silent));
        assert!(admitted.is_empty());
        assert!(matches!(&refused[0].outcome, Outcome::Retry(_, why) if why.contains("Silent")));
    }
}
