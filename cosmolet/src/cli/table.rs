//! A daemon's status for a person: what it is, what is wrong, one line for each VIP, what the reasons mean. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::http::status::{ServiceRow, Status, VipRow};
use crate::http::troubles::troubles;

/// The status as text, each line ended. Nothing in it can move a terminal's cursor, whatever names objects have.
#[must_use]
pub fn table(status: &Status) -> String {
    let head = HEAD.map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(status.vips.iter().map(row)).collect();
    around(status, &aligned(&rows))
}

/// The same with more columns.
#[must_use]
pub fn wide(status: &Status) -> String {
    let head = [HEAD.map(str::to_owned).to_vec(), MORE.map(str::to_owned).to_vec()].concat();
    let rows = status.vips.iter().map(|vip| [row(vip).to_vec(), more(vip).to_vec()].concat());
    let rows: Vec<_> = std::iter::once(head).chain(rows).filter_map(|row| row.try_into().ok()).collect();
    around(status, &aligned::<{ HEAD.len() + MORE.len() }>(&rows))
}

pub(super) const HEAD: [&str; 8] = ["VIP", "STATE", "REASON", "SINCE", "MODE", "IN RIB", "TRAFFIC", "SERVICE"];
const MORE: [&str; 7] = ["LOOPBACK", "LEASE", "NETWORK", "PEERS", "VERDICT", "PROBE", "ATTRIBUTES"];

/// What the kernel and FRR hold of a VIP, and what its traffic says.
fn more(vip: &VipRow) -> [String; 7] {
    let dash = || "-".to_owned();
    let of_services = |word: fn(&ServiceRow) -> Option<String>| {
        let words: Vec<String> = vip.services.iter().filter_map(word).collect();
        if words.is_empty() { dash() } else { words.join(",") }
    };
    let attributes = vip.attributes.as_ref();
    let peers = vip.rib.as_ref().map(|rib| rib.peers.join(",")).filter(|peers| !peers.is_empty());
    [
        vip.loopback.clone().unwrap_or_else(dash),
        vip.lease_left_seconds.map_or_else(dash, age),
        vip.network.clone().unwrap_or_else(dash),
        peers.unwrap_or_else(dash),
        of_services(|service| Some(service.verdict.clone())),
        of_services(|service| service.probe.clone()),
        attributes.map_or_else(dash, |found| format!("{}{}", found.wanted, if found.set { "" } else { " (not set)" })),
    ]
}

/// The summary above the rows, and the reasons below them.
fn around(status: &Status, rows: &[String]) -> String {
    let mut text = summary(status);
    let mut line = |mark: &str, words: &str| {
        text.push_str(mark);
        text.push_str(&printable(words));
        text.push('\n');
    };
    if status.drained {
        line("", "  drained: no VIP is advertised from here until `cosmolet undrain`");
    }
    if let Some(reason) = &status.node_out {
        line("", &format!("  {reason}: no VIP is advertised from here while the Node object says so"));
    }
    troubles(status).iter().for_each(|trouble| line("! ", trouble));
    if !status.vips.is_empty() {
        line("", "");
        rows.iter().for_each(|words| line("", words));
    }
    let reasons = reasons(status);
    if !reasons.is_empty() {
        line("", "");
        reasons.iter().for_each(|(reason, explanation)| line("", &format!("{reason}: {explanation}")));
    }
    text
}

fn summary(status: &Status) -> String {
    let rows = [
        ["VIPs".to_owned(), vips(status)],
        ["Services".to_owned(), format!("{} from {}, {}", status.services, status.source.kind, status.source.state)],
        ["FRR".to_owned(), frr(status)],
        ["traffic".to_owned(), traffic(status)],
    ];
    let mut text = format!("{}: cosmolet {}, up {}\n", status.node, status.version, age(status.uptime_seconds));
    for line in aligned(&rows) {
        text.push_str(&printable(&format!("  {line}")));
        text.push('\n');
    }
    text
}

pub(super) fn vips(status: &Status) -> String {
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    status.vips.iter().for_each(|vip| *states.entry(&vip.state).or_default() += 1);
    let each: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    if each.is_empty() { "none".to_owned() } else { each.join(", ") }
}

pub(super) fn frr(status: &Status) -> String {
    let bgp = &status.bgp;
    let (Some(asn), [v4, v6]) = (bgp.asn, [&bgp.ipv4_mode, &bgp.ipv6_mode].map(|mode| mode.as_deref().unwrap_or("-")))
    else {
        return bgp.reason.as_ref().map_or_else(|| bgp.state.clone(), |reason| format!("{} ({reason})", bgp.state));
    };
    let up = bgp.peers.iter().filter(|peer| peer.established).count();
    let watched: Vec<&str> = bgp.peers.iter().filter_map(|peer| peer.bfd.as_deref()).collect();
    let alive = watched.iter().filter(|bfd| **bfd == "up").count();
    let bfd = if watched.is_empty() { String::new() } else { format!(", BFD up with {alive} of {}", watched.len()) };
    format!("AS {asn}, {up} of {} BGP sessions up{bfd}, IPv4 {v4}, IPv6 {v6}", bgp.peers.len())
}

pub(super) fn traffic(status: &Status) -> String {
    let traffic = &status.traffic;
    match (traffic.mode.as_str(), traffic.interfaces.as_slice()) {
        ("off", _) => "off".to_owned(),
        (mode, []) => format!("{mode}, but nothing is counted"),
        (mode, interfaces) => format!("{mode}, counted on {}", interfaces.join(", ")),
    }
}

/// Each reason that a row names, with its explanation.
fn reasons(status: &Status) -> BTreeMap<&str, &str> {
    status.vips.iter().filter_map(|vip| Some((vip.reason.as_deref()?, vip.explanation.as_deref()?))).collect()
}

pub(super) fn row(vip: &VipRow) -> [String; 8] {
    let dash = || "-".to_owned();
    let in_rib = match &vip.rib {
        Some(rib) if rib.valid && rib.advertised_to == 1 => "yes, to 1 peer".to_owned(),
        Some(rib) if rib.valid => format!("yes, to {} peers", rib.advertised_to),
        Some(_) => "no".to_owned(),
        None => dash(),
    };
    let services: Vec<String> =
        vip.services.iter().map(|service| format!("{}/{}", service.namespace, service.name)).collect();
    let doubted = vip.services.iter().find(|service| service.health == "suspect" || service.health == "trial");
    [
        vip.vip.clone(),
        doubted
            .filter(|_| vip.drain_left_seconds.is_none())
            .map_or_else(|| state(vip), |service| format!("{} ({})", vip.state, service.health)),
        vip.reason.clone().unwrap_or_else(dash),
        age(vip.since_seconds),
        vip.mode.clone().unwrap_or_else(dash),
        in_rib,
        counted(vip),
        if services.is_empty() { dash() } else { services.join(",") },
    ]
}

fn state(vip: &VipRow) -> String {
    match vip.drain_left_seconds {
        Some(left) => format!("{} (drains, {left:.0}s left)", vip.state),
        None => vip.state.clone(),
    }
}

/// Packets in both directions since the daemon's start, and the resets that were not the clients'.
fn counted(vip: &VipRow) -> String {
    let (packets, resets) = vip.traffic.iter().fold((0_u64, 0_u64), |(packets, resets), port| {
        let total = &port.total;
        (packets + total.packets_in + total.packets_out, resets + total.rst_backend + total.rst_host)
    });
    match (packets, resets) {
        (0, _) => "-".to_owned(),
        (packets, 0) => format!("{} pkts", short(packets)),
        (packets, resets) => format!("{} pkts, {} RST", short(packets), short(resets)),
    }
}

/// A count with three digits or four.
fn short(count: u64) -> String {
    let (unit, letter) = match count {
        0..=9_999 => return count.to_string(),
        10_000..=999_999 => (1_000, 'k'),
        1_000_000..=999_999_999 => (1_000_000, 'M'),
        _ => (1_000_000_000, 'G'),
    };
    format!("{}.{}{letter}", count / unit, count % unit / (unit / 10))
}

/// As kubectl prints ages: the two largest units at most.
pub(super) fn age(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an age is not negative and fits")]
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..=119 => format!("{whole}s"),
        120..=7199 => format!("{}m{}s", whole / 60, whole % 60),
        7200..=172_799 => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// One line without control characters: names and errors come from outside.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Seconds since 1970 as a date and time of day in UTC, with milliseconds.
pub(super) fn utc(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "what does not fit is no time of a daemon")]
    let millis = (seconds * 1000.0).round() as i64;
    Timestamp::from_millisecond(millis).map_or_else(|_| seconds.to_string(), |at| format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn a_healthy_node_reads_like_this() {
        let expected = "\
node1: cosmolet 0.1.0, up 2h0m
  VIPs      1 advertised, 1 withdrawn
  Services  2 from kubernetes, synced
  FRR       AS 65001, 2 of 2 BGP sessions up, IPv4 dynamic, IPv6 connected
  traffic   observe, counted on uplink

VIP         STATE       REASON           SINCE  MODE     IN RIB          TRAFFIC            SERVICE
10.100.0.1  advertised  -                2h0m   dynamic  yes, to 1 peer  12.3k pkts, 3 RST  default/web
10.100.0.2  withdrawn   NoLocalEndpoint  2h0m   dynamic  no              -                  default/mail

NoLocalEndpoint: its traffic policy is Local and this node has no usable endpoint
";
        assert_eq!(table(&samples::healthy()), expected);
    }

    #[test]
    fn a_wide_table_tells_what_the_kernel_and_frr_hold() {
        let text = wide(&samples::healthy());
        let row = text.lines().find(|line| line.starts_with("10.100.0.1")).unwrap();
        assert!(text.contains("SERVICE       LOOPBACK  LEASE"), "{text}");
        assert!(row.contains("default/web   ours      "), "{text}");
        assert_eq!(text.lines().count(), table(&samples::healthy()).lines().count());
    }

    #[test]
    fn troubles_stand_between_summary_and_rows() {
        let mut status = samples::healthy();
        status.bgp.peers[0].established = false;
        let text = table(&status);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[3], "  FRR       AS 65001, 1 of 2 BGP sessions up, IPv4 dynamic, IPv6 connected");
        assert_eq!(lines[5], "! FRR: the BGP session with 10.1.1.1 is down");
        assert_eq!(lines[6], "");
        for (peer, bfd) in status.bgp.peers.iter_mut().zip(["down", "up"]) {
            peer.bfd = Some(bfd.to_owned());
        }
        let text = table(&status);
        assert!(text.contains("1 of 2 BGP sessions up, BFD up with 1 of 2, IPv4"), "{text}");
        assert!(text.contains("! FRR: the BGP session with 10.1.1.1 is down, and BFD does not find it\n"), "{text}");
    }

    #[test]
    fn parts_that_are_away_say_so() {
        let mut status = samples::healthy();
        status.vips.clear();
        (status.bgp.asn, status.bgp.state) = (None, "down".to_owned());
        status.bgp.reason = Some("Unreachable".to_owned());
        status.traffic.interfaces.clear();
        let text = table(&status);
        assert!(text.contains("  VIPs      none\n"), "{text}");
        assert!(text.contains("  FRR       down (Unreachable)\n"), "{text}");
        assert!(text.contains("  traffic   observe, but nothing is counted\n"), "{text}");
        assert!(!text.contains("STATE"), "{text}");
        status.bgp.state = "disabled".to_owned();
        status.bgp.reason = None;
        status.traffic.mode = "off".to_owned();
        let text = table(&status);
        assert!(text.contains("  FRR       disabled\n") && text.contains("  traffic   off\n"), "{text}");
    }

    #[test]
    fn a_node_that_is_out_says_why() {
        let mut status = samples::healthy();
        status.node_out = Some("NodeTainted".to_owned());
        let text = table(&status);
        assert_eq!(
            text.lines().nth(5),
            Some("  NodeTainted: no VIP is advertised from here while the Node object says so")
        );
    }

    #[test]
    fn a_doubt_stands_beside_the_state() {
        let mut status = samples::healthy();
        status.vips[0].services[0].health = "trial".to_owned();
        assert!(table(&status).contains("advertised (trial)"));
    }

    #[test]
    fn no_name_breaks_a_line_or_moves_the_cursor() {
        let mut status = samples::healthy();
        status.vips[0].services[0].name = "a\nb\u{1b}[2Jc\r\u{9b}d".to_owned();
        status.source.error = Some("line\nbreak\u{7}".to_owned());
        let text = table(&status);
        assert_eq!(text.lines().count(), table(&samples::healthy()).lines().count() + 1);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn ages_and_counts_are_short() {
        let ages = [0.4, 119.9, 120.0, 7199.0, 7200.0, 172_800.0].map(age);
        assert_eq!(ages, ["0s", "119s", "2m0s", "119m59s", "2h0m", "2d0h"]);
        let counts = [0, 9_999, 10_000, 999_999, 1_000_000, 12_345_678_901].map(short);
        assert_eq!(counts, ["0", "9999", "10.0k", "999.9k", "1.0M", "12.3G"]);
    }
}
