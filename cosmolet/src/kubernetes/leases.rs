//! Leases: of many daemons, one at a time.
//!
//! Owns taking, renewing and losing a Lease (coordination.k8s.io). Every write is a compare-and-swap on the
//! resourceVersion, so that of two writers one fails. No clock is compared with another machine's: the times in the object
//! are for people; a holder counts as gone when the object has not changed for its duration on *our* clock, as in
//! client-go. Never holds a Lease longer than it could have been seen to: [`Standing::Leader`] says until when.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::watch::{chain, printable};

/// How long the API server may take for one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often what is done. A holder must stop before anybody else may begin: `deadline` is shorter than `duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Without a change for so long, the Lease is anybody's.
    pub duration: Duration,
    /// The holder stops so long after the start of its last successful write.
    pub deadline: Duration,
    /// The holder writes so often.
    pub renew: Duration,
    /// The others look so often: all nodes do.
    pub look: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { duration: seconds(30), deadline: seconds(20), renew: seconds(8), look: seconds(15) }
    }
}

/// What one look has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is ours until then, unless it is renewed.
    Leader {
        /// The end.
        until: Instant,
    },
    /// Somebody else has it, or took it before us.
    Follower,
}

/// Why nothing is known of the Lease.
#[derive(Debug, Error)]
pub enum Error {
    /// No answer in time.
    #[error("no answer from the API server in {} s", PATIENCE.as_secs())]
    Silent,
    /// The API server refuses, or cannot be asked.
    #[error("{}", printable(&chain(.0)))]
    Client(#[source] Box<kube::Error>),
}

/// One candidate for one Lease.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    timings: Timings,
    /// The version of the object that was seen last, and when it was first seen.
    seen: Option<(String, Instant)>,
    held_until: Option<Instant>,
}

impl Elector {
    /// A candidate, who holds nothing yet. Two of the same identity count as one.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timings: Timings) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timings,
            seen: None,
            held_until: None,
        }
    }

    /// Looks once, and takes or renews the Lease if that may be done.
    ///
    /// # Errors
    /// The Lease could not be read or written. A leader stays one until the moment it was told; see [`Elector::standing`].
    pub async fn step(&mut self) -> Result<Standing, Error> {
        // From before the write on: nobody can have seen it earlier.
        let begun = Instant::now();
        let written = match answer(self.api.get_opt(&self.name)).await? {
            None => self.create().await?,
            Some(lease) if self.is_free(&lease) => self.swap(lease).await?,
            Some(_) => None,
        };
        self.held_until = written.as_ref().map(|_| begun + self.timings.deadline);
        if let Some(lease) = written {
            self.note(&lease);
        }
        Ok(self.standing())
    }

    /// Whether the Lease is ours now, whatever the last [`Elector::step`] came to.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.held_until {
            Some(until) if until > Instant::now() => Standing::Leader { until },
            Some(_) | None => Standing::Follower,
        }
    }

    /// How long to wait before the next [`Elector::step`].
    #[must_use]
    pub fn pause(&self) -> Duration {
        match self.standing() {
            Standing::Leader { .. } => self.timings.renew,
            Standing::Follower => self.timings.look,
        }
    }

    /// Ours, nobody's, or unchanged for its duration.
    fn is_free(&mut self, lease: &Lease) -> bool {
        let since = self.note(lease);
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let told = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let duration = told.map_or(self.timings.duration, Duration::from_secs);
        holder.is_empty() || holder == self.identity || since.elapsed() > duration
    }

    /// Remembers a version; returns when it was first seen.
    fn note(&mut self, lease: &Lease) -> Instant {
        let version = lease.resource_version().unwrap_or_default();
        match &self.seen {
            Some((seen, at)) if *seen == version => *at,
            Some(_) | None => self.seen.insert((version, Instant::now())).1,
        }
    }

    async fn create(&self) -> Result<Option<Lease>, Error> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(self.spec(None)) };
        won(answer(self.api.create(&PostParams::default(), &lease)).await)
    }

    /// Writes over exactly the version that was read.
    async fn swap(&self, mut lease: Lease) -> Result<Option<Lease>, Error> {
        lease.spec = Some(self.spec(lease.spec));
        won(answer(self.api.replace(&self.name, &PostParams::default(), &lease)).await)
    }

    fn spec(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mut spec = before.unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
        }
        spec.lease_duration_seconds = i32::try_from(self.timings.duration.as_secs()).ok();
        spec.renew_time = Some(now);
        spec
    }
}

/// A conflict is no error: somebody else was faster.
pub(super) fn won(written: Result<Lease, Error>) -> Result<Option<Lease>, Error> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(Error::Client(error)) if matches!(&*error, kube::Error::Api(status) if status.code == 409) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) async fn answer<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    let answer = timeout(PATIENCE, request).await.map_err(|_elapsed| Error::Silent)?;
    answer.map_err(|error| Error::Client(Box::new(error)))
}
