//! The command line, the HTTP pages and the logs of the real binary, as operators and their tools read them.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::daemon::{Daemon, binary};
use cosmolet_tests::fabric::{Mode, NodeSpec, vip4, vip6};
use cosmolet_tests::frr::Daemon as FrrDaemon;
use cosmolet_tests::netns::output;
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::openmetrics::{self, Families};
use cosmolet_tests::stage::{HTTP, Options, PORT, Stage, targets};
use cosmolet_tests::{Lab, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
/// The commands that a person types.
const COMMANDS: [&str; 14] = [
    "run",
    "check-config",
    "status",
    "top",
    "explain",
    "events",
    "record",
    "replay",
    "doctor",
    "drain",
    "metrics",
    "bundle",
    "completion",
    "man",
];
/// A text that would end a label, a line, an exposition and clear a terminal.
const HOSTILE: &str = "we\"b\\\n# EOF\ncosmolet_vip_advertised{vip=\"x\"} 1\r\u{1b}[2J\u{9b}";

/// Runs the binary with nothing of the host's environment that it would read.
fn cosmolet(args: &[&str], env: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(args).stdin(Stdio::null()).env_clear().envs(env.iter().copied());
    Ok(command.output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The standard output of a command that must succeed without a word on standard error.
fn succeed(args: &[&str]) -> Result<String> {
    let done = cosmolet(args, &[])?;
    ensure!(done.status.success() && done.stderr.is_empty(), "{args:?}: {done:?}");
    Ok(String::from_utf8(done.stdout)?)
}

/// Runs `check-config` on a file with this text.
fn check(config: &str, env: &[(&str, &str)]) -> Result<(i32, String, String)> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), config)?;
    let done = cosmolet(&["check-config", file.path().to_str().context("a path")?], env)?;
    Ok((done.status.code().context("a signal")?, text(&done.stdout), text(&done.stderr)))
}

#[test]
fn quick_check_config_says_what_a_good_file_means() -> Result<()> {
    let config = "
node_name: n1
services: {source: kubernetes, namespaces: [a, b], selector: 'app=web', types: [LoadBalancer, ClusterIP],
           vip_ranges: [10.0.0.0/8, '2001:db8::/32'], drain_taints: [example.com/drain]}
loopback: {excluded: [10.1.0.0/16], lease_seconds: 0}
bgp: {asn: 65001, mode: connected, on_exit: withdraw}
traffic: {mode: enforce, interfaces: [eth0]}
http: {listen: '[::1]:9470'}
logging: {level: debug, format: json}
";
    let (code, out, err) = check(config, &[])?;
    ensure!(code == 0 && err.is_empty(), "{code} {err}");
    for meaning in [
        ": right\n",
        "  node                n1\n",
        "  Services            from the Kubernetes API\n",
        "  namespaces          a, b\n",
        "  selector            app=web\n",
        "  types               LoadBalancer, ClusterIP\n",
        "  classes             any\n",
        "  VIP ranges          10.0.0.0/8, 2001:db8::/32\n",
        "  drain taints        example.com/drain\n",
        "  cordoned node       serves on\n",
        "  restarted pods      unusable for 30 s\n",
        "  loopback            lo, lease for ever\n",
        "  never touched       10.1.0.0/16\n",
        "  BGP                 AS 65001, mode connected, VIPs withdrawn on exit, sockets in /var/run/frr\n",
        "  traffic             enforce\n",
        "  uplinks             eth0\n",
        "  HTTP                [::1]:9470\n",
        "  logs                debug, json\n",
    ] {
        ensure!(out.contains(meaning), "no {meaning:?} in:\n{out}");
    }
    // The same keys from variables; a key without meaning is a warning, and no error.
    let (code, out, err) = check("loop_interval_seconds: 30", &[("COSMOLET_BGP_ASN", "65002"), ("NODE_NAME", "n2")])?;
    ensure!(code == 0 && out.contains("AS 65002") && out.contains("n2"), "{code} {out}");
    ensure!(err.starts_with("warning: loop_interval_seconds: 30") && err.lines().count() == 1, "{err}");
    Ok(())
}

#[test]
fn quick_check_config_prints_every_key() -> Result<()> {
    let keys = succeed(&["check-config", "--keys"])?;
    for part in
        ["bgp.asn: 0\n", "COSMOLET_BGP_ASN\n", "services.cordon: ignore\n", "must be 0 (for ever) or 3 to 86400"]
    {
        ensure!(keys.contains(part), "no {part:?} in:\n{keys}");
    }
    let table = succeed(&["check-config", "--keys=markdown"])?;
    // A line for each key, under two of the table's head.
    ensure!(keys.matches("COSMOLET_").count() == table.lines().count() - 2, "{table}");
    let both = cosmolet(&["check-config", "--keys", "/x.yaml"], &[])?;
    ensure!(both.status.code() == Some(2), "{both:?}");
    Ok(())
}

#[test]
fn quick_check_config_names_key_value_and_rule_of_what_is_wrong() -> Result<()> {
    for (config, parts) in [
        ("bpg: {}", vec!["bpg", "unknown field"]),
        ("bgp: {asn: fast}", vec!["bgp.asn", "fast"]),
        ("bgp: {mode: sideways}", vec!["bgp.mode", "sideways", "connected"]),
        ("services: {vip_ranges: [10.0.0.0/33]}", vec!["services.vip_ranges[0]", "10.0.0.0/33"]),
        ("services: {source: kubernetes, manifests: /x}", vec!["services.manifests", "/x", "contradicts"]),
        ("services: {types: [ExternalIP]}", vec!["services.types", "ExternalIP", "CVE-2020-8554"]),
        ("services: {selector: 'a in ('}", vec!["services.selector", "a in ("]),
        ("loopback: {lease_seconds: 2}", vec!["loopback.lease_seconds", "2", "3 to 86400"]),
        ("http: {listen: localhost}", vec!["http.listen", "localhost", "127.0.0.1:9470"]),
        ("frr: {socket_path: run/frr}", vec!["frr.socket_path", "run/frr", "absolute"]),
        ("node_name: UPPER", vec!["node_name", "UPPER", "lower-case"]),
        ("logging: {level: loud}", vec!["logging.level", "loud", "debug"]),
        ("- a\n- b", vec!["top level"]),
        ("a: [", vec!["not a YAML mapping"]),
        ("\u{0}", vec!["not a YAML mapping"]),
    ] {
        let (code, out, err) = check(config, &[("NODE_NAME", "n1")])?;
        ensure!(code == 1 && out.is_empty() && err.starts_with("cosmolet: "), "{config:?}: {code} {out} {err}");
        for part in parts {
            ensure!(err.contains(part), "{config:?} says {err:?} without {part:?}");
        }
    }
    let (code, _, err) = check("", &[("NODE_NAME", "n1"), ("COSMOLET_BGP_ASN", "fast")])?;
    ensure!(code == 1 && err.contains("bgp.asn") && err.contains("fast"), "{code} {err}");
    let missing = cosmolet(&["check-config", "/nowhere/cosmolet.yaml"], &[])?;
    let err = text(&missing.stderr);
    ensure!(missing.status.code() == Some(1) && err.contains("/nowhere/cosmolet.yaml: cannot be read"), "{missing:?}");
    // `run` refuses the same file with the same words.
    let run = cosmolet(&["run", "--config", "/nowhere/cosmolet.yaml"], &[])?;
    ensure!(run.status.code() == Some(1) && text(&run.stderr) == err, "{run:?}");
    let typed_wrong = cosmolet(&["advertise"], &[])?;
    ensure!(typed_wrong.status.code() == Some(2), "{typed_wrong:?}");
    Ok(())
}

#[test]
fn quick_help_teaches() -> Result<()> {
    for command in COMMANDS.iter().copied().map(Some).chain([None]) {
        let args: Vec<&str> = command.into_iter().chain(["--help"]).collect();
        let help = succeed(&args)?;
        for part in ["Usage:", "Examples:\n", "Exit codes: 0 "] {
            ensure!(help.contains(part), "{args:?} has no {part:?}:\n{help}");
        }
        let example = format!("  cosmolet {}", command.unwrap_or("status"));
        ensure!(help.contains(&example), "{args:?} has no example:\n{help}");
        ensure!(help.lines().all(|line| line.chars().count() <= 120), "{args:?} is too wide:\n{help}");
    }
    let help = succeed(&["--help"])?;
    ensure!(COMMANDS.iter().all(|command| help.contains(&format!("\n  {command}"))), "{help}");
    ensure!(succeed(&["--version"])?.starts_with("cosmolet 0."), "no version");
    Ok(())
}

/// One page for each command, in which its options and examples stand.
/// Where there is no terminal it says so, and what there is instead.
#[test]
fn quick_top_needs_a_terminal() -> Result<()> {
    let done = cosmolet(&["top"], &[])?;
    let said = text(&done.stderr);
    ensure!(done.status.code() == Some(1) && said.contains("cosmolet status -o json"), "{said}");
    Ok(())
}

/// A recorded incident: as it was decided, with a rule that would have let it be, and with what is no setting.
#[test]
fn quick_replay_says_by_its_exit_code_whether_decisions_differ() -> Result<()> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../cosmolet/src/recording/incidents/refusing-backend.jsonl");
    let alike = succeed(&["replay", file])?;
    ensure!(
        alike.contains("withdraw (ConnectionsFail)  as recorded") && alike.contains("2 decisions alike, 0 differ"),
        "{alike}"
    );
    let raised = ["replay", file, "--set", "traffic.rule.threshold=900", "--set", "traffic.rule.cap=1000"];
    let otherwise = cosmolet(&raised, &[])?;
    ensure!(otherwise.status.code() == Some(3) && text(&otherwise.stdout).contains("did not happen"), "{otherwise:?}");
    for (set, code, says) in [
        ("traffic.rule.threshhold=1", 1, "traffic.rule.threshhold: there is no such key"),
        ("traffic.rule.threshold=0", 1, "traffic.rule.threshold: \"0\": must be 1 to 1000"),
        ("traffic.rule.threshold", 2, "it is not written KEY=VALUE"),
    ] {
        let wrong = cosmolet(&["replay", file, "--set", set], &[])?;
        ensure!(wrong.status.code() == Some(code) && text(&wrong.stderr).contains(says), "{set}: {wrong:?}");
    }
    let nothing = cosmolet(&["replay", "-"], &[])?;
    ensure!(nothing.status.code() == Some(1) && text(&nothing.stderr).contains("-: it is empty"), "{nothing:?}");
    Ok(())
}

#[test]
fn quick_man_pages_are_written() -> Result<()> {
    let lab = tempfile::tempdir()?;
    let directory = lab.path().join("deep/man1");
    let place = directory.to_str().context("a path")?;
    ensure!(succeed(&["man", place])?.is_empty());
    for command in COMMANDS {
        let page = fs::read_to_string(directory.join(format!("cosmolet-{command}.1")))?;
        for part in [".TH ", &format!("cosmolet {command}"), "Examples:", "Exit codes: 0 "] {
            ensure!(page.replace("\\-", "-").contains(part), "{command} has no {part:?}:\n{page}");
        }
    }
    let status = fs::read_to_string(directory.join("cosmolet-status.1"))?;
    ensure!(status.contains("\\-\\-watch"), "{status}");
    ensure!(fs::read_to_string(directory.join("cosmolet.1"))?.contains("cosmolet\\-undrain(1)"));
    let file = directory.join("cosmolet.1/below");
    let refused = cosmolet(&["man", file.to_str().context("a path")?], &[])?;
    ensure!(
        refused.status.code() == Some(1) && text(&refused.stderr).contains("cannot write man pages to"),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn quick_completion_completes() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(&["completion", shell])?;
        ensure!(COMMANDS.iter().all(|command| script.contains(command)), "{shell}: {script}");
    }
    let script = succeed(&["completion", "bash"])?;
    let typed =
        "\nCOMP_WORDS=(cosmolet che); COMP_CWORD=1; _cosmolet cosmolet che cosmolet; echo \"${COMPREPLY[@]}\"\n";
    for (args, input) in [(&["-n"][..], &script), (&[][..], &(script.clone() + typed))] {
        let mut bash = Command::new("bash").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        bash.stdin.take().context("standard input")?.write_all(input.as_bytes())?;
        let done = bash.wait_with_output()?;
        let expected = if args.is_empty() { "check-config\n" } else { "" };
        ensure!(done.status.success() && text(&done.stdout) == expected, "bash {args:?}: {done:?}");
    }
    Ok(())
}

#[test]
fn quick_status_of_a_daemon_without_frr_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let netns = Arc::new(lab.netns("alone")?);
    let (manifests, sockets) = (lab.subdirectory("manifests")?, lab.subdirectory("no-frr")?);
    let config = format!(
        "services: {{manifests: {}}}\nfrr: {{socket_path: {}}}\ntraffic: {{mode: 'off'}}\nhttp: {{listen: '{HTTP}'}}\n",
        manifests.display(),
        sockets.display()
    );
    let mut daemon = Daemon::prepare(&lab, &netns, "alone", &config, HTTP.parse()?, &[])?;
    let nobody = daemon.ask_status(&[])?;
    let complaint = text(&nobody.stderr);
    ensure!(nobody.status.code() == Some(1) && nobody.stdout.is_empty(), "{nobody:?}");
    ensure!(complaint.starts_with(&format!("cosmolet: cannot ask the daemon at {HTTP}; is it running")), "{complaint}");

    daemon.launch()?;
    let told = wait::until("the trouble", LIMIT, || {
        let told = daemon.ask_status(&[])?;
        Ok((told.status.code() == Some(3) && text(&told.stdout).contains("manifests, synced")).then_some(told))
    })?;
    let table = text(&told.stdout);
    ensure!(table.starts_with("alone: cosmolet 0."), "{table}");
    ensure!(table.contains("\n  FRR       down (Unreachable)\n  traffic   off\n! FRR: "), "{table}");
    ensure!(table.contains("bgpd.vty"), "it does not say which socket: {table}");
    let json = daemon.ask_status(&["-o", "json"])?;
    ensure!(json.status.code() == Some(3), "{json:?}");
    let json: Value = serde_json::from_slice(&json.stdout)?;
    ensure!(json["bgp"]["reason"] == "Unreachable" && json["source"]["delivered"] == true, "{json}");
    let ready = daemon.get("/readyz")?;
    ensure!(ready.status == 503 && ready.body.contains("bgpd"), "{ready:?}");
    ensure!(ready.body.lines().count() == 1, "only FRR is missing: {ready:?}");
    ensure!(daemon.get("/livez")?.status == 200, "it does not live");
    ensure!(daemon.get("/")?.body.contains("/metrics") && daemon.get("/nowhere")?.status == 404, "the index");

    // A second one on the same port cannot start, and says why.
    let mut second = Daemon::prepare(&lab, &netns, "second", &config, HTTP.parse()?, &[])?;
    second.launch()?;
    let ended = second.process()?.wait(LIMIT)?;
    ensure!(ended.code() == Some(1) && second.log()?.contains(&format!("http.listen: {HTTP}")), "{}", second.log()?);
    Ok(())
}

/// A node with FRR, a backend and a running daemon that clients have used.
fn used_stage() -> Result<Stage> {
    let specs = [NodeSpec { wire: false, ..NodeSpec::new("node1", Mode::Dynamic) }];
    let mut stage = Stage::raise(&specs, Options::default())?;
    stage.fabric.nodes[0].frr.kill(FrrDaemon::Bgpd)?;
    stage.daemons[0].launch()?;
    let ready = wait::until("not ready without bgpd", LIMIT, || {
        let ready = stage.daemons[0].get("/readyz")?;
        Ok((ready.status == 503).then_some(ready))
    })?;
    ensure!(!ready.body.trim().is_empty() && ready.body != "ok\n", "{ready:?}");
    stage.fabric.nodes[0].frr.restart(FrrDaemon::Bgpd)?;
    stage.daemons[0].wait_ready(LIMIT)?;
    ensure!(stage.daemons[0].get("/readyz")?.body == "ok\n", "200 says ok");
    stage.wait_nodes(&["node1"], Instant::now(), LIMIT)?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    wait::until_true("counted traffic", LIMIT, || {
        let status = stage.daemons[0].status()?;
        let rows = status["vips"].as_array().context("no rows")?;
        let counted = |row: &Value| row["traffic"][0]["total"]["handshakes"].as_u64().is_some_and(|count| count > 5);
        Ok(rows.len() == 2 && rows.iter().all(counted))
    })?;
    drop(client);
    Ok(stage)
}

fn exit_code(stage: &Stage) -> Result<(Option<i32>, String)> {
    let told = stage.daemons[0].ask_status(&[])?;
    Ok((told.status.code(), text(&told.stdout) + &text(&told.stderr)))
}

/// Waits until `cosmolet status` ends with this code and prints all of `parts`.
fn wait_table(stage: &Stage, code: i32, parts: &[&str]) -> Result<String> {
    wait::until(&format!("exit code {code} and {parts:?}"), LIMIT, || {
        let (found, table) = exit_code(stage)?;
        match found == Some(code) && parts.iter().all(|part| table.contains(part)) {
            true => Ok(Some(table)),
            false => bail!("it is {found:?} and prints:\n{table}"),
        }
    })
}

fn metrics(stage: &Stage) -> Result<Families> {
    let text = stage.daemons[0].metrics()?;
    openmetrics::parse(&text).with_context(|| text.clone())
}

#[test]
fn status_metrics_and_logs_of_a_daemon_that_is_used() -> Result<()> {
    let mut stage = used_stage()?;
    good_table(&stage)?;
    good_json(&stage)?;
    every_family(&stage)?;
    session_down(&stage)?;
    hostile_names(&mut stage)?;
    text_log(&mut stage)?;
    vip_pending(&mut stage)?;
    json_log(&mut stage)
}

/// All is well: exit code 0, no trouble, aligned columns with something in each.
fn good_table(stage: &Stage) -> Result<()> {
    let table = wait_table(stage, 0, &["yes, to 1 peer"])?;
    ensure!(!table.contains("\n!"), "{table}");
    for part in ["\n  VIPs      2 advertised\n", "manifests, synced", "2 of 2 BGP sessions up", "observe, counted on "]
    {
        ensure!(table.contains(part), "no {part:?} in:\n{table}");
    }
    let rows: Vec<&str> = table.lines().skip_while(|line| !line.starts_with("VIP ")).collect();
    ensure!(rows.len() == 3, "{table}");
    for column in ["STATE", "REASON", "SINCE", "MODE", "IN RIB", "TRAFFIC", "SERVICE"] {
        let at = rows[0].find(column).with_context(|| format!("no column {column}"))?;
        for row in &rows {
            ensure!(
                row[at - 2..at] == *"  " && row[at..].chars().next().is_some_and(|c| c != ' '),
                "{column}:\n{table}"
            );
        }
    }
    for (row, vip) in rows[1..].iter().zip([vip4(1), vip6(1)]) {
        let vip = vip.to_string();
        let parts = [vip.as_str(), "advertised", "dynamic", "yes, to 1 peer", " pkts", "default/web"];
        ensure!(parts.iter().all(|part| row.contains(part)), "{row}");
    }
    Ok(())
}

fn good_json(stage: &Stage) -> Result<()> {
    let told = stage.daemons[0].ask_status(&["-o", "json"])?;
    ensure!(told.status.code() == Some(0), "{told:?}");
    let status: Value = serde_json::from_slice(&told.stdout)?;
    ensure!(status["node"] == "node1" && status["bgp"]["asn"] == 65001, "{status}");
    let row = &status["vips"][0];
    for (key, value) in [("vip", "10.100.0.1"), ("state", "advertised"), ("mode", "dynamic"), ("loopback", "ours")] {
        ensure!(row[key] == value, "{key}: {row}");
    }
    ensure!(row["reason"].is_null() && row["rib"]["valid"] == true && row["network"] == "ours", "{row}");
    ensure!(row["lease_left_seconds"].as_f64().is_some_and(|left| left > 60.0 && left <= 121.0), "{row}");
    ensure!(row["traffic"][0]["port"] == "80/tcp", "{row}");
    Ok(())
}

/// Every family that the issue names is there, with its series.
fn every_family(stage: &Stage) -> Result<()> {
    let reply = stage.daemons[0].get("/metrics")?;
    ensure!(reply.status == 200, "{reply:?}");
    let families = metrics(stage)?;
    for (family, label, value) in [
        ("cosmolet_vip_advertised", "vip", "10.100.0.1"),
        ("cosmolet_vip_on_loopback", "vip", "fd00:100::1"),
        ("cosmolet_vip_in_rib", "service", "web"),
        ("cosmolet_vip_peers", "family", "ipv6"),
        ("cosmolet_vip_state", "state", "advertised"),
        ("cosmolet_vips", "state", "refused"),
        ("cosmolet_vip_packets", "direction", "in"),
        ("cosmolet_vip_traffic_bytes", "direction", "out"),
        ("cosmolet_vip_syn", "port", "80"),
        ("cosmolet_vip_syn_ack", "by", "host"),
        ("cosmolet_vip_handshakes", "protocol", "tcp"),
        ("cosmolet_vip_fin", "vip", "10.100.0.1"),
        ("cosmolet_vip_resets", "by", "client"),
        ("cosmolet_vip_resets", "by", "backend"),
        ("cosmolet_vip_resets", "by", "host"),
        ("cosmolet_vip_unreachable", "vip", "10.100.0.1"),
        ("cosmolet_component_state", "component", "frr"),
        ("cosmolet_component_state", "component", "source"),
        ("cosmolet_component_state", "component", "programs"),
        ("cosmolet_bgp_session_established", "peer", "10.1.1.1"),
        ("cosmolet_transitions", "to", "advertise"),
        ("cosmolet_steps", "step", "add_address"),
        ("cosmolet_turn_seconds", "le", "+Inf"),
        ("cosmolet_reaction_seconds", "le", "+Inf"),
        ("cosmolet_sampling_seconds", "le", "+Inf"),
        ("cosmolet_odd_packets", "kind", "unparsable"),
        ("cosmolet_build", "version", env!("CARGO_PKG_VERSION")),
    ] {
        let found = families.get(family).with_context(|| format!("no family {family}"))?;
        ensure!(found.with(label, value).next().is_some(), "no {label}={value:?} in {family}: {found:?}");
    }
    for (family, more) in
        [("cosmolet_programs_running", 0.5), ("cosmolet_services", 0.5), ("cosmolet_turn_age_seconds", -0.5)]
    {
        let sample =
            families.get(family).and_then(|family| family.samples.first()).with_context(|| family.to_owned())?;
        ensure!(sample.value > more, "{sample:?}");
    }
    ensure!(families["cosmolet_last_error"].samples.is_empty(), "{:?}", families["cosmolet_last_error"]);
    let handshakes =
        families["cosmolet_vip_handshakes"].with("vip", "10.100.0.1").map(|sample| sample.value).sum::<f64>();
    ensure!(handshakes > 5.0, "{handshakes}");
    Ok(())
}

/// A session that is down: exit code 3, and the table says which.
fn session_down(stage: &Stage) -> Result<()> {
    let link = |state: &str| stage.fabric.tor.ip(&["link", "set", "dev", "node1", state]);
    link("down")?;
    let down = ["! FRR: the BGP session with 10.1.1.1 is down\n", "0 of 2 BGP sessions up"];
    wait_table(stage, 3, &down)?;
    let family = metrics(stage)?.remove("cosmolet_bgp_session_established").context("no sessions")?;
    ensure!(family.with("peer", "10.1.1.1").all(|sample| sample.value == 0.0), "{family:?}");
    link("up")?;
    // A downed link loses its IPv6 addresses.
    let plan = stage.fabric.nodes[0].plan;
    stage.fabric.tor.add_address("node1", format!("{}/64", plan.link6(1)).parse()?)?;
    wait_table(stage, 0, &["2 of 2 BGP sessions up", "yes, to 1 peer"]).map(drop)
}

/// A Service whose annotations and addresses would break any format that does not escape them, a file whose name would,
/// an object whose name would, and their end.
fn hostile_names(stage: &mut Stage) -> Result<()> {
    let mut service = objects::service("hostile", &[vip4(2)], &[PORT]);
    service.metadata.annotations = Some([("cosmolet.io/advertise".to_owned(), HOSTILE.to_owned())].into());
    if let Some(ingress) = service.status.as_mut().and_then(|status| status.load_balancer.as_mut()?.ingress.as_mut()) {
        let mut bad = ingress[0].clone();
        bad.ip = Some(format!("1.2.3.4{HOSTILE}"));
        ingress.push(bad);
    }
    let address = stage.fabric.nodes[0].backend_address(vip4(2)).ip();
    let slice = objects::slice("slice", "hostile", 8080, vec![objects::endpoint(address, "node1", State::Ready)]);
    stage.manifests[0].write("hostile", &service)?;
    stage.manifests[0].write("hostile-slice", &slice)?;
    let bad_file = HOSTILE.replace('/', "-");
    stage.manifests[0].write_text(&bad_file, "a: [\u{1b}[2J")?;
    stage.manifests[0].write("bad-name", &objects::service(HOSTILE, &[vip4(3)], &[PORT]))?;
    stage.wait_status(0, vip4(2), "advertised", |row| row["state"] == "advertised")?;
    let parts = [
        "! manifests: bad-name.yaml: line 1: `metadata.name`: ",
        "! manifests: we\"b\\",
        "3 advertised",
        "NotAnAddress",
    ];
    let table = wait_table(stage, 3, &parts)?;
    ensure!(!table.chars().any(|c| c.is_control() && c != '\n'), "{table:?}");
    ensure!(table.lines().filter(|line| line.starts_with("10.100.0.")).count() == 2, "{table}");

    let families = metrics(stage)?;
    let series: Vec<_> = families["cosmolet_vip_advertised"].with("vip", "10.100.0.2").collect();
    ensure!(series.len() == 1 && series[0].labels["service"] == "hostile", "{series:?}");
    let status = stage.daemons[0].status()?;
    let files: Vec<&str> =
        status["manifest_problems"].as_array().into_iter().flatten().filter_map(|bad| bad["file"].as_str()).collect();
    ensure!(files.contains(&"bad-name.yaml") && files.iter().any(|file| file.starts_with("we\"b")), "{files:?}");

    // Its series go with it, though its traffic was counted.
    let target = SocketAddr::new(vip4(2), PORT);
    stage.fabric.nodes[0].serve(&[targets()[0], targets()[1], target])?;
    let client = Client::start(&stage.fabric.client, Load::new(vec![target]))?;
    wait::until_true("counted traffic", LIMIT, || {
        Ok(metrics(stage)?["cosmolet_vip_handshakes"].with("vip", "10.100.0.2").any(|sample| sample.value > 5.0))
    })?;
    for name in ["hostile", "hostile-slice", "bad-name", &bad_file] {
        stage.manifests[0].remove(name)?;
    }
    let none = |stage: &Stage| -> Result<bool> {
        let families = metrics(stage)?;
        Ok(families.values().all(|family| family.with("vip", "10.100.0.2").next().is_none()))
    };
    wait::until_true("its series go", LIMIT, || none(stage))?;
    // The programs counted on for a while: nothing of that comes back.
    std::thread::sleep(Duration::from_millis(2500));
    drop(client);
    ensure!(none(stage)?, "its series are back: {:?}", metrics(stage)?["cosmolet_vip_packets"]);
    wait_table(stage, 0, &["2 advertised"]).map(drop)
}

/// Every line of the text log begins with its time and holds no control characters.
fn text_log(stage: &mut Stage) -> Result<()> {
    let log = stage.daemons[0].log()?;
    for line in log.lines() {
        let timed = line.get(..4).is_some_and(|year| year.parse::<u16>().is_ok()) && line.get(10..11) == Some("T");
        ensure!(timed && !line.chars().any(char::is_control), "{line:?}");
    }
    for part in ["advertise vip=10.100.0.1 services=\"default/web\"", "reason=ServiceGone", " WARN "] {
        ensure!(log.contains(part), "no {part:?} in:\n{log}");
    }
    Ok(())
}

/// A VIP that waits for FRR: exit code 3 after a few seconds, with what it waits for.
fn vip_pending(stage: &mut Stage) -> Result<()> {
    stage.fabric.nodes[0].frr.kill(FrrDaemon::Bgpd)?;
    let pending = ["! VIP 10.100.0.1: pending for ", " s: FRR is down\n", "! FRR: ", "down (Unreachable)"];
    wait_table(stage, 3, &pending)?;
    let family = metrics(stage)?.remove("cosmolet_last_error").context("no last error")?;
    ensure!(family.with("component", "frr").count() == 1, "{family:?}");
    stage.fabric.nodes[0].frr.restart(FrrDaemon::Bgpd)?;
    wait_table(stage, 0, &["2 of 2 BGP sessions up"]).map(drop)
}

/// Every line of the JSON log is an object; those about a VIP name it, and why it goes.
fn json_log(stage: &mut Stage) -> Result<()> {
    let before = stage.daemons[0].log()?.len();
    stage.daemons[0].stop(LIMIT)?;
    let config = stage.config(0, &Options::default()).replace("logging:\n", "logging:\n  format: json\n");
    stage.daemons[0].write_config(&config)?;
    stage.daemons[0].start()?;
    stage.set_endpoint(0, State::NotReady)?;
    stage.wait_nodes(&[], Instant::now(), LIMIT)?;
    stage.wait_status(0, vip4(1), "withdrawn", |row| row["state"] == "withdrawn")?;
    wait_table(stage, 0, &["2 withdrawn", "\nNoLocalEndpoint: its traffic policy is Local"])?;
    let log = stage.daemons[0].log()?;
    // The life before ended with lines of text.
    let lines = log[before..].lines().skip_while(|line| !line.starts_with('{'));
    let lines: Vec<Value> =
        lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect::<Result<_>>()?;
    ensure!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()), "{lines:?}");
    let withdrawn = lines.iter().find(|line| line["vip"] == "10.100.0.1" && line["reason"] == "NoLocalEndpoint");
    let withdrawn = withdrawn.with_context(|| format!("no withdrawal in {lines:?}"))?;
    ensure!(withdrawn["level"] == "INFO" && withdrawn["services"] == "default/web", "{withdrawn}");
    Ok(())
}

#[test]
fn quick_a_reader_that_has_seen_enough_is_no_error() -> Result<()> {
    let pipe = format!("set -o pipefail; {} completion bash | true", binary()?.display());
    output(Command::new("bash").args(["-c", &pipe])).map(drop)
}
