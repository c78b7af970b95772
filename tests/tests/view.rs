//! What an operator looks at: every panel of every dashboard and the alerts, on a real Prometheus that scrapes real daemons
//! under traffic and faults.

#![allow(missing_docs, reason = "a suite")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet::metrics::catalogue::{METRICS, Metric, OF_VIP};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::daemon::User;
use cosmolet_tests::fabric::{Mode, NodeSpec, vip4};
use cosmolet_tests::frr::Daemon;
use cosmolet_tests::objects::State;
use cosmolet_tests::openmetrics;
use cosmolet_tests::packaging::{ensure_current, file, read};
use cosmolet_tests::process::Frozen;
use cosmolet_tests::prometheus::{Prometheus, program};
use cosmolet_tests::stage::{Options, Stage, targets};
use cosmolet_tests::wait;
use serde_json::Value;

const NODES: [&str; 2] = ["node1", "node2"];
const LIMIT: Duration = Duration::from_secs(60);

/// The stage's two VIPs, failing for its one client, are most of the node's.
const SUFFERS: [(&str, &str); 2] =
    [("COSMOLET_TRAFFIC_RULE_NODE_VIPS", "2"), ("COSMOLET_TRAFFIC_RULE_CLIENT_PREFIXES", "1")];

const RULES: &str = "charts/cosmolet/rules/cosmolet.yaml";
const RULES_TEST: &str = "tests/rules/cosmolet_test.yaml";
const RUNBOOKS: &str = "docs/runbooks";

/// The chart's rules, with alerts that wait for a second only, and look back for ten.
fn impatient_rules() -> Result<String> {
    let text = read(RULES)?.replace("[5m]", "[10s]");
    let hurry = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("for: ") { format!("{:indent$}for: 1s", "") } else { line.to_owned() }
    };
    Ok(text.lines().map(hurry).collect::<Vec<_>>().join("\n"))
}

struct World {
    prometheus: Prometheus,
    client: Client,
    stage: Stage,
}

impl World {
    fn raise(traffic: &'static str, more: &[(&'static str, &'static str)]) -> Result<Self> {
        let mut env = vec![
            ("COSMOLET_HTTP_LISTEN", "0.0.0.0:9470"),
            ("COSMOLET_TRAFFIC_PROVE_SECONDS", "10"),
            ("COSMOLET_TRAFFIC_RULE_HOLD_SECONDS", "3"),
            ("COSMOLET_TRAFFIC_RULE_TRIAL_PROBE_SECONDS", "1"),
        ];
        env.extend(more);
        let options = Options { traffic, env, elsewhere: true, ..Options::default() };
        let mut stage = Stage::raise(&NODES.map(|node| NodeSpec::new(node, Mode::Dynamic).bfd()), options)?;
        stage.start()?;
        stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
        let daemons: Vec<(&str, SocketAddr)> = stage
            .fabric
            .nodes
            .iter()
            .map(|node| (node.name(), SocketAddr::new(node.plan.link4(2).into(), 9470)))
            .collect();
        let prometheus = Prometheus::start(&stage.lab, &stage.fabric.tor, &daemons, &impatient_rules()?)?;
        let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
        Ok(Self { prometheus, client, stage })
    }

    fn query(&self, query: &str) -> Result<Vec<Value>> {
        self.prometheus.query(&self.stage.fabric.tor, query)
    }

    fn fires(&self, alert: &str) -> Result<()> {
        wait::until_true(&format!("{alert} fires"), LIMIT, || {
            let firing = self.prometheus.firing(&self.stage.fabric.tor)?;
            ensure!(firing.iter().any(|name| name == alert), "firing: {firing:?}");
            Ok(true)
        })
    }

    fn clears(&self, alert: &str) -> Result<()> {
        wait::until_true(&format!("{alert} clears"), LIMIT, || {
            Ok(!self.prometheus.firing(&self.stage.fabric.tor)?.iter().any(|name| name == alert))
        })
    }
}

#[test]
fn every_panel_has_data_or_says_that_nothing_is_wrong() -> Result<()> {
    let mut world = World::raise("enforce", &[])?;
    // Something to tell: somebody follows, an endpoint goes and comes, and clients are served.
    let _follower = world.stage.daemons[0].open("/api/v1/transitions/stream")?;
    world.stage.set_endpoint(1, State::NotReady)?;
    world.stage.wait_nodes(&NODES[..1], Instant::now(), LIMIT)?;
    world.stage.set_endpoint(1, State::Ready)?;
    world.stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    let seen = world.client.watch(Duration::from_secs(3));
    ensure!(seen.ok() > 0, "{seen:?}");
    documented(&world.stage.daemons[0].metrics()?)?;
    let mut panels = 0;
    for board in ["fleet", "vip", "node"] {
        let board: Value = serde_json::from_str(&read(&format!("charts/cosmolet/dashboards/cosmolet-{board}.json"))?)?;
        for variable in board["templating"]["list"].as_array().context("no variables")?.iter().skip(1) {
            values_of(&world, variable)?;
        }
        let mark = board["annotations"]["list"][0]["expr"].as_str().context("no annotation")?;
        world.query(&filled_in(mark))?;
        for panel in board["panels"].as_array().context("no panels")? {
            answered(&world, panel).with_context(|| format!("{}: {}", board["title"], panel["title"]))?;
            panels += 1;
        }
    }
    ensure!(panels > 30, "{panels} panels");
    Ok(())
}

/// docs/metrics.md has every family that a daemon has, with its type, and no other. Some come from the Kubernetes source alone.
fn documented(metrics: &str) -> Result<()> {
    let page = read("docs/metrics.md")?;
    let everywhere = |name: &str| !name.starts_with("cluster_") && !name.starts_with("kubernetes_");
    let row = |line: &str| -> Option<(String, String)> {
        let mut cells = line.strip_prefix("| `cosmolet_")?.split('|');
        let name = cells.next()?.trim().trim_end_matches('`').to_owned();
        Some((name, cells.next()?.split(',').next()?.trim().to_owned()))
    };
    let told: BTreeSet<_> = page.lines().filter_map(row).filter(|(name, _)| everywhere(name)).collect();
    let family = |line: &str| -> Option<(String, String)> {
        let (name, kind) = line.strip_prefix("# TYPE cosmolet_")?.split_once(' ')?;
        let end = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        everywhere(name).then(|| (format!("{name}{end}"), kind.to_owned()))
    };
    let there: BTreeSet<_> = metrics.lines().filter_map(family).collect();
    labelled(metrics)?;
    let (missing, stale): (Vec<_>, Vec<_>) = (there.difference(&told).collect(), told.difference(&there).collect());
    ensure!(missing.is_empty() && stale.is_empty(), "not in docs/metrics.md: {missing:?}; only there: {stale:?}");
    Ok(())
}

/// Every series has the labels that the reference gives its family, and no other.
fn labelled(metrics: &str) -> Result<()> {
    for (family, of_family) in &openmetrics::parse(metrics)? {
        let known = |metric: &&Metric| metric.name.trim_end_matches("_total").trim_end_matches("_info") == family;
        let metric = METRICS.iter().find(known).with_context(|| format!("{family} is not in the reference"))?;
        let own = if metric.of_vip { &OF_VIP[..] } else { &[] };
        let wanted: BTreeSet<&str> = own.iter().chain(metric.labels).copied().collect();
        for sample in &of_family.samples {
            let labels: BTreeSet<&str> =
                sample.labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
            ensure!(labels == wanted, "{family} has the labels {labels:?}, not {wanted:?}");
        }
    }
    Ok(())
}

/// What Grafana makes of a query whose variables stand at "All", and the VIP at the stage's.
fn filled_in(query: &str) -> String {
    let all = ["$node", "$namespace", "$service"];
    all.iter()
        .fold(query.to_owned(), |text, name| text.replace(name, ".*"))
        .replace("$vip", &vip4(1).to_string())
        .replace("$__rate_interval", "1m")
}

/// A variable has values: its query is `label_values(SERIES, LABEL)`.
fn values_of(world: &World, variable: &Value) -> Result<()> {
    let definition = variable["definition"].as_str().context("no definition")?;
    let inner = definition.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (series, label) = inner.and_then(|inner| inner.rsplit_once(", ")).with_context(|| definition.to_owned())?;
    let values = world.query(&format!("count by ({label}) ({})", filled_in(series)))?;
    ensure!(values.iter().any(|value| value["metric"][label].is_string()), "{definition} has no values: {values:?}");
    Ok(())
}

fn answered(world: &World, panel: &Value) -> Result<()> {
    let may_be_empty = panel["fieldConfig"]["defaults"]["noValue"] != "no data";
    for target in panel["targets"].as_array().context("no targets")? {
        let query = filled_in(target["expr"].as_str().context("no query")?);
        let series = world.query(&query)?;
        let has_value = |series: &Value| series["value"][1].as_str().is_some_and(|text| text != "NaN");
        ensure!(may_be_empty || series.iter().any(has_value), "no data: {query}");
        // A legend names labels that there are; an empty one, such as no reason, is none for Prometheus.
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        for label in legend.split("{{").skip(1).filter_map(|part| part.split("}}").next()) {
            let named = |series: &Value| series["metric"][label].is_string();
            ensure!(series.is_empty() || series.iter().any(named), "the legend {legend} of {query}: {series:?}");
        }
    }
    Ok(())
}

#[test]
fn alerts_fire_with_their_faults_and_clear_without() -> Result<()> {
    let mut world = World::raise("enforce", &[])?;
    let since = Instant::now();
    // Nobody can serve it.
    for index in 0..NODES.len() {
        world.stage.set_endpoint(index, State::NotReady)?;
    }
    world.fires("CosmoletVipNowhere")?;
    for index in 0..NODES.len() {
        world.stage.set_endpoint(index, State::Ready)?;
    }
    world.clears("CosmoletVipNowhere")?;
    world.stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    // The host refuses: convicted, and back by trial.
    world.stage.fabric.nodes[0].proxy.lose()?;
    world.fires("CosmoletVipConvicted")?;
    world.stage.fabric.nodes[0].proxy.restore()?;
    world.clears("CosmoletVipConvicted")?;
    // A session goes, then FRR itself.
    let peer: IpAddr = world.stage.fabric.nodes[1].plan.link4(2).into();
    let neighbor = |no: &str| ["router bgp".to_owned(), format!("{no}neighbor {peer} shutdown")];
    world.stage.fabric.tor_frr.configure(&neighbor(""))?;
    world.fires("CosmoletBgpSessionDown")?;
    world.stage.fabric.tor_frr.configure(&neighbor("no "))?;
    world.clears("CosmoletBgpSessionDown")?;
    world.stage.fabric.nodes[0].frr.kill(Daemon::Bgpd)?;
    world.fires("CosmoletFrrDown")?;
    world.stage.fabric.nodes[0].frr.restart(Daemon::Bgpd)?;
    world.clears("CosmoletFrrDown")?;
    // The daemon dies: Prometheus misses it, and the others stand.
    world.stage.daemons[0].kill()?;
    world.fires("CosmoletAbsent")?;
    world.stage.daemons[0].start()?;
    world.clears("CosmoletAbsent")?;
    world.stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    let all = world.client.summary(since, Instant::now());
    ensure!(all.ok() > 0, "{all:?}");
    Ok(())
}

/// What an operator does to a node that only observes its traffic.
#[test]
fn alerts_fire_where_nothing_acts_and_clear_when_it_is_mended() -> Result<()> {
    let mut world = World::raise("observe", &SUFFERS)?;
    // The host refuses: doubted, and no more than that; and as all VIPs suffer, so is the node.
    world.stage.fabric.nodes[0].proxy.lose()?;
    world.fires("CosmoletVipSuspect")?;
    world.fires("CosmoletNodeSuspect")?;
    world.fires("CosmoletSignalsDisagree")?;
    world.stage.fabric.nodes[0].proxy.restore()?;
    world.clears("CosmoletVipSuspect")?;
    world.clears("CosmoletNodeSuspect")?;
    world.clears("CosmoletSignalsDisagree")?;
    // The operator's entry before ours denies what is advertised.
    world.stage.fabric.nodes[1].frr.configure(&["route-map COSMOLET-ADVERTISE deny 1"])?;
    world.fires("CosmoletVipNotInRib")?;
    world.stage.fabric.nodes[1].frr.configure(&["no route-map COSMOLET-ADVERTISE deny 1"])?;
    world.clears("CosmoletVipNotInRib")?;
    world.stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    // A VIP is to come back while there is no FRR.
    world.stage.set_endpoint(0, State::NotReady)?;
    world.stage.wait_nodes(&NODES[1..], Instant::now(), LIMIT)?;
    world.stage.fabric.nodes[0].frr.kill(Daemon::Bgpd)?;
    world.stage.set_endpoint(0, State::Ready)?;
    world.fires("CosmoletVipStuck")?;
    world.stage.fabric.nodes[0].frr.restart(Daemon::Bgpd)?;
    world.clears("CosmoletVipStuck")?;
    // A daemon that may not load programs.
    let user = User { id: 65532, capabilities: &["net_admin"], groups: &["frrvty"] };
    let options = |user| Options {
        traffic: "observe",
        env: vec![("COSMOLET_HTTP_LISTEN", "0.0.0.0:9470")],
        user,
        ..Options::default()
    };
    for (user, fires) in [(Some(user), true), (None, false)] {
        world.stage.daemons[1].stop(LIMIT)?;
        world.stage.reconfigure(1, &options(user))?;
        world.stage.daemons[1].start()?;
        if fires {
            world.fires("CosmoletControlPlaneOnly")?
        } else {
            world.clears("CosmoletControlPlaneOnly")?
        };
    }
    world.stage.wait_nodes(&NODES, Instant::now(), LIMIT).map(drop)
}

/// What keeps a bad VIP where it is, and what a daemon suffers from itself.
#[test]
fn alerts_fire_for_the_last_candidate_a_stale_source_and_a_loop_that_hangs() -> Result<()> {
    let mut world = World::raise("enforce", &[("COSMOLET_LOOPBACK_LEASE_SECONDS", "30")])?;
    // The last node that could serve it refuses, and keeps it.
    world.stage.elsewhere = false;
    world.stage.set_endpoint(1, State::NotReady)?;
    world.stage.wait_nodes(&NODES[..1], Instant::now(), LIMIT)?;
    world.stage.fabric.nodes[0].proxy.lose()?;
    world.fires("CosmoletAllCandidatesSuspect")?;
    world.stage.fabric.nodes[0].proxy.restore()?;
    world.clears("CosmoletAllCandidatesSuspect")?;
    world.stage.elsewhere = true;
    world.stage.set_endpoint(1, State::Ready)?;
    world.stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    // Nothing can be read any more.
    let since = Instant::now();
    let path = world.stage.manifests[0].path().to_owned();
    let away = path.with_extension("away");
    std::fs::rename(&path, &away)?;
    world.fires("CosmoletSourceStale")?;
    std::fs::rename(&away, &path)?;
    world.clears("CosmoletSourceStale")?;
    // The control loop stands still, and with it the renewal of leases; what is asked is answered.
    let frozen = Frozen::main_thread(world.stage.daemons[1].process()?.pid())?;
    world.fires("CosmoletLoopHangs")?;
    world.fires("CosmoletLeaseNotRenewed")?;
    drop(frozen);
    world.clears("CosmoletLoopHangs")?;
    world.clears("CosmoletLeaseNotRenewed")?;
    ensure!(world.stage.changes(since) == 0, "the ToR saw changes");
    Ok(())
}

#[test]
fn the_rules_do_what_their_own_tests_say() -> Result<()> {
    let promtool = |args: &[&str]| -> Result<()> {
        let output = Command::new(program("promtool")?).current_dir(file("")).args(args).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    promtool(&["check", "rules", RULES])?;
    promtool(&["test", "rules", RULES_TEST])
}

/// Every alert has a runbook and a test of its own, and none of either is left over.
#[test]
fn quick_every_alert_has_its_runbook_and_its_test() -> Result<()> {
    let rules = read(RULES)?;
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(alerts.len() > 10, "{alerts:?}");
    let tests = read(RULES_TEST)?;
    for alert in &alerts {
        let text = read(&format!("{RUNBOOKS}/{alert}.md"))?;
        for part in ["## What it means", "## Look", "## Mend"] {
            ensure!(text.contains(part), "{alert}.md lacks {part:?}");
        }
        ensure!(rules.contains(&format!("/{alert}.md")), "{alert} points to another runbook");
        ensure!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
    }
    for entry in std::fs::read_dir(file(RUNBOOKS))? {
        let name = entry?.file_name();
        let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        ensure!(stem == "README" || alerts.contains(&stem.as_str()), "the runbook {stem} belongs to no alert");
    }
    Ok(())
}

/// Grafana's own types know every field of them, and miss none; what they do not know they refuse.
#[test]
fn dashboards_fit_grafanas_types() -> Result<()> {
    let cache = std::env::home_dir().context("no home directory")?.join(".cache/cosmolet");
    let program = cache.join("grafana-0.0.22/bin/dashboards");
    let boards =
        ["fleet", "vip", "node"].map(|board| file(&format!("charts/cosmolet/dashboards/cosmolet-{board}.json")));
    let read =
        |files: &[PathBuf]| Command::new(&program).args(files).output().with_context(|| program.display().to_string());
    let output = read(&boards)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lab = cosmolet_tests::Lab::new()?;
    let (wrong, text) = (lab.subdirectory("wrong")?.join("board.json"), std::fs::read_to_string(&boards[0])?);
    for (good, bad) in
        [("\"gridPos\"", "\"gridpos\""), ("\"textMode\": \"auto\"", "\"textMode\": 7"), ("\"panels\"", "\"panel\"")]
    {
        ensure!(text.contains(good), "{good}");
        std::fs::write(&wrong, text.replace(good, bad))?;
        let output = read(std::slice::from_ref(&wrong))?;
        ensure!(!output.status.success(), "{bad} is taken");
    }
    Ok(())
}

#[test]
fn quick_the_dashboards_are_those_of_the_table() -> Result<()> {
    ensure_current("dashboards")
}
