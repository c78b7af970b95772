//! The operator's hand in FRR: other modes, `network` statements that are not ours, and ours removed.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, ensure};
use cosmolet_tests::fabric::{Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage};
use cosmolet_tests::wait;

use crate::{
    LIMIT, NODE, REREAD, endpoint, ensure_unmoved, frr, loopback, metric, restart_bgpd, wait_vip, write_service,
};

/// The VIP that the operator's own configuration has a `network` statement for.
const STATIC: u16 = 9;
const REDISTRIBUTE: &str = "redistribute connected route-map CONNECTED";

#[test]
fn the_operators_hand_is_respected() -> Result<()> {
    let line = format!("network {}", host(vip4(STATIC)));
    let spec = NodeSpec::new(NODE, Mode::Dynamic).bgp_line(&line);
    let mut stage = Stage::raise(&[spec], Options::default())?;
    let operators = frr(&stage, 0)?.operators;
    write_service(&stage, "static", &[vip4(STATIC)], vec![endpoint(&stage, vip4(STATIC), State::Ready)])?;
    stage.start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    foreign_network(&stage)?;
    ours_removed(&stage)?;
    connected_by_hand(&stage)?;
    another_configuration(&mut stage)?;
    withdrawn_at_the_end(&mut stage)?;
    ensure!(frr(&stage, 0)?.operators == operators, "before {operators}, after {}", frr(&stage, 0)?.operators);
    Ok(())
}

/// frr-reload.py takes away all that the operator's file does not have, ours included: it is put back, and theirs is as they want it.
#[test]
fn what_a_reload_takes_away_is_put_back() -> Result<()> {
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], Options::default())?;
    let file = stage.fabric.nodes[0].frr.whole_config()?;
    let operators = frr(&stage, 0)?.operators;
    stage.start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    let ours = frr(&stage, 0)?.ours;
    ensure!(ours.len() == 2, "{ours:?}");
    for round in 0..6 {
        let before = advertised(&stage)?;
        stage.fabric.nodes[0].frr.write_config(&file)?;
        stage.fabric.nodes[0].frr.reload()?;
        wait::until_true("our statements are put back", REREAD, || {
            Ok(advertised(&stage)? >= before + 2 && frr(&stage, 0)?.ours == ours)
        })?;
        stage.wait_nodes(&[NODE], Instant::now(), REREAD)?;
        let after = frr(&stage, 0)?;
        ensure!(after.ours == ours && after.operators == operators, "round {round}: {after:?}, before {operators}");
    }
    Ok(())
}

/// The address alone makes the operator's statement valid; it stays whatever becomes of the VIP.
fn foreign_network(stage: &Stage) -> Result<()> {
    let vip = vip4(STATIC);
    wait_vip(stage, vip, &[NODE])?;
    stage.wait_status(0, vip, "advertised by the operator's statement", |row| {
        row["state"] == "advertised" && row["network"] == "foreign"
    })?;
    write_service(stage, "static", &[vip], vec![endpoint(stage, vip, State::NotReady)])?;
    wait_vip(stage, vip, &[])?;
    foreign_stands(stage)?;
    write_service(stage, "static", &[vip], vec![endpoint(stage, vip, State::Ready)])?;
    wait_vip(stage, vip, &[NODE])?;
    foreign_stands(stage)
}

fn foreign_stands(stage: &Stage) -> Result<()> {
    let config = frr(stage, 0)?;
    let line = format!("\n  network {}\n", host(vip4(STATIC)));
    ensure!(config.operators.contains(&line), "{}", config.operators);
    ensure!(!config.ours.contains(&host(vip4(STATIC))), "{:?}", config.ours);
    Ok(())
}

fn ours_removed(stage: &Stage) -> Result<()> {
    for (family, vip) in [("ipv4", vip4(1)), ("ipv6", vip6(1))] {
        let before = advertised(stage)?;
        let (family, line) = (format!("address-family {family} unicast"), format!("no network {}", host(vip)));
        stage.fabric.nodes[0].frr.configure(&["router bgp", family.as_str(), line.as_str()])?;
        // It may be back before the ToR hears of it: bgpd holds a change for 50 ms.
        wait::until_true("our statement is put back", REREAD, || Ok(advertised(stage)? > before))?;
        ensure!(frr(stage, 0)?.ours.contains(&host(vip)), "{:?}", frr(stage, 0)?.ours);
    }
    stage.wait_nodes(&[NODE], Instant::now(), REREAD)?;
    // The route-map under our statements: without it they originate nothing.
    stage.fabric.nodes[0].frr.configure(&["no route-map COSMOLET-ADVERTISE"])?;
    wait::until_true("our route-map is put back", REREAD, || {
        let frr = &stage.fabric.nodes[0].frr;
        let again = if frr.major()? < 10 { "-AGAIN" } else { "" };
        let text = frr.bgpd()?.expect_success("show running-config")?;
        Ok(text.contains(&format!("route-map COSMOLET-ADVERTISE{again} permit 10")))
    })?;
    stage.wait_nodes(&[NODE], Instant::now(), REREAD)?;
    foreign_stands(stage)
}

/// How many `network` statements the daemon has made so far.
fn advertised(stage: &Stage) -> Result<u64> {
    metric(stage, "cosmolet_steps_total{step=\"advertise\",outcome=\"done\"}")
}

/// The operator adds `redistribute connected` for IPv4: our statements of that family go, and nothing moves at the ToR.
fn connected_by_hand(stage: &Stage) -> Result<()> {
    let since = Instant::now();
    let family = ["router bgp", "address-family ipv4 unicast"];
    stage.fabric.nodes[0].frr.configure(&[family[0], family[1], REDISTRIBUTE])?;
    stage.wait_bgp(0, "IPv4 is connected", |bgp| bgp["ipv4_mode"] == "connected" && bgp["ipv6_mode"] == "dynamic")?;
    ours_become(stage, &[host(vip6(1))])?;
    stage.wait_status(0, vip4(1), "connected", |row| row["state"] == "advertised" && row["network"].is_null())?;
    ensure_unmoved(stage, since)?;
    foreign_stands(stage)?;
    stage.fabric.nodes[0].frr.configure(&[family[0], family[1], "no redistribute connected"])?;
    stage.wait_bgp(0, "IPv4 is dynamic", |bgp| bgp["ipv4_mode"] == "dynamic")?;
    ours_become(stage, &[host(vip4(1)), host(vip6(1))])?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT).map(drop)
}

fn another_configuration(stage: &mut Stage) -> Result<()> {
    let config = stage.fabric.nodes[0].frr.config()?;
    let lines = config.lines().flat_map(|line| {
        let redistribute = line.trim_start().starts_with("address-family ").then(|| format!("  {REDISTRIBUTE}\n"));
        [Some(format!("{line}\n")), redistribute]
    });
    let connected: String = lines.flatten().collect();
    for (text, mode, ours) in
        [(&connected, "connected", &[][..]), (&config, "dynamic", &[host(vip4(1)), host(vip6(1))])]
    {
        stage.fabric.nodes[0].frr.write_config(text)?;
        restart_bgpd(stage, 0)?;
        let what = format!("{mode} after a restart");
        stage.wait_bgp(0, &what, |bgp| bgp["ipv4_mode"] == mode && bgp["ipv6_mode"] == mode)?;
        stage.wait_nodes(&[NODE], Instant::now(), REREAD)?;
        ours_become(stage, ours)?;
        wait_vip(stage, vip4(STATIC), &[NODE])?;
        foreign_stands(stage)?;
    }
    Ok(())
}

fn withdrawn_at_the_end(stage: &mut Stage) -> Result<()> {
    stage.daemons[0].kill()?;
    stage.reconfigure(0, &Options { on_exit: "withdraw", ..Options::default() })?;
    let since = Instant::now();
    stage.daemons[0].start()?;
    foreign_stands(stage)?;
    ensure_unmoved(stage, since)?;
    let (_, status) = stage.daemons[0].stop(LIMIT)?;
    ensure!(status.success(), "it ended with {status}");
    wait_vip(stage, vip4(STATIC), &[])?;
    ours_become(stage, &[])?;
    ensure!(!loopback(stage, 0)?.contains(&host(vip4(STATIC))), "its address stays");
    foreign_stands(stage)
}

fn ours_become(stage: &Stage, prefixes: &[ipnet::IpNet]) -> Result<()> {
    let wanted: BTreeSet<_> = prefixes.iter().copied().collect();
    wait::until_true("our network statements", LIMIT, || {
        let ours = frr(stage, 0)?.ours;
        ensure!(ours == wanted, "FRR has {ours:?}, wanted {wanted:?}");
        Ok(true)
    })
}
