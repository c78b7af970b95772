//! What is shipped beside the daemon says what the daemon understands: the plain manifests and the chart's values.

#![allow(missing_docs, reason = "a suite")]

use anyhow::{Context, Result, ensure};
use cosmolet::config::keys::KEYS;
use cosmolet::config::{Config, OnExit, Source};
use cosmolet_tests::packaging::read;
use serde::Deserialize;
use serde_yaml_ng::Value;

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

/// Keys that a pod's configuration has no use for, and why.
const NOT_IN_THE_CHART: [(&str, &str); 3] = [
    ("node_name", "NODE_NAME tells it"),
    ("services.manifests", "a pod sees no directory of the node"),
    ("kubernetes.namespace", "a pod's own namespace is the right one"),
];

/// Keys without a default, which Helm 3 and 4 would render differently: values.yaml names them in a comment.
const IN_A_COMMENT: [&str; 2] = ["bgp.attributes.med", "bgp.attributes.local_preference"];

#[test]
fn quick_the_chart_knows_every_key_of_the_daemon() -> Result<()> {
    let schema: serde_json::Value = serde_json::from_str(&read("charts/cosmolet/values.schema.json")?)?;
    let text = read("charts/cosmolet/values.yaml")?;
    let values: Value = serde_yaml_ng::from_str(&text)?;
    let left_out = |key: &str| NOT_IN_THE_CHART.iter().any(|(name, _)| *name == key);
    for key in KEYS.iter().map(|key| key.name).filter(|key| !left_out(key)) {
        let (mut known, mut valued) = (&schema["properties"]["config"], &values["config"]);
        for part in key.split('.') {
            ensure!(known["additionalProperties"] == false, "the schema takes anything beside config.{key}");
            known = &known["properties"][part];
            valued = &valued[part];
        }
        ensure!(known.is_object(), "values.schema.json does not know config.{key}");
        let last = key.rsplit('.').next().unwrap_or(key);
        let named =
            IN_A_COMMENT.contains(&key) && text.lines().any(|line| line.trim().starts_with('#') && line.contains(last));
        ensure!(named || !valued.is_null(), "values.yaml does not show config.{key} with its default");
    }
    Ok(())
}

#[test]
fn quick_the_charts_values_are_explained() -> Result<()> {
    let values: Value = serde_yaml_ng::from_str(&read("charts/cosmolet/values.yaml")?)?;
    let table = read("charts/cosmolet/README.md")?;
    for (name, value) in values.as_mapping().context("no values")? {
        let name = name.as_str().context("a value without a name")?;
        let inner = value
            .as_mapping()
            .filter(|_| !["config", "resources", "nodeSelector", "updateStrategy", "seccompProfile"].contains(&name));
        let names = inner.filter(|inner| !inner.is_empty()).map_or_else(
            || vec![format!("`{name}`")],
            |inner| inner.keys().filter_map(Value::as_str).map(|key| format!("{key}`")).collect(),
        );
        for shown in names {
            ensure!(table.contains(&shown), "the chart's README does not explain {shown} of {name}");
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
