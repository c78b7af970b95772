//! A real cluster: etcd and the control plane, nodes with containerd, kubelet and kube-proxy, on the lab's fabric.
//!
//! Owns what makes a fabric a cluster. Its nodes are the fabric's nodes, whose FRR peers with the ToR; pods join a bridge
//! on each and have addresses of both families that the ToR routes. There is no registry: cosmolet's image is the Dockerfile's,
//! or the archive `COSMOLET_IMAGE`. Nothing of it is outside the lab's namespaces and directory but cgroups, which carry
//! the lab's prefix.

mod chart;
mod control;
mod image;
mod node;
mod shared;
mod shell;
pub mod story;
mod tools;
mod workload;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::api_server::ApiServer;
use crate::fabric::{Fabric, Mode, Node, NodeSpec, host, vip4, vip6};
use crate::http;
use crate::process::Paused;
use crate::routes::Routes;
use crate::{Lab, wait};
use control::Controllers;
use node::KubeNode;

pub use chart::{NAMESPACE as COSMOLET_NAMESPACE, RELEASE};
pub use image::{Image, Recipe};
pub use shared::{Guard, alone, shared};
pub use tools::Helm;
pub use workload::{Policy, Workload, WorkloadSpec};

/// Where a node's cosmolet listens, seen from the node.
pub const HTTP: &str = "127.0.0.1:9470";
const READY_LIMIT: Duration = Duration::from_secs(120);
const REPLY_LIMIT: Duration = Duration::from_secs(10);

/// What to raise.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The nodes: see [`NodeSpec::for_pods`].
    pub nodes: Vec<NodeSpec>,
}

impl Default for Spec {
    /// Two nodes: `node1` Connected and unnumbered, `node2` Dynamic and numbered.
    fn default() -> Self {
        let connected = NodeSpec::new("node1", Mode::Connected).unnumbered().for_pods();
        Self { nodes: vec![connected, NodeSpec::new("node2", Mode::Dynamic).for_pods()] }
    }
}

/// A running cluster. Fields are dropped in this order: nodes before the control plane, namespaces and the lab last.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<KubeNode>,
    _controllers: Controllers,
    /// The API server, with an administrator's client.
    pub api: ApiServer,
    /// The ToR, the client and the nodes as the fabric knows them.
    pub fabric: Fabric,
    images: Vec<Image>,
    next_vip: AtomicU16,
    /// The lab.
    pub lab: Lab,
}

impl Cluster {
    /// Raises everything and waits until every node is ready. cosmolet is not installed: see [`Cluster::install`].
    /// `progress` is told each step.
    pub fn raise(spec: &Spec, mut progress: impl FnMut(&str)) -> Result<Self> {
        let lab = Lab::new()?;
        progress("the fabric: a ToR, a client, nodes, each with FRR");
        let fabric = Fabric::raise(&lab, &spec.nodes)?;
        control::connect(&fabric)?;
        progress("etcd and kube-apiserver");
        let api = control::api_server(&lab, &fabric)?;
        progress("kube-controller-manager and kube-scheduler");
        let controllers = Controllers::start(&lab, &fabric, &api)?;
        progress("images");
        let images = images(&lab)?;
        let mut nodes = Vec::new();
        for node in &fabric.nodes {
            progress(&format!("{}: containerd, kubelet, kube-proxy", node.name()));
            nodes.push(KubeNode::start(&lab, &api, node, &images)?);
        }
        let next_vip = AtomicU16::new(1);
        let cluster = Self { nodes, _controllers: controllers, api, fabric, images, next_vip, lab };
        progress("nodes ready");
        cluster.wait_nodes_ready(READY_LIMIT)?;
        Ok(cluster)
    }

    /// The names of all nodes.
    #[must_use]
    pub fn node_names(&self) -> Vec<&str> {
        self.fabric.nodes.iter().map(Node::name).collect()
    }

    /// A node of the fabric: its namespace, FRR and addresses.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.fabric.nodes.iter().find(|node| node.name() == name).with_context(|| format!("no node {name}"))
    }

    /// What the ToR's kernel routes; its interfaces are the names of the nodes.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        self.fabric.routes()
    }

    /// A pair of VIPs, one of each family, that nobody else of this cluster gets.
    #[must_use]
    pub fn new_vips(&self) -> [IpAddr; 2] {
        let number = self.next_vip.fetch_add(1, Ordering::Relaxed);
        [vip4(number), vip6(number)]
    }

    /// The log of all requests to the API server, one audit.k8s.io/v1 Event a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.api.audit_log()
    }

    /// The status document of a node's cosmolet.
    pub fn status(&self, node: &str) -> Result<Value> {
        let reply = http::get(&self.node(node)?.netns, HTTP.parse()?, "/api/v1/status", REPLY_LIMIT)?;
        ensure!(reply.status == 200, "status answers {}: {}", reply.status, reply.body.trim());
        serde_json::from_str(&reply.body).context("the status is no JSON")
    }

    /// A VIP's row in a node's status.
    pub fn row(&self, node: &str, vip: IpAddr) -> Result<Option<Value>> {
        let (text, mut status) = (vip.to_string(), self.status(node)?);
        let rows = status["vips"].as_array_mut().context("no list of VIPs")?;
        Ok(rows.iter_mut().find(|row| row["vip"] == text.as_str()).map(Value::take))
    }

    /// Waits until a VIP's row in a node's status fits.
    pub fn wait_row(&self, node: &str, vip: IpAddr, limit: Duration, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(&format!("{vip} in the status of {node}"), limit, || match self.row(node, vip)? {
            Some(row) if fits(&row) => Ok(Some(row)),
            other => anyhow::bail!("its row is {other:?}"),
        })
    }

    /// What every node says of a VIP, for the message of a failed test.
    #[must_use]
    pub fn told_of(&self, vip: IpAddr) -> String {
        let row = |node| format!("{node}: {}", self.row(node, vip).ok().flatten().unwrap_or_default());
        self.node_names().into_iter().map(row).collect::<Vec<_>>().join("\n")
    }

    /// The metrics of a node's cosmolet as text.
    pub fn metrics(&self, node: &str) -> Result<String> {
        Ok(http::get(&self.node(node)?.netns, HTTP.parse()?, "/metrics", REPLY_LIMIT)?.body)
    }

    /// Loads one more image into every node.
    pub fn import(&self, image: &Image) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.import(image))
    }

    /// Ends a node's kube-proxy and empties its table, as a broken kube-proxy leaves a node: the host answers RST.
    pub fn lose_proxy(&self, node: &str) -> Result<()> {
        self.kube_node(node)?.kill_proxy();
        let netns = &self.node(node)?.netns;
        for family in ["ip", "ip6"] {
            netns.exec("nft", &["delete", "table", family, "kube-proxy"])?;
        }
        Ok(())
    }

    /// Stops a node's kube-proxy where it is, as a busy one lags behind, until the pause is dropped.
    pub fn pause_proxy(&self, node: &str) -> Result<Paused> {
        self.kube_node(node)?.pause_proxy()
    }

    /// Starts a node's kube-proxy again, which writes its table anew.
    pub fn restore_proxy(&self, node: &str) -> Result<()> {
        self.kube_node(node)?.start_proxy()
    }

    /// Waits until every node is ready.
    pub fn wait_nodes_ready(&self, limit: Duration) -> Result<()> {
        let wanted = self.nodes.len();
        wait::until_true(&format!("{wanted} nodes ready"), limit, || {
            let nodes = self
                .api
                .run(async |client| Ok(Api::<NodeObject>::all(client).list(&ListParams::default()).await?.items))?;
            let ready = nodes.iter().filter(|node| is_ready(node)).count();
            ensure!(ready == wanted, "{ready} of {wanted} nodes are ready, {} known", nodes.len());
            Ok(true)
        })
    }

    fn kube_node(&self, name: &str) -> Result<&KubeNode> {
        let index = self.fabric.nodes.iter().position(|node| node.name() == name);
        Ok(&self.nodes[index.with_context(|| format!("no node {name}"))?])
    }

    fn cosmolet_image(&self) -> Result<&Image> {
        self.images.last().context("a cluster without images")
    }
}

/// The host prefix of a VIP.
#[must_use]
pub fn prefix(vip: IpAddr) -> IpNet {
    host(vip)
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The images of every node; cosmolet's is the last.
fn images(lab: &Lab) -> Result<Vec<Image>> {
    let daemon = crate::daemon::binary()?;
    let pod = daemon.with_file_name("pod");
    ensure!(pod.is_file(), "no pod beside {}: cargo build -p cosmolet-tests --bins", daemon.display());
    let recipe = |name, command| Recipe { name, program: &pod, command, user: 65532 };
    let pause = Image::pack(lab, &recipe(node::PAUSE, &["pause"]))?;
    let backend = Image::pack(lab, &recipe(workload::IMAGE, &["serve"]))?;
    let cosmolet = match std::env::var_os("COSMOLET_IMAGE") {
        Some(archive) => Image::open(archive.as_ref())?,
        None => Image::of_dockerfile(&daemon)?,
    };
    Ok(vec![pause, backend, cosmolet])
}
