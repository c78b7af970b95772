//! The real `cosmolet` on a node: start, ask, stop.
//!
//! The binary is that of `COSMOLET_BIN`, else the one that cargo built beside the test.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
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
    log: PathBuf,
    http: SocketAddr,
    netns: Arc<Netns>,
}

/// Another user than root, and what that user may do all the same.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// User and group id.
    pub id: u32,
    /// Names of capabilities as setpriv(1) has them, such as `net_admin`: a pod's container has no others.
    pub capabilities: &'static [&'static str],
    /// The groups beside the user's own.
    pub groups: &'static [&'static str],
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
        let log = lab.log(&name)?;
        let mut spec = Spec::new(&name, binary()?, &log).inside(netns);
        spec = spec.args(["run", "--config"]).arg(&path).env("NODE_NAME", node).env("RUST_BACKTRACE", "1");
        // Most VIPs of the lab have no translation: nothing waits for a proof, and no round is made, unless a test asks.
        spec = spec.env("COSMOLET_TRAFFIC_PROVE_SECONDS", "0").env("COSMOLET_TRAFFIC_PROBE_ROUND_SECONDS", "0");
        // A node of a test leaves at once, and is drained by a file of its own.
        spec = spec.env("COSMOLET_BGP_DRAIN_SECONDS", "0");
        spec = spec.env("COSMOLET_SERVICES_DRAIN_FILE", lab.directory().join(format!("drain-{node}")));
        for (key, value) in env {
            spec = spec.env(key, value);
        }
        Ok(Self { process: None, spec, config: path, log, http, netns: Arc::clone(netns) })
    }

    /// Runs it as another user from its next start on, without a way to more privileges, as a pod's container has it.
    pub fn as_user(mut self, lab: &Lab, user: User) -> Result<Self> {
        self.spec = self.spec.program(open_to_all(lab)?).by_way_of("setpriv", user.setpriv());
        Ok(self)
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

    /// The same, and leaves the answer to be read.
    pub fn open(&self, path: &str) -> Result<TcpStream> {
        http::open(&self.netns, self.http, path, REPLY_LIMIT)
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
        self.cli(&[&["status", "--server", &server], args].concat())
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Replaces the configuration for the next start.
    pub fn write_config(&self, config: &str) -> Result<()> {
        Ok(fs::write(&self.config, config)?)
    }

    /// Runs `cosmolet ARGS` beside it, such as `status`.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        let program = binary()?;
        Ok(self.netns.command(&program.to_string_lossy()).args(args).stdin(Stdio::null()).output()?)
    }

    /// Kills it with SIGKILL; returns the moment.
    pub fn kill(&mut self) -> Result<Instant> {
        self.process.take().context("the daemon does not run")?.kill()
    }

    /// Stops it with SIGTERM and waits for its end; returns the moment of the signal and its status.
    pub fn stop(&mut self, limit: Duration) -> Result<(Instant, ExitStatus)> {
        self.stop_by(libc::SIGTERM, limit)
    }

    /// The same with another signal.
    pub fn stop_by(&mut self, signal: i32, limit: Duration) -> Result<(Instant, ExitStatus)> {
        let mut process = self.process.take().context("the daemon does not run")?;
        let at = Instant::now();
        process.signal(signal)?;
        Ok((at, process.wait(limit)?))
    }

    /// Waits for an end that nobody asked for: the daemon cannot run.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.take().context("the daemon does not run")?.wait(limit)
    }

    /// The running process.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the daemon does not run")
    }

    /// All that it has written, in all its lives.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(|process| process.log_tail(30)).unwrap_or_default()
    }
}

impl User {
    /// The arguments that make setpriv(1) become this user. The parent death signal, which a change of user clears, is set
    /// anew.
    fn setpriv(self) -> Vec<String> {
        let id = self.id;
        let capabilities: String = self.capabilities.iter().map(|name| format!(",+{name}")).collect();
        let mut args: Vec<String> =
            ["--no-new-privs", "--pdeathsig", "KILL", "--reuid"].into_iter().map(str::to_owned).collect();
        args.extend([id.to_string(), "--regid".to_owned(), id.to_string()]);
        args.push(match self.groups {
            [] => "--clear-groups".to_owned(),
            groups => format!("--groups={}", groups.join(",")),
        });
        for set in ["inh", "ambient", "bounding"] {
            let option = if set == "bounding" { "--bounding-set".to_owned() } else { format!("--{set}-caps") };
            args.push(format!("{option}=-all{capabilities}"));
        }
        args
    }
}

/// The binary at a place that every user may enter: the one that cargo built may lie in root's home.
fn open_to_all(lab: &Lab) -> Result<PathBuf> {
    let (from, to) = (binary()?, lab.directory().join("cosmolet"));
    if !to.exists() && fs::hard_link(&from, &to).is_err() {
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    }
    Ok(to)
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
