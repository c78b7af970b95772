//! The difference between what is wanted and what is there, for one VIP.

use std::time::Duration;

use super::intent::Decision;
use super::observed::{BgpState, LoopbackAddress, Network, Observed, Owner, ProgramsState};
use super::plan::{Hold, Step};
use super::types::{Family, Mode, Ports, Timestamp, Vip};
use super::vip::VipEntry;

/// What the difference depends on besides the VIP itself.
pub(super) struct DiffContext<'a> {
    pub(super) observed: &'a Observed,
    /// VIPs are put on the loopback.
    pub(super) addresses: bool,
    pub(super) lease: Option<Duration>,
    /// How long the address outlives our `network` statement: FRR holds a change for 50 ms, peers for as long again.
    pub(super) linger: Duration,
    /// The VIP is de-preferred until then, and only then withdrawn.
    pub(super) drain_ends: Option<Timestamp>,
    pub(super) now: Timestamp,
}

/// The steps for one VIP, and when to look at it again though nothing happens.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) steps: Vec<Step>,
    pub(super) look_again: Option<Timestamp>,
}

impl Difference {
    fn later(&mut self, at: Timestamp) {
        self.look_again = Some(self.look_again.map_or(at, |other| other.min(at)));
    }
}

/// Compares one VIP.
pub(super) fn difference(vip: Vip, entry: &VipEntry, context: &DiffContext<'_>) -> Difference {
    let mut difference = Difference::default();
    counting(vip, entry, context, &mut difference);
    if let Some(at) = entry.retry_at
        && at > context.now
    {
        difference.later(at);
        return difference;
    }
    match entry.decision {
        None => renew(vip, entry, context, None, &mut difference),
        Some(Decision::Advertise | Decision::Depreference(_)) => up(vip, entry, context, &mut difference),
        Some(Decision::Withdraw(_)) => down(vip, entry, context, &mut difference),
    }
    difference
}

fn counting(vip: Vip, entry: &VipEntry, context: &DiffContext<'_>, difference: &mut Difference) {
    if matches!(context.observed.programs, ProgramsState::Off(_)) {
        return;
    }
    if let Some(at) = entry.count_retry_at
        && at > context.now
    {
        difference.later(at);
        return;
    }
    let counted = context.observed.tracked.get(&vip);
    let refused = matches!(entry.decision, Some(Decision::Withdraw(super::intent::WithdrawReason::Refused(_))));
    let wanted = if refused { Ports::default() } else { entry.ports() };
    match counted {
        None if wanted.is_empty() => {}
        Some(_) if wanted.is_empty() => difference.steps.push(Step::UntrackVip(vip)),
        Some(ports) if *ports == wanted => {}
        None | Some(_) => difference.steps.push(Step::TrackVip(vip, wanted)),
    }
}

fn address(vip: Vip, context: &DiffContext<'_>) -> Option<LoopbackAddress> {
    context.observed.kernel.as_ref().and_then(|kernel| kernel.loopback.get(&vip).copied())
}

/// One of ours.
fn has_address(vip: Vip, context: &DiffContext<'_>) -> bool {
    address(vip, context).is_some_and(|held| held.owner == Owner::Ours)
}

fn network(vip: Vip, context: &DiffContext<'_>) -> Option<Network> {
    match &context.observed.bgp {
        BgpState::Up(view) => view.networks.get(&vip).copied(),
        BgpState::Disabled | BgpState::Down(_) => None,
    }
}

/// Keeps an address of ours alive. Where the mode is not known, its prefix route stays as it is.
fn renew(vip: Vip, entry: &VipEntry, context: &DiffContext<'_>, mode: Option<Mode>, difference: &mut Difference) {
    let Some(LoopbackAddress { owner: Owner::Ours, prefix_route, .. }) = address(vip, context) else { return };
    let wanted = if mode.is_some() { wants_prefix_route(vip, mode) } else { prefix_route };
    let hold = Hold { lease: context.lease, prefix_route: wanted, anew: false };
    if wanted && !prefix_route {
        // FRR would not redistribute it. The other way round nothing is urgent: that waits for the renewal.
        difference.steps.push(Step::AddAddress(vip, hold));
        return;
    }
    let due = match context.lease {
        // A lease that is longer than the configured one, or endless, is cut to it at once.
        Some(lease) => entry.renew_at(lease).filter(|_| !too_long(entry, lease, context.now)),
        None if entry.lease_until.is_none() => return,
        None => None,
    };
    match due {
        Some(at) if at > context.now => difference.later(at),
        _ => difference.steps.push(Step::AddAddress(vip, hold)),
    }
}

/// An IPv6 address with a lease leaves its prefix route behind when it goes (Linux removes that of permanent ones only), and
/// FRR 10.3 takes the route for the address: a `network` statement would outlive the lease. So only what is redistributed
/// has one, or may be by somebody else where `bgp.enabled` is false.
fn wants_prefix_route(vip: Vip, mode: Option<Mode>) -> bool {
    vip.family() == Family::V6 && mode != Some(Mode::Dynamic)
}

/// A second of grace covers the kernel's rounding.
fn too_long(entry: &VipEntry, lease: Duration, now: Timestamp) -> bool {
    entry.lease_until.is_none_or(|until| until.since(now) > lease.saturating_add(Duration::from_secs(1)))
}

fn up(vip: Vip, entry: &VipEntry, context: &DiffContext<'_>, difference: &mut Difference) {
    let mode = match &context.observed.bgp {
        BgpState::Up(view) => Some(*view.modes.get(vip.family())),
        BgpState::Disabled => None,
        // While FRR is away nobody would advertise a new address, and its peers' addresses are unknown.
        BgpState::Down(_) => return renew(vip, entry, context, None, difference),
    };
    if !context.addresses {
        // It had one before it was to have none.
        difference.steps.extend(has_address(vip, context).then_some(Step::RemoveAddress(vip)));
        return advertise(vip, entry, mode, context, difference);
    }
    let anew = entry.lost.as_ref().is_some_and(|lost| lost.anew);
    match (&context.observed.kernel, address(vip, context)) {
        (None, _) => return,
        (Some(_), held) if held.is_none() || anew => {
            let hold = Hold { lease: context.lease, prefix_route: wants_prefix_route(vip, mode), anew };
            difference.steps.push(Step::AddAddress(vip, hold));
        }
        (Some(_), _) => renew(vip, entry, context, mode, difference),
    }
    advertise(vip, entry, mode, context, difference);
}

fn advertise(vip: Vip, entry: &VipEntry, mode: Option<Mode>, context: &DiffContext<'_>, difference: &mut Difference) {
    match (mode, network(vip, context)) {
        (Some(Mode::Dynamic), Some(Network::Foreign)) => {}
        (Some(Mode::Dynamic), held) => {
            let route = entry.route();
            // Another route-map replaces the one it has without a gap.
            if held != Some(Network::Ours(Some(route.map))) {
                difference.steps.push(Step::Advertise(vip, route));
            }
        }
        (Some(Mode::Connected), Some(Network::Ours(_))) => difference.steps.push(Step::Withdraw(vip)),
        (Some(_) | None, _) => {}
    }
}

fn down(vip: Vip, entry: &VipEntry, context: &DiffContext<'_>, difference: &mut Difference) {
    if let Some(Network::Ours(held)) = network(vip, context) {
        if let Some(ends) = context.drain_ends {
            let route = entry.route().depreferred();
            if held != Some(route.map) {
                difference.steps.push(Step::Advertise(vip, route));
            }
            difference.later(ends);
            return renew(vip, entry, context, None, difference);
        }
        // The address goes only when FRR has confirmed this.
        difference.steps.push(Step::Withdraw(vip));
        return;
    }
    if !has_address(vip, context) {
        return;
    }
    match entry.withdrawn_at.map(|at| at.after(context.linger)) {
        Some(at) if at > context.now => difference.later(at),
        _ => difference.steps.push(Step::RemoveAddress(vip)),
    }
}
