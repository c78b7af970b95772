//! The frr.conf of the fabric's ToR and nodes, written as operators write them.
//!
//! Pure: a plan in, text out.

use crate::fabric::{Mode, NodeSpec, Plan, TOR_ASN, UPLINK, VIPS_V4, VIPS_V6, WIRE_ASN, WIRE_PORT, pods4, pods6};

/// Sessions fast enough for a test: up within a second or two, down three seconds after silence.
const BGP: &str = " no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp bestpath as-path multipath-relax
 coalesce-time 0
 timers bgp 1 3
";

const BFD: &str = "bfd
 profile fast
  receive-interval 50
  transmit-interval 50
  detect-multiplier 3
 exit
exit
";

/// The ToR's: every node is a peer, numbered or not; each gets a default route.
pub(crate) fn tor_config(nodes: &[(Plan, &NodeSpec)]) -> String {
    let mut peers = String::new();
    let (mut v4, mut v6) = (String::new(), String::new());
    for (plan, spec) in nodes {
        let bfd = if spec.bfd { " bfd profile fast" } else { "" };
        let mut peer = |name: &str, remote: &str, families: &mut [&mut String]| {
            peers += &format!(" neighbor {name} {remote}\n neighbor {name} timers connect 1\n");
            if spec.bfd {
                peers += &format!(" neighbor {name}{bfd}\n");
            }
            for family in families {
                **family += &format!("  neighbor {name} activate\n  neighbor {name} default-originate\n");
            }
        };
        if spec.unnumbered {
            peer(&spec.name, "interface remote-as external", &mut [&mut v4, &mut v6]);
        } else {
            peer(&plan.link4(2).to_string(), "remote-as external", &mut [&mut v4]);
            peer(&plan.link6(2).to_string(), "remote-as external", &mut [&mut v6]);
        }
    }
    let bfd = if nodes.iter().any(|(_, spec)| spec.bfd) { BFD } else { "" };
    // Next-hop objects in the kernel: 8.4.4 on 6.18 loses one of two after a link flap.
    format!(
        "hostname tor\nlog timestamp precision 6\nno zebra nexthop kernel enable\n{bfd}router bgp {TOR_ASN}\n \
         bgp router-id 10.255.255.1\n{BGP}{peers}\
         address-family ipv4 unicast\n{v4}  maximum-paths 64\n exit-address-family\n \
         address-family ipv6 unicast\n{v6}  maximum-paths 64\n exit-address-family\nexit\n"
    )
}

/// A node's: its own `network` lines, only own routes out, only the default route in.
///
/// Redistributed routes get the origin of `network` ones (IGP): with the origin that FRR gives them (incomplete) they would lose
/// against another node's `network`, and there would be no ECMP between a connected and a dynamic node.
pub(crate) fn node_config(plan: Plan, spec: &NodeSpec) -> String {
    let mut peers = String::new();
    for group in ["TOR4", "TOR6"] {
        peers += &format!(" neighbor {group} peer-group\n neighbor {group} remote-as external\n");
        peers += &format!(" neighbor {group} timers connect 1\n");
        if spec.bfd {
            peers += &format!(" neighbor {group} bfd profile fast\n");
        }
    }
    let groups: [&[&str]; 2] = if spec.unnumbered {
        peers += &format!(" neighbor {UPLINK} interface peer-group TOR6\n");
        [&["TOR6"], &["TOR6"]]
    } else {
        peers += &format!(" neighbor {} peer-group TOR4\n neighbor {} peer-group TOR6\n", plan.link4(1), plan.link6(1));
        [&["TOR4"], &["TOR6"]]
    };
    if spec.wire {
        let wire = plan.link4(3);
        peers += &format!(" neighbor {wire} remote-as {WIRE_ASN}\n neighbor {wire} port {WIRE_PORT}\n");
        peers += &format!(" neighbor {wire} timers connect 1\n");
    }
    for line in &spec.bgp_lines {
        peers += &format!(" {line}\n");
    }
    let v4 = family(plan, spec, spec.v4, groups[0], [pods4(plan).to_string(), format!("{}/32", plan.loopback4())]);
    let v6 = family(plan, spec, spec.v6, groups[1], [pods6(plan).to_string(), format!("{}/128", plan.loopback6())]);
    let bfd = if spec.bfd { BFD } else { "" };
    format!(
        "hostname {}\nlog timestamp precision 6\n{bfd}\
         bgp as-path access-list OWN permit ^$\n\
         ip prefix-list DEFAULT permit 0.0.0.0/0\nipv6 prefix-list DEFAULT permit ::/0\n\
         ip prefix-list VIPS permit {VIPS_V4} ge 32\nipv6 prefix-list VIPS permit {VIPS_V6} ge 128\n\
         route-map CONNECTED permit 10\n match ip address prefix-list VIPS\n set origin igp\nexit\n\
         route-map CONNECTED permit 20\n match ipv6 address prefix-list VIPS\n set origin igp\nexit\n\
         router bgp {}\n bgp router-id {}\n{BGP}{peers}\
         address-family ipv4 unicast\n{v4} exit-address-family\n \
         address-family ipv6 unicast\n{v6} exit-address-family\nexit\n",
        spec.name,
        plan.asn(),
        plan.loopback4(),
    )
}

fn family(plan: Plan, spec: &NodeSpec, mode: Mode, groups: &[&str], networks: [String; 2]) -> String {
    let mut lines = String::new();
    if mode == Mode::Connected {
        lines += "  redistribute connected route-map CONNECTED\n";
    }
    for network in networks {
        lines += &format!("  network {network}\n");
    }
    for group in groups {
        lines += &format!("  neighbor {group} activate\n  neighbor {group} filter-list OWN out\n");
        lines += &format!("  neighbor {group} prefix-list DEFAULT in\n");
    }
    if spec.wire {
        let wire = plan.link4(3);
        lines += &format!("  neighbor {wire} activate\n  neighbor {wire} filter-list OWN out\n");
    }
    lines
}
