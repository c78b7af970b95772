//! Carries plans out: the only place where effects start.
//!
//! Owns the order between the edges: withdrawals first, an address before its advertisement, a withdrawal before the
//! removal of its address. Never decides what is to be done.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::engine::plan::{Applied, Outcome, Plan, Step};
use crate::engine::types::Vip;
use crate::frr::FrrHandle;
use crate::netlink::apply::Addresses;
use crate::programs::ProgramsHandle;

/// How soon a step is tried again that had to wait for another one of its VIP.
const AFTER_THE_OTHER: Duration = Duration::from_millis(200);

/// The edges that have effects.
pub struct Applier {
    addresses: Addresses,
    frr: Option<FrrHandle>,
    programs: Option<ProgramsHandle>,
}

impl Applier {
    /// Takes the edges; without FRR (`bgp.enabled: false`) only the loopback is kept, without programs nothing is
    /// counted.
    #[must_use]
    pub const fn new(addresses: Addresses, frr: Option<FrrHandle>, programs: Option<ProgramsHandle>) -> Self {
        Self { addresses, frr, programs }
    }

    /// Carries a plan out and says what became of every step.
    pub async fn apply(&mut self, plan: Plan) -> Vec<Applied> {
        let mut steps = Stages::of(plan);
        let mut applied = self.frr(steps.withdraw).await;
        let stuck = failed(&applied);
        let (remove, held): (Vec<_>, Vec<_>) = steps.remove.into_iter().partition(|step| !stuck.contains(&step.vip()));
        applied.extend(held.into_iter().map(|step| waiting(step, "its withdrawal has not been confirmed")));
        steps.add.splice(0..0, remove);
        applied.extend(self.addresses.apply(&steps.add).await);
        let missing = failed(&applied);
        let (ready, held): (Vec<_>, Vec<_>) =
            steps.advertise.into_iter().partition(|step| !missing.contains(&step.vip()));
        applied.extend(held.into_iter().map(|step| waiting(step, "its address is not on the loopback")));
        applied.extend(self.frr(ready).await);
        if !steps.count.is_empty() {
            applied.extend(match &self.programs {
                Some(programs) => programs.apply(steps.count).await,
                None => steps.count.into_iter().map(|step| waiting(step, "no programs run")).collect(),
            });
        }
        self.watch_connected(&applied);
        applied
    }

    async fn frr(&self, steps: Vec<Step>) -> Vec<Applied> {
        match &self.frr {
            _ if steps.is_empty() => Vec::new(),
            Some(frr) => frr.apply(steps).await,
            None => steps.into_iter().map(|step| waiting(step, "bgp.enabled is false")).collect(),
        }
    }

    /// In Connected mode the address is the advertisement: its way into the RIB is watched from here.
    fn watch_connected(&self, applied: &[Applied]) {
        let Some(frr) = &self.frr else { return };
        let done = |wanted: fn(&Step) -> bool| -> Vec<Vip> {
            let done = applied.iter().filter(|one| one.outcome == Outcome::Done && wanted(&one.step));
            done.map(|one| one.step.vip()).collect()
        };
        frr.watch_rib(done(|step| matches!(step, Step::AddAddress(..))), true);
        frr.watch_rib(done(|step| matches!(step, Step::RemoveAddress(_))), false);
    }
}

/// A plan's steps by the edge and the moment they belong to.
#[derive(Default)]
struct Stages {
    withdraw: Vec<Step>,
    remove: Vec<Step>,
    add: Vec<Step>,
    advertise: Vec<Step>,
    count: Vec<Step>,
}

impl Stages {
    fn of(plan: Plan) -> Self {
        let mut stages = Self::default();
        for step in plan.into_steps() {
            match step {
                Step::Withdraw(_) => stages.withdraw.push(step),
                Step::RemoveAddress(_) => stages.remove.push(step),
                Step::AddAddress(..) => stages.add.push(step),
                Step::Advertise(_) => stages.advertise.push(step),
                Step::TrackVip(..) | Step::UntrackVip(_) => stages.count.push(step),
            }
        }
        stages
    }
}

fn failed(applied: &[Applied]) -> BTreeSet<Vip> {
    applied.iter().filter(|one| one.outcome != Outcome::Done).map(|one| one.step.vip()).collect()
}

fn waiting(step: Step, why: &str) -> Applied {
    Applied { step, outcome: Outcome::Retry(AFTER_THE_OTHER, why.to_owned()) }
}
