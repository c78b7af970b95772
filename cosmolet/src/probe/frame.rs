//! The frames of a probe, byte by byte: Ethernet, IPv4 (RFC 791) or IPv6 (RFC 8200), TCP (RFC 9293).

use std::net::{IpAddr, SocketAddr};

use cosmolet_common::packet::{flag, protocol};

use crate::engine::types::Family;

/// Ethernet's address of an interface.
pub(super) type Mac = [u8; 6];

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Local experiments (IEEE 802): nobody takes it.
const ETHERTYPE_EXPERIMENT: u16 = 0x88b5;
/// A locally administered address that the frames seem to come from.
const SENDER: Mac = [0x02, 0xc0, 0x5e, 0, 0, 0x01];
const TTL: u8 = 64;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame(Vec<u8>);

impl Frame {
    /// A SYN with the usual maximum segment size.
    pub(super) fn syn(to: Mac, source: SocketAddr, target: SocketAddr, sequence: u32) -> Self {
        Self::tcp(to, source, target, sequence, flag::SYN, &[2, 4, 0x05, 0xb4])
    }

    /// The RST of a client that takes its SYN back.
    pub(super) fn reset(to: Mac, source: SocketAddr, target: SocketAddr, sequence: u32) -> Self {
        Self::tcp(to, source, target, sequence, flag::RST, &[])
    }

    /// One that every kernel drops, to find out whether it takes any.
    pub(super) fn harmless() -> Self {
        let mut bytes = ethernet([0; 6], ETHERTYPE_EXPERIMENT);
        bytes.resize(60, 0);
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn tcp(to: Mac, source: SocketAddr, target: SocketAddr, sequence: u32, flags: u8, options: &[u8]) -> Self {
        const WINDOW: u16 = 64240;
        let words = 5 + options.len() / 4;
        let mut segment = Vec::with_capacity(words * 4);
        segment.extend(source.port().to_be_bytes());
        segment.extend(target.port().to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend([0; 4]);
        segment.push((words as u8) << 4);
        segment.push(flags);
        segment.extend(WINDOW.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(options);
        Self::sealed(to, source, target, protocol::TCP, segment, 16)
    }

    /// A UDP datagram (RFC 768).
    pub(super) fn datagram(to: Mac, source: SocketAddr, target: SocketAddr, payload: &[u8]) -> Self {
        let length = 8 + payload.len() as u16;
        let mut segment = Vec::with_capacity(usize::from(length));
        for field in [source.port(), target.port(), length, 0] {
            segment.extend(field.to_be_bytes());
        }
        segment.extend(payload);
        Self::sealed(to, source, target, protocol::UDP, segment, 6)
    }

    /// An IP packet as it is.
    pub(super) fn around(to: Mac, family: Family, packet: &[u8]) -> Self {
        let kind = match family {
            Family::V4 => ETHERTYPE_IPV4,
            Family::V6 => ETHERTYPE_IPV6,
        };
        Self([&ethernet(to, kind), packet].concat())
    }

    /// Puts the checksum over the pseudo-header into its place, and the other headers before it all.
    fn sealed(to: Mac, source: SocketAddr, target: SocketAddr, kind: u8, mut segment: Vec<u8>, place: usize) -> Self {
        let mut pseudo = Vec::new();
        match (source.ip(), target.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => pseudo.extend([from.octets(), to.octets()].concat()),
            (from, to) => {
                for address in [from, to] {
                    pseudo.extend(v6(address));
                }
            }
        }
        pseudo.extend(u32::from(kind).to_be_bytes());
        pseudo.extend((segment.len() as u32).to_be_bytes());
        // 0 says that there is none (RFC 768).
        let checksum = match checksum(&[&pseudo, &segment]) {
            0 if kind == protocol::UDP => u16::MAX,
            sum => sum,
        };
        if let Some(place) = segment.get_mut(place..place + 2) {
            place.copy_from_slice(&checksum.to_be_bytes());
        }
        Self([network(to, source.ip(), target.ip(), kind, segment.len()), segment].concat())
    }
}

fn ethernet(to: Mac, kind: u16) -> Vec<u8> {
    [to.as_slice(), &SENDER, &kind.to_be_bytes()].concat()
}

/// Everything before the segment.
fn network(to: Mac, source: IpAddr, target: IpAddr, kind: u8, length: usize) -> Vec<u8> {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + length as u16).to_be_bytes());
            // Not fragmented, as a client's.
            header.extend([0, 0, 0x40, 0, TTL, kind, 0, 0]);
            header.extend(source.octets());
            header.extend(target.octets());
            let sum = checksum(&[&header]);
            if let Some(place) = header.get_mut(10..12) {
                place.copy_from_slice(&sum.to_be_bytes());
            }
            [ethernet(to, ETHERTYPE_IPV4), header].concat()
        }
        (source, target) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((length as u16).to_be_bytes());
            header.extend([kind, TTL]);
            header.extend(v6(source));
            header.extend(v6(target));
            [ethernet(to, ETHERTYPE_IPV6), header].concat()
        }
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The Internet checksum (RFC 1071) over parts, of which only the last may have an odd length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let pairs = parts.iter().flat_map(|part| part.chunks(2));
    let word =
        |pair: &[u8]| u16::from_be_bytes([pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)]);
    let mut sum: u32 = pairs.map(|pair| u32::from(word(pair))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use cosmolet_common::packet::Parsed;
    use cosmolet_common::{Family, parse};

    use super::*;

    #[test]
    fn both_families_parse_and_their_checksums_add_up() {
        for (source, target, family, header) in [
            ("198.18.0.9:40000", "10.100.0.1:80", Family::V4, 20),
            ("[2001:2::9]:40000", "[fd00:100::1]:443", Family::V6, 40),
        ] {
            let (source, target): (SocketAddr, SocketAddr) = (source.parse().unwrap(), target.parse().unwrap());
            for (frame, kind) in [
                (Frame::syn([1; 6], source, target, 7), 6_u32),
                (Frame::reset([1; 6], source, target, 7), 6),
                (Frame::datagram([1; 6], source, target, b"hello"), 17),
            ] {
                let packet = &frame.bytes()[14..];
                let Parsed::Packet(found) = parse::full(packet, family, false) else { panic!("{packet:?}") };
                assert_eq!((found.source_port, found.destination_port), (source.port(), target.port()));
                if kind == 6 {
                    assert_eq!((found.sequence, found.acknowledgement), (7, 0));
                }
                let length = (packet.len() - header) as u32;
                let addresses = if header == 20 { &packet[12..20] } else { &packet[8..40] };
                let pseudo = [&kind.to_be_bytes()[..], &length.to_be_bytes()].concat();
                assert_eq!(checksum(&[addresses, &pseudo, &packet[header..]]), 0);
                if header == 20 {
                    assert_eq!(checksum(&[&packet[..20]]), 0);
                }
            }
        }
    }
}
