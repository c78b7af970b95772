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

/// Everything of Kubernetes that the lab runs, with what it takes on 2 cores once the modules are there.
const PROGRAMS: [(&str, &str); 6] = [
    ("kube-apiserver", "about 3 minutes"),
    ("kube-controller-manager", "about a minute"),
    ("kubelet", "about half a minute"),
    ("kube-proxy", "a few seconds"),
    ("kube-scheduler", "a few seconds"),
    ("kubectl", "a few seconds"),
];

pub(super) fn needs() -> [Need; 4] {
    [
        tool(
            "etcd",
            "the lab's API server keeps its objects in it",
            Group::Kube,
            || which("etcd").is_some(),
            &[&["etcd-server"]],
        ),
        tool(
            "faketime",
            "sets the daemon's time of day back and forth",
            Group::Kube,
            || {
                let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
                folders.into_iter().any(|folder| folder.path().join("faketime/libfaketime.so.1").is_file())
            },
            &[&["faketime"]],
        ),
        tool("openssl", "makes the lab's certificates", Group::Kube, || which("openssl").is_some(), &[&["openssl"]]),
        Need {
            name: "kube-apiserver",
            why: "the lab's Kubernetes is real; built once from source, about 3 minutes on 2 cores",
            group: Group::Kube,
            present: || present(&PROGRAMS[..1]),
            install: Install::Build { packages: &[], build: |apt| build(apt, &PROGRAMS[..1]) },
        },
    ]
}

/// The rest of Kubernetes, for the cluster.
pub(super) fn cluster_needs() -> [Need; 1] {
    [Need {
        name: "kubernetes",
        why: "kubelet, kube-proxy and the controllers of the lab's cluster; built once, about 2 minutes on 2 cores",
        group: Group::Cluster,
        present: || present(&PROGRAMS),
        install: Install::Build { packages: &[], build: |apt| build(apt, &PROGRAMS) },
    }]
}

fn folder() -> Result<PathBuf> {
    Ok(shell::cache_dir()?.join(format!("kube-{KUBE}")))
}

fn binary(name: &str) -> Result<PathBuf> {
    Ok(folder()?.join("bin").join(name))
}

fn present(programs: &[(&str, &str)]) -> bool {
    programs.iter().all(|(name, _)| binary(name).is_ok_and(|file| file.is_file()))
}

/// Builds those of the programs that are missing. The module names all, so that what is built later fits what is there.
fn build(apt: &mut Apt, programs: &[(&str, &str)]) -> Result<()> {
    let go = go(apt)?;
    let dir = folder()?;
    fs::create_dir_all(dir.join("bin"))?;
    let source = download(&go, &format!("k8s.io/kubernetes@v{KUBE}"))?;
    let upstream = fs::read_to_string(source.join("go.mod")).context("kubernetes' go.mod")?;
    fs::write(dir.join("go.mod"), go_mod(&upstream))?;
    let imports: String =
        PROGRAMS.iter().map(|(name, _)| format!("import _ \"k8s.io/kubernetes/cmd/{name}\"\n")).collect();
    fs::write(dir.join("tools.go"), format!("//go:build tools\n\npackage tools\n\n{imports}"))?;
    shell::run_quietly("kubernetes: its modules", go_command(&go, &dir).args(["mod", "tidy"]))?;
    let version = "k8s.io/component-base/version";
    let minor = KUBE.split('.').nth(1).unwrap_or_default();
    let flags = format!("-s -w -X {version}.gitVersion=v{KUBE} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}");
    for (name, time) in programs {
        let (file, package) = (binary(name)?, format!("k8s.io/kubernetes/cmd/{name}"));
        if !file.is_file() {
            compile(&go, &dir, &file, &package, &flags, &format!("{name}, {time} on 2 cores"))?;
        }
    }
    Ok(())
}

/// Builds one program; renamed when it is whole: a build that is cut short leaves nothing that looks finished.
fn compile(go: &Path, dir: &Path, file: &Path, package: &str, flags: &str, what: &str) -> Result<()> {
    let draft = file.with_extension("draft");
    let mut command = go_command(go, dir);
    command.args(["build", "-ldflags", flags, "-o"]).arg(&draft).arg(package);
    shell::run_quietly(what, &mut command)?;
    fs::rename(&draft, file)?;
    Ok(())
}

/// A program of a module that has no packages here, such as helm: built in a module of its own, into the cache folder.
pub(super) fn build_module(
    apt: &mut Apt,
    module: &str,
    version: &str,
    package: &str,
    file: &Path,
    what: &str,
) -> Result<()> {
    let wanted = [format!("{package}@v{version}"), format!("{module}@v{version}")];
    build_over(apt, &wanted, None, package, file, what)
}

/// A program of ours over a module, likewise.
pub(super) fn build_source(apt: &mut Apt, wanted: &str, source: &str, file: &Path, what: &str) -> Result<()> {
    build_over(apt, &[wanted.to_owned()], Some(source), ".", file, what)
}

fn build_over(
    apt: &mut Apt,
    wanted: &[String],
    source: Option<&str>,
    package: &str,
    file: &Path,
    what: &str,
) -> Result<()> {
    let go = go(apt)?;
    let bin = file.parent().context("a program without a folder")?;
    let dir = bin.with_file_name("module");
    for folder in [bin, &dir] {
        fs::create_dir_all(folder)?;
    }
    if let Some(source) = source {
        fs::write(dir.join("main.go"), source)?;
    }
    // `replace` lines of a program's own go.mod do not count here; none of these has any.
    fs::write(dir.join("go.mod"), "module cosmolet.test/tools\n\ngo 1.25.0\n")?;
    shell::run_quietly(&format!("{what}: its modules"), go_command(&go, &dir).arg("get").args(wanted))?;
    compile(&go, &dir, file, package, "-s -w", what)
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
