//! Objects of one case in a namespace of its own, and what must come of them: at the ToR's kernel, in the status, and for a
//! client outside.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::cluster::{Cluster, prefix};
use cosmolet_tests::wait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long anything may take: kubelet, controllers and kube-proxy share one busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// The backend's image and port.
const IMAGE: &str = "docker.io/lab/pod:1";
pub(crate) const PORT: u16 = 8080;
const READY: &str = "/ready";
pub(crate) const BOTH: [&str; 2] = ["node1", "node2"];

/// The case.
pub(crate) struct Case<'a> {
    pub(crate) cluster: &'a Cluster,
    namespace: String,
}

/// Its pods and Services go with the case: the machine is small.
impl Drop for Case<'_> {
    fn drop(&mut self) {
        let deleted = self.cluster.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        if let Err(error) = deleted {
            tracing::warn!(%error, namespace = self.namespace, "a case's namespace stays");
        }
    }
}

impl<'a> Case<'a> {
    pub(crate) fn begin(cluster: &'a Cluster, namespace: &str) -> Result<Self> {
        cluster.new_namespace(namespace)?;
        Ok(Self { cluster, namespace: namespace.to_owned() })
    }

    /// Creates or changes an object in the case's namespace, its status too.
    pub(crate) fn apply<K>(&self, mut object: Value) -> Result<()>
    where
        K: kube::Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        object["metadata"]["namespace"] = self.namespace.as_str().into();
        let object: K = serde_json::from_value(object.clone()).with_context(|| object.to_string())?;
        self.cluster.api.apply(&object)
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["-n", self.namespace.as_str()], args].concat())
    }

    /// Waits until exactly these nodes carry the VIP at the ToR.
    pub(crate) fn nodes(&self, vip: IpAddr, nodes: &[&str]) -> Result<()> {
        let routes = self.cluster.routes();
        let waited = routes.wait_nodes(prefix(vip), Instant::now(), LIMIT, nodes);
        waited.map(drop).with_context(|| format!("{vip} on {nodes:?}; {}", self.cluster.told_of(vip)))
    }

    /// Waits for a node's reason.
    pub(crate) fn reason(&self, node: &str, vip: IpAddr, reason: &str) -> Result<Value> {
        self.cluster.wait_row(node, vip, LIMIT, |row| row["reason"] == reason)
    }

    /// Waits until a client outside is answered through the VIP by pods on exactly these nodes.
    pub(crate) fn answered(&self, vip: IpAddr, port: u16, nodes: &[&str]) -> Result<()> {
        let wanted: BTreeSet<&str> = nodes.iter().copied().collect();
        wait::until_true(&format!("{vip}:{port} answered by {nodes:?}"), LIMIT, || {
            let load = Load { per_second: 40, ..Load::new(vec![SocketAddr::new(vip, port)]) };
            let seen = Client::start(&self.cluster.fabric.client, load)?.watch(Duration::from_secs(1));
            let by: BTreeSet<&str> = seen.by_node.keys().map(String::as_str).collect();
            ensure!(seen.failed() == 0 && by == wanted, "{seen:?}");
            Ok(true)
        })
    }

    /// Nothing moves for a while.
    pub(crate) fn stays(&self, vip: IpAddr, nodes: &[&str]) -> Result<()> {
        let since = Instant::now();
        std::thread::sleep(Duration::from_secs(4));
        let changes = self.cluster.routes().changes(prefix(vip), since);
        ensure!(changes.is_empty(), "{changes:?}; {}", self.cluster.told_of(vip));
        self.nodes(vip, nodes)
    }

    /// A Deployment of one pod on a node.
    pub(crate) fn deploy(&self, name: &str, node: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut object = json!({
            "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"pod": name}}, "template": {
                "metadata": {"labels": {"pod": name, "app": "web"}},
                "spec": {"nodeName": node, "terminationGracePeriodSeconds": 5, "automountServiceAccountToken": false,
                    "containers": [{"name": "pod", "image": IMAGE, "imagePullPolicy": "Never",
                        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "readinessProbe": {"httpGet": {"path": READY, "port": PORT}, "periodSeconds": 1,
                                           "timeoutSeconds": 5, "failureThreshold": 1}}]}}},
        });
        change(&mut object["spec"]["template"]["spec"]);
        self.apply::<k8s_openapi::api::apps::v1::Deployment>(object)
    }

    /// A LoadBalancer Service over all pods of the case.
    pub(crate) fn service(&self, name: &str, vips: &[IpAddr], change: impl FnOnce(&mut Value)) -> Result<()> {
        let ingress: Vec<Value> = vips.iter().map(|vip| json!({"ip": vip.to_string()})).collect();
        let mut object = json!({
            "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "externalTrafficPolicy": "Local",
                "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": PORT}]},
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        change(&mut object);
        self.apply::<k8s_openapi::api::core::v1::Service>(object)
    }

    /// The address of a pod of this Deployment.
    pub(crate) fn address_of(&self, name: &str) -> Result<String> {
        let selector = format!("pod={name}");
        wait::until(&format!("the address of {name}"), LIMIT, || {
            let text = self.kubectl(&["get", "pods", "-l", &selector, "-o", "jsonpath={.items[0].status.podIP}"])?;
            Ok((!text.is_empty()).then_some(text))
        })
    }
}
