//! The same FRR without a daemon of its own for VIPs: a vtysh process for each of them, or its file rewritten and frr-reload.py.
//!
//! Both work on the raw node. The addresses are on its loopback all the time.

use std::time::Instant;

use anyhow::{Context, Result};

use super::{Change, FIRST, Way};
use crate::bench::raw::{self, Raw};
use crate::bench::world::{World, put, vips};
use crate::fabric::{Node, host, vip4};

/// Puts the VIPs on the loopback, for without them bgpd advertises nothing.
pub(super) fn put_addresses(world: &World, count: u16) -> Result<()> {
    Raw::connect(world.raw())?.add_addresses(&vips(count))
}

/// One vtysh process for each VIP, one after the other.
pub(super) struct Vtysh {
    pub(super) count: u16,
}

impl Way for Vtysh {
    fn name(&self) -> String {
        "a vtysh process for each VIP".to_owned()
    }

    fn node<'a>(&self, world: &'a World) -> &'a Node {
        world.raw()
    }

    fn act(&mut self, world: &World, change: Change) -> Result<Instant> {
        let since = Instant::now();
        for n in change.vips(self.count) {
            raw::vtysh(world.raw(), vip4(n), change.present)?;
        }
        Ok(since)
    }
}

/// frr.conf rewritten, and `frr-reload.py --reload`.
pub(super) struct Reload {
    count: u16,
    /// The configuration without VIPs, as FRR itself writes it: nothing else is there to be changed.
    config: String,
    /// Whether the others of the VIPs stand.
    others: bool,
}

impl Reload {
    /// Takes the running configuration of the raw node, without VIPs.
    pub(super) fn prepare(world: &World, count: u16) -> Result<Self> {
        Ok(Self { count, config: world.raw().frr.whole_config()?, others: false })
    }
}

impl Way for Reload {
    fn name(&self) -> String {
        "frr-reload.py".to_owned()
    }

    fn node<'a>(&self, world: &'a World) -> &'a Node {
        world.raw()
    }

    fn act(&mut self, world: &World, change: Change) -> Result<Instant> {
        if change.all {
            self.others = change.present;
        }
        let others = if self.others { self.count } else { FIRST };
        let from = if change.present { FIRST } else { FIRST + 1 };
        let text = with_networks(&self.config, (from..=others).map(|n| host(vip4(n)).to_string()))?;
        let since = put(world.raw().frr.directory(), "frr.conf", &text)?;
        world.raw().frr.reload()?;
        Ok(since)
    }
}

/// The configuration with these `network` lines first in the IPv4 family.
fn with_networks(config: &str, prefixes: impl Iterator<Item = String>) -> Result<String> {
    let family = "\n address-family ipv4 unicast\n";
    let (before, after) = config.split_once(family).context("no IPv4 family in FRR's configuration")?;
    let lines: String = prefixes.map(|prefix| format!("  network {prefix}\n")).collect();
    Ok(format!("{before}{family}{lines}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_come_first_in_the_family() {
        let config =
            "router bgp 1\n !\n address-family ipv4 unicast\n  network 10.0.0.0/24\n exit-address-family\nexit\n";
        let text = with_networks(config, ["10.100.0.1/32".to_owned()].into_iter()).unwrap();
        assert!(text.contains("unicast\n  network 10.100.0.1/32\n  network 10.0.0.0/24\n"), "{text}");
        assert_eq!(with_networks(config, std::iter::empty()).unwrap(), config);
        assert!(with_networks("router bgp 1\n", std::iter::empty()).is_err());
    }
}
