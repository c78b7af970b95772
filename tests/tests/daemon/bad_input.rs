//! Manifests that are wrong: each costs its own Service or file, with its reason, and nothing else.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::{BACKEND_PORT, Mode, host, vip4, vip6};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::stage::{Options, PORT, Stage};
use cosmolet_tests::wait;
use k8s_openapi::api::core::v1::Service;

use crate::{LIMIT, NODE, endpoint, ensure_unmoved, frr, loopback, metric, one_node, wait_vip, write_service};

/// Addresses that must not become VIPs, and why. The node is the fabric's first: 10.1.1.2 is its uplink's address, 10.255.0.1
/// its own on `lo`, 10.1.1.1 the ToR's.
const REFUSED: [(&str, &str); 15] = [
    ("0.0.0.0", "Unspecified"),
    ("127.0.0.1", "Loopback"),
    ("224.0.0.5", "Multicast"),
    ("169.254.1.1", "LinkLocal"),
    ("fe80::1", "LinkLocal"),
    ("255.255.255.255", "Reserved"),
    ("10.1.1.2", "OwnAddress"),
    ("fd00:1:1::2", "OwnAddress"),
    ("10.255.0.1", "ForeignAddress"),
    ("fd00:255::1", "ForeignAddress"),
    ("10.1.1.1", "PeerAddress"),
    ("fd00:1:1::1", "PeerAddress"),
    ("192.0.2.1", "OutsideRanges"),
    ("2001:db8::1", "OutsideRanges"),
    ("10.100.200.7", "Excluded"),
];

/// Ranges that hold the fabric's own addresses too.
fn wide() -> Options {
    let env = vec![("COSMOLET_LOOPBACK_EXCLUDED", "[10.100.200.0/24]")];
    Options { vip_ranges: "10.0.0.0/8, 'fd00::/8'".to_owned(), env, ..Options::default() }
}

#[test]
fn a_bad_service_costs_only_itself() -> Result<()> {
    let stage = one_node(Mode::Dynamic, wide())?;
    let (since, addresses, config) = (Instant::now(), loopback(&stage, 0)?, frr(&stage, 0)?);
    for (number, (address, _)) in REFUSED.into_iter().enumerate() {
        write_bad(&stage, &format!("bad-{number}"), Some(address), &[PORT])?;
    }
    write_bad(&stage, "no-ports", Some("10.100.0.2"), &[])?;
    write_bad(&stage, "no-address", Some("10.100.0.300"), &[PORT])?;
    write_bad(&stage, "pending", None, &[PORT])?;
    for (address, reason) in REFUSED.into_iter().chain([("10.100.0.2", "NoPorts")]) {
        let row = stage.wait_status(0, address.parse()?, reason, |row| row["reason"] == reason)?;
        ensure!(row["state"] == "refused" && row["explanation"].is_string(), "{row}");
    }
    unusable(&stage)?;
    ensure!(loopback(&stage, 0)? == addresses, "lo has {:?}", loopback(&stage, 0)?);
    ensure!(frr(&stage, 0)? == config, "FRR has {:?}", frr(&stage, 0)?);
    ensure_unmoved(&stage, since)?;
    let metrics = stage.daemons[0].metrics()?;
    for reason in ["Loopback", "NoPorts", "PeerAddress"] {
        ensure!(metrics.contains(&format!("reason=\"{reason}\"")), "no metric says {reason}:\n{metrics}");
    }
    // One bad address of several costs that address; a mended Service is as good as any.
    write_service(&stage, "mixed", &[vip4(3), "127.0.0.2".parse()?], vec![endpoint(&stage, vip4(1), State::Ready)])?;
    wait_vip(&stage, vip4(3), &[NODE])?;
    write_bad(&stage, "no-ports", Some("10.100.0.2"), &[PORT])?;
    wait_vip(&stage, vip4(2), &[NODE])?;
    ensure_unmoved(&stage, since)
}

#[test]
fn a_bad_file_costs_only_itself() -> Result<()> {
    let stage = one_node(Mode::Connected, Options::default())?;
    let since = Instant::now();
    let manifests = &stage.manifests[0];
    manifests.write_text("broken", "kind: Service\nmetadata: [\n")?;
    manifests.write_text("huge", &" ".repeat((16 << 20) + 1))?;
    manifests.write_text("binary", "\u{0}\u{1}\u{2}")?;
    manifests.write_text("nested", &"[".repeat(100_000))?;
    // What a good file last said stands when it goes bad.
    manifests.write_text("web", "apiVersion: v1\nkind: Service\nmetadata: {name: web, name")?;
    for file in ["broken.yaml", "huge.yaml", "binary.yaml", "nested.yaml", "web.yaml"] {
        wait::until_true(&format!("{file} is named as a problem"), LIMIT, || {
            let problems = problems(&stage)?;
            Ok(problems.iter().any(|(name, text)| name == file && !text.is_empty()))
        })?;
    }
    let found = problems(&stage)?;
    let text = |file: &str| found.iter().find(|(name, _)| name == file).map(|(_, text)| text.as_str());
    ensure!(text("huge.yaml").is_some_and(|text| text.contains("16777216")), "{found:?}");
    ensure!(text("broken.yaml").is_some_and(|text| text.starts_with("line ")), "{found:?}");
    ensure!(stage.daemons[0].metrics()?.contains("cosmolet_manifest_problems 5"), "not counted");
    ensure_unmoved(&stage, since)?;
    // Mended, each is a file like any other.
    write_service(&stage, "broken", &[vip4(2)], vec![endpoint(&stage, vip4(1), State::Ready)])?;
    wait_vip(&stage, vip4(2), &[NODE])?;
    stage.write_service()?;
    ["huge", "binary", "nested"].iter().try_for_each(|name| manifests.remove(name))?;
    wait::until_true("no problem is left", LIMIT, || Ok(problems(&stage)?.is_empty()))?;
    ensure_unmoved(&stage, since)
}

#[test]
fn a_directory_that_is_gone_changes_nothing() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options { lease_seconds: 6, ..Options::default() })?;
    let since = Instant::now();
    let path = stage.manifests[0].path().to_owned();
    let away = path.with_extension("away");
    std::fs::rename(&path, &away)?;
    source(&stage, "stale")?;
    // Started without it, the daemon knows no Service: it changes nothing, but renews what is there.
    stage.daemons[0].kill()?;
    stage.daemons[0].launch()?;
    source(&stage, "stale")?;
    let ready = stage.daemons[0].get("/readyz")?;
    ensure!(ready.status == 503 && ready.body.contains("manifests"), "{}: {}", ready.status, ready.body);
    std::thread::sleep(std::time::Duration::from_secs(8));
    ensure_unmoved(&stage, since)?;
    std::fs::rename(&away, &path)?;
    source(&stage, "synced")?;
    stage.daemons[0].wait_ready(LIMIT)?;
    stage.wait_status(0, vip4(1), "advertised", |row| row["state"] == "advertised")?;
    ensure_unmoved(&stage, since)
}

/// Waits until the source of Services is in this state, in status and metric.
fn source(stage: &Stage, state: &str) -> Result<()> {
    wait::until_true(&format!("the source is {state}"), LIMIT, || {
        let status = stage.daemons[0].status()?;
        ensure!(status["source"]["state"] == state, "{}", status["source"]);
        let series = format!("cosmolet_component_state{{component=\"source\",state=\"{state}\"}}");
        Ok(metric(stage, &series)? == 1)
    })
}

/// A Service with an address that the builders would not take, and ready endpoints of both families.
fn write_bad(stage: &Stage, name: &str, address: Option<&str>, ports: &[u16]) -> Result<()> {
    let mut service: Service = objects::local(objects::service(name, &[vip4(1)], ports));
    let status = service.status.as_mut().and_then(|status| status.load_balancer.as_mut()).context("no status")?;
    let ingress = status.ingress.as_mut().context("no ingress")?;
    match address {
        Some(address) => ingress[0].ip = Some(address.to_owned()),
        None => ingress.clear(),
    }
    let slice = |vip, family: &str| {
        let endpoints = vec![endpoint(stage, vip, State::Ready)];
        objects::slice(&format!("{name}-{family}"), name, BACKEND_PORT, endpoints)
    };
    let slices = [slice(vip4(1), "v4"), slice(vip6(1), "v6")];
    stage.manifests[0].write_all(&format!("{name}-slices"), &slices)?;
    stage.manifests[0].write(name, &service)
}

fn unusable(stage: &Stage) -> Result<()> {
    wait::until_true("10.100.0.300 is named as no address", LIMIT, || {
        let status = stage.daemons[0].status()?;
        let rows = status["unusable_addresses"].as_array().context("no list")?;
        Ok(rows.iter().any(|row| row["address"] == "10.100.0.300" && row["reason"] == "NotAnAddress"))
    })?;
    ensure!(stage.daemons[0].metrics()?.contains("cosmolet_unusable_addresses 1"), "not counted");
    ensure!(!loopback(stage, 0)?.contains(&host(vip4(2))), "a Service without ports is on lo");
    Ok(())
}

/// Files and what is wrong with each.
fn problems(stage: &Stage) -> Result<Vec<(String, String)>> {
    let status = stage.daemons[0].status()?;
    let rows = status["manifest_problems"].as_array().context("no list")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(rows.iter().map(|row| (text(&row["file"]), text(&row["problem"]))).collect())
}
