//! The raw BGP session: a passive speaker that a node's bgpd peers with, to time its UPDATEs on the wire.
//!
//! Owns the record of what was said. It advertises nothing and decides nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::bgp::{self, Attributes, HEADER, Message};
use crate::netns::Netns;
use crate::runtime::Runtime;
use crate::wait;

const HOLD_SECONDS: u16 = 9;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
const MAX_EVENTS: usize = 2_000_000;

/// Something the peer said or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The session came up (its first KEEPALIVE).
    Up,
    /// The session ended, and why. Everything it advertised is gone.
    Down(String),
    /// An UPDATE advertised the prefix.
    Advertised(IpNet, Attributes),
    /// An UPDATE withdrew the prefix.
    Withdrawn(IpNet),
    /// End-of-RIB of a family.
    EndOfRib,
}

#[derive(Debug, Default)]
struct Record {
    events: Vec<(Instant, Event)>,
    current: BTreeMap<IpNet, Attributes>,
    up: bool,
}

impl Record {
    fn push(&mut self, at: Instant, event: Event) {
        match &event {
            Event::Up => self.up = true,
            Event::Down(_) => {
                self.up = false;
                self.current.clear();
            }
            Event::Advertised(prefix, attributes) => drop(self.current.insert(*prefix, attributes.clone())),
            Event::Withdrawn(prefix) => drop(self.current.remove(prefix)),
            Event::EndOfRib => {}
        }
        if self.events.len() < MAX_EVENTS {
            self.events.push((at, event));
        }
    }
}

/// A listening speaker; dropping it closes the session.
#[derive(Debug)]
pub struct Wire {
    record: Arc<Mutex<Record>>,
    _runtime: Runtime,
}

impl Wire {
    /// Listens on `address` in `netns` as a peer with this AS number. One session at a time.
    pub fn listen(netns: &Netns, address: SocketAddr, asn: u32) -> Result<Self> {
        let runtime = Runtime::start("wire", Some(netns.door()))?;
        let listener = runtime.run(TcpListener::bind(address))?.with_context(|| format!("listening on {address}"))?;
        let identifier = match address.ip() {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(_) => Ipv4Addr::new(10, 0, 0, 1),
        };
        let record: Arc<Mutex<Record>> = Arc::default();
        runtime.spawn(serve(listener, bgp::open(asn, HOLD_SECONDS, identifier), Arc::clone(&record)));
        Ok(Self { record, _runtime: runtime })
    }

    /// Whether the session is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.lock().up
    }

    /// Waits until the session is up.
    pub fn wait_up(&self, limit: Duration) -> Result<()> {
        wait::until_true("the raw BGP session", limit, || Ok(self.is_up()))
    }

    /// What the peer advertises now.
    #[must_use]
    pub fn advertised(&self) -> BTreeMap<IpNet, Attributes> {
        self.lock().current.clone()
    }

    /// What was said from `since` on.
    #[must_use]
    pub fn events(&self, since: Instant) -> Vec<(Instant, Event)> {
        let record = self.lock();
        let from = record.events.partition_point(|(at, _)| *at < since);
        record.events[from..].to_vec()
    }

    /// Waits for the first UPDATE from `since` on that advertises the prefix; returns how long after `since` it was read.
    pub fn wait_advertised(&self, prefix: IpNet, since: Instant, limit: Duration) -> Result<Duration> {
        let is = |event: &Event| matches!(event, Event::Advertised(found, _) if *found == prefix);
        self.wait_event(&format!("an UPDATE with {prefix}"), since, limit, is)
    }

    /// Waits for the first UPDATE from `since` on that withdraws the prefix; returns how long after `since` it was read.
    pub fn wait_withdrawn(&self, prefix: IpNet, since: Instant, limit: Duration) -> Result<Duration> {
        let is = |event: &Event| matches!(event, Event::Withdrawn(found) if *found == prefix);
        self.wait_event(&format!("an UPDATE withdrawing {prefix}"), since, limit, is)
    }

    /// Waits for an event from `since` on.
    pub fn wait_event(
        &self,
        what: &str,
        since: Instant,
        limit: Duration,
        is: impl Fn(&Event) -> bool,
    ) -> Result<Duration> {
        let at = wait::until(what, limit, || {
            let record = self.lock();
            let from = record.events.partition_point(|(at, _)| *at < since);
            Ok(record.events[from..].iter().find(|(_, event)| is(event)).map(|(at, _)| *at))
        })?;
        Ok(at.saturating_duration_since(since))
    }

    /// Waits until `count` prefixes within `range` are advertised; returns how long after `since` the last UPDATE of the range
    /// was read.
    pub fn wait_count(&self, range: IpNet, count: usize, since: Instant, limit: Duration) -> Result<Duration> {
        let within = |prefix: &IpNet| range.contains(prefix);
        wait::until_true(&format!("{count} prefixes within {range} on the wire"), limit, || {
            let found = self.lock().current.keys().filter(|prefix| within(prefix)).count();
            ensure!(found == count, "there are {found}");
            Ok(true)
        })?;
        let record = self.lock();
        let mut backwards = record.events.iter().rev().take_while(|(at, _)| *at >= since);
        let last = backwards.find(|(_, event)| match event {
            Event::Advertised(prefix, _) | Event::Withdrawn(prefix) => within(prefix),
            Event::Up | Event::Down(_) | Event::EndOfRib => false,
        });
        Ok(last.map_or(Duration::ZERO, |(at, _)| at.saturating_duration_since(since)))
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, open: Vec<u8>, record: Arc<Mutex<Record>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let ended = match session(stream, &open, &record).await {
            Ok(()) => "closed".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let mut record = lock(&record);
        if record.up {
            record.push(Instant::now(), Event::Down(ended));
        }
    }
}

async fn session(stream: TcpStream, open: &[u8], record: &Mutex<Record>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(open).await?;
    tokio::select! {
        ended = keep_alive(&mut writer) => ended,
        ended = listen(&mut reader, record) => ended,
    }
}

/// The first KEEPALIVE, which accepts the peer's OPEN, then one every three seconds.
async fn keep_alive(writer: &mut OwnedWriteHalf) -> Result<()> {
    loop {
        writer.write_all(&bgp::keepalive()).await?;
        tokio::time::sleep(KEEPALIVE_EVERY).await;
    }
}

async fn listen(reader: &mut OwnedReadHalf, record: &Mutex<Record>) -> Result<()> {
    let silence = Duration::from_secs(HOLD_SECONDS.into());
    loop {
        let (kind, body) = tokio::time::timeout(silence, read(reader)).await.context("hold time over")??;
        let at = Instant::now();
        let mut record = lock(record);
        match bgp::parse(kind, &body)? {
            Message::Open { .. } => {}
            Message::Keepalive if record.up => {}
            Message::Keepalive => record.push(at, Event::Up),
            Message::Notification(code, subcode) => bail!("notification {code}/{subcode}"),
            Message::Update(update) if update.is_end_of_rib() => record.push(at, Event::EndOfRib),
            Message::Update(update) => {
                for prefix in update.withdrawn {
                    record.push(at, Event::Withdrawn(prefix));
                }
                for prefix in update.advertised {
                    record.push(at, Event::Advertised(prefix, update.attributes.clone()));
                }
            }
        }
    }
}

async fn read(reader: &mut OwnedReadHalf) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; HEADER];
    reader.read_exact(&mut header).await?;
    let mut body = vec![0; bgp::message_length(&header)? - HEADER];
    reader.read_exact(&mut body).await?;
    Ok((header[HEADER - 1], body))
}
