//! Which ports are counted, and under which slot.
//!
//! A slot rests for a second after its key is gone, so that no program can still hold it, and is set to zero before
//! it serves another port: counts never move from one port to the next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, MapData, MapError};
use cosmolet_common::VipPortKey;
use cosmolet_common::counters::Counters as Values;
use cosmolet_common::key::Front;

use super::Error;
use super::counters::Counters;
use super::followed::{Followed, monotonic};
use crate::engine::event::{Handshakes, TrafficCounts, TrafficSample};
use crate::engine::types::{Port, Vip};

/// Slots are kept in steps of this many: doubling would leave half of the largest table empty.
const STEP: usize = 1024;
/// Far longer than a program runs.
const REST: Duration = Duration::from_secs(1);

/// What was counted apart from a VIP's ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apart {
    /// Fragments after the first, in either direction.
    pub fragments: u64,
    /// Packets that end before their ports, in either direction.
    pub truncated: u64,
}

pub(super) struct Vips {
    keys: HashMap<MapData, VipPortKey, u32>,
    filter: Filter,
    front: Array<MapData, Front>,
    /// The places of the front table that slots have, until the slot has rested.
    places: BTreeMap<u32, u32>,
    capacity: u32,
    slots: Vec<Slot>,
    /// The slots by what they count; one map, as a map for each VIP would take ten times its content.
    vips: BTreeMap<(Vip, Option<Port>), u32>,
    free: BTreeSet<u32>,
    resting: VecDeque<(Instant, u32)>,
}

/// A slot that was used once.
#[derive(Default)]
struct Slot {
    /// What it counts, or counted while it rests; no port stands for the whole VIP.
    of: Option<(Vip, Option<Port>)>,
    rests: bool,
    /// What it held at the last reading that found it changed; it was zero when its owner got it, and most stay so.
    last: Option<Box<Values>>,
    /// When its owner got it, by the programs' clock.
    since: u64,
}

impl Slot {
    /// What it counts.
    fn owner(&self) -> Option<(Vip, Option<Port>)> {
        self.of.filter(|_| !self.rests)
    }

    fn last(&self) -> Values {
        self.last.as_deref().copied().unwrap_or_default()
    }
}

impl Vips {
    pub(super) fn new(
        keys: HashMap<MapData, VipPortKey, u32>,
        filter: Array<MapData, u32>,
        front: Array<MapData, Front>,
        capacity: u32,
    ) -> Self {
        let filter = Filter { map: filter, users: BTreeMap::new() };
        let (places, slots, vips, free, resting) = Default::default();
        Self { keys, filter, front, places, capacity, slots, vips, free, resting }
    }

    pub(super) fn track(&mut self, counters: &mut Counters, vip: Vip, ports: &[Port]) -> Result<(), Error> {
        self.reclaim(counters, Instant::now())?;
        let wanted: BTreeSet<_> = ports.iter().copied().map(Some).chain([None]).collect();
        let had: BTreeSet<_> = self.counted(vip).collect();
        let new = wanted.difference(&had).count();
        let free = self.free.len() + self.capacity as usize - self.slots.len();
        if new > free {
            return Err(Error::Full { wanted: new, free, capacity: self.capacity });
        }
        for port in had.difference(&wanted) {
            self.remove(vip, *port)?;
        }
        for port in wanted.difference(&had) {
            self.add(vip, *port)?;
        }
        Ok(())
    }

    pub(super) fn untrack(&mut self, vip: Vip) -> Result<(), Error> {
        for port in self.counted(vip).collect::<Vec<_>>() {
            self.remove(vip, port)?;
        }
        Ok(())
    }

    pub(super) fn tracked(&self) -> BTreeMap<Vip, Vec<Port>> {
        let mut tracked = BTreeMap::<Vip, Vec<Port>>::new();
        for (vip, port) in self.vips.keys() {
            tracked.entry(*vip).or_default().extend(port);
        }
        tracked
    }

    /// What is counted of a VIP: the whole of it, which comes first, and its ports.
    fn counted(&self, vip: Vip) -> impl Iterator<Item = Option<Port>> {
        self.vips.range((vip, None)..).map(|(key, _)| *key).take_while(move |(of, _)| *of == vip).map(|(_, port)| port)
    }

    pub(super) fn sample(
        &mut self,
        counters: &mut Counters,
        followed: &mut Followed,
        span: Duration,
    ) -> Result<Vec<TrafficSample>, Error> {
        self.reclaim(counters, Instant::now())?;
        let mut read = Vec::new();
        let count = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        counters.read(count, |id, now| read.push((id, now)))?;
        let since = |id| self.slots.get(id as usize).filter(|slot| slot.owner().is_some()).map(|slot| slot.since);
        let mut told = followed.read(since);
        let (mut samples, mut syn) = (Vec::with_capacity(read.len()), Vec::new());
        let mut tell = |id: u32, slot: &Slot, counts: TrafficCounts, handshakes: Option<Handshakes>| {
            let Some((vip, Some(port))) = slot.owner() else { return };
            if counts.syn > 0 {
                syn.push((id, counts.syn));
            }
            let handshakes = Handshakes { one_in: followed.one_in(id), ..handshakes.unwrap_or_default() };
            samples.push(TrafficSample { vip, port, span, counts, handshakes });
        };
        for (id, now) in read {
            let Some(slot) = self.slots.get_mut(id as usize) else { continue };
            let last = slot.last();
            if last == now {
                continue;
            }
            **slot.last.get_or_insert_default() = now;
            tell(id, slot, counts(&now.since(&last)), told.remove(&id));
        }
        // A handshake that times out may be all that there is to tell of its port.
        for (id, handshakes) in told {
            if let Some(slot) = self.slots.get(id as usize) {
                tell(id, slot, TrafficCounts::default(), Some(handshakes));
            }
        }
        followed.adapt(&syn, span);
        Ok(samples)
    }

    pub(super) fn sum(&self, vip: Vip, port: Port) -> Option<TrafficCounts> {
        let slot = *self.vips.get(&(vip, Some(port)))?;
        self.slots.get(slot as usize).map(|slot| counts(&slot.last()))
    }

    pub(super) fn sums(&self) -> impl Iterator<Item = (Vip, Port, TrafficCounts)> {
        self.slots.iter().filter_map(|slot| match slot.owner() {
            Some((vip, Some(port))) => Some((vip, port, counts(&slot.last()))),
            Some((_, None)) | None => None,
        })
    }

    pub(super) fn apart(&self) -> impl Iterator<Item = (Vip, Apart)> {
        self.slots.iter().filter_map(|slot| match slot.owner() {
            Some((vip, None)) => {
                let last = slot.last();
                Some((vip, Apart { fragments: last.fragments, truncated: last.truncated }))
            }
            Some((_, Some(_))) | None => None,
        })
    }

    fn add(&mut self, vip: Vip, port: Option<Port>) -> Result<(), Error> {
        let key = key(vip, port);
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None => {
                if self.slots.len() == self.slots.capacity() {
                    self.slots.reserve_exact(STEP);
                }
                self.slots.push(Slot::default());
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        // The filter first: a key that it does not show is not found.
        if let Err(error) = self.filter.add(&key).and_then(|()| self.keys.insert(key, slot, 0)) {
            self.free.insert(slot);
            return Err(error.into());
        }
        if let Some(used) = self.slots.get_mut(slot as usize) {
            *used = Slot { of: Some((vip, port)), rests: false, last: None, since: monotonic() };
        }
        self.vips.insert((vip, port), slot);
        // A key without a place is found in the hash.
        if let Some(place) = key.front().into_iter().find(|place| !self.places.contains_key(place)) {
            self.front.set(place, Front { key, id: slot + 1 }, 0)?;
            self.places.insert(place, slot);
        }
        Ok(())
    }

    fn remove(&mut self, vip: Vip, port: Option<Port>) -> Result<(), Error> {
        let Some(slot) = self.vips.get(&(vip, port)).copied() else { return Ok(()) };
        let key = key(vip, port);
        match self.keys.remove(&key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error.into()),
        }
        for place in key.front() {
            if self.places.get(&place) == Some(&slot) {
                self.front.set(place, Front::EMPTY, 0)?;
            }
        }
        self.vips.remove(&(vip, port));
        if let Some(used) = self.slots.get_mut(slot as usize) {
            used.rests = true;
        }
        self.resting.push_back((Instant::now(), slot));
        Ok(self.filter.remove(&key)?)
    }

    /// Frees the slots that have rested long enough.
    fn reclaim(&mut self, counters: &mut Counters, now: Instant) -> Result<(), Error> {
        while let Some((since, slot)) = self.resting.front().copied() {
            if now.saturating_duration_since(since) < REST {
                break;
            }
            counters.clear(slot)?;
            self.resting.pop_front();
            let of = self.slots.get(slot as usize).and_then(|slot| slot.of);
            for place in of.into_iter().flat_map(|(vip, port)| key(vip, port).front()) {
                if self.places.get(&place) == Some(&slot) {
                    self.places.remove(&place);
                }
            }
            self.free.insert(slot);
            if let Some(cleared) = self.slots.get_mut(slot as usize) {
                *cleared = Slot::default();
            }
        }
        Ok(())
    }
}

/// The filter's bits, and how many keys use each.
struct Filter {
    map: Array<MapData, u32>,
    /// By word and bit.
    users: BTreeMap<(u32, u32), u32>,
}

impl Filter {
    fn add(&mut self, key: &VipPortKey) -> Result<(), MapError> {
        let (word, bit) = key.filter_bit();
        *self.users.entry((word, bit)).or_default() += 1;
        self.write(word)
    }

    fn remove(&mut self, key: &VipPortKey) -> Result<(), MapError> {
        let (word, bit) = key.filter_bit();
        if let Some(users) = self.users.get_mut(&(word, bit)) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&(word, bit));
            }
        }
        self.write(word)
    }

    fn write(&mut self, word: u32) -> Result<(), MapError> {
        let bits = self.users.range((word, 0)..=(word, u32::MAX)).fold(0, |bits, ((_, bit), _)| bits | bit);
        self.map.set(word, bits, 0)
    }
}

const fn key(vip: Vip, port: Option<Port>) -> VipPortKey {
    let address = VipPortKey::words(vip.address());
    match port {
        Some(port) => VipPortKey::new(address, port.protocol.number(), port.number),
        None => VipPortKey::whole(address),
    }
}

const fn counts(values: &Values) -> TrafficCounts {
    TrafficCounts {
        packets_in: values.packets_in,
        bytes_in: values.bytes_in,
        packets_out: values.packets_out,
        bytes_out: values.bytes_out,
        syn: values.syn,
        syn_ack: values.syn_ack,
        syn_ack_host: values.syn_ack_host,
        completed: values.completed,
        fin: values.fin,
        rst_client: values.rst_client,
        rst_backend: values.rst_backend,
        rst_host: values.rst_host,
        unreachable_host: values.unreachable_host,
        unreachable_backend: values.unreachable_backend,
        syn_retransmitted: values.syn_retransmitted,
        rst_after_data_client: values.rst_after_data_client,
        rst_after_data_backend: values.rst_after_data_backend,
    }
}
