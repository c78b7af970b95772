//! The Lease, and the cluster's statistics of whoever holds it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet::kubernetes::leases::{Elector, Standing, Timings};
use cosmolet_tests::api_server::{self, ApiServer, Place, uncovered};
use cosmolet_tests::daemon::Daemon;
use cosmolet_tests::fabric::{BACKEND_PORT, Fabric, MANAGEMENT, Mode, NodeSpec, vip4, vip6};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::{Lab, wait};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;

use crate::{HTTP, LIMIT, POD, deployed, grant, role};

const SYSTEM: &str = "cosmolet-system";
const BOTH: [&str; 2] = ["node1", "node2"];
/// A lease of 30 s that others look at every 15 s, and a round of 15 s.
const TAKEOVER: Duration = Duration::from_secs(90);

#[test]
fn of_many_candidates_one_holds_the_lease() -> Result<()> {
    let lab = Lab::new()?;
    let api = ApiServer::start(&lab, Place::Loopback)?;
    let second = Duration::from_secs(1);
    let timings = Timings { duration: 2 * second, deadline: second, renew: second / 4, look: second / 4 };
    api.run(async move |client| {
        let candidate = |name: &str| Elector::new(client.clone(), "default", "one", name, timings);
        let mut all = ["a", "b", "c", "d"].map(candidate);
        // All at once on a Lease that is not there yet: one creates it.
        let [a, b, c, d] = &mut all;
        let standings = tokio::join!(a.step(), b.step(), c.step(), d.step());
        let standings = [standings.0?, standings.1?, standings.2?, standings.3?];
        let leads = |standing: &Standing| matches!(standing, Standing::Leader { .. });
        ensure!(standings.iter().filter(|standing| leads(standing)).count() == 1, "{standings:?}");
        let first = standings.iter().position(leads).context("no leader")?;
        // Renewed for longer than its duration, nobody else gets it.
        let begun = Instant::now();
        while begun.elapsed() < 3 * second {
            tokio::time::sleep(second / 4).await;
            for (index, elector) in all.iter_mut().enumerate() {
                let standing = elector.step().await?;
                ensure!(leads(&standing) == (index == first), "{index} of {first}: {standing:?}");
            }
        }
        // Its holder falls silent: it stops by itself before anybody else begins, and then one begins.
        let silent = Instant::now();
        let mut next = None;
        while next.is_none() {
            tokio::time::sleep(second / 8).await;
            for index in (0..all.len()).filter(|index| *index != first) {
                if leads(&all[index].step().await?) {
                    ensure!(!leads(&all[first].standing()), "two leaders");
                    ensure!(next.replace(index).is_none(), "two at once");
                }
            }
            ensure!(silent.elapsed() < 5 * second, "nobody takes over");
        }
        ensure!(silent.elapsed() > 3 * second / 2, "taken over after {:?}", silent.elapsed());
        // The old one comes back and finds itself a follower.
        ensure!(all[first].step().await? == Standing::Follower, "two leaders");
        let lease = Api::<Lease>::namespaced(client.clone(), "default").get("one").await?;
        ensure!(lease.spec.and_then(|spec| spec.lease_transitions) == Some(1), "not one transition");
        Ok(())
    })
}

/// Two nodes and their daemons. Fields are dropped in this order.
struct Pair {
    daemons: Vec<Daemon>,
    api: ApiServer,
    fabric: Fabric,
    _lab: Lab,
}

impl Pair {
    /// Raises both, with Service `web` on both and a third node that nobody reaches.
    fn raise() -> Result<Self> {
        let lab = Lab::new()?;
        let specs = BOTH.map(|name| NodeSpec { wire: false, ..NodeSpec::new(name, Mode::Dynamic) });
        let fabric = Fabric::raise(&lab, &specs)?;
        let api = ApiServer::start(&lab, Place::Inside(&fabric.management, MANAGEMENT))?;
        grant(&api, &role()?)?;
        api.apply(&deployed::<ClusterRoleBinding>("ClusterRoleBinding")?)?;
        let metadata = ObjectMeta { name: Some(SYSTEM.to_owned()), ..ObjectMeta::default() };
        api.apply(&Namespace { metadata, ..Namespace::default() })?;
        let mut pair = Self { daemons: Vec::new(), api, fabric, _lab: lab };
        for node in &pair.fabric.nodes {
            pair.api.apply(&objects::node(node.name(), node.plan.link4(2).into()))?;
        }
        pair.api.apply(&objects::node("ghost", IpAddr::from([127, 0, 0, 77])))?;
        pair.api.apply(&objects::local(objects::service("web", &[vip4(1), vip6(1)], &[80])))?;
        pair.endpoints([State::Ready, State::Ready])?;
        for node in &pair.fabric.nodes {
            let config = format!(
                "services: {{source: kubernetes, vip_ranges: [10.0.0.0/8, 'fd00::/8']}}\nfrr: {{socket_path: {}}}\n\
                 http: {{listen: '0.0.0.0:9470'}}\nkubernetes: {{statistics: true, events: false, namespace: {SYSTEM}}}\n",
                node.frr.directory().display(),
            );
            let kubeconfig = pair.api.kubeconfig(api_server::User::Cosmolet).display().to_string();
            let env = [("KUBECONFIG", kubeconfig.as_str()), ("NO_PROXY", "*")];
            let daemon = Daemon::prepare(&pair._lab, &node.netns, node.name(), &config, HTTP.parse()?, &env)?;
            pair.daemons.push(daemon.as_user(&pair._lab, POD)?);
        }
        for daemon in &mut pair.daemons {
            daemon.launch()?;
        }
        pair.daemons.iter_mut().try_for_each(|daemon| daemon.wait_ready(LIMIT))?;
        Ok(pair)
    }

    fn endpoints(&self, states: [State; 2]) -> Result<()> {
        let slice = |vip: IpAddr, family: &str| {
            let nodes = self.fabric.nodes.iter().zip(states);
            let endpoints =
                nodes.map(|(node, state)| objects::endpoint(node.backend_address(vip).ip(), node.name(), state));
            objects::slice(&format!("web-{family}"), "web", BACKEND_PORT, endpoints.collect())
        };
        self.api.apply_all(&[slice(vip4(1), "v4"), slice(vip6(1), "v6")])
    }

    /// Waits until this daemon serves these series.
    fn wait_series(&self, index: usize, series: &[&str]) -> Result<()> {
        wait::until_true(&format!("{series:?} of {}", BOTH[index]), TAKEOVER, || {
            let metrics = self.daemons[index].metrics()?;
            let told: Vec<&str> = metrics.lines().filter(|line| line.starts_with("cosmolet_cluster_")).collect();
            ensure!(series.iter().all(|wanted| told.contains(wanted)), "{told:#?}");
            Ok(true)
        })
    }

    fn serves(&self, index: usize) -> Result<bool> {
        Ok(self.daemons[index].metrics()?.contains("cosmolet_cluster_"))
    }
}

#[test]
fn the_leader_alone_serves_the_clusters_statistics() -> Result<()> {
    let mut pair = Pair::raise()?;
    without_the_right(&pair)?;
    allow(&pair.api)?;
    let leader = wait::until("a leader", TAKEOVER, || Ok((0..2).find(|index| pair.serves(*index).unwrap_or(false))))?;
    let (vip, other) = (vip4(1), 1 - leader);
    let nodes = |count: u8| {
        format!("cosmolet_cluster_vip_nodes{{namespace=\"default\",service=\"web\",vip=\"{vip}\"}} {count}")
    };
    let (answering, unknown) =
        ("cosmolet_cluster_nodes{state=\"answering\"} 2", "cosmolet_cluster_nodes{state=\"unknown\"} 1");
    pair.wait_series(
        leader,
        &[answering, unknown, "cosmolet_cluster_vips 2", "cosmolet_cluster_vips_without_node 0", &nodes(2)],
    )?;
    let told = pair.daemons[leader].metrics()?;
    ensure!(told.contains("cosmolet_cluster_node_unknown{node=\"ghost\""), "{told}");
    ensure!(!pair.serves(other)?, "two serve");
    let mut states = [State::Ready, State::Ready];
    states[other] = State::NotReady;
    pair.endpoints(states)?;
    pair.wait_series(leader, &[&nodes(1), "cosmolet_cluster_vips_without_node 0"])?;
    pair.endpoints([State::NotReady, State::NotReady])?;
    let without = "cosmolet_cluster_service_vips_without_node{namespace=\"default\",service=\"web\"} 2";
    pair.wait_series(leader, &[&nodes(0), "cosmolet_cluster_vips_without_node 2", without])?;
    // The leader dies: the other takes over, and misses it.
    pair.daemons[leader].kill()?;
    pair.wait_series(
        other,
        &["cosmolet_cluster_nodes{state=\"answering\"} 1", "cosmolet_cluster_nodes{state=\"unknown\"} 2"],
    )?;
    // Cut off, it may lead no longer: its series go.
    pair.fabric.management.ip(&["link", "set", "dev", BOTH[other], "down"])?;
    wait::until_true("the series are gone", TAKEOVER, || Ok(!pair.serves(other)?))?;
    within_the_rules(&pair)
}

fn without_the_right(pair: &Pair) -> Result<()> {
    for daemon in &pair.daemons {
        let error = wait::until("the refusal is told", LIMIT, || {
            let status = daemon.status()?;
            let function = &status["kubernetes"][0];
            ensure!(function["function"] == "statistics" && function["state"] == "failing", "{function}");
            Ok(function["error"].as_str().map(str::to_owned))
        })?;
        ensure!(error.contains("cannot get resource \"leases\"") && error.ends_with("(403)"), "{error}");
        ensure!(daemon.status()?["source"]["state"] == "synced", "not synced");
    }
    Ok(())
}

/// What the chart grants with `config.kubernetes.statistics`.
fn lease_rules() -> Vec<PolicyRule> {
    let rule = |verbs: &[&str], names: &[&str]| PolicyRule {
        api_groups: Some(vec!["coordination.k8s.io".to_owned()]),
        resources: Some(vec!["leases".to_owned()]),
        resource_names: (!names.is_empty()).then(|| names.iter().map(|name| (*name).to_owned()).collect()),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    vec![rule(&["create"], &[]), rule(&["get", "update"], &["cosmolet-statistics"])]
}

fn allow(api: &ApiServer) -> Result<()> {
    let metadata =
        ObjectMeta { name: Some("cosmolet".to_owned()), namespace: Some(SYSTEM.to_owned()), ..ObjectMeta::default() };
    api.apply(&Role { metadata: metadata.clone(), rules: Some(lease_rules()) })?;
    let role_ref = RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: "Role".to_owned(),
        name: "cosmolet".to_owned(),
    };
    let subject = Subject {
        kind: "ServiceAccount".to_owned(),
        name: "cosmolet".to_owned(),
        namespace: Some(SYSTEM.to_owned()),
        ..Subject::default()
    };
    api.apply(&RoleBinding { metadata, role_ref, subjects: Some(vec![subject]) })
}

fn within_the_rules(pair: &Pair) -> Result<()> {
    let strangers = uncovered(&pair.api.audit()?, &role()?.rules.unwrap_or_default(), SYSTEM, &lease_rules());
    ensure!(strangers.is_empty(), "outside the rules: {strangers:#?}");
    Ok(())
}
