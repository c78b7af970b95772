//! The image that the Dockerfile gives: small, without a shell, for a user without rights, with the daemon's capabilities.

#![allow(missing_docs, reason = "a suite")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::cluster::Image;
use cosmolet_tests::daemon;
use serde_json::Value;
use tempfile::TempDir;

/// The most that all layers together may hold.
const LARGEST: u64 = 40 << 20;
const BINARY: &str = "usr/local/bin/cosmolet";
/// ELF's `e_machine`.
const X86_64: u16 = 62;
const AARCH64: u16 = 183;

/// An archive, unpacked: the image's configuration and its root.
struct Unpacked {
    config: Value,
    /// Each layer's own archive.
    layers: Vec<PathBuf>,
    root: PathBuf,
    _folder: TempDir,
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    Ok(out.into_owned())
}

/// Unpacks an archive.
fn unpacked(archive: &Path) -> Result<Unpacked> {
    let folder = tempfile::tempdir()?;
    let (parts, root) = (folder.path().join("parts"), folder.path().join("root"));
    fs::create_dir(&parts)?;
    fs::create_dir(&root)?;
    output(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&parts))?;
    let manifest: Value = serde_json::from_str(&fs::read_to_string(parts.join("manifest.json"))?)?;
    let text = |value: &Value| value.as_str().map(|name| parts.join(name)).context("a part without a name");
    let config = serde_json::from_str(&fs::read_to_string(text(&manifest[0]["Config"])?)?)?;
    let layers: Vec<PathBuf> =
        manifest[0]["Layers"].as_array().context("no layers")?.iter().map(text).collect::<Result<_>>()?;
    for layer in &layers {
        let xattrs = ["--xattrs", "--xattrs-include=security.capability"];
        output(Command::new("tar").args(xattrs).arg("-xpf").arg(layer).arg("-C").arg(&root))?;
    }
    Ok(Unpacked { config, layers, root, _folder: folder })
}

/// Every file of the root.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// What holds for every architecture and every way to build.
fn check(image: &Unpacked, arch: &str, machine: u16) -> Result<()> {
    let config = &image.config;
    ensure!(config["architecture"] == arch && config["os"] == "linux", "{}", config["architecture"]);
    ensure!(config["config"]["User"] == "65532:65532", "{}", config["config"]["User"]);
    ensure!(config["config"]["Entrypoint"] == serde_json::json!(["/usr/local/bin/cosmolet"]), "the entry point");
    ensure!(config["config"]["Cmd"][0] == "run", "{}", config["config"]["Cmd"]);
    let size: u64 =
        image.layers.iter().map(|layer| fs::metadata(layer).map(|meta| meta.len())).sum::<Result<_, _>>()?;
    eprintln!("image for {arch}: {:.1} MiB", f64::from(u32::try_from(size)?) / f64::from(1 << 20));
    ensure!(size <= LARGEST, "{size} bytes are more than {LARGEST}");
    let elf = fs::read(image.root.join(BINARY))?;
    ensure!(elf.starts_with(b"\x7fELF"), "the binary is no ELF");
    ensure!(u16::from_le_bytes([elf[18], elf[19]]) == machine, "built for machine {}", elf[18]);
    let capabilities = output(Command::new("getcap").arg(image.root.join(BINARY)))?;
    for wanted in ["cap_net_admin", "cap_perfmon", "cap_bpf"] {
        ensure!(capabilities.contains(wanted), "{wanted} is not among {capabilities:?}");
    }
    // As runtimes read it: in the PAX header of the layer's entry.
    let header = b"SCHILY.xattr.security.capability=";
    let carries = |layer: &PathBuf| Ok(fs::read(layer)?.windows(header.len()).any(|window| window == header));
    let carried: Vec<bool> = image.layers.iter().map(carries).collect::<Result<_>>()?;
    ensure!(carried.contains(&true), "no layer carries the file capabilities");
    nothing_more(&image.root)
}

/// No shell, no package manager, nothing that makes anybody root.
fn nothing_more(root: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    for path in files(root)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        ensure!(!["sh", "bash", "dash", "busybox", "apt-get", "dpkg"].contains(&name), "{} is there", path.display());
        let meta = fs::symlink_metadata(&path)?;
        let special = meta.file_type().is_file() && meta.permissions().mode() & 0o6000 != 0;
        ensure!(!(special && meta.uid() == 0), "{} is setuid or setgid", path.display());
    }
    Ok(())
}

/// The binary under test in the Dockerfile's last stage, which is what the cluster's nodes run.
#[test]
fn the_image_is_small_and_runs_without_root() -> Result<()> {
    let daemon = daemon::binary()?;
    let built = Image::of_dockerfile(&daemon)?;
    let image = unpacked(&built.archive)?;
    let (arch, machine) = if cfg!(target_arch = "x86_64") { ("amd64", X86_64) } else { ("arm64", AARCH64) };
    check(&image, arch, machine)?;
    ensure!(fs::read(image.root.join(BINARY))? == fs::read(&daemon)?, "the image holds another binary");
    runs(&image)?;
    let made = || fs::metadata(&built.archive)?.modified().context("no time");
    let before = made()?;
    Image::of_dockerfile(&daemon)?;
    ensure!(made()? == before, "it was built again from the same binary");
    Ok(())
}

/// With the image's own C library, as its user.
fn runs(image: &Unpacked) -> Result<()> {
    let inside = |arguments: &[&str]| {
        let mut chroot = Command::new("chroot");
        chroot.env("NODE_NAME", "node-1").arg("--userspec=65532:65532").arg(&image.root).arg(format!("/{BINARY}"));
        output(chroot.args(arguments))
    };
    let version = inside(&["--version"])?;
    ensure!(version.trim() == format!("cosmolet {}", env!("CARGO_PKG_VERSION")), "{version}");
    let file = image.root.join("etc/cosmolet/cosmolet.yaml");
    fs::create_dir_all(image.root.join("etc/cosmolet"))?;
    fs::write(&file, "services: {vip_ranges: [10.0.0.0/8]}\n")?;
    inside(&["check-config"])?;
    fs::write(&file, "services: {vip_ranges: [10.0.0.0/33]}\n")?;
    let refused = inside(&["check-config"]).err().context("a bad file is taken for a good one")?.to_string();
    ensure!(refused.contains("services.vip_ranges"), "{refused}");
    Ok(())
}
