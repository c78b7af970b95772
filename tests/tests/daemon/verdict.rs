//! The traffic verdict with its second key: suspect by failing handshakes, convicted by failing probes, back once one passes;
//! and `cosmolet explain` all along.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::fabric::{BACKEND_PORT, Mode, UPLINK, vip4, vip6};
use cosmolet_tests::stage::{Options, Stage, targets};
use serde_json::Value;

use crate::{LIMIT, NODE, ensure_unmoved, metric, one_node};

/// A hold short enough for a test.
const HOLD: Duration = Duration::from_secs(3);

pub(crate) fn enforcing() -> Options {
    let env = vec![("COSMOLET_TRAFFIC_RULE_HOLD_SECONDS", "3"), ("COSMOLET_TRAFFIC_RULE_TRIAL_PROBE_SECONDS", "1")];
    Options { traffic: "enforce", env, elsewhere: true, ..Options::default() }
}

pub(crate) fn explain(stage: &Stage, vip: IpAddr) -> Result<Value> {
    let output = stage.daemons[0].cli(&["explain", &vip.to_string(), "-o", "json"])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits until both VIPs are served to clients and a probe of each has passed.
pub(crate) fn proven(stage: &Stage) -> Result<()> {
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "a probe has passed", |row| row["services"][0]["proven"] == true)?;
    }
    Ok(())
}

/// The node loses its DNAT, which convicts at once; past its hold it stays away while probes fail, and comes back when one passes.
#[test]
fn no_trial_begins_while_probes_fail() -> Result<()> {
    let stage = one_node(Mode::Dynamic, enforcing())?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    proven(&stage)?;
    stage.fabric.nodes[0].proxy.lose()?;
    stage.wait_nodes(&[], Instant::now(), LIMIT)?;
    let withdrawn = Instant::now();
    let trial =
        |outcome: &str| metric(&stage, &format!("cosmolet_probes_total{{purpose=\"trial\",outcome=\"{outcome}\"}}"));
    while withdrawn.elapsed() < HOLD * 3 {
        std::thread::sleep(Duration::from_millis(200));
        for vip in [vip4(1), vip6(1)] {
            let row = stage.row(0, vip)?.context("no row")?;
            ensure!(row["state"] == "withdrawn" || row["state"] == "withdrawing", "{row}");
        }
    }
    ensure!(trial("refused_host")? >= 2, "{}", stage.daemons[0].metrics()?);
    ensure_unmoved(&stage, withdrawn + Duration::from_secs(1))?;
    let told = explain(&stage, vip4(1))?;
    ensure!(told["services"][0]["traffic"]["verdict"] == "convicted", "{told}");
    stage.fabric.nodes[0].proxy.restore()?;
    let restored = Instant::now();
    stage.wait_nodes(&[NODE], restored, LIMIT)?;
    println!("back {:?} after the DNAT", restored.elapsed());
    ensure!(trial("passed")? >= 2, "{}", stage.daemons[0].metrics()?);
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "its trial ends well", |row| row["services"][0]["health"] == "up")?;
    }
    drop(client);
    Ok(())
}

/// The backend falls silent while clients connect: nothing answers, so that handshakes time out and probes fail.
#[test]
fn a_silent_backend_is_suspected_convicted_and_comes_back() -> Result<()> {
    let stage = one_node(Mode::Dynamic, enforcing())?;
    let sources = stage.prefixes_of_the_client()?;
    let load = Load { per_second: 20, sources, ..Load::new(targets().to_vec()) };
    let client = Client::start(&stage.fabric.client, load)?;
    proven(&stage)?;
    says(&stage, "clear")?;
    let pod = &stage.fabric.nodes[0].pod;
    let drop_all = format!(
        "table inet csm_drop {{ chain in {{ type filter hook input priority 0; tcp dport {BACKEND_PORT} drop; }}; }}"
    );
    pod.exec_with_input("nft", &["-f", "-"], &drop_all)?;
    let silent = Instant::now();
    stage.wait_nodes(&[], silent, LIMIT)?;
    println!("withdrawn {:?} after the backend fell silent", silent.elapsed());
    for vip in [vip4(1), vip6(1)] {
        let row = stage.wait_status(0, vip, "convicted", |row| row["reason"] == "ConnectionsFail")?;
        ensure!(row["services"][0]["verdict"] == "convicted", "{row}");
        let told = explain(&stage, vip)?;
        ensure!(told["services"][0]["traffic"]["reason"] == "ConnectionsFail", "{told}");
    }
    let withdrawn = Instant::now();
    std::thread::sleep(HOLD * 3);
    ensure_unmoved(&stage, withdrawn + Duration::from_secs(1))?;
    pod.exec("nft", &["delete", "table", "inet", "csm_drop"])?;
    let healed = Instant::now();
    stage.wait_nodes(&[NODE], healed, LIMIT)?;
    println!("back {:?} after it was healed", healed.elapsed());
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "its trial ends well", |row| row["services"][0]["health"] == "up")?;
    }
    drop(client);
    Ok(())
}

/// The backend refuses while clients connect: without probes that makes its VIPs suspect and nothing more, with them it convicts.
#[test]
fn a_refusing_backend_is_suspect_without_probes_and_convicted_with_them() -> Result<()> {
    let mut unprobed = enforcing();
    unprobed.env.push(("COSMOLET_TRAFFIC_PROBE_SOURCES", "[]"));
    let mut stage = one_node(Mode::Dynamic, unprobed)?;
    let sources = stage.prefixes_of_the_client()?;
    let load = Load { per_second: 20, sources, ..Load::new(targets().to_vec()) };
    let client = Client::start(&stage.fabric.client, load)?;
    says(&stage, "unproven")?;
    let since = Instant::now();
    stage.fabric.nodes[0].backend.stop()?;
    says(&stage, "suspect")?;
    std::thread::sleep(HOLD);
    ensure_unmoved(&stage, since)?;
    let told = explain(&stage, vip4(1))?;
    let sentences = told["would_change"].to_string();
    ensure!(sentences.contains("convicts nobody before a probe has passed"), "{told}");
    stage.fabric.nodes[0].backend.resume()?;
    says(&stage, "unproven")?;
    stage.daemons[0].stop(LIMIT)?;
    stage.reconfigure(0, &enforcing())?;
    stage.daemons[0].start()?;
    proven(&stage)?;
    says(&stage, "clear")?;
    ensure_unmoved(&stage, since)?;
    stage.fabric.nodes[0].backend.stop()?;
    let refused = Instant::now();
    stage.wait_nodes(&[], refused, LIMIT)?;
    println!("withdrawn {:?} after the backend refused", refused.elapsed());
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "convicted", |row| row["reason"] == "ConnectionsFail")?;
    }
    stage.fabric.nodes[0].backend.resume()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    drop(client);
    Ok(())
}

/// Waits until the verdict on both VIPs is this word.
pub(crate) fn says(stage: &Stage, verdict: &str) -> Result<()> {
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, verdict, |row| row["services"][0]["verdict"] == verdict)?;
    }
    Ok(())
}

#[test]
fn explain_tells_inputs_votes_thresholds_and_what_would_change() -> Result<()> {
    let stage = one_node(Mode::Dynamic, Options::default())?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    proven(&stage)?;
    drop(client);
    let told = explain(&stage, vip4(1))?;
    ensure!(told["status"]["state"] == "advertised" && told["node"] == NODE && told["mode"] == "observe", "{told}");
    for (input, state) in [("services", "synced"), ("frr", "up"), ("programs", "running"), ("prober", "running")] {
        let inputs = told["inputs"].as_array().context("no inputs")?;
        let found = inputs.iter().find(|one| one["input"] == input).with_context(|| format!("no {input} in {told}"))?;
        ensure!(found["state"] == state && found["age_seconds"].as_f64() < Some(60.0), "{found}");
    }
    let service = &told["services"][0];
    ensure!(service["control_plane"].is_null() && service["local"]["ready"] == 1, "{service}");
    let port = &service["ports"][0];
    ensure!(port["port"] == "80/tcp" && port["evidence"]["threshold"] == 16.1, "{port}");
    ensure!(port["evidence"]["client_prefixes_needed"] == 3 && port["probe"]["failures_needed"] == 3, "{port}");
    ensure!(service["traffic"]["guards"][0]["guard"] == "Mode", "{service}");
    let sentences: Vec<&str> =
        told["would_change"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for part in ["withdrawn when no endpoint on this node is usable (now 1 of 1)", "this host itself refuses 90 %"] {
        ensure!(sentences.iter().any(|sentence| sentence.contains(part)), "no {part:?} in {sentences:#?}");
    }
    let transitions = told["transitions"].as_array().context("no transitions")?;
    ensure!(transitions.iter().any(|one| one["to"] == "advertise" && one["vip"] == vip4(1).to_string()), "{told}");
    as_text_and_errors(&stage)
}

fn as_text_and_errors(stage: &Stage) -> Result<()> {
    let output = stage.daemons[0].cli(&["explain", &vip6(1).to_string()])?;
    let text = String::from_utf8(output.stdout)?;
    for part in ["on node1: advertised, for ", "What was heard\n", "Service default/web: up\n", "score 0.0 of 16.1"] {
        ensure!(output.status.success() && text.contains(part), "no {part:?} in:\n{text}");
    }
    ensure!(text.contains("What would change the answer\n") && text.contains("The last decisions\n"), "{text}");
    let unknown = stage.daemons[0].cli(&["explain", "10.99.99.99"])?;
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    ensure!(unknown.status.code() == Some(1) && error.contains("404") && error.contains("no Service"), "{error}");
    let typed_wrong = stage.daemons[0].cli(&["explain", UPLINK])?;
    ensure!(typed_wrong.status.code() == Some(2), "{typed_wrong:?}");
    let reply = stage.daemons[0].get("/api/v1/explain/nonsense")?;
    ensure!(reply.status == 400, "{reply:?}");
    Ok(())
}
