//! cosmolet beside other ways to have VIPs advertised: vtysh and frr-reload.py with the same FRR, GoBGP and ExaBGP in its place.
//!
//! All take turns on one fabric: from the act to the last UPDATE at a raw speaker, and to the last route in the ToR's kernel.
//! They do different jobs. Only cosmolet watches endpoints, keeps the address on the loopback and reads back what FRR made of
//! it; only GoBGP and ExaBGP wait for no timer of FRR, and are a BGP speaker of their own that the node's FRR knows nothing of.

mod exabgp;
mod frr;
mod gobgp;
mod mrt;
mod own;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::figure::{Figure, Summary};
use super::world::{LIMIT, World};
use crate::fabric::{Node, TOR_ASN, VIPS_V4};
use crate::frr::Daemon;
use crate::report::ms;
use crate::wait;

/// The nodes of those that bring a BGP speaker, after the two of every [`World`].
const SPEAKERS: [&str; 2] = ["gobgp", "exabgp"];
/// How often one VIP among many goes and comes in a round.
const ONES: usize = 3;
/// The first of all VIPs is the one that changes alone.
const FIRST: u16 = 1;

/// What is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    /// All VIPs or the first one alone.
    all: bool,
    /// Whether they are to be advertised.
    present: bool,
}

impl Change {
    const fn one(present: bool) -> Self {
        Self { all: false, present }
    }

    const fn all(present: bool) -> Self {
        Self { all: true, present }
    }

    /// The numbers of the VIPs that change, of `count`.
    fn vips(self, count: u16) -> std::ops::RangeInclusive<u16> {
        FIRST..=if self.all { count } else { FIRST }
    }
}

/// One way to have VIPs advertised.
trait Way {
    /// What it is called in the table.
    fn name(&self) -> String;

    /// The node where it works.
    fn node<'a>(&self, world: &'a World) -> &'a Node;

    /// Makes the change; returns the moment before the act.
    fn act(&mut self, world: &World, change: Change) -> Result<Instant>;

    /// Waits for what a withdrawal leaves to be done after the UPDATE; `standing` VIPs are still advertised.
    fn settle(&self, _world: &World, _standing: usize) -> Result<()> {
        Ok(())
    }
}

/// Spans of one change by one way, since the act.
#[derive(Debug, Default)]
struct Spans {
    wire: Vec<Duration>,
    kernel: Vec<Duration>,
}

type Found = BTreeMap<Change, Spans>;

/// Measures `count` VIPs by the ways that can do that many within minutes: all at once, where there are more than one, and one.
pub fn measure(count: u16, rounds: usize) -> Result<Vec<Figure>> {
    let mut world = World::raise_among(&SPEAKERS)?;
    let mut ways = ways(&mut world, count)?;
    let mut found: Vec<Found> = ways.iter().map(|_| Found::new()).collect();
    for way in &mut ways {
        // Opens sessions, sockets and caches; what it takes is not counted.
        round(&world, way.as_mut(), 1, 1, &mut Found::new()).with_context(|| way.name())?;
    }
    for _ in 0..rounds {
        for (way, found) in ways.iter_mut().zip(&mut found) {
            round(&world, way.as_mut(), count, ONES, found).with_context(|| way.name())?;
        }
    }
    let names: Vec<String> = ways.iter().map(|way| way.name()).collect();
    Ok(figures(count, &names, &found))
}

/// The daemon first: what the others are compared with.
fn ways(world: &mut World, count: u16) -> Result<Vec<Box<dyn Way>>> {
    let mut ways: Vec<Box<dyn Way>> = vec![Box::new(own::Own::start(world, count)?)];
    // Each removed line, or each VIP, is a process: minutes with ten thousand.
    let processes = count <= 1000;
    if processes {
        frr::put_addresses(world, count)?;
        ways.push(Box::new(frr::Vtysh { count }));
        ways.push(Box::new(frr::Reload::prepare(world, count)?));
    }
    let daemon = gobgp::start(world)?;
    if processes {
        ways.push(Box::new(gobgp::Processes::new(&daemon, count)));
    }
    ways.push(Box::new(gobgp::Stream::start(&daemon, world, count)?));
    ways.push(Box::new(exabgp::ExaBgp::start(world, count)?));
    Ok(ways)
}

/// Everything comes, one goes and comes back (where there are more), everything goes.
fn round(world: &World, way: &mut dyn Way, count: u16, ones: usize, found: &mut Found) -> Result<()> {
    let (all, one) = (usize::from(count), usize::from(count) - 1);
    if count == 1 {
        turn(world, way, Change::one(true), 1, found)?;
        return turn(world, way, Change::one(false), 0, found);
    }
    turn(world, way, Change::all(true), all, found)?;
    for _ in 0..ones {
        turn(world, way, Change::one(false), one, found)?;
        turn(world, way, Change::one(true), all, found)?;
    }
    turn(world, way, Change::all(false), 0, found)
}

/// One change, after which `standing` VIPs are advertised.
fn turn(world: &World, way: &mut dyn Way, change: Change, standing: usize, found: &mut Found) -> Result<()> {
    // FRR and the ToR still process what came before.
    std::thread::sleep(Duration::from_millis(if standing > 1 || change.all { 500 } else { 100 }));
    let since = way.act(world, change)?;
    let range = IpNet::from(VIPS_V4);
    let wire = way.node(world).wire()?.wait_count(range, standing, since, LIMIT)?;
    let kernel = world.fabric.routes().wait_count(range, standing, since, LIMIT)?;
    if change.all {
        eprintln!("  {}: {change:?}: UPDATE {}, route {}", way.name(), ms(wire), ms(kernel));
    }
    let spans = found.entry(change).or_default();
    spans.wire.push(wire);
    spans.kernel.push(kernel);
    if change.present { Ok(()) } else { way.settle(world, standing) }
}

/// Two rows for each way and change; the baseline is the daemon's.
fn figures(count: u16, names: &[String], found: &[Found]) -> Vec<Figure> {
    let mut rows = Vec::new();
    let Some(own) = found.first() else { return rows };
    for (change, of_own) in own {
        for (name, spans) in names.iter().zip(found) {
            let Some(spans) = spans.get(change) else { continue };
            let what = match (change.all, count) {
                (true, _) => format!("all {count} VIPs"),
                (false, 1) => "1 VIP".to_owned(),
                (false, _) => format!("1 of {count} VIPs"),
            };
            let what = format!("{what} {} by {name}", if change.present { "advertised" } else { "withdrawn" });
            for (end, theirs, ours) in
                [("UPDATE", &spans.wire, &of_own.wire), ("route at the ToR", &spans.kernel, &of_own.kernel)]
            {
                let (theirs, ours) = (Summary::of_spans(theirs), Summary::of_spans(ours));
                rows.push(Figure::ratio(format!("{what} -> {end}"), theirs, "cosmolet", ours));
            }
        }
    }
    rows
}

/// A file of those that `cargo xtask bench peers` unpacks.
fn unpacked(file: &str) -> Result<PathBuf> {
    let directory = std::env::var_os("COSMOLET_PEERS_DIR").map(PathBuf::from);
    let path = directory.map(|directory| directory.join(file)).filter(|path| path.exists());
    path.with_context(|| format!("{file} is not in COSMOLET_PEERS_DIR: `cargo xtask bench peers` unpacks and sets it"))
}

/// Where another speaker stands in for a node's FRR.
struct Place {
    /// The node's place among the fabric's.
    index: usize,
}

impl Place {
    /// Ends FRR on a node. Its ToR tells it nothing from then on: what the others advertise is no work for it.
    fn clear(world: &mut World, name: &str) -> Result<Self> {
        let index = world.fabric.nodes.iter().position(|node| node.name() == name);
        let place = Self { index: index.with_context(|| format!("no node {name}"))? };
        let peer = place.node(world).plan.link4(2);
        world.fabric.tor_frr.configure(&[
            "ip prefix-list NOTHING seq 5 deny any".to_owned(),
            format!("router bgp {TOR_ASN}"),
            "address-family ipv4 unicast".to_owned(),
            format!("neighbor {peer} prefix-list NOTHING out"),
        ])?;
        for daemon in [Daemon::Bgpd, Daemon::Zebra] {
            world.fabric.nodes[place.index].frr.kill(daemon)?;
        }
        let wire = place.node(world).wire()?;
        wait::until_true("the end of the raw BGP session", LIMIT, || Ok(!wire.is_up()))?;
        Ok(place)
    }

    fn node<'a>(&self, world: &'a World) -> &'a Node {
        &world.fabric.nodes[self.index]
    }
}

/// A FIFO, open at both ends: its reader never sees an end.
#[expect(unsafe_code, reason = "mkfifo(3) has no safe wrapper in std")]
fn fifo(path: &Path) -> Result<File> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the name is a terminated string that outlives the call.
    if unsafe { libc::mkfifo(name.as_ptr(), 0o600) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("making {}", path.display()));
    }
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}
