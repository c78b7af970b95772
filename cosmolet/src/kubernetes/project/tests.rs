//! Every rule of the projection, one line each; and what 10 000 Services cost.
#![allow(clippy::wildcard_enum_match_arm, reason = "a source makes few of the events")]

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::objects::{Project, sanitised};
use super::{Selection, ServiceSummary, SliceSummary, Summary};
use crate::engine::service::{EndpointCondition, EndpointScope, NodeView, PodView, Terminating, VipKind};
use crate::engine::types::Family;

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A LoadBalancer Service with everything, changed by `patch` (a JSON merge patch).
fn service(patch: &Value) -> Service {
    let mut value = json!({"metadata": {"name": "s", "namespace": "a", "labels": {"app": "web"}, "annotations": {}},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.1", "fd00::1"], "clusterIP": "10.96.0.1",
                 "externalIPs": ["198.51.100.1"], "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    merge(&mut value, patch);
    object(value)
}

fn merge(value: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) if value.is_object() => {
            for (key, patch) in fields {
                merge(&mut value[key], patch);
            }
        }
        _ => value.clone_from(patch),
    }
}

fn summary(selection: &Selection, patch: &Value) -> Option<ServiceSummary> {
    service(patch).summary(selection).map(|summary| match summary {
        Summary::Service(summary) => summary,
        other => panic!("{other:?}"),
    })
}

/// The VIPs as text, `L` for those of scope Local.
fn vips(selection: &Selection, patch: &Value) -> String {
    let Some(summary) = summary(selection, patch) else { return String::new() };
    let claim = |claim: &crate::engine::service::VipClaim| {
        format!("{}{}", claim.vip, if claim.scope == EndpointScope::Local { "L" } else { "" })
    };
    summary.vips.iter().map(claim).collect::<Vec<_>>().join(" ")
}

#[test]
fn selection_takes_what_it_should() {
    use VipKind::{ClusterIp, ExternalIp, LoadBalancer};
    let of = |change: &dyn Fn(&mut Selection)| {
        let mut selection = Selection::new("n1");
        change(&mut selection);
        selection
    };
    let plain = of(&|_| {});
    let all = of(&|s| s.types = [LoadBalancer, ClusterIp, ExternalIp].into());
    let elsewhere = of(&|s| {
        s.types = [LoadBalancer, ExternalIp].into();
        s.namespaces = ["b".to_owned()].into();
    });
    let labelled = of(&|s| s.selector = "app=db".parse().unwrap());
    let classed = of(&|s| s.load_balancer_classes = ["ours".to_owned()].into());
    let yes = json!({"metadata": {"annotations": {"cosmolet.io/advertise": "true"}}});
    let no = json!({"metadata": {"annotations": {"cosmolet.io/advertise": "false"}}});
    let odd = json!({"metadata": {"annotations": {"cosmolet.io/advertise": "yes"}}});
    let kind = |kind: &str| json!({"spec": {"type": kind}});
    let both = |a: &Value, b: &Value| {
        let mut value = a.clone();
        merge(&mut value, b);
        value
    };
    for (what, selection, patch, wanted) in [
        ("the load balancer's by default", &plain, json!({}), "192.0.2.1"),
        ("all that are configured", &all, json!({}), "10.96.0.1 192.0.2.1 198.51.100.1 fd00::1"),
        ("none of a ClusterIP by default", &plain, kind("ClusterIP"), ""),
        ("none of a stale status", &plain, kind("NodePort"), ""),
        ("a NodePort's cluster addresses", &all, kind("NodePort"), "10.96.0.1 198.51.100.1 fd00::1"),
        ("never those of an ExternalName", &all, both(&kind("ExternalName"), &yes), ""),
        ("not of other namespaces", &elsewhere, json!({}), ""),
        ("not with other labels", &labelled, json!({}), ""),
        ("with these labels", &labelled, json!({"metadata": {"labels": {"app": "db"}}}), "192.0.2.1"),
        ("not without a class", &classed, json!({}), ""),
        ("not of another class", &classed, json!({"spec": {"loadBalancerClass": "theirs"}}), ""),
        ("of our class", &classed, json!({"spec": {"loadBalancerClass": "ours"}}), "192.0.2.1"),
        ("true: from any namespace, but no external", &elsewhere, yes.clone(), "192.0.2.1"),
        ("true: with any labels", &labelled, yes.clone(), "192.0.2.1"),
        ("true: of any class", &classed, yes.clone(), "192.0.2.1"),
        ("true: a ClusterIP's own", &plain, both(&kind("ClusterIP"), &yes), "10.96.0.1 fd00::1"),
        ("true: a NodePort's own", &plain, both(&kind("NodePort"), &yes), "10.96.0.1 fd00::1"),
        ("true: not its other types", &plain, yes, "192.0.2.1"),
        ("false: nothing", &all, no, ""),
        ("a bad value: as if absent", &plain, odd, "192.0.2.1"),
    ] {
        assert_eq!(vips(selection, &patch), wanted, "{what}");
    }
}

#[test]
fn addresses_policies_and_ports() {
    let mut all = Selection::new("n1");
    all.types = [VipKind::LoadBalancer, VipKind::ClusterIp, VipKind::ExternalIp].into();
    let ingress = |ingress: Value| json!({"status": {"loadBalancer": {"ingress": ingress}}});
    for (what, patch, wanted) in [
        (
            "external Local",
            json!({"spec": {"externalTrafficPolicy": "Local"}}),
            "10.96.0.1 192.0.2.1L 198.51.100.1L fd00::1",
        ),
        (
            "internal Local",
            json!({"spec": {"internalTrafficPolicy": "Local"}}),
            "10.96.0.1L 192.0.2.1 198.51.100.1 fd00::1L",
        ),
        ("headless", json!({"spec": {"clusterIPs": ["None"], "clusterIP": "None"}}), ""),
        ("the older field alone", json!({"spec": {"clusterIPs": null}}), "10.96.0.1 192.0.2.1 198.51.100.1"),
        ("no address yet", json!({"spec": {"clusterIPs": null, "clusterIP": "", "externalIPs": null}}), "192.0.2.1"),
        ("proxied", ingress(json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}])), "10.96.0.1 198.51.100.1 fd00::1"),
        (
            "VIP, hostname, twice",
            ingress(json!([{"ip": "192.0.2.2", "ipMode": "VIP"}, {"hostname": "h"}, {"ip": "192.0.2.2"}])),
            "10.96.0.1 192.0.2.2 198.51.100.1 fd00::1",
        ),
        ("mapped", ingress(json!([{"ip": "::ffff:192.0.2.3"}])), "10.96.0.1 192.0.2.3 198.51.100.1 fd00::1"),
        ("no status", json!({"status": null}), "10.96.0.1 198.51.100.1 fd00::1"),
    ] {
        assert_eq!(vips(&all, &patch), wanted, "{what}");
    }
    let plain = Selection::new("n1");
    let odd =
        summary(&plain, &ingress(json!([{"ip": "010.0.0.1"}, {"ip": "\u{1b}[31m"}, {"ip": "x".repeat(99)}]))).unwrap();
    let texts: Vec<_> = odd.refused.iter().map(|refused| refused.text.clone()).collect();
    assert_eq!(texts, ["010.0.0.1".to_owned(), "x".repeat(64), "\u{fffd}[31m".to_owned()]);
    assert_eq!(sanitised("a\nb\u{0}"), "a\u{fffd}b\u{fffd}");

    let ports = |ports: Value| {
        let summary = summary(&plain, &json!({"spec": {"ports": ports}})).unwrap();
        summary.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let mixed = json!([{"port": 443}, {"port": 53, "protocol": "UDP"}, {"port": 9, "protocol": "SCTP"}, {"port": 443, "protocol": "TCP"}]);
    assert_eq!(ports(mixed), "443/tcp 53/udp 9/sctp");
    assert_eq!(ports(json!([{"port": 0}, {"port": 65_536}, {"port": -1}, {"port": 1, "protocol": "QUIC"}])), "");
    assert_eq!(ports(Value::Null), "");
    for distribution in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        let preferred = json!({"spec": {"trafficDistribution": distribution}});
        assert_eq!(summary(&plain, &preferred), summary(&plain, &json!({})), "a preference is no condition");
    }
    assert_eq!(summary(&plain, &json!({"spec": null})), None);
    let ready = json!({"metadata": {"annotations": {"cosmolet.io/terminating": "ready"}}});
    assert_eq!(summary(&plain, &ready).unwrap().terminating, Terminating::Ready);
}

fn slice(patch: &Value) -> Option<SliceSummary> {
    let mut value = json!({"metadata": {"name": "e", "namespace": "a", "labels": {"kubernetes.io/service-name": "s"}},
                           "addressType": "IPv4", "endpoints": []});
    merge(&mut value, patch);
    object::<EndpointSlice>(value).summary(&Selection::new("n1")).map(|summary| match summary {
        Summary::Slice(summary) => summary,
        other => panic!("{other:?}"),
    })
}

#[test]
fn conditions_of_endpoints() {
    use EndpointCondition::{Draining, Ready, Unusable};
    for (conditions, wanted) in [
        (Value::Null, Ready),
        (json!({}), Ready),
        (json!({"ready": true}), Ready),
        (json!({"ready": false}), Unusable),
        (json!({"ready": false, "serving": true}), Unusable),
        (json!({"ready": false, "serving": true, "terminating": true}), Draining),
        (json!({"ready": false, "serving": false, "terminating": true}), Unusable),
        (json!({"ready": false, "terminating": true}), Unusable),
        // publishNotReadyAddresses: the controller says ready, whatever else holds.
        (json!({"ready": true, "serving": false, "terminating": true}), Ready),
        (json!({"serving": false}), Ready),
    ] {
        let endpoint = json!({"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": conditions});
        let local = slice(&json!({"endpoints": [endpoint]})).unwrap().local;
        assert_eq!(local[0].condition, wanted, "{conditions}");
    }
}

#[test]
fn slices() {
    let endpoint = |more: Value| {
        let mut value = json!({"addresses": ["10.0.0.1"]});
        merge(&mut value, &more);
        value
    };
    let pod = |more: Value| {
        let target = json!({"targetRef": {"kind": "Pod", "name": "p"}, "nodeName": "n1"});
        let mut value = endpoint(target);
        merge(&mut value, &more);
        slice(&json!({"endpoints": [value]})).unwrap().local[0].pod.clone().map(|key| key.to_string())
    };
    assert_eq!(pod(json!({})).as_deref(), Some("a/p"));
    assert_eq!(pod(json!({"targetRef": {"namespace": "other"}})).as_deref(), Some("other/p"));
    assert_eq!(pod(json!({"targetRef": {"kind": "VirtualMachine"}})), None);
    assert_eq!(pod(json!({"targetRef": null})), None);

    let mixed = slice(&json!({"endpoints": [endpoint(json!({"nodeName": "n2"})), endpoint(json!({})),
        endpoint(json!({"nodeName": "n1"})), endpoint(json!({"addresses": [], "nodeName": "n1"}))]}))
    .unwrap();
    assert_eq!((mixed.local.len(), mixed.remote.ready, &*mixed.service), (1, 2, "s"));
    let alone = |more: Value| slice(&json!({"endpoints": [endpoint(more)]})).unwrap();
    let hints = json!({"forZones": [{"name": "z"}], "forNodes": [{"name": "n2"}]});
    let (hinted, plain) = (json!({"nodeName": "n1", "zone": "y", "hints": hints}), json!({"nodeName": "n1"}));
    assert_eq!(alone(hinted), alone(plain), "hints choose among endpoints, which is kube-proxy's work");
    assert_eq!(alone(json!({"hostname": "n1"})).remote.ready, 1, "a hostname is no node");
    assert_eq!(slice(&json!({"addressType": "IPv6"})).unwrap().family, Family::V6);
    assert_eq!(slice(&json!({"addressType": "FQDN"})), None);
    assert_eq!(slice(&json!({"metadata": {"labels": null}})), None);
}

#[test]
fn nodes_and_pods() {
    let selection = Selection { drain_taints: ["b".to_owned(), "c".to_owned()].into(), ..Selection::new("n1") };
    let node = |value: Value| match object::<Node>(value).summary(&selection) {
        Some(Summary::Node(view)) => Some(view),
        _ => None,
    };
    let healthy = Some(NodeView::default());
    let named = |more: Value| {
        let mut value = json!({"metadata": {"name": "n1"}});
        merge(&mut value, &more);
        node(value)
    };
    assert_eq!(node(json!({"metadata": {"name": "n2"}})), None);
    assert_eq!(named(json!({})), healthy);
    let cordon = json!({"spec": {"unschedulable": true}});
    assert_eq!(named(cordon.clone()), healthy, "a cordoned node serves what it runs");
    let strict = Selection { cordon_withdraws: true, ..selection.clone() };
    for (spec, cordoned) in
        [(cordon["spec"].clone(), true), (json!({"unschedulable": false}), false), (json!({}), false)]
    {
        let node: Node = object(json!({"metadata": {"name": "n1"}, "spec": spec}));
        assert_eq!(node.summary(&strict), Some(Summary::Node(NodeView { cordoned, ..NodeView::default() })), "{spec}");
    }
    let label = json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": "false"}}});
    assert!(named(label).unwrap().excluded, "the label counts, whatever its value");
    let condition = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": status}]}});
    assert!(named(condition("True")).unwrap().network_unavailable);
    assert_eq!(named(condition("False")), healthy);
    assert_eq!(named(condition("Unknown")), healthy);
    let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
    let taints = |taints: Value| named(json!({"spec": {"taints": taints}})).unwrap().drain_taint;
    assert_eq!(taints(json!([taint("a")])), None);
    assert_eq!(taints(json!([taint("a"), taint("c"), taint("b")])).as_deref(), Some("c"));

    let pod = |value: Value| match object::<Pod>(value).summary(&selection) {
        Some(Summary::Pod(view)) => Some(view),
        _ => None,
    };
    let container = |restarts: i32, state: Value| json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts, "state": state});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let here = |containers: Value| {
        pod(json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": []},
        "status": {"containerStatuses": containers, "initContainerStatuses": [container(7, waiting("CrashLoopBackOff"))]}}))
    };
    assert_eq!(pod(json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n2", "containers": []}})), None);
    assert_eq!(pod(json!({"metadata": {"name": "p"}, "spec": {"containers": []}})), None);
    assert_eq!(here(Value::Null), Some(PodView::default()));
    let two = json!([container(2, json!({"running": {}})), container(3, waiting("ContainerCreating"))]);
    assert_eq!(here(two), Some(PodView { restarts: 5, crash_loop: false }));
    let crash = json!([container(1, waiting("CrashLoopBackOff")), container(-1, Value::Null)]);
    assert_eq!(here(crash), Some(PodView { restarts: 1, crash_loop: true }));
}
