//! What inotify says about the directory, as hints where to look.
//!
//! Owns the meaning of the kernel's events. Never reads a file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::files::format;

/// Where to look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hints {
    /// Files that have been closed by their writer or renamed into place: they are whole.
    pub(super) whole: BTreeSet<OsString>,
    /// Files that were created, or are gone: a writer may be at work, or about to put another in their place.
    pub(super) unsure: BTreeSet<OsString>,
    /// A link that leads to files was replaced, as the kubelet does with `..data`: any file may be another one now.
    pub(super) swapped: bool,
    /// Events were lost: anything may have changed.
    pub(super) rescan: bool,
    /// The directory itself was moved or removed: the watch is dead.
    pub(super) watch_lost: bool,
}

/// A watch on the directory; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    _watcher: RecommendedWatcher,
    inbox: Arc<Inbox>,
}

/// Hints that nobody has taken yet. Bounded by the number of names in the directory.
#[derive(Debug, Default)]
struct Inbox {
    hints: Mutex<Hints>,
    arrived: Notify,
}

impl Watch {
    /// Watches a directory.
    pub(super) fn new(directory: &Path) -> notify::Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let (sender, root) = (inbox.clone(), directory.to_owned());
        let mut watcher = notify::recommended_watcher(move |event| sender.push(&root, event))?;
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher, inbox })
    }

    /// Waits until there are hints.
    pub(super) async fn arrived(&self) {
        self.inbox.arrived.notified().await;
    }

    /// Takes all hints.
    pub(super) fn take(&self) -> Hints {
        std::mem::take(&mut *self.inbox.hints.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inbox {
    fn push(&self, root: &Path, event: notify::Result<Event>) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        let news = match event {
            Ok(event) => hints.add(root, &event),
            Err(_) => {
                hints.rescan = true;
                true
            }
        };
        drop(hints);
        if news {
            self.arrived.notify_one();
        }
    }
}

impl Hints {
    /// Takes in an event; false if it says nothing.
    fn add(&mut self, root: &Path, event: &Event) -> bool {
        if event.need_rescan() {
            self.rescan = true;
            return true;
        }
        let mut news = false;
        for path in &event.paths {
            news |= self.add_path(root, path, event.kind);
        }
        news
    }

    fn add_path(&mut self, root: &Path, path: &PathBuf, kind: EventKind) -> bool {
        let gone = matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)));
        if path == root {
            self.watch_lost |= gone;
            return gone;
        }
        let Some(name) = path.file_name() else { return false };
        // Data is passed over until the writer closes the file; RenameMode::Both repeats what From and To said.
        let whole = matches!(
            kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(RenameMode::To))
        );
        let unsure = gone || matches!(kind, EventKind::Create(_) | EventKind::Modify(ModifyKind::Metadata(_)));
        if format(name).is_none() {
            let swap = whole && path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file());
            self.swapped |= swap;
            return swap;
        }
        if whole {
            self.unsure.remove(name);
            self.whole.insert(name.to_owned());
        } else if unsure && !self.whole.contains(name) {
            self.unsure.insert(name.to_owned());
        }
        whole || unsure
    }
}
