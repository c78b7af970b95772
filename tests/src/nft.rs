//! What kube-proxy's nftables mode does, in small: VIP and port to a node's backends by DNAT.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;

use crate::netns::Netns;

const TABLE: &str = "csm_proxy";
/// The mark for connections that need a changed source, as kube-proxy has it.
const MASQUERADE: &str = "0x4000";

/// A protocol that Services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One declared port of a VIP.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The VIP.
    pub vip: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The declared port.
    pub port: u16,
    /// Backends of the VIP's family, chosen at random; none means that the node rejects, as kube-proxy makes it.
    pub backends: Vec<SocketAddr>,
    /// Changes the client's address to the node's, which backends behind other nodes need.
    pub masquerade: bool,
}

impl Mapping {
    /// A TCP port served by one backend.
    #[must_use]
    pub fn tcp(vip: IpAddr, port: u16, backend: SocketAddr) -> Self {
        Self { vip, protocol: Protocol::Tcp, port, backends: vec![backend], masquerade: false }
    }
}

/// The proxy of one node.
#[derive(Debug)]
pub struct Proxy {
    node: Arc<Netns>,
    mappings: Vec<Mapping>,
}

impl Proxy {
    /// A proxy without mappings.
    #[must_use]
    pub const fn new(node: Arc<Netns>) -> Self {
        Self { node, mappings: vec![] }
    }

    /// Replaces all mappings, atomically, as kube-proxy's transactions do.
    pub fn set(&mut self, mappings: Vec<Mapping>) -> Result<()> {
        self.mappings = mappings;
        self.restore()
    }

    /// Loses every rule, as a failed or foreign `nft flush` does: what comes for a VIP on `lo` is answered by the host itself.
    pub fn lose(&self) -> Result<()> {
        self.apply(&format!("table inet {TABLE}\ndelete table inet {TABLE}\n"))
    }

    /// Puts the rules back.
    pub fn restore(&self) -> Result<()> {
        self.apply(&ruleset(&self.mappings))
    }

    fn apply(&self, rules: &str) -> Result<()> {
        self.node.exec_with_input("nft", &["-f", "-"], rules).map(drop)
    }
}

fn ruleset(mappings: &[Mapping]) -> String {
    let (mut nat, mut filter) = (String::new(), String::new());
    for mapping in mappings {
        let family = if mapping.vip.is_ipv4() { "ip" } else { "ip6" };
        let protocol = match mapping.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let matches = format!("{family} daddr {} {protocol} dport {}", mapping.vip, mapping.port);
        let mark = if mapping.masquerade { format!("meta mark set {MASQUERADE} ") } else { String::new() };
        let count = mapping.backends.len();
        for (index, backend) in mapping.backends.iter().enumerate() {
            let left = count - index;
            let pick = if left > 1 { format!("numgen random mod {left} 0 ") } else { String::new() };
            nat += &format!("{matches} {pick}{mark}dnat {family} to {backend}\n");
        }
        if count == 0 {
            filter += &format!("{matches} reject\n");
        }
    }
    format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n\
         chain services {{\n{nat}}}\nchain none {{\n{filter}}}\n\
         chain prerouting {{ type nat hook prerouting priority -100; jump services; }}\n\
         chain output {{ type nat hook output priority -100; jump services; }}\n\
         chain input {{ type filter hook input priority 0; ct state new jump none; }}\n\
         chain forward {{ type filter hook forward priority 0; ct state new jump none; }}\n\
         chain postrouting {{ type nat hook postrouting priority 100; meta mark & {MASQUERADE} == {MASQUERADE} masquerade; }}\n}}\n"
    )
}
