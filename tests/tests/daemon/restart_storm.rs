//! bgpd restarted again and again under traffic, while VIPs come and go: none is lost, none is left behind.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::fabric::{Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::frr::Daemon;
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage, prefixes, targets};
use cosmolet_tests::wait;

use crate::{LIMIT, NODE, REREAD, endpoint, frr, loopback, restart_bgpd, write_service};

const BOTH: [&str; 2] = [NODE, "node2"];
/// `COSMOLET_RESTARTS=100` for the long version.
const RESTARTS: u32 = 4;

#[test]
fn restarts_under_traffic_lose_nothing_and_leave_nothing_behind() -> Result<()> {
    let restarts = match std::env::var("COSMOLET_RESTARTS") {
        Ok(text) => text.parse().context("COSMOLET_RESTARTS")?,
        Err(_) => RESTARTS,
    };
    let mut stage = Stage::raise(&BOTH.map(|node| NodeSpec::new(node, Mode::Dynamic)), Options::default())?;
    stage.start()?;
    stage.wait_nodes(&BOTH, Instant::now(), LIMIT)?;
    let operators = frr(&stage, 0)?.operators;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    // Five pairs of Services, one of each family: at each restart one pair changes, while bgpd is dead or before.
    let services: Vec<[IpAddr; 2]> = (0..5).map(|n| [vip4(0x200 + n), vip6(0x200 + n)]).collect();
    let story: BTreeSet<_> = prefixes().into_iter().chain(services.iter().flatten().map(|vip| host(*vip))).collect();
    let mut there = [false; 5];
    for restart in 0..restarts {
        let chosen = usize::try_from(restart * 7 % 5)?;
        there[chosen] = !there[chosen];
        let vips = services[chosen];
        let state = if there[chosen] { State::Ready } else { State::NotReady };
        let change = |stage: &Stage| {
            vips.iter().enumerate().try_for_each(|(family, vip)| {
                write_service(stage, &format!("more-{chosen}-{family}"), &[*vip], vec![endpoint(stage, *vip, state)])
            })
        };
        if restart % 3 == 0 {
            // FRR 10 loses an address that comes in the very moment in which bgpd dies.
            change(&stage)?;
            restart_bgpd(&mut stage, 0)?;
        } else {
            let killed = stage.fabric.nodes[0].frr.kill(Daemon::Bgpd)?;
            stage.wait_nodes(&BOTH[1..], killed, LIMIT)?;
            change(&stage)?;
            stage.fabric.nodes[0].frr.restart(Daemon::Bgpd)?;
        }
        let since = Instant::now();
        let wanted: BTreeSet<_> = prefixes()
            .into_iter()
            .chain(services.iter().zip(there).filter(|(_, there)| *there).flat_map(|(vips, _)| vips.map(host)))
            .collect();
        stage.wait_nodes(&BOTH, since, REREAD)?;
        for (vips, there) in services.iter().zip(there) {
            wait_there(&stage, vips, there, since).with_context(|| format!("restart {restart}"))?;
        }
        slowest = slowest.max(since.elapsed());
        // The address of what went goes a moment after its route.
        wait::until_true("what is there is what is wanted", REREAD, || {
            let ours: BTreeSet<_> = loopback(&stage, 0)?.intersection(&story).copied().collect();
            Ok(frr(&stage, 0)?.ours == wanted && ours == wanted)
        })?;
    }
    ensure!(frr(&stage, 0)?.operators == operators, "before {operators}, after {}", frr(&stage, 0)?.operators);
    let summary = client.summary(begun, Instant::now());
    println!("{restarts} restarts, the slowest return {slowest:?}; clients: {summary:?}");
    ensure!(summary.ok() > summary.failed() * 20, "{summary:?}");
    Ok(())
}

/// Waits until the ToR has these VIPs from the first node, or from nobody.
fn wait_there(stage: &Stage, vips: &[IpAddr], there: bool, since: Instant) -> Result<()> {
    let nodes = if there { &BOTH[..1] } else { &[] };
    vips.iter().try_for_each(|vip| stage.fabric.routes().wait_nodes(host(*vip), since, REREAD, nodes).map(drop))
}
