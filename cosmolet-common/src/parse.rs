//! The packet parser.
//!
//! [`Start`] knows the one shape that nearly all packets have, at fixed offsets, and gives up on anything else;
//! [`full`] knows them all. Where `Start` answers, `full` answers the same: a test holds them to it.

use crate::VipPortKey;
use crate::packet::{Addresses, Family, Packet, Parsed, Source, protocol};

/// The most IPv6 extension headers that are followed. Each multiplies the paths that the verifier walks, and without
/// CAP_PERFMON it walks those as well that a processor might only guess.
pub const MAX_EXTENSIONS: u32 = 6;
/// The same, within the packet that an ICMP message quotes.
const MAX_QUOTED_EXTENSIONS: u32 = 1;
/// The IPv4-mapped prefix `::ffff:0:0/96` (RFC 4291, 2.5.5.2).
const MAPPED: [u32; 3] = [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff])];
const V4_HEADER: u32 = 20;
const V6_HEADER: u32 = 40;
const ICMP_HEADER: u32 = 8;

/// A plain packet up to its ports: all that is needed to tell whether anybody counts it.
pub struct Start {
    ip: Ip,
    ports: u32,
}

impl Start {
    /// Reads IPv4 without options and IPv6 without extension headers, not fragmented, of TCP, UDP or SCTP, at fixed
    /// offsets; `None` for everything else, and for what `source` cannot read.
    #[inline(always)]
    pub fn read<S: Source + ?Sized>(source: &S, family: Family) -> Option<Self> {
        let (ip, ports) = match family {
            Family::V4 => {
                let [first, second, third, from, to, ports] = source.words::<6>(0)?;
                if u32::from_be(first) >> 24 != 0x45 || u32::from_be(second) & 0x3fff != 0 {
                    return None;
                }
                (Ip::v4([first, second, third, from, to], 0), ports)
            }
            Family::V6 => {
                let [first, second, a, b, c, d, e, f, g, h, ports] = source.words::<11>(0)?;
                if u32::from_be(first) >> 28 != 6 {
                    return None;
                }
                (Ip::v6([first, second, a, b, c, d, e, f, g, h], 0), ports)
            }
        };
        let plain = matches!(ip.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        plain.then_some(Self { ip, ports })
    }

    /// The key by which a packet from a client finds its counters.
    #[inline(always)]
    #[must_use]
    pub const fn destination(&self) -> VipPortKey {
        VipPortKey::new(self.ip.addresses.destination, self.ip.protocol, u32::from_be(self.ports) as u16)
    }

    /// The key by which a packet to a client finds its counters.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self) -> VipPortKey {
        VipPortKey::new(self.ip.addresses.source, self.ip.protocol, (u32::from_be(self.ports) >> 16) as u16)
    }

    /// Reads the rest; `None` if it is not all there or makes no sense. `gso` is as for [`full`].
    #[inline(always)]
    pub fn packet<S: Source + ?Sized>(&self, source: &S, gso: bool) -> Option<Packet> {
        match transport(source, &self.ip, gso) {
            Parsed::Packet(packet) => Some(packet),
            Parsed::Unreachable(_)
            | Parsed::Fragment(_)
            | Parsed::Truncated(_)
            | Parsed::TruncatedHeader
            | Parsed::Unparsable
            | Parsed::Other => None,
        }
    }
}

/// Parses any packet: options, extension headers, fragments, ICMP unreachable with the packet it quotes.
///
/// `gso` tells that the buffer holds several segments, and so the length in its IP header may be 0 (BIG TCP).
#[inline(always)]
pub fn full<S: Source + ?Sized>(source: &S, family: Family, gso: bool) -> Parsed {
    match locate(source, family, 0, MAX_EXTENSIONS) {
        Ok(ip) => match (family, ip.protocol) {
            (Family::V4, protocol::ICMP) | (Family::V6, protocol::ICMPV6) => icmp(source, family, &ip),
            _ => transport(source, &ip, gso),
        },
        Err(parsed) => parsed,
    }
}

/// What the IP headers say of the transport header.
struct Ip {
    addresses: Addresses,
    protocol: u8,
    /// The offset of the transport header.
    transport: u32,
    /// The offset of the packet's end as its IP header has it; padding may follow.
    end: u32,
    /// The length in the IP header is 0.
    unsized_length: bool,
}

impl Ip {
    #[inline(always)]
    const fn v4(header: [u32; 5], base: u32) -> Self {
        let [a, b, c] = MAPPED;
        let [first, _, third, source, destination] = header;
        let length = u32::from_be(first) & 0xffff;
        Self {
            addresses: Addresses { source: [a, b, c, source], destination: [a, b, c, destination] },
            protocol: (u32::from_be(third) >> 16 & 0xff) as u8,
            transport: base + (u32::from_be(first) >> 22 & 0x3c),
            end: base + length,
            unsized_length: length == 0,
        }
    }

    #[inline(always)]
    const fn v6(header: [u32; 10], base: u32) -> Self {
        let [_, second, s0, s1, s2, s3, d0, d1, d2, d3] = header;
        let length = u32::from_be(second) >> 16;
        Self {
            addresses: Addresses { source: [s0, s1, s2, s3], destination: [d0, d1, d2, d3] },
            protocol: (u32::from_be(second) >> 8 & 0xff) as u8,
            transport: base + V6_HEADER,
            end: base + V6_HEADER + length,
            unsized_length: length == 0,
        }
    }

    /// `length` bytes of the transport header are within the packet, by its IP header.
    #[inline(always)]
    const fn holds(&self, length: u32, gso: bool) -> bool {
        self.transport + length <= self.end || (gso && self.unsized_length)
    }
}

/// Finds the transport header behind the IP header at `base`; the error is the final answer.
#[inline(always)]
fn locate<S: Source + ?Sized>(source: &S, family: Family, base: u32, extensions: u32) -> Result<Ip, Parsed> {
    match family {
        Family::V4 => locate_v4(source, base),
        Family::V6 => locate_v6(source, base, extensions),
    }
}

/// RFC 791, 3.1.
#[inline(always)]
fn locate_v4<S: Source + ?Sized>(source: &S, base: u32) -> Result<Ip, Parsed> {
    let header = source.words::<5>(base).ok_or(Parsed::TruncatedHeader)?;
    let ip = Ip::v4(header, base);
    if u32::from_be(header[0]) >> 28 != 4 || ip.transport < base + V4_HEADER {
        return Err(Parsed::Unparsable);
    }
    if u32::from_be(header[1]) & 0x1fff != 0 {
        return Err(Parsed::Fragment(ip.addresses));
    }
    Ok(ip)
}

/// RFC 8200, 3 and 4.
#[inline(always)]
fn locate_v6<S: Source + ?Sized>(source: &S, base: u32, extensions: u32) -> Result<Ip, Parsed> {
    let header = source.words::<10>(base).ok_or(Parsed::TruncatedHeader)?;
    if u32::from_be(header[0]) >> 28 != 6 {
        return Err(Parsed::Unparsable);
    }
    let mut ip = Ip::v6(header, base);
    // The verifier, where it lacks CAP_PERFMON, also walks past the end of a loop, as a processor may by mistake, and
    // comes to an end there only if the number itself is compared, which is what 64 bits make of it.
    let mut left = extensions as u64 + 1;
    while left > 0 {
        left -= 1;
        if !is_extension(ip.protocol) {
            return Ok(ip);
        }
        skip_extension(source, &mut ip)?;
    }
    Err(Parsed::Unparsable)
}

/// RFC 8200, 4; RFC 4302 for an authentication header's length, RFC 6275 for mobility.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
}

#[inline(always)]
const fn is_extension(kind: u8) -> bool {
    use extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, MOBILITY, ROUTING};
    matches!(kind, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY)
}

#[inline(always)]
fn skip_extension<S: Source + ?Sized>(source: &S, ip: &mut Ip) -> Result<(), Parsed> {
    let [first, _] = source.words::<2>(ip.transport).ok_or(Parsed::Truncated(ip.addresses))?;
    let first = u32::from_be(first);
    let length = first >> 16 & 0xff;
    ip.transport += match ip.protocol {
        extension::FRAGMENT if first & 0xfff8 != 0 => return Err(Parsed::Fragment(ip.addresses)),
        extension::FRAGMENT => 8,
        extension::AUTHENTICATION => (length + 2) * 4,
        _ => (length + 1) * 8,
    };
    ip.protocol = (first >> 24) as u8;
    Ok(())
}

/// TCP: RFC 9293, 3.1; UDP: RFC 768; SCTP: RFC 9260, 3.1.
#[inline(always)]
fn transport<S: Source + ?Sized>(source: &S, ip: &Ip, gso: bool) -> Parsed {
    let truncated = Parsed::Truncated(ip.addresses);
    match ip.protocol {
        protocol::TCP => {
            if !ip.holds(20, gso) {
                return truncated;
            }
            let Some([ports, sequence, acknowledgement, control, _]) = source.words::<5>(ip.transport) else {
                return truncated;
            };
            let control = u32::from_be(control);
            if control >> 28 < 5 {
                return Parsed::Unparsable;
            }
            Parsed::Packet(Packet {
                flags: (control >> 16 & 0xff) as u8,
                sequence: u32::from_be(sequence),
                acknowledgement: u32::from_be(acknowledgement),
                ..portful(ip, ports)
            })
        }
        protocol::UDP => match source.words::<2>(ip.transport) {
            Some([ports, _]) if ip.holds(8, gso) => Parsed::Packet(portful(ip, ports)),
            _ => truncated,
        },
        protocol::SCTP => match source.words::<3>(ip.transport) {
            Some([ports, _, _]) if ip.holds(12, gso) => Parsed::Packet(portful(ip, ports)),
            _ => truncated,
        },
        _ => Parsed::Other,
    }
}

/// RFC 792 and RFC 4443, 3.1. "Fragmentation needed" is no refusal: path MTU discovery lives on it.
#[inline(always)]
fn icmp<S: Source + ?Sized>(source: &S, family: Family, outer: &Ip) -> Parsed {
    const V4_UNREACHABLE: u32 = 3;
    const V4_FRAGMENTATION_NEEDED: u32 = 4;
    const V6_UNREACHABLE: u32 = 1;

    let Some([first, _]) = source.words::<2>(outer.transport) else {
        return Parsed::Truncated(outer.addresses);
    };
    let first = u32::from_be(first);
    let (kind, code) = (first >> 24, first >> 16 & 0xff);
    let unreachable = match family {
        Family::V4 => kind == V4_UNREACHABLE && code != V4_FRAGMENTATION_NEEDED,
        Family::V6 => kind == V6_UNREACHABLE,
    };
    if !unreachable {
        return Parsed::Other;
    }
    let ip = match locate(source, family, outer.transport + ICMP_HEADER, MAX_QUOTED_EXTENSIONS) {
        Ok(ip) => ip,
        Err(Parsed::Fragment(_)) => return Parsed::Other,
        Err(parsed) => return parsed,
    };
    if !matches!(ip.protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
        return Parsed::Other;
    }
    match source.words::<1>(ip.transport) {
        Some([ports]) => Parsed::Unreachable(portful(&ip, ports)),
        None => Parsed::Truncated(outer.addresses),
    }
}

#[inline(always)]
const fn portful(ip: &Ip, ports: u32) -> Packet {
    let ports = u32::from_be(ports);
    Packet {
        addresses: ip.addresses,
        protocol: ip.protocol,
        source_port: (ports >> 16) as u16,
        destination_port: (ports & 0xffff) as u16,
        flags: 0,
        sequence: 0,
        acknowledgement: 0,
    }
}

#[cfg(test)]
mod tests;
