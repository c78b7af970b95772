//! Starts the source of Services that the configuration names.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::book::Book;
use crate::config::{Config, Source};
use crate::engine::event::Event;
use crate::kubernetes::project::Selection;
use crate::manifests::FileProblem;
use crate::{kubernetes, manifests};

/// What the configuration selects.
pub(super) fn selection(config: &Config) -> Result<Selection> {
    let services = &config.services;
    let mut selection = Selection::new(&config.node_name);
    selection.namespaces = services.namespaces.iter().cloned().collect();
    selection.selector =
        services.selector.parse().with_context(|| format!("services.selector: {:?}", services.selector))?;
    selection.types = services.types.iter().copied().collect();
    selection.load_balancer_classes = services.load_balancer_classes.iter().cloned().collect();
    selection.drain_taints = services.drain_taints.iter().cloned().collect();
    Ok(selection)
}

pub(super) async fn spawn(
    config: &Config,
    selection: Selection,
    events: mpsc::Sender<Event>,
    book: Arc<Book>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    match &config.services.source {
        Source::Kubernetes => {
            let client = kubernetes::client_config().await.context(
                "services.source: no kubeconfig and no pod's service account; outside a cluster set KUBECONFIG, or \
                 services.manifests to a directory of YAML files",
            )?;
            let options = kubernetes::Options::new(client);
            tasks.spawn(async move { kubernetes::run(options, selection, events).await.context("Kubernetes") });
        }
        Source::Manifests(directory) => {
            let (problems, seen) = watch::channel(Vec::new());
            tasks.spawn(tell_problems(seen, book));
            let directory = directory.clone();
            tasks.spawn(async move {
                manifests::run(directory, selection, events, problems).await;
                Ok(())
            });
        }
    }
    Ok(())
}

async fn tell_problems(mut problems: watch::Receiver<Vec<FileProblem>>, book: Arc<Book>) -> Result<()> {
    loop {
        let told = problems.borrow_and_update().iter().map(text).collect();
        book.summarise(|summary| summary.problems = told);
        if problems.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn text(problem: &FileProblem) -> (String, String) {
    let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
    (problem.file.clone(), format!("{line}{}", problem.reason))
}
