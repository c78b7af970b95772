//! The control plane's half of the engine: Services, the node, its pods, and the decision they lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::attributes::Route;
use super::engine::{Engine, Timer, Transition};
use super::event::SourceState;
use super::intent::{Decision, WithdrawReason};
use super::observed::{BgpState, Owner};
use super::proof::Proof;
use super::service::{PodView, Refusal, ServiceView};
use super::traffic::TrafficHealth;
use super::types::{Mode, PodKey, ServiceKey, Timestamp, Vip};
use super::verdict::Verdict;
use super::vip::{Claim, VipEntry};

/// A pod's restarts, and the Services that it stands behind on this node.
#[derive(Clone, Debug, Default)]
pub(super) struct PodRecord {
    view: Option<PodView>,
    held_until: Option<Timestamp>,
    /// In ascending order. Nearly always one: a set would take 400 bytes for it.
    services: Vec<ServiceKey>,
}

impl PodRecord {
    /// What was last told of it.
    pub(super) const fn view(&self) -> Option<PodView> {
        self.view
    }

    fn healthy(&self, now: Timestamp) -> bool {
        !self.view.is_some_and(|view| view.crash_loop) && self.held_until.is_none_or(|until| until <= now)
    }

    fn stands_behind(&mut self, service: &ServiceKey) {
        if let Err(place) = self.services.binary_search(service) {
            self.services.reserve_exact(1);
            self.services.insert(place, service.clone());
        }
    }

    fn stands_no_more_behind(&mut self, service: &ServiceKey) {
        if let Ok(place) = self.services.binary_search(service) {
            self.services.remove(place);
        }
    }
}

impl Engine {
    pub(super) fn service(&mut self, view: ServiceView, now: Timestamp) {
        let old = match self.services.get_mut(&view.key) {
            Some(known) if *known == view => return,
            Some(known) => Some(std::mem::replace(known, view.clone())),
            None => {
                self.services.insert(view.key.clone(), view.clone());
                None
            }
        };
        for pod in view.local_pods() {
            self.pods.entry(pod.clone()).or_default().stands_behind(&view.key);
        }
        if let Some(old) = old {
            self.renew_proofs(&old, &view, now);
            self.drop_claims(&old, Some(&view), now);
            self.drop_pods(&old, Some(&view));
        }
        self.judge(&view, now);
    }

    pub(super) fn service_gone(&mut self, key: &ServiceKey, now: Timestamp) {
        if let Some(old) = self.services.remove(key) {
            self.drop_claims(&old, None, now);
            self.drop_pods(&old, None);
        }
    }

    /// Takes back the claims of a view that its Service's present view no longer makes.
    fn drop_claims(&mut self, old: &ServiceView, present: Option<&ServiceView>, now: Timestamp) {
        let kept =
            |vip: Vip| present.is_some_and(|view| view.vips.binary_search_by_key(&vip, |claim| claim.vip).is_ok());
        for claim in old.vips.iter().filter(|claim| !kept(claim.vip)) {
            if let Some(entry) = self.vips.get_mut(&claim.vip) {
                entry.unclaim(&old.key);
                self.decide(claim.vip, now);
                self.touch(claim.vip);
            }
        }
    }

    /// Forgets pods that stand behind no Service and that no watcher has told of.
    fn drop_pods(&mut self, old: &ServiceView, present: Option<&ServiceView>) {
        let present: BTreeSet<&PodKey> = present.map(|view| view.local_pods().collect()).unwrap_or_default();
        for pod in old.local_pods().filter(|pod| !present.contains(pod)) {
            if let Some(record) = self.pods.get_mut(pod) {
                record.stands_no_more_behind(&old.key);
                if record.services.is_empty() && record.view.is_none() {
                    self.pods.remove(pod);
                }
            }
        }
    }

    /// Judges a Service's claims anew and decides their VIPs.
    fn refresh(&mut self, key: &ServiceKey, now: Timestamp) {
        if let Some(view) = self.services.get(key).cloned() {
            self.judge(&view, now);
        }
    }

    fn judge(&mut self, view: &ServiceView, now: Timestamp) {
        for claim in &view.vips {
            let pods = &self.pods;
            let healthy = |pod: &PodKey| pods.get(pod).is_none_or(|record| record.healthy(now));
            let control = view.control_plane(*claim, healthy);
            let (service, kind, ports) = (view.key.clone(), claim.kind, Arc::clone(&view.ports));
            let (traffic, prove, proof) = (TrafficHealth::default(), view.prove, Proof::default());
            let (policy, check) = (view.policy, view.check.clone());
            let endpoints = || view.usable_local(*claim, healthy);
            let route = view.profile.clone().map(|profile| Box::new(Route::new(Some(profile), endpoints())));
            let claimed = Claim {
                service,
                kind,
                ports,
                control,
                control_at: now,
                prove,
                proof,
                policy,
                check,
                route,
                traffic,
                told: Verdict::default(),
            };
            let came = self.vips.entry(claim.vip).or_default().claim(claimed);
            self.proof_of(claim.vip, &view.key, came, now);
            self.decide(claim.vip, now);
            self.touch(claim.vip);
        }
    }

    pub(super) fn pod(&mut self, key: PodKey, view: PodView, now: Timestamp) {
        let hold = self.settings.pod_hold;
        let record = self.pods.entry(key.clone()).or_default();
        if record.view == Some(view) {
            return;
        }
        // The first sight of a pod is only the baseline: its restarts may be a year old.
        if record.view.is_some_and(|old| view.restarts > old.restarts) {
            let until = now.after(hold);
            record.held_until = Some(until);
            self.timers.insert((until, Timer::Pod(key.clone())));
        }
        record.view = Some(view);
        self.refresh_pod(&key, now);
    }

    pub(super) fn pod_gone(&mut self, key: &PodKey, now: Timestamp) {
        let Some(record) = self.pods.get_mut(key) else { return };
        record.view = None;
        record.held_until = None;
        self.refresh_pod(key, now);
        if self.pods.get(key).is_some_and(|record| record.services.is_empty()) {
            self.pods.remove(key);
        }
    }

    pub(super) fn refresh_pod(&mut self, key: &PodKey, now: Timestamp) {
        let services = self.pods.get(key).map(|record| record.services.clone()).unwrap_or_default();
        for service in services {
            self.refresh(&service, now);
        }
    }

    pub(super) fn source(&mut self, state: SourceState, now: Timestamp) {
        let first = state == SourceState::Synced && !self.synced;
        self.source = state;
        if first {
            self.synced = true;
            self.adopt();
            self.decide_all(now);
        }
    }

    /// Gives everything of ours that is there an entry, so that what no Service claims is taken away.
    pub(super) fn adopt(&mut self) {
        let ours = |owner: Owner| owner == Owner::Ours;
        let mut found: BTreeSet<Vip> = BTreeSet::new();
        if let Some(kernel) = &self.observed.kernel {
            found.extend(kernel.loopback.iter().filter(|(_, held)| ours(held.owner)).map(|(vip, _)| *vip));
        }
        if let BgpState::Up(view) = &self.observed.bgp {
            found.extend(view.networks.iter().filter(|(_, network)| ours(network.owner())).map(|(vip, _)| *vip));
        }
        for vip in found {
            self.vips.entry(vip).or_default();
        }
    }

    pub(super) fn decide_all(&mut self, now: Timestamp) {
        let vips: Vec<Vip> = self.vips.keys().copied().collect();
        for vip in vips {
            self.decide(vip, now);
            self.touch(vip);
        }
    }

    /// Decides one VIP from all that is known.
    pub(super) fn decide(&mut self, vip: Vip, now: Timestamp) {
        if !self.synced && !self.exiting {
            return;
        }
        let Some(entry) = self.vips.get(&vip) else { return };
        let adopted = entry.decision.is_none() && self.is_up(vip);
        if adopted {
            self.adopt_unproven(vip);
        }
        let Some(entry) = self.vips.get(&vip) else { return };
        let decision = self.decision(vip, entry);
        let drain = self.drain_for(vip, decision, now);
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        entry.drain = drain;
        if entry.decision != Some(decision) {
            let was_up = adopted || entry.decision.is_some_and(Decision::is_up);
            self.transitions.push(Transition { vip, at: now, from: entry.decision, to: decision, was_up });
            entry.decision = Some(decision);
            entry.since = now;
            // What failed for the old decision may well succeed for the new one.
            entry.retry_at = None;
        }
        self.follow_checks(vip, now);
    }

    fn decision(&self, vip: Vip, entry: &VipEntry) -> Decision {
        if self.exiting {
            return Decision::Withdraw(WithdrawReason::Exit);
        }
        if entry.claims.is_empty() {
            return Decision::Withdraw(WithdrawReason::ServiceGone);
        }
        if let Err(refusal) = self.refusal(vip, entry) {
            return Decision::Withdraw(WithdrawReason::Refused(refusal));
        }
        if self.drained {
            return Decision::Withdraw(WithdrawReason::NodeDrained);
        }
        match self.node.as_ref().map(super::service::NodeView::check) {
            Some(Ok(())) => entry.by_claims(self.takes_preference(vip)),
            Some(Err(reason)) => Decision::Withdraw(reason),
            // Fail static: not knowing the node neither withdraws what is up nor advertises what is not.
            None if entry.decision.is_some_and(Decision::is_up) || self.is_up(vip) => {
                entry.by_claims(self.takes_preference(vip))
            }
            None => Decision::Withdraw(WithdrawReason::NodeUnknown),
        }
    }

    /// Whether how a VIP is preferred is ours to say: not in Connected mode, nor over the operator's own statement. While FRR
    /// is away nobody hears anything, and what is up stays.
    fn takes_preference(&self, vip: Vip) -> bool {
        match &self.observed.bgp {
            BgpState::Up(view) => {
                *view.modes.get(vip.family()) == Mode::Dynamic && view.network_owner(vip) != Some(Owner::Foreign)
            }
            BgpState::Down(_) => true,
            BgpState::Disabled => false,
        }
    }

    /// By our doing this node serves the VIP, or has until now.
    pub(super) fn is_up(&self, vip: Vip) -> bool {
        if self.settings.addresses { self.has_address(vip) } else { self.has_network(vip) }
    }

    fn has_address(&self, vip: Vip) -> bool {
        let held = self.observed.kernel.as_ref().and_then(|kernel| kernel.loopback.get(&vip));
        held.is_some_and(|held| held.owner == Owner::Ours)
    }

    fn has_network(&self, vip: Vip) -> bool {
        matches!(&self.observed.bgp, BgpState::Up(view) if view.network_owner(vip) == Some(Owner::Ours))
    }

    fn refusal(&self, vip: Vip, entry: &VipEntry) -> Result<(), Refusal> {
        self.settings.rules.check(vip)?;
        if let Some(kernel) = &self.observed.kernel {
            if kernel.own.contains(&vip.address()) {
                return Err(Refusal::OwnAddress);
            }
            if kernel.loopback.get(&vip).is_some_and(|held| held.owner == Owner::Foreign) {
                return Err(Refusal::ForeignAddress);
            }
        }
        if let BgpState::Up(view) = &self.observed.bgp
            && view.peers.iter().any(|peer| peer.address == Some(vip.address()))
        {
            return Err(Refusal::PeerAddress);
        }
        if entry.claims.iter().all(|claim| claim.ports.is_empty()) {
            return Err(Refusal::NoPorts);
        }
        Ok(())
    }

    /// Puts a VIP before the next plan.
    pub(super) fn touch(&mut self, vip: Vip) {
        self.changed.insert(vip);
        let decision = self.vips.get(&vip).and_then(|entry| entry.decision);
        let leaves = matches!(decision, Some(Decision::Withdraw(_) | Decision::Depreference(_)));
        if leaves && self.is_told(vip) {
            self.dirty.remove(&vip);
            self.leaving.insert(vip);
        } else {
            self.leaving.remove(&vip);
            self.dirty.insert(vip);
        }
    }

    /// Peers may hear of the VIP from this node, by our doing.
    fn is_told(&self, vip: Vip) -> bool {
        match &self.observed.bgp {
            BgpState::Up(_) if self.has_network(vip) => true,
            // What was said to FRR stands, as far as anybody knows.
            BgpState::Down(_) if !self.settings.addresses => {
                self.vips.get(&vip).is_some_and(|entry| entry.decision.is_some_and(Decision::is_up))
            }
            // Without its `network` an address that lingers tells nobody.
            BgpState::Up(view) if *view.modes.get(vip.family()) == Mode::Dynamic => false,
            BgpState::Up(_) | BgpState::Down(_) | BgpState::Disabled => self.is_up(vip),
        }
    }

    /// Drops the memory of a VIP that nobody claims and of which nothing is left.
    pub(super) fn forget_if_idle(&mut self, vip: Vip) {
        let unclaimed = self.vips.get(&vip).is_some_and(|entry| entry.claims.is_empty() && entry.decision.is_some());
        let nothing_left = !self.has_network(vip) && !self.has_address(vip);
        if unclaimed && nothing_left && !self.observed.tracked.contains_key(&vip) {
            self.vips.remove(&vip);
            self.observed.rib.remove(&vip);
            self.changed.insert(vip);
        }
    }
}

/// The entries of two sorted maps that differ, by key.
pub(super) fn differing<K: Ord + Copy, V: PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> BTreeSet<K> {
    let gone = old.iter().filter(|(key, value)| new.get(key) != Some(value)).map(|(key, _)| *key);
    let came = new.iter().filter(|(key, value)| old.get(key) != Some(value)).map(|(key, _)| *key);
    gone.chain(came).collect()
}
