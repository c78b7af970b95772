//! `cosmolet completion`

use clap::CommandFactory;

use crate::args::Args;

/// Prints the completion script of a shell.
pub fn run(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Args::command(), "cosmolet", &mut std::io::stdout());
}
