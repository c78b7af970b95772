//! The commands.

pub mod bundle;
pub mod check_config;
mod client;
pub mod completion;
pub mod doctor;
pub mod drain;
pub mod events;
pub mod explain;
pub mod kubectl;
pub mod man;
mod memory;
pub mod metrics;
pub mod record;
pub mod replay;
pub mod run;
#[cfg(test)]
pub(crate) mod samples;
pub mod status;
pub mod table;
pub mod top;

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use crate::args::{Args, Command};

/// The exit code that says: it was asked and it answered, but something is wrong.
const TROUBLE: u8 = 3;

/// Runs a command and says how it went.
///
/// # Errors
/// The command failed; the error says at what and what to do.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run { config } => run::run(&config),
        Command::CheckConfig { keys: Some(keys), .. } => check_config::keys(keys),
        Command::CheckConfig { file, keys: None } => check_config::run(&file),
        Command::Status { server, output, watch: true } => status::watch(&server, output),
        Command::Status { server, output, watch: false } => status::run(&server, output),
        Command::Top { server } => top::run(&server),
        Command::Explain { vip, server, output } => explain::run(&server, vip, output),
        Command::Events { server, follow, output } => events::run(&server, follow, output),
        Command::Record { seconds, output, server } => {
            record::run(&server, seconds.map(Duration::from_secs), output.as_deref())
        }
        Command::Replay { file, config, set, vip, output } => {
            let vip = vip.map(Into::into);
            replay::run(&replay::Request { file: &file, config: config.as_deref(), set: &set, vip, output })
        }
        Command::Doctor { list: Some(how), .. } => doctor::list(how),
        Command::Doctor { config, server, output, list: None } => doctor::run(&config, &server, output),
        Command::Drain { config, server, reason, wait, timeout } => {
            let wait = wait.then(|| Duration::from_secs(timeout));
            drain::drain(&drain::Request { config: &config, server: &server, reason: &reason, wait })
        }
        Command::Undrain { config } => drain::undrain(&config),
        Command::Metrics { word, output } => metrics::run(&word, output),
        Command::Bundle { file, config, server } => bundle::run(&config, &server, file.as_deref()),
        Command::Completion { shell } => {
            completion::run(shell)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory } => {
            man::run(&directory)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Writes a command's answer to standard output. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
