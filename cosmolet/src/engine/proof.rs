//! What wire-true probes have shown of one Service's claim to a VIP.
//!
//! Owns the memory of probes, the wait before an advertisement and what may be concluded. Never sends a probe: the engine
//! asks for them by [`Engine::take_probes`](super::Engine::take_probes).

use std::time::Duration;

use super::event::ProbeOutcome;
use super::types::{Port, Timestamp};

/// Probes in a row that must fail before their failing means anything.
const CONVINCING: u32 = 3;
/// The time between two probes of a claim that waits: doubled each time, up to the last.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(500);

/// Whether a Service's VIPs wait for a proof (`cosmolet.io/prove`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prove {
    /// At most `traffic.prove_seconds`.
    #[default]
    Wait,
    /// For ever, while probes can be sent at all and are not lost.
    Required,
    /// Not at all.
    Never,
}

/// The memory of one claim's probes.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    wait: Wait,
    last: Option<(Timestamp, ProbeOutcome)>,
    /// The ports through which a probe has passed with the endpoints as they are: only these can fail.
    ports: Vec<(Port, Passed)>,
    /// It has waited in vain and no probe has ever passed: something refuses probes, and to wait again would be in vain.
    vain: bool,
}

#[derive(Clone, Copy, Debug)]
struct Passed {
    /// When a probe last did.
    at: Timestamp,
    /// How many in a row have failed since; a lost one counts for nothing.
    failures: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wait {
    /// Nothing waits.
    #[default]
    No,
    /// Since then, and a probe is wanted at the second point; the number of probes so far.
    Since(Timestamp, Timestamp, u32),
}

/// What a person may want to know of a claim's probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProofStatus {
    /// The last outcome, and when it came.
    pub last: Option<(Timestamp, ProbeOutcome)>,
    /// A probe has passed with the endpoints as they are.
    pub proven: bool,
    /// How many in a row have failed since, of the worst port.
    pub failures: u32,
}

impl Proof {
    /// The claim waits for a probe to pass.
    #[must_use]
    pub const fn waits(&self) -> bool {
        matches!(self.wait, Wait::Since(..))
    }

    /// Begins to wait; `required` does so even where it was in vain before.
    pub const fn begin(&mut self, now: Timestamp, required: bool) {
        if required || !self.vain {
            self.wait = Wait::Since(now, now, 0);
        }
    }

    /// Waits no longer, whatever was shown.
    pub const fn stop(&mut self) {
        self.wait = Wait::No;
    }

    /// The endpoints have changed: what passed before proves nothing of these.
    pub fn renew(&mut self) {
        self.ports.clear();
    }

    /// A probe is wanted by now; the next one is due later.
    pub fn due(&mut self, now: Timestamp) -> bool {
        match self.wait {
            Wait::Since(since, at, sent) if at <= now => {
                let pause = FIRST_RETRY.saturating_mul(1 << sent.min(16)).min(LAST_RETRY);
                self.wait = Wait::Since(since, now.after(pause), sent.saturating_add(1));
                true
            }
            Wait::Since(..) | Wait::No => false,
        }
    }

    /// Takes an outcome. Returns true where the wait has ended.
    pub fn record(&mut self, port: Port, outcome: ProbeOutcome, now: Timestamp) -> bool {
        self.last = Some((now, outcome));
        let waited = self.waits();
        let known = self.ports.iter_mut().find(|(known, _)| *known == port);
        match (outcome, known) {
            (ProbeOutcome::Passed, known) => {
                let passed = Passed { at: now, failures: 0 };
                match known {
                    Some((_, known)) => *known = passed,
                    None => self.ports.push((port, passed)),
                }
                self.vain = false;
                self.wait = Wait::No;
            }
            (
                ProbeOutcome::RefusedByBackend | ProbeOutcome::RefusedByHost | ProbeOutcome::Silent,
                Some((_, passed)),
            ) => passed.failures = passed.failures.saturating_add(1),
            (ProbeOutcome::RefusedByBackend | ProbeOutcome::RefusedByHost | ProbeOutcome::Silent, None) => {}
            (ProbeOutcome::Lost, _) => self.wait = Wait::No,
        }
        waited && !self.waits()
    }

    /// Lets time pass; `limit` is how long a claim waits, `None` for ever. Returns true where the wait has ended.
    pub fn tick(&mut self, now: Timestamp, limit: Option<Duration>) -> bool {
        match (self.wait, limit) {
            (Wait::Since(since, ..), Some(limit)) if now.since(since) >= limit => {
                self.vain = self.ports.is_empty();
                self.wait = Wait::No;
                true
            }
            (Wait::Since(..) | Wait::No, _) => false,
        }
    }

    /// When time alone may change something.
    #[must_use]
    pub fn next_change(&self, limit: Option<Duration>) -> Option<Timestamp> {
        match self.wait {
            Wait::Since(since, at, _) => Some(limit.map_or(at, |limit| at.min(since.after(limit)))),
            Wait::No => None,
        }
    }

    /// It has waited for longer than `limit`: the wait is no longer a matter of moments.
    #[must_use]
    pub fn waits_longer_than(&self, limit: Duration, now: Timestamp) -> bool {
        matches!(self.wait, Wait::Since(since, ..) if now.since(since) >= limit)
    }

    /// The last three probes of a port have failed, of endpoints with which one had passed before.
    #[must_use]
    pub fn convinces(&self) -> bool {
        self.worst() >= CONVINCING
    }

    /// Some of the last probes have failed, too few to mean anything yet.
    #[must_use]
    pub fn doubtful(&self) -> bool {
        (1..CONVINCING).contains(&self.worst())
    }

    /// A probe has passed with the endpoints as they are: only then does one that fails mean anything.
    #[must_use]
    pub const fn proven(&self) -> bool {
        !self.ports.is_empty()
    }

    /// The last probe of each port that ever passed has passed, one of them since then.
    #[must_use]
    pub fn passed_since(&self, since: Timestamp) -> bool {
        self.worst() == 0 && self.ports.iter().any(|(_, passed)| passed.at >= since)
    }

    fn worst(&self) -> u32 {
        self.ports.iter().map(|(_, passed)| passed.failures).max().unwrap_or(0)
    }

    /// For the status.
    #[must_use]
    pub fn status(&self) -> ProofStatus {
        ProofStatus { last: self.last, proven: self.proven(), failures: self.worst() }
    }
}
