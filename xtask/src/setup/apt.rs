//! Debian and Ubuntu packages.
//!
//! Owns the guarantee that nothing of the host changes but the packages: no service is started, and none is enabled
//! that was not there before.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Where Debian's invoke-rc.d asks whether it may start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Exit code 101: "action forbidden by policy" (invoke-rc.d(8)).
const FORBID: &str = "#!/bin/sh\n# Written by `cargo xtask setup` for the time of one apt-get install.\nexit 101\n";

/// Services that our packages bring and that must not run on the host: the lab starts its own, in namespaces.
const SERVICES: [(&str, &str); 4] = [
    ("frr", "frr.service"),
    ("etcd-server", "etcd.service"),
    ("containerd", "containerd.service"),
    ("prometheus", "prometheus.service"),
];

/// What is asked of one package.
type Alternatives = Vec<Vec<String>>;

/// A transaction to be.
#[derive(Default)]
pub(super) struct Apt {
    wanted: Vec<(String, Alternatives)>,
    updated: bool,
}

impl Apt {
    /// Adds packages to the transaction: the first alternative that this release has.
    pub(super) fn want(&mut self, name: &str, alternatives: &[&[&str]]) {
        let owned = alternatives.iter().map(|set| set.iter().map(|&package| package.to_owned()).collect()).collect();
        self.wanted.push((name.to_owned(), owned));
    }

    /// Whether this release has a package, refreshing the lists once if they do not know it.
    pub(super) fn has(&mut self, packages: &[&str]) -> Result<bool> {
        if candidates(packages) {
            return Ok(true);
        }
        self.update()?;
        Ok(candidates(packages))
    }

    /// Installs what was wanted and empties the transaction.
    pub(super) fn install(&mut self) -> Result<()> {
        let wanted = std::mem::take(&mut self.wanted);
        let mut packages = BTreeSet::new();
        for (name, alternatives) in &wanted {
            packages.extend(self.choose(name, alternatives)?);
        }
        packages.retain(|package| !installed(package));
        if packages.is_empty() {
            return Ok(());
        }
        println!("setup: apt-get install {}", packages.iter().cloned().collect::<Vec<_>>().join(" "));
        if SERVICES.iter().any(|(package, _)| packages.contains(*package)) {
            println!("setup: the services that come with these packages are neither started nor enabled");
        }
        let policy = Policy::forbid()?;
        let done = self.get_install(&packages);
        policy.lift()?;
        done?;
        disable_services(&packages);
        Ok(())
    }

    fn choose(&mut self, name: &str, alternatives: &Alternatives) -> Result<Vec<String>> {
        for refreshed in [false, true] {
            if refreshed {
                self.update()?;
            }
            if let Some(set) = alternatives.iter().find(|set| candidates(set)) {
                return Ok(set.clone());
            }
        }
        let tried: Vec<String> = alternatives.iter().map(|set| set.join(" ")).collect();
        bail!("{name}: this release has no package for it (looked for {})", tried.join("; or "))
    }

    fn update(&mut self) -> Result<()> {
        if self.updated {
            return Ok(());
        }
        if shell::which("apt-get").is_none() {
            bail!("there is no apt-get here: setup knows Debian 12/13 and Ubuntu 24.04; docs name what to install");
        }
        self.updated = true;
        shell::run_quietly("apt-get update", shell::as_root("apt-get").args(["update", "-q"]))
    }

    fn get_install(&mut self, packages: &BTreeSet<String>) -> Result<()> {
        let install = || {
            shell::run_quietly(
                &format!("apt-get install ({} packages)", packages.len()),
                shell::as_root("env")
                    .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-q", "-y"])
                    .args(["--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"])
                    .args(packages),
            )
        };
        match install() {
            // Stale lists name versions that the mirror no longer has.
            Err(_) if !self.updated => {
                self.updated = true;
                shell::run_quietly("apt-get update", shell::as_root("apt-get").args(["update", "-q"]))?;
                install()
            }
            outcome => outcome,
        }
    }
}

/// Whether apt could install every one of these now.
fn candidates<S: AsRef<str>>(packages: &[S]) -> bool {
    packages.iter().all(|package| {
        shell::try_output(shell::command("apt-cache").args(["policy", package.as_ref()]))
            .is_some_and(|text| text.lines().any(|l| l.trim().starts_with("Candidate:") && !l.contains("(none)")))
    })
}

fn installed(package: &str) -> bool {
    shell::try_output(shell::command("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}", package]))
        .is_some_and(|status| status.starts_with("ii"))
}

/// Undoes the enabling that a package's scripts did, on machines that systemd runs.
fn disable_services(packages: &BTreeSet<String>) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    for (_, service) in SERVICES.iter().filter(|(package, _)| packages.contains(*package)) {
        let disabled = shell::as_root("systemctl").args(["disable", "--quiet", service]).status();
        if !disabled.is_ok_and(|status| status.success()) {
            println!("setup: could not disable {service}; it would start at the next boot");
        }
    }
}

/// Forbids package scripts to start services while it lives. A policy that is there already is the host's: it stays.
struct Policy {
    ours: bool,
}

impl Policy {
    fn forbid() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let draft: PathBuf = std::env::temp_dir().join(format!("cosmolet-policy-rc.d-{}", std::process::id()));
        fs::write(&draft, FORBID).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
        let moved = shell::run(shell::as_root("install").args(["-m", "0755"]).arg(&draft).arg(POLICY));
        fs::remove_file(&draft)?;
        moved?;
        Ok(Self { ours: true })
    }

    fn lift(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        if std::mem::take(&mut self.ours) {
            shell::run(shell::as_root("rm").args(["-f", POLICY]).stdin(Stdio::null()))?;
        }
        Ok(())
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("setup: {POLICY} is still there, remove it: {error:#}");
        }
    }
}
