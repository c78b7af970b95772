//! mdBook, which makes a book of docs/.

use std::path::PathBuf;

use anyhow::Result;

use super::Group;
use super::table::{Install, Need};
use crate::shell;

/// The release that the tests of the documentation know.
const VERSION: &str = "0.5.4";

pub(super) fn need() -> Need {
    Need {
        name: "mdbook",
        why: "makes the documentation a book, and its tests look at every link",
        group: Group::Book,
        present: || program().is_ok_and(|file| file.is_file()),
        install: Install::Build { packages: &[], build: |_| install() },
    }
}

fn root() -> Result<PathBuf> {
    Ok(shell::cache_dir()?.join(format!("mdbook-{VERSION}")))
}

/// Where it is, or will be.
pub fn program() -> Result<PathBuf> {
    Ok(root()?.join("bin/mdbook"))
}

/// Without optimization: the book is small, and compiling it so takes half the time.
fn install() -> Result<()> {
    shell::run_quietly(
        &format!("mdbook {VERSION}, about two minutes"),
        shell::cargo()
            .args(["install", "mdbook", "--locked", "--debug", "--version", VERSION])
            .args(["--no-default-features", "--features", "search", "--root"])
            .arg(root()?),
    )
}
