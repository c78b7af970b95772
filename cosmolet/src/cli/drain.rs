//! `cosmolet drain` and `cosmolet undrain`: a file that the daemon follows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{TROUBLE, client, print};
use crate::config::Config;
use crate::http::status::Status;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What `drain` is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The configuration, which names the file.
    pub config: &'a Path,
    /// Where the daemon listens.
    pub server: &'a str,
    /// Why, for whoever finds the file.
    pub reason: &'a str,
    /// For how long to wait until the node carries no VIP any more; `None` does not.
    pub wait: Option<Duration>,
}

/// Drains the node.
///
/// # Errors
/// The file cannot be made, or there is no daemon to wait for.
pub fn drain(request: &Request<'_>) -> Result<ExitCode> {
    let file = file(request.config)?;
    let directory = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).and_then(|()| fs::write(&file, format!("{}\n", request.reason))).with_context(
        || {
            format!(
                "cannot make {}; in a pod drain by a taint: kubectl taint node NODE cosmolet.io/drain=:NoSchedule",
                file.display()
            )
        },
    )?;
    print(&format!("drained by {}; cosmolet undrain brings the node back\n", file.display()))?;
    match request.wait {
        Some(limit) => wait(|| client::status(request.server), limit),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Brings the node back.
///
/// # Errors
/// The file cannot be removed.
pub fn undrain(config: &Path) -> Result<ExitCode> {
    let file = file(config)?;
    match fs::remove_file(&file) {
        Ok(()) => print("the node is back: its VIPs are advertised again\n")?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => print("the node was not drained\n")?,
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", file.display())),
    }
    Ok(ExitCode::SUCCESS)
}

fn file(config: &Path) -> Result<PathBuf> {
    let config = Config::load(config).with_context(|| config.display().to_string())?;
    let Some(file) = config.services.drain_file else {
        bail!("services.drain_file is empty: name a file there, or drain by a taint of services.drain_taints")
    };
    Ok(file)
}

/// Waits until the daemon has taken the drain in and no VIP is left, and says how far it is.
pub(super) fn wait(mut ask: impl FnMut() -> Result<Status>, limit: Duration) -> Result<ExitCode> {
    let since = Instant::now();
    let mut told = String::new();
    loop {
        let status = ask()?;
        let left = status
            .vips
            .iter()
            .filter(|vip| matches!(vip.state.as_str(), "advertised" | "depreferred" | "pending" | "withdrawing"));
        let (count, draining) = left.fold((0_usize, 0_usize), |(count, draining), vip| {
            (count + 1, draining + usize::from(vip.drain_left_seconds.is_some()))
        });
        if count == 0 && (status.drained || status.node_out.is_some()) {
            print(&format!("no VIP is left, after {:.1} s\n", since.elapsed().as_secs_f64()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let now = format!("{count} VIPs left, {draining} of them wait for their traffic to go\n");
        if now != told {
            print(&now)?;
            told = now;
        }
        if since.elapsed() >= limit {
            eprintln!("cosmolet: {count} VIPs are still there after {limit:?}: cosmolet status says why");
            return Ok(ExitCode::from(TROUBLE));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
