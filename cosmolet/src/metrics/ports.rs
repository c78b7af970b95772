//! The ports of VIPs as metrics tell of them: each by itself, or those past a limit together.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Error;

use super::exposition::{Family, Type, labels};
use super::vips::{Rows, identity};
use crate::book::{PortTraffic, Row};
use crate::engine::event::LATENCY_BUCKETS;
use crate::engine::types::Vip;

/// The port and the protocol of those that have no series of their own.
const OTHER: &str = "other";

/// One series of every family: a port, or all the others of one Service.
struct Counted<'a> {
    labels: String,
    traffic: Cow<'a, PortTraffic>,
}

/// Every VIP's first `limit` ports, and the sum of its others for each Service. What a port has counted moves to the sum when
/// ports before it are declared, and back: as a restart does, that begins its counters anew.
fn counted(rows: &Rows, limit: usize) -> Vec<Counted<'_>> {
    rows.iter().flat_map(|(vip, row)| of_vip(*vip, row, limit)).collect()
}

fn of_vip(vip: Vip, row: &Row, limit: usize) -> Vec<Counted<'_>> {
    let mut counted: Vec<Counted<'_>> = Vec::with_capacity(row.traffic.len().min(limit.saturating_add(1)));
    let mut others: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    for (index, (port, traffic)) in row.traffic.iter().enumerate() {
        let claim = row.claim(*port);
        let own = |number: &str, protocol| {
            format!("{},{}", identity(claim, vip), labels(&[("port", number), ("protocol", protocol)]))
        };
        if index < limit {
            let labels = own(&port.number.to_string(), port.protocol.as_str());
            counted.push(Counted { labels, traffic: Cow::Borrowed(traffic) });
            continue;
        }
        let service = claim.map(|claim| claim.service.name.as_ref());
        match others.get(&service).and_then(|at| counted.get_mut(*at)) {
            Some(sum) => {
                let sum = sum.traffic.to_mut();
                sum.total = sum.total.plus(traffic.total);
                sum.handshakes = sum.handshakes.plus(&traffic.handshakes);
            }
            None => {
                others.insert(service, counted.len());
                counted.push(Counted { labels: own(OTHER, OTHER), traffic: Cow::Borrowed(traffic) });
            }
        }
    }
    counted
}

/// One counter of a port: its extra label, if it has one, and its value.
type Part = (&'static [(&'static str, &'static str)], fn(&PortTraffic) -> u64);

/// Writes all families of ports.
pub(super) fn encode(rows: &Rows, limit: usize, text: &mut String) -> Result<(), Error> {
    let ports = counted(rows, limit);
    packets(&ports, text)?;
    followed(&ports, text)?;
    latency(&ports, text)
}

fn packets(ports: &[Counted<'_>], text: &mut String) -> Result<(), Error> {
    let packets: [Part; 2] =
        [(&[("direction", "in")], |p| p.total.packets_in), (&[("direction", "out")], |p| p.total.packets_out)];
    counter(ports, text, "vip_packets", "Packets seen on the uplinks", None, &packets)?;
    let bytes: [Part; 2] =
        [(&[("direction", "in")], |p| p.total.bytes_in), (&[("direction", "out")], |p| p.total.bytes_out)];
    counter(
        ports,
        text,
        "vip_traffic",
        "Bytes seen on the uplinks, from the network header on",
        Some("bytes"),
        &bytes,
    )?;
    counter(ports, text, "vip_syn", "SYN from clients", None, &[(&[], |p| p.total.syn)])?;
    let syn_ack: [Part; 2] =
        [(&[("by", "backend")], |p| p.total.syn_ack), (&[("by", "host")], |p| p.total.syn_ack_host)];
    counter(ports, text, "vip_syn_ack", "SYN-ACK to clients, by who made it", None, &syn_ack)?;
    counter(ports, text, "vip_handshakes", "TCP handshakes completed", None, &[(&[], |p| p.total.completed)])?;
    counter(ports, text, "vip_fin", "FIN in either direction", None, &[(&[], |p| p.total.fin)])?;
    let resets: [Part; 3] = [
        (&[("by", "client")], |p| p.total.rst_client),
        (&[("by", "backend")], |p| p.total.rst_backend),
        (&[("by", "host")], |p| p.total.rst_host),
    ];
    counter(ports, text, "vip_resets", "RST, by who made it", None, &resets)?;
    let late: [Part; 2] = [
        (&[("by", "client")], |p| p.total.rst_after_data_client),
        (&[("by", "backend")], |p| p.total.rst_after_data_backend),
    ];
    counter(ports, text, "vip_late_resets", "RST within established connections, by who made it", None, &late)?;
    let repeated: [Part; 1] = [(&[], |p| p.total.syn_retransmitted)];
    counter(ports, text, "vip_syn_retransmitted", "SYN that repeat a followed one", None, &repeated)?;
    let unreachable: [Part; 2] =
        [(&[("by", "backend")], |p| p.total.unreachable_backend), (&[("by", "host")], |p| p.total.unreachable_host)];
    counter(ports, text, "vip_unreachable", "ICMP unreachable to clients, by who made it", None, &unreachable)?;
    Ok(())
}

fn followed(ports: &[Counted<'_>], text: &mut String) -> Result<(), Error> {
    let outcomes: [Part; 4] = [
        (&[("outcome", "completed")], |p| p.handshakes.completed),
        (&[("outcome", "refused_backend")], |p| p.handshakes.refused_backend),
        (&[("outcome", "refused_host")], |p| p.handshakes.refused_host),
        (&[("outcome", "timed_out")], |p| p.handshakes.timed_out),
    ];
    counter(ports, text, "vip_followed", "Followed handshakes, by what became of them", None, &outcomes)?;
    let unseen: [Part; 1] = [(&[], |p| p.handshakes.unseen_answers)];
    counter(ports, text, "vip_unseen_answers", "Followed handshakes completed by an answer not seen", None, &unseen)?;
    Ok(())
}

/// The upper ends of the histogram's buckets, as powers of two of a microsecond: 256 µs, then each four times as long.
const LATENCY_ENDS: [u32; 7] = [8, 10, 12, 14, 16, 18, 20];

/// Only for ports that have something to tell: a series for each bucket is a lot.
fn latency(ports: &[Counted<'_>], text: &mut String) -> Result<(), Error> {
    let help = "Time from SYN to SYN-ACK of followed handshakes, at the uplink";
    let mut family = Family::begin(text, "vip_handshake", Type::Histogram, Some("seconds"), help)?;
    for port in ports {
        let handshakes = &port.traffic.handshakes;
        if handshakes.latency.iter().any(|count| *count > 0) {
            let (sum, buckets) = (handshakes.latency_micros as f64 / 1e6, latency_buckets(&handshakes.latency));
            family.histogram(&port.labels, sum, &buckets)?;
        }
    }
    Ok(())
}

/// Each bucket's upper end in seconds and its own count, the last without end.
fn latency_buckets(latency: &[u32; LATENCY_BUCKETS]) -> Vec<(f64, u64)> {
    let mut buckets: Vec<_> = LATENCY_ENDS.iter().map(|end| (f64::from(1_u32 << end) / 1e6, 0)).collect();
    buckets.push((f64::INFINITY, 0));
    for (power, count) in (0_u32..).zip(latency) {
        let at = LATENCY_ENDS.iter().filter(|end| **end <= power).count();
        if let Some((_, sum)) = buckets.get_mut(at) {
            *sum += u64::from(*count);
        }
    }
    buckets
}

fn counter(
    ports: &[Counted<'_>],
    text: &mut String,
    name: &str,
    help: &str,
    unit: Option<&str>,
    parts: &[Part],
) -> Result<(), Error> {
    let mut family = Family::begin(text, name, Type::Counter, unit, help)?;
    for port in ports {
        for (more, value) in parts {
            family.sample(&port.labels, more, value(&port.traffic))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::engine::event::TrafficCounts;
    use crate::engine::types::{Port, Protocol};

    #[test]
    fn latencies_fall_below_the_ends_of_their_buckets() {
        let mut latency = [0; LATENCY_BUCKETS];
        // 128 to 256 µs, 256 to 512 µs, 512 µs to 1 ms, and more than a second.
        for (power, count) in [(7, 1), (8, 2), (9, 4), (20, 8)] {
            latency[power] = count;
        }
        let buckets = latency_buckets(&latency);
        assert_eq!(buckets[..2], [(0.000_256, 1), (0.001_024, 6)]);
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 8)));
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 15);
    }

    #[test]
    fn ports_past_the_limit_are_one_series() {
        let vip = Vip::new(IpAddr::from([10, 0, 0, 1]));
        let port = |number: u16| Port { number, protocol: Protocol::Tcp };
        let traffic = |syn: u64| PortTraffic {
            total: TrafficCounts { syn, ..TrafficCounts::default() },
            ..PortTraffic::default()
        };
        let row = Row {
            traffic: [(80, 1), (81, 2), (82, 4), (83, 8)].map(|(number, syn)| (port(number), traffic(syn))).into(),
            ..Row::default()
        };
        let told = |limit| {
            let ports = of_vip(vip, &row, limit);
            let own = |one: &Counted<'_>| one.labels.split_once("family=\"ipv4\",").map(|(_, own)| own.to_owned());
            ports.iter().map(|one| (own(one).unwrap_or_default(), one.traffic.total.syn)).collect::<Vec<_>>()
        };
        let named = |number: u16, syn| (format!("port=\"{number}\",protocol=\"tcp\""), syn);
        let other = |syn| ("port=\"other\",protocol=\"other\"".to_owned(), syn);
        assert_eq!(told(4), [named(80, 1), named(81, 2), named(82, 4), named(83, 8)]);
        assert_eq!(told(2), [named(80, 1), named(81, 2), other(12)]);
        assert_eq!(told(0), [other(15)]);
    }
}
