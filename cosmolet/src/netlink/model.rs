//! The kernel's addresses as last heard, and what of them is still to be told.
//!
//! Owns the step from single messages to [`KernelEvent`]s. Never reads a clock or a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::wire::{Address, Link};
use crate::engine::observed::{KernelEvent, KernelState, LoopbackAddress, Owner};
use crate::engine::types::Vip;

/// kube-proxy's interface in IPVS mode: its addresses are Services', not the node's.
const KUBE_IPVS: &str = "kube-ipvs0";
/// More changes than this are told as one dump.
const SINGLE_EVENTS: usize = 64;
/// The kernel tells lifetimes in whole seconds: leases that end closer together than this are the same.
const SAME_LEASE: Duration = Duration::from_secs(1);

/// What the kernel holds.
#[derive(Debug)]
pub(super) struct Model {
    interface: String,
    links: BTreeMap<u32, String>,
    addresses: BTreeMap<u32, BTreeMap<(IpAddr, u8), Held>>,
    pending: Pending,
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    owner: Owner,
    /// It bears our tag, whatever its prefix length.
    tagged: bool,
    expires: Option<Instant>,
    prefix_route: bool,
}

/// What may have changed since the last [`Model::take`].
#[derive(Debug, Default)]
struct Pending {
    everything: bool,
    own: bool,
    vips: BTreeSet<Vip>,
}

/// What the engine knows.
#[derive(Debug, Default)]
struct Told {
    loopback: BTreeMap<Vip, Held>,
    own: BTreeSet<IpAddr>,
}

impl Model {
    /// An empty model, of which everything is still to be told; fill it from a dump.
    pub(super) fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            pending: Pending { everything: true, ..Pending::default() },
            told: Told::default(),
        }
    }

    /// An interface is new or has changed.
    pub(super) fn link(&mut self, link: Link) {
        let before = self.links.insert(link.index, link.name.clone());
        if before.as_ref() != Some(&link.name) {
            self.renamed(before.as_deref());
            self.renamed(Some(&link.name));
        }
    }

    /// An interface is gone, and its addresses with it.
    pub(super) fn link_gone(&mut self, index: u32) {
        let before = self.links.remove(&index);
        self.pending.own |= self.addresses.remove(&index).is_some();
        self.renamed(before.as_deref());
    }

    /// An address is new, was renewed or has changed.
    pub(super) fn address(&mut self, address: Address, now: Instant) {
        let owner = if address.is_ours() { Owner::Ours } else { Owner::Foreign };
        let expires = address.valid_for.and_then(|rest| now.checked_add(rest));
        let held = Held { owner, tagged: address.tagged, expires, prefix_route: address.prefix_route };
        self.addresses.entry(address.link).or_default().insert((address.ip, address.prefix_len), held);
        self.touch(&address);
    }

    /// An address is gone.
    pub(super) fn address_gone(&mut self, address: &Address) {
        if let Some(held) = self.addresses.get_mut(&address.link) {
            held.remove(&(address.ip, address.prefix_len));
        }
        self.touch(address);
    }

    /// The events that tell the engine what it does not know yet. A renewed lease is news, the mere passing of time is
    /// not.
    pub(super) fn take(&mut self, now: Instant) -> Vec<KernelEvent> {
        let pending = std::mem::take(&mut self.pending);
        if pending.everything || pending.vips.len() > SINGLE_EVENTS {
            return vec![KernelEvent::Dump(self.state(now))];
        }
        let mut events: Vec<KernelEvent> = pending.vips.into_iter().filter_map(|vip| self.tell(vip, now)).collect();
        let own = pending.own.then(|| self.own()).filter(|own| *own != self.told.own);
        if let Some(own) = own {
            self.told.own.clone_from(&own);
            events.push(KernelEvent::Own(own));
        }
        events
    }

    fn state(&mut self, now: Instant) -> KernelState {
        let vips: BTreeSet<Vip> = self.loopback().map(|((ip, _), _)| Vip::new(*ip)).collect();
        let held = vips.into_iter().filter_map(|vip| Some((vip, self.held(vip)?)));
        self.told = Told { loopback: held.collect(), own: self.own() };
        KernelState {
            loopback: self.told.loopback.iter().map(|(vip, held)| (*vip, held.seen(now))).collect(),
            own: self.told.own.clone(),
        }
    }

    fn tell(&mut self, vip: Vip, now: Instant) -> Option<KernelEvent> {
        let Some(held) = self.held(vip) else {
            return self.told.loopback.remove(&vip).map(|_| KernelEvent::LoopbackGone(vip));
        };
        if self.told.loopback.get(&vip).is_some_and(|told| told.same(held)) {
            return None;
        }
        self.told.loopback.insert(vip, held);
        Some(KernelEvent::Loopback(vip, held.seen(now)))
    }

    /// The addresses of the loopback interface; the kernel's own 127.0.0.0/8 and ::1 apart.
    fn loopback(&self) -> impl Iterator<Item = (&(IpAddr, u8), &Held)> {
        let index = self.links.iter().find(|(_, name)| **name == self.interface).map(|(index, _)| index);
        let addresses = index.and_then(|index| self.addresses.get(index)).into_iter().flatten();
        addresses.filter(|((ip, _), _)| !ip.is_loopback())
    }

    /// A host prefix of ours counts before a wider foreign prefix of the same address: it must be renewed and removed.
    fn held(&self, vip: Vip) -> Option<Held> {
        let index = self.links.iter().find(|(_, name)| **name == self.interface).map(|(index, _)| index)?;
        let range = (vip.address(), 0)..=(vip.address(), u8::MAX);
        let addresses = self.addresses.get(index)?.range(range).map(|(_, held)| *held);
        addresses.filter(|_| !vip.address().is_loopback()).min_by_key(|held| held.owner)
    }

    /// The addresses of all other interfaces. Those with our tag were VIPs under another `loopback.interface`.
    fn own(&self) -> BTreeSet<IpAddr> {
        let others = self
            .addresses
            .iter()
            .filter(|(index, _)| self.links.get(index).is_none_or(|name| *name != self.interface && name != KUBE_IPVS));
        let addresses = others.flat_map(|(_, addresses)| addresses);
        addresses.filter(|(_, held)| !held.tagged).map(|((ip, _), _)| *ip).collect()
    }

    fn touch(&mut self, address: &Address) {
        if self.links.get(&address.link) == Some(&self.interface) {
            self.pending.vips.insert(Vip::new(address.ip));
        } else {
            self.pending.own = true;
        }
    }

    fn renamed(&mut self, name: Option<&str>) {
        self.pending.everything |= name == Some(&self.interface);
        self.pending.own |= name == Some(KUBE_IPVS);
    }
}

impl Held {
    fn seen(&self, now: Instant) -> LoopbackAddress {
        let valid_for = self.expires.map(|expires| expires.saturating_duration_since(now));
        LoopbackAddress { owner: self.owner, valid_for, prefix_route: self.prefix_route }
    }

    fn same(&self, other: Self) -> bool {
        (self.owner, self.prefix_route) == (other.owner, other.prefix_route)
            && match (self.expires, other.expires) {
                (Some(one), Some(another)) => one.max(another).saturating_duration_since(one.min(another)) < SAME_LEASE,
                (one, another) => one == another,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.to_owned(), loopback: name == "lo" }
    }

    fn address(link: u32, text: &str, tagged: bool, valid: Option<u64>) -> Address {
        let net: ipnet::IpNet = text.parse().unwrap();
        let valid_for = valid.map(Duration::from_secs);
        Address {
            link,
            ip: net.addr(),
            prefix_len: net.prefix_len(),
            tagged,
            valid_for,
            prefix_route: net.addr().is_ipv6(),
        }
    }

    fn vip(text: &str) -> Vip {
        Vip::new(text.parse().unwrap())
    }

    fn started(now: Instant) -> Model {
        let mut model = Model::new("lo");
        for (index, name) in [(1, "lo"), (2, "eth0"), (3, "kube-ipvs0")] {
            model.link(link(index, name));
        }
        model.address(address(1, "127.0.0.1/8", false, None), now);
        model.address(address(1, "192.0.2.1/32", true, Some(120)), now);
        model.address(address(2, "10.0.0.5/24", false, None), now);
        model.address(address(2, "fe80::5/64", false, None), now);
        model.address(address(3, "192.0.2.9/32", false, None), now);
        model
    }

    #[test]
    fn the_first_event_is_everything() {
        let now = Instant::now();
        let mut model = started(now);
        let ours =
            LoopbackAddress { owner: Owner::Ours, valid_for: Some(Duration::from_secs(120)), prefix_route: false };
        let state = KernelState {
            loopback: BTreeMap::from([(vip("192.0.2.1"), ours)]),
            own: BTreeSet::from(["10.0.0.5".parse().unwrap(), "fe80::5".parse().unwrap()]),
        };
        assert_eq!(model.take(now), [KernelEvent::Dump(state)]);
        assert_eq!(model.take(now), []);
    }

    #[test]
    fn a_renewal_is_told_once_and_an_echo_is_not() {
        let now = Instant::now();
        let mut model = started(now);
        model.take(now);
        let later = now + Duration::from_secs(40);
        model.address(address(1, "192.0.2.1/32", true, Some(80)), later);
        assert_eq!(model.take(later), []);
        model.address(address(1, "192.0.2.1/32", true, Some(120)), later);
        model.address(address(1, "192.0.2.1/32", true, Some(120)), later);
        let renewed =
            LoopbackAddress { owner: Owner::Ours, valid_for: Some(Duration::from_secs(120)), prefix_route: false };
        assert_eq!(model.take(later), [KernelEvent::Loopback(vip("192.0.2.1"), renewed)]);
    }

    #[test]
    fn many_changes_are_one_dump() {
        let now = Instant::now();
        let mut model = started(now);
        model.take(now);
        for last in 0..=SINGLE_EVENTS {
            model.address(address(1, &format!("198.51.100.{last}/32"), true, None), now);
        }
        let events = model.take(now);
        assert!(matches!(&events[..], [KernelEvent::Dump(state)] if state.loopback.len() == SINGLE_EVENTS + 2));
    }

    #[test]
    fn ours_counts_before_a_wider_foreign_prefix() {
        let now = Instant::now();
        let mut model = started(now);
        model.take(now);
        model.address(address(1, "192.0.2.1/24", false, None), now);
        assert_eq!(model.take(now), []);
        model.address_gone(&address(1, "192.0.2.1/32", true, None));
        let foreign = LoopbackAddress { owner: Owner::Foreign, valid_for: None, prefix_route: false };
        assert_eq!(model.take(now), [KernelEvent::Loopback(vip("192.0.2.1"), foreign)]);
        model.address_gone(&address(1, "192.0.2.1/24", false, None));
        assert_eq!(model.take(now), [KernelEvent::LoopbackGone(vip("192.0.2.1"))]);
    }

    #[test]
    fn an_interface_that_goes_takes_its_addresses_along() {
        let now = Instant::now();
        let mut model = started(now);
        model.take(now);
        model.link_gone(2);
        assert_eq!(model.take(now), [KernelEvent::Own(BTreeSet::new())]);
        model.link_gone(1);
        assert_eq!(model.take(now), [KernelEvent::Dump(KernelState::default())]);
        model.link(link(7, "lo"));
        model.address(address(7, "192.0.2.1/32", true, None), now);
        assert!(matches!(&model.take(now)[..], [KernelEvent::Dump(state)] if state.loopback.len() == 1));
    }
}
