//! Starts what is told in Kubernetes' own words, and tells the book and the metrics how it goes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use tracing::{debug, info, warn};

use crate::advertised::{Advertised, Dated, Statistics};
use crate::book::{Book, Summary, Told};
use crate::config::{Config, Source, is_label};
use crate::engine::event::{Event, SourceState};
use crate::engine::guard::Wanted;
use crate::engine::observed::{BgpState, ProgramsState};
use crate::engine::traffic::TrafficMode;
use crate::kubernetes;
use crate::kubernetes::condition::{self, Readiness};
use crate::kubernetes::ejections;
use crate::kubernetes::events::{self, Announcer, Report};
use crate::kubernetes::statistics;
use crate::metrics::Metrics;

/// Where a pod finds the namespace that it runs in.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Starts what `kubernetes.*` asks for; returns where decisions are announced, if they are.
pub(super) async fn spawn(
    config: &Config,
    book: &Arc<Book>,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<Option<Announcer>> {
    let wanted = &config.kubernetes;
    let any = wanted.events || wanted.node_condition || wanted.statistics;
    if matches!(config.services.source, Source::Manifests(_)) || !any {
        return Ok(None);
    }
    let client = kubernetes::client(kubernetes::client_config().await?).context("Kubernetes")?;
    if wanted.node_condition {
        let function = Function::new("node_condition", book, "on");
        let report = move |written: Result<(), String>| match written {
            Ok(()) => function.works("on"),
            Err(error) => function.fails(&error),
        };
        let (tell, truth) = watch::channel(readiness(&book.summary()));
        tasks.spawn(follow_readiness(Arc::clone(book), tell));
        let task = condition::run(client.clone(), config.node_name.clone(), truth, report);
        tasks.spawn(for_ever(task));
    }
    if wanted.statistics {
        let namespace = namespace(config)?;
        let options =
            statistics::Options { node: config.node_name.clone(), namespace, port: config.http_listen.port() };
        let function = Function::new("statistics", book, "follower");
        let (own, told) = (Arc::clone(book), Arc::clone(book));
        let own = move || (Statistics::wanted(&own), Advertised::of(&own));
        let report = move |report| tell_statistics(&function, &told, report);
        tasks.spawn(for_ever(statistics::run(client.clone(), options, own, report)));
    }
    if !wanted.events {
        return Ok(None);
    }
    let (announcer, inbox) = events::queue();
    let function = Function::new("events", book, "on");
    let metrics = Arc::clone(metrics);
    ["sent", "dropped", "failed"].iter().for_each(|outcome| metrics.events(outcome, 0));
    let report = move |report| tell_events(&function, &metrics, report);
    tasks.spawn(for_ever(events::run(client, config.node_name.clone(), inbox, report)));
    Ok(Some(announcer))
}

/// Starts asking the register of ejections, where the traffic verdict acts and Kubernetes has one; returns where to say what is
/// wanted.
pub(super) async fn spawn_ejections(
    config: &Config,
    book: &Arc<Book>,
    events: &mpsc::Sender<Event>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<Option<watch::Sender<Wanted>>> {
    if matches!(config.services.source, Source::Manifests(_)) || config.traffic.mode != TrafficMode::Enforce {
        return Ok(None);
    }
    let function = Function::new("ejections", book, "on");
    let (Some(namespace), Ok(pod)) = (own_namespace(config), std::env::var("POD_NAME")) else {
        function.fails(
            "traffic.mode: enforce: no VIP is withdrawn for its traffic, as the other daemons cannot be found: set POD_NAME to the \
             name of the daemon's pod, and POD_NAMESPACE or kubernetes.namespace",
        );
        return Ok(None);
    };
    let client = kubernetes::client(kubernetes::client_config().await?).context("Kubernetes")?;
    let node = config.node_name.clone();
    let options =
        ejections::Options { node, namespace, pod, share: config.traffic.ejection_share, look: ejections::LOOK };
    let (tell, wanted) = watch::channel(Wanted::new());
    let report = move |looked: Result<(), String>| match looked {
        Ok(()) => function.works("on"),
        Err(error) => function.fails(&error),
    };
    tasks.spawn(for_ever(ejections::run(client, options, wanted, events.clone(), report)));
    Ok(Some(tell))
}

/// Its senders live as long as the control loop, so that it ends with the daemon alone.
async fn for_ever(task: impl Future<Output = ()>) -> Result<()> {
    task.await;
    std::future::pending().await
}

/// The namespace of the Lease.
fn namespace(config: &Config) -> Result<String> {
    own_namespace(config).context(
        "kubernetes.statistics: the namespace of its Lease is unknown: set kubernetes.namespace, or POD_NAMESPACE",
    )
}

fn own_namespace(config: &Config) -> Option<String> {
    let configured = config.kubernetes.namespace.clone().or_else(|| std::env::var("POD_NAMESPACE").ok());
    let found = configured.or_else(|| std::fs::read_to_string(OWN_NAMESPACE).ok());
    found.map(|name| name.trim().to_owned()).filter(|name| is_label(name))
}

fn tell_events(function: &Function, metrics: &Metrics, report: Report) {
    match report {
        Report::Sent => {
            metrics.events("sent", 1);
            function.works("on");
        }
        Report::Dropped(count) => {
            debug!(count, "Events left out: too many at once");
            metrics.events("dropped", count);
        }
        Report::Failed(error) => {
            metrics.events("failed", 1);
            function.fails(&error);
        }
    }
}

fn tell_statistics(function: &Function, book: &Book, report: statistics::Report) {
    match report {
        statistics::Report::Leader(statistics, until) => {
            let until = book.now().after(until.saturating_duration_since(Instant::now()));
            let dated = Arc::new(Dated { statistics: *statistics, until });
            book.summarise(|summary| summary.statistics = Some(dated));
            function.works("leader");
        }
        statistics::Report::Follower => {
            book.summarise(|summary| summary.statistics = None);
            function.works("follower");
        }
        statistics::Report::Failed(error) => function.fails(&error),
    }
}

/// Looks once a second; the book is cheap to read, and nobody needs to know sooner.
async fn follow_readiness(book: Arc<Book>, tell: watch::Sender<Readiness>) -> Result<()> {
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let now = readiness(&book.summary());
        tell.send_if_modified(|told| {
            let changed = *told != now;
            *told = now;
            changed
        });
    }
}

/// What the node's condition says: the first thing that is not as it should be.
fn readiness(summary: &Summary) -> Readiness {
    let not = |reason, message: String| Readiness { ready: false, reason, message };
    match (&summary.source, &summary.bgp, &summary.programs) {
        (SourceState::Syncing, ..) => {
            not("SourceSyncing", "the Kubernetes API has not delivered everything yet".to_owned())
        }
        (SourceState::Stale(error), ..) => {
            not("SourceStale", format!("Kubernetes cannot be watched, the last good state stands: {error}"))
        }
        (SourceState::Synced, BgpState::Down(fault), _) => not("FrrDown", fault.to_string()),
        (SourceState::Synced, BgpState::Up(_) | BgpState::Disabled, ProgramsState::Off(why))
            if summary.traffic_mode != TrafficMode::Off =>
        {
            not("ProgramsOff", format!("the control plane decides alone: {why}"))
        }
        (SourceState::Synced, BgpState::Up(_) | BgpState::Disabled, _) => {
            let message = "VIPs are decided, FRR answers and traffic is counted as configured".to_owned();
            Readiness { ready: true, reason: "AsConfigured", message }
        }
    }
}

/// One function of `kubernetes.*` as the book has it: a failure is warned about once, until it works again.
struct Function {
    name: &'static str,
    book: Arc<Book>,
}

impl Function {
    fn new(name: &'static str, book: &Arc<Book>, state: &'static str) -> Self {
        let function = Self { name, book: Arc::clone(book) };
        function.works(state);
        function
    }

    fn works(&self, state: &'static str) {
        if self.set(Told { state, error: None }).is_some_and(|before| before.error.is_some()) {
            info!("kubernetes.{} works again", self.name);
        }
    }

    fn fails(&self, error: &str) {
        let before = self.set(Told { state: "failing", error: Some(error.to_owned()) });
        if before.is_none_or(|before| before.error.is_none()) {
            warn!(error, "kubernetes.{} fails; everything else goes on", self.name);
        }
    }

    fn set(&self, told: Told) -> Option<Told> {
        let mut before = None;
        self.book.summarise(|summary| before = summary.told.insert(self.name, told));
        before
    }
}
