//! What buildah gets to see: the context of a build, and by which content its image is known.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::build_ebpf::object_path;
use crate::shell;

/// What any image is made of.
const ALWAYS: [&str; 3] = ["Dockerfile", "LICENSE", "xtask/src/image"];

/// What the daemon is compiled from: a change of anything else makes no new image.
const SOURCES: [&str; 5] = ["Cargo.toml", "Cargo.lock", ".cargo", "cosmolet", "cosmolet-common"];

/// What cargo wants to see of the workspace's other members, though it compiles nothing of them.
const MEMBERS: [&str; 5] = ["cosmolet-ebpf", "xtask/Cargo.toml", "xtask/src", "tests/Cargo.toml", "tests/src"];

/// Where the Dockerfile looks for what was compiled before.
const OBJECT: &str = "prebuilt/cosmolet-ebpf.o";
const BINARY: &str = "prebuilt/cosmolet";

/// Where the daemon of the image comes from.
#[derive(Debug)]
pub(super) enum Daemon {
    /// Compiled in the build.
    Sources,
    /// This binary.
    Prebuilt(PathBuf),
}

impl Daemon {
    /// Every input with the hash of its content.
    pub(super) fn inputs(&self) -> Result<String> {
        let mut paths = files(&ALWAYS)?;
        paths.push(object_path().display().to_string());
        match self {
            Self::Sources => paths.extend(files(&SOURCES)?),
            Self::Prebuilt(binary) => paths.push(binary.display().to_string()),
        }
        let hashes = fed(&["hash-object", "--no-filters", "--stdin-paths"], &(paths.join("\n") + "\n"))?;
        let lines: Vec<String> = hashes.lines().zip(&paths).map(|(hash, path)| format!("{hash} {path}")).collect();
        Ok(lines.join("\n"))
    }

    /// Lays the context out beside the archive to be.
    pub(super) fn context(&self, output: &Path) -> Result<PathBuf> {
        let context = output.with_extension("context");
        if context.exists() {
            fs::remove_dir_all(&context)?;
        }
        fs::create_dir_all(context.join("prebuilt"))?;
        let object = object_path();
        fs::copy(&object, context.join(OBJECT)).with_context(|| format!("no {}", object.display()))?;
        let mut paths = files(&ALWAYS)?;
        match self {
            Self::Sources => {
                paths.extend(files(&SOURCES)?);
                paths.extend(files(&MEMBERS)?);
            }
            Self::Prebuilt(binary) => drop(fs::copy(binary, context.join(BINARY))?),
        }
        for path in paths {
            let to = context.join(&path);
            fs::create_dir_all(to.parent().unwrap_or(&context))?;
            fs::copy(shell::root().join(&path), &to).with_context(|| format!("cannot copy {path}"))?;
        }
        Ok(context)
    }
}

/// Files of the checkout, committed or not, that exist and that git does not ignore.
fn files(paths: &[&str]) -> Result<Vec<String>> {
    let mut git = shell::command("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "--"]).args(paths);
    let listed = shell::output(&mut git)?;
    Ok(listed.lines().filter(|path| shell::root().join(path).is_file()).map(str::to_owned).collect())
}

/// A short name of a text's content.
pub(super) fn hash(text: &str) -> Result<String> {
    Ok(fed(&["hash-object", "--stdin"], text)?.trim().chars().take(12).collect())
}

/// What git answers to a text on its standard input.
fn fed(arguments: &[&str], text: &str) -> Result<String> {
    let mut git = shell::command("git");
    let mut child =
        git.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start git")?;
    child.stdin.take().context("git's standard input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{}` failed ({})", shell::shown(&git), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
