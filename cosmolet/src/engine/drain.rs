//! The way out for what is planned: a VIP is de-preferred first, so that peers move its connections to other nodes while
//! this one still answers, and withdrawn once its traffic is gone. What fails is withdrawn at once.

use std::time::Duration;

use super::engine::Engine;
use super::intent::{Decision, WithdrawReason};
use super::observed::{BgpState, Owner, ProgramsState};
use super::types::{Mode, Timestamp, Vip};

/// After so long without a packet the traffic of a draining VIP is gone: some samples, and FRR's times on both ends.
const QUIET: Duration = Duration::from_secs(3);

/// One VIP's way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drain {
    /// It ends here at the latest.
    until: Timestamp,
    /// A client's packet was last counted, or it began.
    heard_at: Timestamp,
}

impl Drain {
    pub(super) fn heard(&mut self, now: Timestamp) {
        self.heard_at = now;
    }
}

impl Engine {
    /// The drain of a VIP whose decision becomes `to`, if it is to have one.
    pub(super) fn drain_for(&self, vip: Vip, to: Decision, now: Timestamp) -> Option<Box<Drain>> {
        let entry = self.vips.get(&vip)?;
        let (Decision::Withdraw(reason), Some(limit)) = (to, self.settings.drain) else { return None };
        // What cannot be served any more is not to be served for the rest of the time either.
        if !is_planned(reason) || !entry.by_claims(true).is_up() || !self.can_depreference(vip) {
            return None;
        }
        // Whatever was decided meanwhile: peers hear of it, so it is to go gently.
        Some(entry.drain.clone().unwrap_or_else(|| Box::new(Drain { until: now.after(limit), heard_at: now })))
    }

    /// When the drain of a VIP ends, if there is one.
    pub(super) fn drain_ends(&self, vip: Vip) -> Option<Timestamp> {
        let drain = self.vips.get(&vip)?.drain.as_deref()?;
        Some(match self.observed.programs {
            ProgramsState::Running(_) => drain.until.min(drain.heard_at.after(QUIET)),
            ProgramsState::Off(_) => drain.until,
        })
    }

    /// Whether peers hear of it by our `network` statement, and its address is there for what they send: in Connected mode
    /// the route-map is the operator's.
    fn can_depreference(&self, vip: Vip) -> bool {
        match &self.observed.bgp {
            BgpState::Up(view) => {
                *view.modes.get(vip.family()) == Mode::Dynamic
                    && view.network_owner(vip) == Some(Owner::Ours)
                    && self.is_up(vip)
            }
            BgpState::Disabled | BgpState::Down(_) => false,
        }
    }

    pub(super) fn drained(&mut self, drained: bool, now: Timestamp) {
        if self.drained != drained {
            self.drained = drained;
            self.decide_all(now);
        }
    }
}

/// Somebody wants the node free of VIPs, and nothing is broken.
const fn is_planned(reason: WithdrawReason) -> bool {
    match reason {
        WithdrawReason::NodeExcluded
        | WithdrawReason::NodeTainted
        | WithdrawReason::NodeCordoned
        | WithdrawReason::NodeDrained => true,
        WithdrawReason::NodeNetworkUnavailable
        | WithdrawReason::NodeUnknown
        | WithdrawReason::NoLocalEndpoint
        | WithdrawReason::NoEndpoint
        | WithdrawReason::PodRestarting
        | WithdrawReason::HostRefuses
        | WithdrawReason::ConnectionsFail
        | WithdrawReason::ProbeFails
        | WithdrawReason::Proving
        | WithdrawReason::Unproven
        | WithdrawReason::ServiceGone
        | WithdrawReason::Refused(_)
        | WithdrawReason::Exit => false,
    }
}
