//! Readers that keep up, that stall and that go.

use std::time::Duration;

use futures::FutureExt as _;

use super::*;
use crate::engine::event::{SourceState, TrafficSample};
use crate::engine::types::{Port, Protocol};
use crate::recording::{Reader as Lines, What};

/// A recording that begins now.
pub(in crate::recording) fn begin(recorder: &Recorder, tap: &mut Tap, engine: &Engine, now: Timestamp) -> Tape {
    let mut begun = Box::pin(recorder.begin());
    assert!(begun.as_mut().now_or_never().is_none());
    tap.turned(engine, now);
    begun.now_or_never().unwrap().unwrap()
}

/// All that has come until now.
pub(in crate::recording) fn text(tape: &mut Tape) -> String {
    let cuts = std::iter::from_fn(|| tape.next().now_or_never().flatten());
    cuts.map(|cut| cut.text("node1", 1_790_000_000.0).unwrap()).collect()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_secs(seconds))
}

fn traffic(samples: usize) -> Event {
    let sample = TrafficSample {
        vip: Vip::new([10, 0, 0, 1].into()),
        port: Port { protocol: Protocol::Tcp, number: 80 },
        span: Duration::from_secs(1),
        counts: crate::engine::event::TrafficCounts::default(),
        handshakes: crate::engine::event::Handshakes::default(),
    };
    Event::Traffic(vec![sample; samples])
}

fn whats(text: &str) -> Vec<(Timestamp, What)> {
    let mut lines = Lines::open(text.as_bytes()).unwrap();
    std::iter::from_fn(|| lines.read().unwrap()).map(|moment| (moment.at, moment.what)).collect()
}

#[test]
fn it_begins_with_what_is_known_and_goes_on_with_what_comes() {
    let (recorder, mut tap) = channel();
    let mut engine = Engine::new(Settings::default());
    tap.event(&Event::Drained(true), at(1));
    engine.handle(Event::Drained(true), at(1));
    engine.handle(Event::Source(SourceState::Stale("gone".to_owned())), at(2));
    let mut tape = begin(&recorder, &mut tap, &engine, at(3));
    tap.event(&Event::Tick, at(4));
    tap.event(&Event::Drained(false), at(5));
    let all = whats(&text(&mut tape));
    let events: Vec<_> = all.iter().filter(|(when, _)| *when == at(3)).map(|(_, what)| what).collect();
    assert_eq!(events.last(), Some(&&What::Live));
    for known in [Event::Drained(true), Event::Source(SourceState::Stale("gone".to_owned()))] {
        assert!(events.contains(&&What::Event(known.clone())), "{known:?} in {events:?}");
    }
    assert_eq!(all.last(), Some(&(at(5), What::Event(Event::Drained(false)))));
    assert_eq!(all.len(), events.len() + 1, "a tick says nothing");
}

#[test]
fn a_reader_that_stalls_is_told_what_it_missed_where_it_did() {
    let (recorder, mut tap) = channel();
    let engine = Engine::new(Settings::default());
    let mut slow = begin(&recorder, &mut tap, &engine, at(1));
    let mut quick = begin(&recorder, &mut tap, &engine, at(1));
    // Three such seconds find room, seven do not, and of those that follow none before that has been told.
    for second in 2..12 {
        tap.event(&traffic(10_000), at(second));
        tap.event(&Event::Drained(false), at(second));
        tap.turned(&engine, at(second));
        assert_eq!(whats_after(&text(&mut quick), second), 2);
    }
    let mut read = text(&mut slow);
    tap.turned(&engine, at(12));
    tap.event(&Event::Drained(true), at(13));
    read.push_str(&text(&mut slow));
    let all = whats(&read);
    let live = all.iter().position(|(_, what)| *what == What::Live).unwrap();
    let came: Vec<_> = all[live + 1..].iter().map(|(when, what)| (*when, matches!(what, What::Missed(_)))).collect();
    let heard = [(2, false), (2, false), (3, false), (3, false), (4, false), (4, false), (12, true), (13, false)];
    assert_eq!(came, heard.map(|(second, missed)| (at(second), missed)));
    assert!(all.contains(&(at(12), What::Missed(14))), "{:?}", all.last());
}

/// How many records a text has; the beginning is not counted.
fn whats_after(text: &str, second: u64) -> usize {
    let time = format!("{{\"at\":{}", nanos(at(second)));
    text.lines().filter(|line| line.starts_with(&time)).count()
}

#[test]
fn one_second_of_very_many_ports_finds_room_too() {
    let (recorder, mut tap) = channel();
    let engine = Engine::new(Settings::default());
    let mut tape = begin(&recorder, &mut tap, &engine, at(1));
    tap.event(&traffic(ROOM as usize * 2), at(2));
    assert_eq!(whats_after(&text(&mut tape), 2), 1);
}

#[test]
fn who_has_gone_is_forgotten() {
    let (recorder, mut tap) = channel();
    let engine = Engine::new(Settings::default());
    let tape = begin(&recorder, &mut tap, &engine, at(1));
    drop(tape);
    tap.turned(&engine, at(2));
    assert!(tap.readers.is_empty());
    // Asked, and gone before there was an answer.
    drop(Box::pin(recorder.begin()).now_or_never());
    tap.turned(&engine, at(3));
    assert!(tap.readers.is_empty());
}
