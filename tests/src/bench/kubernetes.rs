//! Through a real watch: the daemon's own share of an endpoint's change, its start, and what it asks for at rest.
//!
//! The share runs from the moment when a plain watch beside the daemon has the changed slice to the first byte of the command
//! at FRR (a proxy in front of the socket reads the clock): what the API server and etcd take is in neither end.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};

use super::figure::{Figure, Measure, Summary};
use super::world::{LIMIT, OWN, World, node, service, vips};
use crate::api_server::{ApiServer, Place, User};
use crate::fabric::{BACKEND_PORT, MANAGEMENT, Mode, host};
use crate::objects::{self, NAMESPACE, State};
use crate::runtime::Runtime;
use crate::wait;

/// VIPs that take turns, so that the address of each is gone again before its next turn.
const TURNS: u16 = 10;
const REST: Duration = Duration::from_millis(25);
/// The most that 99 of 100 events may take, in milliseconds.
const SHARE: f64 = 5.0;
/// The most that a start may take, in milliseconds.
const START: f64 = 2000.0;
const ENDPOINTS_EACH: u8 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// What the daemon reads.
const RESOURCES: [&str; 4] = ["services", "endpointslices", "nodes", "pods"];

/// Measures the share among this many Services; the first `TURNS` of them change.
pub fn share(services: u16, rounds: usize) -> Result<Vec<Figure>> {
    let (mut world, proxy) = World::raise_proxied()?;
    let api = raise(&mut world, services, State::NotReady)?;
    world.start()?;
    world.wait_state("withdrawn", services.into())?;
    let witness = Witness::start(&world, &api)?;
    let (mut ready, mut not_ready, mut server) = (Vec::new(), Vec::new(), Vec::new());
    for (n, vip) in (1..=TURNS).zip(vips(TURNS)).cycle().take(rounds) {
        for (state, no, spans) in [(State::Ready, "", &mut ready), (State::NotReady, "no ", &mut not_ready)] {
            sleep(REST);
            let since = Instant::now();
            api.apply(&slice(n, state))?;
            let at = proxy.wait_command(&format!("{no}network {}", host(vip)), since, LIMIT)?;
            let seen = witness.wait(&slice_name(n), state == State::Ready, since)?;
            // Negative when the daemon has answered before a plain watch has even decoded the slice.
            let [answered, told] = [at, seen].map(|moment| moment.duration_since(since).as_secs_f64() * 1e3);
            spans.push(answered - told);
            server.push(seen.duration_since(since));
        }
    }
    std::fs::remove_file(proxy.path())?;
    let row = |name: &str, spans: &[f64]| Figure {
        name: format!("{name}, {services} Services"),
        unit: "ms",
        own: Summary::of(spans),
        against: "written -> seen by a plain watch".to_owned(),
        baseline: Some(Summary::of_spans(&server)),
        measure: Measure::P99,
        target: Some(SHARE),
    };
    Ok(vec![row("watch: ready -> first byte at FRR", &ready), row("watch: not ready -> first byte", &not_ready)])
}

/// Measures starts on a cluster of this many Services, all advertised, and then what is asked for in a minute at rest.
pub fn start(services: u16, rounds: usize) -> Result<Vec<Figure>> {
    let mut world = World::raise(Mode::Dynamic)?;
    let api = raise(&mut world, services, State::Ready)?;
    world.start()?;
    world.wait_state("advertised", services.into())?;
    let mut spans = Vec::new();
    for _ in 0..rounds {
        world.daemon.stop(LIMIT)?;
        let started = world.daemon.launch()?;
        world.daemon.wait_ready(LIMIT)?;
        world.wait_state("advertised", services.into())?;
        spans.push(started.elapsed());
    }
    let asked = requests(&api)?;
    sleep(MINUTE);
    let asked: Vec<f64> = requests(&api)?.iter().zip(asked).map(|(after, before)| after - before).collect();
    let endpoints = u32::from(services) * u32::from(ENDPOINTS_EACH);
    let absolute = |name: String, unit, own: Summary, measure, target| Figure {
        name,
        unit,
        own,
        against: String::new(),
        baseline: None,
        measure,
        target,
    };
    Ok(vec![
        absolute(
            format!("start -> {services} Services, {endpoints} endpoints adopted"),
            "ms",
            Summary::of_spans(&spans),
            Measure::P50,
            Some(START),
        ),
        absolute(
            "a minute at rest: lists and gets".to_owned(),
            "requests",
            Summary::of(&asked[..1]),
            Measure::P50,
            Some(0.0),
        ),
        absolute("  watches that ended".to_owned(), "requests", Summary::of(&asked[1..]), Measure::P50, None),
    ])
}

/// Starts the API server with this node and these Services, and makes the daemon follow it.
fn raise(world: &mut World, services: u16, first: State) -> Result<ApiServer> {
    let api = ApiServer::start(&world.lab, Place::Inside(&world.fabric.management, MANAGEMENT))?;
    api.apply(&node(false))?;
    let slices: Vec<EndpointSlice> = (1..=services).map(|n| slice(n, first)).collect();
    api.apply_all(&slices)?;
    // Each `Local` Service would take one of the API server's 2768 node ports: enough for these.
    let all: Vec<Service> = (1..=services).map(service).collect();
    api.apply_all(&all)?;
    world.follow(&api.kubeconfig(User::Admin))?;
    Ok(api)
}

fn slice_name(n: u16) -> String {
    format!("s{n}-a")
}

/// Ten endpoints, the first on the daemon's node and in this state.
fn slice(n: u16, state: State) -> EndpointSlice {
    let [high, low] = n.to_be_bytes();
    let endpoint = |place: u8| {
        let node = if place == 0 { OWN.to_owned() } else { format!("node-{place}") };
        let state = if place == 0 { state } else { State::Ready };
        objects::endpoint([10, 128 + place, high, low].into(), &node, state)
    };
    objects::slice(&slice_name(n), &format!("s{n}"), BACKEND_PORT, (0..ENDPOINTS_EACH).map(endpoint).collect())
}

/// When, which slice, and whether its first endpoint was ready.
type Seen = Arc<Mutex<Vec<(Instant, String, bool)>>>;

/// A plain watch of slices beside the daemon, from the daemon's own namespace.
struct Witness {
    seen: Seen,
    _runtime: Runtime,
}

impl Witness {
    fn start(world: &World, api: &ApiServer) -> Result<Self> {
        let runtime = Runtime::start("witness", Some(world.own().netns.door()))?;
        let (seen, config) = (Seen::default(), api.config(User::Admin)?);
        let record = Arc::clone(&seen);
        let slices = runtime.run(async move {
            let slices: Api<EndpointSlice> = Api::namespaced(Client::try_from(config)?, NAMESPACE);
            let version = slices.list(&ListParams::default().limit(1)).await?.metadata.resource_version;
            anyhow::Ok((slices, version.context("no version")?))
        })??;
        runtime.spawn(async move {
            let stream = slices.0.watch(&WatchParams::default(), &slices.1).await?;
            pin_mut!(stream);
            while let Some(event) = stream.next().await {
                if let WatchEvent::Added(slice) | WatchEvent::Modified(slice) = event? {
                    let conditions = slice.endpoints.first().and_then(|endpoint| endpoint.conditions.as_ref());
                    let ready = conditions.and_then(|conditions| conditions.ready) == Some(true);
                    let name = slice.metadata.name.unwrap_or_default();
                    record.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), name, ready));
                }
            }
            anyhow::Ok(())
        });
        Ok(Self { seen, _runtime: runtime })
    }

    fn wait(&self, slice: &str, ready: bool, since: Instant) -> Result<Instant> {
        wait::until("the plain watch has it", LIMIT, || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let hit = seen.iter().find(|(at, name, state)| *at >= since && name == slice && *state == ready);
            Ok(hit.map(|(at, ..)| *at))
        })
    }
}

/// What the API server has answered so far about the daemon's kinds: lists and gets, and watches.
fn requests(api: &ApiServer) -> Result<[f64; 2]> {
    let text = api.run(async |client| {
        let request = kube::core::Request::new("/metrics").list(&ListParams::default())?;
        Ok(client.request_text(request).await?)
    })?;
    let count = |verbs: &[&str]| -> f64 {
        let of = |line: &&str, label: &str, values: &[&str]| {
            values.iter().any(|value| line.contains(&format!("{label}=\"{value}\"")))
        };
        let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
        lines
            .filter(|line| of(line, "resource", &RESOURCES) && of(line, "verb", verbs))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    let counts = [count(&["LIST", "GET"]), count(&["WATCH"])];
    ensure!(counts[0] > 0.0, "the API server counts no requests at all");
    Ok(counts)
}
