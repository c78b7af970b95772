//! Builders of the Kubernetes objects that a Service's story needs, for manifests and for the API server alike.
//!
//! Each returns the plain `k8s-openapi` type: callers change what their case is about.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, NodeSpec};
use k8s_openapi::api::core::v1::{
    ContainerStatus, LoadBalancerIngress, LoadBalancerStatus, Node, NodeAddress, NodeCondition, NodeStatus,
    ObjectReference, Pod, PodCondition, PodIP, PodSpec, PodStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The namespace of every builder.
pub const NAMESPACE: &str = "default";
/// The label by which a slice names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// State of an endpoint as the EndpointSlice controller writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its pod is ready.
    Ready,
    /// Its pod is not.
    NotReady,
    /// Its pod ends but still answers (KEP-1669).
    Terminating,
}

/// A Service of type LoadBalancer whose status holds `vips`, with TCP `ports`.
#[must_use]
pub fn service(name: &str, vips: &[IpAddr], ports: &[u16]) -> Service {
    let port = |number: &u16| ServicePort {
        name: Some(format!("p{number}")),
        port: i32::from(*number),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    let ingress = |vip: &IpAddr| LoadBalancerIngress { ip: Some(vip.to_string()), ..LoadBalancerIngress::default() };
    let status = LoadBalancerStatus { ingress: Some(vips.iter().map(ingress).collect()) };
    Service {
        metadata: metadata(name),
        spec: Some(ServiceSpec {
            type_: Some("LoadBalancer".to_owned()),
            external_traffic_policy: Some("Cluster".to_owned()),
            allocate_load_balancer_node_ports: Some(false),
            ports: Some(ports.iter().map(port).collect()),
            ..ServiceSpec::default()
        }),
        status: Some(ServiceStatus { load_balancer: Some(status), ..ServiceStatus::default() }),
    }
}

/// The same with `externalTrafficPolicy: Local`.
#[must_use]
pub fn local(mut service: Service) -> Service {
    if let Some(spec) = &mut service.spec {
        spec.external_traffic_policy = Some("Local".to_owned());
    }
    service
}

/// One endpoint on a node.
#[must_use]
pub fn endpoint(address: IpAddr, node: &str, state: State) -> Endpoint {
    let (ready, serving, terminating) = match state {
        State::Ready => (true, true, false),
        State::NotReady => (false, false, false),
        State::Terminating => (false, true, true),
    };
    Endpoint {
        addresses: vec![address.to_string()],
        node_name: Some(node.to_owned()),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        ..Endpoint::default()
    }
}

/// An endpoint that names its pod.
#[must_use]
pub fn of_pod(mut endpoint: Endpoint, pod: &str) -> Endpoint {
    endpoint.target_ref = Some(ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        name: Some(pod.to_owned()),
        ..ObjectReference::default()
    });
    endpoint
}

/// The slice `name` of `service`; its family is that of its first endpoint, IPv4 when it has none.
#[must_use]
pub fn slice(name: &str, service: &str, port: u16, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let v6 = endpoints.first().and_then(|e| e.addresses.first()).is_some_and(|address| address.contains(':'));
    let mut metadata = metadata(name);
    metadata.labels = Some([(SERVICE_NAME.to_owned(), service.to_owned())].into());
    EndpointSlice {
        address_type: if v6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints,
        metadata,
        ports: Some(vec![EndpointPort {
            name: Some(format!("p{port}")),
            port: Some(i32::from(port)),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    }
}

/// A ready node.
#[must_use]
pub fn node(name: &str, internal: IpAddr) -> Node {
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            addresses: Some(vec![address("InternalIP", internal.to_string()), address("Hostname", name.to_owned())]),
            conditions: Some(vec![NodeCondition {
                type_: "Ready".to_owned(),
                status: "True".to_owned(),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        }),
    }
}

/// A pod on a node, with its readiness and how often its one container was restarted.
#[must_use]
pub fn pod(name: &str, node: &str, address: IpAddr, ready: bool, restarts: u16) -> Pod {
    let container = "app".to_owned();
    Pod {
        metadata: metadata(name),
        spec: Some(PodSpec {
            node_name: Some(node.to_owned()),
            containers: vec![Container {
                name: container.clone(),
                image: Some("app:1".to_owned()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: Some("Running".to_owned()),
            pod_ip: Some(address.to_string()),
            pod_ips: Some(vec![PodIP { ip: address.to_string() }]),
            conditions: Some(vec![PodCondition {
                type_: "Ready".to_owned(),
                status: if ready { "True" } else { "False" }.to_owned(),
                ..PodCondition::default()
            }]),
            container_statuses: Some(vec![ContainerStatus {
                name: container,
                ready,
                restart_count: i32::from(restarts),
                image: "app:1".to_owned(),
                image_id: "app".to_owned(),
                ..ContainerStatus::default()
            }]),
            ..PodStatus::default()
        }),
    }
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() }
}
