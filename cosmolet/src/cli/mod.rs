//! The commands.
#![allow(clippy::print_stdout, reason = "a command's answer belongs on standard output")]

pub mod check_config;
mod client;
pub mod completion;
mod memory;
pub mod run;
pub mod status;

use std::process::ExitCode;

use crate::args::{Args, Command};

/// Runs a command and says how it went.
///
/// # Errors
/// The command failed; the error says at what and what to do.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run { config } => run::run(&config),
        Command::CheckConfig { file } => check_config::run(&file),
        Command::Status { server, output } => status::run(&server, output),
        Command::Completion { shell } => {
            completion::run(shell);
            Ok(ExitCode::SUCCESS)
        }
    }
}
