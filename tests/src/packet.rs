//! Builds packets byte by byte, the wrong ones too.
//!
//! Owns no meaning: what it is asked for, it writes. Checksums are 0 unless a function says otherwise.

use std::net::{IpAddr, SocketAddr};

/// TCP flags.
pub mod flag {
    pub use cosmolet_common::packet::flag::{ACK, FIN, RST, SYN};
    /// PSH.
    pub const PSH: u8 = 0x08;
}

/// IANA protocol numbers.
pub use cosmolet_common::packet::protocol;

/// A TCP header without options, and nothing behind it.
#[must_use]
pub fn tcp(source: u16, destination: u16, sequence: u32, acknowledgement: u32, flags: u8) -> Vec<u8> {
    let mut header = ports(source, destination);
    header.extend(sequence.to_be_bytes());
    header.extend(acknowledgement.to_be_bytes());
    header.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    header
}

/// A UDP header and `payload` zeros.
#[must_use]
pub fn udp(source: u16, destination: u16, payload: u16) -> Vec<u8> {
    let mut datagram = ports(source, destination);
    datagram.extend((8 + payload).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.resize(datagram.len() + usize::from(payload), 0);
    datagram
}

/// An SCTP common header and an empty chunk.
#[must_use]
pub fn sctp(source: u16, destination: u16) -> Vec<u8> {
    let mut header = ports(source, destination);
    header.extend([0; 12]);
    header
}

/// An ICMP or ICMPv6 message that quotes a packet.
#[must_use]
pub fn icmp(kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0, 0, 0, 0, 0], quoted].concat()
}

/// An IP packet of either family, without options or extension headers; its IPv4 header has a checksum.
#[must_use]
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => ipv4(source, destination, protocol, 0, &[], payload),
        _ => ipv6(source, destination, protocol, payload),
    }
}

/// An IPv4 packet with options, whose length is a multiple of 4, and a fragment field: `0x2000` for more fragments,
/// and the offset in units of 8 bytes.
#[must_use]
pub fn ipv4(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header_length = 20 + options.len();
    let mut packet = vec![0x40 | u8::try_from(header_length / 4).unwrap_or(0xf), 0];
    packet.extend(length(header_length + payload.len()));
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(octets(source));
    packet.extend(octets(destination));
    packet.extend(options);
    let checksum = checksum(&packet, 0);
    packet[10..12].copy_from_slice(&checksum);
    packet.extend(payload);
    packet
}

/// An IPv6 packet; `next` and `payload` may begin with extension headers.
#[must_use]
pub fn ipv6(source: IpAddr, destination: IpAddr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length(payload.len()));
    packet.extend([next, 64]);
    packet.extend(octets(source));
    packet.extend(octets(destination));
    packet.extend(payload);
    packet
}

/// An IPv6 extension header of `8 * units` bytes, `payload` behind it.
#[must_use]
pub fn extension(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 8 * usize::from(units.max(1))];
    header[0] = next;
    header[1] = units.max(1) - 1;
    [&header, payload].concat()
}

/// An IPv6 fragment header, its offset in units of 8 bytes, `payload` behind it.
#[must_use]
pub fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let field = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[next, 0, field[0], field[1], 0, 0, 0, 7], payload].concat()
}

/// A TCP packet between two sockets of one family; its checksums are right.
#[must_use]
pub fn tcp_packet(from: SocketAddr, to: SocketAddr, sequence: u32, acknowledgement: u32, flags: u8) -> Vec<u8> {
    let mut segment = tcp(from.port(), to.port(), sequence, acknowledgement, flags);
    let pseudo: Vec<_> = [octets(from.ip()), octets(to.ip())].concat();
    let lengths = u32::from(protocol::TCP) + u32::try_from(segment.len()).unwrap_or(0);
    let checksum = checksum(&[pseudo, segment.clone()].concat(), lengths);
    segment[16..18].copy_from_slice(&checksum);
    ip(from.ip(), to.ip(), protocol::TCP, &segment)
}

/// Puts an Ethernet header before an IP packet, its EtherType by the packet's version.
#[must_use]
pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let ether_type = if packet.first().is_some_and(|first| first >> 4 == 6) { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &ether_type[..], packet].concat()
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// The Internet checksum (RFC 1071) of bytes whose number is even, and of what is already summed.
fn checksum(bytes: &[u8], start: u32) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = words.fold(start, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(!sum & 0xffff).unwrap_or(0).to_be_bytes()
}
