//! FRR as other Debian releases have it, unpacked into the cache folder: the lab's suites run against more than one version.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::Group;
use super::table::{Install, Need};
use crate::shell::{self, which};

const SCRIPT: &str = include_str!("frr.sh");

/// The releases that a whole run of the tests adds: all that Debian calls stable, or did.
const STABLE: [&str; 2] = ["bookworm", "trixie"];

pub(super) fn needs() -> [Need; 4] {
    let unpacked = |name, why, present, build| Need {
        name,
        why,
        group: Group::Frr,
        present,
        install: Install::Build { packages: &[], build },
    };
    let why = "the lab runs that FRR too; unpacked into the cache folder, about 15 s";
    [
        Need {
            name: "Debian's keys",
            why: "what is unpacked from Debian's archive is checked by them",
            group: Group::Frr,
            present: || fs::exists("/usr/share/keyrings/debian-archive-keyring.gpg").unwrap_or(false),
            install: Install::Apt(&[&["debian-archive-keyring"]]),
        },
        Need {
            name: "unshare",
            why: "starts the FRR of another release with that release's libraries",
            group: Group::Frr,
            present: || which("unshare").is_some(),
            install: Install::Apt(&[&["util-linux"]]),
        },
        unpacked("FRR of bookworm", why, || is_there(STABLE[0]), |_| unpack(STABLE[0]).map(drop)),
        unpacked("FRR of trixie", why, || is_there(STABLE[1]), |_| unpack(STABLE[1]).map(drop)),
    ]
}

fn folder(release: &str) -> Result<PathBuf> {
    Ok(shell::cache_dir()?.join(format!("frr-{release}")))
}

fn is_there(release: &str) -> bool {
    // The second is what an unpacking of old did not have.
    let files = ["version", "programs/frr-reload.py"];
    folder(release).is_ok_and(|folder| files.iter().all(|file| folder.join(file).is_file()))
}

/// The FRR of a Debian release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frr {
    /// `10.3 (trixie)`
    pub name: String,
    /// What the lab takes as `COSMOLET_FRR_DIR`.
    pub programs: PathBuf,
}

/// Unpacks the FRR of a release, unless it is there.
///
/// # Errors
/// If there is no such release, or its archive cannot be had.
pub fn unpack(release: &str) -> Result<Frr> {
    let word = !release.is_empty() && release.bytes().all(|byte| byte.is_ascii_lowercase());
    ensure!(word, "{release:?} is not the name of a Debian release, such as bookworm, trixie or sid");
    let folder = folder(release)?;
    // Who unpacks it at the same time waits, and finds it.
    let _lock = shell::lock(&folder.with_extension("lock"))?;
    if !is_there(release) {
        let script = folder.with_extension("sh");
        fs::write(&script, SCRIPT)?;
        shell::run_quietly(
            &format!("setup: FRR and its libraries, of Debian {release}"),
            shell::as_root("sh").arg(&script).arg(release).arg(&folder),
        )?;
    }
    let version = fs::read_to_string(folder.join("version"))?;
    Ok(Frr { name: format!("{} ({release})", version.trim()), programs: folder.join("programs") })
}

/// Those of the stable releases that are another version than the machine's own.
///
/// # Errors
/// As [`unpack`].
pub fn others() -> Result<Vec<Frr>> {
    let own = shell::try_output(shell::command("/usr/lib/frr/bgpd").arg("--version")).unwrap_or_default();
    let own = own.split_whitespace().nth(2).unwrap_or_default().to_owned();
    let all = STABLE.into_iter().map(unpack).collect::<Result<Vec<Frr>>>()?;
    Ok(all.into_iter().filter(|frr| !frr.name.starts_with(&format!("{own} "))).collect())
}
