//! What a caught packet says of a probe.

use std::net::{IpAddr, SocketAddr};

use cosmolet_common::packet::{Packet, Parsed, flag, protocol};
use cosmolet_common::probe::HEAD;
use cosmolet_common::{Family, VipPortKey, parse};

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// SYN-ACK, or a datagram for a datagram.
    Accepted,
    /// RST or ICMP unreachable, made behind this host.
    RefusedBehind,
    /// RST or ICMP unreachable by this host's own stack; or the probe was about to leave again, to where it was sent: nothing
    /// translates the VIP.
    RefusedHere,
    /// It was about to leave for another host, with its source: the answer would not come by here.
    Passing,
}

impl Reply {
    /// A connection has opened by halves.
    pub(super) const fn opens(self) -> bool {
        matches!(self, Self::Accepted | Self::Passing)
    }
}

/// One packet off the ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// When it was caught, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) at: u64,
    /// This host made it.
    host: bool,
    family: Family,
    /// The packet from its network header on.
    pub(super) bytes: &'a [u8],
}

/// A caught packet that speaks of a probe's source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The probe's source, whoever the packet's is.
    pub(super) source: (IpAddr, u16),
    /// The other end.
    pub(super) target: SocketAddr,
    protocol: u8,
    kind: Kind,
    host: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// To the source; holds what it acknowledges.
    SynAck(u32),
    Reset(u32),
    /// To the source, of UDP, or within a connection.
    Data,
    /// An ICMP error; holds the sequence number that it quotes, of TCP.
    Unreachable(u32),
    /// From the source; holds its sequence number, of TCP.
    Sent(u32),
}

/// Takes a record off the ring.
pub(super) fn decode(bytes: &[u8]) -> Option<Record<'_>> {
    let word = |index: usize| Some(u32::from_ne_bytes(*bytes.get(index * 4..)?.first_chunk()?));
    let length = usize::try_from(word(5)?).ok()?;
    Some(Record {
        at: u64::from_ne_bytes(*bytes.first_chunk()?),
        host: word(3)? == 0,
        family: if word(4)? == 4 { Family::V4 } else { Family::V6 },
        bytes: bytes.get(HEAD..)?.get(..length)?,
    })
}

/// Reads a caught packet; `None` for what says nothing of any probe, such as our own RST on its way out.
pub(super) fn read(caught: &Record<'_>) -> Option<Found> {
    let (host, family) = (caught.host, caught.family);
    match parse::full(caught.bytes, family, false) {
        Parsed::Packet(packet) if packet.protocol == protocol::TCP => Some(Found { host, ..tcp(&packet)? }),
        Parsed::Packet(packet) if packet.protocol == protocol::UDP => {
            Some(Found { host, ..inward(&packet, Kind::Data) })
        }
        Parsed::Unreachable(quoted) if matches!(quoted.protocol, protocol::TCP | protocol::UDP) => {
            // Behind the IP header, the ICMP header, the quoted IP header and the quoted ports.
            let place = if family == Family::V4 { 20 + 8 + 20 + 4 } else { 40 + 8 + 40 + 4 };
            let sequence = caught.bytes.get(place..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes);
            Some(Found { host, ..outward(&quoted, Kind::Unreachable(sequence?)) })
        }
        Parsed::Packet(_)
        | Parsed::Unreachable(_)
        | Parsed::Fragment(_)
        | Parsed::Truncated(_)
        | Parsed::TruncatedHeader
        | Parsed::Unparsable
        | Parsed::Other => None,
    }
}

fn tcp(packet: &Packet) -> Option<Found> {
    if packet.has(flag::SYN | flag::ACK) {
        Some(inward(packet, Kind::SynAck(packet.acknowledgement)))
    } else if packet.has(flag::RST | flag::ACK) {
        Some(inward(packet, Kind::Reset(packet.acknowledgement)))
    } else if packet.has(flag::SYN) {
        Some(outward(packet, Kind::Sent(packet.sequence)))
    } else {
        Some(inward(packet, Kind::Data))
    }
}

/// A packet to a probe's source.
fn inward(packet: &Packet, kind: Kind) -> Found {
    Found {
        source: (address(packet.addresses.destination), packet.destination_port),
        target: SocketAddr::new(address(packet.addresses.source), packet.source_port),
        protocol: packet.protocol,
        kind,
        host: false,
    }
}

/// A packet from it.
fn outward(packet: &Packet, kind: Kind) -> Found {
    Found {
        source: (address(packet.addresses.source), packet.source_port),
        target: SocketAddr::new(address(packet.addresses.destination), packet.destination_port),
        protocol: packet.protocol,
        kind,
        host: false,
    }
}

fn address(words: [u32; 4]) -> IpAddr {
    VipPortKey::new(words, protocol::TCP, 0).address()
}

impl Found {
    /// The reply to the probe for this target; `None` if it answers another or was made up. `sequence` is that of its SYN, where it
    /// was one and no datagram.
    pub(super) fn answers(&self, target: SocketAddr, sequence: Option<u32>) -> Option<Reply> {
        let same = self.target == target;
        let Some(sequence) = sequence else { return self.answers_datagram(same) };
        let (told, reply) = match self.kind {
            Kind::SynAck(acknowledged) if same => (acknowledged.wrapping_sub(1), Reply::Accepted),
            Kind::Reset(acknowledged) if same => (acknowledged.wrapping_sub(1), self.refusal()),
            Kind::Unreachable(quoted) if same => (quoted, self.refusal()),
            Kind::Sent(sequence) => (sequence, Self::gone(same)),
            Kind::SynAck(_) | Kind::Reset(_) | Kind::Unreachable(_) | Kind::Data => return None,
        };
        (told == sequence && self.protocol == protocol::TCP).then_some(reply)
    }

    fn answers_datagram(&self, same: bool) -> Option<Reply> {
        let reply = match self.kind {
            Kind::Data if same => Reply::Accepted,
            Kind::Unreachable(_) if same => self.refusal(),
            Kind::Sent(_) => Self::gone(same),
            Kind::Data | Kind::Unreachable(_) | Kind::SynAck(_) | Kind::Reset(_) => return None,
        };
        (self.protocol == protocol::UDP).then_some(reply)
    }

    /// It is of a connection; an ICMP error that quotes one is none.
    pub(super) const fn is_tcp(&self) -> bool {
        self.protocol == protocol::TCP && !matches!(self.kind, Kind::Unreachable(_))
    }

    /// The same packet, were it one from a probe's source: datagrams do not tell which end asks.
    pub(super) const fn turned(&self) -> Self {
        Self {
            source: (self.target.ip(), self.target.port()),
            target: SocketAddr::new(self.source.0, self.source.1),
            kind: Kind::Sent(0),
            ..*self
        }
    }

    const fn gone(same: bool) -> Reply {
        if same { Reply::RefusedHere } else { Reply::Passing }
    }

    const fn refusal(&self) -> Reply {
        if self.host { Reply::RefusedHere } else { Reply::RefusedBehind }
    }
}
