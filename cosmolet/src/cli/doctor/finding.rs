//! What a check found, and every check there is.

use serde::Serialize;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Unknown,
    /// It works, but not as well as it could, or not for long.
    Advice,
    /// VIPs do not go out, or go out wrongly.
    Wrong,
}

impl Verdict {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Advice => "advice",
            Self::Wrong => "wrong",
        }
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The check, as [`CHECKS`] names it.
    pub(crate) check: &'static str,
    /// How it came out.
    pub(crate) verdict: Verdict,
    /// What was seen.
    pub(crate) seen: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) why: &'static str,
    /// What to do, exactly.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) fix: String,
}

/// A check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
}

const fn check(name: &'static str, why: &'static str) -> Check {
    Check { name, why }
}

/// All checks, in the order in which they are printed.
#[rustfmt::skip]
pub(crate) const CHECKS: &[Check] = &[
    check("configuration", "the daemon does not start with a configuration that is wrong"),
    check("daemon", "what the daemon itself finds wrong comes first: it knows this node's VIPs"),
    check("frr-vty", "cosmolet speaks to bgpd by its vty socket, for which a user needs the group frrvty"),
    check("frr-instance", "VIPs go into the `router bgp` of one VRF (bgp.vrf), which cosmolet never creates"),
    check("frr-vrf", "FRR advertises in a VRF what is an address of that VRF"),
    check("frr-router-id", "without `bgp router-id` FRR takes the highest address on the loopback: a VIP, which other nodes have too"),
    check("frr-sessions", "a VIP that no peer hears of attracts no traffic"),
    check("frr-families", "a peer that is not activated in a family hears of none of its VIPs"),
    check("frr-policy", "with `bgp ebgp-requires-policy` FRR tells an eBGP peer nothing for which there is no outbound route-map"),
    check("frr-transit", "a node with two ToRs hands the routes of one to the other, and carries their traffic, unless a filter keeps \
                          everything in that is not its own"),
    check("frr-redistribute", "`redistribute connected` without a route-map advertises every address of the node: the bridges of \
                               containers, kube-ipvs0, the management network"),
    check("frr-origin", "FRR marks redistributed routes `incomplete`, which loses against the `IGP` of nodes in Dynamic mode: these take \
                         all of a VIP's traffic"),
    check("frr-attributes", "in Connected mode attributes come from the route-map on `redistribute connected` alone"),
    check("frr-import-check", "without it FRR goes on advertising a VIP whose address is gone: the lease of a dead daemon does nothing"),
    check("frr-withdrawn", "where FRR lends this prefix-list a withdrawal leaves at once, 50 ms before its `network` statement is gone"),
    check("frr-suppress-fib", "`bgp suppress-fib-pending` holds every change for 700 to 1050 ms"),
    check("frr-advertisement-interval", "the second change within the interval waits for its end, a withdrawal too"),
    check("frr-delay-timer", "`bgp route-map delay-timer 0` does not mean at once: FRR never looks at a changed route-map again"),
    check("frr-coalesce", "after a session comes up FRR waits a second before its first UPDATE, unless coalesce-time says otherwise"),
    check("frr-bfd", "without BFD a link that drops packets silently keeps its routes for the hold time, 9 s or more"),
    check("frr-graceful-restart", "without it every VIP of the node is withdrawn while bgpd is restarted, for a second or more"),
    check("frr-saved", "after a reboot FRR advertises VIPs that it finds in its file before anybody knows whether the node can serve them"),
    check("node-forwarding", "a VIP's packets are forwarded to a pod: without forwarding the node drops them"),
    check("node-rp-filter", "strict reverse path filtering drops packets that come in by another uplink than the one their answers would \
                             take, as is usual with ECMP"),
    check("node-arp", "with arp_ignore 0 the node answers ARP for its VIPs on every interface: a neighbor in the same layer 2 segment reaches \
                       them past BGP, withdrawn or not"),
    check("ebpf-rights", "without CAP_BPF and CAP_NET_ADMIN no traffic is counted and no probe is sent: the control plane decides alone"),
    check("ebpf-btf", "the programs are loaded with BTF, which the kernel must have"),
    check("clock", "logs, events and metrics of two nodes cannot be compared"),
];

/// The checks as a table for docs/doctor.md.
pub(crate) fn markdown() -> String {
    let rows = CHECKS.iter().map(|check| format!("| `{}` | {} |\n", check.name, check.why));
    format!("| check | why it matters |\n|---|---|\n{}", rows.collect::<String>())
}

/// Gathers findings. A name that [`CHECKS`] does not have is a mistake that the tests find.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    pub(crate) fn ok(&mut self, check: &'static str, seen: impl Into<String>) {
        self.add(check, Verdict::Ok, seen, String::new());
    }

    pub(crate) fn unknown(&mut self, check: &'static str, seen: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Verdict::Unknown, seen, fix);
    }

    pub(crate) fn advice(&mut self, check: &'static str, seen: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Verdict::Advice, seen, fix);
    }

    pub(crate) fn wrong(&mut self, check: &'static str, seen: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Verdict::Wrong, seen, fix);
    }

    fn add(&mut self, name: &'static str, verdict: Verdict, seen: impl Into<String>, fix: impl Into<String>) {
        let why = CHECKS.iter().find(|check| check.name == name).map_or("", |check| check.why);
        let why = if verdict == Verdict::Ok { "" } else { why };
        self.0.push(Finding { check: name, verdict, seen: seen.into(), why, fix: fix.into() });
    }

    /// In the order of [`CHECKS`].
    pub(crate) fn sorted(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| CHECKS.iter().position(|check| check.name == finding.check));
        self.0
    }
}
