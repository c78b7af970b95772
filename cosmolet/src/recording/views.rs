//! Services, the node and its pods as a recording has them.
//!
//! What is left out says nothing of a verdict: the BGP attributes, and addresses that are none.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::words::{self, CheckText, Name, PortText};
use crate::engine::proof::Prove;
use crate::engine::service::{
    EndpointCondition, EndpointCounts, EndpointScope, Endpoints, LocalEndpoint, NodeView, PodView, ServiceView,
    Terminating, VipClaim, VipKind,
};
use crate::engine::traffic::{OnFault, SecondKey, TrafficPolicy};
use crate::engine::types::{PerFamily, PodKey, Vip};

/// A Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    name: Name,
    vips: Vec<Claim>,
    ports: Vec<PortText>,
    #[serde(with = "words::terminating")]
    terminating: Terminating,
    #[serde(with = "words::prove")]
    prove: Prove,
    #[serde(with = "words::fault")]
    on_traffic_fault: OnFault,
    #[serde(with = "words::evidence")]
    on_traffic_evidence: SecondKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<CheckText>,
    #[serde(default, skip_serializing_if = "Ends::is_empty")]
    ipv4: Ends,
    #[serde(default, skip_serializing_if = "Ends::is_empty")]
    ipv6: Ends,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    vip: IpAddr,
    #[serde(with = "words::kind")]
    kind: VipKind,
    #[serde(with = "words::scope")]
    scope: EndpointScope,
}

/// The endpoints of one family.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ends {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    local: Vec<End>,
    #[serde(with = "Counts")]
    remote: EndpointCounts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Name>,
    #[serde(with = "words::condition")]
    condition: EndpointCondition,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "EndpointCounts", deny_unknown_fields)]
struct Counts {
    ready: u32,
    draining: u32,
    unusable: u32,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    excluded: bool,
    network_unavailable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain_taint: Option<String>,
    cordoned: bool,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    name: Name,
    restarts: u32,
    crash_loop: bool,
}

impl Ends {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn of(endpoints: &Endpoints) -> Self {
        let local = endpoints.local.iter();
        let local = local.map(|one| End { pod: one.pod.clone().map(Name), condition: one.condition });
        Self { local: local.collect(), remote: endpoints.remote }
    }
}

impl From<Ends> for Endpoints {
    fn from(ends: Ends) -> Self {
        let local = ends.local.into_iter();
        let local = local.map(|end| LocalEndpoint { pod: end.pod.map(|name| name.0), condition: end.condition });
        let mut local: Vec<_> = local.collect();
        local.sort_unstable();
        Self { local, remote: ends.remote }
    }
}

impl Service {
    /// A view as it is recorded.
    #[must_use]
    pub fn of(view: &ServiceView) -> Self {
        let claim = |claim: &VipClaim| Claim { vip: claim.vip.address(), kind: claim.kind, scope: claim.scope };
        Self {
            name: Name(view.key.clone()),
            vips: view.vips.iter().map(claim).collect(),
            ports: view.ports.iter().copied().map(PortText).collect(),
            terminating: view.terminating,
            prove: view.prove,
            on_traffic_fault: view.policy.fault,
            on_traffic_evidence: view.policy.evidence,
            probe: view.check.as_deref().cloned().map(CheckText),
            ipv4: Ends::of(&view.endpoints.v4),
            ipv6: Ends::of(&view.endpoints.v6),
        }
    }
}

impl From<Service> for ServiceView {
    /// In the order that the engine relies on, whoever has written it.
    fn from(service: Service) -> Self {
        let claim = |claim: Claim| VipClaim { vip: Vip::new(claim.vip), kind: claim.kind, scope: claim.scope };
        let mut vips: Vec<_> = service.vips.into_iter().map(claim).collect();
        vips.sort_unstable();
        vips.dedup_by_key(|claim| claim.vip);
        let mut ports: Vec<_> = service.ports.into_iter().map(|port| port.0).collect();
        ports.sort_unstable();
        ports.dedup();
        Self {
            key: service.name.0,
            vips,
            refused: Vec::new(),
            ports: ports.into(),
            terminating: service.terminating,
            prove: service.prove,
            policy: TrafficPolicy { fault: service.on_traffic_fault, evidence: service.on_traffic_evidence },
            check: service.probe.map(|check| Arc::new(check.0)),
            profile: None,
            endpoints: PerFamily { v4: service.ipv4.into(), v6: service.ipv6.into() },
        }
    }
}

impl From<&NodeView> for Node {
    fn from(view: &NodeView) -> Self {
        Self {
            excluded: view.excluded,
            network_unavailable: view.network_unavailable,
            drain_taint: view.drain_taint.clone(),
            cordoned: view.cordoned,
        }
    }
}

impl From<Node> for NodeView {
    fn from(node: Node) -> Self {
        Self {
            excluded: node.excluded,
            network_unavailable: node.network_unavailable,
            drain_taint: node.drain_taint,
            cordoned: node.cordoned,
        }
    }
}

impl Pod {
    /// A pod as it is recorded.
    #[must_use]
    pub fn of(key: &PodKey, view: PodView) -> Self {
        Self { name: Name(key.clone()), restarts: view.restarts, crash_loop: view.crash_loop }
    }

    /// The pod as the engine knows it.
    #[must_use]
    pub fn into_parts(self) -> (PodKey, PodView) {
        (self.name.0, PodView { restarts: self.restarts, crash_loop: self.crash_loop })
    }
}
