//! Addresses that zebra has missed: on the loopback, and yet FRR's RIB has no valid path of them.
//!
//! FRR 10 loses an address that arrives in the moment in which bgpd dies, and sees it only after it was removed and added
//! again (`docs/frr.md`). Owns when that is done: late, ever more rarely, and never for many VIPs at a time, since an RIB
//! without a path has other causes too (a zebra that is down or busy, an operator's route-map) which it cannot mend.

use std::time::Duration;

use super::engine::Engine;
use super::intent::Decision;
use super::observed::{BgpState, Network, Owner, RibReport, RibState, steady};
use super::types::{Mode, Timestamp, Vip};

/// zebra and bgpd may take so long to agree on an address.
const PATIENCE: Duration = Duration::from_secs(2);
/// The patience of each next time, over that of the one before.
const GROWTH: u32 = 12;
/// So often the address of a VIP is put on anew before it is left to the operator.
const TRIES: u32 = 3;
/// So many addresses are put on anew in a [`WINDOW`].
const PER_WINDOW: u32 = 32;
const WINDOW: Duration = Duration::from_secs(60);

/// What is known of an address that FRR does not see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// Since then, or since it was last put on anew.
    since: Timestamp,
    /// The FRR that does not see it.
    generation: u64,
    tries: u32,
    /// It is to be put on anew, and has not been yet.
    pub(super) anew: bool,
}

/// The budget of all VIPs together.
#[derive(Debug, Default)]
pub(super) struct Anew {
    from: Timestamp,
    used: u32,
}

impl Anew {
    /// Takes one, if there is one left.
    fn take(&mut self, now: Timestamp) -> bool {
        if now.since(self.from) >= WINDOW {
            *self = Self { from: now, used: 0 };
        }
        let left = self.used < PER_WINDOW;
        self.used += u32::from(left);
        left
    }
}

impl Engine {
    /// Takes what the RIB holds for a VIP.
    pub(super) fn rib(&mut self, report: &RibReport, now: Timestamp) {
        let vip = report.vip;
        self.changed.insert(vip);
        let before = self.observed.rib.get(&vip).and_then(|rib| rib.since);
        let rib = RibState { since: steady(report.rib.since, before), ..report.rib.clone() };
        self.observed.rib.insert(vip, rib);
        let missed_by = self.should_be_seen_by(vip).filter(|_| !report.rib.valid);
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        let Some(generation) = missed_by else {
            entry.lost = None;
            return;
        };
        let lost = entry.lost.get_or_insert_with(|| Box::new(Lost { since: now, generation, tries: 0, anew: false }));
        if lost.generation != generation {
            (lost.since, lost.generation) = (now, generation);
        }
        let patience = PATIENCE.saturating_mul(GROWTH.pow(lost.tries));
        if lost.tries < TRIES && !lost.anew && now.since(lost.since) >= patience && self.anew.take(now) {
            **lost = Lost { since: now, tries: lost.tries + 1, anew: true, ..**lost };
            self.touch(vip);
        }
    }

    /// The FRR that has all it needs for a valid path of the VIP: our address, and a reason to take it into BGP.
    fn should_be_seen_by(&self, vip: Vip) -> Option<u64> {
        let held = self.observed.kernel.as_ref()?.loopback.get(&vip)?;
        let BgpState::Up(view) = &self.observed.bgp else { return None };
        let told = match *view.modes.get(vip.family()) {
            Mode::Connected => true,
            Mode::Dynamic => matches!(view.networks.get(&vip), Some(Network::Ours(_))),
        };
        let wanted = matches!(self.vips.get(&vip)?.decision, Some(Decision::Advertise | Decision::Depreference(_)));
        (told && wanted && held.owner == Owner::Ours).then_some(view.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Event, SourceState};
    use super::super::observed::{BgpView, KernelEvent, KernelState, LoopbackAddress};
    use super::super::plan::{Applied, Outcome, Step};
    use super::super::service::{
        EndpointCondition, EndpointScope, Endpoints, LocalEndpoint, NodeView, ServiceView, Terminating, VipClaim,
        VipKind,
    };
    use super::super::types::{ObjectKey, PerFamily, Port, Protocol};
    use super::super::{Engine, Settings};
    use super::*;

    fn vip(last: u8) -> Vip {
        Vip::new([10, 50, 0, last].into())
    }

    /// An engine with addresses on the loopback and advertised.
    fn engine(vips: u8, mode: Mode) -> Engine {
        let mut engine = Engine::new(Settings::default());
        engine.handle(Event::Kernel(KernelEvent::Dump(KernelState::default())), Timestamp::ZERO);
        engine.handle(Event::Node(NodeView::default()), Timestamp::ZERO);
        engine.handle(bgp(mode, 1), Timestamp::ZERO);
        engine.handle(Event::Service(Box::new(service(vips))), Timestamp::ZERO);
        engine.handle(Event::Source(SourceState::Synced), Timestamp::ZERO);
        assert_ne!(carry_out(&mut engine, at(0)), []);
        engine
    }

    fn service(vips: u8) -> ServiceView {
        let local = vec![LocalEndpoint { pod: None, condition: EndpointCondition::Ready }];
        let claim = |last| VipClaim { vip: vip(last), kind: VipKind::LoadBalancer, scope: EndpointScope::Local };
        ServiceView {
            key: ObjectKey::new("d", "web"),
            vips: (0..vips).map(claim).collect(),
            refused: Vec::new(),
            ports: [Port { protocol: Protocol::Tcp, number: 80 }].into(),
            terminating: Terminating::Serving,
            prove: super::super::proof::Prove::Wait,
            policy: super::super::traffic::TrafficPolicy::default(),
            check: None,
            profile: None,
            endpoints: PerFamily { v4: Endpoints { local, ..Endpoints::default() }, v6: Endpoints::default() },
        }
    }

    fn bgp(mode: Mode, generation: u64) -> Event {
        let modes = PerFamily { v4: mode, v6: mode };
        let view = BgpView { generation, asn: 65001, modes, networks: [].into(), peers: Vec::new() };
        Event::Bgp(BgpState::Up(view))
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO.after(Duration::from_secs(seconds))
    }

    fn carry_out(engine: &mut Engine, now: Timestamp) -> Vec<Step> {
        let steps = engine.plan(now).into_steps();
        let done = |step: &Step| Applied { step: step.clone(), outcome: Outcome::Done };
        engine.handle(Event::Applied(steps.iter().map(done).collect()), now);
        steps
    }

    /// The VIPs that are put on anew after this was read.
    fn read(engine: &mut Engine, vips: u8, valid: bool, now: Timestamp) -> usize {
        let rib = RibState { valid, best: valid, ..RibState::default() };
        let reports = (0..vips).map(|last| RibReport { vip: vip(last), rib: rib.clone() }).collect();
        engine.handle(Event::Rib(reports), now);
        let steps = carry_out(engine, now);
        assert_eq!(engine.plan(now).into_steps(), [], "it is done once");
        steps.iter().filter(|step| step.is_anew()).count()
    }

    #[test]
    fn an_address_that_frr_does_not_see_is_put_on_anew_three_times() {
        for mode in [Mode::Connected, Mode::Dynamic] {
            let mut engine = engine(1, mode);
            // Short of the lease's renewal, which is another step.
            let anew = [1, 2, 3, 4, 20, 27, 28].map(|seconds| read(&mut engine, 1, false, at(seconds)));
            assert_eq!(anew, [0, 0, 1, 0, 0, 1, 0], "{mode:?}");
            assert_eq!([310, 320, 9000].map(|seconds| read(&mut engine, 1, false, at(seconds))), [0, 1, 0], "{mode:?}");
        }
    }

    #[test]
    fn patience_begins_anew_with_a_valid_path_and_with_another_frr() {
        let mut engine = engine(1, Mode::Connected);
        assert_eq!(read(&mut engine, 1, false, at(1)), 0);
        assert_eq!(read(&mut engine, 1, true, at(2)), 0);
        assert_eq!(read(&mut engine, 1, false, at(9)), 0);
        engine.handle(bgp(Mode::Connected, 2), at(12));
        assert_eq!([13, 15].map(|seconds| read(&mut engine, 1, false, at(seconds))), [0, 1]);
    }

    #[test]
    fn a_zebra_that_is_down_costs_a_few_addresses_a_minute() {
        let mut engine = engine(200, Mode::Connected);
        let anew = [1, 5, 6, 64, 66].map(|seconds| read(&mut engine, 200, false, at(seconds)));
        assert_eq!(anew, [0, 32, 0, 32, 0]);
    }

    #[test]
    fn what_is_not_ours_to_show_is_left_alone() {
        let mut engine = engine(1, Mode::Connected);
        let foreign = LoopbackAddress { owner: Owner::Foreign, valid_for: None, prefix_route: false };
        engine.handle(Event::Kernel(KernelEvent::Loopback(vip(0), foreign)), at(1));
        assert_eq!([2, 9].map(|seconds| read(&mut engine, 1, false, at(seconds))), [0, 0]);
    }
}
