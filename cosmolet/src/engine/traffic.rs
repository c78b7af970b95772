//! The data plane's verdict over one Service's claim to a VIP.
//!
//! Owns the rule and its memory. The rule: this host itself answers new connections with RST or ICMP unreachable, which
//! means that nothing translates the VIP to a backend. Never judges by what clients do.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::event::{TrafficCounts, TrafficSample};
use super::types::{Port, Protocol, Timestamp};

/// Whether the verdict acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficMode {
    /// No programs, no counters, no verdict.
    Off,
    /// Says what it would have done, and does nothing.
    #[default]
    Observe,
    /// Withdraws what it convicts.
    Enforce,
}

impl TrafficMode {
    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

/// The constants of the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrafficRules {
    /// How far back new connections are counted.
    pub window: Duration,
    /// The fewest new connections in the window that can convict.
    pub min_attempts: u64,
    /// The share of new connections that the host refused, from which on it convicts.
    pub refused_share: f64,
    /// The share of completed handshakes, from which on it never convicts.
    pub completed_share: f64,
    /// The share of refused new connections that fails a trial.
    pub trial_refused_share: f64,
    /// How long a VIP stays withdrawn after its first conviction; each further one adds as much, a failed trial
    /// doubles it.
    pub hold: Duration,
    /// The longest it stays withdrawn.
    pub max_hold: Duration,
    /// How long a trial lasts while nobody connects.
    pub idle_trial: Duration,
    /// How long a trial lasts at least.
    pub min_trial: Duration,
    /// After this long without a conviction the next one is again the first.
    pub forgive: Duration,
    /// After a SYN-ACK from this host's own stack (a backend in the host's network) its RSTs prove nothing for so long.
    pub host_backend: Duration,
}

impl Default for TrafficRules {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(3),
            min_attempts: 3,
            refused_share: 0.9,
            completed_share: 0.1,
            trial_refused_share: 0.5,
            hold: Duration::from_secs(30),
            max_hold: Duration::from_secs(300),
            idle_trial: Duration::from_secs(60),
            min_trial: Duration::from_secs(10),
            forgive: Duration::from_secs(900),
            host_backend: Duration::from_secs(300),
        }
    }
}

/// What the traffic says of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficState {
    /// Nothing against it.
    #[default]
    Clear,
    /// The rule holds, but the mode is `observe`.
    Suspect,
    /// Withdrawn until then.
    Convicted(Timestamp),
    /// Advertised again since then, judged more strictly.
    Trial(Timestamp),
}

/// The memory of one claim's traffic.
#[derive(Clone, Debug, Default)]
pub struct TrafficHealth {
    ports: BTreeMap<Port, PortWindow>,
    state: TrafficState,
    ejections: u32,
    convicted_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Default)]
struct PortWindow {
    samples: VecDeque<(Timestamp, TrafficCounts)>,
    host_backend_at: Option<Timestamp>,
}

impl PortWindow {
    fn push(&mut self, counts: TrafficCounts, now: Timestamp, window: Duration) {
        if counts.syn_ack_host > 0 {
            self.host_backend_at = Some(now);
        }
        self.samples.push_back((now, counts));
        // A sample covers the tick before its time stamp: three samples of a second are a window of three seconds.
        while self.samples.front().is_some_and(|(at, _)| now.since(*at) >= window) {
            self.samples.pop_front();
        }
    }

    /// The shares of refused and of completed new connections, where there were enough of them to tell.
    fn shares(&self, now: Timestamp, rules: &TrafficRules, min_attempts: u64) -> Option<(f64, f64)> {
        if self.host_backend_at.is_some_and(|at| now.since(at) < rules.host_backend) {
            return None;
        }
        let recent = self.samples.iter().filter(|(at, _)| now.since(*at) < rules.window);
        let sum = recent.fold(TrafficCounts::default(), |sum, (_, counts)| sum.plus(*counts));
        if sum.syn < min_attempts.max(1) {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "shares of connection counts far below 2^52")]
        let share = |part: u64| part as f64 / sum.syn as f64;
        Some((share(sum.rst_host.saturating_add(sum.unreachable_host)), share(sum.completed)))
    }
}

impl TrafficHealth {
    /// What the traffic says now.
    #[must_use]
    pub const fn state(&self) -> TrafficState {
        self.state
    }

    /// How often in a row the traffic has convicted this claim.
    #[must_use]
    pub const fn ejections(&self) -> u32 {
        self.ejections
    }

    /// Takes one sample of a declared port. Returns true where the state has changed.
    ///
    /// `jitter` in -0.1 to 0.1 spreads the returns of many nodes.
    pub fn sample(
        &mut self,
        sample: &TrafficSample,
        now: Timestamp,
        mode: TrafficMode,
        rules: &TrafficRules,
        jitter: f64,
    ) -> bool {
        // Only TCP tells a new connection from an old one by a single packet.
        if sample.port.protocol != Protocol::Tcp || mode == TrafficMode::Off {
            return false;
        }
        let window = self.ports.entry(sample.port).or_default();
        window.push(sample.counts, now, rules.window);
        let before = self.state;
        match self.state {
            TrafficState::Clear | TrafficState::Suspect => self.judge(now, mode, rules, jitter),
            TrafficState::Trial(since) => self.judge_trial(since, now, rules, jitter),
            TrafficState::Convicted(_) => {}
        }
        self.state != before
    }

    /// Lets time pass. Returns true where the state has changed.
    pub fn tick(&mut self, now: Timestamp, rules: &TrafficRules) -> bool {
        let before = self.state;
        match self.state {
            TrafficState::Convicted(until) if now >= until => {
                self.ports.clear();
                self.state = TrafficState::Trial(now);
            }
            TrafficState::Trial(since) if now.since(since) >= rules.idle_trial => self.state = TrafficState::Clear,
            TrafficState::Suspect if !self.refused_now(now, rules) => self.state = TrafficState::Clear,
            TrafficState::Clear | TrafficState::Suspect | TrafficState::Convicted(_) | TrafficState::Trial(_) => {}
        }
        self.state != before
    }

    /// When time alone may change the state.
    #[must_use]
    pub fn next_change(&self, now: Timestamp, rules: &TrafficRules) -> Option<Timestamp> {
        match self.state {
            TrafficState::Clear => None,
            TrafficState::Suspect => Some(now.after(rules.window)),
            TrafficState::Convicted(until) => Some(until),
            TrafficState::Trial(since) => Some(since.after(rules.idle_trial)),
        }
    }

    /// Forgets the ports that are no longer declared.
    pub fn keep_ports(&mut self, declared: &[Port]) {
        self.ports.retain(|port, _| declared.contains(port));
    }

    fn judge(&mut self, now: Timestamp, mode: TrafficMode, rules: &TrafficRules, jitter: f64) {
        if !self.refused_now(now, rules) {
            self.state = TrafficState::Clear;
        } else if mode == TrafficMode::Enforce {
            let forgiven = self.convicted_at.is_none_or(|at| now.since(at) >= rules.forgive);
            self.ejections = if forgiven { 1 } else { self.ejections.saturating_add(1) };
            self.convict(now, rules, jitter);
        } else {
            self.state = TrafficState::Suspect;
        }
    }

    fn refused_now(&self, now: Timestamp, rules: &TrafficRules) -> bool {
        self.ports
            .values()
            .filter_map(|port| port.shares(now, rules, rules.min_attempts))
            .any(|(refused, completed)| refused >= rules.refused_share && completed < rules.completed_share)
    }

    fn judge_trial(&mut self, since: Timestamp, now: Timestamp, rules: &TrafficRules, jitter: f64) {
        let shares = || self.ports.values().filter_map(|port| port.shares(now, rules, 1));
        if shares().any(|(refused, _)| refused >= rules.trial_refused_share) {
            self.ejections = self.ejections.saturating_mul(2).max(1);
            self.convict(now, rules, jitter);
        } else if now.since(since) >= rules.min_trial && shares().any(|(_, completed)| completed > 0.0) {
            self.state = TrafficState::Clear;
        }
    }

    fn convict(&mut self, now: Timestamp, rules: &TrafficRules, jitter: f64) {
        let hold = rules.hold.saturating_mul(self.ejections).min(rules.max_hold);
        self.convicted_at = Some(now);
        self.state = TrafficState::Convicted(now.after(hold.mul_f64(1.0 + jitter.clamp(-0.1, 0.1))));
    }
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
