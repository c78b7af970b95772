//! What this node knows of Services, their endpoints, the node itself and its pods.
//!
//! Owns the views that the sources build and the control plane's rule over them (design: what makes a VIP eligible).
//! Never reads Kubernetes objects: only `kubernetes::project` knows their field names.

use std::sync::Arc;

use super::attributes::Profile;
use super::check::Check;
use super::intent::WithdrawReason;
use super::proof::Prove;
use super::traffic::TrafficPolicy;
use super::types::{Family, PerFamily, PodKey, Ports, ServiceKey, Vip};

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
    pub ports: Ports,
    /// Whether terminating endpoints that still serve count when no ready one is left (KEP-1669).
    pub terminating: Terminating,
    /// Whether its VIPs wait for a probe to pass before they are advertised.
    pub prove: Prove,
    /// What its owner wants of the traffic verdict.
    pub policy: TrafficPolicy,
    /// What its owner wants to be asked of one of its ports, which is a declared one.
    pub check: Option<Arc<Check>>,
    /// The attributes that its VIPs are advertised with; `None` where nothing is asked for.
    pub profile: Option<Arc<Profile>>,
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
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::NotAnAddress,
        Self::NoPorts,
        Self::Unspecified,
        Self::Loopback,
        Self::LinkLocal,
        Self::Multicast,
        Self::Reserved,
        Self::OutsideRanges,
        Self::Excluded,
        Self::OwnAddress,
        Self::PeerAddress,
        Self::ForeignAddress,
    ];

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

    /// One sentence for a person, without the address.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::NotAnAddress => "it is not an IP address",
            Self::NoPorts => "its Service declares no port",
            Self::Unspecified => "it is the unspecified address, the default route",
            Self::Loopback => "it is a loopback address",
            Self::LinkLocal => "it is link-local",
            Self::Multicast => "it is a multicast address",
            Self::Reserved => "it is a reserved or broadcast address",
            Self::OutsideRanges => "it lies outside services.vip_ranges",
            Self::Excluded => "it lies inside loopback.excluded",
            Self::OwnAddress => "it is an address of this node",
            Self::PeerAddress => "it is the address of a BGP peer",
            Self::ForeignAddress => "it is on the loopback already and somebody else put it there",
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
    /// It is cordoned, and `services.cordon` is `withdraw`.
    pub cordoned: bool,
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
    /// Says whether this node can serve a claim as far as Kubernetes knows. `healthy` tells whether a pod of this node
    /// is free of restarts.
    ///
    /// # Errors
    /// The reason why it cannot.
    pub fn control_plane(&self, claim: VipClaim, healthy: impl Fn(&PodKey) -> bool) -> Result<(), WithdrawReason> {
        let (mut usable, held) = self.local(claim, healthy);
        if claim.scope == EndpointScope::Cluster {
            let remote = self.endpoints.get(claim.vip.family()).remote;
            usable.ready = usable.ready.saturating_add(remote.ready);
            usable.draining = usable.draining.saturating_add(remote.draining);
        }
        match (self.count(usable) > 0, held, claim.scope) {
            (true, _, _) => Ok(()),
            (false, 1.., _) => Err(WithdrawReason::PodRestarting),
            (false, 0, EndpointScope::Local) => Err(WithdrawReason::NoLocalEndpoint),
            (false, 0, EndpointScope::Cluster) => Err(WithdrawReason::NoEndpoint),
        }
    }

    /// How many endpoints on this node serve a claim; `None` where those of all nodes do.
    pub fn usable_local(&self, claim: VipClaim, healthy: impl Fn(&PodKey) -> bool) -> Option<u32> {
        match claim.scope {
            EndpointScope::Local => Some(self.count(self.local(claim, healthy).0)),
            EndpointScope::Cluster => None,
        }
    }

    /// The endpoints on this node, and how many of them are held for their restarts.
    fn local(&self, claim: VipClaim, healthy: impl Fn(&PodKey) -> bool) -> (EndpointCounts, u32) {
        let (mut usable, mut held) = (EndpointCounts::default(), 0_u32);
        for endpoint in &self.endpoints.get(claim.vip.family()).local {
            match (endpoint.pod.as_ref().is_none_or(&healthy), endpoint.condition) {
                (true, EndpointCondition::Ready) => usable.ready += 1,
                (true, EndpointCondition::Draining) => usable.draining += 1,
                (false, EndpointCondition::Ready | EndpointCondition::Draining) => held += 1,
                (_, EndpointCondition::Unusable) => {}
            }
        }
        (usable, held)
    }

    /// Those that count: terminating ones only while no ready one is left, and if the Service lets them (KEP-1669).
    const fn count(&self, usable: EndpointCounts) -> u32 {
        match (usable.ready, self.terminating) {
            (0, Terminating::Serving) => usable.draining,
            (ready, _) => ready,
        }
    }

    /// How many endpoints on this node are ready, whatever their pods are like.
    pub fn ready_here(&self, family: Family) -> u32 {
        let ready = |endpoint: &&LocalEndpoint| endpoint.condition == EndpointCondition::Ready;
        u32::try_from(self.endpoints.get(family).local.iter().filter(ready).count()).unwrap_or(u32::MAX)
    }

    /// The pods of this node that stand behind the Service, in both families.
    pub fn local_pods(&self) -> impl Iterator<Item = &PodKey> {
        Family::ALL.into_iter().flat_map(|family| &self.endpoints.get(family).local).filter_map(|e| e.pod.as_ref())
    }
}

impl NodeView {
    /// Says whether the node may carry VIPs at all.
    ///
    /// # Errors
    /// The reason why it may not.
    pub const fn check(&self) -> Result<(), WithdrawReason> {
        if self.excluded {
            Err(WithdrawReason::NodeExcluded)
        } else if self.network_unavailable {
            Err(WithdrawReason::NodeNetworkUnavailable)
        } else if self.drain_taint.is_some() {
            Err(WithdrawReason::NodeTainted)
        } else if self.cordoned {
            Err(WithdrawReason::NodeCordoned)
        } else {
            Ok(())
        }
    }
}
