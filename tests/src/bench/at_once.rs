//! A withdrawal by the prefix-list that an operator lends, beside one by the `network` statement alone.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use cosmolet::frr::withdrawn::LIST;

use super::figure::{Figure, Measure, Summary};
use super::raw::Raw;
use super::world::{LIMIT, World, list, service, slice, vips};
use crate::fabric::{Mode, VIPS_V4, host};
use crate::objects::State;

/// How many VIPs FRR has beside the one that goes.
const AMONG: [u16; 3] = [1, 100, 1000];
/// What is promised on the wire, in ms.
const TARGET: f64 = 3.0;
/// So long nothing is done before each measurement: an entry of the list has gone by then, and a lease may have been renewed.
const REST: Duration = Duration::from_millis(1500);

/// Measures. Both have the same number of VIPs; of ours the clock starts before the rename of a manifest.
pub fn measure(rounds: usize) -> Result<Vec<Figure>> {
    AMONG.into_iter().map(|count| among(count, rounds)).collect()
}

fn among(count: u16, rounds: usize) -> Result<Figure> {
    let mut world = World::raise(Mode::Dynamic)?;
    let wire = world.own().plan.link4(3);
    world.own().frr.configure(&[
        &format!("ip prefix-list {LIST} seq 4294967295 permit any"),
        "router bgp",
        "address-family ipv4 unicast",
        &format!("neighbor {wire} prefix-list {LIST} out"),
    ])?;
    world.put("services.json", &list((1..=count).map(service))?)?;
    world.put("others.json", &list((2..=count).map(|n| slice(n, State::Ready)))?)?;
    world.put("first.json", &list([slice(1, State::Ready)])?)?;
    world.start()?;
    world.wait_state("advertised", count.into())?;
    let mut client = Raw::connect(world.raw())?;
    let vips = vips(count);
    let first = &vips[..1];
    client.advertise(&vips)?;
    for node in [world.own(), world.raw()] {
        node.wire()?.wait_count(VIPS_V4.into(), count.into(), Instant::now(), LIMIT)?;
    }
    let (mut own, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..=rounds {
        sleep(REST);
        let since = world.put("first.json", &list([slice(1, State::NotReady)])?)?;
        own.push(world.own().wire()?.wait_withdrawn(host(first[0]), since, LIMIT)?);
        let since = client.withdraw(first)?;
        raw.push(world.raw().wire()?.wait_withdrawn(host(first[0]), since, LIMIT)?);
        sleep(REST);
        let since = world.put("first.json", &list([slice(1, State::Ready)])?)?;
        world.own().wire()?.wait_advertised(host(first[0]), since, LIMIT)?;
        client.networks(first)?;
    }
    // The first round makes what the later ones find.
    let (own, raw) = (&own[1..], &raw[1..]);
    Ok(Figure {
        name: format!("1 of {count} VIPs: not ready -> UPDATE, by the lent list"),
        unit: "ms",
        own: Summary::of_spans(own),
        against: "raw: `no network`".to_owned(),
        baseline: Some(Summary::of_spans(raw)),
        measure: Measure::P50,
        target: Some(TARGET),
    })
}
