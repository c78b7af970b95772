//! `cosmolet run`

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::memory;
use crate::config::Config;
use crate::{daemon, telemetry};

/// Reads the configuration, starts the logs and runs the daemon.
///
/// # Errors
/// The configuration is wrong, or the daemon cannot start.
pub fn run(path: &Path) -> Result<ExitCode> {
    let config = Config::load(path).with_context(|| path.display().to_string())?;
    telemetry::start(config.logging).map_err(anyhow::Error::from_boxed)?;
    memory::keep_lean();
    // Two are enough: one decides while the other samples, serves and watches.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.spawn(memory::give_back());
    let result = runtime.block_on(daemon::run(config));
    // Tasks that sit in a blocking call (a directory's watch) must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    result.map(|()| ExitCode::SUCCESS)
}
