//! The wire-true probe: a SYN that arrives at an uplink like a client's, and whatever comes back for it.
//!
//! The kernel is told to receive a frame from an uplink (`BPF_PROG_TEST_RUN` with live frames, Linux 5.18), so that it goes
//! the whole way of a client's packet: TC, conntrack, kube-proxy's translation, the pod network, the backend. What would
//! leave the node for it is caught and dropped by our egress programs. A whole connection takes the same way, over a stack of
//! its own, where more than a handshake is asked for. Owns the frames, the cookies and the matching of answers. Never judges what
//! an answer leads to, never chooses what is probed, and never binds a socket.

mod answer;
mod ask;
mod connection;
mod error;
mod frame;
mod inject;
mod interface;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use cosmolet_common::probe::Prefix;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use self::answer::Reply;
use self::answer::{Found, Record};
pub use self::ask::{Question, Told};
use self::connection::{Connection, Link, Stack};
pub use self::error::Error;
use self::frame::Frame;
use self::frame::Mac;
use self::inject::Injector;
use self::interface::Interface;
use crate::engine::types::{Family, PerFamily, Uplink};

/// Where probes come from: addresses that no client has and no host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The IPv4 prefix; without it IPv4 is not probed.
    pub v4: Option<Ipv4Net>,
    /// The IPv6 prefix.
    pub v6: Option<Ipv6Net>,
}

impl Sources {
    /// Takes the first prefix of each family.
    #[must_use]
    pub fn new(prefixes: &[IpNet]) -> Self {
        let mut sources = Self::default();
        for prefix in prefixes {
            match prefix {
                IpNet::V4(v4) => drop(sources.v4.get_or_insert(*v4)),
                IpNet::V6(v6) => drop(sources.v6.get_or_insert(*v6)),
            }
        }
        sources
    }

    /// The prefixes as the eBPF programs compare them.
    #[must_use]
    pub fn prefixes(&self) -> PerFamily<Prefix> {
        let word = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
        let v4 = self
            .v4
            .map(|net| Prefix { network: [word(net.network().octets()), 0], mask: [word(net.netmask().octets()), 0] });
        let halves = |address: Ipv6Addr| {
            let [a, b, c, d, e, f, g, h, ..] = address.octets();
            [word([a, b, c, d]), word([e, f, g, h])]
        };
        let v6 = self.v6.map(|net| Prefix { network: halves(net.network()), mask: halves(net.netmask()) });
        PerFamily { v4: v4.unwrap_or(Prefix::NONE), v6: v6.unwrap_or(Prefix::NONE) }
    }

    /// Says whether probes can come from here at all. Ask before the programs are loaded: they drop what has such a source.
    ///
    /// # Errors
    /// There is no source, or this host has an address of one.
    pub fn check(&self) -> Result<(), Error> {
        if self.v4.is_none() && self.v6.is_none() {
            return Err(Error::NoSources);
        }
        let found = interface::read().map_err(Error::Interfaces)?;
        self.check_interfaces(&found)
    }

    fn check_interfaces(&self, found: &BTreeMap<String, Interface>) -> Result<(), Error> {
        let mut own = found.values().flat_map(|interface| &interface.addresses);
        own.find(|address| self.hold(**address)).map_or(Ok(()), |taken| Err(Error::SourceTaken(*taken)))
    }

    fn hold(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.is_some_and(|net| net.contains(&v4)),
            IpAddr::V6(v6) => self.v6.is_some_and(|net| net.contains(&v6)),
        }
    }
}

/// A probe that was sent; whoever sent it knows what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// What came back for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The probe.
    pub token: Token,
    /// What it is.
    pub reply: Reply,
    /// The time from the SYN.
    pub latency: Duration,
}

/// Sends probes and catches their answers. It has no tasks and no locks: one task calls it.
#[derive(Debug)]
pub struct Prober {
    sources: Sources,
    injector: Arc<Injector>,
    caught: AsyncFd<Ring>,
    random: Random,
    uplinks: BTreeMap<u32, Interface>,
    /// By the source that a probe came from.
    pending: BTreeMap<(IpAddr, u16), Pending>,
    /// Likewise; those that are over are gone.
    connections: Connections,
}

/// By the source: the target, and the stack while somebody holds it.
type Connections = BTreeMap<(IpAddr, u16), (SocketAddr, Weak<Mutex<Stack>>)>;

#[derive(Clone, Copy, Debug)]
struct Pending {
    token: Token,
    target: SocketAddr,
    ifindex: u32,
    /// Of a SYN; a datagram has none.
    sequence: Option<u32>,
    sent: Duration,
}

struct Ring(RingBuf<MapData>);

/// What became of each uplink: probes can be sent by it, or why not.
pub type Reconciled = Vec<(Uplink, Result<(), Error>)>;

impl std::os::fd::AsRawFd for Ring {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Makes the ring something to wait for.
fn watched(ring: RingBuf<MapData>) -> std::io::Result<AsyncFd<Ring>> {
    #![expect(unsafe_code, reason = "tokio cannot know that the descriptor stays open")]
    // SAFETY: the ring owns its map's descriptor, which is neither replaced nor closed while it lives.
    Ok(unsafe { AsyncFd::register_with_interest(Ring(ring), Interest::READABLE)? })
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

impl Prober {
    /// Prepares to send; no uplink is known yet. `caught` is what the egress programs leave.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] or what else the kernel said.
    pub fn open(sources: Sources, caught: RingBuf<MapData>) -> Result<Self, Error> {
        let caught = watched(caught).map_err(Error::Ring)?;
        let random = Random { keys: RandomState::new(), drawn: 0 };
        let injector = Arc::new(Injector::load()?);
        let (uplinks, pending, connections) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { sources, injector, caught, random, uplinks, pending, connections })
    }

    /// Sends by these uplinks from now on. Returns one result for each: probes can be sent by it, or the reason.
    ///
    /// # Errors
    /// One for all: the interfaces cannot be read, or a host has an address of the sources.
    pub fn reconcile(&mut self, uplinks: &[Uplink]) -> Result<Reconciled, Error> {
        let found = interface::read().map_err(Error::Interfaces)?;
        self.sources.check_interfaces(&found)?;
        let known = std::mem::take(&mut self.uplinks);
        let mut results = Vec::new();
        for uplink in uplinks {
            let result = match found.get(uplink.name.as_str()) {
                None => Err(Error::NoInterface(uplink.name.clone())),
                Some(Interface { mac: None, .. }) => Err(Error::NotEthernet(uplink.name.clone())),
                Some(_) if known.contains_key(&uplink.ifindex) => Ok(()),
                Some(_) => self.injector.run(uplink.ifindex, &Frame::harmless()),
            };
            if let (Ok(()), Some(interface)) = (&result, found.get(uplink.name.as_str())) {
                self.uplinks.insert(uplink.ifindex, interface.clone());
            }
            results.push((uplink.clone(), result));
        }
        Ok(results)
    }

    /// The uplinks by which probes can be sent, in ascending order.
    pub fn uplinks(&self) -> impl Iterator<Item = u32> {
        self.uplinks.keys().copied()
    }

    /// Whether a family has a source.
    #[must_use]
    pub const fn can(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.sources.v4.is_some(),
            Family::V6 => self.sources.v6.is_some(),
        }
    }

    /// An address of this host at an uplink, to which a SYN for a port where nobody listens is answered by RST.
    #[must_use]
    pub fn control(&self, ifindex: u32, family: Family) -> Option<IpAddr> {
        let fits = |address: &&IpAddr| address.is_ipv4() == (family == Family::V4);
        let at = self.uplinks.get(&ifindex).into_iter().chain(self.uplinks.values());
        at.flat_map(|interface| &interface.addresses).find(fits).copied()
    }

    /// Sends one SYN, or one datagram. Its answer is often there when this returns: see [`collect`](Self::collect).
    ///
    /// # Errors
    /// What the kernel said, or that there is no way to send it.
    pub fn send(&mut self, ifindex: u32, target: SocketAddr, datagram: Option<&[u8]>) -> Result<Token, Error> {
        let mac = self.mac(ifindex)?;
        let (source, sequence) = self.cookie(target.ip())?;
        let token = Token(self.random.drawn);
        let sent = now();
        let frame = match datagram {
            Some(bytes) => Frame::datagram(mac, source, target, bytes),
            None => Frame::syn(mac, source, target, sequence),
        };
        let pending = Pending { token, target, ifindex, sequence: datagram.is_none().then_some(sequence), sent };
        self.pending.insert((source.ip(), source.port()), pending);
        if let Err(error) = self.injector.run(ifindex, &frame) {
            self.pending.remove(&(source.ip(), source.port()));
            return Err(error);
        }
        Ok(token)
    }

    /// Begins a connection by which something can be asked.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn connect(&mut self, ifindex: u32, target: SocketAddr) -> Result<Question, Error> {
        let mac = self.mac(ifindex)?;
        let (source, _) = self.cookie(target.ip())?;
        let family = if target.is_ipv4() { Family::V4 } else { Family::V6 };
        let link = Link { injector: Arc::clone(&self.injector), ifindex, mac, family };
        let stack = Arc::new(Mutex::new(Stack::connect(link, source, target, self.random.draw())?));
        self.connections.retain(|_, (_, stack)| stack.strong_count() > 0);
        self.connections.insert((source.ip(), source.port()), (target, Arc::downgrade(&stack)));
        Ok(Question { connection: Connection::new(stack), target: target.ip() })
    }

    fn mac(&self, ifindex: u32) -> Result<Mac, Error> {
        let mac = self.uplinks.get(&ifindex).and_then(|interface| interface.mac);
        mac.ok_or(Error::UnknownUplink(ifindex))
    }

    /// Waits until something was caught.
    pub async fn caught(&self) {
        // An error says that the runtime ends.
        if let Ok(mut guard) = self.caught.readable().await {
            guard.clear_ready();
        }
    }

    /// Takes the answers that are there, and resets the connections that were about to open.
    pub fn collect(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut open = Vec::new();
        while let Some(item) = self.caught.get_mut().0.next() {
            let Some(caught) = answer::decode(&item) else { continue };
            let Some(found) = answer::read(&caught) else { continue };
            if hand_over(&self.connections, &found, &caught) {
                continue;
            }
            let turned = [found, found.turned()].into_iter().find(|found| self.pending.contains_key(&found.source));
            let Some((found, pending)) = turned.and_then(|found| Some((found, self.pending.get(&found.source)?)))
            else {
                continue;
            };
            if let Some(reply) = found.answers(pending.target, pending.sequence) {
                let latency = Duration::from_nanos(caught.at).saturating_sub(pending.sent);
                answers.push(Answer { token: pending.token, reply, latency });
                open.extend(self.pending.remove(&found.source).map(|pending| (found.source, pending, reply)));
            }
        }
        for (source, pending, reply) in open {
            if reply.opens() {
                self.reset(source, &pending);
            }
        }
        answers
    }

    /// Gives up a probe. A SYN that is still under way may open a connection by halves, so it is reset.
    pub fn give_up(&mut self, token: Token) {
        let found = self.pending.iter().find(|(_, pending)| pending.token == token);
        if let Some((source, pending)) = found.map(|(source, pending)| (*source, *pending)) {
            self.pending.remove(&source);
            self.reset(source, &pending);
        }
    }

    fn reset(&self, source: (IpAddr, u16), pending: &Pending) {
        let (Ok(mac), Some(sequence)) = (self.mac(pending.ifindex), pending.sequence) else { return };
        let source = SocketAddr::new(source.0, source.1);
        let reset = Frame::reset(mac, source, pending.target, sequence.wrapping_add(1));
        if let Err(error) = self.injector.run(pending.ifindex, &reset) {
            tracing::debug!(%error, "a probe's connection cannot be reset; the backend gives it up by itself");
        }
    }

    /// A source and a sequence number that nobody can guess: about 56 bits that an answer must return.
    fn cookie(&mut self, target: IpAddr) -> Result<(SocketAddr, u32), Error> {
        loop {
            let (first, second) = (self.random.draw(), self.random.draw());
            let address = match target {
                IpAddr::V4(_) => IpAddr::V4(host_of_v4(self.sources.v4.ok_or(Error::NoSource("IPv4"))?, first)),
                IpAddr::V6(_) => IpAddr::V6(host_of_v6(self.sources.v6.ok_or(Error::NoSource("IPv6"))?, first)),
            };
            let [a, b, c, d, e, f, ..] = second.to_ne_bytes();
            let port = u16::from_ne_bytes([a, b]) | 0x8000;
            let taken = (address, port);
            if !self.pending.contains_key(&taken) && !self.connections.contains_key(&taken) {
                return Ok((SocketAddr::new(address, port), u32::from_ne_bytes([c, d, e, f])));
            }
        }
    }
}

/// Gives a packet to the connection that it is for. True where there is one.
fn hand_over(connections: &Connections, found: &Found, caught: &Record<'_>) -> bool {
    let Some((target, stack)) = connections.get(&found.source) else { return false };
    if let (true, Some(stack)) = (*target == found.target && found.is_tcp(), stack.upgrade()) {
        Stack::lock(&stack).take(caught.bytes);
    }
    true
}

/// Neither the network's address nor the broadcast's.
fn host_of_v4(net: Ipv4Net, random: u64) -> Ipv4Addr {
    let hosts = (1_u64 << (32 - u32::from(net.prefix_len()))).saturating_sub(2).max(1);
    let host = u32::try_from(1 + random % hosts).unwrap_or(1);
    Ipv4Addr::from(u32::from(net.network()) | host)
}

fn host_of_v6(net: Ipv6Net, random: u64) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(net.network()) | u128::from(random | 1))
}

/// Numbers that follow from a counter and keys which the process drew from the system's random source (SipHash).
#[derive(Debug)]
struct Random {
    keys: RandomState,
    drawn: u64,
}

impl Random {
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.keys.hash_one(self.drawn)
    }
}

/// CLOCK_MONOTONIC, as the programs stamp it.
fn now() -> Duration {
    #![expect(unsafe_code, reason = "std's clock does not tell its value")]
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the structure that it is handed.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
