//! What can go wrong with probes.

use std::io;
use std::net::IpAddr;

/// Why no probe can be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses this process.
    #[error("probes are not permitted: they need CAP_BPF and CAP_NET_ADMIN ({0})")]
    NotPermitted(#[source] io::Error),
    /// The kernel is too old.
    #[error("probe: not available on this kernel: it cannot receive live frames (Linux 5.18)")]
    NoLiveFrames,
    /// The kernel said something else.
    #[error("a probe cannot be sent: {0}")]
    Kernel(#[source] io::Error),
    /// The ring cannot be waited for.
    #[error("the ring of caught answers cannot be used: {0}")]
    Ring(#[source] io::Error),
    /// The interfaces cannot be read.
    #[error("the interfaces cannot be read: {0}")]
    Interfaces(#[source] io::Error),
    /// The interface is gone.
    #[error("interface {0} does not exist")]
    NoInterface(String),
    /// A frame cannot be made for it.
    #[error("interface {0} has no Ethernet header")]
    NotEthernet(String),
    /// An address of this host would be taken for a probe's.
    #[error("traffic.probe_sources holds {0}, which is an address of this host; name a prefix that nobody uses")]
    SourceTaken(IpAddr),
    /// The configuration names none.
    #[error("traffic.probe_sources is empty")]
    NoSources,
    /// No prefix of the target's family is configured.
    #[error("traffic.probe_sources has no {0} prefix")]
    NoSource(&'static str),
    /// The user-space stack takes no connection.
    #[error("a probe's connection cannot be made")]
    NoStack,
    /// The uplink is not among those that were told.
    #[error("no probe can be sent by interface {0}")]
    UnknownUplink(u32),
}
