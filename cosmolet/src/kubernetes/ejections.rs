//! The register of ejections: which node has withdrawn which VIP for its traffic, in one Lease for the whole cluster.
//!
//! Owns the object, its compare-and-swap on the resourceVersion, and finding out who else could serve a VIP. The rule over it is
//! [`Register`]'s. While this node wants nothing withdrawn it only looks, once at the start, to release what an earlier life has
//! left, and then every 45 s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::leases::{self, answer, won};
use super::project::objects::{SERVICE_NAME, usable_nodes};
use crate::engine::event::Event;
use crate::engine::guard::{Entry, Nodes, Permissions, Refused, Register, VALID_FOR, Wanted};
use crate::engine::service::EndpointScope;
use crate::engine::types::{ServiceKey, Vip};

/// The Lease's name.
pub const LEASE: &str = "cosmolet-ejections";
/// The annotation that holds the register.
const ANNOTATION: &str = "cosmolet.io/ejections";
/// A node that wants something withdrawn looks so often whether it still may.
pub const LOOK: Duration = Duration::from_secs(15);
/// A node that wants nothing looks so often: a missing right is known before it matters, and a connection to the API server is
/// open when kube-proxy's table is lost, through which a new one would have to pass. Shorter than the 90 s after which the client
/// closes an idle connection.
const AT_REST: Duration = Duration::from_secs(45);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(2);
/// How often a look begins anew because somebody else has written meanwhile.
const ATTEMPTS: usize = 8;

/// Who asks, and under which terms.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: String,
    /// The namespace of the Lease, and of the daemons' pods.
    pub namespace: String,
    /// The daemon's pod, by whose owner the other daemons are found.
    pub pod: String,
    /// The share of a VIP's candidates that may be ejected (`traffic.ejection_share`).
    pub share: f64,
    /// How often it looks again while it wants something: [`LOOK`].
    pub look: Duration,
}

/// Why there is no answer.
#[derive(Debug, Error)]
enum Error {
    #[error(transparent)]
    Unanswered(#[from] leases::Error),
    #[error("the Lease {LEASE} has a {ANNOTATION} that cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("pod {0} is not there, or belongs to no DaemonSet: the other daemons cannot be found")]
    NoOwner(String),
    #[error("the Lease {LEASE} was changed by somebody else {ATTEMPTS} times in a row")]
    Contended,
}

/// Keeps the register in line with what this node wants until nobody wants anything any more, and sends the answers to each
/// look. `tell` hears whether looks succeed.
pub async fn run(
    client: Client,
    options: Options,
    mut wanted: watch::Receiver<Wanted>,
    events: mpsc::Sender<Event>,
    tell: impl Fn(Result<(), String>),
) {
    let keeper = Keeper { client, options };
    loop {
        let now = wanted.borrow_and_update().clone();
        let begun = Instant::now();
        let looked = keeper.look(&now).await;
        let pause = match &looked {
            // Permissions that were given before stand until they run out.
            Err(_) => RETRY,
            Ok(_) if now.is_empty() => AT_REST,
            Ok(_) => keeper.options.look,
        };
        tell(looked.as_ref().map(drop).map_err(ToString::to_string));
        if let (Ok(answers), false) = (looked, now.is_empty()) {
            let valid_for = VALID_FOR.saturating_sub(begun.elapsed());
            if events.send(Event::Permissions(Permissions { answers, valid_for })).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

struct Keeper {
    client: Client,
    options: Options,
}

impl Keeper {
    /// Answers what is wanted and writes it down; begins anew where somebody else has written meanwhile.
    async fn look(&self, wanted: &Wanted) -> Result<BTreeMap<Vip, Result<(), Refused>>, Error> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.options.namespace);
        for _ in 0..ATTEMPTS {
            // The candidates are read after the register: what they are is never older than it.
            let lease = answer(leases.get_opt(LEASE)).await?;
            let mut register = lease.as_ref().map_or_else(|| Ok(Register::default()), read)?;
            let before = register.clone();
            let candidates = self.candidates(wanted).await?;
            let answers = register.judge(&self.options.node, &candidates, self.options.share);
            if register == before {
                return Ok(answers);
            }
            if self.write(&leases, lease, &register).await? {
                return Ok(answers);
            }
        }
        Err(Error::Contended)
    }

    /// False where somebody else was faster.
    async fn write(&self, leases: &Api<Lease>, lease: Option<Lease>, register: &Register) -> Result<bool, Error> {
        let text = serde_json::to_string(&Wire::of(register))?;
        let how = PostParams::default();
        let written = match lease {
            Some(mut lease) => {
                lease.annotations_mut().insert(ANNOTATION.to_owned(), text);
                answer(leases.replace(LEASE, &how, &lease)).await
            }
            None => {
                let annotations = Some([(ANNOTATION.to_owned(), text)].into());
                let metadata = ObjectMeta { name: Some(LEASE.to_owned()), annotations, ..ObjectMeta::default() };
                answer(leases.create(&how, &Lease { metadata, spec: None })).await
            }
        };
        Ok(won(written)?.is_some())
    }

    /// The nodes that could serve each VIP: a ready daemon, and for `Local` a usable endpoint of a Service that claims it.
    async fn candidates(&self, wanted: &Wanted) -> Result<BTreeMap<Vip, Nodes>, Error> {
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let daemons = self.daemons().await?;
        let mut slices: BTreeMap<&ServiceKey, Vec<EndpointSlice>> = BTreeMap::new();
        for (service, scope) in wanted.values().flatten() {
            if *scope == EndpointScope::Local && !slices.contains_key(service) {
                slices.insert(service, self.slices(service).await?);
            }
        }
        let of = |vip: &Vip, claims: &[(ServiceKey, EndpointScope)]| -> Nodes {
            let each = claims.iter().flat_map(|(service, scope)| match scope {
                EndpointScope::Cluster => daemons.clone(),
                EndpointScope::Local => {
                    let usable = usable_nodes(slices.get(service).into_iter().flatten(), vip.family());
                    usable.intersection(&daemons).cloned().collect()
                }
            });
            each.collect()
        };
        Ok(wanted.iter().map(|(vip, claims)| (*vip, of(vip, claims))).collect())
    }

    /// The nodes whose daemon is ready: pods of the owner of ours.
    async fn daemons(&self) -> Result<Nodes, Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.options.namespace);
        let pods = answer(pods.list(&ListParams::default())).await?.items;
        let owner =
            |pod: &Pod| pod.owner_references().iter().find(|owner| owner.kind == "DaemonSet").map(|o| o.uid.clone());
        let ours = pods.iter().find(|pod| pod.name_any() == self.options.pod).and_then(owner);
        let ours = ours.ok_or_else(|| Error::NoOwner(self.options.pod.clone()))?;
        let siblings = pods.iter().filter(|pod| owner(pod).as_deref() == Some(&ours) && is_ready(pod));
        Ok(siblings.filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect())
    }

    async fn slices(&self, service: &ServiceKey) -> Result<Vec<EndpointSlice>, Error> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &service.namespace);
        let of = ListParams::default().labels(&format!("{SERVICE_NAME}={}", service.name));
        Ok(answer(slices.list(&of)).await?.items)
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// The register as it stands in the annotation: JSON, an object of nodes. It holds nothing but addresses and names of nodes.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Wire(BTreeMap<String, WireEntry>);

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEntry {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    ejected: BTreeSet<IpAddr>,
    /// Suspected, and not ejected.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    suspected: BTreeSet<IpAddr>,
}

impl Wire {
    fn of(register: &Register) -> Self {
        let addresses = |vips: &mut dyn Iterator<Item = &Vip>| vips.map(|vip| vip.address()).collect();
        let entry = |entry: &Entry| WireEntry {
            ejected: addresses(&mut entry.ejected.iter()),
            suspected: addresses(&mut entry.suspected.difference(&entry.ejected)),
        };
        Self(register.0.iter().map(|(node, found)| (node.clone(), entry(found))).collect())
    }

    fn register(self) -> Register {
        let vips = |addresses: BTreeSet<IpAddr>| -> BTreeSet<Vip> { addresses.into_iter().map(Vip::new).collect() };
        let entry = |wire: WireEntry| {
            let ejected = vips(wire.ejected);
            Entry { suspected: ejected.iter().copied().chain(vips(wire.suspected)).collect(), ejected }
        };
        Register(self.0.into_iter().map(|(node, found)| (node, entry(found))).collect())
    }
}

fn read(lease: &Lease) -> Result<Register, Error> {
    let text = lease.annotations().get(ANNOTATION);
    let wire: Wire = text.map_or_else(|| Ok(Wire::default()), |text| serde_json::from_str(text))?;
    Ok(wire.register())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_register_survives_its_annotation() {
        let vips = |last: &[u8]| last.iter().map(|n| Vip::new([10, 100, 0, *n].into())).collect::<BTreeSet<_>>();
        let entry = Entry { ejected: vips(&[1]), suspected: vips(&[1, 2]) };
        let register = Register([("n1".to_owned(), entry), ("n2".to_owned(), Entry::default())].into());
        let text = serde_json::to_string(&Wire::of(&register)).unwrap();
        assert_eq!(text, r#"{"n1":{"ejected":["10.100.0.1"],"suspected":["10.100.0.2"]},"n2":{}}"#);
        assert_eq!(serde_json::from_str::<Wire>(&text).unwrap().register(), register);
    }

    #[test]
    fn a_register_that_cannot_be_read_is_an_error_and_never_an_empty_one() {
        for text in ["", "[]", r#"{"n1":{"ejected":["10.100.0.300"]}}"#, r#"{"n1":{"rejected":[]}}"#] {
            let metadata =
                ObjectMeta { annotations: Some([(ANNOTATION.into(), text.into())].into()), ..Default::default() };
            let error = read(&Lease { metadata, spec: None }).unwrap_err();
            assert!(error.to_string().contains(ANNOTATION), "{error}");
        }
        assert_eq!(read(&Lease::default()).unwrap(), Register::default());
    }
}
