//! The last good state stands while the API server of a real cluster does not answer, as the suites `sources` and
//! `daemon_kubernetes` prove it for every way to fail.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cosmolet_tests::cluster::story::{LIMIT, Story};
use cosmolet_tests::cluster::{Guard, WorkloadSpec, alone, prefix};
use cosmolet_tests::process::Paused;
use cosmolet_tests::wait;

use super::rig::BOTH;

/// How long it is silent: longer than the daemons wait for an answer, shorter than the controllers wait for a kubelet.
const SILENCE: Duration = Duration::from_secs(20);

#[test]
fn a_silent_api_server_moves_nothing_and_is_caught_up_with() -> Result<()> {
    let cluster = alone()?;
    cluster.new_namespace("standing")?;
    let story = Story::begin(&cluster, cluster.deploy(WorkloadSpec::new("standing", "web"), LIMIT)?)?;
    let pod = cluster.pod_address(&story.workload, BOTH[0])?;
    let since = Instant::now();
    let paused = Paused::new(cluster.api.pid()?)?;
    std::thread::sleep(SILENCE);
    // Not ready meanwhile: the kubelet knows, and can tell nobody.
    cluster.set_ready_at(pod, false)?;
    unmoved(&cluster, &story, since)?;
    // History is forgotten: whoever is behind has to list again.
    cluster.api.compact()?;
    drop(paused);
    let back = Instant::now();
    for vip in story.workload.vips {
        cluster.routes().wait_nodes(prefix(vip), back, LIMIT, &BOTH[1..])?;
    }
    cluster.set_ready_at(pod, true)?;
    for vip in story.workload.vips {
        cluster.routes().wait_nodes(prefix(vip), back, LIMIT, &BOTH)?;
    }
    wait::until_true("both synced", LIMIT, || {
        let states = BOTH.map(|node| cluster.status(node).map(|status| status["source"]["state"].clone()));
        Ok(states.into_iter().all(|state| state.is_ok_and(|state| state == "synced")))
    })?;
    cluster.kubectl(&["delete", "namespace", "standing", "--wait=false"]).map(drop)
}

fn unmoved(cluster: &Guard, story: &Story<'_>, since: Instant) -> Result<()> {
    for vip in story.workload.vips {
        let moves = cluster.routes().moves(prefix(vip), since);
        ensure!(moves.is_empty(), "{vip}: the ToR saw {moves:?}; {}", cluster.told_of(vip));
    }
    Ok(())
}
