//! `cosmolet metrics`

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::print;
use crate::args::Reference;
use crate::metrics::catalogue;

/// Prints what every metric means, or those with the word in their names.
///
/// # Errors
/// There are none, or standard output cannot be written.
pub fn run(word: &str, how: Reference) -> Result<ExitCode> {
    let text = match how {
        Reference::Text => catalogue::text(word),
        Reference::Markdown => catalogue::markdown(),
    };
    if text.is_empty() {
        bail!("no metric has {word:?} in its name; cosmolet metrics lists all");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
