//! The baseline: a client that does the same work as the daemon and nothing else, as fast as the kernel and bgpd take it.
//!
//! It has no events, no plan and no safety: one rtnetlink batch for the addresses and, in Dynamic mode, one write for all
//! `network` statements, on sockets that were opened before.

use std::net::IpAddr;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cosmolet::netlink::ADDRESS_PROTOCOL;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::fabric::{Mode, Node, host};
use crate::netns::output;
use crate::vty::Vty;

/// The route-map of the baseline's `network` statements: the daemon's carry one too.
const ROUTE_MAP: &str = "RAW";
/// The first interface of every namespace.
const LOOPBACK: u32 = 1;
/// Requests in one datagram: as many as the socket's buffer takes.
const REQUESTS_PER_WRITE: usize = 1000;
/// Longer than any round: nobody renews it here.
const LEASE_SECONDS: u32 = 3600;

/// The client.
#[derive(Debug)]
pub struct Raw {
    netlink: Socket,
    sequence: u32,
    vty: Vty,
    mode: Mode,
}

impl Raw {
    /// Opens both sockets and makes the route-map.
    pub fn connect(node: &Node) -> Result<Self> {
        let mut vty = node.frr.bgpd()?;
        vty.configure_ok(&[format!("route-map {ROUTE_MAP} permit 10")])?;
        let open = || -> Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        Ok(Self { netlink: node.netns.run(open)??, sequence: 0, vty, mode: node.spec.v4 })
    }

    /// Adds the addresses, then in Dynamic mode the `network` statements; returns when it began.
    pub fn advertise(&mut self, vips: &[IpAddr]) -> Result<Instant> {
        let began = Instant::now();
        self.add_addresses(vips)?;
        if self.mode == Mode::Dynamic {
            self.networks(vips)?;
        }
        Ok(began)
    }

    /// Removes what has them advertised; returns when it began. In Connected mode that is the addresses; in Dynamic mode the
    /// `network` statements, and the addresses stay: the daemon, too, removes them later. See [`Raw::clear`].
    pub fn withdraw(&mut self, vips: &[IpAddr]) -> Result<Instant> {
        let began = Instant::now();
        match self.mode {
            Mode::Connected => self.remove_addresses(vips)?,
            Mode::Dynamic => self.statements(vips, |vip| format!("no network {}", host(vip)))?,
        }
        Ok(began)
    }

    /// Removes the addresses that a withdrawal left.
    pub fn clear(&mut self, vips: &[IpAddr]) -> Result<()> {
        match self.mode {
            Mode::Connected => Ok(()),
            Mode::Dynamic => self.remove_addresses(vips),
        }
    }

    /// Adds the `network` statements.
    pub fn networks(&mut self, vips: &[IpAddr]) -> Result<()> {
        self.statements(vips, |vip| format!("network {} route-map {ROUTE_MAP}", host(vip)))
    }

    /// Adds the addresses with the attributes that the daemon gives them.
    pub fn add_addresses(&mut self, vips: &[IpAddr]) -> Result<()> {
        let requests = vips.iter().map(|vip| {
            let mut message = host_address(*vip);
            let mut times = CacheInfo::default();
            times.ifa_valid = LEASE_SECONDS;
            message.attributes.push(AddressAttribute::CacheInfo(times));
            message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL)));
            if vip.is_ipv6() {
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            (NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(message))
        });
        self.request(&requests.collect::<Vec<_>>())
    }

    /// Removes the addresses.
    pub fn remove_addresses(&mut self, vips: &[IpAddr]) -> Result<()> {
        let requests = vips.iter().map(|vip| (0, RouteNetlinkMessage::DelAddress(host_address(*vip))));
        self.request(&requests.collect::<Vec<_>>())
    }

    fn statements(&mut self, vips: &[IpAddr], line: impl Fn(IpAddr) -> String) -> Result<()> {
        let mut lines = vec!["router bgp".to_owned()];
        for (v6, family) in [(false, "ipv4"), (true, "ipv6")] {
            let mut of_family = vips.iter().copied().filter(|vip| vip.is_ipv6() == v6).peekable();
            if of_family.peek().is_some() {
                lines.push(format!("address-family {family} unicast"));
                lines.extend(of_family.map(&line));
                lines.push("exit-address-family".to_owned());
            }
        }
        self.vty.configure_ok(&lines)
    }

    fn request(&mut self, requests: &[(u16, RouteNetlinkMessage)]) -> Result<()> {
        for chunk in requests.chunks(REQUESTS_PER_WRITE) {
            let mut datagram = Vec::new();
            for (index, (flags, message)) in chunk.iter().enumerate() {
                // Only the last one asks for an acknowledgement: the kernel goes in order, and reports every error.
                let acknowledged = if index + 1 == chunk.len() { NLM_F_ACK } else { 0 };
                self.sequence = self.sequence.wrapping_add(1);
                let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message.clone()));
                message.header.flags = NLM_F_REQUEST | flags | acknowledged;
                message.header.sequence_number = self.sequence;
                message.finalize();
                let start = datagram.len();
                datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
                message.serialize(&mut datagram[start..]);
            }
            self.netlink.send(&datagram, 0)?;
            self.acknowledged(self.sequence)?;
        }
        Ok(())
    }

    fn acknowledged(&self, last: u32) -> Result<()> {
        loop {
            let (datagram, _) = self.netlink.recv_from_full()?;
            let reply = NetlinkBuffer::new_checked(&datagram[..]).context("a malformed answer of the kernel")?;
            let code = reply.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
            ensure!(code == 0, "the kernel refuses: {}", std::io::Error::from_raw_os_error(-code));
            if reply.sequence_number() == last {
                return Ok(());
            }
        }
    }
}

fn host_address(vip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if vip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.prefix_len = host(vip).prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = LOOPBACK;
    message.attributes.push(AddressAttribute::Local(vip));
    message.attributes.push(AddressAttribute::Address(vip));
    message
}

/// The way of the Go project: one vtysh process for each VIP, which starts, connects, says one `network` and ends.
///
/// Returns when it began.
pub fn vtysh(node: &Node, vip: IpAddr, present: bool) -> Result<Instant> {
    let family = if vip.is_ipv6() { "ipv6" } else { "ipv4" };
    let no = if present { "" } else { "no " };
    let lines = [
        "configure terminal".to_owned(),
        format!("router bgp {}", node.plan.asn()),
        format!("address-family {family} unicast"),
        format!("{no}network {}", host(vip)),
    ];
    let mut command = Command::new("vtysh");
    command.arg("--vty_socket").arg(node.frr.directory());
    for line in &lines {
        command.args(["-c", line]);
    }
    let began = Instant::now();
    output(&mut command)?;
    Ok(began)
}
