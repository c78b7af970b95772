//! Thousands of addresses, beside `ip -batch`.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cosmolet::engine::observed::{KernelState, Owner};
use cosmolet::engine::plan::{Outcome, Step};
use cosmolet::engine::types::Vip;
use cosmolet::netlink::apply::Addresses;
use cosmolet::netlink::observe::Observer;

use crate::{LEASE, Seen, apply, in_namespace, ip_batch, v4, v6};

/// Adds, renews and removes `count` addresses of one family, beside `ip -batch` doing the same.
fn compare(count: usize, address: fn(usize) -> IpAddr, acts: &[&'static str]) {
    let vips: Vec<Vip> = (1..=count).map(|index| Vip::new(address(index))).collect();
    let family = vips[0].family();
    let nodad = if vips[0].address().is_ipv6() { "nodad" } else { "" };
    let base = in_namespace(async || {
        let timed = acts.iter().map(|act| {
            let rest = if *act == "del" { String::new() } else { format!("valid_lft 120 preferred_lft 0 {nodad}") };
            let lines: String = vips.iter().map(|vip| format!("addr {act} {} dev lo {rest}\n", vip.prefix())).collect();
            let started = Instant::now();
            ip_batch(&lines);
            started.elapsed()
        });
        timed.collect::<Vec<_>>()
    });
    let own = in_namespace(async || {
        let mut addresses = Addresses::new("lo", Vec::new());
        let mut times = Vec::new();
        for act in acts {
            let step =
                |vip: &Vip| if *act == "del" { Step::RemoveAddress(*vip) } else { Step::add_address(*vip, LEASE) };
            let steps: Vec<Step> = vips.iter().map(step).collect();
            let started = Instant::now();
            let applied = addresses.apply(&steps, &|| false).await;
            times.push(started.elapsed());
            assert!(applied.iter().all(|applied| applied.outcome == Outcome::Done));
        }
        times
    });
    for ((act, own), base) in acts.iter().zip(own).zip(base) {
        println!("{count} {family} {act}: {own:.1?}, ip -batch {base:.1?}");
        // Wide, as the machine may be busy with either: a round trip or a dump for each address would cost far more.
        assert!(own < base * 4 + Duration::from_millis(200), "{count} {family} {act}: {own:?}, ip -batch {base:?}");
    }
}

#[test]
fn a_thousand_addresses_cost_about_what_the_kernel_takes() {
    compare(1000, v4, &["add", "change", "del"]);
    compare(1000, v6, &["add", "change", "del"]);
}

#[test]
fn ten_thousand_addresses_cost_about_what_the_kernel_takes() {
    compare(10_000, v4, &["add", "change", "del"]);
    // The kernel walks its whole IPv6 table for each address that goes: a minute for these.
    compare(10_000, v6, &["add", "change"]);
}

#[test]
fn ten_thousand_renewals_do_not_flood_the_engine() {
    in_namespace(async || {
        let count = 10_000;
        let steps = |lease: u64| -> Vec<Step> {
            let lease = Some(Duration::from_secs(lease));
            (1..=count).map(|index| Step::add_address(Vip::new(v4(index)), lease)).collect()
        };
        apply(&steps(300)).await;
        let mut seen = Seen::new(Observer::new("lo"));
        seen.until("all", |state| state.loopback.len() == count).await;
        let before = seen.count;
        assert!(apply(&steps(600)).await.iter().all(|outcome| *outcome == Outcome::Done));
        let renewed = |state: &KernelState| {
            state
                .loopback
                .values()
                .all(|held| held.owner == Owner::Ours && held.valid_for > Some(Duration::from_secs(400)))
        };
        seen.until("every renewal", renewed).await;
        assert_eq!(seen.state.loopback.len(), count);
        println!("{count} renewals: {} events", seen.count - before);
        assert!(seen.count - before < count / 20, "{} events", seen.count - before);
    });
}
