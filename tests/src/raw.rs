//! Sends packets as they are, headers included, whoever they say they come from (raw(7), `IPV6_HDRINCL`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::netns::Netns;

/// A raw socket of each family in one namespace.
#[derive(Debug)]
pub struct Raw {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Raw {
    /// Opens both in `netns`.
    pub fn open(netns: &Netns) -> anyhow::Result<Self> {
        netns.run(|| Ok(Self { v4: socket(libc::AF_INET)?, v6: socket(libc::AF_INET6)? }))?
    }

    /// Sends a whole IP packet towards an address of its family.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        match to {
            IpAddr::V4(v4) => {
                let address = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: 0,
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                    sin_zero: [0; 8],
                };
                send(&self.v4, packet, &address)
            }
            IpAddr::V6(v6) => {
                let address = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: 0,
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.octets() },
                    sin6_scope_id: 0,
                };
                send(&self.v6, packet, &address)
            }
        }
    }

    /// Sends a TCP packet without data from any socket to another of its family.
    pub fn tcp(&self, from: SocketAddr, to: SocketAddr, sequence: u32, flags: u8) -> io::Result<()> {
        self.send(&crate::packet::tcp_packet(from, to, sequence, 0, flags), to.ip())
    }
}

#[expect(unsafe_code, reason = "raw sockets have no wrapper in std")]
fn socket(family: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers in, a descriptor or an error out.
    let socket = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

#[expect(unsafe_code, reason = "std sends to no raw address")]
fn send<T>(socket: &OwnedFd, packet: &[u8], address: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let to = std::ptr::from_ref(address).cast();
    // SAFETY: both buffers outlive the call, with their lengths.
    let sent = unsafe { libc::sendto(socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0, to, length) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
