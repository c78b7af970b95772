//! `cargo xtask fuzz`: cargo-fuzz with the toolchain in use.
//!
//! The fuzz crate is outside the workspace. The sanitizer flags want a nightly compiler or `RUSTC_BOOTSTRAP`; the latter
//! spares a second toolchain.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::setup::{self, Group};
use crate::shell;

/// What to fuzz, and for how long.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The target; without one the targets are listed.
    target: Option<String>,
    /// Stop after this many seconds; 0 goes on until a crash or Ctrl-C.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs one target, or lists them.
pub fn run(options: &Options) -> Result<()> {
    if !shell::root().join("fuzz/Cargo.toml").is_file() {
        bail!("there is no fuzz/ in this checkout");
    }
    setup::run(&setup::Options::only(false, &[Group::Fuzz]))?;
    let mut command = shell::command(cargo_fuzz()?);
    command.env("RUSTC_BOOTSTRAP", "1").arg("fuzz");
    match &options.target {
        None => shell::run(command.arg("list")),
        Some(target) => shell::run(command.args([
            "run",
            target,
            "--",
            &format!("-max_total_time={}", options.seconds),
            "-timeout=10",
        ])),
    }
}

/// Where `cargo xtask setup --only fuzz` puts cargo-fuzz.
pub fn cargo_fuzz() -> Result<PathBuf> {
    Ok(shell::cache_dir()?.join("cargo-fuzz/bin/cargo-fuzz"))
}

/// Installs cargo-fuzz into the cache folder.
pub fn install() -> Result<()> {
    let root = shell::cache_dir()?.join("cargo-fuzz");
    shell::run_quietly(
        "cargo-fuzz, about a minute",
        shell::cargo().args(["install", "cargo-fuzz", "--version", "^0.13", "--locked", "--root"]).arg(root),
    )
}
