//! Which Services are taken, on a real cluster: what the ToR's kernel has and what a client outside gets.

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
fn classes_namespaces_and_external_addresses_by_configuration() -> Result<()> {
    let cluster = alone()?;
    let (case, other) = (Case::begin(&cluster, "configured")?, Case::begin(&cluster, "elsewhere")?);
    for case in [&case, &other] {
        case.deploy("web", BOTH[0], |_| {})?;
    }
    cluster.install(&json!({"config": {"services": {"namespaces": ["configured"], "selector": "tier!=test",
        "types": ["LoadBalancer", "ExternalIP"], "load_balancer_classes": ["example.com/ours"]}}}))?;
    let vips: Vec<_> = (0..6).map(|_| cluster.new_vips()[0]).collect();
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
    cluster.install(&json!({}))?;
    for vip in [vips[1], vips[2], vips[3], vips[4]] {
        case.nodes(vip, &BOTH[..1])?;
    }
    case.nodes(vips[5], &[])
}
