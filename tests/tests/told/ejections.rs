//! The register of ejections on a real API server: many nodes ask at once, and never may all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cosmolet::engine::event::Event;
use cosmolet::engine::guard::{Refused, Wanted};
use cosmolet::engine::service::EndpointScope;
use cosmolet::engine::types::{ServiceKey, Vip};
use cosmolet::kubernetes::ejections::{self, LEASE, Options};
use cosmolet_tests::Lab;
use cosmolet_tests::api_server::{ApiServer, Place};
use cosmolet_tests::client::{Client as Clients, Load};
use cosmolet_tests::fabric::vip4;
use cosmolet_tests::objects::{self, NAMESPACE, State};
use cosmolet_tests::packaging::read;
use cosmolet_tests::prometheus::Prometheus;
use cosmolet_tests::wait;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::{HTTP, NODE, World, grant, role};

const NODES: [&str; 4] = ["node1", "node2", "node3", "node4"];
const ANNOTATION: &str = "cosmolet.io/ejections";
const LOOK: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(15);
const TURNS: u64 = 60;
/// How long a conviction and an alert may take.
const FIRES: Duration = Duration::from_secs(60);

/// What a node was answered last; `None` while it wants nothing.
type Known = BTreeMap<&'static str, Result<(), Refused>>;
type Answers = Arc<Mutex<Known>>;

struct Nodes {
    client: Client,
    wanted: BTreeMap<&'static str, watch::Sender<Wanted>>,
    answers: Answers,
    /// What is wrong, as the nodes tell it.
    errors: Arc<Mutex<BTreeMap<&'static str, String>>>,
    tasks: JoinSet<Result<()>>,
}

#[test]
fn never_all_of_its_nodes_may_withdraw_a_vip() -> Result<()> {
    let lab = Lab::new()?;
    let api = ApiServer::start(&lab, Place::Loopback)?;
    api.apply_all(&NODES.map(daemon))?;
    api.apply(&slice(&NODES))?;
    api.run(async move |client| {
        let mut nodes = Nodes::start(client);
        let seed = u64::from(std::process::id());
        nodes.at_random(seed).await.with_context(|| format!("seed {seed}"))?;
        nodes.together().await?;
        nodes.candidates_go().await?;
        nodes.unreadable().await
    })
}

/// Two of four nodes have withdrawn the VIP: a real daemon on the third may not, keeps it, and the chart's alert says so; once one of
/// the two is back it may.
#[test]
fn enough_others_have_withdrawn_it_and_the_alert_says_so() -> Result<()> {
    let env = [("POD_NAME", "cosmolet-node1"), ("POD_NAMESPACE", NAMESPACE)];
    let mut world = World::raise_with("traffic: {mode: enforce, prove_seconds: 0}", &env)?;
    let mut role = role()?;
    role.rules.get_or_insert_default().push(serde_json::from_value(json!({
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"],
    }))?);
    grant(&world.api, &role)?;
    world.api.apply_all(&NODES.map(daemon))?;
    let mut others = slice(&NODES[1..]);
    others.metadata.name = Some("web-others".to_owned());
    world.api.apply(&others)?;
    world.start()?;
    register(&world.api, json!({"node2": {"ejected": [vip4(1)]}, "node3": {"ejected": [vip4(1)]}}))?;
    let netns = &world.fabric.nodes[0].netns;
    let rules = read("charts/cosmolet/rules/cosmolet.yaml")?.replace("for: 1m", "for: 1s");
    let prometheus = Prometheus::start(&world.lab, netns, &[(NODE, HTTP.parse()?)], &rules)?;
    let fires = || Ok(prometheus.firing(netns)?.iter().any(|name| name == "CosmoletEjectionsSpent"));
    let _client = Clients::start(&world.fabric.client, Load::new(vec![SocketAddr::new(vip4(1), 80)]))?;
    world.fabric.nodes[0].proxy.lose()?;
    wait::until_true("CosmoletEjectionsSpent fires", FIRES, fires)?;
    let row = world.row(vip4(1))?.context("no row")?;
    ensure!(row["state"] == "advertised" && row["ejection_refused"]["reason"] == "ShareSpent", "{row}");
    register(&world.api, json!({"node2": {"ejected": [vip4(1)]}}))?;
    world.wait_row(vip4(1), "withdrawn", |row| row["state"] == "withdrawn" && row["reason"] == "HostRefuses")?;
    wait::until_true("CosmoletEjectionsSpent clears", FIRES, || Ok(!fires()?))
}

/// Writes the register as other nodes would have.
fn register(api: &ApiServer, register: serde_json::Value) -> Result<()> {
    let text = register.to_string();
    api.run(async move |client| {
        let leases: Api<Lease> = Api::namespaced(client, NAMESPACE);
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": LEASE, "annotations": {ANNOTATION: text}},
        });
        leases.patch(LEASE, &PatchParams::apply("test").force(), &Patch::Apply(lease)).await?;
        Ok(())
    })
}

/// A ready pod of the DaemonSet, as no kubelet runs here.
fn daemon(node: &str) -> Pod {
    let mut pod = objects::pod(&format!("cosmolet-{node}"), node, [10, 0, 0, 1].into(), true, 0);
    pod.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "DaemonSet".to_owned(),
        name: "cosmolet".to_owned(),
        uid: "3b0c6c5e-6d3f-4e0c-9d61-2b1f0f6f2a11".to_owned(),
        ..OwnerReference::default()
    }]);
    pod
}

fn slice(nodes: &[&str]) -> EndpointSlice {
    let endpoint = |node: &&str| objects::endpoint([10, 244, 0, 9].into(), node, State::Ready);
    objects::slice("web-v4", "web", 8080, nodes.iter().map(endpoint).collect())
}

/// Whoever panics has told enough.
fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn vip() -> Vip {
    Vip::new(vip4(1))
}

impl Nodes {
    fn start(client: Client) -> Self {
        let mut nodes = Self {
            client,
            wanted: BTreeMap::new(),
            answers: Arc::default(),
            errors: Arc::default(),
            tasks: JoinSet::new(),
        };
        for node in NODES {
            let options = Options {
                node: node.to_owned(),
                namespace: NAMESPACE.to_owned(),
                pod: format!("cosmolet-{node}"),
                share: 0.5,
                look: LOOK,
            };
            let (sender, wanted) = watch::channel(Wanted::new());
            let (events, inbox) = mpsc::channel(16);
            let errors = Arc::clone(&nodes.errors);
            let tell = move |looked: Result<(), String>| {
                let mut errors = locked(&errors);
                match looked {
                    Ok(()) => errors.remove(node),
                    Err(error) => errors.insert(node, error),
                };
            };
            nodes.wanted.insert(node, sender.clone());
            nodes.tasks.spawn(hear(node, sender, inbox, Arc::clone(&nodes.answers)));
            let run = ejections::run(nodes.client.clone(), options, wanted, events, tell);
            nodes.tasks.spawn(async {
                run.await;
                Ok(())
            });
        }
        nodes
    }

    fn want(&self, node: &'static str, wants: bool) {
        let wanted = if wants {
            Wanted::from([(vip(), vec![(ServiceKey::new(NAMESPACE, "web"), EndpointScope::Local)])])
        } else {
            // Before the register hears of it: it advertises again.
            locked(&self.answers).remove(node);
            Wanted::new()
        };
        self.wanted[node].send_replace(wanted);
    }

    /// Nodes change their minds faster than anybody looks.
    async fn at_random(&mut self, seed: u64) -> Result<()> {
        let mut state = seed;
        let mut granted = 0;
        for _ in 0..TURNS {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let node = NODES[usize::try_from((state >> 33) % 4)?];
            self.want(node, !(state >> 40).is_multiple_of(4));
            sleep(Duration::from_millis(20 + (state >> 50) % 60)).await;
            granted += self.permitted();
            self.sound()?;
        }
        ensure!(granted > 0, "nobody ever was permitted anything");
        Ok(())
    }

    async fn together(&mut self) -> Result<()> {
        NODES.iter().for_each(|node| self.want(node, true));
        let all = Err(Refused::EveryoneSuspects);
        self.until("nobody may", |answers| answers.len() == 4 && answers.values().all(|answer| *answer == all)).await?;
        // Two of them are well: the other two are half of the candidates.
        self.want("node3", false);
        self.want("node4", false);
        let both = |answers: &Known| answers.len() == 2 && answers.values().all(Result::is_ok);
        self.until("half of them may", both).await
    }

    async fn candidates_go(&mut self) -> Result<()> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let how = PatchParams::apply("test").force();
        slices.patch("web-v4", &how, &Patch::Apply(slice(&NODES[..3]))).await?;
        let one = |answers: &Known| answers.values().filter(|answer| answer.is_ok()).count() == 1;
        self.until("one of three may", one).await?;
        slices.patch("web-v4", &how, &Patch::Apply(slice(&NODES[..1]))).await?;
        let last = |answers: &Known| answers.get("node1") == Some(&Err(Refused::LastCandidate));
        self.until("the last one may not", last).await?;
        NODES.iter().for_each(|node| self.want(node, false));
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let end = Instant::now() + LIMIT;
        loop {
            let lease = leases.get(LEASE).await?;
            let register = lease.metadata.annotations.unwrap_or_default().remove(ANNOTATION);
            if register.as_deref() == Some("{}") {
                return Ok(());
            }
            ensure!(Instant::now() < end, "nobody wants anything, and the register holds {register:?}");
            sleep(LOOK).await;
        }
    }

    /// A register that cannot be read permits nothing, and is left as it is.
    async fn unreadable(&mut self) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = |text: &str| Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: text}}}));
        leases.patch(LEASE, &PatchParams::default(), &patch("not a register")).await?;
        self.want("node1", true);
        let end = Instant::now() + LIMIT;
        while !locked(&self.errors).get("node1").is_some_and(|error| error.contains(ANNOTATION)) {
            ensure!(Instant::now() < end, "{:?}", locked(&self.errors));
            sleep(LOOK).await;
        }
        ensure!(self.permitted() == 0, "permitted by a register that cannot be read");
        leases.patch(LEASE, &PatchParams::default(), &patch("{}")).await?;
        self.until("it is asked again", |answers| answers.contains_key("node1")).await
    }

    fn permitted(&self) -> usize {
        locked(&self.answers).values().filter(|answer| answer.is_ok()).count()
    }

    /// No task has seen too many permissions.
    fn sound(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => ended?.and_then(|()| bail!("a task has ended")),
            None => Ok(()),
        }
    }

    async fn until(&mut self, what: &str, fits: impl Fn(&Known) -> bool) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !fits(&locked(&self.answers)) {
            self.sound()?;
            let (answers, errors) = (locked(&self.answers).clone(), locked(&self.errors).clone());
            ensure!(Instant::now() < end, "{what}: {answers:?}, {errors:?}");
            sleep(LOOK / 4).await;
        }
        Ok(())
    }
}

/// Takes the answers of one node, as its engine would: to what is no longer asked they come too late.
async fn hear(
    node: &'static str,
    wanted: watch::Sender<Wanted>,
    mut inbox: mpsc::Receiver<Event>,
    answers: Answers,
) -> Result<()> {
    loop {
        let event = inbox.recv().await.context("nobody answers any more")?;
        let Event::Permissions(permissions) = event else { bail!("{event:?}") };
        let mut answers = locked(&answers);
        if wanted.borrow().is_empty() {
            continue;
        }
        if let Some(answer) = permissions.answers.get(&vip()) {
            answers.insert(node, *answer);
        }
        let permitted = answers.values().filter(|answer| answer.is_ok()).count();
        ensure!(permitted <= NODES.len() / 2, "too many at once: {answers:?}");
    }
}
