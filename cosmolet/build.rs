//! Hands the compiled eBPF programs to the daemon, which embeds them.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Takes the object of another build instead of this workspace's.
const OVERRIDE: &str = "COSMOLET_EBPF_OBJECT";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let object = object()?;
    println!("cargo::rerun-if-changed={}", object.display());
    let destination = Path::new(&variable("OUT_DIR")?).join("cosmolet-ebpf.o");
    fs::copy(&object, &destination).map(drop).map_err(|error| {
        let path = object.display();
        format!("the eBPF programs are not at {path} ({error}); build them with: cargo xtask build-ebpf")
    })
}

/// Where `cargo xtask build-ebpf` puts the object.
fn object() -> Result<PathBuf, String> {
    if let Some(chosen) = env::var_os(OVERRIDE) {
        return Ok(chosen.into());
    }
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |own| workspace.join(own));
    Ok(target.join("ebpf/cosmolet-ebpf.o"))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo did not set {name}: {error}"))
}
