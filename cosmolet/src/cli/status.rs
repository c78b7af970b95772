//! `cosmolet status`

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::table::table;
use super::troubles::troubles;
use super::{client, print};
use crate::args::Output;
use crate::http::status::Status;

/// The exit code that says: it answers, but something is wrong.
const TROUBLE: u8 = 3;

/// Asks a daemon and prints its answer.
///
/// # Errors
/// No daemon answers there.
pub fn run(server: &str, output: Output) -> Result<ExitCode> {
    let body = client::get(server, "/api/v1/status")?;
    let status: Status =
        serde_json::from_slice(&body).context("the daemon's answer cannot be read; another version?")?;
    match output {
        Output::Json => print(&(serde_json::to_string_pretty(&status)? + "\n"))?,
        Output::Table => print(&table(&status))?,
    }
    Ok(if troubles(&status).is_empty() { ExitCode::SUCCESS } else { ExitCode::from(TROUBLE) })
}
