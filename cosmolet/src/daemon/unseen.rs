//! How long FRR's RIB takes to show what a step has done.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::engine::observed::{Observed, RibReport};
use crate::engine::plan::{Applied, Outcome, Step};
use crate::engine::types::Vip;

/// VIPs that the RIB does not show yet as their last step left them, since when, and what it should say of their paths.
#[derive(Debug, Default)]
pub(super) struct Unseen(BTreeMap<Vip, (Instant, bool)>);

impl Unseen {
    /// Notes a step. What the RIB shows already, as after the renewal of a lease, is not awaited, nor any more what was awaited
    /// of the VIP before; and the first of several steps counts that lead to the same.
    pub(super) fn applied(&mut self, applied: &Applied, observed: &Observed, now: Instant) {
        let vip = applied.step.vip();
        let valid = match applied.step {
            Step::AddAddress(..) | Step::Advertise(..) => true,
            Step::Withdraw(_) | Step::RemoveAddress(_) => false,
            Step::TrackVip(..) | Step::UntrackVip(_) => return,
        };
        if applied.outcome != Outcome::Done {
            return;
        }
        if observed.rib.get(&vip).is_some_and(|rib| rib.valid) == valid {
            self.0.remove(&vip);
        } else if self.0.get(&vip).is_none_or(|(_, awaited)| *awaited != valid) {
            self.0.insert(vip, (now, valid));
        }
    }

    /// Takes a reading of the RIB; returns since when it was awaited, if it was.
    pub(super) fn read(&mut self, report: &RibReport) -> Option<Instant> {
        let (since, valid) = *self.0.get(&report.vip)?;
        if report.rib.valid != valid {
            return None;
        }
        self.0.remove(&report.vip);
        Some(since)
    }

    /// FRR is gone, and with it what was awaited.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::observed::RibState;

    #[test]
    fn only_a_change_is_awaited_and_told_once() {
        let vip = Vip::new([10, 0, 0, 1].into());
        let report = |valid| RibReport { vip, rib: RibState { valid, ..RibState::default() } };
        let done = |step| Applied { step, outcome: Outcome::Done };
        let (mut unseen, mut observed, now) = (Unseen::default(), Observed::default(), Instant::now());
        unseen.applied(&done(Step::Withdraw(vip)), &observed, now);
        assert_eq!(unseen.read(&report(false)), None, "nothing was there");
        unseen.applied(&done(Step::advertise(vip)), &observed, now);
        unseen.applied(&done(Step::Withdraw(vip)), &observed, now);
        assert_eq!(unseen.read(&report(true)), None, "withdrawn before it was seen");
        unseen.applied(&done(Step::add_address(vip, None)), &observed, now);
        unseen.applied(&done(Step::advertise(vip)), &observed, now + std::time::Duration::from_secs(1));
        assert_eq!([unseen.read(&report(false)), unseen.read(&report(true))], [None, Some(now)]);
        assert_eq!(unseen.read(&report(true)), None);
        observed.rib.insert(vip, report(true).rib);
        unseen.applied(&done(Step::add_address(vip, None)), &observed, now);
        assert_eq!(unseen.read(&report(true)), None, "a renewal");
        unseen.applied(&done(Step::RemoveAddress(vip)), &observed, now);
        unseen.clear();
        assert_eq!(unseen.read(&report(false)), None);
    }
}
