//! What a frame for an interface needs to know: its Ethernet address, and addresses of this host.
#![expect(unsafe_code, reason = "getifaddrs(3) hands out a linked list of C structures")]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frame::Mac;

/// An interface of this network namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Interface {
    /// `None` if it has no Ethernet header.
    pub(super) mac: Option<Mac>,
    /// Its addresses, link-local ones apart.
    pub(super) addresses: Vec<IpAddr>,
}

/// Reads all interfaces, by name.
pub(super) fn read() -> io::Result<BTreeMap<String, Interface>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the call writes the pointer that it is handed.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let mut next = list;
    // SAFETY: a list of the C library's, valid until it is freed below; null ends it.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: the name is a C string of that list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        let interface = found.entry(name).or_default();
        // SAFETY: the address is null or one of that list, with as many bytes as its family says.
        unsafe { take(interface, entry.ifa_addr) };
        next = entry.ifa_next;
    }
    // SAFETY: what was allocated above, once.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// # Safety
/// `address` is null or points to a socket address of the family that it names.
unsafe fn take(interface: &mut Interface, address: *const libc::sockaddr) {
    // SAFETY: as the caller promises; every family begins with this structure.
    let Some(family) = unsafe { address.as_ref() }.map(|address| i32::from(address.sa_family)) else { return };
    match family {
        libc::AF_PACKET => {
            // SAFETY: as the caller promises.
            let link = unsafe { &*address.cast::<libc::sockaddr_ll>() };
            if link.sll_hatype == libc::ARPHRD_ETHER && link.sll_halen == 6 {
                interface.mac = link.sll_addr.first_chunk().copied();
            }
        }
        libc::AF_INET => {
            // SAFETY: as the caller promises.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            let v4 = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            if !v4.is_link_local() {
                interface.addresses.push(v4.into());
            }
        }
        libc::AF_INET6 => {
            // SAFETY: as the caller promises.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            let v6 = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            if !v6.is_unicast_link_local() {
                interface.addresses.push(v6.into());
            }
        }
        _ => {}
    }
}
