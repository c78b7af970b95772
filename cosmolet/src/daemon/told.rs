//! Starts what is told in Kubernetes' own words, and tells the book and the metrics how it goes.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::book::{Book, Told};
use crate::config::{Config, Source};
use crate::kubernetes;
use crate::kubernetes::events::{self, Announcer, Report};
use crate::metrics::Metrics;

/// Starts what `kubernetes.*` asks for; returns where decisions are announced, if they are.
pub(super) async fn spawn(
    config: &Config,
    book: &Arc<Book>,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<Option<Announcer>> {
    let wanted = &config.kubernetes;
    if matches!(config.services.source, Source::Manifests(_)) || !wanted.events {
        return Ok(None);
    }
    let client = kubernetes::client(kubernetes::client_config().await?).context("Kubernetes")?;
    let (announcer, inbox) = events::queue();
    let function = Function::new("events", book, "on");
    let metrics = Arc::clone(metrics);
    ["sent", "dropped", "failed"].iter().for_each(|outcome| metrics.events(outcome, 0));
    let report = move |report| tell_events(&function, &metrics, report);
    let node = config.node_name.clone();
    tasks.spawn(async move {
        events::run(client, node, inbox, report).await;
        // Its announcers live as long as the control loop.
        std::future::pending().await
    });
    Ok(Some(announcer))
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

/// One function of `kubernetes.*` as the book has it: a failure is warned about once, until it works again.
pub(super) struct Function {
    name: &'static str,
    book: Arc<Book>,
}

impl Function {
    pub(super) fn new(name: &'static str, book: &Arc<Book>, state: &'static str) -> Self {
        let function = Self { name, book: Arc::clone(book) };
        function.works(state);
        function
    }

    pub(super) fn works(&self, state: &'static str) {
        if self.set(Told { state, error: None }).is_some_and(|before| before.error.is_some()) {
            info!("kubernetes.{} works again", self.name);
        }
    }

    pub(super) fn fails(&self, error: &str) {
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
