//! A node and a ToR, each in a namespace, with a link between them.

use anyhow::Result;
use cosmolet::engine::types::Vip;
use cosmolet_tests::frr::{self, Frr};
use cosmolet_tests::netns::{End, veth};
use cosmolet_tests::{Lab, Netns};

/// A node whose one peer is a ToR.
pub(crate) struct Pair {
    pub(crate) node: Netns,
    pub(crate) tor: Netns,
    pub(crate) lab: Lab,
}

impl Pair {
    pub(crate) fn raise() -> Result<Self> {
        let lab = Lab::new()?;
        let (node, tor) = (lab.netns("node")?, lab.netns("tor")?);
        veth(End { netns: &node, interface: "up" }, End { netns: &tor, interface: "down" })?;
        node.add_address("up", "10.1.0.1/30".parse()?)?;
        tor.add_address("down", "10.1.0.2/30".parse()?)?;
        Ok(Self { node, tor, lab })
    }

    pub(crate) fn frr(&self, netns: &Netns, asn: u32, peer: &str, remote: &str) -> Result<Frr> {
        let config = format!(
            "frr defaults datacenter\nrouter bgp {asn}\n neighbor {peer} remote-as {remote}\n neighbor {peer} timers connect 1\n \
             address-family ipv6 unicast\n  neighbor {peer} activate\n exit-address-family\n"
        );
        Frr::start(&self.lab, netns, &config, &frr::Options::default())
    }

    /// Puts VIPs on the loopback as the daemon does: one of IPv6 without a prefix route, of which FRR 10.3 may die (docs/frr.md).
    pub(crate) fn add(&self, vips: &[Vip]) -> Result<()> {
        vips.iter().try_for_each(|vip| {
            let vip = vip.prefix().to_string();
            let flags: &[&str] = if vip.contains(':') { &["nodad", "noprefixroute"] } else { &[] };
            self.node.ip(&[&["addr", "add", &vip, "dev", "lo"], flags].concat()).map(drop)
        })
    }
}
