//! ExaBGP in place of a node's FRR, told by its API pipe, as its health checks do it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::{Change, Place, SPEAKERS, Way, fifo, unpacked};
use crate::bench::world::World;
use crate::fabric::{Node, TOR_ASN, WIRE_ASN, WIRE_PORT, host, vip4};
use crate::frr::PYTHON;
use crate::process::{Process, Spec};

/// The running speaker.
pub(super) struct ExaBgp {
    _process: Process,
    place: Place,
    /// What is written here its API process writes to it.
    pipe: File,
    count: u16,
}

impl ExaBgp {
    /// Starts it, a peer of the ToR and of the raw speaker.
    pub(super) fn start(world: &mut World, count: u16) -> Result<Self> {
        let modules = unpacked("usr/lib/python3/dist-packages")?;
        let place = Place::clear(world, SPEAKERS[1])?;
        let node = place.node(world);
        let directory = world.lab.subdirectory("exabgp")?;
        let (config, path) = (directory.join("exabgp.conf"), directory.join("pipe"));
        let pipe = fifo(&path)?;
        fs::write(&config, configuration(node, &path))?;
        let spec = Spec::new("exabgp", PYTHON, world.lab.log("exabgp")?).inside(&node.netns);
        let spec = spec.env("PYTHONPATH", modules).args(["-m", "exabgp"]).arg(&config);
        // Its API process reads no answers; nobody else is to reach it.
        let settings = [("api_ack", "false"), ("api_cli", "false"), ("daemon_user", "root"), ("log_level", "WARNING")];
        let spec = settings.iter().fold(spec, |spec, (key, value)| spec.env(format!("exabgp_{key}"), value));
        Ok(Self { _process: spec.start()?, place, pipe, count })
    }
}

fn configuration(node: &Node, pipe: &Path) -> String {
    let plan = node.plan;
    let neighbor = |address, asn, port| {
        format!(
            "neighbor {address} {{\n router-id {};\n local-address {};\n local-as {};\n peer-as {asn};\n connect {port};\n \
             hold-time 9;\n family {{ ipv4 unicast; }}\n api {{ processes [ vips ]; }}\n}}\n",
            plan.loopback4(),
            plan.link4(2),
            plan.asn(),
        )
    };
    format!(
        "process vips {{\n run /bin/cat {};\n encoder text;\n}}\n{}{}",
        pipe.display(),
        neighbor(plan.link4(1), TOR_ASN, 179),
        neighbor(plan.link4(3), WIRE_ASN, WIRE_PORT),
    )
}

impl Way for ExaBgp {
    fn name(&self) -> String {
        "ExaBGP".to_owned()
    }

    fn node<'a>(&self, world: &'a World) -> &'a Node {
        self.place.node(world)
    }

    fn act(&mut self, _: &World, change: Change) -> Result<Instant> {
        let verb = if change.present { "announce" } else { "withdraw" };
        let line = |n| format!("{verb} route {} next-hop self\n", host(vip4(n)));
        let text: String = change.vips(self.count).map(line).collect();
        let since = Instant::now();
        self.pipe.write_all(text.as_bytes())?;
        Ok(since)
    }
}
