//! Rights and hostile objects on a real cluster, as the suite `told` walks them one by one beside a plain API server: here the
//! role is the chart's, the tokens are a service account's, and what must not move is a cluster's.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::api_server::{Request, uncovered};
use cosmolet_tests::cluster::story::{LIMIT, wait_nodes};
use cosmolet_tests::cluster::{COSMOLET_NAMESPACE, Guard, Helm, WorkloadSpec, alone, prefix, shared};
use cosmolet_tests::packaging::{ALL, rendered};
use cosmolet_tests::running_config::RunningConfig;
use cosmolet_tests::wait;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::rig::{BOTH, Case};

fn role(cluster: &Guard) -> Result<ClusterRole> {
    cluster.api.run(async |client| Ok(Api::<ClusterRole>::all(client).get("cosmolet").await?))
}

fn write_rules(cluster: &Guard, rules: Value) -> Result<()> {
    cluster.api.run(async move |client| {
        let patch = Patch::Merge(json!({ "rules": rules }));
        Api::<ClusterRole>::all(client).patch("cosmolet", &PatchParams::default(), &patch).await?;
        Ok(())
    })
}

/// Whatever the other tests have done so far: all was within the chart's rules, and watches ask for bookmarks.
#[test]
fn nothing_is_asked_for_beyond_the_charts_rules() -> Result<()> {
    let cluster = shared()?;
    let rendered = rendered(Helm::V4, &ALL)?;
    let rules = |kind: &str| -> Result<Vec<PolicyRule>> {
        let role = rendered.iter().find(|document| document["kind"] == kind).context("no role")?;
        Ok(serde_json::from_value(role["rules"].clone())?)
    };
    let requests = cluster.api.audit()?;
    let strangers = uncovered(&requests, &rules("ClusterRole")?, COSMOLET_NAMESPACE, &rules("Role")?);
    ensure!(strangers.is_empty(), "outside the rules: {strangers:#?}");
    let own = BOTH.map(|node| format!("spec.nodeName={node}"));
    let mut pods = requests.iter().filter(|request| request.resource == "pods").peekable();
    ensure!(pods.peek().is_some(), "nobody asks for pods");
    // The pods of the other daemons are candidates for what this one wants to withdraw.
    let daemons = |request: &Request| request.verb == "list" && request.namespace == COSMOLET_NAMESPACE;
    let fits = |request: &Request| own.contains(&request.fields) || daemons(request);
    ensure!(pods.all(fits), "pods of other nodes are asked for");
    let mut watches = requests.iter().filter(|request| request.verb == "watch").peekable();
    ensure!(watches.peek().is_some(), "nothing is watched");
    ensure!(watches.all(|request| request.uri.contains("allowWatchBookmarks=true")), "a watch without bookmarks");
    Ok(())
}

/// Events, the node's condition and the statistics, with the rights that the chart adds for them.
#[test]
fn everything_is_told_in_kubernetes_own_words() -> Result<()> {
    let cluster = alone()?;
    cluster.install(&json!({"config": {"kubernetes": {"node_condition": true, "statistics": true}}}))?;
    let (case, [vip, _]) = (Case::begin(&cluster, "words")?, cluster.new_vips());
    case.deploy("web", BOTH[0], |_| {})?;
    case.service("web", &[vip], |_| {})?;
    case.nodes(vip, &BOTH[..1])?;
    case.kubectl(&["scale", "deployment", "web", "--replicas=0"])?;
    case.nodes(vip, &[])?;
    case.service("outside", &[[203, 0, 113, 7].into()], |_| {})?;
    let told = "jsonpath={range .items[*]}{.regarding.name} {.reason}{\"\\n\"}{end}";
    wait::until_true("Events on both Services", LIMIT, || {
        let text = case.kubectl(&["get", "events.events.k8s.io", "-o", told])?;
        for wanted in ["web Advertised", "web NoLocalEndpoint", "outside OutsideRanges"] {
            ensure!(text.lines().any(|line| line == wanted), "no {wanted:?} in\n{text}");
        }
        Ok(true)
    })?;
    let condition = "jsonpath={.status.conditions[?(@.type==\"CosmoletReady\")].status}";
    for node in BOTH {
        wait::until_true(&format!("{node} is CosmoletReady"), LIMIT, || {
            Ok(cluster.kubectl(&["get", "node", node, "-o", condition])? == "True")
        })?;
    }
    wait::until_true("one leader tells of both nodes", LIMIT, || {
        let metrics = [cluster.metrics(BOTH[0])?, cluster.metrics(BOTH[1])?];
        let leaders = metrics.iter().filter(|text| text.contains("\ncosmolet_cluster_vips ")).count();
        ensure!(leaders == 1, "{leaders} lead");
        Ok(metrics.iter().any(|text| text.contains("cosmolet_cluster_nodes{state=\"answering\"} 2")))
    })?;
    cluster.kubectl(&["-n", COSMOLET_NAMESPACE, "get", "lease", "cosmolet-statistics"])?;
    cluster.install(&json!({}))
}

/// Daemons that start without a right say which one they miss; nothing moves. The right given back, they go on by themselves.
#[test]
fn a_missing_right_is_named_and_moves_nothing() -> Result<()> {
    let cluster = alone()?;
    cluster.new_namespace("rights")?;
    let workload = cluster.deploy(WorkloadSpec::new("rights", "web"), LIMIT)?;
    wait_nodes(&cluster, &workload, Instant::now(), &cluster.node_names())?;
    let since = Instant::now();
    let mut less = serde_json::to_value(role(&cluster)?.rules)?;
    let rules = less.as_array_mut().context("a role without rules")?;
    let slices = rules.iter_mut().find(|rule| rule["resources"] == json!(["endpointslices"]));
    slices.context("no rule for endpointslices")?["verbs"] = json!(["watch"]);
    write_rules(&cluster, less)?;
    let named = without_a_right(&cluster);
    // Rules that somebody else has written are not helm 4's any more: it makes the role anew.
    cluster.kubectl(&["delete", "clusterrole", "cosmolet"])?;
    cluster.install(&json!({}))?;
    named?;
    std::thread::sleep(Duration::from_secs(1));
    for vip in workload.vips {
        let changes = cluster.routes().changes(prefix(vip), since);
        ensure!(changes.is_empty(), "{vip}: the ToR saw {changes:?}");
    }
    cluster.kubectl(&["delete", "namespace", "rights", "--wait=false"]).map(drop)
}

fn without_a_right(cluster: &Guard) -> Result<()> {
    let (selector, missing) = ("app.kubernetes.io/name=cosmolet", "cannot list resource \"endpointslices\"");
    cluster.kubectl(&["-n", COSMOLET_NAMESPACE, "delete", "pods", "-l", selector])?;
    for node in BOTH {
        wait::until_true(&format!("{node} names the missing right"), LIMIT, || {
            let source = cluster.status(node)?["source"].take();
            let error = source["error"].as_str().unwrap_or_default();
            ensure!(source["state"] == "stale" && error.contains(missing), "{source}");
            Ok(true)
        })?;
    }
    Ok(())
}

/// Whoever may write a Service cannot take what is somebody's, nor write into FRR. For a test that is alone, where the
/// ranges of VIPs hold everybody's addresses and Deployment `other` has its pod on the second node.
pub(crate) fn hostile_services(case: &Case<'_>) -> Result<()> {
    let (cluster, victim) = (case.cluster, case.cluster.new_vips()[0]);
    let service = |name: &str, address: IpAddr, pod: &str, annotations: Value| {
        case.service(name, &[address], |service| {
            service["metadata"]["annotations"] = annotations;
            service["spec"]["selector"] = json!({ "pod": pod });
            service["spec"]["loadBalancerClass"] = "example.com/ours".into();
        })
    };
    service("victim", victim, "other", json!({}))?;
    case.nodes(victim, &BOTH[1..])?;
    let node = cluster.node(BOTH[1])?;
    let (since, before) = (Instant::now(), RunningConfig::read(&node.frr)?);
    let taken: [(&str, IpAddr, &str); 4] = [
        ("own", node.plan.link4(2).into(), "OwnAddress"),
        ("loopback", node.plan.loopback4().into(), "ForeignAddress"),
        ("tor", node.plan.link4(1).into(), "PeerAddress"),
        ("tor-v6", node.plan.link6(1).into(), "PeerAddress"),
    ];
    let poison = json!({
        "cosmolet.io/advertise": "true\r\nrouter bgp 65000\r\nno neighbor 10.1.1.1",
        "cosmolet.io/terminating": "\u{202e}ydaer",
    });
    for (name, address, _) in taken {
        service(name, address, "other", poison.clone())?;
    }
    for (_, address, reason) in taken {
        cluster.wait_row(BOTH[1], address, LIMIT, |row| row["state"] == "refused" && row["reason"] == reason)?;
    }
    // Another Service's VIP, without an endpoint of its own: its owner keeps it.
    service("thief", victim, "nobody", json!({}))?;
    cluster.wait_row(BOTH[1], victim, LIMIT, |row| row["services"].as_array().is_some_and(|all| all.len() == 2))?;
    case.answered(victim, 80, &BOTH[1..])?;
    let after = RunningConfig::read(&node.frr)?;
    ensure!(before.operators == after.operators, "{after:?} was {before:?}");
    let ours = taken.iter().find(|(_, address, _)| after.ours.contains(&prefix(*address)));
    ensure!(ours.is_none(), "{ours:?} is advertised");
    let changes = cluster.routes().changes(prefix(victim), since);
    ensure!(changes.is_empty(), "the ToR saw {changes:?}");
    Ok(())
}
