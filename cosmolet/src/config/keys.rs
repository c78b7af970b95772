//! Every key of the configuration, once: its type, its default, what it means and the rule for its value.
//!
//! The parser takes its defaults and the rules in its errors from here, the variables their names; `cosmolet check-config
//! --keys` prints it and docs/configuration.md holds it. A new key is a line here and a field of `raw`: tests tell which
//! of them is missing.

use crate::engine::attributes;
use crate::engine::types::Vrf;
use Type::{Decimal, Flag, Flags, List, Number, OneOf, Text};

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
    /// A number, with or without a fraction.
    Decimal,
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
            Decimal => "number, fractions allowed".to_owned(),
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
    key("services.drain_taints", List, "['cosmolet.io/drain']", "taint keys that [take this node out](drain.md)", ""),
    key("services.drain_file", Text, "/run/cosmolet/drain",
        "while this file is there the node is [drained](drain.md); `cosmolet drain` makes it; empty: none", "must be an absolute path"),
    key("services.cordon", OneOf(&["ignore", "withdraw"]), "ignore",
        "whether `kubectl cordon` (`spec.unschedulable`) takes this node out", ""),
    key("services.restart_hold_seconds", Number, "30",
        "how long a pod of this node counts as unusable after a container of it was restarted; \
         0: only while it waits in `CrashLoopBackOff`",
        "must be 0 to 3600 seconds"),
    key("loopback.enabled", Flag, "true",
        "`false`: VIPs get no addresses, only `network` statements; [for thousands of VIPs](frr.md#thousands-of-vips), with \
         `no bgp network import-check` in FRR, and without the lease", ""),
    key("loopback.interface", Text, "lo", "where VIPs are put",
        "must be an interface's name: 1 to 15 characters, without /, : and blanks"),
    key("loopback.excluded", List, "[]", "prefixes that are never touched and never VIPs",
        "must be a prefix as 10.50.0.0/16 or 2001:db8::/64, or an address"),
    key("loopback.lease_seconds", Number, "120",
        "how long VIPs outlive a daemon that dies and stays away; renewed every third of it",
        "must be 0 (for ever) or 3 to 86400 seconds"),
    key("bgp.enabled", Flag, "true", "`false`: only the loopback is kept, FRR is not asked", ""),
    key("bgp.asn", Number, "0", "0 asks FRR; anything else must be FRR's AS number", "at most 4294967295"),
    key("bgp.vrf", Text, "''", "[the VRF](frr.md#several-instances-and-vrfs) whose `router bgp` is told of VIPs; empty: the default one",
        Vrf::RULE),
    key("bgp.mode", OneOf(&["auto", "connected", "dynamic"]), "auto",
        "`auto` finds it for each family: Connected where FRR has `redistribute connected`", ""),
    key("bgp.on_exit", OneOf(&["keep", "withdraw"]), "keep",
        "at SIGTERM: `keep` leaves the VIPs (a rolling upgrade moves no route), `withdraw` takes them along", ""),
    key("bgp.drain_seconds", Number, "15",
        "how long VIPs are de-preferred at most before a node that is drained, excluded, tainted or cordoned withdraws them; \
         they leave before as soon as their traffic is gone; 0: at once",
        "must be 0 to 3600 seconds"),
    key("bgp.attributes.from_services", Flag, "true",
        "whether [annotations of Services](frr.md#attributes) may set the attributes of their VIPs", ""),
    key("bgp.attributes.communities", List, "[]", "standard communities of every VIP (RFC 1997)", attributes::COMMUNITIES_RULE),
    key("bgp.attributes.large_communities", List, "[]", "large communities of every VIP (RFC 8092)", attributes::LARGE_RULE),
    key("bgp.attributes.extended_communities", List, "[]", "extended communities of every VIP (RFC 4360)",
        attributes::EXTENDED_RULE),
    key("bgp.attributes.med", Number, "null", "multi-exit discriminator", attributes::NUMBER_RULE),
    key("bgp.attributes.prepend", Number, "0", "how often the own AS number is prepended", attributes::PREPEND_RULE),
    key("bgp.attributes.local_preference", Number, "null", "local preference; only iBGP peers see it", attributes::NUMBER_RULE),
    key("bgp.attributes.origin", OneOf(&["igp", "egp", "incomplete"]), "igp", "origin", ""),
    key("bgp.attributes.weight", OneOf(&["none", "endpoints"]), "none",
        "`endpoints`: link bandwidth by the number of usable endpoints on the node, for Services with a traffic policy of `Local`", ""),
    key("frr.socket_path", Text, "/var/run/frr", "the directory of FRR's vty sockets",
        "must be the absolute path of FRR's vty directory"),
    key("traffic.mode", OneOf(&["off", "observe", "enforce"]), "observe",
        "`off` loads no program; `observe` counts and says what it would do; `enforce` withdraws", ""),
    key("traffic.interfaces", List, "[]",
        "uplinks to count on; empty: found from the default routes and the routes to FRR's peers",
        "must be an interface's name: 1 to 15 characters, without /, : and blanks"),
    key("traffic.prove_seconds", Number, "10",
        "how long a VIP waits for a [probe](probe.md) to pass before it is advertised; 0: not at all",
        "must be 0 to 600 seconds"),
    key("traffic.probe_sources", List, "['198.18.94.0/24', '2001:2:0:c05e::/64']",
        "where probes come from: prefixes that nobody uses, at most one of each family; empty: no probes",
        "must be an IPv4 prefix of /8 to /30 or an IPv6 prefix of /32 to /64, and one of each family"),
    key("traffic.probe_rate", Number, "1000", "the most probes in a second", "must be 1 to 10000"),
    key("traffic.probe_round_seconds", Number, "60",
        "the time in which every VIP that nobody connects to is probed once; 0: never", "must be 0 or 5 to 3600 seconds"),
    key("traffic.check_seconds", Number, "5",
        "the time between two probes of what Services ask for by [`cosmolet.io/probe`](probe.md#the-owners-own-probe); 0: never \
         for its own sake",
        "must be 0 to 3600 seconds"),
    key("traffic.max_ports", Number, "0",
        "the most VIPs and ports that are counted at once: a VIP takes one entry and each of its ports one more, of \
         152 bytes on each CPU; 0: as many as 64 MiB hold, but 4096 to 65536",
        "must be 0 or 64 to 1048576"),
    key("traffic.max_handshakes", Number, "32768",
        "the most new connections that are followed at once, 40 bytes each, made a power of two; what is more is \
         counted as `unfollowed` and says nothing of a VIP",
        "must be 1024 to 1048576"),
    key("traffic.ejection_share", Decimal, "0.5",
        "the share of the nodes that could serve a VIP, of which at most that many withdraw it for its traffic at a time; never all",
        "must be above 0 and at most 1"),
    key("traffic.rule.window_seconds", Number, "3",
        "how far back new connections are counted for this host's own refusals",
        "must be 1 to 60 seconds"),
    key("traffic.rule.min_attempts", Number, "3",
        "the fewest new connections in that window that can convict",
        "must be 1 to 1000000"),
    key("traffic.rule.refused_share", Decimal, "0.9",
        "the share of new connections that this host refused, from which on it convicts",
        "must be above 0 and at most 1"),
    key("traffic.rule.completed_share", Decimal, "0.1",
        "the share of completed handshakes, from which on this host's refusals never convict",
        "must be above 0 and at most 1"),
    key("traffic.rule.trial_refused_share", Decimal, "0.5",
        "the share of refused new connections that fails a trial",
        "must be above 0 and at most 1"),
    key("traffic.rule.host_backend_seconds", Number, "300",
        "for so long after a SYN-ACK by this host itself (a backend in the host's network) its RST prove nothing",
        "must be 1 to 86400 seconds"),
    key("traffic.rule.healthy_share", Decimal, "0.05",
        "the share of failing handshakes that is still healthy (p0 of the CUSUM)",
        "must be above 0 and below 1"),
    key("traffic.rule.broken_share", Decimal, "0.5",
        "the share of failing handshakes that is broken (p1 of the CUSUM)",
        "must be above 0 and below 1, and above traffic.rule.healthy_share and traffic.rule.baseline_max_share"),
    key("traffic.rule.threshold", Decimal, "16.1",
        "the score from which on a port is suspect",
        "must be 1 to 1000"),
    key("traffic.rule.cap", Decimal, "23",
        "the score never grows past this, so that a port that was broken for an hour is cleared as fast as after a minute",
        "must be 1 to 1000 and at least traffic.rule.threshold"),
    key("traffic.rule.trial_share", Decimal, "0.5",
        "the share of `threshold` that fails a trial, and below which a suspicion ends",
        "must be above 0 and at most 1"),
    key("traffic.rule.votes", Decimal, "5",
        "the votes that one second has at most, however many handshakes it holds",
        "must be 1 to 1000"),
    key("traffic.rule.failing_samples", Number, "3",
        "how many of the last `of_samples` seconds with handshakes must hold a failure",
        "must be 1 to traffic.rule.of_samples"),
    key("traffic.rule.of_samples", Number, "10",
        "see `failing_samples`",
        "must be 1 to 60"),
    key("traffic.rule.client_prefixes", Number, "3",
        "from how many client prefixes (/24, /56) the failures must come at least",
        "must be 1 to 32"),
    key("traffic.rule.forget_seconds", Number, "600",
        "after so long without a handshake what was seen before is no evidence",
        "must be 10 to 86400 seconds"),
    key("traffic.rule.endpoint_silence_seconds", Number, "5",
        "for so long after a change of its endpoints nothing is concluded from a Service's handshakes",
        "must be 0 to 600 seconds"),
    key("traffic.rule.unseen_share", Decimal, "0.1",
        "the share of handshakes completed without a visible answer, from which on this node is blind for a port",
        "must be above 0 and at most 1"),
    key("traffic.rule.flood_factor", Decimal, "8",
        "a flood: SYN at more than so many times their average",
        "must be 1 to 1000"),
    key("traffic.rule.flood_rate", Decimal, "1000",
        "a flood: and at more than so many a second above that average",
        "must be 1 to 1000000000"),
    key("traffic.rule.flood_completed_share", Decimal, "0.2",
        "a flood: and fewer than this share of the SYN-ACK are completed",
        "must be above 0 and at most 1"),
    key("traffic.rule.flood_average_seconds", Number, "300",
        "a flood: the span of the average rate",
        "must be 10 to 86400 seconds"),
    key("traffic.rule.flood_hold_seconds", Number, "10",
        "for so long after a flood no handshake is judged",
        "must be 1 to 3600 seconds"),
    key("traffic.rule.baseline_factor", Decimal, "3",
        "a port that fails more than `healthy_share` on average counts as healthy up to so many times its average",
        "must be 1 to 20"),
    key("traffic.rule.baseline_max_share", Decimal, "0.2",
        "but never above this share",
        "must be above 0 and below 1, and at least traffic.rule.healthy_share"),
    key("traffic.rule.baseline_seconds", Number, "86400",
        "the time in which what is usual for a port is forgotten to a third",
        "must be 60 to 2592000 seconds"),
    key("traffic.rule.longest_burst_seconds", Number, "60",
        "a burst of failures that lasts longer is an outage, from which nothing usual is learnt",
        "must be 1 to 3600 seconds"),
    key("traffic.rule.max_burstiness", Decimal, "10",
        "the most by which bursts of failures in the past weaken a port's votes",
        "must be 1 to 100"),
    key("traffic.rule.probes", Number, "3",
        "how many [probes](probe.md) in a row must fail to convict a suspect port",
        "must be 1 to 20"),
    key("traffic.rule.probe_age_seconds", Number, "30",
        "how old the last of them may be",
        "must be 1 to 3600 seconds"),
    key("traffic.rule.suspect_probe_milliseconds", Number, "100",
        "the time between two probes of a suspect port",
        "must be 10 to 10000 milliseconds"),
    key("traffic.rule.trial_probe_seconds", Number, "2",
        "how often a VIP that wants to go on trial is probed until one passes",
        "must be 1 to 600 seconds"),
    key("traffic.rule.budget", Number, "2",
        "how often its traffic may withdraw a Service's VIP within `budget_seconds`; a failed trial for this host's refusals needs none",
        "must be 1 to 1000"),
    key("traffic.rule.budget_seconds", Number, "900",
        "see `budget`",
        "must be 1 to 86400 seconds"),
    key("traffic.rule.node_share", Decimal, "0.5",
        "when the handshakes of more than this share of the VIPs with traffic fail, it is the node: passive evidence alone no longer acts",
        "must be above 0 and at most 1"),
    key("traffic.rule.node_vips", Number, "4",
        "the fewest VIPs with traffic for that",
        "must be 1 to 100000"),
    key("traffic.rule.hold_seconds", Number, "30",
        "how long a VIP stays withdrawn after its first conviction; each further one adds as much, a failed trial doubles it",
        "must be 1 to 3600 seconds"),
    key("traffic.rule.max_hold_seconds", Number, "300",
        "the longest that it stays withdrawn",
        "must be 1 to 86400 seconds and at least traffic.rule.hold_seconds"),
    key("traffic.rule.idle_trial_seconds", Number, "60",
        "how long a trial lasts while nobody connects",
        "must be 1 to 3600 seconds"),
    key("traffic.rule.min_trial_seconds", Number, "10",
        "how long a trial lasts at least",
        "must be 1 to 3600 seconds"),
    key("traffic.rule.forgive_seconds", Number, "900",
        "after so long without a conviction the next one is again the first",
        "must be 1 to 86400 seconds"),
    key("http.listen", Text, "127.0.0.1:9470",
        "the status page, its JSON below `/api/v1`, `/livez`, `/readyz`, `/metrics`",
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
    key("metrics.per_port", Number, "32",
        "so many ports of each VIP have series of their own; its others are one, with `port=\"other\"`",
        "must be 0 to 65536"),
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
