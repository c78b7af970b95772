//! The shipped ClusterRole: enough, no more than enough, and what each of its rules is for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::api_server::{Request, uncovered};
use cosmolet_tests::fabric::{vip4, vip6};
use cosmolet_tests::objects::State;
use cosmolet_tests::wait;
use k8s_openapi::api::rbac::v1::ClusterRole;

use crate::{LIMIT, NODE, World, grant, role};

/// What the daemon watches, with its verbs; without any of them it cannot know what to decide.
const WATCHED: [&str; 4] = ["services", "nodes", "pods", "endpointslices"];

#[test]
fn each_right_is_needed_for_its_function_and_for_nothing_else() -> Result<()> {
    let mut world = World::raise("")?;
    world.start()?;
    capabilities(&mut world)?;
    everything_works(&world)?;
    for resource in WATCHED {
        for verb in ["list", "watch"] {
            without(&mut world, resource, verb).with_context(|| format!("without {verb} {resource}"))?;
        }
    }
    without_events(&world)?;
    within_the_rules(&world)
}

/// The process as the kernel has it: CAP_NET_ADMIN (12), CAP_PERFMON (38) and CAP_BPF (39), nobody's user, no way to more.
fn capabilities(world: &mut World) -> Result<()> {
    let pid = world.daemon.process()?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    for line in
        ["CapEff:\t000000c000001000", "CapPrm:\t000000c000001000", "CapBnd:\t000000c000001000", "NoNewPrivs:\t1"]
    {
        ensure!(status.contains(line), "no {line:?} in\n{status}");
    }
    ensure!(status.contains("Uid:\t65532\t65532\t65532\t65532"), "{status}");
    Ok(())
}

fn everything_works(world: &World) -> Result<()> {
    wait::until_true("Events are sent", LIMIT, || Ok(world.sent("sent")? == 2))?;
    let status = world.daemon.status()?;
    ensure!(status["source"]["error"].is_null() && status["kubernetes"][0]["state"] == "on", "{status}");
    wait::until_true("traffic is counted", LIMIT, || {
        let traffic = world.daemon.status()?["traffic"].take();
        ensure!(traffic["control_plane_alone"].is_null(), "{traffic}");
        Ok(true)
    })?;
    let log = world.daemon.log()?.to_lowercase();
    ensure!(!log.contains("forbidden"), "{log}");
    Ok(())
}

/// A daemon that starts without the right says which one it misses, in log, status and metric; nothing moves. The right
/// given back, it goes on by itself.
fn without(world: &mut World, resource: &str, verb: &str) -> Result<()> {
    let since = Instant::now();
    let group = if resource == "endpointslices" { "discovery.k8s.io" } else { "" };
    grant(&world.api, &less(resource, verb)?)?;
    let refused = format!("cannot {verb} resource \"{resource}\" in API group \"{group}\"");
    let log = world.daemon.log()?.len();
    // Rights take a moment to go.
    std::thread::sleep(Duration::from_secs(1));
    wait::until("the missing right is named", LIMIT, || {
        world.restart()?;
        let error = world.wait_source("stale")?;
        ensure!(error.contains(&refused) && error.contains("forbidden") && error.ends_with("(403)"), "{error}");
        Ok(Some(()))
    })?;
    let log = world.daemon.log()?.split_off(log).replace('\\', "");
    ensure!(log.contains(&refused), "the log does not say so:\n{log}");
    let metrics = world.daemon.metrics()?.replace('\\', "");
    let series = metrics.lines().find(|line| line.starts_with("cosmolet_last_error{component=\"source\""));
    ensure!(series.is_some_and(|line| line.contains(&refused)), "{series:?}");
    ensure!(world.daemon.get("/livez")?.status == 200, "the control loop does not turn");
    grant(&world.api, &role()?)?;
    world.wait_source("synced")?;
    world.daemon.wait_ready(LIMIT)?;
    world.expect_unmoved(since)
}

/// Nobody is told, which is said once; withdrawing and advertising go on.
fn without_events(world: &World) -> Result<()> {
    grant(&world.api, &less("events", "create")?)?;
    let log = world.daemon.log()?.len();
    let failing = || -> Result<bool> { Ok(world.daemon.status()?["kubernetes"][0]["state"] == "failing") };
    wait::until_true("the refusal is told", LIMIT, || {
        for (state, there) in [(State::NotReady, false), (State::Ready, true)] {
            world.endpoints("web", state)?;
            world.routed(vip4(1), there)?;
            world.routed(vip6(1), there)?;
        }
        failing()
    })?;
    let status = world.daemon.status()?;
    let error = status["kubernetes"][0]["error"].as_str().unwrap_or_default();
    ensure!(error.contains("cannot create resource \"events\" in API group \"events.k8s.io\""), "{error}");
    ensure!(status["source"]["state"] == "synced", "{}", status["source"]);
    ensure!(world.sent("failed")? > 0, "no failure is counted");
    ensure!(
        world.daemon.metrics()?.contains("cosmolet_component_state{component=\"events\",state=\"failing\"} 1"),
        "no state"
    );
    let table = world.daemon.ask_status(&[])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    ensure!(table.contains("! kubernetes.events: "), "{table}");
    let log = world.daemon.log()?.split_off(log);
    let warned = log.lines().filter(|line| line.contains("WARN") && line.contains("kubernetes.events fails")).count();
    ensure!(warned == 1, "{warned} warnings in\n{log}");
    grant(&world.api, &role()?)?;
    // Another Service: that one has had its share.
    wait::until_true("Events are sent again", LIMIT, || {
        world.service("next", &[vip4(2)], State::Ready)?;
        world.routed(vip4(2), true)?;
        world.service("next", &[vip4(2)], State::NotReady)?;
        world.routed(vip4(2), false)?;
        Ok(!failing()?)
    })
}

/// Whatever happened above: nothing outside the shipped rules was ever asked for, and of nodes and pods only this node's.
fn within_the_rules(world: &World) -> Result<()> {
    let requests = world.api.audit()?;
    let strangers = uncovered(&requests, &role()?.rules.unwrap_or_default(), "", &[]);
    ensure!(strangers.is_empty(), "outside the rules: {strangers:#?}");
    for (resource, fields) in [("pods", format!("spec.nodeName={NODE}")), ("nodes", format!("metadata.name={NODE}"))] {
        let all: Vec<&Request> = requests.iter().filter(|request| request.resource == resource).collect();
        ensure!(!all.is_empty() && all.iter().all(|request| request.fields == fields), "{all:#?}");
    }
    let asked: BTreeSet<(&str, &str)> =
        requests.iter().map(|request| (request.verb.as_str(), request.resource.as_str())).collect();
    for right in rights(&role()?) {
        ensure!(asked.contains(&(right.0.as_str(), right.1.as_str())), "{right:?} is given and never used: {asked:?}");
    }
    Ok(())
}

/// Every verb and resource of a role.
fn rights(role: &ClusterRole) -> Vec<(String, String)> {
    let pairs = role.rules.iter().flatten().flat_map(|rule| {
        let resources = rule.resources.iter().flatten();
        resources.flat_map(|resource| rule.verbs.iter().map(|verb| (verb.clone(), resource.clone())))
    });
    pairs.collect()
}

/// The shipped role with one right less.
fn less(resource: &str, verb: &str) -> Result<ClusterRole> {
    let mut role = role()?;
    let mut rules = Vec::new();
    for rule in role.rules.iter().flatten() {
        for one in rule.resources.iter().flatten() {
            let mut rule = rule.clone();
            rule.resources = Some(vec![one.clone()]);
            rule.verbs.retain(|given| !(one == resource && given == verb));
            if !rule.verbs.is_empty() {
                rules.push(rule);
            }
        }
    }
    ensure!(rights(&role).len() == rules.iter().map(|rule| rule.verbs.len()).sum::<usize>() + 1, "not one less");
    role.rules = Some(rules);
    Ok(role)
}
