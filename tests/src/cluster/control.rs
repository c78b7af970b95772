//! The control plane in the management namespace: the API server's users, the controllers and the scheduler.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::node::{PROXY_TOKEN, address};
use crate::Lab;
use crate::api_server::{ApiServer, ForCluster, Place, kube_program};
use crate::fabric::{Fabric, MANAGEMENT, pods4};
use crate::process::{Process, Spec};

const MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

/// The running controllers.
#[derive(Debug)]
pub(super) struct Controllers {
    _manager: Process,
    _scheduler: Process,
}

/// The second family on the management network, and its ways to the pods: they ask the API server, and tests ask them.
pub(super) fn connect(fabric: &Fabric) -> Result<()> {
    for node in &fabric.nodes {
        let [v4, v6] = address(node.plan);
        node.netns.ip(&["addr", "add", &format!("{v6}/64"), "dev", "mgmt", "nodad"])?;
        fabric.management.add_route(pods4(node.plan), v4)?;
    }
    Ok(())
}

/// etcd and the API server, which knows the nodes by name.
pub(super) fn api_server(lab: &Lab, fabric: &Fabric) -> Result<ApiServer> {
    let user = |token: &str, name: String, groups| (token.to_owned(), name, groups);
    let mut users: Vec<_> = [MANAGER, SCHEDULER].iter().map(|name| user(name, format!("system:{name}"), "")).collect();
    users.push(user(PROXY_TOKEN, "system:kube-proxy".to_owned(), ""));
    let node = |node: &crate::fabric::Node| user(node.name(), format!("system:node:{}", node.name()), "system:nodes");
    users.extend(fabric.nodes.iter().map(node));
    ApiServer::start_for_cluster(lab, Place::Inside(&fabric.management, MANAGEMENT), &ForCluster { users })
}

impl Controllers {
    /// Starts kube-controller-manager and kube-scheduler.
    pub(super) fn start(lab: &Lab, fabric: &Fabric, api: &ApiServer) -> Result<Self> {
        let kube = api.directory();
        let at = |file: &str| format!("{}", kube.join(file).display());
        let start = |name: &str, args: Vec<String>| -> Result<Process> {
            let kubeconfig: PathBuf = kube.join(format!("{name}.kubeconfig"));
            fs::write(&kubeconfig, api.kubeconfig_for(name, &api.authority()))?;
            Spec::new(name, kube_program(name)?, lab.log(name)?)
                .inside(&fabric.management)
                .env("NO_PROXY", "*")
                .arg("--kubeconfig")
                .arg(kubeconfig)
                .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
                .args(["--cert-dir", &at("run")])
                .args(args)
                .start()
        };
        let manager = start(
            MANAGER,
            vec![
                format!("--service-account-private-key-file={}", at("sa.key")),
                format!("--root-ca-file={}", at("ca.crt")),
                "--use-service-account-credentials".to_owned(),
            ],
        )?;
        Ok(Self { _manager: manager, _scheduler: start(SCHEDULER, vec![])? })
    }
}
