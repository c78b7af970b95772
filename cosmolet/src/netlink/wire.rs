//! What our rtnetlink messages mean, both ways.
//!
//! Owns the attributes that are set on our addresses and read from the kernel's. Never sends or receives.

use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NlasIterator, Parseable};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkHeader, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::ADDRESS_PROTOCOL;
use super::client::Request;
use crate::engine::plan::Hold;
use crate::engine::types::{Family, Vip};

/// A lifetime without end (`INFINITY_LIFE_TIME`).
const FOREVER: u32 = u32::MAX;
/// The metric of the routes that the kernel makes of IPv6 prefixes (`IP6_RT_PRIO_ADDRCONF`).
const PREFIX_ROUTE_METRIC: u32 = 256;
/// The size of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

/// An address as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The interface's index.
    pub(super) link: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix_len: u8,
    /// It bears [`ADDRESS_PROTOCOL`].
    pub(super) tagged: bool,
    /// The rest of its valid lifetime, in whole seconds; `None` without end.
    pub(super) valid_for: Option<Duration>,
    /// The kernel made a route of its prefix: an IPv6 address without `IFA_F_NOPREFIXROUTE`.
    pub(super) prefix_route: bool,
}

impl Address {
    /// Reads the payload of an `RTM_NEWADDR` or `RTM_DELADDR`.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let message = <AddressMessage as Parseable<[u8]>>::parse(payload).ok()?;
        let (mut local, mut address, mut tagged, mut valid) = (None, None, false, FOREVER);
        let mut no_prefix_route = false;
        for attribute in &message.attributes {
            if let AddressAttribute::Local(ip) = attribute {
                local = Some(*ip);
            } else if let AddressAttribute::Address(ip) = attribute {
                address = Some(*ip);
            } else if let AddressAttribute::Protocol(protocol) = attribute {
                tagged = u8::from(*protocol) == ADDRESS_PROTOCOL;
            } else if let AddressAttribute::CacheInfo(times) = attribute {
                valid = times.ifa_valid;
            } else if let AddressAttribute::Flags(flags) = attribute {
                no_prefix_route = flags.contains(AddressFlags::Noprefixroute);
            }
        }
        // With a peer, IFA_ADDRESS is the peer's; without one, IPv6 has no IFA_LOCAL.
        let ip = local.or(address)?;
        Some(Self {
            link: message.header.index,
            ip,
            prefix_len: message.header.prefix_len,
            tagged,
            valid_for: (valid != FOREVER).then(|| Duration::from_secs(valid.into())),
            prefix_route: ip.is_ipv6() && !no_prefix_route,
        })
    }

    /// Whether it is one that [`add`] made: tagged, and a host prefix.
    pub(super) const fn is_ours(&self) -> bool {
        self.tagged && self.prefix_len == host_length(self.ip)
    }
}

/// An interface as the kernel tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// A loopback interface (`IFF_LOOPBACK`).
    pub(super) loopback: bool,
}

impl Link {
    /// Reads the payload of an `RTM_NEWLINK` or `RTM_DELLINK`. `None` also for what a bridge says about its ports in
    /// messages of the same kind: a port that leaves its bridge is not gone.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let header = LinkHeader::parse(payload).ok()?;
        if header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let attributes = payload.get(LINK_HEADER..)?;
        let name = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == libc::IFLA_IFNAME)?;
        let name = name.value().split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Self {
            index: header.index,
            name: String::from_utf8_lossy(name).into_owned(),
            loopback: header.flags.contains(LinkFlags::Loopback),
        })
    }
}

/// The interfaces that the next hops of a unicast route use.
pub(super) fn route_links(payload: &[u8]) -> Vec<u32> {
    let Ok(message) = <RouteMessage as Parseable<[u8]>>::parse(payload) else { return Vec::new() };
    if message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut links = Vec::new();
    for attribute in &message.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            links.push(*index);
        } else if let RouteAttribute::MultiPath(next_hops) = attribute {
            links.extend(next_hops.iter().map(|hop| hop.interface_index));
        }
    }
    links
}

/// Whether the payload of an `RTM_NEWROUTE` or `RTM_DELROUTE` is about a default route.
pub(super) fn is_default_route(payload: &[u8]) -> bool {
    RouteHeader::parse(payload).is_ok_and(|header| header.destination_prefix_length == 0)
}

/// Whether it is about the table of local addresses, which every VIP enters and leaves.
pub(super) fn is_local_route(payload: &[u8]) -> bool {
    RouteHeader::parse(payload).is_ok_and(|header| header.table == libc::RT_TABLE_LOCAL)
}

/// Puts a VIP on an interface, or renews it if `renew`.
///
/// Without `renew` the kernel itself refuses (`EEXIST`) when the address is there, whoever's it is: `NLM_F_REPLACE`
/// would take the lifetime and the tag of a foreign address away.
///
/// * `preferred_lft 0`: IPv6 never chooses it as a source while there is another (RFC 6724, rule 3). IPv4 has no such
///   rule: it takes the first address of the route's interface, and where that has none (unnumbered uplinks) the first
///   of the loopback. New addresses go last, so the node's own address must be there before the first VIP.
/// * `nodad`: a VIP is on many nodes by design.
/// * `noprefixroute` for IPv6, unless the hold wants the route.
pub(super) fn add(link: u32, vip: Vip, hold: Hold, renew: bool) -> Request {
    let mut message = host_address(link, vip);
    let mut times = CacheInfo::default();
    times.ifa_preferred = 0;
    times.ifa_valid = hold.lease.map_or(FOREVER, lease_seconds);
    message.attributes.push(AddressAttribute::CacheInfo(times));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL)));
    if vip.family() == Family::V6 {
        let route = if hold.prefix_route { AddressFlags::empty() } else { AddressFlags::Noprefixroute };
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | route));
    }
    let flags = if renew { NLM_F_REPLACE } else { NLM_F_CREATE | NLM_F_EXCL };
    Request { flags, message: RouteNetlinkMessage::NewAddress(message) }
}

/// Removes a VIP from an interface, whoever's it is: the caller has looked.
pub(super) fn remove(link: u32, vip: Vip) -> Request {
    Request { flags: 0, message: RouteNetlinkMessage::DelAddress(host_address(link, vip)) }
}

/// Removes the route that the kernel made of the prefix of an IPv6 address, and no other.
pub(super) fn remove_prefix_route(link: u32, vip: Vip) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = host_length(vip.address());
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Kernel;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(vip.address())));
    message.attributes.push(RouteAttribute::Oif(link));
    message.attributes.push(RouteAttribute::Priority(PREFIX_ROUTE_METRIC));
    Request { flags: 0, message: RouteNetlinkMessage::DelRoute(message) }
}

/// Asks for the addresses of one family, of one interface or, with 0, of all.
pub(super) fn addresses(family: Family, link: u32) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = address_family(family);
    message.header.index = link;
    RouteNetlinkMessage::GetAddress(message)
}

/// Asks for all interfaces.
pub(super) fn links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// Asks for one interface.
pub(super) fn link(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    RouteNetlinkMessage::GetLink(message)
}

/// Asks for the routes of the main table.
pub(super) fn main_routes(family: Family) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    RouteNetlinkMessage::GetRoute(message)
}

/// Asks for the route to `address` as it stands in the table, with all its next hops.
pub(super) fn route_to(address: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = host_length(address);
    message.header.flags = RouteFlags::FibMatch;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
    RouteNetlinkMessage::GetRoute(message)
}

fn host_address(link: u32, vip: Vip) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = address_family(vip.family());
    message.header.prefix_len = host_length(vip.address());
    message.header.scope = AddressScope::Universe;
    message.header.index = link;
    message.attributes.push(AddressAttribute::Local(vip.address()));
    message.attributes.push(AddressAttribute::Address(vip.address()));
    message
}

/// A lease in whole seconds, rounded up; the kernel takes neither 0 nor, for a finite one, `u32::MAX`.
fn lease_seconds(lease: Duration) -> u32 {
    let seconds = lease.as_secs().saturating_add(u64::from(lease.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(FOREVER).clamp(1, FOREVER - 1)
}

const fn host_length(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_whole_seconds_and_never_zero() {
        assert_eq!(lease_seconds(Duration::ZERO), 1);
        assert_eq!(lease_seconds(Duration::from_millis(1500)), 2);
        assert_eq!(lease_seconds(Duration::from_secs(120)), 120);
        assert_eq!(lease_seconds(Duration::from_secs(u64::MAX)), u32::MAX - 1);
    }

    #[test]
    fn garbage_is_no_address_and_no_link() {
        for length in 0..64 {
            let garbage = vec![0xff; length];
            assert_eq!(Address::parse(&garbage), None);
            assert_eq!(Link::parse(&garbage), None);
            assert!(route_links(&garbage).is_empty());
        }
    }
}
