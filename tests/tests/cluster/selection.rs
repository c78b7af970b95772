//! Which Services are taken, on a real cluster: what the ToR's kernel has and what a client outside gets.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use cosmolet_tests::cluster::{alone, shared};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;

use super::rig::{BOTH, Case};

#[test]
fn two_services_share_a_vip_until_the_last_of_them_goes() -> Result<()> {
    let cluster = shared()?;
    let (case, [vip, _]) = (Case::begin(&cluster, "sharing")?, cluster.new_vips());
    case.deploy("first", BOTH[0], |_| {})?;
    case.deploy("second", BOTH[0], |_| {})?;
    for (name, port) in [("first", 80), ("second", 81)] {
        case.service(name, &[vip], |service| {
            service["spec"]["selector"] = json!({"pod": name});
            service["spec"]["ports"][0]["port"] = port.into();
        })?;
    }
    case.nodes(vip, &BOTH[..1])?;
    case.answered(vip, 80, &BOTH[..1])?;
    case.answered(vip, 81, &BOTH[..1])?;
    // One has no endpoint any more: the VIP stays for the other, and each tells its own reason.
    case.kubectl(&["scale", "deployment", "first", "--replicas=0"])?;
    cluster.wait_row(BOTH[0], vip, super::rig::LIMIT, |row| {
        row["state"] == "advertised"
            && row["services"].as_array().is_some_and(|services| {
                services.iter().any(|service| service["name"] == "first" && service["reason"] == "NoLocalEndpoint")
            })
    })?;
    case.answered(vip, 81, &BOTH[..1])?;
    case.kubectl(&["delete", "service", "first"])?;
    case.stays(vip, &BOTH[..1])?;
    case.kubectl(&["delete", "service", "second"])?;
    case.nodes(vip, &[])
}

#[test]
fn families_proxied_addresses_and_annotations() -> Result<()> {
    let cluster = shared()?;
    let case = Case::begin(&cluster, "taken")?;
    let ([v4, v6], [proxied, _]) = (cluster.new_vips(), cluster.new_vips());
    case.deploy("web", BOTH[1], |_| {})?;
    let with = |annotations: serde_json::Value| {
        case.service("web", &[v4, v6], |service| {
            service["metadata"]["annotations"] = annotations;
            service["status"]["loadBalancer"]["ingress"] = json!([{"ip": v4.to_string()}, {"ip": v6.to_string()},
                {"ip": proxied.to_string(), "ipMode": "Proxy"}]);
        })
    };
    with(json!({}))?;
    for vip in [v4, v6] {
        case.nodes(vip, &BOTH[1..])?;
        case.answered(vip, 80, &BOTH[1..])?;
    }
    ensure!(cluster.row(BOTH[1], proxied)?.is_none(), "an address of a proxy has a row");
    with(json!({"cosmolet.io/advertise": "false"}))?;
    case.nodes(v4, &[])?;
    case.nodes(v6, &[])?;
    // The Go project's name of it is honoured and told.
    with(json!({"cosmolet.platformbuilds.io/announce": "true"}))?;
    case.nodes(v4, &BOTH[1..])?;
    let status = cluster.status(BOTH[1])?;
    let told = status["annotation_notices"].as_array().is_some_and(|notices| {
        notices.iter().any(|notice| notice["service"] == "taken/web" && notice["kind"] == "deprecated")
    });
    ensure!(told, "{}", status["annotation_notices"]);
    with(json!({"cosmolet.io/advertise": "true"}))?;
    case.stays(v4, &BOTH[1..])?;
    // A ClusterIP lies outside of the ranges: asked for and refused, with the reason.
    case.apply::<Service>(json!({
        "metadata": {"name": "internal", "annotations": {"cosmolet.io/advertise": "true"}},
        "spec": {"type": "ClusterIP", "selector": {"app": "web"}, "ports": [{"port": 80}]},
    }))?;
    let address = case.kubectl(&["get", "service", "internal", "-o", "jsonpath={.spec.clusterIP}"])?;
    case.reason(BOTH[1], address.parse()?, "OutsideRanges").map(drop)
}

#[test]
fn what_the_configuration_selects() -> Result<()> {
    let cluster = alone()?;
    let (case, other) = (Case::begin(&cluster, "configured")?, Case::begin(&cluster, "elsewhere")?);
    for case in [&case, &other] {
        case.deploy("web", BOTH[0], |_| {})?;
    }
    // Everybody's addresses are in the ranges.
    cluster.install(&json!({"config": {"services": {"namespaces": ["configured"], "selector": "tier!=test",
        "types": ["LoadBalancer", "ExternalIP", "ClusterIP"], "load_balancer_classes": ["example.com/ours"],
        "vip_ranges": ["10.0.0.0/8", "fd00::/8"]}}}))?;
    let selected = classes_and_namespaces(&case, &other).and_then(|selected| {
        case.deploy("other", BOTH[1], |_| {})?;
        cluster_addresses(&case)?;
        super::told::hostile_services(&case)?;
        case.kubectl(&["delete", "deployment", "other"])?;
        Ok(selected)
    });
    // Whatever became of it: the next test begins with the defaults.
    cluster.install(&json!({}))?;
    let [left_out, external] = selected?;
    for vip in left_out {
        case.nodes(vip, &BOTH[..1])?;
    }
    case.nodes(external[0], &[])
}

/// The VIPs that the configuration leaves out, and the external ones that it takes in.
fn classes_and_namespaces(case: &Case<'_>, other: &Case<'_>) -> Result<[Vec<IpAddr>; 2]> {
    let cluster = case.cluster;
    let vips: Vec<IpAddr> = (0..6).map(|_| cluster.new_vips()[0]).collect();
    for (name, vip, class) in [
        ("ours", vips[0], Some("example.com/ours")),
        ("theirs", vips[1], Some("example.com/theirs")),
        ("none", vips[2], None),
    ] {
        case.service(name, &[vip], |service| {
            if let Some(class) = class {
                service["spec"]["loadBalancerClass"] = class.into();
            }
        })?;
    }
    case.service("labelled", &[vips[3]], |service| {
        service["metadata"]["labels"] = json!({"tier": "test"});
        service["spec"]["loadBalancerClass"] = "example.com/ours".into();
    })?;
    other.service("far", &[vips[4]], |service| service["spec"]["loadBalancerClass"] = "example.com/ours".into())?;
    case.apply::<Service>(json!({
        "metadata": {"name": "external"},
        "spec": {"type": "ClusterIP", "selector": {"app": "web"}, "externalIPs": [vips[5].to_string()],
                 "externalTrafficPolicy": "Local", "ports": [{"port": 80, "targetPort": super::rig::PORT}]},
    }))?;
    for vip in [vips[0], vips[5]] {
        case.nodes(vip, &BOTH[..1])?;
        case.answered(vip, 80, &BOTH[..1])?;
    }
    for vip in &vips[1..5] {
        case.nodes(*vip, &[])?;
        ensure!(cluster.row(BOTH[0], *vip)?.is_none(), "{vip} has a row");
    }
    Ok([vips[1..5].to_vec(), vips[5..].to_vec()])
}

/// A ClusterIP goes by `internalTrafficPolicy`. On the Dynamic node: what the other redistributes is for the lab's VIPs alone.
fn cluster_addresses(case: &Case<'_>) -> Result<()> {
    let service = |policy: &str, pod: &str| {
        case.apply::<Service>(json!({
            "metadata": {"name": "inner"},
            "spec": {"type": "ClusterIP", "selector": {"pod": pod}, "internalTrafficPolicy": policy,
                     "ports": [{"port": 80, "targetPort": super::rig::PORT}]},
        }))
    };
    service("Local", "other")?;
    let text = case.kubectl(&["get", "service", "inner", "-o", "jsonpath={.spec.clusterIP}"])?;
    let vip: IpAddr = text.parse()?;
    case.nodes(vip, &BOTH[1..])?;
    case.reason(BOTH[0], vip, "NoLocalEndpoint")?;
    case.answered(vip, 80, &BOTH[1..])?;
    // Its endpoint is on the other node now: by the policy Local this one leaves, by Cluster it returns.
    service("Local", "web")?;
    case.nodes(vip, &[])?;
    case.reason(BOTH[1], vip, "NoLocalEndpoint")?;
    service("Cluster", "web")?;
    case.nodes(vip, &BOTH[1..])?;
    case.answered(vip, 80, &BOTH[..1])
}
