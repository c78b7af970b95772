//! Drains: out without a failed request, back again, over the daemon's death; and failures that do not wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::daemon::binary;
use cosmolet_tests::fabric::{Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage, targets};
use cosmolet_tests::wait;

use crate::{LIMIT, NODE, frr, metric, one_node, wait_vip};

const BOTH: [&str; 2] = [NODE, "node2"];
const DRAIN: &str = "COSMOLET_BGP_DRAIN_SECONDS";

fn options(seconds: &'static str) -> Options {
    Options { env: vec![(DRAIN, seconds)], ..Options::default() }
}

fn two_nodes(seconds: &'static str) -> Result<Stage> {
    let specs = BOTH.map(|node| NodeSpec::new(node, Mode::Dynamic));
    let mut stage = Stage::raise(&specs, options(seconds))?;
    stage.start()?;
    stage.wait_nodes(&BOTH, Instant::now(), LIMIT)?;
    Ok(stage)
}

/// Runs `cosmolet drain` or `undrain` for the first node, and returns what it printed.
fn command(stage: &Stage, args: &[&str]) -> Result<String> {
    let config = stage.daemons[0].config().display().to_string();
    let file = stage.lab.directory().join(format!("drain-{NODE}")).display().to_string();
    let program = binary()?.display().to_string();
    let mut command = stage.fabric.nodes[0].netns.command(&program);
    let output = command.args(args).args(["--config", &config]).env("COSMOLET_SERVICES_DRAIN_FILE", &file).output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{args:?}: {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

#[test]
fn a_drained_node_leaves_without_a_failed_request_and_comes_back() -> Result<()> {
    let mut stage = two_nodes("30")?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    std::thread::sleep(Duration::from_secs(2));
    let since = Instant::now();
    let told = command(&stage, &["drain", "--wait"])?;
    ensure!(told.contains("wait for their traffic to go") && told.contains("no VIP is left, after"), "{told}");
    let took = since.elapsed();
    stage.wait_nodes(&["node2"], since, LIMIT)?;
    ensure!(took < Duration::from_secs(25), "it took the whole time, though its traffic was gone: {took:?}");
    let row = stage.row(0, vip4(1))?.context("a row")?;
    ensure!(row["state"] == "withdrawn" && row["reason"] == "NodeDrained", "{row}");
    ensure!(metric(&stage, "cosmolet_node_drained")? == 1, "the metric does not say so");
    println!("drained in {took:?}");

    // It outlives the daemon.
    stage.daemons[0].kill()?;
    stage.daemons[0].start()?;
    stage.wait_status(0, vip4(1), "drained still", |row| row["reason"] == "NodeDrained")?;
    ensure!(frr(&stage, 0)?.ours.is_empty(), "advertised while drained");
    let summary = client.summary(since, Instant::now());
    ensure!(summary.ok() > 100 && summary.failed() == 0, "{summary:?}");

    ensure!(command(&stage, &["undrain"])?.contains("the node is back"), "undrain");
    stage.wait_nodes(&BOTH, Instant::now(), LIMIT)?;
    ensure!(command(&stage, &["undrain"])?.contains("was not drained"), "twice");
    // The de-preferred route-map goes with its use.
    let config = || stage.fabric.nodes[0].frr.config();
    wait::until_true("the route-map is gone", crate::REREAD, || Ok(!config()?.contains("-GSHUT")))
}

/// While it drains peers hear of it with the community; a backend that fails meanwhile is not waited for.
#[test]
fn a_failure_ends_a_drain_at_once() -> Result<()> {
    // Nothing is counted: the drain would last its whole time.
    let mut stage = one_node(Mode::Dynamic, Options { traffic: "off", ..options("3600") })?;
    let file = stage.lab.directory().join(format!("drain-{NODE}"));
    std::fs::write(&file, "")?;
    for vip in [vip4(1), vip6(1)] {
        let row = stage.wait_status(0, vip, "draining", |row| row["drain_left_seconds"].as_f64().is_some())?;
        ensure!(row["state"] == "withdrawing" && row["reason"] == "NodeDrained", "{row}");
        let family = if vip.is_ipv4() { "ipv4" } else { "ipv6" };
        let command = format!("show bgp {family} unicast {}", host(vip));
        wait::until_true("the community at the ToR", LIMIT, || {
            let shown = stage.fabric.tor_frr.show(&command)?;
            Ok(shown["paths"][0]["community"]["string"] == "graceful-shutdown")
        })?;
        // The only way there is is still taken.
        wait_vip(&stage, vip, &[NODE])?;
    }
    // Away and back: as if nothing had been.
    std::fs::remove_file(&file)?;
    stage.wait_status(0, vip4(1), "advertised", |row| row["state"] == "advertised" && row["attributes"].is_null())?;
    std::fs::write(&file, "")?;
    stage.wait_status(0, vip4(1), "draining again", |row| row["drain_left_seconds"].as_f64().is_some())?;

    let since = Instant::now();
    stage.set_endpoint(0, State::NotReady)?;
    stage.wait_nodes(&[], since, LIMIT)?;
    stage.wait_status(0, vip4(1), "withdrawn", |row| row["state"] == "withdrawn").map(drop)
}

/// The route-map is the operator's in Connected mode: nothing to de-preference, nothing to wait for.
#[test]
fn in_connected_mode_a_drain_withdraws_at_once() -> Result<()> {
    let stage = one_node(Mode::Connected, options("3600"))?;
    std::fs::write(stage.lab.directory().join(format!("drain-{NODE}")), "")?;
    stage.wait_nodes(&[], Instant::now(), LIMIT)?;
    stage
        .wait_status(0, vip4(1), "withdrawn", |row| row["state"] == "withdrawn" && row["reason"] == "NodeDrained")
        .map(drop)
}
