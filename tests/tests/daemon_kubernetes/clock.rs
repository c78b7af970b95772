//! The time of day is set back and forth under a running daemon: it decides by the monotonic clock alone.
//!
//! libfaketime changes what the daemon is told of the time of day, and nothing of its monotonic clock, as `date -s` does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::api_server::User;
use cosmolet_tests::objects::State;

use super::{BOTH, Cluster, LEASE};

const LIBRARY: &str = "faketime/libfaketime.so.1";

/// Days from now; the lab's certificates are good for thirty.
const DAYS: [&str; 3] = ["+2d", "+1d", "+9d"];

#[test]
fn the_time_of_day_may_be_set_back_and_forth() -> Result<()> {
    let mut cluster = Cluster::raise()?;
    let files = Files::create(&cluster)?;
    files.set_clock(DAYS[0])?;
    files.know(&["first"])?;
    files.give("first")?;
    cluster.api.restart()?;
    cluster.daemons[0] = files.daemon(&cluster)?;
    cluster.start()?;
    let told = fs::read_to_string(cluster.daemons[0].process()?.log())?;
    ensure!(told.contains(&files.date(DAYS[0])?), "the daemon does not live two days ahead:\n{told}");

    for day in [DAYS[1], DAYS[2], DAYS[1]] {
        let since = Instant::now();
        files.set_clock(day)?;
        cluster.outlive_a_lease()?;
        cluster.wait_source(0, "synced")?;
        cluster.expect_unmoved(since)?;
        cluster.set_endpoints([State::NotReady, State::Ready])?;
        cluster.wait_nodes(&BOTH[1..])?;
        cluster.set_endpoints([State::Ready, State::Ready])?;
        cluster.wait_nodes(&BOTH)?;
    }

    // The token is replaced on disk while the clock says that the old one was read in the future.
    let since = Instant::now();
    files.know(&["second"])?;
    cluster.api.restart()?;
    let error = cluster.wait_source(0, "stale")?.to_lowercase();
    ensure!(error.contains("unauthorized") || error.contains("connect"), "{error}");
    cluster.outlive_a_lease()?;
    files.give("second")?;
    cluster.wait_source(0, "synced")?;
    cluster.expect_unmoved(since)?;
    cluster.set_endpoints([State::NotReady, State::Ready])?;
    cluster.wait_nodes(&BOTH[1..])
}

/// What the daemon reads while it runs.
struct Files {
    clock: PathBuf,
    token: PathBuf,
    tokens: PathBuf,
    kubeconfig: PathBuf,
}

impl Files {
    fn create(cluster: &Cluster) -> Result<Self> {
        let (at, given) = (|name: &str| cluster.lab.directory().join(name), cluster.api.kubeconfig(User::Cosmolet));
        let files = Self {
            clock: at("clock"),
            token: at("token"),
            tokens: given.with_file_name("tokens.csv"),
            kubeconfig: at("rotated.kubeconfig"),
        };
        let text = fs::read_to_string(&given)?;
        let by_file = text.replace("token: cosmolet", &format!("tokenFile: '{}'", files.token.display()));
        ensure!(text != by_file, "no token in {text}");
        fs::write(&files.kubeconfig, by_file)?;
        Ok(files)
    }

    /// The daemon of the first node.
    fn daemon(&self, cluster: &Cluster) -> Result<cosmolet_tests::daemon::Daemon> {
        let (library, clock) = (library()?, self.clock.display().to_string());
        let variables = [
            ("LD_PRELOAD", library.to_str().context("a path")?),
            ("FAKETIME_TIMESTAMP_FILE", &clock),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        cluster.prepare_with(0, &self.kubeconfig, LEASE, &variables)
    }

    fn set_clock(&self, offset: &str) -> Result<()> {
        replace(&self.clock, offset)
    }

    fn give(&self, token: &str) -> Result<()> {
        replace(&self.token, token)
    }

    /// Which tokens of the daemon's service account the API server knows from its next start on.
    fn know(&self, tokens: &[&str]) -> Result<()> {
        let known = fs::read_to_string(&self.tokens)?;
        let line =
            known.lines().find(|line| line.starts_with("cosmolet,")).context("no token of the daemon")?.to_owned();
        let mut lines: Vec<String> = known
            .lines()
            .filter(|line| ["admin,", "cosmolet,"].iter().any(|user| line.starts_with(user)))
            .map(str::to_owned)
            .collect();
        lines.extend(tokens.iter().map(|token| line.replacen("cosmolet", token, 1)));
        Ok(fs::write(&self.tokens, lines.join("\n") + "\n")?)
    }

    /// The date as libfaketime has it, to find it in a log.
    fn date(&self, offset: &str) -> Result<String> {
        let days = format!("{} days", offset.trim_end_matches('d'));
        let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%d", "-d", &days]).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// Replaced as a whole, as kubelet does it.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, path)?)
}

fn library() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path().join(LIBRARY)));
    folders.into_iter().find(|file| file.is_file()).context("libfaketime is missing: cargo xtask setup")
}
