//! `cosmolet completion`

use anyhow::Result;
use clap::CommandFactory;

use super::print;
use crate::args::Args;

/// Prints the completion script of a shell.
///
/// # Errors
/// Standard output cannot be written to.
pub fn run(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "cosmolet", &mut script);
    Ok(print(&String::from_utf8_lossy(&script))?)
}
