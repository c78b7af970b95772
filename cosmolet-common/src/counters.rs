//! What the programs count.

/// The counts of one declared port of one VIP on one CPU, or of the whole VIP under
/// [`VipPortKey::whole`](crate::VipPortKey::whole). They only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets from clients; a GSO buffer counts its segments.
    pub packets_in: u64,
    /// Bytes from clients, from the network header on.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients, from the network header on.
    pub bytes_out: u64,
    /// SYN from clients.
    pub syn: u64,
    /// SYN-ACK to clients that came from another interface: a backend's.
    pub syn_ack: u64,
    /// SYN-ACK to clients made by this host's own stack.
    pub syn_ack_host: u64,
    /// Handshakes completed: a client acknowledged a SYN-ACK that left here.
    pub completed: u64,
    /// FIN, in either direction.
    pub fin: u64,
    /// RST from clients.
    pub rst_client: u64,
    /// RST to clients that came from another interface: a backend's.
    pub rst_backend: u64,
    /// RST to clients made by this host's own stack.
    pub rst_host: u64,
    /// ICMP unreachable to clients made by this host's own stack, "fragmentation needed" apart.
    pub unreachable_host: u64,
    /// Fragments after the first, in either direction. Only under the whole VIP.
    pub fragments: u64,
    /// Packets in either direction that end before their ports. Only under the whole VIP.
    pub truncated: u64,
    /// ICMP unreachable to clients that came from another interface, "fragmentation needed" apart.
    pub unreachable_backend: u64,
    /// SYN that repeat a followed one which was not answered.
    pub syn_retransmitted: u64,
    /// RST from clients that no handshake waits for: it was complete.
    pub rst_after_data_client: u64,
    /// RST to clients that came from another interface and answer no SYN.
    pub rst_after_data_backend: u64,
}

/// Packets that no VIP's counters can hold, on one CPU. They only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Packets that end inside their IP header, or of no VIP before their ports. One of no VIP that ends after its
    /// ports may be counted or not: nobody asks further about an undeclared port.
    pub truncated: u64,
    /// Packets whose headers contradict themselves, or whose extension headers are too many to follow.
    pub unparsable: u64,
    /// Fragments after the first that belong to no VIP.
    pub fragments: u64,
    /// SYN that found no place among the followed handshakes, or lost it to another CPU.
    pub unfollowed: u64,
}

macro_rules! arithmetic {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $type {
            /// The sum, wrapping as the counters do.
            #[must_use]
            pub const fn plus(&self, other: &Self) -> Self {
                Self { $($field: self.$field.wrapping_add(other.$field)),* }
            }

            /// What was counted since `earlier`.
            #[must_use]
            pub const fn since(&self, earlier: &Self) -> Self {
                Self { $($field: self.$field.wrapping_sub(earlier.$field)),* }
            }
        }
    };
}

arithmetic!(Counters {
    packets_in,
    bytes_in,
    packets_out,
    bytes_out,
    syn,
    syn_ack,
    syn_ack_host,
    completed,
    fin,
    rst_client,
    rst_backend,
    rst_host,
    unreachable_host,
    fragments,
    truncated,
    unreachable_backend,
    syn_retransmitted,
    rst_after_data_client,
    rst_after_data_backend,
});
arithmetic!(Oddities { truncated, unparsable, fragments, unfollowed });

impl Oddities {
    /// The sums with the words that metrics use.
    #[must_use]
    pub const fn by_kind(&self) -> [(&'static str, u64); 4] {
        [
            ("truncated", self.truncated),
            ("unparsable", self.unparsable),
            ("fragment", self.fragments),
            ("unfollowed", self.unfollowed),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Counters>(), 19 * 8);
        assert_eq!(size_of::<Oddities>(), 4 * 8);
    }

    #[test]
    fn difference_undoes_sum_past_the_wrap() {
        let a = Counters { packets_in: u64::MAX, fin: 3, ..Counters::default() };
        let b = Counters { packets_in: 5, truncated: 1, ..Counters::default() };
        assert_eq!(a.plus(&b).packets_in, 4);
        assert_eq!(a.plus(&b).since(&a), b);
    }
}
