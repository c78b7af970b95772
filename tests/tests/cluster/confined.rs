//! What the daemon may do on a node, as the kernel has it: read from /proc of the running process, not from the manifest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::cluster::{Guard, shared};

/// CAP_NET_ADMIN (12), CAP_PERFMON (38) and CAP_BPF (39).
const THREE: &str = "000000c000001000";
const NONE: &str = "0000000000000000";

/// The fields of `/proc/PID/status`.
fn fields(pid: u32) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let pairs = text.lines().filter_map(|line| line.split_once(":\t"));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

#[test]
fn the_daemon_has_three_capabilities_and_no_more() -> Result<()> {
    let cluster = shared()?;
    for node in cluster.node_names() {
        let status = fields(cluster.daemon_process(node)?)?;
        let is = |name: &str, wanted: &str| -> Result<()> {
            let found = status.get(name).with_context(|| format!("no {name}"))?;
            ensure!(found == wanted, "{name} of the daemon on {node} is {found:?}, not {wanted:?}");
            Ok(())
        };
        // Nothing can be gained: what it has is all that the bounding set leaves.
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            is(set, THREE)?;
        }
        for set in ["CapInh", "CapAmb"] {
            is(set, NONE)?;
        }
        is("Uid", "65532\t65532\t65532\t65532")?;
        is("Gid", "65532\t65532\t65532\t65532")?;
        // The profile of the container runtime: a filter (2).
        is("Seccomp", "2")?;
        // no_new_privs would switch the file capabilities off, which are all that a user other than root gets.
        is("NoNewPrivs", "0")?;
        works(&cluster, node)?;
    }
    Ok(())
}

/// With that, and under that profile, traffic is counted and FRR is spoken to.
fn works(cluster: &Guard, node: &str) -> Result<()> {
    let status = cluster.status(node)?;
    ensure!(status["traffic"]["control_plane_alone"].is_null(), "{}", status["traffic"]);
    ensure!(status["bgp"]["state"] == "up", "{}", status["bgp"]);
    Ok(())
}

#[test]
fn the_daemon_sees_a_root_that_nobody_can_write() -> Result<()> {
    let cluster = shared()?;
    for node in cluster.node_names() {
        let pid = cluster.daemon_process(node)?;
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        // Fields of proc_pid_mountinfo(5): the fifth is the place, the sixth its options.
        let options = |place: &str| -> Result<Vec<String>> {
            let mut all = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let words = all.rfind(|words| words.get(4) == Some(&place));
            let words = words.with_context(|| format!("nothing is mounted at {place}:\n{mounts}"))?;
            Ok(words[5].split(',').map(str::to_owned).collect())
        };
        for place in ["/", "/etc/cosmolet", "/var/run/frr"] {
            // Links are followed in a mount's place.
            let place = if place == "/var/run/frr" && !mounts.contains(" /var/run/frr ") { "/run/frr" } else { place };
            ensure!(options(place)?.iter().any(|option| option == "ro"), "{place} on {node} is {:?}", options(place)?);
        }
        // Not even by root of this machine, through the daemon's own mounts.
        let refused = fs::write(Path::new(&format!("/proc/{pid}/root")).join("written"), "")
            .err()
            .context("its root can be written")?;
        ensure!(refused.kind() == std::io::ErrorKind::ReadOnlyFilesystem, "{refused}");
    }
    Ok(())
}

/// What runs is what the Dockerfile made.
#[test]
fn the_daemon_runs_the_dockerfiles_image() -> Result<()> {
    let cluster = shared()?;
    for node in cluster.node_names() {
        let root = format!("/proc/{}/root", cluster.daemon_process(node)?);
        ensure!(fs::metadata(format!("{root}/usr/share/doc/cosmolet/LICENSE"))?.is_file(), "not the Dockerfile's");
        for shell in ["bin/sh", "usr/bin/sh", "bin/bash", "bin/busybox"] {
            ensure!(fs::symlink_metadata(format!("{root}/{shell}")).is_err(), "{shell} is in the image");
        }
    }
    Ok(())
}
