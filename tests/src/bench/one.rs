//! One VIP: from an endpoint's change to the UPDATE on the wire, beside a raw client and vtysh.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::figure::{Figure, Summary};
use super::raw::{self, Raw};
use super::world::{LIMIT, World, list, service, slice, vips};
use crate::fabric::{Mode, Node, host};
use crate::objects::State;
use crate::wire::Wire;

/// VIPs that take turns, so that the address of each is gone again (1 s after its withdrawal) before its next turn.
const VIPS: u16 = 16;
/// So long nothing is done before each measurement.
const REST: Duration = Duration::from_millis(20);

/// Spans of one way of doing it.
#[derive(Debug, Default)]
struct Way {
    advertised: Vec<Duration>,
    withdrawn: Vec<Duration>,
}

/// Measures. The daemon's clock starts before the rename of a manifest; the others' when they begin to act. All add the
/// address to the loopback first. In Connected mode that is all there is to do, and its removal withdraws; in Dynamic mode
/// it is taken away only after the UPDATE that withdraws, and vtysh takes its turns as well.
pub fn measure(mode: Mode, rounds: usize) -> Result<Vec<Figure>> {
    let mut world = World::raise(mode)?;
    world.put("services.json", &list((1..=VIPS).map(service))?)?;
    for n in 1..=VIPS {
        world.put(&file(n), &list([slice(n, State::NotReady)])?)?;
    }
    world.start()?;
    world.wait_state("withdrawn", VIPS.into())?;
    let mut client = Raw::connect(world.raw())?;
    let (mut own, mut raw, mut vtysh) = (Way::default(), Way::default(), Way::default());
    for (n, vip) in (1..=VIPS).zip(vips(VIPS)).cycle().take(rounds + 1) {
        own.take(|present| own_turn(&world, n, vip, present))?;
        raw.take(|present| raw_turn(&mut client, world.raw(), vip, present))?;
        if mode == Mode::Dynamic {
            vtysh.take(|present| vtysh_turn(&mut client, world.raw(), vip, present))?;
        }
    }
    let ways = [own, raw, vtysh].map(Way::without_first);
    Ok(figures(mode, &ways))
}

fn figures(mode: Mode, [own, raw, vtysh]: &[Way; 3]) -> Vec<Figure> {
    let row = |name: &str, own: &[Duration], against: &str, raw: &[Duration]| {
        Figure::ratio(name, Summary::of_spans(own), against, Summary::of_spans(raw))
    };
    let (mark, client) = match mode {
        Mode::Connected => (", connected", "raw: address"),
        Mode::Dynamic => ("", "raw: address, pipelined vty"),
    };
    let mut rows = vec![
        row(&format!("1 VIP{mark}: endpoint ready -> UPDATE"), &own.advertised, client, &raw.advertised).at_most(1.1),
        row(&format!("1 VIP{mark}: not ready -> UPDATE"), &own.withdrawn, client, &raw.withdrawn).at_most(1.1),
    ];
    if mode == Mode::Dynamic {
        rows.push(row("  by one vtysh process: add", &vtysh.advertised, client, &raw.advertised));
        rows.push(row("  by one vtysh process: remove", &vtysh.withdrawn, client, &raw.withdrawn));
    }
    rows
}

impl Way {
    fn take(&mut self, mut turn: impl FnMut(bool) -> Result<Duration>) -> Result<()> {
        sleep(REST);
        self.advertised.push(turn(true)?);
        sleep(REST);
        self.withdrawn.push(turn(false)?);
        Ok(())
    }

    /// The first round opens what the later ones find open: sockets, route-maps, caches.
    fn without_first(self) -> Self {
        let rest = |spans: Vec<Duration>| spans.into_iter().skip(1).collect();
        Self { advertised: rest(self.advertised), withdrawn: rest(self.withdrawn) }
    }
}

fn file(n: u16) -> String {
    format!("s{n}.json")
}

fn wait(wire: &Wire, vip: IpAddr, present: bool, since: std::time::Instant) -> Result<Duration> {
    if present { wire.wait_advertised(host(vip), since, LIMIT) } else { wire.wait_withdrawn(host(vip), since, LIMIT) }
}

fn own_turn(world: &World, n: u16, vip: IpAddr, present: bool) -> Result<Duration> {
    let state = if present { State::Ready } else { State::NotReady };
    let since = world.put(&file(n), &list([slice(n, state)])?)?;
    wait(world.own().wire()?, vip, present, since)
}

fn raw_turn(client: &mut Raw, node: &Node, vip: IpAddr, present: bool) -> Result<Duration> {
    let since = if present { client.advertise(&[vip])? } else { client.withdraw(&[vip])? };
    let took = wait(node.wire()?, vip, present, since)?;
    if !present {
        client.clear(&[vip])?;
    }
    Ok(took)
}

fn vtysh_turn(client: &mut Raw, node: &Node, vip: IpAddr, present: bool) -> Result<Duration> {
    if present {
        client.add_addresses(&[vip])?;
    }
    let since = raw::vtysh(node, vip, present)?;
    let took = wait(node.wire()?, vip, present, since)?;
    if !present {
        client.remove_addresses(&[vip])?;
    }
    Ok(took)
}
