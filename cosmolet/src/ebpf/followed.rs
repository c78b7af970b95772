//! Reads what became of the handshakes that the programs follow, and frees their places.
//!
//! A reading is a walk over memory that is shared with the programs. Also decides, from the rate of a port's SYN, how
//! many of them are followed.

use std::collections::BTreeMap;
use std::time::Duration;

use aya::Ebpf;
use cosmolet_common::follow::{Entry, MOST_PLACES, Outcome};

use super::Error;
use super::load::Options;
use super::shared::Shared;
use crate::engine::event::{Handshakes, LATENCY_BUCKETS};

/// A port with more SYN a second has one in [`FEW`] followed, with `FEW` times as many one in [`FEWER`].
const MANY: f64 = 1000.0;
const FEW: u32 = 16;
const FEWER: u32 = 256;
/// A place is taken for 3 s where nothing answers, else for at most the second between two readings: of a table with
/// this many places for each SYN in a second, a fifth is taken at worst.
const PLACES_FOR_ONE: f64 = 16.0;

pub(super) struct Followed {
    places: Shared<Entry>,
    masks: Shared<u64>,
    /// Ports of which not every SYN is followed, by the index of their counters: one in how many.
    one_in: BTreeMap<u32, u32>,
    /// Entries that two CPUs wrote at once.
    torn: u64,
}

/// The places that the table really has, for so many wanted.
pub(super) fn places(wanted: u32) -> u32 {
    wanted.clamp(1, MOST_PLACES).next_power_of_two()
}

impl Followed {
    pub(super) fn new(ebpf: &mut Ebpf, options: &Options) -> Result<Self, Error> {
        let places = Shared::new(ebpf, "FOLLOWED", places(options.handshakes))?;
        let masks = Shared::new(ebpf, "FOLLOW_MASKS", options.max_ports)?;
        Ok(Self { places, masks, one_in: BTreeMap::new(), torn: 0 })
    }

    /// What became of handshakes since the last reading, by the index of their port's counters. `since` tells from
    /// when on an index stands for its port; what began earlier was another's.
    pub(super) fn read(&mut self, since: impl Fn(u32) -> Option<u64>) -> BTreeMap<u32, Handshakes> {
        let now = monotonic();
        let mut told = BTreeMap::new();
        for index in 0..self.places.len() {
            let Some(entry) = self.taken(index) else { continue };
            if !entry.sealed() {
                self.torn += 1;
                self.free(index);
                continue;
            }
            let Some(outcome) = entry.outcome(now) else { continue };
            // Nobody else writes a finished entry.
            self.free(index);
            if since(entry.id).is_some_and(|since| since <= entry.born) {
                tell(told.entry(entry.id).or_default(), &entry, outcome);
            }
        }
        told
    }

    /// The entry, if it is anybody's.
    #[expect(unsafe_code, reason = "most places are free, and the rest of those is not worth reading")]
    fn taken(&self, index: usize) -> Option<Entry> {
        let place = self.places.element(index)?;
        // SAFETY: an element of the table. The programs write the tag last, and a copy in between lacks its seal.
        let tag = unsafe { (&raw const (*place.as_ptr()).tag).read_volatile() };
        if tag == 0 { None } else { self.places.get(index) }
    }

    #[expect(unsafe_code, reason = "the rest of the entry stays as it is, for a program that holds it")]
    fn free(&self, index: usize) {
        if let Some(place) = self.places.element(index) {
            // SAFETY: an element of the table.
            unsafe { (&raw mut (*place.as_ptr()).tag).write_volatile(0) };
        }
    }

    /// Entries that were lost to two CPUs that wrote at once.
    pub(super) const fn torn(&self) -> u64 {
        self.torn
    }

    /// One SYN in so many of a port is followed.
    pub(super) fn one_in(&self, id: u32) -> u32 {
        self.one_in.get(&id).copied().unwrap_or(1)
    }

    /// Follows fewer SYN of ports that get many: `syn` holds how many each got within the span.
    pub(super) fn adapt(&mut self, syn: &[(u32, u64)], span: Duration) {
        let seconds = span.as_secs_f64().max(0.1);
        let all: u64 = syn.iter().map(|(_, syn)| syn).sum();
        let least = share(all as f64 / seconds, self.places.len() as f64 / PLACES_FOR_ONE);
        let wanted: BTreeMap<u32, u32> = syn
            .iter()
            .map(|(id, syn)| (*id, share(*syn as f64 / seconds, MANY).max(least)))
            .filter(|(_, one_in)| *one_in > 1)
            .collect();
        for id in self.one_in.keys().chain(wanted.keys()) {
            let mask = wanted.get(id).map_or(0, |one_in| u64::from(one_in - 1));
            self.masks.set(*id as usize, mask);
        }
        self.one_in = wanted;
    }
}

fn share(rate: f64, many: f64) -> u32 {
    if rate <= many {
        1
    } else if rate <= many * f64::from(FEW) {
        FEW
    } else {
        FEWER
    }
}

fn tell(sum: &mut Handshakes, entry: &Entry, outcome: Outcome) {
    match outcome {
        Outcome::Completed { seen } => {
            sum.completed += 1;
            sum.unseen_answers += u64::from(!seen);
        }
        Outcome::RefusedBackend => sum.refused_backend += 1,
        Outcome::RefusedHost => sum.refused_host += 1,
        Outcome::TimedOut => sum.timed_out += 1,
        Outcome::Client => {}
    }
    if matches!(outcome, Outcome::RefusedBackend | Outcome::RefusedHost | Outcome::TimedOut) {
        sum.failed_prefixes |= entry.prefix_bit();
    }
    if let Some(micros) = entry.answered_after() {
        sum.latency_micros += u64::from(micros);
        let bucket = (micros.max(1).ilog2() as usize).min(LATENCY_BUCKETS - 1);
        if let Some(count) = sum.latency.get_mut(bucket) {
            *count += 1;
        }
    }
}

/// CLOCK_MONOTONIC in nanoseconds, as the programs have it.
#[expect(unsafe_code, reason = "std's Instant does not tell its nanoseconds")]
pub(super) fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure that it is given; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_of_many_are_followed() {
        assert_eq!([0.0, 1000.0, 1001.0, 16_000.0, 1e6].map(|rate| share(rate, MANY)), [1, 1, 16, 16, 256]);
    }

    #[test]
    fn tables_are_powers_of_two() {
        assert_eq!([0, 1, 5, 32_768, u32::MAX].map(places), [1, 1, 8, 32_768, MOST_PLACES]);
    }
}
