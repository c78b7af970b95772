//! Who stands where in the Clos fabric, how they are joined, and what their addresses are. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Data centres, numbered from 1.
pub const DATA_CENTRES: u8 = 2;
/// Spines, leaves and nodes of one data centre, each numbered from 1.
pub const EACH: u8 = 2;

/// The node segment: a loopback of each node and switch.
pub const NODES_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 255, 0, 0), 16);
/// Its IPv6 twin.
pub const NODES_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, 0), 32);
/// The pod segment: a /24 of each node.
pub const PODS_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
/// Its IPv6 twin: a /64 of each node.
pub const PODS_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0), 32);
/// Where the clients are.
pub const CLIENTS_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 2, 0, 0), 24);
/// The same for IPv6.
pub const CLIENTS_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0), 64);

/// What a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Joins the leaves of its data centre.
    Spine,
    /// A ToR.
    Leaf,
    /// Joins its data centre with the edge and, over the DCI, with the other one.
    Border,
    /// Where the clients come from.
    Edge,
    /// A Kubernetes node.
    Node,
}

/// One device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its data centre; 0 for the edge, which is in none.
    pub dc: u8,
    /// What it is for.
    pub role: Role,
    /// Its number among those of its role in its data centre, from 1.
    pub index: u8,
}

/// The edge.
pub const EDGE: Device = Device { dc: 0, role: Role::Edge, index: 1 };

/// The border of a data centre.
#[must_use]
pub const fn border(dc: u8) -> Device {
    Device { dc, role: Role::Border, index: 1 }
}

/// The spines of a data centre.
pub fn spines(dc: u8) -> impl Iterator<Item = Device> {
    (1..=EACH).map(move |index| Device { dc, role: Role::Spine, index })
}

/// The leaves of a data centre.
pub fn leaves(dc: u8) -> impl Iterator<Item = Device> {
    (1..=EACH).map(move |index| Device { dc, role: Role::Leaf, index })
}

/// The nodes of a data centre.
pub fn nodes(dc: u8) -> impl Iterator<Item = Device> {
    (1..=EACH).map(move |index| Device { dc, role: Role::Node, index })
}

/// Every device of a data centre.
pub fn devices_of(dc: u8) -> impl Iterator<Item = Device> {
    std::iter::once(border(dc)).chain(spines(dc)).chain(leaves(dc)).chain(nodes(dc))
}

/// Every device: the edge first, nodes after what they hang on.
#[must_use]
pub fn devices() -> Vec<Device> {
    std::iter::once(EDGE).chain((1..=DATA_CENTRES).flat_map(devices_of)).collect()
}

/// Every link: the edge to both borders, the DCI, and in each data centre border to spines, spines to leaves, leaves to nodes.
#[must_use]
pub fn links() -> Vec<(Device, Device)> {
    let mut links: Vec<_> = (1..=DATA_CENTRES).map(|dc| (EDGE, border(dc))).collect();
    links.push((border(1), border(2)));
    for dc in 1..=DATA_CENTRES {
        for spine in spines(dc) {
            links.push((border(dc), spine));
            links.extend(leaves(dc).map(|leaf| (spine, leaf)));
        }
        links.extend(leaves(dc).flat_map(|leaf| nodes(dc).map(move |node| (leaf, node))));
    }
    links
}

impl Device {
    /// Its name, and that of its peers' interfaces to it: `dc1-leaf2`.
    #[must_use]
    pub fn name(self) -> String {
        let Self { dc, role, index } = self;
        match role {
            Role::Edge => "edge".to_owned(),
            Role::Border => format!("dc{dc}-border"),
            Role::Spine => format!("dc{dc}-spine{index}"),
            Role::Leaf => format!("dc{dc}-leaf{index}"),
            Role::Node => format!("dc{dc}-node{index}"),
        }
    }

    /// Its number in its data centre: the last octet of its loopback address.
    const fn number(self) -> u8 {
        match self.role {
            Role::Edge => 1,
            Role::Border => 9,
            Role::Spine => self.index,
            Role::Leaf => 10 + self.index,
            Role::Node => 20 + self.index,
        }
    }

    /// Its AS number (RFC 7938): one of its own, but for spines, which share theirs, so that no route goes down and up again.
    #[must_use]
    pub const fn asn(self) -> u32 {
        let number = if matches!(self.role, Role::Spine) { 0 } else { self.number() };
        65000 + 100 * self.dc as u32 + number as u32
    }

    /// Its loopback address in the node segment, which is its router id.
    #[must_use]
    pub const fn loopback4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 255, self.dc, self.number())
    }

    /// The same for IPv6.
    #[must_use]
    pub const fn loopback6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x255, self.dc as u16, 0, 0, 0, 0, self.number() as u16)
    }

    /// A node's pods: 1 is the node, 2 the backend.
    #[must_use]
    pub const fn pods4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, 16 * self.dc + self.index, host)
    }

    /// The same for IPv6.
    #[must_use]
    pub const fn pods6(self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x244, self.dc as u16, self.index as u16, 0, 0, 0, host as u16)
    }

    /// The networks of a node's pods.
    #[must_use]
    pub const fn pods(self) -> [IpNet; 2] {
        [IpNet::V4(Ipv4Net::new_assert(self.pods4(0), 24)), IpNet::V6(Ipv6Net::new_assert(self.pods6(0), 64))]
    }

    /// The devices at the other ends of its links.
    #[must_use]
    pub fn peers(self) -> Vec<Self> {
        let other = |(a, b): (Self, Self)| match self {
            one if one == a => Some(b),
            one if one == b => Some(a),
            _ => None,
        };
        links().into_iter().filter_map(other).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_devices_share_what_is_their_own() {
        let devices = devices();
        assert_eq!(devices.len(), 15);
        assert_eq!(links().len(), 23);
        let names: BTreeSet<_> = devices.iter().map(|device| device.name()).collect();
        let loopbacks: BTreeSet<_> = devices.iter().map(|device| device.loopback4()).collect();
        assert_eq!((names.len(), loopbacks.len()), (15, 15));
        assert!(names.iter().all(|name| name.len() <= 15), "too long for an interface: {names:?}");
        // Two spines of each data centre share one.
        assert_eq!(devices.iter().map(|device| device.asn()).collect::<BTreeSet<_>>().len(), 13);
    }

    #[test]
    fn each_node_hangs_on_both_leaves_of_its_data_centre() {
        for dc in 1..=DATA_CENTRES {
            for node in nodes(dc) {
                assert_eq!(node.peers(), leaves(dc).collect::<Vec<_>>());
            }
        }
    }
}
