//! What breaks in the fabric, and how it is mended.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Clos;
use super::plan::{Device, Role};
use crate::fabric::host;
use crate::frr::Daemon as FrrDaemon;
use crate::stage::targets;

/// What every device runs, in the order of its start.
const FRR: [FrrDaemon; 3] = [FrrDaemon::Zebra, FrrDaemon::Bfdd, FrrDaemon::Bgpd];

/// The table that drops what comes from a peer.
fn cut_by(peer: Device) -> String {
    format!("csm_cut_{}", peer.name().replace('-', "_"))
}

impl Clos {
    /// Drops every frame on a link without a word: both ends keep their carrier. Returns the moment.
    pub fn cut(&self, a: Device, b: Device) -> Result<Instant> {
        let at = Instant::now();
        for (device, peer) in [(a, b), (b, a)] {
            let hook = format!("type filter hook ingress device \"{}\" priority -500; policy drop;", peer.name());
            let rules = format!("table netdev {} {{ chain silence {{ {hook} }}; }}", cut_by(peer));
            self.netns(device).exec_with_input("nft", &["-f", "-"], &rules)?;
        }
        Ok(at)
    }

    /// Undoes [`Clos::cut`].
    pub fn mend(&self, a: Device, b: Device) -> Result<()> {
        for (device, peer) in [(a, b), (b, a)] {
            self.netns(device).exec("nft", &["delete", "table", "netdev", &cut_by(peer)])?;
        }
        Ok(())
    }

    /// Takes the power from devices: everything on them ends, and their links go down. Returns the moment.
    pub fn power_off(&mut self, devices: &[Device]) -> Result<Instant> {
        let at = Instant::now();
        for device in devices {
            for peer in device.peers() {
                self.netns(*device).ip(&["link", "set", "dev", &peer.name(), "down"])?;
            }
        }
        for device in devices {
            if device.role == Role::Node {
                self.daemon(*device)?.kill()?;
                for target in targets() {
                    // A node that boots has none of them.
                    let address = host(target.ip()).to_string();
                    self.netns(*device).ip(&["addr", "del", &address, "dev", "lo"])?;
                }
            }
            for daemon in FRR {
                self.routers.get_mut(device).map(|router| router.frr.kill(daemon)).transpose()?;
            }
        }
        Ok(at)
    }

    /// Gives the power back.
    pub fn power_on(&mut self, devices: &[Device]) -> Result<()> {
        for device in devices {
            for peer in device.peers() {
                self.netns(*device).ip(&["link", "set", "dev", &peer.name(), "up"])?;
            }
        }
        let routers = self.routers.iter_mut().filter(|(device, _)| devices.contains(device));
        thread::scope(|scope| {
            let start =
                |router: &'_ mut super::Router| FRR.iter().try_for_each(|daemon| router.frr.restart(*daemon).map(drop));
            let threads: Vec<_> = routers.map(|(_, router)| scope.spawn(move || start(router))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        for device in devices.iter().filter(|device| device.role == Role::Node) {
            let daemon = self.daemon(*device)?;
            daemon.launch()?;
            daemon.wait_ready(Duration::from_secs(30))?;
        }
        Ok(())
    }
}
