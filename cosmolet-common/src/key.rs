//! The key under which the programs find a VIP's counters.

use core::net::{IpAddr, Ipv6Addr};

/// A VIP, a transport protocol and a port: 20 bytes, compared word by word.
///
/// IPv4 addresses are held as IPv4-mapped IPv6 addresses (RFC 4291, 2.5.5.2), so one map serves both families.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipPortKey {
    /// The address: four words whose bytes in memory are the address's bytes in network order.
    address: [u32; 4],
    /// `port | protocol << 16`.
    port: u32,
}

/// The size of the filter: 16 KiB, or 6 bits for each of 20 000 keys.
pub const FILTER_WORDS: u32 = 1 << 12;

/// The number of entries of the front table, a power of two.
pub const FRONTS: u32 = 1 << 14;

/// An entry of the front table: it answers for one key at the cost of a comparison, where the hash would take a call.
/// A key whose places others have is found in the hash.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// The key.
    pub key: VipPortKey,
    /// The index of its counters, plus 1; 0 in an empty entry.
    pub id: u32,
}

impl Front {
    /// What an empty entry holds.
    pub const EMPTY: Self = Self { key: VipPortKey { address: [0; 4], port: 0 }, id: 0 };
}

impl VipPortKey {
    /// Builds the key of a declared port. `address` holds four words as they lie in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: [u32; 4], protocol: u8, port: u16) -> Self {
        Self { address, port: port as u32 | (protocol as u32) << 16 }
    }

    /// Builds the key of what belongs to a VIP but to none of its ports: fragments after the first, and packets
    /// that end before their ports.
    #[inline(always)]
    #[must_use]
    pub const fn whole(address: [u32; 4]) -> Self {
        Self { address, port: 0 }
    }

    /// The key's bit in the filter: [`FILTER_WORDS`] words of 32 bits, in which a clear bit says that the key is not
    /// declared. Returns the word's index and the bit's mask.
    #[inline(always)]
    #[must_use]
    pub const fn filter_bit(&self) -> (u32, u32) {
        let mixed = self.mixed();
        ((mixed >> 52) as u32, 1 << (mixed >> 47 & 31) as u32)
    }

    /// The key's two places in the front table of [`FRONTS`] entries, side by side.
    #[inline(always)]
    #[must_use]
    pub const fn front(&self) -> [u32; 2] {
        let place = ((self.mixed() >> 50) ^ (self.mixed() >> 33)) as u32 & (FRONTS - 1);
        [place, place ^ 1]
    }

    #[inline(always)]
    const fn mixed(&self) -> u64 {
        let [a, b, c, d] = self.address;
        ((a ^ b ^ c ^ d ^ self.port) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Whether two keys are the same, word by word: the derived way compares bytes.
    #[inline(always)]
    #[must_use]
    pub const fn same(&self, other: &Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.address, other.address);
        d == h && self.port == other.port && c == g && b == f && a == e
    }

    /// The four words of an address.
    #[must_use]
    pub const fn words(address: IpAddr) -> [u32; 4] {
        let bytes = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        [
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ]
    }

    /// The address; an IPv4-mapped one comes back as IPv4.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.address) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
    }

    /// The port; 0 in a [`whole`](Self::whole) key.
    #[must_use]
    pub const fn port(&self) -> u16 {
        (self.port & 0xffff) as u16
    }

    /// The IANA protocol number; 0 in a [`whole`](Self::whole) key.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        (self.port >> 16 & 0xff) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_twenty_bytes_without_padding() {
        assert_eq!(size_of::<VipPortKey>(), 20);
        assert_eq!(align_of::<VipPortKey>(), 4);
        assert_eq!(size_of::<Front>(), 24);
    }

    #[test]
    fn keys_differ_by_every_word() {
        let key = VipPortKey::new([1, 2, 3, 4], 6, 80);
        assert!(key.same(&VipPortKey::new([1, 2, 3, 4], 6, 80)));
        for address in [[0, 2, 3, 4], [1, 0, 3, 4], [1, 2, 0, 4], [1, 2, 3, 0]] {
            assert!(!key.same(&VipPortKey::new(address, 6, 80)));
        }
        assert!(!key.same(&VipPortKey::new([1, 2, 3, 4], 17, 80)));
        assert!(!key.same(&VipPortKey::new([1, 2, 3, 4], 6, 81)));
        assert!(key.front()[0] < FRONTS && key.front()[1] == key.front()[0] ^ 1);
        assert!(key.filter_bit().0 < FILTER_WORDS && key.filter_bit().1.is_power_of_two());
    }

    /// The hash is slow: few keys may need it.
    #[test]
    fn nearly_all_keys_of_a_thousand_vips_have_a_place() {
        let mut taken = std::collections::BTreeSet::new();
        let mut without = 0;
        for n in 0..1000_u16 {
            let [high, low] = n.to_be_bytes();
            for address in [IpAddr::from([192, 0, 2 + high, low]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 1, n])] {
                let words = VipPortKey::words(address);
                for key in [VipPortKey::whole(words), VipPortKey::new(words, 6, 443)] {
                    let placed = key.front().into_iter().any(|place| taken.insert(place));
                    without += u32::from(!placed);
                }
            }
        }
        assert!(without <= 120, "{without} of 4000 keys have no place");
    }

    #[test]
    fn address_port_and_protocol_come_back() {
        for address in ["192.0.2.7", "2001:db8::7", "::", "255.255.255.255"] {
            let address: IpAddr = address.parse().unwrap();
            let key = VipPortKey::new(VipPortKey::words(address), 132, 65535);
            assert_eq!((key.address(), key.protocol(), key.port()), (address, 132, 65535));
            let whole = VipPortKey::whole(VipPortKey::words(address));
            assert_eq!((whole.address(), whole.protocol(), whole.port()), (address, 0, 0));
        }
    }
}
