//! `cosmolet status`

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use super::table::{table, wide};
use super::{TROUBLE, client, print};
use crate::args::StatusOutput;
use crate::http::status::Status;
use crate::http::troubles::troubles;

/// How often `--watch` asks.
const EACH: Duration = Duration::from_secs(1);
/// Clears a terminal and what was scrolled out of it, and begins at its top (ECMA-48: ED 2, ED 3, CUP).
const CLEAR: &str = "\u{1b}[2J\u{1b}[3J\u{1b}[H";

/// Asks a daemon and prints its answer.
///
/// # Errors
/// No daemon answers there.
pub fn run(server: &str, output: StatusOutput) -> Result<ExitCode> {
    let status = client::status(server)?;
    print(&text(&status, output)?)?;
    Ok(if troubles(&status).is_empty() { ExitCode::SUCCESS } else { ExitCode::from(TROUBLE) })
}

/// Does so each second, for ever. Where no terminal is, the answers follow one another.
///
/// # Errors
/// The output is one that cannot be watched, or cannot be written any more.
pub fn watch(server: &str, output: StatusOutput) -> Result<ExitCode> {
    if matches!(output, StatusOutput::Json | StatusOutput::Yaml) {
        bail!("--watch shows tables; for programs there is `cosmolet events --follow -o json`");
    }
    let clear = if io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        let text = match client::status(server) {
            Ok(status) => text(&status, output)?,
            Err(error) => format!("{error:#}\n"),
        };
        print(&format!("{clear}{text}"))?;
        std::thread::sleep(EACH);
    }
}

fn text(status: &Status, output: StatusOutput) -> Result<String> {
    Ok(match output {
        StatusOutput::Table => table(status),
        StatusOutput::Wide => wide(status),
        StatusOutput::Json => serde_json::to_string_pretty(status)? + "\n",
        StatusOutput::Yaml => serde_yaml_ng::to_string(status)?,
    })
}
