//! `loopback.enabled: false`: a VIP is a `network` statement and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::fabric::{Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage, targets};

use crate::{LIMIT, NODE, REREAD, ensure_unmoved, frr, loopback, wait_vip};

const OFF: (&str, &str) = ("COSMOLET_LOOPBACK_ENABLED", "false");

fn stage(env: Vec<(&'static str, &'static str)>) -> Result<Stage> {
    let spec = NodeSpec::new(NODE, Mode::Dynamic).bgp_line("no bgp network import-check");
    Stage::raise(&[spec], Options { env, ..Options::default() })
}

fn ensure_bare(stage: &Stage) -> Result<()> {
    let held = loopback(stage, 0)?;
    ensure!(!held.contains(&host(vip4(1))) && !held.contains(&host(vip6(1))), "{held:?}");
    Ok(())
}

#[test]
fn vips_without_addresses_are_served_and_survive_the_daemon() -> Result<()> {
    let mut stage = stage(vec![OFF])?;
    stage.start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    ensure_bare(&stage)?;
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "advertised", |row| row["state"] == "advertised" && row["loopback"] == "off")?;
    }
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    let seen = client.watch(Duration::from_secs(1));
    ensure!(seen.ok() > 0 && seen.failed() == 0, "{seen:?}");
    drop(client);
    stage.set_endpoint(0, State::NotReady)?;
    wait_vip(&stage, vip4(1), &[])?;
    wait_vip(&stage, vip6(1), &[])?;
    stage.wait_status(0, vip4(1), "withdrawn", |row| row["state"] == "withdrawn")?;
    stage.set_endpoint(0, State::Ready)?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    let since = Instant::now();
    for _ in 0..5 {
        stage.daemons[0].kill()?;
        stage.daemons[0].start()?;
        stage.wait_status(0, vip4(1), "advertised", |row| row["state"] == "advertised")?;
    }
    ensure_unmoved(&stage, since)?;
    // What was not ready meanwhile leaves as soon as a daemon is back.
    stage.daemons[0].kill()?;
    stage.set_endpoint(0, State::NotReady)?;
    stage.daemons[0].start()?;
    wait_vip(&stage, vip4(1), &[])?;
    ensure!(frr(&stage, 0)?.ours.is_empty(), "{:?}", frr(&stage, 0)?.ours);
    Ok(())
}

/// The addresses that were there before go, and nobody on the fabric notices.
#[test]
fn addresses_of_before_are_taken_away_without_a_move() -> Result<()> {
    let mut stage = stage(vec![])?;
    stage.start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    ensure!(loopback(&stage, 0)?.contains(&host(vip4(1))), "no address");
    let since = Instant::now();
    stage.daemons[0].stop(LIMIT)?;
    stage.reconfigure(0, &Options { env: vec![OFF], ..Options::default() })?;
    stage.daemons[0].start()?;
    cosmolet_tests::wait::until_true("the addresses are gone", LIMIT, || Ok(ensure_bare(&stage).is_ok()))?;
    ensure_unmoved(&stage, since)
}

/// With import-check FRR would advertise nothing: that is said, and what is up stays as it is.
#[test]
fn an_frr_that_asks_for_addresses_is_refused() -> Result<()> {
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], Options::default())?;
    stage.start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    let since = Instant::now();
    stage.daemons[0].stop(LIMIT)?;
    stage.reconfigure(0, &Options { env: vec![OFF], ..Options::default() })?;
    stage.daemons[0].launch()?;
    let bgp = stage.wait_bgp(0, "ImportCheck", |bgp| bgp["reason"] == "ImportCheck")?;
    ensure!(bgp["error"].as_str().is_some_and(|text| text.contains("no bgp network import-check")), "{bgp}");
    ensure_unmoved(&stage, since)?;
    ensure!(loopback(&stage, 0)?.contains(&host(vip4(1))), "its address is gone");
    stage.fabric.nodes[0].frr.configure(&["router bgp", "no bgp network import-check"])?;
    stage.daemons[0].wait_ready(REREAD)?;
    cosmolet_tests::wait::until_true("the addresses are gone", LIMIT, || Ok(ensure_bare(&stage).is_ok()))?;
    ensure_unmoved(&stage, since)
}
