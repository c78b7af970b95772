//! The daemons of a cluster, reached from outside by somebody with a kubeconfig.
//!
//! Owns finding their pods, streams to them by port-forwards through the API server, and the taint that drains a node.
//! Everything is done with the rights of whoever asks; what they lack is named.

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::client::UpgradeConnectionError;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, ResourceExt};
use serde_json::json;
use thiserror::Error;
use tokio::io::DuplexStream;
use tokio::time::timeout;

use super::watch::{chain, printable};

/// The taint that drains a node, unless its daemon's `services.drain_taints` names others only.
pub const DRAIN_TAINT: &str = "cosmolet.io/drain";
/// The port's name in the pods, and its number where a pod has none of that name.
const PORT: (&str, u16) = ("http", 9470);
/// Attempts to change a Node that somebody else changes at the same time.
const ATTEMPTS: usize = 5;

/// Where the daemons are.
#[derive(Clone, Debug)]
pub struct Place {
    /// Their namespace.
    pub namespace: String,
    /// The label selector of their pods.
    pub selector: String,
    /// How long each request may take.
    pub patience: Duration,
}

/// Why a daemon cannot be reached.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no kubeconfig, or it cannot be used.
    #[error("no way to the Kubernetes API: {0}")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// There is no client for it.
    #[error(transparent)]
    Client(#[from] super::Error),
    /// The API server does not let this account do so.
    #[error("your account may not {verbs} {resource}{place}; docs/kubectl.md has the role that allows it")]
    Denied {
        /// The verbs that are needed.
        verbs: &'static str,
        /// On what.
        resource: &'static str,
        /// Where.
        place: String,
    },
    /// No answer in time.
    #[error("no answer from the API server in {} s", .0.as_secs())]
    Silent(Duration),
    /// There is no such node.
    #[error("the cluster has no node {0:?}")]
    NoNode(String),
    /// The pod cannot be asked now.
    #[error("its pod {pod} is not running: {phase}")]
    NotRunning {
        /// The pod.
        pod: String,
        /// Its phase.
        phase: String,
    },
    /// The API server refuses, or cannot be asked.
    #[error("{}", printable(&chain(.0)))]
    Api(#[source] Box<kube::Error>),
}

/// One daemon's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// The node that it is for.
    pub node: String,
    /// The pod's name.
    pub pod: String,
    port: u16,
    phase: String,
}

/// A stream to a daemon's port.
pub struct Tunnel {
    /// The stream.
    pub stream: DuplexStream,
    /// Resolves with what the kubelet says when the port cannot be reached.
    pub refused: BoxFuture<'static, Option<String>>,
}

/// The daemons of one cluster.
pub struct Daemons {
    client: Client,
    place: Place,
}

impl Daemons {
    /// A client by this kubeconfig, `KUBECONFIG` or `~/.kube/config`, and its context or its current one.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`] and [`Error::Client`].
    pub async fn connect(kubeconfig: Option<&Path>, context: Option<String>, place: Place) -> Result<Self, Error> {
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let bad = |error| Error::Kubeconfig(Box::new(error));
        let config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(bad)?;
                kube::Config::from_custom_kubeconfig(file, &options).await.map_err(bad)?
            }
            None => kube::Config::from_kubeconfig(&options).await.map_err(bad)?,
        };
        Ok(Self { client: super::client(config)?, place })
    }

    /// Where they are looked for.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The daemons' pods, by node. Pods that have ended are not among them.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Silent`], [`Error::Api`].
    pub async fn find(&self) -> Result<Vec<Daemon>, Error> {
        let params = ListParams::default().labels(&self.place.selector);
        let pods = self.answer(self.pods().list(&params), ("list", "pods", self.inside())).await?;
        let mut daemons: Vec<Daemon> = pods.items.iter().filter_map(daemon).collect();
        daemons.sort_by(|one, other| (&one.node, &one.pod).cmp(&(&other.node, &other.pod)));
        Ok(daemons)
    }

    /// Opens a stream to a daemon.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Denied`], [`Error::Silent`], [`Error::Api`].
    pub async fn open(&self, daemon: &Daemon) -> Result<Tunnel, Error> {
        if daemon.phase != "Running" {
            return Err(Error::NotRunning { pod: daemon.pod.clone(), phase: daemon.phase.clone() });
        }
        let pods = self.pods();
        // A websocket is a GET, and since 1.35 the API server wants the right to create as well (KEP-4006).
        let asked = ("get and create", "pods/portforward", self.inside());
        let mut forward = self.answer(pods.portforward(&daemon.pod, &[daemon.port]), asked).await?;
        let (stream, refused) = (forward.take_stream(daemon.port), forward.take_error(daemon.port));
        match (stream, refused) {
            (Some(stream), Some(refused)) => Ok(Tunnel { stream, refused: Box::pin(refused) }),
            _ => Err(Error::Silent(self.place.patience)),
        }
    }

    /// Puts the taint on a node, or takes it away. Others' taints stay as they are. `false`: it was so already.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::Denied`], [`Error::Silent`], [`Error::Api`].
    pub async fn taint(&self, node: &str, drained: bool) -> Result<bool, Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for attempt in 1.. {
            let found = self.answer(nodes.get_opt(node), ("get", "nodes", String::new())).await?;
            let found = found.ok_or_else(|| Error::NoNode(node.to_owned()))?;
            let version = found.resource_version();
            let Some(taints) = tainted(found.spec.unwrap_or_default().taints.unwrap_or_default(), drained) else {
                return Ok(false);
            };
            // Taints are one list to the API server: the version makes sure that nobody has changed it meanwhile.
            let patch = json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": taints } });
            let patch = Patch::Merge(&patch);
            let params = PatchParams::default();
            match self.answer(nodes.patch(node, &params, &patch), ("patch", "nodes", String::new())).await {
                Err(Error::Api(error)) if code(&error) == Some(409) && attempt < ATTEMPTS => {}
                other => return other.map(|_node| true),
            }
        }
        Ok(false)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.place.namespace)
    }

    fn inside(&self) -> String {
        format!(" in namespace {}", self.place.namespace)
    }

    async fn answer<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
        (verbs, resource, place): (&'static str, &'static str, String),
    ) -> Result<T, Error> {
        match timeout(self.place.patience, request).await {
            Err(_elapsed) => Err(Error::Silent(self.place.patience)),
            Ok(Err(error)) if code(&error) == Some(403) => Err(Error::Denied { verbs, resource, place }),
            Ok(answer) => answer.map_err(|error| Error::Api(Box::new(error))),
        }
    }
}

/// The HTTP status of a refusal.
fn code(error: &kube::Error) -> Option<u16> {
    if let kube::Error::Api(status) = error {
        return Some(status.code);
    }
    let kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) = error else { return None };
    Some(status.as_u16())
}

fn daemon(pod: &Pod) -> Option<Daemon> {
    let spec = pod.spec.as_ref()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "Unknown".to_owned());
    if phase == "Succeeded" || phase == "Failed" {
        return None;
    }
    let mut ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let named = ports.find(|port| port.name.as_deref() == Some(PORT.0));
    Some(Daemon {
        node: spec.node_name.clone()?,
        pod: pod.name_any(),
        port: named.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(PORT.1),
        phase,
    })
}

/// The taints with ours, or without it; nothing if they are so already.
fn tainted(mut taints: Vec<Taint>, drained: bool) -> Option<Vec<Taint>> {
    let before = taints.len();
    let is_there = taints.iter().any(|taint| taint.key == DRAIN_TAINT);
    if drained && !is_there {
        taints.push(Taint { key: DRAIN_TAINT.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() });
    } else if !drained {
        taints.retain(|taint| taint.key != DRAIN_TAINT);
    }
    (taints.len() != before).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> Option<Daemon> {
        daemon(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn a_pod_is_a_daemon_once_it_has_a_node() {
        let found = pod(json!({
            "metadata": { "name": "cosmolet-x" },
            "spec": { "nodeName": "node1", "containers": [
                { "name": "a" },
                { "name": "b", "ports": [{ "containerPort": 80 }, { "name": "http", "containerPort": 9999 }] },
            ] },
            "status": { "phase": "Running" },
        }));
        let wanted =
            Daemon { node: "node1".to_owned(), pod: "cosmolet-x".to_owned(), port: 9999, phase: "Running".to_owned() };
        assert_eq!(found, Some(wanted));
        let unscheduled = json!({ "metadata": { "name": "x" }, "spec": { "containers": [] } });
        assert_eq!(pod(unscheduled), None);
        let spec = json!({ "nodeName": "node1", "containers": [{ "name": "a" }] });
        let ended = json!({ "metadata": { "name": "x" }, "spec": &spec, "status": { "phase": "Failed" } });
        assert_eq!(pod(ended), None);
        let waiting = pod(json!({ "metadata": { "name": "x" }, "spec": spec })).unwrap();
        assert_eq!((waiting.port, waiting.phase.as_str()), (PORT.1, "Unknown"));
    }

    #[test]
    fn others_taints_stay() {
        let other = Taint { key: "other".to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
        let both = tainted(vec![other.clone()], true).unwrap();
        assert_eq!(both.iter().map(|taint| taint.key.as_str()).collect::<Vec<_>>(), ["other", DRAIN_TAINT]);
        assert_eq!(tainted(both.clone(), true), None);
        assert_eq!(tainted(both, false), Some(vec![other.clone()]));
        assert_eq!(tainted(vec![other], false), None);
    }
}
