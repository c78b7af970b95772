//! The loopback: what is not ours stays, what is ours comes back, and a lease ends with its daemon. And how a daemon ends.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::{Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage};
use cosmolet_tests::wait;
use ipnet::IpNet;

use crate::{LIMIT, NODE, endpoint, ensure_unmoved, frr, loopback, one_node, wait_vip, write_service};

const NODES: [&str; 2] = ["node1", "node2"];
const LEASE: Duration = Duration::from_secs(6);
/// Within the VIPs' range, but put there by somebody else: one of them a Service asks for.
const FOREIGN: u16 = 50;
const OURS: [IpAddr; 2] = [vip4(1), vip6(1)];

#[test]
fn addresses_are_kept_and_leased() -> Result<()> {
    let specs = [NodeSpec::new(NODES[0], Mode::Connected), NodeSpec::new(NODES[1], Mode::Dynamic)];
    let mut stage = Stage::raise(&specs, Options { lease_seconds: LEASE.as_secs(), ..Options::default() })?;
    let foreign = foreign()?;
    for (node, address) in stage.fabric.nodes.iter().flat_map(|node| foreign.iter().map(move |address| (node, address)))
    {
        node.netns.add_address("lo", *address)?;
    }
    write_service(&stage, "foreign", &[vip4(FOREIGN)], vec![endpoint(&stage, vip4(FOREIGN), State::Ready)])?;
    let before = [loopback(&stage, 0)?, loopback(&stage, 1)?];
    stage.start()?;
    stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    stage.wait_status(0, vip4(FOREIGN), "refused", |row| row["reason"] == "ForeignAddress")?;
    put_back(&stage)?;
    renewed(&stage)?;
    // Nobody renews it any more: the kernel ends it, in Dynamic mode too, where the network statement stays behind.
    let since = stage.daemons[0].kill()?.min(stage.daemons[1].kill()?);
    stage.wait_nodes(&[], since, LEASE + LIMIT)?;
    for (index, before) in before.iter().enumerate() {
        ensure!(loopback(&stage, index)? == *before, "lo of {} has {:?}", NODES[index], loopback(&stage, index)?);
    }
    stage.start()?;
    stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    // Its owner takes the foreign address away: now the Service's VIP is ours to hold.
    ensure!(loopback(&stage, 0)?.is_superset(&foreign), "lo has {:?}", loopback(&stage, 0)?);
    stage.fabric.nodes[0].remove_vip(vip4(FOREIGN))?;
    stage
        .wait_status(0, vip4(FOREIGN), "advertised", |row| row["state"] == "advertised" && row["loopback"] == "ours")?;
    Ok(())
}

fn foreign() -> Result<BTreeSet<IpNet>> {
    Ok(BTreeSet::from([host(vip4(FOREIGN)), host(vip6(FOREIGN)), "10.100.7.1/24".parse()?]))
}

/// Somebody removes our addresses by hand.
fn put_back(stage: &Stage) -> Result<()> {
    for (index, node) in stage.fabric.nodes.iter().enumerate() {
        for vip in OURS {
            node.remove_vip(vip)?;
            let what = format!("{vip} is back on lo of {}", node.name());
            wait::until_true(&what, LIMIT, || Ok(loopback(stage, index)?.contains(&host(vip))))?;
        }
    }
    stage.wait_nodes(&NODES, Instant::now(), LIMIT).map(drop)
}

/// Longer than a lease passes: renewed again and again, and the ToR hears nothing of it.
fn renewed(stage: &Stage) -> Result<()> {
    let since = Instant::now();
    let mut lifetimes: [Vec<u64>; 2] = [vec![], vec![]];
    while since.elapsed() < LEASE + LEASE / 2 {
        for (node, lifetimes) in stage.fabric.nodes.iter().zip(&mut lifetimes) {
            lifetimes.push(lifetime(&node.netns.ip(&[
                "-4",
                "-o",
                "addr",
                "show",
                "dev",
                "lo",
                "to",
                "10.100.0.1",
            ])?)?);
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    ensure_unmoved(stage, since)?;
    for lifetimes in &lifetimes {
        let renewals = lifetimes.windows(2).filter(|pair| pair[1] > pair[0]).count();
        ensure!(renewals >= 2, "it was not renewed: {lifetimes:?}");
        ensure!(lifetimes.iter().all(|left| *left <= LEASE.as_secs()), "longer than the lease: {lifetimes:?}");
    }
    Ok(())
}

/// The seconds of `valid_lft 5sec preferred_lft 0sec`.
fn lifetime(line: &str) -> Result<u64> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "valid_lft").skip(1);
    let seconds = words.next().and_then(|word| word.strip_suffix("sec")).with_context(|| line.to_owned())?;
    ensure!(line.contains("preferred_lft 0sec"), "it may be chosen as a source: {line}");
    Ok(seconds.parse()?)
}

#[test]
fn a_daemon_ends_as_it_was_told() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    let (addresses, config) = (loopback(&stage, 0)?, frr(&stage, 0)?);
    let since = Instant::now();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (_, status) = stage.daemons[0].stop_by(signal, LIMIT)?;
        ensure!(status.success(), "it ended with {status}");
        ensure!(loopback(&stage, 0)? == addresses && frr(&stage, 0)? == config, "something went with the daemon");
        stage.daemons[0].start()?;
        stage.wait_status(0, vip4(1), "adopted", |row| row["state"] == "advertised" && row["rib"]["valid"] == true)?;
    }
    ensure!(loopback(&stage, 0)? == addresses && frr(&stage, 0)? == config, "the second start changed something");
    ensure_unmoved(&stage, since)?;
    endless(&mut stage)?;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        stage.daemons[0].stop(LIMIT)?;
        stage.reconfigure(0, &Options { on_exit: "withdraw", ..Options::default() })?;
        stage.daemons[0].start()?;
        stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
        let (_, status) = stage.daemons[0].stop_by(signal, LIMIT)?;
        ensure!(status.success(), "it ended with {status}");
        for vip in OURS {
            wait_vip(&stage, vip, &[])?;
            ensure!(!loopback(&stage, 0)?.contains(&host(vip)), "{vip} stays on lo");
        }
        let left = frr(&stage, 0)?;
        ensure!(left.ours.is_empty() && left.operators == config.operators, "{left:?}");
        stage.daemons[0].start()?;
        stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    }
    Ok(())
}

/// `lease_seconds: 0` makes the leases that are there endless, and another number ends that again.
fn endless(stage: &mut Stage) -> Result<()> {
    let since = Instant::now();
    for lease_seconds in [0, 60] {
        stage.daemons[0].stop(LIMIT)?;
        stage.reconfigure(0, &Options { lease_seconds, ..Options::default() })?;
        stage.daemons[0].start()?;
        wait::until_true(&format!("a lease of {lease_seconds}"), LIMIT, || {
            let text =
                stage.fabric.nodes[0].netns.ip(&["-4", "-o", "addr", "show", "dev", "lo", "to", "10.100.0.1"])?;
            let (_, lease) = text.split_once("valid_lft").context("no lifetime")?;
            let forever = lease.trim_start().starts_with("forever");
            ensure!(forever == (lease_seconds == 0), "{text}");
            Ok(true)
        })?;
    }
    ensure_unmoved(stage, since)
}
