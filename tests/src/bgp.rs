//! BGP messages as far as an observer needs them: RFC 4271, four-byte AS numbers (RFC 6793), two families (RFC 4760).
//!
//! Pure: bytes in, values out. Never a routing decision.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The largest message (RFC 4271 section 4); the extended size is not offered.
pub const MAX_MESSAGE: usize = 4096;
/// Marker, length, type.
pub const HEADER: usize = 19;
/// The AS number in OPEN for those beyond two bytes (RFC 6793).
const AS_TRANS: u16 = 23456;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

const AFI_IPV4: u16 = 1;
const AFI_IPV6: u16 = 2;
const SAFI_UNICAST: u8 = 1;

const ATTRIBUTE_AS_PATH: u8 = 2;
const ATTRIBUTE_NEXT_HOP: u8 = 3;
const ATTRIBUTE_MED: u8 = 4;
const ATTRIBUTE_COMMUNITIES: u8 = 8;
const ATTRIBUTE_MP_REACH: u8 = 14;
const ATTRIBUTE_MP_UNREACH: u8 = 15;
const FLAG_EXTENDED_LENGTH: u8 = 0x10;

/// What a peer may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Its first word: AS number (two-byte field) and hold time in seconds.
    Open {
        /// Hold time in seconds.
        hold_seconds: u16,
    },
    /// Prefixes.
    Update(Update),
    /// The end, with code and subcode (RFC 4271 section 4.5).
    Notification(u8, u8),
    /// Still there.
    Keepalive,
}

/// The parts of an UPDATE that a test looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Withdrawn prefixes, both families.
    pub withdrawn: Vec<IpNet>,
    /// Advertised prefixes, both families, which share the attributes.
    pub advertised: Vec<IpNet>,
    /// Their attributes.
    pub attributes: Attributes,
}

impl Update {
    /// An UPDATE without any prefix: End-of-RIB (RFC 4724 section 2).
    #[must_use]
    pub const fn is_end_of_rib(&self) -> bool {
        self.withdrawn.is_empty() && self.advertised.is_empty()
    }
}

/// Path attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The AS path, segments joined.
    pub as_path: Vec<u32>,
    /// The next hop; the global one for IPv6.
    pub next_hop: Option<IpAddr>,
    /// The multi-exit discriminator.
    pub med: Option<u32>,
    /// Communities (RFC 1997) as numbers: `65535:0` is `0xFFFF_0000`.
    pub communities: Vec<u32>,
}

/// An OPEN that offers IPv4 and IPv6 unicast and four-byte AS numbers.
#[must_use]
pub fn open(asn: u32, hold_seconds: u16, identifier: Ipv4Addr) -> Vec<u8> {
    let mut capabilities = Vec::new();
    for family in [AFI_IPV4, AFI_IPV6] {
        capabilities.extend_from_slice(&[1, 4]);
        capabilities.extend_from_slice(&family.to_be_bytes());
        capabilities.extend_from_slice(&[0, SAFI_UNICAST]);
    }
    capabilities.extend_from_slice(&[65, 4]);
    capabilities.extend_from_slice(&asn.to_be_bytes());
    let mut body = vec![4];
    body.extend_from_slice(&u16::try_from(asn).unwrap_or(AS_TRANS).to_be_bytes());
    body.extend_from_slice(&hold_seconds.to_be_bytes());
    body.extend_from_slice(&identifier.octets());
    // One optional parameter of type 2 (RFC 5492); three capabilities make 18 bytes.
    body.extend_from_slice(&[20, 2, 18]);
    body.extend_from_slice(&capabilities);
    message(OPEN, &body)
}

/// A KEEPALIVE.
#[must_use]
pub fn keepalive() -> Vec<u8> {
    message(KEEPALIVE, &[])
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

/// The length of the whole message, from its header.
pub fn message_length(header: &[u8; HEADER]) -> Result<usize> {
    ensure!(header[..16] == [0xff; 16], "BGP marker");
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    ensure!((HEADER..=MAX_MESSAGE).contains(&length), "BGP message of {length} bytes");
    Ok(length)
}

/// Reads a message's type (the header's last byte) and body.
pub fn parse(kind: u8, body: &[u8]) -> Result<Message> {
    let mut input = Input(body);
    match kind {
        OPEN => {
            input.take(3)?;
            Ok(Message::Open { hold_seconds: input.u16()? })
        }
        UPDATE => Ok(Message::Update(update(input)?)),
        NOTIFICATION => Ok(Message::Notification(input.u8()?, input.u8()?)),
        KEEPALIVE => Ok(Message::Keepalive),
        other => bail!("BGP message type {other}"),
    }
}

fn update(mut input: Input<'_>) -> Result<Update> {
    let mut update = Update::default();
    let length = input.u16()?;
    prefixes(input.take(length.into())?, AFI_IPV4, &mut update.withdrawn)?;
    let length = input.u16()?;
    let mut attributes = Input(input.take(length.into())?);
    while !attributes.0.is_empty() {
        let (flags, kind) = (attributes.u8()?, attributes.u8()?);
        let extended = flags & FLAG_EXTENDED_LENGTH != 0;
        let length = if extended { attributes.u16()? } else { attributes.u8()?.into() };
        attribute(kind, Input(attributes.take(length.into())?), &mut update)?;
    }
    prefixes(input.0, AFI_IPV4, &mut update.advertised)?;
    Ok(update)
}

fn attribute(kind: u8, mut value: Input<'_>, update: &mut Update) -> Result<()> {
    let attributes = &mut update.attributes;
    match kind {
        ATTRIBUTE_AS_PATH => {
            while !value.0.is_empty() {
                let (_segment, count) = (value.u8()?, value.u8()?);
                for _ in 0..count {
                    attributes.as_path.push(value.u32()?);
                }
            }
        }
        ATTRIBUTE_NEXT_HOP => attributes.next_hop = Some(IpAddr::V4(value.u32()?.into())),
        ATTRIBUTE_MED => attributes.med = Some(value.u32()?),
        ATTRIBUTE_COMMUNITIES => {
            while !value.0.is_empty() {
                attributes.communities.push(value.u32()?);
            }
        }
        ATTRIBUTE_MP_REACH => {
            let (family, _safi, length) = (value.u16()?, value.u8()?, value.u8()?);
            attributes.next_hop = next_hop(value.take(length.into())?);
            value.u8()?;
            prefixes(value.0, family, &mut update.advertised)?;
        }
        ATTRIBUTE_MP_UNREACH => {
            let (family, _safi) = (value.u16()?, value.u8()?);
            prefixes(value.0, family, &mut update.withdrawn)?;
        }
        _ => {}
    }
    Ok(())
}

/// IPv4, or IPv6 with or without a link-local address after the global one.
fn next_hop(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(v4.into()));
    }
    let v6 = <[u8; 16]>::try_from(bytes.get(..16)?).ok()?;
    Some(IpAddr::V6(v6.into()))
}

fn prefixes(bytes: &[u8], family: u16, into: &mut Vec<IpNet>) -> Result<()> {
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        let length = input.u8()?;
        let octets = input.take(usize::from(length).div_ceil(8))?;
        let mut address = [0; 16];
        address.get_mut(..octets.len()).context("prefix too long")?.copy_from_slice(octets);
        into.push(match family {
            AFI_IPV4 => {
                let v4 = u32::from_be_bytes([address[0], address[1], address[2], address[3]]);
                Ipv4Net::new(Ipv4Addr::from_bits(v4), length)?.into()
            }
            AFI_IPV6 => Ipv6Net::new(Ipv6Addr::from(address), length)?.into(),
            other => bail!("address family {other}"),
        });
    }
    Ok(())
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("BGP message cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv4_update_is_read() {
        // Withdraws 10.0.0.0/8; AS path [65001], next hop 10.1.0.2, MED 7, community 65535:0; advertises 10.100.0.1/32.
        let body = [
            &[0, 2, 8, 10][..],
            &[0, 6 + 3 + 7 + 7 + 7],
            &[0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9],
            &[0x40, 3, 4, 10, 1, 0, 2],
            &[0x80, 4, 4, 0, 0, 0, 7],
            &[0xc0, 8, 4, 0xff, 0xff, 0, 0],
            &[32, 10, 100, 0, 1],
        ]
        .concat();
        let Message::Update(update) = parse(UPDATE, &body).unwrap() else { panic!("not an update") };
        assert_eq!(update.withdrawn, [net("10.0.0.0/8")]);
        assert_eq!(update.advertised, [net("10.100.0.1/32")]);
        let attributes = Attributes {
            as_path: vec![65001],
            next_hop: Some("10.1.0.2".parse().unwrap()),
            med: Some(7),
            communities: vec![0xffff_0000],
        };
        assert_eq!(update.attributes, attributes);
    }

    #[test]
    fn ipv6_comes_in_the_multiprotocol_attributes() {
        let next_hop: Ipv6Addr = "fd00:1::2".parse().unwrap();
        let prefix: Ipv6Addr = "fd00:100::1".parse().unwrap();
        let mut reach = vec![0, 2, 1, 16];
        reach.extend_from_slice(&next_hop.octets());
        reach.extend_from_slice(&[0, 128]);
        reach.extend_from_slice(&prefix.octets());
        let mut body = vec![0, 0, 0, u8::try_from(reach.len()).unwrap() + 4, 0x90, 14, 0];
        body.push(u8::try_from(reach.len()).unwrap());
        body.extend_from_slice(&reach);
        let Message::Update(update) = parse(UPDATE, &body).unwrap() else { panic!("not an update") };
        assert_eq!(update.advertised, [net("fd00:100::1/128")]);
        assert_eq!(update.attributes.next_hop, Some(IpAddr::V6(next_hop)));
        let body = [0, 0, 0, 11, 0x80, 15, 8, 0, 2, 1, 32, 0xfd, 0, 1, 0];
        let Message::Update(update) = parse(UPDATE, &body).unwrap() else { panic!("not an update") };
        assert_eq!(update.withdrawn, [net("fd00:100::/32")]);
    }

    #[test]
    fn every_cut_of_a_message_is_an_error_or_a_shorter_message() {
        let body = [0, 2, 8, 10, 0, 7, 0x40, 3, 4, 10, 1, 0, 2, 32, 10, 100, 0, 1];
        for end in 0..body.len() {
            // 13 bytes are a whole UPDATE without advertised prefixes.
            assert_eq!(parse(UPDATE, &body[..end]).is_ok(), end == 13, "cut at {end}");
        }
        assert!(parse(UPDATE, &[0, 2, 33, 10, 0, 0]).is_err());
    }

    #[test]
    fn our_open_has_the_length_it_says() {
        let bytes = open(4_200_000_000, 9, Ipv4Addr::new(10, 0, 0, 1));
        let header: [u8; HEADER] = bytes[..HEADER].try_into().unwrap();
        assert_eq!(message_length(&header).unwrap(), bytes.len());
        assert_eq!(parse(OPEN, &bytes[HEADER..]).unwrap(), Message::Open { hold_seconds: 9 });
    }
}
