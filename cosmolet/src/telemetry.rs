//! Logs: text for people, JSON for machines, both on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::Logging;

/// Starts logging for the whole process. `RUST_LOG` overrides the level, by module if need be.
///
/// # Errors
/// Logging has been started before.
pub fn start(logging: Logging) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // The libraries below speak at WARN unless RUST_LOG asks for more.
    let default = format!("warn,cosmolet={}", logging.level);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none());
    if logging.json { builder.json().flatten_event(true).try_init() } else { builder.try_init() }
}
