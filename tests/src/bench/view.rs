//! What looking costs: a scrape, `cosmolet status`, and the control loop while everybody looks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::figure::{Figure, Measure, Summary};
use super::share;
use super::world::{World, list, service, slice};
use crate::objects::State;
use crate::{Netns, http};

const MANY: u16 = 10_000;
/// Services of one file.
const PORTION: u16 = 100;
const FEW: u16 = 10;
const SCRAPE: f64 = 50.0;
const SIZE: f64 = 10.0;
const STATUS: f64 = 50.0;
/// VIPs beside those that take turns while everybody looks.
const OTHERS: u16 = 1000;
const REST: Duration = Duration::from_millis(25);
const LOOP: f64 = 1.05;
const REPLY_LIMIT: Duration = Duration::from_secs(10);
const DAEMON: &str = "127.0.0.1:9470";

/// Measures scrapes and `cosmolet status`; `rounds` of each.
pub fn costs(rounds: usize) -> Result<Vec<Figure>> {
    let mut world = World::raise_bare()?;
    put(&world, 1, FEW)?;
    world.start()?;
    world.wait_state("advertised", FEW.into())?;
    let few = read(&world, rounds)?;
    for first in (1 + FEW..=MANY).step_by(PORTION.into()) {
        put(&world, first, PORTION.min(MANY - first + 1))?;
    }
    world.wait_state("advertised", MANY.into())?;
    let many = read(&world, rounds)?;
    let row = |name: String, unit, own: &[f64], baseline: &[f64], target| Figure {
        name,
        unit,
        own: Summary::of(own),
        against: format!("with {FEW} VIPs"),
        baseline: Some(Summary::of(baseline)),
        measure: Measure::P50,
        target,
    };
    let mut status = row(format!("cosmolet status, {FEW} VIPs"), "ms", &few.status, &few.livez, Some(STATUS));
    status.against = "a request for /livez".to_owned();
    Ok(vec![
        row(format!("a scrape of {MANY} VIPs"), "ms", &many.scrape, &few.scrape, Some(SCRAPE)),
        row("  its size".to_owned(), "MiB", &many.size, &few.size, Some(SIZE)),
        status,
        row(format!("  with {MANY} VIPs"), "ms", &many.status, &few.status, None),
    ])
}

#[derive(Default)]
struct Readings {
    scrape: Vec<f64>,
    size: Vec<f64>,
    livez: Vec<f64>,
    status: Vec<f64>,
}

fn read(world: &World, rounds: usize) -> Result<Readings> {
    let (netns, address) = (&world.own().netns, DAEMON.parse()?);
    let mut readings = Readings::default();
    for _ in 0..rounds {
        sleep(REST);
        let (span, reply) = timed(|| http::get(netns, address, "/metrics", REPLY_LIMIT))?;
        ensure!(reply.status == 200, "/metrics answers {}", reply.status);
        readings.scrape.push(span);
        readings.size.push(f64::from(u32::try_from(reply.body.len())?) / f64::from(1 << 20));
        readings.livez.push(timed(|| http::get(netns, address, "/livez", REPLY_LIMIT))?.0);
        let (span, output) = timed(|| world.daemon.ask_status(&[]))?;
        ensure!(!output.stdout.is_empty(), "cosmolet status says nothing");
        readings.status.push(span);
    }
    Ok(readings)
}

/// How long it takes, in milliseconds.
fn timed<T>(what: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let begun = Instant::now();
    let answer = what()?;
    Ok((begun.elapsed().as_secs_f64() * 1e3, answer))
}

fn put(world: &World, first: u16, count: u16) -> Result<()> {
    let numbers = || first..first + count;
    world.put(&format!("services-{first}.json"), &list(numbers().map(service))?)?;
    world.put(&format!("slices-{first}.json"), &list(numbers().map(|n| slice(n, State::Ready)))?).map(drop)
}

/// Measures an endpoint's manifest to the first byte at FRR, while everybody looks and while nobody does, by turns.
pub fn while_looked_at(rounds: usize) -> Result<Vec<Figure>> {
    let (world, proxy) = share::raise(OTHERS)?;
    let (mut looked_at, mut alone) = (Vec::new(), Vec::new());
    for block in 0..rounds.div_ceil(usize::from(share::VIPS)) {
        let readers = (block % 2 == 0).then(|| Readers::start(&world.own().netns)).transpose()?;
        let spans = if readers.is_some() { &mut looked_at } else { &mut alone };
        for n in 1..=share::VIPS {
            for state in [State::Ready, State::NotReady] {
                spans.push(share::event(&world, &proxy, n, state)?);
            }
        }
        readers.map(Readers::end).transpose()?;
    }
    Ok(vec![Figure {
        name: format!("ready or not -> bytes to FRR, {OTHERS} Services more, scraped, streamed and shown each second"),
        unit: "ms",
        own: Summary::of_spans(&looked_at),
        against: "nobody looks".to_owned(),
        baseline: Some(Summary::of_spans(&alone)),
        measure: Measure::P99Ratio,
        target: Some(LOOP),
    }])
}

/// Whoever looks does so from another machine: what reading costs here is not the node's to bear.
#[expect(unsafe_code, reason = "setpriority(2) has no safe wrapper in std")]
fn give_way() -> Result<()> {
    // SAFETY: setpriority touches no memory; 0 is the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    ensure!(done == 0, "setpriority: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A Prometheus, a status page, a `status --watch` and ten followers of decisions.
struct Readers {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Readers {
    fn start(netns: &Arc<Netns>) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let address: SocketAddr = DAEMON.parse()?;
        let mut threads = Vec::new();
        for path in ["/metrics", "/api/v1/node", "/api/v1/vips", "/api/v1/status"] {
            let (over, netns) = (Arc::clone(&over), Arc::clone(netns));
            threads.push(std::thread::spawn(move || {
                give_way()?;
                while !over.load(Ordering::Relaxed) {
                    http::get(&netns, address, path, REPLY_LIMIT)?;
                    sleep(Duration::from_secs(1));
                }
                Ok(())
            }));
        }
        for _ in 0..10 {
            let (over, netns) = (Arc::clone(&over), Arc::clone(netns));
            threads.push(std::thread::spawn(move || {
                give_way()?;
                http::follow(&netns, address, "/api/v1/transitions/stream", &over)
            }));
        }
        Ok(Self { over, threads })
    }

    fn end(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            match thread.join() {
                Ok(ended) => ended.context("a reader")?,
                Err(_) => bail!("a reader panicked"),
            }
        }
        Ok(())
    }
}
