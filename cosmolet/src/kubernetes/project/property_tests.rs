//! Property: whatever order objects arrive in, whatever they were in between, and however often they are listed, the
//! views are those of a plain reference, and what was emitted adds up to them.
#![allow(clippy::wildcard_enum_match_arm, reason = "a source makes few of the events")]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::objects::Project;
use super::{Kind, ObjectId, Projector, Selection};
use crate::engine::event::Event;
use crate::engine::proof::Prove;
use crate::engine::service::{NodeView, PodView, ServiceView, VipKind};
use crate::engine::types::{Family, ObjectKey, PodKey, ServiceKey};

const NODE: &str = "n1";

fn selection() -> Selection {
    Selection {
        namespaces: BTreeSet::from(["a".to_owned()]),
        selector: "tier!=test".parse().unwrap(),
        types: BTreeSet::from([VipKind::LoadBalancer, VipKind::ExternalIp]),
        load_balancer_classes: BTreeSet::from(["ours".to_owned()]),
        drain_taints: BTreeSet::from(["drain".to_owned()]),
        ..Selection::new(NODE)
    }
}

/// A world of objects by kind and name, as JSON.
type World = BTreeMap<ObjectId, Value>;

/// A step: an object gets this content, or goes.
#[derive(Clone, Debug)]
enum Step {
    Apply(Value),
    Delete(ObjectId),
    Relist(Kind),
}

fn kind_of(value: &Value) -> Kind {
    Kind::ALL.into_iter().find(|kind| value["kind"] == kind.as_str()).unwrap()
}

fn id_of(value: &Value) -> ObjectId {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    ObjectId { kind: kind_of(value), key: ObjectKey::new(&text("namespace"), &text("name")) }
}

fn service() -> impl Strategy<Value = Value> {
    let spec = (
        select(vec!["LoadBalancer", "ClusterIP", "NodePort", "ExternalName"]),
        select(vec![Value::Null, json!("ours"), json!("theirs")]),
        select(vec![Value::Null, json!("Local"), json!("Cluster")]),
        select(vec![json!([]), json!(["198.51.100.1"]), json!(["bad\u{7}", "2001:db8::9"])]),
        select(vec![json!([]), json!([{"port": 80}]), json!([{"port": 53, "protocol": "UDP"}, {"port": 0}])]),
    );
    let ingress = select(vec![
        json!([]),
        json!([{"ip": "192.0.2.1"}]),
        json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}, {"ip": "2001:db8::1", "ipMode": "VIP"}, {"hostname": "x"}]),
    ]);
    let annotations = select(vec![
        json!({}),
        json!({"cosmolet.io/advertise": "true"}),
        json!({"cosmolet.io/advertise": "false", "cosmolet.io/terminating": "ready"}),
        json!({"cosmolet.platformbuilds.io/announce": "true"}),
        json!({"cosmolet.io/advertise": "maybe", "cosmolet.io/terminating": "ready"}),
    ]);
    let meta = (select(vec!["a", "b"]), select(vec!["s1", "s2"]), select(vec!["test", "prod"]), annotations);
    (meta, spec, ingress).prop_map(|((namespace, name, tier, annotations), spec, ingress)| {
        let (kind, class, policy, external, ports) = spec;
        json!({"kind": "Service", "apiVersion": "v1",
            "metadata": {"namespace": namespace, "name": name, "labels": {"tier": tier}, "annotations": annotations},
            "spec": {"type": kind, "loadBalancerClass": class, "externalTrafficPolicy": policy, "externalIPs": external,
                     "ports": ports, "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]},
            "status": {"loadBalancer": {"ingress": ingress}}})
    })
}

fn slice() -> impl Strategy<Value = Value> {
    let flag = || select(vec![Value::Null, json!(true), json!(false)]);
    let endpoint = (select(vec![json!(NODE), json!("n2"), Value::Null]), 0..4_u8, flag(), flag(), flag()).prop_map(
        |(node, pod, ready, serving, terminating)| {
            let target = if pod == 0 { Value::Null } else { json!({"kind": "Pod", "name": format!("p{pod}")}) };
            json!({"addresses": ["10.0.0.1"], "nodeName": node, "targetRef": target,
                   "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        },
    );
    let labels = select(vec![
        json!({"kubernetes.io/service-name": "s1"}),
        json!({"kubernetes.io/service-name": "s2"}),
        json!({}),
    ]);
    (
        select(vec!["a", "b"]),
        select(vec!["e1", "e2", "e3"]),
        labels,
        select(vec!["IPv4", "IPv6", "FQDN"]),
        prop::collection::vec(endpoint, 0..4),
    )
        .prop_map(|(namespace, name, labels, family, endpoints)| {
            json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": family,
                   "metadata": {"namespace": namespace, "name": name, "labels": labels}, "endpoints": endpoints})
        })
}

fn pod() -> impl Strategy<Value = Value> {
    (select(vec!["p1", "p2"]), select(vec![NODE, "n2"]), 0..3_i32, any::<bool>()).prop_map(
        |(name, node, restarts, crash)| {
            let state = if crash { json!({"waiting": {"reason": "CrashLoopBackOff"}}) } else { json!({"running": {}}) };
            let status = |name: &str| json!({"name": name, "image": "", "imageID": "", "ready": false,
                                             "restartCount": restarts, "state": state});
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "a", "name": name},
                   "spec": {"nodeName": node, "containers": []},
                   "status": {"containerStatuses": [status("c1"), status("c2")], "initContainerStatuses": [status("i")]}})
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    (select(vec![NODE, "n2"]), any::<bool>(), select(vec!["True", "False"]), any::<bool>()).prop_map(
        move |(name, excluded, unavailable, tainted)| {
            let labels = if excluded { json!({label: ""}) } else { json!({}) };
            let taints = if tainted {
                json!([{"key": "x", "effect": "NoSchedule"}, {"key": "drain", "effect": "NoExecute"}])
            } else {
                json!([])
            };
            json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "labels": labels},
                   "spec": {"taints": taints},
                   "status": {"conditions": [{"type": "NetworkUnavailable", "status": unavailable}]}})
        },
    )
}

fn object() -> impl Strategy<Value = Value> {
    prop_oneof![3 => service(), 4 => slice(), 1 => pod(), 1 => node()]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => object().prop_map(Step::Apply),
        3 => object().prop_map(|object| Step::Delete(id_of(&object))),
        1 => select(Kind::ALL.to_vec()).prop_map(Step::Relist),
    ]
}

/// What a receiver of the events knows.
#[derive(Debug, Default, PartialEq)]
struct Known {
    services: BTreeMap<ServiceKey, ServiceView>,
    pods: BTreeMap<PodKey, PodView>,
    node: NodeView,
}

impl Known {
    /// Takes in events, each of which must change something (but the first word about the node).
    fn take(&mut self, events: Vec<Event>) {
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

fn apply(projector: &mut Projector, value: &Value) -> Vec<Event> {
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

/// The reference: reads the JSON as a person would read the rules, one Service at a time, with nothing kept.
mod reference {
    use super::*;
    use crate::engine::service::{
        EndpointCondition, EndpointScope, Endpoints, LocalEndpoint, Refusal, RefusedAddress, Terminating, VipClaim,
    };
    use crate::engine::types::{PerFamily, Port, Protocol, Vip};

    pub(super) fn known(world: &World) -> Known {
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
            let scope = match service["spec"]["externalTrafficPolicy"] == "Local" && kind != VipKind::ClusterIp {
                true => EndpointScope::Local,
                false => EndpointScope::Cluster,
            };
            match text.parse() {
                Ok(address) => drop(vips.insert(VipClaim { vip: Vip::new(address), kind, scope })),
                Err(_) => drop(refused.insert(RefusedAddress {
                    text: text.replace('\u{7}', "\u{fffd}"),
                    refusal: Refusal::NotAnAddress,
                })),
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
        let external: Vec<_> = list(&spec["externalIPs"])
            .iter()
            .map(|ip| (VipKind::ExternalIp, ip.as_str().unwrap().to_owned()))
            .collect();
        let cluster = ["10.96.0.1", "fd00::1"].map(|ip| (VipKind::ClusterIp, ip.to_owned())).to_vec();
        let asked = meta["annotations"]["cosmolet.io/advertise"]
            .as_str()
            .or(meta["annotations"]["cosmolet.platformbuilds.io/announce"].as_str());
        let in_scope = meta["namespace"] == "a" && meta["labels"]["tier"] != "test";
        if asked == Some("false") || kind == "ExternalName" {
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
            excluded: !node["metadata"]["labels"].as_object().unwrap().is_empty(),
            network_unavailable: node["status"]["conditions"][0]["status"] == "True",
            drain_taint: (!list(&node["spec"]["taints"]).is_empty()).then(|| "drain".to_owned()),
        }
    }
}

/// Lists a kind again, in any order, with what the world holds of it.
fn relist(projector: &mut Projector, kind: Kind, world: &World) -> Vec<Event> {
    projector.begin_relist(kind);
    let mut events = Vec::new();
    for (_, object) in world.iter().rev().filter(|(id, _)| id.kind == kind) {
        events.extend(apply(projector, object));
    }
    events.extend(projector.end_relist(kind));
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_leads_to_the_reference(steps in prop::collection::vec(step(), 0..60)) {
        let (mut world, mut projector, mut known) = (World::new(), Projector::new(selection()), Known::default());
        for step in steps {
            let events = match step {
                Step::Apply(object) => {
                    let events = apply(&mut projector, &object);
                    world.insert(id_of(&object), object);
                    events
                }
                Step::Delete(id) => {
                    world.remove(&id);
                    projector.delete(id)
                }
                Step::Relist(kind) => {
                    let events = relist(&mut projector, kind, &world);
                    prop_assert!(events.is_empty(), "a relist of unchanged objects said {events:?}");
                    events
                }
            };
            known.take(events);
            prop_assert_eq!(&known, &reference::known(&world));
        }
    }

    #[test]
    fn order_and_missed_changes_do_not_matter(
        before in prop::collection::vec(object(), 0..20),
        after in prop::collection::vec(object(), 0..20),
        picks in prop::collection::vec(any::<Index>(), 20),
    ) {
        let world: World = after.into_iter().map(|object| (id_of(&object), object)).collect();
        let (mut projector, mut known) = (Projector::new(selection()), Known::default());
        for object in &before {
            known.take(apply(&mut projector, object));
        }
        // What follows was missed by the watch and is found by listing every kind again, in some order of objects.
        let mut left: Vec<Value> = world.values().cloned().collect();
        let order: Vec<Value> =
            picks.iter().map_while(|pick| (!left.is_empty()).then(|| left.remove(pick.index(left.len())))).collect();
        for kind in Kind::ALL {
            projector.begin_relist(kind);
        }
        for object in &order {
            known.take(apply(&mut projector, object));
        }
        for kind in Kind::ALL {
            known.take(projector.end_relist(kind));
        }
        prop_assert_eq!(known, reference::known(&world));
    }

    #[test]
    fn a_batch_says_only_what_it_changed(before in prop::collection::vec(object(), 0..20),
                                         batch in prop::collection::vec(object(), 0..20)) {
        let (mut world, mut projector, mut known) = (World::new(), Projector::new(selection()), Known::default());
        for object in before {
            known.take(apply(&mut projector, &object));
            world.insert(id_of(&object), object);
        }
        let selection = selection();
        let project = |value: &Value| match kind_of(value) {
            Kind::Service => serde_json::from_value::<Service>(value.clone()).unwrap().project(&selection),
            Kind::EndpointSlice => serde_json::from_value::<EndpointSlice>(value.clone()).unwrap().project(&selection),
            Kind::Node => serde_json::from_value::<Node>(value.clone()).unwrap().project(&selection),
            Kind::Pod => serde_json::from_value::<Pod>(value.clone()).unwrap().project(&selection),
        };
        let events = projector.change(batch.iter().map(project).collect::<Vec<_>>());
        let services = events.iter().filter_map(|event| match event {
            Event::Service(view) => Some(&view.key),
            Event::ServiceGone(key) => Some(key),
            Event::Node(_) | Event::Pod(..) | Event::PodGone(_) => None,
            other => panic!("not an event of a source: {other:?}"),
        });
        let services: Vec<_> = services.collect();
        prop_assert!(services.is_sorted() && services.windows(2).all(|pair| pair[0] != pair[1]), "one word for each");
        known.take(events.clone());
        for object in batch {
            world.insert(id_of(&object), object);
        }
        prop_assert_eq!(known, reference::known(&world));
    }
}
