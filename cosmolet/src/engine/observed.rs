//! What the kernel, FRR and the programs really hold, read back from them.
//!
//! Owns the observed half of the difference that becomes a plan. Never holds what we merely asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::attributes::MapName;
use super::types::{Mode, PerFamily, Ports, Vip, Vrf};

/// What netlink tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A whole dump: what it does not name is not there.
    Dump(KernelState),
    /// An address of the loopback interface is new or has changed.
    Loopback(Vip, LoopbackAddress),
    /// An address of the loopback interface is gone.
    LoopbackGone(Vip),
    /// The addresses of the other interfaces have changed; here are all of them.
    Own(BTreeSet<IpAddr>),
}

/// The kernel's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// The addresses of the loopback interface (`loopback.interface`), 127.0.0.1 and ::1 apart.
    pub loopback: BTreeMap<Vip, LoopbackAddress>,
    /// The addresses of all other interfaces but kube-ipvs0, which holds Services' addresses.
    pub own: BTreeSet<IpAddr>,
}

/// An address on the loopback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopbackAddress {
    /// Whose it is.
    pub owner: Owner,
    /// The rest of its lease when it was read; `None` if it is valid for ever.
    pub valid_for: Option<Duration>,
    /// The kernel made a route of its prefix: an IPv6 address without `IFA_F_NOPREFIXROUTE`.
    pub prefix_route: bool,
}

/// Who put an address or a `network` statement there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// cosmolet, now or in an earlier life: our IFA_PROTO, or one of our route-maps.
    Ours,
    /// Anybody else: never touched.
    Foreign,
}

/// A `network` statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Network {
    /// Ours, with this route-map; `None` where that is missing in FRR, or none that this version makes.
    Ours(Option<MapName>),
    /// Anybody else's: never touched.
    Foreign,
}

impl Network {
    /// Ours, and sets nothing.
    pub const PLAIN: Self = Self::Ours(Some(MapName::PLAIN));

    /// Whose it is.
    #[must_use]
    pub const fn owner(self) -> Owner {
        match self {
            Self::Ours(_) => Owner::Ours,
            Self::Foreign => Owner::Foreign,
        }
    }
}

impl BgpView {
    /// Whose the `network` statement of a VIP is, if there is one.
    #[must_use]
    pub fn network_owner(&self, vip: Vip) -> Option<Owner> {
        self.networks.get(&vip).map(|network| network.owner())
    }
}

/// FRR's bgpd, as its vty socket tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BgpState {
    /// `bgp.enabled: false`: only the loopback is kept.
    Disabled,
    /// It cannot be used now; retried for ever.
    Down(BgpFault),
    /// It answers, and has the BGP instance that the configuration wants.
    Up(BgpView),
}

/// Why bgpd cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BgpFault {
    /// Not asked yet.
    Starting,
    /// No socket, or nobody listens: FRR is not running, or `frr.socket_path` is wrong.
    Unreachable(String),
    /// The socket refuses this user: it wants the group `frrvty`.
    PermissionDenied(String),
    /// It accepted the connection but did not answer in time.
    Silent,
    /// There is no `router bgp` for the VRF.
    NoInstance {
        /// `bgp.vrf`
        vrf: Vrf,
        /// What there is instead: `default`, `vrf NAME`, `view NAME`.
        others: Vec<String>,
    },
    /// `bgp.asn` says one thing, FRR another.
    AsnMismatch {
        /// From the configuration.
        configured: u32,
        /// From FRR.
        found: u32,
    },
    /// VIPs are to have no addresses (`loopback.enabled: false`), and FRR would advertise none of them without.
    ImportCheck,
    /// It answered something that could not be understood.
    BadReply(String),
}

impl BgpFault {
    /// The reason as it stands in logs, metrics and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Unreachable(_) => "Unreachable",
            Self::PermissionDenied(_) => "PermissionDenied",
            Self::Silent => "Silent",
            Self::NoInstance { .. } => "NoInstance",
            Self::AsnMismatch { .. } => "AsnMismatch",
            Self::ImportCheck => "ImportCheck",
            Self::BadReply(_) => "BadReply",
        }
    }
}

impl std::fmt::Display for BgpFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting => f.write_str("FRR has not been asked yet"),
            Self::Unreachable(error) => write!(f, "FRR's bgpd cannot be reached: {error}"),
            Self::PermissionDenied(error) => {
                write!(f, "FRR's bgpd refuses this user, who must be in the group frrvty: {error}")
            }
            Self::Silent => f.write_str("FRR's bgpd takes connections but does not answer"),
            Self::NoInstance { vrf, others } => {
                write!(f, "FRR has no `router bgp` in the VRF {vrf} (bgp.vrf)")?;
                if !others.is_empty() {
                    write!(f, ", but in: {}", others.join(", "))?;
                }
                f.write_str("; configure one, cosmolet never creates it")
            }
            Self::AsnMismatch { configured, found } => {
                write!(f, "bgp.asn is {configured} but FRR's AS number is {found}; correct it, or set 0 to ask FRR")
            }
            Self::ImportCheck => f.write_str(
                "loopback.enabled is false, and with import-check FRR advertises no VIP without an address: \
                 `no bgp network import-check` in `router bgp`",
            ),
            Self::BadReply(reply) => write!(f, "FRR's bgpd gave an answer that cannot be understood: {reply}"),
        }
    }
}

/// What a usable bgpd holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpView {
    /// Counts the connections: another number means that FRR was restarted or the socket replaced.
    pub generation: u64,
    /// The local AS number.
    pub asn: u32,
    /// Connected or Dynamic, by family; an override from `bgp.mode` is already in it.
    pub modes: PerFamily<Mode>,
    /// The host prefixes among its `network` statements in the unicast families of its VRF.
    pub networks: BTreeMap<Vip, Network>,
    /// Its peers.
    pub peers: Vec<PeerView>,
}

/// A BGP peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerView {
    /// The peer as FRR names it: an address or an interface.
    pub name: String,
    /// Its address, where it has one.
    pub address: Option<IpAddr>,
    /// The session is Established.
    pub established: bool,
    /// Since when, by FRR's account.
    pub since: Option<UnixSeconds>,
    /// Whether BFD finds it up; `None` where BFD does not watch it.
    pub bfd: Option<bool>,
}

/// Seconds since 1970.
pub type UnixSeconds = NonZeroU32;

/// A moment of which FRR gives another account with each answer, a second off: it stays what it was while it is about the same.
#[must_use]
pub fn steady(told: Option<UnixSeconds>, before: Option<UnixSeconds>) -> Option<UnixSeconds> {
    match (told, before) {
        (Some(told), Some(before)) if told.get().abs_diff(before.get()) <= 2 => Some(before),
        (told, _) => told,
    }
}

/// Names of peers, in their order. VIPs that are advertised alike share one.
pub type PeerNames = Arc<Vec<String>>;

/// One VIP's truth in FRR's RIB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RibReport {
    /// The VIP.
    pub vip: Vip,
    /// What the RIB holds for its host prefix.
    pub rib: RibState,
}

/// What the RIB holds for a host prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RibState {
    /// A locally originated path is there and valid.
    pub valid: bool,
    /// It is the best path.
    pub best: bool,
    /// Since when that path is as it is, by FRR's account.
    pub since: Option<UnixSeconds>,
    /// The peers that the prefix is advertised to.
    pub advertised_to: PeerNames,
}

/// Whether the eBPF programs run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramsState {
    /// They do not, for this reason; the daemon runs on the control plane alone.
    Off(String),
    /// They are attached to these interfaces.
    Running(Vec<String>),
}

/// Whether wire-true probes can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProberState {
    /// Not known yet: it is about to be found out.
    Starting,
    /// They cannot, for this reason: nothing waits for a proof and nothing is convicted by one.
    Off(String),
    /// They can.
    Running,
}

impl ProberState {
    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Off(_) => "off",
            Self::Running => "running",
        }
    }
}

/// Everything observed, with its age kept by the engine.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The kernel's addresses; `None` before the first dump.
    pub kernel: Option<KernelState>,
    /// FRR.
    pub bgp: BgpState,
    /// The RIB, for the VIPs that were asked for.
    pub rib: BTreeMap<Vip, RibState>,
    /// The programs.
    pub programs: ProgramsState,
    /// The wire-true probe.
    pub prober: ProberState,
    /// The VIPs and ports that the programs count.
    pub tracked: BTreeMap<Vip, Ports>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            kernel: None,
            bgp: BgpState::Down(BgpFault::Starting),
            rib: BTreeMap::new(),
            programs: ProgramsState::Off("not started".to_owned()),
            prober: ProberState::Off("not started".to_owned()),
            tracked: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_told_a_second_off_is_the_same() {
        let at = UnixSeconds::new;
        for (told, before, then) in [(101, 100, 100), (98, 100, 100), (103, 100, 103), (5, 0, 5), (0, 100, 0)] {
            assert_eq!(steady(at(told), at(before)), at(then));
        }
    }
}
