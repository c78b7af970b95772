//! `cargo xtask build-ebpf`: compiles the eBPF programs.
//!
//! Owns the choice of a toolchain that can compile for `bpfel-unknown-none` and the object's place. Installs nothing:
//! it names what is missing and the command that installs it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fmt, fs};

use anyhow::{Context, Result, bail, ensure};

/// The target of the programs; the daemon's hosts are all little-endian.
const TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler with a `core` for BPF.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Where Debian's package `libstd-rust-web-dev-bpf` puts that `core`.
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";
/// The command that installs what is missing.
const INSTALL: &str = "cargo xtask setup";

/// What the user may choose.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Take this toolchain instead of the first that works
    #[arg(long, value_enum)]
    pub toolchain: Option<Toolchain>,
}

/// A way to compile for BPF.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// Debian's packages rustc-web and libstd-rust-web-dev-bpf: their `core` for BPF is compiled already
    Debian,
    /// rustup's nightly with rust-src: it compiles `core` for BPF itself
    Nightly,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "debian",
            Self::Nightly => "nightly",
        })
    }
}

/// Compiles the programs to [`object_path`]; nearly free if nothing has changed. The object's file is only touched
/// if its contents change.
///
/// # Errors
/// Names what is missing and the command that installs it, or that the compiler failed.
pub fn run(options: &Options) -> Result<()> {
    let linker = find_linker()?;
    let (toolchain, why) = choose(options.toolchain)?;
    eprintln!("build-ebpf: toolchain {toolchain}: {why}; linker {}", linker.display());
    let directory = target_directory().join("ebpf");
    let target = directory.join(format!("build-{toolchain}"));
    let status = compiler(toolchain, &linker, &target)?.status().context("cannot start cargo")?;
    ensure!(status.success(), "the eBPF programs do not compile (cargo: {status})");
    publish(&target.join(TARGET).join("release/cosmolet-ebpf"), &object_path())
}

/// Where the object is: `target/ebpf/cosmolet-ebpf.o`, with `CARGO_TARGET_DIR` instead of `target` if it is set.
/// The daemon's build script looks there.
#[must_use]
pub fn object_path() -> PathBuf {
    target_directory().join("ebpf/cosmolet-ebpf.o")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

fn target_directory() -> PathBuf {
    // A relative CARGO_TARGET_DIR is relative to where cargo was started; `cargo xtask` is started in the workspace.
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |chosen| workspace().join(chosen))
}

/// bpf-linker from PATH, or from where `cargo xtask setup` puts it.
fn find_linker() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .map(|cache| cache.join("cosmolet/bpf-linker/bin"));
    env::split_paths(&path)
        .chain(cache)
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("bpf-linker is missing; install it with: {INSTALL}"))
}

/// The toolchain and why it was taken.
fn choose(wanted: Option<Toolchain>) -> Result<(Toolchain, &'static str)> {
    match wanted {
        Some(wanted) => {
            let usable = match wanted {
                Toolchain::Debian => debian(),
                Toolchain::Nightly => nightly(),
            };
            usable.with_context(|| format!("no toolchain {wanted}; install one with: {INSTALL}"))?;
            Ok((wanted, "as asked for"))
        }
        None => {
            let Err(no_debian) = debian() else {
                return Ok((Toolchain::Debian, "Debian's rustc is here with a core for BPF"));
            };
            let Err(no_nightly) = nightly() else {
                return Ok((Toolchain::Nightly, "no Debian core for BPF here, but a nightly with rust-src"));
            };
            bail!("no toolchain compiles for {TARGET}: {no_debian}; {no_nightly}. Install one with: {INSTALL}")
        }
    }
}

fn debian() -> Result<()> {
    ensure!(Path::new(DEBIAN_RUSTC).is_file(), "{DEBIAN_RUSTC} is missing (package rustc-web)");
    let has_core = fs::read_dir(DEBIAN_CORE).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    ensure!(has_core, "{DEBIAN_CORE} has no core (package libstd-rust-web-dev-bpf)");
    Ok(())
}

fn nightly() -> Result<()> {
    let output = clean(Command::new("rustup"))
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .output()
        .context("rustup is missing")?;
    ensure!(output.status.success(), "rustup has no nightly");
    let sysroot = String::from_utf8(output.stdout).context("the nightly's sysroot is no UTF-8")?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    ensure!(library.is_file(), "the nightly lacks rust-src");
    Ok(())
}

fn compiler(toolchain: Toolchain, linker: &Path, target: &Path) -> Result<Command> {
    let mut command = match toolchain {
        Toolchain::Debian => {
            // cargo itself is any; it is told which compiler to use.
            let mut command = clean(Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))));
            command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            command
        }
        Toolchain::Nightly => {
            let mut command = clean(Command::new("rustup"));
            command.args(["run", "nightly", "cargo", "-Z", "build-std=core"]);
            command
        }
    };
    let linker = linker.to_str().context("the path of bpf-linker is no UTF-8")?;
    let workspace = workspace();
    let flags = [
        "-C".to_owned(),
        format!("linker={linker}"),
        "-Clink-arg=--btf".to_owned(),
        // The kernel refuses the type of a closure as a function of its own, and the logging macros are full of them.
        "-Clink-arg=--llvm-args=-inline-threshold=100000".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--remap-path-prefix={}=.", workspace.display()),
    ];
    command
        .args(["build", "--quiet", "--release", "--package", "cosmolet-ebpf", "--target", TARGET, "--target-dir"])
        .arg(target)
        .current_dir(&workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none");
    Ok(command)
}

/// Removes what an outer cargo leaves in the environment and what would lead the inner one elsewhere.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let leads_astray = text == "RUSTC"
            || text.starts_with("RUSTC_")
            || text.starts_with("RUSTFLAGS")
            || text == "RUSTUP_TOOLCHAIN"
            || text.starts_with("CARGO_ENCODED_")
            || text.starts_with("CARGO_BUILD_")
            || text.starts_with("CARGO_PROFILE_")
            || text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_TARGET_")
            || text.starts_with("DEP_")
            || text == "CARGO_CRATE_NAME"
            || text == "CARGO_BIN_NAME"
            || text == "CARGO_PRIMARY_PACKAGE"
            || text == "CARGO"
            || text == "LD_LIBRARY_PATH";
        if leads_astray {
            command.env_remove(name);
        }
    }
    command
}

/// The object without DWARF, which makes up six of its seven parts and which nothing reads: BTF stays.
fn stripped(built: &Path) -> Result<Vec<u8>> {
    ensure!(built.is_file(), "cargo has not built {}", built.display());
    let slim = built.with_extension("stripped");
    let mut tools = vec![PathBuf::from("llvm-objcopy")];
    if let Ok(entries) = fs::read_dir("/usr/lib") {
        let versions = entries.flatten().map(|entry| entry.path().join("bin/llvm-objcopy"));
        tools.extend(versions.filter(|path| path.is_file()));
    }
    for tool in tools {
        let done = Command::new(&tool).arg("--strip-debug").arg(built).arg(&slim).output();
        if done.is_ok_and(|output| output.status.success()) {
            return Ok(fs::read(&slim)?);
        }
    }
    eprintln!("build-ebpf: no llvm-objcopy: the object keeps its debugging information");
    Ok(fs::read(built)?)
}

/// Puts the object in its place, unless it is there already.
fn publish(built: &Path, object: &Path) -> Result<()> {
    let new = stripped(built)?;
    if fs::read(object).is_ok_and(|old| old == new) {
        eprintln!("build-ebpf: {} is up to date", object.display());
        return Ok(());
    }
    let next = object.with_extension("o.next");
    fs::write(&next, &new).with_context(|| format!("cannot write {}", next.display()))?;
    fs::rename(&next, object).with_context(|| format!("cannot write {}", object.display()))?;
    eprintln!("build-ebpf: wrote {} ({} bytes)", object.display(), new.len());
    Ok(())
}
