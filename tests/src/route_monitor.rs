//! Follows a namespace's kernel routes by rtnetlink multicast, with the moment of each change.
//!
//! Only unicast routes of the main table. The kernel drops IPv4 routes of a link that goes down without a word, so a link's
//! change makes the monitor read the whole table again; so does a lost message (ENOBUFS).
#![expect(clippy::wildcard_enum_match_arm, reason = "netlink's enums are open: what is not a route is not looked at")]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::netns::Netns;
use crate::routes::{NextHop, NextHops, Routes, Update};

/// Multicast groups of rtnetlink(7).
const GROUPS: [u32; 3] = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV6_ROUTE];
const RECEIVE_BUFFER: libc::c_int = 64 << 20;
/// How long the monitor sleeps before it looks whether it was stopped.
const WAKE: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 100_000 };

/// A running monitor; dropping it stops it.
#[derive(Debug)]
pub struct RouteMonitor {
    routes: Arc<Routes>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RouteMonitor {
    /// Starts following; what is in the table already is known when this returns.
    pub fn start(netns: &Netns) -> Result<Self> {
        let (routes, stop) = (Arc::new(Routes::default()), Arc::new(AtomicBool::new(false)));
        let mut follower = Follower { routes: Arc::clone(&routes), names: BTreeMap::new() };
        let (door, stopped) = (netns.door(), Arc::clone(&stop));
        let (report, ready) = mpsc::channel();
        let main = move || {
            let opened = door.enter().and_then(|()| follower.open());
            let (socket, outcome) = match opened {
                Ok(socket) => (Some(socket), Ok(())),
                Err(error) => (None, Err(error)),
            };
            if report.send(outcome).is_ok()
                && let Some(socket) = socket
                && let Err(error) = follower.follow(&socket, &stopped)
            {
                follower.routes.fail(format!("{error:#}"));
            }
        };
        let thread = std::thread::Builder::new().name("route-monitor".to_owned()).spawn(main)?;
        let monitor = Self { routes, stop, thread: Some(thread) };
        ready.recv().context("the route monitor ended")??;
        Ok(monitor)
    }

    /// The record of routes and changes.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.routes
    }
}

impl Drop for RouteMonitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the route monitor panicked");
        }
    }
}

struct Follower {
    routes: Arc<Routes>,
    names: BTreeMap<u32, String>,
}

impl Follower {
    /// Joins the groups first and reads the table then, so that nothing is missed in between.
    fn open(&mut self) -> Result<Socket> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        set_option(&socket, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)?;
        set_option(&socket, libc::SO_RCVTIMEO, &WAKE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        self.read_table()?;
        Ok(socket)
    }

    fn follow(&mut self, socket: &Socket, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            match socket.recv_from_full() {
                Ok((datagram, _)) => self.datagram(Instant::now(), &datagram)?,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.read_table()?,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn datagram(&mut self, at: Instant, datagram: &[u8]) -> Result<()> {
        let mut links_changed = false;
        for message in messages(datagram)? {
            match message {
                RouteNetlinkMessage::NewRoute(route) => {
                    if let Some((prefix, hops)) = self.read(&route) {
                        self.routes.update(at, prefix, Update::Set(hops));
                    }
                }
                RouteNetlinkMessage::DelRoute(route) => {
                    if let Some((prefix, hops)) = self.read(&route) {
                        self.routes.update(at, prefix, Update::Remove(hops));
                    }
                }
                RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => links_changed = true,
                _ => {}
            }
        }
        if links_changed {
            self.read_table()?;
        }
        Ok(())
    }

    fn read_table(&mut self) -> Result<()> {
        let mut routes = BTreeMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for route in dump(family)? {
                if let Some((prefix, hops)) = self.read(&route) {
                    routes.entry(prefix).or_insert_with(NextHops::new).extend(hops);
                }
            }
        }
        routes.retain(|_, hops| !hops.is_empty());
        self.routes.replace(Instant::now(), &routes);
        Ok(())
    }

    /// Prefix and living next hops of a unicast route of the main table.
    fn read(&mut self, route: &RouteMessage) -> Option<(IpNet, NextHops)> {
        let header = &route.header;
        if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
            return None;
        }
        let (mut destination, mut hops) = (None, NextHops::new());
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(to) => destination = address(to),
                RouteAttribute::MultiPath(paths) => {
                    for path in paths.iter().filter(|path| !path.flags.contains(RouteNextHopFlags::Dead)) {
                        hops.insert(self.next_hop(path.interface_index, &path.attributes));
                    }
                }
                RouteAttribute::Oif(index) => {
                    hops.insert(self.next_hop(*index, &route.attributes));
                }
                _ => {}
            }
        }
        let any = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let prefix = IpNet::new(destination.unwrap_or(any), header.destination_prefix_length).ok()?;
        Some((prefix, hops))
    }

    fn next_hop(&mut self, index: u32, attributes: &[RouteAttribute]) -> NextHop {
        let gateway = attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(gateway) => address(gateway),
            RouteAttribute::Via(RouteVia::Inet(via)) => Some(IpAddr::V4(*via)),
            RouteAttribute::Via(RouteVia::Inet6(via)) => Some(IpAddr::V6(*via)),
            _ => None,
        });
        let name = self.names.entry(index).or_insert_with(|| interface_name(index));
        NextHop { interface: name.clone(), gateway }
    }
}

/// Reads one family's routes on a socket of its own.
fn dump(family: AddressFamily) -> Result<Vec<RouteMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    set_option(&socket, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 10, tv_usec: 0 })?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetRoute(query)));
    packet.finalize();
    let mut request = vec![0; packet.buffer_len()];
    packet.serialize(&mut request);
    socket.send(&request, 0)?;
    let mut routes = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().context("dumping routes")?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let (message, tail) = next(rest)?;
            rest = tail;
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => routes.push(route),
                NetlinkPayload::Done(_) => return Ok(routes),
                NetlinkPayload::Error(error) => bail!("dumping routes: {error}"),
                _ => {}
            }
        }
    }
}

fn messages(datagram: &[u8]) -> Result<Vec<RouteNetlinkMessage>> {
    let (mut found, mut rest) = (Vec::new(), datagram);
    while !rest.is_empty() {
        let (message, tail) = next(rest)?;
        rest = tail;
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            found.push(inner);
        }
    }
    Ok(found)
}

/// The first message of a datagram, and what follows it (messages start at multiples of four).
fn next(datagram: &[u8]) -> Result<(NetlinkMessage<RouteNetlinkMessage>, &[u8])> {
    let message = NetlinkMessage::deserialize(datagram).map_err(|error| anyhow!("netlink message: {error}"))?;
    let length = usize::try_from(message.header.length)?.next_multiple_of(4);
    Ok((message, datagram.get(length..).unwrap_or_default()))
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// The name of an interface of the thread's namespace; its number if it is gone.
#[expect(unsafe_code, reason = "if_indextoname(3) has no safe wrapper in std")]
fn interface_name(index: u32) -> String {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that if_indextoname asks for.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    if found.is_null() {
        return format!("if{index}");
    }
    // SAFETY: if_indextoname wrote a terminated string into the buffer.
    unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned()
}

#[expect(unsafe_code, reason = "setsockopt(2) for these options has no safe wrapper in netlink-sys")]
fn set_option<T>(socket: &Socket, option: libc::c_int, value: &T) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>())?;
    // SAFETY: the pointer is to a live T of this length, and the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, std::ptr::from_ref(value).cast(), length)
    };
    if result != 0 {
        bail!(anyhow::Error::new(io::Error::last_os_error()).context("setsockopt on a netlink socket"));
    }
    Ok(())
}
