//! The steps of the story that the demo tells and the suite proves: one thing breaks, the ToR's kernel tells.
//!
//! Each step waits for what must be seen, is an error if it is not, and leaves the workload as it was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Cluster, Workload, prefix};
use crate::client::{Client, Load};
use crate::report::{Step, ms};
use crate::wait;

/// How long a step may take: kubelet, controllers and kube-proxy share one busy machine.
pub const LIMIT: Duration = Duration::from_secs(90);
/// A request that takes longer has failed; far more than a busy machine takes.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// A workload under steady traffic.
#[derive(Debug)]
pub struct Story<'a> {
    /// Where.
    pub cluster: &'a Cluster,
    /// The workload: a pod on each node.
    pub workload: Workload,
    client: Client,
}

impl<'a> Story<'a> {
    /// Deploys nothing; waits until both nodes carry both VIPs, and starts the traffic.
    pub fn begin(cluster: &'a Cluster, workload: Workload) -> Result<Self> {
        wait_nodes(cluster, &workload, Instant::now(), &cluster.node_names())?;
        let load = |targets| Load { per_second: 50, timeout: REQUEST_LIMIT, ..Load::new(targets) };
        let wanted = cluster.node_names().len();
        for target in workload.targets() {
            wait::until_true(&format!("{target} answered by every node"), LIMIT, || {
                let seen = Client::start(&cluster.fabric.client, load(vec![target]))?.watch(Duration::from_secs(1));
                ensure!(seen.failed() == 0 && seen.by_node.len() == wanted, "{seen:?}");
                Ok(true)
            })?;
        }
        let client = Client::start(&cluster.fabric.client, load(workload.targets()))?;
        Ok(Self { cluster, workload, client })
    }

    /// A node's pod is not ready; then it is again.
    pub fn readiness(&self, node: &str) -> Result<[Step; 2]> {
        let gone = self.step(&format!("{node}'s pod is not ready"), &self.others(node), || {
            self.cluster.set_ready(&self.workload, node, false)
        })?;
        self.withdrawn(node, "NoLocalEndpoint")?;
        let back =
            self.step("it is ready again", &self.all(), || self.cluster.set_ready(&self.workload, node, true))?;
        Ok([gone, back])
    }

    /// A node's pod fails its liveness probe: the kubelet restarts the container, and the node is back with it.
    pub fn liveness(&self, node: &str) -> Result<[Step; 2]> {
        let before = self.cluster.restarts(&self.workload, node)?;
        let gone = self.step(&format!("{node}'s pod fails its liveness probe"), &self.others(node), || {
            self.cluster.set_live(&self.workload, node, false)
        })?;
        let back = self.step("the kubelet restarts the container", &self.all(), || Ok(()))?;
        let after = self.cluster.restarts(&self.workload, node)?;
        ensure!(after > before, "the container was restarted {after} times, before {before}");
        Ok([gone, back])
    }

    /// A node is drained; then it may have pods again.
    pub fn drain(&self, node: &str) -> Result<[Step; 2]> {
        let selector = format!("--pod-selector=app={}", self.workload.spec.name);
        let gone = self.step(&format!("kubectl drain {node}"), &self.others(node), || {
            self.cluster.kubectl(&["drain", node, "--ignore-daemonsets", &selector, "--timeout=90s"]).map(drop)
        })?;
        let back = self.step(&format!("kubectl uncordon {node}"), &self.all(), || {
            self.cluster.kubectl(&["uncordon", node]).map(drop)
        })?;
        Ok([gone, back])
    }

    /// A node's kube-proxy dies and its table is emptied: the host answers RST, eBPF convicts. Then kube-proxy is back, and
    /// the VIP returns by trial.
    pub fn proxy_lost(&self, node: &str) -> Result<[Step; 2]> {
        let cause = format!("{node}'s kube-proxy table is flushed");
        let gone = self.step(&cause, &self.others(node), || self.cluster.lose_proxy(node))?;
        self.withdrawn(node, "HostRefuses")?;
        let back = self.step("kube-proxy is back, trial", &self.all(), || self.cluster.restore_proxy(node))?;
        Ok([gone, back])
    }

    /// The chart is upgraded and rolled back: every pod is replaced, nothing moves and nothing fails.
    pub fn rolling_upgrade(&self) -> Result<[Step; 2]> {
        let revision = format!("{:?}", Instant::now());
        let values = json!({"podAnnotations": {"lab/revision": revision}});
        let up = self.nothing_moves("helm upgrade", || self.cluster.install(&values))?;
        let back = self.nothing_moves("helm rollback", || self.cluster.rollback())?;
        Ok([up, back])
    }

    /// The Service is deleted: nobody carries its VIPs.
    pub fn service_deleted(&self) -> Result<Step> {
        let (namespace, name) = (&self.workload.spec.namespace, &self.workload.spec.name);
        self.step("the Service is deleted", &[], || {
            self.cluster.kubectl(&["-n", namespace, "delete", "service", name]).map(drop)
        })
    }

    fn all(&self) -> Vec<&str> {
        self.cluster.node_names()
    }

    fn others(&self, node: &str) -> Vec<&str> {
        self.cluster.node_names().into_iter().filter(|name| *name != node).collect()
    }

    fn withdrawn(&self, node: &str, reason: &str) -> Result<()> {
        for vip in self.workload.vips {
            self.cluster.wait_row(node, vip, LIMIT, |row| row["reason"] == reason)?;
        }
        Ok(())
    }

    /// Does something and waits until exactly these nodes carry both VIPs.
    fn step(&self, cause: &str, nodes: &[&str], act: impl FnOnce() -> Result<()>) -> Result<Step> {
        let since = Instant::now();
        act()?;
        let took = wait_nodes(self.cluster, &self.workload, since, nodes)?;
        let requests = self.client.summary(since, Instant::now() + Duration::from_millis(200));
        let effect = match nodes {
            [] => "nobody carries the VIPs".to_owned(),
            [one] => format!("only {one} carries the VIPs"),
            many => format!("{} carry the VIPs", many.join(" and ")),
        };
        Ok(Step { cause: cause.to_owned(), effect, took: ms(took), requests })
    }

    fn nothing_moves(&self, cause: &str, act: impl FnOnce() -> Result<()>) -> Result<Step> {
        let before: BTreeMap<String, String> = self.cluster.daemon_pods()?.into_iter().collect();
        let since = Instant::now();
        act()?;
        let after: BTreeMap<String, String> = self.cluster.daemon_pods()?.into_iter().collect();
        for (node, pod) in &after {
            ensure!(before.get(node).is_some_and(|old| old != pod), "{cause} did not replace {pod} on {node}");
        }
        ensure!(before.len() == after.len(), "{before:?} became {after:?}");
        let requests = self.client.summary(since, Instant::now() + Duration::from_millis(500));
        for vip in self.workload.vips {
            let changes = self.cluster.routes().changes(prefix(vip), since);
            ensure!(changes.is_empty(), "{cause}: the ToR saw {changes:?}; {}", self.cluster.told_of(vip));
        }
        ensure!(requests.failed() == 0 && requests.ok() > 0, "{cause}: {requests:?}");
        let effect = "nothing moves".to_owned();
        Ok(Step { cause: format!("{cause}, every pod replaced"), effect, took: "0 changes".to_owned(), requests })
    }
}

/// Waits until exactly these nodes carry both VIPs; how long after `since` the later one did.
pub fn wait_nodes(cluster: &Cluster, workload: &Workload, since: Instant, nodes: &[&str]) -> Result<Duration> {
    let wait = |vip: &std::net::IpAddr| cluster.routes().wait_nodes(prefix(*vip), since, LIMIT, nodes);
    let [v4, v6] = workload.vips.each_ref().map(wait);
    Ok(v4?.max(v6?))
}
