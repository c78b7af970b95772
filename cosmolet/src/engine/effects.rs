//! The observed half of the engine: what the kernel, FRR and the programs tell, and what became of plans.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::control::differing;
use super::engine::Engine;
use super::observed::{BgpState, KernelEvent, KernelState, LoopbackAddress, Network, Owner, ProgramsState};
use super::plan::{Applied, Hold, Outcome, Step};
use super::types::{Timestamp, Vip};

/// After an error that trying again will not mend, the next attempt is this far away.
const GIVEN_UP_FOR: Duration = Duration::from_secs(60);

impl Engine {
    pub(super) fn kernel(&mut self, event: KernelEvent, now: Timestamp) {
        match event {
            KernelEvent::Dump(state) => self.kernel_dump(state, now),
            KernelEvent::Loopback(vip, held) => {
                let state = self.observed.kernel.get_or_insert_with(KernelState::default);
                let old = state.loopback.insert(vip, held);
                self.lease(vip, held, now);
                if old.map(|old| old.owner) != Some(held.owner) {
                    self.observed_address(vip, now);
                }
            }
            KernelEvent::LoopbackGone(vip) => {
                let state = self.observed.kernel.get_or_insert_with(KernelState::default);
                if state.loopback.remove(&vip).is_some() {
                    self.observed_address(vip, now);
                }
            }
            KernelEvent::Own(own) => {
                let state = self.observed.kernel.get_or_insert_with(KernelState::default);
                let old = std::mem::replace(&mut state.own, own.clone());
                self.reconsider(old.symmetric_difference(&own), now);
            }
        }
    }

    fn kernel_dump(&mut self, state: KernelState, now: Timestamp) {
        let first = self.observed.kernel.is_none();
        let old = self.observed.kernel.replace(state.clone()).unwrap_or_default();
        for (vip, held) in &state.loopback {
            self.lease(*vip, *held, now);
        }
        if first {
            self.adopt_if_synced();
            self.decide_all(now);
            return;
        }
        let owners = |state: &KernelState| -> BTreeMap<Vip, Owner> {
            state.loopback.iter().map(|(vip, held)| (*vip, held.owner)).collect()
        };
        for vip in differing(&owners(&old), &owners(&state)) {
            self.observed_address(vip, now);
        }
        self.reconsider(old.own.symmetric_difference(&state.own), now);
    }

    /// An address came or went. Ours that nobody claims has an entry by its lease; another's may forbid a VIP.
    fn observed_address(&mut self, vip: Vip, now: Timestamp) {
        self.decide(vip, now);
        self.touch(vip);
    }

    fn adopt_if_synced(&mut self) {
        if self.synced {
            self.adopt();
        }
    }

    /// What FRR advertised before the daemon came never waits for a proof. Where VIPs have addresses, those have told of it.
    fn adopt_advertised(&mut self) {
        if self.settings.addresses {
            return;
        }
        let up: Vec<Vip> = self.vips.keys().copied().filter(|vip| self.is_up(*vip)).collect();
        up.into_iter().for_each(|vip| self.adopt_unproven(vip));
    }

    fn reconsider<'a>(&mut self, addresses: impl Iterator<Item = &'a IpAddr>, now: Timestamp) {
        let vips: BTreeSet<Vip> = addresses.map(|address| Vip::new(*address)).collect();
        for vip in vips {
            self.decide(vip, now);
            self.touch(vip);
        }
    }

    fn lease(&mut self, vip: Vip, held: LoopbackAddress, now: Timestamp) {
        if held.owner == Owner::Ours {
            // Ours from an earlier life: its lease must be renewed even before its Service has been seen.
            let fresh = !self.vips.contains_key(&vip);
            self.vips.entry(vip).or_default().lease_until = held.valid_for.map(|rest| now.after(rest));
            if fresh {
                self.touch(vip);
            }
        }
    }

    pub(super) fn bgp(&mut self, state: BgpState, now: Timestamp) {
        let old = std::mem::replace(&mut self.observed.bgp, state.clone());
        match (&old, &state) {
            (BgpState::Up(old), BgpState::Up(new)) => {
                let peers = |view: &super::observed::BgpView| -> BTreeSet<IpAddr> {
                    view.peers.iter().filter_map(|peer| peer.address).collect()
                };
                self.reconsider(peers(old).symmetric_difference(&peers(new)), now);
                if old.generation != new.generation || old.modes != new.modes {
                    self.adopt_if_synced();
                    self.decide_all(now);
                } else {
                    for vip in differing(&old.networks, &new.networks) {
                        if self.synced && new.network_owner(vip) == Some(Owner::Ours) {
                            self.vips.entry(vip).or_default();
                        }
                        self.decide(vip, now);
                        self.touch(vip);
                    }
                }
            }
            (_, BgpState::Up(_) | BgpState::Disabled) => {
                self.adopt_if_synced();
                self.adopt_advertised();
                self.decide_all(now);
            }
            (old, BgpState::Down(_)) => {
                self.observed.rib.clear();
                // Nothing is decided anew, but no row may go on saying "advertised".
                if !matches!(old, BgpState::Down(_)) {
                    self.changed.extend(self.vips.keys());
                }
            }
        }
    }

    pub(super) fn programs(&mut self, state: ProgramsState) {
        let started = matches!((&self.observed.programs, &state), (ProgramsState::Off(_), ProgramsState::Running(_)));
        if matches!(state, ProgramsState::Off(_)) {
            self.observed.tracked.clear();
        }
        self.observed.programs = state;
        if started {
            let vips: Vec<Vip> = self.vips.keys().copied().collect();
            vips.into_iter().for_each(|vip| self.touch(vip));
        }
    }

    pub(super) fn applied(&mut self, applied: Applied, now: Timestamp) {
        let vip = applied.step.vip();
        let stale = self.planned_for != self.generation();
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        let retry_at = match &applied.outcome {
            Outcome::Done | Outcome::Deferred => None,
            Outcome::Retry(after, _) => Some(now.after(*after)),
            Outcome::GiveUp(_) => Some(now.after(GIVEN_UP_FOR)),
        };
        if matches!(applied.step, Step::TrackVip(..) | Step::UntrackVip(_)) {
            entry.count_retry_at = retry_at;
        } else {
            entry.retry_at = retry_at;
        }
        match applied.outcome {
            Outcome::Done => {
                entry.last_error = None;
                self.done(applied.step, stale, now);
            }
            Outcome::Retry(_, error) | Outcome::GiveUp(error) => entry.last_error = Some(error),
            Outcome::Deferred => {}
        }
        self.touch(vip);
    }

    /// A confirmed step is an observation: the kernel or FRR has answered it.
    fn done(&mut self, step: Step, stale: bool, now: Timestamp) {
        match step {
            Step::AddAddress(vip, Hold { lease, prefix_route, anew }) => {
                let held = LoopbackAddress { owner: Owner::Ours, valid_for: lease, prefix_route };
                if let Some(kernel) = &mut self.observed.kernel {
                    kernel.loopback.insert(vip, held);
                }
                self.lease(vip, held, now);
                if anew && let Some(lost) = self.vips.get_mut(&vip).and_then(|entry| entry.lost.as_mut()) {
                    lost.anew = false;
                }
            }
            Step::RemoveAddress(vip) => {
                if let Some(kernel) = &mut self.observed.kernel {
                    kernel.loopback.remove(&vip);
                }
                if let Some(entry) = self.vips.get_mut(&vip) {
                    entry.lease_until = None;
                }
            }
            // Answered by an FRR that has been restarted since: it proves nothing of the new one.
            Step::Advertise(..) | Step::Withdraw(_) if stale => {}
            Step::Advertise(vip, route) => self.network(vip, Some(Network::Ours(Some(route.map))), None),
            Step::Withdraw(vip) => self.network(vip, None, Some(now)),
            Step::TrackVip(vip, ports) => {
                self.observed.tracked.insert(vip, ports);
            }
            Step::UntrackVip(vip) => {
                self.observed.tracked.remove(&vip);
            }
        }
    }

    fn network(&mut self, vip: Vip, network: Option<Network>, withdrawn_at: Option<Timestamp>) {
        if let BgpState::Up(view) = &mut self.observed.bgp {
            match network {
                Some(network) => view.networks.insert(vip, network),
                None => view.networks.remove(&vip),
            };
        }
        if let Some(entry) = self.vips.get_mut(&vip) {
            entry.withdrawn_at = withdrawn_at;
        }
    }
}
