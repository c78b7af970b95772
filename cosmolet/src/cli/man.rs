//! `cosmolet man`

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::Args;
use crate::args::kubectl::Plugin;

/// Writes a man page for the program and each of its commands, and the same for `kubectl cosmolet`.
///
/// # Errors
/// The directory cannot be made or written to.
pub fn run(directory: &Path) -> Result<()> {
    let cannot = || format!("cannot write man pages to {}", directory.display());
    fs::create_dir_all(directory).with_context(cannot)?;
    clap_mangen::generate_to(Args::command(), directory).with_context(cannot)?;
    clap_mangen::generate_to(Plugin::command(), directory).with_context(cannot)
}
