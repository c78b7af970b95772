//! A plain reference for the projection: reads the JSON of objects as a person would read the rules, one Service at a
//! time, with nothing kept.
//!
//! Whoever includes it has the library as `daemon`: the unit tests, and by its path the suite that asks a real API server.
#![allow(clippy::wildcard_enum_match_arm, reason = "a source makes few of the events")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a part of tests")]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::daemon::engine::event::Event;
use super::daemon::engine::proof::Prove;
use super::daemon::engine::service::{
    EndpointCondition, EndpointScope, Endpoints, LocalEndpoint, NodeView, PodView, Refusal, RefusedAddress,
    ServiceView, Terminating, VipClaim, VipKind,
};
use super::daemon::engine::traffic::TrafficPolicy;
use super::daemon::engine::types::{Family, ObjectKey, PerFamily, PodKey, Port, Protocol, ServiceKey, Vip};
use super::daemon::kubernetes::project::{Kind, ObjectId, Projector, Selection};

pub(crate) const NODE: &str = "n1";

pub(crate) fn selection() -> Selection {
    Selection {
        namespaces: BTreeSet::from(["a".to_owned()]),
        selector: "tier!=test".parse().unwrap(),
        types: BTreeSet::from([VipKind::LoadBalancer, VipKind::ExternalIp]),
        load_balancer_classes: BTreeSet::from(["ours".to_owned()]),
        drain_taints: BTreeSet::from(["drain".to_owned()]),
        cordon_withdraws: true,
        ..Selection::new(NODE)
    }
}

/// A world of objects by kind and name, as JSON.
pub(crate) type World = BTreeMap<ObjectId, Value>;

pub(crate) fn kind_of(value: &Value) -> Kind {
    Kind::ALL.into_iter().find(|kind| value["kind"] == kind.as_str()).unwrap()
}

pub(crate) fn id_of(value: &Value) -> ObjectId {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    ObjectId { kind: kind_of(value), key: ObjectKey::new(&text("namespace"), &text("name")) }
}

/// What a receiver of the events knows.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Known {
    pub(crate) services: BTreeMap<ServiceKey, ServiceView>,
    pub(crate) pods: BTreeMap<PodKey, PodView>,
    pub(crate) node: NodeView,
}

impl Known {
    /// Takes in events, each of which must change something (but the first word about the node).
    pub(crate) fn take(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Service(view) => {
                    let old = self.services.insert(view.key.clone(), (*view).clone());
                    assert_ne!(old.as_ref(), Some(&*view), "an event without a change");
                }
                Event::ServiceGone(key) => assert!(self.services.remove(&key).is_some(), "{key} was never there"),
                Event::Pod(key, view) => assert_ne!(self.pods.insert(key, view), Some(view)),
                Event::PodGone(key) => assert!(self.pods.remove(&key).is_some()),
                Event::Node(view) => self.node = view,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Hands an object to a projector.
pub(crate) fn apply(projector: &mut Projector, value: &Value) -> Vec<Event> {
    fn decode<K: serde::de::DeserializeOwned>(value: &Value) -> K {
        serde_json::from_value(value.clone()).unwrap()
    }
    match kind_of(value) {
        Kind::Service => projector.apply_service(&decode::<Service>(value)),
        Kind::EndpointSlice => projector.apply_slice(&decode::<EndpointSlice>(value)),
        Kind::Node => projector.apply_node(&decode::<Node>(value)),
        Kind::Pod => projector.apply_pod(&decode::<Pod>(value)),
    }
}

/// What the rules say of a world.
pub(crate) fn known(world: &World) -> Known {
    let of = |kind: Kind| world.iter().filter(move |(id, _)| id.kind == kind);
    Known {
        services: of(Kind::Service)
            .filter_map(|(id, service)| Some((id.key.clone(), view(&id.key, service, world)?)))
            .collect(),
        pods: of(Kind::Pod)
            .filter(|(_, pod)| pod["spec"]["nodeName"] == NODE)
            .map(|(id, pod)| (id.key.clone(), pod_view(pod)))
            .collect(),
        node: of(Kind::Node).find(|(id, _)| &*id.key.name == NODE).map(|(_, n)| node_view(n)).unwrap_or_default(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn view(key: &ServiceKey, service: &Value, world: &World) -> Option<ServiceView> {
    let (mut vips, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for (kind, text) in wanted(service) {
        let policy = if kind == VipKind::ClusterIp { "internalTrafficPolicy" } else { "externalTrafficPolicy" };
        let local = service["spec"][policy] == "Local";
        let scope = if local { EndpointScope::Local } else { EndpointScope::Cluster };
        match text.parse() {
            Ok(address) => drop(vips.insert(VipClaim { vip: Vip::new(address), kind, scope })),
            Err(_) => drop(
                refused
                    .insert(RefusedAddress { text: text.replace('\u{7}', "\u{fffd}"), refusal: Refusal::NotAnAddress }),
            ),
        }
    }
    let ports: BTreeSet<Port> = list(&service["spec"]["ports"])
        .iter()
        .filter(|port| port["port"] != 0)
        .map(|port| Port {
            protocol: if port["protocol"] == "UDP" { Protocol::Udp } else { Protocol::Tcp },
            number: port["port"].as_u64().unwrap() as u16,
        })
        .collect();
    let ready_only = service["metadata"]["annotations"]["cosmolet.io/terminating"] == "ready";
    (!(vips.is_empty() && refused.is_empty())).then(|| ServiceView {
        key: key.clone(),
        vips: vips.into_iter().collect(),
        refused: refused.into_iter().collect(),
        ports: ports.into_iter().collect(),
        prove: Prove::Wait,
        policy: TrafficPolicy::default(),
        check: None,
        profile: None,
        terminating: if ready_only { Terminating::Ready } else { Terminating::Serving },
        endpoints: PerFamily { v4: endpoints(key, Family::V4, world), v6: endpoints(key, Family::V6, world) },
    })
}

/// The addresses that are taken, for the one selection of this test.
fn wanted(service: &Value) -> Vec<(VipKind, String)> {
    let (meta, spec) = (&service["metadata"], &service["spec"]);
    let kind = spec["type"].as_str().unwrap();
    let balanced: Vec<_> = list(&service["status"]["loadBalancer"]["ingress"])
        .iter()
        .filter(|i| i["ip"].is_string() && i["ipMode"] != "Proxy" && kind == "LoadBalancer")
        .map(|i| (VipKind::LoadBalancer, i["ip"].as_str().unwrap().to_owned()))
        .collect();
    let external: Vec<_> =
        list(&spec["externalIPs"]).iter().map(|ip| (VipKind::ExternalIp, ip.as_str().unwrap().to_owned())).collect();
    let cluster: Vec<_> =
        list(&spec["clusterIPs"]).iter().map(|ip| (VipKind::ClusterIp, ip.as_str().unwrap().to_owned())).collect();
    let asked = meta["annotations"]["cosmolet.io/advertise"]
        .as_str()
        .or(meta["annotations"]["cosmolet.platformbuilds.io/announce"].as_str());
    let in_scope = meta["namespace"] == "a" && meta["labels"]["tier"] != "test";
    let headless = list(&spec["clusterIPs"]).first().is_some_and(|ip| ip == "None");
    if asked == Some("false") || kind == "ExternalName" || headless {
        return Vec::new();
    }
    let mut wanted = Vec::new();
    if in_scope {
        wanted.extend(external);
    }
    if (in_scope && spec["loadBalancerClass"] == "ours") || asked == Some("true") {
        wanted.extend(balanced);
    }
    if asked == Some("true") && kind != "LoadBalancer" {
        wanted.extend(cluster);
    }
    wanted
}

fn endpoints(key: &ServiceKey, family: Family, world: &World) -> Endpoints {
    let mut all = Endpoints::default();
    let mut pods: BTreeMap<PodKey, EndpointCondition> = BTreeMap::new();
    let of_service = world.iter().filter(|(id, slice)| {
        id.kind == Kind::EndpointSlice
            && id.key.namespace == key.namespace
            && slice["metadata"]["labels"]["kubernetes.io/service-name"] == *key.name
            && slice["addressType"] == if family == Family::V4 { "IPv4" } else { "IPv6" }
    });
    for endpoint in of_service.flat_map(|(_, slice)| list(&slice["endpoints"])) {
        let conditions = &endpoint["conditions"];
        let ready = conditions["ready"] != false;
        let serving = conditions["serving"].as_bool().unwrap_or(ready);
        let condition = if ready {
            EndpointCondition::Ready
        } else if serving && conditions["terminating"] == true {
            EndpointCondition::Draining
        } else {
            EndpointCondition::Unusable
        };
        if endpoint["nodeName"] != NODE {
            match condition {
                EndpointCondition::Ready => all.remote.ready += 1,
                EndpointCondition::Draining => all.remote.draining += 1,
                EndpointCondition::Unusable => all.remote.unusable += 1,
            }
        } else if let Some(pod) = endpoint["targetRef"]["name"].as_str() {
            let best = pods.entry(PodKey::new(&key.namespace, pod)).or_insert(condition);
            *best = condition.min(*best);
        } else {
            all.local.push(LocalEndpoint { pod: None, condition });
        }
    }
    all.local.extend(pods.into_iter().map(|(pod, condition)| LocalEndpoint { pod: Some(pod), condition }));
    all.local.sort();
    all
}

fn pod_view(pod: &Value) -> PodView {
    let containers = list(&pod["status"]["containerStatuses"]);
    PodView {
        restarts: containers.iter().map(|c| c["restartCount"].as_u64().unwrap() as u32).sum(),
        crash_loop: containers.iter().any(|c| c["state"]["waiting"]["reason"] == "CrashLoopBackOff"),
    }
}

fn node_view(node: &Value) -> NodeView {
    NodeView {
        excluded: !node["metadata"]["labels"]["node.kubernetes.io/exclude-from-external-load-balancers"].is_null(),
        network_unavailable: list(&node["status"]["conditions"])
            .iter()
            .any(|condition| condition["type"] == "NetworkUnavailable" && condition["status"] == "True"),
        drain_taint: list(&node["spec"]["taints"])
            .iter()
            .any(|taint| taint["key"] == "drain")
            .then(|| "drain".to_owned()),
        cordoned: node["spec"]["unschedulable"] == true,
    }
}
