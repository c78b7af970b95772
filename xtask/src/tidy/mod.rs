//! `cargo xtask tidy`: the rules that no compiler checks. Also a test of this crate.
//!
//! Owns the walk over the files git knows (or would add) and how a breach is shown. The rules are in the modules below;
//! none of them looks at formatting, which is rustfmt's, or at lints, which are clippy's.

mod files;
mod imports;
mod source;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell;
use source::Source;

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Breach {
    file: PathBuf,
    /// Counted from one; zero when the whole file is meant.
    line: usize,
    rule: String,
}

impl Breach {
    fn new(file: &Path, line: usize, rule: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), line, rule: rule.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line.max(1), self.rule)
    }
}

/// Checks the checkout.
///
/// # Errors
/// If any rule is broken: every breach, as `file:line: rule`.
pub fn run() -> Result<()> {
    let paths = tracked()?;
    let mut texts = Vec::new();
    for path in &paths {
        let bytes = fs::read(shell::root().join(path)).with_context(|| path.display().to_string())?;
        // What is not text has no lines to check.
        if let Ok(text) = String::from_utf8(bytes) {
            texts.push((path.as_path(), text));
        }
    }
    let tests: BTreeSet<PathBuf> = texts
        .iter()
        .filter(|(path, _)| is_rust(path))
        .flat_map(|(path, text)| Source::new(path, text, false).test_modules())
        .collect();
    let mut breaches = files::missing(&paths);
    for (path, text) in &texts {
        breaches.extend(check(path, text, tests.contains(*path)));
    }
    breaches.sort();
    breaches.dedup();
    if breaches.is_empty() {
        println!("tidy: {} files, nothing to complain about", paths.len());
        return Ok(());
    }
    let shown: Vec<String> = breaches.iter().map(Breach::to_string).collect();
    bail!("tidy: {} breaches\n{}", breaches.len(), shown.join("\n"));
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn check(path: &Path, text: &str, test: bool) -> Vec<Breach> {
    let mut breaches = files::text(path, text);
    if is_rust(path) {
        let source = Source::new(path, text, test);
        breaches.extend(files::rust(&source));
        breaches.extend(imports::check(&source));
    } else if path.file_name().is_some_and(|name| name == "Cargo.toml") {
        breaches.extend(imports::manifest(path, text));
    }
    breaches
}

/// The files git knows, and those it would add; not those deleted on disk.
fn tracked() -> Result<Vec<PathBuf>> {
    let listed =
        shell::output(shell::command("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))
            .context("tidy checks the files that git knows")?;
    let mut paths: Vec<PathBuf> = listed.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    paths.retain(|path| shell::root().join(path).is_file());
    paths.sort();
    paths.dedup();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_tidy() {
        if let Err(breaches) = run() {
            // Not `{:?}`: a backtrace would hide the breaches.
            panic!("{breaches:#}");
        }
    }

    fn rules(path: &str, text: &str) -> Vec<String> {
        check(Path::new(path), text, false).iter().map(Breach::to_string).collect()
    }

    #[track_caller]
    fn breaks(path: &str, text: &str, line: usize, rule: &str) {
        let found = rules(path, text);
        assert!(
            found.iter().any(|breach| breach.starts_with(&format!("{path}:{line}: ")) && breach.contains(rule)),
            "expected `{rule}` at line {line}, found {found:?}"
        );
    }

    #[test]
    fn the_engine_stays_pure() {
        let engine = "cosmolet/src/engine/x.rs";
        breaks(engine, "//! X.\nuse std::{fmt, time::{Duration, Instant}};\n", 2, "std::time::Instant");
        breaks(engine, "//! X.\nuse tokio::sync::mpsc;\n", 2, "`tokio`");
        breaks(engine, "//! X.\nuse crate::config::Config;\n", 2, "crate::config");
        breaks(engine, "//! X.\nfn f() {\n    std::fs::read(\"x\");\n}\n", 3, "std::fs");
        breaks(engine, "//! X.\nfn f() { tracing::info!(\"x\") }\n", 2, "`tracing`");
        let good = "//! X.\nuse std::collections::BTreeMap;\nuse ipnet::IpNet;\nuse crate::engine::types::Vip;\nuse super::plan::Plan;\n\
                    // never std::fs::read\n#[cfg(test)]\nmod tests {\n    use proptest::prelude::*;\n}\n";
        assert_eq!(rules(engine, good), Vec::<String>::new());
    }

    #[test]
    fn no_edge_imports_another() {
        breaks(
            "cosmolet/src/frr/vty.rs",
            "//! X.\nuse crate::{\n    engine::plan,\n    netlink,\n};\n",
            2,
            "crate::netlink",
        );
        breaks("cosmolet/src/http/mod.rs", "//! X.\nfn f() {\n    crate::frr::g();\n}\n", 3, "crate::frr");
        breaks("cosmolet/src/probe.rs", "//! X.\nuse super::ebpf;\n", 2, "crate::ebpf");
        breaks("cosmolet/src/kubernetes/watch.rs", "//! X.\nuse crate::manifests::read;\n", 2, "crate::manifests");
        assert_eq!(rules("cosmolet/src/manifests/read.rs", "//! X.\nuse crate::kubernetes::project::view;\n"), [""; 0]);
        breaks("cosmolet/src/manifests/read.rs", "//! X.\nuse crate::kubernetes::watch;\n", 2, "crate::kubernetes");
        assert_eq!(rules("cosmolet/src/apply.rs", "//! X.\nuse crate::{frr, netlink};\n"), [""; 0]);
    }

    #[test]
    fn crates_stay_where_they_belong() {
        breaks("cosmolet/src/frr/vty.rs", "//! X.\nuse anyhow::Result;\n", 2, "`anyhow`");
        breaks("cosmolet/src/config.rs", "//! X.\nfn f() -> anyhow::Result<()> {}\n", 2, "`anyhow`");
        assert_eq!(rules("cosmolet/src/cli/run.rs", "//! X.\nuse anyhow::Result;\n"), [""; 0]);
        breaks("cosmolet/src/metrics.rs", "//! X.\nuse k8s_openapi::api::core::v1::Service;\n", 2, "`k8s_openapi`");
        breaks("xtask/Cargo.toml", "[dependencies]\ncosmolet.workspace = true\n", 2, "no other member");
        breaks(
            "cosmolet-ebpf/Cargo.toml",
            "[dependencies]\ncosmolet = { path = \"../cosmolet\" }\n",
            2,
            "cosmolet-common",
        );
    }

    #[test]
    fn nothing_is_left_over() {
        let x = "cosmolet/src/x.rs";
        breaks(x, &format!("//! X.\n// {}: later\n", concat!("TO", "DO")), 2, "left-over");
        breaks(x, &format!("//! X.\nfn f() {{ {}!() }}\n", concat!("to", "do")), 2, "left-over");
        breaks(x, &format!("//! X.\nfn f() {{ Some(1).{}() }}\n", "unwrap"), 2, "unwrap");
        breaks(
            x,
            &format!("//! X.\n#[cfg(test)]\nmod tests {{\n    #[test]\n    #[{}]\n    fn f() {{}}\n}}\n", "ignore"),
            5,
            "skipped",
        );
        assert_eq!(
            rules(x, &format!("//! X.\n#[cfg(test)]\nmod tests {{\n    fn f() {{ g().{}() }}\n}}\n", "unwrap")),
            [""; 0]
        );
        assert_eq!(rules("tests/tests/x.rs", &format!("//! X.\nfn f() {{ g().{}() }}\n", "unwrap")), [""; 0]);
    }

    #[test]
    fn nothing_is_decided_by_the_time_of_day() {
        let reads = format!("//! X.\nfn f() {{ {}() }}\n", concat!("SystemTime", "::now"));
        breaks("cosmolet/src/daemon/turn.rs", &reads, 2, "time of day");
        breaks("cosmolet/src/kubernetes/watch.rs", &reads, 2, "time of day");
        assert_eq!(rules("cosmolet/src/book.rs", &reads), [""; 0]);
        assert_eq!(rules("tests/src/x.rs", &reads), [""; 0]);
    }

    #[test]
    fn files_are_short_and_clean() {
        let long = format!("//! X.\n{}", "fn f() {}\n".repeat(600));
        breaks("cosmolet/src/x.rs", &long, 601, "600");
        let with_tests =
            format!("//! X.\n{}#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(500), "// x\n".repeat(500));
        assert_eq!(rules("cosmolet/src/x.rs", &with_tests), [""; 0]);
        breaks("docs/architecture.md", &"line\n".repeat(201), 201, "200");
        breaks("README.md", "text \n", 1, "trailing");
        assert_eq!(rules("cosmolet/src/frr/fixtures/a.conf", "text \n\n"), [""; 0]);
        breaks("README.md", "text", 1, "newline");
        breaks("README.md", "text\n\n", 2, "newline");
        breaks("README.md", &format!("see {}x/y\n", concat!("/ro", "ot/")), 1, "home");
    }
}
