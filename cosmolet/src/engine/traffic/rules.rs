//! The constants of the data plane's rule, each with its meaning. All of them are `traffic.rule.*` of the configuration.

use std::time::Duration;

/// The constants of the rule. The defaults are the simulated ones (`cargo xtask simulate`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrafficRules {
    /// How far back new connections are counted for the host's own refusals.
    pub window: Duration,
    /// The fewest new connections in the window that can convict.
    pub min_attempts: u64,
    /// The share of new connections that the host refused, from which on it convicts.
    pub refused_share: f64,
    /// The share of completed handshakes, from which on it never convicts.
    pub completed_share: f64,
    /// The share of refused new connections that fails a trial.
    pub trial_refused_share: f64,
    /// The share of failing handshakes that is still healthy (p0).
    pub healthy_share: f64,
    /// The share of failing handshakes that is broken (p1).
    pub broken_share: f64,
    /// The score from which on a port is suspect.
    pub threshold: f64,
    /// The score never grows past this: a port that was broken for an hour is cleared as fast as after a minute.
    pub cap: f64,
    /// The share of `threshold` that fails a trial.
    pub trial_share: f64,
    /// The votes that one sample has at most, however many handshakes it holds.
    pub votes: f64,
    /// How many of the last `of_samples` with handshakes must hold a failure.
    pub failing_samples: usize,
    /// See `failing_samples`.
    pub of_samples: usize,
    /// From how many client prefixes (/24, /56) the failures must come at least.
    pub client_prefixes: u32,
    /// After this long without a handshake what was seen before is no evidence.
    pub forget: Duration,
    /// A flood: SYN arrive at more than so many times their average.
    pub flood_factor: f64,
    /// A flood: and at more than so many a second above that average.
    pub flood_rate: f64,
    /// A flood: and fewer than this share of the SYN-ACK are completed.
    pub flood_completed: f64,
    /// A flood: the span of the average rate.
    pub flood_average: Duration,
    /// How long after a flood nothing is judged.
    pub flood_hold: Duration,
    /// After a change of its endpoints nothing is concluded from a Service's handshakes for so long.
    pub endpoint_silence: Duration,
    /// The share of handshakes completed without a visible answer, from which on this node is blind for the port.
    pub unseen_share: f64,
    /// A Service that fails more than `healthy_share` on average counts as healthy up to so many times its average.
    pub baseline_factor: f64,
    /// But never above this share.
    pub baseline_max: f64,
    /// How fast what is usual is forgotten: the time in which it counts for a third.
    pub baseline_span: Duration,
    /// A burst of failures that lasts longer is an outage, from which nothing usual is learnt.
    pub longest_burst: Duration,
    /// The most by which the bursts of a port's past failures weaken its votes.
    pub max_burstiness: f64,
    /// Withdrawals of a claim by its traffic within `budget_window`, at most.
    pub budget: usize,
    /// See `budget`.
    pub budget_window: Duration,
    /// When more than this share of the VIPs with traffic are suspect, it is the node, and no passive evidence acts.
    pub node_share: f64,
    /// The fewest VIPs with traffic for a verdict over the node.
    pub node_vips: usize,
    /// Probes in a row that must fail to convict a suspect port.
    pub probes: u32,
    /// How old the last of them may be.
    pub probe_age: Duration,
    /// The time between two probes of a suspect port.
    pub suspect_probe: Duration,
    /// How often a probe is asked for, for a VIP that wants to go on trial.
    pub trial_probe: Duration,
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
            healthy_share: 0.05,
            broken_share: 0.5,
            threshold: 16.1,
            cap: 23.0,
            trial_share: 0.5,
            votes: 5.0,
            failing_samples: 3,
            of_samples: 10,
            client_prefixes: 3,
            forget: Duration::from_secs(600),
            flood_factor: 8.0,
            flood_rate: 1000.0,
            flood_completed: 0.2,
            flood_average: Duration::from_secs(300),
            flood_hold: Duration::from_secs(10),
            endpoint_silence: Duration::from_secs(5),
            unseen_share: 0.1,
            baseline_factor: 3.0,
            baseline_max: 0.2,
            baseline_span: Duration::from_secs(86_400),
            longest_burst: Duration::from_secs(60),
            max_burstiness: 10.0,
            budget: 2,
            budget_window: Duration::from_secs(900),
            node_share: 0.5,
            node_vips: 4,
            probes: 3,
            probe_age: Duration::from_secs(30),
            suspect_probe: Duration::from_millis(100),
            trial_probe: Duration::from_secs(2),
            hold: Duration::from_secs(30),
            max_hold: Duration::from_secs(300),
            idle_trial: Duration::from_secs(60),
            min_trial: Duration::from_secs(10),
            forgive: Duration::from_secs(900),
            host_backend: Duration::from_secs(300),
        }
    }
}
