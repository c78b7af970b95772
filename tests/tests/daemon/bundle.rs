//! `cosmolet bundle` beside a real daemon and FRR, and without them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::Mode;
use cosmolet_tests::netns::output;
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage};
use serde_json::Value;

use crate::{one_node, wait_vip};

/// Makes a bundle and unpacks it; the directory that is in it.
fn bundle(stage: &Stage, name: &str) -> Result<std::path::PathBuf> {
    let directory = stage.lab.subdirectory(name)?;
    let archive = directory.join("bundle.tar.gz");
    let (config, file) = (stage.daemons[0].config().display().to_string(), archive.display().to_string());
    let made = stage.daemons[0].cli(&["bundle", &file, "--config", &config])?;
    ensure!(made.status.success(), "{made:?}");
    output(std::process::Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(&directory))?;
    fs::remove_file(&archive)?;
    let mut found = fs::read_dir(&directory)?;
    Ok(found.next().context("an empty bundle")??.path())
}

fn read(directory: &Path, file: &str) -> Result<String> {
    fs::read_to_string(directory.join(file)).with_context(|| file.to_owned())
}

#[test]
fn a_bundle_has_what_an_issue_wants_to_know() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    let vip = cosmolet_tests::fabric::vip4(1);
    stage.set_endpoint(0, State::NotReady)?;
    wait_vip(&stage, vip, &[])?;
    stage.fabric.nodes[0].frr.configure(&[
        "router bgp 65001",
        "neighbor 192.0.2.9 remote-as 65099",
        "neighbor 192.0.2.9 password hunter2",
    ])?;
    let there = bundle(&stage, "whole")?;
    let status: Value = serde_json::from_str(&read(&there, "status.json")?)?;
    ensure!(
        status["node"] == "node1" && there.display().to_string().contains("cosmolet-node1-20"),
        "{}",
        there.display()
    );
    let why: Value = serde_json::from_str(&read(&there, &format!("explain/{vip}.json"))?)?;
    ensure!(why["status"]["reason"] == "NoLocalEndpoint", "{why}");
    ensure!(read(&there, "transitions.json")?.contains("NoLocalEndpoint"), "no decision");
    ensure!(read(&there, "metrics.txt")?.contains("cosmolet_vip_advertised"), "no metrics");
    ensure!(read(&there, "config.yaml")?.contains("vip_ranges"), "no configuration");
    let environment = read(&there, "environment.txt")?;
    ensure!(!environment.lines().any(|line| line.starts_with("PATH=")), "{environment}");
    ensure!(read(&there, "doctor.json")?.contains("frr-vty"), "no findings");
    ensure!(read(&there, "frr/version.txt")?.contains("FRRouting"), "no version");
    ensure!(read(&there, "kernel/version.txt")?.starts_with("Linux version"), "no kernel");
    let running = read(&there, "frr/running-config.txt")?;
    ensure!(running.contains("neighbor 192.0.2.9 password ***") && !running.contains("hunter2"), "{running}");
    ensure!(read(&there, "missing.txt")?.is_empty(), "{}", read(&there, "missing.txt")?);

    // What is not there is said, and the rest is had all the same.
    stage.daemons[0].kill()?;
    let there = bundle(&stage, "rest")?;
    let missing = read(&there, "missing.txt")?;
    let files: BTreeSet<_> = missing.lines().filter_map(|line| line.split(':').next()).collect();
    ensure!(files == BTreeSet::from(["status.json", "transitions.json", "metrics.txt"]), "{missing}");
    ensure!(missing.contains("is it running there"), "{missing}");
    ensure!(read(&there, "frr/running-config.txt")?.contains("router bgp 65001"), "no FRR");
    Ok(())
}
