//! What is shipped beside the daemon says what the daemon understands: the plain manifests and the chart's values.

#![allow(missing_docs, reason = "a suite")]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cosmolet::config::{Config, OnExit, Source};
use serde::Deserialize;
use serde_yaml_ng::Value;

fn read(path: &str) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&file).with_context(|| file.display().to_string())
}

fn parsed(text: &str) -> Result<Config> {
    Ok(Config::parse(text, |name| (name == "NODE_NAME").then(|| "node-1".to_owned()), "host")?)
}

/// The documents of the plain manifests, by kind.
fn manifest(kind: &str) -> Result<Value> {
    for document in serde_yaml_ng::Deserializer::from_str(&read("deploy/cosmolet.yaml")?) {
        let value = Value::deserialize(document)?;
        if value["kind"] == kind {
            return Ok(value);
        }
    }
    anyhow::bail!("deploy/cosmolet.yaml has no {kind}")
}

/// What both must say: no warning, Kubernetes, nothing moved by an upgrade, reachable by the kubelet's probes.
fn check(config: &Config) -> Result<()> {
    ensure!(config.warnings.is_empty(), "{:?}", config.warnings);
    ensure!(config.services.source == Source::Kubernetes, "{:?}", config.services.source);
    ensure!(config.bgp.on_exit == OnExit::Keep, "an upgrade would move routes");
    ensure!(config.http_listen.ip().is_unspecified(), "probes do not reach {}", config.http_listen);
    ensure!(config.node_name == "node-1", "NODE_NAME is overridden by {}", config.node_name);
    Ok(())
}

#[test]
fn quick_the_plain_manifests_configure_the_daemon() -> Result<()> {
    let map = manifest("ConfigMap")?;
    let text = map["data"]["cosmolet.yaml"].as_str().context("no cosmolet.yaml in the ConfigMap")?;
    let config = parsed(text)?;
    check(&config)?;
    let set = manifest("DaemonSet")?;
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    ensure!(container["ports"][0]["containerPort"] == u64::from(config.http_listen.port()), "the probes' port");
    let vty = config.frr_sockets.to_str();
    ensure!(container["volumeMounts"][1]["mountPath"].as_str() == vty, "the vty directory is not mounted");
    Ok(())
}

#[test]
fn quick_the_charts_values_configure_the_daemon() -> Result<()> {
    let values: Value = serde_yaml_ng::from_str(&read("charts/cosmolet/values.yaml")?)?;
    check(&parsed(&serde_yaml_ng::to_string(&values["config"])?)?)
}

#[test]
fn quick_the_charts_schema_knows_the_daemons_defaults() -> Result<()> {
    let schema: serde_json::Value = serde_json::from_str(&read("charts/cosmolet/values.schema.json")?)?;
    let values: Value = serde_yaml_ng::from_str(&read("charts/cosmolet/values.yaml")?)?;
    let sections = values["config"].as_mapping().context("no config in the values")?;
    for (section, keys) in sections {
        let section = section.as_str().context("a section without a name")?;
        for key in keys.as_mapping().context("a section without keys")?.keys().filter_map(Value::as_str) {
            let known = &schema["properties"]["config"]["properties"][section]["properties"][key];
            ensure!(known.is_object(), "values.schema.json does not know config.{section}.{key}");
        }
    }
    Ok(())
}

#[test]
fn quick_the_daemon_may_watch_and_create_events() -> Result<()> {
    let role = manifest("ClusterRole")?;
    let rules = role["rules"].as_sequence().context("a role without rules")?;
    let verbs: Vec<&str> =
        rules.iter().flat_map(|rule| rule["verbs"].as_sequence()).flatten().filter_map(Value::as_str).collect();
    ensure!(verbs == ["list", "watch", "list", "watch", "create"], "{verbs:?}");
    Ok(())
}
