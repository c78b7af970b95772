use super::keys::{KEYS, Type};
use super::*;
use crate::engine::attributes::Attributes;

fn parsed(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, |_| None, "node-1")
}

fn error(text: &str) -> String {
    parsed(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = parsed("").unwrap();
    assert_eq!(config.node_name, "node-1");
    assert_eq!(config.services.source, Source::Kubernetes);
    assert_eq!(config.services.types, [VipKind::LoadBalancer]);
    assert_eq!(
        config.loopback,
        Loopback { enabled: true, interface: "lo".into(), lease: Some(Duration::from_secs(120)) }
    );
    assert_eq!(
        config.bgp,
        Bgp {
            enabled: true,
            asn: None,
            vrf: Vrf::default(),
            mode: None,
            on_exit: OnExit::Keep,
            drain: Some(Duration::from_secs(15)),
            attributes: Attributes::default(),
            attributes_from_services: true
        }
    );
    assert_eq!(config.frr_sockets, Path::new("/var/run/frr"));
    let sources = ["198.18.94.0/24", "2001:2:0:c05e::/64"].map(|text| text.parse().unwrap()).to_vec();
    let (round, check) = (Some(Duration::from_secs(60)), Some(Duration::from_secs(5)));
    let probe = Probe { sources, rate: 1000, round, check };
    let expected = Traffic {
        mode: TrafficMode::Observe,
        interfaces: Vec::new(),
        prove: Some(Duration::from_secs(10)),
        probe,
        max_ports: None,
        max_handshakes: 32_768,
        ejection_share: 0.5,
        rule: TrafficRules::default(),
    };
    assert_eq!(config.traffic, expected);
    assert_eq!(config.http_listen.to_string(), "127.0.0.1:9470");
    assert!(!config.logging.json && config.kubernetes.events);
    assert!(!parsed("services: {manifests: /x}").unwrap().kubernetes.events);
    assert!(config.warnings.is_empty());
}

#[test]
fn a_file_with_every_key() {
    let config = parsed(
        "
node_name: rack1-n7
services:
  source: manifests
  manifests: /etc/cosmolet/manifests
  namespaces: [web, mail]
  selector: tier=front
  types: [LoadBalancer, ExternalIP]
  load_balancer_classes: [example.com/bgp]
  vip_ranges: [10.50.0.0/16, '2001:db8:50::/64', 192.0.2.7]
  drain_taints: [example.com/maintenance]
  cordon: withdraw
  restart_hold_seconds: 90
loopback: {interface: lo, excluded: [10.0.0.7], lease_seconds: 0}
bgp: {enabled: true, asn: 65001, mode: dynamic, on_exit: withdraw}
frr: {socket_path: /run/frr/bgpd.vty}
traffic: {mode: enforce, interfaces: [eth0, eth1]}
http: {listen: '[::]:9470'}
logging: {level: debug, format: json}
",
    )
    .unwrap();
    assert_eq!(config.node_name, "rack1-n7");
    assert_eq!(config.services.source, Source::Manifests("/etc/cosmolet/manifests".into()));
    assert_eq!(config.services.rules.ranges.len(), 3);
    assert_eq!(config.services.rules.ranges[2].to_string(), "192.0.2.7/32");
    assert_eq!(config.excluded()[0].to_string(), "10.0.0.7/32");
    assert_eq!((config.services.cordon_withdraws, config.services.restart_hold), (true, Duration::from_secs(90)));
    assert_eq!(config.loopback.lease, None);
    assert_eq!((config.bgp.asn, config.bgp.mode), (Some(65001), Some(Mode::Dynamic)));
    assert_eq!(config.frr_sockets, Path::new("/run/frr"));
    assert_eq!(config.traffic.interfaces, ["eth0", "eth1"]);
    assert!(config.logging.json);
}

#[test]
fn errors_name_key_value_and_rule() {
    for (text, parts) in [
        ("bpg: {}", vec!["bpg", "unknown field"]),
        ("bgp: {ans: 1}", vec!["bgp", "unknown field `ans`", "asn"]),
        ("bgp: {asn: fast}", vec!["bgp.asn", "fast"]),
        ("bgp: {asn: 4294967296}", vec!["bgp.asn", "4294967296"]),
        ("bgp: {mode: sideways}", vec!["bgp.mode", "sideways", "connected"]),
        ("services: {vip_ranges: [10.0.0.0/33]}", vec!["services.vip_ranges[0]", "10.0.0.0/33", "prefix"]),
        ("services: {source: manifests}", vec!["services.source", "services.manifests"]),
        ("services: {source: kubernetes, manifests: /x}", vec!["services.manifests", "/x", "contradicts"]),
        (
            "services: {manifests: /x}\nkubernetes: {events: true}",
            vec!["kubernetes.events", "true", "contradicts services.manifests"],
        ),
        (
            "services: {manifests: /x}\nkubernetes: {node_condition: true}",
            vec!["kubernetes.node_condition", "contradicts services.manifests"],
        ),
        ("kubernetes: {statistics: true}", vec!["kubernetes.statistics", "http.listen 127.0.0.1:9470", "0.0.0.0"]),
        ("kubernetes: {namespace: Kube_System}", vec!["kubernetes.namespace", "Kube_System", "at most 63"]),
        ("services: {types: [ExternalIP]}", vec!["services.types", "ExternalIP", "vip_ranges", "CVE-2020-8554"]),
        ("services: {types: []}", vec!["services.types", "at least one"]),
        ("services: {types: [NodePort]}", vec!["services.types[0]", "NodePort"]),
        ("services: {cordon: drain}", vec!["services.cordon", "drain", "ignore", "withdraw"]),
        ("services: {restart_hold_seconds: 3601}", vec!["services.restart_hold_seconds", "3601", "0 to 3600"]),
        ("loopback: {lease_seconds: 2}", vec!["loopback.lease_seconds", "\"2\"", "3 to 86400"]),
        ("loopback: {interface: a/b}", vec!["loopback.interface", "a/b"]),
        ("traffic: {interfaces: [an-interface-too-long]}", vec!["traffic.interfaces", "15 characters"]),
        ("http: {listen: localhost}", vec!["http.listen", "localhost", "127.0.0.1:9470"]),
        ("bgp: {vrf: all}", vec!["bgp.vrf", "all", "VRF's name"]),
        ("bgp: {vrf: 'red blue'}", vec!["bgp.vrf", "red blue", "35"]),
        ("bgp: {mode: connected}\nloopback: {enabled: false}", vec!["bgp.mode", "connected", "loopback.enabled"]),
        ("bgp: {enabled: false}\nloopback: {enabled: false}", vec!["loopback.enabled", "bgp.enabled"]),
        ("frr: {socket_path: run/frr}", vec!["frr.socket_path", "run/frr", "absolute"]),
        ("node_name: UPPER", vec!["node_name", "UPPER", "lower-case"]),
        ("- a\n- b", vec!["top level"]),
        ("a: [", vec!["not a YAML mapping"]),
    ] {
        let message = error(text);
        for part in parts {
            assert!(message.contains(part), "{text:?} says {message:?} without {part:?}");
        }
    }
}

#[test]
fn variables_override_the_file() {
    let environment = |name: &str| match name {
        "COSMOLET_BGP_ASN" => Some("65009".to_owned()),
        "COSMOLET_SERVICES_NAMESPACES" => Some("[a, b]".to_owned()),
        "COSMOLET_HTTP_LISTEN" => Some("0.0.0.0:1".to_owned()),
        // Kubernetes sets such for a Service called cosmolet: no key, no effect.
        "COSMOLET_PORT" => Some("tcp://10.0.0.1:80".to_owned()),
        "NODE_NAME" => Some("from-kubernetes".to_owned()),
        _ => None,
    };
    let config = Config::parse("bgp: {asn: 1}", environment, "host").unwrap();
    assert_eq!(config.bgp.asn, Some(65009));
    assert_eq!(config.services.namespaces, ["a", "b"]);
    assert_eq!(config.http_listen.port(), 1);
    assert_eq!(config.node_name, "from-kubernetes");
    let wrong = |name: &str| (name == "COSMOLET_BGP_ASN").then(|| "none".to_owned());
    assert!(Config::parse("", wrong, "host").unwrap_err().to_string().starts_with("bgp.asn"));
}

#[test]
fn every_key_of_the_table_is_read_and_checked() {
    for key in KEYS {
        let with = |value: &str| Config::parse("", |name| (name == key.variable()).then(|| value.to_owned()), "node-1");
        assert_eq!(with(key.default), parsed(""), "{}: its default", key.name);
        let (wrong, words) = match key.kind {
            Type::Text => ("[a]", &[][..]),
            Type::Flag => ("maybe", &["true", "false"][..]),
            Type::Number | Type::Decimal => ("many", &[][..]),
            Type::List => ("{a: b}", &[][..]),
            Type::OneOf(words) | Type::Flags(words) => ("[another]", words),
        };
        let error = with(wrong).unwrap_err().to_string();
        assert!(error.starts_with(key.name), "{}: {wrong}: {error}", key.name);
        for word in words {
            let value = if matches!(key.kind, Type::Flags(_)) { format!("[{word}]") } else { (*word).to_owned() };
            // Some words ask for another key; none is unknown.
            assert!(!matches!(with(&value), Err(ConfigError::Value { .. })), "{}: {value}", key.name);
        }
    }
}

#[test]
fn the_docs_have_the_table() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md")).unwrap();
    assert!(page.contains(&keys::markdown()), "docs/configuration.md is stale: run `cargo xtask docs`");
    for key in KEYS {
        assert!(keys::text().contains(&format!("{}: ", key.name)));
    }
}

#[test]
fn the_go_projects_file_loads_with_one_warning_for_each_key_without_meaning() {
    let config = parsed(
        "
services:
  namespaces: [default, ingress]
loop_interval_seconds: 30
bgp:
  enabled: true
  asn: 65001
logging:
  level: info
  format: json
frr:
  socket_path: /var/run/frr
  config_path: /etc/frr/frr.conf
",
    )
    .unwrap();
    assert_eq!(config.warnings.len(), 2);
    assert!(config.warnings[0].contains("loop_interval_seconds: 30"));
    assert!(config.warnings[1].contains("frr.config_path: \"/etc/frr/frr.conf\""));
}

#[test]
fn sources_of_probes_are_one_prefix_of_each_family() {
    let parse = |value: &str| Config::parse(&format!("traffic: {{probe_sources: {value}}}"), |_| None, "n1");
    assert_eq!(parse("[]").unwrap().traffic.probe.sources, []);
    assert_eq!(parse("['192.0.2.0/30']").unwrap().traffic.probe.sources.len(), 1);
    for (value, wrong) in [
        ("['192.0.2.1']", "sources[0]"),
        ("['0.0.0.0/0']", "sources[0]"),
        ("['2001:2::/96']", "sources[0]"),
        ("['192.0.2.0/24', '198.18.0.0/15']", "sources[1]"),
        ("[nonsense]", "sources[0]"),
    ] {
        let error = parse(value).unwrap_err().to_string();
        assert!(error.contains("traffic.probe_") && error.contains(wrong), "{value}: {error}");
    }
}
