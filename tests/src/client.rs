//! A steady client: new TCP connections at a fixed rate, each recorded with its time and outcome.
//!
//! Owns the list of requests; bounded in rate, number in flight and total time.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::netns::Netns;
use crate::runtime::Runtime;

const MAX_PER_SECOND: u32 = 1000;
const MAX_IN_FLIGHT: usize = 2048;
const MAX_REPLY: u64 = 4096;

/// What to ask, how often, for how long at most.
#[derive(Clone, Debug)]
pub struct Load {
    /// VIPs with ports, asked in turn.
    pub targets: Vec<SocketAddr>,
    /// New connections a second over all targets, up to 1000.
    pub per_second: u32,
    /// How long one request may take before it counts as timed out.
    pub timeout: Duration,
    /// The client stops by itself after this time.
    pub limit: Duration,
    /// Addresses that it connects from in turn; without one of the target's family the kernel chooses.
    pub sources: Vec<IpAddr>,
}

impl Load {
    /// 100 connections a second, 1 s for each, five minutes at most.
    #[must_use]
    pub const fn new(targets: Vec<SocketAddr>) -> Self {
        Self {
            targets,
            per_second: 100,
            timeout: Duration::from_secs(1),
            limit: Duration::from_secs(300),
            sources: Vec::new(),
        }
    }
}

/// How one request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered by the backend of this node.
    Ok(String),
    /// The connection was refused (RST to the SYN, or ICMP unreachable).
    Refused,
    /// The connection was reset, or ended without an answer, after it was made.
    Reset,
    /// No answer in time.
    TimedOut,
    /// Another error, such as no route.
    Other(String),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it was started.
    pub at: Instant,
    /// Where it went.
    pub target: SocketAddr,
    /// How long it took to its outcome.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// Counts of requests started within a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Answered, by node.
    pub by_node: BTreeMap<String, usize>,
    /// Refused.
    pub refused: usize,
    /// Reset.
    pub reset: usize,
    /// Timed out.
    pub timed_out: usize,
    /// Other errors.
    pub other: usize,
    /// The longest time an answered request took.
    pub slowest: Duration,
}

impl Summary {
    /// Counts `requests`.
    pub fn of<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Self {
        let mut summary = Self::default();
        for request in requests {
            match &request.outcome {
                Outcome::Ok(node) => {
                    *summary.by_node.entry(node.clone()).or_default() += 1;
                    summary.slowest = summary.slowest.max(request.took);
                }
                Outcome::Refused => summary.refused += 1,
                Outcome::Reset => summary.reset += 1,
                Outcome::TimedOut => summary.timed_out += 1,
                Outcome::Other(_) => summary.other += 1,
            }
        }
        summary
    }

    /// Answered requests.
    #[must_use]
    pub fn ok(&self) -> usize {
        self.by_node.values().sum()
    }

    /// Requests without an answer.
    #[must_use]
    pub const fn failed(&self) -> usize {
        self.refused + self.reset + self.timed_out + self.other
    }
}

/// A running client; dropping it stops it.
#[derive(Debug)]
pub struct Client {
    requests: Arc<Mutex<Vec<Request>>>,
    timeout: Duration,
    _runtime: Runtime,
}

impl Client {
    /// Starts the load from `netns`.
    pub fn start(netns: &Netns, load: Load) -> Result<Self> {
        ensure!(!load.targets.is_empty(), "a client needs a target");
        ensure!((1..=MAX_PER_SECOND).contains(&load.per_second), "1 to {MAX_PER_SECOND} requests a second");
        let runtime = Runtime::start("client", Some(netns.door()))?;
        let requests = Arc::default();
        let timeout = load.timeout;
        runtime.spawn(drive(load, Arc::clone(&requests)));
        Ok(Self { requests, timeout, _runtime: runtime })
    }

    /// The finished requests that were started in `[from, to)`, in the order of their end.
    #[must_use]
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Request> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().filter(|request| (from..to).contains(&request.at)).cloned().collect()
    }

    /// Counts the requests started in `[from, to)`, waiting until the last of them has ended.
    #[must_use]
    pub fn summary(&self, from: Instant, to: Instant) -> Summary {
        let settled = to + self.timeout + Duration::from_millis(50);
        std::thread::sleep(settled.saturating_duration_since(Instant::now()));
        Summary::of(&self.between(from, to))
    }

    /// Counts the requests of the next `span`.
    #[must_use]
    pub fn watch(&self, span: Duration) -> Summary {
        let now = Instant::now();
        self.summary(now, now + span)
    }
}

async fn drive(load: Load, requests: Arc<Mutex<Vec<Request>>>) {
    let deadline = Instant::now() + load.limit;
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut ticks = interval(Duration::from_secs(1) / load.per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (turn, target) in load.targets.iter().copied().cycle().enumerate() {
        ticks.tick().await;
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
        if Instant::now() >= deadline {
            return;
        }
        let requests = Arc::clone(&requests);
        let sources: Vec<_> = load.sources.iter().filter(|source| source.is_ipv4() == target.is_ipv4()).collect();
        let source = sources.get(turn / load.targets.len() % sources.len().max(1)).map(|source| **source);
        tokio::spawn(async move {
            let request = once_from(source, target, load.timeout).await;
            requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            drop(permit);
        });
    }
}

/// One HTTP GET on a new connection.
pub async fn once(target: SocketAddr, limit: Duration) -> Request {
    once_from(None, target, limit).await
}

/// The same from a chosen address.
async fn once_from(source: Option<IpAddr>, target: SocketAddr, limit: Duration) -> Request {
    let at = Instant::now();
    let outcome = match timeout(limit, get(source, target)).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => Outcome::TimedOut,
    };
    Request { at, target, took: at.elapsed(), outcome }
}

async fn connect(source: Option<IpAddr>, target: SocketAddr) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect(target).await };
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(target).await
}

async fn get(source: Option<IpAddr>, target: SocketAddr) -> Outcome {
    let stream = match connect(source, target).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Outcome::Refused,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Outcome::TimedOut,
        Err(error) => return Outcome::Other(error.to_string()),
    };
    exchange(stream).await.unwrap_or(Outcome::Reset)
}

async fn exchange(mut stream: TcpStream) -> io::Result<Outcome> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n").await?;
    let mut reply = Vec::new();
    stream.take(MAX_REPLY).read_to_end(&mut reply).await?;
    let text = String::from_utf8_lossy(&reply);
    Ok(match text.split_once("\r\n\r\n") {
        Some((head, node)) if head.starts_with("HTTP/1.1 200") => Outcome::Ok(node.to_owned()),
        Some((head, _)) => Outcome::Other(head.lines().next().unwrap_or_default().to_owned()),
        None => Outcome::Reset,
    })
}
