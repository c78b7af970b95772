//! The engine's end of the guard: asks for every ejection, and lets none stand without a permission that is still worth something.
//!
//! Owns what is asked for and what was answered. Who may eject what is [`guard`](super::guard)'s rule.

use std::collections::BTreeMap;
use std::time::Duration;

use super::engine::{Engine, Timer};
use super::guard::{Permissions, Refused, Wanted};
use super::service::EndpointScope;
use super::types::{ServiceKey, Timestamp, Vip};

/// A VIP is asked for so long after the last reason to: whoever comes back because all suspect it goes on telling so, and is
/// not taken for healthy while it counts its first connections.
const LINGER: Duration = Duration::from_secs(30);

/// Who is asked before a VIP is withdrawn for its traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Nobody can be asked (Services from files): it is enough that another node has endpoints.
    #[default]
    NotAlone,
    /// The register that all nodes share.
    Register,
}

/// What was asked for and answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    wanted: Wanted,
    /// When each of them was wanted last.
    last: BTreeMap<Vip, Timestamp>,
    /// `wanted` has changed since it was last taken.
    untold: bool,
    answers: BTreeMap<Vip, Result<(), Refused>>,
    /// The answers that permit are worth nothing from then on.
    until: Timestamp,
}

impl Engine {
    /// The VIPs to ask the register for, whole, where they have changed since the last call.
    pub fn take_wanted_ejections(&mut self) -> Option<Wanted> {
        std::mem::take(&mut self.asked.untold).then(|| self.asked.wanted.clone())
    }

    /// Why the VIP may not be withdrawn for its traffic, where that is wanted and refused.
    #[must_use]
    pub(super) fn ejection_refused(&self, vip: Vip) -> Option<Refused> {
        self.asked.wanted.contains_key(&vip).then(|| self.may_eject(vip).err()).flatten()
    }

    pub(super) fn may_eject(&self, vip: Vip) -> Result<(), Refused> {
        match self.settings.guard {
            Guard::NotAlone if self.others_can_serve(vip) => Ok(()),
            Guard::NotAlone => Err(Refused::LastCandidate),
            Guard::Register => self.asked.answers.get(&vip).copied().unwrap_or(Err(Refused::Unanswered)),
        }
    }

    /// Whether a Service that claims the VIP has an endpoint of its family elsewhere.
    fn others_can_serve(&self, vip: Vip) -> bool {
        let claims = self.vips.get(&vip).into_iter().flat_map(|entry| &entry.claims);
        let mut views = claims.filter_map(|claim| self.services.get(&claim.service));
        views.any(|view| {
            let remote = view.endpoints.get(vip.family()).remote;
            remote.ready > 0 || remote.draining > 0
        })
    }

    /// Asks for the VIP, or, a while after the last reason to, no longer. What is no longer wanted is forgotten, its permission
    /// too: the next verdict asks anew.
    pub(super) fn want_ejection(&mut self, vip: Vip, wants: bool, now: Timestamp) {
        let claims = wants.then(|| self.claims_of(vip));
        let asked = &mut self.asked;
        if let Some(claims) = claims {
            asked.last.insert(vip, now);
            if asked.wanted.get(&vip) != Some(&claims) {
                asked.wanted.insert(vip, claims);
                asked.untold = true;
            }
        } else if let Some(last) = asked.last.get(&vip).copied() {
            let end = last.after(LINGER);
            if now < end {
                self.timers.insert((end, Timer::Vip(vip)));
            } else {
                asked.last.remove(&vip);
                asked.wanted.remove(&vip);
                asked.answers.remove(&vip);
                asked.untold = true;
            }
        }
    }

    fn claims_of(&self, vip: Vip) -> Vec<(ServiceKey, EndpointScope)> {
        let claims = self.vips.get(&vip).into_iter().flat_map(|entry| &entry.claims);
        let scoped = claims.filter_map(|claim| {
            let view = self.services.get(&claim.service)?;
            let own = view.vips.iter().find(|own| own.vip == vip)?;
            Some((claim.service.clone(), own.scope))
        });
        scoped.collect()
    }

    pub(super) fn permissions(&mut self, permissions: Permissions, now: Timestamp) {
        self.asked.until = now.after(permissions.valid_for);
        // An answer to what is no longer asked comes too late.
        let Permissions { mut answers, .. } = permissions;
        answers.retain(|vip, _| self.asked.wanted.contains_key(vip));
        self.asked.answers = answers;
        let vips: Vec<Vip> = self.asked.wanted.keys().copied().collect();
        for vip in vips {
            self.changed.insert(vip);
            self.timers.insert((self.asked.until, Timer::Vip(vip)));
            self.end_unpermitted(vip, now);
            self.judge_traffic(vip, now);
        }
    }

    /// Lets time pass for one VIP: permissions run out, and what nobody wants any more is no longer asked for.
    pub(super) fn settle_ejection(&mut self, vip: Vip, now: Timestamp) {
        if !self.asked.wanted.contains_key(&vip) {
            return;
        }
        if now >= self.asked.until && self.asked.answers.get(&vip).is_some_and(Result::is_ok) {
            self.asked.answers.remove(&vip);
        }
        self.end_unpermitted(vip, now);
        let stands =
            self.vips.get(&vip).is_some_and(|entry| entry.claims.iter().any(|claim| claim.traffic.is_ejected()));
        self.want_ejection(vip, stands, now);
    }

    /// Ejections whose permission has run out or was taken back end.
    fn end_unpermitted(&mut self, vip: Vip, now: Timestamp) {
        if self.may_eject(vip).is_ok() {
            return;
        }
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        let freed = entry.claims.iter_mut().map(|claim| claim.traffic.set_free());
        if freed.fold(false, |any, one| any | one) {
            self.decide(vip, now);
            self.touch(vip);
        }
    }
}
