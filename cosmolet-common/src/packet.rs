//! What the parser reads from and what it says.

/// Where a packet's bytes come from: a socket buffer in the kernel, a slice in a test.
pub trait Source {
    /// Reads `N` words from `offset` bytes after the network header, as they lie in memory (big-endian in the
    /// packet); `None` if the packet ends before the last of them.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
}

impl Source for [u8] {
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let start = usize::try_from(offset).ok()?;
        let (words, _) = self.get(start..)?.get(..4 * N)?.as_chunks::<4>();
        let mut read = [0; N];
        for (word, bytes) in read.iter_mut().zip(words) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Some(read)
    }
}

/// The network protocol, as the device says it (`skb->protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both addresses, as four words each; IPv4 is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The source.
    pub source: [u32; 4],
    /// The destination.
    pub destination: [u32; 4],
}

/// A packet with ports: TCP, UDP or SCTP, whole or the first of its fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The addresses.
    pub addresses: Addresses,
    /// The IANA protocol number.
    pub protocol: u8,
    /// The source port.
    pub source_port: u16,
    /// The destination port.
    pub destination_port: u16,
    /// The TCP flags; 0 for other protocols.
    pub flags: u8,
    /// The TCP sequence number; 0 for other protocols.
    pub sequence: u32,
    /// The TCP acknowledgement number; 0 for other protocols.
    pub acknowledgement: u32,
}

impl Packet {
    /// All of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// It has ports.
    Packet(Packet),
    /// ICMP unreachable; holds the packet that it quotes, whose TCP fields are 0.
    Unreachable(Packet),
    /// A fragment after the first: no ports.
    Fragment(Addresses),
    /// It ends before its ports and TCP flags.
    Truncated(Addresses),
    /// It ends inside its IP header.
    TruncatedHeader,
    /// Its headers contradict themselves, or there are too many of them.
    Unparsable,
    /// IP, of a protocol without ports.
    Other,
}

/// IANA protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP flags (RFC 9293, 3.1).
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}
