//! The demo: a real fabric, two real daemons, real traffic; one thing after another breaks, and the ToR tells.
#![allow(clippy::print_stdout, reason = "the demo talks to a person")]

mod cluster;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use cosmolet_tests::client::{Client, Load, Summary};
use cosmolet_tests::fabric::{Mode, NodeSpec, vip4, vip6};
use cosmolet_tests::forward::forward;
use cosmolet_tests::frr::Daemon as FrrDaemon;
use cosmolet_tests::objects::State;
use cosmolet_tests::prometheus::{self, Prometheus};
use cosmolet_tests::report::{self, Table, ms};
use cosmolet_tests::stage::{HTTP, Options, Stage, targets};
use cosmolet_tests::{interrupt, lab, packaging};

/// Raises a ToR, two nodes, a client and a backend each, runs a cosmolet on both nodes and breaks things.
#[derive(Debug, Parser)]
#[command(name = "demo", max_term_width = 110)]
struct Args {
    /// Leave the lab up at the end with a Prometheus in it, say how to look around, and clean up at Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Tell the story on a real Kubernetes cluster: helm, kubelet, kube-proxy.
    #[arg(long)]
    cluster: bool,
}

const LIMIT: Duration = Duration::from_secs(10);
/// The connected node: the sample of a real one, unnumbered, with `network` lines of its own.
const LEAF: usize = 0;
/// The dynamic node.
const EDGE: usize = 1;
const BOTH: [&str; 2] = ["node1", "node2"];

fn main() -> ExitCode {
    let args = Args::parse();
    interrupt::clean_up_on_signals();
    let started = Instant::now();
    let mut story = Story::default();
    let result = if args.cluster { cluster::tell(&mut story, args.keep) } else { tell(&mut story, &args) };
    println!("\n{}", story.table());
    report::ending("step", result, started)
}

/// What has happened so far.
#[derive(Default)]
struct Story {
    rows: Vec<[String; 4]>,
}

impl Story {
    fn add(&mut self, cause: &str, effect: &str, took: String, requests: Option<&Summary>) {
        let failed = requests.map_or_else(|| "-".to_owned(), report::failed);
        println!("  {cause}: {effect}: {took}; failed requests {failed}");
        self.rows.push([cause.to_owned(), effect.to_owned(), took, failed]);
    }

    fn table(&self) -> Table {
        let mut table = Table::new(["cause", "what the ToR's kernel saw", "after", "failed requests"]);
        self.rows.iter().for_each(|row| table.row(row.clone()));
        table
    }
}

fn tell(story: &mut Story, args: &Args) -> Result<()> {
    ensure!(lab::is_root(), "the demo needs root: it makes network namespaces and runs FRR in them");
    println!("Raising a ToR, two nodes, a client and two backends; real FRR in each ...");
    let specs = [NodeSpec::new(BOTH[LEAF], Mode::Connected).unnumbered(), NodeSpec::new(BOTH[EDGE], Mode::Dynamic)];
    // Prometheus asks from the ToR.
    let env = if args.keep { vec![("COSMOLET_HTTP_LISTEN", "0.0.0.0:9470")] } else { Vec::new() };
    let options = Options { traffic: "enforce", lease_seconds: 6, env, ..Options::default() };
    let mut stage = Stage::raise(&specs, options)?;
    println!("node1 redistributes connected routes, node2 wants network statements. Starting both daemons ...\n");
    both_carry(&mut stage, story)?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    spread(&client)?;
    readiness(&mut stage, &client, story)?;
    dnat_lost(&mut stage, &client, story)?;
    daemon_killed(&mut stage, &client, story)?;
    bgpd_killed(&mut stage, &client, story)?;
    lease_ends(&mut stage, &client, story)?;
    if args.keep {
        let _prometheus = watch(&stage)?;
        look_around(&stage)?;
        println!("\n{}", story.table());
        interrupt::wait();
    }
    Ok(())
}

fn both_carry(stage: &mut Stage, story: &mut Story) -> Result<()> {
    let since = Instant::now();
    stage.start()?;
    let took = stage.wait_nodes(&BOTH, since, LIMIT)?;
    story.add("both daemons start", "both VIPs by both nodes (ECMP)", ms(took), None);
    for (index, mode) in [(LEAF, "connected"), (EDGE, "dynamic")] {
        for vip in [vip4(1), vip6(1)] {
            stage.wait_status(index, vip, "advertised and in the RIB", |row| {
                row["state"] == "advertised" && row["mode"] == mode && row["rib"]["valid"] == true
            })?;
        }
    }
    Ok(())
}

fn spread(client: &Client) -> Result<()> {
    let seen = client.watch(Duration::from_secs(2));
    ensure!(seen.failed() == 0, "failed requests before anything broke: {seen:?}");
    ensure!(seen.by_node.len() == 2, "only one node got traffic: {seen:?}");
    println!("  the client's requests spread over {:?}", seen.by_node);
    Ok(())
}

fn readiness(stage: &mut Stage, client: &Client, story: &mut Story) -> Result<()> {
    let since = Instant::now();
    stage.set_endpoint(LEAF, State::NotReady)?;
    let took = stage.wait_nodes(&BOTH[EDGE..], since, LIMIT)?;
    let requests = client.summary(since, Instant::now() + Duration::from_millis(500));
    story.add("node1's endpoint is not ready", "node1 gone", ms(took), Some(&requests));
    stage.wait_status(LEAF, vip4(1), "withdrawn", |row| row["reason"] == "NoLocalEndpoint")?;
    let since = Instant::now();
    stage.set_endpoint(LEAF, State::Ready)?;
    let took = stage.wait_nodes(&BOTH, since, LIMIT)?;
    let requests = client.summary(since, Instant::now() + Duration::from_millis(500));
    story.add("it is ready again", "node1 back", ms(took), Some(&requests));
    Ok(())
}

fn dnat_lost(stage: &mut Stage, client: &Client, story: &mut Story) -> Result<()> {
    let since = Instant::now();
    stage.fabric.nodes[EDGE].proxy.lose()?;
    let took = stage.wait_nodes(&BOTH[..EDGE], since, LIMIT)?;
    let requests = client.summary(since, Instant::now() + Duration::from_millis(500));
    story.add("node2's DNAT is lost: it answers RST", "node2 gone, convicted by eBPF", ms(took), Some(&requests));
    stage.wait_status(EDGE, vip4(1), "withdrawn", |row| row["reason"] == "HostRefuses")?;
    stage.fabric.nodes[EDGE].proxy.restore()?;
    println!("  its DNAT is back; the half-open trial begins 30 s (±10 %) after the conviction ...");
    let since = Instant::now();
    let took = stage.wait_nodes(&BOTH, since, Duration::from_secs(45))?;
    let requests = client.summary(Instant::now(), Instant::now() + Duration::from_secs(1));
    ensure!(requests.failed() == 0, "the trial fails: {requests:?}");
    story.add("DNAT restored, trial", "node2 back", ms(took), Some(&requests));
    Ok(())
}

fn daemon_killed(stage: &mut Stage, client: &Client, story: &mut Story) -> Result<()> {
    let since = Instant::now();
    stage.daemons[EDGE].kill()?;
    stage.daemons[EDGE].start()?;
    std::thread::sleep(Duration::from_secs(2));
    let changes = stage.changes(since);
    let requests = client.summary(since, Instant::now());
    ensure!(changes == 0, "the ToR saw {changes} changes");
    ensure!(requests.failed() == 0, "{requests:?}");
    let took = "0 changes".to_owned();
    story.add("node2's daemon: SIGKILL, restarted", "nothing moves", took, Some(&requests));
    Ok(())
}

fn bgpd_killed(stage: &mut Stage, client: &Client, story: &mut Story) -> Result<()> {
    let since = stage.fabric.nodes[EDGE].frr.kill(FrrDaemon::Bgpd)?;
    let gone = stage.wait_nodes(&BOTH[..EDGE], since, LIMIT)?;
    let launched = stage.fabric.nodes[EDGE].frr.launch(FrrDaemon::Bgpd)?;
    stage.fabric.nodes[EDGE].frr.wait_answering(FrrDaemon::Bgpd)?;
    let answered = Instant::now();
    let took = stage.wait_nodes(&BOTH, launched, LIMIT)?;
    let row = stage.wait_status(EDGE, vip4(1), "replayed", |row| row["network"] == "ours")?;
    let requests = client.summary(since, Instant::now());
    story.add("node2's bgpd: SIGKILL", "node2 gone", ms(gone), None);
    let effect = format!("replayed ({}), node2 back", row["mode"].as_str().unwrap_or("?"));
    story.add("bgpd restarted", &effect, ms(took), Some(&requests));
    println!("  (its vty socket answered {} after its start)", ms(answered.duration_since(launched)));
    Ok(())
}

fn lease_ends(stage: &mut Stage, client: &Client, story: &mut Story) -> Result<()> {
    let since = stage.daemons[LEAF].kill()?;
    let took = stage.wait_nodes(&BOTH[EDGE..], since, Duration::from_secs(12))?;
    let requests = client.summary(since, Instant::now() + Duration::from_millis(500));
    story.add("node1's daemon dead for good", "node1 gone: its lease of 6 s ended", ms(took), Some(&requests));
    stage.daemons[LEAF].start().context("node1's daemon, started again")?;
    let took = stage.wait_nodes(&BOTH, Instant::now(), LIMIT)?;
    story.add("it is started again", "node1 back", ms(took), None);
    Ok(())
}

/// Starts a Prometheus beside the ToR, and says where a browser finds it and the daemons' pages.
fn watch(stage: &Stage) -> Result<Prometheus> {
    println!("\nStarting Prometheus with the chart's alerts ...");
    let daemons: Vec<_> = stage
        .fabric
        .nodes
        .iter()
        .map(|node| (node.name(), SocketAddr::new(node.plan.loopback4().into(), 9470)))
        .collect();
    let rules = packaging::read("charts/cosmolet/rules/cosmolet.yaml")?;
    let prometheus = Prometheus::start(&stage.lab, &stage.fabric.tor, &daemons, &rules)?;
    println!("\nFor a browser on this machine (from another one: ssh -L PORT:127.0.0.1:PORT):\n");
    for (node, port) in stage.fabric.nodes.iter().zip(9471..) {
        let page = forward(&node.netns, HTTP.parse()?, port)?;
        println!("  http://{page}/   the status page of {}", node.name());
    }
    let graphs = forward(&stage.fabric.tor, prometheus::LISTEN.parse()?, 9090)?;
    println!(
        "  http://{graphs}/graph?g0.expr=cosmolet_vip_advertised   Prometheus; its alerts: http://{graphs}/alerts"
    );
    println!("  Dashboards to import: charts/cosmolet/dashboards/; their data source is http://{graphs}/");
    Ok(prometheus)
}

fn look_around(stage: &Stage) -> Result<()> {
    let binary = cosmolet_tests::daemon::binary()?;
    println!("\nThe lab stays up until Ctrl-C. In another terminal, as root:\n");
    for node in &stage.fabric.nodes {
        let enter = format!("nsenter --net=/run/netns/{}", node.netns.name());
        println!("  # {}", node.name());
        println!("  {enter} {} status", binary.display());
        println!("  {enter} curl -s http://127.0.0.1:9470/metrics | grep cosmolet_vip");
        println!("  {enter} vtysh --vty_socket {} -c 'show bgp summary'", node.frr.directory().display());
        println!("  {enter} nft delete table inet csm_proxy   # loses its DNAT");
    }
    println!("  # the client");
    println!("  nsenter --net=/run/netns/{} curl -s http://{}/", stage.fabric.client.name(), vip4(1));
    println!("  # the ToR");
    println!("  nsenter --net=/run/netns/{} ip route show {}", stage.fabric.tor.name(), vip4(1));
    println!("  # the manifests that the daemons follow, and all logs");
    println!("  ls {}", stage.lab.directory().display());
    Ok(())
}
