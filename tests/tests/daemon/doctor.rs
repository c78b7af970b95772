//! `cosmolet doctor` on a real node: what is well, and an operator's mistakes one by one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::{Mode, NodeSpec};
use cosmolet_tests::stage::{Options, Stage};
use cosmolet_tests::wait;
use serde_json::Value;

use crate::{LIMIT, NODE, one_node};

/// By check: the verdict, and what was seen with the fix.
type Found = BTreeMap<String, (String, String)>;

/// What the doctor finds, and its exit code.
fn doctor(stage: &Stage) -> Result<(Found, Option<i32>)> {
    let config = stage.daemons[0].config().display().to_string();
    let output = stage.daemons[0].cli(&["doctor", "-o", "json", "--config", &config])?;
    let text = String::from_utf8(output.stdout)?;
    let found: Vec<Value> = serde_json::from_str(&text).with_context(|| text.clone())?;
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let mut rows = Found::new();
    for finding in &found {
        let told = format!("{} → {}", word(finding, "seen"), word(finding, "fix"));
        let row = rows.entry(word(finding, "check")).or_default();
        // Of one finding for each family, the one that is not well.
        if row.0.is_empty() || row.0 == "ok" {
            *row = (word(finding, "verdict"), told);
        }
    }
    Ok((rows, output.status.code()))
}

fn wait_verdict(stage: &Stage, check: &str, verdict: &str) -> Result<String> {
    wait::until(&format!("{check} is {verdict}"), LIMIT, || {
        let (found, code) = doctor(stage)?;
        let (is, told) = found.get(check).with_context(|| format!("no {check} in {found:?}"))?;
        ensure!(is == verdict, "{check} is {is}: {told}");
        ensure!(verdict != "wrong" || code == Some(3), "exit code {code:?}");
        Ok(Some(told.clone()))
    })
}

#[test]
fn the_doctor_finds_what_an_operator_gets_wrong() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    for check in [
        "configuration",
        "daemon",
        "frr-vty",
        "frr-instance",
        "frr-sessions",
        "frr-policy",
        "node-forwarding",
        "ebpf-rights",
    ] {
        wait_verdict(&stage, check, "ok")?;
    }
    let frr = |lines: &[&str]| stage.fabric.nodes[0].frr.configure(lines);
    for (check, verdict, mistake, mended) in [
        ("frr-policy", "wrong", "bgp ebgp-requires-policy", "no bgp ebgp-requires-policy"),
        ("frr-import-check", "wrong", "no bgp network import-check", "bgp network import-check"),
        ("frr-suppress-fib", "advice", "bgp suppress-fib-pending", "no bgp suppress-fib-pending"),
    ] {
        frr(&["router bgp", mistake])?;
        let told = wait_verdict(&stage, check, verdict)?;
        ensure!(told.contains(mended) || told.contains("no bgp"), "{told}");
        frr(&["router bgp", mended])?;
        wait_verdict(&stage, check, "ok")?;
    }
    stage.fabric.nodes[0].netns.sysctl("net/ipv4/ip_forward", "0")?;
    ensure!(wait_verdict(&stage, "node-forwarding", "wrong")?.contains("sysctl -w net.ipv4.ip_forward=1"), "no fix");
    stage.fabric.nodes[0].netns.sysctl("net/ipv4/ip_forward", "1")?;

    // Without the daemon, and without FRR: the rest is looked at all the same.
    stage.daemons[0].kill()?;
    wait_verdict(&stage, "daemon", "unknown")?;
    stage.fabric.nodes[0].frr.kill(cosmolet_tests::frr::Daemon::Bgpd)?;
    let told = wait_verdict(&stage, "frr-vty", "wrong")?;
    ensure!(told.contains("start FRR"), "{told}");
    wait_verdict(&stage, "node-forwarding", "ok").map(drop)
}

#[test]
fn in_connected_mode_the_doctor_looks_at_the_route_map() -> Result<()> {
    let stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Connected)], Options::default())?;
    let since = Instant::now();
    let told = wait_verdict(&stage, "frr-instance", "ok")?;
    ensure!(told.contains("ipv4 connected"), "{told}");
    wait_verdict(&stage, "frr-redistribute", "ok")?;
    ensure!(since.elapsed() < Duration::from_secs(60), "it never ends");
    stage.fabric.nodes[0].frr.configure(&[
        "router bgp",
        "address-family ipv4 unicast",
        "no redistribute connected",
        "redistribute connected",
    ])?;
    wait_verdict(&stage, "frr-redistribute", "wrong").map(drop)
}
