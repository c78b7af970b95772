//! A backend Deployment behind a LoadBalancer Service, whose pods say yes or no to their probes as a test wants.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use super::Cluster;
use crate::{http, wait};

/// The backend's image.
pub(super) const IMAGE: &str = "docker.io/lab/pod:1";
/// Where the backend listens.
const PORT: u16 = 8080;
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Only nodes with an endpoint of their own serve the VIP.
    #[default]
    Local,
    /// Every node serves it.
    Cluster,
}

/// What to deploy.
#[derive(Clone, Debug)]
pub struct WorkloadSpec {
    /// The name of Deployment and Service.
    pub name: String,
    /// Their namespace, which exists.
    pub namespace: String,
    /// Pods; they are spread evenly over the nodes.
    pub replicas: u16,
    /// The Service's.
    pub policy: Policy,
    /// The Service's annotations.
    pub annotations: Vec<(String, String)>,
}

impl WorkloadSpec {
    /// One pod on each of two nodes, policy Local.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            replicas: 2,
            policy: Policy::Local,
            annotations: vec![],
        }
    }
}

/// A deployed backend with its VIPs.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What it was deployed from.
    pub spec: WorkloadSpec,
    /// The addresses in the Service's status, IPv4 and IPv6.
    pub vips: [IpAddr; 2],
}

impl Workload {
    /// The Service's port.
    pub const PORT: u16 = 80;

    /// Both VIPs with the port.
    #[must_use]
    pub fn targets(&self) -> Vec<SocketAddr> {
        self.vips.iter().map(|vip| SocketAddr::new(*vip, Self::PORT)).collect()
    }
}

impl Cluster {
    /// Deploys a backend, gives its Service a pair of VIPs as an IPAM would, and waits until all pods are ready.
    pub fn deploy(&self, spec: WorkloadSpec, limit: Duration) -> Result<Workload> {
        let workload = Workload { vips: self.new_vips(), spec };
        self.api.apply(&deployment(&workload.spec)?)?;
        self.api.apply(&service(&workload)?)?;
        self.wait_pods_ready(&workload, limit)?;
        Ok(workload)
    }

    /// Waits until as many pods are ready as were asked for.
    pub fn wait_pods_ready(&self, workload: &Workload, limit: Duration) -> Result<()> {
        let wanted = usize::from(workload.spec.replicas);
        wait::until_true(&format!("{wanted} ready pods of {}", workload.spec.name), limit, || {
            let pods = self.pods(workload)?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!(ready == wanted && pods.len() == wanted, "{ready} of {} pods are ready", pods.len());
            Ok(true)
        })
    }

    /// Its pods.
    pub fn pods(&self, workload: &Workload) -> Result<Vec<Pod>> {
        let (namespace, selector) = (workload.spec.namespace.clone(), format!("app={}", workload.spec.name));
        self.api.run(async move |client| {
            let api: Api<Pod> = Api::namespaced(client, &namespace);
            Ok(api.list(&ListParams::default().labels(&selector)).await?.items)
        })
    }

    /// Its only pod on a node.
    pub fn pod_on(&self, workload: &Workload, node: &str) -> Result<Pod> {
        let on = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
        let pods: Vec<Pod> = self.pods(workload)?.into_iter().filter(on).collect();
        ensure!(pods.len() == 1, "{} has {} pods on {node}", workload.spec.name, pods.len());
        pods.into_iter().next().context("no pod")
    }

    /// Makes a node's pod answer its readiness probe with yes or no.
    pub fn set_ready(&self, workload: &Workload, node: &str, yes: bool) -> Result<()> {
        self.switch(workload, node, "ready", yes)
    }

    /// Makes a node's pod answer its liveness probe with yes or no. A restarted container says yes again.
    pub fn set_live(&self, workload: &Workload, node: &str, yes: bool) -> Result<()> {
        self.switch(workload, node, "live", yes)
    }

    /// The restarts of a node's pod.
    pub fn restarts(&self, workload: &Workload, node: &str) -> Result<i32> {
        let pod = self.pod_on(workload, node)?;
        let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
        Ok(statuses.iter().map(|status| status.restart_count).sum())
    }

    /// Deletes Service and Deployment.
    pub fn remove(&self, workload: &Workload) -> Result<()> {
        let namespace = workload.spec.namespace.as_str();
        for kind in ["service", "deployment"] {
            self.kubectl(&[
                "-n",
                namespace,
                "delete",
                kind,
                &workload.spec.name,
                "--ignore-not-found",
                "--wait=false",
            ])?;
        }
        Ok(())
    }

    /// Where a node's pod listens, in IPv4.
    pub fn pod_address(&self, workload: &Workload, node: &str) -> Result<SocketAddr> {
        pod_address(&self.pod_on(workload, node)?)
    }

    /// As [`Cluster::set_ready`], without asking the API server where the pod is.
    pub fn set_ready_at(&self, pod: SocketAddr, yes: bool) -> Result<()> {
        self.switch_at(pod, "ready", yes)
    }

    fn switch(&self, workload: &Workload, node: &str, probe: &str, yes: bool) -> Result<()> {
        self.switch_at(self.pod_address(workload, node)?, probe, yes)
    }

    fn switch_at(&self, address: SocketAddr, probe: &str, yes: bool) -> Result<()> {
        let path = format!("/{probe}/{}", if yes { "on" } else { "off" });
        let reply = http::get(&self.fabric.management, address, &path, REPLY_LIMIT)?;
        ensure!(reply.status == 200, "{path} answers {}: {}", reply.status, reply.body);
        Ok(())
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Where a pod listens, in IPv4.
fn pod_address(pod: &Pod) -> Result<SocketAddr> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).context("a pod without address")?;
    Ok(SocketAddr::new(address.parse()?, PORT))
}

/// A probe that notices within a second or two; a slow answer of a busy machine is no failure.
fn probe(path: &str, failures: u8) -> Value {
    json!({
        "httpGet": {"path": path, "port": PORT}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": failures,
    })
}

fn deployment(spec: &WorkloadSpec) -> Result<Deployment> {
    let labels = json!({"app": spec.name});
    let container = json!({
        "name": "pod", "image": IMAGE, "imagePullPolicy": "Never",
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": probe("/ready", 1),
        "livenessProbe": probe("/live", 2),
    });
    let spread = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }]);
    let document = json!({
        "metadata": {"name": spec.name, "namespace": spec.namespace},
        "spec": {
            "replicas": spec.replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [container],
                    "terminationGracePeriodSeconds": 10,
                    "automountServiceAccountToken": false,
                    "topologySpreadConstraints": spread,
                },
            },
        },
    });
    Ok(serde_json::from_value(document)?)
}

fn service(workload: &Workload) -> Result<Service> {
    let spec = &workload.spec;
    let annotations: serde_json::Map<String, Value> =
        spec.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let ingress: Vec<Value> = workload.vips.iter().map(|vip| json!({"ip": vip.to_string()})).collect();
    let document = json!({
        "metadata": {"name": spec.name, "namespace": spec.namespace, "annotations": annotations},
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "externalTrafficPolicy": match spec.policy { Policy::Local => "Local", Policy::Cluster => "Cluster" },
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": spec.name},
            "ports": [{"name": "http", "port": Workload::PORT, "targetPort": PORT}],
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    Ok(serde_json::from_value(document)?)
}
