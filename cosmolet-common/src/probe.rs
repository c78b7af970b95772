//! Wire-true probes: whom they come from, and what the egress program hands to the daemon instead of the wire.

/// The bytes of a caught packet in a short record: all of a SYN-ACK or a RST, or the beginning of an ICMPv6 error with the ports and
/// the sequence number that it quotes.
pub const SHORT: usize = 128;
/// The bytes of a caught packet in a long record: a full window of [`WINDOW`], behind headers with options.
pub const LONG: usize = WINDOW + SHORT;
/// The most that a backend may send before it hears of us. One packet holds no more than that, segmented or not.
pub const WINDOW: usize = 2048;

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

/// A packet to or from a probe's source that was about to leave by an uplink, and was dropped. `N` is [`SHORT`] or [`LONG`]:
/// the smaller one that holds it, or the beginning of what neither holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught<const N: usize> {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// The uplink's index.
    pub uplink: u32,
    /// The interface on which it arrived at this host; 0 if this host made it.
    pub arrived_on: u32,
    /// 4 or 6.
    pub family: u32,
    /// How many of the bytes are the packet's.
    pub length: u32,
    /// The packet from its network header on.
    pub bytes: [u8; N],
}

/// Where the bytes of a record begin.
pub const HEAD: usize = size_of::<Caught<0>>();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!((HEAD, size_of::<Caught<SHORT>>(), size_of::<Caught<LONG>>()), (24, 24 + SHORT, 24 + LONG));
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
