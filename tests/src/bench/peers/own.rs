//! The daemon: one VIP changes by its endpoint's manifest, all of them by the node's own (the label that excludes it).

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Change, FIRST, Way};
use crate::bench::world::{World, list, node, service, slice};
use crate::fabric::{Node, VIPS_V4};
use crate::objects::State;

/// The daemon of a [`World`].
pub(super) struct Own {
    count: u16,
}

impl Own {
    /// Starts it with `count` Services and no endpoint that is ready.
    pub(super) fn start(world: &mut World, count: u16) -> Result<Self> {
        world.put("services.json", &list((FIRST..=count).map(service))?)?;
        first(world, State::NotReady)?;
        world.start()?;
        world.wait_state("withdrawn", count.into())?;
        Ok(Self { count })
    }

    /// Makes every endpoint ready on a node that is excluded: nothing is advertised.
    fn hold_all(&self, world: &World) -> Result<()> {
        world.put("node.json", &list([node(true)])?)?;
        world.put("others.json", &list((FIRST + 1..=self.count).map(|n| slice(n, State::Ready)))?)?;
        first(world, State::Ready)?;
        sleep(Duration::from_secs(2));
        Ok(())
    }
}

fn first(world: &World, state: State) -> Result<Instant> {
    world.put("first.json", &list([slice(FIRST, state)])?)
}

impl Way for Own {
    fn name(&self) -> String {
        "cosmolet".to_owned()
    }

    fn node<'a>(&self, world: &'a World) -> &'a Node {
        world.own()
    }

    fn act(&mut self, world: &World, change: Change) -> Result<Instant> {
        match (change.all, change.present) {
            (false, true) => first(world, State::Ready),
            (false, false) => first(world, State::NotReady),
            (true, true) => {
                self.hold_all(world)?;
                world.put("node.json", &list([node(false)])?)
            }
            (true, false) => world.put("node.json", &list([node(true)])?),
        }
    }

    /// It removes an address a second after its withdrawal.
    fn settle(&self, world: &World, standing: usize) -> Result<()> {
        world.wait_addresses(world.own(), VIPS_V4.into(), standing)
    }
}
