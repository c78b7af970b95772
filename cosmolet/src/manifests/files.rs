//! The files of the directory: which objects each one holds, and which file's word counts.
//!
//! Invariant: a file that cannot be read or parsed keeps the objects it last gave. Of several files with the same
//! object the first in name order counts. Synchronous; knows no clock but the one it is given.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::FileProblem;
use super::parse::{Format, MAX_FILE, Refusal, parse};
use crate::engine::event::Event;
use crate::kubernetes::project::{Notices, Object, ObjectId, Projector, Selection};

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What became of a file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    /// Its objects count now, or they did already.
    Good,
    /// It is refused and keeps its last good objects.
    Refused,
    /// It is not there; its objects still count.
    Missing,
}

/// All files and the objects in them.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    projector: Projector,
    files: BTreeMap<Arc<OsStr>, Known>,
    /// The files that hold an object, in name order; the first one counts.
    claims: HashMap<ObjectId, Vec<Arc<OsStr>>>,
    /// The objects that more than one file holds.
    contested: BTreeMap<ObjectId, Vec<Arc<OsStr>>>,
    /// The files that are refused or hold an object twice.
    troubled: BTreeSet<Arc<OsStr>>,
}

/// What is known of a file.
#[derive(Debug, Default)]
struct Known {
    /// What was read last, good or not.
    stamp: Option<Stamp>,
    /// In ascending order of their identities.
    objects: Box<[Object]>,
    /// Why what was read last does not count.
    refusal: Option<Refusal>,
    /// Objects that it holds twice.
    repeated: Vec<ObjectId>,
}

impl Known {
    fn object(&self, id: &ObjectId) -> Option<&Object> {
        self.objects.binary_search_by(|object| object.id.cmp(id)).ok().map(|at| &self.objects[at])
    }
}

/// Objects in ascending order of their identities, and those identities that were there before in the same file.
fn by_id(mut objects: Vec<Object>) -> (Box<[Object]>, Vec<ObjectId>) {
    let mut repeated = Vec::new();
    // The sort is stable: of two with the same identity the first one in the file stays first.
    objects.sort_by(|a, b| a.id.cmp(&b.id));
    objects.dedup_by(|next, kept| {
        let same = next.id == kept.id;
        if same {
            repeated.push(next.id.clone());
        }
        same
    });
    (objects.into(), repeated)
}

impl Files {
    pub(super) fn new(directory: PathBuf, selection: Selection) -> Self {
        Self {
            directory,
            projector: Projector::new(selection),
            files: BTreeMap::new(),
            claims: HashMap::new(),
            contested: BTreeMap::new(),
            troubled: BTreeSet::new(),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What is wrong with annotations.
    pub(super) const fn notices(&self) -> &Arc<Notices> {
        self.projector.notices()
    }

    /// No file has given anything yet.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The names of the files that are known.
    pub(super) fn names(&self) -> Vec<OsString> {
        self.files.keys().map(|name| (**name).to_owned()).collect()
    }

    /// The names of the manifests that are in the directory now.
    pub(super) fn listed(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            if format(&name).is_some() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What the file looks like now; `None` if it is not there.
    pub(super) fn stamp(&self, name: &OsStr) -> io::Result<Option<Stamp>> {
        match std::fs::metadata(self.directory.join(name)) {
            Ok(metadata) => Ok(Some(Stamp::of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the file looked like when it was read last.
    pub(super) fn read_stamp(&self, name: &OsStr) -> Option<Stamp> {
        self.files.get(name)?.stamp
    }

    /// Reads a file and takes over what it says.
    pub(super) fn load(&mut self, name: &OsStr, events: &mut Vec<Event>) -> Loaded {
        let Some(format) = format(name) else { return Loaded::Good };
        let (stamp, content) = match read(&self.directory.join(name)) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::Missing,
            Err(error) => (self.stamp(name).ok().flatten(), Err(Refusal { line: None, reason: error.to_string() })),
        };
        let parsed = content.and_then(|bytes| parse(&bytes, format, self.projector.selection()));
        let known = self.files.entry(name.into()).or_default();
        known.stamp = stamp;
        match parsed {
            Ok(objects) => {
                known.refusal = None;
                self.replace(name, objects, events);
                Loaded::Good
            }
            Err(refusal) => {
                known.refusal = Some(refusal);
                self.troubled.insert(name.into());
                Loaded::Refused
            }
        }
    }

    /// Forgets a file that is gone, and its objects.
    pub(super) fn unload(&mut self, name: &OsStr, events: &mut Vec<Event>) {
        if self.files.contains_key(name) {
            self.replace(name, Vec::new(), events);
            self.files.remove(name);
            self.troubled.remove(name);
        }
    }

    /// Everything that is wrong but with the files in `but`, in name order.
    pub(super) fn problems<T>(&self, but: &BTreeMap<OsString, T>) -> Vec<FileProblem> {
        let problem = |name: &OsStr, line, reason| FileProblem { file: name.display().to_string(), line, reason };
        let mut problems = Vec::new();
        for name in self.troubled.iter().filter(|name| !but.contains_key(&***name)) {
            let Some(known) = self.files.get(name) else { continue };
            problems.extend(known.refusal.iter().map(|r| problem(name, r.line, r.reason.clone())));
            problems.extend(known.repeated.iter().map(|id| {
                problem(name, None, format!("holds {} {} twice; the first one counts", id.kind.as_str(), id.key))
            }));
        }
        for (id, names) in &self.contested {
            let mut names = names.iter().filter(|name| !but.contains_key(&***name));
            let Some(winner) = names.next() else { continue };
            problems.extend(names.map(|loser| {
                let (kind, winner) = (id.kind.as_str(), winner.display());
                problem(loser, None, format!("holds {kind} {}, but so does {winner}, which counts", id.key))
            }));
        }
        problems.sort();
        problems
    }

    /// Gives a file other objects. All of it is one change: nothing between the two contents is ever emitted.
    fn replace(&mut self, name: &OsStr, objects: Vec<Object>, events: &mut Vec<Event>) {
        let shared: Arc<OsStr> = name.into();
        let known = self.files.entry(shared.clone()).or_default();
        let (held, repeated) = by_id(objects);
        known.repeated = repeated;
        if known.repeated.is_empty() {
            self.troubled.remove(name);
        } else {
            self.troubled.insert(shared.clone());
        }
        let old = std::mem::replace(&mut known.objects, held);
        let dropped: Vec<ObjectId> =
            old.iter().filter(|object| known.object(&object.id).is_none()).map(|object| object.id.clone()).collect();
        let touched: Vec<ObjectId> = known.objects.iter().map(|object| object.id.clone()).collect();
        for id in &dropped {
            self.unclaim(id, &shared);
        }
        for id in &touched {
            self.claim(id, &shared);
        }
        let changes: Vec<Object> = touched.into_iter().chain(dropped).map(|id| self.winning(id)).collect();
        events.extend(self.projector.change(changes));
    }

    /// The object as the first of its files has it; gone if there is none.
    fn winning(&self, id: ObjectId) -> Object {
        let file = self.claims.get(&id).and_then(|names| self.files.get(names.first()?));
        let summary = file.and_then(|known| known.object(&id)?.summary.clone());
        Object { id, summary }
    }

    fn claim(&mut self, id: &ObjectId, name: &Arc<OsStr>) {
        let names = self.claims.entry(id.clone()).or_insert_with(|| Vec::with_capacity(1));
        if let Err(at) = names.binary_search(name) {
            names.insert(at, name.clone());
            if names.len() > 1 {
                self.contested.insert(id.clone(), names.clone());
            }
        }
    }

    fn unclaim(&mut self, id: &ObjectId, name: &Arc<OsStr>) {
        let Some(names) = self.claims.get_mut(id) else { return };
        names.retain(|other| other != name);
        if names.len() > 1 {
            self.contested.insert(id.clone(), names.clone());
        } else {
            self.contested.remove(id);
        }
        if names.is_empty() {
            self.claims.remove(id);
        }
    }
}

/// How a file of this name is written; `None` if it is no manifest. Hidden files are none: editors and the kubelet
/// keep their intermediate state in them.
pub(super) fn format(name: &OsStr) -> Option<Format> {
    let path = Path::new(name);
    if name.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

/// A file's stamp, and its content or why it is not read.
type Content = (Option<Stamp>, Result<Vec<u8>, Refusal>);

fn read(path: &Path) -> io::Result<Content> {
    // Without O_NONBLOCK a FIFO would hold us until somebody writes to it.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    let stamp = Some(Stamp::of(&metadata));
    if !metadata.is_file() {
        return Ok((stamp, Err(Refusal { line: None, reason: "not a regular file".to_owned() })));
    }
    let too_long = || Refusal { line: None, reason: format!("longer than {MAX_FILE} bytes") };
    if metadata.len() > MAX_FILE {
        return Ok((stamp, Err(too_long())));
    }
    let bytes = read_at_most(&file, MAX_FILE)?;
    Ok((stamp, bytes.ok_or_else(too_long)))
}

/// The whole file; `None` if it has grown past the limit.
fn read_at_most(file: &File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}
