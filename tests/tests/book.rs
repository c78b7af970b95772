//! The documentation: the book builds, every link leads somewhere, and every command and block in it is read by the program
//! that it is for: cosmolet's own command line and configuration, helm, kubectl, promtool, vtysh, a shell.

#![allow(missing_docs, reason = "a suite")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{CommandFactory, Parser};
use cosmolet::args::{Args, kubectl::Plugin};
use cosmolet::config::Config;
use cosmolet::metrics::catalogue::METRICS;
use cosmolet_tests::Lab;
use cosmolet_tests::api_server::{ApiServer, KUBE_VERSION, Place, User, kube_program};
use cosmolet_tests::cluster::Helm;
use cosmolet_tests::fabric::{Fabric, Mode, NodeSpec};
use cosmolet_tests::markdown::{Block, all_blocks, pages, root};
use cosmolet_tests::packaging::GIDS;
use serde::Deserialize;
use serde_json::Value;

/// What a block may be, and what reads it here.
const KINDS: [&str; 13] = [
    "sh",
    "frr",
    "text",
    "promql",
    "rust",
    "yaml config",
    "yaml values",
    "yaml kubernetes",
    "yaml kustomize",
    "yaml argocd",
    "yaml flux",
    "yaml metallb",
    "yaml prometheus",
];

/// Programs that pages call beside those whose arguments are read here.
#[rustfmt::skip]
const TOOLS: [&str; 30] = [
    "apt-get", "bpftool", "cat", "conntrack", "curl", "cut", "dmesg", "echo", "getent", "git", "grep", "ip", "journalctl", "jq", "ln",
    "ls", "man", "nft", "reboot", "setcap", "ssh", "sysctl", "systemctl", "tail", "tar", "tcpdump", "uptime", "watch", "wc", "export",
];

fn of_kind(kind: &str) -> Result<Vec<Block>> {
    let found: Vec<Block> = all_blocks()?.into_iter().filter(|block| block.kind == kind).collect();
    ensure!(!found.is_empty(), "no page has a block {kind:?}: is the test still about anything?");
    Ok(found)
}

/// Runs the check on each and tells of all that fail.
fn each<T>(
    all: impl IntoIterator<Item = T>,
    at: impl Fn(&T) -> String,
    check: impl Fn(&T) -> Result<()>,
) -> Result<()> {
    let failed: Vec<String> =
        all.into_iter().filter_map(|one| check(&one).err().map(|error| format!("{}: {error:#}", at(&one)))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn each_block(kind: &str, check: impl Fn(&Block) -> Result<()>) -> Result<()> {
    each(of_kind(kind)?, |block| block.at.clone(), check)
}

fn each_call(calls: Vec<Call>, check: impl Fn(&Call) -> Result<()>) -> Result<()> {
    each(calls, |call| call.at.clone(), check)
}

fn succeeds(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("starting {:?}", command.get_program()))?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "{}", said.trim());
    Ok(said)
}

fn written(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

#[test]
fn quick_every_block_says_what_it_is() -> Result<()> {
    each(
        all_blocks()?,
        |block| block.at.clone(),
        |block| {
            ensure!(KINDS.contains(&block.kind.as_str()), "{:?} is none of {KINDS:?}", block.kind);
            Ok(())
        },
    )
}

#[test]
fn quick_configurations_are_right() -> Result<()> {
    each_block("yaml config", |block| {
        Config::parse(&block.text, |name| (name == "NODE_NAME").then(|| "node-1".to_owned()), "host")?;
        Ok(())
    })
}

#[test]
fn quick_values_are_the_charts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    each_block("yaml values", |block| {
        let file = written(folder.path(), "values.yaml", &block.text)?;
        let mut helm = Command::new(Helm::V4.program()?);
        helm.current_dir(root()).args(["template", "cosmolet", "charts/cosmolet", "--set", GIDS, "-f"]).arg(file);
        succeeds(&mut helm).map(drop)
    })
}

fn objects(text: &str) -> Result<Vec<Value>> {
    serde_yaml_ng::Deserializer::from_str(text).map(|document| Ok(Value::deserialize(document)?)).collect()
}

/// Kubernetes' own objects are shown to a real API server below; others' are looked at only.
#[test]
fn quick_objects_have_a_kind_and_a_name() -> Result<()> {
    for kind in ["yaml kubernetes", "yaml kustomize", "yaml argocd", "yaml flux"] {
        each_block(kind, |block| {
            for object in objects(&block.text)? {
                ensure!(object["apiVersion"].is_string() && object["kind"].is_string(), "no object: {object}");
                let named = object["metadata"]["name"].is_string() || kind == "yaml kustomize";
                ensure!(named, "an object without a name: {object}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Values in others' objects are the chart's too, for both helms that Argo CD and Flux may have.
#[test]
fn quick_what_argo_and_flux_give_to_the_chart_is_the_charts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut found = 0;
    for block in [of_kind("yaml argocd")?, of_kind("yaml flux")?].concat() {
        for object in objects(&block.text)? {
            let both = [&object["spec"]["source"]["helm"]["valuesObject"], &object["spec"]["values"]];
            for values in both.into_iter().filter(|values| values.is_object()) {
                found += 1;
                let file = written(folder.path(), "values.json", &values.to_string())?;
                for which in [Helm::V4, Helm::V3] {
                    let mut helm = Command::new(which.program()?);
                    helm.current_dir(root()).args(["template", "cosmolet", "charts/cosmolet", "--kube-version"]);
                    helm.args([KUBE_VERSION, "-f"]).arg(&file);
                    succeeds(&mut helm).with_context(|| block.at.clone())?;
                }
            }
        }
    }
    ensure!(found >= 2, "only {found} of them have values");
    Ok(())
}

#[test]
fn quick_prometheus_reads_what_is_for_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    each_block("yaml prometheus", |block| {
        let file = written(folder.path(), "prometheus.yml", &block.text)?;
        succeeds(Command::new("promtool").args(["check", "config", "--lint=none"]).arg(file)).map(drop)
    })?;
    let query = |expr: &str| {
        let rule = serde_json::json!({"groups": [{"name": "page", "rules": [{"record": "page:query", "expr": expr}]}]});
        let file = written(folder.path(), "rules.json", &rule.to_string())?;
        succeeds(Command::new("promtool").args(["check", "rules"]).arg(file)).map(drop)
    };
    each(METRICS, |metric| metric.name.to_owned(), |metric| query(metric.query))?;
    each_block("promql", |block| {
        for text in block.text.split("\n\n") {
            let expr: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
            query(&expr.join("\n"))?;
        }
        Ok(())
    })
}

/// By `vtysh`, which knows every daemon's commands.
#[test]
fn quick_frr_reads_what_is_for_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    each_block("frr", |block| {
        let file = written(folder.path(), "frr.conf", &block.text)?;
        let said = succeeds(Command::new("vtysh").args(["--dryrun", "--inputfile"]).arg(file))?;
        ensure!(!said.contains('%'), "{said}");
        Ok(())
    })
}

/// One command of a `sh` block, as words.
struct Call {
    at: String,
    words: Vec<String>,
}

/// The commands of a block: lines, and what is behind `|`, `&&`, `||` and `;`. Comments and redirections are not theirs.
fn calls(block: &Block) -> Vec<Call> {
    let text = block.text.replace("\\\n", " ");
    let mut calls = Vec::new();
    for line in text.lines() {
        let mut words: Vec<String> = Vec::new();
        let mut end = |words: &mut Vec<String>| {
            if !words.is_empty() {
                calls.push(Call { at: block.at.clone(), words: std::mem::take(words) });
            }
        };
        for token in tokens(line) {
            match token.as_str() {
                "#" => break,
                "|" | "&&" | "||" | ";" => end(&mut words),
                _ => words.push(token),
            }
        }
        end(&mut words);
    }
    for call in &mut calls {
        if let Some(at) = call.words.iter().position(|word| word.starts_with('>') || word.starts_with("2>")) {
            call.words.truncate(at);
        }
        while call
            .words
            .first()
            .is_some_and(|word| word.contains('=') && word.starts_with(|c: char| c.is_ascii_uppercase()))
        {
            call.words.remove(0);
        }
    }
    calls.retain(|call| !call.words.is_empty());
    calls
}

/// Words as a shell splits them; `;` and `|` are words of their own where they are not quoted, and a comment is `#`.
fn tokens(line: &str) -> Vec<String> {
    let (mut tokens, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, ' ' | '\t') => tokens.extend(word.take()),
            (None, '#') if word.is_none() => {
                tokens.push("#".to_owned());
                return tokens;
            }
            (None, ';' | '|' | '&') => {
                tokens.extend(word.take());
                let twice = rest.next_if_eq(&c).is_some();
                tokens.push(if twice { format!("{c}{c}") } else { c.to_string() });
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    tokens.extend(word);
    tokens
}

fn all_calls() -> Result<Vec<Call>> {
    let calls: Vec<Call> = of_kind("sh")?.iter().flat_map(calls).collect();
    ensure!(calls.len() > 50, "only {} commands were found", calls.len());
    Ok(calls)
}

#[test]
fn quick_a_shell_reads_every_command() -> Result<()> {
    each_block("sh", |block| succeeds(Command::new("bash").args(["-n", "-c", &block.text])).map(drop))?;
    let known = ["cosmolet", "kubectl", "helm", "cargo", "vtysh", "promtool"];
    each_call(all_calls()?, |call| {
        let program = &call.words[0];
        let is_known = known.contains(&program.as_str()) || TOOLS.contains(&program.as_str());
        ensure!(is_known, "{program:?} is no program that pages call: {:?}", call.words);
        Ok(())
    })
}

/// As typed, with an address for `VIP`.
fn typed(words: &[String]) -> Vec<String> {
    words.iter().map(|word| if word == "VIP" { "10.50.0.7".to_owned() } else { word.clone() }).collect()
}

fn parses<P: Parser + CommandFactory>(words: &[String]) -> Result<()> {
    match P::try_parse_from(typed(words)) {
        Err(error)
            if !matches!(
                error.kind(),
                clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
            ) =>
        {
            bail!("{error}")
        }
        _ => Ok(()),
    }
}

#[test]
fn quick_cosmolets_commands_are_its_own() -> Result<()> {
    each_call(all_calls()?, |call| {
        let words: Vec<&str> = call.words.iter().map(String::as_str).collect();
        // In a pod or on another machine: what stands behind `--` or the node's name.
        let inner = words
            .iter()
            .position(|word| *word == "cosmolet")
            .filter(|at| *at == 0 || words[at - 1] == "--" || words[0] == "ssh");
        match (words[0], inner) {
            ("kubectl", _) if words[1] == "cosmolet" => parses::<Plugin>(&call.words[1..]),
            (_, Some(at)) => parses::<Args>(&call.words[at..]),
            _ => Ok(()),
        }
    })
}

/// With `--help` behind them they do nothing, but every word before it is read.
#[test]
fn helm_kubectl_and_cargo_know_their_commands() -> Result<()> {
    let xtask = std::env::current_exe()?;
    let xtask = xtask.parent().and_then(Path::parent).context("no target folder")?.join("xtask");
    each_call(all_calls()?, |call| {
        let words: Vec<&str> = call.words.iter().map(String::as_str).collect();
        let rest = words.iter().skip(1).take_while(|word| **word != "--").copied();
        let (program, args): (PathBuf, Vec<&str>) = match words.as_slice() {
            ["kubectl", "cosmolet", ..] => return Ok(()),
            ["helm", ..] => (Helm::V4.program()?, rest.collect()),
            ["kubectl", ..] => (kube_program("kubectl")?, rest.collect()),
            ["cargo", "xtask", ..] => (xtask.clone(), rest.skip(1).collect()),
            _ => return Ok(()),
        };
        let said = succeeds(Command::new(&program).args(&args).arg("--help"))?;
        // An unknown command of kubectl or helm shows the help of the whole; a known one shows its own.
        let is_value = |at: usize| at > 0 && ["-n", "--namespace"].contains(&args[at - 1]);
        let verb = args.iter().enumerate().find(|(at, word)| !word.starts_with('-') && !is_value(*at));
        let verb = verb.map(|(_, word)| *word).unwrap_or_default();
        ensure!(said.contains(&format!("{verb} ")), "{verb:?} is unknown: {words:?}");
        Ok(())
    })
}

/// What is installed is what the chart's values allow; `values.yaml` is the page's own.
#[test]
fn quick_helm_renders_what_pages_install() -> Result<()> {
    let ours = |call: &Call| {
        let verb = call.words.get(1).is_some_and(|verb| verb == "install" || verb == "upgrade");
        call.words[0] == "helm" && verb && call.words.iter().any(|word| word == "charts/cosmolet")
    };
    let installs: Vec<Call> = all_calls()?.into_iter().filter(ours).collect();
    ensure!(installs.len() > 2, "only {} installations", installs.len());
    let values = of_kind("yaml values")?;
    each_call(installs, |call| {
        let folder = tempfile::tempdir()?;
        symlink(root().join("charts"), folder.path().join("charts"))?;
        let page = call.at.split(':').next().unwrap_or_default();
        if let Some(block) = values.iter().find(|block| block.at.starts_with(page)) {
            written(folder.path(), "values.yaml", &block.text)?;
        }
        let only_installing = ["--create-namespace", "--reuse-values", "--install", "--wait"];
        let args = call.words[2..].iter().filter(|word| !only_installing.contains(&word.as_str()));
        let mut helm = Command::new(Helm::V4.program()?);
        helm.current_dir(folder.path()).arg("template").args(args);
        if !call.words.iter().any(|word| word.contains("vtyGids") || word == "--values") {
            helm.args(["--set", GIDS]);
        }
        succeeds(&mut helm).map(drop)
    })
}

/// Objects of Kubernetes itself, by a real API server, which knows every field.
#[test]
fn an_api_server_takes_the_objects() -> Result<()> {
    let lab = Lab::new()?;
    let api = ApiServer::start(&lab, Place::Loopback)?;
    let kubectl = |args: &[&str]| -> Result<String> {
        let mut command = Command::new(kube_program("kubectl")?);
        command.env("KUBECONFIG", api.kubeconfig(User::Admin)).env("NO_PROXY", "*");
        succeeds(command.arg("--cache-dir").arg(lab.subdirectory("kubectl")?).args(args))
    };
    kubectl(&["create", "namespace", "cosmolet-system"])?;
    each_block("yaml kubernetes", |block| {
        let file = written(lab.directory(), "objects.yaml", &block.text)?;
        let strict = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f"];
        kubectl(&[&strict[..], &[&file.to_string_lossy()]].concat()).map(drop)
    })
}

/// On a node of the lab, whose FRR knows its own commands. Names that stand for something are given one.
#[test]
fn vtysh_knows_every_command() -> Result<()> {
    let lab = Lab::new()?;
    let fabric = Fabric::raise(&lab, &[NodeSpec { wire: false, ..NodeSpec::new("node1", Mode::Dynamic) }])?;
    let node = &fabric.nodes[0];
    let calls: Vec<Call> = all_calls()?.into_iter().filter(|call| call.words[0] == "vtysh").collect();
    ensure!(calls.len() > 10, "only {} calls of vtysh", calls.len());
    each_call(calls, |call| {
        let mut vtysh = node.netns.command("vtysh");
        vtysh.arg("--vty_socket").arg(node.frr.directory());
        for word in call.words[1..].iter().filter(|word| *word != "write memory") {
            vtysh.arg(word.replace("PEER", "10.1.1.1"));
        }
        if call.words.iter().all(|word| word != "-c") || call.words.last().is_some_and(|word| word == "write memory") {
            // It would write the host's file.
            return Ok(());
        }
        // What it answers is the lab's: a daemon that does not run, a route that is not there.
        let done = vtysh.output()?;
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let unknown = ["Unknown command", "Command incomplete", "Ambiguous command"];
        ensure!(!unknown.iter().any(|words| said.contains(words)), "{said}");
        Ok(())
    })
}

fn build_book(into: &Path) -> Result<()> {
    let cache = std::env::home_dir().context("no home directory")?.join(".cache/cosmolet");
    let program = cache.join("mdbook-0.5.4/bin/mdbook");
    ensure!(program.is_file(), "{} is missing: cargo xtask setup", program.display());
    let said = succeeds(Command::new(program).arg("build").arg(root()).arg("--dest-dir").arg(into))?;
    ensure!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    Ok(())
}

/// Values of an attribute in a page.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    html.split(&format!(" {name}=\"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn quick_the_book_builds_and_every_link_leads_somewhere() -> Result<()> {
    let folder = tempfile::tempdir()?;
    build_book(folder.path())?;
    let (mut links, mut broken) = (0, Vec::new());
    for page in pages()?.iter().filter_map(|page| page.strip_prefix(root().join("docs")).ok()) {
        let name = page.to_string_lossy();
        if name == "SUMMARY.md" {
            continue;
        }
        let name = name.replace(".md", ".html");
        let path = folder.path().join(&name);
        let html = fs::read_to_string(&path).with_context(|| format!("{name} is not in the book: docs/SUMMARY.md"))?;
        let main = html.split("<main>").nth(1).and_then(|rest| rest.split("</main>").next()).context("no main")?;
        for link in [attributes(main, "href"), attributes(main, "src")].concat() {
            links += 1;
            if !leads(&path, link)? {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    ensure!(broken.is_empty(), "links to nothing:\n{}", broken.join("\n"));
    ensure!(links > 200, "only {links} links were found");
    Ok(())
}

/// Whether a link of the page leads to a file of the book, and to a place in it. The web is not asked.
fn leads(page: &Path, link: &str) -> Result<bool> {
    if link.starts_with("https://") || link.starts_with("http://127.0.0.1") {
        return Ok(true);
    }
    let (file, place) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { page.to_owned() } else { page.parent().context("no folder")?.join(file) };
    if !target.is_file() {
        return Ok(false);
    }
    Ok(place.is_empty() || attributes(&fs::read_to_string(&target)?, "id").contains(&place))
}

/// As GitHub shows them: files beside pages.
#[test]
fn quick_links_between_files_lead_somewhere() -> Result<()> {
    let mut broken = BTreeSet::new();
    for page in pages()? {
        let text = fs::read_to_string(&page)?;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.starts_with("https://") || file.contains(' ') {
                continue;
            }
            if !page.parent().context("no folder")?.join(file).exists() {
                broken.insert(format!("{}: {link}", page.display()));
            }
        }
    }
    ensure!(broken.is_empty(), "{broken:#?}");
    Ok(())
}

#[test]
fn quick_blocks_are_taken_apart_as_a_shell_does() -> Result<()> {
    let block = |text: &str| Block { at: "x:1".to_owned(), kind: "sh".to_owned(), text: text.to_owned() };
    let words = |text: &str| calls(&block(text)).into_iter().map(|call| call.words).collect::<Vec<_>>();
    let found = words("a 'b c' \\\n  -d  # e\nf; g | h && i > j");
    ensure!(found == [vec!["a", "b c", "-d"], vec!["f"], vec!["g"], vec!["h"], vec!["i"]], "{found:?}");
    let found = words("X=1 a b#c 2> /dev/null");
    ensure!(found == [vec!["a", "b#c"]], "{found:?}");
    ensure!(parses::<Args>(&["cosmolet", "explain", "VIP"].map(str::to_owned)).is_ok());
    ensure!(parses::<Args>(&["cosmolet", "explian", "VIP"].map(str::to_owned)).is_err());
    Ok(())
}
