//! Services, EndpointSlices, this node and its pods, from a directory of manifests: the embedded default.
//!
//! Reads `*.yaml`, `*.yml` and `*.json`: Services, EndpointSlices, Nodes, Pods and Lists of them, as `kubectl` writes
//! them; other kinds are passed over. A file that has been renamed into place or closed by its writer is read at once.
//! A bad file costs that file only: what it last said stands. A file that is gone takes its objects along; a directory
//! that is gone does not. Without a Node of this node's name, this node is healthy.
//!
//! Owns the files. What they mean is [`crate::kubernetes::project`]'s. Never writes.

mod files;
mod parse;
mod source;
mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, watch as watch_channel};
use tokio::time::{Instant, sleep_until};

pub use parse::{MAX_DOCUMENT, MAX_FILE, MAX_OBJECTS};

use crate::engine::event::{Event, SourceState};
use crate::kubernetes::project::{Notices, Object, Selection};
use source::Source;
use watch::Watch;

/// Something wrong with a file, for logs and status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileProblem {
    /// The file's name in the directory.
    pub file: String,
    /// The line, counted from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

/// What is told besides events: always all that is wrong now.
#[derive(Debug, Default)]
pub struct Complaints {
    /// The problems of single files.
    pub problems: watch_channel::Sender<Vec<FileProblem>>,
    /// What is wrong with annotations of Services.
    pub notices: watch_channel::Sender<Arc<Notices>>,
}

/// Reads the bytes of one YAML file, as [`run`] reads each file of its directory.
///
/// # Errors
/// If the file cannot be used as a whole; `file` in the problem is empty.
pub fn read_yaml(bytes: &[u8], selection: &Selection) -> Result<Vec<Object>, FileProblem> {
    parse::parse(bytes, parse::Format::Yaml, selection).map_err(|refusal| FileProblem {
        file: String::new(),
        line: refusal.line,
        reason: refusal.reason,
    })
}

/// Follows a directory and sends what changes for this node, until the receiver of `events` is gone.
///
/// Sends `Source(Synced)` after the first whole reading, and `Source(Stale)` with the reason while the directory
/// cannot be read, also if it never could.
pub async fn run(directory: PathBuf, selection: Selection, events: mpsc::Sender<Event>, complaints: Complaints) {
    let mut source = Source::new(directory, selection);
    let mut watch = None;
    if events.send(Event::Source(SourceState::Syncing)).await.is_err() {
        return;
    }
    loop {
        let hints = source.renew(&mut watch);
        let looked = tokio::task::spawn_blocking(move || {
            let events = source.look(hints, Instant::now());
            (source, events)
        });
        // A panic in there has been reported by now, and a cancelled task means that the runtime ends.
        let Ok((back, news)) = looked.await else { return };
        source = back;
        for event in news {
            if events.send(event).await.is_err() {
                return;
            }
        }
        complaints.problems.send_if_modified(|known| source.update_problems(known));
        complaints.notices.send_if_modified(|told| {
            let news = !Arc::ptr_eq(told, source.notices());
            told.clone_from(source.notices());
            news
        });
        tokio::select! {
            () = events.closed() => return,
            () = arrived(watch.as_ref()) => {}
            () = sleep_until(source.next_look(watch.is_some())) => {}
        }
    }
}

async fn arrived(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.arrived().await,
        None => std::future::pending().await,
    }
}
