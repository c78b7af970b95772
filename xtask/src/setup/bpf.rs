//! The toolchain of the eBPF programs: a rustc with a `core` for BPF, and bpf-linker.
//!
//! Two ways, and either will do: Debian's `rustc-web` with its prebuilt `core` for BPF, or rustup's nightly with
//! rust-src, which compiles `core` itself.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Group;
use super::apt::Apt;
use super::table::{Install, Need};
use crate::shell;

/// The bpf-linker release that the programs are linked with.
const LINKER_VERSION: &str = "0.13.0";

/// LLVM releases that this bpf-linker can be built against, the newest first.
const LLVM: [u32; 3] = [23, 22, 21];

/// Debian's compiler and its `core` for BPF.
const RUSTC_WEB: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

pub(super) fn needs() -> [Need; 2] {
    [
        Need {
            name: "rustc for BPF",
            why: "compiles the eBPF programs (Debian's rustc-web with its core for BPF, or rustup's nightly)",
            group: Group::Ebpf,
            present: || rustc_web_present() || nightly_present(),
            install: Install::Build { packages: &[], build: install_rustc },
        },
        Need {
            name: "bpf-linker",
            why: "links the eBPF programs into one object with BTF",
            group: Group::Ebpf,
            present: || linker().is_ok_and(|file| file.is_file()) || shell::which("bpf-linker").is_some(),
            install: Install::Build { packages: &[], build: install_linker },
        },
    ]
}

fn linker_root() -> Result<PathBuf> {
    Ok(shell::cache_dir()?.join("bpf-linker"))
}

fn linker() -> Result<PathBuf> {
    Ok(linker_root()?.join("bin/bpf-linker"))
}

fn rustc_web_present() -> bool {
    Path::new("/usr/bin/rustc").is_file() && Path::new("/usr/lib/rustlib/bpfel-unknown-none").is_dir()
}

/// Looks at rustup's folders: asking rustup would download what it does not have.
fn nightly_present() -> bool {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup")));
    let Some(toolchains) = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()) else { return false };
    toolchains.flatten().any(|entry| {
        // Not a dated nightly: `+nightly` would not take it.
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("nightly-")
            && !name.starts_with("nightly-2")
            && entry.path().join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
    })
}

fn install_rustc(apt: &mut Apt) -> Result<()> {
    if apt.has(&RUSTC_WEB)? {
        apt.want("rustc for BPF", &[&RUSTC_WEB]);
        return apt.install();
    }
    if shell::which("rustup").is_none() {
        bail!(
            "this release has no {} and there is no rustup: install Rust from https://rustup.rs first",
            RUSTC_WEB.join(" and ")
        );
    }
    let arguments = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
    shell::run_quietly("rustup's nightly with rust-src", shell::command("rustup").args(arguments))
}

fn install_linker(apt: &mut Apt) -> Result<()> {
    let wanted = rustc_llvm();
    for llvm in LLVM.into_iter().filter(|llvm| *llvm >= wanted) {
        let (dev, polly) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
        if apt.has(&[&dev, &polly])? {
            apt.want("bpf-linker", &[&[&dev, &polly, "g++", "zlib1g-dev", "libzstd-dev", "libxml2-dev"]]);
            apt.install()?;
            return build_linker(llvm);
        }
    }
    download_linker(apt)
}

/// The LLVM of the compiler that will be used: bpf-linker's must not be older.
fn rustc_llvm() -> u32 {
    let mut rustc = if rustc_web_present() {
        shell::command("/usr/bin/rustc")
    } else {
        let mut rustup = shell::command("rustup");
        rustup.args(["run", "nightly", "rustc"]);
        rustup
    };
    shell::try_output(rustc.arg("-vV"))
        .and_then(|text| {
            let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.to_owned();
            version.split('.').next()?.parse().ok()
        })
        .unwrap_or(LLVM[0])
}

fn build_linker(llvm: u32) -> Result<()> {
    shell::run_quietly(
        &format!("bpf-linker {LINKER_VERSION} with LLVM {llvm}, about a minute"),
        shell::cargo()
            .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))
            .args(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION, "--no-default-features"])
            .args(["--features", &format!("llvm-{llvm}"), "--root"])
            .arg(linker_root()?),
    )
}

/// The project's own static build, where no package has an LLVM that is new enough (Ubuntu 24.04).
fn download_linker(apt: &mut Apt) -> Result<()> {
    let arch = env::consts::ARCH;
    let url = format!(
        "https://github.com/aya-rs/bpf-linker/releases/download/v{LINKER_VERSION}/bpf-linker-{arch}-unknown-linux-musl.tar.zst"
    );
    apt.want("bpf-linker", &[&["curl", "ca-certificates", "zstd"]]);
    apt.install()?;
    let bin = linker_root()?.join("bin");
    fs::create_dir_all(&bin)?;
    let archive = bin.join("bpf-linker.tar.zst");
    let what = format!("bpf-linker {LINKER_VERSION}, its project's own build");
    shell::run_quietly(&what, shell::command("curl").args(["-fsSL", "-o"]).arg(&archive).arg(&url))
        .context("no package has an LLVM that is new enough, and the prebuilt bpf-linker could not be fetched")?;
    shell::run(shell::command("tar").arg("-C").arg(&bin).arg("--zstd").arg("-xpf").arg(&archive))?;
    fs::remove_file(&archive)?;
    Ok(())
}
