//! From the file's text to the validated configuration.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_yaml_ng::{Mapping, Value};

use super::keys::{KEYS, rule_of};
use super::raw::{
    CordonName, FormatName, LevelName, ModeName, OnExitName, OriginName, Raw, RawAttributes, SourceName,
    TrafficModeName, TypeName, WeightName,
};
use super::{Bgp, Config, Logging, Loopback, OnExit, Probe, Services, Source, Traffic};
use crate::engine::attributes::{self, Attributes, Origin};
use crate::engine::rules::VipRules;
use crate::engine::service::VipKind;
use crate::engine::traffic::TrafficMode;
use crate::engine::types::{Mode, Vrf};

/// What is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        error: String,
    },
    /// It is not YAML, or not a mapping.
    #[error("not a YAML mapping of keys to values: {0}")]
    Syntax(String),
    /// A key is unknown or its value has the wrong type.
    #[error("{key}: {error}")]
    Value {
        /// The key with its path.
        key: String,
        /// What was found and what was expected.
        error: String,
    },
    /// A value, or two keys together, break a rule.
    #[error("{key}: {value:?}: {rule}")]
    Rule {
        /// The key with its path.
        key: String,
        /// The value as it stands.
        value: String,
        /// The rule, and how to follow it.
        rule: String,
    },
}

pub(super) fn rule(key: &str, value: impl ToString, rule: impl ToString) -> ConfigError {
    ConfigError::Rule { key: key.to_owned(), value: value.to_string(), rule: rule.to_string() }
}

/// The value breaks the rule that `keys` has for the key.
pub(super) fn broken(key: &str, value: impl ToString) -> ConfigError {
    rule(key, value, rule_of(key))
}

/// A time, or none at all, which 0 says.
fn seconds_unless_zero(key: &str, seconds: u64, allowed: RangeInclusive<u64>) -> Result<Option<Duration>, ConfigError> {
    match seconds {
        0 => Ok(None),
        seconds if allowed.contains(&seconds) => Ok(Some(Duration::from_secs(seconds))),
        other => Err(broken(key, other)),
    }
}

/// Lays the text over the defaults, and the variables over it.
pub(super) fn raw(text: &str, environment: &impl Fn(&str) -> Option<String>) -> Result<Raw, ConfigError> {
    let file = match serde_yaml_ng::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))? {
        Value::Null => Mapping::new(),
        Value::Mapping(file) => file,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Sequence(_) | Value::Tagged(_) => {
            return Err(ConfigError::Syntax("the top level is a list or a single value".to_owned()));
        }
    };
    let mut root = Mapping::new();
    for key in KEYS {
        lay_over(&mut root, key.name, yaml(key.name, key.default)?)?;
    }
    for (name, value) in file {
        match (root.get_mut(&name), value) {
            // A section without keys ("bgp:") means its defaults.
            (_, Value::Null) => {}
            (Some(Value::Mapping(section)), Value::Mapping(keys)) => fill_in(section, keys),
            (_, value) => drop(root.insert(name, value)),
        }
    }
    for key in KEYS {
        let name = key.variable();
        if let Some(text) = environment(&name) {
            lay_over(&mut root, key.name, yaml(&name, &text)?)?;
        }
    }
    serde_path_to_error::deserialize(Value::Mapping(root)).map_err(|error| {
        let key = error.path().to_string();
        let key = if key == "." { "(top level)".to_owned() } else { key };
        ConfigError::Value { key, error: error.into_inner().to_string() }
    })
}

/// Lays a section of the file over its defaults, the sections within it likewise.
fn fill_in(under: &mut Mapping, over: Mapping) {
    for (name, value) in over {
        match (under.get_mut(&name), value) {
            (Some(Value::Mapping(_)), Value::Null) => {}
            (Some(Value::Mapping(section)), Value::Mapping(keys)) => fill_in(section, keys),
            (_, value) => drop(under.insert(name, value)),
        }
    }
}

fn yaml(name: &str, text: &str) -> Result<Value, ConfigError> {
    serde_yaml_ng::from_str(text).map_err(|error| ConfigError::Value {
        key: name.to_owned(),
        error: format!("{text:?} is not a YAML value ({error}); a list is written [a, b]"),
    })
}

fn lay_over(root: &mut Mapping, key: &str, value: Value) -> Result<(), ConfigError> {
    match key.split_once('.') {
        None => {
            root.insert(key.into(), value);
            Ok(())
        }
        Some((section, rest)) => {
            let inner = root.entry(section.into()).or_insert_with(|| Value::Mapping(Mapping::new()));
            let Value::Mapping(inner) = inner else {
                return Err(ConfigError::Value {
                    key: section.to_owned(),
                    error: "expected a section of keys".to_owned(),
                });
            };
            lay_over(inner, rest, value)
        }
    }
}

/// Turns what was typed into what is meant.
pub(super) fn validate(raw: Raw, node_variable: Option<String>, hostname: &str) -> Result<Config, ConfigError> {
    let warnings = warnings(&raw);
    let rules = VipRules {
        ranges: prefixes("services.vip_ranges", &raw.services.vip_ranges)?,
        excluded: prefixes("loopback.excluded", &raw.loopback.excluded)?,
    };
    let services = services(&raw, rules)?;
    let http_listen = raw.http.listen.parse();
    let http_listen = http_listen.map_err(|_not_an_address| broken("http.listen", &raw.http.listen))?;
    Ok(Config {
        node_name: node_name(raw.node_name.as_deref(), node_variable.as_deref(), hostname)?,
        kubernetes: super::kubernetes::validate(&raw.kubernetes, &services.source, http_listen)?,
        services,
        loopback: loopback(&raw)?,
        bgp: bgp(&raw)?,
        frr_sockets: sockets(&raw.frr.socket_path)?,
        traffic: traffic(&raw)?,
        http_listen,
        metrics_per_port: match raw.metrics.per_port {
            ports @ 0..=65_536 => usize::try_from(ports).unwrap_or_default(),
            other => return Err(broken("metrics.per_port", other)),
        },
        logging: logging(&raw),
        warnings,
    })
}

fn warnings(raw: &Raw) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(seconds) = raw.loop_interval_seconds {
        warnings.push(format!(
            "loop_interval_seconds: {seconds} has no meaning any more: changes are acted on as they come; remove the key"
        ));
    }
    if let Some(path) = &raw.frr.config_path {
        warnings.push(format!(
            "frr.config_path: {path:?} has no meaning any more: FRR's files are never read or written, its running \
             configuration is asked instead; remove the key"
        ));
    }
    if raw.services.types.contains(&TypeName::ClusterIp) && raw.services.vip_ranges.is_empty() {
        warnings.push(
            "services.types has ClusterIP and services.vip_ranges is empty: every ClusterIP will be advertised"
                .to_owned(),
        );
    }
    warnings
}

fn node_name(file: Option<&str>, variable: Option<&str>, hostname: &str) -> Result<String, ConfigError> {
    let named = [("node_name", file), ("NODE_NAME", variable), ("the host's name", Some(hostname))];
    let (key, name) = named
        .into_iter()
        .find_map(|(key, name)| name.filter(|name| !name.is_empty()).map(|name| (key, name)))
        .ok_or_else(|| rule("node_name", "", "is empty, and so are NODE_NAME and the host's name; set node_name"))?;
    let fits = name.len() <= 253
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
    if fits { Ok(name.to_owned()) } else { Err(rule(key, name, rule_of("node_name"))) }
}

fn services(raw: &Raw, rules: VipRules) -> Result<Services, ConfigError> {
    let types: Vec<VipKind> = raw.services.types.iter().map(|name| kind(*name)).collect();
    if types.is_empty() {
        return Err(broken("services.types", "[]"));
    }
    if types.contains(&VipKind::ExternalIp) && rules.ranges.is_empty() {
        return Err(rule(
            "services.types",
            "ExternalIP",
            "needs services.vip_ranges: any user who may write a Service chooses its externalIPs (CVE-2020-8554)",
        ));
    }
    Ok(Services {
        source: source(raw)?,
        namespaces: raw.services.namespaces.clone(),
        selector: raw.services.selector.clone(),
        types,
        load_balancer_classes: raw.services.load_balancer_classes.clone(),
        rules,
        drain_taints: raw.services.drain_taints.clone(),
        drain_file: drain_file(raw.services.drain_file.as_deref())?,
        cordon_withdraws: matches!(raw.services.cordon, CordonName::Withdraw),
        restart_hold: restart_hold(raw.services.restart_hold_seconds)?,
    })
}

fn drain_file(path: Option<&str>) -> Result<Option<PathBuf>, ConfigError> {
    match path.filter(|path| !path.is_empty()).map(PathBuf::from) {
        Some(path) if !path.is_absolute() => Err(broken("services.drain_file", path.display())),
        path => Ok(path),
    }
}

fn restart_hold(seconds: u64) -> Result<Duration, ConfigError> {
    match seconds {
        0..=3600 => Ok(Duration::from_secs(seconds)),
        other => Err(broken("services.restart_hold_seconds", other)),
    }
}

fn source(raw: &Raw) -> Result<Source, ConfigError> {
    let directory = raw.services.manifests.as_deref().filter(|path| !path.is_empty());
    match (raw.services.source, directory) {
        (SourceName::Manifests, None) => {
            Err(rule("services.source", "manifests", "needs services.manifests, the directory of YAML files"))
        }
        (SourceName::Kubernetes, Some(path)) => {
            Err(rule("services.manifests", path, "contradicts services.source: kubernetes; remove one of them"))
        }
        (SourceName::Auto | SourceName::Manifests, Some(path)) => Ok(Source::Manifests(path.into())),
        (SourceName::Auto | SourceName::Kubernetes, None) => Ok(Source::Kubernetes),
    }
}

const fn kind(name: TypeName) -> VipKind {
    match name {
        TypeName::LoadBalancer => VipKind::LoadBalancer,
        TypeName::ClusterIp => VipKind::ClusterIp,
        TypeName::ExternalIp => VipKind::ExternalIp,
    }
}

fn loopback(raw: &Raw) -> Result<Loopback, ConfigError> {
    let lease = seconds_unless_zero("loopback.lease_seconds", raw.loopback.lease_seconds, 3..=86_400)?;
    let enabled = raw.loopback.enabled;
    if !enabled && !raw.bgp.enabled {
        return Err(rule("loopback.enabled", "false", "needs bgp.enabled: without both no VIP would be anywhere"));
    }
    Ok(Loopback { enabled, interface: interface("loopback.interface", &raw.loopback.interface)?, lease })
}

fn bgp(raw: &Raw) -> Result<Bgp, ConfigError> {
    Ok(Bgp {
        enabled: raw.bgp.enabled,
        asn: if raw.bgp.asn == 0 { None } else { Some(raw.bgp.asn) },
        vrf: Vrf::parse(&raw.bgp.vrf).ok_or_else(|| broken("bgp.vrf", &raw.bgp.vrf))?,
        mode: match raw.bgp.mode {
            ModeName::Connected if !raw.loopback.enabled => {
                return Err(rule(
                    "bgp.mode",
                    "connected",
                    "needs loopback.enabled: it is the addresses that FRR redistributes",
                ));
            }
            ModeName::Auto if !raw.loopback.enabled => Some(Mode::Dynamic),
            ModeName::Auto => None,
            ModeName::Connected => Some(Mode::Connected),
            ModeName::Dynamic => Some(Mode::Dynamic),
        },
        on_exit: match raw.bgp.on_exit {
            OnExitName::Keep => OnExit::Keep,
            OnExitName::Withdraw => OnExit::Withdraw,
        },
        drain: seconds_unless_zero("bgp.drain_seconds", raw.bgp.drain_seconds, 1..=3600)?,
        attributes: attributes(&raw.bgp.attributes)?,
        attributes_from_services: raw.bgp.attributes.from_services,
    })
}

fn attributes(raw: &RawAttributes) -> Result<Attributes, ConfigError> {
    let (communities, large, extended) = (&raw.communities, &raw.large_communities, &raw.extended_communities);
    let listed = |key: &str, texts: &[String]| broken(&format!("bgp.attributes.{key}"), texts.join(", "));
    Ok(Attributes {
        communities: attributes::communities(communities.iter().map(String::as_str))
            .map_err(|_rule| listed("communities", communities))?,
        large_communities: attributes::large_communities(large.iter().map(String::as_str))
            .map_err(|_rule| listed("large_communities", large))?,
        extended_communities: attributes::extended_communities(extended.iter().map(String::as_str))
            .map_err(|_rule| listed("extended_communities", extended))?,
        med: raw.med,
        prepend: match raw.prepend {
            count @ 0..=attributes::MAX_PREPEND => count,
            other => return Err(broken("bgp.attributes.prepend", other)),
        },
        local_preference: raw.local_preference,
        origin: match raw.origin {
            // What a `network` has anyway.
            OriginName::Igp => None,
            OriginName::Egp => Some(Origin::Egp),
            OriginName::Incomplete => Some(Origin::Incomplete),
        },
        by_endpoints: matches!(raw.weight, WeightName::Endpoints),
    })
}

fn sockets(path: &str) -> Result<PathBuf, ConfigError> {
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(broken("frr.socket_path", path.display()));
    }
    // The inode of a socket changes whenever FRR starts, so it is the directory that counts.
    match (path.extension().and_then(|extension| extension.to_str()), path.parent()) {
        (Some("vty"), Some(directory)) => Ok(directory.to_owned()),
        _ => Ok(path),
    }
}

fn traffic(raw: &Raw) -> Result<Traffic, ConfigError> {
    let interfaces = raw.traffic.interfaces.iter().map(|name| interface("traffic.interfaces", name));
    Ok(Traffic {
        mode: match raw.traffic.mode {
            TrafficModeName::Off => TrafficMode::Off,
            TrafficModeName::Observe => TrafficMode::Observe,
            TrafficModeName::Enforce => TrafficMode::Enforce,
        },
        interfaces: interfaces.collect::<Result<_, _>>()?,
        prove: seconds_unless_zero("traffic.prove_seconds", raw.traffic.prove_seconds, 1..=600)?,
        probe: probe(raw)?,
        max_ports: match raw.traffic.max_ports {
            0 => None,
            ports @ 64..=1_048_576 => Some(ports),
            other => return Err(broken("traffic.max_ports", other)),
        },
        max_handshakes: match raw.traffic.max_handshakes {
            handshakes @ 1024..=1_048_576 => handshakes,
            other => return Err(broken("traffic.max_handshakes", other)),
        },
        ejection_share: match raw.traffic.ejection_share {
            share if share > 0.0 && share <= 1.0 => share,
            other => return Err(broken("traffic.ejection_share", other)),
        },
        rule: super::rule::validate(&raw.traffic.rule)?,
    })
}

fn probe(raw: &Raw) -> Result<Probe, ConfigError> {
    const SOURCES: &str = "traffic.probe_sources";
    let sources = prefixes(SOURCES, &raw.traffic.probe_sources)?;
    for (index, source) in sources.iter().enumerate() {
        let lengths = if source.addr().is_ipv4() { 8..=30 } else { 32..=64 };
        let same = |other: &IpNet| other.addr().is_ipv4() == source.addr().is_ipv4();
        if !lengths.contains(&source.prefix_len()) || sources.iter().take(index).any(same) {
            return Err(rule(&format!("{SOURCES}[{index}]"), source, rule_of(SOURCES)));
        }
    }
    let rate = raw.traffic.probe_rate;
    if !(1..=10_000).contains(&rate) {
        return Err(broken("traffic.probe_rate", rate));
    }
    let round = seconds_unless_zero("traffic.probe_round_seconds", raw.traffic.probe_round_seconds, 5..=3600)?;
    let check = seconds_unless_zero("traffic.check_seconds", raw.traffic.check_seconds, 1..=3600)?;
    Ok(Probe { sources, rate, round, check })
}

const fn logging(raw: &Raw) -> Logging {
    Logging {
        level: match raw.logging.level {
            LevelName::Error => tracing::Level::ERROR,
            LevelName::Warn => tracing::Level::WARN,
            LevelName::Info => tracing::Level::INFO,
            LevelName::Debug => tracing::Level::DEBUG,
            LevelName::Trace => tracing::Level::TRACE,
        },
        json: matches!(raw.logging.format, FormatName::Json),
    }
}

/// The kernel's own rule for the name of an interface (dev_valid_name).
fn interface(key: &str, name: &str) -> Result<String, ConfigError> {
    let fits = (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if fits { Ok(name.to_owned()) } else { Err(broken(key, name)) }
}

fn prefixes(key: &str, texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    let parse = |(index, text): (usize, &String)| {
        let single = text.parse::<std::net::IpAddr>().map(IpNet::from);
        single
            .or_else(|_not_an_address| text.parse::<IpNet>().map(|prefix| prefix.trunc()))
            .map_err(|_not_a_prefix| rule(&format!("{key}[{index}]"), text, rule_of(key)))
    };
    texts.iter().enumerate().map(parse).collect()
}
