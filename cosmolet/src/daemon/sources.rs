//! Starts the source of Services that the configuration names.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::book::Book;
use crate::config::{Config, Source};
use crate::engine::event::Event;
use crate::engine::service::NodeView;
use crate::engine::types::ServiceKey;
use crate::kubernetes::project::{Notice, Notices, Selection};
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
    selection.cordon_withdraws = services.cordon_withdraws;
    selection.attributes = config.bgp.attributes.clone();
    selection.attributes_from_services = config.bgp.attributes_from_services;
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
            tasks.spawn(tell_notices(options.notices.subscribe(), book));
            tasks.spawn(async move { kubernetes::run(options, selection, events).await.context("Kubernetes") });
        }
        Source::Manifests(directory) => {
            // A directory without a Node object describes a healthy node; one that has it says so before it has synced.
            events.send(Event::Node(NodeView::default())).await.context("the control loop is gone")?;
            let complaints = manifests::Complaints::default();
            tasks.spawn(tell_problems(complaints.problems.subscribe(), Arc::clone(&book)));
            tasks.spawn(tell_notices(complaints.notices.subscribe(), book));
            let directory = directory.clone();
            tasks.spawn(async move {
                manifests::run(directory, selection, events, complaints).await;
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

async fn tell_notices(mut notices: watch::Receiver<Arc<Notices>>, book: Arc<Book>) -> Result<()> {
    loop {
        let of = |key: &ServiceKey, notice: &Notice| (key.clone(), notice.as_str(), notice.to_string());
        let all = Arc::clone(&notices.borrow_and_update());
        let told = all.iter().flat_map(|(key, of_service)| of_service.iter().map(move |notice| of(key, notice)));
        let told = told.collect();
        book.summarise(|summary| summary.notices = told);
        if notices.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn text(problem: &FileProblem) -> (String, String) {
    let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
    (problem.file.clone(), format!("{line}{}", problem.reason))
}
