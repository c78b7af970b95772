//! One VIP: who claims it, what was decided, how far it got.

use std::sync::Arc;
use std::time::Duration;

use super::attributes::Route;
use super::check::Check;
use super::drain::Drain;
use super::intent::{Decision, VipHealth, WithdrawReason};
use super::lost::Lost;
use super::proof::{Proof, Prove};
use super::service::VipKind;
use super::traffic::{OnFault, TrafficHealth, TrafficPolicy, TrafficRules, TrafficState};
use super::types::{FNV_OFFSET, Port, Ports, ServiceKey, Timestamp, Vip, fnv};
use super::verdict::Verdict;

/// Everything the engine remembers of one VIP.
#[derive(Clone, Debug, Default)]
pub(super) struct VipEntry {
    /// The Services that ask for it, in the order of their keys. Nearly always one: a map would take 2 KiB for it.
    pub(super) claims: Vec<Claim>,
    /// What is wanted; `None` before the sources have delivered everything once.
    pub(super) decision: Option<Decision>,
    /// When the decision was last changed.
    pub(super) since: Timestamp,
    /// When our `network` statement was removed: the address outlives it a little.
    pub(super) withdrawn_at: Option<Timestamp>,
    /// When the kernel will remove the address by itself.
    pub(super) lease_until: Option<Timestamp>,
    /// It is on its way out, de-preferred.
    pub(super) drain: Option<Box<Drain>>,
    /// Nothing is tried before this point.
    pub(super) retry_at: Option<Timestamp>,
    /// Counting is not tried before this point; it never holds up the VIP itself.
    pub(super) count_retry_at: Option<Timestamp>,
    /// FRR does not see its address.
    pub(super) lost: Option<Box<Lost>>,
    /// When a client last completed a handshake.
    pub(super) served_at: Option<Timestamp>,
    /// Its suspect ports are probed again at this point.
    pub(super) probed_until: Option<Timestamp>,
    /// The last error of a step, until one succeeds.
    pub(super) last_error: Option<String>,
}

/// One Service's claim to a VIP.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) service: ServiceKey,
    pub(super) kind: VipKind,
    pub(super) ports: Ports,
    pub(super) control: Result<(), WithdrawReason>,
    /// When that was last judged.
    pub(super) control_at: Timestamp,
    pub(super) prove: Prove,
    pub(super) proof: Proof,
    pub(super) policy: TrafficPolicy,
    /// What its owner wants to be asked.
    pub(super) check: Option<Arc<Check>>,
    /// How it wants the VIP to be advertised, if it says so.
    pub(super) route: Option<Box<Route>>,
    pub(super) traffic: TrafficHealth,
    /// The verdict that was last told.
    pub(super) told: Verdict,
}

impl Claim {
    /// The health of the claim; the control plane is heard first.
    pub(super) const fn health(&self) -> VipHealth {
        match (self.control, self.traffic.state()) {
            (Err(reason), _) => VipHealth::Down(reason),
            (Ok(()), _) if self.proof.waits() => VipHealth::Proving,
            (Ok(()), TrafficState::Clear) => VipHealth::Up,
            (Ok(()), TrafficState::Suspect) => VipHealth::Suspect(self.charged()),
            (Ok(()), TrafficState::Convicted(_)) => VipHealth::Down(self.charged()),
            (Ok(()), TrafficState::Trial(_)) => VipHealth::Trial,
        }
    }
}

impl Claim {
    /// What its owner wants instead of a withdrawal for its traffic alone.
    fn wants_depreference(&self) -> bool {
        let convicted = matches!(self.traffic.state(), TrafficState::Convicted(_));
        self.control.is_ok() && convicted && self.policy.fault == OnFault::Depreference
    }

    /// The port of which its owner wants something to be asked.
    pub(super) fn checked_port(&self) -> Option<Port> {
        self.check.as_ref().map(|check| check.port)
    }

    /// Takes from its probes whether that is answered badly.
    pub(super) fn weigh_check(&mut self, now: Timestamp, rules: &TrafficRules) {
        let port = self.checked_port().filter(|_| self.control.is_ok());
        self.traffic.set_failing_check(port.filter(|port| self.proof.convinces(*port, now, rules)));
    }

    const fn charged(&self) -> WithdrawReason {
        match self.traffic.charge() {
            Some(charge) => charge.reason(),
            None => WithdrawReason::HostRefuses,
        }
    }

    /// How long it waits for a proof at most.
    pub(super) const fn limit(&self, prove: Option<Duration>) -> Option<Duration> {
        match self.prove {
            Prove::Wait => prove,
            Prove::Required => None,
            Prove::Never => Some(Duration::ZERO),
        }
    }

    /// What a claim that waits for its proof is called.
    const fn waiting(&self) -> WithdrawReason {
        match self.prove {
            Prove::Wait | Prove::Never => WithdrawReason::Proving,
            Prove::Required => WithdrawReason::Unproven,
        }
    }
}

impl VipEntry {
    /// Takes a claim in, in the place of the one that its Service made before, whose traffic and probes are remembered.
    /// Returns true if the control plane says yes and did not before.
    pub(super) fn claim(&mut self, mut claim: Claim) -> bool {
        let good = claim.control.is_ok();
        match self.place(&claim.service) {
            Ok(place) => {
                let Some(known) = self.claims.get_mut(place) else { return false };
                let was_good = known.control.is_ok();
                claim.traffic = std::mem::take(&mut known.traffic);
                claim.traffic.keep_ports(&claim.ports);
                claim.told = known.told;
                claim.proof = std::mem::take(&mut known.proof);
                claim.proof.keep_ports(&claim.ports);
                *known = claim;
                good && !was_good
            }
            Err(place) => {
                self.claims.reserve_exact(1);
                self.claims.insert(place, claim);
                good
            }
        }
    }

    /// Forgets a Service's claim.
    pub(super) fn unclaim(&mut self, service: &ServiceKey) {
        if let Ok(place) = self.place(service) {
            self.claims.remove(place);
        }
    }

    /// The claim of a Service.
    pub(super) fn find(&mut self, service: &ServiceKey) -> Option<&mut Claim> {
        let place = self.place(service).ok()?;
        self.claims.get_mut(place)
    }

    fn place(&self, service: &ServiceKey) -> Result<usize, usize> {
        self.claims.binary_search_by(|claim| claim.service.cmp(service))
    }

    /// What its Services alone say: up while any of them is. `gently` tells whether it can be de-preferred at all.
    pub(super) fn by_claims(&self, gently: bool) -> Decision {
        let (mut reason, mut last_resort) = (None, None);
        for claim in &self.claims {
            match claim.health() {
                VipHealth::Down(why) if gently && claim.wants_depreference() => last_resort = last_resort.or(Some(why)),
                VipHealth::Down(why) => reason = reason.or(Some(why)),
                VipHealth::Proving => reason = Some(claim.waiting()),
                VipHealth::Up | VipHealth::Suspect(_) | VipHealth::Trial | VipHealth::Unknown => {
                    return Decision::Advertise;
                }
            }
        }
        match last_resort {
            Some(why) => Decision::Depreference(why),
            None => Decision::Withdraw(reason.unwrap_or(WithdrawReason::ServiceGone)),
        }
    }

    /// How it is advertised: as the first of its Services wants that wants anything.
    pub(super) fn route(&self) -> Route {
        let route = self.claims.iter().find_map(|claim| claim.route.as_deref()).cloned().unwrap_or_default();
        if matches!(self.decision, Some(Decision::Depreference(_))) { route.depreferred() } else { route }
    }

    /// The ports that its Services declare, in ascending order, without duplicates.
    pub(super) fn ports(&self) -> Ports {
        if let [claim] = self.claims.as_slice() {
            return Arc::clone(&claim.ports);
        }
        let mut ports: Vec<Port> = self.claims.iter().flat_map(|claim| claim.ports.iter().copied()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports.into()
    }

    /// When the lease wants to be renewed: every third of it.
    pub(super) fn renew_at(&self, lease: Duration) -> Option<Timestamp> {
        let until = self.lease_until?;
        let left = lease.saturating_mul(2) / 3;
        Some(Timestamp::from_start(until.since_start().saturating_sub(left)))
    }
}

/// Spreads returns over time, alike on every run of the same node: FNV-1a over the node's seed, the VIP and the count.
pub(super) fn jitter(seed: u64, vip: Vip, count: u32) -> f64 {
    let address = match vip.address() {
        std::net::IpAddr::V4(v4) => fnv(FNV_OFFSET ^ seed, v4.octets()),
        std::net::IpAddr::V6(v6) => fnv(FNV_OFFSET ^ seed, v6.octets()),
    };
    let hash = fnv(address, count.to_le_bytes());
    #[expect(clippy::cast_precision_loss, reason = "2001 steps fit a float exactly")]
    let step = (hash % 2001) as f64;
    step / 10_000.0 - 0.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_repeatable_and_bounded() {
        for n in 0..1000_u32 {
            let vip = Vip::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into());
            let value = jitter(7, vip, 1);
            assert!((-0.1..=0.1).contains(&value));
            assert!((value - jitter(7, vip, 1)).abs() < f64::EPSILON);
        }
    }
}
