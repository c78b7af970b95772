//! Compiles the test binaries once, runs them one after another, and adds up what libtest says.

use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::PROFILE;
use crate::shell;

/// A suite that prints nothing for this long hangs: it is ended and counts as failed.
const SILENCE: Duration = Duration::from_secs(600);

/// The crate whose suites are the lab's: they need root.
const LAB_PACKAGE: &str = "cosmolet-tests";

/// Tests that passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Ran and held.
    pub passed: u64,
    /// Ran and did not hold, or could not be run at all.
    pub failed: u64,
    /// Were not run, on purpose.
    pub skipped: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// One test binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// `package/target`, as printed.
    pub name: String,
    /// Whether it needs root and real daemons.
    pub lab: bool,
    binary: PathBuf,
    package_dir: PathBuf,
}

/// How to run suites.
#[derive(Clone, Copy, Debug)]
pub struct Mode<'a> {
    /// Only tests whose names contain one of these; all when empty.
    pub filters: &'a [String],
    /// Start the lab's suites through sudo.
    pub sudo: bool,
    /// The daemon under test.
    pub daemon: &'a Path,
    /// The folder of FRR's programs; the machine's own where it is not given.
    pub frr: Option<&'a Path>,
}

/// Compiles the daemon, the lab's programs and every test binary in one go, so that all share one set of features.
///
/// # Errors
/// If anything does not compile; cargo has said why.
pub fn build() -> Result<Vec<Suite>> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--profile", PROFILE, "--bins", "--tests", "--message-format=json-render-diagnostics"]);
    let text = shell::output(&mut cargo)?;
    let mut suites: Vec<Suite> = text.lines().filter_map(suite).collect();
    // Quick ones first: they say soonest what is broken.
    suites.sort_by(|a, b| (a.lab, &a.name).cmp(&(b.lab, &b.name)));
    Ok(suites)
}

/// Reads one of cargo's messages: a test binary, or something else.
fn suite(line: &str) -> Option<Suite> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let package_dir = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let package = package_name(&package_dir)?;
    let (target, kind) = (message["target"]["name"].as_str()?, message["target"]["kind"][0].as_str()?);
    let integration = kind == "test";
    let name = if integration { format!("{package}/{target}") } else { format!("{package}/{kind}") };
    let binary = PathBuf::from(message["executable"].as_str()?);
    Some(Suite { name, lab: package == LAB_PACKAGE && integration, binary, package_dir })
}

/// The folders of the workspace are named as their packages, but for the lab's.
fn package_name(dir: &Path) -> Option<String> {
    let name = dir.file_name()?.to_str()?;
    Some(if name == "tests" { LAB_PACKAGE.to_owned() } else { name.to_owned() })
}

impl Suite {
    /// Runs the suite and returns its count. A suite that ends without a summary counts as one failure.
    pub fn run(&self, mode: Mode<'_>) -> Count {
        match self.watch(mode) {
            Ok(count) => count,
            Err(error) => {
                println!("{}: {error:#}", self.name);
                Count { failed: 1, ..Count::default() }
            }
        }
    }

    /// Counts the tests that match without running them.
    pub fn skip(&self, mode: Mode<'_>) -> Count {
        let listed = shell::output(self.command(mode).args(["--list", "--format", "terse"])).unwrap_or_default();
        let skipped = listed.lines().filter(|line| line.ends_with(": test")).count();
        Count { skipped: u64::try_from(skipped).unwrap_or(u64::MAX), ..Count::default() }
    }

    fn command(&self, mode: Mode<'_>) -> Command {
        let mut command = if mode.sudo && self.lab {
            shell::as_root(&self.binary.to_string_lossy())
        } else {
            Command::new(&self.binary)
        };
        command
            .current_dir(&self.package_dir)
            .env("CARGO_MANIFEST_DIR", &self.package_dir)
            .env("COSMOLET_BIN", mode.daemon)
            .args(mode.filters);
        if let Some(frr) = mode.frr {
            command.env("COSMOLET_FRR_DIR", frr);
        }
        command
    }

    fn watch(&self, mode: Mode<'_>) -> Result<Count> {
        let mut command = self.command(mode);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let (count, child) = follow(child)?;
        let status = child.wait_with_output()?.status;
        match count {
            Some(count) if status.success() || count.failed > 0 => Ok(count),
            Some(_) => bail!("every test passed, and the suite ended with {status}"),
            None => bail!("the suite ended before its summary ({status})"),
        }
    }
}

/// Passes a suite's output on, line by line, until its end.
fn follow(mut child: Child) -> Result<(Option<Count>, Child)> {
    let stdout = child.stdout.take().context("the suite's output is not a pipe")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut count = None;
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                println!("{line}");
                count = summary(&line).or(count);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok((count, child)),
            Err(RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                bail!("printed nothing for {} s: ended", SILENCE.as_secs());
            }
        }
    }
}

/// Reads libtest's summary: `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; …`.
pub fn summary(line: &str) -> Option<Count> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut count = Count::default();
    for part in numbers.split("; ") {
        match part.split_once(' ') {
            Some((n, "passed")) => count.passed = n.parse().ok()?,
            Some((n, "failed")) => count.failed = n.parse().ok()?,
            Some((n, "ignored")) => count.skipped = n.parse().ok()?,
            _ => {}
        }
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_summary() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.05s";
        assert_eq!(summary(line), Some(Count { passed: 12, failed: 2, skipped: 1 }));
        assert_eq!(summary("test engine::adopts ... ok"), None);
    }

    #[test]
    fn knows_test_binaries_from_cargo_messages() {
        let test = r#"{"reason":"compiler-artifact","manifest_path":"/c/tests/Cargo.toml","executable":"/c/t/x-1",
            "target":{"name":"thin_path","kind":["test"]},"profile":{"test":true}}"#
            .replace('\n', "");
        let found = suite(&test).unwrap();
        assert_eq!((found.name.as_str(), found.lab), ("cosmolet-tests/thin_path", true));
        let unit = test.replace("/c/tests/", "/c/cosmolet/").replace(r#"["test"]"#, r#"["lib"]"#);
        let found = suite(&unit).unwrap();
        assert_eq!((found.name.as_str(), found.lab), ("cosmolet/lib", false));
        assert_eq!(suite(&test.replace(r#""test":true"#, r#""test":false"#)), None);
    }

    #[test]
    fn a_suite_that_dies_is_a_failure() {
        let suite = Suite { name: "x".into(), lab: false, binary: "/bin/true".into(), package_dir: shell::root() };
        let mode = Mode { filters: &[], sudo: false, daemon: Path::new("/bin/true"), frr: None };
        assert_eq!(suite.run(mode), Count { failed: 1, ..Count::default() });
    }
}
