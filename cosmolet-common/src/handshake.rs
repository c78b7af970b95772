//! Recognises a completed TCP handshake without a table of flows.
//!
//! A SYN-ACK that leaves stores the acknowledgement it waits for in one slot of an array, chosen by a hash of its
//! addresses and ports. An ACK that arrives and finds its own number in its slot completes that handshake. Two
//! handshakes in one slot at the same time lose one count; nothing is ever counted that did not happen, but with
//! a chance of 2⁻³².

use crate::packet::Packet;

/// The number of slots.
pub const SLOTS: u32 = 1 << 16;

/// A packet's slot, the same for both directions of a connection.
///
/// `vip` and `client` are the packet's two addresses, and the ports go with them.
#[inline(always)]
#[must_use]
pub const fn slot(vip: [u32; 4], vip_port: u16, client: [u32; 4], client_port: u16) -> u32 {
    const K1: u64 = 0x9e37_79b9_7f4a_7c15;
    const K2: u64 = 0xc2b2_ae3d_27d4_eb4f;
    let low = client[3] as u64 | (client[2] as u64) << 32;
    let high = client[1] as u64 | (client[0] as u64) << 32;
    let ports = (vip_port as u64) << 16 | client_port as u64;
    let vip = vip[3] as u64 ^ (vip[2] as u64) << 16;
    let mixed = (low ^ vip << 17).wrapping_add(high.rotate_left(29)).wrapping_add(ports << 24).wrapping_mul(K1);
    let mixed = (mixed ^ mixed >> 32 ^ ports).wrapping_mul(K2);
    (mixed >> 48) as u32
}

/// What a slot holds for an acknowledgement number; never 0, which is an empty slot.
#[inline(always)]
#[must_use]
pub const fn marker(acknowledgement: u32) -> u32 {
    if acknowledgement == 0 { u32::MAX } else { acknowledgement }
}

/// What a SYN-ACK leaves in its slot.
#[inline(always)]
#[must_use]
pub const fn expected(syn_ack: &Packet) -> u32 {
    marker(syn_ack.sequence.wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;
    use std::collections::BTreeSet;

    use super::*;
    use crate::VipPortKey;

    fn words(address: &str) -> [u32; 4] {
        VipPortKey::words(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn slots_are_in_range_and_spread() {
        for (vip, prefix) in [("192.0.2.1", "198.51.100."), ("2001:db8::1", "2001:db8:1::")] {
            let mut slots = BTreeSet::new();
            for host in 0..16 {
                for port in 0..1024 {
                    let chosen = slot(words(vip), 443, words(&format!("{prefix}{host}")), 32768 + port);
                    assert!(chosen < SLOTS);
                    slots.insert(chosen);
                }
            }
            // 16384 balls in 65536 bins fill 14497 of them on average.
            assert!(slots.len() > 14_200, "{} slots", slots.len());
        }
    }

    #[test]
    fn zero_is_never_stored() {
        assert_eq!(marker(0), u32::MAX);
        assert_eq!(marker(7), 7);
    }
}
