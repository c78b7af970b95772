//! `cargo xtask test`: every check and every test, as CI runs them.
//!
//! Owns the order of the steps and the closing line. A check that fails does not stop the ones after it; what does not
//! compile does.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::image;
use crate::lab::{self, PROFILE};
use crate::setup::frr::Frr;
use crate::setup::{self, Group};
use crate::shell;
use crate::suites::{self, Count, Mode, Suite};
use crate::tidy;

/// What the fast tests of the lab's suites are called.
const QUICK: &str = "quick_";

/// The suites that a whole run repeats with other versions of FRR.
const FRR_SUITES: [&str; 2] = ["cosmolet-tests/frr", "cosmolet-tests/daemon"];

/// What to test.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only what gives an answer in under two minutes: format, tidy, unit tests, and the lab tests named `quick_…`.
    #[arg(long)]
    quick: bool,
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
    /// Do not run the lab's suites, which need root: their tests count as skipped.
    #[arg(long, conflicts_with = "sudo")]
    no_root: bool,
    /// Start the lab's suites, and only those, through sudo.
    #[arg(long)]
    sudo: bool,
    /// Run the lab's suites, and only those, with the FRR of this Debian release (bookworm, trixie, sid) instead of the
    /// machine's.
    #[arg(long, value_name = "RELEASE", conflicts_with = "no_root")]
    frr: Option<String>,
    /// Only tests whose names contain one of these; the checks before the tests are left out.
    filter: Vec<String>,
}

/// Runs the steps, prints the closing line `N passed, N failed, N skipped`, and fails if anything failed.
pub fn run(options: &Options) -> ExitCode {
    if !shell::is_root() && !options.no_root && !options.sudo {
        eprintln!(
            "error: the lab's suites make network namespaces and load eBPF programs: that needs root.\n\
             `cargo xtask test --sudo` starts those suites through sudo; `cargo xtask test --no-root` leaves them out \
             and counts their tests as skipped."
        );
        return ExitCode::FAILURE;
    }
    let mut report = Report::default();
    if let Err(error) = steps(options, &mut report) {
        println!("error: {error:#}");
    }
    report.close()
}

fn steps(options: &Options, report: &mut Report) -> Result<()> {
    let groups =
        [Group::Build, Group::Ebpf, Group::Lab, Group::Kube, Group::Cluster, Group::Frr, Group::Browser, Group::Book];
    let needs = setup::Options::only(options.yes, &groups);
    report.must("setup", || setup::run(&needs))?;
    let checks = options.filter.is_empty() && options.frr.is_none();
    if checks {
        report.step("format", || shell::run(shell::cargo().args(["fmt", "--all", "--", "--check"])));
        report.step("tidy", tidy::run);
    }
    report.must("build the eBPF programs", lab::build_ebpf)?;
    let mut suites = Vec::new();
    report.must(&format!("build the daemon, the lab and the tests (profile {PROFILE})"), || {
        suites = suites::build()?;
        Ok(())
    })?;
    let full = !options.quick && checks;
    if full {
        report.step("clippy", || {
            shell::run(shell::cargo().args(["clippy", "--profile", PROFILE, "--all-targets", "--", "-D", "warnings"]))
        });
        report.step("documentation", documentation);
    }
    if full && !options.no_root {
        // Here it says how far it is; the suites find it current.
        report.step("the container image", || image::run(&image::Options::of(lab::daemon(), options.yes)));
    }
    let daemon = lab::daemon();
    let mode = Mode { filters: &options.filter, sudo: options.sudo, daemon: &daemon, frr: None };
    if let Some(release) = &options.frr {
        let mut frr = Vec::new();
        report.must("the FRR asked for", || {
            frr.push(setup::frr::unpack(release)?);
            Ok(())
        })?;
        with_frr(&suites, mode, &frr, |suite| suite.lab, report);
        return Ok(());
    }
    run_suites(options, &suites, mode, report);
    if full {
        if !options.no_root {
            let mut others = Vec::new();
            report.must("the FRR of other releases", || {
                others = setup::frr::others()?;
                Ok(())
            })?;
            with_frr(&suites, mode, &others, |suite| FRR_SUITES.contains(&suite.name.as_str()), report);
        }
        report.doctests();
    }
    Ok(())
}

/// Runs suites with other versions of FRR.
fn with_frr(suites: &[Suite], mode: Mode<'_>, versions: &[Frr], wanted: impl Fn(&Suite) -> bool, report: &mut Report) {
    for frr in versions {
        let mode = Mode { frr: Some(&frr.programs), ..mode };
        for suite in suites.iter().filter(|suite| wanted(suite)) {
            report.suite(&format!("{} with FRR {}", suite.name, frr.name), || suite.run(mode));
        }
    }
}

fn documentation() -> Result<()> {
    shell::run(shell::cargo().args(["doc", "--profile", PROFILE, "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn run_suites(options: &Options, suites: &[Suite], mode: Mode<'_>, report: &mut Report) {
    let quick = [QUICK.to_owned()];
    for suite in suites {
        let filters =
            if options.quick && suite.lab && options.filter.is_empty() { &quick[..] } else { &options.filter };
        let mode = Mode { filters, ..mode };
        if suite.lab && options.no_root {
            report.suite(&format!("{} (skipped: --no-root)", suite.name), || suite.skip(mode));
        } else {
            report.suite(&suite.name, || suite.run(mode));
        }
    }
}

/// What has happened so far.
#[derive(Debug)]
struct Report {
    started: Instant,
    step: u32,
    count: Count,
    failed_steps: Vec<String>,
    times: Vec<(String, Duration)>,
}

impl Default for Report {
    fn default() -> Self {
        Self { started: Instant::now(), step: 0, count: Count::default(), failed_steps: Vec::new(), times: Vec::new() }
    }
}

impl Report {
    /// A check: a failure is counted, and the run goes on.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        let begun = self.begin(name);
        let outcome = work();
        self.end(name, begun, outcome.is_ok());
        if let Err(error) = outcome {
            println!("{error:#}");
            self.failed_steps.push(name.to_owned());
            self.count.failed += 1;
        }
    }

    /// A step that everything after it stands on: a failure ends the run.
    fn must(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let failures = self.failed_steps.len();
        self.step(name, work);
        if self.failed_steps.len() > failures {
            bail!("nothing after `{name}` can run");
        }
        Ok(())
    }

    /// A suite: its tests are added up.
    fn suite(&mut self, name: &str, work: impl FnOnce() -> Count) {
        let begun = self.begin(name);
        let count = work();
        self.count += count;
        self.end(name, begun, count.failed == 0);
        if count.failed > 0 {
            self.failed_steps.push(name.to_owned());
        }
    }

    fn doctests(&mut self) {
        let mut cargo = shell::cargo();
        cargo.args(["test", "--profile", PROFILE, "--doc", "--quiet"]);
        self.suite("examples in the documentation", || {
            let Ok(output) = cargo.output() else { return Count { failed: 1, ..Count::default() } };
            let text = String::from_utf8_lossy(&output.stdout);
            let mut count = Count::default();
            text.lines().filter_map(suites::summary).for_each(|part| count += part);
            if !output.status.success() {
                println!("{text}{}", String::from_utf8_lossy(&output.stderr));
                count.failed = count.failed.max(1);
            }
            count
        });
    }

    fn begin(&mut self, name: &str) -> Instant {
        self.step += 1;
        println!("\n── {} · {name} · at {} s", self.step, self.started.elapsed().as_secs());
        Instant::now()
    }

    fn end(&mut self, name: &str, begun: Instant, good: bool) {
        let took = begun.elapsed();
        println!("── {} · {name} · {:.1} s", if good { "done" } else { "FAILED" }, took.as_secs_f32());
        self.times.push((name.to_owned(), took));
    }

    fn close(&self) -> ExitCode {
        println!("\n{:>8}  step", "seconds");
        for (name, took) in &self.times {
            println!("{:>8.1}  {name}", took.as_secs_f32());
        }
        println!("{:>8.1}  in all", self.started.elapsed().as_secs_f32());
        for name in &self.failed_steps {
            println!("failed: {name}");
        }
        let Count { passed, failed, skipped } = self.count;
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
