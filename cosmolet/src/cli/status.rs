//! `cosmolet status`

use std::process::ExitCode;

use anyhow::Result;

use super::table::table;
use super::troubles::troubles;
use super::{TROUBLE, client, print};
use crate::args::Output;

/// Asks a daemon and prints its answer.
///
/// # Errors
/// No daemon answers there.
pub fn run(server: &str, output: Output) -> Result<ExitCode> {
    let status = client::status(server)?;
    match output {
        Output::Json => print(&(serde_json::to_string_pretty(&status)? + "\n"))?,
        Output::Table => print(&table(&status))?,
    }
    Ok(if troubles(&status).is_empty() { ExitCode::SUCCESS } else { ExitCode::from(TROUBLE) })
}
