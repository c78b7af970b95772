//! The benches: measures the promised figures, prints one table and writes it as JSON.
#![allow(clippy::print_stdout, reason = "the benches talk to a person")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use cosmolet_tests::bench::figure::{self, Figure};
use cosmolet_tests::bench::{ENTRIES, Entry};
use cosmolet_tests::{interrupt, lab};

/// Measures each figure against a baseline of the same run, turn by turn, and compares it with its target.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 110)]
struct Args {
    /// Only the entries whose names contain one of these; all when there are none.
    filters: Vec<String>,
    /// List the entries and measure nothing.
    #[arg(long)]
    list: bool,
    /// Take few rounds: shows that everything can be measured, not what it comes to.
    #[arg(long)]
    quick: bool,
    /// Fail when a target is not met.
    #[arg(long)]
    check: bool,
    /// Where to write the figures as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    json: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(missed) if args.check && missed > 0 => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many targets were not met.
fn run(args: &Args) -> Result<usize> {
    let chosen: Vec<&Entry> = ENTRIES.iter().filter(|entry| is_chosen(entry.name, &args.filters)).collect();
    ensure!(!chosen.is_empty(), "no entry matches {:?}; --list shows all", args.filters);
    if args.list {
        chosen.iter().for_each(|entry| println!("{:<20} {}", entry.name, entry.about));
        return Ok(0);
    }
    ensure!(lab::is_root(), "the benches need root: they load eBPF programs and run FRR in network namespaces");
    interrupt::clean_up_on_signals();
    let mut figures = Vec::new();
    for entry in chosen {
        let began = Instant::now();
        println!("{}: {} ...", entry.name, entry.about);
        let found = entry.measure(args.quick).with_context(|| entry.name)?;
        println!("{}  ({:.0} s)\n", figure::table(&found), began.elapsed().as_secs_f64());
        figures.extend(found);
        // What has been measured is kept, whatever comes of the rest.
        write(&args.json, &figures)?;
    }
    println!("{}\nwritten to {}", figure::table(&figures), args.json.display());
    let missed = figures.iter().filter(|figure| figure.is_met() == Some(false)).count();
    let targets = figures.iter().filter(|figure| figure.target.is_some()).count();
    println!("{} of {targets} targets met", targets - missed);
    Ok(missed)
}

fn is_chosen(name: &str, filters: &[String]) -> bool {
    filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
}

fn write(path: &Path, figures: &[Figure]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let text = serde_json::to_string_pretty(&figure::json(figures))?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parts_of_names() {
        let chosen = |filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
            ENTRIES.iter().filter(|entry| is_chosen(entry.name, &filters)).count()
        };
        assert_eq!(chosen(&[]), ENTRIES.len());
        assert_eq!(chosen(&["vips"]), 4);
        assert_eq!(chosen(&["peers"]), 3);
        assert_eq!(chosen(&["engine", "one-vip"]), 3);
        assert_eq!(chosen(&["no such"]), 0);
    }
}
