//! The pages of the documentation: which there are, and their fenced blocks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `docs/page.md:LINE`, the line of the opening fence.
    pub at: String,
    /// The words after the fence: `sh`, `yaml config`.
    pub kind: String,
    /// The lines between the fences, without the fence's indentation.
    pub text: String,
}

/// The project's pages that a reader sees: the README, the changelog, `docs/`, the chart's README.
///
/// # Errors
/// A folder cannot be read.
pub fn pages() -> Result<Vec<PathBuf>> {
    let root = root();
    let mut pages: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "charts/cosmolet/README.md"].map(|page| root.join(page)).to_vec();
    for folder in ["docs", "docs/runbooks"] {
        for entry in fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// The checkout's root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// All blocks of all pages.
///
/// # Errors
/// A page cannot be read, or a fence is not closed.
pub fn all_blocks() -> Result<Vec<Block>> {
    let mut all = Vec::new();
    for page in pages()? {
        let name = page.strip_prefix(root())?.display().to_string();
        all.extend(blocks(&name, &fs::read_to_string(&page)?)?);
    }
    Ok(all)
}

/// The blocks of one page.
///
/// # Errors
/// A fence is not closed.
pub fn blocks(name: &str, page: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (number, line) in page.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(kind)) => {
                let at = format!("{name}:{}", number + 1);
                open = Some((indent, Block { at, kind: kind.trim().to_owned(), text: String::new() }));
            }
            (Some(_), Some("")) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((indent, block)), _) => {
                block.text.push_str(line.get(*indent..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    match open {
        Some((_, block)) => bail!("{}: the fence is not closed", block.at),
        None => Ok(blocks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_kind_place_and_text() -> Result<()> {
        let page = "a\n```yaml config\nx: 1\n\n  y: 2\n```\n* b\n  ```sh\n  ls\n  ```\n";
        let found = blocks("p.md", page)?;
        let shown: Vec<_> = found.iter().map(|block| (&*block.at, &*block.kind, &*block.text)).collect();
        assert_eq!(shown, [("p.md:2", "yaml config", "x: 1\n\n  y: 2\n"), ("p.md:8", "sh", "ls\n")]);
        assert!(blocks("p.md", "```sh\nls\n").is_err());
        Ok(())
    }
}
