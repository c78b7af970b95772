//! The cluster itself: its nodes, its record of requests, and its end.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::cluster::{COSMOLET_NAMESPACE, Cluster, Spec, alone, shared};
use cosmolet_tests::{lab, wait};
use serde_json::json;

#[test]
fn every_node_is_ready_and_runs_the_daemon_without_root() -> Result<()> {
    let cluster = shared()?;
    let pods = cluster.daemon_pods()?;
    ensure!(pods.len() == cluster.node_names().len(), "{pods:?}");
    for (node, pod) in pods {
        let text = cluster.kubectl(&["-n", COSMOLET_NAMESPACE, "logs", &pod])?;
        ensure!(!text.contains("panicked"), "{node}: {text}");
        let status = cluster.status(&node)?;
        ensure!(status["vips"].is_array(), "{status}");
        ensure!(cluster.metrics(&node)?.contains("cosmolet_"), "no metrics");
    }
    Ok(())
}

/// Says that this process is the one that another kills.
const DOOMED: &str = "COSMOLET_TEST_DOOMED";

#[test]
fn a_killed_process_leaves_nothing_of_its_cluster() -> Result<()> {
    if std::env::var_os(DOOMED).is_some() {
        return raise_and_wait_to_be_killed();
    }
    let _alone = alone()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "--nocapture", "raised::a_killed_process_leaves_nothing_of_its_cluster"])
        .env(DOOMED, "yes")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let raised = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("raised ").map(str::to_owned));
    let owned = format!("csm-{}-", child.id());
    let before = left(&owned);
    child.kill()?;
    child.wait()?;
    let prefix = raised.context("the cluster was not raised")?;
    ensure!(prefix.starts_with(&owned), "{prefix}");
    ensure!(before.iter().any(|thing| thing.contains("containerd-shim")), "no container ran: {before:?}");
    lab::sweep();
    wait::until_true("nothing left", Duration::from_secs(60), || {
        let left = left(&owned);
        ensure!(left.is_empty(), "{left:?}");
        Ok(true)
    })
}

#[expect(clippy::print_stdout, reason = "the process that waits reads its standard output")]
fn raise_and_wait_to_be_killed() -> Result<()> {
    let cluster = Cluster::raise(&Spec::default(), |_| {})?;
    cluster.install(&json!({}))?;
    println!("\nraised {}", cluster.lab.prefix());
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// Processes, mounts, cgroups, namespaces and directories that carry a lab's name.
fn left(owned: &str) -> Vec<String> {
    let mut found = Vec::new();
    let names = |directory: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let cgroups = Path::new("/sys/fs/cgroup");
    let hierarchies = names(cgroups).into_iter().map(|name| cgroups.join(name)).chain([cgroups.to_owned()]);
    for place in hierarchies.chain(["/run/netns".into(), std::env::temp_dir()]) {
        let ours = names(&place).into_iter().filter(|name| name.starts_with(owned));
        found.extend(ours.map(|name| place.join(name).display().to_string()));
    }
    for pid in names(Path::new("/proc")).iter().filter(|name| name.parse::<u32>().is_ok()) {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let (words, environment) = (String::from_utf8_lossy(&words), String::from_utf8_lossy(&environment));
        let shim = words.contains("containerd-shim") && environment.contains(owned);
        if words.contains(owned) || shim {
            found.push(words.replace('\0', " "));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(owned)).map(str::to_owned));
    found
}
