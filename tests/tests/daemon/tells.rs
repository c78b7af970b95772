//! What the daemon tells: command line, HTTP, metrics, logs; and the configurations in which it does less.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::fabric::{Mode, host, vip4, vip6};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage, targets};
use cosmolet_tests::wait;
use serde_json::Value;

use crate::{LIMIT, NODE, endpoint, ensure_unmoved, frr, loopback, metric, one_node, wait_vip, write_service};

#[test]
fn it_tells_what_it_does() -> Result<()> {
    let json = vec![("COSMOLET_LOGGING_FORMAT", "json")];
    let mut stage = one_node(Mode::Dynamic, Options { env: json, ..Options::default() })?;
    write_service(&stage, "down", &[vip4(2)], vec![endpoint(&stage, vip4(2), State::NotReady)])?;
    stage.wait_status(0, vip4(2), "withdrawn", |row| row["state"] == "withdrawn")?;
    stage.wait_status(0, vip4(1), "in the RIB of both peers", |row| row["rib"]["advertised_to"] == 2)?;
    peers_and_ages(&stage)?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    stage.wait_status(0, vip6(1), "traffic", |row| row["traffic"][0]["total"]["handshakes"].as_u64() > Some(20))?;
    drop(client);
    command_line(&stage)?;
    metrics(&stage)?;
    logs(&stage)?;
    not_there(&mut stage)?;
    only_the_loopback(&mut stage)
}

/// Which peers hear of a VIP and since when it is in the RIB, and the age of each session: by FRR's clock, which is the machine's.
fn peers_and_ages(stage: &Stage) -> Result<()> {
    let row = stage.row(0, vip4(1))?.context("no row")?;
    let peers = row["rib"]["peers"].as_array().context("no peers")?;
    ensure!(peers.len() == 2 && peers.contains(&Value::from("10.1.1.1")), "{peers:?}");
    let status = stage.daemons[0].status()?;
    let sessions = status["bgp"]["peers"].as_array().context("no sessions")?;
    let ages = sessions.iter().map(|peer| &peer["since"]).chain([&row["rib"]["since"]]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for since in ages {
        let since = since.as_u64().with_context(|| format!("no age: {sessions:?} {row}"))?;
        ensure!(now.abs_diff(since) < 600, "{since} is not about {now}");
    }
    ensure!(sessions.iter().all(|peer| peer["bfd"].is_null()), "nobody asked for BFD: {sessions:?}");
    Ok(())
}

/// One line for each VIP, and the same as JSON.
fn command_line(stage: &Stage) -> Result<()> {
    let output = stage.daemons[0].cli(&["status"])?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(0), "{}: {text}", output.status);
    let line = |vip: &str| text.lines().find(|line| line.split_whitespace().next() == Some(vip));
    for vip in ["10.100.0.1", "fd00:100::1"] {
        let line = line(vip).with_context(|| text.clone())?;
        for word in ["advertised", "dynamic", "yes, to ", " pkts", "default/web"] {
            ensure!(line.contains(word), "no {word:?} in {line:?}");
        }
    }
    let down = line("10.100.0.2").with_context(|| text.clone())?;
    ensure!(down.contains("withdrawn") && down.contains("NoLocalEndpoint"), "{down}");
    for words in ["node1: cosmolet ", "2 advertised, 1 withdrawn", "AS 65001", "observe, counted on uplink"] {
        ensure!(text.contains(words), "no {words:?} in {text}");
    }
    let output = stage.daemons[0].cli(&["status", "-o", "wide"])?;
    let text = String::from_utf8(output.stdout)?;
    let web = text.lines().find(|line| line.starts_with("10.100.0.1 ")).with_context(|| text.clone())?;
    ensure!(text.contains("LOOPBACK") && web.matches(" ours ").count() == 2, "{text}");
    let yaml = stage.daemons[0].cli(&["status", "-o", "yaml"])?;
    let yaml: Value = serde_yaml_ng::from_slice(&yaml.stdout)?;
    ensure!(yaml["vips"].as_array().is_some_and(|vips| vips.len() == 3), "{yaml}");
    let output = stage.daemons[0].cli(&["status", "-o", "json", "--watch"])?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success() && error.contains("cosmolet events --follow"), "{error}");
    let output = stage.daemons[0].cli(&["status", "-o", "json"])?;
    let status: Value = serde_json::from_slice(&output.stdout)?;
    let states = |status: &Value| -> Vec<(Value, Value)> {
        let rows = status["vips"].as_array().into_iter().flatten();
        rows.map(|row| (row["vip"].clone(), row["state"].clone())).collect()
    };
    ensure!(states(&status).len() == 3 && states(&status) == states(&stage.daemons[0].status()?), "{status}");
    Ok(())
}

/// Every family that the issue of the thin path asks for, with the right value where there is one.
fn metrics(stage: &Stage) -> Result<()> {
    let web = "namespace=\"default\",service=\"web\",vip=\"10.100.0.1\",family=\"ipv4\"";
    for (series, value) in [
        (format!("cosmolet_vip_advertised{{{web}}}"), 1),
        (format!("cosmolet_vip_on_loopback{{{web}}}"), 1),
        (format!("cosmolet_vip_in_rib{{{web}}}"), 1),
        (format!("cosmolet_vip_peers{{{web}}}"), 2),
        (format!("cosmolet_vip_resets_total{{{web},port=\"80\",protocol=\"tcp\",by=\"host\"}}"), 0),
        ("cosmolet_vips{state=\"advertised\"}".to_owned(), 2),
        ("cosmolet_vips{state=\"withdrawn\"}".to_owned(), 1),
        ("cosmolet_transitions_total{to=\"withdraw\",reason=\"NoLocalEndpoint\"}".to_owned(), 1),
        ("cosmolet_component_state{component=\"frr\",state=\"up\"}".to_owned(), 1),
        ("cosmolet_component_state{component=\"source\",state=\"synced\"}".to_owned(), 1),
        ("cosmolet_component_state{component=\"programs\",state=\"running\"}".to_owned(), 1),
        ("cosmolet_bgp_session_established{peer=\"10.1.1.1\"}".to_owned(), 1),
    ] {
        let found = metric(stage, &series)?;
        ensure!(found == value, "{series} is {found}, not {value}:\n{}", stage.daemons[0].metrics()?);
    }
    let port = format!("{web},port=\"80\",protocol=\"tcp\"");
    for series in [
        format!("cosmolet_vip_packets_total{{{port},direction=\"in\"}}"),
        format!("cosmolet_vip_traffic_bytes_total{{{port},direction=\"out\"}}"),
        format!("cosmolet_vip_handshakes_total{{{port}}}"),
        format!("cosmolet_vip_syn_ack_total{{{port},by=\"backend\"}}"),
        format!("cosmolet_vip_followed_total{{{port},outcome=\"completed\"}}"),
        format!("cosmolet_vip_handshake_seconds_count{{{port}}}"),
        format!("cosmolet_vip_handshake_seconds_bucket{{{port},le=\"+Inf\"}}"),
        format!("cosmolet_vip_endpoints_ready{{{web}}}"),
        "cosmolet_reaction_seconds_count".to_owned(),
        "cosmolet_stage_seconds_count{stage=\"wait\"}".to_owned(),
        "cosmolet_stage_seconds_count{stage=\"steps\"}".to_owned(),
        "cosmolet_stage_seconds_count{stage=\"rib\"}".to_owned(),
        "cosmolet_turn_seconds_count".to_owned(),
        "cosmolet_sampling_seconds_count".to_owned(),
    ] {
        ensure!(metric(stage, &series)? > 0, "{series} is 0 or missing:\n{}", stage.daemons[0].metrics()?);
    }
    let text = stage.daemons[0].metrics()?;
    ensure!(text.ends_with("# EOF\n") && !text.contains("cosmolet_last_error{"), "{text}");
    Ok(())
}

/// Each line is a JSON object; decisions carry VIP and reason as fields.
fn logs(stage: &Stage) -> Result<()> {
    let text = stage.daemons[0].log()?;
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).with_context(|| line.to_owned()));
    let lines: Vec<Value> = lines.collect::<Result<_>>()?;
    let withdrawn = lines.iter().find(|line| line["vip"] == "10.100.0.2" && line["reason"] == "NoLocalEndpoint");
    ensure!(withdrawn.is_some_and(|line| line["level"] == "INFO" && line["services"] == "default/down"), "{text}");
    ensure!(lines.iter().all(|line| line["level"] != "ERROR"), "{text}");
    Ok(())
}

/// Nobody answers: the command line says where it asked.
fn not_there(stage: &mut Stage) -> Result<()> {
    stage.daemons[0].stop(LIMIT)?;
    let output = stage.daemons[0].cli(&["status"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("127.0.0.1:9470"), "{}: {said}", output.status);
    Ok(())
}

/// `bgp.enabled: false`: FRR is neither needed nor touched; and with `traffic.mode: off` nothing is counted.
fn only_the_loopback(stage: &mut Stage) -> Result<()> {
    stage.reconfigure(0, &Options { on_exit: "withdraw", ..Options::default() })?;
    stage.daemons[0].start()?;
    stage.daemons[0].stop(LIMIT)?;
    wait_vip(stage, vip4(1), &[])?;
    let before = frr(stage, 0)?;
    let env = vec![("COSMOLET_BGP_ENABLED", "false")];
    stage.reconfigure(0, &Options { env, traffic: "off", ..Options::default() })?;
    let since = Instant::now();
    stage.daemons[0].start()?;
    wait::until_true("both VIPs are on lo", LIMIT, || {
        let held = loopback(stage, 0)?;
        Ok(held.contains(&host(vip4(1))) && held.contains(&host(vip6(1))))
    })?;
    let status = stage.daemons[0].status()?;
    ensure!(status["bgp"]["state"] == "disabled" && status["traffic"]["mode"] == "off", "{status}");
    stage.wait_status(0, vip4(1), "advertised", |row| row["state"] == "advertised" && row["mode"].is_null())?;
    ensure!(frr(stage, 0)? == before && before.ours.is_empty(), "{:?}", frr(stage, 0)?);
    ensure_unmoved(stage, since)?;
    ensure!(stage.fabric.routes().nodes(host(vip4(1))).is_empty(), "{NODE} advertises it");
    Ok(())
}
