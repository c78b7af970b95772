//! The engine: what one endpoint event costs, whatever the number of Services.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet::engine::event::{Event, SourceState};
use cosmolet::engine::observed::{BgpState, BgpView, KernelEvent, KernelState};
use cosmolet::engine::plan::{Applied, Outcome, Plan, Step};
use cosmolet::engine::service::{
    EndpointCondition, EndpointScope, Endpoints, LocalEndpoint, NodeView, ServiceView, Terminating, VipClaim, VipKind,
};
use cosmolet::engine::types::{Mode, PerFamily, Port, Protocol, ServiceKey, Timestamp, Vip};
use cosmolet::engine::{Engine, Settings};

use super::figure::{Figure, Summary};

/// The sizes compared.
const FEW: u32 = 100;
const MANY: u32 = 10_000;
/// Events of one turn.
const EVENTS: u32 = 20;
/// Bytes: more than the last cache of most processors.
const LITTER: usize = 64 << 20;
const STRIDE: u32 = 7919;
const TARGET: f64 = 1.5;

/// Measures `handle` and `plan` together, both sizes turn by turn: from cold caches, as after an idle second, and from warm
/// ones, as in a stream of events of the same Services.
pub fn measure(turns: u32) -> Result<Vec<Figure>> {
    let (mut few, mut many, mut litter) = (Bench::new(FEW)?, Bench::new(MANY)?, Litter::default());
    let mut figures = Vec::new();
    for caches in ["cold", "warm"] {
        let (mut of_few, mut of_many) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for turn in 0..turns {
            let (turn, mut litter) = if caches == "cold" { (turn, Some(&mut litter)) } else { (0, None) };
            for (index, condition) in [EndpointCondition::Unusable, EndpointCondition::Ready].into_iter().enumerate() {
                of_few[index].extend(few.turn(turn, condition, litter.as_deref_mut())?);
                of_many[index].extend(many.turn(turn, condition, litter.as_deref_mut())?);
            }
            few.wait()?;
            many.wait()?;
        }
        for (name, index) in [("not ready, withdraw", 0), ("ready, advertise", 1)] {
            let name = format!("engine, {MANY} Services, {caches} caches: {name}");
            let (own, baseline) = (Summary::of(&of_many[index]), Summary::of(&of_few[index]));
            let figure = Figure::ratio(name, own, format!("the same at {FEW}"), baseline).at_most(TARGET);
            figures.push(Figure { unit: "us", ..figure });
        }
    }
    Ok(figures)
}

/// What other programs leave in the processor's caches between two events of an idle daemon. Without it, all of the small
/// engine would stay in the fastest cache and most of the large one in none, and the figure would be the cache's.
struct Litter(Vec<u64>);

impl Default for Litter {
    fn default() -> Self {
        Self(vec![1; LITTER / size_of::<u64>()])
    }
}

impl Litter {
    fn scatter(&mut self) {
        for line in self.0.chunks_mut(64 / size_of::<u64>()) {
            line[0] = line[0].wrapping_add(1);
        }
        std::hint::black_box(&self.0);
    }
}

/// An engine in which everything is up.
struct Bench {
    engine: Engine,
    services: u32,
    now: Timestamp,
}

impl Bench {
    fn new(services: u32) -> Result<Self> {
        let mut bench = Self { engine: Engine::new(Settings::default()), services, now: Timestamp::ZERO };
        let dynamic = BgpView {
            generation: 1,
            asn: 65001,
            modes: PerFamily { v4: Mode::Dynamic, v6: Mode::Dynamic },
            networks: BTreeMap::new(),
            peers: Vec::new(),
        };
        for event in [
            Event::Node(NodeView::default()),
            Event::Kernel(KernelEvent::Dump(KernelState::default())),
            Event::Bgp(BgpState::Up(dynamic)),
        ] {
            bench.engine.handle(event, bench.now);
        }
        for n in 0..services {
            bench.engine.handle(Event::Service(Box::new(view(n, EndpointCondition::Ready))), bench.now);
        }
        bench.engine.handle(Event::Source(SourceState::Synced), bench.now);
        let advertised = bench.carry_out()?;
        ensure!(advertised == services, "{advertised} of {services} VIPs were advertised");
        Ok(bench)
    }

    /// One event for each of some Services, the same ones for the same `turn`; microseconds of each.
    fn turn(&mut self, turn: u32, condition: EndpointCondition, mut litter: Option<&mut Litter>) -> Result<Vec<f64>> {
        let mut spans = Vec::new();
        for place in turn * EVENTS..(turn + 1) * EVENTS {
            // Spread over all Services, and coprime to both sizes: each has its turn before one has two.
            let event = Event::Service(Box::new(view(place.wrapping_mul(STRIDE) % self.services, condition)));
            self.now = self.now.after(Duration::from_micros(100));
            if let Some(litter) = &mut litter {
                litter.scatter();
            }
            let began = Instant::now();
            self.engine.handle(event, self.now);
            let plan = self.engine.plan(self.now);
            spans.push(began.elapsed().as_secs_f64() * 1e6);
            ensure!(!plan.is_empty(), "an event without a plan");
            self.confirm(plan);
            self.told();
        }
        Ok(spans)
    }

    /// Lets the leases' and other timers fire that are due meanwhile.
    fn wait(&mut self) -> Result<()> {
        self.now = self.now.after(Duration::from_secs(2));
        self.carry_out().map(drop)
    }

    fn told(&mut self) {
        drop(self.engine.take_transitions());
        drop(self.engine.take_changed(usize::MAX));
    }

    /// Carries plans out until there is nothing to do; returns how many VIPs were advertised.
    fn carry_out(&mut self) -> Result<u32> {
        let mut advertised = 0;
        for _ in 0..=self.services {
            let plan = self.engine.plan(self.now);
            if plan.is_empty() && !self.engine.wants_plan() {
                self.told();
                return Ok(advertised);
            }
            let new = plan.steps().iter().filter(|step| matches!(step, Step::Advertise(..))).count();
            advertised += u32::try_from(new)?;
            self.confirm(plan);
        }
        None.context("the engine never comes to rest")
    }

    fn confirm(&mut self, plan: Plan) {
        let applied = plan.into_steps().into_iter().map(|step| Applied { step, outcome: Outcome::Done }).collect();
        self.engine.handle(Event::Applied(applied), self.now);
    }
}

fn view(n: u32, condition: EndpointCondition) -> ServiceView {
    let vip = Vip::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a64_0000 + n)));
    let local = vec![LocalEndpoint { pod: None, condition }];
    ServiceView {
        key: ServiceKey::new("default", &format!("s{n}")),
        vips: vec![VipClaim { vip, kind: VipKind::LoadBalancer, scope: EndpointScope::Local }],
        refused: Vec::new(),
        ports: [Port { protocol: Protocol::Tcp, number: 80 }].into(),
        terminating: Terminating::Serving,
        prove: cosmolet::engine::proof::Prove::Wait,
        policy: cosmolet::engine::traffic::TrafficPolicy::default(),
        check: None,
        profile: None,
        endpoints: PerFamily { v4: Endpoints { local, ..Endpoints::default() }, v6: Endpoints::default() },
    }
}
