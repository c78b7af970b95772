//! Raises a real cluster and leaves it up; ends it; shows it.
//!
//! `up` starts a keeper, detached from the terminal, which owns the cluster and ends it when it ends.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use cosmolet_tests::cluster::{Cluster, Spec};
use cosmolet_tests::keeper::Keeper;
use serde_json::json;

/// A real Kubernetes cluster on the lab's fabric: a ToR, a client, two nodes with FRR, and cosmolet on them.
#[derive(Debug, Parser)]
#[command(name = "cluster", bin_name = "cargo xtask cluster", max_term_width = 110)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Raise it, wait until it is ready, and say how to look around.
    Up {
        /// Leave cosmolet out.
        #[arg(long)]
        no_install: bool,
    },
    /// End it and leave nothing.
    Down,
    /// Say whether it is up, and how to look around.
    Status,
    /// Own the cluster; what `up` starts.
    #[command(hide = true)]
    Keep {
        #[arg(long)]
        no_install: bool,
    },
}

const KEEPER: Keeper = Keeper("cluster");

fn main() -> ExitCode {
    let outcome = match Args::parse().verb {
        Verb::Up { no_install } => KEEPER.up(if no_install { &["--no-install"] } else { &[] }),
        Verb::Down => KEEPER.down(),
        Verb::Status => KEEPER.status(),
        Verb::Keep { no_install } => keep(no_install),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn keep(no_install: bool) -> Result<ExitCode> {
    KEEPER.keep(|say| {
        let cluster = Cluster::raise(&Spec::default(), say)?;
        if !no_install {
            say("cosmolet, by helm");
            cluster.install(&json!({}))?;
        }
        let notes = cluster.look_around()?;
        Ok((cluster, notes))
    })
}
