//! The real `cosmolet` on a node: start, ask, stop.
//!
//! The binary is that of `COSMOLET_BIN`, else the one that cargo built beside the test.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::{self, Reply};
use crate::process::{Process, Spec};
use crate::{Lab, Netns, wait};

const READY_LIMIT: Duration = Duration::from_secs(15);
const REPLY_LIMIT: Duration = Duration::from_secs(5);

/// A daemon under test.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    spec: Spec,
    config: PathBuf,
    http: SocketAddr,
    netns: Arc<Netns>,
}

impl Daemon {
    /// Prepares `cosmolet run` in a node's namespace with this configuration text, whose `http.listen` must be `http`. The node's
    /// name is given as `NODE_NAME`. Nothing runs before [`Daemon::launch`] or [`Daemon::start`].
    pub fn prepare(
        lab: &Lab,
        netns: &Arc<Netns>,
        node: &str,
        config: &str,
        http: SocketAddr,
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let path = lab.directory().join(format!("cosmolet-{node}.yaml"));
        fs::write(&path, config)?;
        let name = format!("cosmolet-{node}");
        let mut spec = Spec::new(&name, binary()?, lab.log(&name)?).inside(netns);
        spec = spec.args(["run", "--config"]).arg(&path).env("NODE_NAME", node).env("RUST_BACKTRACE", "1");
        for (key, value) in env {
            spec = spec.env(key, value);
        }
        Ok(Self { process: None, spec, config: path, http, netns: Arc::clone(netns) })
    }

    /// Starts it and waits until it says it is ready; returns the moment of its start.
    pub fn start(&mut self) -> Result<Instant> {
        let started = self.launch()?;
        self.wait_ready(READY_LIMIT)?;
        Ok(started)
    }

    /// Starts it without waiting.
    pub fn launch(&mut self) -> Result<Instant> {
        if let Some(process) = &mut self.process {
            ensure!(process.ended()?.is_some(), "the daemon runs already");
        }
        Ok(self.process.insert(self.spec.start()?).started())
    }

    /// Waits for 200 from `/readyz`; fails at once, with the end of its log, if it ended.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let ready = wait::until("cosmolet ready", limit, || {
            if let Err(ended) = self.process().and_then(Process::ensure_running) {
                return Ok(Some(Err(ended)));
            }
            let reply = self.get("/readyz")?;
            ensure!(reply.status == 200, "/readyz answers {}: {}", reply.status, reply.body.trim());
            Ok(Some(Ok(())))
        });
        ready.with_context(|| format!("its log ends with:\n{}", self.log_tail()))?
    }

    /// `GET path` of its HTTP server.
    pub fn get(&self, path: &str) -> Result<Reply> {
        http::get(&self.netns, self.http, path, REPLY_LIMIT)
    }

    /// Its status document.
    pub fn status(&self) -> Result<Value> {
        let reply = self.get("/api/v1/status")?;
        ensure!(reply.status == 200, "status answers {}: {}", reply.status, reply.body.trim());
        serde_json::from_str(&reply.body).context("the status is no JSON")
    }

    /// Its metrics as text.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.get("/metrics")?.body)
    }

    /// Runs `cosmolet status` where the daemon is, with more arguments.
    pub fn ask_status(&self, args: &[&str]) -> Result<Output> {
        let server = self.http.to_string();
        let mut command = self.netns.command(&binary()?.to_string_lossy());
        command.args(["status", "--server", &server]).args(args).stdin(Stdio::null());
        command.output().context("starting cosmolet status")
    }

    /// Everything that it has written to its log.
    pub fn log(&mut self) -> Result<String> {
        let path = self.process()?.log();
        fs::read_to_string(path).with_context(|| path.display().to_string())
    }

    /// Replaces the configuration for the next start.
    pub fn write_config(&self, config: &str) -> Result<()> {
        Ok(fs::write(&self.config, config)?)
    }

    /// Kills it with SIGKILL; returns the moment.
    pub fn kill(&mut self) -> Result<Instant> {
        self.process.take().context("the daemon does not run")?.kill()
    }

    /// Stops it with SIGTERM and waits for its end; returns the moment of the signal and its status.
    pub fn stop(&mut self, limit: Duration) -> Result<(Instant, ExitStatus)> {
        let mut process = self.process.take().context("the daemon does not run")?;
        let at = Instant::now();
        process.terminate()?;
        Ok((at, process.wait(limit)?))
    }

    /// The running process.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the daemon does not run")
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(|process| process.log_tail(30)).unwrap_or_default()
    }
}

/// The daemon's binary.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("COSMOLET_BIN") {
        return Ok(path.into());
    }
    // target/PROFILE/deps/SUITE-HASH or target/PROFILE/PROGRAM.
    let here = std::env::current_exe()?;
    let beside = here.ancestors().skip(1).take(2).map(|directory| directory.join("cosmolet"));
    let found = beside.into_iter().find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!("no cosmolet beside {}: cargo build -p cosmolet, or set COSMOLET_BIN", here.display()),
    }
}
