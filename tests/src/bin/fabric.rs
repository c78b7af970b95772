//! A Clos fabric with two data centres: raises it and leaves it up, ends it, breaks it scene by scene, shows its configurations.
#![allow(clippy::print_stdout, reason = "a command line tool talks on its standard output")]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use cosmolet_tests::clos::plan::{self, Device, Role};
use cosmolet_tests::clos::story::{SCENES, Story};
use cosmolet_tests::clos::{Clos, config};
use cosmolet_tests::keeper::Keeper;
use cosmolet_tests::report::{self, Step, Table};
use cosmolet_tests::{interrupt, lab};

/// Two data centres of real FRR in network namespaces, with VIPs served by both: see docs/fabric.md.
#[derive(Debug, Parser)]
#[command(name = "fabric", bin_name = "cargo xtask fabric", max_term_width = 110)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Raise it, wait until every VIP is carried everywhere, and say how to look around.
    Up,
    /// End it and leave nothing.
    Down,
    /// Say whether it is up, and how to look around.
    Status,
    /// Raise one, break it scene by scene under traffic, show what switches and clients saw, and end it.
    Demo {
        /// Only the scenes whose name has this in it.
        scene: Option<String>,
    },
    /// Print the frr.conf of a device, such as dc1-leaf1; without a name, the names.
    Config { device: Option<String> },
    /// Own the fabric; what `up` starts.
    #[command(hide = true)]
    Keep,
}

const KEEPER: Keeper = Keeper("fabric");

fn main() -> ExitCode {
    let outcome = match Args::parse().verb {
        Verb::Up => KEEPER.up(&[]),
        Verb::Down => KEEPER.down(),
        Verb::Status => KEEPER.status(),
        Verb::Demo { scene } => demo(scene.as_deref()),
        Verb::Config { device } => show(device.as_deref()),
        Verb::Keep => KEEPER.keep(|say| {
            let clos = Clos::raise(say)?;
            let notes = clos.look_around()?;
            Ok((clos, notes))
        }),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(name: Option<&str>) -> Result<ExitCode> {
    let devices = plan::devices();
    let Some(name) = name else {
        devices.iter().for_each(|device| println!("{}", device.name()));
        return Ok(ExitCode::SUCCESS);
    };
    let found: Option<&Device> = devices.iter().find(|device| device.name() == name);
    let device = found.with_context(|| format!("there is no device {name}: `cargo xtask fabric config` lists them"))?;
    print!("{}", config::whole(*device));
    Ok(ExitCode::SUCCESS)
}

fn demo(filter: Option<&str>) -> Result<ExitCode> {
    ensure!(lab::is_root(), "the demo needs root: it makes network namespaces and runs FRR in them");
    let scenes: Vec<_> = SCENES.into_iter().filter(|(name, _)| filter.is_none_or(|word| name.contains(word))).collect();
    ensure!(!scenes.is_empty(), "no scene has {:?} in its name", filter.unwrap_or_default());
    interrupt::clean_up_on_signals();
    let started = Instant::now();
    let switches = plan::devices().iter().filter(|device| device.role != Role::Node).count();
    println!(
        "Raising two data centres: {switches} switches and {} nodes, real FRR in each ...",
        plan::devices().len() - switches
    );
    let mut clos = Clos::raise(|step| println!("{:>5.1} s  {step}", started.elapsed().as_secs_f64()))?;
    let mut table = Table::new(["cause", "what was seen, where", "after", "failed requests"]);
    let mut outcome = Ok(());
    for (name, scene) in scenes {
        println!("\n{name}");
        let steps = Story::begin(&mut clos).and_then(|mut story| scene(&mut story));
        match steps {
            Ok(steps) => steps.into_iter().for_each(|step| add(&mut table, step)),
            Err(error) => {
                outcome = Err(error.context(name));
                break;
            }
        }
    }
    println!("\n{table}");
    Ok(report::ending("scene", outcome, started))
}

fn add(table: &mut Table, step: Step) {
    let failed = report::failed(&step.requests);
    println!("  {}: {}: {}; failed requests {failed}", step.cause, step.effect, step.took);
    table.row([step.cause, step.effect, step.took, failed]);
}
