//! Builds what the lab is made of, and runs its programs: the demo and the benches.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Group};
use crate::shell;

/// The profile that the daemon, the lab, the suites and the benches share, so that dependencies are compiled once.
pub const PROFILE: &str = "lab";

/// How to run one of the lab's programs.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// Leave the lab up afterwards and print how to look around in it.
    #[arg(long)]
    keep: bool,
    /// Use a real Kubernetes cluster instead of manifests directories.
    #[arg(long)]
    cluster: bool,
    /// Further arguments for the program itself; `-- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Sets up, builds, and becomes the program: a Ctrl-C reaches it directly, and it cleans up by itself.
pub fn run(program: &str, options: &Options) -> Result<()> {
    let mut groups = vec![Group::Build, Group::Ebpf, Group::Lab];
    if program == "bench" || options.cluster {
        groups.push(Group::Kube);
    }
    if options.cluster {
        groups.push(Group::Cluster);
    } else if options.keep {
        groups.push(Group::Prometheus);
    }
    if program == "bench" && asks_for_peers(&options.args) {
        groups.push(Group::Peers);
    }
    setup::run(&setup::Options::only(options.yes, &groups))?;
    build_ebpf()?;
    println!("{program}: building (profile {PROFILE}; the first time takes minutes)");
    let mut build = shell::cargo();
    build.args(["build", "--profile", PROFILE, "--bins"]);
    if program == "bench" {
        // The baselines are compiled as the daemon is: a ratio to a slower client would flatter it.
        build.args(["--config", &format!("profile.{PROFILE}.package.cosmolet-tests.opt-level=2")]);
    }
    shell::run(&mut build)?;
    let file = built(program);
    let mut command = shell::as_root(&file.to_string_lossy());
    command.env("COSMOLET_PEERS_DIR", setup::peers::folder()?);
    command.env("COSMOLET_BIN", built("cosmolet")).args(options.keep.then_some("--keep"));
    command.args(options.cluster.then_some("--cluster")).args(&options.args);
    Err(command.exec()).with_context(|| format!("cannot start {}", file.display()))
}

/// Whether the benches are to measure other speakers: they are named, or nothing is.
fn asks_for_peers(args: &[String]) -> bool {
    let mut filters = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
    let only_tells = args.iter().any(|arg| ["--list", "--help", "-h"].contains(&arg.as_str()));
    (filters.peek().is_none() && !only_tells) || filters.any(|filter| filter.starts_with("peers"))
}

/// What to do with something of the lab that stays up.
#[derive(Debug, clap::Args)]
pub struct KeptOptions {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// What to do, with its own options: `up`, `down`, `status` ...; `help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    args: Vec<String>,
}

/// Sets up what raising needs beyond the lab, builds, and becomes the program that raises, ends or shows it.
pub fn kept(program: &str, options: &KeptOptions, more: &[Group]) -> Result<()> {
    if options.args.first().is_some_and(|verb| verb == "up" || verb == "demo") {
        let groups = [&[Group::Build, Group::Ebpf, Group::Lab], more].concat();
        setup::run(&setup::Options::only(options.yes, &groups))?;
        build_ebpf()?;
        println!("{program}: building (profile {PROFILE}; the first time takes minutes)");
    }
    shell::run(shell::cargo().args(["build", "--quiet", "--profile", PROFILE, "--bins"]))?;
    let file = built(program);
    let mut command = shell::as_root(&file.to_string_lossy());
    command.env("COSMOLET_BIN", daemon()).args(&options.args);
    Err(command.exec()).with_context(|| format!("cannot start {}", file.display()))
}

/// How to run the simulation.
#[derive(Debug, clap::Args)]
pub struct SimulateOptions {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// Arguments for the simulation itself; `-- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Builds and becomes the simulation of the traffic verdict, which needs neither root nor a lab.
pub fn simulate(options: &SimulateOptions) -> Result<()> {
    setup::run(&setup::Options::only(options.yes, &[Group::Build, Group::Ebpf]))?;
    build_ebpf()?;
    shell::run(shell::cargo().args(["build", "--quiet", "--profile", PROFILE, "--bin", "simulate"]))?;
    let file = built("simulate");
    Err(Command::new(&file).args(&options.args).exec()).with_context(|| format!("cannot start {}", file.display()))
}

/// A binary of the shared profile.
pub fn built(name: &str) -> PathBuf {
    shell::target_dir().join(PROFILE).join(name)
}

/// Compiles the eBPF programs.
pub fn build_ebpf() -> Result<()> {
    crate::build_ebpf::run(&crate::build_ebpf::Options::default())
}

/// The daemon that the suites and programs of the lab run, unless the environment names another.
pub fn daemon() -> PathBuf {
    env::var_os("COSMOLET_BIN").map_or_else(|| built("cosmolet"), PathBuf::from)
}
