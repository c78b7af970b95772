//! What is shipped beside the daemon, as users get it: the plain manifests, and the chart as real Helm renders it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api_server::KUBE_VERSION;
use crate::cluster::{COSMOLET_NAMESPACE, Helm, RELEASE};

/// The one value without a default.
pub const GIDS: &str = "frr.vtyGids={92}";

/// Everything that is off by default.
pub const ALL: [&str; 9] = [
    "podMonitor.enabled=true",
    "serviceMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "networkPolicy.enabled=true",
    "dashboards.enabled=true",
    "config.kubernetes.node_condition=true",
    "config.kubernetes.statistics=true",
    "config.traffic.mode=enforce",
    "apiServer.host=192.0.2.1",
];

/// Sets of values that between them reach every branch of the templates, with a name each.
pub const VALUE_SETS: [(&str, &[&str]); 6] = [
    ("defaults", &[]),
    ("everything", &ALL),
    (
        "names",
        &[
            "namespace=elsewhere-rendered",
            "fullnameOverride=vips",
            "nameOverride=advertiser",
            "serviceAccount.name=ours",
            "serviceAccount.annotations.note=one",
            "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "image.pullSecrets[0].name=secret",
        ],
    ),
    (
        "nobody's rights",
        &[
            "rbac.create=false",
            "serviceAccount.create=false",
            "serviceAccount.name=theirs",
            "config.kubernetes.events=false",
        ],
    ),
    (
        "the Go project's",
        &["bgp.asn=65001", "bgp.on_exit=withdraw", "frr.socketPath=/run/frr", "config.http.listen=[::]:9999"],
    ),
    (
        "places",
        &[
            "nodeSelector.role=edge",
            "json:tolerations=[{\"key\": \"edge\", \"operator\": \"Exists\", \"effect\": \"NoSchedule\"}]",
            "json:affinity={\"nodeAffinity\": {\"requiredDuringSchedulingIgnoredDuringExecution\": {\"nodeSelectorTerms\": \
             [{\"matchExpressions\": [{\"key\": \"role\", \"operator\": \"Exists\"}]}]}}}",
            "updateStrategy.type=OnDelete",
            "updateStrategy.rollingUpdate=null",
            "seccompProfile.type=Unconfined",
            "test.nodes={node1,node2}",
            "json:networkPolicy={\"enabled\": true, \"from\": [{\"ipBlock\": {\"cidr\": \"10.0.0.0/8\"}}]}",
            "json:extraEnv=[{\"name\": \"COSMOLET_LOGGING_LEVEL\", \"value\": \"debug\"}]",
            "podAnnotations.note=one",
            "podLabels.team=net",
        ],
    ),
];

/// Kinds of the Prometheus operator, which no plain API server knows.
pub const OPERATORS: [&str; 3] = ["PodMonitor", "ServiceMonitor", "PrometheusRule"];

/// A file of this checkout.
#[must_use]
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Its text.
pub fn read(path: &str) -> Result<String> {
    let file = file(path);
    fs::read_to_string(&file).with_context(|| file.display().to_string())
}

/// Whether what xtask makes by this command is current: an error with its words where not.
pub fn ensure_current(command: &str) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).current_dir(file("")).args(["xtask", command, "--check"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The documents of a YAML text, without empty ones.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let parsed = serde_yaml_ng::Deserializer::from_str(text).map(|document| Ok(Value::deserialize(document)?));
    let all: Vec<Value> = parsed.collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|value| !value.is_null()).collect())
}

/// The first document of a kind in `deploy/cosmolet.yaml`.
pub fn deployed<T: DeserializeOwned>(kind: &str) -> Result<T> {
    let all = documents(&read("deploy/cosmolet.yaml")?)?;
    match all.into_iter().find(|document| document["kind"] == kind) {
        Some(document) => Ok(serde_json::from_value(document)?),
        None => bail!("deploy/cosmolet.yaml has no {kind}"),
    }
}

/// `deploy/embedding.yaml` with everything filled in.
pub fn embedded() -> Result<String> {
    let mut text = read("deploy/embedding.yaml")?;
    for (placeholder, value) in [
        ("${NAMESPACE}", COSMOLET_NAMESPACE),
        ("${IMAGE}", "registry.example/cosmolet:1"),
        ("${FRRVTY_GID}", "120"),
        ("${SERVICE_ACCOUNT}", "ours"),
        ("${CONFIG_MAP}", "our-config"),
        ("${CONFIG_HASH}", "1f"),
    ] {
        if !text.contains(placeholder) {
            bail!("{placeholder} is not in the template");
        }
        text = text.replace(placeholder, value);
    }
    Ok(text)
}

/// What Helm prints, or what it says when it refuses. A set that begins with `json:` is JSON.
pub fn helm(which: Helm, args: &[&str], sets: &[&str]) -> Result<Result<String, String>> {
    let program = which.program()?;
    let mut command = Command::new(&program);
    command.current_dir(file("")).args(args);
    for set in sets {
        match set.strip_prefix("json:") {
            Some(json) => command.args(["--set-json", json]),
            None => command.args(["--set", set]),
        };
    }
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
}

/// The chart with these values and no others, as text.
pub fn template(which: Helm, release: &str, chart: &str, sets: &[&str]) -> Result<Result<String, String>> {
    let args = ["template", release, chart, "--namespace", COSMOLET_NAMESPACE, "--kube-version", KUBE_VERSION];
    helm(which, &args, sets)
}

/// The chart's documents with these values and [`GIDS`], of a release of this name.
pub fn rendered_as(release: &str, which: Helm, sets: &[&str]) -> Result<Vec<Value>> {
    let all: Vec<&str> = [GIDS].iter().chain(sets).copied().collect();
    documents(&template(which, release, "charts/cosmolet", &all)?.map_err(anyhow::Error::msg)?)
}

/// The same of the usual release.
pub fn rendered(which: Helm, sets: &[&str]) -> Result<Vec<Value>> {
    rendered_as(RELEASE, which, sets)
}
