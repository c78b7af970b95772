//! The condition `CosmoletReady` of this node, for whoever looks at nodes.
//!
//! Owns the object's wording and the rhythm of its writes. Writes when the truth changes and every few minutes, never
//! more often than `PAUSE`; touches no other condition, because the patch names this one alone.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::watch::{chain, printable};

/// The condition's type.
pub const CONDITION: &str = "CosmoletReady";
/// A heartbeat: nobody should take a dead daemon's word for the truth.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Between two writes at least; what changes meanwhile is written together.
const PAUSE: Duration = Duration::from_secs(5);
/// A daemon that has just started knows nothing yet: for so long, the word of the one before it stands.
const START: Duration = Duration::from_secs(20);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(15);
/// How long the API server may take for one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is true of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The status: `True` or `False`.
    pub ready: bool,
    /// One word.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

#[derive(Debug, Error)]
enum Error {
    #[error("no answer from the API server in {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the API server has no Node of this name")]
    Gone,
    #[error("{}", printable(&chain(.0)))]
    Client(#[from] kube::Error),
}

/// Keeps the condition true until nobody tells what is true any more.
pub async fn run(
    client: Client,
    node: String,
    mut truth: watch::Receiver<Readiness>,
    report: impl Fn(Result<(), String>),
) {
    let mut writer = Writer { api: Api::all(client), node, since: None };
    drop(timeout(START, truth.wait_for(|now| now.ready)).await);
    loop {
        let now = truth.borrow_and_update().clone();
        let written = writer.write(&now).await;
        let (pause, limit) = if written.is_ok() { (PAUSE, HEARTBEAT) } else { (RETRY, RETRY) };
        report(written.map_err(|error| error.to_string()));
        sleep(pause).await;
        // A change, or the time for a heartbeat or another attempt.
        if let Ok(Err(_closed)) = timeout(limit.saturating_sub(pause), truth.changed()).await {
            return;
        }
    }
}

struct Writer {
    api: Api<Node>,
    node: String,
    /// The last status that was written or found, and since when it is that.
    since: Option<(bool, Timestamp)>,
}

impl Writer {
    async fn write(&mut self, truth: &Readiness) -> Result<(), Error> {
        let now = Timestamp::now();
        if self.since.is_none() {
            self.since = self.found().await?;
        }
        let since = self.since.filter(|(ready, _)| *ready == truth.ready).map_or(now, |(_, since)| since);
        let condition = NodeCondition {
            type_: CONDITION.to_owned(),
            status: if truth.ready { "True" } else { "False" }.to_owned(),
            reason: Some(truth.reason.to_owned()),
            message: Some(truth.message.clone()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(since)),
        };
        // A strategic merge: conditions are merged by their type.
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        let how = PatchParams::default();
        let written = self.api.patch_status(&self.node, &how, &patch);
        timeout(PATIENCE, written).await.map_err(|_elapsed| Error::Silent)??;
        self.since = Some((truth.ready, since));
        Ok(())
    }

    /// What an earlier life has written. A list of one, because there is no right to get.
    async fn found(&self) -> Result<Option<(bool, Timestamp)>, Error> {
        let one = ListParams::default().fields(&format!("metadata.name={}", self.node));
        let found = timeout(PATIENCE, self.api.list(&one)).await.map_err(|_elapsed| Error::Silent)??;
        let node = found.items.into_iter().next().ok_or(Error::Gone)?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ours = conditions.into_iter().find(|condition| condition.type_ == CONDITION);
        Ok(ours.and_then(|condition| Some((condition.status == "True", condition.last_transition_time?.0))))
    }
}
