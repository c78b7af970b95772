//! `cosmolet.io/on-traffic-fault: depreference`: what its traffic convicts stays the last resort.

use std::time::Instant;

use anyhow::{Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::fabric::{Mode, NodeSpec, vip4, vip6};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Stage, targets};

use crate::attributes::{paths, web};
use crate::verdict::{enforcing, proven};
use crate::{LIMIT, NODE, ensure_unmoved, frr};

const BOTH: [&str; 2] = [NODE, "node2"];

/// Two nodes whose VIPs are served to clients and proven.
fn raise(mode: Mode) -> Result<(Stage, Client)> {
    let specs = [NodeSpec::new(BOTH[0], mode), NodeSpec::new(BOTH[1], Mode::Dynamic)];
    let mut stage = Stage::raise(&specs, enforcing())?;
    for manifests in &stage.manifests {
        manifests.write("web", &web(&[("on-traffic-fault", "depreference")]))?;
    }
    stage.start()?;
    stage.wait_nodes(&BOTH, Instant::now(), LIMIT)?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    proven(&stage)?;
    Ok((stage, client))
}

fn wait_state(stage: &Stage, state: &str) -> Result<()> {
    for vip in [vip4(1), vip6(1)] {
        let row = stage.wait_status(0, vip, state, |row| row["state"] == state)?;
        ensure!(row["reason"] == "HostRefuses" && row["services"][0]["health"] == "down", "{row}");
    }
    Ok(())
}

#[test]
fn a_convicted_vip_is_the_last_resort_and_comes_back() -> Result<()> {
    let (mut stage, client) = raise(Mode::Dynamic)?;
    stage.fabric.nodes[0].proxy.lose()?;
    let lost = Instant::now();
    stage.wait_nodes(&BOTH[1..], lost, LIMIT)?;
    println!("de-preferred {:?} after its DNAT was lost", lost.elapsed());
    wait_state(&stage, "depreferred")?;
    for vip in [vip4(1), vip6(1)] {
        let paths = paths(&stage, vip)?;
        let gentle = paths.iter().filter(|path| path["community"]["string"] == "graceful-shutdown").count();
        ensure!((paths.len(), gentle) == (2, 1), "the ToR has {paths:#?}");
    }
    let metrics = stage.daemons[0].metrics()?;
    ensure!(metrics.contains("cosmolet_transitions_total{to=\"depreference\",reason=\"HostRefuses\"} 2"), "{metrics}");
    // Nobody else is left: it is preferred again, whatever its traffic says.
    stage.set_endpoint(1, State::NotReady)?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    stage.set_endpoint(1, State::Ready)?;
    stage.fabric.nodes[0].proxy.restore()?;
    stage.wait_nodes(&BOTH, Instant::now(), LIMIT)?;
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "advertised", |row| row["state"] == "advertised" && row["reason"].is_null())?;
    }
    drop(client);
    Ok(())
}

/// Without a `network` statement of ours nothing can be said of the route: it goes.
#[test]
fn in_connected_mode_it_is_withdrawn() -> Result<()> {
    let (stage, client) = raise(Mode::Connected)?;
    let before = frr(&stage, 0)?;
    stage.fabric.nodes[0].proxy.lose()?;
    stage.wait_nodes(&BOTH[1..], Instant::now(), LIMIT)?;
    wait_state(&stage, "withdrawn")?;
    let gone = Instant::now();
    ensure_unmoved(&stage, gone)?;
    ensure!(frr(&stage, 0)? == before, "{:?}", frr(&stage, 0)?);
    drop(client);
    Ok(())
}
