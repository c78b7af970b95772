//! `cargo xtask deploy`: the plain manifests in `deploy/`, made from the chart so that the two never say different things.
//!
//! Owns what is taken away from the chart's output (Helm's own labels) and what is put in front of it. Installs nothing
//! into any cluster.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::generated::Options;
use crate::shell;

/// The group of FRR's sockets in the manifests, which everybody replaces: that of FRR's own container image.
const GID: &str = "92";

const NAMESPACE: &str = "cosmolet-system";

const HEAD: &str = "\
# Made from charts/cosmolet by `cargo xtask deploy`: change the chart, not this file.
#
# cosmolet without Helm: kubectl apply -f deploy/cosmolet.yaml
# To change before: the id in supplementalGroups (`getent group frrvty` on a node), vip_ranges, and the image.
apiVersion: v1
kind: Namespace
metadata:
  name: cosmolet-system
  labels:
    # hostNetwork, hostPath and NET_ADMIN.
    pod-security.kubernetes.io/enforce: privileged
";

const EMBEDDING_HEAD: &str = "\
# Made from charts/cosmolet by `cargo xtask deploy`: change the chart, not this file.
#
# The DaemonSet for those who install cosmolet from an operator of their own. Replace the placeholders, in any order, with
# a plain text replacement:
#
#   ${NAMESPACE}        where it runs; its Pod Security level must be privileged
#   ${IMAGE}            the image, with tag or digest
#   ${FRRVTY_GID}       the numeric id of the group frrvty on the nodes
#   ${SERVICE_ACCOUNT}  bound to the ClusterRole of deploy/cosmolet.yaml
#   ${CONFIG_MAP}       holds the daemon's file under the key cosmolet.yaml
#   ${CONFIG_HASH}      any hash of that file: the daemon reads it once, so a changed file must be a new pod
#
# http.listen (port 9470) and frr.socket_path (/var/run/frr) of the file must be those that stand here.
";

/// Writes `deploy/cosmolet.yaml` and `deploy/embedding.yaml`, or compares them.
pub fn run(options: &Options) -> Result<()> {
    let rendered = documents(&render()?);
    let set =
        rendered.iter().find(|text| text.contains("\nkind: DaemonSet\n")).context("the chart has no DaemonSet")?;
    let plain = format!("{HEAD}---\n{}", rendered.join("---\n"));
    let embedding = format!("{EMBEDDING_HEAD}{}", with_placeholders(set)?);
    for (name, text) in [("cosmolet.yaml", plain), ("embedding.yaml", embedding)] {
        options.keep(&format!("deploy/{name}"), &text, "deploy")?;
    }
    Ok(())
}

fn render() -> Result<String> {
    let mut helm = Command::new(helm()?);
    helm.current_dir(shell::root())
        .args(["template", "cosmolet", "charts/cosmolet", "--skip-tests", "--namespace", NAMESPACE])
        .args(["--set", &format!("frr.vtyGids={{{GID}}}")]);
    shell::output(&mut helm)
}

/// Helm 4 as `cargo xtask setup` keeps it, else the one in the path.
fn helm() -> Result<PathBuf> {
    let cached = fs::read_dir(shell::cache_dir()?).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = cached
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("helm-4."))
        .map(|entry| entry.path().join("bin/helm"))
        .filter(|file| file.is_file())
        .collect();
    found.sort();
    found.pop().or_else(|| shell::which("helm")).context("there is no helm: `cargo xtask setup` installs it")
}

/// The documents without what only Helm wants: its labels, and the comments that name templates.
fn documents(rendered: &str) -> Vec<String> {
    let helms = ["# Source: ", "helm.sh/chart: ", "app.kubernetes.io/managed-by: "];
    let kept = |line: &&str| !helms.iter().any(|start| line.trim_start().starts_with(start));
    let document = |text: &str| text.lines().filter(kept).map(|line| format!("{line}\n")).collect::<String>();
    rendered.split("---\n").map(document).filter(|text| !text.trim().is_empty()).collect()
}

/// Puts a placeholder where embedders have their own; each must have been there.
fn with_placeholders(set: &str) -> Result<String> {
    let mut text = set.to_owned();
    let hash = set.lines().find(|line| line.contains("checksum/config: ")).context("no checksum of the file")?;
    let image = set.lines().find(|line| line.trim_start().starts_with("image: ")).context("no image")?;
    for (from, to) in [
        (format!("namespace: {NAMESPACE}\n"), "namespace: ${NAMESPACE}\n".to_owned()),
        (format!("{image}\n"), "          image: \"${IMAGE}\"\n".to_owned()),
        (format!("- {GID}\n"), "- ${FRRVTY_GID}\n".to_owned()),
        ("serviceAccountName: cosmolet\n".to_owned(), "serviceAccountName: ${SERVICE_ACCOUNT}\n".to_owned()),
        (
            "configMap:\n            name: cosmolet\n".to_owned(),
            "configMap:\n            name: ${CONFIG_MAP}\n".to_owned(),
        ),
        (format!("{hash}\n"), "        checksum/config: \"${CONFIG_HASH}\"\n".to_owned()),
    ] {
        if !text.contains(&from) {
            bail!("the chart's DaemonSet has no `{}`, so there is no place for {}", from.trim(), to.trim());
        }
        text = text.replace(&from, &to);
    }
    Ok(text)
}
