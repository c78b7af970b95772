//! The steps between what is wanted and what is there.
//!
//! Owns the steps, their order and what became of them. Never carries them out: that is `apply`'s.

use std::time::Duration;

use super::types::{Port, Vip};

/// One effect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Counts the VIP's traffic on these ports from now on; replaces the ports it had.
    TrackVip(Vip, Vec<Port>),
    /// Puts the VIP on the loopback, or renews its lease. `None` is a lease without end.
    AddAddress(Vip, Option<Duration>),
    /// Adds our `network` statement.
    Advertise(Vip),
    /// Removes our `network` statement.
    Withdraw(Vip),
    /// Removes the VIP from the loopback.
    RemoveAddress(Vip),
    /// Stops counting.
    UntrackVip(Vip),
}

impl Step {
    /// The VIP that the step is about.
    #[must_use]
    pub const fn vip(&self) -> Vip {
        match self {
            Self::TrackVip(vip, _)
            | Self::AddAddress(vip, _)
            | Self::Advertise(vip)
            | Self::Withdraw(vip)
            | Self::RemoveAddress(vip)
            | Self::UntrackVip(vip) => *vip,
        }
    }

    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::TrackVip(..) => "track_vip",
            Self::AddAddress(..) => "add_address",
            Self::Advertise(_) => "advertise",
            Self::Withdraw(_) => "withdraw",
            Self::RemoveAddress(_) => "remove_address",
            Self::UntrackVip(_) => "untrack_vip",
        }
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
}
