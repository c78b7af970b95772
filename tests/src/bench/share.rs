//! The daemon's own share: from an endpoint's change to the first byte at FRR.
//!
//! The clock starts before the rename of a manifest and stops when a transparent proxy before bgpd's socket has read the
//! command: inotify, parsing, projection, engine, plan, the address on the loopback and the socket are all in it.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::figure::{Figure, Measure, Summary};
use super::proxy::Proxy;
use super::world::{LIMIT, World, list, service, slice};
use crate::fabric::{host, vip4};
use crate::objects::State;
use crate::vty::Vty;

/// VIPs that take turns, so that the address of each is gone again before its next turn.
pub(super) const VIPS: u16 = 32;
const REST: Duration = Duration::from_millis(25);
/// The most that 99 of 100 events may take, in milliseconds.
const TARGET: f64 = 3.0;

/// Measures. The baseline is the way through the proxy alone: a raw client's write of one `network`.
pub fn measure(rounds: usize) -> Result<Vec<Figure>> {
    let (world, proxy) = raise(0)?;
    let mut vty = Vty::connect(proxy.path(), LIMIT)?;
    let (mut ready, mut not_ready, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for n in (1..=VIPS).cycle().take(rounds) {
        ready.push(event(&world, &proxy, n, State::Ready)?);
        not_ready.push(event(&world, &proxy, n, State::NotReady)?);
        sleep(REST);
        let since = Instant::now();
        vty.configure_ok(&["router bgp", "address-family ipv4 unicast", "no network 192.0.2.1/32"]).ok();
        alone.push(proxy.wait_command("no network 192.0.2.1/32", since, LIMIT)?.duration_since(since));
    }
    fs::remove_file(proxy.path())?;
    let row = |name: &str, spans: &[Duration]| Figure {
        name: name.to_owned(),
        unit: "ms",
        own: Summary::of_spans(spans),
        against: "raw write through the same proxy".to_owned(),
        baseline: Some(Summary::of_spans(&alone)),
        measure: Measure::P99,
        target: Some(TARGET),
    };
    Ok(vec![
        row("daemon's share: ready -> address -> bytes to FRR", &ready),
        row("daemon's share: not ready -> bytes to FRR", &not_ready),
    ])
}

/// A started daemon with this many VIPs more than those that take turns, all withdrawn.
pub(super) fn raise(others: u16) -> Result<(World, Proxy)> {
    let (mut world, proxy) = World::raise_proxied()?;
    world.put("services.json", &list((1..=VIPS + others).map(service))?)?;
    for n in 1..=VIPS {
        world.put(&format!("s{n}.json"), &list([slice(n, State::NotReady)])?)?;
    }
    world.start()?;
    world.wait_state("withdrawn", (VIPS + others).into())?;
    Ok((world, proxy))
}

/// After a rest, from the rename of a VIP's manifest to the first byte of its command at FRR.
pub(super) fn event(world: &World, proxy: &Proxy, n: u16, state: State) -> Result<Duration> {
    sleep(REST);
    let no = if state == State::Ready { "" } else { "no " };
    let since = world.put(&format!("s{n}.json"), &list([slice(n, state)])?)?;
    let at = proxy.wait_command(&format!("{no}network {}", host(vip4(n))), since, LIMIT)?;
    Ok(at.duration_since(since))
}
