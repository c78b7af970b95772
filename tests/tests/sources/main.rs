//! The sources of Services: the same objects through a real kube-apiserver and through a directory of manifests, and
//! what becomes of the first when the API server fails.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests; a source makes few of the events"
)]

mod any_order;
mod bookmarks;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet::engine::event::{Event, SourceState};
use cosmolet::engine::service::{NodeView, PodView, ServiceView, VipKind};
use cosmolet::engine::types::{PodKey, ServiceKey};
use cosmolet::kubernetes;
use cosmolet::kubernetes::project::Selection;
use cosmolet::kubernetes::watch::Timings;
use cosmolet::manifests::{self, Complaints};
use cosmolet_tests::api_server::{ApiServer, Place, User};
use cosmolet_tests::manifests::Manifests;
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::{Lab, wait};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use tokio::sync::mpsc;

const NODE: &str = "n1";
const LIMIT: Duration = Duration::from_secs(60);
/// Long enough for a wrong event to have shown itself.
const QUIET: Duration = Duration::from_millis(700);

/// A source that runs, and what its events add up to.
struct Follower {
    events: mpsc::Receiver<Event>,
    known: Known,
    state: SourceState,
    /// Every error the source has told.
    errors: Vec<String>,
    _runtime: tokio::runtime::Runtime,
}

/// What the receiver of the events knows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    services: BTreeMap<ServiceKey, ServiceView>,
    node: NodeView,
    pods: BTreeMap<PodKey, PodView>,
}

impl Follower {
    fn kubernetes(api: &ApiServer) -> Result<Self> {
        let short = Duration::from_secs(2);
        Self::kubernetes_as(api, User::Admin, Timings { answer: short, idle: short, ..Timings::default() })
    }

    fn kubernetes_as(api: &ApiServer, user: User, timings: Timings) -> Result<Self> {
        let mut options = kubernetes::Options::new(api.config(user)?);
        options.page_size = 2;
        options.timings = timings;
        Self::start(async |events| kubernetes::run(options, selection(), events).await.expect("a client"))
    }

    fn manifests(directory: &Manifests) -> Result<Self> {
        let path = directory.path().to_owned();
        Self::start(async |events| manifests::run(path, selection(), events, Complaints::default()).await)
    }

    fn start<F>(source: impl FnOnce(mpsc::Sender<Event>) -> F) -> Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (sender, events) = mpsc::channel(16);
        runtime.spawn(source(sender));
        let (known, state) = (Known::default(), SourceState::Syncing);
        Ok(Self { events, known, state, errors: Vec::new(), _runtime: runtime })
    }

    /// Takes in the events that have arrived; returns those about objects.
    fn take(&mut self) -> Vec<Event> {
        let mut changes = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            match event.clone() {
                Event::Source(state) => {
                    if let SourceState::Stale(error) = &state {
                        self.errors.push(error.clone());
                    }
                    self.state = state;
                    continue;
                }
                Event::Service(view) => drop(self.known.services.insert(view.key.clone(), *view)),
                Event::ServiceGone(key) => drop(self.known.services.remove(&key)),
                Event::Node(view) => self.known.node = view,
                Event::Pod(key, view) => drop(self.known.pods.insert(key, view)),
                Event::PodGone(key) => drop(self.known.pods.remove(&key)),
                other => panic!("not an event of a source: {other:?}"),
            }
            changes.push(event);
        }
        changes
    }

    fn wait(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<()> {
        wait::until_true(what, LIMIT, || {
            self.take();
            Ok(holds(self))
        })
        .with_context(|| format!("state {:?}, known {:?}, errors {:?}", self.state, self.known, self.errors))
    }

    fn wait_synced(&mut self) -> Result<()> {
        self.wait("synced", |follower| follower.state == SourceState::Synced)
    }

    fn wait_stale(&mut self) -> Result<()> {
        self.wait("stale", |follower| matches!(follower.state, SourceState::Stale(_)))
    }

    /// Nothing is said about any object for a while.
    fn expect_nothing(&mut self, during: Duration) -> Result<()> {
        let until = Instant::now() + during;
        while Instant::now() < until {
            let changes = self.take();
            ensure!(changes.is_empty(), "{changes:?}");
            std::thread::sleep(wait::PERIOD);
        }
        Ok(())
    }

    /// Waits for a state, and nothing is said about any object until then.
    fn expect_only(&mut self, what: &str, reached: impl Fn(&Self) -> bool) -> Result<()> {
        let before = self.known.clone();
        wait::until_true(what, LIMIT, || {
            let changes = self.take();
            assert!(changes.is_empty(), "{changes:?}");
            Ok(reached(self))
        })?;
        ensure!(before == self.known, "nothing has changed");
        Ok(())
    }

    fn ready(&self, service: &str) -> Option<(usize, u32)> {
        let endpoints = &self.known.services.get(&ServiceKey::new(objects::NAMESPACE, service))?.endpoints.v4;
        let ready = cosmolet::engine::service::EndpointCondition::Ready;
        let local = endpoints.local.iter().filter(|endpoint| endpoint.condition == ready).count();
        Some((local, endpoints.remote.ready))
    }
}

fn selection() -> Selection {
    Selection {
        types: [VipKind::LoadBalancer, VipKind::ExternalIp, VipKind::ClusterIp].into(),
        drain_taints: ["example.com/drain".to_owned()].into(),
        ..Selection::new(NODE)
    }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

fn backend(node: &str, last: u8, state: State) -> k8s_openapi::api::discovery::v1::Endpoint {
    objects::of_pod(objects::endpoint(IpAddr::V4(Ipv4Addr::new(10, 244, 0, last)), node, state), &format!("p{last}"))
}

fn slice(name: &str, service: &str, state: State) -> EndpointSlice {
    objects::slice(name, service, 80, vec![backend(NODE, 1, state), backend("n2", 2, State::Ready)])
}

/// A Service with as much in it as the API server lets through.
fn rich_service() -> Result<Service> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "rich", "namespace": "default", "annotations": {"cosmolet.io/terminating": "ready"}},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster",
                 "ipFamilyPolicy": "PreferDualStack", "externalIPs": ["198.51.100.7"],
                 "allocateLoadBalancerNodePorts": false,
                 "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "web", "port": 443, "protocol": "TCP"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}, {"ip": "192.0.2.10", "ipMode": "Proxy"},
                                                {"ip": "2001:db8::9", "ipMode": "VIP"}, {"hostname": "x.example"}]}},
    }))?)
}

fn tainted_node() -> Result<Node> {
    let mut node = objects::node(NODE, ip(200));
    node.metadata.labels =
        Some([("node.kubernetes.io/exclude-from-external-load-balancers".to_owned(), String::new())].into());
    node.spec =
        Some(serde_json::from_value(json!({"taints": [{"key": "example.com/drain", "effect": "NoSchedule"}]}))?);
    Ok(node)
}

/// What `kubectl get -o yaml` would write: everything as the API server holds it now.
fn export(api: &ApiServer, manifests: &Manifests) -> Result<()> {
    fn all<K>(api: &ApiServer) -> Result<Vec<Value>>
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Send
            + 'static,
    {
        let items = api.run(async |client| Ok(kube::Api::<K>::all(client).list(&Default::default()).await?.items))?;
        items.iter().map(|item| Ok(serde_json::to_value(item)?)).collect()
    }
    manifests.write_all("services", &all::<Service>(api)?)?;
    manifests.write("nodes", &json!({"apiVersion": "v1", "kind": "List", "items": all::<Node>(api)?}))?;
    manifests.write_all("pods", &all::<Pod>(api)?)?;
    manifests.write_all("slices", &all::<EndpointSlice>(api)?)
}

/// The cluster of the first test.
fn populate(api: &ApiServer) -> Result<()> {
    api.apply(&objects::service("web", &[ip(1)], &[80, 443]))?;
    api.apply(&objects::local(objects::service("mail", &[ip(2), "2001:db8::2".parse()?], &[25])))?;
    api.apply(&rich_service()?)?;
    api.apply(&slice("web-1", "web", State::Ready))?;
    api.apply(&objects::slice("web-2", "web", 80, vec![backend("n3", 3, State::Terminating)]))?;
    api.apply(&objects::slice(
        "mail-6",
        "mail",
        25,
        vec![objects::endpoint("fd00::1".parse()?, NODE, State::Terminating)],
    ))?;
    api.apply(&slice("rich-1", "rich", State::NotReady))?;
    api.apply(&tainted_node()?)?;
    api.apply(&objects::node("n2", ip(201)))?;
    api.apply(&objects::pod("p1", NODE, ip(101), true, 3))?;
    api.apply(&objects::pod("p2", "n2", ip(102), true, 9))
}

#[test]
fn both_sources_give_the_same_views() -> Result<()> {
    let lab = Lab::new()?;
    let api = ApiServer::start(&lab, Place::Loopback)?;
    let directory = Manifests::create(&lab, "same")?;
    populate(&api)?;
    export(&api, &directory)?;
    let (mut a, mut b) = (Follower::kubernetes(&api)?, Follower::manifests(&directory)?);
    a.wait_synced()?;
    b.wait_synced()?;
    assert_eq!(a.known, b.known);
    let rich = &a.known.services[&ServiceKey::new("default", "rich")];
    let kinds: Vec<_> = rich.vips.iter().map(|claim| claim.kind.as_str()).collect();
    assert_eq!(kinds, ["ClusterIP", "LoadBalancer", "ExternalIP", "LoadBalancer", "ClusterIP"], "{:?}", rich.vips);
    assert_eq!(a.ready("web"), Some((1, 1)));
    assert!(a.known.node.excluded && a.known.node.drain_taint.is_some(), "{:?}", a.known.node);
    assert_eq!(a.known.pods, [(PodKey::new("default", "p1"), PodView { restarts: 3, crash_loop: false })].into());

    api.apply(&slice("web-1", "web", State::NotReady))?;
    api.apply(&objects::node(NODE, ip(200)))?;
    api.apply(&objects::service("web", &[ip(1), ip(3)], &[80]))?;
    api.delete::<Service>("mail")?;
    api.delete::<Pod>("p1")?;
    a.wait("all changes", |a| {
        a.ready("web") == Some((0, 1))
            && a.known.services.len() == 3
            && a.known.pods.is_empty()
            && !a.known.node.excluded
    })?;
    export(&api, &directory)?;
    b.wait("the same", |b| b.known == a.known)?;
    Ok(())
}

#[test]
fn the_api_server_may_fail_in_every_way() -> Result<()> {
    let lab = Lab::new()?;
    let mut api = ApiServer::start(&lab, Place::Loopback)?;
    populate(&api)?;
    let etcd = etcd_port(&mut api)?;

    // Down at the start: stale, with an error that says why, and not a word about objects.
    api.kill()?;
    let mut source = Follower::kubernetes(&api)?;
    source.wait_stale()?;
    ensure!(source.errors[0].to_lowercase().contains("connect"), "{:?}", source.errors);
    source.expect_nothing(QUIET)?;
    api.restart()?;
    source.wait_synced()?;
    assert_eq!(source.ready("web"), Some((1, 1)));

    // Paused: noticed, nothing withdrawn; what happens afterwards is seen.
    api.process()?.pause()?;
    source
        .expect_only("no answer", |source| matches!(&source.state, SourceState::Stale(e) if e.contains("no answer")))?;
    source.expect_nothing(QUIET)?;
    api.process()?.resume()?;
    source.expect_only("synced", |source| source.state == SourceState::Synced)?;
    api.apply(&slice("web-1", "web", State::NotReady))?;
    source.wait("the change", |source| source.ready("web") == Some((0, 1)))?;

    // Killed, and history compacted meanwhile: everything is listed again, and nothing is said of what is unchanged.
    api.kill()?;
    source.expect_only("stale", |source| matches!(source.state, SourceState::Stale(_)))?;
    compact(etcd)?;
    api.restart()?;
    source.expect_only("synced", |source| source.state == SourceState::Synced)?;
    ensure!(source.errors.iter().any(|error| error.contains("compacted")), "{:?}", source.errors);
    source.expect_nothing(QUIET)?;

    // What went while nobody could see it is found missing by the list; only that is said.
    api.kill()?;
    source.expect_only("stale", |source| matches!(source.state, SourceState::Stale(_)))?;
    etcd_call(etcd, "deleterange", &json!({"key": base64("/registry/services/specs/default/mail")}))?;
    compact(etcd)?;
    api.restart()?;
    let mut changes = Vec::new();
    // A watch that opens and is told only then that its history is gone counts as open for that moment.
    wait::until_true("synced, and the change", LIMIT, || {
        changes.extend(source.take());
        Ok(source.state == SourceState::Synced && !changes.is_empty())
    })
    .with_context(|| format!("state {:?}, errors {:?}", source.state, source.errors))?;
    assert_eq!(changes, [Event::ServiceGone(ServiceKey::new("default", "mail"))]);
    source.expect_nothing(QUIET)?;

    // And the watches are whole.
    api.apply(&slice("web-1", "web", State::Ready))?;
    source.wait("the change", |source| source.ready("web") == Some((1, 1)))
}

/// The port of the lab's etcd, from the API server's own command line.
fn etcd_port(api: &mut ApiServer) -> Result<u16> {
    let command = std::fs::read_to_string(format!("/proc/{}/cmdline", api.process()?.pid()))?;
    let option = command.split('\0').find_map(|option| option.strip_prefix("--etcd-servers=http://127.0.0.1:"));
    Ok(option.context("--etcd-servers")?.parse()?)
}

/// Makes etcd forget every version but the newest, after one more change.
fn compact(port: u16) -> Result<()> {
    let put = etcd_call(port, "put", &json!({"key": base64("/lab"), "value": base64("x")}))?;
    let revision = put["header"]["revision"].as_str().context("a revision")?.to_owned();
    etcd_call(port, "compaction", &json!({"revision": revision, "physical": true})).map(drop)
}

/// A call through etcd's JSON gateway.
fn etcd_call(port: u16, call: &str, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    write!(
        stream,
        "POST /v3/kv/{call} HTTP/1.0\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    ensure!(head.contains(" 200 "), "{answer}");
    Ok(serde_json::from_str(body)?)
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut coded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let at = (bits >> (18 - 6 * digit)) & 63;
            coded.push(if digit <= chunk.len() { char::from(DIGITS[at as usize]) } else { '=' });
        }
    }
    coded
}
