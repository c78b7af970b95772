//! Images without a registry: docker archives that containerd imports.
//!
//! cosmolet's is the one of the Dockerfile. A lab image is one program with the shared libraries that ldd(1) names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::Lab;
use crate::netns::output;

/// An archive and the name of the image in it.
#[derive(Clone, Debug)]
pub struct Image {
    /// A docker archive.
    pub archive: PathBuf,
    /// As containerd knows it: `docker.io/lab/cosmolet:dev`.
    pub name: String,
}

/// What an image is made from.
#[derive(Debug)]
pub struct Recipe<'a> {
    /// `docker.io/lab/NAME:TAG`.
    pub name: &'a str,
    /// The program on this machine.
    pub program: &'a Path,
    /// Its arguments.
    pub command: &'a [&'a str],
    /// The user it runs as.
    pub user: u32,
}

impl Image {
    /// Packs an image into the lab's directory.
    pub fn pack(lab: &Lab, recipe: &Recipe<'_>) -> Result<Self> {
        let short = recipe.name.rsplit('/').next().unwrap_or(recipe.name).replace(':', "-");
        let directory = lab.subdirectory(&format!("image-{short}"))?;
        let program = recipe.program.file_name().context("a program without a name")?;
        let entry = Path::new("/usr/local/bin").join(program);
        fill(&directory.join("root"), recipe, &entry)?;
        output(
            Command::new("tar")
                .args(["--format=posix", "--owner=0", "--group=0", "--numeric-owner"])
                .args(["-C", "root", "-cf", "layer.tar", "."])
                .current_dir(&directory),
        )?;
        let sum = output(Command::new("sha256sum").arg("layer.tar").current_dir(&directory))?;
        let sum = sum.split_whitespace().next().context("sha256sum said nothing")?;
        fs::write(directory.join("config.json"), config(recipe, &entry, sum).to_string())?;
        let manifest = json!([{"Config": "config.json", "RepoTags": [recipe.name], "Layers": ["layer.tar"]}]);
        fs::write(directory.join("manifest.json"), manifest.to_string())?;
        let parts = ["manifest.json", "config.json", "layer.tar"];
        output(Command::new("tar").arg("-cf").arg("image.tar").args(parts).current_dir(&directory))?;
        fs::remove_dir_all(directory.join("root"))?;
        fs::remove_file(directory.join("layer.tar"))?;
        Ok(Self { archive: directory.join("image.tar"), name: recipe.name.to_owned() })
    }

    /// The Dockerfile's image around a binary of the daemon: built by `cargo xtask image`, or found current.
    pub fn of_dockerfile(daemon: &Path) -> Result<Self> {
        let xtask = daemon.with_file_name("xtask");
        ensure!(xtask.is_file(), "no xtask beside {}: cargo build --bins", daemon.display());
        let target = daemon.ancestors().nth(2).context("the daemon is in no target folder")?;
        let archive = target.join("image/cosmolet-prebuilt.tar");
        output(Command::new(xtask).args(["image", "--yes", "--prebuilt"]).arg(daemon).arg("--output").arg(&archive))?;
        Self::open(&archive)
    }

    /// An archive that somebody else made, by the name that its manifest gives it.
    pub fn open(archive: &Path) -> Result<Self> {
        ensure!(archive.is_file(), "there is no image archive {}", archive.display());
        let text = output(Command::new("tar").arg("-xOf").arg(archive).arg("manifest.json"))
            .with_context(|| format!("{} is no docker archive", archive.display()))?;
        let manifest: Value = serde_json::from_str(&text)?;
        let tag = manifest[0]["RepoTags"][0].as_str();
        let tag = tag.with_context(|| format!("the image in {} has no name", archive.display()))?;
        Ok(Self { archive: archive.to_owned(), name: full_name(tag) })
    }

    /// The name without its tag, and the tag, as the chart's values take them.
    pub fn repository_and_tag(&self) -> Result<(&str, &str)> {
        self.name.rsplit_once(':').with_context(|| format!("the image name {} has no tag", self.name))
    }
}

/// Containerd writes short names out (the rule of the distribution project's reference grammar).
fn full_name(tag: &str) -> String {
    match tag.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => tag.to_owned(),
        Some(_) => format!("docker.io/{tag}"),
        None => format!("docker.io/library/{tag}"),
    }
}

fn config(recipe: &Recipe<'_>, entry: &Path, layer: &str) -> Value {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": [entry],
            "Cmd": recipe.command,
            "User": recipe.user.to_string(),
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
    })
}

/// Lays the program and its libraries out below `root`, at the paths where they are here.
fn fill(root: &Path, recipe: &Recipe<'_>, entry: &Path) -> Result<()> {
    let target = inside(root, entry)?;
    copy(recipe.program, &target)?;
    for library in libraries(recipe.program)? {
        copy(&library, &inside(root, &library)?)?;
    }
    Ok(())
}

fn inside(root: &Path, path: &Path) -> Result<PathBuf> {
    Ok(root.join(path.strip_prefix("/").with_context(|| format!("{} is not absolute", path.display()))?))
}

/// Copies what the path leads to, link or not.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// The shared libraries and the loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").arg(program))?;
    if text.contains("not found") {
        bail!("{} lacks a library: {text}", program.display());
    }
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_written_out() {
        assert_eq!(full_name("cosmolet:1"), "docker.io/library/cosmolet:1");
        assert_eq!(full_name("lab/cosmolet:1"), "docker.io/lab/cosmolet:1");
        assert_eq!(full_name("localhost/cosmolet:1"), "localhost/cosmolet:1");
        assert_eq!(full_name("ghcr.io/x/cosmolet:1"), "ghcr.io/x/cosmolet:1");
    }
}
