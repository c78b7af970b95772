//! `cargo xtask dist`: the release binary with what an operator needs beside it, in one archive.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use crate::shell;

/// The file capabilities that the daemon needs: maps and programs, unhindered by speculation barriers, and netlink.
const CAPABILITIES: &str = "cap_bpf,cap_perfmon,cap_net_admin+ep";

/// What goes beside the binary; what the checkout does not have yet is left out by name.
const BESIDE: [&str; 6] = ["LICENSE", "README.md", "CHANGELOG.md", "deploy", "charts", "dashboards"];

/// What to build for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A target triple of the toolchain, e.g. aarch64-unknown-linux-gnu; this machine's own when not given.
    #[arg(long)]
    target: Option<String>,
}

/// Builds the daemon and writes `target/dist/cosmolet-VERSION-linux-ARCH.tar.gz` and its SHA-256.
pub fn run(options: &Options) -> Result<()> {
    crate::lab::build_ebpf()?;
    let mut build = shell::cargo();
    build.args(["build", "--release", "--locked", "--package", "cosmolet"]);
    let mut built = shell::target_dir();
    if let Some(target) = &options.target {
        build.args(["--target", target]);
        built.push(target);
    }
    shell::run(&mut build)?;
    let target = options.target.clone().unwrap_or_else(|| env::consts::ARCH.to_owned());
    let name = format!("cosmolet-{}-linux-{}", env!("CARGO_PKG_VERSION"), architecture(&target));
    let dist = shell::target_dir().join("dist");
    let folder = dist.join(&name);
    stage(&built.join("release/cosmolet"), &folder)?;
    // A binary for another machine does not run here.
    if options.target.is_none() {
        shell::run(shell::command(built.join("release/cosmolet")).arg("man").arg(folder.join("man/man1")))?;
    }
    pack(&dist, &name)
}

/// The architecture as Kubernetes and container registries spell it.
fn architecture(target: &str) -> &str {
    match target.split('-').next().unwrap_or(target) {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn stage(binary: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let daemon = folder.join("cosmolet");
    fs::copy(binary, &daemon).with_context(|| format!("cannot copy {}", binary.display()))?;
    let capped = shell::run(shell::as_root("setcap").arg(CAPABILITIES).arg(&daemon));
    match capped {
        Ok(()) => println!("dist: the binary carries {CAPABILITIES}"),
        Err(error) => {
            println!("dist: without file capabilities ({error:#}); `setcap {CAPABILITIES} cosmolet` adds them")
        }
    }
    // kubectl finds the same program by this name.
    symlink("cosmolet", folder.join("kubectl-cosmolet"))?;
    for name in BESIDE {
        let source = shell::root().join(name);
        if source.exists() {
            shell::run(shell::command("cp").arg("-a").arg(&source).arg(folder))?;
        } else {
            println!("dist: there is no {name} in this checkout: left out");
        }
    }
    Ok(())
}

/// Extended headers, which hold the file capabilities, without what differs each time: tar's process id and times of access
/// and of change.
const HEADERS: &str = "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime";

/// The same input gives the same archive: sorted names, the last commit's time, nobody's ids and umask.
fn pack(dist: &Path, name: &str) -> Result<()> {
    let archive = format!("{name}.tar.gz");
    let time = shell::try_output(shell::command("git").args(["log", "-1", "--format=%ct"])).unwrap_or_default();
    let time = if time.trim().is_empty() { "0" } else { time.trim() };
    shell::run(
        shell::command("tar")
            .current_dir(dist)
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mode=u+rwX,go+rX,go-w", "--xattrs"])
            .args(["--xattrs-include=security.capability", HEADERS, &format!("--mtime=@{time}")])
            .args(["--use-compress-program=gzip -9n", "-cf", &archive, name]),
    )?;
    let sum = shell::output(shell::command("sha256sum").current_dir(dist).arg(&archive))?;
    fs::write(dist.join(format!("{archive}.sha256")), &sum)?;
    print!("dist: {}\n{sum}", dist.join(&archive).display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    /// A folder of its own for a test; emptied, as an earlier run may have been killed.
    fn folder(name: &str) -> std::path::PathBuf {
        let folder = shell::target_dir().join("dist-tests").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn the_archive_holds_everything_and_its_binary_the_capabilities() {
        let dist = folder("whole");
        stage(Path::new("/bin/true"), &dist.join("cosmolet-0")).unwrap();
        pack(&dist, "cosmolet-0").unwrap();
        fs::rename(dist.join("cosmolet-0"), dist.join("staged")).unwrap();
        let unpack = ["--xattrs", "--xattrs-include=security.capability", "-xf", "cosmolet-0.tar.gz"];
        shell::run(shell::command("tar").current_dir(&dist).args(unpack)).unwrap();
        shell::run(shell::command("sha256sum").current_dir(&dist).args(["--quiet", "-c", "cosmolet-0.tar.gz.sha256"]))
            .unwrap();
        let unpacked = dist.join("cosmolet-0");
        let held = shell::output(shell::command("getcap").arg(unpacked.join("cosmolet"))).unwrap();
        assert!(held.trim_end().ends_with(" cap_net_admin,cap_perfmon,cap_bpf=ep"), "{held}");
        for name in ["LICENSE", "README.md", "CHANGELOG.md", "deploy", "charts/cosmolet/Chart.yaml"] {
            assert!(unpacked.join(name).exists(), "{name} is not in the archive");
        }
    }

    #[test]
    fn the_same_files_give_the_same_archive() {
        let dist = folder("same");
        let file = dist.join("a/file");
        let mut archives = Vec::new();
        for mode in [0o664, 0o600] {
            fs::create_dir_all(dist.join("a")).unwrap();
            fs::write(&file, "text").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            pack(&dist, "a").unwrap();
            archives.push(fs::read(dist.join("a.tar.gz")).unwrap());
            fs::remove_dir_all(dist.join("a")).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(archives[0] == archives[1], "the archives differ");
    }
}
