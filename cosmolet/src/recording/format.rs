//! The lines of a recording: a header, what was known when it began, then what came and what was decided.
//!
//! Owns what is written and what it means. Reading a file of them is `reader`'s.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::samples::{Answers, Probe, Sample};
use super::views::{Node, Pod, Service};
use super::words::{self, Name};
use crate::config::{ConfigError, rule_of_values, rule_values};
use crate::engine::Settings;
use crate::engine::ejections::Guard;
use crate::engine::event::{Event, SourceState};
use crate::engine::intent::Decision;
use crate::engine::observed::{BgpState, ProberState, ProgramsState};
use crate::engine::rules::VipRules;
use crate::engine::traffic::TrafficMode;
use crate::engine::types::{Mode, PerFamily, PodKey, Timestamp, Vip};

/// The version of the format; another one is not read.
pub const FORMAT: u32 = 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`]
    pub cosmolet_recording: u32,
    /// The version of the daemon.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// The time of day at `at`, in seconds since 1970.
    pub clock: f64,
    /// When it began, as all times of a recording: in nanoseconds since the daemon's start.
    pub at: u64,
    /// What the engine was made with.
    pub settings: Recorded,
    /// How FRR learnt of VIPs then.
    pub bgp: Bgp,
}

/// What the engine was made with, as far as decisions depend on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    #[serde(with = "words::mode")]
    traffic_mode: TrafficMode,
    #[serde(with = "words::guard")]
    guard: Guard,
    prove_seconds: Option<u64>,
    probe_round_seconds: Option<u64>,
    check_seconds: Option<u64>,
    restart_hold_seconds: u64,
    vip_ranges: Vec<IpNet>,
    excluded: Vec<IpNet>,
    seed: u64,
    /// `traffic.rule`, as the configuration has it.
    rule: Map<String, Value>,
}

/// How FRR learns of VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bgp {
    /// It is not asked.
    Disabled,
    /// It was away.
    Down,
    /// By family.
    Up(Modes),
}

/// See [`Bgp::Up`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modes {
    #[serde(with = "words::learns")]
    ipv4: Mode,
    #[serde(with = "words::learns")]
    ipv6: Mode,
}

/// Any other line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Nanoseconds since the daemon's start.
    pub at: u64,
    /// What it says.
    pub record: Record,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A decision that stood when it began.
    Standing(Decided),
    /// All that was known has been said; what follows came later.
    Live,
    /// Of the events these, and the next ones down to `exit`.
    Service(Box<Service>),
    /// See [`Event::ServiceGone`].
    ServiceGone(Gone),
    /// See [`Event::Node`].
    Node(Node),
    /// See [`Event::Pod`].
    Pod(Pod),
    /// See [`Event::PodGone`].
    PodGone(Gone),
    /// See [`Event::Source`].
    Source(Source),
    /// See [`Event::Traffic`].
    Traffic(Vec<Sample>),
    /// See [`Event::Probe`].
    Probe(Vec<Probe>),
    /// See [`Event::Prober`].
    Prober(Prober),
    /// See [`Event::Permissions`].
    Permissions(Answers),
    /// See [`Event::Programs`].
    Programs(Programs),
    /// See [`Event::Drained`].
    Drained(bool),
    /// See [`Event::Exit`].
    Exit,
    /// The engine decided so.
    Decision(Decided),
    /// The reader was too slow for so many records, which would stand here.
    Missed(u64),
}

/// Something that is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gone {
    name: Name,
}

/// The state of the source of Services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// See [`SourceState::Syncing`].
    Syncing,
    /// See [`SourceState::Synced`].
    Synced,
    /// See [`SourceState::Stale`].
    Stale(String),
}

/// The state of the prober.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prober {
    /// See [`ProberState::Starting`].
    Starting,
    /// See [`ProberState::Off`].
    Off(String),
    /// See [`ProberState::Running`].
    Running,
}

/// The state of the programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Programs {
    /// See [`ProgramsState::Off`].
    Off(String),
    /// See [`ProgramsState::Running`].
    Running(Vec<String>),
}

/// A decision about a VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    vip: IpAddr,
    to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What a line means.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The VIP's decision stood so when it began.
    Standing(Vip, Decision),
    /// See [`Record::Live`].
    Live,
    /// The engine was told so.
    Event(Event),
    /// The engine decided so.
    Decision(Vip, Decision),
    /// See [`Record::Missed`].
    Missed(u64),
}

impl Record {
    /// What is written of an event; nothing of those that no verdict depends on: the kernel's, FRR's, ticks.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        let gone = |key: &PodKey| Gone { name: Name(key.clone()) };
        Some(match event {
            Event::Service(view) => Self::Service(Box::new(Service::of(view))),
            Event::ServiceGone(key) => Self::ServiceGone(gone(key)),
            Event::Node(view) => Self::Node(view.into()),
            Event::Pod(key, view) => Self::Pod(Pod::of(key, *view)),
            Event::PodGone(key) => Self::PodGone(gone(key)),
            Event::Source(state) => Self::Source(match state {
                SourceState::Syncing => Source::Syncing,
                SourceState::Synced => Source::Synced,
                SourceState::Stale(error) => Source::Stale(error.clone()),
            }),
            Event::Traffic(samples) => Self::Traffic(samples.iter().map(Into::into).collect()),
            Event::Probe(reports) => Self::Probe(reports.iter().map(Into::into).collect()),
            Event::Prober(state) => Self::Prober(match state {
                ProberState::Starting => Prober::Starting,
                ProberState::Off(reason) => Prober::Off(reason.clone()),
                ProberState::Running => Prober::Running,
            }),
            Event::Permissions(permissions) => Self::Permissions(permissions.into()),
            Event::Programs(state) => Self::Programs(match state {
                ProgramsState::Off(reason) => Programs::Off(reason.clone()),
                ProgramsState::Running(interfaces) => Programs::Running(interfaces.clone()),
            }),
            Event::Drained(drained) => Self::Drained(*drained),
            Event::Exit => Self::Exit,
            Event::Kernel(_) | Event::Bgp(_) | Event::Rib(_) | Event::Applied(_) | Event::Tick => return None,
        })
    }

    /// What it means.
    ///
    /// # Errors
    /// A decision is written in other words than the engine's.
    pub fn meaning(self) -> Result<What, String> {
        Ok(What::Event(match self {
            Self::Standing(decided) => return decided.read().map(|(vip, decision)| What::Standing(vip, decision)),
            Self::Decision(decided) => return decided.read().map(|(vip, decision)| What::Decision(vip, decision)),
            Self::Live => return Ok(What::Live),
            Self::Missed(count) => return Ok(What::Missed(count)),
            Self::Service(service) => Event::Service(Box::new((*service).into())),
            Self::ServiceGone(gone) => Event::ServiceGone(gone.name.0),
            Self::Node(node) => Event::Node(node.into()),
            Self::Pod(pod) => {
                let (key, view) = pod.into_parts();
                Event::Pod(key, view)
            }
            Self::PodGone(gone) => Event::PodGone(gone.name.0),
            Self::Source(state) => Event::Source(match state {
                Source::Syncing => SourceState::Syncing,
                Source::Synced => SourceState::Synced,
                Source::Stale(error) => SourceState::Stale(error),
            }),
            Self::Traffic(samples) => Event::Traffic(samples.into_iter().map(Into::into).collect()),
            Self::Probe(reports) => Event::Probe(reports.into_iter().map(Into::into).collect()),
            Self::Prober(state) => Event::Prober(match state {
                Prober::Starting => ProberState::Starting,
                Prober::Off(reason) => ProberState::Off(reason),
                Prober::Running => ProberState::Running,
            }),
            Self::Permissions(answers) => Event::Permissions(answers.into()),
            Self::Programs(state) => Event::Programs(match state {
                Programs::Off(reason) => ProgramsState::Off(reason),
                Programs::Running(interfaces) => ProgramsState::Running(interfaces),
            }),
            Self::Drained(drained) => Event::Drained(drained),
            Self::Exit => Event::Exit,
        }))
    }
}

impl Decided {
    /// A decision as it is recorded.
    #[must_use]
    pub fn of(vip: Vip, decision: Decision) -> Self {
        let reason = decision.reason().map(|reason| reason.as_str().to_owned());
        Self { vip: vip.address(), to: decision.as_str().to_owned(), reason }
    }

    fn read(&self) -> Result<(Vip, Decision), String> {
        Ok((Vip::new(self.vip), words::decision(&self.to, self.reason.as_deref())?))
    }
}

impl Bgp {
    /// How it is now.
    #[must_use]
    pub const fn of(state: &BgpState) -> Self {
        match state {
            BgpState::Disabled => Self::Disabled,
            BgpState::Down(_) => Self::Down,
            BgpState::Up(view) => Self::Up(Modes { ipv4: view.modes.v4, ipv6: view.modes.v6 }),
        }
    }
}

impl Modes {
    /// By family.
    #[must_use]
    pub const fn by_family(self) -> PerFamily<Mode> {
        PerFamily { v4: self.ipv4, v6: self.ipv6 }
    }
}

impl Recorded {
    /// The settings as they are recorded.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            traffic_mode: settings.traffic_mode,
            guard: settings.guard,
            prove_seconds: settings.prove.map(|time| time.as_secs()),
            probe_round_seconds: settings.probe_round.map(|time| time.as_secs()),
            check_seconds: settings.check.map(|time| time.as_secs()),
            restart_hold_seconds: settings.pod_hold.as_secs(),
            vip_ranges: settings.rules.ranges.clone(),
            excluded: settings.rules.excluded.clone(),
            seed: settings.seed,
            rule: rule_values(&settings.traffic),
        }
    }

    /// The settings for a replay: addresses are held for ever, as nobody takes them away there.
    ///
    /// # Errors
    /// A constant of the rule is unknown or wrong.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        Ok(Settings {
            rules: VipRules { ranges: self.vip_ranges.clone(), excluded: self.excluded.clone() },
            lease: None,
            traffic_mode: self.traffic_mode,
            traffic: rule_of_values(self.rule.clone())?,
            guard: self.guard,
            prove: self.prove_seconds.map(Duration::from_secs),
            probe_round: self.probe_round_seconds.map(Duration::from_secs),
            check: self.check_seconds.map(Duration::from_secs),
            pod_hold: Duration::from_secs(self.restart_hold_seconds),
            seed: self.seed,
            ..Settings::default()
        })
    }
}

impl Line {
    /// The line with its end.
    ///
    /// # Errors
    /// None that a line of ours can have.
    pub fn text(&self) -> serde_json::Result<String> {
        serde_json::to_string(self).map(|text| text + "\n")
    }
}

/// The time as a recording has it: how far it is from the daemon's start, in nanoseconds.
#[must_use]
pub fn nanos(at: Timestamp) -> u64 {
    super::samples::nanos(at.since_start())
}
