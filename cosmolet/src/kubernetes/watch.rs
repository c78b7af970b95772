//! One kind of object, listed once and watched ever after.
//!
//! Owns paging, resuming and retrying. It is not kube's own `watcher`, because that one does not say when a broken
//! watch is whole again, and starting it anew would list everything on every node whenever an API server restarts.
//! Never keeps an object: each is projected when it is decoded, and dropped.

use std::error::Error as _;
use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::DefaultBackoff;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::project::objects::Project;
use super::project::{Kind, Object, Selection};

/// After a pass of this length the API server counts as well again: the next fault waits as briefly as the first one.
const LONG: Duration = Duration::from_secs(20);
/// A watch that ends before this time is opened again with a pause.
const SHORT: Duration = Duration::from_secs(1);

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// For one page of a list, and for a watch to open.
    pub answer: Duration,
    /// For anything on an open watch before it is opened again. The API server sends a bookmark about once a minute.
    pub idle: Duration,
    /// The API server is asked to end a watch after this time.
    pub watch: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self { answer: Duration::from_secs(15), idle: Duration::from_secs(75), watch: Duration::from_secs(290) }
    }
}

/// What a watcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A whole list follows.
    ListBegins,
    /// An object is new, changed, or gone.
    Changed(Object),
    /// The list is whole: what it did not name is gone.
    ListEnds,
    /// The watch is open and continues where the list or the watch before it ended.
    Open,
    /// The API server cannot be asked or has refused; it is asked again.
    Failed(String),
}

/// What all watchers have in common, and the selectors of one.
#[derive(Clone)]
pub struct Watcher {
    config: kube::Config,
    client: Client,
    selection: Selection,
    updates: mpsc::Sender<(Kind, Update)>,
    timings: Timings,
    list: ListParams,
}

/// Why a pass over list and watch has ended.
#[derive(Debug, Error)]
enum Fault {
    /// Nobody listens any more.
    #[error("the receiver is gone")]
    Closed,
    /// The API server has forgotten the version that we know (410 Gone): everything must be listed again.
    #[error("the API server has compacted what we knew")]
    Expired,
    /// No answer within [`Timings::answer`].
    #[error("no answer from the API server in {} ms", .0.as_millis())]
    Silent(Duration),
    /// The API server ended the watch with a status.
    #[error("the API server ended the watch: {0}")]
    Status(String),
    /// A list or a watched object without a version.
    #[error("the API server sent no resourceVersion")]
    NoVersion,
    /// Anything that the client says.
    #[error("{}", chain(.0))]
    Client(#[from] kube::Error),
}

impl Watcher {
    /// A watcher of all objects of a kind; what it sees goes to `updates`. The client is one of this configuration.
    #[must_use]
    pub fn new(
        config: kube::Config,
        client: Client,
        selection: Selection,
        updates: mpsc::Sender<(Kind, Update)>,
        page_size: u32,
        timings: Timings,
    ) -> Self {
        Self { config, client, selection, updates, timings, list: ListParams::default().limit(page_size) }
    }

    /// Restricts it by labels.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.list.label_selector = Some(selector.to_owned());
        self
    }

    /// Restricts it by fields.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Self {
        self.list.field_selector = Some(selector.to_owned());
        self
    }

    /// Lists and watches for ever; returns when nobody receives the updates any more.
    pub async fn follow<K>(self)
    where
        K: Project + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let mut api = Api::<K>::all(self.client.clone());
        let mut backoff = DefaultBackoff::default();
        let mut version = None;
        loop {
            let (begun, resumed) = (Instant::now(), version.is_some());
            let result = self.pass(&api, &mut version).await;
            if begun.elapsed() > LONG {
                backoff.reset();
            }
            if let Err(fault) = &result {
                if matches!(fault, Fault::Closed) || self.report::<K>(fault).await.is_err() {
                    return;
                }
                if matches!(fault, Fault::Expired | Fault::NoVersion) {
                    version = None;
                }
                // A client reads its token's file again after a minute of the wall clock, which may have been set back.
                if is_unauthorized(fault)
                    && let Ok(client) = super::client(self.config.clone())
                {
                    api = Api::all(client);
                }
            }
            match result {
                // The API server answers: what has to be listed again need not wait.
                Err(Fault::Expired) if resumed => {}
                Ok(()) if begun.elapsed() > SHORT => {}
                // Also where something between us and the API server ends every watch at once.
                Ok(()) | Err(_) => sleep(backoff.next().unwrap_or(LONG)).await,
            }
        }
    }

    /// Lists if there is no version to continue from, then watches until the watch ends.
    async fn pass<K>(&self, api: &Api<K>, version: &mut Option<String>) -> Result<(), Fault>
    where
        K: Project + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let from = match version {
            Some(version) => version,
            None => version.insert(self.list_all(api).await?),
        };
        self.watch(api, from).await
    }

    /// Sends a whole list, page by page, and returns its version.
    async fn list_all<K>(&self, api: &Api<K>) -> Result<String, Fault>
    where
        K: Project + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let mut params = self.list.clone();
        self.say::<K>(Update::ListBegins).await?;
        loop {
            let page = self.answer(api.list(&params)).await?;
            let (version, next) = (page.metadata.resource_version, page.metadata.continue_);
            for object in page.items {
                self.say::<K>(Update::Changed(object.project(&self.selection))).await?;
            }
            params.continue_token = next.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.say::<K>(Update::ListEnds).await?;
                return version.filter(|version| !version.is_empty()).ok_or(Fault::NoVersion);
            }
        }
    }

    /// Watches from a version on, which moves along; ends when the API server ends it or is silent for too long.
    async fn watch<K>(&self, api: &Api<K>, version: &mut String) -> Result<(), Fault>
    where
        K: Project + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let params = WatchParams {
            label_selector: self.list.label_selector.clone(),
            field_selector: self.list.field_selector.clone(),
            timeout: u32::try_from(self.timings.watch.as_secs()).ok(),
            bookmarks: true,
            send_initial_events: false,
        };
        let stream = self.answer(api.watch(&params, version)).await?;
        pin_mut!(stream);
        self.say::<K>(Update::Open).await?;
        // A silent watch may be dead: opening it again finds out, and costs nothing if it was not.
        while let Ok(Some(event)) = timeout(self.timings.idle, stream.next()).await {
            match event.map_err(expired)? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let object_version = object.resource_version().ok_or(Fault::NoVersion)?;
                    self.say::<K>(Update::Changed(object.project(&self.selection))).await?;
                    *version = object_version;
                }
                WatchEvent::Deleted(object) => {
                    let object_version = object.resource_version().ok_or(Fault::NoVersion)?;
                    self.say::<K>(Update::Changed(Object { id: object.id(), summary: None })).await?;
                    *version = object_version;
                }
                WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) if status.code == 410 => return Err(Fault::Expired),
                WatchEvent::Error(status) => return Err(Fault::Status(status.message)),
            }
        }
        Ok(())
    }

    async fn answer<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
        let silent = |_| Fault::Silent(self.timings.answer);
        timeout(self.timings.answer, request).await.map_err(silent)?.map_err(expired)
    }

    async fn report<K: Project>(&self, fault: &Fault) -> Result<(), Fault> {
        self.say::<K>(Update::Failed(printable(&fault.to_string()))).await
    }

    async fn say<K: Project>(&self, update: Update) -> Result<(), Fault> {
        self.updates.send((K::KIND, update)).await.map_err(|_closed| Fault::Closed)
    }
}

/// The API server does not know the token, or no longer.
fn is_unauthorized(fault: &Fault) -> bool {
    matches!(fault, Fault::Client(kube::Error::Api(status)) if status.code == 401)
}

fn expired(error: kube::Error) -> Fault {
    if matches!(&error, kube::Error::Api(status) if status.code == 410) { Fault::Expired } else { Fault::Client(error) }
}

/// An error with everything that caused it; a client's error alone often says nothing.
pub(super) fn chain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

pub(super) fn printable(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
