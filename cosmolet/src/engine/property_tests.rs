//! The engine against a small world, over random events: what must hold whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::attributes::{Attributes, Profile};
use super::check::Check;
use super::engine::Timer;
use super::event::{
    Event, Handshakes, ProbeOutcome, ProbePurpose, ProbeReport, SourceState, TrafficCounts, TrafficSample,
};
use super::intent::Decision;
use super::observed::{
    BgpFault, BgpState, BgpView, KernelEvent, KernelState, LoopbackAddress, Network, Owner, ProberState, ProgramsState,
    RibReport, RibState,
};
use super::plan::{Applied, Outcome, Plan, Step};
use super::service::{
    EndpointCondition, EndpointCounts, EndpointScope, Endpoints, LocalEndpoint, NodeView, PodView, ServiceView,
    Terminating, VipClaim, VipKind,
};
use super::traffic::{OnFault, SecondKey, TrafficMode, TrafficPolicy};
use super::types::{Family, Mode, ObjectKey, PerFamily, Port, Ports, Protocol, Timestamp, Vip};
use super::{Engine, Settings};

/// Six VIPs: four good, one never allowed, one of the node's own.
fn vip(n: u8) -> Vip {
    let text = ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "127.0.0.1", "192.168.0.1"][usize::from(n % 6)];
    Vip::new(text.parse().unwrap())
}

fn forbidden(vip: Vip) -> bool {
    vip.address().is_loopback() || vip == self::vip(5)
}

fn port() -> Port {
    Port { protocol: Protocol::Tcp, number: 80 }
}

/// What the kernel and FRR hold, and how they answer steps.
#[derive(Clone, Debug, Default)]
struct World {
    loopback: BTreeMap<Vip, Owner>,
    /// Of these, those that have no prefix route.
    routeless: BTreeSet<Vip>,
    networks: BTreeMap<Vip, Network>,
    modes: PerFamily<Option<Mode>>,
    generation: u64,
    bgp_up: bool,
    /// VIPs have no addresses, and FRR does not ask for them.
    bare: bool,
}

impl World {
    fn bgp(&self) -> BgpState {
        if !self.bgp_up {
            return BgpState::Down(BgpFault::Silent);
        }
        BgpState::Up(BgpView {
            generation: self.generation,
            asn: 65001,
            modes: PerFamily {
                v4: self.modes.v4.unwrap_or(Mode::Dynamic),
                v6: self.modes.v6.unwrap_or(Mode::Connected),
            },
            networks: self.networks.clone(),
            peers: Vec::new(),
        })
    }

    fn kernel(&self) -> KernelState {
        let held = |vip: &Vip, owner: &Owner| LoopbackAddress {
            owner: *owner,
            valid_for: Some(Duration::from_secs(120)),
            prefix_route: vip.family() == Family::V6 && !self.routeless.contains(vip),
        };
        KernelState {
            loopback: self.loopback.iter().map(|(vip, owner)| (*vip, held(vip, owner))).collect(),
            own: BTreeSet::from([vip(5).address()]),
        }
    }

    /// Carries a plan out step by step and checks what may never happen.
    fn apply(&mut self, plan: &Plan, how: How) -> Vec<Applied> {
        let begun = match how {
            How::Cut(part) if plan.gives_way() => plan.steps().len().min(part),
            How::Whole | How::Fail | How::Cut(_) => plan.steps().len(),
        };
        let (begun, left) = plan.steps().split_at(begun);
        let mut applied = Vec::new();
        for step in begun {
            self.check(step);
            let outcome = match how {
                How::Fail => Outcome::Retry(Duration::from_secs(1), "not now".to_owned()),
                How::Whole | How::Cut(_) => {
                    self.carry_out(step);
                    Outcome::Done
                }
            };
            applied.push(Applied { step: step.clone(), outcome });
        }
        applied.extend(left.iter().map(|step| Applied { step: step.clone(), outcome: Outcome::Deferred }));
        applied
    }

    fn check(&self, step: &Step) {
        let vip = step.vip();
        match step {
            Step::AddAddress(..) => {
                assert!(!forbidden(vip), "{vip} is never allowed");
                assert!(!self.bare, "{vip} is to have no address");
                assert_ne!(self.loopback.get(&vip), Some(&Owner::Foreign), "{vip} is somebody else's");
            }
            Step::RemoveAddress(_) => {
                assert_ne!(self.loopback.get(&vip), Some(&Owner::Foreign), "{vip} is somebody else's");
                if self.bgp_up && !self.bare {
                    assert!(
                        !matches!(self.networks.get(&vip), Some(Network::Ours(_))),
                        "{vip} removed before it was withdrawn"
                    );
                }
            }
            Step::Advertise(..) => {
                assert!(!forbidden(vip), "{vip} is never allowed");
                assert_ne!(self.networks.get(&vip), Some(&Network::Foreign), "{vip} is somebody else's network");
            }
            Step::Withdraw(_) => {
                assert_ne!(self.networks.get(&vip), Some(&Network::Foreign), "{vip} is not our network")
            }
            Step::TrackVip(_, ports) => assert!(!ports.is_empty()),
            Step::UntrackVip(_) => {}
        }
    }

    fn carry_out(&mut self, step: &Step) {
        let vip = step.vip();
        match step {
            Step::AddAddress(_, hold) => {
                assert!(!hold.anew || self.bgp_up, "nobody says that FRR does not see {vip}");
                assert!(vip.family() == Family::V6 || !hold.prefix_route, "{vip} has no prefix route to ask for");
                self.loopback.insert(vip, Owner::Ours);
                self.routeless.remove(&vip);
                self.routeless.extend((!hold.prefix_route).then_some(vip));
            }
            Step::RemoveAddress(_) => {
                self.loopback.remove(&vip);
                self.routeless.remove(&vip);
            }
            Step::Advertise(_, route) => {
                assert!(self.bare || self.loopback.contains_key(&vip), "{vip} advertised before its address");
                self.networks.insert(vip, Network::Ours(Some(route.map)));
            }
            Step::Withdraw(_) => drop(self.networks.remove(&vip)),
            Step::TrackVip(..) | Step::UntrackVip(_) => {}
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Event(Event),
    Foreign(u8, bool),
    ForeignNetwork(u8, bool),
    MapGone(u8),
    Restart,
    Silence(bool),
    ModeOf(bool, bool),
    Wait(u16),
    Plan(How),
}

/// What becomes of a plan.
#[derive(Clone, Copy, Debug)]
enum How {
    Whole,
    Fail,
    /// It gives way after so many steps, if it may.
    Cut(usize),
}

/// None, a MED, or a MED and a weight.
fn profile(kind: u8) -> Option<Arc<Profile>> {
    let attributes = match kind % 3 {
        0 => Attributes::default(),
        1 => Attributes { med: Some(kind.into()), ..Attributes::default() },
        _ => Attributes { med: Some(1), by_endpoints: true, ..Attributes::default() },
    };
    Profile::new(attributes, |text| text.len() as u64 + u64::from(kind))
}

/// None, one of the declared port, or another one of it.
fn check(kind: u8) -> Option<Arc<Check>> {
    let text = ["", "http://:80/a", "", "grpc://:80"][usize::from(kind % 4)];
    Check::parse(text).ok().map(Arc::new)
}

fn service() -> impl Strategy<Value = Event> {
    (0..4_u8, prop::collection::btree_set(0..6_u8, 0..3), 0..3_u8, 0..2_u8, 0..3_u32, any::<bool>(), 0..8_u8).prop_map(
        |(name, vips, ready, draining, remote, local, ports)| {
            let evidence = if ports % 2 == 0 { SecondKey::Passive } else { SecondKey::Probe };
            let fault = [OnFault::Withdraw, OnFault::Depreference, OnFault::Ignore][usize::from(ports / 2 % 3)];
            let scope = if local { EndpointScope::Local } else { EndpointScope::Cluster };
            let endpoint =
                |n: u8, condition| LocalEndpoint { pod: Some(ObjectKey::new("d", &format!("pod{n}"))), condition };
            let mut here: Vec<_> = (0..ready).map(|n| endpoint(n, EndpointCondition::Ready)).collect();
            here.extend((0..draining).map(|n| endpoint(n + 3, EndpointCondition::Draining)));
            let endpoints = Endpoints { local: here, remote: EndpointCounts { ready: remote, ..Default::default() } };
            Event::Service(Box::new(ServiceView {
                key: ObjectKey::new("d", &format!("svc{name}")),
                vips: vips.into_iter().map(|n| VipClaim { vip: vip(n), kind: VipKind::LoadBalancer, scope }).collect(),
                refused: Vec::new(),
                ports: if ports == 0 { Ports::default() } else { [port()].into() },
                terminating: Terminating::Serving,
                prove: super::proof::Prove::Wait,
                policy: TrafficPolicy { evidence, fault },
                check: check(ports),
                profile: profile(ports),
                endpoints: PerFamily { v4: endpoints.clone(), v6: endpoints },
            }))
        },
    )
}

fn node() -> impl Strategy<Value = Event> {
    (prop::bool::weighted(0.2), prop::bool::weighted(0.1)).prop_map(|(excluded, network_unavailable)| {
        Event::Node(NodeView { excluded, network_unavailable, ..NodeView::default() })
    })
}

fn pod() -> impl Strategy<Value = Event> {
    (0..4_u8, 0..3_u32, prop::bool::weighted(0.2)).prop_map(|(n, restarts, crash_loop)| {
        Event::Pod(ObjectKey::new("d", &format!("pod{n}")), PodView { restarts, crash_loop })
    })
}

fn object() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => service(),
        2 => (0..4_u8).prop_map(|n| Event::ServiceGone(ObjectKey::new("d", &format!("svc{n}")))),
        1 => node(),
        2 => pod(),
    ]
}

/// The host refuses all, or the backend does, or all is well.
fn traffic() -> impl Strategy<Value = Event> {
    (0..6_u8, 0..50_u64, 0..4_u8).prop_map(|(n, syn, how)| {
        let counts = |rst_host, completed| TrafficCounts { syn, rst_host, completed, ..TrafficCounts::default() };
        let handshakes = |refused_backend, completed| Handshakes {
            refused_backend,
            completed,
            failed_prefixes: 0b111,
            one_in: 1,
            ..Handshakes::default()
        };
        let (counts, handshakes) = match how {
            0 => (counts(syn, 0), Handshakes::default()),
            1 => (counts(0, syn), handshakes(0, syn)),
            _ => (counts(0, 0), handshakes(syn, 0)),
        };
        Event::Traffic(vec![TrafficSample {
            vip: vip(n),
            port: port(),
            span: Duration::from_secs(1),
            counts,
            handshakes,
        }])
    })
}

fn probe() -> impl Strategy<Value = Event> {
    (0..6_u8, prop::sample::select(ProbeOutcome::ALL.to_vec())).prop_map(|(n, outcome)| {
        Event::Probe(vec![ProbeReport { vip: vip(n), port: port(), outcome, complaint: None, latency: None }])
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => object().prop_map(Act::Event),
        1 => Just(Act::Event(Event::Source(SourceState::Synced))),
        1 => Just(Act::Event(Event::Source(SourceState::Stale("gone".to_owned())))),
        1 => Just(Act::Event(Event::Programs(ProgramsState::Running(vec!["eth0".to_owned()])))),
        3 => traffic().prop_map(Act::Event),
        2 => probe().prop_map(Act::Event),
        2 => (0..6_u8, any::<bool>()).prop_map(|(n, valid)| Act::Event(Event::Rib(vec![RibReport {
            vip: vip(n),
            rib: RibState { valid, best: valid, ..RibState::default() },
        }]))),
        1 => any::<bool>().prop_map(|on| Act::Event(Event::Prober(
            if on { ProberState::Running } else { ProberState::Off("gone".to_owned()) }
        ))),
        1 => (0..5_u8, any::<bool>()).prop_map(|(n, there)| Act::Foreign(n, there)),
        1 => (0..5_u8, any::<bool>()).prop_map(|(n, there)| Act::ForeignNetwork(n, there)),
        1 => (0..5_u8).prop_map(Act::MapGone),
        1 => Just(Act::Restart),
        1 => any::<bool>().prop_map(Act::Silence),
        1 => any::<(bool, bool)>().prop_map(|(v4, dynamic)| Act::ModeOf(v4, dynamic)),
        3 => (1..400_u16).prop_map(Act::Wait),
        4 => Just(Act::Plan(How::Whole)),
        1 => Just(Act::Plan(How::Fail)),
        1 => (0..4_usize).prop_map(|part| Act::Plan(How::Cut(part))),
    ]
}

struct Run {
    engine: Engine,
    world: World,
    now: Timestamp,
}

impl Run {
    fn new(mode: TrafficMode) -> Self {
        Self::of(mode, false)
    }

    /// One whose VIPs have addresses, or are `bare`: then every family is in Dynamic mode.
    fn of(mode: TrafficMode, bare: bool) -> Self {
        let dynamic = bare.then_some(Mode::Dynamic);
        let mut run = Self {
            engine: Engine::new(Settings {
                addresses: !bare,
                traffic_mode: mode,
                drain: Some(Duration::from_secs(5)),
                check: Some(Duration::from_secs(5)),
                ..Settings::default()
            }),
            world: World { bgp_up: true, bare, modes: PerFamily { v4: dynamic, v6: dynamic }, ..World::default() },
            now: Timestamp::ZERO,
        };
        run.tell_all();
        run
    }

    fn handle(&mut self, event: Event) {
        self.engine.handle(event, self.now);
    }

    fn tell_all(&mut self) {
        self.handle(Event::Kernel(KernelEvent::Dump(self.world.kernel())));
        self.handle(Event::Bgp(self.world.bgp()));
    }

    fn plan(&mut self, how: How) -> Plan {
        let plan = self.engine.plan(self.now);
        assert!(!self.engine.wants_withdrawal(), "a withdrawal that the plan left out");
        for request in self.engine.take_probes(3) {
            assert!(!request.ports.is_empty(), "{request:?}");
            for (port, check) in &request.ports {
                assert!(check.as_ref().is_none_or(|check| check.port == *port), "{request:?}");
                assert!(check.is_some() || request.purpose != ProbePurpose::Check, "{request:?}");
            }
        }
        let timers = self.engine.timers.iter().filter(|(_, timer)| matches!(timer, Timer::Check(_))).count();
        assert_eq!(timers, self.engine.checks.len(), "each VIP that is asked has one timer");
        for explanation in (0..6).filter_map(|n| self.engine.explain(vip(n), self.now)) {
            assert!(!explanation.would_change().is_empty(), "{explanation:?}");
        }
        let applied = self.world.apply(&plan, how);
        self.handle(Event::Applied(applied));
        plan
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Event(event) => self.handle(event),
            Act::Foreign(n, there) => self.foreign(vip(n), there),
            Act::ForeignNetwork(n, there) => {
                if there {
                    self.world.networks.insert(vip(n), Network::Foreign);
                } else {
                    self.world.networks.remove(&vip(n));
                }
                self.tell_all();
            }
            Act::MapGone(n) => {
                if let Some(network @ Network::Ours(_)) = self.world.networks.get_mut(&vip(n)) {
                    *network = Network::Ours(None);
                }
                self.tell_all();
            }
            Act::Restart => {
                self.world.networks.retain(|_, network| *network == Network::Foreign);
                self.world.generation += 1;
                self.tell_all();
            }
            Act::Silence(silent) => {
                self.world.bgp_up = !silent;
                self.tell_all();
            }
            Act::ModeOf(..) if self.world.bare => {}
            Act::ModeOf(v4, dynamic) => {
                let mode = Some(if dynamic { Mode::Dynamic } else { Mode::Connected });
                if v4 {
                    self.world.modes.v4 = mode
                } else {
                    self.world.modes.v6 = mode
                }
                self.tell_all();
            }
            Act::Wait(seconds) => self.now = self.now.after(Duration::from_secs(u64::from(seconds))),
            Act::Plan(how) => drop(self.plan(how)),
        }
    }

    /// The kernel refuses a second address of the same value, so a foreign one only comes where none of ours is.
    fn foreign(&mut self, vip: Vip, there: bool) {
        let held = LoopbackAddress { owner: Owner::Foreign, valid_for: None, prefix_route: vip.family() == Family::V6 };
        match (there, self.world.loopback.get(&vip)) {
            (true, None) => {
                self.world.loopback.insert(vip, Owner::Foreign);
                self.world.routeless.remove(&vip);
                self.handle(Event::Kernel(KernelEvent::Loopback(vip, held)));
            }
            (false, Some(_)) => {
                self.world.loopback.remove(&vip);
                self.world.routeless.remove(&vip);
                self.handle(Event::Kernel(KernelEvent::LoopbackGone(vip)));
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    fn intent(&self) -> BTreeMap<Vip, Decision> {
        self.engine.intent().collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Orders, ownership and the never-list are checked by the world at every step; then nothing is left to do.
    #[test]
    fn the_plan_of_an_applied_plan_is_empty(acts in prop::collection::vec(act(), 1..80), bare in any::<bool>()) {
        let mut run = Run::of(TrafficMode::Enforce, bare);
        for act in acts {
            run.act(act);
        }
        run.now = run.now.after(Duration::from_secs(2));
        // Withdrawals have a plan of their own, before the rest.
        run.plan(How::Whole);
        run.plan(How::Whole);
        let again = run.plan(How::Whole);
        prop_assert!(again.is_empty(), "left over: {:?}", again.steps());
    }

    /// After the linger has passed the world is what the intent says.
    #[test]
    fn the_world_becomes_what_is_wanted(acts in prop::collection::vec(act(), 1..60), bare in any::<bool>()) {
        let mut run = Run::of(TrafficMode::Observe, bare);
        run.handle(Event::Node(NodeView::default()));
        for act in acts {
            run.act(act);
        }
        run.world.bgp_up = true;
        run.handle(Event::Source(SourceState::Synced));
        run.tell_all();
        for _ in 0..6 {
            run.now = run.now.after(Duration::from_secs(2));
            run.plan(How::Whole);
        }
        let intent = run.intent();
        for (vip, decision) in &intent {
            let held = run.world.loopback.get(vip);
            match decision {
                Decision::Advertise | Decision::Depreference(_) if bare => {
                    prop_assert_ne!(held, Some(&Owner::Ours), "{} has an address", vip);
                    prop_assert!(run.world.networks.contains_key(vip), "{} is wanted but not there", vip);
                }
                Decision::Advertise | Decision::Depreference(_) => prop_assert!(held.is_some(), "{} is wanted but not there", vip),
                Decision::Withdraw(_) => prop_assert_ne!(held, Some(&Owner::Ours), "{} is still there", vip),
            }
        }
        let networks = run.world.networks.iter().map(|(vip, network)| (vip, network.owner()));
        for (vip, owner) in run.world.loopback.iter().map(|(vip, owner)| (vip, *owner)).chain(networks) {
            let wanted = intent.get(vip).is_some_and(|decision| decision.is_up());
            prop_assert!(owner == Owner::Foreign || wanted, "{} is there and nobody wants it", vip);
        }
        for vip in run.world.routeless.iter().filter(|vip| vip.family() == Family::V6) {
            let mode = run.world.modes.v6.unwrap_or(Mode::Connected);
            prop_assert!(mode == Mode::Dynamic, "{} could not be redistributed", vip);
        }
        for (vip, network) in &run.world.networks {
            let route = run.engine.vips.get(vip).map(super::vip::VipEntry::route).unwrap_or_default();
            let wanted = Network::Ours(Some(route.map));
            prop_assert!([Network::Foreign, wanted].contains(network), "{} has {:?}, not {:?}", vip, network, wanted);
        }
    }

    /// Before everything has been seen once, nothing is added, advertised, withdrawn or removed.
    #[test]
    fn nothing_moves_before_the_sources_have_synced(acts in prop::collection::vec(act(), 1..60), held in 0..4_u8) {
        let mut run = Run::new(TrafficMode::Enforce);
        run.world.loopback.insert(vip(held), Owner::Ours);
        run.world.networks.insert(vip(held), Network::PLAIN);
        run.tell_all();
        for act in acts {
            if matches!(act, Act::Event(Event::Source(_)) | Act::Restart | Act::Foreign(..) | Act::ForeignNetwork(..) | Act::MapGone(_)) {
                continue;
            }
            run.act(act);
            for step in run.plan(How::Whole).steps() {
                let renewal = matches!(step, Step::AddAddress(renewed, _) if *renewed == vip(held));
                prop_assert!(renewal || matches!(step, Step::TrackVip(..) | Step::UntrackVip(_)), "{:?}", step);
            }
        }
    }

    /// A node that is not known never empties what is up.
    #[test]
    fn not_knowing_the_node_withdraws_nothing(services in prop::collection::vec(service(), 1..6), bare in any::<bool>()) {
        let mut run = Run::of(TrafficMode::Observe, bare);
        for n in 0..4 {
            run.world.loopback.insert(vip(n), Owner::Ours);
            if bare {
                run.world.networks.insert(vip(n), Network::PLAIN);
            }
        }
        run.tell_all();
        services.iter().cloned().for_each(|event| run.handle(event));
        let mut known = Run::new(TrafficMode::Observe);
        services.into_iter().for_each(|event| known.handle(event));
        known.handle(Event::Node(NodeView::default()));
        run.handle(Event::Source(SourceState::Synced));
        known.handle(Event::Source(SourceState::Synced));
        for (vip, decision) in known.intent() {
            if !forbidden(vip) {
                prop_assert_eq!(run.intent().get(&vip).copied(), Some(decision));
            }
        }
    }

    /// Events of different objects give the same intent in whatever order one batch delivers them.
    #[test]
    fn the_order_within_a_batch_does_not_matter(
        before in prop::collection::vec(object(), 0..10),
        batch in prop::collection::vec(object(), 1..10),
        seed in any::<u64>(),
    ) {
        let mut seen = BTreeSet::new();
        let batch: Vec<Event> = batch.into_iter().filter(|event| seen.insert(object_name(event))).collect();
        let mut shuffled = batch.clone();
        shuffle(&mut shuffled, seed);
        let run = |batch: Vec<Event>| {
            let mut run = Run::new(TrafficMode::Observe);
            before.iter().cloned().for_each(|event| run.handle(event));
            run.handle(Event::Source(SourceState::Synced));
            run.plan(How::Whole);
            batch.into_iter().for_each(|event| run.handle(event));
            run.plan(How::Whole);
            (run.intent(), run.world.loopback, run.world.networks)
        };
        prop_assert_eq!(run(batch), run(shuffled));
    }
}

fn object_name(event: &Event) -> String {
    match event {
        Event::Service(view) => format!("service {}", view.key),
        Event::ServiceGone(key) => format!("service {key}"),
        Event::Pod(key, _) | Event::PodGone(key) => format!("pod {key}"),
        Event::Node(_) => "node".to_owned(),
        Event::Source(_)
        | Event::Traffic(_)
        | Event::Probe(_)
        | Event::Permissions(_)
        | Event::Prober(_)
        | Event::Kernel(_)
        | Event::Bgp(_)
        | Event::Rib(_)
        | Event::Programs(_)
        | Event::Applied(_)
        | Event::Drained(_)
        | Event::Tick
        | Event::Exit => unreachable!("not an object"),
    }
}

/// Fisher-Yates by a small linear congruential generator: repeatable from the seed.
fn shuffle<T>(items: &mut [T], mut seed: u64) {
    for i in (1..items.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let pick = usize::try_from(seed >> 33).unwrap() % (i + 1);
        items.swap(i, pick);
    }
}
