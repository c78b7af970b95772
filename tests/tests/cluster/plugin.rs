//! `kubectl cosmolet` by real kubectl: the cluster as one table, by port-forwards, with the rights that docs/kubectl.md asks for
//! and with less.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::api_server::{User, kube_program};
use cosmolet_tests::cluster::story::LIMIT;
use cosmolet_tests::cluster::{COSMOLET_NAMESPACE, Cluster, Guard, Workload, WorkloadSpec, alone, prefix};
use cosmolet_tests::markdown;
use cosmolet_tests::process::Paused;
use cosmolet_tests::wait;
use serde_json::Value;

use super::rig::BOTH;

/// kubectl with the plugin in its path, as one account.
struct Plugin<'a> {
    cluster: &'a Cluster,
    kubeconfig: PathBuf,
    path: String,
}

/// What a command came to.
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Done {
    fn ensure(self, code: i32, words: &[&str]) -> Result<Self> {
        let said = format!("{}{}", self.out, self.err);
        ensure!(self.code == Some(code), "exit code {:?}, not {code}: {said}", self.code);
        let missing = words.iter().find(|word| !said.contains(**word));
        ensure!(missing.is_none(), "{missing:?} is not in {said}");
        Ok(self)
    }
}

impl<'a> Plugin<'a> {
    fn new(cluster: &'a Cluster, kubeconfig: PathBuf) -> Result<Self> {
        let folder = cluster.lab.subdirectory("plugin")?;
        let link = folder.join("kubectl-cosmolet");
        if !link.is_symlink() {
            symlink(cosmolet_tests::daemon::binary()?, &link)?;
        }
        let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
        Ok(Self { cluster, kubeconfig, path })
    }

    fn run(&self, args: &[&str]) -> Result<Done> {
        let kubectl = kube_program("kubectl")?;
        let mut command = self.cluster.fabric.management.command(&kubectl.to_string_lossy());
        command.env("KUBECONFIG", &self.kubeconfig).env("NO_PROXY", "*").env("PATH", &self.path);
        let done = command.arg("cosmolet").args(args).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Done { code: done.status.code(), out: text(&done.stdout), err: text(&done.stderr) })
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let done = self.run(args)?;
        serde_json::from_str(&done.out).with_context(|| format!("{}{}", done.out, done.err))
    }
}

#[test]
fn the_cluster_is_one_table_and_a_node_is_drained() -> Result<()> {
    let cluster = alone()?;
    cluster.new_namespace("plugin")?;
    let workload = cluster.deploy(WorkloadSpec::new("plugin", "web"), LIMIT)?;
    let plugin = Plugin::new(&cluster, cluster.api.kubeconfig(User::Admin))?;
    on(&cluster, &workload, &BOTH)?;
    shown(&cluster, &plugin, &workload)?;
    explained(&plugin, &workload)?;
    drained(&cluster, &plugin, &workload)?;
    silent(&cluster, &plugin)?;
    rights(&cluster)?;
    cluster.kubectl(&["delete", "namespace", "plugin", "--wait=false"]).map(drop)
}

fn on(cluster: &Guard, workload: &Workload, nodes: &[&str]) -> Result<()> {
    let since = Instant::now();
    for vip in workload.vips {
        cluster.routes().wait_nodes(prefix(vip), since, LIMIT, nodes)?;
    }
    Ok(())
}

/// The cells of a VIP's row.
fn cells(table: &str, vip: &str) -> Result<Vec<String>> {
    let row = table.lines().find(|line| line.split_whitespace().next() == Some(vip));
    let row = row.with_context(|| format!("no row of {vip} in {table}"))?;
    Ok(row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect())
}

fn shown(cluster: &Guard, plugin: &Plugin<'_>, workload: &Workload) -> Result<()> {
    let vip = workload.vips[0].to_string();
    wait::until_true("all is as decided", LIMIT, || Ok(plugin.run(&["status"])?.code == Some(0)))?;
    let table = plugin.run(&["status"])?.ensure(0, &["node1", "node2", "BGP sessions up"])?.out;
    let row = [vip.as_str(), "plugin/web", "2 of 2", "node1,node2", "-"];
    ensure!(cells(&table, &vip)? == row, "{table}");
    cluster.set_ready(workload, BOTH[0], false)?;
    on(cluster, workload, &BOTH[1..])?;
    wait::until_true("one of two", LIMIT, || {
        let table = plugin.run(&["status"])?.out;
        let row = cells(&table, &vip)?;
        Ok(row[2..4] == ["1 of 2", "node2"] && row[4].starts_with("node1 ("))
    })?;
    let wide = plugin.run(&["status", "-o", "wide", "--node", BOTH[0]])?.out;
    ensure!(wide.contains(&format!("node1  {vip}  ")) && !wide.contains("node2"), "{wide}");
    let document = plugin.json(&["status", "-o", "json"])?;
    let nodes: Vec<_> = document["nodes"].as_array().context("no nodes")?.iter().map(|row| &row["node"]).collect();
    ensure!(nodes == BOTH, "{document}");
    ensure!(document["nodes"][0]["status"]["vips"].is_array(), "{document}");
    cluster.set_ready(workload, BOTH[0], true)?;
    on(cluster, workload, &BOTH)
}

fn explained(plugin: &Plugin<'_>, workload: &Workload) -> Result<()> {
    let vip = workload.vips[1].to_string();
    plugin.run(&["explain", &vip])?.ensure(0, &["==> node1 <==", "==> node2 <==", "What would change the answer"])?;
    let document = plugin.json(&["explain", &vip, "--node", BOTH[1], "-o", "json"])?;
    ensure!(document[0]["explain"]["node"] == BOTH[1] && document[1].is_null(), "{document}");
    plugin.run(&["explain", "192.0.2.1"])?.ensure(1, &["no daemon could explain it"])?;
    plugin
        .run(&["status", "--node", "node9"])?
        .ensure(1, &["no daemon is on node \"node9\"; they are on node1, node2"])?;
    plugin.run(&["status", "-n", "default"])?.ensure(1, &["namespace default has no running pod"])?;
    Ok(())
}

fn drained(cluster: &Guard, plugin: &Plugin<'_>, workload: &Workload) -> Result<()> {
    cluster.kubectl(&["taint", "node", BOTH[0], "example.com/ours=stays:PreferNoSchedule"])?;
    let done = plugin.run(&["drain", BOTH[0], "--wait", "--timeout", "60"])?;
    done.ensure(0, &["node1 is drained by the taint cosmolet.io/drain", "no VIP is left"])?;
    on(cluster, workload, &BOTH[1..])?;
    plugin.run(&["drain", BOTH[0]])?.ensure(0, &["was already drained"])?;
    let taints = ["get", "node", BOTH[0], "-o", "jsonpath={.spec.taints[*].key}"];
    let found = cluster.kubectl(&taints)?;
    ensure!(found == "example.com/ours cosmolet.io/drain", "{found}");
    plugin.run(&["undrain", BOTH[0]])?.ensure(0, &["node1 is back"])?;
    on(cluster, workload, &BOTH)?;
    let found = cluster.kubectl(&taints)?;
    ensure!(found == "example.com/ours", "{found}");
    cluster.kubectl(&["taint", "node", BOTH[0], "example.com/ours-"])?;
    plugin.run(&["drain", "node9"])?.ensure(1, &["the cluster has no node \"node9\""])?;
    Ok(())
}

/// A daemon that does not answer costs its own line.
fn silent(cluster: &Guard, plugin: &Plugin<'_>) -> Result<()> {
    let paused = Paused::new(cluster.daemon_process(BOTH[1])?)?;
    let done = plugin.run(&["status", "--patience", "5"])?.ensure(3, &["! node2: its daemon did not answer in 5s"])?;
    ensure!(done.out.lines().any(|line| line.starts_with("node2") && line.contains("no answer")), "{}", done.out);
    ensure!(done.out.lines().any(|line| line.starts_with("node1") && line.contains("sessions up")), "{}", done.out);
    drop(paused);
    Ok(())
}

/// An account without rights, with half of them, and with the role of the page; none of them may drain.
fn rights(cluster: &Guard) -> Result<()> {
    cluster.kubectl(&["create", "serviceaccount", "on-call", "-n", "plugin"])?;
    let token = cluster.kubectl(&["create", "token", "on-call", "-n", "plugin"])?;
    let file = cluster.lab.subdirectory("plugin")?.join("on-call.kubeconfig");
    fs::write(&file, cluster.api.kubeconfig_for(token.trim(), &cluster.api.authority()))?;
    let plugin = Plugin::new(cluster, file)?;
    let namespace = format!("in namespace {COSMOLET_NAMESPACE}");
    plugin.run(&["status"])?.ensure(1, &["your account may not list pods", &namespace, "docs/kubectl.md"])?;
    let on_call = "--serviceaccount=plugin:on-call";
    let role = ["create", "role", "cosmolet-lister", "--verb=list", "--resource=pods", "-n", COSMOLET_NAMESPACE];
    cluster.kubectl(&role)?;
    bind(cluster, "cosmolet-lister", on_call)?;
    let half = "may not get and create pods/portforward";
    wait::until_true("half the rights", LIMIT, || Ok(plugin.run(&["status"])?.ensure(3, &[half]).is_ok()))?;
    cluster.apply_text(&role_of_page()?)?;
    bind(cluster, "cosmolet-viewer", on_call)?;
    wait::until_true("the page's rights", LIMIT, || Ok(plugin.run(&["status"])?.code == Some(0)))?;
    plugin.run(&["drain", BOTH[0]])?.ensure(1, &["your account may not get nodes;"])?;
    Ok(())
}

/// The role of docs/kubectl.md.
fn role_of_page() -> Result<String> {
    let mut blocks = markdown::all_blocks()?.into_iter();
    let role = blocks.find(|block| block.at.starts_with("docs/kubectl.md") && block.kind == "yaml kubernetes");
    Ok(role.context("docs/kubectl.md has no role")?.text)
}

fn bind(cluster: &Cluster, role: &str, account: &str) -> Result<()> {
    let role_flag = format!("--role={role}");
    let name = format!("{role}-on-call");
    cluster.kubectl(&["create", "rolebinding", &name, &role_flag, account, "-n", COSMOLET_NAMESPACE]).map(drop)
}
