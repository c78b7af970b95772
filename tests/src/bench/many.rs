//! Many VIPs at once: until the last prefix is on the wire, beside a raw client that does the same work in the same order.

use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;

use super::figure::{Figure, Summary};
use super::raw::Raw;
use super::world::{LIMIT, World, list, node, service, slice, vips};
use crate::fabric::{Mode, VIPS_V4};
use crate::objects::State;
use crate::report::ms;

/// What changes for the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The node's label that excludes it from load balancers: one small event concerns every VIP.
    Node,
    /// The endpoints of every Service, in one file with a slice for each.
    Endpoints,
}

#[derive(Debug, Default)]
struct Spans {
    advertised: Vec<Duration>,
    withdrawn: Vec<Duration>,
}

impl Spans {
    /// Long rounds say how far they are.
    fn tell(&self, who: &str) {
        if let (Some(advertised), Some(withdrawn)) = (self.advertised.last(), self.withdrawn.last()) {
            eprintln!("  {who}: advertised in {}, withdrawn in {}", ms(*advertised), ms(*withdrawn));
        }
    }
}

/// Measures `count` VIPs; each may take `limit` times as long as the raw client.
pub fn measure(mode: Mode, count: u16, limit: f64, rounds: usize) -> Result<Vec<Figure>> {
    let mut world = World::raise(mode)?;
    world.put("services.json", &list((1..=count).map(service))?)?;
    let slices = |state| list((1..=count).map(|n| slice(n, state)));
    let (ready, not_ready) = (slices(State::Ready)?, slices(State::NotReady)?);
    world.put("endpoints.json", &ready)?;
    world.put("node.json", &list([node(true)])?)?;
    world.start()?;
    world.wait_state("withdrawn", count.into())?;
    let mut client = Raw::connect(world.raw())?;
    let (mut by_node, mut by_endpoints, mut raw) = (Spans::default(), Spans::default(), Spans::default());
    for _ in 0..rounds {
        for (cause, spans) in [(Cause::Node, &mut by_node), (Cause::Endpoints, &mut by_endpoints)] {
            own_turn(&world, cause, count, [&ready, &not_ready], spans)?;
            spans.tell(&format!("own, {cause:?}"));
        }
        raw_turn(&world, &mut client, count, &mut raw)?;
        raw.tell("raw");
    }
    let (mark, against) = match mode {
        Mode::Connected => (", connected,", "raw: address batch"),
        Mode::Dynamic => ("", "raw: address batch, then networks"),
    };
    let row = |name: &str, own: &[Duration], raw: &[Duration]| {
        let name = format!("{count} VIPs{mark} {name}");
        Figure::ratio(name, Summary::of_spans(own), against, Summary::of_spans(raw)).at_most(limit)
    };
    Ok(vec![
        row("advertised (node included)", &by_node.advertised, &raw.advertised),
        row("withdrawn (node excluded)", &by_node.withdrawn, &raw.withdrawn),
        row("advertised (one file of slices)", &by_endpoints.advertised, &raw.advertised),
        row("withdrawn (one file of slices)", &by_endpoints.withdrawn, &raw.withdrawn),
    ])
}

/// Everything is withdrawn and off the loopback before and after.
fn own_turn(world: &World, cause: Cause, count: u16, slices: [&str; 2], spans: &mut Spans) -> Result<()> {
    if cause == Cause::Endpoints {
        world.put("endpoints.json", slices[1])?;
        world.put("node.json", &list([node(false)])?)?;
        std::thread::sleep(Duration::from_secs(2));
    }
    let wire = world.own().wire()?;
    let change = |present: bool| match cause {
        Cause::Node => world.put("node.json", &list([node(!present)])?),
        Cause::Endpoints => world.put("endpoints.json", slices[usize::from(!present)]),
    };
    settle(count);
    let since = change(true)?;
    spans.advertised.push(wire.wait_count(VIPS_V4.into(), count.into(), since, LIMIT)?);
    world.wait_state("advertised", count.into())?;
    settle(count);
    let since = change(false)?;
    spans.withdrawn.push(wire.wait_count(VIPS_V4.into(), 0, since, LIMIT)?);
    world.wait_state("withdrawn", count.into())?;
    if cause == Cause::Endpoints {
        world.put("node.json", &list([node(true)])?)?;
        std::thread::sleep(Duration::from_secs(1));
        world.put("endpoints.json", slices[0])?;
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

fn raw_turn(world: &World, client: &mut Raw, count: u16, spans: &mut Spans) -> Result<()> {
    let (wire, vips, range) = (world.raw().wire()?, vips(count), IpNet::from(VIPS_V4));
    settle(count);
    let since = client.advertise(&vips)?;
    spans.advertised.push(wire.wait_count(range, count.into(), since, LIMIT)?);
    settle(count);
    let since = client.withdraw(&vips)?;
    spans.withdrawn.push(wire.wait_count(range, 0, since, LIMIT)?);
    client.clear(&vips)?;
    world.wait_addresses(world.raw(), range, 0)
}

/// FRR and the ToR still process what came before.
fn settle(count: u16) {
    std::thread::sleep(Duration::from_millis(500 + u64::from(count) / 4));
}
