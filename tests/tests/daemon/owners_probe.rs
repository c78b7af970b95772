//! `cosmolet.io/probe`: a backend that takes connections and answers badly leaves the fabric, and comes back when it answers well.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::fabric::{Mode, NodeSpec, vip4, vip6};
use cosmolet_tests::stage::{Options, Stage, targets};
use cosmolet_tests::wait;

use crate::attributes::web;
use crate::verdict::{enforcing, explain, proven};
use crate::{LIMIT, NODE, ensure_unmoved, metric};

/// A node whose Service's owner asks something, and whose backend answers with a status from the beginning.
fn asking(mut options: Options, annotations: &[(&str, &str)], status: u16) -> Result<Stage> {
    options.env.push(("COSMOLET_TRAFFIC_CHECK_SECONDS", "1"));
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], options)?;
    stage.manifests[0].write("web", &web(annotations))?;
    stage.fabric.nodes[0].backend.answer_with(status);
    stage.daemons[0].launch()?;
    Ok(stage)
}

#[test]
fn a_backend_that_answers_badly_is_withdrawn_until_it_answers_well() -> Result<()> {
    let stage = asking(enforcing(), &[("probe", "http://shop.example:80/healthz")], 200)?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    proven(&stage)?;
    let row = stage.row(0, vip4(1))?.context("no row")?;
    ensure!(row["services"][0]["probe_check"] == "http://shop.example:80/healthz", "{row}");
    let backend = &stage.fabric.nodes[0].backend;
    backend.answer_with(503);
    let ill = Instant::now();
    stage.wait_nodes(&[], ill, LIMIT)?;
    println!("withdrawn {:?} after it began to answer 503", ill.elapsed());
    for vip in [vip4(1), vip6(1)] {
        let row = stage.wait_status(0, vip, "convicted", |row| row["reason"] == "ProbeFails")?;
        ensure!(row["services"][0]["probe"] == "unhealthy", "{row}");
        ensure!(row["services"][0]["probe_complaint"] == "answered 503", "{row}");
        let told = explain(&stage, vip)?;
        ensure!(told["services"][0]["check"]["complaint"] == "answered 503", "{told}");
        let text = stage.daemons[0].cli(&["explain", &vip.to_string()])?;
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        ensure!(text.contains("http://shop.example:80/healthz every 1 s: answered 503"), "{text}");
    }
    // Past its hold of 3 s it stays away: each trial asks first.
    let away = Instant::now();
    ensure_unmoved(&stage, away)?;
    std::thread::sleep(Duration::from_secs(6));
    ensure_unmoved(&stage, away)?;
    ensure!(metric(&stage, "cosmolet_probes_total{purpose=\"trial\",outcome=\"unhealthy\"}")? >= 2);
    backend.answer_with(204);
    let well = Instant::now();
    stage.wait_nodes(&[NODE], well, LIMIT)?;
    println!("back {:?} after it began to answer 204", well.elapsed());
    // It takes no connections at all: the same charge, by another complaint.
    drop(client);
    let mut stage = stage;
    stage.fabric.nodes[0].backend.stop()?;
    stage.wait_nodes(&[], Instant::now(), LIMIT)?;
    stage.wait_status(0, vip4(1), "refused", |row| {
        row["reason"] == "ProbeFails" && row["services"][0]["probe"] == "refused_backend"
    })?;
    Ok(())
}

/// A wrong path takes nothing down: what never passed is no evidence; and `observe` shows, and does not act.
#[test]
fn a_probe_that_never_passed_and_one_that_is_observed_withdraw_nothing() -> Result<()> {
    let stage = asking(enforcing(), &[("probe", "http:///nope"), ("prove", "never")], 404)?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    let unhealthy = "cosmolet_probes_total{purpose=\"check\",outcome=\"unhealthy\"}";
    let many = |stage: &Stage, least: u64| {
        wait::until_true("it is asked again and again", LIMIT, || Ok(metric(stage, unhealthy)? >= least))
    };
    let since = Instant::now();
    many(&stage, 8)?;
    ensure_unmoved(&stage, since)?;
    drop(stage);

    let stage = asking(Options { elsewhere: true, ..Options::default() }, &[("probe", "http:///healthz")], 200)?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    proven(&stage)?;
    stage.fabric.nodes[0].backend.answer_with(500);
    let since = Instant::now();
    for vip in [vip4(1), vip6(1)] {
        let row = stage.wait_status(0, vip, "suspect", |row| row["services"][0]["verdict"] == "suspect")?;
        ensure!(row["state"] == "advertised" && row["services"][0]["verdict_reason"] == "ProbeFails", "{row}");
    }
    ensure_unmoved(&stage, since)?;
    stage.fabric.nodes[0].backend.answer_with(200);
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "suspect no more", |row| row["services"][0]["verdict"] != "suspect")?;
    }
    Ok(())
}

/// `cosmolet.io/prove: required`: not advertised before its application answers well.
#[test]
fn a_vip_waits_for_its_application() -> Result<()> {
    let stage = asking(enforcing(), &[("probe", "http:///healthz"), ("prove", "required")], 503)?;
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "it waits", |row| {
            row["reason"] == "Unproven" && row["services"][0]["probe_complaint"] == "answered 503"
        })?;
    }
    std::thread::sleep(Duration::from_secs(2));
    stage.wait_nodes(&[], Instant::now(), LIMIT)?;
    stage.fabric.nodes[0].backend.answer_with(200);
    let well = Instant::now();
    stage.wait_nodes(&[NODE], well, LIMIT)?;
    println!("advertised {:?} after it began to answer 200", well.elapsed());
    Ok(())
}
