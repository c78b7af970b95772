//! What the lab's cluster needs beside Kubernetes itself: a container runtime, helm, and what builds images.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Group;
use super::apt::Apt;
use super::table::{Install, Need, tool};
use super::{grafana, kube};
use crate::shell::{self, which};

/// The chart is checked with both of helm's major versions. The lab's `Helm::program` names the same folders.
const HELM_4: (&str, &str) = ("helm.sh/helm/v4", "4.3.1");
const HELM_3: (&str, &str) = ("helm.sh/helm/v3", "3.22.0");

pub(super) fn needs() -> Vec<Need> {
    let mut needs = kube::cluster_needs().to_vec();
    needs.push(helm("helm 4", || present(HELM_4), |apt| build(apt, HELM_4)));
    needs.push(helm("helm 3", || present(HELM_3), |apt| build(apt, HELM_3)));
    needs.extend(runtime());
    needs.extend(images());
    needs.push(tool(
        "prometheus",
        "tests the alerts and the dashboards' queries; the host's own service is not started",
        Group::Prometheus,
        || which("prometheus").is_some() && which("promtool").is_some(),
        &[&["prometheus"]],
    ));
    needs.push(grafana::need());
    needs
}

fn helm(name: &'static str, present: fn() -> bool, build: fn(&mut Apt) -> Result<()>) -> Need {
    let why = "installs the chart on the lab's cluster; built once from source, about 2 minutes on 2 cores";
    Need { name, why, group: Group::Cluster, present, install: Install::Build { packages: &[], build } }
}

fn helm_file((_, version): (&str, &str)) -> Result<PathBuf> {
    Ok(shell::cache_dir()?.join(format!("helm-{version}/bin/helm")))
}

fn present(helm: (&str, &str)) -> bool {
    helm_file(helm).is_ok_and(|file| file.is_file())
}

fn build(apt: &mut Apt, helm: (&str, &str)) -> Result<()> {
    let (module, version) = helm;
    let what = format!("helm {version}, about 2 minutes on 2 cores");
    kube::build_module(apt, module, version, &format!("{module}/cmd/helm"), &helm_file(helm)?, &what)
}

fn runtime() -> [Need; 3] {
    let why = "runs the containers of the lab's nodes, in their namespaces; the host's own service is not started";
    [
        tool("containerd", why, Group::Cluster, || which("containerd").is_some(), &[&["containerd"]]),
        tool("runc", "starts the lab's containers", Group::Cluster, || which("runc").is_some(), &[&["runc"]]),
        tool(
            "CNI plugins",
            "give the lab's pods their addresses",
            Group::Cluster,
            || Path::new("/usr/lib/cni/bridge").is_file() && Path::new("/usr/lib/cni/host-local").is_file(),
            &[&["containernetworking-plugins"]],
        ),
    ]
}

fn images() -> [Need; 2] {
    [
        tool(
            "buildah",
            "builds the image from the Dockerfile",
            Group::Image,
            || which("buildah").is_some(),
            &[&["buildah"]],
        ),
        tool(
            "debootstrap",
            "makes the image's base without a registry",
            Group::Image,
            || which("debootstrap").is_some(),
            &[&["debootstrap", "debian-archive-keyring"], &["debootstrap"]],
        ),
    ]
}
