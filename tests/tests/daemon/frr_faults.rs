//! FRR that cannot be used: a clear state, tried again, nothing of the operator's touched, mended without touching the daemon.

use std::time::Instant;

use anyhow::{Result, ensure};
use cosmolet_tests::fabric::{Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::frr::Daemon;
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage};
use serde_json::Value;

use crate::{LIMIT, NODE, REREAD, frr, loopback, restart_bgpd, wait_vip};

const VRF: [&str; 2] = ["router bgp 65199 vrf red", "bgp router-id 10.255.9.9"];

#[test]
fn faults_are_named_and_mended_by_the_operator() -> Result<()> {
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], Options::default())?;
    down_at_start(&mut stage)?;
    no_instance(&mut stage)?;
    two_instances(&mut stage)?;
    two_instances_from_the_start(&mut stage)?;
    contradicting_asn(&mut stage)
}

fn down_at_start(stage: &mut Stage) -> Result<()> {
    let before = frr(stage, 0)?;
    stage.fabric.nodes[0].frr.kill(Daemon::Bgpd)?;
    stage.daemons[0].launch()?;
    fault(stage, "Unreachable")?;
    ensure!(stage.daemons[0].get("/livez")?.status == 200, "it does not live");
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "pending", |row| row["state"] == "pending" && row["mode"].is_null())?;
        ensure!(!loopback(stage, 0)?.contains(&host(vip)), "{vip} is on lo though nobody would advertise it");
    }
    stage.fabric.nodes[0].frr.restart(Daemon::Bgpd)?;
    mended(stage)?;
    ensure!(frr(stage, 0)?.operators == before.operators, "{}", frr(stage, 0)?.operators);
    Ok(())
}

fn no_instance(stage: &mut Stage) -> Result<()> {
    let (before, config) = (frr(stage, 0)?, stage.fabric.nodes[0].frr.config()?);
    stage.fabric.nodes[0].frr.write_config("hostname node1\n")?;
    restart_bgpd(stage, 0)?;
    let empty = frr(stage, 0)?;
    fault(stage, "NoInstance")?;
    // A change that asks for steps must not create an instance either.
    stage.set_endpoint(0, State::NotReady)?;
    gone_from_loopback(stage)?;
    stage.set_endpoint(0, State::Ready)?;
    fault(stage, "NoInstance")?;
    ensure!(frr(stage, 0)? == empty && !empty.operators.contains("router bgp"), "{}", frr(stage, 0)?.operators);
    // As vtysh does it: line by line into the running bgpd.
    stage.fabric.nodes[0].frr.configure(&config.lines().collect::<Vec<_>>())?;
    stage.fabric.nodes[0].frr.write_config(&config)?;
    mended(stage)?;
    ensure!(frr(stage, 0)? == before, "before {before:?}, after {:?}", frr(stage, 0)?);
    Ok(())
}

/// A VRF's instance comes while the daemon runs, and goes again.
fn two_instances(stage: &mut Stage) -> Result<()> {
    let before = frr(stage, 0)?;
    stage.fabric.nodes[0].frr.configure(&VRF)?;
    let with_vrf = frr(stage, 0)?;
    moves(stage)?;
    ensure!(frr(stage, 0)? == with_vrf, "{:?}", frr(stage, 0)?);
    stage.fabric.nodes[0].frr.configure(&["no router bgp 65199 vrf red"])?;
    moves(stage)?;
    ensure!(frr(stage, 0)? == before, "before {before:?}, after {:?}", frr(stage, 0)?);
    Ok(())
}

/// VIPs leave the fabric and come back.
fn moves(stage: &mut Stage) -> Result<()> {
    stage.set_endpoint(0, State::NotReady)?;
    wait_vip(stage, vip4(1), &[])?;
    wait_vip(stage, vip6(1), &[])?;
    cosmolet_tests::wait::until_true("our network statements are gone", REREAD, || Ok(frr(stage, 0)?.ours.is_empty()))?;
    stage.set_endpoint(0, State::Ready)?;
    mended(stage)
}

/// A view this time: FRR 10.3 takes none away again ("Can't find BGP instance"), but by a restart.
fn two_instances_from_the_start(stage: &mut Stage) -> Result<()> {
    let config = stage.fabric.nodes[0].frr.config()?;
    let second = "router bgp 65198 view OTHER\n bgp router-id 10.255.9.8\nexit\n";
    stage.fabric.nodes[0].frr.write_config(&format!("{config}{second}"))?;
    restart_bgpd(stage, 0)?;
    mended(stage)?;
    let before = frr(stage, 0)?;
    moves(stage)?;
    ensure!(frr(stage, 0)? == before, "{:?}", frr(stage, 0)?);
    stage.fabric.nodes[0].frr.write_config(&config)?;
    restart_bgpd(stage, 0)?;
    mended(stage)
}

fn contradicting_asn(stage: &mut Stage) -> Result<()> {
    let before = frr(stage, 0)?;
    stage.daemons[0].stop(LIMIT)?;
    stage.reconfigure(0, &Options { asn: 65099, ..Options::default() })?;
    stage.daemons[0].launch()?;
    let error = fault(stage, "AsnMismatch")?;
    let text = error["error"].as_str().unwrap_or_default();
    ensure!(text.contains("65099") && text.contains("65001"), "{error}");
    ensure!(frr(stage, 0)? == before, "before {before:?}, after {:?}", frr(stage, 0)?);
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    // It is FRR that was wrong.
    let config = stage.fabric.nodes[0].frr.config()?.replace("router bgp 65001", "router bgp 65099");
    stage.fabric.nodes[0].frr.write_config(&config)?;
    restart_bgpd(stage, 0)?;
    mended(stage)
}

/// Waits until the daemon is not ready for this reason, and says so in readyz, status and metric; the status's part of FRR.
fn fault(stage: &Stage, reason: &str) -> Result<Value> {
    let bgp = stage.wait_bgp(0, reason, |bgp| bgp["state"] == "down" && bgp["reason"] == reason)?;
    let ready = stage.daemons[0].get("/readyz")?;
    let error = bgp["error"].as_str().unwrap_or_default();
    ensure!(ready.status == 503 && !error.is_empty(), "/readyz answers {}: {}; {bgp}", ready.status, ready.body);
    let metrics = stage.daemons[0].metrics()?;
    ensure!(metrics.contains("cosmolet_component_state{component=\"frr\",state=\"down\"} 1"), "{metrics}");
    ensure!(metrics.contains("cosmolet_last_error{component=\"frr\",error=\""), "{metrics}");
    let log = stage.daemons[0].log()?;
    ensure!(log.contains(&format!("reason=\"{reason}\"")) || log.contains(&format!("reason={reason}")), "{log}");
    Ok(bgp)
}

/// Waits until the daemon, which nobody has touched, is ready and the ToR has both VIPs.
fn mended(stage: &mut Stage) -> Result<()> {
    stage.daemons[0].wait_ready(REREAD)?;
    stage.wait_nodes(&[NODE], Instant::now(), REREAD)?;
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "advertised", |row| row["state"] == "advertised" && row["network"] == "ours")?;
    }
    Ok(())
}

fn gone_from_loopback(stage: &Stage) -> Result<()> {
    cosmolet_tests::wait::until_true("no VIP is on lo", LIMIT, || {
        let held = loopback(stage, 0)?;
        Ok(!held.contains(&host(vip4(1))) && !held.contains(&host(vip6(1))))
    })
}
