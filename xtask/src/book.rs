//! `cargo xtask book`: the documentation as a book, in target/book.

use anyhow::Result;

use crate::setup::{self, Group};
use crate::shell;

/// How to make it.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Install what is missing without asking.
    #[arg(long, short)]
    yes: bool,
}

/// Builds the book and says where it is.
pub fn run(options: &Options) -> Result<()> {
    setup::run(&setup::Options::only(options.yes, &[Group::Build, Group::Book]))?;
    let mut mdbook = shell::command(setup::book::program()?);
    shell::run(mdbook.arg("build").arg(shell::root()))?;
    println!("book: {}", shell::target_dir().join("book/index.html").display());
    Ok(())
}
