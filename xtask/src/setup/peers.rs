//! What the benches put cosmolet beside: GoBGP and ExaBGP, unpacked into the cache folder.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::Group;
use super::apt::Apt;
use super::table::{Install, Need, tool};
use crate::shell;

const SCRIPT: &str = include_str!("peers.sh");

/// The packages, and a file of each. Their dependencies are libc and Python.
const PACKAGES: [(&str, &str); 2] =
    [("gobgpd", "usr/bin/gobgpd"), ("python3-exabgp", "usr/lib/python3/dist-packages/exabgp")];

pub(super) fn needs() -> [Need; 2] {
    [
        tool(
            "python3",
            "runs ExaBGP",
            Group::Peers,
            || fs::exists("/usr/bin/python3").unwrap_or(false),
            &[&["python3"]],
        ),
        Need {
            name: "GoBGP, ExaBGP",
            why: "`bench peers` measures them beside cosmolet; unpacked into the cache folder",
            group: Group::Peers,
            present: is_there,
            install: Install::Build { packages: &[], build: unpack },
        },
    ]
}

/// Where they are unpacked: what the bench takes as `COSMOLET_PEERS_DIR`.
///
/// # Errors
/// If there is no cache folder.
pub fn folder() -> Result<PathBuf> {
    Ok(shell::cache_dir()?.join("peers"))
}

fn is_there() -> bool {
    folder().is_ok_and(|folder| PACKAGES.iter().all(|(_, file)| folder.join(file).exists()))
}

fn unpack(apt: &mut Apt) -> Result<()> {
    let packages = PACKAGES.map(|(package, _)| package);
    ensure!(apt.has(&packages)?, "this release lacks one of the packages {}", packages.join(", "));
    let folder = folder()?;
    // Who unpacks it at the same time waits, and finds it.
    let _lock = shell::lock(&folder.with_extension("lock"))?;
    if is_there() {
        return Ok(());
    }
    let script = folder.with_extension("sh");
    fs::write(&script, SCRIPT)?;
    shell::run_quietly("setup: GoBGP and ExaBGP", shell::as_root("sh").arg(&script).arg(&folder).args(packages))
}
