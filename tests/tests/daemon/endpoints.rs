//! The control plane's rule on the fabric: endpoints, pods, shared VIPs, the node itself.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::{BACKEND_PORT, Mode, host, vip4, vip6};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::stage::{Options, PORT, Stage};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateWaiting, Node, NodeCondition, Pod};

use crate::{LIMIT, NODE, REREAD, endpoint, ensure_unmoved, frr, loopback, one_node, wait_vip, write_service};

/// A pod is held for 30 s after a restart.
const HOLD: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn a_vip_follows_its_endpoints() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    restarts_begin(&stage)?;
    // While the restarting pod is held, the rest of the story.
    readiness(&mut stage)?;
    shared(&stage)?;
    cluster_policy(&stage)?;
    node(&stage)?;
    deleted(&stage)?;
    restarts_end(&stage)
}

fn readiness(stage: &mut Stage) -> Result<()> {
    stage.set_endpoint(0, State::NotReady)?;
    for vip in [vip4(1), vip6(1)] {
        wait_vip(stage, vip, &[])?;
        withdrawn(stage, vip, "NoLocalEndpoint")?;
    }
    let ours = frr(stage, 0)?.ours;
    ensure!(!ours.contains(&host(vip4(1))) && !ours.contains(&host(vip6(1))), "FRR still has {ours:?}");
    stage.set_endpoint(0, State::Ready)?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    // A terminating pod that still serves is better than none, as for kube-proxy.
    let since = Instant::now();
    stage.set_endpoint(0, State::Terminating)?;
    // A Service that comes after it and is up shows that the change was taken.
    write_service(stage, "later", &[vip4(2)], vec![endpoint(stage, vip4(2), State::Ready)])?;
    wait_vip(stage, vip4(2), &[NODE])?;
    ensure_unmoved(stage, since)?;
    // All endpoints gone: the slices are there but empty, and then not there at all.
    let empty = objects::slice("web-v4", "web", BACKEND_PORT, vec![]);
    stage.manifests[0].write("web-endpoints", &empty)?;
    wait_vip(stage, vip4(1), &[])?;
    stage.set_endpoint(0, State::Ready)?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    stage.manifests[0].remove("web-endpoints")?;
    wait_vip(stage, vip4(1), &[])?;
    withdrawn(stage, vip4(1), "NoLocalEndpoint")?;
    stage.write_endpoints()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT).map(drop)
}

fn shared(stage: &Stage) -> Result<()> {
    let vip = vip4(20);
    let write = |name, state| write_service(stage, name, &[vip], vec![endpoint(stage, vip, state)]);
    write("one", State::Ready)?;
    write("two", State::Ready)?;
    wait_vip(stage, vip, &[NODE])?;
    let since = Instant::now();
    write("one", State::NotReady)?;
    let row = stage.wait_status(0, vip, "one is down, two is up", |row| health(row, "one") == Some("down"))?;
    ensure!(row["state"] == "advertised" && health(&row, "two") == Some("up"), "{row}");
    ensure!(stage.fabric.routes().changes(host(vip), since).is_empty(), "the VIP moved while one Service was up");
    write("two", State::NotReady)?;
    wait_vip(stage, vip, &[])?;
    write("one", State::Ready)?;
    wait_vip(stage, vip, &[NODE])?;
    stage.manifests[0].remove("two")?;
    stage.wait_status(0, vip, "only one claims it", |row| {
        row["services"].as_array().is_some_and(|all| all.len() == 1)
    })?;
    wait_vip(stage, vip, &[NODE])?;
    stage.manifests[0].remove("one")?;
    wait_vip(stage, vip, &[])
}

fn health<'a>(row: &'a serde_json::Value, service: &str) -> Option<&'a str> {
    let services = row["services"].as_array()?;
    services.iter().find(|claim| claim["name"] == service)?["health"].as_str()
}

fn cluster_policy(stage: &Stage) -> Result<()> {
    let (vip, manifests) = (vip4(30), &stage.manifests[0]);
    let elsewhere = |state| {
        let endpoint = objects::endpoint("10.3.9.2".parse()?, "node9", state);
        manifests.write("anywhere-slice", &objects::slice("anywhere", "anywhere", BACKEND_PORT, vec![endpoint]))
    };
    elsewhere(State::Ready)?;
    let service = objects::service("anywhere", &[vip], &[PORT]);
    manifests.write("anywhere", &objects::local(service.clone()))?;
    withdrawn(stage, vip, "NoLocalEndpoint")?;
    manifests.write("anywhere", &service)?;
    wait_vip(stage, vip, &[NODE])?;
    elsewhere(State::NotReady)?;
    wait_vip(stage, vip, &[])?;
    withdrawn(stage, vip, "NoEndpoint")
}

fn node(stage: &Stage) -> Result<()> {
    let manifests = &stage.manifests[0];
    let healthy = objects::node(NODE, stage.fabric.nodes[0].plan.loopback4().into());
    let mut excluded = healthy.clone();
    excluded.metadata.labels =
        Some([("node.kubernetes.io/exclude-from-external-load-balancers".to_owned(), String::new())].into());
    let mut unavailable: Node = healthy.clone();
    let conditions = unavailable.status.as_mut().and_then(|status| status.conditions.as_mut()).context("conditions")?;
    conditions.push(NodeCondition {
        type_: "NetworkUnavailable".to_owned(),
        status: "True".to_owned(),
        ..NodeCondition::default()
    });
    let mut cordoned = healthy.clone();
    cordoned.spec.as_mut().context("spec")?.unschedulable = Some(true);
    for (object, reason) in [(&excluded, "NodeExcluded"), (&unavailable, "NodeNetworkUnavailable")] {
        manifests.write("node", object)?;
        for vip in [vip4(1), vip6(1), vip4(2)] {
            wait_vip(stage, vip, &[])?;
            withdrawn(stage, vip, reason)?;
        }
        manifests.write("node", &healthy)?;
        stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
        wait_vip(stage, vip4(2), &[NODE])?;
    }
    // Cordon alone does nothing.
    let since = Instant::now();
    manifests.write("node", &cordoned)?;
    write_service(stage, "after-cordon", &[vip4(40)], vec![endpoint(stage, vip4(40), State::Ready)])?;
    wait_vip(stage, vip4(40), &[NODE])?;
    ensure_unmoved(stage, since)
}

fn deleted(stage: &Stage) -> Result<()> {
    let manifests = &stage.manifests[0];
    for vip in [vip4(1), vip6(1)] {
        ensure!(
            loopback(stage, 0)?.contains(&host(vip)) && frr(stage, 0)?.ours.contains(&host(vip)),
            "{vip} is not up"
        );
    }
    manifests.remove("web")?;
    for vip in [vip4(1), vip6(1)] {
        wait_vip(stage, vip, &[])?;
        cosmolet_tests::wait::until_true(&format!("nothing of {vip} is left"), LIMIT, || {
            let (ours, held) = (frr(stage, 0)?.ours, loopback(stage, 0)?);
            Ok(stage.row(0, vip)?.is_none() && !ours.contains(&host(vip)) && !held.contains(&host(vip)))
        })?;
    }
    stage.write_service()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT).map(drop)
}

const RESTARTING: [u16; 2] = [10, 11];

/// Two VIPs: one whose only pod restarts, one whose pod is in CrashLoopBackOff.
fn restarts_begin(stage: &Stage) -> Result<()> {
    let [restarting, crashing] = RESTARTING.map(vip4);
    for (name, vip) in [("restarting", restarting), ("crashing", crashing)] {
        write_pod(stage, name, 3, false)?;
        let endpoint = objects::of_pod(endpoint(stage, vip, State::Ready), name);
        write_service(stage, name, &[vip], vec![endpoint])?;
        // Restarts from before the daemon's time prove nothing.
        wait_vip(stage, vip, &[NODE])?;
    }
    write_pod(stage, "restarting", 4, false)?;
    write_pod(stage, "crashing", 3, true)?;
    for vip in [restarting, crashing] {
        wait_vip(stage, vip, &[])?;
        withdrawn(stage, vip, "PodRestarting")?;
    }
    // A container that no longer waits to be restarted is as good as its readiness.
    write_pod(stage, "crashing", 3, false)?;
    wait_vip(stage, crashing, &[NODE])?;
    withdrawn(stage, restarting, "PodRestarting")
}

fn restarts_end(stage: &Stage) -> Result<()> {
    let vip = host(vip4(RESTARTING[0]));
    stage.fabric.routes().wait_nodes(vip, Instant::now(), HOLD + REREAD, &[NODE]).map(drop)
}

fn write_pod(stage: &Stage, name: &str, restarts: u16, crash_loop: bool) -> Result<()> {
    let node = &stage.fabric.nodes[0];
    let mut pod: Pod = objects::pod(name, node.name(), node.backend_address(vip4(1)).ip(), true, restarts);
    if crash_loop {
        let statuses =
            pod.status.as_mut().and_then(|status| status.container_statuses.as_mut()).context("containers")?;
        let waiting =
            ContainerStateWaiting { reason: Some("CrashLoopBackOff".to_owned()), ..ContainerStateWaiting::default() };
        statuses[0].state = Some(ContainerState { waiting: Some(waiting), ..ContainerState::default() });
    }
    stage.manifests[0].write(&format!("{name}-pod"), &pod)
}

fn withdrawn(stage: &Stage, vip: std::net::IpAddr, reason: &str) -> Result<()> {
    let gone =
        |row: &serde_json::Value| row["reason"] == reason && row["state"] == "withdrawn" && row["loopback"].is_null();
    stage.wait_status(0, vip, reason, gone).map(drop)
}
