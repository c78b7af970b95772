//! The words the whole daemon shares: VIPs, Services, families, points in time.
//!
//! Owns identities and their order. Never holds a judgement about them.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

/// Address family of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4; host prefixes are /32.
    V4,
    /// IPv6; host prefixes are /128.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One value for each address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    /// The IPv4 value.
    pub v4: T,
    /// The IPv6 value.
    pub v6: T,
}

impl<T> PerFamily<T> {
    /// Borrows the value of one family.
    pub const fn get(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Borrows the value of one family mutably.
    pub const fn get_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// A Service's virtual address. IPv4-mapped IPv6 addresses are taken for the IPv4 address they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip(IpAddr);

impl Vip {
    /// Takes an address as a VIP, without judging whether it may be advertised.
    #[must_use]
    pub const fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.0
    }

    /// The family of the address.
    #[must_use]
    pub const fn family(self) -> Family {
        match self.0 {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// The host prefix that is advertised: /32 or /128.
    #[must_use]
    pub fn prefix(self) -> IpNet {
        IpNet::from(self.0)
    }
}

impl From<IpAddr> for Vip {
    fn from(address: IpAddr) -> Self {
        Self::new(address)
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Transport protocol of a declared port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
    /// SCTP, protocol number 132.
    Sctp,
}

impl Protocol {
    /// The IANA protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port that a Service declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port number, 1 to 65535.
    pub number: u16,
}

/// Ports in ascending order, without duplicates. All that speak of those of one Service share them.
pub type Ports = Arc<[Port]>;

impl Port {
    /// It is one of TCP.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        matches!(self.protocol, Protocol::Tcp)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.as_str())
    }
}

/// A namespaced Kubernetes name. Its order is fixed but means nothing: a hash of both names stands first, so that nearly
/// every comparison is settled within the key itself, without a look at either string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    hash: u64,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Builds a key.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self::shared(namespace.into(), name.into())
    }

    /// Builds a key of strings that others hold as well.
    #[must_use]
    pub fn shared(namespace: Arc<str>, name: Arc<str>) -> Self {
        let bytes = namespace.bytes().chain([b'/']).chain(name.bytes());
        Self { hash: fnv(FNV_OFFSET, bytes), namespace, name }
    }
}

/// Where FNV-1a begins.
pub(super) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: short, and the same on every machine and in every run.
pub(super) fn fnv(from: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(from, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Ord for ObjectKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let names = || self.name.cmp(&other.name).then_with(|| self.namespace.cmp(&other.namespace));
        self.hash.cmp(&other.hash).then_with(names)
    }
}

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service's namespace and name.
pub type ServiceKey = ObjectKey;
/// A Pod's namespace and name.
pub type PodKey = ObjectKey;

/// An interface by which clients' packets reach this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uplink {
    /// Its index; an interface that is made anew has another.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
}

/// How FRR learns a VIP, per address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// FRR has `redistribute connected`: the address on the loopback is all there is to do.
    Connected,
    /// FRR is told by a `network` statement for each VIP.
    Dynamic,
}

impl Mode {
    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Dynamic => "dynamic",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The VRF whose `router bgp` is told of VIPs: the default one, or that of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vrf(Option<String>);

impl Vrf {
    /// What its name must be. FRR takes 35 characters, in VRFs that are network namespaces; `all` means something else to it.
    pub const RULE: &str = "must be a VRF's name: 1 to 35 letters, digits, -, _, . and :, and not `all`";

    /// Reads a name; an empty one, like `default`, is the default VRF's. `None` if it breaks [`Self::RULE`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        match name {
            "" | "default" => Some(Self(None)),
            "all" => None,
            _ if name.len() > 35 || !name.bytes().all(allowed) => None,
            _ => Some(Self(Some(name.to_owned()))),
        }
    }

    /// Its name; `None` is the default one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl fmt::Display for Vrf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("default"))
    }
}

/// A point on the daemon's monotonic clock, as the time since it started. The engine has no clock of its own.
///
/// In nanoseconds, one more than have passed: so an `Option` of it is no larger, and every VIP has many of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(NonZeroU64);

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Timestamp {
    /// The daemon's start.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// The point `since_start` after the daemon's start; at most 584 years.
    #[must_use]
    pub const fn from_start(since_start: Duration) -> Self {
        Self::ZERO.after(since_start)
    }

    /// The time between the daemon's start and this point.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.since(Self::ZERO)
    }

    /// The time from `earlier` to this point; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// The point `by` later.
    #[must_use]
    pub const fn after(self, by: Duration) -> Self {
        let by = by.as_nanos();
        #[expect(clippy::cast_possible_truncation, reason = "what does not fit is cut before")]
        let by = if by > u64::MAX as u128 { u64::MAX } else { by as u64 };
        Self(self.0.saturating_add(by))
    }
}
