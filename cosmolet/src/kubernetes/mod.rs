//! Services, EndpointSlices, this node and its pods, from the Kubernetes API.
//!
//! Owns the projection of objects ([`project`]), the watchers of one kind ([`watch`]) and what becomes of all of them
//! together ([`run`]), and what is told in Kubernetes' own words ([`events`],
//! [`condition`], [`statistics`]). Never withdraws for what it has not seen.

pub mod condition;
pub mod daemons;
pub mod ejections;
pub mod events;
pub mod leases;
pub mod project;
pub mod statistics;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use thiserror::Error;
use tokio::sync::{mpsc, watch as watch_channel};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::engine::event::{Event, SourceState};
use project::objects::SERVICE_NAME;
use project::{Kind, Notices, Object, Projector, Selection};
use watch::{Timings, Update, Watcher};

/// Updates taken together at most; what is ready at once becomes one change.
const BATCH: usize = 256;

/// How the API server is reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// The client's configuration, for example from [`client_config`].
    pub client: kube::Config,
    /// Objects in one page of a list: bounds the memory that a list takes for a moment.
    pub page_size: u32,
    /// How long to wait for what.
    pub timings: Timings,
    /// What is wrong with the annotations of Services.
    pub notices: watch_channel::Sender<Arc<Notices>>,
}

impl Options {
    /// The defaults with this client configuration.
    #[must_use]
    pub fn new(client: kube::Config) -> Self {
        Self { client, page_size: 100, timings: Timings::default(), notices: watch_channel::Sender::default() }
    }
}

/// Why the source cannot run at all. Everything else is retried for ever.
#[derive(Debug, Error)]
pub enum Error {
    /// Neither a kubeconfig nor a pod's service account.
    #[error("no way to the Kubernetes API: {0}")]
    NoConfig(#[source] Box<kube::config::InferConfigError>),
    /// The client cannot be made from its configuration, for example a bad certificate.
    #[error("the Kubernetes client's configuration cannot be used: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// Finds the API server: `KUBECONFIG` or `~/.kube/config`, else the pod's service account.
///
/// # Errors
/// [`Error::NoConfig`] if there is neither.
pub async fn client_config() -> Result<kube::Config, Error> {
    kube::Config::infer().await.map_err(|error| Error::NoConfig(Box::new(error)))
}

/// Watches the API and sends what changes for this node, until the receiver of `events` is gone.
///
/// Sends `Source(Synced)` once every kind has been delivered whole and all watches are open, and `Source(Stale)` with
/// the last error while a watch is broken, also if the API server has never been reached. Whole lists are compared
/// with what is known, so a list of unchanged objects sends nothing.
///
/// # Errors
/// [`Error::Client`] if no client can be made.
pub async fn run(options: Options, selection: Selection, events: mpsc::Sender<Event>) -> Result<(), Error> {
    let client = client(options.client.clone())?;
    let (updates, inbox) = mpsc::channel(BATCH);
    let mut tasks = JoinSet::new();
    let watcher = Watcher::new(options.client, client, selection.clone(), updates, options.page_size, options.timings);
    let (node, pods) =
        (format!("metadata.name={}", selection.node_name), format!("spec.nodeName={}", selection.node_name));
    tasks.spawn(watcher.clone().labels(SERVICE_NAME).follow::<EndpointSlice>());
    tasks.spawn(watcher.clone().fields(&node).follow::<Node>());
    tasks.spawn(watcher.clone().fields(&pods).follow::<Pod>());
    tasks.spawn(watcher.follow::<Service>());
    Merge::new(selection, events, options.notices).run(inbox).await;
    Ok(())
}

/// A client of this configuration. It bounds connecting only: whoever asks bounds the answers.
///
/// # Errors
/// [`Error::Client`] if none can be made.
pub fn client(mut config: kube::Config) -> Result<Client, Error> {
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = None;
    Client::try_from(config).map_err(|error| Error::Client(Box::new(error)))
}

/// What all watchers say, as one stream of events.
struct Merge {
    projector: Projector,
    events: mpsc::Sender<Event>,
    notices: watch_channel::Sender<Arc<Notices>>,
    watches: [WatchState; Kind::ALL.len()],
    told: SourceState,
}

/// How far one watcher is.
#[derive(Clone, Debug, Default)]
struct WatchState {
    listed: bool,
    open: bool,
    error: Option<String>,
}

/// The receiver of events is gone.
struct Closed;

impl Merge {
    fn new(selection: Selection, events: mpsc::Sender<Event>, notices: watch_channel::Sender<Arc<Notices>>) -> Self {
        Self {
            projector: Projector::new(selection),
            events,
            notices,
            watches: <[WatchState; Kind::ALL.len()]>::default(),
            told: SourceState::Syncing,
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<(Kind, Update)>) {
        let mut batch = Vec::with_capacity(BATCH);
        let closed = self.events.clone();
        if self.send(vec![Event::Source(SourceState::Syncing)]).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                () = closed.closed() => return,
                received = inbox.recv_many(&mut batch, BATCH) => if received == 0 { return },
            }
            if self.take(batch.drain(..)).await.is_err() {
                return;
            }
        }
    }

    /// Applies neighbouring changes as one and everything else in its order.
    async fn take(&mut self, updates: impl Iterator<Item = (Kind, Update)>) -> Result<(), Closed> {
        let mut changes = Vec::new();
        for (kind, update) in updates {
            match update {
                Update::Changed(object) => {
                    // A Node that is gone keeps its last word: a node that was drained and then deleted stays drained,
                    // one that was deleted by mistake keeps serving. So a list of Nodes sweeps nothing either.
                    if kind != Kind::Node || object.summary.is_some() {
                        changes.push(object);
                    }
                    continue;
                }
                Update::ListBegins if kind == Kind::Node => {}
                Update::ListBegins => {
                    self.apply(&mut changes).await?;
                    self.projector.begin_relist(kind);
                }
                Update::ListEnds => {
                    self.apply(&mut changes).await?;
                    self.end_list(kind).await?;
                }
                Update::Open => {
                    self.apply(&mut changes).await?;
                    self.watch_mut(kind).open = true;
                    self.watch_mut(kind).error = None;
                }
                Update::Failed(error) => {
                    debug!(kind = kind.as_str(), error, "watch failed");
                    self.watch_mut(kind).error = Some(error);
                }
            }
            self.tell_state().await?;
        }
        self.apply(&mut changes).await
    }

    async fn apply(&mut self, changes: &mut Vec<Object>) -> Result<(), Closed> {
        let events = self.projector.change(changes.drain(..));
        self.send(events).await
    }

    async fn end_list(&mut self, kind: Kind) -> Result<(), Closed> {
        if kind == Kind::Node && self.projector.node().is_none() {
            let node = &self.projector.selection().node_name;
            warn!(node, "Kubernetes has no Node of this name: is `node_name` right?");
        }
        let events = self.projector.end_relist(kind);
        self.watch_mut(kind).listed = true;
        self.send(events).await
    }

    fn watch_mut(&mut self, kind: Kind) -> &mut WatchState {
        let [services, slices, node, pods] = &mut self.watches;
        match kind {
            Kind::Service => services,
            Kind::EndpointSlice => slices,
            Kind::Node => node,
            Kind::Pod => pods,
        }
    }

    /// Sends the state of the source if it has changed; everything before has been sent.
    async fn tell_state(&mut self) -> Result<(), Closed> {
        let state = self.state();
        if state == self.told {
            return Ok(());
        }
        match &state {
            SourceState::Syncing => info!("reading from the Kubernetes API"),
            SourceState::Synced => info!("the Kubernetes API has delivered everything"),
            SourceState::Stale(error) if self.told.as_str() != state.as_str() => {
                warn!(error, "the Kubernetes API cannot be watched: the last good state stands");
            }
            SourceState::Stale(_) => {}
        }
        self.told = state.clone();
        self.send(vec![Event::Source(state)]).await
    }

    fn state(&self) -> SourceState {
        let failed = Kind::ALL.iter().zip(&self.watches).find_map(|(kind, watch)| Some((kind, watch.error.as_ref()?)));
        if let Some((kind, error)) = failed {
            return SourceState::Stale(format!("{}: {error}", kind.as_str()));
        }
        if self.watches.iter().all(|watch| watch.listed && watch.open) {
            SourceState::Synced
        } else {
            SourceState::Syncing
        }
    }

    async fn send(&self, events: Vec<Event>) -> Result<(), Closed> {
        let notices = self.projector.notices();
        self.notices.send_if_modified(|told| {
            let news = !Arc::ptr_eq(told, notices);
            told.clone_from(notices);
            news
        });
        for event in events {
            self.events.send(event).await.map_err(|_closed| Closed)?;
        }
        Ok(())
    }
}
