//! cosmolet on the cluster, installed by its chart.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::tools::Helm;
use super::{Cluster, HTTP};
use crate::fabric::{MANAGEMENT, VIPS_V4, VIPS_V6};
use crate::frr::vty_group;
use crate::http;
use crate::wait;

/// The namespace of the release.
pub const NAMESPACE: &str = "cosmolet-system";
/// The name of the release.
pub const RELEASE: &str = "cosmolet";
/// How long helm and the daemons may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

impl Cluster {
    /// Installs the chart, or upgrades the release, with further values (a JSON object merged over the lab's own), and
    /// waits until every node's daemon is ready.
    pub fn install(&self, more: &Value) -> Result<()> {
        self.install_by(Helm::V4, more)
    }

    /// The same by one of the two.
    pub fn install_by(&self, helm: Helm, more: &Value) -> Result<()> {
        let file = self.lab.directory().join("values.json");
        let mut values = self.values()?;
        merge(&mut values, more);
        std::fs::write(&file, values.to_string())?;
        let timeout = format!("{}s", LIMIT.as_secs());
        let (chart, file) = (chart(), file.to_string_lossy().into_owned());
        self.helm(
            helm,
            &[
                "upgrade",
                "--install",
                RELEASE,
                &chart.to_string_lossy(),
                "--namespace",
                NAMESPACE,
                "--create-namespace",
                "--values",
                &file,
                "--wait",
                "--timeout",
                &timeout,
            ],
        )?;
        self.wait_daemons(LIMIT)
    }

    /// Goes back to the revision before, and waits until every node's daemon is ready.
    pub fn rollback(&self) -> Result<()> {
        let timeout = format!("{}s", LIMIT.as_secs());
        self.helm(Helm::V4, &["rollback", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", &timeout])?;
        self.wait_daemons(LIMIT)
    }

    /// Takes the release away, and waits until no daemon is left.
    pub fn uninstall(&self, helm: Helm) -> Result<()> {
        let timeout = format!("{}s", LIMIT.as_secs());
        self.helm(helm, &["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", &timeout])?;
        wait::until_true("no daemon", LIMIT, || Ok(self.daemon_pods()?.is_empty()))
    }

    /// The process of a node's daemon, as this machine counts processes.
    pub fn daemon_process(&self, node: &str) -> Result<u32> {
        let netns = std::fs::metadata(crate::netns::path(self.node(node)?.netns.name()))?.ino();
        let ours = |pid: u32| -> Option<bool> {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let daemon = words.starts_with(b"/usr/local/bin/cosmolet\0run\0");
            Some(daemon && std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino() == netns)
        };
        let entries = std::fs::read_dir("/proc")?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let found: Vec<u32> = pids.filter(|pid| ours(*pid) == Some(true)).collect();
        match found[..] {
            [pid] => Ok(pid),
            _ => bail!("the daemons of {node} are {found:?}"),
        }
    }

    /// The values that the lab needs beside the defaults.
    pub fn values(&self) -> Result<Value> {
        let (repository, tag) = self.cosmolet_image()?.repository_and_tag()?;
        Ok(json!({
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "frr": {"vtyGids": [vty_group()?]},
            // Not through kube-proxy, which is one of the things that are broken here.
            "apiServer": {"host": MANAGEMENT.to_string(), "port": 6443},
            "config": {
                "services": {"vip_ranges": [VIPS_V4.to_string(), VIPS_V6.to_string()]},
                "traffic": {"mode": "enforce"},
            },
        }))
    }

    /// Waits until `/readyz` of every node's daemon says yes.
    pub fn wait_daemons(&self, limit: Duration) -> Result<()> {
        self.fabric.nodes.iter().try_for_each(|node| {
            wait::until_true(&format!("cosmolet ready on {}", node.name()), limit, || {
                let reply = http::get(&node.netns, HTTP.parse()?, "/readyz", Duration::from_secs(2))?;
                ensure!(reply.status == 200, "/readyz answers {}: {}", reply.status, reply.body.trim());
                Ok(true)
            })
        })
    }

    /// The names of the daemons' pods, by node.
    pub fn daemon_pods(&self) -> Result<Vec<(String, String)>> {
        let template = "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name}{\"\\n\"}{end}";
        let selector = "app.kubernetes.io/name=cosmolet";
        let text = self.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", selector, "-o", template])?;
        let pair = |line: &str| -> Result<(String, String)> {
            let (node, pod) = line.split_once(' ').with_context(|| format!("a pod without a node: {line}"))?;
            Ok((node.to_owned(), pod.to_owned()))
        };
        text.lines().map(pair).collect()
    }
}

/// The chart of this checkout.
fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/cosmolet")
}

/// Lays `more` over `base`, object by object, as helm does with values.
fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_merged_object_by_object() {
        let mut base = json!({"a": {"x": 1, "y": [1]}});
        merge(&mut base, &json!({"a": {"y": [2]}, "b": 3}));
        assert_eq!(base, json!({"a": {"x": 1, "y": [2]}, "b": 3}));
    }
}
