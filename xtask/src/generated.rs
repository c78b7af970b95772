//! Files of the checkout that are made from others: written where they differ, or only compared.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::shell;

/// What to do with a generated file.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only say whether they are current; fails when not.
    #[arg(long)]
    check: bool,
}

impl Options {
    /// Writes `text` to `path` in the checkout, or compares it. `command` is the part of xtask that makes it.
    pub fn keep(&self, path: &str, text: &str, command: &str) -> Result<()> {
        let file = shell::root().join(path);
        let current = fs::read_to_string(&file).is_ok_and(|old| old == text);
        if self.check && !current {
            bail!("{path} is not what it is made from: `cargo xtask {command}` writes it anew");
        }
        if !current {
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            }
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        println!("{command}: {path} {}", if current { "is current" } else { "written" });
        Ok(())
    }
}
