//! The daemon and its command line. See the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cosmolet::cli::run(cosmolet::args::Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cosmolet: {error:#}");
            ExitCode::FAILURE
        }
    }
}
