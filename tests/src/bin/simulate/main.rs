//! `cargo xtask simulate`: the traffic verdict on made-up traffic, by the daemon's own engine. Same seed, same tables.
//!
//! Owns the faults, the bursts and the tables. Never judges: the engine does.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(unreachable_pub, reason = "in a program nothing is reachable: `pub` marks what a module offers to the others")]

mod node;
mod random;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use cosmolet::engine::event::{Handshakes, TrafficCounts};
use cosmolet::engine::traffic::SecondKey;
use node::{Failure, Node};
use random::Random;

const DAY: u64 = 86_400;
const RATES: [f64; 5] = [0.1, 1.0, 10.0, 100.0, 1000.0];
/// Client prefixes of an ordinary Service.
const CLIENTS: u64 = 64;

/// Simulates the traffic verdict and prints its tables in Markdown.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Args {
    /// Two days and 20 runs instead of 30 days and 200 runs.
    #[arg(long)]
    quick: bool,
    /// Another seed, other tables.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let args = Args::parse();
    let (days, runs) = if args.quick { (2, 20) } else { (30, 200) };
    detection(runs, args.seed);
    independent(days, args.seed);
    bursty(days, args.seed);
    oddities(args.seed);
}

/// Computes all cells of a table on every CPU and prints it, a row for each name.
fn table<T: Sync>(head: &str, rows: &[(String, T)], columns: &[f64], cell: impl Fn(&T, f64) -> String + Sync) {
    let (next, cells) = (AtomicUsize::new(0), Mutex::new(vec![String::new(); rows.len() * columns.len()]));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let place = (rows.get(index / columns.len()), columns.get(index % columns.len()));
                    let (Some((_, row)), Some(column)) = place else { return };
                    let text = cell(row, *column);
                    if let Some(place) = cells.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
                        *place = text;
                    }
                }
            });
        }
    });
    println!("| {head} | {} |", columns.iter().map(|rate| format!("{rate}/s")).collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    let cells = cells.into_inner().unwrap_or_else(PoisonError::into_inner);
    for ((name, _), row) in rows.iter().zip(cells.chunks(columns.len())) {
        println!("| {name} | {} |", row.join(" | "));
    }
}

/// Seconds from the fault to suspicion and to withdrawal.
fn detection(runs: u64, seed: u64) {
    println!(
        "Seconds from the fault to the suspicion → to the withdrawal, median (99th percentile) of {runs} runs; 1 % of the"
    );
    println!("connections had failed in the hour before:\n");
    let faults = [
        ("the host refuses all", Failure::Host, 1.0),
        ("the backend refuses all", Failure::Refused, 1.0),
        ("the backend is silent", Failure::Silent, 1.0),
        ("70 % are refused", Failure::Refused, 0.7),
        ("50 % are refused", Failure::Refused, 0.5),
        ("30 % are refused", Failure::Refused, 0.3),
    ];
    let rows = faults.map(|(name, failure, share)| (name.to_owned(), (failure, share)));
    table("fault", &rows, &[1.0, 10.0, 100.0, 1000.0], |(failure, share), rate| {
        let mut times: Vec<(u64, u64)> = (0..runs).map(|run| detect(*failure, *share, rate, seed + run)).collect();
        let mut of = |pick: fn(&(u64, u64)) -> u64| {
            times.sort_unstable_by_key(pick);
            let at = |part: usize| times.get(times.len() * part / 100).map(pick).unwrap_or_default();
            format!("{} ({})", at(50), at(99))
        };
        format!("{} → {}", of(|times| times.0), of(|times| times.1))
    });
}

/// An hour of health, then the fault: seconds to suspicion and to withdrawal, at most those of a day.
fn detect(failure: Failure, share: f64, rate: f64, seed: u64) -> (u64, u64) {
    let mut node = Node::new(failure, SecondKey::Probe, seed);
    (0..3600).for_each(|_| node.second(rate, 0.01, CLIENTS));
    let mut suspected = None;
    for second in 1..DAY {
        node.second(rate, share, CLIENTS);
        if node.suspect && suspected.is_none() {
            suspected = Some(second);
        }
        if node.withdrawn {
            return (suspected.unwrap_or(second), second);
        }
    }
    (suspected.unwrap_or(DAY), DAY)
}

/// Suspicions, and withdrawals with each second key, over some seconds of a made-up share of failures.
fn falsely(seconds: u64, rate: f64, seed: u64, share: impl Fn() -> Bursts) -> String {
    let counts = [SecondKey::Probe, SecondKey::Passive].map(|evidence| {
        let (mut node, mut bursts) = (Node::new(Failure::Refused, evidence, seed), share());
        for _ in 0..seconds {
            let share = bursts.step(&mut node.random);
            node.second(rate, share, CLIENTS);
        }
        (node.suspicions, node.withdrawals)
    });
    format!("{} / {} / {}", counts[0].0, counts[0].1, counts[1].1)
}

fn independent(days: u64, seed: u64) {
    println!(
        "\nIn {days} days of independent failures: suspicions / withdrawals (probes fail as clients do) / withdrawals by"
    );
    println!("passive evidence alone, which an owner must ask for:\n");
    let rows = [0.01, 0.05, 0.1].map(|share| (format!("{:.0} %", share * 100.0), share));
    table("failing", &rows, &RATES, |share, rate| falsely(days * DAY, rate, seed, || Bursts::always(*share)));
}

/// Gilbert–Elliott: a good state without failures, a bad one in which a share of the connections fails.
#[derive(Clone, Copy, Debug)]
struct Bursts {
    bad: bool,
    mean_bad: f64,
    mean_good: f64,
    share: f64,
}

impl Bursts {
    /// No bursts: always the same share.
    const fn always(share: f64) -> Self {
        Self { bad: true, mean_bad: f64::INFINITY, mean_good: 1.0, share }
    }

    fn step(&mut self, random: &mut Random) -> f64 {
        let leave = 1.0 / if self.bad { self.mean_bad } else { self.mean_good };
        if random.chance(leave) {
            self.bad = !self.bad;
        }
        if self.bad { self.share } else { 0.0 }
    }
}

fn bursty(days: u64, seed: u64) {
    println!("\nThe same with failures in bursts (Gilbert–Elliott; mean lengths):\n");
    let all =
        [(2.0, 38.0, 0.3), (2.0, 18.0, 0.5), (5.0, 45.0, 0.3), (5.0, 45.0, 0.5), (2.0, 200.0, 1.0), (20.0, 380.0, 0.5)];
    let rows = all.map(|(mean_bad, mean_good, share)| {
        let name = format!("{mean_bad} s of {:.0} % each {} s", share * 100.0, mean_bad + mean_good);
        (name, Bursts { bad: false, mean_bad, mean_good, share })
    });
    table("bursts", &rows, &RATES, |bursts, rate| falsely(days * DAY, rate, seed, || *bursts));
}

/// What must never withdraw a Service, an hour each, even by passive evidence alone.
fn oddities(seed: u64) {
    println!("\nIn an hour: suspicions / withdrawals by passive evidence alone:\n\n| what | |\n|---|---|");
    let hour = |each: &dyn Fn(&mut Node, u64)| {
        let mut node = Node::new(Failure::Refused, SecondKey::Passive, seed);
        (0..600).for_each(|_| node.second(10.0, 0.01, CLIENTS));
        (1..=3600).for_each(|second| each(&mut node, second));
        format!("{} / {}", node.suspicions, node.withdrawals)
    };
    let told = |what: &str, each: &dyn Fn(&mut Node, u64)| println!("| {what} | {} |", hour(each));
    told("one broken client, 50 tries/s beside 10 connections/s", &|node, _| node.second(60.0, 0.83, 1));
    told("a broken site behind two prefixes", &|node, _| node.second(30.0, 0.66, 2));
    told("5 % honest failures at 1000/s", &|node, _| node.second(1000.0, 0.05, CLIENTS));
    told("backends rolled: 1 s of 50 % each minute at 100/s", &|node, second| {
        node.second(100.0, if second % 60 == 0 { 0.5 } else { 0.0 }, CLIENTS);
    });
    told("a SYN flood of 10 000/s, one SYN in 100 of it unanswered", &|node, _| {
        let handshakes =
            Handshakes { completed: 10, timed_out: 100, failed_prefixes: u64::MAX, one_in: 1, ..Handshakes::default() };
        let counts = TrafficCounts { syn: 10_010, syn_ack: 9_900, completed: 10, ..TrafficCounts::default() };
        node.sample(handshakes, counts);
    });
}
