//! Every key of the configuration, once: its type, its default, what it means and the rule for its value.
//!
//! The parser takes its defaults and the rules in its errors from here, the variables their names; `cosmolet check-config
//! --keys` prints it and docs/configuration.md holds it. A new key is a line here and a field of `raw`: tests tell which
//! of them is missing.

use Type::{Flag, Flags, List, Number, OneOf, Text};

/// A key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// With its section: `bgp.asn`.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Type,
    /// The value where the file does not have the key, as YAML.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What its value must be; empty where the type says all.
    pub rule: &'static str,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Any text that the rule allows, or nothing.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number that is not negative.
    Number,
    /// A list of texts.
    List,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of these words.
    Flags(&'static [&'static str]),
}

impl Type {
    /// The type in words, for a person.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Text => "text".to_owned(),
            Flag => "`true`, `false`".to_owned(),
            Number => "number".to_owned(),
            List => "list".to_owned(),
            OneOf(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Flags(words) => {
                format!("list of {}", words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

const fn key(name: &'static str, kind: Type, default: &'static str, meaning: &'static str, rule: &'static str) -> Key {
    Key { name, kind, default, meaning, rule }
}

/// All keys, in the order of the file.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("node_name", Text, "null", "this node as Kubernetes calls it; else `NODE_NAME`, else the host's name",
        "must be the node's name in Kubernetes: lower-case letters, digits, - and ., at most 253"),
    key("services.source", OneOf(&["auto", "kubernetes", "manifests"]), "auto",
        "where Services come from; `auto` takes manifests where a directory is named, else Kubernetes", ""),
    key("services.manifests", Text, "null",
        "directory of Service, EndpointSlice, Node and Pod manifests (`.yaml`, `.yml`, `.json`), followed as it changes", ""),
    key("services.namespaces", List, "[]", "namespaces whose Services count; empty: all", ""),
    key("services.selector", Text, "''", "label selector as for `kubectl -l`; empty: all", ""),
    key("services.types", Flags(&["LoadBalancer", "ClusterIP", "ExternalIP"]), "[LoadBalancer]",
        "where VIPs come from: `status.loadBalancer.ingress[].ip`, `spec.clusterIPs`, `spec.externalIPs`",
        "must name at least one of LoadBalancer, ClusterIP, ExternalIP; ExternalIP needs services.vip_ranges (CVE-2020-8554)"),
    key("services.load_balancer_classes", List, "[]",
        "`spec.loadBalancerClass` values that count; empty: any, and Services without one", ""),
    key("services.vip_ranges", List, "[]", "prefixes that VIPs must lie in; empty: any",
        "must be a prefix as 10.50.0.0/16 or 2001:db8::/64, or an address"),
    key("services.drain_taints", List, "[]", "taint keys that take this node out", ""),
    key("services.cordon", OneOf(&["ignore", "withdraw"]), "ignore",
        "whether `kubectl cordon` (`spec.unschedulable`) takes this node out", ""),
    key("services.restart_hold_seconds", Number, "30",
        "how long a pod of this node counts as unusable after a container of it was restarted; \
         0: only while it waits in `CrashLoopBackOff`",
        "must be 0 to 3600 seconds"),
    key("loopback.interface", Text, "lo", "where VIPs are put",
        "must be an interface's name: 1 to 15 characters, without /, : and blanks"),
    key("loopback.excluded", List, "[]", "prefixes that are never touched and never VIPs",
        "must be a prefix as 10.50.0.0/16 or 2001:db8::/64, or an address"),
    key("loopback.lease_seconds", Number, "120",
        "how long VIPs outlive a daemon that dies and stays away; renewed every third of it",
        "must be 0 (for ever) or 3 to 86400 seconds"),
    key("bgp.enabled", Flag, "true", "`false`: only the loopback is kept, FRR is not asked", ""),
    key("bgp.asn", Number, "0", "0 asks FRR; anything else must be FRR's AS number", "at most 4294967295"),
    key("bgp.mode", OneOf(&["auto", "connected", "dynamic"]), "auto",
        "`auto` finds it for each family: Connected where FRR has `redistribute connected`", ""),
    key("bgp.on_exit", OneOf(&["keep", "withdraw"]), "keep",
        "at SIGTERM: `keep` leaves the VIPs (a rolling upgrade moves no route), `withdraw` takes them along", ""),
    key("frr.socket_path", Text, "/var/run/frr", "the directory of FRR's vty sockets",
        "must be the absolute path of FRR's vty directory"),
    key("traffic.mode", OneOf(&["off", "observe", "enforce"]), "observe",
        "`off` loads no program; `observe` counts and says what it would do; `enforce` withdraws", ""),
    key("traffic.interfaces", List, "[]",
        "uplinks to count on; empty: found from the default routes and the routes to FRR's peers",
        "must be an interface's name: 1 to 15 characters, without /, : and blanks"),
    key("traffic.prove_seconds", Number, "0",
        "how long a VIP waits for a [probe](probe.md) to pass before it is advertised; 0: not at all",
        "must be 0 to 600 seconds"),
    key("traffic.probe_sources", List, "['198.18.94.0/24', '2001:2:0:c05e::/64']",
        "where probes come from: prefixes that nobody uses, at most one of each family; empty: no probes",
        "must be an IPv4 prefix of /8 to /30 or an IPv6 prefix of /32 to /64, and one of each family"),
    key("traffic.probe_rate", Number, "1000", "the most probes in a second", "must be 1 to 10000"),
    key("traffic.probe_round_seconds", Number, "0",
        "the time in which every VIP that nobody connects to is probed once; 0: never", "must be 0 or 5 to 3600 seconds"),
    key("traffic.max_ports", Number, "0",
        "the most VIPs and ports that are counted at once: a VIP takes one entry and each of its ports one more, of \
         152 bytes on each CPU; 0: as many as 64 MiB hold, but 4096 to 65536",
        "must be 0 or 64 to 1048576"),
    key("traffic.max_handshakes", Number, "32768",
        "the most new connections that are followed at once, 40 bytes each, made a power of two; what is more is \
         counted as `unfollowed` and says nothing of a VIP",
        "must be 1024 to 1048576"),
    key("http.listen", Text, "127.0.0.1:9470",
        "`/livez`, `/readyz`, `/metrics`, `/api/v1/status`, `/api/v1/advertised`",
        "must be an address and a port, as 127.0.0.1:9470 or [::]:9470"),
    key("kubernetes.events", Flag, "null",
        "Events on Services: advertise, withdraw and refuse, with the reason; at most 6 at once and one a minute for \
         each Service, 30 at once and one in two seconds for the node; unset: where the source is Kubernetes",
        ""),
    key("kubernetes.node_condition", Flag, "false",
        "the condition `CosmoletReady` of this node: `True` while the API has delivered everything, FRR answers and \
         traffic is counted as configured; written when that changes and every 5 minutes", ""),
    key("kubernetes.statistics", Flag, "false",
        "one daemon, elected by the Lease `cosmolet-statistics`, asks all others every 15 s what they advertise and \
         serves `cosmolet_cluster_…`; the other nodes must reach `http.listen`, on the same port everywhere", ""),
    key("kubernetes.namespace", Text, "null", "where that Lease is; else `POD_NAMESPACE`, else the pod's own",
        "must be a namespace's name: lower-case letters, digits and -, at most 63"),
    key("logging.level", OneOf(&["error", "warn", "info", "debug", "trace"]), "info",
        "`debug` has the programs' own log too", ""),
    key("logging.format", OneOf(&["text", "json"]), "text", "how a line of the log is written", ""),
];

impl Key {
    /// The variable that overrides it: `bgp.asn` is `COSMOLET_BGP_ASN`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("COSMOLET_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// The default as a person reads it.
    fn default_words(&self) -> &str {
        if matches!(self.default, "null" | "''") { "–" } else { self.default }
    }
}

/// The rule for a key's value; empty if there is none.
#[must_use]
pub fn rule_of(name: &str) -> &'static str {
    KEYS.iter().find(|key| key.name == name).map_or("", |key| key.rule)
}

/// The table for a terminal.
#[must_use]
pub fn text() -> String {
    let mut text = String::new();
    for key in KEYS {
        let (kind, default) = (key.kind.words().replace('`', ""), key.default_words());
        let rule = if key.rule.is_empty() { String::new() } else { format!("\n    {}", key.rule) };
        let meaning = key.meaning.replace('`', "");
        text.push_str(&format!("{}: {default}\n    {meaning}\n    {kind}; {}{rule}\n", key.name, key.variable()));
    }
    text
}

/// The table for docs/configuration.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = "| key | type | default | meaning | rule |\n|---|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let default = match key.default_words() {
            "–" => "–".to_owned(),
            default => format!("`{default}`"),
        };
        let (name, kind, meaning, rule) = (key.name, key.kind.words(), key.meaning, key.rule);
        text.push_str(&format!("| `{name}` | {kind} | {default} | {meaning} | {rule} |\n"));
    }
    text
}
