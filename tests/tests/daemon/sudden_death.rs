//! SIGKILL at any moment: the next start adopts what is there, and nothing of anybody else's has been touched.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::{Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::stage::{Options, PORT, Stage};
use ipnet::IpNet;

use crate::{LIMIT, ensure_unmoved, frr, loopback, wait_vip};

const NODES: [&str; 2] = ["node1", "node2"];
const ROUNDS: u32 = 20;
/// VIPs of a Service that is changed in every round; 1 is that of `web`, which nobody changes.
const CHANGING: std::ops::Range<u16> = 100..140;
const FOREIGN: [IpAddr; 2] = [vip4(60), vip6(60)];

#[test]
fn killed_at_any_moment_it_adopts() -> Result<()> {
    let specs = [NodeSpec::new(NODES[0], Mode::Connected), NodeSpec::new(NODES[1], Mode::Dynamic)];
    let mut stage = Stage::raise(&specs, Options::default())?;
    for (node, vip) in stage.fabric.nodes.iter().flat_map(|node| FOREIGN.map(|vip| (node, vip))) {
        node.add_vip(vip)?;
    }
    let before = [(loopback(&stage, 0)?, frr(&stage, 0)?.operators), (loopback(&stage, 1)?, frr(&stage, 1)?.operators)];
    stage.start()?;
    stage.wait_nodes(&NODES, Instant::now(), LIMIT)?;
    let since = Instant::now();
    let seed = u64::from(std::process::id());
    let mut random = Random(seed);
    for round in 0..ROUNDS {
        round_of(&mut stage, &mut random).with_context(|| format!("round {round} with the seed {seed}"))?;
    }
    ensure_unmoved(&stage, since)?;
    let moved = CHANGING.filter(|number| !stage.fabric.routes().changes(host(vip4(*number)), since).is_empty()).count();
    ensure!(moved == CHANGING.len(), "only {moved} VIPs ever moved: the daemons were killed before they did anything");
    // One half of the VIPs is wanted at the end.
    write_changing(&stage, CHANGING.step_by(2), State::Ready)?;
    stage.start()?;
    for number in CHANGING {
        let nodes = if number % 2 == 0 { &NODES[..] } else { &[] };
        for vip in [vip4(number), vip6(number)] {
            wait_vip(&stage, vip, nodes)?;
        }
    }
    let wanted = prefixes(CHANGING.step_by(2).chain([1]));
    for (index, (addresses, operators)) in before.iter().enumerate() {
        let expected: BTreeSet<IpNet> = addresses.union(&wanted).copied().collect();
        cosmolet_tests::wait::until_true("nothing else is left", LIMIT, || {
            let held = loopback(&stage, index)?;
            ensure!(held == expected, "lo of {} has {held:?}, wanted {expected:?}", NODES[index]);
            Ok(true)
        })?;
        let config = frr(&stage, index)?;
        ensure!(config.operators == *operators, "before {operators}, after {}", config.operators);
        let networks = if index == 1 { wanted.clone() } else { BTreeSet::new() };
        ensure!(config.ours == networks, "{}: {:?}", NODES[index], config.ours);
    }
    ensure_unmoved(&stage, since)
}

/// Both daemons run for a random time, have things to do all the while, and are killed.
fn round_of(stage: &mut Stage, random: &mut Random) -> Result<()> {
    for daemon in &mut stage.daemons {
        if daemon.process().is_err() {
            daemon.launch()?;
        }
    }
    if random.below(2) == 0 {
        stage.daemons.iter_mut().try_for_each(|daemon| daemon.wait_ready(LIMIT))?;
    }
    let changes = 1 + random.below(3);
    for _ in 0..changes {
        std::thread::sleep(Duration::from_millis(random.below(150)));
        let step = usize::try_from(1 + random.below(4))?;
        let state = if random.below(4) == 0 { State::NotReady } else { State::Ready };
        write_changing(stage, CHANGING.step_by(step), state)?;
    }
    std::thread::sleep(Duration::from_millis(random.below(60)));
    stage.daemons.iter_mut().try_for_each(|daemon| daemon.kill().map(drop))
}

/// Service `changing` with these VIPs, whose endpoint on every node is in this state.
fn write_changing(stage: &Stage, numbers: impl Iterator<Item = u16>, state: State) -> Result<()> {
    let vips: Vec<IpAddr> = numbers.flat_map(|number| [vip4(number), vip6(number)]).collect();
    let service = objects::local(objects::service("changing", &vips, &[PORT]));
    let slice = |family: &str, vip: IpAddr| {
        let endpoint =
            |node: &cosmolet_tests::fabric::Node| objects::endpoint(node.backend_address(vip).ip(), node.name(), state);
        let name = format!("changing-{family}");
        objects::slice(&name, "changing", 8080, stage.fabric.nodes.iter().map(endpoint).collect())
    };
    let slices = [slice("v4", vip4(1)), slice("v6", vip6(1))];
    for manifests in &stage.manifests {
        manifests.write_all("changing-slices", &slices)?;
        manifests.write("changing", &service)?;
    }
    Ok(())
}

fn prefixes(numbers: impl Iterator<Item = u16>) -> BTreeSet<IpNet> {
    numbers.flat_map(|number| [host(vip4(number)), host(vip6(number))]).collect()
}

/// xorshift64*: a seed names the whole story.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}
