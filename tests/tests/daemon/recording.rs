//! `cosmolet record` beside the real daemon with real traffic, and what `cosmolet replay` makes of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::daemon::binary;
use cosmolet_tests::fabric::{BACKEND_PORT, Mode, vip4, vip6};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::process::terminate_pid;
use cosmolet_tests::stage::{Options, PORT, Stage, targets};
use cosmolet_tests::wait;
use serde_json::Value;

use super::verdict::{enforcing, proven, says};
use crate::{LIMIT, NODE, Running, metric, one_node, wait_vip};

const PATH: &str = "/api/v1/record";
/// Endpoints of a Service that fill what a reader who stalls has room for after some changes, the sockets' buffers included.
const ENDPOINTS: usize = 5000;
const CHANGES: usize = 24;
/// A slice may hold a thousand.
const IN_SLICE: usize = 1000;

/// Lines of the recording that have this in them.
fn lines(file: &Path, with: &str) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().filter(|line| line.contains(with)).count()
}

/// `cosmolet record` beside the first node's daemon, once it records.
fn record(stage: &Stage, file: &Path) -> Result<Running> {
    let mut command = stage.fabric.nodes[0].netns.command(&binary()?.to_string_lossy());
    command.args(["record", "--seconds", "300", "--output"]).arg(file).stdin(Stdio::null());
    let child = Running(command.spawn()?);
    wait::until_true("it records", LIMIT, || Ok(lines(file, "\"record\":\"live\"") == 1))?;
    Ok(child)
}

fn end(child: &mut Child) -> Result<()> {
    terminate_pid(i32::try_from(child.id())?);
    let ended = child.wait()?;
    ensure!(ended.success(), "cosmolet record: {ended}");
    Ok(())
}

/// The exit code of a replay, and what it says as JSON.
fn replay(stage: &Stage, file: &Path, more: &[&str]) -> Result<(Option<i32>, Value)> {
    let file = file.to_string_lossy();
    let output = stage.daemons[0].cli(&[&["replay", &file, "-o", "json"], more].concat())?;
    let said = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok((output.status.code(), said))
}

/// How a decision about a VIP was found.
fn found(said: &Value, vip: IpAddr, to: &str, reason: Option<&str>) -> Result<String> {
    let all = said["decisions"].as_array().context("no decisions")?;
    let fits = |row: &&Value| row["vip"] == vip.to_string() && row["to"] == to && row["reason"].as_str() == reason;
    let row = all.iter().find(fits).with_context(|| format!("no {to} of {vip} in {said:#}"))?;
    Ok(row["found"].as_str().context("no word")?.to_owned())
}

#[test]
fn a_recorded_incident_is_replayed_as_it_happened() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, enforcing())?;
    let sources = stage.prefixes_of_the_client()?;
    let load = Load { per_second: 20, sources, ..Load::new(targets().to_vec()) };
    let client = Client::start(&stage.fabric.client, load)?;
    proven(&stage)?;
    says(&stage, "clear")?;
    let file = stage.lab.directory().join("incident.jsonl");
    let mut recorder = record(&stage, &file)?;
    wait::until_true("some seconds of good traffic", LIMIT, || Ok(lines(&file, "{\"traffic\":") >= 5))?;

    stage.fabric.nodes[0].backend.stop()?;
    stage.wait_nodes(&[], Instant::now(), LIMIT)?;
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "convicted", |row| row["reason"] == "ConnectionsFail")?;
    }
    stage.fabric.nodes[0].backend.resume()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "its trial ends well", |row| row["services"][0]["health"] == "up")?;
    }
    wait::until_true("both came back", LIMIT, || Ok(lines(&file, "\"to\":\"advertise\"") >= 4))?;
    end(&mut recorder.0)?;
    drop(client);

    let (code, said) = replay(&stage, &file, &[])?;
    ensure!(code == Some(0) && said["differ"] == 0 && said["at_start"] == Value::Array(Vec::new()), "{said:#}");
    ensure!(said["node"] == NODE && said["cut"] == false && said["settings_changed"] == false, "{said:#}");
    let raised = ["--set", "traffic.rule.threshold=900", "--set", "traffic.rule.cap=1000"];
    let (code, otherwise) = replay(&stage, &file, &raised)?;
    ensure!(code == Some(3), "{code:?}: {otherwise:#}");
    for vip in [vip4(1), vip6(1)] {
        for (to, reason) in [("withdraw", Some("ConnectionsFail")), ("advertise", None)] {
            ensure!(found(&said, vip, to, reason)? == "as_recorded", "{said:#}");
            ensure!(found(&otherwise, vip, to, reason)? == "did_not_happen", "{otherwise:#}");
        }
    }
    course(&stage, &file)
}

/// The score passes its threshold before the VIP is withdrawn.
fn course(stage: &Stage, file: &Path) -> Result<()> {
    let vip = vip4(1).to_string();
    let (code, said) = replay(stage, file, &["--vip", &vip])?;
    let course = said["course"].as_array().context("no course")?;
    let suspect = course.iter().filter(|point| point["suspect"] == true).count();
    ensure!(code == Some(0) && suspect > 0 && course.len() > suspect, "{code:?}: {said:#}");
    let decisions = said["decisions"].as_array().context("no decisions")?;
    ensure!(decisions.iter().all(|row| row["vip"] == vip.as_str()), "{said:#}");
    let text = stage.daemons[0].cli(&["replay", &file.to_string_lossy(), "--vip", &vip])?;
    let text = String::from_utf8(text.stdout)?;
    for part in ["withdraw (ConnectionsFail)  as recorded", "suspect (ConnectionsFail)", "alike, 0 differ"] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

/// The endpoints of a Service that nobody uses, of which so many are ready; their pods have long names.
fn write_endpoints(stage: &Stage, ready: usize) -> Result<()> {
    let node = stage.fabric.nodes[0].name();
    let endpoint = |number: usize| -> Result<_> {
        let address = Ipv4Addr::from(0x0af4_0000 + u32::try_from(number)?);
        let state = if number < ready { State::Ready } else { State::NotReady };
        Ok(objects::of_pod(objects::endpoint(address.into(), node, state), &format!("{}-{number}", "long".repeat(60))))
    };
    let all: Vec<_> = (0..ENDPOINTS).map(endpoint).collect::<Result<_>>()?;
    let slice = |(number, part): (usize, &[_])| {
        objects::slice(&format!("large-{number}"), "large", BACKEND_PORT, part.to_vec())
    };
    let slices: Vec<_> = all.chunks(IN_SLICE).enumerate().map(slice).collect();
    stage.manifests[0].write_all("large-endpoints", &slices)
}

/// The Service's VIP, which is the second one.
fn write_large(stage: &Stage) -> Result<()> {
    write_endpoints(stage, 1)?;
    stage.manifests[0].write("large", &objects::local(objects::service("large", &[vip4(2)], &[PORT])))?;
    wait_large(stage, 1)
}

fn wait_large(stage: &Stage, ready: usize) -> Result<()> {
    let vip = format!("vip=\"{}\"", vip4(2));
    let is_its = |line: &str| line.starts_with("cosmolet_vip_endpoints_ready{") && line.contains(&vip);
    wait::until_true("the endpoints are seen", LIMIT, || {
        let metrics = stage.daemons[0].metrics()?;
        let value = metrics.lines().find(|line| is_its(line)).and_then(|line| line.rsplit(' ').next());
        Ok(value == Some(ready.to_string().as_str()))
    })
}

fn open(stage: &Stage) -> Result<(BufReader<TcpStream>, String)> {
    let mut stream = BufReader::new(stage.daemons[0].open(PATH)?);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok((stream, line))
}

/// The lines of an answer behind its head, up to the first with this in it.
fn read_until(stream: &mut BufReader<TcpStream>, with: &str, limit: Duration) -> Result<String> {
    let (since, mut text) = (Instant::now(), String::new());
    while since.elapsed() < limit {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line)? > 0, "the stream has ended");
        if line.starts_with('{') {
            text.push_str(&line);
        }
        if line.contains(with) {
            return Ok(text);
        }
    }
    anyhow::bail!("no {with:?} in {} bytes", text.len())
}

/// A reader that stalls holds nothing up, and its recording says what it has missed; there are only so many of them.
#[test]
fn a_reader_that_stalls_costs_nothing_and_is_told() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    write_large(&stage)?;
    let (mut stalled, answer) = open(&stage)?;
    ensure!(answer.contains("200"), "{answer}");
    for change in 0..CHANGES {
        let ready = 2 + change;
        write_endpoints(&stage, ready)?;
        wait_large(&stage, ready)?;
    }
    stage.set_endpoint(0, State::NotReady)?;
    wait_vip(&stage, vip4(1), &[])?;
    ensure!(stage.daemons[0].get("/livez")?.status == 200, "it does not live");
    stage.set_endpoint(0, State::Ready)?;
    wait_vip(&stage, vip4(1), &[NODE])?;

    let text = read_until(&mut stalled, "\"record\":{\"missed\":", LIMIT * 4)?;
    wait::until_true("the operator is told too", LIMIT, || Ok(metric(&stage, "cosmolet_stream_missed_total")? > 0))?;
    let file = stage.lab.directory().join("stalled.jsonl");
    fs::write(&file, text)?;
    let output = stage.daemons[0].cli(&["replay", &file.to_string_lossy()])?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    ensure!(said.contains("from here on the replay cannot be trusted"), "{said}");

    let more: Vec<_> = (0..3).map(|_| open(&stage)).collect::<Result<_>>()?;
    ensure!(more.iter().all(|(_, answer)| answer.contains("200")), "{:?}", more.last());
    let (_, answer) = open(&stage)?;
    ensure!(answer.contains("503"), "one recording too many: {answer}");
    drop((more, stalled));
    wait::until_true("there is room again", LIMIT, || Ok(open(&stage)?.1.contains("200")))
}
