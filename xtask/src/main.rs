//! `cargo xtask`: sets a machine up, builds, tests, demonstrates and packages cosmolet.
//!
//! Owns the order of the steps and what they need from the machine. Depends on no other member of the workspace, so
//! that it builds in seconds and can never be broken by what it builds.
#![allow(clippy::print_stdout, reason = "a command line tool talks on its standard output")]
#![allow(unreachable_pub, reason = "in a program nothing is reachable: `pub` marks what a module offers to the others")]

mod book;
mod build_ebpf;
mod dashboards;
mod deploy;
mod dist;
mod docs;
mod fuzz;
mod generated;
mod image;
mod lab;
mod setup;
mod shell;
mod suites;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::setup::Group;

/// Everything one does with a checkout of cosmolet.
///
/// On a fresh Debian 12/13 or Ubuntu 24.04 machine with Rust, start with `cargo xtask demo` (sees cosmolet work, on real
/// FRR, in network namespaces) or `cargo xtask test` (checks everything, as CI does). Both install what is missing,
/// after asking.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what this machine lacks: apt packages, the BPF toolchain, a kube-apiserver.
    Setup(setup::Options),
    /// Compile the eBPF programs; a plain `cargo build` embeds the object afterwards.
    BuildEbpf(build_ebpf::Options),
    /// Run every check and every test, as CI does.
    Test(test::Options),
    /// Raise a fabric with real FRR, run two daemons, break things, and show what the ToR saw.
    Demo(lab::Options),
    /// Raise a real Kubernetes cluster on the lab's fabric and leave it up; end it; show it.
    Cluster(lab::KeptOptions),
    /// Raise two data centres of spines, leaves and nodes on real FRR and leave them up; end them; break them scene by scene.
    Fabric(lab::KeptOptions),
    /// Measure the figures, as ratios against baselines of the same run.
    Bench(lab::Options),
    /// Judge made-up traffic of 30 days by the traffic verdict's rule: false withdrawals, times to detection.
    Simulate(lab::SimulateOptions),
    /// Check what no compiler checks: who may import whom, file lengths, left-overs.
    Tidy,
    /// Write the tables of docs/ that the code generates.
    Docs,
    /// Make a book of docs/, in target/book.
    Book(book::Options),
    /// Build the release binary and pack it with charts, manifests and licence into target/dist.
    Dist(dist::Options),
    /// Build the container image by buildah, without a registry, into target/image.
    Image(image::Options),
    /// Make the chart's Grafana dashboards from their table of panels.
    Dashboards(generated::Options),
    /// Make the plain manifests in deploy/ from the chart.
    Deploy(generated::Options),
    /// Run a fuzz target (or list them).
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::BuildEbpf(options) => build_ebpf::run(&options),
        Command::Test(options) => return test::run(&options),
        Command::Demo(options) => lab::run("demo", &options),
        Command::Cluster(options) => lab::kept("cluster", &options, &[Group::Kube, Group::Cluster]),
        Command::Fabric(options) => lab::kept("fabric", &options, &[]),
        Command::Bench(options) => lab::run("bench", &options),
        Command::Simulate(options) => lab::simulate(&options),
        Command::Tidy => tidy::run(),
        Command::Docs => docs::run(),
        Command::Book(options) => book::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Image(options) => image::run(&options),
        Command::Dashboards(options) => dashboards::run(&options),
        Command::Deploy(options) => deploy::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
