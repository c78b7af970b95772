//! One lab: a name nobody else uses, a directory for logs and sockets, and the sweeper.
//!
//! A lab's things carry the prefix `csm-PID-N`. The sweeper removes those whose PID is no longer alive, and only those.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::netns::{self, Netns};

const PREFIX: &str = "csm-";

static NUMBER: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A lab of one test. Drop it last: it removes the directory with the logs of everything else.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    directory: PathBuf,
    keep: bool,
}

impl Lab {
    /// Makes a lab, after removing what killed runs left behind. Fails without root.
    pub fn new() -> Result<Self> {
        ensure!(is_root(), "the lab needs root: it makes network namespaces and runs FRR in them");
        SWEEP.call_once(sweep);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(&prefix);
        fs::create_dir(&directory).with_context(|| format!("creating {}", directory.display()))?;
        // FRR and the daemon under test may run as other users.
        fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { prefix, directory, keep: std::env::var_os("COSMOLET_LAB_KEEP_LOGS").is_some() })
    }

    /// The prefix of every name in this lab, such as `csm-4711-0`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The lab's directory: `logs/` and whatever its parts need.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a sub-directory and returns it.
    pub fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    /// The log file of the process `name`, in a directory that exists.
    pub fn log(&self, name: &str) -> Result<PathBuf> {
        Ok(self.subdirectory("logs")?.join(format!("{name}.log")))
    }

    /// Makes the namespace `csm-PID-N-name`.
    pub fn netns(&self, name: &str) -> Result<Netns> {
        Netns::create(name, &format!("{}-{name}", self.prefix))
    }

    /// Keeps the directory (not the namespaces) when the lab is dropped. `COSMOLET_LAB_KEEP_LOGS=1` does so for every lab.
    pub const fn keep_directory(&mut self) {
        self.keep = true;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "lab directory stays");
        }
    }
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    // The owner of /proc/self is the effective user.
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Names with the lab's prefix among `names` whose process is gone.
fn orphans(names: impl Iterator<Item = String>, alive: impl Fn(u32) -> bool) -> Vec<String> {
    names.filter(|name| owner(name).is_some_and(|pid| !alive(pid))).collect()
}

/// The process that made `csm-PID-N…`, or nothing for a foreign name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

fn alive(pid: u32) -> bool {
    !matches!(fs::metadata(format!("/proc/{pid}")), Err(error) if error.kind() == ErrorKind::NotFound)
}

fn listing(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Removes namespaces (and the processes in them) and directories of labs whose process is dead. Another sweeper may do the
/// same at the same time, so what is already gone is no error.
pub fn sweep() {
    remove_where(|owner| !alive(owner));
}

/// Removes everything that this process made, whoever still uses it; for the end by a signal.
pub fn clean_up_now() {
    remove_where(|owner| owner == std::process::id());
}

/// What statics own is not dropped: from now on what the kernel does not end with the process is removed at its exit.
#[expect(unsafe_code, reason = "atexit(3) has no safe wrapper")]
pub fn clean_up_at_exit() {
    extern "C" fn end() {
        clean_up_now();
    }
    // SAFETY: the function is a plain one and lives as long as the process.
    unsafe { libc::atexit(end) };
}

/// Where the hierarchies of cgroups are mounted: version 2 at its root, version 1 in one directory each.
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long the kernel may take to end what was killed.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

/// Removes the top-level cgroups that a node of a lab's cluster left, with those below, in every hierarchy.
pub(crate) fn remove_cgroups(doomed: impl Fn(&str) -> bool) {
    let root = Path::new(CGROUPS);
    let hierarchies = listing(root).into_iter().map(|name| root.join(name)).chain([root.to_owned()]);
    for hierarchy in hierarchies {
        for name in listing(&hierarchy).into_iter().filter(|name| name.starts_with(PREFIX) && doomed(name)) {
            let cgroup = hierarchy.join(name);
            let deadline = Instant::now() + REMOVE_LIMIT;
            while let Err(error) = remove_cgroup(&cgroup) {
                if Instant::now() >= deadline {
                    tracing::warn!(%error, cgroup = %cgroup.display(), "cgroup stays");
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Ends the processes in a cgroup and removes it, those below first: `rmdir` takes only empty ones.
fn remove_cgroup(cgroup: &Path) -> std::io::Result<()> {
    for name in listing(cgroup) {
        let below = cgroup.join(name);
        if below.is_dir() {
            remove_cgroup(&below)?;
        }
    }
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    processes.lines().filter_map(|pid| pid.parse().ok()).for_each(crate::process::kill_pid);
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_where(doomed: impl Fn(u32) -> bool) {
    for name in orphans(listing(Path::new(netns::RUN_DIRECTORY)).into_iter(), |owner| !doomed(owner)) {
        tracing::info!(netns = name, "removing what a killed run left");
        kill_inside(&name);
        if let Err(error) = netns::delete(&name) {
            tracing::debug!(netns = name, %error, "already gone");
        }
    }
    // A whole node's processes end a moment after the first of them: its cgroups are busy until then.
    remove_cgroups(|name| owner(name).is_some_and(&doomed));
    let temp = std::env::temp_dir();
    for name in orphans(listing(&temp).into_iter(), |owner| !doomed(owner)) {
        remove_directory(&temp.join(&name));
    }
}

/// Removes a dead lab's directory; a process that is about to die may still write there.
fn remove_directory(path: &Path) {
    let deadline = Instant::now() + REMOVE_LIMIT;
    while let Err(error) = fs::remove_dir_all(path) {
        if error.kind() == ErrorKind::NotFound || Instant::now() >= deadline {
            tracing::debug!(directory = %path.display(), %error, "not removed");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kills the processes that still live in a dead lab's namespace.
fn kill_inside(netns: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", netns]).output() else { return };
    for pid in String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()) {
        crate::process::kill_pid(pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_orphans() {
        let names = ["csm-10-0-tor", "csm-11-0-tor", "csm-x-0", "csm-10", "wfrr-a", "csm-10-3"];
        let found = orphans(names.iter().map(ToString::to_string), |pid| pid == 11);
        assert_eq!(found, ["csm-10-0-tor", "csm-10-3"]);
    }

    #[test]
    fn this_process_is_alive() {
        assert!(alive(std::process::id()));
        assert!(!alive(u32::MAX));
    }
}
