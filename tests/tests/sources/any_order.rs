//! The same answer whatever the order of events: a real API server's watch streams, replayed in order for each kind but
//! interleaved at random with each other and with relists, always end where a plain reference does.

#[path = "../../../cosmolet/src/kubernetes/project/reference.rs"]
mod reference;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use cosmolet as daemon;
use cosmolet::kubernetes::project::{Kind, ObjectId, Projector};
use cosmolet_tests::api_server::{ApiServer, Place, User};
use cosmolet_tests::runtime::Runtime;
use cosmolet_tests::{Lab, wait};
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::core::ApiResource;
use kube::{Client, Resource};
use serde_json::{Value, json};

use super::LIMIT;
use reference::{Known, NODE, World, id_of, selection};

/// Writes that are tried; the API server refuses some, which is as good as not having tried them.
const WRITES: usize = 400;
/// Writes of one client.
const CHUNK: usize = 50;
/// Replays, each in an order of its own.
const ORDERS: u64 = 300;

#[test]
fn the_order_of_watch_events_does_not_matter() -> Result<()> {
    let lab = Lab::new()?;
    let api = ApiServer::start(&lab, Place::Loopback)?;
    for name in ["a", "b"] {
        let namespace: Namespace =
            serde_json::from_value(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))?;
        api.apply(&namespace)?;
    }
    let recorder = Recorder::start(&api)?;
    let mut random = Random(0x5eed);
    let mut steps: Vec<Step> = (0..WRITES).map(|_| step(&mut random)).collect();
    // A world that ends empty would show nothing.
    steps.extend((0..CHUNK).map(|_| Step::Apply(object(&mut random))));
    let (mut written, tried) = (0, steps.len());
    while !steps.is_empty() {
        let chunk: Vec<Step> = steps.drain(..CHUNK.min(steps.len())).collect();
        written += api.run(async move |client| write(client, chunk).await)?;
    }
    ensure!(written > tried / 2, "the API server took {written} of {tried} writes");
    let world = world(&api)?;
    wait::until_true("the streams end in what the API server has", LIMIT, || Ok(recorder.end() == world))?;
    let streams = recorder.streams();
    let (events, wanted) = (streams.values().map(Vec::len).sum::<usize>(), reference::known(&world));
    println!(
        "{written} of {tried} writes, {events} events, {} Services, {} pods at the end",
        wanted.services.len(),
        wanted.pods.len()
    );
    ensure!(events > written && wanted.services.len() >= 2, "too little happened: {events} events, {wanted:?}");
    for seed in 1..=ORDERS {
        assert_eq!(replay(&streams, &mut Random(seed)), wanted, "order {seed}");
    }
    Ok(())
}

/// One event of a watch: the object's new content, or its end.
type Change = (ObjectId, Option<Value>);
type Streams = BTreeMap<Kind, Vec<Change>>;

/// Takes the next event of any stream, or lists a kind as it then stood, until all streams are at their end.
fn replay(streams: &Streams, random: &mut Random) -> Known {
    let (mut projector, mut known) = (Projector::new(selection()), Known::default());
    let mut worlds: BTreeMap<Kind, World> = BTreeMap::new();
    let mut left: BTreeMap<Kind, &[Change]> = streams.iter().map(|(kind, stream)| (*kind, &stream[..])).collect();
    while !left.is_empty() {
        let kind = *random.pick(&left.keys().copied().collect::<Vec<_>>());
        if random.below(12) == 0 {
            let mut objects: Vec<&Value> = worlds.get(&kind).into_iter().flat_map(World::values).collect();
            projector.begin_relist(kind);
            while !objects.is_empty() {
                let object = objects.swap_remove(random.below(objects.len()));
                known.take(reference::apply(&mut projector, object));
            }
            known.take(projector.end_relist(kind));
        }
        let Some(((id, object), rest)) = left.get(&kind).and_then(|stream| stream.split_first()) else {
            left.remove(&kind);
            continue;
        };
        left.insert(kind, rest);
        known.take(match object {
            Some(object) => reference::apply(&mut projector, object),
            None => projector.delete(id.clone()),
        });
        apply(worlds.entry(kind).or_default(), id, object.as_ref());
    }
    known
}

fn apply(world: &mut World, id: &ObjectId, object: Option<&Value>) {
    match object {
        Some(object) => drop(world.insert(id.clone(), object.clone())),
        None => drop(world.remove(id)),
    }
}

fn resource(kind: Kind) -> ApiResource {
    fn erased<K: Resource<DynamicType = ()>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    match kind {
        Kind::Service => erased::<Service>(),
        Kind::EndpointSlice => erased::<EndpointSlice>(),
        Kind::Node => erased::<Node>(),
        Kind::Pod => erased::<Pod>(),
    }
}

/// The object as JSON, with its kind, which a list leaves out.
fn value(kind: Kind, object: &DynamicObject) -> Result<Value> {
    let mut value = serde_json::to_value(object)?;
    value["kind"] = kind.as_str().into();
    value["apiVersion"] = resource(kind).api_version.into();
    Ok(value)
}

/// Everything that the API server has of the four kinds.
fn world(api: &ApiServer) -> Result<World> {
    api.run(async |client| {
        let mut world = World::new();
        for kind in Kind::ALL {
            let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind));
            for object in objects.list(&ListParams::default()).await? {
                let object = value(kind, &object)?;
                world.insert(id_of(&object), object);
            }
        }
        Ok(world)
    })
}

/// Four watches that write down what they see.
struct Recorder {
    streams: Arc<Mutex<Streams>>,
    _runtime: Runtime,
}

impl Recorder {
    fn start(api: &ApiServer) -> Result<Self> {
        let (runtime, streams) = (Runtime::start("recorder", None)?, Arc::new(Mutex::new(Streams::new())));
        for kind in Kind::ALL {
            let (config, record) = (api.config(User::Admin)?, Arc::clone(&streams));
            let objects = runtime.run(async move {
                let objects: Api<DynamicObject> = Api::all_with(Client::try_from(config)?, &resource(kind));
                let list = objects.list(&ListParams::default()).await?;
                let version = list.metadata.resource_version.clone().context("no version")?;
                let changes =
                    list.items.iter().map(|object| Ok::<_, anyhow::Error>(change(value(kind, object)?, true)));
                record
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(kind, changes.collect::<Result<Vec<_>>>()?);
                anyhow::Ok((objects, version))
            })??;
            let record = Arc::clone(&streams);
            runtime.spawn(async move {
                let stream = objects.0.watch(&WatchParams::default(), &objects.1).await?;
                pin_mut!(stream);
                while let Some(event) = stream.next().await {
                    let (object, there) = match event? {
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
                        WatchEvent::Deleted(object) => (object, false),
                        WatchEvent::Bookmark(_) => continue,
                        WatchEvent::Error(status) => anyhow::bail!("{status:?}"),
                    };
                    let change = change(value(kind, &object)?, there);
                    record.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default().push(change);
                }
                anyhow::Ok(())
            });
        }
        Ok(Self { streams, _runtime: runtime })
    }

    fn streams(&self) -> Streams {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the streams have led so far.
    fn end(&self) -> World {
        let mut world = World::new();
        for (id, object) in self.streams().values().flatten() {
            apply(&mut world, id, object.as_ref());
        }
        world
    }
}

fn change(object: Value, there: bool) -> Change {
    (id_of(&object), there.then_some(object))
}

/// A write that is tried.
enum Step {
    Apply(Value),
    Delete(Value),
}

/// Returns how many the API server took.
async fn write(client: Client, steps: Vec<Step>) -> Result<usize> {
    let how = PatchParams::apply("any-order").force();
    let mut taken = 0;
    for step in steps {
        let (Step::Apply(object) | Step::Delete(object)) = &step;
        let id = id_of(object);
        let resource = resource(id.kind);
        let objects: Api<DynamicObject> = match &*id.key.namespace {
            "" => Api::all_with(client.clone(), &resource),
            namespace => Api::namespaced_with(client.clone(), namespace, &resource),
        };
        let done = match &step {
            Step::Delete(_) => objects.delete(&id.key.name, &DeleteParams::default().grace_period(0)).await.map(drop),
            Step::Apply(_) => objects.patch(&id.key.name, &how, &Patch::Apply(object)).await.map(drop),
        };
        match (done, &object["status"]) {
            (Ok(()), Value::Null) => taken += 1,
            (Ok(()), status) => {
                taken += 1;
                let status = Patch::Merge(json!({ "status": status }));
                if matches!(step, Step::Apply(_)) {
                    refused(objects.patch_status(&id.key.name, &PatchParams::default(), &status).await)?;
                }
            }
            (Err(error), _) => drop(refused(Err::<(), _>(error))?),
        }
    }
    Ok(taken)
}

/// What the API server refuses is no error here: not found, a conflict, invalid.
fn refused<T>(done: kube::Result<T>) -> Result<Option<T>> {
    match done {
        Err(kube::Error::Api(status)) if [404, 409, 422].contains(&status.code) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(value) => Ok(Some(value)),
    }
}

fn step(random: &mut Random) -> Step {
    let object = object(random);
    if random.below(4) == 0 { Step::Delete(object) } else { Step::Apply(object) }
}

fn object(random: &mut Random) -> Value {
    match random.below(10) {
        0..=3 => service(random),
        4..=7 => slice(random),
        8 => pod(random),
        _ => node(random),
    }
}

fn service(random: &mut Random) -> Value {
    let kind = *random.pick(&["LoadBalancer", "LoadBalancer", "ClusterIP", "NodePort"]);
    let external = random.pick(&[json!([]), json!(["198.51.100.1"]), json!(["198.51.100.1", "2001:db8::9"])]).clone();
    let policy = if kind == "ClusterIP" && external == json!([]) { Value::Null } else { random.policy() };
    let balanced = kind == "LoadBalancer";
    let mut object = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": *random.pick(&["a", "a", "b"]), "name": *random.pick(&["s1", "s2", "s3"]),
            "labels": {"tier": *random.pick(&["test", "prod", "prod", "prod"])},
            "annotations": random.pick(&[json!({}), json!({}), json!({"cosmolet.io/advertise": "true"}),
                json!({"cosmolet.io/advertise": "false"}), json!({"cosmolet.platformbuilds.io/announce": "true"}),
                json!({"cosmolet.io/advertise": "maybe", "cosmolet.io/terminating": "ready"})])},
        "spec": {"type": kind, "externalIPs": external, "internalTrafficPolicy": random.policy(),
            "ports": random.pick(&[json!([{"name": "web", "port": 80}]),
                json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "web", "port": 80}])])}});
    if policy != Value::Null {
        object["spec"]["externalTrafficPolicy"] = policy;
    }
    if kind == "ClusterIP" && random.below(4) == 0 {
        object["spec"]["clusterIP"] = "None".into();
    }
    if balanced {
        object["spec"]["allocateLoadBalancerNodePorts"] = false.into();
        object["spec"]["loadBalancerClass"] = (*random.pick(&["ours", "ours", "theirs"])).into();
        object["status"] = json!({"loadBalancer": {"ingress": random.pick(&[json!([]), json!([{"ip": "192.0.2.1"}]),
            json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}, {"ip": "2001:db8::1"}, {"hostname": "x.example"}])])}});
    }
    object
}

fn slice(random: &mut Random) -> Value {
    let v6 = random.below(3) == 0;
    let mut endpoint = |n: usize| {
        let mut endpoint = json!({"addresses": [if v6 { format!("fd00::{}", n + 1) } else { format!("10.0.0.{}", n + 1) }],
            "conditions": {}});
        for condition in ["ready", "serving", "terminating"] {
            if let Some(value) = *random.pick(&[None, Some(true), Some(false)]) {
                endpoint["conditions"][condition] = value.into();
            }
        }
        if let Some(node) = *random.pick(&[None, Some("n2"), Some(NODE), Some(NODE)]) {
            endpoint["nodeName"] = node.into();
        }
        if let Some(pod) = *random.pick(&[None, Some("p1"), Some("p2")]) {
            endpoint["targetRef"] = json!({"kind": "Pod", "name": pod});
        }
        endpoint
    };
    let endpoints: Vec<Value> = (0..3).map(&mut endpoint).collect();
    let mut object = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "metadata": {"namespace": *random.pick(&["a", "b"]), "name": *random.pick(&["e1", "e2", "e3", "e4"])},
        "endpoints": endpoints[..random.below(4)]});
    if let Some(service) = *random.pick(&[None, Some("s1"), Some("s2"), Some("s3")]) {
        object["metadata"]["labels"] = json!({"kubernetes.io/service-name": service});
    }
    object
}

fn pod(random: &mut Random) -> Value {
    let state = random.pick(&[json!({"running": {}}), json!({"waiting": {"reason": "CrashLoopBackOff"}})]).clone();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": *random.pick(&["a", "b"]), "name": *random.pick(&["p1", "p2"])},
        "spec": {"nodeName": *random.pick(&[NODE, NODE, "n2"]), "containers": [{"name": "c", "image": "c:1"}]},
        "status": {"containerStatuses": [{"name": "c", "image": "c:1", "imageID": "", "ready": false,
                                          "restartCount": random.below(3), "state": state}]}})
}

fn node(random: &mut Random) -> Value {
    let excluded = json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""});
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": *random.pick(&[NODE, NODE, "n2"]), "labels": random.pick(&[json!({}), excluded])},
        "spec": {"unschedulable": random.below(3) == 0,
            "taints": random.pick(&[json!([]), json!([{"key": "drain", "effect": "NoSchedule"}])])},
        "status": {"conditions": [{"type": "NetworkUnavailable", "status": *random.pick(&["True", "False"])}]}})
}

/// Numbers that look random and are the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn policy(&mut self) -> Value {
        (*self.pick(&["Local", "Cluster"])).into()
    }
}
