use std::time::Duration;

use super::*;
use crate::engine::event::{Handshakes, TrafficCounts};
use crate::engine::types::Vip;

const RULES: fn() -> TrafficRules = TrafficRules::default;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_secs(seconds))
}

fn tcp(counts: TrafficCounts) -> TrafficSample {
    let port = Port { protocol: Protocol::Tcp, number: 80 };
    TrafficSample {
        vip: Vip::new([10, 0, 0, 1].into()),
        port,
        span: Duration::from_secs(1),
        counts,
        handshakes: Handshakes::default(),
    }
}

fn refused(syn: u64) -> TrafficSample {
    tcp(TrafficCounts { syn, rst_host: syn, ..TrafficCounts::default() })
}

fn served(syn: u64) -> TrafficSample {
    tcp(TrafficCounts { syn, syn_ack: syn, completed: syn, ..TrafficCounts::default() })
}

fn feed(health: &mut TrafficHealth, sample: TrafficSample, second: u64, mode: TrafficMode) -> TrafficState {
    let rules = RULES();
    health.sample(&sample, at(second), &Terms { mode, rules: &rules, jitter: 0.0, second_key: false });
    health.state()
}

#[test]
fn three_refused_connections_convict_and_two_do_not() {
    let mut health = TrafficHealth::default();
    assert_eq!(feed(&mut health, refused(2), 1, TrafficMode::Enforce), TrafficState::Clear);
    assert_eq!(feed(&mut health, refused(1), 2, TrafficMode::Enforce), TrafficState::Convicted(at(32)));
}

#[test]
fn a_sudden_end_is_seen_in_the_newest_sample_alone() {
    let mut health = TrafficHealth::default();
    feed(&mut health, served(50), 1, TrafficMode::Enforce);
    feed(&mut health, served(50), 2, TrafficMode::Enforce);
    assert_eq!(feed(&mut health, refused(50), 3, TrafficMode::Enforce), TrafficState::Convicted(at(33)));
}

#[test]
fn attempts_older_than_the_window_do_not_count() {
    let mut health = TrafficHealth::default();
    feed(&mut health, refused(2), 1, TrafficMode::Enforce);
    assert_eq!(feed(&mut health, refused(1), 4, TrafficMode::Enforce), TrafficState::Clear);
}

#[test]
fn observe_only_suspects_and_clears_by_time() {
    let mut health = TrafficHealth::default();
    assert_eq!(feed(&mut health, refused(10), 1, TrafficMode::Observe), TrafficState::Suspect);
    feed(&mut health, served(200), 2, TrafficMode::Observe);
    assert!(!health.tick(at(2), &RULES()));
    assert_eq!(health.state(), TrafficState::Clear);
}

#[test]
fn one_in_eight_served_is_not_the_hosts_refusal() {
    let mut health = TrafficHealth::default();
    let mixed = tcp(TrafficCounts { syn: 80, rst_host: 70, completed: 10, ..TrafficCounts::default() });
    assert_eq!(feed(&mut health, mixed, 1, TrafficMode::Enforce), TrafficState::Clear);
}

#[test]
fn rst_by_backends_and_clients_prove_nothing() {
    let mut health = TrafficHealth::default();
    let aborted = tcp(TrafficCounts { syn: 50, rst_backend: 50, rst_client: 50, ..TrafficCounts::default() });
    assert_eq!(feed(&mut health, aborted, 1, TrafficMode::Enforce), TrafficState::Clear);
}

#[test]
fn a_backend_in_the_hosts_network_is_not_judged() {
    let mut health = TrafficHealth::default();
    let host = tcp(TrafficCounts { syn: 5, syn_ack_host: 5, completed: 5, ..TrafficCounts::default() });
    feed(&mut health, host, 1, TrafficMode::Enforce);
    assert_eq!(feed(&mut health, refused(50), 20, TrafficMode::Enforce), TrafficState::Clear);
    assert!(matches!(feed(&mut health, refused(50), 302, TrafficMode::Enforce), TrafficState::Convicted(_)));
}

#[test]
fn udp_is_never_evidence() {
    let mut health = TrafficHealth::default();
    let mut sample = refused(50);
    sample.port.protocol = Protocol::Udp;
    assert_eq!(feed(&mut health, sample, 1, TrafficMode::Enforce), TrafficState::Clear);
}

#[test]
fn a_passed_trial_clears_and_a_failed_one_doubles_the_hold() {
    let mut health = TrafficHealth::default();
    feed(&mut health, refused(5), 0, TrafficMode::Enforce);
    assert!(health.tick(at(30), &RULES()));
    assert_eq!(health.state(), TrafficState::Trial(at(30)));
    assert_eq!(feed(&mut health, refused(1), 31, TrafficMode::Enforce), TrafficState::Convicted(at(91)));
    health.tick(at(91), &RULES());
    assert_eq!(feed(&mut health, served(5), 95, TrafficMode::Enforce), TrafficState::Trial(at(91)));
    assert_eq!(feed(&mut health, served(5), 101, TrafficMode::Enforce), TrafficState::Clear);
}

#[test]
fn an_idle_trial_ends_well_and_the_hold_is_capped() {
    let mut health = convicted_before(64);
    assert_eq!(feed(&mut health, refused(9), 1, TrafficMode::Enforce), TrafficState::Convicted(at(301)));
    health.tick(at(301), &RULES());
    assert!(!health.tick(at(360), &RULES()));
    assert!(health.tick(at(361), &RULES()));
    assert_eq!(health.state(), TrafficState::Clear);
}

#[test]
fn a_conviction_long_ago_is_forgiven() {
    let mut health = convicted_before(4);
    assert_eq!(feed(&mut health, refused(9), 900, TrafficMode::Enforce), TrafficState::Convicted(at(930)));
    assert_eq!(health.ejections(), 1);
}

#[test]
fn a_day_of_traffic_is_remembered_in_a_few_samples() {
    let (mut health, rules) = (TrafficHealth::default(), RULES());
    for second in 0..86_400 {
        let mut sample = if second % 3 == 0 { refused(5) } else { served(5) };
        sample.handshakes = Handshakes { completed: 5, refused_host: 5, one_in: 1, ..Handshakes::default() };
        feed(&mut health, sample, second, TrafficMode::Enforce);
        health.tick(at(second), &rules);
    }
    assert!(health.ejections() > 0, "it was convicted now and then");
    assert_eq!(health.ports.len(), 1);
    let (window, handshakes) = health.ports.values().next().map(PortEvidence::held).unwrap();
    assert!(window <= 3 && handshakes <= rules.of_samples, "{window} {handshakes}");
    let held = health.record.unwrap().budget.held();
    assert!(held <= 60, "{held}");
}

#[test]
fn charges_stand_in_the_order_of_their_weight() {
    let rules = RULES();
    let port = refused(1).port;
    let mut health = TrafficHealth::default();
    assert_eq!(health.charge_now(at(1), &rules), None);
    health.set_failing_check(Some(port));
    assert_eq!(health.charge_now(at(1), &rules), Some(Charge::ProbeFails));
    for second in 1..=20 {
        let (completed, refused_backend) = if second < 15 { (10, 0) } else { (0, 10) };
        let handshakes =
            Handshakes { completed, refused_backend, failed_prefixes: 0b111, one_in: 1, ..Handshakes::default() };
        let sample = TrafficSample { handshakes, ..tcp(TrafficCounts::default()) };
        feed(&mut health, sample, second, TrafficMode::Observe);
    }
    assert_eq!(health.charge_now(at(20), &rules), Some(Charge::ConnectionsFail));
    assert_eq!((health.state(), health.charge()), (TrafficState::Suspect, Some(Charge::ConnectionsFail)));
    // Nothing has joined the handshakes, and the question needs nothing to.
    let mut enforced = health.clone();
    let terms = Terms { mode: TrafficMode::Enforce, rules: &rules, jitter: 0.0, second_key: false };
    assert!(enforced.is_to_be_convicted(at(20), &terms));
    enforced.judge(at(20), &terms);
    assert_eq!((enforced.state(), enforced.charge()), (TrafficState::Convicted(at(50)), Some(Charge::ProbeFails)));
    feed(&mut health, refused(9), 21, TrafficMode::Observe);
    assert_eq!(health.charge_now(at(21), &rules), Some(Charge::HostRefuses));
    let mut charges = [Charge::ProbeFails, Charge::HostRefuses, Charge::ConnectionsFail];
    charges.sort_unstable();
    assert_eq!(charges, [Charge::HostRefuses, Charge::ConnectionsFail, Charge::ProbeFails]);
}

#[test]
fn what_is_asked_in_vain_is_blamed_and_forgotten_with_its_port() {
    let (rules, port) = (RULES(), Port { protocol: Protocol::Udp, number: 53 });
    let terms = Terms { mode: TrafficMode::Enforce, rules: &rules, jitter: 0.0, second_key: false };
    let mut health = TrafficHealth::default();
    health.set_failing_check(Some(port));
    assert!(health.judge(at(1), &terms));
    assert_eq!((health.state(), health.charge()), (TrafficState::Convicted(at(31)), Some(Charge::ProbeFails)));
    assert_eq!(health.blamed(), [port]);
    health.keep_ports(&[]);
    assert!(health.blamed().is_empty() && !health.check_fails());
}

fn convicted_before(ejections: u32) -> TrafficHealth {
    let record = Record { ejections, convicted_at: at(0), ..Record::default() };
    TrafficHealth { record: Some(Box::new(record)), ..TrafficHealth::default() }
}
