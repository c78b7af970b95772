//! Beside an operator who is at it too.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cosmolet::engine::plan::{Outcome, Step};
use cosmolet::frr::Options;
use cosmolet_tests::frr::Daemon;

use crate::{DYNAMIC, Node, Watched, all, options, vips};

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
