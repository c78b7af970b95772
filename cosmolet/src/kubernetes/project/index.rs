//! The index: summaries in, the engine's events out.
//!
//! Invariant: what has been emitted for a Service is always what [`Projector::view`] builds for it, so a change is
//! found by building the view before and after, and no second copy is kept. A change of one slice costs the slices
//! of its Service, not more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tracing::warn;

use super::annotations::Notice;
use super::objects::Project;
use super::{Kind, Object, ObjectId, Selection, ServiceSummary, SliceSummary, Summary};
use crate::engine::event::Event;
use crate::engine::service::{EndpointCounts, Endpoints, LocalEndpoint, NodeView, PodView, ServiceView};
use crate::engine::types::{ObjectKey, PerFamily, PodKey, ServiceKey};

/// Everything a source has seen, as small as it can be kept.
#[derive(Debug)]
pub struct Projector {
    selection: Selection,
    services: BTreeMap<ServiceKey, Entry>,
    /// The Service that each known slice belongs to; it is in the slice's namespace.
    slices: HashMap<ObjectKey, Arc<str>>,
    pods: BTreeMap<PodKey, PodView>,
    node: Option<NodeView>,
    /// By kind, what a running relist has not named yet.
    unseen: BTreeMap<Kind, BTreeSet<ObjectKey>>,
    notices: Arc<Notices>,
    alias_warned: bool,
}

/// What is wrong with the annotations of Services.
pub type Notices = BTreeMap<ServiceKey, Box<[Notice]>>;

/// A Service and its slices; either may be seen first.
#[derive(Debug, Default)]
struct Entry {
    summary: Option<ServiceSummary>,
    slices: Vec<(Arc<str>, SliceSummary)>,
}

/// The views of the Services that a batch has touched, as they were before it.
type Before = BTreeMap<ServiceKey, Option<ServiceView>>;

impl Projector {
    /// An index that has seen nothing.
    #[must_use]
    pub fn new(selection: Selection) -> Self {
        Self {
            selection,
            services: BTreeMap::new(),
            slices: HashMap::new(),
            pods: BTreeMap::new(),
            node: None,
            unseen: BTreeMap::new(),
            notices: Arc::default(),
            alias_warned: false,
        }
    }

    /// The selection it was made with.
    #[must_use]
    pub const fn selection(&self) -> &Selection {
        &self.selection
    }

    /// This node, if it has been seen.
    #[must_use]
    pub const fn node(&self) -> Option<&NodeView> {
        self.node.as_ref()
    }

    /// What is wrong with the annotations of Services now. The same pointer while nothing changes.
    #[must_use]
    pub const fn notices(&self) -> &Arc<Notices> {
        &self.notices
    }

    /// Takes a new or changed Service.
    pub fn apply_service(&mut self, service: &Service) -> Vec<Event> {
        self.apply(service)
    }

    /// Takes a new or changed EndpointSlice.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) -> Vec<Event> {
        self.apply(slice)
    }

    /// Takes a new or changed Node.
    pub fn apply_node(&mut self, node: &Node) -> Vec<Event> {
        self.apply(node)
    }

    /// Takes a new or changed Pod.
    pub fn apply_pod(&mut self, pod: &Pod) -> Vec<Event> {
        self.apply(pod)
    }

    /// Takes a new or changed object of any kind.
    pub fn apply(&mut self, object: &impl Project) -> Vec<Event> {
        let object = object.project(&self.selection);
        self.change([object])
    }

    /// Forgets an object. Without a Node object this node counts as healthy.
    pub fn delete(&mut self, id: ObjectId) -> Vec<Event> {
        self.change([Object { id, summary: None }])
    }

    /// Takes several changes at once and returns what they really changed together, in a fixed order: what holds
    /// only between two of them is never emitted.
    pub fn change(&mut self, objects: impl IntoIterator<Item = Object>) -> Vec<Event> {
        let mut events = Vec::new();
        let mut before = Before::new();
        for Object { id, summary } in objects {
            if let Some(unseen) = self.unseen.get_mut(&id.kind) {
                unseen.remove(&id.key);
            }
            let key = id.key;
            match (id.kind, summary) {
                (_, Some(Summary::Service(summary))) => self.set_service(key, Some(summary), &mut before),
                (_, Some(Summary::Slice(summary))) => self.set_slice(key, Some(summary), &mut before),
                (_, Some(Summary::Node(view))) => events.extend(self.set_node(Some(view))),
                (_, Some(Summary::Pod(view))) => events.extend(self.set_pod(key, Some(view))),
                (Kind::Service, None) => self.set_service(key, None, &mut before),
                (Kind::EndpointSlice, None) => self.set_slice(key, None, &mut before),
                (Kind::Node, None) if *key.name == *self.selection.node_name => events.extend(self.set_node(None)),
                (Kind::Node, None) => {}
                (Kind::Pod, None) => events.extend(self.set_pod(key, None)),
            }
        }
        for (key, old) in before {
            match (old, self.view(&key)) {
                (old, Some(new)) if old.as_ref() != Some(&new) => events.push(Event::Service(Box::new(new))),
                (Some(_), None) => events.push(Event::ServiceGone(key)),
                _ => {}
            }
        }
        events
    }

    /// Starts a relist of a kind: what is not applied before [`end_relist`](Self::end_relist) is gone. A relist that
    /// is started again starts afresh.
    pub fn begin_relist(&mut self, kind: Kind) {
        let known: BTreeSet<ObjectKey> = match kind {
            Kind::Service => {
                self.services.iter().filter(|(_, e)| e.summary.is_some()).map(|(key, _)| key.clone()).collect()
            }
            Kind::EndpointSlice => self.slices.keys().cloned().collect(),
            Kind::Node => self.node.iter().map(|_| ObjectKey::new("", &self.selection.node_name)).collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
        };
        self.unseen.insert(kind, known);
    }

    /// Ends a relist and forgets what it did not name.
    pub fn end_relist(&mut self, kind: Kind) -> Vec<Event> {
        let gone = self.unseen.remove(&kind).unwrap_or_default();
        self.change(gone.into_iter().map(|key| Object { id: ObjectId { kind, key }, summary: None }))
    }

    /// The view of a Service from all of its slices; `None` if nothing is asked for.
    #[must_use]
    pub fn view(&self, key: &ServiceKey) -> Option<ServiceView> {
        let entry = self.services.get(key)?;
        let summary = entry.summary.as_ref()?;
        if summary.vips.is_empty() && summary.refused.is_empty() {
            return None;
        }
        Some(ServiceView {
            key: key.clone(),
            vips: summary.vips.to_vec(),
            refused: summary.refused.to_vec(),
            ports: Arc::clone(&summary.ports),
            terminating: summary.terminating,
            prove: summary.prove,
            policy: summary.policy,
            check: summary.check.clone(),
            profile: summary.profile.clone(),
            endpoints: entry.endpoints(),
        })
    }

    /// Every view there is, in the order of the Services' keys.
    pub fn views(&self) -> impl Iterator<Item = ServiceView> {
        self.services.keys().filter_map(|key| self.view(key))
    }

    fn set_service(&mut self, key: ServiceKey, mut summary: Option<ServiceSummary>, before: &mut Before) {
        self.remember(&key, before);
        self.report(&key, summary.as_mut().map(|summary| std::mem::take(&mut summary.notices)).unwrap_or_default());
        self.services.entry(key.clone()).or_default().summary = summary;
        self.drop_if_empty(&key);
    }

    fn set_slice(&mut self, key: ObjectKey, summary: Option<SliceSummary>, before: &mut Before) {
        let owner = self.slices.get(&key).cloned();
        if let Some(owner) = owner.filter(|owner| summary.as_ref().is_none_or(|summary| summary.service != *owner)) {
            let service = ServiceKey::shared(key.namespace.clone(), owner);
            self.remember(&service, before);
            if let Some(entry) = self.services.get_mut(&service) {
                entry.slices.retain(|(name, _)| *name != key.name);
            }
            self.slices.remove(&key);
            self.drop_if_empty(&service);
        }
        let Some(summary) = summary else { return };
        let service = ServiceKey::shared(key.namespace.clone(), summary.service.clone());
        self.remember(&service, before);
        let slices = &mut self.services.entry(service).or_default().slices;
        match slices.iter_mut().find(|(name, _)| *name == key.name) {
            Some((_, known)) => *known = summary,
            None => {
                // Nearly every Service has one slice or two.
                slices.reserve_exact(1);
                slices.push((key.name.clone(), summary.clone()));
                self.slices.insert(key, summary.service);
            }
        }
    }

    fn set_node(&mut self, view: Option<NodeView>) -> Option<Event> {
        if self.node == view {
            return None;
        }
        self.node.clone_from(&view);
        Some(Event::Node(view.unwrap_or_default()))
    }

    fn set_pod(&mut self, key: PodKey, view: Option<PodView>) -> Option<Event> {
        match view {
            Some(view) => (self.pods.insert(key.clone(), view) != Some(view)).then_some(Event::Pod(key, view)),
            None => self.pods.remove(&key).map(|_| Event::PodGone(key)),
        }
    }

    /// Keeps the view of a Service as it was before the batch.
    fn remember(&self, key: &ServiceKey, before: &mut Before) {
        if !before.contains_key(key) {
            before.insert(key.clone(), self.view(key));
        }
    }

    fn drop_if_empty(&mut self, key: &ServiceKey) {
        if self.services.get(key).is_some_and(|entry| entry.summary.is_none() && entry.slices.is_empty()) {
            self.services.remove(key);
        }
    }

    /// Keeps a Service's notices and warns of the new ones.
    fn report(&mut self, key: &ServiceKey, notices: Box<[Notice]>) {
        let known = self.notices.get(key).map(|known| &**known).unwrap_or_default();
        if *known == *notices {
            return;
        }
        for notice in notices.iter().filter(|notice| !known.contains(notice)) {
            let deprecated = matches!(notice, Notice::Deprecated);
            if !(deprecated && self.alias_warned) {
                let once = if deprecated { "; said once, metrics and status tell the others" } else { "" };
                warn!(service = %key, "annotation {notice}{once}");
            }
            self.alias_warned |= deprecated;
        }
        let all = Arc::make_mut(&mut self.notices);
        match notices.is_empty() {
            true => drop(all.remove(key)),
            false => drop(all.insert(key.clone(), notices)),
        }
    }
}

impl Entry {
    /// The endpoints of all slices together. During a move the same pod may stand in two slices: it counts once, in
    /// its better condition.
    fn endpoints(&self) -> PerFamily<Endpoints> {
        let mut endpoints = PerFamily::<Endpoints>::default();
        for (_, slice) in &self.slices {
            let family = endpoints.get_mut(slice.family);
            family.local.extend(slice.local.iter().cloned());
            add(&mut family.remote, slice.remote);
        }
        for family in [&mut endpoints.v4, &mut endpoints.v6] {
            family.local.sort_unstable();
            family.local.dedup_by(|next, kept| same_pod(next, kept));
        }
        endpoints
    }
}

fn same_pod(a: &LocalEndpoint, b: &LocalEndpoint) -> bool {
    a.pod.is_some() && a.pod == b.pod
}

const fn add(sum: &mut EndpointCounts, counts: EndpointCounts) {
    sum.ready = sum.ready.saturating_add(counts.ready);
    sum.draining = sum.draining.saturating_add(counts.draining);
    sum.unusable = sum.unusable.saturating_add(counts.unusable);
}
