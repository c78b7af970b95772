//! The netlink edge: VIPs on the loopback interface, the kernel's addresses, and the uplinks.
//!
//! Owns every rtnetlink socket of the daemon. Never judges whether a VIP belongs on the loopback: `engine` plans, this
//! carries out and reads back. Never touches an address that does not bear [`ADDRESS_PROTOCOL`].
//!
//! # What the kernel must have
//!
//! | what | since | without it |
//! |---|---|---|
//! | `IFA_PROTO`, the tag that makes an address ours | 5.18 | the tag is ignored: our own addresses read back as foreign, and every VIP is refused |
//! | dumps filtered by interface (`NETLINK_GET_STRICT_CHK`) | 5.0 | [`Error::Socket`] |
//! | lookups that answer with all next hops (`RTM_F_FIB_MATCH`) | IPv4 4.13, IPv6 4.15 | a peer's uplink may be missed |
//!
//! Adding and removing wants `CAP_NET_ADMIN`; everything else works without any capability.

pub mod apply;
mod client;
pub mod error;
mod model;
pub mod observe;
pub mod uplinks;
mod wire;

pub use client::REQUESTS_PER_WRITE;
pub use error::Error;

/// The `IFA_PROTO` of our addresses, in decimal 197. The kernel itself uses 1 to 3 (`IFAPROT_KERNEL_LO`, `_RA` and
/// `_LL`); the rest is free for everybody (`include/uapi/linux/if_addr.h`). `ip address` prints it as `proto 0xc5`.
pub const ADDRESS_PROTOCOL: u8 = 0xC5;
