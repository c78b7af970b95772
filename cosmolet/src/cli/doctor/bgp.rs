//! FRR's configuration and sessions against what a node needs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::finding::Findings;
use crate::config::Config;
use crate::engine::attributes::MAP_PREFIX;
use crate::engine::types::{Family, Mode, Vrf};
use crate::frr::observe::{self, Place, RunningConfig};
use crate::frr::withdrawn::LIST;

/// What FRR told.
#[derive(Clone, Debug, Default)]
pub(super) struct Frr {
    /// `show running-config`
    pub(super) running: String,
    /// `show bgp summary json`, of the VRF
    pub(super) summary: String,
    /// `/etc/frr/frr.conf`, where it can be read.
    pub(super) saved: Option<String>,
}

/// What the checks ask for.
struct View<'a> {
    config: Option<&'a Config>,
    running: RunningConfig,
    /// The lines of the instance, by place, without their blanks.
    router: Vec<&'a str>,
    families: BTreeMap<Family, Vec<&'a str>>,
    /// All other lines.
    outside: Vec<&'a str>,
    peers: BTreeMap<Family, BTreeMap<String, Peer>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Peer {
    state: String,
    /// `Policy` where ebgp-requires-policy holds everything back.
    peer_state: String,
    remote_as: u32,
    local_as: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Summary {
    peers: BTreeMap<String, Peer>,
}

/// Runs every check of FRR.
pub(super) fn examine(frr: &Frr, config: Option<&Config>, findings: &mut Findings) {
    let view = View::of(frr, config);
    if !instance(&view, findings) {
        return;
    }
    router_id(&view, findings);
    sessions(&view, findings);
    families(&view, findings);
    policy(&view, findings);
    transit(&view, findings);
    connected(&view, findings);
    import_check(&view, findings);
    withdrawn(&view, findings);
    delays(&view, findings);
    resilience(&view, findings);
    saved(frr.saved.as_deref(), findings);
}

impl<'a> View<'a> {
    fn of(frr: &'a Frr, config: Option<&'a Config>) -> Self {
        let vrf = config.map(|config| config.bgp.vrf.clone()).unwrap_or_default();
        let mut view = Self {
            config,
            running: RunningConfig::parse(&frr.running, &vrf),
            router: Vec::new(),
            families: BTreeMap::new(),
            outside: Vec::new(),
            peers: BTreeMap::new(),
        };
        view.read(&frr.running, &vrf);
        let summary: BTreeMap<String, serde_json::Value> = serde_json::from_str(&frr.summary).unwrap_or_default();
        for (key, family) in [("ipv4Unicast", Family::V4), ("ipv6Unicast", Family::V6)] {
            let told = summary.get(key).cloned().and_then(|value| serde_json::from_value::<Summary>(value).ok());
            view.peers.insert(family, told.unwrap_or_default().peers);
        }
        view
    }

    fn read(&mut self, running: &'a str, vrf: &Vrf) {
        for line in observe::lines(running, vrf) {
            match line.place {
                Place::Outside => self.outside.push(line.text),
                Place::Router => self.router.push(line.text),
                Place::Unicast(family) => self.families.entry(family).or_default().push(line.text),
                Place::OtherFamily => {}
            }
        }
    }

    fn has(&self, line: &str) -> bool {
        self.router.contains(&line) || self.outside.contains(&line)
    }

    fn begins(&self, start: &str) -> Option<&'a str> {
        self.router.iter().chain(&self.outside).find(|line| line.starts_with(start)).copied()
    }

    fn lines(&self, family: Family) -> impl Iterator<Item = &'a str> {
        let own = self.families.get(&family).into_iter().flatten();
        self.router.iter().chain(own).copied()
    }

    fn mode(&self, family: Family) -> Mode {
        let found = if *self.running.connected.get(family) { Mode::Connected } else { Mode::Dynamic };
        self.config.and_then(|config| config.bgp.mode).unwrap_or(found)
    }

    fn peers(&self, family: Family) -> impl Iterator<Item = (&String, &Peer)> {
        self.peers.get(&family).into_iter().flatten()
    }

    fn established(&self) -> BTreeSet<&String> {
        let all = Family::ALL.into_iter().flat_map(|family| self.peers(family));
        all.filter(|(_, peer)| peer.state == "Established").map(|(name, _)| name).collect()
    }

    /// The names by which lines may speak of a peer: its own, and that of its group.
    fn names<'b>(&'b self, peer: &'b str) -> Vec<&'b str> {
        let mut names = vec![peer];
        for line in &self.router {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["neighbor", name, "interface", "peer-group", group]
                | ["neighbor", name, "interface", "v6only", "peer-group", group]
                | ["neighbor", name, "peer-group", group]
                    if name == peer =>
                {
                    names.push(group);
                }
                _ => {}
            }
        }
        names
    }

    fn asn(&self) -> u32 {
        self.running.instance(None).map_or(0, |instance| instance.asn)
    }
}

fn instance(view: &View<'_>, findings: &mut Findings) -> bool {
    let configured = view.config.and_then(|config| config.bgp.asn);
    match view.running.instance(configured) {
        Ok(instance) => {
            let modes = Family::ALL.map(|family| format!("{family} {}", view.mode(family)));
            findings.ok("frr-instance", format!("AS {}, {}", instance.asn, modes.join(", ")));
            placed(view, findings);
            true
        }
        Err(fault) => {
            findings.wrong(
                "frr-instance",
                fault.to_string(),
                "have a `router bgp ASN` in that VRF, and bgp.asn 0 or that number",
            );
            false
        }
    }
}

/// An address on `lo` is in the default VRF, unless the VRFs are network namespaces.
fn placed(view: &View<'_>, findings: &mut Findings) {
    let Some((vrf, loopback)) = view.config.and_then(|config| Some((config.bgp.vrf.name()?, &config.loopback))) else {
        return;
    };
    match loopback.enabled && loopback.interface == "lo" {
        true => findings.advice(
            "frr-vrf",
            format!("VIPs are advertised in the VRF {vrf}, and their addresses are on lo"),
            format!(
                "loopback.interface: {vrf}, which is the VRF's own device; if {vrf} is the network namespace that cosmolet runs in, \
                 all is well"
            ),
        ),
        false => findings.ok("frr-vrf", format!("VIPs are put on {}", loopback.interface)),
    }
}

/// The prefix-list that the operator lends, or tries to.
fn withdrawn(view: &View<'_>, findings: &mut Findings) {
    for family in Family::ALL {
        let list = view.running.withdrawn.get(family);
        let command = if family == Family::V4 { "ip" } else { "ipv6" };
        let permit = format!("{command} prefix-list {LIST} seq 4294967295 permit any");
        match (list.applied, list.permits_all) {
            (false, None) => {}
            (false, Some(_)) => findings.advice(
                "frr-withdrawn",
                format!("{family}: no neighbor has the prefix-list {LIST}"),
                format!(
                    "router bgp {} / address-family {family} unicast / neighbor … prefix-list {LIST} out",
                    view.asn()
                ),
            ),
            (true, None) => findings.wrong(
                "frr-withdrawn",
                format!("{family}: the prefix-list {LIST} lets nothing pass: its neighbors hear of no VIP"),
                permit,
            ),
            (true, Some(_)) if !list.is_lent() => findings.advice(
                "frr-withdrawn",
                format!("{family}: the prefix-list {LIST} has no room before the entry that permits the rest"),
                permit,
            ),
            (true, Some(_)) => findings.ok("frr-withdrawn", format!("{family}: by {LIST}")),
        }
    }
}

fn router_id(view: &View<'_>, findings: &mut Findings) {
    let set = ["bgp router-id ", "ip router-id ", "router-id "].into_iter().find_map(|start| view.begins(start));
    match set {
        Some(line) => findings.ok("frr-router-id", line),
        None => findings.advice(
            "frr-router-id",
            "FRR chooses it by itself, anew whenever it starts",
            format!("router bgp {} / bgp router-id ADDRESS, one of this node alone", view.asn()),
        ),
    }
}

fn sessions(view: &View<'_>, findings: &mut Findings) {
    let all: BTreeSet<&String> = view
        .running
        .peers
        .keys()
        .chain(Family::ALL.into_iter().flat_map(|family| view.peers(family)).map(|(n, _)| n))
        .collect();
    let up = view.established();
    let down: Vec<&str> = all.difference(&up).map(|name| name.as_str()).collect();
    match (all.len(), down.len()) {
        (0, _) => {
            findings.wrong("frr-sessions", "FRR has no BGP peer", "configure a neighbor: docs/frr.md has an example")
        }
        (_, 0) => findings.ok("frr-sessions", format!("{} established", listed(up.iter().map(|name| name.as_str())))),
        (_, _) if up.is_empty() => {
            let look = format!("vtysh -c 'show bgp neighbors {}'", down.first().copied().unwrap_or_default());
            findings.wrong("frr-sessions", format!("no session is established: {}", listed(down)), look);
        }
        (..) => findings.advice(
            "frr-sessions",
            format!("not established: {}", listed(down.iter().copied())),
            format!("vtysh -c 'show bgp neighbors {}'", down.first().copied().unwrap_or_default()),
        ),
    }
}

fn families(view: &View<'_>, findings: &mut Findings) {
    let mut served = Vec::new();
    for family in Family::ALL {
        if view.peers(family).next().is_some() {
            served.push(family.as_str());
        } else if !view.established().is_empty() {
            let peer = view.established().first().map(|name| name.to_string()).unwrap_or_default();
            findings.advice(
                "frr-families",
                format!("no peer is activated for {family}: its VIPs stay on this node"),
                format!(
                    "address-family {family} unicast / neighbor {peer} activate; if there are no such VIPs, all is well"
                ),
            );
        }
    }
    if served.len() == Family::ALL.len() {
        findings.ok("frr-families", "peers are activated for both families");
    }
}

fn policy(view: &View<'_>, findings: &mut Findings) {
    let mut held: Vec<String> = Vec::new();
    for family in Family::ALL {
        let policy = view.peers(family).filter(|(_, peer)| peer.peer_state == "Policy");
        held.extend(policy.map(|(name, _)| format!("{name} ({family})")));
    }
    if held.is_empty() {
        return findings.ok("frr-policy", "no peer waits for a policy");
    }
    findings.wrong(
        "frr-policy",
        format!("FRR tells nothing to {}", listed(held.iter().map(String::as_str))),
        format!(
            "router bgp {} / no bgp ebgp-requires-policy; or give each neighbor a route-map `out` that permits the VIPs",
            view.asn()
        ),
    );
}

fn transit(view: &View<'_>, findings: &mut Findings) {
    const FILTERS: [&str; 4] = ["filter-list", "route-map", "prefix-list", "distribute-list"];
    let mut open = Vec::new();
    let mut several = false;
    for family in Family::ALL {
        let external =
            view.peers(family).filter(|(_, peer)| peer.state == "Established" && peer.remote_as != peer.local_as);
        let names: Vec<&String> = external.map(|(name, _)| name).collect();
        several |= names.len() > 1;
        for peer in names.iter().filter(|_| names.len() > 1) {
            let known = view.names(peer);
            let filtered = view.lines(family).any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                matches!(words[..], ["neighbor", name, kind, filter, "out"]
                    if known.contains(&name) && FILTERS.contains(&kind) && filter != LIST)
            });
            if !filtered {
                open.push(format!("{peer} ({family})"));
            }
        }
    }
    if open.is_empty() {
        let seen =
            if several { "every uplink has an outbound filter" } else { "one uplink: there is nothing to pass on" };
        return findings.ok("frr-transit", seen);
    }
    let asn = view.asn();
    findings.wrong(
        "frr-transit",
        format!("no outbound filter on {}", listed(open.iter().map(String::as_str))),
        format!(
            "bgp as-path access-list OWN permit ^$ (and … permit ^{asn}(_{asn})*$ where VIPs are prepended) / router bgp {asn} / \
             address-family … unicast / neighbor … filter-list OWN out"
        ),
    );
}

fn connected(view: &View<'_>, findings: &mut Findings) {
    for family in Family::ALL.into_iter().filter(|family| view.mode(*family) == Mode::Connected) {
        let line = view.lines(family).find(|line| line.starts_with("redistribute connected"));
        let map = line.and_then(|line| line.split_once("route-map ")).map(|(_, map)| map.trim());
        let Some(map) = map else {
            findings.wrong(
                "frr-redistribute",
                format!("{family}: `redistribute connected` without a route-map"),
                "redistribute connected route-map VIPS / route-map VIPS permit 10 / match ip address prefix-list VIPS; \
                 docs/frr.md has it in full",
            );
            continue;
        };
        findings.ok("frr-redistribute", format!("{family}: by route-map {map}"));
        let sets = settings(view, map);
        if sets.contains(&"set origin igp") {
            findings.ok("frr-origin", format!("{family}: route-map {map} sets it"));
        } else {
            let fix =
                format!("route-map {map} permit … / set origin igp; needless where all nodes are in Connected mode");
            findings.advice("frr-origin", format!("{family}: route-map {map} does not set it"), fix);
        }
        let wanted = view.config.map(|config| config.bgp.attributes.to_string()).unwrap_or_default();
        if !wanted.is_empty() {
            findings.advice(
                "frr-attributes",
                format!(
                    "{family}: bgp.attributes wants {wanted}; route-map {map} has {}",
                    listed(sets.iter().copied())
                ),
                format!(
                    "add the `set` lines for it to route-map {map} (docs/frr.md has them), or make the family Dynamic"
                ),
            );
        }
    }
}

/// The `set` lines of a route-map.
fn settings<'a>(view: &View<'a>, map: &str) -> Vec<&'a str> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in &view.outside {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["route-map", name, ..] => inside = name == map,
            ["set", ..] if inside => found.push(*line),
            _ => {}
        }
    }
    found
}

fn import_check(view: &View<'_>, findings: &mut Findings) {
    if view.config.is_some_and(|config| !config.loopback.enabled) {
        return match view.running.unchecked {
            true => findings.ok("frr-import-check", "off, as loopback.enabled: false needs it"),
            false => findings.wrong(
                "frr-import-check",
                "on, and loopback.enabled is false: FRR advertises no VIP that has no address",
                format!("router bgp {} / no bgp network import-check", view.asn()),
            ),
        };
    }
    let dynamic = Family::ALL.into_iter().any(|family| view.mode(family) == Mode::Dynamic);
    let lease = view.config.is_none_or(|config| config.loopback.lease.is_some());
    match view.running.unchecked {
        true if dynamic && lease => findings.wrong(
            "frr-import-check",
            "`no bgp network import-check`",
            format!("router bgp {} / bgp network import-check", view.asn()),
        ),
        true => findings.ok("frr-import-check", "off, and nothing depends on it"),
        false => findings.ok("frr-import-check", "on"),
    }
}

fn delays(view: &View<'_>, findings: &mut Findings) {
    let asn = view.asn();
    match view.begins("bgp suppress-fib-pending") {
        Some(line) => {
            findings.advice(
                "frr-suppress-fib",
                format!("`{line}`"),
                format!("router bgp {asn} / no bgp suppress-fib-pending"),
            );
        }
        None => findings.ok("frr-suppress-fib", "off"),
    }
    let slow: Vec<&str> = view
        .router
        .iter()
        .filter(|line| line.contains(" advertisement-interval ") && !line.ends_with(" 0"))
        .copied()
        .collect();
    match slow.first() {
        Some(line) => {
            findings.advice("frr-advertisement-interval", format!("`{line}`"), format!("router bgp {asn} / no {line}"))
        }
        None => findings.ok("frr-advertisement-interval", "none"),
    }
    match view.has("bgp route-map delay-timer 0") {
        true => findings.wrong("frr-delay-timer", "`bgp route-map delay-timer 0`", "no bgp route-map delay-timer 0"),
        false => findings.ok("frr-delay-timer", "not 0"),
    }
    match view.begins("coalesce-time") {
        Some(line) => findings.ok("frr-coalesce", format!("`{line}`")),
        None => findings.advice("frr-coalesce", "not set", format!("router bgp {asn} / coalesce-time 0")),
    }
}

fn resilience(view: &View<'_>, findings: &mut Findings) {
    let bfd = view.router.iter().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], ["neighbor", _, "bfd", ..])
    });
    if bfd {
        findings.ok("frr-bfd", "on");
    } else {
        let peer = view.running.peers.keys().next().map_or("…", String::as_str);
        findings.advice(
            "frr-bfd",
            "no neighbor has it",
            format!("router bgp {} / neighbor {peer} bfd; on the ToR as well", view.asn()),
        );
    }
    match view.has("bgp graceful-restart") {
        true => findings.ok("frr-graceful-restart", "on"),
        false => findings.advice(
            "frr-graceful-restart",
            "off",
            format!("router bgp {} / bgp graceful-restart; FRR as the ToR helps by itself", view.asn()),
        ),
    }
}

fn saved(saved: Option<&str>, findings: &mut Findings) {
    let Some(text) = saved else {
        return findings.unknown(
            "frr-saved",
            "FRR's file cannot be read by this user",
            "look as root, or run `doctor` as root",
        );
    };
    let ours =
        text.lines().filter(|line| line.trim_start().starts_with("network ") && line.contains(MAP_PREFIX)).count();
    match ours {
        0 => findings.ok("frr-saved", "FRR's file has no VIP of ours"),
        count => findings.wrong(
            "frr-saved",
            format!("FRR's file has {count} `network` lines of ours: somebody has used `write memory`"),
            format!(
                "remove the lines with {MAP_PREFIX} from the file; they are FRR's while it runs, and never to be saved"
            ),
        ),
    }
}

/// A few names, and how many more.
fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match names.len() {
        0 => "none".to_owned(),
        1..=6 => names.join(", "),
        count => format!("{} and {} more", names.iter().take(5).copied().collect::<Vec<_>>().join(", "), count - 5),
    }
}
