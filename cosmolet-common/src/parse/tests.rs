//! The parser as ordinary code: every length and every byte of known packets, and random ones.

use proptest::prelude::*;

use super::*;
use crate::packet::flag;

const CLIENT: [u8; 4] = [198, 51, 100, 7];
const VIP: [u8; 4] = [192, 0, 2, 10];

fn tcp() -> Vec<u8> {
    let mut header = vec![0x9c, 0x40, 0, 80];
    header.extend(1000_u32.to_be_bytes());
    header.extend(2000_u32.to_be_bytes());
    header.extend([0x50, flag::SYN, 0x10, 0, 0, 0, 0, 0]);
    header
}

fn v4(protocol: u8, fragment: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options;
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(CLIENT);
    packet.extend(VIP);
    packet.resize(header, 1);
    packet.extend(payload);
    packet
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
    packet.extend(payload);
    packet
}

fn full(bytes: &[u8], family: Family) -> Parsed {
    super::full(bytes, family, false)
}

fn start(bytes: &[u8], family: Family, gso: bool) -> Option<Packet> {
    Start::read(bytes, family)?.packet(bytes, gso)
}

#[track_caller]
fn assert_syn(parsed: Parsed, destination: &str) {
    let Parsed::Packet(packet) = parsed else { panic!("{parsed:?}") };
    let key = VipPortKey::new(packet.addresses.destination, packet.protocol, packet.destination_port);
    assert_eq!((key.address(), key.port(), key.protocol()), (destination.parse().unwrap(), 80, protocol::TCP));
    assert_eq!((packet.source_port, packet.sequence, packet.acknowledgement), (40000, 1000, 2000));
    assert_eq!(packet.flags, flag::SYN);
}

#[test]
fn plain_packets_parse_both_ways() {
    for (bytes, family, destination) in [
        (v4(protocol::TCP, 0, 0, &tcp()), Family::V4, "192.0.2.10"),
        (v6(protocol::TCP, &tcp()), Family::V6, "2001:db8::10"),
    ] {
        assert_syn(full(&bytes, family), destination);
        assert_syn(Parsed::Packet(start(&bytes, family, false).unwrap()), destination);
        let read = Start::read(&bytes[..], family).unwrap();
        assert_eq!((read.destination().port(), read.source().port()), (80, 40000));
        assert_eq!(read.destination().address(), destination.parse::<core::net::IpAddr>().unwrap());
    }
}

#[test]
fn options_of_every_length_are_passed_over() {
    for options in (0..=40).step_by(4) {
        let bytes = v4(protocol::TCP, 0, options, &tcp());
        assert_syn(full(&bytes, Family::V4), "192.0.2.10");
        assert_eq!(start(&bytes, Family::V4, false).is_some(), options == 0);
    }
}

#[test]
fn extension_headers_are_passed_over_up_to_the_limit() {
    for headers in 0..=MAX_EXTENSIONS + 2 {
        let mut payload = tcp();
        let mut next = protocol::TCP;
        for kind in [0, 43, 51, 60, 135, 60, 60, 60, 60, 60].iter().take(headers as usize) {
            // An authentication header counts its length in words, less two.
            let mut header = vec![next, if *kind == 51 { 4 } else { 2 }];
            header.resize(24, 0);
            payload = [header, payload].concat();
            next = *kind;
        }
        let parsed = full(&v6(next, &payload), Family::V6);
        if headers <= MAX_EXTENSIONS {
            assert_syn(parsed, "2001:db8::10");
        } else {
            assert_eq!(parsed, Parsed::Unparsable);
        }
    }
}

#[test]
fn only_the_first_fragment_has_ports() {
    assert_syn(full(&v4(protocol::TCP, 0x2000, 0, &tcp()), Family::V4), "192.0.2.10");
    assert!(matches!(full(&v4(protocol::TCP, 1, 0, &tcp()), Family::V4), Parsed::Fragment(_)));
    let fragment = |field: u16| {
        let [high, low] = field.to_be_bytes();
        v6(44, &[&[protocol::TCP, 0, high, low, 0, 0, 0, 1][..], &tcp()].concat())
    };
    assert_syn(full(&fragment(1), Family::V6), "2001:db8::10");
    assert!(matches!(full(&fragment(8), Family::V6), Parsed::Fragment(_)));
}

#[test]
fn every_truncation_is_seen() {
    let destination_options = [&[protocol::TCP, 0, 0, 0, 0, 0, 0, 0][..], &tcp()].concat();
    for (bytes, family, header) in [
        (v4(protocol::TCP, 0, 0, &tcp()), Family::V4, 20),
        (v4(protocol::TCP, 0, 8, &tcp()), Family::V4, 20),
        (v6(protocol::TCP, &tcp()), Family::V6, 40),
        (v6(60, &destination_options), Family::V6, 40),
    ] {
        for length in 0..bytes.len() {
            let parsed = full(&bytes[..length], family);
            if length < header {
                assert_eq!(parsed, Parsed::TruncatedHeader, "{length}");
            } else {
                assert!(matches!(parsed, Parsed::Truncated(_)), "{length}: {parsed:?}");
            }
            assert_eq!(start(&bytes[..length], family, false), None);
        }
    }
}

#[test]
fn the_length_in_the_header_rules_out_padding() {
    let mut bytes = v4(protocol::TCP, 0, 0, &tcp());
    for claimed in 0..40_u16 {
        bytes[2..4].copy_from_slice(&claimed.to_be_bytes());
        assert!(matches!(full(&bytes, Family::V4), Parsed::Truncated(_)), "{claimed}");
    }
    // A length of 0 is how big TCP looks, and only in a buffer of several segments.
    bytes[2..4].copy_from_slice(&[0, 0]);
    assert_syn(super::full(&bytes[..], Family::V4, true), "192.0.2.10");
    assert!(start(&bytes, Family::V4, true).is_some());
}

#[test]
fn unreachable_quotes_the_clients_packet() {
    let quoted = v4(protocol::TCP, 0, 4, &tcp());
    let icmp =
        |kind, code, quoted: &[u8]| v4(protocol::ICMP, 0, 0, &[&[kind, code, 0, 0, 0, 0, 0, 0], quoted].concat());
    for code in 0..=15 {
        let parsed = full(&icmp(3, code, &quoted), Family::V4);
        if code == 4 {
            assert_eq!(parsed, Parsed::Other);
        } else {
            let Parsed::Unreachable(packet) = parsed else { panic!("{parsed:?}") };
            assert_eq!((packet.destination_port, packet.source_port), (80, 40000));
        }
    }
    assert_eq!(full(&icmp(0, 0, &quoted), Family::V4), Parsed::Other);
    assert!(matches!(full(&icmp(3, 3, &quoted[..27]), Family::V4), Parsed::Truncated(_)));
    assert_eq!(full(&icmp(3, 3, &quoted[..19]), Family::V4), Parsed::TruncatedHeader);
    assert_eq!(full(&icmp(3, 3, &v4(protocol::ICMP, 0, 0, &[8, 0])), Family::V4), Parsed::Other);
    let message = [&[1, 4, 0, 0, 0, 0, 0, 0], &v6(protocol::TCP, &tcp())[..]].concat();
    assert!(matches!(full(&v6(protocol::ICMPV6, &message), Family::V6), Parsed::Unreachable(_)));
}

#[test]
fn the_device_and_the_packet_must_agree() {
    assert_eq!(full(&v4(protocol::TCP, 0, 0, &tcp()), Family::V6), Parsed::Unparsable);
    assert_eq!(full(&v6(protocol::TCP, &tcp()), Family::V4), Parsed::Unparsable);
    let mut short = v4(protocol::TCP, 0, 0, &tcp());
    short[0] = 0x44;
    assert_eq!(full(&short, Family::V4), Parsed::Unparsable);
}

/// Every value of every byte of a plain packet: the two ways never disagree.
#[test]
fn each_byte_may_be_anything() {
    for (bytes, family) in [(v4(protocol::TCP, 0, 0, &tcp()), Family::V4), (v6(protocol::TCP, &tcp()), Family::V6)] {
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut changed = bytes.clone();
                changed[at] = value;
                agree(&changed, family);
            }
        }
    }
}

fn agree(bytes: &[u8], family: Family) {
    for gso in [false, true] {
        let parsed = super::full(bytes, family, gso);
        if let Some(packet) = start(bytes, family, gso) {
            assert_eq!(parsed, Parsed::Packet(packet));
            let read = Start::read(bytes, family).unwrap();
            let destination = VipPortKey::new(packet.addresses.destination, packet.protocol, packet.destination_port);
            let source = VipPortKey::new(packet.addresses.source, packet.protocol, packet.source_port);
            assert_eq!((read.destination(), read.source()), (destination, source));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..160), v6 in any::<bool>()) {
        agree(&bytes, if v6 { Family::V6 } else { Family::V4 });
    }

    /// Random bytes that begin like a packet come further.
    #[test]
    fn nearly_packets_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 60..160),
        v6 in any::<bool>(),
        next in prop::sample::select(vec![0_u8, 1, 6, 17, 43, 44, 51, 58, 60, 132, 135]),
        options in 5_u8..=15,
    ) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        if v6 {
            bytes[0] = 0x60;
            bytes[4] = 0;
            bytes[6] = next;
        } else {
            bytes[0] = 0x40 | options;
            bytes[6] = 0;
            bytes[7] &= 1;
            bytes[9] = next;
        }
        agree(&bytes, family);
    }

    /// What is cut off a packet never turns it into another packet.
    #[test]
    fn truncation_only_loses(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        cut in 0_usize..120,
        v6 in any::<bool>(),
    ) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let cut = cut.min(bytes.len());
        if let Parsed::Packet(packet) = full(&bytes[..cut], family) {
            prop_assert_eq!(full(&bytes, family), Parsed::Packet(packet));
        }
    }
}
