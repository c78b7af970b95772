//! Wire-true probes: whom they come from, and what the egress program hands to the daemon instead of the wire.

/// The words of a caught packet's beginning: an ICMPv6 error with the TCP ports and the sequence number that it quotes.
pub const HEAD: usize = 28;

/// One masked prefix of a family, as words in network byte order: those bits of an address that a probe's source has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The first two words; IPv4 has only the first.
    pub network: [u32; 2],
    /// Their significant bits.
    pub mask: [u32; 2],
}

impl Prefix {
    /// Holds no address.
    pub const NONE: Self = Self { network: [1, 0], mask: [0, 0] };

    /// Whether an address that begins with these words lies inside.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, first: u32, second: u32) -> bool {
        (first & self.mask[0]) == self.network[0] && (second & self.mask[1]) == self.network[1]
    }
}

/// A packet to or from a probe's source that was about to leave by an uplink, and was dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// The uplink's index.
    pub uplink: u32,
    /// The interface on which it arrived at this host; 0 if this host made it.
    pub arrived_on: u32,
    /// 4 or 6.
    pub family: u32,
    /// How many words of `head` are the packet's.
    pub words: u32,
    /// The packet from its network header on, as it lies in memory.
    pub head: [u32; HEAD],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<Caught>(), 8 + 4 * (4 + HEAD));
        assert_eq!(size_of::<Prefix>(), 16);
    }

    #[test]
    fn a_prefix_holds_its_own() {
        let words = |octets: [u8; 4]| u32::from_ne_bytes(octets);
        let prefix = Prefix { network: [words([198, 18, 0, 0]), 0], mask: [words([255, 254, 0, 0]), 0] };
        assert!(prefix.holds(words([198, 18, 0, 1]), 0) && prefix.holds(words([198, 19, 255, 255]), 7));
        assert!(!prefix.holds(words([198, 20, 0, 0]), 0) && !prefix.holds(0, 0));
        assert!((0..64).all(|bit| !Prefix::NONE.holds(1 << (bit % 32), 0)));
    }
}
