//! Where the walks are timed: a fabric with two equal nodes, one with the daemon and one for the baseline.
//!
//! Both nodes have the same mode, the same FRR and a raw BGP session each; the daemon runs on the first only, so that
//! neither side sees the other's addresses, and both feel the same load of the machine.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node as NodeObject, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;

use super::proxy::Proxy;
use crate::daemon::Daemon;
use crate::fabric::{BACKEND_PORT, Fabric, Mode, Node, NodeSpec, VIPS_V4, VIPS_V6, vip4};
use crate::objects::{self, State};
use crate::{Lab, wait};

/// The node of the daemon.
pub const OWN: &str = "own";
/// The node of the baseline.
pub const RAW: &str = "raw";
const HTTP: &str = "127.0.0.1:9470";
/// Makes a node carry no VIP at all.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Long enough for ten thousand VIPs on a busy machine: FRR 8.4 alone may take minutes to see their addresses.
pub const LIMIT: Duration = Duration::from_secs(600);

/// The fabric, the daemon and the directory it follows. Fields are dropped in this order.
#[derive(Debug)]
pub struct World {
    /// The daemon, on the first node.
    pub daemon: Daemon,
    /// The fabric.
    pub fabric: Fabric,
    manifests: PathBuf,
    sockets: PathBuf,
    /// The lab.
    pub lab: Lab,
}

impl World {
    /// Raises the fabric with nodes of this mode; the daemon does not run yet.
    pub fn raise(mode: Mode) -> Result<Self> {
        Self::raise_with(&specs(mode, &[]), &[], own_sockets)
    }

    /// The same in Dynamic mode with VIPs that have no addresses.
    pub fn raise_bare() -> Result<Self> {
        let unchecked = |spec: NodeSpec| spec.bgp_line("no bgp network import-check");
        let specs: Vec<_> = specs(Mode::Dynamic, &[]).into_iter().map(unchecked).collect();
        Self::raise_with(&specs, &[("COSMOLET_LOOPBACK_ENABLED", "false")], own_sockets)
    }

    /// The same in Dynamic mode, with more nodes after the two.
    pub fn raise_among(more: &[&str]) -> Result<Self> {
        Self::raise_with(&specs(Mode::Dynamic, more), &[], own_sockets)
    }

    /// `sockets` makes the daemon's `frr.socket_path`.
    fn raise_with(
        specs: &[NodeSpec],
        env: &[(&str, &str)],
        sockets: impl FnOnce(&Lab, &Node) -> Result<PathBuf>,
    ) -> Result<Self> {
        let lab = Lab::new()?;
        let fabric = Fabric::raise(&lab, specs)?;
        let manifests = lab.subdirectory("manifests")?;
        let sockets = sockets(&lab, &fabric.nodes[0])?;
        let config = config(&format!("  manifests: {}\n", manifests.display()), &sockets);
        let daemon = Daemon::prepare(&lab, &fabric.nodes[0].netns, OWN, &config, HTTP.parse()?, env)?;
        Ok(Self { daemon, fabric, manifests, sockets, lab })
    }

    /// The same with a proxy before FRR's socket, which tells when which command arrived there.
    pub fn raise_proxied() -> Result<(Self, Proxy)> {
        let mut proxy = None;
        let world = Self::raise_with(&specs(Mode::Dynamic, &[]), &[], |lab, node| {
            let directory = lab.subdirectory("proxy")?;
            proxy = Some(Proxy::listen(&directory, &node.frr.directory().join(cosmolet::frr::SOCKET))?);
            Ok(directory)
        })?;
        Ok((world, proxy.context("no proxy")?))
    }

    /// Makes the daemon follow an API server instead of the directory, from its next start on.
    pub fn follow(&mut self, kubeconfig: &Path) -> Result<()> {
        let (config, netns) = (config("  source: kubernetes\n", &self.sockets), &self.fabric.nodes[0].netns);
        let kubeconfig = kubeconfig.to_string_lossy();
        self.daemon = Daemon::prepare(&self.lab, netns, OWN, &config, HTTP.parse()?, &[("KUBECONFIG", &kubeconfig)])?;
        Ok(())
    }

    /// The node with the daemon.
    #[must_use]
    pub fn own(&self) -> &Node {
        &self.fabric.nodes[0]
    }

    /// The node without.
    #[must_use]
    pub fn raw(&self) -> &Node {
        &self.fabric.nodes[1]
    }

    /// Puts a manifest in place; returns the moment before the rename, which is what the daemon hears of.
    pub fn put(&self, name: &str, text: &str) -> Result<Instant> {
        put(&self.manifests, name, text)
    }

    /// Waits until this many addresses of a range are on the loopback of a node.
    pub fn wait_addresses(&self, node: &Node, range: IpNet, count: usize) -> Result<()> {
        wait::until_true(&format!("{count} addresses of {range} on the loopback of {}", node.name()), LIMIT, || {
            Ok(node.loopback_addresses()?.iter().filter(|address| range.contains(*address)).count() == count)
        })
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        self.daemon.start().map(drop)
    }

    /// Waits until the daemon's node has this many VIPs in a state.
    pub fn wait_state(&self, state: &str, count: usize) -> Result<()> {
        wait::until_true(&format!("{count} VIPs {state}"), LIMIT, || {
            let status = self.daemon.status()?;
            let rows = status["vips"].as_array().context("no VIPs in the status")?;
            Ok(rows.iter().filter(|row| row["state"] == state).count() == count)
        })
    }
}

fn specs(mode: Mode, more: &[&str]) -> Vec<NodeSpec> {
    [OWN, RAW].iter().chain(more).map(|name| NodeSpec::new(name, mode)).collect()
}

fn own_sockets(_: &Lab, node: &Node) -> Result<PathBuf> {
    Ok(node.frr.directory().to_owned())
}

/// Everything but the source and the sockets is as shipped.
fn config(source: &str, sockets: &Path) -> String {
    format!(
        "services:\n{source}  vip_ranges: [{VIPS_V4}, '{VIPS_V6}']\nfrr:\n  socket_path: {}\nhttp:\n  listen: {HTTP}\n",
        sockets.display()
    )
}

/// Writes a file beside its place and renames it; returns the moment before that.
pub fn put(directory: &Path, name: &str, text: &str) -> Result<Instant> {
    let (hidden, path) = (directory.join(format!(".{name}")), directory.join(name));
    fs::write(&hidden, text).with_context(|| format!("writing {}", hidden.display()))?;
    let at = Instant::now();
    fs::rename(&hidden, &path).with_context(|| format!("writing {}", path.display()))?;
    Ok(at)
}

/// The VIPs from 1 to `count`.
#[must_use]
pub fn vips(count: u16) -> Vec<IpAddr> {
    (1..=count).map(vip4).collect()
}

/// Service `n` with its VIP and `externalTrafficPolicy: Local`.
#[must_use]
pub fn service(n: u16) -> Service {
    objects::local(objects::service(&format!("s{n}"), &[vip4(n)], &[80]))
}

/// The slice of Service `n` with one endpoint on the daemon's node.
#[must_use]
pub fn slice(n: u16, state: State) -> EndpointSlice {
    let [high, low] = n.to_be_bytes();
    let endpoint = objects::endpoint([10, 3, 1 + high, low].into(), OWN, state);
    objects::slice(&format!("s{n}-a"), &format!("s{n}"), BACKEND_PORT, vec![endpoint])
}

/// The daemon's node, with or without the label that forbids it all VIPs.
#[must_use]
pub fn node(excluded: bool) -> NodeObject {
    let mut node = objects::node(OWN, [10, 255, 0, 1].into());
    node.metadata.labels = excluded.then(|| [(EXCLUDE.to_owned(), String::new())].into());
    node
}

/// A List as `kubectl get -o json` writes it; a file of this form may be as long as any.
pub fn list<T: Serialize>(items: impl IntoIterator<Item = T>) -> Result<String> {
    let items = items.into_iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())
}
