//! What makes a VIP eligible, on a real cluster: real kubelets, controllers and kube-proxies say what is ready, and the
//! ToR's kernel and a client outside say what came of it.

use anyhow::{Result, ensure};
use cosmolet_tests::cluster::shared;
use cosmolet_tests::wait;
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

/// Each family goes by its own slices: the IPv4 VIP comes from one node, the IPv6 VIP from the other.
#[test]
fn each_family_goes_by_its_own_endpoints() -> Result<()> {
    let cluster = shared()?;
    let (case, vips) = (Case::begin(&cluster, "families")?, cluster.new_vips());
    for (name, node) in ["one", "two"].into_iter().zip(BOTH) {
        case.deploy(name, node, |_| {})?;
        case.address_of(name)?;
    }
    case.service("web", &vips, |service| drop(service["spec"].as_object_mut().map(|spec| spec.remove("selector"))))?;
    let slice = |family: &str, place: usize, ready: bool| {
        let name = ["one", "two"][place];
        let selector = format!("pod={name}");
        let query = "jsonpath={.items[0].status.podIPs[*].ip}";
        let addresses = case.kubectl(&["get", "pods", "-l", &selector, "-o", query])?;
        let address = addresses.split_whitespace().find(|text| text.contains(':') == (family == "IPv6"));
        case.apply::<EndpointSlice>(json!({
            "metadata": {"name": family.to_lowercase(), "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family, "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "nodeName": BOTH[place], "conditions": {"ready": ready}}],
        }))
    };
    slice("IPv4", 0, true)?;
    slice("IPv6", 1, true)?;
    let [v4, v6] = vips;
    case.nodes(v4, &BOTH[..1])?;
    case.nodes(v6, &BOTH[1..])?;
    case.answered(v4, 80, &BOTH[..1])?;
    case.answered(v6, 80, &BOTH[1..])?;
    slice("IPv6", 1, false)?;
    case.nodes(v6, &[])?;
    case.reason(BOTH[1], v6, "NoLocalEndpoint")?;
    case.stays(v4, &BOTH[..1])
}

/// A user's Endpoints of a Service without selector: the controller mirrors them into a slice.
#[test]
fn endpoints_that_the_controller_mirrors_into_a_slice() -> Result<()> {
    let cluster = shared()?;
    let (case, [vip, _]) = (Case::begin(&cluster, "mirrored")?, cluster.new_vips());
    case.deploy("web", BOTH[1], |_| {})?;
    let address = case.address_of("web")?;
    case.service("web", &[vip], |service| drop(service["spec"].as_object_mut().map(|spec| spec.remove("selector"))))?;
    // An old kind that clients no longer know by type.
    let endpoints = |addresses: &str| {
        case.cluster.apply_text(&format!(
            "{{apiVersion: v1, kind: Endpoints, metadata: {{name: web, namespace: mirrored}}, subsets: [{{{addresses}: \
             [{{ip: {address}, nodeName: {}}}], ports: [{{name: http, port: {PORT}, protocol: TCP}}]}}]}}",
            BOTH[1]
        ))
    };
    endpoints("addresses")?;
    case.nodes(vip, &BOTH[1..])?;
    case.answered(vip, 80, &BOTH[1..])?;
    let label = "endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io";
    let slices = case.kubectl(&["get", "endpointslices", "-l", label, "-o", "name"])?;
    ensure!(slices.lines().count() == 1, "mirrored into {slices:?}");
    endpoints("notReadyAddresses")?;
    case.nodes(vip, &[])?;
    case.reason(BOTH[1], vip, "NoLocalEndpoint")?;
    endpoints("addresses")?;
    case.nodes(vip, &BOTH[1..])
}

/// The controller hints each zone at its own endpoints: a node of another zone can serve the VIP all the same.
#[test]
fn topology_hints_are_left_alone() -> Result<()> {
    let cluster = shared()?;
    let (case, [vip, _]) = (Case::begin(&cluster, "hinted")?, cluster.new_vips());
    for node in BOTH {
        cluster.kubectl(&[
            "label",
            "node",
            node,
            &format!("topology.kubernetes.io/zone=zone-{node}"),
            "--overwrite",
        ])?;
    }
    case.deploy("web", BOTH[1], |_| {})?;
    case.service("web", &[vip], |service| {
        service["spec"]["externalTrafficPolicy"] = "Cluster".into();
        service["spec"]["trafficDistribution"] = "PreferSameZone".into();
    })?;
    wait::until_true("hints in the slice", super::rig::LIMIT, || {
        let query = "jsonpath={.items[*].endpoints[*].hints.forZones[*].name}";
        let zones = case.kubectl(&["get", "endpointslices", "-o", query])?;
        ensure!(zones.split_whitespace().any(|zone| zone == "zone-node2"), "hinted at {zones:?}");
        Ok(true)
    })?;
    case.nodes(vip, &BOTH)?;
    case.answered(vip, 80, &BOTH[1..])?;
    case.stays(vip, &BOTH)
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
