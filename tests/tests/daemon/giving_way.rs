//! A withdrawal does not wait until a mass of additions is through.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cosmolet_tests::fabric::{Mode, host, vip4};
use cosmolet_tests::frr::Daemon;
use cosmolet_tests::objects::State;
use cosmolet_tests::process::Paused;
use cosmolet_tests::stage::Options;
use ipnet::IpNet;

use crate::{LIMIT, NODE, endpoint, loopback, metric, one_node, wait_vip, write_service};

/// More than FRR takes while one VIP is withdrawn.
const MASS: u16 = 4000;
const MASS_LIMIT: Duration = Duration::from_secs(60);
const DEFERRED: &str = r#"cosmolet_steps_total{step="advertise",outcome="deferred"}"#;
const DECIDED: &str = r#"cosmolet_transitions_total{to="withdraw",reason="NoLocalEndpoint"}"#;

#[test]
fn additions_in_flight_give_way_to_a_withdrawal() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    let mass: Vec<IpAddr> = (0..MASS).map(|number| vip4(0x1000 + number)).collect();
    let within = IpNet::new(mass[0], 20)?;
    ensure!(metric(&stage, DEFERRED)? == 0, "something gave way to nothing");
    // However slow the machine is, the withdrawal is decided while the first of the additions are with bgpd.
    let paused = Paused::new(stage.fabric.nodes[0].frr.process(Daemon::Bgpd)?.pid())?;
    let since = Instant::now();
    write_service(&stage, "mass", &mass, vec![endpoint(&stage, mass[0], State::Ready)])?;
    cosmolet_tests::wait::until_true("additions are under way", LIMIT, || {
        Ok(loopback(&stage, 0)?.iter().any(|address| within.contains(address)))
    })?;
    stage.set_endpoint(0, State::NotReady)?;
    cosmolet_tests::wait::until_true("the withdrawal is decided", LIMIT, || Ok(metric(&stage, DECIDED)? > 0))?;
    drop(paused);
    wait_vip(&stage, vip4(1), &[])?;
    let there = stage.fabric.routes().count_within(within);
    ensure!(there < usize::from(MASS), "the withdrawal came after every addition");
    stage.fabric.routes().wait_count(within, MASS.into(), since, MASS_LIMIT)?;
    let deferred = metric(&stage, DEFERRED)?;
    println!("{there} of {MASS} were at the ToR when the withdrawal was; {deferred} advertisements gave way");
    ensure!(deferred > 0, "nothing gave way");
    // What gave way comes after all, and so does what was withdrawn.
    stage.set_endpoint(0, State::Ready)?;
    wait_vip(&stage, vip4(1), &[NODE])?;
    wait_vip(&stage, host(mass[usize::from(MASS) - 1]).addr(), &[NODE])
}
