//! The real daemon on a real API server: two nodes of a fabric follow Services, EndpointSlices, Nodes and Pods with
//! exactly the rights of `deploy/cosmolet.yaml`, and stand by the last good state while the API server is away.

mod clock;
mod relist;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cosmolet_tests::api_server::{ApiServer, Place, User};
use cosmolet_tests::daemon::Daemon;
use cosmolet_tests::fabric::{BACKEND_PORT, Fabric, MANAGEMENT, Mode, NodeSpec, VIPS_V4, VIPS_V6, host, vip4, vip6};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::packaging::deployed;
use cosmolet_tests::{Lab, wait};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde_json::Value;

const HTTP: &str = "127.0.0.1:9470";
const LIMIT: Duration = Duration::from_secs(60);
/// The lease of the VIPs: short, so that a renewal that is missed shows itself.
const LEASE: Duration = Duration::from_secs(5);
const BOTH: [&str; 2] = ["node1", "node2"];

/// The fabric, the API server and a daemon on each node. Fields are dropped in this order.
struct Cluster {
    daemons: Vec<Daemon>,
    api: ApiServer,
    fabric: Fabric,
    lab: Lab,
}

impl Cluster {
    /// Raises everything, with Service `web` on both nodes; no daemon runs yet.
    fn raise() -> Result<Self> {
        let lab = Lab::new()?;
        let specs = [NodeSpec::new(BOTH[0], Mode::Connected).unnumbered(), NodeSpec::new(BOTH[1], Mode::Dynamic)];
        let specs = specs.map(|spec| NodeSpec { wire: false, ..spec });
        let fabric = Fabric::raise(&lab, &specs)?;
        let api = ApiServer::start(&lab, Place::Inside(&fabric.management, MANAGEMENT))?;
        grant(&api)?;
        let mut cluster = Self { daemons: Vec::new(), api, fabric, lab };
        for node in &cluster.fabric.nodes {
            cluster.api.apply(&objects::node(node.name(), node.plan.loopback4().into()))?;
            let pod = objects::pod(&pod_of(node.name()), node.name(), node.plan.pods4(2).into(), true, 7);
            cluster.api.apply(&pod)?;
        }
        cluster.api.apply(&objects::local(objects::service("web", &[vip4(1), vip6(1)], &[80])))?;
        cluster.set_endpoints([State::Ready, State::Ready])?;
        for index in 0..BOTH.len() {
            let daemon = cluster.prepare(index)?;
            cluster.daemons.push(daemon);
        }
        Ok(cluster)
    }

    fn prepare(&self, index: usize) -> Result<Daemon> {
        self.prepare_with(index, &self.api.kubeconfig(User::Cosmolet), LEASE, &[])
    }

    /// The daemon of a node with another way to the API server, another lease or more variables.
    fn prepare_with(
        &self,
        index: usize,
        kubeconfig: &Path,
        lease: Duration,
        variables: &[(&str, &str)],
    ) -> Result<Daemon> {
        let node = &self.fabric.nodes[index];
        let config = format!(
            "services:\n  source: kubernetes\n  vip_ranges: [{VIPS_V4}, '{VIPS_V6}']\nloopback:\n  lease_seconds: {}\n\
             frr:\n  socket_path: {}\nhttp:\n  listen: {HTTP}\n",
            lease.as_secs(),
            node.frr.directory().display(),
        );
        let kubeconfig = kubeconfig.display().to_string();
        // Whatever the host's environment says, the lab's traffic stays inside.
        let env = [&[("KUBECONFIG", kubeconfig.as_str()), ("NO_PROXY", "*")], variables].concat();
        Daemon::prepare(&self.lab, &node.netns, node.name(), &config, HTTP.parse()?, &env)
    }

    /// Starts both daemons and waits until the ToR's kernel routes `web` to both nodes.
    fn start(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(|daemon| daemon.launch().map(drop))?;
        self.daemons.iter_mut().try_for_each(|daemon| daemon.wait_ready(LIMIT))?;
        self.wait_nodes(&BOTH)
    }

    /// Writes the slices of `web`: one endpoint on each node, in both families.
    fn set_endpoints(&self, states: [State; 2]) -> Result<()> {
        let slice = |name: &str, vip: IpAddr| {
            let nodes = self.fabric.nodes.iter().zip(states);
            let endpoint = nodes.map(|(node, state)| {
                let endpoint = objects::endpoint(node.backend_address(vip).ip(), node.name(), state);
                objects::of_pod(endpoint, &pod_of(node.name()))
            });
            objects::slice(name, "web", BACKEND_PORT, endpoint.collect())
        };
        self.api.apply_all(&[slice("web-v4", vip4(1)), slice("web-v6", vip6(1))])
    }

    /// Waits until the ToR's kernel routes both VIPs of `web` to exactly these nodes.
    fn wait_nodes(&self, nodes: &[&str]) -> Result<()> {
        for vip in [vip4(1), vip6(1)] {
            self.fabric
                .routes()
                .wait_nodes(host(vip), Instant::now(), LIMIT, nodes)
                .with_context(|| format!("{vip} on {nodes:?}; rows {:?}", self.rows(vip)))?;
        }
        Ok(())
    }

    /// The changes that the ToR's kernel has seen of the VIPs of `web`.
    fn changes(&self, since: Instant) -> usize {
        [vip4(1), vip6(1)].iter().map(|vip| self.fabric.routes().changes(host(*vip), since).len()).sum()
    }

    fn expect_unmoved(&self, since: Instant) -> Result<()> {
        let changes = self.changes(since);
        ensure!(changes == 0, "the ToR saw {changes} changes");
        Ok(())
    }

    fn rows(&self, vip: IpAddr) -> Vec<Option<Value>> {
        self.daemons.iter().map(|daemon| row(daemon, vip).ok().flatten()).collect()
    }

    /// Waits until a node tells this state and reason of both VIPs of `web`.
    fn wait_row(&self, index: usize, state: &str, reason: Option<&str>) -> Result<()> {
        for vip in [vip4(1), vip6(1)] {
            wait::until(&format!("{vip}: {state} {reason:?}"), LIMIT, || match row(&self.daemons[index], vip)? {
                Some(row) if row["state"] == state && row["reason"].as_str() == reason => Ok(Some(())),
                other => bail!("its row is {other:?}"),
            })?;
        }
        Ok(())
    }

    /// Waits until a node's source of Services is in this state, in status and metrics alike; returns the error it tells.
    fn wait_source(&self, index: usize, state: &str) -> Result<String> {
        let daemon = &self.daemons[index];
        let error = wait::until(&format!("source {state}"), LIMIT, || {
            let source = daemon.status()?["source"].take();
            ensure!(source["kind"] == "kubernetes", "{source}");
            match source["state"] == state {
                true => Ok(Some(source["error"].as_str().unwrap_or_default().to_owned())),
                false => bail!("{source}"),
            }
        })?;
        let metric = format!("cosmolet_component_state{{component=\"source\",state=\"{state}\"}} 1");
        wait::until_true(&metric, LIMIT, || Ok(daemon.metrics()?.contains(&metric)))?;
        let told = daemon.metrics()?.contains("cosmolet_last_error{component=\"source\"");
        ensure!(told == (state == "stale"), "{state}, and the metric of the last error is there: {told}");
        Ok(error)
    }

    /// Cuts or mends the cable between a node and the API server.
    fn cable(&self, index: usize, state: &str) -> Result<()> {
        self.fabric.management.ip(&["link", "set", "dev", BOTH[index], state]).map(drop)
    }

    /// Longer than a lease, while nothing at all may move.
    fn outlive_a_lease(&self) -> Result<()> {
        let since = Instant::now();
        std::thread::sleep(LEASE + Duration::from_secs(1));
        self.expect_unmoved(since)
    }

    /// A daemon that cannot read from the API server says so, and does nothing but keep alive what is there.
    fn expect_waiting(&self, index: usize) -> Result<()> {
        let reply = self.daemons[index].get("/readyz")?;
        ensure!(reply.status == 503, "/readyz says {} {}", reply.status, reply.body);
        ensure!(reply.body.contains("(kubernetes) has not delivered everything yet"), "{}", reply.body);
        ensure!(self.daemons[index].get("/livez")?.status == 200, "the control loop does not turn");
        expect_trouble(&self.daemons[index], "nothing is decided yet")?;
        ensure!(
            self.fabric.nodes[index].loopback_addresses()?.contains(&host(vip4(1))),
            "the VIP has left the loopback"
        );
        Ok(())
    }
}

/// `cosmolet status` ends with 3 and says what is wrong with the source.
fn expect_trouble(daemon: &Daemon, part: &str) -> Result<()> {
    let told = daemon.ask_status(&[])?;
    let table = String::from_utf8_lossy(&told.stdout);
    let trouble = table.lines().find(|line| line.starts_with("! Services: kubernetes cannot be read: "));
    let trouble = trouble.with_context(|| format!("no trouble in:\n{table}"))?;
    ensure!(told.status.code() == Some(3) && trouble.ends_with(part), "{:?}:\n{table}", told.status);
    Ok(())
}

fn pod_of(node: &str) -> String {
    format!("web-{node}")
}

fn row(daemon: &Daemon, vip: IpAddr) -> Result<Option<Value>> {
    let text = vip.to_string();
    let status = daemon.status()?;
    let rows = status["vips"].as_array().context("no rows")?;
    Ok(rows.iter().find(|row| row["vip"] == text.as_str()).cloned())
}

/// Gives the daemon's user the rights that it is deployed with, and no others.
fn grant(api: &ApiServer) -> Result<()> {
    api.apply(&deployed::<ClusterRole>("ClusterRole")?)?;
    api.apply(&deployed::<ClusterRoleBinding>("ClusterRoleBinding")?)
}

fn revoke(api: &ApiServer) -> Result<()> {
    api.run(async |client| {
        kube::Api::<ClusterRoleBinding>::all(client).delete("cosmolet", &Default::default()).await?;
        Ok(())
    })
}

#[test]
fn both_nodes_follow_what_the_api_says() -> Result<()> {
    let mut cluster = Cluster::raise()?;
    cluster.start()?;
    for (index, mode) in [(0, "connected"), (1, "dynamic")] {
        cluster.wait_row(index, "advertised", None)?;
        let row = row(&cluster.daemons[index], vip6(1))?.context("no row")?;
        ensure!(row["mode"] == mode && row["services"][0]["name"] == "web", "{row}");
    }
    readiness(&cluster)?;
    restarting_pod(&cluster)?;
    excluded_node(&cluster)?;
    deletion(&cluster)?;
    rights_suffice(&mut cluster)
}

/// An endpoint that is not ready takes its node out; ready again, it takes it back in.
fn readiness(cluster: &Cluster) -> Result<()> {
    cluster.set_endpoints([State::NotReady, State::Ready])?;
    cluster.wait_nodes(&BOTH[1..])?;
    cluster.wait_row(0, "withdrawn", Some("NoLocalEndpoint"))?;
    // One that ends but still serves counts while there is no ready one.
    cluster.set_endpoints([State::Ready, State::Terminating])?;
    cluster.wait_nodes(&BOTH)?;
    cluster.set_endpoints([State::Ready, State::NotReady])?;
    cluster.wait_nodes(&BOTH[..1])?;
    cluster.wait_row(1, "withdrawn", Some("NoLocalEndpoint"))?;
    cluster.set_endpoints([State::Ready, State::Ready])?;
    cluster.wait_nodes(&BOTH)
}

/// A container that was restarted takes its endpoint out for a while, though its readiness says yes.
fn restarting_pod(cluster: &Cluster) -> Result<()> {
    let node = &cluster.fabric.nodes[1];
    let pod = |restarts| objects::pod(&pod_of(node.name()), node.name(), node.plan.pods4(2).into(), true, restarts);
    cluster.api.apply(&pod(8))?;
    cluster.wait_nodes(&BOTH[..1])?;
    cluster.wait_row(1, "withdrawn", Some("PodRestarting"))?;
    // A pod that is replaced starts anew: its successor is trusted at once.
    cluster.api.delete::<k8s_openapi::api::core::v1::Pod>(&pod_of(node.name()))?;
    cluster.api.apply(&pod(0))?;
    cluster.wait_nodes(&BOTH)
}

/// The label that excludes a node from load balancers takes all its VIPs, and its going brings them back.
fn excluded_node(cluster: &Cluster) -> Result<()> {
    let plan = cluster.fabric.nodes[0].plan;
    let mut node = objects::node(BOTH[0], plan.loopback4().into());
    let label = ("node.kubernetes.io/exclude-from-external-load-balancers".to_owned(), String::new());
    node.metadata.labels = Some([label].into());
    cluster.api.apply(&node)?;
    cluster.wait_nodes(&BOTH[1..])?;
    cluster.wait_row(0, "withdrawn", Some("NodeExcluded"))?;
    cluster.api.apply(&objects::node(BOTH[0], plan.loopback4().into()))?;
    cluster.wait_nodes(&BOTH)
}

/// A Service that is deleted leaves nothing behind: not at the ToR, on the loopback, in the status or in the metrics.
fn deletion(cluster: &Cluster) -> Result<()> {
    cluster.api.delete::<Service>("web")?;
    cluster.wait_nodes(&[])?;
    for (node, daemon) in cluster.fabric.nodes.iter().zip(&cluster.daemons) {
        for vip in [vip4(1), vip6(1)] {
            let what = format!("{vip} is gone from {}", node.name());
            wait::until_true(&what, LIMIT, || {
                let held = node.loopback_addresses()?.contains(&host(vip));
                Ok(!held && row(daemon, vip)?.is_none() && !daemon.metrics()?.contains(&format!("vip=\"{vip}\"")))
            })?;
        }
    }
    Ok(())
}

/// Nothing was forbidden all along, and nothing of what the daemon never needs is allowed.
fn rights_suffice(cluster: &mut Cluster) -> Result<()> {
    for daemon in &mut cluster.daemons {
        let log = daemon.log()?.to_lowercase();
        ensure!(!log.contains("forbidden") && !log.contains(" error "), "{log}");
    }
    Ok(())
}

#[test]
fn the_last_good_state_stands_while_the_api_server_is_away() -> Result<()> {
    let mut cluster = Cluster::raise()?;
    cluster.start()?;
    missed_changes(&mut cluster)?;
    started_without_it(&mut cluster)
}

#[test]
fn it_stands_while_the_api_server_is_silent_or_refuses() -> Result<()> {
    let mut cluster = Cluster::raise()?;
    cluster.start()?;
    paused(&mut cluster)?;
    token_rejected(&mut cluster)?;
    rights_taken(&mut cluster)
}

/// The API server is killed; what changes until a daemon reaches it again is caught up with, and nothing before.
fn missed_changes(cluster: &mut Cluster) -> Result<()> {
    let since = Instant::now();
    cluster.api.kill()?;
    for index in 0..BOTH.len() {
        let error = cluster.wait_source(index, "stale")?;
        ensure!(!error.is_empty(), "stale without a word");
        expect_trouble(&cluster.daemons[index], "the last good state stands")?;
    }
    outage(cluster)?;
    cluster.cable(0, "down")?;
    cluster.api.restart()?;
    cluster.wait_source(1, "synced")?;
    cluster.expect_unmoved(since)?;
    // node1 cannot see it: it goes on with what it knew, node2 acts on the news.
    cluster.set_endpoints([State::NotReady, State::NotReady])?;
    cluster.wait_nodes(&BOTH[..1])?;
    cluster.wait_source(0, "stale")?;
    ensure!(cluster.daemons[0].get("/readyz")?.status == 200, "its VIPs are decided: it is ready");
    cluster.cable(0, "up")?;
    cluster.wait_nodes(&[])?;
    cluster.wait_source(0, "synced")?;
    cluster.set_endpoints([State::Ready, State::Ready])?;
    cluster.wait_nodes(&BOTH)
}

/// The API server stays away for longer than a lease, or for `COSMOLET_OUTAGE_SECONDS`: nothing may move.
fn outage(cluster: &Cluster) -> Result<()> {
    let since = Instant::now();
    let seconds = std::env::var("COSMOLET_OUTAGE_SECONDS").map_or(Ok(0), |text| text.parse())?;
    while since.elapsed() < Duration::from_secs(seconds) {
        cluster.outlive_a_lease()?;
    }
    cluster.outlive_a_lease()
}

/// A daemon that is started while the API server is down: not ready, nothing moves, leases are renewed.
fn started_without_it(cluster: &mut Cluster) -> Result<()> {
    cluster.api.kill()?;
    let since = Instant::now();
    for daemon in &mut cluster.daemons {
        daemon.kill()?;
        daemon.launch()?;
    }
    for index in 0..BOTH.len() {
        cluster.wait_source(index, "stale")?;
        cluster.expect_waiting(index)?;
    }
    cluster.outlive_a_lease()?;
    for index in 0..BOTH.len() {
        cluster.expect_waiting(index)?;
    }
    cluster.api.restart()?;
    for index in 0..BOTH.len() {
        cluster.daemons[index].wait_ready(LIMIT)?;
        cluster.wait_source(index, "synced")?;
        cluster.wait_row(index, "advertised", None)?;
    }
    cluster.expect_unmoved(since)
}

/// The API server takes connections and says nothing.
fn paused(cluster: &mut Cluster) -> Result<()> {
    let since = Instant::now();
    cluster.api.process()?.pause()?;
    cluster.daemons[0].kill()?;
    cluster.daemons[0].launch()?;
    let error = cluster.wait_source(0, "stale")?;
    ensure!(!error.is_empty(), "stale without a word");
    cluster.expect_waiting(0)?;
    cluster.api.process()?.resume()?;
    cluster.daemons[0].wait_ready(LIMIT)?;
    cluster.wait_source(0, "synced")?;
    cluster.expect_unmoved(since)?;
    cluster.set_endpoints([State::NotReady, State::Ready])?;
    cluster.wait_nodes(&BOTH[1..])?;
    cluster.set_endpoints([State::Ready, State::Ready])?;
    cluster.wait_nodes(&BOTH)
}

/// The API server no longer knows the daemon's token.
fn token_rejected(cluster: &mut Cluster) -> Result<()> {
    let since = Instant::now();
    cluster.api.know(&[User::Admin])?;
    cluster.api.restart()?;
    for index in 0..BOTH.len() {
        wait::until("the rejection is told", LIMIT, || {
            let error = cluster.wait_source(index, "stale")?.to_lowercase();
            Ok(error.contains("unauthorized").then_some(()))
        })?;
    }
    cluster.api.know(&[User::Admin, User::Cosmolet])?;
    cluster.api.restart()?;
    for index in 0..BOTH.len() {
        cluster.wait_source(index, "synced")?;
    }
    cluster.expect_unmoved(since)
}

/// The daemon's rights are taken: the next daemon says which one it misses, and keeps what is there.
fn rights_taken(cluster: &mut Cluster) -> Result<()> {
    let since = Instant::now();
    revoke(&cluster.api)?;
    cluster.daemons[1].kill()?;
    cluster.daemons[1].launch()?;
    wait::until("the refusal is told", LIMIT, || {
        let error = cluster.wait_source(1, "stale")?;
        Ok((error.contains("forbidden") && error.contains("cosmolet-system:cosmolet") && error.ends_with("(403)"))
            .then_some(()))
    })?;
    cluster.expect_waiting(1)?;
    grant(&cluster.api)?;
    cluster.daemons[1].wait_ready(LIMIT)?;
    cluster.wait_source(1, "synced")?;
    cluster.expect_unmoved(since)
}

#[test]
fn quick_without_an_api_server_nothing_is_decided() -> Result<()> {
    let lab = Lab::new()?;
    let netns = std::sync::Arc::new(lab.netns("alone")?);
    let kubeconfig = lab.directory().join("nobody.kubeconfig");
    std::fs::write(
        &kubeconfig,
        "apiVersion: v1\nkind: Config\ncurrent-context: nobody\n\
         clusters: [{name: nobody, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: nobody, user: {}}]\n\
         contexts: [{name: nobody, context: {cluster: nobody, user: nobody}}]\n",
    )?;
    let config = format!("services: {{source: kubernetes}}\nbgp: {{enabled: false}}\nhttp: {{listen: '{HTTP}'}}\n");
    let env = [("KUBECONFIG", kubeconfig.to_str().context("a path")?), ("NO_PROXY", "*")];
    let mut daemon = Daemon::prepare(&lab, &netns, "alone", &config, HTTP.parse()?, &env)?;
    daemon.launch()?;
    let source = wait::until("the error", LIMIT, || {
        let source = daemon.status()?["source"].take();
        Ok((source["state"] == "stale").then_some(source))
    })?;
    ensure!(source["error"].as_str().is_some_and(|error| error.to_lowercase().contains("refused")), "{source}");
    let reply = daemon.get("/readyz")?;
    ensure!(reply.status == 503 && reply.body.contains("kubernetes"), "{reply:?}");
    daemon.process()?.ensure_running()
}
