//! What this node knows of Services, their endpoints, the node itself and its pods.
//!
//! Owns the views that the sources build and the control plane's rule over them (design: what makes a VIP eligible).
//! Never reads Kubernetes objects: only `kubernetes::project` knows their field names.

use super::types::{Family, PerFamily, PodKey, Port, ServiceKey, Vip};

/// One Service as this node sees it, built from all of its EndpointSlices. Replaced whole, never patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Namespace and name.
    pub key: ServiceKey,
    /// The VIPs that selection accepted, without duplicates, in ascending order.
    pub vips: Vec<VipClaim>,
    /// Addresses that never became VIPs, with the reason.
    pub refused: Vec<RefusedAddress>,
    /// The declared ports, without duplicates, in ascending order.
    pub ports: Vec<Port>,
    /// Whether terminating endpoints that still serve count when no ready one is left (KEP-1669).
    pub terminating: Terminating,
    /// The endpoints by address family.
    pub endpoints: PerFamily<Endpoints>,
}

/// A VIP that a Service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipClaim {
    /// The address.
    pub vip: Vip,
    /// Where the Service names it.
    pub kind: VipKind,
    /// Which endpoints make this node able to serve it.
    pub scope: EndpointScope,
}

/// The field of the Service that a VIP comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VipKind {
    /// `status.loadBalancer.ingress[].ip`
    LoadBalancer,
    /// `spec.externalIPs[]`
    ExternalIp,
    /// `spec.clusterIPs[]`
    ClusterIp,
}

impl VipKind {
    /// The label used in logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "ExternalIP",
            Self::ClusterIp => "ClusterIP",
        }
    }
}

/// Which endpoints count: `externalTrafficPolicy` (or `internalTrafficPolicy` for a ClusterIP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointScope {
    /// `Local`: only endpoints on this node.
    Local,
    /// `Cluster`: any endpoint.
    Cluster,
}

/// How terminating endpoints count (`cosmolet.io/terminating`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Terminating {
    /// Serving and terminating endpoints count while no ready one is left, as for kube-proxy.
    #[default]
    Serving,
    /// Only ready endpoints count.
    Ready,
}

/// The endpoints of one Service in one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Those on this node, one by one, in ascending order.
    pub local: Vec<LocalEndpoint>,
    /// Those on other nodes, or without a node name, counted.
    pub remote: EndpointCounts,
}

/// How many endpoints there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Ready; an absent `ready` condition counts as ready.
    pub ready: u32,
    /// Not ready, serving and terminating.
    pub draining: u32,
    /// Neither.
    pub unusable: u32,
}

/// An endpoint on this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalEndpoint {
    /// The pod behind it, where `targetRef` names one.
    pub pod: Option<PodKey>,
    /// Its condition.
    pub condition: EndpointCondition,
}

/// An endpoint's three conditions in one (`ready`, `serving`, `terminating`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointCondition {
    /// Ready, or without a `ready` condition.
    Ready,
    /// Terminating but still serving.
    Draining,
    /// Neither ready nor serving while terminating.
    Unusable,
}

/// An address of a Service that cannot be a VIP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedAddress {
    /// The address as the object has it, cut to 64 characters, control characters replaced.
    pub text: String,
    /// Why.
    pub refusal: Refusal,
}

/// Why an address is refused whatever its Service's health is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Not an IP address.
    NotAnAddress,
    /// The Service declares no port.
    NoPorts,
    /// 0.0.0.0 or ::, the default route.
    Unspecified,
    /// 127.0.0.0/8 or ::1.
    Loopback,
    /// 169.254.0.0/16 or fe80::/10.
    LinkLocal,
    /// 224.0.0.0/4 or ff00::/8.
    Multicast,
    /// 255.255.255.255 or the rest of 240.0.0.0/4.
    Reserved,
    /// Outside `services.vip_ranges`.
    OutsideRanges,
    /// Inside `loopback.excluded`.
    Excluded,
    /// An address of this node.
    OwnAddress,
    /// The address of a BGP peer.
    PeerAddress,
    /// On the loopback already, put there by somebody else.
    ForeignAddress,
}

impl Refusal {
    /// The reason as it stands in logs, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAnAddress => "NotAnAddress",
            Self::NoPorts => "NoPorts",
            Self::Unspecified => "Unspecified",
            Self::Loopback => "Loopback",
            Self::LinkLocal => "LinkLocal",
            Self::Multicast => "Multicast",
            Self::Reserved => "Reserved",
            Self::OutsideRanges => "OutsideRanges",
            Self::Excluded => "Excluded",
            Self::OwnAddress => "OwnAddress",
            Self::PeerAddress => "PeerAddress",
            Self::ForeignAddress => "ForeignAddress",
        }
    }
}

/// This node as Kubernetes describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// The label `node.kubernetes.io/exclude-from-external-load-balancers` is present.
    pub excluded: bool,
    /// The condition `NetworkUnavailable` is `True`.
    pub network_unavailable: bool,
    /// The first taint that `services.drain_taints` names, if there is one.
    pub drain_taint: Option<String>,
}

/// A pod of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Restarts of all its containers, init containers apart.
    pub restarts: u32,
    /// A container waits in `CrashLoopBackOff`.
    pub crash_loop: bool,
}

impl ServiceView {
    /// The endpoints of the family of `vip`.
    #[must_use]
    pub const fn endpoints_for(&self, family: Family) -> &Endpoints {
        self.endpoints.get(family)
    }
}
