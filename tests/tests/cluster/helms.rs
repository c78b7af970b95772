//! Both helms on a real cluster, and `helm test`: it passes while cosmolet works, and fails when it does not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::cluster::story::{LIMIT, wait_nodes};
use cosmolet_tests::cluster::{COSMOLET_NAMESPACE, Guard, Helm, RELEASE, WorkloadSpec, alone, prefix};
use cosmolet_tests::process::Paused;
use cosmolet_tests::wait;
use serde_json::json;

use super::rig::BOTH;

/// What `helm test` says; an error if it fails.
fn helm_test(cluster: &Guard, which: Helm) -> Result<String> {
    cluster.helm(which, &["test", RELEASE, "--namespace", COSMOLET_NAMESPACE, "--timeout", "60s"])
}

/// Fails, and the test's pod of that number says why.
fn fails(cluster: &Guard, number: usize, why: &str) -> Result<()> {
    let told = helm_test(cluster, Helm::V4);
    ensure!(told.is_err(), "helm test passes: {told:?}");
    let pod = format!("{RELEASE}-test-{number}");
    let log = cluster.kubectl(&["-n", COSMOLET_NAMESPACE, "logs", &pod])?;
    ensure!(log.contains(why), "no {why:?} in\n{log}");
    Ok(())
}

/// Several tests share the cluster: their VIPs come to rest first.
fn passes(cluster: &Guard, which: Helm) -> Result<()> {
    wait::until_true("helm test passes", LIMIT, || {
        helm_test(cluster, which)?;
        Ok(true)
    })
    .with_context(|| {
        let log = |pod: &str| cluster.kubectl(&["-n", COSMOLET_NAMESPACE, "logs", pod]).unwrap_or_default();
        format!("the test's pods say\n{}\n{}", log("cosmolet-test-0"), log("cosmolet-test-1"))
    })
}

#[test]
fn helm_test_tells_whether_cosmolet_works() -> Result<()> {
    let cluster = alone()?;
    cluster.install(&json!({"test": {"nodes": BOTH}}))?;
    for which in [Helm::V4, Helm::V3] {
        passes(&cluster, which)?;
    }
    let notes = cluster.helm(Helm::V4, &["get", "notes", RELEASE, "--namespace", COSMOLET_NAMESPACE])?;
    ensure!(notes.contains("helm test cosmolet -n cosmolet-system"), "{notes}");
    // One of the second node's sessions is shut.
    let node = cluster.node(BOTH[1])?;
    let (frr, shutdown) = (&node.frr, format!("neighbor {} shutdown", node.plan.link4(1)));
    frr.configure(&["router bgp", shutdown.as_str()])?;
    // FRR is read every ten seconds.
    let shut = wait::until_true("the daemon knows", LIMIT, || {
        let peers = cluster.status(BOTH[1])?["bgp"]["peers"].take();
        Ok(peers.as_array().is_some_and(|peers| peers.iter().any(|peer| peer["established"] == false)))
    })
    .and_then(|()| fails(&cluster, 1, "the BGP session with"));
    frr.configure(&["router bgp".to_owned(), format!("no {shutdown}")])?;
    shut?;
    passes(&cluster, Helm::V4)?;
    // The first node's daemon hangs.
    let paused = Paused::new(cluster.daemon_process(BOTH[0])?)?;
    let hung = fails(&cluster, 0, "127.0.0.1:9470 did not answer in");
    drop(paused);
    hung?;
    cluster.wait_daemons(LIMIT)?;
    passes(&cluster, Helm::V4)
}

/// Helm 4's release goes, Helm 3 installs, Helm 4 upgrades what Helm 3 has installed: the VIPs outlive all of it.
#[test]
fn each_helm_installs_and_takes_over_from_the_other() -> Result<()> {
    let cluster = alone()?;
    cluster.new_namespace("helms")?;
    let workload = cluster.deploy(WorkloadSpec::new("helms", "web"), LIMIT)?;
    wait_nodes(&cluster, &workload, Instant::now(), &cluster.node_names())?;
    let since = Instant::now();
    cluster.uninstall(Helm::V4)?;
    cluster.install_by(Helm::V3, &json!({}))?;
    passes(&cluster, Helm::V3)?;
    cluster.install_by(Helm::V4, &json!({}))?;
    // What is still on its way.
    std::thread::sleep(Duration::from_secs(1));
    for vip in workload.vips {
        let changes = cluster.routes().changes(prefix(vip), since);
        ensure!(changes.is_empty(), "{vip}: the ToR saw {changes:?}");
    }
    cluster.kubectl(&["delete", "namespace", "helms", "--wait=false"]).map(drop)
}
