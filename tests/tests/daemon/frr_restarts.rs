//! FRR's daemons die and come back.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use cosmolet_tests::fabric::{Mode, NodeSpec, vip4, vip6};
use cosmolet_tests::frr::{Daemon, INSTALLED, program_directory};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage};
use serde_json::Value;

use crate::{LIMIT, REREAD, ensure_unmoved, frr, restart_bgpd};

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
        restart_bgpd(&mut stage, index)?;
        back(&mut stage, index)?;
    }
    silent(&mut stage)?;
    for index in 0..NODES.len() {
        zebra(&mut stage, index)?;
    }
    for (index, before) in before.iter().enumerate() {
        ensure!(frr(&stage, index)? == *before, "before {before:?}, after {:?}", frr(&stage, index)?);
    }
    Ok(())
}

/// The ToR keeps the routes of a bgpd that promises to come back, and has them confirmed before it would drop them: the replay is
/// quicker than FRR's End-of-RIB.
#[test]
fn with_graceful_restart_a_restart_is_no_gap() -> Result<()> {
    let specs = [NodeSpec::new(NODES[0], Mode::Connected), NodeSpec::new(NODES[1], Mode::Dynamic)];
    let mut stage = Stage::raise(&specs.map(|spec| spec.bgp_line("bgp graceful-restart")), Options::default())?;
    stage.start()?;
    stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    for index in [0, 1, 0, 1] {
        let since = Instant::now();
        stage.fabric.nodes[index].frr.kill(Daemon::Bgpd)?;
        stage.fabric.nodes[index].frr.restart(Daemon::Bgpd)?;
        let established = |bgp: &Value| bgp["peers"].as_array().is_some_and(|peers| peers.iter().all(is_established));
        stage.wait_bgp(index, "its sessions are back", established)?;
        back(&mut stage, index)?;
        ensure_unmoved(&stage, since)?;
    }
    Ok(())
}

fn is_established(peer: &Value) -> bool {
    peer["established"] == true
}

/// FRR is replaced under the daemon by that of the machine and then by that which the suite runs with: in the run with another
/// release's an upgrade, else two restarts of all of it.
#[test]
fn an_upgrade_of_frr_is_a_restart() -> Result<()> {
    let specs = [NodeSpec::new(NODES[0], Mode::Connected), NodeSpec::new(NODES[1], Mode::Dynamic)];
    let mut stage = Stage::raise(&specs, Options::default())?;
    stage.start()?;
    stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    let before = [frr(&stage, 0)?.ours, frr(&stage, 1)?.ours];
    for programs in [PathBuf::from(INSTALLED), program_directory()] {
        for index in 0..NODES.len() {
            let frr = &mut stage.fabric.nodes[index].frr;
            frr.replace_programs(&programs);
            let killed = frr.kill(Daemon::Bgpd)?;
            frr.kill(Daemon::Zebra)?;
            stage.wait_nodes(&[NODES[1 - index]], killed, LIMIT)?;
            let frr = &mut stage.fabric.nodes[index].frr;
            frr.restart(Daemon::Zebra)?;
            frr.restart(Daemon::Bgpd)?;
            back(&mut stage, index)?;
        }
    }
    let after = [frr(&stage, 0)?.ours, frr(&stage, 1)?.ours];
    ensure!(before == after, "before {before:?}, after {after:?}");
    Ok(())
}

/// A bgpd that is stopped and goes on: nobody knows what became of the commands it was sent meanwhile.
fn silent(stage: &mut Stage) -> Result<()> {
    let bgpd = stage.fabric.nodes[1].frr.process(Daemon::Bgpd)?;
    bgpd.pause()?;
    stage.set_endpoint(1, State::NotReady)?;
    stage.wait_bgp(1, "Silent", |bgp| bgp["reason"] == "Silent")?;
    ensure!(stage.daemons[1].get("/readyz")?.status == 503, "it is ready");
    // Its session ends by the hold timer; then it is known which return is meant.
    stage.wait_nodes(&NODES[..1], Instant::now(), LIMIT)?;
    stage.set_endpoint(1, State::Ready)?;
    stage.fabric.nodes[1].frr.process(Daemon::Bgpd)?.resume()?;
    back(stage, 1)
}

/// Nothing moves when zebra alone dies. Then bgpd is restarted too, as watchfrr does it: bgpd 8.4 never registers its networks'
/// addresses with a new zebra, so it would not hear of them again.
fn zebra(stage: &mut Stage, index: usize) -> Result<()> {
    let since = Instant::now();
    stage.fabric.nodes[index].frr.kill(Daemon::Zebra)?;
    stage.fabric.nodes[index].frr.restart(Daemon::Zebra)?;
    ensure_unmoved(stage, since)?;
    restart_bgpd(stage, index)?;
    back(stage, index)
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
