//! The real daemon on the real fabric: bad input and failures, each with what the ToR's kernel saw of it.
//!
//! A fabric costs seconds: each test raises one and tells a whole story on it.

mod attributes;
mod bad_input;
mod bundle;
mod configuration;
mod depreference;
mod doctor;
mod drain;
mod endpoints;
mod events;
mod false_alarms;
mod frr_faults;
mod frr_restarts;
mod giving_way;
mod loopback;
mod operator;
mod owners_probe;
mod readers;
mod recording;
mod restart_storm;
mod sudden_death;
mod tells;
mod top;
mod traffic;
mod verdict;
mod without_addresses;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::{BACKEND_PORT, Mode, NodeSpec, host};
use cosmolet_tests::frr::Daemon;
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::running_config::RunningConfig;
use cosmolet_tests::stage::{Options, PORT, Stage, prefixes};
use ipnet::IpNet;
use k8s_openapi::api::discovery::v1::Endpoint;

/// For what takes milliseconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(15);
/// For what the daemon finds out by itself: it reads FRR's configuration again every 10 s.
const REREAD: Duration = Duration::from_secs(25);
const NODE: &str = "node1";

/// A fabric with one node and its daemon, which advertises Service `web`.
fn one_node(mode: Mode, options: Options) -> Result<Stage> {
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, mode)], options)?;
    stage.start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    Ok(stage)
}

/// Waits until the ToR's kernel routes the VIP to exactly these nodes; how long that took is of no interest.
fn wait_vip(stage: &Stage, vip: IpAddr, nodes: &[&str]) -> Result<()> {
    stage.fabric.routes().wait_nodes(host(vip), Instant::now(), LIMIT, nodes).map(drop)
}

/// Fails if the ToR's kernel has seen a VIP of `web` come to or go from any node since then, what is still on its way included:
/// bgpd holds a change for 50 ms on the node, and on the ToR again.
fn ensure_unmoved(stage: &Stage, since: Instant) -> Result<()> {
    std::thread::sleep(Duration::from_millis(400));
    let moves = prefixes().map(|prefix| stage.fabric.routes().moves(prefix, since)).concat();
    ensure!(moves.is_empty(), "the ToR saw {moves:#?}");
    Ok(())
}

/// Kills and starts a node's bgpd, which the ToR sees: whoever waits for the node's return must not find it there still.
fn restart_bgpd(stage: &mut Stage, index: usize) -> Result<()> {
    let others: Vec<String> = stage
        .fabric
        .nodes
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != index)
        .map(|(_, node)| node.name().to_owned())
        .collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let since = stage.fabric.nodes[index].frr.kill(Daemon::Bgpd)?;
    stage.wait_nodes(&others, since, LIMIT)?;
    stage.fabric.nodes[index].frr.restart(Daemon::Bgpd).map(drop)
}

/// The addresses on a node's `lo`.
fn loopback(stage: &Stage, index: usize) -> Result<BTreeSet<IpNet>> {
    Ok(stage.fabric.nodes[index].loopback_addresses()?.into_iter().collect())
}

/// What bgpd of a node has.
fn frr(stage: &Stage, index: usize) -> Result<RunningConfig> {
    RunningConfig::read(&stage.fabric.nodes[index].frr)
}

/// Writes a Service with `externalTrafficPolicy: Local` and these endpoints to the first node's directory.
fn write_service(stage: &Stage, name: &str, vips: &[IpAddr], endpoints: Vec<Endpoint>) -> Result<()> {
    let manifests = &stage.manifests[0];
    manifests.write(&format!("{name}-slice"), &objects::slice(name, name, BACKEND_PORT, endpoints))?;
    manifests.write(name, &objects::local(objects::service(name, vips, &[PORT])))
}

/// An endpoint of the VIP's family on the first node.
fn endpoint(stage: &Stage, vip: IpAddr, state: State) -> Endpoint {
    let node = &stage.fabric.nodes[0];
    objects::endpoint(node.backend_address(vip).ip(), node.name(), state)
}

/// A command that runs beside the daemon, and ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// One series of the first node's daemon; 0 where it is not there yet.
fn metric(stage: &Stage, series: &str) -> Result<u64> {
    let metrics = stage.daemons[0].metrics()?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map_or(Ok(0), |value| value.parse().with_context(|| format!("{series} is {value}")))
}
