//! What the engine can tell a person: one row for each VIP.

use std::sync::Arc;

use super::attributes::Route;
use super::check::Check;
use super::engine::Engine;
use super::event::SourceState;
use super::guard::Refused;
use super::intent::{Decision, VipHealth, WithdrawReason};
use super::observed::{BgpState, Network, Owner, RibState};
use super::proof::ProofStatus;
use super::service::VipKind;
use super::types::{Mode, Ports, ServiceKey, Timestamp, Vip};
use super::verdict::Verdict;
use super::vip::VipEntry;

/// How far a VIP is between decision and effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VipState {
    /// Nothing is decided before the sources have delivered everything once.
    Undecided,
    /// To be advertised, but the kernel or FRR does not hold it yet.
    Pending,
    /// To be advertised, and the kernel and FRR hold it.
    Advertised,
    /// The same, and peers are told to take any other path.
    Depreferred,
    /// To be withdrawn, but the kernel or FRR holds it still.
    Withdrawing,
    /// Withdrawn.
    Withdrawn,
    /// It may not be advertised at all.
    Refused,
}

impl VipState {
    /// All states, for one-hot metrics.
    pub const ALL: [Self; 7] = [
        Self::Undecided,
        Self::Pending,
        Self::Advertised,
        Self::Depreferred,
        Self::Withdrawing,
        Self::Withdrawn,
        Self::Refused,
    ];

    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecided => "undecided",
            Self::Pending => "pending",
            Self::Advertised => "advertised",
            Self::Depreferred => "depreferred",
            Self::Withdrawing => "withdrawing",
            Self::Withdrawn => "withdrawn",
            Self::Refused => "refused",
        }
    }

    /// Peers have a path through this node.
    #[must_use]
    pub const fn is_advertised(self) -> bool {
        matches!(self, Self::Advertised | Self::Depreferred)
    }
}

/// One VIP, from decision to RIB.
#[derive(Clone, Debug, PartialEq)]
pub struct VipStatus {
    /// The VIP.
    pub vip: Vip,
    /// How far it is.
    pub state: VipState,
    /// Why it is withdrawn, de-preferred or refused.
    pub reason: Option<WithdrawReason>,
    /// When the decision was last changed.
    pub since: Timestamp,
    /// Connected or Dynamic; `None` while FRR is away or `bgp.enabled` is false.
    pub mode: Option<Mode>,
    /// It is to have no address on the loopback.
    pub bare: bool,
    /// Whose address is on the loopback, if there is one.
    pub loopback: Option<Owner>,
    /// When the kernel will remove the address by itself.
    pub lease_until: Option<Timestamp>,
    /// Whose `network` statement FRR has, if there is one.
    pub network: Option<Owner>,
    /// The attributes that it is to be advertised with, if there are any.
    pub attributes: Option<Box<AttributesStatus>>,
    /// It is de-preferred until then, and withdrawn at the end. In a box: hardly any row has one.
    pub drain_ends: Option<Box<Timestamp>>,
    /// What FRR's RIB holds, where it was read.
    pub rib: Option<RibState>,
    /// The last error of a step, until one succeeds.
    pub last_error: Option<String>,
    /// Why it may not be withdrawn for its traffic, where it should be.
    pub ejection_refused: Option<Refused>,
    /// The Services that claim it.
    pub services: Vec<ClaimStatus>,
}

/// The attributes of a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributesStatus {
    /// What is wanted.
    pub route: Route,
    /// FRR's `network` statement has their route-map. Never in Connected mode, where no statement is ours.
    pub set: bool,
}

/// One Service's claim to a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimStatus {
    /// The Service.
    pub service: ServiceKey,
    /// Where the Service names the VIP.
    pub kind: VipKind,
    /// The ports that the Service declares.
    pub ports: Ports,
    /// Its health, from both worlds.
    pub health: VipHealth,
    /// Ready endpoints of the VIP's family on this node, whatever their pods are like.
    pub ready_here: u32,
    /// How often in a row its traffic has convicted it.
    pub ejections: u32,
    /// What the traffic verdict says of it.
    pub verdict: Verdict,
    /// What wire-true probes have shown.
    pub proof: ProofStatus,
    /// What its owner wants to be asked.
    pub check: Option<Arc<Check>>,
}

impl Engine {
    /// The row of one VIP.
    #[must_use]
    pub fn vip_status(&self, vip: Vip) -> Option<VipStatus> {
        self.vips.get(&vip).map(|entry| self.row(vip, entry))
    }

    /// The Services that claim a VIP, in the order of their keys.
    pub fn claimed_by(&self, vip: Vip) -> impl Iterator<Item = &ServiceKey> {
        self.vips.get(&vip).into_iter().flat_map(|entry| &entry.claims).map(|claim| &claim.service)
    }

    /// The Services with addresses that are no addresses, and those addresses.
    pub fn unusable_addresses(&self) -> impl Iterator<Item = (&ServiceKey, &str, WithdrawReason)> {
        self.services.values().flat_map(|view| {
            view.refused
                .iter()
                .map(|refused| (&view.key, refused.text.as_str(), WithdrawReason::Refused(refused.refusal)))
        })
    }

    /// The state of the source of Services.
    #[must_use]
    pub const fn source_state(&self) -> &SourceState {
        &self.source
    }

    /// The number of Services known.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// True once every source has delivered everything once.
    #[must_use]
    pub const fn is_synced(&self) -> bool {
        self.synced
    }

    fn row(&self, vip: Vip, entry: &VipEntry) -> VipStatus {
        let loopback =
            self.observed.kernel.as_ref().and_then(|kernel| kernel.loopback.get(&vip)).map(|held| held.owner);
        let (mode, network) = match &self.observed.bgp {
            BgpState::Up(view) => (Some(*view.modes.get(vip.family())), view.networks.get(&vip).copied()),
            BgpState::Disabled | BgpState::Down(_) => (None, None),
        };
        VipStatus {
            vip,
            state: self.state(entry, loopback, mode, network),
            reason: entry.decision.and_then(Decision::reason),
            since: entry.since,
            mode,
            bare: !self.settings.addresses,
            loopback,
            lease_until: entry.lease_until.filter(|_| loopback == Some(Owner::Ours)),
            network: network.map(Network::owner),
            attributes: attributes(entry, network),
            drain_ends: self.drain_ends(vip).map(Box::new),
            rib: self.observed.rib.get(&vip).cloned(),
            last_error: entry.last_error.clone(),
            ejection_refused: self.ejection_refused(vip),
            services: self.claims(vip, entry),
        }
    }

    fn claims(&self, vip: Vip, entry: &VipEntry) -> Vec<ClaimStatus> {
        entry
            .claims
            .iter()
            .map(|claim| ClaimStatus {
                service: claim.service.clone(),
                kind: claim.kind,
                ports: Arc::clone(&claim.ports),
                health: if self.node.is_some() { claim.health() } else { VipHealth::Unknown },
                ready_here: self.services.get(&claim.service).map_or(0, |view| view.ready_here(vip.family())),
                ejections: claim.traffic.ejections(),
                verdict: claim.verdict(&self.settings.traffic),
                proof: claim.proof.status(),
                check: claim.check.clone(),
            })
            .collect()
    }

    fn state(
        &self,
        entry: &VipEntry,
        loopback: Option<Owner>,
        mode: Option<Mode>,
        network: Option<Network>,
    ) -> VipState {
        let disabled = matches!(self.observed.bgp, BgpState::Disabled);
        let placed = loopback.is_some() || !self.settings.addresses;
        match entry.decision {
            None => VipState::Undecided,
            Some(Decision::Advertise) => {
                let told = match mode {
                    Some(Mode::Connected) => true,
                    Some(Mode::Dynamic) => network.is_some(),
                    None => disabled,
                };
                if placed && told { VipState::Advertised } else { VipState::Pending }
            }
            Some(Decision::Depreference(_)) => {
                let told = network == Some(Network::Ours(Some(entry.route().map)));
                if placed && told { VipState::Depreferred } else { VipState::Pending }
            }
            Some(Decision::Withdraw(_))
                if loopback == Some(Owner::Ours) || network.map(Network::owner) == Some(Owner::Ours) =>
            {
                VipState::Withdrawing
            }
            Some(Decision::Withdraw(WithdrawReason::Refused(_))) => VipState::Refused,
            Some(Decision::Withdraw(_)) => VipState::Withdrawn,
        }
    }
}

fn attributes(entry: &VipEntry, network: Option<Network>) -> Option<Box<AttributesStatus>> {
    let route = entry.route();
    let set = network == Some(Network::Ours(Some(route.map)));
    route.profile.is_some().then(|| Box::new(AttributesStatus { route, set }))
}
