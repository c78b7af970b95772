//! How long a fault of one VIP among many takes to withdraw it, from its translation leading to a bad backend to the ToR's kernel.
//!
//! Clients of four prefixes make ten connections a second to each VIP. The faults come one after the other, so that they lie
//! anywhere between two readings of the counters. Kubernetes sees none of them: every endpoint stays ready.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::figure::{Figure, Measure, Summary};
use super::pairs;
use crate::backend::Backend;
use crate::client::{Client, Load};
use crate::fabric::{BACKEND_PORT, Mode, NodeSpec, host};
use crate::nft::Mapping;
use crate::objects::{self, State};
use crate::stage::{Options, PORT, Stage};

const NODE: &str = "node1";
const PER_VIP: u32 = 10;
/// Until answers have been seen and it is known what is usual.
const WARM: Duration = Duration::from_secs(12);
/// Between two faults.
const PAUSE: Duration = Duration::from_millis(230);
const LIMIT: Duration = Duration::from_secs(90);
/// Ports of the pod where nobody listens, where nothing is answered, and where all is answered badly.
const NOBODY: u16 = BACKEND_PORT + 1;
const SILENT: u16 = BACKEND_PORT + 2;
const UNHEALTHY: u16 = BACKEND_PORT + 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Host,
    Refused,
    Silent,
    Half,
    Unhealthy,
}

impl Fault {
    const ALL: [Self; 5] = [Self::Host, Self::Refused, Self::Silent, Self::Half, Self::Unhealthy];

    const fn name(self) -> &'static str {
        match self {
            Self::Host => "nothing translates the VIP: the host refuses",
            Self::Refused => "the backend refuses all",
            Self::Silent => "the backend is silent",
            Self::Half => "one of two backends refuses",
            Self::Unhealthy => "all is answered by 503, and its owner has it asked every 5 s",
        }
    }

    /// In milliseconds.
    const fn target(self) -> Option<f64> {
        match self {
            Self::Host => Some(2000.0),
            Self::Refused | Self::Silent => Some(5000.0),
            Self::Half => Some(10_000.0),
            Self::Unhealthy => None,
        }
    }

    /// Where a VIP's connections go.
    fn backends(self, good: SocketAddr) -> Vec<SocketAddr> {
        let at = |port| SocketAddr::new(good.ip(), port);
        match self {
            Self::Host => vec![],
            Self::Refused => vec![at(NOBODY)],
            Self::Silent => vec![at(SILENT)],
            Self::Half => vec![good, at(NOBODY)],
            Self::Unhealthy => vec![at(UNHEALTHY)],
        }
    }
}

/// Measures; 50 VIPs in each of several passes, 6 in a single one.
pub fn measure(passes: usize) -> Result<Vec<Figure>> {
    let count = if passes == 1 { 3 } else { 25 };
    let options = Options { traffic: "enforce", elsewhere: true, ..Options::default() };
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], options)?;
    let unhealthy = Backend::start(&stage.fabric.nodes[0].pod, "unhealthy", UNHEALTHY)?;
    unhealthy.answer_with(503);
    let silence = format!(
        "table inet csm_silent {{ chain in {{ type filter hook input priority 0; tcp dport {SILENT} drop; }}; }}"
    );
    stage.fabric.nodes[0].pod.exec_with_input("nft", &["-f", "-"], &silence)?;
    let sources = stage.prefixes_of_the_client()?;
    let mut figures = Vec::new();
    for fault in Fault::ALL {
        let mut waits = Vec::new();
        for _ in 0..passes {
            waits.extend(pass(&mut stage, fault, count, &sources)?);
        }
        figures.push(Figure {
            name: format!("{} -> gone from the ToR's kernel", fault.name()),
            unit: "ms",
            own: Summary::of_spans(&waits),
            against: "none: every endpoint stays ready".to_owned(),
            baseline: None,
            measure: Measure::P99,
            target: fault.target(),
        });
    }
    Ok(figures)
}

/// Starts a daemon that remembers nothing, breaks one VIP after the other and waits until each is gone.
fn pass(stage: &mut Stage, fault: Fault, count: u16, sources: &[IpAddr]) -> Result<Vec<Duration>> {
    let targets = pairs::targets(count);
    let vips: Vec<IpAddr> = targets.iter().map(SocketAddr::ip).collect();
    write(stage, fault, count)?;
    translate(stage, fault, &vips, &BTreeSet::new())?;
    stage.daemons[0].start()?;
    let since = Instant::now();
    for vip in &vips {
        stage.fabric.routes().wait_nodes(host(*vip), since, LIMIT, &[NODE])?;
    }
    let per_second = PER_VIP * u32::from(count) * 2;
    let load = Load { per_second, sources: sources.to_vec(), ..Load::new(targets) };
    let client = Client::start(&stage.fabric.client, load)?;
    sleep(WARM);
    let (mut broken, mut began) = (BTreeSet::new(), Vec::new());
    for vip in &vips {
        broken.insert(*vip);
        began.push((*vip, Instant::now()));
        translate(stage, fault, &vips, &broken)?;
        sleep(PAUSE);
    }
    let gone = |(vip, since): &(IpAddr, Instant)| stage.fabric.routes().wait_nodes(host(*vip), *since, LIMIT, &[]);
    let waits = began.iter().map(gone).collect::<Result<Vec<_>>>()?;
    drop(client);
    stage.daemons[0].stop(LIMIT)?;
    Ok(waits)
}

fn translate(stage: &mut Stage, fault: Fault, vips: &[IpAddr], broken: &BTreeSet<IpAddr>) -> Result<()> {
    let node = &stage.fabric.nodes[0];
    let mapping = |vip: &IpAddr| {
        let good = node.backend_address(*vip);
        let backends = if broken.contains(vip) { fault.backends(good) } else { vec![good] };
        Mapping { backends, ..Mapping::tcp(*vip, PORT, good) }
    };
    // Without a mapping the host itself is asked; one without backends would reject.
    let lost = |vip: &&IpAddr| fault == Fault::Host && broken.contains(*vip);
    let mappings = vips.iter().filter(|vip| !lost(vip)).map(mapping).collect();
    stage.fabric.nodes[0].proxy.set(mappings)
}

fn write(stage: &Stage, fault: Fault, count: u16) -> Result<()> {
    let mut services = pairs::services(count);
    if fault == Fault::Unhealthy {
        for service in &mut services {
            let probe = ("cosmolet.io/probe".to_owned(), "http:///healthz".to_owned());
            service.metadata.annotations = Some([probe].into());
        }
    }
    stage.manifests[0].write_all("judged", &services)?;
    let endpoints = |vip| {
        let here = objects::endpoint(stage.fabric.nodes[0].backend_address(vip).ip(), NODE, State::Ready);
        vec![here, objects::endpoint(Stage::elsewhere_of(vip), "elsewhere", State::Ready)]
    };
    stage.manifests[0].write_all("judged-endpoints", &pairs::slices(count, endpoints))
}
