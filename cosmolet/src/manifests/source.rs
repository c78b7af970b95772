//! When to look at which file, and how far the directory can be trusted.
//!
//! Invariant: a file's objects are only dropped when the file is missing, twice, in the directory that was read before;
//! they are only replaced by a content that was either closed by its writer, or the same in two looks.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::FileProblem;
use super::files::{Files, Loaded, Stamp};
use super::watch::{Hints, Watch};
use crate::engine::event::{Event, SourceState};
use crate::kubernetes::project::{Notices, Selection};

/// How long a file that may not be whole is left alone before it is looked at again.
const SETTLE: Duration = Duration::from_millis(50);
/// A file that never settles is read after this many looks.
const MAX_LOOKS: u32 = 20;
/// How often everything is looked at in case an event was lost.
const RESCAN: Duration = Duration::from_secs(30);
/// The same while the directory cannot be read or watched.
const RETRY: Duration = Duration::from_secs(1);

/// A directory: device and inode.
type Identity = (u64, u64);

/// The directory, and what is still to be looked at.
#[derive(Debug)]
pub(super) struct Source {
    files: Files,
    pending: BTreeMap<OsString, Pending>,
    /// The directory that was read last.
    read: Option<Identity>,
    /// The directory that is watched, or could not be.
    watched: Option<Identity>,
    state: SourceState,
    last_scan: Option<Instant>,
}

/// A file that is to be looked at again.
#[derive(Debug)]
struct Pending {
    at: Instant,
    seen: Option<Stamp>,
    looks: u32,
}

impl Source {
    pub(super) fn new(directory: PathBuf, selection: Selection) -> Self {
        Self {
            files: Files::new(directory, selection),
            pending: BTreeMap::new(),
            read: None,
            watched: None,
            state: SourceState::Syncing,
            last_scan: None,
        }
    }

    /// Takes the watch's hints, and watches the directory that is there now if that is another one.
    pub(super) fn renew(&mut self, watch: &mut Option<Watch>) -> Hints {
        let mut hints = watch.as_ref().map(Watch::take).unwrap_or_default();
        let now = self.identity().ok();
        if now == self.watched && !hints.watch_lost && (watch.is_some() || now.is_none()) {
            return hints;
        }
        let known_bad = watch.is_none() && now == self.watched;
        *watch = None;
        self.watched = now;
        if now.is_some() {
            hints.rescan = true;
            match Watch::new(self.files.directory()) {
                Ok(new) => *watch = Some(new),
                Err(_) if known_bad => {}
                Err(error) => {
                    warn!(directory = %self.files.directory().display(), %error, "no watch on the manifests: they are looked at once a second");
                }
            }
        }
        hints
    }

    /// Looks where the hints point and where a look is due, and returns what has changed.
    pub(super) fn look(&mut self, hints: Hints, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let state = match self.try_look(hints, now, &mut events) {
            Ok(()) => SourceState::Synced,
            Err(error) => {
                // What was to be looked at is found again by the scan that follows.
                self.pending.clear();
                self.last_scan = None;
                SourceState::Stale(format!("{}: {error}", self.files.directory().display()))
            }
        };
        self.tell(state, &mut events);
        events
    }

    /// When to look next, whatever the watch says.
    pub(super) fn next_look(&self, watching: bool) -> Instant {
        let scan = match self.last_scan {
            Some(at) if watching => at + RESCAN,
            Some(at) => at + RETRY,
            None => Instant::now() + RETRY,
        };
        self.pending.values().map(|pending| pending.at).fold(scan, Instant::min)
    }

    /// Brings a list of problems up to date, and says in the log what is new in it; false if nothing has changed.
    pub(super) fn update_problems(&self, known: &mut Vec<FileProblem>) -> bool {
        let problems = self.files.problems(&self.pending);
        if problems == *known {
            return false;
        }
        for FileProblem { file, line, reason } in problems.iter().filter(|problem| !known.contains(problem)) {
            warn!(file, line, reason, "manifest refused: what it last said stands");
        }
        for FileProblem { file, .. } in known.iter().filter(|problem| problems.iter().all(|p| p.file != problem.file)) {
            info!(file, "manifest is good again");
        }
        *known = problems;
        true
    }

    /// What is wrong with annotations.
    pub(super) const fn notices(&self) -> &Arc<Notices> {
        self.files.notices()
    }

    fn try_look(&mut self, hints: Hints, now: Instant, events: &mut Vec<Event>) -> io::Result<()> {
        let identity = self.identity()?;
        let other = self.read != Some(identity);
        let due = self.last_scan.is_none_or(|at| now >= at + RESCAN);
        if other || due || hints.rescan || hints.swapped {
            self.scan(identity, other || hints.swapped, now, events)?;
        }
        for name in hints.whole {
            self.pending.remove(&name);
            self.load(&name, now, events);
        }
        for name in hints.unsure {
            self.look_again(&name, now);
        }
        self.look_at_due(identity, now, events);
        Ok(())
    }

    /// Looks at every file. `at_once`: what has changed was put there whole.
    fn scan(&mut self, identity: Identity, at_once: bool, now: Instant, events: &mut Vec<Event>) -> io::Result<()> {
        let listed = self.files.listed()?;
        if listed.is_empty() && !self.files.is_empty() && self.read != Some(identity) {
            return Err(io::Error::other("another, empty directory has taken its place"));
        }
        self.read = Some(identity);
        self.last_scan = Some(now);
        for name in &listed {
            let stamp = self.files.stamp(name);
            if stamp.is_ok_and(|stamp| stamp.is_some() && stamp == self.files.read_stamp(name)) {
                continue;
            }
            if at_once {
                self.load(name, now, events);
            } else {
                self.look_again(name, now);
            }
        }
        for name in self.files.names() {
            if listed.binary_search(&name).is_err() {
                self.look_again(&name, now);
            }
        }
        Ok(())
    }

    fn load(&mut self, name: &OsStr, now: Instant, events: &mut Vec<Event>) {
        match self.files.load(name, events) {
            Loaded::Good => {}
            Loaded::Refused | Loaded::Missing => self.look_again(name, now),
        }
    }

    fn look_again(&mut self, name: &OsStr, now: Instant) {
        let seen = self.files.stamp(name).ok().flatten();
        self.pending.entry(name.to_owned()).or_insert(Pending { at: now + SETTLE, seen, looks: 0 });
    }

    fn look_at_due(&mut self, identity: Identity, now: Instant, events: &mut Vec<Event>) {
        let due: Vec<OsString> =
            self.pending.iter().filter(|(_, pending)| pending.at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            let Some(pending) = self.pending.remove(&name) else { continue };
            match self.files.stamp(&name) {
                Ok(None) if self.identity().is_ok_and(|still| still == identity) => self.files.unload(&name, events),
                Ok(None) | Err(_) => {}
                Ok(stamp) if stamp == self.files.read_stamp(&name) => {}
                Ok(stamp) if stamp == pending.seen || pending.looks >= MAX_LOOKS => self.load(&name, now, events),
                Ok(seen) => {
                    self.pending.insert(name, Pending { at: now + SETTLE, seen, looks: pending.looks + 1 });
                }
            }
        }
    }

    /// The directory that is there now.
    fn identity(&self) -> io::Result<Identity> {
        let metadata = std::fs::metadata(self.files.directory())?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Adds the state of the source, if it has changed, after everything that led to it.
    fn tell(&mut self, state: SourceState, events: &mut Vec<Event>) {
        if state == self.state {
            return;
        }
        match &state {
            SourceState::Stale(error) => warn!(error, "manifests cannot be read: the last good state stands"),
            SourceState::Synced | SourceState::Syncing => {
                info!(directory = %self.files.directory().display(), "manifests have been read")
            }
        }
        self.state = state.clone();
        events.push(Event::Source(state));
    }
}
