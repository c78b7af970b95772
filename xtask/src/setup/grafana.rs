//! Grafana's own types of dashboards, which the dashboards are read by.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::Group;
use super::apt::Apt;
use super::kube;
use super::table::{Install, Need};
use crate::shell;

/// The release of Grafana's SDK. The lab's `dashboards_fit_grafanas_types` names the same folder.
const SDK: (&str, &str) = ("github.com/grafana/grafana-foundation-sdk/go", "0.0.22");

pub(super) fn need() -> Need {
    Need {
        name: "grafana's types",
        why: "reads the dashboards as Grafana does; built once from source, about a minute on 2 cores",
        group: Group::Prometheus,
        present: || program().is_ok_and(|file| file.is_file()),
        install: Install::Build { packages: &[], build },
    }
}

fn program() -> Result<PathBuf> {
    Ok(shell::cache_dir()?.join(format!("grafana-{}/bin/dashboards", SDK.1)))
}

fn build(apt: &mut Apt) -> Result<()> {
    let source = fs::read_to_string(shell::root().join("tests/grafana/main.go"))?;
    let (module, version) = SDK;
    let what = "grafana's types, about a minute on 2 cores";
    kube::build_source(apt, &format!("{module}@v{version}"), &source, &program()?, what)
}
