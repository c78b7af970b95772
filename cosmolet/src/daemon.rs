//! Wiring and the control loop.
//!
//! Owns the engine's clock, the one plan in flight and the order of things at start and end. Never waits for anything
//! but its own events: what takes time happens in the edges' tasks.

mod drain;
mod sources;
mod told;
mod turn;
mod unseen;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::apply::Applier;
use crate::book::Book;
use crate::config::{Config, OnExit, Source};
use crate::engine::ejections::Guard;
use crate::engine::event::Event;
use crate::engine::observed::{BgpState, PeerView, ProberState};
use crate::engine::traffic::TrafficMode;
use crate::engine::{Engine, Settings};
use crate::frr::{Frr, FrrHandle};
use crate::metrics::Metrics;
use crate::netlink::apply::Addresses;
use crate::netlink::{observe, uplinks};
use crate::probe::Sources;
use crate::probing::{self, ProbingHandle};
use crate::programs::{self, ProgramsHandle};
use crate::{ebpf, http, questions, recording};

/// Events that may wait for the control loop; whoever sends more waits.
const QUEUE: usize = 4096;
/// How long VIPs may take to leave when the daemon ends with `bgp.on_exit: withdraw`.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Something that no retry will mend: the listener's address is in use, or there is no way to the source at all.
pub async fn run(config: Config) -> Result<()> {
    info!(version = env!("CARGO_PKG_VERSION"), node = %config.node_name, "cosmolet starts");
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    let source_kind = match config.services.source {
        Source::Kubernetes => "kubernetes",
        Source::Manifests(_) => "manifests",
    };
    let book = Arc::new(Book::new(config.node_name.clone(), source_kind, config.traffic.mode));
    let metrics = Arc::new(Metrics::new(Arc::clone(&book), config.metrics_per_port));
    let (events, inbox) = mpsc::channel(QUEUE);
    // What cannot work at all is found out before anything starts to move.
    let listener = http::bind(config.http_listen).await?;
    // Before any Service: whether probes can be sent is known a moment later, and until then VIPs wait.
    events.send(Event::Prober(ProberState::Starting)).await.context("the control loop is gone")?;
    let mut tasks = JoinSet::new();
    drain::spawn(config.services.drain_file.clone(), events.clone(), &mut tasks).await?;
    let selection = sources::selection(&config)?;
    sources::spawn(&config, selection, events.clone(), Arc::clone(&book), &mut tasks).await?;
    let announcer = told::spawn(&config, &book, &metrics, &mut tasks).await?;
    let ejections = told::spawn_ejections(&config, &book, &events, &mut tasks).await?;
    let (asker, questions) = questions::channel();
    let (recorder, tap) = recording::tap::channel();
    let served = http::serve(listener, Arc::clone(&book), Arc::clone(&metrics), asker, recorder);
    tasks.spawn(async { match served.await {} });
    drop(observe::spawn(config.loopback.interface.clone(), events.clone()).context("the kernel's addresses")?);
    let frr = frr(&config, &events).await?;
    let (peers, peers_seen) = watch::channel(Vec::new());
    let (programs, probing) = data_plane(&config, peers_seen, &events, &book, &metrics).await?;
    let addresses = Addresses::new(config.loopback.interface.clone(), config.excluded().to_vec());
    let control = turn::Control::new(
        Engine::new(settings(&config)),
        Applier::new(addresses, frr.clone(), programs),
        inbox,
        turn::Surroundings { book, metrics, frr, peers, announcer, ejections, probing, questions, tap },
    );
    until_signalled(control, tasks, events, config.bgp.on_exit).await
}

/// Runs the control loop until a signal, or until a task ends that never should.
async fn until_signalled(
    mut control: turn::Control,
    mut tasks: JoinSet<Result<()>>,
    events: mpsc::Sender<Event>,
    on_exit: OnExit,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let ended = tokio::select! {
        never = control.run() => match never {},
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        Some(task) = tasks.join_next() => Err(task),
    };
    let cause = match ended {
        Ok(cause) => cause,
        Err(task) => {
            task.context("a task panicked")??;
            anyhow::bail!("a task ended that never should");
        }
    };
    match on_exit {
        OnExit::Keep => info!(%cause, "cosmolet ends; its VIPs stay until their leases end (bgp.on_exit: keep)"),
        OnExit::Withdraw => {
            info!(%cause, "cosmolet withdraws its VIPs and ends (bgp.on_exit: withdraw)");
            events.send(Event::Exit).await.context("the control loop is gone")?;
            tokio::select! {
                () = control.run_until_empty() => info!("all VIPs are withdrawn"),
                () = tokio::time::sleep(EXIT_LIMIT) => warn!("some VIPs could not be withdrawn in {EXIT_LIMIT:?}"),
                _ = terminate.recv() => warn!("a second signal: some VIPs may still be there"),
                _ = interrupt.recv() => warn!("a second signal: some VIPs may still be there"),
            }
        }
    }
    Ok(())
}

fn settings(config: &Config) -> Settings {
    Settings {
        rules: config.services.rules.clone(),
        addresses: config.loopback.enabled,
        lease: config.loopback.lease,
        traffic_mode: config.traffic.mode,
        traffic: config.traffic.rule,
        guard: match config.services.source {
            Source::Kubernetes => Guard::Register,
            Source::Manifests(_) => Guard::NotAlone,
        },
        pod_hold: config.services.restart_hold,
        prove: config.traffic.prove,
        drain: config.bgp.drain,
        probe_round: config.traffic.probe.round,
        check: config.traffic.probe.check,
        seed: seed(&config.node_name),
        ..Settings::default()
    }
}

/// FNV-1a of the node's name: the same spread at every start.
fn seed(node: &str) -> u64 {
    node.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

async fn frr(config: &Config, events: &mpsc::Sender<Event>) -> Result<Option<FrrHandle>> {
    if !config.bgp.enabled {
        events.send(Event::Bgp(BgpState::Disabled)).await.context("the control loop is gone")?;
        return Ok(None);
    }
    let mut options = crate::frr::Options::new(&config.frr_sockets);
    options.asn = config.bgp.asn;
    options.mode = config.bgp.mode;
    options.vrf = config.bgp.vrf.clone();
    options.addresses = config.loopback.enabled;
    Ok(Some(Frr::spawn(options, events.clone())))
}

async fn data_plane(
    config: &Config,
    peers: watch::Receiver<Vec<PeerView>>,
    events: &mpsc::Sender<Event>,
    book: &Arc<Book>,
    metrics: &Arc<Metrics>,
) -> Result<(Option<ProgramsHandle>, Option<ProbingHandle>)> {
    if config.traffic.mode == TrafficMode::Off {
        let off = crate::engine::observed::ProgramsState::Off("traffic.mode is off".to_owned());
        events.send(Event::Programs(off)).await.context("the control loop is gone")?;
        let off = ProberState::Off("traffic.mode is off".to_owned());
        events.send(Event::Prober(off)).await.context("the control loop is gone")?;
        return Ok((None, None));
    }
    let found = uplinks::watch(config.traffic.interfaces.clone(), peers).await.context("the uplinks")?;
    let log = match config.logging.level {
        tracing::Level::TRACE => ebpf::ProgramLog::Trace,
        tracing::Level::DEBUG => ebpf::ProgramLog::Debug,
        _ => ebpf::ProgramLog::Off,
    };
    let max_ports = config.traffic.max_ports.unwrap_or_else(ebpf::fitting_ports);
    let handshakes = config.traffic.max_handshakes;
    let mut options = ebpf::Options { max_ports, handshakes, log, ..ebpf::Options::default() };
    let sources = Sources::new(&config.traffic.probe.sources);
    let (probing, for_probing) = match sources.check() {
        Ok(()) => {
            options.probes = sources.prefixes();
            let (ring, ring_seen) = oneshot::channel();
            let (attached, attached_seen) = watch::channel(Vec::new());
            let heard = probing::FromPrograms { ring: ring_seen, attached: attached_seen };
            let options = probing::Options { sources, rate: config.traffic.probe.rate };
            let handle = probing::spawn(options, heard, events.clone(), Arc::clone(metrics));
            (Some(handle), Some(programs::ForProbing { ring, attached }))
        }
        Err(error) => {
            let off = ProberState::Off(error.to_string());
            events.send(Event::Prober(off)).await.context("the control loop is gone")?;
            (None, None)
        }
    };
    let programs = programs::spawn(options, found, events.clone(), Arc::clone(book), Arc::clone(metrics), for_probing);
    Ok((Some(programs), probing))
}
