//! The shell of a node: namespaces of its own for mounts and processes, in which containerd and the kubelet live.
//!
//! The node sees `/run` and `/var` of its own, so that its parts use the places that they use on a real node, and two
//! nodes share none of them. Its processes live in a PID namespace: when its first process dies, also because the
//! lab's process was killed, the kernel ends every container and shim of the node and forgets its mounts. Only empty
//! cgroups stay; they are removed here, and by the sweeper after a kill.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::remove_cgroups;
use crate::process::{Process, Spec};
use crate::{Lab, Netns, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// The first process: sets the mounts up, then reaps what others leave. `$1` is the node's directory, `$2` FRR's.
const INIT: &str = r#"set -e
mount --bind "$2" "$1/run/frr"
mount --rbind "$1/run" /run
mount --bind "$1/var" /var
mount --make-rshared /
: > /run/ready
while :; do sleep 3600 & wait $!; done
"#;

/// The running shell. Dropping it ends everything inside.
#[derive(Debug)]
pub(super) struct Shell {
    process: Process,
    init: u32,
    directory: PathBuf,
    cgroup: String,
}

impl Shell {
    /// Makes the namespaces, with FRR's sockets at `/run/frr`.
    pub(super) fn start(lab: &Lab, netns: &Netns, sockets: &Path) -> Result<Self> {
        let directory = lab.subdirectory(&format!("node-{}", netns.label()))?;
        for place in ["run/frr", "run/lock", "var/lib/node", "var/log", "var/tmp"] {
            fs::create_dir_all(directory.join(place))?;
        }
        symlink("/run", directory.join("var/run"))?;
        let name = format!("{}-shell", netns.label());
        let mut process = Spec::new(&name, "unshare", lab.log(&name)?)
            .inside(netns)
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", INIT, "node-init"])
            .arg(&directory)
            .arg(sockets)
            .start()?;
        let ready = directory.join("run/ready");
        let init = wait::until(&name, LIMIT, || {
            if let Err(ended) = process.ensure_running() {
                return Ok(Some(Err(ended)));
            }
            Ok(if ready.exists() { Some(first_child(process.pid())) } else { None })
        })??;
        Ok(Self { process, init, directory, cgroup: netns.name().to_owned() })
    }

    /// Where a path of the node's `/run` or `/var` is for everybody else.
    pub(super) fn outside(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }

    /// The name of the cgroup that holds all its containers.
    pub(super) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A process inside all of the node's namespaces.
    pub(super) fn spec(&self, lab: &Lab, netns: &Netns, name: &str, program: impl Into<PathBuf>) -> Result<Spec> {
        let name = format!("{}-{name}", netns.label());
        let target = format!("--target={}", self.init);
        Ok(Spec::new(&name, program, lab.log(&name)?)
            .inside(netns)
            .env("NO_PROXY", "*")
            // Containerd's shims inherit it: one sees whose they are.
            .env("COSMOLET_LAB", netns.name())
            .by_way_of("nsenter", [target.as_str(), "--mount", "--pid", "--"]))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill() {
            tracing::warn!(%error, node = self.cgroup, "the node's shell stays");
        }
        // It is gone, or nobody's zombie, when the kernel has ended everything inside.
        let deadline = Instant::now() + LIMIT;
        while lives(self.init) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        remove_cgroups(|name| name == self.cgroup);
    }
}

/// The only child of the process that made the namespaces.
fn first_child(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children.split_whitespace().next().context("the node's shell has no process")?.parse().context("a process id")
}

fn lives(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which stands in brackets and may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
