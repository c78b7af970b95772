//! GoBGP in place of a node's FRR: by one process of its command line tool for each VIP, or by one
//! that runs all the time and streams them.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;

use super::{Change, FIRST, Place, SPEAKERS, Way, fifo, mrt, unpacked};
use crate::bench::world::{LIMIT, World};
use crate::fabric::{Node, TOR_ASN, WIRE_ASN, WIRE_PORT, host, vip4};
use crate::netns::output;
use crate::process::{Process, Spec};
use crate::wait;

/// Paths in one write: a pipe takes up to 4096 bytes as one, and gobgp wants whole records.
const RECORDS: usize = 80;

/// The running daemon, shared by both ways.
pub(super) struct Daemon {
    _process: Process,
    place: Place,
    gobgp: PathBuf,
    /// Its gRPC socket, as both programs take it.
    target: String,
    /// The next hop of all VIPs: the node.
    next_hop: Ipv4Addr,
}

/// Starts gobgpd, a peer of the ToR and of the raw speaker.
pub(super) fn start(world: &mut World) -> Result<Rc<Daemon>> {
    let (gobgpd, gobgp) = (unpacked("usr/bin/gobgpd")?, unpacked("usr/bin/gobgp")?);
    let place = Place::clear(world, SPEAKERS[0])?;
    let node = place.node(world);
    let directory = world.lab.subdirectory("gobgp")?;
    let config = directory.join("gobgpd.toml");
    fs::write(&config, configuration(node))?;
    let target = format!("unix://{}", directory.join("grpc.sock").display());
    let spec = Spec::new("gobgpd", gobgpd, world.lab.log("gobgpd")?).inside(&node.netns);
    let spec = spec.arg("--config-file").arg(&config).args(["--config-type", "toml", "--api-hosts", &target]);
    let (process, next_hop) = (spec.start()?, node.plan.link4(2));
    Ok(Rc::new(Daemon { _process: process, place, gobgp, target, next_hop }))
}

fn configuration(node: &Node) -> String {
    let plan = node.plan;
    let neighbor = |address, asn, port| {
        format!(
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n\
             [neighbors.timers.config]\nconnect-retry = 1\nhold-time = 9\nkeepalive-interval = 1\n\
             [neighbors.transport.config]\nremote-port = {port}\n"
        )
    };
    format!(
        "[global.config]\nas = {}\nrouter-id = \"{}\"\n{}{}",
        plan.asn(),
        plan.loopback4(),
        neighbor(plan.link4(1), TOR_ASN, 179),
        neighbor(plan.link4(3), WIRE_ASN, WIRE_PORT),
    )
}

impl Daemon {
    fn command(&self, args: &[&str]) -> Result<()> {
        output(Command::new(&self.gobgp).args(["--target", &self.target]).args(args)).map(drop)
    }

    fn rib(&self, n: u16, present: bool) -> Result<()> {
        let (verb, prefix, next_hop) = (verb(present), host(vip4(n)).to_string(), self.next_hop.to_string());
        self.command(&["global", "rib", verb, &prefix, "nexthop", &next_hop])
    }
}

const fn verb(present: bool) -> &'static str {
    if present { "add" } else { "del" }
}

/// `gobgp global rib add|del` for each VIP, one after the other.
pub(super) struct Processes {
    daemon: Rc<Daemon>,
    count: u16,
}

impl Processes {
    pub(super) fn new(daemon: &Rc<Daemon>, count: u16) -> Self {
        Self { daemon: Rc::clone(daemon), count }
    }
}

impl Way for Processes {
    fn name(&self) -> String {
        "GoBGP, a gobgp process for each VIP".to_owned()
    }

    fn node<'a>(&self, world: &'a World) -> &'a Node {
        self.daemon.place.node(world)
    }

    fn act(&mut self, _: &World, change: Change) -> Result<Instant> {
        let since = Instant::now();
        for n in change.vips(self.count) {
            self.daemon.rib(n, change.present)?;
        }
        Ok(since)
    }
}

/// A gobgp process that runs all the time and streams the paths of a pipe in one gRPC call (`mrt inject`). It cannot withdraw:
/// another process does (`global rib del`, for all of them in one call).
pub(super) struct Stream {
    _process: Process,
    daemon: Rc<Daemon>,
    pipe: File,
    count: u16,
}

impl Stream {
    pub(super) fn start(daemon: &Rc<Daemon>, world: &World, count: u16) -> Result<Self> {
        let path = world.lab.subdirectory("gobgp")?.join("pipe");
        let mut pipe = fifo(&path)?;
        let spec = Spec::new("gobgp", &daemon.gobgp, world.lab.log("gobgp")?);
        let spec = spec.args(["--target", &daemon.target, "mrt", "inject", "global"]).arg(&path);
        wait::until_true("gobgpd", LIMIT, || daemon.command(&["global"]).map(|()| true))?;
        let process = spec.start()?;
        pipe.write_all(&mrt::peers())?;
        Ok(Self { _process: process, daemon: Rc::clone(daemon), pipe, count })
    }
}

impl Way for Stream {
    fn name(&self) -> String {
        "GoBGP, a stream".to_owned()
    }

    fn node<'a>(&self, world: &'a World) -> &'a Node {
        self.daemon.place.node(world)
    }

    fn act(&mut self, _: &World, change: Change) -> Result<Instant> {
        let path = |n| match vip4(n) {
            IpAddr::V4(address) => Some(mrt::path(self.daemon.next_hop, address.into())),
            IpAddr::V6(_) => None,
        };
        let records: Vec<_> = change.vips(self.count).filter_map(path).collect();
        let since = Instant::now();
        if change.present {
            for batch in records.chunks(RECORDS) {
                self.pipe.write_all(&batch.concat())?;
            }
        } else if change.all {
            self.daemon.command(&["global", "rib", "del", "all"])?;
        } else {
            self.daemon.rib(FIRST, false)?;
        }
        Ok(since)
    }
}
