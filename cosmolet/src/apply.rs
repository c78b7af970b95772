//! Carries plans out: the only place where effects start.
//!
//! Owns the order between the edges: withdrawals first, an address before its advertisement, a withdrawal before the
//! removal of its address. A plan that gives way lands early once a withdrawal waits, with the rest of its steps deferred: so
//! one plan in flight is enough. Never decides what is to be done.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::engine::plan::{Applied, Outcome, Plan, Step};
use crate::engine::types::Vip;
use crate::frr::FrrHandle;
use crate::netlink::apply::Addresses;
use crate::programs::ProgramsHandle;

/// How soon a step is tried again that had to wait for another one of its VIP.
const AFTER_THE_OTHER: Duration = Duration::from_millis(200);
/// Advertisements handed to FRR at a time by a plan that gives way: some 10 ms of bgpd's time.
const PORTION: usize = 256;

/// Tells the plan in flight that a withdrawal waits for it.
#[derive(Clone, Debug, Default)]
pub struct GiveWay(Arc<AtomicBool>);

impl GiveWay {
    /// Says whether one waits.
    pub fn set(&self, waits: bool) {
        self.0.store(waits, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The edges that have effects.
pub struct Applier {
    addresses: Addresses,
    frr: Option<FrrHandle>,
    programs: Option<ProgramsHandle>,
    give_way: GiveWay,
}

impl Applier {
    /// Takes the edges; without FRR (`bgp.enabled: false`) only the loopback is kept, without programs nothing is
    /// counted.
    #[must_use]
    pub fn new(addresses: Addresses, frr: Option<FrrHandle>, programs: Option<ProgramsHandle>) -> Self {
        Self { addresses, frr, programs, give_way: GiveWay::default() }
    }

    /// What to tell a plan in flight by.
    #[must_use]
    pub fn give_way(&self) -> GiveWay {
        self.give_way.clone()
    }

    /// Carries a plan out and says what became of every step.
    pub async fn apply(&mut self, plan: Plan) -> Vec<Applied> {
        let (give_way, gives_way) = (self.give_way.clone(), plan.gives_way());
        let stop = move || gives_way && give_way.is_set();
        let mut steps = Stages::of(plan);
        let mut applied = self.frr(steps.withdraw).await;
        let stuck = failed(&applied);
        let (remove, held): (Vec<_>, Vec<_>) = steps.remove.into_iter().partition(|step| !stuck.contains(&step.vip()));
        applied.extend(held.into_iter().map(|step| waiting(step, "its withdrawal has not been confirmed")));
        steps.add.splice(0..0, remove);
        applied.extend(self.addresses.apply(&steps.add, &stop).await);
        let missing = failed(&applied);
        let put_off = vips(&applied, |outcome| *outcome == Outcome::Deferred);
        let (ready, held): (Vec<_>, Vec<_>) =
            steps.advertise.into_iter().partition(|step| !missing.contains(&step.vip()));
        applied.extend(held.into_iter().map(|step| {
            if put_off.contains(&step.vip()) {
                deferred(step)
            } else {
                waiting(step, "its address is not on the loopback")
            }
        }));
        applied.extend(self.advertise(ready, &stop).await);
        applied.extend(self.count(steps.count, &stop).await);
        self.watch_connected(&applied);
        applied
    }

    async fn advertise(&self, steps: Vec<Step>, stop: &(dyn Fn() -> bool + Sync)) -> Vec<Applied> {
        let mut applied = Vec::with_capacity(steps.len());
        for portion in steps.chunks(PORTION) {
            if stop() {
                applied.extend(portion.iter().cloned().map(deferred));
            } else {
                applied.extend(self.frr(portion.to_vec()).await);
            }
        }
        applied
    }

    async fn count(&self, steps: Vec<Step>, stop: &(dyn Fn() -> bool + Sync)) -> Vec<Applied> {
        match &self.programs {
            _ if steps.is_empty() => Vec::new(),
            _ if stop() => steps.into_iter().map(deferred).collect(),
            Some(programs) => programs.apply(steps).await,
            None => steps.into_iter().map(|step| waiting(step, "no programs run")).collect(),
        }
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
        frr.recheck_rib(done(Step::is_anew));
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
                Step::Advertise(..) => stages.advertise.push(step),
                Step::TrackVip(..) | Step::UntrackVip(_) => stages.count.push(step),
            }
        }
        stages
    }
}

fn failed(applied: &[Applied]) -> BTreeSet<Vip> {
    vips(applied, |outcome| *outcome != Outcome::Done)
}

fn vips(applied: &[Applied], fits: impl Fn(&Outcome) -> bool) -> BTreeSet<Vip> {
    applied.iter().filter(|one| fits(&one.outcome)).map(|one| one.step.vip()).collect()
}

const fn deferred(step: Step) -> Applied {
    Applied { step, outcome: Outcome::Deferred }
}

fn waiting(step: Step, why: &str) -> Applied {
    Applied { step, outcome: Outcome::Retry(AFTER_THE_OTHER, why.to_owned()) }
}
