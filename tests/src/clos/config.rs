//! The configuration of each device's FRR, as docs/fabric.md shows it. Pure.

use super::plan::{CLIENTS_V4, CLIENTS_V6, Device, NODES_V4, NODES_V6, PODS_V4, PODS_V6, Role};
use crate::fabric::{Mode, VIPS_V4, VIPS_V6};

/// bfdd's part, which stands in the same frr.conf where FRR is configured from one file.
pub const BFD: &str = "bfd
 profile fabric
  receive-interval 300
  transmit-interval 300
  detect-multiplier 3
 exit
exit
";

/// How the VIPs of a node get into BGP: the nodes of the first data centre wait for `network` statements, those of the
/// second redistribute connected routes.
#[must_use]
pub const fn mode(device: Device) -> Mode {
    if device.dc == 1 { Mode::Dynamic } else { Mode::Connected }
}

/// The frr.conf of zebra and bgpd.
#[must_use]
pub fn frr_conf(device: Device) -> String {
    let mut groups = Groups::default();
    for peer in device.peers() {
        groups.add(device, peer);
    }
    let head = format!("frr defaults datacenter\nhostname {}\n", device.name());
    // Lists and route-maps first: a statement that names one that is not there yet lets nothing through.
    let policies = policies(device);
    // Next-hop objects in the kernel: FRR 8.4.4 on Linux 6.18 loses one of two after a link flap.
    let kernel = if device.role == Role::Node { "" } else { "no zebra nexthop kernel enable\n" };
    format!(
        "{head}{kernel}!\n{policies}!\nrouter bgp {}\n bgp router-id {}\n bgp bestpath as-path multipath-relax\n \
         no bgp default ipv4-unicast\n{} \
         !\n address-family ipv4 unicast\n{} exit-address-family\n \
         !\n address-family ipv6 unicast\n{} exit-address-family\nexit\n",
        device.asn(),
        device.loopback4(),
        groups.sessions(),
        family(device, &groups, &format!("{}/32", device.loopback4()), &CLIENTS_V4.to_string()),
        family(device, &groups, &format!("{}/128", device.loopback6()), &CLIENTS_V6.to_string()),
    )
}

/// The same with bfdd's part: what one writes to `/etc/frr/frr.conf`.
#[must_use]
pub fn whole(device: Device) -> String {
    frr_conf(device) + "!\n" + BFD
}

/// Peer groups by name, with the interfaces in each.
#[derive(Default)]
struct Groups(Vec<(&'static str, Vec<String>)>);

impl Groups {
    fn add(&mut self, device: Device, peer: Device) {
        let name = match (device.role, peer.role) {
            (Role::Leaf, Role::Node) => "NODES",
            (Role::Node, _) => "LEAVES",
            (Role::Border, Role::Edge) => "EDGE",
            (Role::Border, Role::Border) => "DCI",
            (Role::Edge, _) => "BORDERS",
            _ => "FABRIC",
        };
        match self.0.iter_mut().find(|(group, _)| *group == name) {
            Some((_, interfaces)) => interfaces.push(peer.name()),
            None => self.0.push((name, vec![peer.name()])),
        }
    }

    /// Sessions without addresses: each peer is found on its interface by its link-local address, IPv4 routes go by IPv6 next
    /// hops (RFC 8950).
    fn sessions(&self) -> String {
        let mut text = String::new();
        for (group, interfaces) in &self.0 {
            text += &format!(" neighbor {group} peer-group\n neighbor {group} remote-as external\n");
            text += &format!(" neighbor {group} bfd profile fabric\n neighbor {group} timers connect 1\n");
            for interface in interfaces {
                text += &format!(" neighbor {interface} interface peer-group {group}\n");
            }
        }
        text
    }
}

fn family(device: Device, groups: &Groups, loopback: &str, clients: &str) -> String {
    let mut text = format!("  network {loopback}\n");
    match device.role {
        Role::Node => {
            if mode(device) == Mode::Connected {
                text += "  redistribute connected route-map VIPS\n";
            }
            text += "  redistribute kernel route-map PODS\n";
        }
        Role::Edge => text += &format!("  network {clients}\n"),
        Role::Spine | Role::Leaf | Role::Border => {}
    }
    for (group, _) in &groups.0 {
        text += &format!("  neighbor {group} activate\n");
        for rule in rules(group) {
            text += &format!("  neighbor {group} {rule}\n");
        }
    }
    text + "  maximum-paths 64\n"
}

/// What goes to a group's peers and what comes from them, where that is not everything.
fn rules(group: &str) -> &'static [&'static str] {
    match group {
        // A node gets the default route alone, and is heard of what is in the segments.
        "NODES" => &["prefix-list DEFAULT out", "prefix-list SEGMENTS in"],
        // What one leaf tells is never told to the other: a node is no way through.
        "LEAVES" => &["prefix-list DEFAULT in", "filter-list OWN out"],
        // The world sees the VIPs, and nothing of what serves them.
        "EDGE" => &["prefix-list SERVICES out"],
        "BORDERS" => &["default-originate", "prefix-list SERVICES in"],
        _ => &[],
    }
}

fn policies(device: Device) -> String {
    let prefixes = |name: &str, v4: &[String], v6: &[String]| {
        let lines = |ip: &str, prefixes: &[String]| {
            prefixes.iter().map(|prefix| format!("{ip} prefix-list {name} permit {prefix}\n")).collect::<String>()
        };
        lines("ip", v4) + &lines("ipv6", v6)
    };
    let default = prefixes("DEFAULT", &["0.0.0.0/0".to_owned()], &["::/0".to_owned()]);
    let (services4, services6) = (format!("{VIPS_V4} ge 32"), format!("{VIPS_V6} ge 128"));
    let (pods4, pods6) = (format!("{PODS_V4} ge 24 le 24"), format!("{PODS_V6} ge 64 le 64"));
    let (nodes4, nodes6) = (format!("{NODES_V4} ge 32"), format!("{NODES_V6} ge 128"));
    let services = prefixes("SERVICES", std::slice::from_ref(&services4), std::slice::from_ref(&services6));
    match device.role {
        Role::Spine => String::new(),
        Role::Border | Role::Edge => services,
        Role::Leaf => {
            let segments = prefixes("SEGMENTS", &[nodes4, pods4, services4], &[nodes6, pods6, services6]);
            default + &segments
        }
        Role::Node => {
            let pods = prefixes("PODS", &[pods4], &[pods6]);
            let mut text = format!("bgp as-path access-list OWN permit ^$\n{default}{pods}");
            text += &route_map("PODS", "PODS", "");
            if mode(device) == Mode::Connected {
                text += &services;
                text += &route_map("VIPS", "SERVICES", " set origin igp\n");
            }
            text
        }
    }
}

/// A route-map that lets the prefixes of a list of either family through.
fn route_map(name: &str, list: &str, set: &str) -> String {
    [(10, "ip"), (20, "ipv6")]
        .map(|(number, ip)| {
            format!("route-map {name} permit {number}\n match {ip} address prefix-list {list}\n{set}exit\n")
        })
        .concat()
}

#[cfg(test)]
mod tests {
    use super::super::plan::devices;
    use super::*;

    #[test]
    fn every_list_that_is_named_is_defined() {
        for device in devices() {
            let text = frr_conf(device);
            let defined = |kind: &str, name: &str| text.contains(&format!("{kind} {name} permit"));
            for line in text.lines().map(str::trim) {
                let words: Vec<&str> = line.split(' ').collect();
                match words.as_slice() {
                    ["neighbor", _, "prefix-list", name, _] | [.., "match", _, "address", "prefix-list", name] => {
                        assert!(defined("ip prefix-list", name) && defined("ipv6 prefix-list", name), "{line}");
                    }
                    ["neighbor", _, "filter-list", name, _] => {
                        assert!(defined("bgp as-path access-list", name), "{line}");
                    }
                    ["redistribute", _, "route-map", name] => assert!(defined("route-map", name), "{line}"),
                    _ => {}
                }
            }
        }
    }
}
