//! Property: whatever order objects arrive in, whatever they were in between, and however often they are listed, the
//! views are those of a plain reference, and what was emitted adds up to them.
#![allow(clippy::wildcard_enum_match_arm, reason = "a source makes few of the events")]

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::objects::Project;
use super::reference::{self, Known, NODE, World, apply, id_of, kind_of, selection};
use super::{Kind, ObjectId, Projector};
use crate::engine::event::Event;

/// A step: an object gets this content, or goes.
#[derive(Clone, Debug)]
enum Step {
    Apply(Value),
    Delete(ObjectId),
    Relist(Kind),
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
    let cluster = select(vec![json!(["10.96.0.1", "fd00::1"]), json!(["10.96.0.1", "fd00::1"]), json!(["None"])]);
    let ingress = (ingress, cluster);
    let meta = (select(vec!["a", "b"]), select(vec!["s1", "s2"]), select(vec!["test", "prod"]), annotations);
    (meta, spec, ingress).prop_map(|((namespace, name, tier, annotations), spec, (ingress, cluster))| {
        let (kind, class, policy, external, ports) = spec;
        json!({"kind": "Service", "apiVersion": "v1",
            "metadata": {"namespace": namespace, "name": name, "labels": {"tier": tier}, "annotations": annotations},
            "spec": {"type": kind, "loadBalancerClass": class, "externalTrafficPolicy": policy,
                     "internalTrafficPolicy": policy, "externalIPs": external,
                     "ports": ports, "clusterIP": cluster[0], "clusterIPs": cluster},
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
    (select(vec![NODE, "n2"]), any::<bool>(), select(vec!["True", "False"]), any::<bool>(), any::<bool>()).prop_map(
        move |(name, excluded, unavailable, tainted, cordoned)| {
            let labels = if excluded { json!({label: ""}) } else { json!({}) };
            let taints = if tainted {
                json!([{"key": "x", "effect": "NoSchedule"}, {"key": "drain", "effect": "NoExecute"}])
            } else {
                json!([])
            };
            json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "labels": labels},
                   "spec": {"taints": taints, "unschedulable": cordoned},
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
