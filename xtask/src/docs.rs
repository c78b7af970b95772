//! Writes the parts of `docs/` that the code generates. Whether they are current is a test of the code that generates them.

use std::fs;

use anyhow::{Context, Result};

use crate::shell;

const PAGE: &str = "docs/configuration.md";
const END: &str = "<!-- end of keys -->";

/// Asks the command line for its table of keys and lays it between the marks of the page.
pub fn run() -> Result<()> {
    let mut ask = shell::cargo();
    ask.args(["run", "--quiet", "--profile", crate::lab::PROFILE, "--bin", "cosmolet", "--"]);
    let table = shell::output(ask.args(["check-config", "--keys=markdown"]))?;
    let path = shell::root().join(PAGE);
    let page = fs::read_to_string(&path).context(PAGE)?;
    fs::write(&path, between(&page, &table).with_context(|| format!("{PAGE} has lost its marks"))?).context(PAGE)
}

/// The page with another table between the line `<!-- keys: … -->` and [`END`].
fn between(page: &str, table: &str) -> Option<String> {
    let begin = page.find("<!-- keys:")?;
    let begin = begin + page[begin..].find('\n')? + 1;
    let end = begin + page[begin..].find(END)?;
    Some(format!("{}{table}{}", &page[..begin], &page[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = "a\n<!-- keys: x -->\nold\n<!-- end of keys -->\nb\n";
        let once = between(page, "new\n").unwrap();
        assert_eq!(once, "a\n<!-- keys: x -->\nnew\n<!-- end of keys -->\nb\n");
        assert_eq!(between(&once, "new\n"), Some(once.clone()));
        assert_eq!(between("a\n", "new\n"), None);
    }
}
