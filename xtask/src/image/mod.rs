//! `cargo xtask image`: the image of the Dockerfile, built by buildah into an archive that every runtime loads.
//!
//! Owns what to build, from what, and the note beside the archive that says what it was made from. Never pushes anywhere.

mod context;
mod store;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Group};
use crate::shell;
use context::Daemon;
use store::{Bases, Store};

/// An architecture as registries spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    /// x86-64
    Amd64,
    /// AArch64
    Arm64,
}

impl Arch {
    const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn own() -> Result<Self> {
        match env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("images are built on x86_64 and aarch64, not on {other}"),
        }
    }
}

/// What to build, from what, and where to put it.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// The architecture to build for; this machine's own when not given.
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Put this binary of the daemon into the image, which was compiled on this machine, instead of compiling one.
    #[arg(long, conflicts_with = "arch")]
    prebuilt: Option<PathBuf>,
    /// The Dockerfile's `BUILD_IMAGE`; made here from Debian's packages when not given.
    #[arg(long)]
    build_image: Option<String>,
    /// The Dockerfile's `FINAL_IMAGE`; made here from Debian's packages when not given.
    #[arg(long)]
    final_image: Option<String>,
    /// The archive (docker-archive); target/image/cosmolet-ARCH.tar when not given, cosmolet-prebuilt.tar with `--prebuilt`.
    #[arg(long)]
    output: Option<PathBuf>,
    /// The image's name in the archive; the chart's own when not given.
    #[arg(long)]
    name: Option<String>,
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
}

impl Options {
    /// The image of a binary that is there, at its usual place.
    pub fn of(daemon: PathBuf, yes: bool) -> Self {
        Self { prebuilt: Some(daemon), yes, ..Self::default() }
    }
}

/// Builds the archive, unless it is there and made from the same sources.
pub fn run(options: &Options) -> Result<()> {
    let groups: &[Group] = if options.prebuilt.is_some() { &[Group::Image] } else { &[Group::Ebpf, Group::Image] };
    setup::run(&setup::Options::only(options.yes, groups))?;
    let daemon = match &options.prebuilt {
        Some(file) => Daemon::Prebuilt(fs::canonicalize(file).with_context(|| file.display().to_string())?),
        None => {
            crate::lab::build_ebpf()?;
            Daemon::Sources
        }
    };
    let arch = options.arch.map_or_else(Arch::own, Ok)?;
    let output = output(options, arch)?;
    let name = options.name.clone().unwrap_or_else(|| format!("ghcr.io/platformbuilds/cosmolet:{}", version()));
    let bases = Bases::of(options, arch)?;
    let inputs = format!("{}\n{name} {} {} {}\n", daemon.inputs()?, arch.name(), bases.build, bases.fin);
    let note = output.with_extension("inputs");
    // Who builds the same archive at the same time waits, and finds it current.
    let _lock = shell::lock(&output.with_extension("lock"))?;
    if output.is_file() && fs::read_to_string(&note).is_ok_and(|old| old == inputs) {
        println!("image: {} is up to date", output.display());
        return Ok(());
    }
    let store = Store::open()?;
    // Nothing is told from a note whose archive is being replaced.
    if note.exists() {
        fs::remove_file(&note)?;
    }
    store.make(&bases)?;
    let context = daemon.context(&output)?;
    store.build(&context, &bases, arch)?;
    fs::remove_dir_all(&context)?;
    store.export(&name, &output)?;
    fs::write(&note, inputs)?;
    let size = fs::metadata(&output)?.len() / 1_000_000;
    println!("image: {name} for {} in {} ({size} MB)", arch.name(), output.display());
    Ok(())
}

const fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn output(options: &Options, arch: Arch) -> Result<PathBuf> {
    let kind = if options.prebuilt.is_some() { "prebuilt" } else { arch.name() };
    let file = match &options.output {
        Some(file) => env::current_dir()?.join(file),
        None => shell::target_dir().join(format!("image/cosmolet-{kind}.tar")),
    };
    let folder: &Path = file.parent().context("the archive needs a folder to be in")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(file)
}
