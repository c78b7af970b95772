//! From Kubernetes objects to what this node sees of them: the only code that knows Kubernetes field names.
//!
//! Owns the rules of selection, the summaries of objects ([`objects`]), and the index that turns changes of summaries
//! into the engine's events ([`Projector`]). Both sources use it, so that the same objects give the same views.
//! Never keeps a Kubernetes object, never judges whether an address may be advertised (the engine does), never does IO.

mod annotations;
mod index;
pub mod objects;
mod selection;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use annotations::{
    ADVERTISE, ADVERTISE_ALIAS, COMMUNITIES, EXTENDED_COMMUNITIES, LARGE_COMMUNITIES, LOCAL_PREFERENCE, MED, Notice,
    ON_TRAFFIC_EVIDENCE, ON_TRAFFIC_FAULT, ORIGIN, PREPEND, PROBE, PROVE, TERMINATING, WEIGHT, check_advertise,
    check_evidence, check_fault, check_prove, check_terminating,
};
pub use index::{Notices, Projector};
pub use selection::{LabelSelector, Selection, SelectorError};

use std::sync::Arc;

#[cfg(test)]
use crate as daemon;

use crate::engine::attributes::Profile;
use crate::engine::check::Check;
use crate::engine::proof::Prove;
use crate::engine::service::{EndpointCounts, LocalEndpoint, NodeView, PodView, RefusedAddress, Terminating, VipClaim};
use crate::engine::traffic::TrafficPolicy;
use crate::engine::types::{Family, ObjectKey, Ports};

/// The kinds of objects that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Service, Self::EndpointSlice, Self::Node, Self::Pod];

    /// The kind as manifests have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::Pod => "Pod",
        }
    }
}

/// An object's identity. A Node's namespace is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The kind.
    pub kind: Kind,
    /// Namespace and name.
    pub key: ObjectKey,
}

/// An object as far as this node is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Which object.
    pub id: ObjectId,
    /// What there is to know of it; `None` if it is gone or has nothing to do with this node.
    pub summary: Option<Summary>,
}

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Summary {
    /// Of a Service.
    Service(ServiceSummary),
    /// Of an EndpointSlice.
    Slice(SliceSummary),
    /// Of this node.
    Node(NodeView),
    /// Of a pod of this node.
    Pod(PodView),
}

/// What is kept of a Service that asks for an address, or that has something to complain about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSummary {
    /// The VIPs that selection accepted, without duplicates, in ascending order.
    pub vips: Box<[VipClaim]>,
    /// The addresses that are none, without duplicates, in ascending order.
    pub refused: Box<[RefusedAddress]>,
    /// The declared ports, without duplicates, in ascending order.
    pub ports: Ports,
    /// How terminating endpoints count.
    pub terminating: Terminating,
    /// Whether its VIPs wait for a proof.
    pub prove: Prove,
    /// What its owner wants of the traffic verdict.
    pub policy: TrafficPolicy,
    /// What its owner wants to be asked.
    pub check: Option<Arc<Check>>,
    /// The attributes that its VIPs are advertised with.
    pub profile: Option<Arc<Profile>>,
    /// What is wrong with its annotations.
    pub notices: Box<[Notice]>,
}

/// What is kept of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceSummary {
    /// The name of its Service, from the label `kubernetes.io/service-name`; in the slice's namespace.
    pub service: Arc<str>,
    /// The family of its addresses.
    pub family: Family,
    /// The endpoints on this node.
    pub local: Box<[LocalEndpoint]>,
    /// The others, counted.
    pub remote: EndpointCounts,
}
