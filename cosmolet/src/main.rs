//! The daemon and its command line. See the library.

use std::process::ExitCode;

use clap::Parser;
use cosmolet::args::{Args, kubectl::Plugin};
use cosmolet::cli::{self, kubectl};

fn main() -> ExitCode {
    let (name, result) = if kubectl::is_called(std::env::args_os().next().as_deref()) {
        ("kubectl cosmolet", kubectl::run(Plugin::parse()))
    } else {
        ("cosmolet", cli::run(Args::parse()))
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
