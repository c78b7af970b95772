//! The Helm chart, by real Helm of both versions that people use: what it gives and what it refuses. What a real API server
//! says to it is in the suite `cluster`.

#![allow(missing_docs, reason = "a suite")]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cosmolet::config::Config;
use cosmolet_tests::cluster::{Helm, RELEASE};
use cosmolet_tests::packaging::{
    ALL, GIDS, VALUE_SETS, documents, ensure_current, file, helm, read, rendered, template,
};
use serde_json::Value;

const BOTH: [Helm; 2] = [Helm::V4, Helm::V3];
const CHART: &str = "charts/cosmolet";

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Result<&'a Value> {
    documents.iter().find(|value| value["kind"] == kind).with_context(|| format!("no {kind} was rendered"))
}

/// The rules of all groups of a rule file.
fn rules(file: &Value) -> impl Iterator<Item = &Value> {
    file["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array()).flatten()
}

fn kinds(documents: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = documents.iter().filter_map(|value| value["kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds
}

/// The daemon's own reading of what the ConfigMap carries.
fn daemon_reads(documents: &[Value]) -> Result<Config> {
    let file = of_kind(documents, "ConfigMap")?["data"]["cosmolet.yaml"].as_str().context("no cosmolet.yaml")?;
    Ok(Config::parse(file, |name| (name == "NODE_NAME").then(|| "node-1".to_owned()), "host")?)
}

#[test]
fn quick_both_helms_lint_and_render_the_same() -> Result<()> {
    for which in BOTH {
        let linted = helm(which, &["lint", CHART, "--strict"], &[GIDS])?;
        ensure!(linted.is_ok(), "{linted:?}");
    }
    for (name, sets) in VALUE_SETS {
        ensure!(rendered(Helm::V4, sets)? == rendered(Helm::V3, sets)?, "Helm 4 and 3 differ with {name}");
    }
    Ok(())
}

#[test]
fn quick_what_is_off_by_default_is_not_there() -> Result<()> {
    let plain = rendered(Helm::V4, &[])?;
    let always = ["ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "Pod", "ServiceAccount"];
    ensure!(kinds(&plain) == always, "{:?}", kinds(&plain));
    let all = rendered(Helm::V4, &ALL)?;
    for kind in ["PodMonitor", "ServiceMonitor", "Service", "PrometheusRule", "NetworkPolicy", "Role", "RoleBinding"] {
        of_kind(&all, kind)?;
    }
    ensure!(of_kind(&all, "Service")?["spec"]["clusterIP"] == "None", "the metrics' Service would have an address");
    for kind in ["PodMonitor", "ServiceMonitor"] {
        let spec = &of_kind(&all, kind)?["spec"];
        let endpoint = if kind == "PodMonitor" { &spec["podMetricsEndpoints"][0] } else { &spec["endpoints"][0] };
        ensure!(endpoint["honorLabels"] == true, "{kind} would replace the Service's namespace by the daemon's");
        ensure!(endpoint["path"] == "/metrics" && endpoint["port"] == "http", "{endpoint}");
    }
    Ok(())
}

#[test]
fn quick_alerts_ask_for_metrics_that_exist() -> Result<()> {
    let documented = read("docs/metrics.md")?;
    let all = rendered(Helm::V4, &ALL)?;
    let rules: Vec<&Value> = rules(&of_kind(&all, "PrometheusRule")?["spec"]).collect();
    ensure!(rules.len() >= 15, "{} rules", rules.len());
    for rule in rules {
        let expression = rule["expr"].as_str().context("a rule without an expression")?;
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let metrics: Vec<&str> = words.filter(|word| word.starts_with("cosmolet_")).collect();
        ensure!(!metrics.is_empty() || rule["alert"] == "CosmoletAbsent", "{expression} asks for nothing of ours");
        for metric in metrics {
            ensure!(documented.contains(&format!("`{metric}`")), "{metric} of {} is no metric", rule["alert"]);
        }
    }
    Ok(())
}

#[test]
fn quick_values_reach_the_daemon() -> Result<()> {
    for which in BOTH {
        let documents = rendered(
            which,
            &[
                "config.bgp.asn=65001",
                "config.services.vip_ranges={10.50.0.0/16,fd00:100::/64}",
                "config.http.listen=[::]:9999",
                "frr.socketPath=/run/frr",
                "bgp.on_exit=withdraw",
                "namespace=elsewhere",
            ],
        )?;
        let config = daemon_reads(&documents)?;
        ensure!(config.bgp.asn == Some(65001), "{:?}", config.bgp.asn);
        ensure!(config.frr_sockets == Path::new("/run/frr"), "{}", config.frr_sockets.display());
        ensure!(config.bgp.on_exit == cosmolet::config::OnExit::Withdraw, "bgp.on_exit did not reach it");
        let set = of_kind(&documents, "DaemonSet")?;
        ensure!(set["metadata"]["namespace"] == "elsewhere", "{}", set["metadata"]["namespace"]);
        let pod = &set["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        ensure!(container["ports"][0]["containerPort"] == 9999, "{}", container["ports"]);
        ensure!(container["readinessProbe"]["httpGet"]["host"] == "::1", "{}", container["readinessProbe"]);
        ensure!(container["volumeMounts"][1]["mountPath"] == "/run/frr", "{}", container["volumeMounts"]);
        ensure!(pod["volumes"][1]["hostPath"]["type"] == "Directory", "a socket would be mounted, not its directory");
        ensure!(pod["securityContext"]["supplementalGroups"] == serde_json::json!([92]), "{}", pod["securityContext"]);
        let test = &of_kind(&documents, "Pod")?["spec"]["containers"][0];
        ensure!(test["args"] == serde_json::json!(["status", "--server", "[::1]:9999"]), "{}", test["args"]);
    }
    Ok(())
}

#[test]
fn quick_a_changed_configuration_is_a_new_pod_and_nothing_else_is() -> Result<()> {
    let pod = |sets: &[&str]| -> Result<Value> {
        Ok(of_kind(&rendered(Helm::V4, sets)?, "DaemonSet")?["spec"]["template"].clone())
    };
    let plain = pod(&[])?;
    ensure!(
        plain == pod(&["podMonitor.enabled=true", "networkPolicy.enabled=true"])?,
        "monitoring restarts the daemon"
    );
    ensure!(plain != pod(&["config.logging.level=debug"])?, "a changed file would not be read");
    Ok(())
}

/// A bad value, and what must stand in Helm's answer for somebody to find it.
const BAD: [(&str, &str); 26] = [
    ("config.bgp.mode=conected", "/config/bgp/mode"),
    ("config.bgp.on_exit=stay", "/config/bgp/on_exit"),
    ("config.bgp.asn=4294967296", "/config/bgp/asn"),
    ("config.bgp.asn=-1", "/config/bgp/asn"),
    ("config.bgp.enabled=yes please", "/config/bgp/enabled"),
    ("config.services.source=manifests", "/config/services/source"),
    ("config.services.types={NodePort}", "/config/services/types/0"),
    ("json:config.services.types=[]", "/config/services/types"),
    ("config.services.vip_ranges={10.50.0.0/33}", "/config/services/vip_ranges/0"),
    ("config.services.vip_ranges={10.500.0.0/16}", "/config/services/vip_ranges/0"),
    ("config.services.vip_ranges={fd00::/129}", "/config/services/vip_ranges/0"),
    ("config.services.vip_ranges={web}", "/config/services/vip_ranges/0"),
    ("config.services.vip_range={10.0.0.0/8}", "vip_range"),
    ("config.loopback.excluded={10.0.0.0/8/8}", "/config/loopback/excluded/0"),
    ("config.loopback.lease_seconds=-1", "/config/loopback/lease_seconds"),
    ("config.loopback.lease_seconds=2", "/config/loopback/lease_seconds"),
    ("config.loopback.lease_seconds=86401", "/config/loopback/lease_seconds"),
    ("config.traffic.mode=on", "/config/traffic/mode"),
    ("config.http.listen=9470", "/config/http/listen"),
    ("config.logging.level=loud", "/config/logging/level"),
    ("config.frr.socket_path=run/frr", "/config/frr/socket_path"),
    ("configg.bgp.asn=1", "configg"),
    ("frr.vtyGids={frrvty}", "/frr/vtyGids/0"),
    ("image.digest=sha256:1234", "/image/digest"),
    ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
    ("updateStrategy.type=Recreate", "/updateStrategy/type"),
];

#[test]
fn quick_bad_values_are_refused_by_name() -> Result<()> {
    for which in BOTH {
        for (set, named) in BAD {
            let answer = template(which, RELEASE, CHART, &[GIDS, set])?;
            let refused = answer.err().with_context(|| format!("{which:?} takes {set}"))?;
            // Helm 3 names a path with dots in some versions.
            let dotted = named.trim_start_matches('/').replace('/', ".");
            ensure!(refused.contains(named) || refused.contains(&dotted), "{set}: {refused}");
        }
        let refused = template(which, RELEASE, CHART, &[])?.err().context("rendered without the sockets' group")?;
        ensure!(refused.contains("frr.vtyGids is empty") && refused.contains("getent group frrvty"), "{refused}");
    }
    Ok(())
}

/// The ConfigMap has the dashboards' text, legends with braces too, and Grafana's label.
#[test]
fn quick_dashboards_become_a_config_map() -> Result<()> {
    for which in BOTH {
        let render = |sets: &[&str]| -> Result<Vec<Value>> {
            documents(&template(which, RELEASE, CHART, sets)?.map_err(anyhow::Error::msg)?)
        };
        let found = render(&[GIDS, "dashboards.enabled=true", "dashboards.annotations.folder=net"])?;
        let map = found.iter().find(|document| document["metadata"]["name"] == "cosmolet-dashboards");
        let map = map.context("no ConfigMap of dashboards")?;
        for board in ["fleet", "vip", "node"] {
            let name = format!("cosmolet-{board}.json");
            ensure!(map["data"][&name] == read(&format!("{CHART}/dashboards/{name}"))?.as_str(), "{name}: {map}");
        }
        ensure!(map["metadata"]["labels"]["grafana_dashboard"] == "1", "{map}");
        ensure!(map["metadata"]["annotations"]["folder"] == "net", "{map}");
        let plain = render(&[GIDS])?;
        ensure!(
            plain.iter().all(|document| document["metadata"]["name"] != "cosmolet-dashboards"),
            "not off by default"
        );
    }
    Ok(())
}

#[test]
fn quick_the_plain_manifests_are_the_charts() -> Result<()> {
    ensure_current("deploy")?;
    let base = documents(&read("deploy/kustomization.yaml")?)?;
    let listed = base[0]["resources"].as_array().context("no resources")?;
    ensure!(!listed.is_empty(), "the kustomize base is empty");
    for name in listed.iter().filter_map(Value::as_str) {
        ensure!(file("deploy").join(name).is_file(), "deploy/{name} is not there");
    }
    Ok(())
}

#[test]
fn quick_the_rule_file_becomes_a_prometheus_rule() -> Result<()> {
    let file: Value = serde_yaml_ng::from_str(&read(&format!("{CHART}/rules/cosmolet.yaml"))?)?;
    for which in BOTH {
        let sets = [GIDS, "prometheusRule.enabled=true", "prometheusRule.runbooks=https://wiki/r", OWN_RULE];
        let found = documents(&template(which, RELEASE, CHART, &sets)?.map_err(anyhow::Error::msg)?)?;
        let rule = of_kind(&found, "PrometheusRule")?;
        let alerts =
            |of: &Value| rules(of).map(|rule| format!("{} {}", rule["alert"], rule["expr"])).collect::<Vec<_>>();
        let mut wanted = alerts(&file);
        wanted.push("\"Mine\" \"up == 0\"".to_owned());
        ensure!(alerts(&rule["spec"]) == wanted, "{rule:#}");
        let text = rule.to_string();
        ensure!(text.contains("https://wiki/r/CosmoletVipNowhere.md") && !text.contains("github.com"), "{text}");
    }
    Ok(())
}

const OWN_RULE: &str = "prometheusRule.extraRules[0].alert=Mine,prometheusRule.extraRules[0].expr=up == 0";
