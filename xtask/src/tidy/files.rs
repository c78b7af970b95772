//! Rules about files: length, left-overs, blanks, and what must be there.

use std::path::{Path, PathBuf};

use super::Breach;
use super::source::Source;

/// The longest a Rust file may be, without its tests.
const RUST_LINES: usize = 600;

/// The longest the architecture page may be.
const ARCHITECTURE_LINES: usize = 200;

/// Left-overs, written so that this file does not contain them.
const LEFT_OVER_WORDS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const LEFT_OVER_MACROS: [&str; 3] = [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("db", "g!")];

/// Home folders: a path in one is true on one machine only.
const HOMES: [&str; 2] = [concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// The clocks that an operator or NTP may set.
const WALL_CLOCKS: [&str; 4] = ["SystemTime::now", "Timestamp::now", "Utc::now", "Zoned::now"];

/// Who may read them, to tell others what time it is: the status, the name of a bundle, and objects that are written to the
/// Kubernetes API.
const TIME_OF_DAY: [&str; 5] = [
    "cosmolet/src/book.rs",
    "cosmolet/src/cli/bundle.rs",
    "cosmolet/src/kubernetes/condition.rs",
    "cosmolet/src/kubernetes/events.rs",
    "cosmolet/src/kubernetes/leases.rs",
];

/// What a checkout that CI builds must have.
pub(super) fn missing(paths: &[PathBuf]) -> Vec<Breach> {
    let has = |name: &str| paths.iter().any(|path| path == Path::new(name));
    if !has(".ci/run") {
        return Vec::new();
    }
    ["README.md", "CHANGELOG.md", "LICENSE"]
        .into_iter()
        .filter(|name| !has(name))
        .map(|name| Breach::new(Path::new(name), 0, "is missing: whoever clones this reads it first"))
        .collect()
}

/// Rules for any text.
pub(super) fn text(path: &Path, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let count = text.lines().count();
    // Fixtures are as some program really wrote them.
    let ours = !path.iter().any(|part| part == "fixtures");
    if ours && !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        breaches.push(Breach::new(path, count, "a file ends with exactly one newline"));
    }
    for (index, line) in text.lines().enumerate() {
        if ours && line.ends_with([' ', '\t', '\r']) {
            breaches.push(Breach::new(path, index + 1, "trailing blanks"));
        }
        if HOMES.iter().any(|home| line.contains(home)) {
            breaches.push(Breach::new(path, index + 1, "a path into somebody's home folder"));
        }
    }
    if path == Path::new("docs/architecture.md") && count > ARCHITECTURE_LINES {
        let rule =
            format!("the architecture page is at most {ARCHITECTURE_LINES} lines, or nobody reads it to the end");
        breaches.push(Breach::new(path, ARCHITECTURE_LINES + 1, rule));
    }
    breaches
}

/// Rules for Rust.
pub(super) fn rust(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut breach = |line: usize, rule: String| breaches.push(Breach::new(&source.path, line, rule));
    if source.own_lines > RUST_LINES {
        breach(RUST_LINES + 1, format!("{} lines without tests; {RUST_LINES} is the most: split it", source.own_lines));
    }
    for (index, line) in source.raw.iter().enumerate() {
        for word in LEFT_OVER_WORDS.iter().filter(|word| has_word(line, word)) {
            breach(index + 1, format!("left-over `{word}`: do it, or file it"));
        }
    }
    for (index, line) in source.code.iter().enumerate() {
        for name in LEFT_OVER_MACROS.iter().filter(|name| line.contains(*name)) {
            breach(index + 1, format!("left-over `{name}`"));
        }
        if line.trim_start().starts_with("#[ignore") {
            breach(index + 1, "an ignored test is silently skipped for ever: repair it or remove it".into());
        }
    }
    let tells_time = !source.path.starts_with("cosmolet/src") || TIME_OF_DAY.iter().any(|p| source.path.starts_with(p));
    for (line, text) in source.own_code() {
        for clock in WALL_CLOCKS.iter().filter(|clock| !tells_time && text.contains(*clock)) {
            breach(line, format!("`{clock}`: nothing is decided by the time of day, which may be set; use `Instant`"));
        }
        if text.contains(".unwrap()") {
            breach(line, "`unwrap()` outside tests: return an error".into());
        }
    }
    breaches
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}
