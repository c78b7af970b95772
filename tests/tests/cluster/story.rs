//! The demo's story, step by step, and the rolling upgrade.

use anyhow::{Result, ensure};
use cosmolet_tests::cluster::story::{LIMIT, Story};
use cosmolet_tests::cluster::{Guard, Workload, WorkloadSpec, alone, shared};

/// A workload in a namespace of its own.
fn deployed(cluster: &Guard, namespace: &str) -> Result<Workload> {
    cluster.new_namespace(namespace)?;
    cluster.deploy(WorkloadSpec::new(namespace, "web"), LIMIT)
}

#[test]
fn readiness_takes_a_node_out_and_brings_it_back() -> Result<()> {
    let cluster = shared()?;
    let story = Story::begin(&cluster, deployed(&cluster, "readiness")?)?;
    story.readiness("node1")?;
    story.readiness("node2").map(drop)
}

#[test]
fn a_failing_liveness_probe_takes_a_node_out_until_the_container_is_back() -> Result<()> {
    let cluster = shared()?;
    let story = Story::begin(&cluster, deployed(&cluster, "liveness")?)?;
    story.liveness("node1").map(drop)
}

#[test]
fn a_deleted_service_leaves_the_tor() -> Result<()> {
    let cluster = shared()?;
    let story = Story::begin(&cluster, deployed(&cluster, "deleted")?)?;
    story.service_deleted()?;
    for node in cluster.node_names() {
        for vip in story.workload.vips {
            let addresses = cluster.node(node)?.loopback_addresses()?;
            ensure!(!addresses.iter().any(|address| address.addr() == vip), "{vip} is still on {node}'s loopback");
        }
    }
    Ok(())
}

#[test]
fn a_drained_node_leaves_and_returns_after_uncordon() -> Result<()> {
    let cluster = alone()?;
    let story = Story::begin(&cluster, deployed(&cluster, "drain")?)?;
    story.drain("node1").map(drop)
}

#[test]
fn an_emptied_kube_proxy_is_convicted_and_returns_by_trial() -> Result<()> {
    let cluster = alone()?;
    let story = Story::begin(&cluster, deployed(&cluster, "proxy")?)?;
    // A wire-true probe goes through kube-proxy's rules and the pod network as the clients beside it do.
    for (node, vip) in cluster.node_names().into_iter().flat_map(|node| story.workload.vips.map(|vip| (node, vip))) {
        cluster.wait_row(node, vip, LIMIT, |row| row["services"][0]["proven"] == true)?;
    }
    story.proxy_lost("node2").map(drop)
}

#[test]
fn an_upgrade_and_its_rollback_move_no_route_and_fail_no_request() -> Result<()> {
    let cluster = alone()?;
    let story = Story::begin(&cluster, deployed(&cluster, "upgrade")?)?;
    story.rolling_upgrade().map(drop)
}
