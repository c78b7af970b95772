//! What the dashboards show: one line for each panel, with its queries.
//!
//! The label `node` is the one that the chart's monitors set. `$node`, `$namespace`, `$service` and `$vip` are variables.

/// How a panel looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One number.
    Stat,
    /// Lines over time.
    Series,
    /// A table of the values now.
    Table,
    /// States over time.
    Timeline,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Series => "timeseries",
            Self::Table => "table",
            Self::Timeline => "state-timeline",
        }
    }

    pub(super) const fn height(self) -> u64 {
        match self {
            Self::Stat => 4,
            Self::Series => 8,
            Self::Table | Self::Timeline => 9,
        }
    }
}

/// One panel.
pub(super) struct Panel {
    pub(super) kind: Kind,
    pub(super) width: u64,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    pub(super) unit: &'static str,
    /// Each with its legend.
    pub(super) queries: &'static [(&'static str, &'static str)],
    /// What stands there instead where nothing is wrong; a panel without it always has data.
    pub(super) empty: Option<&'static str>,
}

impl Panel {
    const fn new(
        kind: Kind,
        width: u64,
        title: &'static str,
        description: &'static str,
        unit: &'static str,
        queries: &'static [(&'static str, &'static str)],
    ) -> Self {
        Self { kind, width, title, description, unit, queries, empty: None }
    }

    const fn or(mut self, empty: &'static str) -> Self {
        self.empty = Some(empty);
        self
    }
}

/// A variable: its name, where its values come from, whether several may be chosen.
type Variable = (&'static str, &'static str, bool);

/// One dashboard.
pub(super) struct Board {
    pub(super) uid: &'static str,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    pub(super) variables: &'static [Variable],
    /// Marks a moment where this is above zero. Its window holds several scrapes: within one of 15 s, as often as the chart's
    /// monitors scrape, nothing ever changes.
    pub(super) annotation: &'static str,
    pub(super) panels: &'static [Panel],
}

const NODE: Variable = ("node", "label_values(cosmolet_services, node)", true);
const NAMESPACE: Variable = ("namespace", "label_values(cosmolet_vip_advertised, namespace)", true);
const SERVICE: Variable =
    ("service", "label_values(cosmolet_vip_advertised{namespace=~\"$namespace\"}, service)", true);
const VIP: Variable =
    ("vip", "label_values(cosmolet_vip_advertised{namespace=~\"$namespace\", service=~\"$service\"}, vip)", false);

/// All dashboards.
pub(super) const BOARDS: [Board; 3] = [
    Board {
        uid: "cosmolet-fleet",
        title: "cosmolet / Fleet",
        description: "Which nodes advertise which VIPs, what was withdrawn and why, and whether the two signals agree.",
        variables: &[NODE, NAMESPACE, SERVICE],
        annotation: "sum by (node, to, reason) (increase(cosmolet_transitions_total{node=~\"$node\"}[1m])) > 0",
        panels: FLEET,
    },
    Board {
        uid: "cosmolet-vip",
        title: "cosmolet / VIP",
        description: "One VIP: who carries it, what its clients meet, and what each node decided.",
        variables: &[NAMESPACE, SERVICE, VIP],
        annotation: "sum by (node) (changes(cosmolet_vip_advertised{vip=\"$vip\"}[1m])) > 0",
        panels: VIP_PANELS,
    },
    Board {
        uid: "cosmolet-node",
        title: "cosmolet / Node",
        description: "One node: its parts, its BGP sessions, how fast it reacts and what the daemon costs.",
        variables: &[NODE],
        annotation: "sum by (node, to, reason) (increase(cosmolet_transitions_total{node=~\"$node\"}[1m])) > 0",
        panels: NODE_PANELS,
    },
];

const FLEET: &[Panel] = &[
    Panel::new(
        Kind::Stat, 4, "VIPs wanted", "VIPs that at least one node knows of, withdrawn ones included.", "none",
        &[("count(count by (vip) (cosmolet_vip_advertised{namespace=~\"$namespace\", service=~\"$service\"}))", "")],
    ),
    Panel::new(
        Kind::Stat, 4, "VIPs nowhere", "VIPs that no node advertises: their clients are not served at all.", "none",
        &[("count(sum by (vip) (cosmolet_vip_advertised{namespace=~\"$namespace\", service=~\"$service\"}) == 0) or vector(0)", "")],
    ),
    Panel::new(
        Kind::Stat, 4, "advertisements", "VIPs times the nodes that advertise them.", "none",
        &[("sum(cosmolet_vip_advertised{node=~\"$node\", namespace=~\"$namespace\", service=~\"$service\"})", "")],
    ),
    Panel::new(
        Kind::Stat, 4, "nodes", "Nodes whose daemon answers Prometheus.", "none", &[("count(cosmolet_services)", "")],
    ),
    Panel::new(
        Kind::Stat, 4, "withdrawn by traffic", "VIPs that nodes have withdrawn for what their clients met, though Kubernetes \
         said that they can be served.", "none",
        &[("count(cosmolet_vip_verdict{verdict=\"convicted\"} == 1) or vector(0)", "")],
    ),
    Panel::new(
        Kind::Stat, 4, "held back by the guard", "VIPs that should be withdrawn for their traffic and may not be: too few other \
         nodes could serve them.", "none", &[("count(cosmolet_vip_ejection_refused == 1) or vector(0)", "")],
    ),
    Panel::new(
        Kind::Table, 12, "nodes by VIP", "How many nodes advertise each VIP.", "none",
        &[("sum by (namespace, service, vip) (cosmolet_vip_advertised{namespace=~\"$namespace\", service=~\"$service\"})", "")],
    ),
    Panel::new(
        Kind::Table, 12, "not advertised, and why", "Each node's reason where it does not advertise a VIP.", "none",
        &[("sum by (node, vip, service, state, reason) (cosmolet_vip_state{node=~\"$node\", namespace=~\"$namespace\", \
            service=~\"$service\", state!=\"advertised\"})", "")],
    ).or("every node advertises every VIP"),
    Panel::new(
        Kind::Series, 12, "advertised VIPs by node", "A step down is a withdrawal, a node that ends included.", "none",
        &[("sum by (node) (cosmolet_vip_advertised{node=~\"$node\", namespace=~\"$namespace\", service=~\"$service\"})", "{{node}}")],
    ),
    Panel::new(
        Kind::Series, 12, "decisions by reason", "Decisions that changed in a minute, over all chosen nodes.", "none",
        &[("sum by (to, reason) (increase(cosmolet_transitions_total{node=~\"$node\"}[1m]))", "{{to}} {{reason}}")],
    ),
    Panel::new(
        Kind::Series, 12, "signals that disagree", "Samples in a second of which Kubernetes and the traffic say different things: \
         `up / down` is a VIP whose clients fail though its endpoints are ready.", "ops",
        &[("sum by (control_plane, traffic) (rate(cosmolet_verdict_samples_total{node=~\"$node\"}[$__rate_interval]))", "{{control_plane}} / {{traffic}}")],
    ),
    Panel::new(
        Kind::Series, 12, "who attracts the traffic", "Bytes to clients and from them in a second, by node.", "Bps",
        &[("sum by (node) (rate(cosmolet_vip_traffic_bytes_total{node=~\"$node\", namespace=~\"$namespace\", service=~\"$service\"}[$__rate_interval]))", "{{node}}")],
    ),
];

const VIP_PANELS: &[Panel] = &[
    Panel::new(
        Kind::Stat,
        6,
        "nodes that advertise it",
        "With none of them its clients are not served.",
        "none",
        &[("sum(cosmolet_vip_advertised{vip=\"$vip\"})", "")],
    ),
    Panel::new(
        Kind::Stat,
        6,
        "in FRR's RIB",
        "Nodes whose RIB holds it as a valid path: fewer than advertise it means that FRR does not \
         follow.",
        "none",
        &[("sum(cosmolet_vip_in_rib{vip=\"$vip\"})", "")],
    ),
    Panel::new(
        Kind::Stat,
        6,
        "peers it is advertised to",
        "BGP peers over all nodes that FRR sends it to.",
        "none",
        &[("sum(cosmolet_vip_peers{vip=\"$vip\"})", "")],
    ),
    Panel::new(
        Kind::Stat,
        6,
        "failing handshakes",
        "The share of followed handshakes of the last minute that did not complete.",
        "percentunit",
        &[(
            "sum(rate(cosmolet_vip_followed_total{vip=\"$vip\", outcome!=\"completed\"}[$__rate_interval])) / sum(rate(cosmolet_vip_followed_total{vip=\"$vip\"}[$__rate_interval]))",
            "",
        )],
    ),
    Panel::new(
        Kind::Timeline,
        24,
        "advertised, by node",
        "1 while the node advertises the VIP.",
        "none",
        &[("max by (node) (cosmolet_vip_advertised{vip=\"$vip\"})", "{{node}}")],
    ),
    Panel::new(
        Kind::Timeline,
        24,
        "ready endpoints, by node",
        "What Kubernetes says: endpoints on the node that are ready, of all Services with this VIP.",
        "none",
        &[("sum by (node) (cosmolet_vip_endpoints_ready{vip=\"$vip\"})", "{{node}}")],
    ),
    Panel::new(
        Kind::Table,
        24,
        "state, by node",
        "What each node decided, its reason, the Service's health and what the traffic says.",
        "none",
        &[
            ("max by (node, service, state, reason, health, mode) (cosmolet_vip_state{vip=\"$vip\"})", ""),
            ("max by (node, service, verdict, reason) (cosmolet_vip_verdict{vip=\"$vip\"})", ""),
        ],
    ),
    Panel::new(
        Kind::Series,
        12,
        "new connections by node",
        "SYN of clients in a second: who attracts them.",
        "cps",
        &[("sum by (node) (rate(cosmolet_vip_syn_total{vip=\"$vip\"}[$__rate_interval]))", "{{node}}")],
    ),
    Panel::new(
        Kind::Series,
        12,
        "followed handshakes by outcome",
        "Completed ones beside those that a backend or the host itself refused, and \
         those that nothing answered for 3 s.",
        "cps",
        &[("sum by (outcome) (rate(cosmolet_vip_followed_total{vip=\"$vip\"}[$__rate_interval]))", "{{outcome}}")],
    ),
    Panel::new(
        Kind::Series,
        12,
        "resets by who made them",
        "`host` is this host's own stack: nothing translates the VIP.",
        "cps",
        &[("sum by (node, by) (rate(cosmolet_vip_resets_total{vip=\"$vip\"}[$__rate_interval]))", "{{node}} {{by}}")],
    ),
    Panel::new(
        Kind::Series,
        12,
        "handshake latency",
        "From SYN to SYN-ACK at the uplink, the median and the slowest of a hundred.",
        "s",
        &[
            (
                "histogram_quantile(0.5, sum by (le) (rate(cosmolet_vip_handshake_seconds_bucket{vip=\"$vip\"}[$__rate_interval])))",
                "p50",
            ),
            (
                "histogram_quantile(0.99, sum by (le) (rate(cosmolet_vip_handshake_seconds_bucket{vip=\"$vip\"}[$__rate_interval])))",
                "p99",
            ),
        ],
    ),
    Panel::new(
        Kind::Series,
        12,
        "traffic",
        "Bytes on the uplinks in a second, by direction.",
        "Bps",
        &[(
            "sum by (node, direction) (rate(cosmolet_vip_traffic_bytes_total{vip=\"$vip\"}[$__rate_interval]))",
            "{{node}} {{direction}}",
        )],
    ),
    Panel::new(
        Kind::Series,
        12,
        "packets",
        "Packets on the uplinks in a second, GSO segments counted one by one.",
        "pps",
        &[(
            "sum by (node, direction) (rate(cosmolet_vip_packets_total{vip=\"$vip\"}[$__rate_interval]))",
            "{{node}} {{direction}}",
        )],
    ),
];

const NODE_PANELS: &[Panel] = &[
    Panel::new(
        Kind::Stat,
        6,
        "VIPs advertised",
        "VIPs that the chosen nodes advertise, added up over them.",
        "none",
        &[("sum(cosmolet_vips{node=~\"$node\", state=\"advertised\"})", "")],
    ),
    Panel::new(
        Kind::Stat,
        6,
        "BGP sessions",
        "Established ones of the chosen nodes.",
        "none",
        &[("sum(cosmolet_bgp_session_established{node=~\"$node\"})", "")],
    ),
    Panel::new(
        Kind::Stat,
        6,
        "lease left",
        "Until the kernel removes the first address if nobody renews it; renewed every third of it.",
        "s",
        &[("min(cosmolet_lease_remaining_seconds{node=~\"$node\"})", "")],
    ),
    Panel::new(
        Kind::Stat,
        6,
        "last turn of the loop",
        "More than a few seconds: the control loop hangs.",
        "s",
        &[("max(cosmolet_turn_age_seconds{node=~\"$node\"})", "")],
    ),
    Panel::new(
        Kind::Table,
        12,
        "parts",
        "The state that each part of the daemon is in.",
        "none",
        &[("max by (node, component, state) (cosmolet_component_state{node=~\"$node\"})", "")],
    ),
    Panel::new(
        Kind::Table,
        12,
        "what is wrong now",
        "The last error of a part that does not work.",
        "none",
        &[("max by (node, component, error) (cosmolet_last_error{node=~\"$node\"})", "")],
    )
    .or("nothing is wrong"),
    Panel::new(
        Kind::Timeline,
        12,
        "BGP sessions by peer",
        "1 while the session is Established.",
        "none",
        &[("max by (node, peer) (cosmolet_bgp_session_established{node=~\"$node\"})", "{{node}} {{peer}}")],
    ),
    Panel::new(
        Kind::Timeline,
        12,
        "BFD by peer",
        "1 while BFD finds the peer up; 0 where packets are lost though the session may still stand.",
        "none",
        &[("max by (node, peer) (cosmolet_bgp_peer_bfd_up{node=~\"$node\"})", "{{node}} {{peer}}")],
    )
    .or("BFD watches no peer"),
    Panel::new(
        Kind::Series,
        12,
        "VIPs by state",
        "Pending or withdrawing for more than a moment: the kernel or FRR does not follow.",
        "none",
        &[("sum by (state) (cosmolet_vips{node=~\"$node\"})", "{{state}}")],
    ),
    Panel::new(
        Kind::Series,
        12,
        "reaction",
        "From an event to the confirmation of the last step, by the kernel and FRR.",
        "s",
        &[
            (
                "histogram_quantile(0.5, sum by (le) (rate(cosmolet_reaction_seconds_bucket{node=~\"$node\"}[$__rate_interval])))",
                "p50",
            ),
            (
                "histogram_quantile(0.99, sum by (le) (rate(cosmolet_reaction_seconds_bucket{node=~\"$node\"}[$__rate_interval])))",
                "p99",
            ),
        ],
    ),
    Panel::new(
        Kind::Series,
        12,
        "reaction by stage",
        "The slowest of a hundred: waiting for a plan, carrying out its steps, and until FRR's RIB shows the path or its end.",
        "s",
        &[(
            "histogram_quantile(0.99, sum by (le, stage) (rate(cosmolet_stage_seconds_bucket{node=~\"$node\"}[$__rate_interval])))",
            "{{stage}} p99",
        )],
    ),
    Panel::new(
        Kind::Series,
        12,
        "turns of the control loop",
        "How long one takes; nothing else waits for anything.",
        "s",
        &[(
            "histogram_quantile(0.99, sum by (le, node) (rate(cosmolet_turn_seconds_bucket{node=~\"$node\"}[$__rate_interval])))",
            "{{node}} p99",
        )],
    ),
    Panel::new(
        Kind::Series,
        12,
        "steps by outcome",
        "Addresses and networks added and removed in a minute; `retry` and `give_up` are failures.",
        "none",
        &[("sum by (step, outcome) (increase(cosmolet_steps_total{node=~\"$node\"}[1m]))", "{{step}} {{outcome}}")],
    ),
    Panel::new(
        Kind::Series,
        12,
        "probes by outcome",
        "Wire-true probes in a minute. `lost` is a failure of the probing, never of a Service.",
        "none",
        &[(
            "sum by (purpose, outcome) (increase(cosmolet_probes_total{node=~\"$node\"}[1m]))",
            "{{purpose}} {{outcome}}",
        )],
    ),
    Panel::new(
        Kind::Series,
        12,
        "packets that no VIP counts",
        "Truncated or unparsable ones, fragments, and SYN that found no place among the followed.",
        "none",
        &[("sum by (node, kind) (cosmolet_odd_packets{node=~\"$node\"})", "{{node}} {{kind}}")],
    ),
    Panel::new(
        Kind::Series,
        12,
        "the daemon's CPU",
        "Seconds of CPU in a second.",
        "percentunit",
        &[("sum by (node) (rate(cosmolet_process_cpu_seconds_total{node=~\"$node\"}[$__rate_interval]))", "{{node}}")],
    ),
    Panel::new(
        Kind::Series,
        12,
        "the daemon's memory",
        "Resident, mapped eBPF maps included.",
        "bytes",
        &[("sum by (node) (cosmolet_process_resident_memory_bytes{node=~\"$node\"})", "{{node}}")],
    ),
    Panel::new(
        Kind::Series,
        12,
        "reading the counters",
        "One reading of all counters of the programs, once a second.",
        "s",
        &[(
            "histogram_quantile(0.99, sum by (le, node) (rate(cosmolet_sampling_seconds_bucket{node=~\"$node\"}[$__rate_interval])))",
            "{{node}} p99",
        )],
    ),
];
