//! Rules about who may know whom: the architecture's arrows, as tables.

use std::path::Path;

use super::Breach;
use super::source::Source;

/// The modules that touch the outside world. None imports another.
const EDGES: [&str; 7] = ["kubernetes", "manifests", "ebpf", "netlink", "frr", "http", "probe"];

/// (who, whom, through which module): the only arrows between edges.
const EDGE_EXCEPTIONS: [(&str, &str, &str); 1] = [("manifests", "kubernetes", "project")];

/// What the engine may import; everything else is outside.
const ENGINE_MAY: [&str; 4] = ["std", "core", "ipnet", "crate::engine"];

/// What the engine may not take from std: clocks, IO, threads, and collections without an order.
const ENGINE_MUST_NOT: [&str; 14] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::mpsc",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// Crates whose names betray IO, wherever a path mentions them.
const ENGINE_CRATES: [&str; 16] = [
    "anyhow",
    "aya",
    "axum",
    "bytes",
    "clap",
    "futures",
    "k8s_openapi",
    "kube",
    "libc",
    "notify",
    "prometheus_client",
    "rtnetlink",
    "serde_json",
    "serde_yaml_ng",
    "tokio",
    "tracing",
];

/// A crate that only some places of the daemon may use.
struct Reserved {
    name: &'static str,
    places: &'static [&'static str],
    why: &'static str,
}

const RESERVED: [Reserved; 6] = [
    Reserved {
        name: "anyhow",
        places: &["main.rs", "daemon.rs", "daemon/", "cli.rs", "cli/"],
        why: "an edge's errors are an enum, one variant for each thing a caller does differently",
    },
    Reserved {
        name: "k8s_openapi",
        places: &["kubernetes.rs", "kubernetes/", "manifests.rs", "manifests/"],
        why: "only the projection knows Kubernetes' field names",
    },
    Reserved {
        name: "kube",
        places: &["kubernetes.rs", "kubernetes/", "daemon.rs", "daemon/"],
        why: "only the Kubernetes edge talks to an API server",
    },
    Reserved {
        name: "rtnetlink",
        places: &["netlink.rs", "netlink/"],
        why: "only the netlink edge changes the kernel's addresses",
    },
    Reserved { name: "axum", places: &["http.rs", "http/"], why: "only the HTTP edge serves" },
    Reserved {
        name: "aya",
        places: &["ebpf.rs", "ebpf/", "probe.rs", "probe/"],
        why: "only these edges load programs",
    },
];

/// (member, the members it may depend on).
const MEMBERS: [(&str, &[&str]); 4] = [
    ("cosmolet", &["cosmolet-common"]),
    ("cosmolet-common", &[]),
    ("cosmolet-ebpf", &["cosmolet-common"]),
    ("xtask", &[]),
];

/// Checks one Rust file of the daemon; other members have no rules of this kind.
pub(super) fn check(source: &Source) -> Vec<Breach> {
    let Ok(inner) = source.path.strip_prefix("cosmolet/src") else { return Vec::new() };
    let module = inner.iter().next().and_then(|part| Path::new(part).file_stem()?.to_str()).unwrap_or_default();
    let paths = paths(source);
    let mut breaches = reserved(source, inner, &paths);
    if module == "engine" {
        breaches.extend(engine(source, &paths));
    }
    if EDGES.contains(&module) {
        breaches.extend(edges(source, module, &paths));
    }
    breaches
}

/// A path that the file mentions: imported, or written out where it is used.
struct Mention {
    line: usize,
    path: String,
    imported: bool,
}

fn paths(source: &Source) -> Vec<Mention> {
    let mut mentions: Vec<Mention> = source
        .imports()
        .into_iter()
        .map(|import| Mention { line: import.line, path: import.path.join("::"), imported: true })
        .collect();
    for (line, text) in source.own_code() {
        for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
            if word.contains("::") && !text.trim_start().starts_with("use ") {
                mentions.push(Mention { line, path: word.trim_start_matches(':').to_owned(), imported: false });
            }
        }
    }
    mentions
}

fn engine(source: &Source, mentions: &[Mention]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for Mention { line, path, imported } in mentions {
        let mut breach = |what: &str| {
            breaches.push(Breach::new(&source.path, *line, format!("the engine is pure and may not use {what}")));
        };
        if let Some(denied) = ENGINE_MUST_NOT.iter().find(|denied| begins(path, denied)) {
            breach(denied);
        } else if let Some(name) = ENGINE_CRATES.iter().find(|name| begins(path, name)) {
            breach(&format!("the crate `{name}`"));
        } else if begins(path, "crate") && !begins(path, "crate::engine") {
            breach(path);
        } else if *imported && !ENGINE_MAY.iter().any(|may| begins(path, may)) && !local(path) {
            breach(&format!("`{path}` (it may use {})", ENGINE_MAY.join(", ")));
        }
    }
    breaches
}

/// `use Family::*` imports from a type of the file itself.
fn local(path: &str) -> bool {
    path.starts_with(char::is_uppercase)
}

fn edges(source: &Source, module: &str, mentions: &[Mention]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for Mention { line, path, .. } in mentions {
        let Some(other) = EDGES.iter().find(|other| **other != module && begins(path, &format!("crate::{other}")))
        else {
            continue;
        };
        let excepted = EDGE_EXCEPTIONS.iter().any(|(who, whom, through)| {
            *who == module && whom == other && begins(path, &format!("crate::{whom}::{through}"))
        });
        if !excepted {
            let rule = format!("no edge knows another: `{module}` may not use crate::{other}");
            breaches.push(Breach::new(&source.path, *line, rule));
        }
    }
    breaches
}

fn reserved(source: &Source, inner: &Path, mentions: &[Mention]) -> Vec<Breach> {
    let file = inner.to_string_lossy();
    let mut breaches = Vec::new();
    for Reserved { name, places, why } in RESERVED {
        let here = places.iter().any(|place| file == *place || (place.ends_with('/') && file.starts_with(place)));
        if here {
            continue;
        }
        for mention in mentions.iter().filter(|mention| begins(&mention.path, name)) {
            breaches.push(Breach::new(&source.path, mention.line, format!("`{name}` has no place here: {why}")));
        }
    }
    breaches
}

/// Whether `path` is `prefix` or something inside it.
fn begins(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Checks which members a member's manifest depends on.
pub(super) fn manifest(path: &Path, text: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let Some((member, may)) = MEMBERS.iter().find(|(member, _)| path == Path::new(member).join("Cargo.toml")) else {
        return breaches;
    };
    let mut dependencies = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            dependencies = line.contains("dependencies");
            continue;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if !dependencies || !(name.starts_with("cosmolet") || name == "xtask") || may.contains(&name) {
            continue;
        }
        let allowed = if may.is_empty() { "no other member".to_owned() } else { may.join(", ") };
        breaches.push(Breach::new(path, index + 1, format!("{member} depends on {allowed}, not on {name}")));
    }
    breaches
}
