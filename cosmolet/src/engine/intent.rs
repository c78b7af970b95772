//! What is wanted, for every VIP, with the reason.
//!
//! Owns the decision and its words: the log field, the metric label and the status page all take them from here.

use std::fmt;

use super::service::Refusal;

/// The decision about one VIP. The engine holds one for every VIP it knows: complete, never a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// This node can serve it: address on the loopback, host prefix advertised.
    Advertise,
    /// It serves it badly, for this reason, and is to stay the last resort: as [`Self::Advertise`], and peers take any other
    /// path.
    Depreference(WithdrawReason),
    /// It cannot, for this reason.
    Withdraw(WithdrawReason),
}

impl Decision {
    /// Peers are to have a path through this node.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Advertise | Self::Depreference(_))
    }

    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Advertise => "advertise",
            Self::Depreference(_) => "depreference",
            Self::Withdraw(_) => "withdraw",
        }
    }

    /// Why it is not advertised like any other.
    #[must_use]
    pub const fn reason(self) -> Option<WithdrawReason> {
        match self {
            Self::Advertise => None,
            Self::Depreference(reason) | Self::Withdraw(reason) => Some(reason),
        }
    }
}

/// Why a VIP is not advertised from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WithdrawReason {
    /// The traffic policy is `Local` and no endpoint on this node is usable.
    NoLocalEndpoint,
    /// No endpoint is usable anywhere.
    NoEndpoint,
    /// The endpoints that are left on this node belong to pods whose containers keep restarting.
    PodRestarting,
    /// The node carries the label that excludes it from load balancers.
    NodeExcluded,
    /// The node's network is not set up (condition `NetworkUnavailable`).
    NodeNetworkUnavailable,
    /// The node carries a taint of `services.drain_taints`.
    NodeTainted,
    /// The node is cordoned, and `services.cordon` is `withdraw`.
    NodeCordoned,
    /// `cosmolet drain` has taken the node out.
    NodeDrained,
    /// Nothing is known of the node yet, and the VIP was not up.
    NodeUnknown,
    /// New connections were refused by this host itself: nothing translates the VIP to a backend.
    HostRefuses,
    /// New connections through this node fail, and a second key agrees.
    ConnectionsFail,
    /// What its owner wants to be asked (`cosmolet.io/probe`) is not answered well.
    ProbeFails,
    /// It waits, for a moment, for a wire-true probe to pass.
    Proving,
    /// No wire-true probe has passed, and its Service requires one (`cosmolet.io/prove: required`).
    Unproven,
    /// No Service claims the VIP any more.
    ServiceGone,
    /// The address may not be advertised.
    Refused(Refusal),
    /// The daemon ends and `bgp.on_exit` is `withdraw`.
    Exit,
}

impl WithdrawReason {
    /// All but the refusals, which are [`Refusal::ALL`].
    pub const ALL: [Self; 15] = [
        Self::NoLocalEndpoint,
        Self::NoEndpoint,
        Self::PodRestarting,
        Self::NodeExcluded,
        Self::NodeNetworkUnavailable,
        Self::NodeTainted,
        Self::NodeCordoned,
        Self::NodeDrained,
        Self::NodeUnknown,
        Self::HostRefuses,
        Self::ConnectionsFail,
        Self::Proving,
        Self::Unproven,
        Self::ServiceGone,
        Self::Exit,
    ];

    /// The reason that is called so.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        let refusals = Refusal::ALL.into_iter().map(Self::Refused);
        Self::ALL.into_iter().chain(refusals).find(|reason| reason.as_str() == word)
    }

    /// The reason as it stands in logs, metrics, Kubernetes Events and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoLocalEndpoint => "NoLocalEndpoint",
            Self::NoEndpoint => "NoEndpoint",
            Self::PodRestarting => "PodRestarting",
            Self::NodeExcluded => "NodeExcluded",
            Self::NodeNetworkUnavailable => "NodeNetworkUnavailable",
            Self::NodeTainted => "NodeTainted",
            Self::NodeCordoned => "NodeCordoned",
            Self::NodeDrained => "NodeDrained",
            Self::NodeUnknown => "NodeUnknown",
            Self::HostRefuses => "HostRefuses",
            Self::ConnectionsFail => "ConnectionsFail",
            Self::ProbeFails => "ProbeFails",
            Self::Proving => "Proving",
            Self::Unproven => "Unproven",
            Self::ServiceGone => "ServiceGone",
            Self::Refused(refusal) => refusal.as_str(),
            Self::Exit => "Exit",
        }
    }

    /// One sentence for a person, without the VIP's name.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::NoLocalEndpoint => "its traffic policy is Local and this node has no usable endpoint",
            Self::NoEndpoint => "no endpoint is usable on any node",
            Self::PodRestarting => {
                "containers of its endpoints on this node were restarted a moment ago, or keep restarting"
            }
            Self::NodeExcluded => "the node is labelled node.kubernetes.io/exclude-from-external-load-balancers",
            Self::NodeNetworkUnavailable => "the node's condition NetworkUnavailable is True",
            Self::NodeTainted => "the node carries one of services.drain_taints",
            Self::NodeCordoned => "the node is cordoned and services.cordon is withdraw",
            Self::NodeDrained => "the node is drained (cosmolet undrain brings it back)",
            Self::NodeUnknown => "the node object has not been seen, and the VIP was not up",
            Self::HostRefuses => {
                "this host itself refuses its new connections: nothing translates the VIP to a backend"
            }
            Self::ConnectionsFail => {
                "its new connections through this node fail, and probes or its owner's choice confirm it"
            }
            Self::ProbeFails => "three times in a row its owner's probe (cosmolet.io/probe) was not answered well",
            Self::Proving => "it waits for a probe of its data plane to pass (traffic.prove_seconds)",
            Self::Unproven => "no probe of its data plane has passed, and its Service says cosmolet.io/prove: required",
            Self::ServiceGone => "no Service claims it",
            Self::Refused(refusal) => refusal.explain(),
            Self::Exit => "the daemon ends and bgp.on_exit is withdraw",
        }
    }
}

impl fmt::Display for WithdrawReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The health of one Service's claim to a VIP, from both worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipHealth {
    /// Too little is known; whatever is up stays up.
    Unknown,
    /// Kubernetes says yes; a wire-true probe is to say so too before it is advertised.
    Proving,
    /// It can be served.
    Up,
    /// The traffic says no, but nothing acts on it: `traffic.mode: observe`, no second key, or a guard.
    Suspect(WithdrawReason),
    /// It cannot be served.
    Down(WithdrawReason),
    /// Convicted by its traffic a while ago, advertised again, judged more strictly.
    Trial,
}

impl VipHealth {
    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Proving => "proving",
            Self::Up => "up",
            Self::Suspect(_) => "suspect",
            Self::Down(_) => "down",
            Self::Trial => "trial",
        }
    }
}
