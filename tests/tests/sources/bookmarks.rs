//! Bookmarks: a watch that shows nothing is told how far the API server is, and goes on from there, so that the history of what
//! it does not show may be compacted without a new list.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cosmolet::engine::event::SourceState;
use cosmolet::kubernetes::watch::Timings;
use cosmolet_tests::api_server::{ApiServer, Place, Request, User};
use cosmolet_tests::objects;
use cosmolet_tests::packaging::deployed;
use cosmolet_tests::{Lab, wait};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};

use super::{Follower, LIMIT, populate};

/// How long a watch lasts here. The API server sends a bookmark two seconds before its end.
const WATCH: Duration = Duration::from_secs(6);
const CHANGES: u16 = 20;

#[test]
fn a_quiet_watch_moves_along_with_bookmarks() -> Result<()> {
    let lab = Lab::new()?;
    let api = ApiServer::start(&lab, Place::Loopback)?;
    api.apply(&deployed::<ClusterRole>("ClusterRole")?)?;
    api.apply(&deployed::<ClusterRoleBinding>("ClusterRoleBinding")?)?;
    populate(&api)?;
    let timings = Timings { answer: Duration::from_secs(10), watch: WATCH, ..Timings::default() };
    let mut source = Follower::kubernetes_as(&api, User::Cosmolet, timings)?;
    source.wait_synced()?;
    let first = wait::until("the first watch", LIMIT, || Ok(versions(&api)?.first().copied()))?;
    // Much happens to a pod of another node, which this watch does not show.
    for restarts in 0..CHANGES {
        api.apply(&objects::pod("far", "elsewhere", [10, 3, 9, 9].into(), true, restarts))?;
    }
    wait::until_true("a watch from a bookmark", LIMIT, || {
        let versions = versions(&api)?;
        ensure!(versions.iter().any(|version| *version >= first + u64::from(CHANGES)), "watched from {versions:?}");
        Ok(true)
    })?;
    // What it knew at first is history now; nobody has to list again, and nothing is said of any object.
    api.compact()?;
    source.expect_nothing(2 * WATCH)?;
    ensure!(source.state == SourceState::Synced && source.errors.is_empty(), "{:?} {:?}", source.state, source.errors);
    let lists = about_pods(&api, "list")?;
    let whole = lists.iter().filter(|request| !request.uri.contains("continue=")).count();
    ensure!(whole == 1, "listed {whole} times: {lists:#?}");
    Ok(())
}

fn about_pods(api: &ApiServer, verb: &str) -> Result<Vec<Request>> {
    let mut requests = api.audit()?;
    requests.retain(|request| request.verb == verb && request.resource == "pods");
    Ok(requests)
}

/// The versions that pods were watched from, each once, in order.
fn versions(api: &ApiServer) -> Result<Vec<u64>> {
    let mut versions = Vec::new();
    for request in about_pods(api, "watch")? {
        let version = request.uri.split(['?', '&']).find_map(|part| part.strip_prefix("resourceVersion="));
        let version: u64 = version.with_context(|| request.uri.clone())?.parse()?;
        if versions.last() != Some(&version) {
            versions.push(version);
        }
    }
    Ok(versions)
}
