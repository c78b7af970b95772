//! What the daemon tells in Kubernetes' own words, on which rights, and what hostile objects come to: a real API server,
//! a real fabric of one node, and the daemon as a pod has it: another user, three capabilities, the shipped ClusterRole.

#![allow(missing_docs, reason = "a suite")]

mod condition;
mod ejections;
mod events;
mod hostile;
mod privilege;
mod statistics;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cosmolet_tests::api_server::{ApiServer, Place};
use cosmolet_tests::daemon::{Daemon, User};
use cosmolet_tests::fabric::{BACKEND_PORT, Fabric, MANAGEMENT, Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::objects::{self, NAMESPACE, State};
use cosmolet_tests::packaging::deployed;
use cosmolet_tests::running_config::RunningConfig;
use cosmolet_tests::{Lab, api_server, wait};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, ListParams};
use serde::de::DeserializeOwned;
use serde_json::Value;

const HTTP: &str = "127.0.0.1:9470";
const LIMIT: Duration = Duration::from_secs(60);
const NODE: &str = "node1";
/// Whom a pod's container runs as.
const POD: User = User { id: 65532, capabilities: &["net_admin", "bpf", "perfmon"], groups: &["frrvty"] };

/// The node, the API server, the daemon. Fields are dropped in this order.
struct World {
    daemon: Daemon,
    api: ApiServer,
    fabric: Fabric,
    lab: Lab,
}

impl World {
    /// Raises everything, with Service `web` on its node and all rights; the daemon, with more lines of configuration, does
    /// not run yet.
    fn raise(config: &str) -> Result<Self> {
        Self::raise_with(config, &[])
    }

    /// The same, with more variables in the daemon's environment.
    fn raise_with(config: &str, more: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::new()?;
        let fabric = Fabric::raise(&lab, &[NodeSpec { wire: false, ..NodeSpec::new(NODE, Mode::Dynamic) }])?;
        let api = ApiServer::start(&lab, Place::Inside(&fabric.management, MANAGEMENT))?;
        grant(&api, &role()?)?;
        api.apply(&deployed::<ClusterRoleBinding>("ClusterRoleBinding")?)?;
        let node = &fabric.nodes[0];
        let config = format!(
            "services: {{source: kubernetes, vip_ranges: [10.0.0.0/8, 'fd00::/8']}}\nfrr: {{socket_path: {}}}\n\
             http: {{listen: '{HTTP}'}}\n{config}",
            node.frr.directory().display(),
        );
        let kubeconfig = api.kubeconfig(api_server::User::Cosmolet).display().to_string();
        // Whatever the host's environment says, the lab's traffic stays inside.
        let env = [&[("KUBECONFIG", kubeconfig.as_str()), ("NO_PROXY", "*")], more].concat();
        let daemon = Daemon::prepare(&lab, &node.netns, NODE, &config, HTTP.parse()?, &env)?.as_user(&lab, POD)?;
        let world = Self { daemon, api, fabric, lab };
        world.api.apply(&objects::node(NODE, world.fabric.nodes[0].plan.loopback4().into()))?;
        world.service("web", &[vip4(1), vip6(1)], State::Ready)?;
        Ok(world)
    }

    /// Starts the daemon and waits until the ToR's kernel routes `web` to its node.
    fn start(&mut self) -> Result<()> {
        self.daemon.launch()?;
        self.daemon.wait_ready(LIMIT)?;
        self.routed(vip4(1), true)?;
        self.routed(vip6(1), true)
    }

    fn restart(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.daemon.launch().map(drop)
    }

    /// Writes a Service with `externalTrafficPolicy: Local` and one endpoint on the node for each of its families.
    fn service(&self, name: &str, vips: &[IpAddr], state: State) -> Result<()> {
        self.endpoints(name, state)?;
        self.api.apply(&objects::local(objects::service(name, vips, &[80])))
    }

    fn endpoints(&self, name: &str, state: State) -> Result<()> {
        let slice = |vip: IpAddr, family: &str| {
            let address = self.fabric.nodes[0].backend_address(vip).ip();
            let endpoints = vec![objects::endpoint(address, NODE, state)];
            objects::slice(&format!("{name}-{family}"), name, BACKEND_PORT, endpoints)
        };
        self.api.apply_all(&[slice(vip4(1), "v4"), slice(vip6(1), "v6")])
    }

    /// Waits until the ToR's kernel routes the VIP to the node, or to none.
    fn routed(&self, vip: IpAddr, there: bool) -> Result<()> {
        let nodes: &[&str] = if there { &[NODE] } else { &[] };
        let waited = self.fabric.routes().wait_nodes(host(vip), Instant::now(), LIMIT, nodes);
        waited.map(drop).with_context(|| format!("{vip} routed: {there}; its row: {:?}", self.row(vip).ok()))
    }

    fn row(&self, vip: IpAddr) -> Result<Option<Value>> {
        let (text, status) = (vip.to_string(), self.daemon.status()?);
        let rows = status["vips"].as_array().context("no rows")?;
        Ok(rows.iter().find(|row| row["vip"] == text.as_str()).cloned())
    }

    fn wait_row(&self, vip: IpAddr, what: &str, fits: impl Fn(&Value) -> bool) -> Result<()> {
        wait::until(&format!("{vip}: {what}"), LIMIT, || match self.row(vip)? {
            Some(row) if fits(&row) => Ok(Some(())),
            other => bail!("its row is {other:?}"),
        })
    }

    /// Waits until the daemon's source is in this state; returns the error that it tells.
    fn wait_source(&self, state: &str) -> Result<String> {
        wait::until(&format!("source {state}"), LIMIT, || {
            let source = self.daemon.status()?["source"].take();
            ensure!(source["state"] == state, "{source}");
            Ok(Some(source["error"].as_str().unwrap_or_default().to_owned()))
        })
    }

    /// The value of one series; 0 where it is not there.
    fn metric(&self, series: &str) -> Result<u64> {
        let metrics = self.daemon.metrics()?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(Ok(0), |value| value.parse().with_context(|| format!("{series} is {value}")))
    }

    fn sent(&self, outcome: &str) -> Result<u64> {
        self.metric(&format!("cosmolet_kubernetes_events_total{{outcome=\"{outcome}\"}}"))
    }

    /// What the kernel's loopback and FRR hold.
    fn effects(&self) -> Result<(Vec<IpNet>, RunningConfig)> {
        let node = &self.fabric.nodes[0];
        let mut addresses = node.loopback_addresses()?;
        addresses.sort();
        Ok((addresses, RunningConfig::read(&node.frr)?))
    }

    /// Fails if the ToR's kernel has seen `web` come or go since then, what is still on its way included.
    fn expect_unmoved(&self, since: Instant) -> Result<()> {
        std::thread::sleep(Duration::from_millis(400));
        for vip in [vip4(1), vip6(1)] {
            let moves = self.fabric.routes().moves(host(vip), since);
            ensure!(moves.is_empty(), "the ToR saw {moves:?}");
        }
        Ok(())
    }

    /// All objects of a kind in the Services' namespace.
    fn list<K>(&self) -> Result<Vec<K>>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + DeserializeOwned
            + Clone
            + std::fmt::Debug
            + Send
            + 'static,
    {
        self.api
            .run(async |client| Ok(Api::<K>::namespaced(client, NAMESPACE).list(&ListParams::default()).await?.items))
    }
}

fn role() -> Result<ClusterRole> {
    deployed("ClusterRole")
}

/// Replaces the daemon's rights, its rules as a whole.
fn grant(api: &ApiServer, role: &ClusterRole) -> Result<()> {
    api.apply(role)
}

fn uid(service: Option<Service>) -> Result<String> {
    service.and_then(|service| service.metadata.uid).context("no Service with a uid")
}
