//! Asks the daemons of a cluster, many at a time.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::args::kubectl::Reach;
use crate::cli::client;
use crate::kubernetes::daemons::{Daemon, Daemons, Place};

/// Daemons that are asked at the same time.
const AT_ONCE: usize = 16;
/// How long the kubelet's word may come after the end of a stream that it refuses.
const WORD: Duration = Duration::from_millis(200);

/// What one daemon said.
pub(super) struct Answer<T> {
    /// Its node.
    pub node: String,
    /// Its pod.
    pub pod: String,
    /// The answer, or why there is none.
    pub said: Result<T, String>,
}

/// The daemons of a cluster.
pub(super) struct Fleet {
    daemons: Daemons,
}

impl Fleet {
    /// Reads the kubeconfig; nobody is asked yet.
    pub(super) async fn connect(reach: Reach) -> Result<Self> {
        let place = Place {
            namespace: reach.namespace,
            selector: reach.selector,
            patience: Duration::from_secs(reach.patience),
        };
        Ok(Self { daemons: Daemons::connect(reach.kubeconfig.as_deref(), reach.context, place).await? })
    }

    /// Puts the taint that drains on a node, or takes it away.
    pub(super) async fn taint(&self, node: &str, drained: bool) -> Result<bool> {
        Ok(self.daemons.taint(node, drained).await?)
    }

    /// Asks every daemon, or the one of a node, for the same path. What one does not answer costs the others nothing.
    ///
    /// # Errors
    /// The pods cannot be listed, or there are none.
    pub(super) async fn ask<T: DeserializeOwned>(&self, path: &str, node: Option<&str>) -> Result<Vec<Answer<T>>> {
        let daemons = self.find(node).await?;
        let each = daemons.into_iter().map(|daemon| async move {
            let said = self.one(&daemon, path).await.map_err(|error| format!("{error:#}"));
            Answer { node: daemon.node, pod: daemon.pod, said }
        });
        Ok(stream::iter(each).buffered(AT_ONCE).collect().await)
    }

    async fn find(&self, node: Option<&str>) -> Result<Vec<Daemon>> {
        let mut daemons = self.daemons.find().await?;
        let place = self.daemons.place();
        if daemons.is_empty() {
            bail!(
                "namespace {} has no running pod with the labels {}; is cosmolet elsewhere (--namespace, --selector)?",
                place.namespace,
                place.selector
            );
        }
        let known: Vec<String> = daemons.iter().map(|daemon| daemon.node.clone()).collect();
        daemons.retain(|daemon| node.is_none_or(|wanted| daemon.node == wanted));
        match node {
            Some(node) if daemons.is_empty() => {
                bail!("no daemon is on node {node:?}; they are on {}", known.join(", "))
            }
            _ => Ok(daemons),
        }
    }

    async fn one<T: DeserializeOwned>(&self, daemon: &Daemon, path: &str) -> Result<T> {
        let tunnel = self.daemons.open(daemon).await?;
        let patience = self.daemons.place().patience;
        let answer = match timeout(patience, client::exchange(tunnel.stream, path)).await {
            Err(_elapsed) => bail!("its daemon did not answer in {patience:?}"),
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => match timeout(WORD, tunnel.refused).await {
                Ok(Some(why)) => bail!("its daemon cannot be reached: {}", why.trim()),
                _ => return Err(error),
            },
        };
        serde_json::from_slice(&answer).context("the daemon's answer cannot be read; another version?")
    }
}

/// What all said as a list: `[{node, pod, what: …}, {node, pod, error}]`.
pub(super) fn list<T: Serialize>(what: &str, answers: &[Answer<T>]) -> Result<Value> {
    let mut rows = Vec::new();
    for answer in answers {
        let mut row = Map::from_iter([("node".to_owned(), json!(answer.node)), ("pod".to_owned(), json!(answer.pod))]);
        match &answer.said {
            Ok(said) => row.insert(what.to_owned(), serde_json::to_value(said)?),
            Err(error) => row.insert("error".to_owned(), json!(error)),
        };
        rows.push(Value::Object(row));
    }
    Ok(Value::Array(rows))
}
