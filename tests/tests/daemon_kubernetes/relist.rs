//! A whole list of what is known already: nothing moves, neither on the loopback nor at the ToR.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::api_server::User;
use cosmolet_tests::fabric::{BACKEND_PORT, host, vip4};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::process::{Process, Spec};
use cosmolet_tests::wait;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{BOTH, Cluster, LIMIT};

/// The Services of the relist.
const MANY: u16 = 1000;
/// Where their VIPs begin.
const FIRST: u16 = 1000;
/// No renewal of a lease (which the kernel tells as a change) falls into the test.
const LONG_LEASE: Duration = Duration::from_secs(3600);
/// FRR tells its peers of a change within 100 ms, twice.
const SETTLED: Duration = Duration::from_secs(2);

#[test]
fn a_relist_of_a_thousand_services_moves_nothing() -> Result<()> {
    let mut cluster = Cluster::raise()?;
    let (services, slices) = many(&cluster);
    cluster.api.apply_all(&slices)?;
    cluster.api.apply_all(&services)?;
    for index in 0..BOTH.len() {
        cluster.daemons[index] =
            cluster.prepare_with(index, &cluster.api.kubeconfig(User::Cosmolet), LONG_LEASE, &[])?;
    }
    cluster.start()?;
    let carried = |cluster: &Cluster| {
        let routes = cluster.fabric.routes();
        (0..MANY).filter(|n| routes.nodes(host(vip4(FIRST + n))).len() == BOTH.len()).count()
    };
    wait::until_true("all VIPs by both nodes", LIMIT, || Ok(carried(&cluster) == usize::from(MANY)))
        .with_context(|| format!("{} of {MANY}", carried(&cluster)))?;
    std::thread::sleep(SETTLED);

    let version = table_version(&cluster)?;
    let monitors = (0..BOTH.len()).map(|index| monitor(&cluster, index)).collect::<Result<Vec<_>>>()?;
    cluster.api.kill()?;
    for index in 0..BOTH.len() {
        cluster.wait_source(index, "stale")?;
    }
    // What the watches know is forgotten: everything is listed again.
    cluster.api.compact()?;
    cluster.api.restart()?;
    for index in 0..BOTH.len() {
        cluster.wait_source(index, "synced")?;
        let listed = cluster.daemons[index].status()?["services"].as_u64();
        ensure!(listed == Some(u64::from(MANY) + 1), "{listed:?} Services");
    }
    std::thread::sleep(SETTLED);
    for monitor in &monitors {
        let told = std::fs::read_to_string(monitor.log())?;
        ensure!(told.is_empty(), "the kernel told of addresses:\n{told}");
    }
    ensure!(table_version(&cluster)? == version, "the ToR's table has moved on from version {version}");

    // The watches are whole after it, and both witnesses see what does change.
    cluster.set_endpoints([State::NotReady, State::Ready])?;
    cluster.wait_nodes(&BOTH[1..])?;
    ensure!(table_version(&cluster)? > version, "the ToR's table version does not move at all");
    wait::until_true("the kernel tells of the address", LIMIT, || {
        Ok(std::fs::read_to_string(monitors[0].log())?.contains(&vip4(1).to_string()))
    })
}

/// `MANY` Services of one VIP each with a backend on every node, and their slices.
fn many(cluster: &Cluster) -> (Vec<Service>, Vec<EndpointSlice>) {
    let names = (0..MANY).map(|n| (format!("many-{n}"), vip4(FIRST + n)));
    let service = |(name, vip): (String, IpAddr)| {
        let nodes = cluster.fabric.nodes.iter();
        let endpoints = nodes.map(|node| objects::endpoint(node.backend_address(vip).ip(), node.name(), State::Ready));
        let slice = objects::slice(&format!("{name}-1"), &name, BACKEND_PORT, endpoints.collect());
        (objects::service(&name, &[vip], &[80]), slice)
    };
    names.map(service).unzip()
}

/// FRR counts every change of its table; of a route that is replaced by the same one, too.
fn table_version(cluster: &Cluster) -> Result<u64> {
    let table = cluster.fabric.tor_frr.show("show bgp ipv4 unicast")?;
    table["tableVersion"].as_u64().with_context(|| format!("no tableVersion in {table}"))
}

/// Writes down every message of the kernel about an address of the node.
fn monitor(cluster: &Cluster, index: usize) -> Result<Process> {
    let (node, log) = (&cluster.fabric.nodes[index], format!("addresses-{}", BOTH[index]));
    let monitor = Spec::new("ip-monitor", "ip", cluster.lab.log(&log)?).args(["monitor", "address"]);
    monitor.inside(&node.netns).start()
}
