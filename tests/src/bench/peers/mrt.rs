//! Records of a table dump as GoBGP's command line tool reads them (RFC 6396, TABLE_DUMP_V2). Pure: a prefix in, bytes out.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

const TABLE_DUMP_V2: u16 = 13;
const PEER_INDEX_TABLE: u16 = 1;
const RIB_IPV4_UNICAST: u16 = 2;

/// The table that comes first: one peer (IPv4, two bytes of AS number) of whom nothing is known.
pub(super) fn peers() -> Vec<u8> {
    // The collector, a view without a name, the number of peers; the peer's type, identifier, address and AS number.
    record(PEER_INDEX_TABLE, &[&[0; 4][..], &[0, 0], &[0, 1], &[0], &[0; 4], &[0; 4], &[0; 2]].concat())
}

/// A path of that peer: origin IGP, an empty AS path, this next hop.
pub(super) fn path(next_hop: Ipv4Addr, prefix: Ipv4Net) -> Vec<u8> {
    let [a, b, c, d] = next_hop.octets();
    // Each with flags, type and length: ORIGIN, AS_PATH, NEXT_HOP (RFC 4271 section 5).
    let attributes = [0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, a, b, c, d];
    let significant = usize::from(prefix.prefix_len().div_ceil(8));
    // The sequence number, which nobody reads.
    let mut body = vec![0; 4];
    body.push(prefix.prefix_len());
    body.extend_from_slice(&prefix.network().octets()[..significant]);
    // One entry: of the first peer, at no time.
    body.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0, 0, attributes.len() as u8]);
    body.extend_from_slice(&attributes);
    record(RIB_IPV4_UNICAST, &body)
}

/// A record made at no time.
fn record(subtype: u16, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32;
    [&[0; 4][..], &TABLE_DUMP_V2.to_be_bytes(), &subtype.to_be_bytes(), &length.to_be_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_header_with_its_length_and_a_path_has_its_prefix_and_next_hop() {
        let path = |prefix: &str| path(Ipv4Addr::new(10, 1, 3, 2), prefix.parse().unwrap());
        for bytes in [peers(), path("10.100.0.1/32"), path("10.8.0.0/13")] {
            let length = u32::from_be_bytes(*bytes[8..].first_chunk().unwrap());
            assert_eq!(usize::try_from(length).unwrap(), bytes.len() - 12);
        }
        assert_eq!(peers()[4..8], [0, 13, 0, 1]);
        assert_eq!(path("10.100.0.1/32")[4..8], [0, 13, 0, 2]);
        assert_eq!(path("10.100.0.1/32")[12..21], [0, 0, 0, 0, 32, 10, 100, 0, 1]);
        let rest = [0, 1, 0, 0, 0, 0, 0, 0, 0, 14, 0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 10, 1, 3, 2];
        assert_eq!(path("10.8.0.0/13")[12..], [&[0, 0, 0, 0, 13, 10, 8][..], &rest].concat());
    }
}
