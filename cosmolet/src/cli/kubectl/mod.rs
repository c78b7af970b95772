//! `kubectl cosmolet`: the daemons of a whole cluster, asked through its API server.
//!
//! The same program under another name: kubectl runs `kubectl-cosmolet` from the PATH.

mod drain;
mod fleet;
mod table;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::json;

use super::explain::text;
use super::{TROUBLE, print};
use crate::args::kubectl::{Plugin, PluginCommand};
use crate::args::{Output, StatusOutput};
use crate::http::explain::Explain;
use crate::http::status::Status;
use fleet::{Answer, Fleet};

/// The program's name as kubectl looks for it.
pub const NAME: &str = "kubectl-cosmolet";

/// Whether the program was called by that name.
#[must_use]
pub fn is_called(program: Option<&std::ffi::OsStr>) -> bool {
    program.and_then(|path| Path::new(path).file_stem()) == Some(NAME.as_ref())
}

/// Runs a command of the plugin and says how it went.
///
/// # Errors
/// The command failed; the error says at what and what to do.
pub fn run(plugin: Plugin) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fleet = runtime.block_on(Fleet::connect(plugin.reach))?;
    match plugin.command {
        PluginCommand::Status { node, output } => {
            status(&runtime.block_on(fleet.ask("/api/v1/status", node.as_deref()))?, output)
        }
        PluginCommand::Explain { vip, node, output } => {
            explain(&runtime.block_on(fleet.ask(&format!("/api/v1/explain/{vip}"), node.as_deref()))?, output)
        }
        PluginCommand::Drain { node, wait, timeout } => drain::drain(&runtime, &fleet, &node, wait.then_some(timeout)),
        PluginCommand::Undrain { node } => drain::undrain(&runtime, &fleet, &node),
    }
}

fn status(answers: &[Answer<Status>], output: StatusOutput) -> Result<ExitCode> {
    let troubles = table::troubles(answers);
    let document = || anyhow::Ok(json!({ "nodes": fleet::list("status", answers)? }));
    let text = match output {
        StatusOutput::Table => table::table(answers),
        StatusOutput::Wide => table::wide(answers),
        StatusOutput::Json => serde_json::to_string_pretty(&document()?)? + "\n",
        StatusOutput::Yaml => serde_yaml_ng::to_string(&document()?)?,
    };
    print(&text)?;
    Ok(if troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(TROUBLE) })
}

fn explain(answers: &[Answer<Explain>], output: Output) -> Result<ExitCode> {
    let explained = answers.iter().filter(|answer| answer.said.is_ok()).count();
    match output {
        Output::Json => print(&(serde_json::to_string_pretty(&fleet::list("explain", answers)?)? + "\n"))?,
        Output::Table => {
            let each = answers.iter().map(|answer| match &answer.said {
                Ok(explain) => format!("==> {} <==\n{}", answer.node, text(explain)),
                Err(error) => format!("==> {} <==\n{}\n", answer.node, super::table::printable(error)),
            });
            print(&each.collect::<Vec<_>>().join("\n"))?;
        }
    }
    if explained == 0 {
        bail!("no daemon could explain it");
    }
    Ok(if explained == answers.len() { ExitCode::SUCCESS } else { ExitCode::from(TROUBLE) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_plugin_by_its_name_alone() {
        let called = |path: &str| is_called(Some(path.as_ref()));
        assert!(called("/usr/local/bin/kubectl-cosmolet") && called("kubectl-cosmolet"));
        assert!(!called("/usr/bin/cosmolet") && !called("kubectl") && !is_called(None));
    }
}
