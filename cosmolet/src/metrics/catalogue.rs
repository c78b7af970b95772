//! The reference of every metric: the page docs/metrics.md and `cosmolet metrics` are made from it.
//!
//! A test compares it with what a daemon encodes, so that neither has what the other lacks.

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that rises and falls.
    Gauge,
    /// A gauge that is always 1: what it says is in its labels.
    State,
    /// A value that only rises, from 0 at the daemon's start.
    Counter,
    /// Buckets with a sum and a count.
    Histogram,
    /// Labels about the daemon, always 1.
    Info,
}

impl Kind {
    /// As the page has it; the first word is OpenMetrics' name of the type.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::State => "gauge, 1",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// One family.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name as queries have it; a histogram's without `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// It has the labels [`OF_VIP`] before its own.
    pub of_vip: bool,
    /// Its own labels.
    pub labels: &'static [&'static str],
    /// What it means, in Markdown.
    pub meaning: &'static str,
    /// A query to begin with.
    pub query: &'static str,
}

/// The labels of every family whose name begins with `cosmolet_vip_`.
pub const OF_VIP: [&str; 4] = ["namespace", "service", "vip", "family"];

impl Metric {
    /// The unit, by the name's end: base units, as OpenMetrics wants them.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        let name = self.name.trim_end_matches("_total");
        ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit)).unwrap_or_default()
    }

    fn row(&self) -> String {
        let labels: Vec<String> = self.labels.iter().map(|label| format!("`{label}`")).collect();
        let query = self.query.replace('|', "\\|");
        let kind = self.kind.as_str();
        let kind = if self.unit().is_empty() { kind.to_owned() } else { format!("{kind}, {}", self.unit()) };
        format!("| `{}` | {kind} | {} | {} | `{query}` |\n", self.name, labels.join(", "), self.meaning)
    }
}

/// The page's table.
#[must_use]
pub fn markdown() -> String {
    let head = "| metric | type, unit | further labels | meaning | a query |\n|---|---|---|---|---|\n";
    METRICS.iter().fold(head.to_owned(), |page, metric| page + &metric.row())
}

/// For a terminal: those whose names have the word in them.
#[must_use]
pub fn text(word: &str) -> String {
    let chosen = METRICS.iter().filter(|metric| metric.name.contains(word));
    let each = chosen.map(|metric| {
        let labels = if metric.of_vip { &OF_VIP[..] } else { &[] };
        let labels = [labels, metric.labels].concat().join(", ");
        let unit = if metric.unit().is_empty() { String::new() } else { format!(", in {}", metric.unit()) };
        let (name, kind, meaning, query) = (metric.name, metric.kind.as_str(), metric.meaning, metric.query);
        let labels = if labels.is_empty() { String::new() } else { format!("    labels: {labels}\n") };
        format!("{name} ({kind}{unit})\n    {meaning}\n{labels}    query: {query}\n")
    });
    each.collect()
}

/// Every family, by subject.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "cosmolet_vips",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &["state"],
        meaning: "VIPs by state",
        query: "sum by (state) (cosmolet_vips)",
    },
    Metric {
        name: "cosmolet_vip_state",
        kind: Kind::State,
        of_vip: true,
        labels: &["state", "reason", "health", "mode"],
        meaning: "the state the VIP is in: `undecided`, `pending`, `advertised`, `depreferred`, `withdrawing`, `withdrawn`, `refused`; its reason; the Service's health: `unknown`, `proving`, `up`, `suspect`, `down`, `trial`",
        query: r#"cosmolet_vip_state{vip="10.50.0.7"}"#,
    },
    Metric {
        name: "cosmolet_vip_advertised",
        kind: Kind::Gauge,
        of_vip: true,
        labels: &[],
        meaning: "1 while it is advertised from this node",
        query: "sum by (vip) (cosmolet_vip_advertised) == 0",
    },
    Metric {
        name: "cosmolet_vip_on_loopback",
        kind: Kind::Gauge,
        of_vip: true,
        labels: &[],
        meaning: "1 while cosmolet's address is on the loopback",
        query: "cosmolet_vip_on_loopback == 0 and cosmolet_vip_advertised == 1",
    },
    Metric {
        name: "cosmolet_vip_in_rib",
        kind: Kind::Gauge,
        of_vip: true,
        labels: &[],
        meaning: "1 while FRR's RIB holds a valid path of this node",
        query: "cosmolet_vip_advertised == 1 and cosmolet_vip_in_rib == 0",
    },
    Metric {
        name: "cosmolet_vip_peers",
        kind: Kind::Gauge,
        of_vip: true,
        labels: &[],
        meaning: "peers that FRR advertises it to",
        query: "cosmolet_vip_advertised == 1 and cosmolet_vip_peers == 0",
    },
    Metric {
        name: "cosmolet_vip_endpoints_ready",
        kind: Kind::Gauge,
        of_vip: true,
        labels: &[],
        meaning: "ready endpoints of the Service on this node, in the VIP's family",
        query: "sum by (vip) (cosmolet_vip_endpoints_ready)",
    },
    Metric {
        name: "cosmolet_vip_verdict",
        kind: Kind::State,
        of_vip: true,
        labels: &["verdict", "reason"],
        meaning: "what the [traffic verdict](traffic-verdict.md) says of the Service's VIP: `unknown`, `blind`, `unproven`, `clear`, `suspect`, `convicted`, `trial`, and why",
        query: r#"cosmolet_vip_verdict{verdict=~"suspect|convicted"}"#,
    },
    Metric {
        name: "cosmolet_vip_ejection_refused",
        kind: Kind::State,
        of_vip: true,
        labels: &["reason"],
        meaning: "it should be withdrawn for its traffic, and the guard forbids it: `LastCandidate`, `ShareSpent`, `EveryoneSuspects`, `Unanswered`",
        query: "cosmolet_vip_ejection_refused",
    },
    Metric {
        name: "cosmolet_lease_remaining_seconds",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "until the kernel removes the first of our addresses, if it is not renewed; renewed every third of `loopback.lease_seconds`",
        query: "min by (node) (cosmolet_lease_remaining_seconds) < 30",
    },
    Metric {
        name: "cosmolet_vip_packets_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol", "direction"],
        meaning: "packets on the uplinks, GSO segments counted one by one",
        query: r#"sum by (node) (rate(cosmolet_vip_packets_total{vip="10.50.0.7"}[1m]))"#,
    },
    Metric {
        name: "cosmolet_vip_traffic_bytes_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol", "direction"],
        meaning: "bytes, from the network header on",
        query: "8 * sum by (vip) (rate(cosmolet_vip_traffic_bytes_total[1m]))",
    },
    Metric {
        name: "cosmolet_vip_syn_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol"],
        meaning: "SYN from clients",
        query: "topk(10, sum by (vip) (rate(cosmolet_vip_syn_total[1m])))",
    },
    Metric {
        name: "cosmolet_vip_syn_ack_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol", "by"],
        meaning: "SYN-ACK by `backend` or by this `host`",
        query: r#"rate(cosmolet_vip_syn_ack_total{by="host"}[1m]) > 0"#,
    },
    Metric {
        name: "cosmolet_vip_handshakes_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol"],
        meaning: "handshakes that the client completed",
        query: "sum by (vip, node) (rate(cosmolet_vip_handshakes_total[1m]))",
    },
    Metric {
        name: "cosmolet_vip_fin_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol"],
        meaning: "FIN in either direction",
        query: "sum by (vip) (rate(cosmolet_vip_fin_total[1m]))",
    },
    Metric {
        name: "cosmolet_vip_resets_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol", "by"],
        meaning: "RST by `client`, `backend` or this `host`",
        query: "sum by (vip, node, by) (rate(cosmolet_vip_resets_total[1m]))",
    },
    Metric {
        name: "cosmolet_vip_late_resets_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol", "by"],
        meaning: "RST within established connections, by `client` or `backend`",
        query: "sum by (vip, by) (rate(cosmolet_vip_late_resets_total[5m]))",
    },
    Metric {
        name: "cosmolet_vip_syn_retransmitted_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol"],
        meaning: "SYN that repeat a followed one which was not answered",
        query: "sum by (vip) (rate(cosmolet_vip_syn_retransmitted_total[1m])) / sum by (vip) (rate(cosmolet_vip_syn_total[1m]))",
    },
    Metric {
        name: "cosmolet_vip_unreachable_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol", "by"],
        meaning: "ICMP unreachable to clients, made by this `host` or behind it (`backend`)",
        query: "sum by (vip, by) (rate(cosmolet_vip_unreachable_total[1m])) > 0",
    },
    Metric {
        name: "cosmolet_vip_followed_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol", "outcome"],
        meaning: "followed handshakes: `completed`, `refused_backend`, `refused_host`, `timed_out` (no answer in 3 s). Past 1000 SYN/s of a port one in 16 is followed, past 16 000 one in 256",
        query: r#"sum by (vip) (rate(cosmolet_vip_followed_total{outcome!="completed"}[1m])) / sum by (vip) (rate(cosmolet_vip_followed_total[1m]))"#,
    },
    Metric {
        name: "cosmolet_vip_handshake_seconds",
        kind: Kind::Histogram,
        of_vip: true,
        labels: &["port", "protocol"],
        meaning: "from SYN to SYN-ACK of followed handshakes, at the uplink: 256 µs to 1 s in steps of four; only for ports that had one",
        query: "histogram_quantile(0.99, sum by (vip, le) (rate(cosmolet_vip_handshake_seconds_bucket[5m])))",
    },
    Metric {
        name: "cosmolet_vip_unseen_answers_total",
        kind: Kind::Counter,
        of_vip: true,
        labels: &["port", "protocol"],
        meaning: "those completed though no SYN-ACK left by this node's uplinks: direct server return, another uplink, a rewriting CNI",
        query: "sum by (vip) (rate(cosmolet_vip_unseen_answers_total[5m])) > 0",
    },
    Metric {
        name: "cosmolet_odd_packets",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &["kind"],
        meaning: "packets that no VIP counts: `truncated`, `unparsable`, `fragment`; `unfollowed`: SYN that found no place among the followed handshakes",
        query: "sum by (node, kind) (cosmolet_odd_packets)",
    },
    Metric {
        name: "cosmolet_transitions_total",
        kind: Kind::Counter,
        of_vip: false,
        labels: &["to", "reason"],
        meaning: "decisions that changed, to `advertise`, `depreference` or `withdraw`",
        query: r#"sum by (reason) (increase(cosmolet_transitions_total{to="withdraw"}[1h]))"#,
    },
    Metric {
        name: "cosmolet_steps_total",
        kind: Kind::Counter,
        of_vip: false,
        labels: &["step", "outcome"],
        meaning: "steps carried out: `done`, `retry`, `give_up`; or `deferred`, when their plan gave way to a withdrawal",
        query: r#"sum by (step) (rate(cosmolet_steps_total{outcome="retry"}[5m])) > 0"#,
    },
    Metric {
        name: "cosmolet_kubernetes_events_total",
        kind: Kind::Counter,
        of_vip: false,
        labels: &["outcome"],
        meaning: "Events on Services: `sent`, `dropped` (too many at once, or about a Service that goes), `failed`",
        query: "sum by (outcome) (increase(cosmolet_kubernetes_events_total[1h]))",
    },
    Metric {
        name: "cosmolet_reaction_seconds",
        kind: Kind::Histogram,
        of_vip: false,
        labels: &[],
        meaning: "from the first event that a plan answers to the confirmation of its last step",
        query: "histogram_quantile(0.99, sum by (le) (rate(cosmolet_reaction_seconds_bucket[5m])))",
    },
    Metric {
        name: "cosmolet_stage_seconds",
        kind: Kind::Histogram,
        of_vip: false,
        labels: &["stage"],
        meaning: "of that, `wait`: from the event to the plan's departure; `steps`: until the last one is confirmed; and after it `rib`: until FRR's RIB shows the VIP's path, or no longer, as it is read 60 ms, 150 ms, 1 s and 3 s later",
        query: "histogram_quantile(0.99, sum by (stage, le) (rate(cosmolet_stage_seconds_bucket[5m])))",
    },
    Metric {
        name: "cosmolet_turn_seconds",
        kind: Kind::Histogram,
        of_vip: false,
        labels: &[],
        meaning: "one turn of the control loop",
        query: "histogram_quantile(0.99, sum by (node, le) (rate(cosmolet_turn_seconds_bucket[5m])))",
    },
    Metric {
        name: "cosmolet_turn_age_seconds",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "time since the last turn; more than a few seconds means that the loop hangs",
        query: "cosmolet_turn_age_seconds > 5",
    },
    Metric {
        name: "cosmolet_sampling_seconds",
        kind: Kind::Histogram,
        of_vip: false,
        labels: &[],
        meaning: "one reading of all counters",
        query: "rate(cosmolet_sampling_seconds_sum[5m])",
    },
    Metric {
        name: "cosmolet_probes_total",
        kind: Kind::Counter,
        of_vip: false,
        labels: &["purpose", "outcome"],
        meaning: "[wire-true probes](probe.md): for a `proof`, a `conviction`, a `trial`, an owner's `check`, as a `reference`, in the `round`; `passed`, `refused_backend`, `refused_host`, `unhealthy`, `silent`, `lost`",
        query: "sum by (outcome) (rate(cosmolet_probes_total[5m]))",
    },
    Metric {
        name: "cosmolet_probe_latency_seconds",
        kind: Kind::Histogram,
        of_vip: false,
        labels: &[],
        meaning: "from a probe's SYN to its answer",
        query: "histogram_quantile(0.99, sum by (node, le) (rate(cosmolet_probe_latency_seconds_bucket[5m])))",
    },
    Metric {
        name: "cosmolet_streams_total",
        kind: Kind::Counter,
        of_vip: false,
        labels: &["outcome"],
        meaning: "[streams of decisions and recordings](status-page.md) that were asked for: `opened`, or `refused`, beyond 64 and 4 at a time",
        query: r#"increase(cosmolet_streams_total{outcome="refused"}[1h]) > 0"#,
    },
    Metric {
        name: "cosmolet_stream_missed_total",
        kind: Kind::Counter,
        of_vip: false,
        labels: &[],
        meaning: "decisions, or records of a [recording](replay.md), that a reader of a stream was too slow for; it was told how many",
        query: "increase(cosmolet_stream_missed_total[1h]) > 0",
    },
    Metric {
        name: "cosmolet_connections_refused_total",
        kind: Kind::Counter,
        of_vip: false,
        labels: &[],
        meaning: "connections to `http.listen` that were closed at once: beyond 128 of one address at a time, or 512 of all but the node's own",
        query: "increase(cosmolet_connections_refused_total[1h]) > 0",
    },
    Metric {
        name: "cosmolet_node_drained",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "1 while [`cosmolet drain`](drain.md) keeps every VIP off this node",
        query: "cosmolet_node_drained == 1",
    },
    Metric {
        name: "cosmolet_node_suspect",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "1 while the handshakes of most VIPs with traffic fail",
        query: "cosmolet_node_suspect == 1",
    },
    Metric {
        name: "cosmolet_verdict_samples_total",
        kind: Kind::Counter,
        of_vip: false,
        labels: &["control_plane", "traffic"],
        meaning: "samples of Services with traffic, about one a second each, by what the two said of them: `up`, `down`",
        query: "sum by (control_plane, traffic) (increase(cosmolet_verdict_samples_total[1d]))",
    },
    Metric {
        name: "cosmolet_component_state",
        kind: Kind::State,
        of_vip: false,
        labels: &["component", "state"],
        meaning: "`source`: `syncing`, `synced`, `stale`; `frr`: `up`, `down`, `disabled`; `programs`: `running`, `off`; `prober`: `starting`, `running`, `off`; `events`, `node_condition`, `ejections`: `on`, `failing`; `statistics`: `leader`, `follower`, `failing`",
        query: r#"cosmolet_component_state{component="frr", state!="up"}"#,
    },
    Metric {
        name: "cosmolet_last_error",
        kind: Kind::State,
        of_vip: false,
        labels: &["component", "error"],
        meaning: "what is wrong with a part now",
        query: "cosmolet_last_error",
    },
    Metric {
        name: "cosmolet_bgp_session_established",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &["peer"],
        meaning: "1 while the session is Established",
        query: "cosmolet_bgp_session_established == 0",
    },
    Metric {
        name: "cosmolet_bgp_peer_bfd_up",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &["peer"],
        meaning: "1 while BFD finds the peer up; no series where BFD does not watch it, or with more than 16 peers",
        query: "cosmolet_bgp_peer_bfd_up == 0",
    },
    Metric {
        name: "cosmolet_programs_running",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "0 means that the control plane decides alone",
        query: "cosmolet_programs_running == 0",
    },
    Metric {
        name: "cosmolet_services",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "Services selected",
        query: "cosmolet_services",
    },
    Metric {
        name: "cosmolet_manifest_problems",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "files of the manifests directory that cannot be used",
        query: "cosmolet_manifest_problems > 0",
    },
    Metric {
        name: "cosmolet_annotation_notices",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &["kind"],
        meaning: "annotations of Services that are `ignored` for a bad value, or `deprecated` (Kubernetes source)",
        query: r#"cosmolet_annotation_notices{kind="ignored"} > 0"#,
    },
    Metric {
        name: "cosmolet_unusable_addresses",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "addresses of Services that are no IP address",
        query: "cosmolet_unusable_addresses > 0",
    },
    Metric {
        name: "cosmolet_cluster_nodes",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &["state"],
        meaning: "nodes whose daemon has answered (`answering`) or not (`unknown`)",
        query: "cosmolet_cluster_nodes",
    },
    Metric {
        name: "cosmolet_cluster_node_unknown",
        kind: Kind::State,
        of_vip: false,
        labels: &["node", "error"],
        meaning: "a node that has not answered, and why; what it advertises is in no count",
        query: "cosmolet_cluster_node_unknown",
    },
    Metric {
        name: "cosmolet_cluster_vips",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "VIPs that Services want",
        query: "cosmolet_cluster_vips",
    },
    Metric {
        name: "cosmolet_cluster_vips_without_node",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "those of them that no answering node advertises",
        query: "cosmolet_cluster_vips_without_node > 0",
    },
    Metric {
        name: "cosmolet_cluster_service_vips",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &["namespace", "service"],
        meaning: "VIPs that the Service wants",
        query: "cosmolet_cluster_service_vips",
    },
    Metric {
        name: "cosmolet_cluster_service_vips_without_node",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &["namespace", "service"],
        meaning: "those of them that no answering node advertises",
        query: "cosmolet_cluster_service_vips_without_node > 0",
    },
    Metric {
        name: "cosmolet_cluster_vip_nodes",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &["namespace", "service", "vip"],
        meaning: "answering nodes that advertise the VIP",
        query: "cosmolet_cluster_vip_nodes < 2",
    },
    Metric {
        name: "cosmolet_process_cpu_seconds_total",
        kind: Kind::Counter,
        of_vip: false,
        labels: &[],
        meaning: "CPU time that the daemon has taken",
        query: "rate(cosmolet_process_cpu_seconds_total[5m])",
    },
    Metric {
        name: "cosmolet_process_resident_memory_bytes",
        kind: Kind::Gauge,
        of_vip: false,
        labels: &[],
        meaning: "its resident memory",
        query: "max by (node) (cosmolet_process_resident_memory_bytes)",
    },
    Metric {
        name: "cosmolet_build_info",
        kind: Kind::Info,
        of_vip: false,
        labels: &["version"],
        meaning: "this daemon",
        query: "count by (version) (cosmolet_build_info)",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_current() {
        let page = include_str!("../../../docs/metrics.md");
        assert!(page.contains(&markdown()), "docs/metrics.md is not current: cargo xtask docs");
    }

    #[test]
    fn a_word_chooses() {
        let text = text("vip_followed");
        assert!(text.starts_with("cosmolet_vip_followed_total (counter)\n    followed handshakes"), "{text}");
        assert!(text.contains("labels: namespace, service, vip, family, port, protocol, outcome\n"), "{text}");
        assert_eq!(super::text("no such"), "");
    }

    #[test]
    fn names_have_units_and_ends_of_their_types() {
        for metric in METRICS {
            let counts = matches!(metric.kind, Kind::Counter);
            assert_eq!(metric.name.ends_with("_total"), counts, "{}", metric.name);
            assert_eq!(metric.name.ends_with("_info"), matches!(metric.kind, Kind::Info), "{}", metric.name);
            assert_eq!(metric.name.starts_with("cosmolet_vip_"), metric.of_vip, "{}", metric.name);
            assert!(metric.query.contains(metric.name), "{} is not in its query", metric.name);
        }
    }
}
