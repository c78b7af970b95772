//! Clients' failures while a node's translation lags behind the endpoints, with and without the wait for a proof.
//!
//! All endpoints become ready at once; the DNAT of one VIP after the other follows, the last 5 s later. A client connects to
//! all of them all the time. A request counts against an advertisement when it was started after the ToR's kernel had the
//! route.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::figure::{Figure, Measure, Summary};
use super::pairs;
use crate::client::{Client, Load, Outcome, Request};
use crate::fabric::{Mode, NodeSpec, host};
use crate::objects::{self, State};
use crate::stage::{Options, Stage};

const NODE: &str = "node1";
/// The longest lag.
const LAG: Duration = Duration::from_secs(5);
/// How long clients are watched once the last translation is there.
const AFTER: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(30);

/// What one round came to.
struct Round {
    /// Requests that failed though the ToR routed them.
    failed: usize,
    /// From a VIP's translation (its endpoint's readiness, where that is later) to the ToR's route; zero where the route was first.
    waits: Vec<Duration>,
}

/// Measures; `count` Services with a VIP of each family.
pub fn measure(count: usize) -> Result<Vec<Figure>> {
    let count = u16::try_from(count)?;
    let options = |seconds| Options { env: vec![("COSMOLET_TRAFFIC_PROVE_SECONDS", seconds)], ..Options::default() };
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], options("10"))?;
    stage.manifests[0].write_all("lagging", &pairs::services(count))?;
    let proving = round(&mut stage, count)?;
    stage.daemons[0].stop(LIMIT)?;
    stage.reconfigure(0, &options("0"))?;
    let without = round(&mut stage, count)?;
    let vips = count * 2;
    let sum = |round: &Round| Summary::of(&[f64::from(u32::try_from(round.failed).unwrap_or(u32::MAX))]);
    let against = "the same without proving".to_owned();
    Ok(vec![
        Figure {
            name: format!("requests that failed over {vips} advertisements, translation 0 to 5 s late"),
            unit: "requests",
            own: sum(&proving),
            against: against.clone(),
            baseline: Some(sum(&without)),
            measure: Measure::P50,
            target: Some(0.0),
        },
        Figure {
            name: "translation there -> the ToR's route".to_owned(),
            unit: "ms",
            own: Summary::of_spans(&proving.waits),
            against,
            baseline: Some(Summary::of_spans(&without.waits)),
            measure: Measure::P50,
            target: None,
        },
    ])
}

/// Starts the daemon, lets everything become ready and the translations follow, and takes all back.
fn round(stage: &mut Stage, count: u16) -> Result<Round> {
    stage.fabric.nodes[0].proxy.set(vec![])?;
    write_slices(stage, count, State::NotReady)?;
    stage.daemons[0].start()?;
    let targets = pairs::targets(count);
    let load = Load { per_second: 500, ..Load::new(targets.clone()) };
    let client = Client::start(&stage.fabric.client, load)?;
    let since = Instant::now();
    write_slices(stage, count, State::Ready)?;
    let ready = Instant::now();
    let pause = LAG / u32::from(count);
    let mut translated = Vec::new();
    for (n, served) in (0..count).zip(1_usize..) {
        sleep((ready + pause * u32::from(n)).saturating_duration_since(Instant::now()));
        stage.fabric.nodes[0].serve(targets.get(..served * 2).context("more translations than VIPs")?)?;
        translated.extend([Instant::now(); 2]);
    }
    let mut waits = Vec::new();
    let mut routed = Vec::new();
    for (vip, translated) in targets.iter().map(SocketAddr::ip).zip(translated) {
        let at = since + stage.fabric.routes().wait_nodes(host(vip), since, LIMIT, &[NODE])?;
        waits.push(at.saturating_duration_since(translated));
        routed.push((vip, at));
    }
    sleep(AFTER);
    let end = Instant::now();
    // Those under way come to their end.
    drop(client.summary(end, end));
    let requests = client.between(since, end);
    let after = |request: &&Request| routed.iter().any(|(vip, at)| *vip == request.target.ip() && request.at >= *at);
    let counted: Vec<&Request> = requests.iter().filter(after).collect();
    ensure!(counted.len() > routed.len(), "{} requests over {} advertisements", counted.len(), routed.len());
    let failed = counted.iter().filter(|request| !matches!(request.outcome, Outcome::Ok(_))).count();
    write_slices(stage, count, State::NotReady)?;
    for (vip, _) in &routed {
        stage.fabric.routes().wait_nodes(host(*vip), Instant::now(), LIMIT, &[])?;
    }
    Ok(Round { failed, waits })
}

fn write_slices(stage: &Stage, count: u16, state: State) -> Result<()> {
    let endpoint = |vip| objects::endpoint(stage.fabric.nodes[0].backend_address(vip).ip(), NODE, state);
    stage.manifests[0].write_all("lagging-endpoints", &pairs::slices(count, |vip| vec![endpoint(vip)]))
}
