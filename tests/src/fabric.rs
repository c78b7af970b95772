//! The demo's fabric: a ToR, nodes with a backend each, a client, all routed by real FRR.
//!
//! Addresses, by the node's number `i` from 1:
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | link ToR–node (numbered) | 10.1.i.1, node 10.1.i.2/29 | fd00:1:i::1, ::2/64 |
//! | raw BGP session on the ToR's side | 10.1.i.3, port 1790 | |
//! | node's loopback | 10.255.0.i/32 | fd00:255::i/128 |
//! | backend behind node | node 10.3.i.1, backend 10.3.i.2/24 | fd00:3:i::1, ::2/64 |
//! | client | ToR 10.2.0.1, client 10.2.0.2/24 | fd00:2::1, ::2/64 |
//! | management | 10.9.0.1, node 10.9.0.(10 + i)/24 | |
//! | VIPs | 10.100.0.0/16 | fd00:100::/64 |
//!
//! On the ToR each interface is called as the node behind it, so that a route's interfaces are the nodes that carry it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::backend::Backend;
use crate::fabric_config::{node_config, tor_config};
use crate::frr::{BFD_CONFIG, Frr, Options};
use crate::netns::{End, veth};
use crate::nft::{Mapping, Proxy};
use crate::route_monitor::RouteMonitor;
use crate::routes::Routes;
use crate::wire::Wire;
use crate::{Lab, Netns, wait};

/// The AS number of the ToR; node `i` has this plus `i`.
pub const TOR_ASN: u32 = 65000;
/// The AS number of the raw session's speaker.
pub const WIRE_ASN: u32 = 65100;
/// The port where the raw session's speaker listens.
pub const WIRE_PORT: u16 = 1790;
/// The port of every backend, TCP and UDP.
pub const BACKEND_PORT: u16 = 8080;
/// The node's interface towards the ToR.
pub const UPLINK: &str = "uplink";
/// The node's interface towards its backends.
const PODS: &str = "pods";
/// The bridge of a node's pods, where it has one.
pub const BRIDGE: &str = "cni0";
const UP_LIMIT: Duration = Duration::from_secs(60);

/// The range of IPv4 VIPs.
pub const VIPS_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 100, 0, 0), 16);
/// The range of IPv6 VIPs.
pub const VIPS_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0, 0), 64);

/// The `n`th IPv4 VIP, from 1.
#[must_use]
pub const fn vip4(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 100, high, low))
}

/// The `n`th IPv6 VIP, from 1.
#[must_use]
pub const fn vip6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0, n))
}

/// The host prefix of an address.
#[must_use]
pub fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// How a node's FRR gets VIPs, for one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `redistribute connected` through a route-map: an address on `lo` is all there is to do.
    Connected,
    /// Nothing: somebody must say `network`.
    #[default]
    Dynamic,
}

/// One node to raise.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name: at most 12 characters, also of its interface on the ToR.
    pub name: String,
    /// How IPv4 VIPs get into BGP.
    pub v4: Mode,
    /// How IPv6 VIPs get into BGP.
    pub v6: Mode,
    /// An unnumbered peer group over IPv6 link-local instead of numbered sessions; the default routes come by BGP.
    pub unnumbered: bool,
    /// bfdd with 50 ms × 3 towards the ToR.
    pub bfd: bool,
    /// A second session, to a raw speaker that times UPDATEs.
    pub wire: bool,
    /// The backends' network is a bridge ([`BRIDGE`]) that pods may join.
    pub bridge: bool,
    /// More lines for `router bgp`, such as `bgp graceful-restart`.
    pub bgp_lines: Vec<String>,
}

impl NodeSpec {
    /// A numbered node with one mode for both families, a raw session and nothing else.
    #[must_use]
    pub fn new(name: &str, mode: Mode) -> Self {
        let name = name.to_owned();
        let (unnumbered, bfd, wire, bridge) = (false, false, true, false);
        Self { name, v4: mode, v6: mode, unnumbered, bfd, wire, bridge, bgp_lines: vec![] }
    }

    /// The same as the sample of a real node: unnumbered.
    #[must_use]
    pub const fn unnumbered(mut self) -> Self {
        self.unnumbered = true;
        self
    }

    /// With bfdd.
    #[must_use]
    pub const fn bfd(mut self) -> Self {
        self.bfd = true;
        self
    }

    /// A node of a cluster: a bridge for its pods, and no raw session.
    #[must_use]
    pub const fn for_pods(mut self) -> Self {
        (self.bridge, self.wire) = (true, false);
        self
    }

    /// With another line in `router bgp`.
    #[must_use]
    pub fn bgp_line(mut self, line: &str) -> Self {
        self.bgp_lines.push(line.to_owned());
        self
    }
}

/// The addresses of node `index`, from 1.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The node's number.
    pub index: u8,
}

impl Plan {
    /// An address of the link to the ToR: 1 the ToR, 2 the node, 3 the raw session.
    #[must_use]
    pub const fn link4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 1, self.index, host)
    }

    /// An IPv6 address of the link to the ToR.
    #[must_use]
    pub const fn link6(self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 1, self.index as u16, 0, 0, 0, 0, host as u16)
    }

    /// An address of the link to the backend: 1 the node, 2 the backend.
    #[must_use]
    pub const fn pods4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 3, self.index, host)
    }

    /// An IPv6 address of the link to the backend.
    #[must_use]
    pub const fn pods6(self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 3, self.index as u16, 0, 0, 0, 0, host as u16)
    }

    /// The node's own loopback address, which is its router id and InternalIP.
    #[must_use]
    pub const fn loopback4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 255, 0, self.index)
    }

    /// The node's own IPv6 loopback address.
    #[must_use]
    pub const fn loopback6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, self.index as u16)
    }

    /// The node's AS number.
    #[must_use]
    pub const fn asn(self) -> u32 {
        TOR_ASN + self.index as u32
    }
}

/// A raised node. Fields are dropped in this order: processes first, namespaces last.
#[derive(Debug)]
pub struct Node {
    /// What it was raised from.
    pub spec: NodeSpec,
    /// Its addresses.
    pub plan: Plan,
    /// Its FRR.
    pub frr: Frr,
    /// The raw session, if asked for.
    pub wire: Option<Wire>,
    /// The server behind it.
    pub backend: Backend,
    /// Its DNAT.
    pub proxy: Proxy,
    /// The node's namespace.
    pub netns: Arc<Netns>,
    /// The backend's namespace.
    pub pod: Netns,
}

impl Node {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where its backend listens, in the family of `vip`.
    #[must_use]
    pub fn backend_address(&self, vip: IpAddr) -> SocketAddr {
        let address = match vip {
            IpAddr::V4(_) => IpAddr::V4(self.plan.pods4(2)),
            IpAddr::V6(_) => IpAddr::V6(self.plan.pods6(2)),
        };
        SocketAddr::new(address, BACKEND_PORT)
    }

    /// Maps each VIP's TCP port to this node's backend, as kube-proxy would.
    pub fn serve(&mut self, vips: &[SocketAddr]) -> Result<()> {
        let map = |vip: &SocketAddr| Mapping::tcp(vip.ip(), vip.port(), self.backend_address(vip.ip()));
        let mappings = vips.iter().map(map).collect();
        self.proxy.set(mappings)
    }

    /// Puts a VIP on `lo` by hand.
    pub fn add_vip(&self, vip: IpAddr) -> Result<()> {
        self.netns.add_address("lo", host(vip))
    }

    /// Takes a VIP from `lo` by hand.
    pub fn remove_vip(&self, vip: IpAddr) -> Result<()> {
        self.netns.ip(&["addr", "del", &host(vip).to_string(), "dev", "lo"]).map(drop)
    }

    /// The addresses on `lo`, as `ip` sees them.
    pub fn loopback_addresses(&self) -> Result<Vec<IpNet>> {
        let text = self.netns.ip(&["-o", "addr", "show", "dev", "lo"])?;
        let address = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
        text.lines().filter_map(address).map(|word| word.parse().with_context(|| word.clone())).collect()
    }

    /// The raw session.
    pub fn wire(&self) -> Result<&Wire> {
        self.wire.as_ref().with_context(|| format!("{} was raised without a raw session", self.name()))
    }
}

/// The whole fabric.
#[derive(Debug)]
pub struct Fabric {
    /// The nodes, in the order of their specs.
    pub nodes: Vec<Node>,
    /// The ToR's FRR.
    pub tor_frr: Frr,
    monitor: RouteMonitor,
    /// The client's namespace.
    pub client: Netns,
    /// The namespace that the API server lives in; every node reaches it at [`MANAGEMENT`].
    pub management: Netns,
    /// The ToR's namespace.
    pub tor: Netns,
}

/// The address of the management namespace.
pub const MANAGEMENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

impl Fabric {
    /// Raises everything and waits until all sessions are up and the ToR's kernel routes to each node's backend.
    pub fn raise(lab: &Lab, specs: &[NodeSpec]) -> Result<Self> {
        ensure!(!specs.is_empty() && specs.len() <= 100, "1 to 100 nodes");
        let tor = router(lab, "tor")?;
        for family in ["ipv4", "ipv6"] {
            // Layer 4: each connection of one client may take another next hop.
            tor.sysctl(&format!("net/{family}/fib_multipath_hash_policy"), "1")?;
        }
        let monitor = RouteMonitor::start(&tor)?;
        let client = client(lab, &tor)?;
        let management = management(lab)?;
        let plans: Vec<_> = (1..=100).map(|index| Plan { index }).zip(specs).collect();
        let mut links = Vec::new();
        for (plan, spec) in &plans {
            links.push(node_netns(lab, *plan, spec, &tor, &management)?);
        }
        let bfd = specs.iter().any(|spec| spec.bfd);
        let options = Options {
            bfd: bfd.then_some(BFD_CONFIG),
            zebra_args: vec!["--v6-rr-semantics".to_owned()],
            ..Options::default()
        };
        let tor_frr = Frr::start(lab, &tor, &tor_config(&plans), &options)?;
        let mut nodes = Vec::new();
        for ((plan, spec), (netns, pod)) in plans.into_iter().zip(links) {
            nodes.push(node(lab, &tor, plan, spec, netns, pod)?);
        }
        let fabric = Self { nodes, tor_frr, monitor, client, management, tor };
        fabric.wait_up(UP_LIMIT)?;
        Ok(fabric)
    }

    /// What the ToR's kernel routes.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        self.monitor.routes()
    }

    /// One node by name.
    pub fn node(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.name() == name).with_context(|| format!("no node {name}"))
    }

    /// Waits until every session is up and the ToR routes to every backend, both families.
    pub fn wait_up(&self, limit: Duration) -> Result<()> {
        for node in &self.nodes {
            for prefix in [pods4(node.plan), pods6(node.plan)] {
                let what = format!("the ToR's route to {prefix} behind {}", node.name());
                wait::until_true(&what, limit, || Ok(self.routes().nodes(prefix).contains(node.name())))?;
            }
            if let Some(wire) = &node.wire {
                wire.wait_up(limit).with_context(|| format!("with {}", node.name()))?;
            }
        }
        Ok(())
    }
}

/// The IPv4 prefix of a node's backends.
#[must_use]
pub fn pods4(plan: Plan) -> IpNet {
    Ipv4Net::new_assert(plan.pods4(0), 24).into()
}

/// The IPv6 prefix of a node's backends.
#[must_use]
pub fn pods6(plan: Plan) -> IpNet {
    Ipv6Net::new_assert(plan.pods6(0), 64).into()
}

fn net4(address: Ipv4Addr, length: u8) -> IpNet {
    Ipv4Net::new_assert(address, length).into()
}

fn net6(address: Ipv6Addr, length: u8) -> IpNet {
    Ipv6Net::new_assert(address, length).into()
}

/// A namespace that forwards and does not check the way back (the host's own setting would be inherited).
fn router(lab: &Lab, name: &str) -> Result<Netns> {
    let netns = lab.netns(name)?;
    for conf in ["all", "default"] {
        netns.sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "0")?;
    }
    netns.forward()?;
    Ok(netns)
}

fn default_routes(netns: &Netns, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
    netns.add_route(net4(Ipv4Addr::UNSPECIFIED, 0), v4.into())?;
    netns.add_route(net6(Ipv6Addr::UNSPECIFIED, 0), v6.into())
}

fn client(lab: &Lab, tor: &Netns) -> Result<Netns> {
    let client = lab.netns("client")?;
    veth(End { netns: tor, interface: "client" }, End { netns: &client, interface: UPLINK })?;
    let (v4, v6) = (|n| Ipv4Addr::new(10, 2, 0, n), |n| Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, n));
    tor.add_address("client", net4(v4(1), 24))?;
    tor.add_address("client", net6(v6(1), 64))?;
    client.add_address(UPLINK, net4(v4(2), 24))?;
    client.add_address(UPLINK, net6(v6(2), 64))?;
    default_routes(&client, v4(1), v6(1))?;
    Ok(client)
}

fn management(lab: &Lab) -> Result<Netns> {
    let netns = lab.netns("mgmt")?;
    netns.ip(&["link", "add", "name", "br0", "type", "bridge"])?;
    netns.ip(&["link", "set", "dev", "br0", "up"])?;
    netns.add_address("br0", net4(MANAGEMENT, 24))?;
    Ok(netns)
}

/// The namespaces and links of one node, before any daemon.
fn node_netns(lab: &Lab, plan: Plan, spec: &NodeSpec, tor: &Netns, management: &Netns) -> Result<(Arc<Netns>, Netns)> {
    let name = spec.name.as_str();
    ensure!(name.len() <= 12, "the node name {name} is too long for an interface");
    let (node, pod) = (router(lab, name)?, lab.netns(&format!("{name}-pod"))?);
    veth(End { netns: tor, interface: name }, End { netns: &node, interface: UPLINK })?;
    if !spec.unnumbered || spec.wire {
        tor.add_address(name, net4(plan.link4(3), 29))?;
        node.add_address(UPLINK, net4(plan.link4(2), 29))?;
    }
    if !spec.unnumbered {
        tor.add_address(name, net4(plan.link4(1), 29))?;
        tor.add_address(name, net6(plan.link6(1), 64))?;
        node.add_address(UPLINK, net6(plan.link6(2), 64))?;
        default_routes(&node, plan.link4(1), plan.link6(1))?;
    }
    node.add_address("lo", host(plan.loopback4().into()))?;
    node.add_address("lo", host(plan.loopback6().into()))?;
    veth(End { netns: &node, interface: PODS }, End { netns: &pod, interface: "eth0" })?;
    let gateway = if spec.bridge { bridge(&node)? } else { PODS };
    node.add_address(gateway, net4(plan.pods4(1), 24))?;
    node.add_address(gateway, net6(plan.pods6(1), 64))?;
    pod.add_address("eth0", net4(plan.pods4(2), 24))?;
    pod.add_address("eth0", net6(plan.pods6(2), 64))?;
    default_routes(&pod, plan.pods4(1), plan.pods6(1))?;
    veth(End { netns: management, interface: name }, End { netns: &node, interface: "mgmt" })?;
    management.ip(&["link", "set", "dev", name, "master", "br0"])?;
    node.add_address("mgmt", net4(Ipv4Addr::new(10, 9, 0, 10 + plan.index), 24))?;
    Ok((Arc::new(node), pod))
}

/// Puts the interface towards the backend into a bridge: the network is up before the first pod and after the last.
fn bridge(node: &Netns) -> Result<&'static str> {
    node.ip(&["link", "add", "name", BRIDGE, "type", "bridge"])?;
    node.ip(&["link", "set", "dev", PODS, "master", BRIDGE])?;
    node.ip(&["link", "set", "dev", BRIDGE, "up"])?;
    Ok(BRIDGE)
}

fn node(lab: &Lab, tor: &Netns, plan: Plan, spec: &NodeSpec, netns: Arc<Netns>, pod: Netns) -> Result<Node> {
    let address = SocketAddr::new(plan.link4(3).into(), WIRE_PORT);
    let wire = spec.wire.then(|| Wire::listen(tor, address, WIRE_ASN)).transpose()?;
    let options = Options { bfd: spec.bfd.then_some(BFD_CONFIG), ..Options::default() };
    let frr = Frr::start(lab, &netns, &node_config(plan, spec), &options)?;
    let backend = Backend::start(&pod, &spec.name, BACKEND_PORT)?;
    let proxy = Proxy::new(Arc::clone(&netns));
    Ok(Node { spec: spec.clone(), plan, frr, wire, backend, proxy, netns, pod })
}
