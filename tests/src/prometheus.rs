//! A real Prometheus in one of the lab's namespaces, which scrapes daemons each second and evaluates the chart's rules.
//!
//! It scrapes as the chart's monitors have it: the label `node`, and the daemon's own labels stand.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::process::{Process, Spec};
use crate::{Lab, Netns, http, wait};

/// Where it listens in its namespace.
pub const LISTEN: &str = "127.0.0.1:9090";
const REPLY_LIMIT: Duration = Duration::from_secs(10);
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
}

impl Prometheus {
    /// Starts it in `netns` with these rules, and waits until it has scraped every target. `targets` are daemons with their nodes' names.
    pub fn start(lab: &Lab, netns: &Netns, targets: &[(&str, SocketAddr)], rules: &str) -> Result<Self> {
        let directory = lab.subdirectory("prometheus")?;
        let rule_file = directory.join("rules.yaml");
        fs::write(&rule_file, rules)?;
        let group =
            |(node, address): &(&str, SocketAddr)| json!({"targets": [address.to_string()], "labels": {"node": node}});
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rule_file],
            "scrape_configs": [{
                "job_name": "cosmolet", "honor_labels": true,
                "static_configs": targets.iter().map(group).collect::<Vec<_>>(),
            }],
        });
        let file = directory.join("prometheus.yml");
        fs::write(&file, config.to_string())?;
        let spec = Spec::new("prometheus", program("prometheus")?, lab.log("prometheus")?).inside(netns);
        let process = spec
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={LISTEN}"))
            .start()?;
        let started = Self { _process: process };
        wait::until_true("Prometheus ready", READY_LIMIT, || Ok(get(netns, "/-/ready")?.status == 200))?;
        // It looks for its targets every 5 s.
        wait::until_true("every daemon scraped", READY_LIMIT, || {
            let up = started.query(netns, "up == 1")?;
            ensure!(up.len() == targets.len(), "up: {up:?}");
            Ok(true)
        })?;
        Ok(started)
    }

    /// The series that a query gives now.
    pub fn query(&self, netns: &Netns, query: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", utf8_percent_encode(query, NON_ALPHANUMERIC));
        let mut answer = self.api(netns, &path).with_context(|| query.to_owned())?;
        answer["result"].as_array_mut().map(std::mem::take).with_context(|| format!("{query} gives no series"))
    }

    /// The names of the alerts that fire.
    pub fn firing(&self, netns: &Netns) -> Result<Vec<String>> {
        let alerts = self.api(netns, "/api/v1/alerts")?;
        let fires = |alert: &&Value| alert["state"] == "firing";
        let name = |alert: &Value| alert["labels"]["alertname"].as_str().unwrap_or_default().to_owned();
        Ok(alerts["alerts"].as_array().context("no list of alerts")?.iter().filter(fires).map(name).collect())
    }

    /// `GET` of its API: what is under `data`.
    pub fn api(&self, netns: &Netns, path: &str) -> Result<Value> {
        let reply = get(netns, path)?;
        ensure!(reply.status == 200, "{path} answers {}: {}", reply.status, reply.body);
        let mut document: Value = serde_json::from_str(&reply.body)?;
        ensure!(document["status"] == "success", "{document}");
        Ok(document["data"].take())
    }
}

fn get(netns: &Netns, path: &str) -> Result<http::Reply> {
    http::get(netns, LISTEN.parse()?, path, REPLY_LIMIT)
}

/// Where one of the package's programs is: `prometheus` or `promtool`.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = Path::new("/usr/bin").join(name);
    ensure!(path.is_file(), "there is no {}: `cargo xtask setup` installs it", path.display());
    Ok(path)
}
