//! What an object says about this node. Pure functions, one for each kind.

use k8s_openapi::api::core::v1::{ContainerStatus, LoadBalancerIngress, Node, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::annotations::Annotations;
use super::{Kind, Object, ObjectId, Selection, ServiceSummary, SliceSummary, Summary};
use crate::engine::attributes::Profile;
use crate::engine::service::{
    EndpointCondition, EndpointCounts, EndpointScope, LocalEndpoint, NodeView, PodView, Refusal, RefusedAddress,
    VipClaim, VipKind,
};
use crate::engine::types::{Family, ObjectKey, PodKey, Port, Protocol, Vip};

/// On a slice: the name of its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// On a Node: its presence excludes the node from external load balancers.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A kind of object that can be projected.
pub trait Project {
    /// Its kind.
    const KIND: Kind;

    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;

    /// What it says about this node, if anything.
    fn summary(&self, selection: &Selection) -> Option<Summary>;

    /// Its identity.
    fn id(&self) -> ObjectId {
        let meta = self.meta();
        let namespace = match Self::KIND {
            Kind::Node => "",
            Kind::Service | Kind::EndpointSlice | Kind::Pod => namespace(meta),
        };
        ObjectId { kind: Self::KIND, key: ObjectKey::new(namespace, meta.name.as_deref().unwrap_or_default()) }
    }

    /// The object as far as this node is concerned.
    fn project(&self, selection: &Selection) -> Object {
        Object { id: self.id(), summary: self.summary(selection) }
    }
}

impl Project for Service {
    const KIND: Kind = Kind::Service;

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    /// `None` if no address is taken from it and nothing is wrong with it.
    fn summary(&self, selection: &Selection) -> Option<Summary> {
        let spec = self.spec.as_ref()?;
        let ports = sorted(spec.ports.iter().flatten().filter_map(port));
        let annotations = Annotations::read(self.metadata.annotations.as_ref(), &ports, selection);
        let mut summary = ServiceSummary {
            ports: ports.into(),
            terminating: annotations.terminating,
            prove: annotations.prove,
            policy: annotations.policy,
            check: annotations.check,
            profile: Profile::new(annotations.attributes, digest),
            notices: annotations.notices.into(),
            ..ServiceSummary::default()
        };
        let (mut vips, mut refused) = (Vec::new(), Vec::new());
        for kind in [VipKind::LoadBalancer, VipKind::ExternalIp, VipKind::ClusterIp] {
            if takes(self, spec, kind, annotations.advertise, selection) {
                let scope = scope(spec, kind);
                for text in addresses(self, spec, kind) {
                    match text.parse::<IpAddr>() {
                        Ok(address) => vips.push(VipClaim { vip: Vip::new(address), kind, scope }),
                        Err(_) => {
                            refused.push(RefusedAddress { text: sanitised(text), refusal: Refusal::NotAnAddress })
                        }
                    }
                }
            }
        }
        summary.vips = sorted(vips);
        summary.refused = sorted(refused);
        let matters = !(summary.vips.is_empty() && summary.refused.is_empty() && summary.notices.is_empty());
        matters.then_some(Summary::Service(summary))
    }
}

impl Project for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    /// `None` if it belongs to no Service or holds no addresses of IPv4 or IPv6.
    fn summary(&self, selection: &Selection) -> Option<Summary> {
        let service = self.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        let family = address_family(self)?;
        let (mut local, mut remote) = (Vec::new(), EndpointCounts::default());
        // An endpoint without an address is none; the API server does not let it through, a manifest may hold it.
        for endpoint in self.endpoints.iter().filter(|endpoint| !endpoint.addresses.is_empty()) {
            let condition = condition(endpoint.conditions.as_ref());
            if endpoint.node_name.as_deref() == Some(&selection.node_name) {
                local.push(LocalEndpoint { pod: pod_key(endpoint, &self.metadata), condition });
            } else {
                let count = match condition {
                    EndpointCondition::Ready => &mut remote.ready,
                    EndpointCondition::Draining => &mut remote.draining,
                    EndpointCondition::Unusable => &mut remote.unusable,
                };
                *count = count.saturating_add(1);
            }
        }
        Some(Summary::Slice(SliceSummary { service: service.as_str().into(), family, local: local.into(), remote }))
    }
}

impl Project for Node {
    const KIND: Kind = Kind::Node;

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    /// `None` if it is another node. A cordon (`spec.unschedulable`) does nothing unless the configuration says so.
    fn summary(&self, selection: &Selection) -> Option<Summary> {
        if self.metadata.name.as_deref() != Some(&selection.node_name) {
            return None;
        }
        let conditions = self.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let cordoned = self.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
        let mut taints = self.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        Some(Summary::Node(NodeView {
            excluded: self.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDE)),
            network_unavailable: conditions
                .into_iter()
                .any(|condition| condition.type_ == "NetworkUnavailable" && condition.status == "True"),
            drain_taint: taints
                .find(|taint| selection.drain_taints.contains(&taint.key))
                .map(|taint| taint.key.clone()),
            cordoned: selection.cordon_withdraws && cordoned,
        }))
    }
}

impl Project for Pod {
    const KIND: Kind = Kind::Pod;

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    /// `None` if it runs elsewhere.
    fn summary(&self, selection: &Selection) -> Option<Summary> {
        if self.spec.as_ref()?.node_name.as_deref() != Some(&selection.node_name) {
            return None;
        }
        let containers = || self.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let restarts = containers().map(|c| u32::try_from(c.restart_count).unwrap_or(0));
        Some(Summary::Pod(PodView {
            restarts: restarts.fold(0, u32::saturating_add),
            crash_loop: containers().any(in_crash_loop),
        }))
    }
}

/// The digest that names a route-map: 64 bits of SHA-256, so that nobody finds a second text with the digest of a first.
fn digest(text: &str) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// The nodes on which these slices name an endpoint of a family that is ready, or drains and still serves.
pub(crate) fn usable_nodes<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    family: Family,
) -> BTreeSet<String> {
    let of_family = slices.into_iter().filter(|slice| address_family(slice) == Some(family));
    let usable = of_family.flat_map(|slice| &slice.endpoints).filter(|endpoint| {
        !endpoint.addresses.is_empty() && condition(endpoint.conditions.as_ref()) != EndpointCondition::Unusable
    });
    usable.filter_map(|endpoint| endpoint.node_name.clone()).collect()
}

fn address_family(slice: &EndpointSlice) -> Option<Family> {
    match slice.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}

/// The text without control characters, cut to 64 characters, fit for a log line.
#[must_use]
pub fn sanitised(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A namespace as the API server fills it in.
fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

/// Whether selection takes this Service's addresses of a kind; the rule is that of [`Selection`].
fn takes(service: &Service, spec: &ServiceSpec, kind: VipKind, advertise: Option<bool>, selection: &Selection) -> bool {
    if advertise == Some(false) {
        return false;
    }
    let own = match spec.type_.as_deref() {
        Some("LoadBalancer") => Some(VipKind::LoadBalancer),
        Some("ExternalName") => None,
        _ => Some(VipKind::ClusterIp),
    };
    if advertise == Some(true) && own == Some(kind) {
        return true;
    }
    let class = || spec.load_balancer_class.as_ref();
    selection.types.contains(&kind)
        && in_scope(&service.metadata, selection)
        && (kind != VipKind::LoadBalancer
            || selection.load_balancer_classes.is_empty()
            || class().is_some_and(|class| selection.load_balancer_classes.contains(class)))
}

fn in_scope(meta: &ObjectMeta, selection: &Selection) -> bool {
    (selection.namespaces.is_empty() || selection.namespaces.contains(namespace(meta)))
        && selection.selector.matches(meta.labels.as_ref().unwrap_or(&std::collections::BTreeMap::new()))
}

/// The addresses of one kind, as text.
fn addresses<'a>(service: &'a Service, spec: &'a ServiceSpec, kind: VipKind) -> Vec<&'a str> {
    let all = |list: &'a Option<Vec<String>>| list.iter().flatten().map(String::as_str).collect::<Vec<_>>();
    match (kind, spec.type_.as_deref()) {
        (_, Some("ExternalName")) => Vec::new(),
        // A headless Service: kube-proxy translates none of its addresses, its external IPs neither.
        _ if spec.cluster_ip.as_deref() == Some("None") => Vec::new(),
        (VipKind::LoadBalancer, Some("LoadBalancer")) => {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            status.into_iter().flat_map(|status| status.ingress.iter().flatten()).filter_map(ingress_address).collect()
        }
        (VipKind::LoadBalancer, _) => Vec::new(),
        (VipKind::ExternalIp, _) => all(&spec.external_ips),
        (VipKind::ClusterIp, _) => {
            // The API server keeps both fields alike; a manifest may have the older one alone.
            let mut addresses = all(&spec.cluster_ips);
            if addresses.is_empty() {
                addresses.extend(spec.cluster_ip.as_deref());
            }
            // It has not been given an address yet.
            addresses.retain(|text| !text.is_empty());
            addresses
        }
    }
}

/// An address that the node answers for: not those whose packets come through a proxy (KEP-1860).
fn ingress_address(ingress: &LoadBalancerIngress) -> Option<&str> {
    let proxied = ingress.ip_mode.as_deref() == Some("Proxy");
    ingress.ip.as_deref().filter(|ip| !proxied && !ip.is_empty())
}

fn scope(spec: &ServiceSpec, kind: VipKind) -> EndpointScope {
    let policy = match kind {
        VipKind::LoadBalancer | VipKind::ExternalIp => &spec.external_traffic_policy,
        VipKind::ClusterIp => &spec.internal_traffic_policy,
    };
    match policy.as_deref() {
        Some("Local") => EndpointScope::Local,
        _ => EndpointScope::Cluster,
    }
}

/// A port, unless its number or its protocol does not exist.
fn port(port: &ServicePort) -> Option<Port> {
    let protocol = match port.protocol.as_deref() {
        None | Some("" | "TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    let number = u16::try_from(port.port).ok().filter(|number| *number != 0)?;
    Some(Port { protocol, number })
}

/// `ready` absent is ready; `serving` absent is as `ready`; `terminating` absent is not (discovery/v1 API, KEP-1672).
fn condition(conditions: Option<&EndpointConditions>) -> EndpointCondition {
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    match (ready, serving && terminating) {
        (true, _) => EndpointCondition::Ready,
        (false, true) => EndpointCondition::Draining,
        (false, false) => EndpointCondition::Unusable,
    }
}

fn pod_key(endpoint: &Endpoint, slice: &ObjectMeta) -> Option<PodKey> {
    let target = endpoint.target_ref.as_ref()?;
    let name = target.name.as_deref()?;
    let namespace = target.namespace.as_deref().unwrap_or(namespace(slice));
    (target.kind.as_deref() == Some("Pod")).then(|| PodKey::new(namespace, name))
}

fn in_crash_loop(container: &ContainerStatus) -> bool {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
}

/// In ascending order, without duplicates.
fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Box<[T]> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items.into()
}
