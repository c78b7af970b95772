//! What a caught packet says of a probe.

use std::net::{IpAddr, SocketAddr};

use cosmolet_common::packet::{Packet, Parsed, flag, protocol};
use cosmolet_common::probe::HEAD;
use cosmolet_common::{Family, VipPortKey, parse};

use super::Record;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// SYN-ACK.
    Accepted,
    /// RST or ICMP unreachable, made behind this host.
    RefusedBehind,
    /// RST or ICMP unreachable by this host's own stack; or the SYN was about to leave again, to where it was sent: nothing
    /// translates the VIP.
    RefusedHere,
    /// The SYN was about to leave for another host, with its source: the answer would not come by here.
    Passing,
}

impl Reply {
    /// A connection has opened by halves.
    pub(super) const fn opens(self) -> bool {
        matches!(self, Self::Accepted | Self::Passing)
    }
}

/// A caught packet that speaks of a probe's source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The probe's source, whoever the packet's is.
    pub(super) source: (IpAddr, u16),
    target: SocketAddr,
    kind: Kind,
    host: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// To the source; holds what it acknowledges.
    SynAck(u32),
    Reset(u32),
    /// An ICMP error; holds the sequence number that it quotes.
    Unreachable(u32),
    /// From the source; holds its sequence number.
    Syn(u32),
}

/// Takes a record off the ring.
pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
    let word = |index: usize| Some(u32::from_ne_bytes(*bytes.get(index * 4..)?.first_chunk()?));
    let mut head = [0; HEAD];
    for (index, place) in head.iter_mut().enumerate() {
        *place = word(6 + index)?;
    }
    Some(Record {
        at: u64::from_ne_bytes(*bytes.first_chunk()?),
        uplink: word(2)?,
        arrived_on: word(3)?,
        family: word(4)?,
        words: word(5)?,
        head,
    })
}

/// Reads a caught packet; `None` for what says nothing of any probe, such as our own RST on its way out.
pub(super) fn read(caught: &Record) -> Option<Found> {
    let words = caught.head.get(..usize::try_from(caught.words).ok()?)?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let family = if caught.family == 4 { Family::V4 } else { Family::V6 };
    let host = caught.arrived_on == 0;
    match parse::full(bytes.as_slice(), family, false) {
        Parsed::Packet(packet) if packet.protocol == protocol::TCP => Some(Found { host, ..tcp(&packet)? }),
        Parsed::Unreachable(quoted) if quoted.protocol == protocol::TCP => {
            // Behind the IP header, the ICMP header, the quoted IP header and the quoted ports.
            let place = if family == Family::V4 { 5 + 2 + 5 + 1 } else { 10 + 2 + 10 + 1 };
            let sequence = u32::from_be(*words.get(place)?);
            Some(Found { host, ..outward(&quoted, Kind::Unreachable(sequence)) })
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
        Some(outward(packet, Kind::Syn(packet.sequence)))
    } else {
        None
    }
}

/// A packet to a probe's source.
fn inward(packet: &Packet, kind: Kind) -> Found {
    Found {
        source: (address(packet.addresses.destination), packet.destination_port),
        target: SocketAddr::new(address(packet.addresses.source), packet.source_port),
        kind,
        host: false,
    }
}

/// A packet from it.
fn outward(packet: &Packet, kind: Kind) -> Found {
    Found {
        source: (address(packet.addresses.source), packet.source_port),
        target: SocketAddr::new(address(packet.addresses.destination), packet.destination_port),
        kind,
        host: false,
    }
}

fn address(words: [u32; 4]) -> IpAddr {
    VipPortKey::new(words, protocol::TCP, 0).address()
}

impl Found {
    /// The reply to the probe for this target with this sequence number; `None` if it answers another or was made up.
    pub(super) fn answers(&self, target: SocketAddr, sequence: u32) -> Option<Reply> {
        let same = self.target == target;
        let (told, reply) = match self.kind {
            Kind::SynAck(acknowledged) if same => (acknowledged.wrapping_sub(1), Reply::Accepted),
            Kind::Reset(acknowledged) if same => (acknowledged.wrapping_sub(1), self.refusal()),
            Kind::Unreachable(quoted) if same => (quoted, self.refusal()),
            Kind::Syn(sequence) if same => (sequence, Reply::RefusedHere),
            Kind::Syn(sequence) => (sequence, Reply::Passing),
            Kind::SynAck(_) | Kind::Reset(_) | Kind::Unreachable(_) => return None,
        };
        (told == sequence).then_some(reply)
    }

    const fn refusal(&self) -> Reply {
        if self.host { Reply::RefusedHere } else { Reply::RefusedBehind }
    }
}
