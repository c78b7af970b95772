//! A real etcd and a real kube-apiserver for the lab.
//!
//! There is no package of kube-apiserver: it is built once from the Go module proxy and kept in the cache folder, under
//! a name that carries its version.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Group;
use super::apt::Apt;
use super::table::{Install, Need, tool};
use crate::shell::{self, which};

/// The API server the lab runs. 1.35 is the last whose kubelet takes Debian's containerd.
const KUBE: &str = "1.35.4";

/// The oldest Go that builds it (its go.mod), and the one fetched where Go is older.
const GO_MINOR: u32 = 25;
const GO_FETCHED: &str = "1.26.8";

pub(super) fn needs() -> [Need; 3] {
    [
        tool(
            "etcd",
            "the lab's API server keeps its objects in it",
            Group::Kube,
            || which("etcd").is_some(),
            &[&["etcd-server"]],
        ),
        tool("openssl", "makes the lab's certificates", Group::Kube, || which("openssl").is_some(), &[&["openssl"]]),
        Need {
            name: "kube-apiserver",
            why: "the lab's Kubernetes is real; built once from source, about 3 minutes on 2 cores",
            group: Group::Kube,
            present: || binary().is_ok_and(|file| file.is_file()),
            install: Install::Build { packages: &[], build },
        },
    ]
}

fn folder() -> Result<PathBuf> {
    Ok(shell::cache_dir()?.join(format!("kube-{KUBE}")))
}

fn binary() -> Result<PathBuf> {
    Ok(folder()?.join("bin/kube-apiserver"))
}

fn build(apt: &mut Apt) -> Result<()> {
    let go = go(apt)?;
    let dir = folder()?;
    fs::create_dir_all(dir.join("bin"))?;
    let source = download(&go, &format!("k8s.io/kubernetes@v{KUBE}"))?;
    let upstream = fs::read_to_string(source.join("go.mod")).context("kubernetes' go.mod")?;
    fs::write(dir.join("go.mod"), go_mod(&upstream))?;
    fs::write(
        dir.join("tools.go"),
        "//go:build tools\n\npackage tools\n\nimport _ \"k8s.io/kubernetes/cmd/kube-apiserver\"\n",
    )?;
    shell::run_quietly("kube-apiserver: its modules", go_command(&go, &dir).args(["mod", "tidy"]))?;
    let version = "k8s.io/component-base/version";
    let minor = KUBE.split('.').nth(1).unwrap_or_default();
    let flags = format!("-s -w -X {version}.gitVersion=v{KUBE} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}");
    // Renamed when it is whole: a build that is cut short leaves nothing that looks finished.
    let draft = dir.join("bin/kube-apiserver.draft");
    shell::run_quietly(
        "kube-apiserver: compiling",
        go_command(&go, &dir)
            .args(["build", "-ldflags", &flags, "-o"])
            .arg(&draft)
            .arg("k8s.io/kubernetes/cmd/kube-apiserver"),
    )?;
    fs::rename(&draft, binary()?)?;
    Ok(())
}

/// Our module: kubernetes, with its staging modules at their published versions.
fn go_mod(upstream: &str) -> String {
    let staging = KUBE.replacen("1.", "0.", 1);
    let mut text = String::from("module cosmolet.test/kubernetes\n\n");
    for line in upstream.lines().filter(|line| line.starts_with("go ") || line.starts_with("godebug ")) {
        text.push_str(&format!("{line}\n"));
    }
    text.push_str(&format!("\nrequire k8s.io/kubernetes v{KUBE}\n\n"));
    for line in upstream.lines() {
        let mut words = line.split_whitespace();
        if let (Some(module), Some("v0.0.0")) = (words.next(), words.next())
            && module.starts_with("k8s.io/")
        {
            text.push_str(&format!("replace {module} => {module} v{staging}\n"));
        }
    }
    text
}

/// A Go that is new enough: the machine's, or one fetched as a module (go.dev/doc/toolchain) into the cache folder.
fn go(apt: &mut Apt) -> Result<PathBuf> {
    let fetched = shell::cache_dir()?.join(format!("go-{GO_FETCHED}"));
    let fetched_go = fetched.join("bin/go");
    if fetched_go.is_file() {
        return Ok(fetched_go);
    }
    let installed =
        || which("go").or_else(|| Some(PathBuf::from("/usr/local/go/bin/go")).filter(|file| file.is_file()));
    if installed().is_none() {
        apt.want("go", &[&["golang-go", "ca-certificates"]]);
        apt.install()?;
    }
    let go = installed().context("golang-go is installed, and still there is no `go`")?;
    if minor_version(&go).is_some_and(|minor| minor >= GO_MINOR) {
        return Ok(go);
    }
    fetch_go(&go, &fetched)?;
    Ok(fetched_go)
}

fn minor_version(go: &Path) -> Option<u32> {
    let text = shell::try_output(Command::new(go).arg("version").env("GOTOOLCHAIN", "local"))?;
    text.split_whitespace().nth(2)?.strip_prefix("go1.")?.split('.').next()?.parse().ok()
}

fn fetch_go(old: &Path, to: &Path) -> Result<()> {
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no Go toolchain is known for {other}: install Go 1.{GO_MINOR} or newer by hand"),
    };
    println!("  this machine's Go is older than 1.{GO_MINOR}: fetching {GO_FETCHED} from the Go module proxy");
    let source = download(old, &format!("golang.org/toolchain@v0.0.1-go{GO_FETCHED}.linux-{arch}"))?;
    let draft = to.with_extension("draft");
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    copy_toolchain(&source, &draft)?;
    fs::rename(&draft, to)?;
    Ok(())
}

/// Copies a tree; what is under `bin` or `pkg/tool` becomes executable, because a module cannot say that it is.
fn copy_toolchain(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_toolchain(&entry.path(), &target)?;
            continue;
        }
        fs::copy(entry.path(), &target)?;
        let path = target.to_string_lossy();
        let mode = if path.contains("/bin/") || path.contains("/pkg/tool/") { 0o755 } else { 0o644 };
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Downloads a module and returns its folder in Go's cache.
fn download(go: &Path, module: &str) -> Result<PathBuf> {
    println!("  downloading {module}");
    let dir = env::temp_dir();
    let text = shell::output(go_command(go, &dir).args(["mod", "download", "-json", module]))?;
    let answer: serde_json::Value = serde_json::from_str(&text).context("`go mod download -json`")?;
    let folder = answer["Dir"].as_str().with_context(|| format!("go did not say where {module} is"))?;
    Ok(PathBuf::from(folder))
}

fn go_command(go: &Path, dir: &Path) -> Command {
    let mut command = Command::new(go);
    command.current_dir(dir).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod");
    command
}
