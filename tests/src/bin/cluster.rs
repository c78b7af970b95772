//! Raises a real cluster and leaves it up; ends it; shows it.
//!
//! `up` starts a keeper, detached from the terminal, which owns the cluster and ends it when it ends.
#![allow(clippy::print_stdout, reason = "a command line tool talks on its standard output")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use cosmolet_tests::cluster::{Cluster, Spec};
use cosmolet_tests::{interrupt, lab, process, wait};
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

const UP_LIMIT: Duration = Duration::from_secs(600);
const DOWN_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let outcome = match Args::parse().verb {
        Verb::Up { no_install } => up(no_install),
        Verb::Down => down(),
        Verb::Status => status(),
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

/// Where a keeper tells of itself: `pid`, `log` and, once the cluster is ready, `notes`.
fn place(file: &str) -> PathBuf {
    std::env::temp_dir().join("cosmolet-cluster").join(file)
}

/// The running keeper.
fn keeper() -> Option<u32> {
    let pid: u32 = fs::read_to_string(place("pid")).ok()?.trim().parse().ok()?;
    // Numbers are used again: it is the keeper only if it runs as one.
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    words.split(|byte| *byte == 0).any(|word| word == b"keep").then_some(pid)
}

fn up(no_install: bool) -> Result<ExitCode> {
    ensure!(lab::is_root(), "a cluster needs root: it makes network namespaces and runs FRR and containers in them");
    if keeper().is_some() {
        println!("It is up already.\n\n{}", fs::read_to_string(place("notes")).unwrap_or_default());
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    fs::create_dir_all(place(""))?;
    for file in ["pid", "notes"] {
        drop(fs::remove_file(place(file)));
    }
    let log = File::create(place("log"))?;
    // A session of its own: neither Ctrl-C nor the terminal's end reaches it.
    let mut keeper = Command::new("setsid")
        .arg(std::env::current_exe()?)
        .arg("keep")
        .args(no_install.then_some("--no-install"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the keeper")?;
    let mut told = File::open(place("log"))?;
    let outcome = wait::until("the cluster", UP_LIMIT, || {
        let mut text = String::new();
        told.read_to_string(&mut text)?;
        print!("{text}");
        std::io::stdout().flush()?;
        if let Some(ended) = keeper.try_wait()? {
            return Ok(Some(Err(anyhow::anyhow!("the cluster could not be raised ({ended})"))));
        }
        Ok(place("notes").exists().then_some(Ok(())))
    })?;
    outcome?;
    println!("up after {:.0} s\n\n{}", started.elapsed().as_secs_f64(), fs::read_to_string(place("notes"))?);
    Ok(ExitCode::SUCCESS)
}

fn down() -> Result<ExitCode> {
    let Some(pid) = keeper() else {
        println!("It is not up.");
        lab::sweep();
        return Ok(ExitCode::SUCCESS);
    };
    process::terminate_pid(i32::try_from(pid)?);
    wait::until_true("the keeper's end", DOWN_LIMIT, || Ok(keeper().is_none()))?;
    lab::sweep();
    fs::remove_dir_all(place(""))?;
    println!("It is down.");
    Ok(ExitCode::SUCCESS)
}

fn status() -> Result<ExitCode> {
    match (keeper(), fs::read_to_string(place("notes"))) {
        (Some(pid), Ok(notes)) => {
            println!("It is up (keeper {pid}).\n\n{notes}");
            Ok(ExitCode::SUCCESS)
        }
        (Some(_), Err(_)) => bail!("it is being raised: {}", place("log").display()),
        (None, _) => {
            println!("It is not up.");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn keep(no_install: bool) -> Result<ExitCode> {
    interrupt::clean_up_on_signals();
    fs::write(place("pid"), std::process::id().to_string())?;
    let started = Instant::now();
    let say = |step: &str| println!("{:>5.1} s  {step}", started.elapsed().as_secs_f64());
    let cluster = Cluster::raise(&Spec::default(), say)?;
    if !no_install {
        say("cosmolet, by helm");
        cluster.install(&json!({}))?;
    }
    fs::write(place("draft"), cluster.look_around()?)?;
    fs::rename(place("draft"), place("notes"))?;
    interrupt::wait();
}
