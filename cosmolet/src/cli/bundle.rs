//! `cosmolet bundle`: everything that an issue wants to know, in one archive, and no secret in it.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::client;
use super::doctor::{self, facts};
use crate::config::Config;
use crate::engine::types::Vrf;
use crate::frr::vty::Line;
use crate::http::status::Status;

/// VIPs that are not advertised, of which the whole explanation is taken along.
const EXPLAINED: usize = 50;
/// What follows one of these words in FRR's configuration is nobody's business.
const SECRETS: [&str; 6] =
    ["password", "authentication-key", "message-digest-key", "key-string", "secret", "authentication"];
/// What the kernel says of itself, the node's networking and this process.
const KERNEL: [&str; 8] = [
    "/proc/version",
    "/proc/cmdline",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/self/status",
    "/proc/net/if_inet6",
    "/proc/net/dev",
];

const README: &str = "\
What `cosmolet bundle` has gathered of one node, to go with an issue.

status.json, node and VIPs; transitions.json, the last decisions; metrics.txt; explain/, VIPs that are not advertised:
what the daemon says. config.yaml and environment.txt: what it was told. doctor.json: what cosmolet doctor finds.
frr/: bgpd's version, sessions and running configuration, without passwords. kernel/: facts about the node.
missing.txt: what could not be had, and why.

It has no keys, tokens and passwords, but names and addresses of your cluster: look through it before you publish it.
";

/// The parts of a bundle: a path within it, and the content or why there is none.
type Parts = Vec<(String, Result<Vec<u8>, String>)>;

/// Writes a bundle to a file, to one that is named after the node and the time, or (`-`) to standard output.
///
/// # Errors
/// It cannot be written. What cannot be gathered is said in it, and no error.
pub fn run(config: &Path, server: &str, file: Option<&Path>) -> Result<ExitCode> {
    let to_stdout = file.is_some_and(|file| file == Path::new("-"));
    ensure!(
        !(to_stdout && io::stdout().is_terminal()),
        "a terminal cannot show an archive: cosmolet bundle - > node.tar.gz"
    );
    let status = client::status(server);
    let node = match &status {
        Ok(status) => status.node.clone(),
        Err(_) => fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
    };
    let name = format!("cosmolet-{}-{}", word(&node), Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let parts = gather(config, server, status);
    let missing: Vec<_> = parts.iter().filter_map(|(path, part)| Some((path, part.as_ref().err()?))).collect();
    for (path, why) in &missing {
        eprintln!("cosmolet: without {path}: {why}");
    }
    if to_stdout {
        pack(&name, &parts, io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = file.map_or_else(|| PathBuf::from(format!("{name}.tar.gz")), Path::to_path_buf);
    let archive = File::create(&path).with_context(|| {
        format!(
            "cannot write {}; name another file, or - for standard output: cosmolet bundle - > FILE",
            path.display()
        )
    })?;
    pack(&name, &parts, archive).with_context(|| format!("writing {}", path.display()))?;
    super::print(&format!("{}\n", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn gather(config: &Path, server: &str, status: Result<Status>) -> Parts {
    let mut parts: Parts = vec![("README.txt".to_owned(), Ok(README.into()))];
    let mut add = |path: &str, part: Result<Vec<u8>>| parts.push((path.to_owned(), part.map_err(|e| format!("{e:#}"))));
    let explained: Vec<String> = status.iter().flat_map(|status| &status.vips).filter_map(unadvertised).collect();
    add("status.json", status.and_then(|status| Ok(serde_json::to_vec_pretty(&status)?)));
    add("transitions.json", client::get(server, "/api/v1/transitions"));
    add("metrics.txt", client::get(server, "/metrics"));
    for vip in explained.iter().take(EXPLAINED) {
        let path = format!("explain/{}.json", vip.replace(':', "_"));
        add(&path, client::get(server, &format!("/api/v1/explain/{vip}")));
    }
    add("config.yaml", fs::read(config).with_context(|| config.display().to_string()));
    add("environment.txt", Ok(environment(std::env::vars()).into()));
    let findings = doctor::examine(config, server);
    add("doctor.json", serde_json::to_vec_pretty(&findings).map_err(Into::into));
    let (sockets, vrf) = Config::load(config).map_or_else(
        |_| (PathBuf::from("/var/run/frr"), Vrf::default()),
        |config| (config.frr_sockets, config.bgp.vrf),
    );
    match frr(&sockets, &vrf) {
        Ok(files) => files.into_iter().for_each(|(path, text)| add(path, Ok(text.into()))),
        Err(error) => add("frr", Err(error)),
    }
    for path in KERNEL {
        let name = path.trim_start_matches("/proc/").replace('/', "-");
        add(&format!("kernel/{name}.txt"), fs::read(path).with_context(|| path.to_owned()));
    }
    parts
}

fn unadvertised(row: &crate::http::status::VipRow) -> Option<String> {
    (row.state != "advertised").then(|| row.vip.clone())
}

/// What bgpd says, without passwords.
fn frr(sockets: &Path, vrf: &Vrf) -> Result<[(&'static str, String); 3]> {
    let [running, summary, version] =
        facts::ask(sockets, [facts::RUNNING, Line::summary(vrf), Line::fixed("show version")])?;
    let running = running.lines().map(redacted).collect::<Vec<_>>().join("\n") + "\n";
    Ok([("frr/running-config.txt", running), ("frr/bgp-summary.json", summary), ("frr/version.txt", version)])
}

/// A line of FRR's configuration without what follows a word that announces a secret.
fn redacted(line: &str) -> String {
    let secret = line.split_inclusive(' ').scan(0, |end, word| {
        *end += word.len();
        Some((*end, word.trim_end()))
    });
    match secret.into_iter().find(|(_, word)| SECRETS.contains(word)) {
        Some((end, _)) if end < line.len() => format!("{}***", line.get(..end).unwrap_or_default()),
        _ => line.to_owned(),
    }
}

/// The variables that override keys of the configuration, none of which is a secret.
fn environment(variables: impl Iterator<Item = (String, String)>) -> String {
    let ours = |(name, _): &(String, String)| {
        name.starts_with("COSMOLET_") || ["NODE_NAME", "POD_NAME", "POD_NAMESPACE", "RUST_LOG"].contains(&name.as_str())
    };
    let mut lines: Vec<_> = variables.filter(ours).map(|(name, value)| format!("{name}={value}\n")).collect();
    lines.sort();
    lines.concat()
}

/// What may stand in a file's name.
fn word(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    text.chars().map(|c| if safe(c) { c } else { '_' }).collect()
}

fn pack(name: &str, parts: &Parts, to: impl Write) -> Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::default()));
    let mut put = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(Timestamp::now().as_second()).unwrap_or_default());
        archive.append_data(&mut header, format!("{name}/{path}"), content)
    };
    let mut missing = String::new();
    for (path, part) in parts {
        match part {
            Ok(content) => put(path, content)?,
            Err(why) => missing += &format!("{path}: {why}\n"),
        }
    }
    put("missing.txt", missing.as_bytes())?;
    archive.into_inner()?.finish()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn secrets_of_frr_stay_at_home() {
        for (line, told) in [
            (" neighbor 10.0.0.1 password hunter2 and more", " neighbor 10.0.0.1 password ***"),
            ("enable password 8 abc", "enable password ***"),
            ("  key-string abc", "  key-string ***"),
            (" neighbor 10.0.0.1 remote-as 65000", " neighbor 10.0.0.1 remote-as 65000"),
            ("service password-encryption", "service password-encryption"),
            ("", ""),
        ] {
            assert_eq!(redacted(line), told);
        }
        let variables = [("COSMOLET_BGP_ASN", "1"), ("HOME", "/"), ("TOKEN", "x"), ("NODE_NAME", "n")];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(environment(variables), "COSMOLET_BGP_ASN=1\nNODE_NAME=n\n");
    }

    #[test]
    fn what_is_missing_is_said_in_it() {
        let parts: Parts =
            vec![("a/b.txt".to_owned(), Ok(b"content".to_vec())), ("c".to_owned(), Err("not to be had".to_owned()))];
        let mut packed = Vec::new();
        pack("bundle", &parts, &mut packed).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let files = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        let files: Vec<_> = files.collect();
        let expected = [("bundle/a/b.txt", "content"), ("bundle/missing.txt", "c: not to be had\n")];
        assert_eq!(files, expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
        assert_eq!(word("node/../1 a"), "node_.._1_a");
    }
}
