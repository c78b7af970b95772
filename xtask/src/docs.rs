//! Writes the parts of `docs/` that the code generates. Whether they are current is a test of the code that generates them.

use std::fs;

use anyhow::{Context, Result};

use crate::shell;

/// The pages with a table, what it is of, and how the command line prints it.
const PAGES: [(&str, &str, &[&str]); 3] = [
    ("docs/configuration.md", "keys", &["check-config", "--keys=markdown"]),
    ("docs/doctor.md", "checks", &["doctor", "--list=markdown"]),
    ("docs/metrics.md", "metrics", &["metrics", "--output=markdown"]),
];

/// Asks the command line for its tables and lays each between the marks of its page.
pub fn run() -> Result<()> {
    for (page, what, args) in PAGES {
        let mut ask = shell::cargo();
        ask.args(["run", "--quiet", "--profile", crate::lab::PROFILE, "--bin", "cosmolet", "--"]);
        let table = shell::output(ask.args(args))?;
        let path = shell::root().join(page);
        let text = fs::read_to_string(&path).context(page)?;
        fs::write(&path, between(&text, what, &table).with_context(|| format!("{page} has lost its marks"))?)
            .context(page)?;
    }
    Ok(())
}

/// The page with another table between the lines `<!-- keys: … -->` and `<!-- end of keys -->`.
fn between(page: &str, what: &str, table: &str) -> Option<String> {
    let begin = page.find(&format!("<!-- {what}:"))?;
    let begin = begin + page[begin..].find('\n')? + 1;
    let end = begin + page[begin..].find(&format!("<!-- end of {what} -->"))?;
    Some(format!("{}{table}{}", &page[..begin], &page[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = "a\n<!-- keys: x -->\nold\n<!-- end of keys -->\nb\n";
        let once = between(page, "keys", "new\n").unwrap();
        assert_eq!(once, "a\n<!-- keys: x -->\nnew\n<!-- end of keys -->\nb\n");
        assert_eq!(between(&once, "keys", "new\n"), Some(once.clone()));
        assert_eq!(between("a\n", "keys", "new\n"), None);
    }
}
