//! One node's Kubernetes: containerd, kubelet and kube-proxy in nftables mode, in the node's own namespaces.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::image::Image;
use super::shell::Shell;
use crate::api_server::{ApiServer, kube_program};
use crate::fabric::{self, BRIDGE, Plan};
use crate::netns::output;
use crate::process::{Paused, Process, Spec};
use crate::{Lab, Netns, wait};

const LIMIT: Duration = Duration::from_secs(60);
/// The network of all pods: each node's part is that of its backends in the fabric.
pub(super) const CLUSTER_CIDRS: &str = "10.3.0.0/16,fd00:3::/32";
/// The node's own files, as it sees them.
const FILES: &str = "/var/lib/node";
const SOCKET: &str = "/run/containerd/containerd.sock";
/// Containerd's image that holds a pod's namespaces.
pub(super) const PAUSE: &str = "docker.io/lab/pause:1";
/// The API server's token of kube-proxy.
pub(super) const PROXY_TOKEN: &str = "proxy";

/// A running node. Fields are dropped in this order: the shell last, which ends what is still inside.
#[derive(Debug)]
pub(super) struct KubeNode {
    proxy: Mutex<Option<Process>>,
    proxy_spec: Spec,
    _kubelet: Process,
    _containerd: Process,
    shell: Shell,
}

impl KubeNode {
    /// Starts containerd and loads the images, then starts kubelet and kube-proxy. Waits for containerd only.
    pub(super) fn start(lab: &Lab, api: &ApiServer, node: &fabric::Node, images: &[Image]) -> Result<Self> {
        let netns = &node.netns;
        let shell = Shell::start(lab, netns, node.frr.directory())?;
        write_files(&shell, api, node.name(), node.plan)?;
        let containerd = start_containerd(lab, netns, &shell)?;
        for image in images {
            import(&shell.outside(SOCKET), image)?;
        }
        let address = address(node.plan);
        let kubelet = shell
            .spec(lab, netns, "kubelet", kube_program("kubelet")?)?
            .args(["--config", &file("kubelet.yaml"), "--kubeconfig", &file("kubelet.kubeconfig")])
            .args(["--hostname-override", node.name(), "--node-ip", &format!("{},{}", address[0], address[1])])
            .start()?;
        let proxy_spec = shell
            .spec(lab, netns, "kube-proxy", kube_program("kube-proxy")?)?
            .args(["--kubeconfig", &file("proxy.kubeconfig"), "--proxy-mode", "nftables"])
            .args(["--hostname-override", node.name(), "--cluster-cidr", CLUSTER_CIDRS])
            .args(["--healthz-bind-address", &format!("{}:10256", address[0])])
            .args(["--metrics-bind-address", "127.0.0.1:10249", "--conntrack-max-per-core", "0"]);
        let proxy = Mutex::new(Some(proxy_spec.start()?));
        Ok(Self { proxy, proxy_spec, _kubelet: kubelet, _containerd: containerd, shell })
    }

    /// Loads one more image.
    pub(super) fn import(&self, image: &Image) -> Result<()> {
        import(&self.shell.outside(SOCKET), image)
    }

    /// Ends kube-proxy with SIGKILL; what it told the kernel stays.
    pub(super) fn kill_proxy(&self) {
        drop(self.proxy().take());
    }

    /// Stops kube-proxy where it is; dropping the pause lets it go on.
    pub(super) fn pause_proxy(&self) -> Result<Paused> {
        let pid = self.proxy().as_ref().map(Process::pid);
        Paused::group(pid.context("kube-proxy does not run")?)
    }

    /// Starts kube-proxy again.
    pub(super) fn start_proxy(&self) -> Result<()> {
        let mut proxy = self.proxy();
        ensure!(proxy.is_none(), "kube-proxy runs already");
        *proxy = Some(self.proxy_spec.start()?);
        Ok(())
    }

    fn proxy(&self) -> MutexGuard<'_, Option<Process>> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The node's addresses on the management network, which are its InternalIPs.
pub(super) fn address(plan: Plan) -> [IpAddr; 2] {
    let host = 10 + u16::from(plan.index);
    [IpAddr::from([10, 9, 0, 10 + plan.index]), IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, host])]
}

fn file(name: &str) -> String {
    format!("{FILES}/{name}")
}

fn start_containerd(lab: &Lab, netns: &Netns, shell: &Shell) -> Result<Process> {
    let mut process =
        shell.spec(lab, netns, "containerd", "containerd")?.args(["--config", &file("containerd.toml")]).start()?;
    let socket = shell.outside(SOCKET);
    wait::until("containerd answering", LIMIT, || {
        if let Err(ended) = process.ensure_running() {
            return Ok(Some(Err(ended)));
        }
        ctr(&socket, &["plugins", "list", "-q"]).map(|_| Some(Ok(())))
    })??;
    Ok(process)
}

fn ctr(socket: &Path, args: &[&str]) -> Result<String> {
    let mut command = std::process::Command::new("ctr");
    output(command.arg("-a").arg(socket).args(["-n", "k8s.io"]).args(args))
}

fn import(socket: &Path, image: &Image) -> Result<()> {
    let archive = image.archive.to_str().context("an archive's path that is no UTF-8")?;
    ctr(socket, &["images", "import", archive])?;
    let known = ctr(socket, &["images", "list", "-q"])?;
    ensure!(
        known.lines().any(|name| name == image.name),
        "{archive} does not hold {}: containerd knows {known}",
        image.name
    );
    Ok(())
}

/// The configuration of all parts, at the places where the node sees it.
fn write_files(shell: &Shell, api: &ApiServer, name: &str, plan: Plan) -> Result<()> {
    let at = |name: &str| -> PathBuf { shell.outside(&file(name)) };
    fs::create_dir_all(at("cni"))?;
    fs::copy(api.authority(), at("ca.crt"))?;
    let authority = PathBuf::from(file("ca.crt"));
    fs::write(at("kubelet.kubeconfig"), api.kubeconfig_for(name, &authority))?;
    fs::write(at("proxy.kubeconfig"), api.kubeconfig_for(PROXY_TOKEN, &authority))?;
    fs::write(at("containerd.toml"), containerd_config())?;
    fs::write(at("cni/10-bridge.conflist"), cni_config(plan).to_string())?;
    fs::write(at("kubelet.yaml"), kubelet_config(shell.cgroup(), address(plan)[0]))?;
    Ok(())
}

/// `restrict_oom_score_adj`: without CAP_SYS_RESOURCE runc fails to lower a container's score.
fn containerd_config() -> String {
    format!(
        r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.internal.v1.opt"]
  path = "{FILES}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{FILES}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// Pods join the fabric's bridge of the node: .1 is the node, .2 the backend beside it, the pods begin at .10.
fn cni_config(plan: Plan) -> serde_json::Value {
    let (v4, v6) = (fabric::pods4(plan), fabric::pods6(plan));
    serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": [
                    [{"subnet": v4.to_string(), "gateway": plan.pods4(1).to_string(), "rangeStart": plan.pods4(10).to_string()}],
                    [{"subnet": v6.to_string(), "gateway": plan.pods6(1).to_string(), "rangeStart": plan.pods6(10).to_string()}],
                ],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }],
    })
}

fn kubelet_config(cgroup: &str, address: IpAddr) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://{SOCKET}
evictionHard: {{nodefs.available: "0%"}}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 5s
healthzPort: 0
syncFrequency: 10s
registerWithTaints: []
volumePluginDir: /var/lib/kubelet/volume-plugins
"#
    )
}
