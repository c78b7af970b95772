//! Beside a client that does the least, and beside an operator who is at it too.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet::engine::plan::{Outcome, Step};
use cosmolet::engine::types::{Family, Vip};
use cosmolet::frr::Options;
use cosmolet_tests::frr::Daemon;

use crate::{DYNAMIC, Node, Watched, all, ensure_done, options, raw_client, vips};

fn raw_lines(vips: &[Vip], command: impl Fn(Vip) -> String) -> Vec<String> {
    let mut lines = vec!["configure terminal".to_owned(), "router bgp".to_owned()];
    for family in Family::ALL {
        lines.push(format!("address-family {family} unicast"));
        lines.extend(vips.iter().filter(|vip| vip.family() == family).map(|vip| command(*vip)));
        lines.push("exit-address-family".to_owned());
    }
    lines.push("end".to_owned());
    lines
}

/// What an operation took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    elapsed: Duration,
    /// bgpd's processor time.
    cpu: Duration,
}

/// Processor time of a process so far (proc(5), `schedstat`).
fn cpu_time(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    Ok(Duration::from_nanos(text.split(' ').next().context("a first field")?.parse()?))
}

/// The least of them in ms: what else runs on the machine only ever adds to it.
fn least(costs: &[Cost], field: impl Fn(&Cost) -> Duration) -> f64 {
    costs.iter().map(field).min().unwrap_or_default().as_secs_f64() * 1e3
}

/// The edge beside the raw client, on the same bgpd, by turns. Batches and their framing may cost bgpd a share, not a multiple;
/// its processor time says so whatever else the machine does.
#[tokio::test(flavor = "multi_thread")]
async fn pipelining_keeps_up_with_a_raw_client() -> Result<()> {
    let mut node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let socket = node.frr.socket(Daemon::Bgpd);
    let pid = node.frr.process(Daemon::Bgpd)?.pid();
    let vips = vips(1000);
    let lines = [
        raw_lines(&vips, |vip| format!("network {} route-map COSMOLET-ADVERTISE", vip.prefix())),
        raw_lines(&vips, |vip| format!("no network {}", vip.prefix())),
    ];
    let steps = [all(&vips, Step::advertise), all(&vips, Step::Withdraw)];
    let (mut raw, mut ours): ([Vec<Cost>; 2], [Vec<Cost>; 2]) = Default::default();
    for _ in 0..5 {
        for (costs, by_edge) in [(&mut raw, false), (&mut ours, true)] {
            for kind in 0..2 {
                // bgpd works on after its replies: its queue waits for 50 ms.
                tokio::time::sleep(Duration::from_millis(150)).await;
                let (start, before) = (Instant::now(), cpu_time(pid)?);
                if by_edge {
                    ensure_done(&watched.handle.apply(steps[kind].clone()).await)?;
                } else {
                    raw_client(&socket, &lines[kind])?;
                }
                costs[kind].push(Cost { elapsed: start.elapsed(), cpu: cpu_time(pid)?.saturating_sub(before) });
            }
        }
    }
    for (kind, name) in ["advertise", "withdraw"].into_iter().enumerate() {
        let [raw_ms, ours_ms] = [&raw[kind], &ours[kind]].map(|costs| least(costs, |cost| cost.elapsed));
        let [raw_cpu, ours_cpu] = [&raw[kind], &ours[kind]].map(|costs| least(costs, |cost| cost.cpu));
        println!(
            "1000 VIPs, {name}: {ours_ms:.1} ms (raw {raw_ms:.1}), bgpd's processor {ours_cpu:.1} ms (raw {raw_cpu:.1})"
        );
        assert!(ours_cpu < 2.5 * raw_cpu, "{ours_cpu} against {raw_cpu}");
    }
    Ok(())
}

/// The crash that parked sessions cause (facts: `no router bgp` under an open address-family node aborts bgpd): no batch of ours
/// may leave a gap for another user between its commands.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_removes_the_instance_meanwhile_does_no_harm() -> Result<()> {
    let mut node = Node::start(DYNAMIC)?;
    let quick = Options { period: Duration::from_millis(20), ..options(node.frr.directory()) };
    let mut watched = Watched::new(quick);
    watched.up().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let operator = {
        let (stop, mut vty) = (Arc::clone(&stop), node.frr.bgpd()?);
        std::thread::spawn(move || -> Result<u32> {
            let mut rounds = 0;
            while !stop.load(Relaxed) {
                vty.configure_ok(&["no router bgp 65001"])?;
                vty.configure_ok(&["router bgp 65001"])?;
                rounds += 1;
            }
            Ok(rounds)
        })
    };
    let vips = vips(200);
    let (mut done, mut other) = (0, 0);
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        for step in [Step::advertise, Step::Withdraw] {
            for applied in watched.handle.apply(all(&vips, step)).await {
                *(if applied.outcome == Outcome::Done { &mut done } else { &mut other }) += 1;
            }
            while watched.events.try_recv().is_ok() {}
        }
    }
    stop.store(true, Relaxed);
    let rounds = operator.join().expect("the operator")?;
    node.frr.process(Daemon::Bgpd)?.ensure_running()?;
    println!("{rounds} instances removed and made, {done} steps done, {other} not");
    ensure!(rounds > 10 && done > 100, "too little happened");
    Ok(())
}
