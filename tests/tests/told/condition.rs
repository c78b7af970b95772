//! The condition `CosmoletReady` of the node: what it says, that it touches no other, and what happens without the right.

use anyhow::{Context, Result, bail, ensure};
use cosmolet_tests::frr::Daemon;
use cosmolet_tests::wait;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::Api;

use crate::{LIMIT, NODE, World, grant, role};

#[test]
fn the_node_says_whether_its_daemon_is_ready() -> Result<()> {
    let mut world = World::raise("kubernetes: {node_condition: true, events: false}\n")?;
    without_the_right(&mut world)?;
    let mut role = role()?;
    role.rules.get_or_insert_default().push(PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["nodes/status".to_owned()]),
        verbs: vec!["patch".to_owned()],
        ..PolicyRule::default()
    });
    grant(&world.api, &role)?;
    let first = wait_condition(&world, "True", "AsConfigured")?;
    // FRR gone and back: False and True again, each with its moment.
    world.fabric.nodes[0].frr.kill(Daemon::Bgpd)?;
    let down = wait_condition(&world, "False", "FrrDown")?;
    ensure!(down.message.as_ref().is_some_and(|message| !message.is_empty()), "{down:?}");
    ensure!(down.last_transition_time > first.last_transition_time, "{down:?} after {first:?}");
    world.fabric.nodes[0].frr.restart(Daemon::Bgpd)?;
    let up = wait_condition(&world, "True", "AsConfigured")?;
    // A new life of the daemon is no transition.
    world.restart()?;
    world.daemon.wait_ready(LIMIT)?;
    wait::until_true("a heartbeat of the new daemon", LIMIT, || {
        let now = wait_condition(&world, "True", "AsConfigured")?;
        ensure!(now.last_transition_time == up.last_transition_time, "{now:?} was {up:?}");
        Ok(now.last_heartbeat_time > up.last_heartbeat_time)
    })?;
    ensure!(condition(&world, "Ready")?.is_some(), "the kubelet's condition is gone");
    let writes =
        world.api.audit()?.into_iter().filter(|request| request.verb == "patch" && request.code == 200).count();
    ensure!((4..=8).contains(&writes), "{writes} writes for three transitions and a start");
    Ok(())
}

fn without_the_right(world: &mut World) -> Result<()> {
    world.start()?;
    let error = wait::until("the refusal is told", LIMIT, || {
        let status = world.daemon.status()?;
        let function = &status["kubernetes"][0];
        ensure!(function["function"] == "node_condition" && function["state"] == "failing", "{function}");
        Ok(function["error"].as_str().map(str::to_owned))
    })?;
    ensure!(error.contains("cannot patch resource \"nodes/status\""), "{error}");
    let log = world.daemon.log()?;
    ensure!(log.matches("kubernetes.node_condition fails; everything else goes on").count() == 1, "{log}");
    ensure!(world.daemon.status()?["source"]["state"] == "synced", "not synced");
    Ok(())
}

fn condition(world: &World, kind: &str) -> Result<Option<NodeCondition>> {
    let node = world.api.run(async |client| Ok(Api::<Node>::all(client).get(NODE).await?))?;
    let conditions = node.status.and_then(|status| status.conditions).context("no conditions")?;
    Ok(conditions.into_iter().find(|condition| condition.type_ == kind))
}

fn wait_condition(world: &World, status: &str, reason: &str) -> Result<NodeCondition> {
    wait::until(&format!("CosmoletReady {status} {reason}"), LIMIT, || match condition(world, "CosmoletReady")? {
        Some(found) if found.status == status && found.reason.as_deref() == Some(reason) => Ok(Some(found)),
        other => bail!("it is {other:?}"),
    })
}
