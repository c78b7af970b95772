//! kubectl and helm, run where the API server can be reached.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Cluster;
use super::workload::IMAGE;
use crate::api_server::{User, kube_program};
use crate::fabric::{VIPS_V4, VIPS_V6};
use crate::netns::output;

/// The major versions of helm that the chart is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helm {
    /// The last of the old ones.
    V3,
    /// The present one.
    V4,
}

impl Helm {
    /// Its binary in the cache folder, where `cargo xtask setup` puts it.
    pub fn program(self) -> Result<PathBuf> {
        let folder = match self {
            Self::V3 => "helm-3.22.0",
            Self::V4 => "helm-4.3.1",
        };
        let cache = std::env::home_dir().context("no home directory")?.join(".cache/cosmolet");
        let program = cache.join(folder).join("bin/helm");
        ensure!(program.is_file(), "{} is missing: cargo xtask setup", program.display());
        Ok(program)
    }
}

impl Cluster {
    /// Runs kubectl as the administrator and returns what it prints.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let program = kube_program("kubectl")?;
        let mut command = self.tool(&program);
        output(command.arg("--cache-dir").arg(self.lab.subdirectory("kubectl")?).args(args))
    }

    /// Applies manifests, as YAML or JSON text.
    pub fn apply_text(&self, manifests: &str) -> Result<()> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile_in(self.lab.directory())?;
        std::fs::write(file.path(), manifests)?;
        self.kubectl(&["apply", "--server-side", "-f", &file.path().to_string_lossy()]).map(drop)
    }

    /// Makes a namespace; it is gone, with all in it, when the caller deletes it or the cluster ends.
    pub fn new_namespace(&self, name: &str) -> Result<()> {
        self.kubectl(&["create", "namespace", name]).map(drop)
    }

    /// Runs helm as the administrator.
    pub fn helm(&self, which: Helm, args: &[&str]) -> Result<String> {
        let program = which.program()?;
        let home = self.lab.subdirectory("helm")?;
        let mut command = self.tool(&program);
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, home.join(folder));
        }
        output(command.args(args))
    }

    /// How a person looks around in it: one command a line.
    pub fn look_around(&self) -> Result<String> {
        let enter = |netns: &crate::Netns| format!("nsenter --net=/run/netns/{}", netns.name());
        let (kubeconfig, kubectl) = (self.api.kubeconfig(User::Admin), kube_program("kubectl")?);
        let mut text = format!(
            "As root. The API server listens inside the lab only, so kubectl has to be run there:\n\n  \
             export KUBECONFIG={}\n  alias kubectl='{} {}'\n  \
             kubectl get nodes,pods -A -o wide\n",
            kubeconfig.display(),
            enter(&self.fabric.management),
            kubectl.display()
        );
        let daemon = crate::daemon::binary()?;
        for node in &self.fabric.nodes {
            let (into, sockets) = (enter(&node.netns), node.frr.directory().display());
            text += &format!("  # {}\n  {into} {} status\n", node.name(), daemon.display());
            text += &format!("  {into} vtysh --vty_socket {sockets} -c 'show bgp summary'\n");
        }
        let (tor, sockets) = (enter(&self.fabric.tor), self.fabric.tor_frr.directory().display());
        text += &format!("  # the ToR\n  {tor} ip route\n  {tor} vtysh --vty_socket {sockets} -c 'show bgp summary'\n");
        text += &format!("  # the client; VIPs come from {VIPS_V4} and {VIPS_V6}\n");
        text += &format!("  {} curl -s http://VIP/\n", enter(&self.fabric.client));
        text += &format!("  # a backend's image: {IMAGE}; all logs and the API server's record of requests\n");
        text += &format!("  ls {} {}\n", self.lab.directory().join("logs").display(), self.audit_log().display());
        Ok(text)
    }

    fn tool(&self, program: &Path) -> Command {
        let mut command = self.fabric.management.command(&program.to_string_lossy());
        command.env("KUBECONFIG", self.api.kubeconfig(User::Admin)).env("NO_PROXY", "*");
        command
    }
}
