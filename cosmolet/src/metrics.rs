//! Every metric family, once.
//!
//! Owns names, labels and help texts. The series of VIPs are written out of the [`Book`] at each scrape, so that they
//! cost nothing in between and go when the VIP is forgotten. Never decides anything.

pub mod catalogue;
mod cluster;
mod components;
mod exposition;
mod ports;
mod process;
mod vips;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::book::Book;
use crate::engine::event::{ProbeOutcome, ProbePurpose};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransitionLabels {
    to: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    purpose: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// What may become of a stream that is asked for: both are counted from 0, so that the first one is an increase.
const STREAM_OUTCOMES: [&str; 2] = ["opened", "refused"];

/// All families, with the registry that encodes them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    book: Arc<Book>,
    per_port: usize,
    /// Of the last exposition, in bytes.
    length: AtomicUsize,
    transitions: Family<TransitionLabels, Counter>,
    steps: Family<StepLabels, Counter>,
    events: Family<OutcomeLabels, Counter>,
    reaction: Histogram,
    stages: Family<StageLabels, Histogram, fn() -> Histogram>,
    turn: Histogram,
    sampling: Histogram,
    odd: Family<KindLabels, Gauge<u64, AtomicU64>>,
    probes: Family<ProbeLabels, Counter>,
    probe_latency: Histogram,
    streams: Family<OutcomeLabels, Counter>,
    stream_missed: Counter,
    connections_refused: Counter,
}

impl Metrics {
    /// Registers every family; those of VIPs and components read `book`. Of each VIP `per_port` ports have series of their
    /// own.
    #[must_use]
    pub fn new(book: Arc<Book>, per_port: usize) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        let mut metrics = Self {
            registry: Registry::with_prefix("cosmolet"),
            book: Arc::clone(&book),
            per_port,
            length: AtomicUsize::default(),
            transitions: Family::default(),
            steps: Family::default(),
            events: Family::default(),
            reaction: seconds(),
            stages: Family::new_with_constructor(seconds),
            turn: seconds(),
            sampling: seconds(),
            odd: Family::default(),
            probes: Family::default(),
            probe_latency: Histogram::new(exponential_buckets(0.000_02, 2.0, 16)),
            streams: Family::default(),
            stream_missed: Counter::default(),
            connections_refused: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register_collector(Box::new(cluster::Cluster::new(Arc::clone(&book))));
        registry.register_collector(Box::new(components::Components::new(book)));
        registry.register_collector(Box::new(process::Process));
        registry.register("transitions", "Decisions that changed, by outcome and reason", metrics.transitions.clone());
        registry.register("steps", "Steps carried out, by outcome", metrics.steps.clone());
        registry.register("kubernetes_events", "Events on Services, by outcome", metrics.events.clone());
        registry.register_with_unit(
            "reaction",
            "From the first event that a plan answers to the confirmation of its last step",
            Unit::Seconds,
            metrics.reaction.clone(),
        );
        registry.register_with_unit(
            "stage",
            "One stage of a reaction: wait for a plan, carry out its steps, until FRR's RIB shows it",
            Unit::Seconds,
            metrics.stages.clone(),
        );
        registry.register_with_unit("turn", "One turn of the control loop", Unit::Seconds, metrics.turn.clone());
        registry.register_with_unit(
            "sampling",
            "One reading of all the programs' counters",
            Unit::Seconds,
            metrics.sampling.clone(),
        );
        registry.register("odd_packets", "Packets on the uplinks that no VIP counts, by kind", metrics.odd.clone());
        registry.register("probes", "Wire-true probes, by purpose and outcome", metrics.probes.clone());
        registry.register_with_unit(
            "probe_latency",
            "From a probe's SYN to its answer",
            Unit::Seconds,
            metrics.probe_latency.clone(),
        );
        registry.register(
            "streams",
            "Streams of decisions and recordings that were asked for, by outcome",
            metrics.streams.clone(),
        );
        registry.register(
            "stream_missed",
            "Decisions, or records of a recording, that a reader of a stream was too slow for",
            metrics.stream_missed.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections to the daemon's own pages that were closed at once, as there were too many",
            metrics.connections_refused.clone(),
        );
        for outcome in STREAM_OUTCOMES {
            drop(metrics.streams.get_or_create(&OutcomeLabels { outcome }));
        }
        registry.register("build", "This daemon", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        metrics
    }

    /// Somebody asked for a stream of decisions or a recording, and got it, or there were too many already.
    pub fn stream(&self, opened: bool) {
        self.streams.get_or_create(&OutcomeLabels { outcome: STREAM_OUTCOMES[usize::from(!opened)] }).inc();
    }

    /// A connection was one too many.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// A reader of a stream was not told so much.
    pub fn stream_missed(&self, count: u64) {
        self.stream_missed.inc_by(count);
    }

    /// The OpenMetrics text of everything.
    ///
    /// # Errors
    /// A value cannot be written as text; never seen.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        // As long as the last one, and a little more: growing it would copy it again and again.
        let last = self.length.load(Ordering::Relaxed);
        let mut text = String::with_capacity(last + last / 16);
        encode(&mut text, &self.registry)?;
        text.truncate(text.strip_suffix(exposition::END).map_or(text.len(), str::len));
        vips::encode(&self.book, self.per_port, &mut text)?;
        text.push_str(exposition::END);
        self.length.store(text.len(), Ordering::Relaxed);
        Ok(text)
    }

    /// Counts a decision that changed.
    pub fn transition(&self, to: &'static str, reason: &'static str) {
        self.transitions.get_or_create(&TransitionLabels { to, reason }).inc();
    }

    /// How long a stage of a reaction took.
    pub fn stage(&self, stage: &'static str, took: Duration) {
        self.stages.get_or_create(&StageLabels { stage }).observe(took.as_secs_f64());
    }

    /// Counts a step.
    pub fn step(&self, step: &'static str, outcome: &'static str) {
        self.steps.get_or_create(&StepLabels { step, outcome }).inc();
    }

    /// Counts Events on Services.
    pub fn events(&self, outcome: &'static str, count: u64) {
        self.events.get_or_create(&OutcomeLabels { outcome }).inc_by(count);
    }

    /// Tells how long a plan took, in seconds.
    pub fn reaction(&self, seconds: f64) {
        self.reaction.observe(seconds);
    }

    /// Tells how long one turn of the control loop took, in seconds.
    pub fn turn(&self, seconds: f64) {
        self.turn.observe(seconds);
    }

    /// Tells how long one reading of the counters took, in seconds.
    pub fn sampling(&self, seconds: f64) {
        self.sampling.observe(seconds);
    }

    /// Counts a probe, with the time to its answer where one came.
    pub fn probe(&self, purpose: ProbePurpose, outcome: ProbeOutcome, latency: Option<Duration>) {
        self.probes.get_or_create(&ProbeLabels { purpose: purpose.as_str(), outcome: outcome.as_str() }).inc();
        if let Some(latency) = latency {
            self.probe_latency.observe(latency.as_secs_f64());
        }
    }

    /// Tells the sum of one kind of packets that no VIP counts.
    pub fn odd(&self, kind: &'static str, sum: u64) {
        self.odd.get_or_create(&KindLabels { kind }).set(sum);
    }
}
