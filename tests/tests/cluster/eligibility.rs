//! What makes a VIP eligible, on a real cluster: real kubelets, controllers and kube-proxies say what is ready, and the
//! ToR's kernel and a client outside say what came of it.

use anyhow::{Result, ensure};
use cosmolet_tests::cluster::{Cluster, alone, shared};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::rig::{BOTH, Case, PORT};

/// A readiness probe that never passes.
fn never_ready(pod: &mut Value) {
    pod["containers"][0]["readinessProbe"]["httpGet"]["path"] = "/nowhere".into();
}

#[test]
fn policies_and_a_rolled_deployment() -> Result<()> {
    let cluster = shared()?;
    let case = Case::begin(&cluster, "policies")?;
    let ([local, _], [any, _]) = (cluster.new_vips(), cluster.new_vips());
    case.deploy("web", BOTH[0], |_| {})?;
    case.service("local", &[local], |_| {})?;
    case.service("any", &[any], |service| service["spec"]["externalTrafficPolicy"] = "Cluster".into())?;
    case.nodes(local, &BOTH[..1])?;
    case.nodes(any, &BOTH)?;
    case.answered(local, 80, &BOTH[..1])?;
    case.answered(any, 80, &BOTH[..1])?;
    case.reason(BOTH[1], local, "NoLocalEndpoint")?;
    // Rolled over to the other node: the VIP goes where the pod goes.
    case.deploy("web", BOTH[1], |_| {})?;
    case.nodes(local, &BOTH[1..])?;
    case.answered(local, 80, &BOTH[1..])?;
    case.stays(any, &BOTH)?;
    case.kubectl(&["scale", "deployment", "web", "--replicas=0"])?;
    case.nodes(local, &[])?;
    case.nodes(any, &[])?;
    case.reason(BOTH[0], any, "NoEndpoint").map(drop)
}

#[test]
fn pods_that_are_never_ready_count_where_the_service_publishes_them() -> Result<()> {
    let cluster = shared()?;
    let (case, [vip, _]) = (Case::begin(&cluster, "published")?, cluster.new_vips());
    case.deploy("web", BOTH[0], never_ready)?;
    case.service("web", &[vip], |_| {})?;
    case.reason(BOTH[0], vip, "NoLocalEndpoint")?;
    case.service("web", &[vip], |service| service["spec"]["publishNotReadyAddresses"] = true.into())?;
    case.nodes(vip, &BOTH[..1])?;
    case.answered(vip, 80, &BOTH[..1])
}

#[test]
fn slices_that_a_user_made_for_a_service_without_selector() -> Result<()> {
    let cluster = shared()?;
    let (case, [vip, _]) = (Case::begin(&cluster, "selectorless")?, cluster.new_vips());
    case.deploy("web", BOTH[0], |_| {})?;
    let address = case.address_of("web")?;
    case.service("web", &[vip], |service| drop(service["spec"].as_object_mut().map(|spec| spec.remove("selector"))))?;
    let slice = |name: &str, endpoint: Value| {
        case.apply::<EndpointSlice>(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}], "endpoints": [endpoint],
        }))
    };
    // Without a node, or with a hostname alone, an endpoint is on no node: kube-proxy drops such traffic, too.
    slice("homeless", json!({"addresses": [address.clone()]}))?;
    slice("named", json!({"addresses": [address.clone()], "hostname": BOTH[0]}))?;
    case.reason(BOTH[0], vip, "NoLocalEndpoint")?;
    // Another slice of the Service brings it in; a third without ready endpoints takes nothing away.
    slice("mine", json!({"addresses": [address], "nodeName": BOTH[0]}))?;
    case.nodes(vip, &BOTH[..1])?;
    case.answered(vip, 80, &BOTH[..1])?;
    slice("idle", json!({"addresses": ["10.9.9.9"], "nodeName": BOTH[0], "conditions": {"ready": false}}))?;
    case.stays(vip, &BOTH[..1])?;
    case.kubectl(&["delete", "endpointslice", "mine"])?;
    case.nodes(vip, &[])
}

#[test]
fn a_backend_in_the_hosts_network_and_a_headless_service() -> Result<()> {
    let cluster = shared()?;
    let (case, [vip, _]) = (Case::begin(&cluster, "hosted")?, cluster.new_vips());
    case.cluster.kubectl(&[
        "label",
        "namespace",
        "hosted",
        "pod-security.kubernetes.io/enforce=privileged",
        "--overwrite",
    ])?;
    case.deploy("web", BOTH[1], |pod| pod["hostNetwork"] = true.into())?;
    case.service("web", &[vip], |_| {})?;
    case.nodes(vip, &BOTH[1..])?;
    case.answered(vip, 80, &BOTH[1..])?;
    case.apply::<Service>(json!({
        "metadata": {"name": "headless", "annotations": {"cosmolet.io/advertise": "true"}},
        "spec": {"type": "ClusterIP", "clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}]},
    }))?;
    case.stays(vip, &BOTH[1..])?;
    let status = cluster.status(BOTH[1])?;
    ensure!(!status.to_string().contains("headless"), "{status}");
    Ok(())
}

/// A pod that ends slowly and goes on serving: it counts, unless its Service says otherwise.
#[test]
fn a_terminating_pod_serves_for_services_that_want_it() -> Result<()> {
    let cluster = shared()?;
    let case = Case::begin(&cluster, "ending")?;
    let ([serving, _], [ready, _]) = (cluster.new_vips(), cluster.new_vips());
    case.deploy("web", BOTH[0], |pod| {
        pod["terminationGracePeriodSeconds"] = 600.into();
        pod["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 500}}});
    })?;
    case.service("serving", &[serving], |_| {})?;
    case.service("ready", &[ready], |service| {
        service["metadata"]["annotations"] = json!({"cosmolet.io/terminating": "ready"});
    })?;
    case.nodes(serving, &BOTH[..1])?;
    case.nodes(ready, &BOTH[..1])?;
    for owner in ["deployments", "replicasets"] {
        case.kubectl(&["delete", owner, "--all", "--cascade=orphan"])?;
    }
    case.kubectl(&["delete", "pods", "-l", "pod=web", "--wait=false"])?;
    case.nodes(ready, &[])?;
    case.reason(BOTH[0], ready, "NoLocalEndpoint")?;
    case.stays(serving, &BOTH[..1])?;
    case.answered(serving, 80, &BOTH[..1])?;
    case.kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0"])?;
    case.nodes(serving, &[])
}

/// The kubelet restarts the container again and again; between two restarts its readiness says yes.
#[test]
fn a_crash_loop_takes_the_vip_out_though_it_is_published_as_ready() -> Result<()> {
    let cluster = shared()?;
    let (case, [vip, _]) = (Case::begin(&cluster, "crashing")?, cluster.new_vips());
    case.deploy("web", BOTH[0], |pod| {
        pod["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/nowhere", "port": PORT},
            "periodSeconds": 1, "failureThreshold": 2, "initialDelaySeconds": 8});
    })?;
    // Published whatever its readiness says: only the restarts tell.
    case.service("web", &[vip], |service| service["spec"]["publishNotReadyAddresses"] = true.into())?;
    case.nodes(vip, &BOTH[..1])?;
    case.nodes(vip, &[])?;
    case.reason(BOTH[0], vip, "PodRestarting").map(drop)
}

#[test]
fn labels_taints_and_cordons_of_a_node() -> Result<()> {
    let cluster = alone()?;
    let (case, [vip, _]) = (Case::begin(&cluster, "nodes")?, cluster.new_vips());
    for node in BOTH {
        case.deploy(&format!("web-{node}"), node, |pod| pod["tolerations"] = json!([{"operator": "Exists"}]))?;
    }
    case.service("web", &[vip], |_| {})?;
    case.nodes(vip, &BOTH)?;
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    turn(&case, vip, ["label", "node", BOTH[0]], [&format!("{label}="), &format!("{label}-")], Some("NodeExcluded"))?;
    let taint = ["example.com/drain=now:NoSchedule", "example.com/drain-"];
    turn(&case, vip, ["taint", "node", BOTH[0]], taint, None)?;
    cordon(&cluster, &case, vip, None)?;
    let strict = json!({"config": {"services": {"drain_taints": ["example.com/drain"], "cordon": "withdraw"}}});
    cluster.install(&strict)?;
    case.nodes(vip, &BOTH)?;
    turn(&case, vip, ["taint", "node", BOTH[0]], taint, Some("NodeTainted"))?;
    cordon(&cluster, &case, vip, Some("NodeCordoned"))?;
    cluster.install(&json!({}))
}

/// Does something to the first node and undoes it; it withdraws for the reason, or nothing moves.
fn turn(
    case: &Case<'_>,
    vip: std::net::IpAddr,
    command: [&str; 3],
    [done, undone]: [&str; 2],
    reason: Option<&str>,
) -> Result<()> {
    case.cluster.kubectl(&[&command[..], &[done]].concat())?;
    match reason {
        Some(reason) => {
            case.nodes(vip, &BOTH[1..])?;
            case.reason(BOTH[0], vip, reason)?;
            case.answered(vip, 80, &BOTH[1..])?;
        }
        None => case.stays(vip, &BOTH)?,
    }
    case.cluster.kubectl(&[&command[..], &[undone]].concat())?;
    case.nodes(vip, &BOTH)
}

fn cordon(cluster: &Cluster, case: &Case<'_>, vip: std::net::IpAddr, reason: Option<&str>) -> Result<()> {
    cluster.kubectl(&["cordon", BOTH[0]])?;
    match reason {
        Some(reason) => {
            case.nodes(vip, &BOTH[1..])?;
            case.reason(BOTH[0], vip, reason)?;
        }
        None => case.stays(vip, &BOTH)?,
    }
    cluster.kubectl(&["uncordon", BOTH[0]])?;
    case.nodes(vip, &BOTH)
}
