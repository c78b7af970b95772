//! Events on Services: what became of their VIPs on this node, where `kubectl describe service` shows it.
//!
//! Owns the queue, the limits and the objects' wording. Only ever creates: an Event that was not sent is counted and
//! mentioned by the next one. Never holds up whoever tells it something, never reads anything but the Service's
//! identity, never writes a word that came out of an object.

mod limits;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::watch::{chain, printable};
use crate::engine::intent::{Decision, WithdrawReason};
use crate::engine::types::{ServiceKey, Vip};
use limits::Limits;

/// Decisions that may wait to be told; what comes on top is counted and left out.
const QUEUE: usize = 256;
/// How long the API server may take for one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who reports; a qualified name, as the API wants it.
const CONTROLLER: &str = "cosmolet.io/cosmolet";
/// The longest `reportingInstance` that the API takes.
const INSTANCE_LIMIT: usize = 128;

/// A decision about a VIP, for the Services that claim it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The Services.
    pub services: Vec<ServiceKey>,
    /// The VIP.
    pub vip: Vip,
    /// What was decided.
    pub decision: Decision,
}

/// Takes announcements without ever waiting.
#[derive(Clone, Debug)]
pub struct Announcer {
    queue: mpsc::Sender<Announcement>,
    left_out: Arc<AtomicU64>,
}

impl Announcer {
    /// Hands an announcement over; where the queue is full it is only counted.
    pub fn announce(&self, announcement: Announcement) {
        let services = u64::try_from(announcement.services.len()).unwrap_or(u64::MAX);
        if self.queue.try_send(announcement).is_err() {
            self.left_out.fetch_add(services, Ordering::Relaxed);
        }
    }
}

/// The other end of an [`Announcer`].
#[derive(Debug)]
pub struct Inbox {
    queue: mpsc::Receiver<Announcement>,
    left_out: Arc<AtomicU64>,
}

/// Both ends of a bounded queue.
#[must_use]
pub fn queue() -> (Announcer, Inbox) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let left_out = Arc::new(AtomicU64::new(0));
    (Announcer { queue: sender, left_out: Arc::clone(&left_out) }, Inbox { queue: receiver, left_out })
}

/// What became of Events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The API server has taken one.
    Sent,
    /// So many were left out: too many at once, or about a Service that goes.
    Dropped(u64),
    /// One could not be sent.
    Failed(String),
}

/// Why an Event could not be sent.
#[derive(Debug, Error)]
enum Error {
    #[error("no answer from the API server in {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the Service is gone")]
    Gone,
    #[error("{}", chain(.0))]
    Client(#[from] kube::Error),
}

impl Error {
    /// The Service is gone or goes with its namespace: nobody is left to be told, and nothing is wrong.
    fn is_moot(&self) -> bool {
        match self {
            Self::Gone => true,
            Self::Client(error) => {
                let kube::Error::Api(status) = error else { return false };
                let mut causes = status.details.iter().flat_map(|details| &details.causes);
                causes.any(|cause| cause.reason == "NamespaceTerminating")
            }
            Self::Silent => false,
        }
    }
}

/// Sends what is announced until every [`Announcer`] is gone.
pub async fn run(client: Client, node: String, mut inbox: Inbox, report: impl Fn(Report)) {
    let mut teller = Teller { client, node, limits: Limits::default(), unsaid: 0 };
    while let Some(announcement) = inbox.queue.recv().await {
        let lost = inbox.left_out.swap(0, Ordering::Relaxed);
        if lost > 0 {
            teller.unsaid += lost;
            report(Report::Dropped(lost));
        }
        for service in &announcement.services {
            report(teller.tell(service, announcement.vip, announcement.decision).await);
        }
    }
}

struct Teller {
    client: Client,
    node: String,
    limits: Limits,
    /// Events left out since the last one that was sent.
    unsaid: u64,
}

impl Teller {
    async fn tell(&mut self, service: &ServiceKey, vip: Vip, decision: Decision) -> Report {
        if !self.limits.admit(service, Instant::now()) {
            self.unsaid += 1;
            return Report::Dropped(1);
        }
        match self.send(service, vip, decision).await {
            Ok(()) => {
                self.unsaid = 0;
                Report::Sent
            }
            Err(error) if error.is_moot() => Report::Dropped(1),
            Err(error) => {
                self.unsaid += 1;
                Report::Failed(printable(&error.to_string()))
            }
        }
    }

    async fn send(&self, service: &ServiceKey, vip: Vip, decision: Decision) -> Result<(), Error> {
        let uid = self.uid(service).await?;
        let event = event(&self.node, service, uid, &wording(&self.node, vip, decision, self.unsaid));
        let api: Api<Event> = Api::namespaced(self.client.clone(), &service.namespace);
        let how = PostParams::default();
        timeout(PATIENCE, api.create(&how, &event)).await.map_err(|_elapsed| Error::Silent)??;
        Ok(())
    }

    /// The Service's uid, by which kubectl finds its Events. Asked for when it is needed: ten thousand of them in memory
    /// would serve nothing else. A list of one, because there is no right to get.
    async fn uid(&self, service: &ServiceKey) -> Result<String, Error> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &service.namespace);
        let one = ListParams::default().fields(&format!("metadata.name={}", service.name));
        let found = timeout(PATIENCE, api.list_metadata(&one)).await.map_err(|_elapsed| Error::Silent)??;
        found.items.first().and_then(ResourceExt::uid).ok_or(Error::Gone)
    }
}

/// The words of one Event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wording {
    type_: &'static str,
    action: &'static str,
    reason: &'static str,
    note: String,
}

/// Words for a decision: type and note follow from it, the reason is that of logs and metrics.
fn wording(node: &str, vip: Vip, decision: Decision, unsaid: u64) -> Wording {
    let (type_, action, reason, mut note) = match decision {
        Decision::Advertise => ("Normal", "Advertise", "Advertised", format!("{node} advertises VIP {vip}")),
        Decision::Withdraw(reason @ WithdrawReason::Refused(_)) => {
            let note = format!("{node} refuses VIP {vip}: {}", reason.explain());
            ("Warning", "Refuse", reason.as_str(), note)
        }
        Decision::Depreference(reason) => {
            let note = format!("{node} serves VIP {vip} only as a last resort: {}", reason.explain());
            ("Warning", "Depreference", reason.as_str(), note)
        }
        Decision::Withdraw(reason) => {
            let note = format!("{node} withdraws VIP {vip}: {}", reason.explain());
            ("Warning", "Withdraw", reason.as_str(), note)
        }
    };
    if unsaid > 0 {
        note.push_str(&format!("; {unsaid} earlier Events of this node were left out, its log has them all"));
    }
    Wording { type_, action, reason, note }
}

fn event(node: &str, service: &ServiceKey, uid: String, words: &Wording) -> Event {
    let now = Timestamp::now();
    Event {
        metadata: ObjectMeta {
            name: Some(name(node, service, now.as_nanosecond())),
            namespace: Some(service.namespace.to_string()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(words.type_.to_owned()),
        action: Some(words.action.to_owned()),
        reason: Some(words.reason.to_owned()),
        note: Some(words.note.clone()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(service.namespace.to_string()),
            name: Some(service.name.to_string()),
            uid: Some(uid),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node.chars().take(INSTANCE_LIMIT).collect()),
        ..Event::default()
    }
}

/// A name that no other node and no other moment gives: as client-go's, with the node in it.
fn name(node: &str, service: &ServiceKey, nanoseconds: i128) -> String {
    let node = node.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{}.{nanoseconds:x}{node:08x}", service.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::service::Refusal;

    fn vip() -> Vip {
        Vip::new([10, 50, 0, 7].into())
    }

    #[test]
    fn the_reason_is_that_of_logs_and_metrics() {
        let told = wording("node1", vip(), Decision::Withdraw(WithdrawReason::NoLocalEndpoint), 0);
        assert_eq!((told.type_, told.action, told.reason), ("Warning", "Withdraw", "NoLocalEndpoint"));
        assert!(told.note.starts_with("node1 withdraws VIP 10.50.0.7: "), "{}", told.note);
        let told = wording("node1", vip(), Decision::Withdraw(WithdrawReason::Refused(Refusal::OwnAddress)), 0);
        assert_eq!((told.action, told.reason), ("Refuse", "OwnAddress"));
        let told = wording("node1", vip(), Decision::Advertise, 3);
        assert!(told.type_ == "Normal" && told.note.contains("; 3 earlier Events of this node"), "{}", told.note);
    }

    #[test]
    fn a_full_queue_counts_and_never_waits() {
        let (announcer, mut inbox) = queue();
        let services = vec![ServiceKey::new("a", "b"), ServiceKey::new("a", "c")];
        for _ in 0..QUEUE + 5 {
            announcer.announce(Announcement { services: services.clone(), vip: vip(), decision: Decision::Advertise });
        }
        assert_eq!(inbox.left_out.load(Ordering::Relaxed), 10);
        assert!(inbox.queue.try_recv().is_ok());
    }

    #[test]
    fn names_differ_by_node_and_moment() {
        let service = ServiceKey::new("a", "web");
        let names = [("node1", 1), ("node2", 1), ("node1", 2)].map(|(node, at)| name(node, &service, at));
        assert!(names[0] != names[1] && names[0] != names[2] && names[0].starts_with("web."), "{names:?}");
    }
}
