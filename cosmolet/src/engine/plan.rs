//! The steps between what is wanted and what is there.
//!
//! Owns the steps, their order and what became of them. Never carries them out: that is `apply`'s.

use std::time::Duration;

use super::attributes::Route;
use super::types::{Family, Ports, Vip};

/// One effect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Counts the VIP's traffic on these ports from now on; replaces the ports it had.
    TrackVip(Vip, Ports),
    /// Puts the VIP on the loopback, or renews its lease.
    AddAddress(Vip, Hold),
    /// Adds our `network` statement, or gives it another route-map.
    Advertise(Vip, Route),
    /// Removes our `network` statement.
    Withdraw(Vip),
    /// Removes the VIP from the loopback.
    RemoveAddress(Vip),
    /// Stops counting.
    UntrackVip(Vip),
}

/// How an address is put on the loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold {
    /// The kernel removes it after this time; `None` is never.
    pub lease: Option<Duration>,
    /// The kernel makes a route of its prefix too, as FRR wants it from version 10 on to call it connected. Never for IPv4,
    /// which has no such route.
    pub prefix_route: bool,
    /// An address that is there is removed first: FRR has missed its coming.
    pub anew: bool,
}

impl Step {
    /// Puts the VIP on the loopback as the kernel does by itself, with this lease; `None` is one without end.
    #[must_use]
    pub fn add_address(vip: Vip, lease: Option<Duration>) -> Self {
        Self::AddAddress(vip, Hold { lease, prefix_route: vip.family() == Family::V6, anew: false })
    }

    /// Our `network` statement without attributes.
    #[must_use]
    pub fn advertise(vip: Vip) -> Self {
        Self::Advertise(vip, Route::default())
    }

    /// The VIP that the step is about.
    #[must_use]
    pub const fn vip(&self) -> Vip {
        match self {
            Self::TrackVip(vip, _)
            | Self::AddAddress(vip, _)
            | Self::Advertise(vip, _)
            | Self::Withdraw(vip)
            | Self::RemoveAddress(vip)
            | Self::UntrackVip(vip) => *vip,
        }
    }

    /// How it advertises, if it does.
    #[must_use]
    pub const fn route(&self) -> Option<&Route> {
        match self {
            Self::Advertise(_, route) => Some(route),
            Self::TrackVip(..)
            | Self::AddAddress(..)
            | Self::Withdraw(_)
            | Self::RemoveAddress(_)
            | Self::UntrackVip(_) => None,
        }
    }

    /// It removes an address and puts it on anew.
    #[must_use]
    pub const fn is_anew(&self) -> bool {
        matches!(self, Self::AddAddress(_, Hold { anew: true, .. }))
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Withdraw(_) => 0,
            Self::RemoveAddress(_) => 1,
            Self::AddAddress(..) => 2,
            Self::Advertise(..) => 3,
            Self::UntrackVip(_) => 4,
            Self::TrackVip(..) => 5,
        }
    }

    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::TrackVip(..) => "track_vip",
            Self::AddAddress(..) if self.is_anew() => "add_address_anew",
            Self::AddAddress(..) => "add_address",
            Self::Advertise(..) => "advertise",
            Self::Withdraw(_) => "withdraw",
            Self::RemoveAddress(_) => "remove_address",
            Self::UntrackVip(_) => "untrack_vip",
        }
    }
}

/// Ordered steps. Withdrawals come first, so that none waits for an addition; an address comes before its
/// advertisement, and a withdrawal before the removal of its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    steps: Vec<Step>,
    gives_way: bool,
}

impl Plan {
    /// Orders steps; those of one kind stay in the order of their VIPs.
    #[must_use]
    pub fn new(mut steps: Vec<Step>) -> Self {
        steps.sort_by_key(Step::rank);
        Self { steps, gives_way: false }
    }

    /// The steps in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// True if there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The same plan, as one that gives way.
    #[must_use]
    pub fn giving_way(self) -> Self {
        Self { gives_way: true, ..self }
    }

    /// It holds no withdrawal that peers have to hear of. When one comes up, whoever carries the plan out may stop between
    /// two steps and answer those that are left with [`Outcome::Deferred`].
    #[must_use]
    pub const fn gives_way(&self) -> bool {
        self.gives_way
    }

    /// Gives the steps away.
    #[must_use]
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The step.
    pub step: Step,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The retry class of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel or FRR confirmed it.
    Done,
    /// It failed, or nobody knows; try again after this time. Holds the error.
    Retry(Duration, String),
    /// It fails for a reason that trying again will not mend. Holds the error.
    GiveUp(String),
    /// It was not begun: its plan gave way to a withdrawal.
    Deferred,
}
