//! FRR's daemons die and come back.

use std::time::Instant;

use anyhow::{Result, ensure};
use cosmolet_tests::fabric::{Mode, NodeSpec, vip4, vip6};
use cosmolet_tests::frr::Daemon;
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage};

use crate::{LIMIT, REREAD, frr};

const NODES: [&str; 2] = ["node1", "node2"];
const MODES: [&str; 2] = ["connected", "dynamic"];

#[test]
fn frr_restarts_are_survived_in_both_modes() -> Result<()> {
    let specs = [NodeSpec::new(NODES[0], Mode::Connected).unnumbered(), NodeSpec::new(NODES[1], Mode::Dynamic)];
    let mut stage = Stage::raise(&specs, Options::default())?;
    stage.start()?;
    stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    let before = [frr(&stage, 0)?, frr(&stage, 1)?];
    ensure!(before[0].ours.is_empty() && before[1].ours.len() == 2, "{before:?}");
    for index in 0..NODES.len() {
        let since = stage.fabric.nodes[index].frr.kill(Daemon::Bgpd)?;
        stage.wait_nodes(&[NODES[1 - index]], since, LIMIT)?;
        stage.fabric.nodes[index].frr.restart(Daemon::Bgpd)?;
        back(&mut stage, index)?;
    }
    for index in 0..NODES.len() {
        stage.fabric.nodes[index].frr.kill(Daemon::Zebra)?;
        stage.fabric.nodes[index].frr.restart(Daemon::Zebra)?;
        back(&mut stage, index)?;
    }
    silent(&mut stage)?;
    for (index, before) in before.iter().enumerate() {
        ensure!(frr(&stage, index)? == *before, "before {before:?}, after {:?}", frr(&stage, index)?);
    }
    Ok(())
}

/// A bgpd that is stopped and goes on: nobody knows what became of the commands it was sent meanwhile.
fn silent(stage: &mut Stage) -> Result<()> {
    let bgpd = stage.fabric.nodes[1].frr.process(Daemon::Bgpd)?;
    bgpd.pause()?;
    stage.set_endpoint(1, State::NotReady)?;
    stage.wait_bgp(1, "Silent", |bgp| bgp["reason"] == "Silent")?;
    ensure!(stage.daemons[1].get("/readyz")?.status == 503, "it is ready");
    stage.set_endpoint(1, State::Ready)?;
    stage.fabric.nodes[1].frr.process(Daemon::Bgpd)?.resume()?;
    back(stage, 1)
}

/// Waits until both nodes carry both VIPs and the daemon of one of them says why.
fn back(stage: &mut Stage, index: usize) -> Result<()> {
    stage.wait_nodes(&NODES, Instant::now(), REREAD)?;
    stage.daemons[index].wait_ready(REREAD)?;
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(index, vip, "advertised and in the RIB", |row| {
            row["state"] == "advertised" && row["mode"] == MODES[index] && row["rib"]["valid"] == true
        })?;
    }
    Ok(())
}
