//! The bench program: what it lists, measures, writes and how it ends.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::Lab;
use serde_json::Value;

fn bench(args: &[&str]) -> Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_bench")).args(args).output().context("starting the bench")
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

#[test]
fn quick_the_cheapest_figures_are_measured_and_written() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.directory().join("figures.json");
    let output = bench(&["engine", "ebpf", "--quick", "--json", &file.to_string_lossy()])?;
    let told = text(&output.stdout);
    ensure!(output.status.success(), "{told}\n{}", text(&output.stderr));
    let document: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    let figures = document["figures"].as_array().context("no figures")?;
    // The engine's, the programs' by direction and family, a followed SYN and two readings.
    assert_eq!(figures.len(), 4 + 12 + 3, "{document:#}");
    for figure in figures {
        let name = figure["name"].as_str().context("no name")?;
        assert!(told.contains(name), "{name} is not in the table:\n{told}");
        let number = |value: &Value| value.as_f64().with_context(|| format!("{name}: {value}"));
        assert!(number(&figure["own"]["p50"])? > 0.0, "{figure:#}");
        if !figure["baseline"].is_null() {
            assert!(number(&figure["baseline"]["p50"])? > 0.0, "{figure:#}");
        }
        if figure["target"].is_null() {
            assert!(figure["met"].is_null(), "{figure:#}");
        } else {
            assert_eq!(figure["met"], number(&figure["value"])? <= number(&figure["target"])?, "{figure:#}");
        }
    }
    Ok(())
}

#[test]
fn quick_entries_are_listed_and_unknown_ones_refused() -> Result<()> {
    let listed = bench(&["--list"])?;
    assert!(listed.status.success());
    assert_eq!(text(&listed.stdout).lines().count(), cosmolet_tests::bench::ENTRIES.len());
    let refused = bench(&["no-such-entry"])?;
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("no-such-entry"), "{}", text(&refused.stderr));
    Ok(())
}
