use core::net::IpAddr;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::VipPortKey;

/// A table with a clock that is set by hand.
struct World {
    places: Vec<Entry>,
    now: u64,
    mask: u32,
}

impl World {
    fn new(places: u32) -> Self {
        Self { places: vec![Entry::default(); places as usize], now: 1, mask: 0 }
    }

    /// What the table says of its entries, freeing those that are finished.
    fn sweep(&mut self) -> Vec<Outcome> {
        let now = self.now;
        let mut outcomes = Vec::new();
        for entry in self.places.iter_mut().filter(|entry| entry.tag != 0) {
            assert!(entry.sealed());
            if let Some(outcome) = entry.outcome(now) {
                outcomes.push(outcome);
                entry.tag = 0;
            }
        }
        outcomes
    }
}

impl Table for World {
    fn place(&mut self, flow: Flow) -> Option<&mut Entry> {
        let mask = self.places.len() as u32 - 1;
        self.places.get_mut(flow.place(mask) as usize)
    }

    fn now(&mut self) -> u64 {
        self.now
    }

    fn mask(&mut self, _: u32) -> u32 {
        self.mask
    }
}

fn words(address: &str) -> [u32; 4] {
    VipPortKey::words(address.parse::<IpAddr>().unwrap())
}

fn flow(port: u16) -> Flow {
    Flow::new(7, words("192.0.2.1"), 80, words("198.51.100.7"), port)
}

fn ask(world: &mut World, port: u16) -> Asked {
    if !is_chosen(world, flow(port), 3) {
        return Asked::Passed;
    }
    syn(world, flow(port), 3, prefix(words("198.51.100.7")), 1000)
}

fn answer(world: &mut World, port: u16) {
    syn_ack(world, flow(port), 5000);
}

fn acknowledge(world: &mut World, port: u16, acknowledgement: u32) {
    ack(world, flow(port), 1001, acknowledgement);
}

#[test]
fn a_handshake_completes_by_its_own_ack_and_tells_its_latency() {
    let mut world = World::new(1 << 10);
    assert_eq!(ask(&mut world, 40000), Asked::Followed);
    world.now += 250_000;
    answer(&mut world, 40000);
    acknowledge(&mut world, 40000, 4999);
    assert_eq!(world.sweep(), []);
    acknowledge(&mut world, 40000, 5001);
    let entry = *world.places.iter().find(|entry| entry.tag != 0).unwrap();
    assert_eq!((entry.id, entry.answered_after()), (3, Some(250)));
    assert_eq!(world.sweep(), [Outcome::Completed { seen: true }]);
    assert_eq!(world.sweep(), []);
}

#[test]
fn refusals_are_told_apart_and_only_answer_a_syn() {
    let mut world = World::new(1 << 10);
    ask(&mut world, 1);
    assert!(refusal(&mut world, flow(1), true));
    assert_eq!(world.sweep(), [Outcome::RefusedHost]);
    ask(&mut world, 2);
    assert!(refusal(&mut world, flow(2), false));
    assert!(!refusal(&mut world, flow(2), true));
    assert_eq!(world.sweep(), [Outcome::RefusedBackend]);
    ask(&mut world, 3);
    answer(&mut world, 3);
    assert!(!refusal(&mut world, flow(3), false));
    acknowledge(&mut world, 3, 5001);
    assert!(!refusal(&mut world, flow(3), false));
    assert_eq!(world.sweep(), [Outcome::Completed { seen: true }]);
}

#[test]
fn silence_times_out_after_three_seconds_and_repeated_syns_do_not_prolong_it() {
    let mut world = World::new(1 << 10);
    ask(&mut world, 1);
    world.now += PATIENCE - 1;
    assert_eq!(ask(&mut world, 1), Asked::Repeated);
    assert_eq!(world.sweep(), []);
    world.now += 1;
    assert_eq!(world.sweep(), [Outcome::TimedOut]);
}

#[test]
fn an_answer_by_another_way_completes_unseen() {
    let mut world = World::new(1 << 10);
    ask(&mut world, 1);
    acknowledge(&mut world, 1, 5001);
    assert_eq!(world.sweep(), [], "the answer may only be late");
    world.now += SETTLED;
    assert_eq!(world.sweep(), [Outcome::Completed { seen: false }]);
}

/// Who spoofs a SYN cannot know the sequence number of its answer.
#[test]
fn an_ack_before_the_answer_completes_only_if_it_was_right() {
    let mut world = World::new(1 << 10);
    for (guess, expected) in [(777, Outcome::Client), (5001, Outcome::Completed { seen: true })] {
        ask(&mut world, 1);
        acknowledge(&mut world, 1, guess);
        answer(&mut world, 1);
        world.now += PATIENCE;
        assert_eq!(world.sweep(), [expected]);
    }
}

#[test]
fn what_clients_do_is_no_failure() {
    let mut world = World::new(1 << 10);
    // A half-open scan, an abort before the answer, a client that vanishes.
    ask(&mut world, 1);
    answer(&mut world, 1);
    assert!(given_up(&mut world, flow(1), 1001));
    ask(&mut world, 2);
    assert!(!given_up(&mut world, flow(2), 77), "forged");
    assert!(given_up(&mut world, flow(2), 1001));
    ask(&mut world, 3);
    answer(&mut world, 3);
    world.now += PATIENCE;
    assert_eq!(world.sweep(), [Outcome::Client; 3]);
}

#[test]
fn a_full_table_loses_only_what_comes_later() {
    let mut world = World::new(1);
    assert_eq!(ask(&mut world, 1), Asked::Followed);
    assert_eq!(ask(&mut world, 2), Asked::Full);
    assert!(!refusal(&mut world, flow(2), true));
    answer(&mut world, 2);
    acknowledge(&mut world, 2, 5001);
    assert_eq!(world.sweep(), []);
    answer(&mut world, 1);
    acknowledge(&mut world, 1, 5001);
    assert_eq!(world.sweep(), [Outcome::Completed { seen: true }]);
    assert_eq!(ask(&mut world, 2), Asked::Followed);
}

#[test]
fn one_in_sixteen_is_followed_and_its_repetitions_with_it() {
    let mut world = World::new(1 << 18);
    world.mask = 15;
    let (mut followed, mut repeated) = (0, 0);
    for port in 0..16_000 {
        ask(&mut world, port);
        followed += u32::from(is_followed(&mut world, flow(port)));
        repeated += u32::from(ask(&mut world, port) == Asked::Repeated);
    }
    assert!((800..1200).contains(&followed), "{followed} of 16000");
    assert_eq!(repeated, followed);
}

#[test]
fn torn_entries_are_recognised() {
    let mut world = World::new(1);
    ask(&mut world, 1);
    let entry = world.places[0];
    assert!(entry.sealed());
    for torn in [Entry { id: 4, ..entry }, Entry { tag: flow(2).tag(), ..entry }, Entry { born: 9, ..entry }] {
        assert!(!torn.sealed(), "{torn:?}");
    }
}

#[test]
fn the_layout_has_no_padding() {
    assert_eq!(size_of::<Entry>(), 40);
}

#[test]
fn prefixes_are_a_24_and_a_56() {
    assert_eq!(prefix(words("198.51.100.7")), prefix(words("198.51.100.200")));
    assert_eq!(prefix(words("2001:db8:1:200::1")), prefix(words("2001:db8:1:2ff::9")));
    for (many, of) in [("v4", 0), ("v6", 1)] {
        let distinct: BTreeSet<u32> = (0..=255_u8)
            .map(|n| prefix(words(&[format!("198.51.{n}.7"), format!("2001:db8:1:{n:x}00::1")][of])))
            .collect();
        assert!(distinct.len() > 56, "{} numbers for 256 prefixes of {many}", distinct.len());
    }
}

#[test]
fn slots_and_places_spread() {
    for (vip, client) in [("192.0.2.1", "198.51.100."), ("2001:db8::1", "2001:db8:1::")] {
        let mut slots = BTreeSet::new();
        let mut places = BTreeSet::new();
        for host in 0..16 {
            for port in 0..1024 {
                let flow = Flow::new(9, words(vip), 443, words(&format!("{client}{host}")), 32768 + port);
                slots.insert(flow.slot());
                places.insert(flow.place(0xffff));
            }
        }
        // 16384 balls in 65536 bins fill 14497 of them on average.
        assert!(slots.len() > 14_200 && places.len() > 14_200, "{} slots, {} places", slots.len(), places.len());
    }
}

proptest! {
    /// Whatever comes in whatever order: each SYN that got a place has one outcome, and without an answer of the
    /// node's side nothing was refused or answered.
    #[test]
    fn every_followed_syn_ends_once(acts in prop::collection::vec((0..6_u8, 0..8_u16, 0..3_u32, 0..2_000_000_000_u64), 0..200)) {
        let mut world = World::new(2);
        let (mut followed, mut outcomes, mut refused) = (0, Vec::new(), 0);
        for (act, port, number, pause) in acts {
            world.now += pause;
            match act {
                0 => followed += usize::from(ask(&mut world, port) == Asked::Followed),
                1 => answer(&mut world, port),
                2 => acknowledge(&mut world, port, 5000 + number),
                3 => refused += usize::from(refusal(&mut world, flow(port), number == 0)),
                4 => drop(given_up(&mut world, flow(port), 1000 + number)),
                _ => outcomes.extend(world.sweep()),
            }
        }
        world.now += PATIENCE;
        outcomes.extend(world.sweep());
        prop_assert_eq!(outcomes.len(), followed);
        let told = outcomes.iter().filter(|o| matches!(o, Outcome::RefusedHost | Outcome::RefusedBackend)).count();
        prop_assert_eq!(told, refused);
    }
}
