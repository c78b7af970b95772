//! Attaches the programs to the uplinks and keeps them there.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use aya::Ebpf;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, tc};

use super::Error;
use super::error::errno;
use super::load::{Hook, Options, program};
use crate::engine::types::Uplink;

/// What a program is attached to, held for as long as it shall be.
#[derive(Debug)]
pub(super) struct Attached {
    uplink: Uplink,
    /// Dropping them detaches.
    _links: [SchedClassifierLink; 2],
}

impl Attached {
    pub(super) const fn uplink(&self) -> &Uplink {
        &self.uplink
    }
}

/// A direction, from the node's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

impl Direction {
    pub(super) const BOTH: [Self; 2] = [Self::In, Self::Out];

    const fn hook(self) -> TcAttachType {
        match self {
            Self::In => TcAttachType::Ingress,
            Self::Out => TcAttachType::Egress,
        }
    }
}

/// What precedes the network header on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// An Ethernet header.
    Ethernet,
    /// Nothing: a tunnel, a modem.
    Bare,
}

pub(super) fn reconcile(
    ebpf: &mut Ebpf,
    options: &Options,
    attached: &mut BTreeMap<u32, Attached>,
    uplinks: &[Uplink],
) -> Vec<(Uplink, Result<(), Error>)> {
    attached.retain(|_, known| uplinks.contains(&known.uplink));
    let attach_one = |uplink: &Uplink| {
        if let Entry::Vacant(vacant) = attached.entry(uplink.ifindex) {
            let links = attach(ebpf, options, uplink)?;
            vacant.insert(Attached { uplink: uplink.clone(), _links: links });
        }
        Ok(())
    };
    uplinks.iter().map(attach_one).zip(uplinks).map(|(result, uplink)| (uplink.clone(), result)).collect()
}

fn attach(ebpf: &mut Ebpf, options: &Options, uplink: &Uplink) -> Result<[SchedClassifierLink; 2], Error> {
    let link = link_of(uplink)?;
    let mut attach = |direction| {
        let program = program(ebpf, direction, link, options.log)?;
        attach_program(program, options.hook, uplink, direction)
            .map_err(|source| Error::from_attach(&uplink.name, source))
    };
    let links = [attach(Direction::In)?, attach(Direction::Out)?];
    // aya attaches by name; the interface may have been created again since its index was read.
    match link_of(uplink) {
        Ok(now) if now == link => Ok(links),
        Ok(_) => Err(Error::NoInterface(uplink.name.clone())),
        Err(error) => Err(error),
    }
}

/// TCX is tried whatever the kernel's version says: distributions backport it. What another program, even a CNI's,
/// answers does not matter, for ours runs before it.
fn attach_program(
    program: &mut SchedClassifier,
    hook: Hook,
    uplink: &Uplink,
    direction: Direction,
) -> Result<SchedClassifierLink, ProgramError> {
    if hook == Hook::Tcx {
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        match program.attach_with_options(&uplink.name, direction.hook(), first) {
            Ok(id) => return program.take_link(id),
            Err(error) if matches!(errno(&error), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
            Err(error) => return Err(error),
        }
    }
    attach_clsact(program, uplink, direction)
}

/// A filter of clsact outlives a killed daemon, so ours is removed first. It is known by its handle: its name is
/// missing where the daemon has no CAP_PERFMON, since aya then takes the kernel for one that cannot name programs.
fn attach_clsact(
    program: &mut SchedClassifier,
    uplink: &Uplink,
    direction: Direction,
) -> Result<SchedClassifierLink, ProgramError> {
    const PRIORITY: u16 = 1;
    const HANDLE: TcHandle = TcHandle::new(0xc05e, 1);

    match tc::qdisc_add_clsact(&uplink.name) {
        Err(error) if errno(&error) != Some(libc::EEXIST) && !matches!(error, TcError::AlreadyAttached) => {
            return Err(error.into());
        }
        Ok(()) | Err(_) => {}
    }
    // Dropping it removes it, if it is there.
    drop(SchedClassifierLink::attached(&uplink.name, direction.hook(), PRIORITY, HANDLE, None));
    let first = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let id = program.attach_with_options(&uplink.name, direction.hook(), TcAttachOptions::Netlink(first))?;
    program.take_link(id)
}

/// Asks the kernel what precedes the network header there, and whether the name is still that index's.
fn link_of(uplink: &Uplink) -> Result<Link, Error> {
    const ETHERNET: u16 = libc::ARPHRD_ETHER;
    const LOOPBACK: u16 = libc::ARPHRD_LOOPBACK;
    let gone = || Error::NoInterface(uplink.name.clone());
    let (ifindex, hardware) = interface(&uplink.name).map_err(|_not_there| gone())?;
    match hardware {
        _ if ifindex != uplink.ifindex => Err(gone()),
        ETHERNET | LOOPBACK => Ok(Link::Ethernet),
        _ => Ok(Link::Bare),
    }
}

/// The index and the hardware type (netdevice(7)) of an interface in this thread's network namespace.
fn interface(name: &str) -> io::Result<(u32, u16)> {
    #![expect(unsafe_code, reason = "netdevice(7) is made of ioctls on a C structure with a union")]

    let name = CString::new(name)?;
    // SAFETY: plain integers in, a file descriptor or an error out.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just opened and that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: a C structure of integers and arrays of them, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = name.as_bytes_with_nul();
    if bytes.len() > request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        // C's `char` has no sign on every architecture.
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    let mut ask = |what| {
        // SAFETY: both requests read the name and write within the structure.
        if unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(request)
    };
    // SAFETY: this request fills in the address, whose family is the hardware type.
    let hardware = unsafe { ask(libc::SIOCGIFHWADDR)?.ifr_ifru.ifru_hwaddr.sa_family };
    // SAFETY: this request fills in the index.
    let ifindex = unsafe { ask(libc::SIOCGIFINDEX)?.ifr_ifru.ifru_ifindex };
    Ok((ifindex.cast_unsigned(), hardware))
}
