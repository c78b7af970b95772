//! What wire-true probes have shown of one Service's claim to a VIP.
//!
//! Owns the memory of probes, the wait before an advertisement and what may be concluded. Never sends a probe: the engine
//! asks for them by [`Engine::take_probes`](super::Engine::take_probes).

use std::time::Duration;

use super::check::Complaint;
use super::event::{ProbeOutcome, ProbeReport};
use super::traffic::TrafficRules;
use super::types::{Port, Timestamp};

/// The time between two probes of a claim that waits: doubled each time, up to the last.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(500);
/// The time between two probes of a claim that clients are served through and that none has passed yet, doubled likewise:
/// without one that passes, none that fails means anything.
const FIRST_REFERENCE: Duration = Duration::from_secs(10);
const LAST_REFERENCE: Duration = Duration::from_secs(600);
/// Answers to what was asked before may still come for so long.
const ANSWERS: Duration = Duration::from_secs(5);

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
    /// The port through which one must pass to end the wait; `None` for any.
    awaited: Option<Port>,
    last: Option<(Timestamp, ProbeOutcome)>,
    /// What was wrong with the last answer, until this port answers well or not at all.
    complaint: Option<(Port, Complaint)>,
    /// Something else is asked of this port: its answers say nothing until then.
    anew: Option<(Port, Timestamp)>,
    /// The ports through which a probe has passed with the endpoints as they are: only these can fail.
    ports: Vec<(Port, Passed)>,
    /// It has waited in vain and no probe has ever passed: something refuses probes, and to wait again would be in vain.
    vain: bool,
    /// A reference is not asked for before this point; so many were.
    reference_at: Timestamp,
    references: u32,
}

#[derive(Clone, Copy, Debug)]
struct Passed {
    /// When a probe last did.
    at: Timestamp,
    /// How many in a row have failed since; a lost one counts for nothing.
    failures: u32,
    /// When the last of those came.
    failed_at: Timestamp,
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
    /// What was wrong with the last answer, where only the answer was.
    pub complaint: Option<Complaint>,
}

impl Proof {
    /// The claim waits for a probe to pass.
    #[must_use]
    pub const fn waits(&self) -> bool {
        matches!(self.wait, Wait::Since(..))
    }

    /// Begins to wait for one that passes through `awaited`, or through any port; `required` does so even where it was in vain
    /// before.
    pub const fn begin(&mut self, awaited: Option<Port>, now: Timestamp, required: bool) {
        self.awaited = awaited;
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
        (self.reference_at, self.references) = (Timestamp::ZERO, 0);
    }

    /// Something else is asked of this port from now on, or nothing but handshakes any more: what passed before proves nothing.
    pub fn ask_anew(&mut self, port: Option<Port>, now: Timestamp) {
        self.renew();
        (self.awaited, self.vain, self.complaint) = (port, false, None);
        self.anew = port.map(|port| (port, now.after(ANSWERS)));
    }

    /// Clients are served: a probe that passes now would make one that fails later mean something. True where one is due
    /// for some port of these.
    pub fn reference_due(&mut self, ports: &[Port], now: Timestamp) -> bool {
        let lacks = |port: &Port| port.is_tcp() && !self.knows(*port);
        if now < self.reference_at || !ports.iter().any(lacks) {
            return false;
        }
        let pause = FIRST_REFERENCE.saturating_mul(1 << self.references.min(16)).min(LAST_REFERENCE);
        (self.reference_at, self.references) = (now.after(pause), self.references.saturating_add(1));
        true
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
    pub fn record(&mut self, report: &ProbeReport, now: Timestamp, rules: &TrafficRules) -> bool {
        let (port, outcome) = (report.port, report.outcome);
        if self.anew.is_some_and(|(of, until)| of == port && now < until) {
            return false;
        }
        self.last = Some((now, outcome));
        self.complain(report);
        let waited = self.waits();
        let known = self.ports.iter_mut().find(|(known, _)| *known == port);
        match (outcome, known) {
            (ProbeOutcome::Passed, known) => {
                let passed = Passed { at: now, failures: 0, failed_at: now };
                match known {
                    Some((_, known)) => *known = passed,
                    None => self.ports.push((port, passed)),
                }
                if self.awaits(port) {
                    self.vain = false;
                    self.wait = Wait::No;
                }
            }
            (
                ProbeOutcome::RefusedByBackend
                | ProbeOutcome::RefusedByHost
                | ProbeOutcome::Unhealthy
                | ProbeOutcome::Silent,
                Some((_, passed)),
            ) => {
                // Failures long ago and one of now are not in a row.
                let row = now.since(passed.failed_at) <= rules.probe_age;
                passed.failures = if row { passed.failures.saturating_add(1) } else { 1 };
                passed.failed_at = now;
            }
            (
                ProbeOutcome::RefusedByBackend
                | ProbeOutcome::RefusedByHost
                | ProbeOutcome::Unhealthy
                | ProbeOutcome::Silent,
                None,
            ) => {}
            (ProbeOutcome::Lost, _) => self.wait = Wait::No,
        }
        waited && !self.waits()
    }

    fn complain(&mut self, report: &ProbeReport) {
        match report.outcome {
            ProbeOutcome::Unhealthy => self.complaint = report.complaint.map(|complaint| (report.port, complaint)),
            ProbeOutcome::Lost => {}
            ProbeOutcome::Passed
            | ProbeOutcome::RefusedByBackend
            | ProbeOutcome::RefusedByHost
            | ProbeOutcome::Silent => self.complaint = self.complaint.filter(|(of, _)| *of != report.port),
        }
    }

    fn awaits(&self, port: Port) -> bool {
        self.awaited.is_none_or(|awaited| awaited == port)
    }

    /// Lets time pass; `limit` is how long a claim waits, `None` for ever. Returns true where the wait has ended.
    pub fn tick(&mut self, now: Timestamp, limit: Option<Duration>) -> bool {
        match (self.wait, limit) {
            (Wait::Since(since, ..), Some(limit)) if now.since(since) >= limit => {
                self.vain = !self.ports.iter().any(|(port, _)| self.awaits(*port));
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

    /// The latest end of a wait, `Some(None)` for one without end; nothing where none is.
    #[must_use]
    pub fn waits_until(&self, limit: Option<Duration>) -> Option<Option<Timestamp>> {
        match self.wait {
            Wait::Since(since, ..) => Some(limit.map(|limit| since.after(limit))),
            Wait::No => None,
        }
    }

    /// It has waited for longer than `limit`: the wait is no longer a matter of moments.
    #[must_use]
    pub fn waits_longer_than(&self, limit: Duration, now: Timestamp) -> bool {
        matches!(self.wait, Wait::Since(since, ..) if now.since(since) >= limit)
    }

    /// One has passed through this port.
    #[must_use]
    pub fn knows(&self, port: Port) -> bool {
        self.ports.iter().any(|(known, _)| *known == port)
    }

    /// The last probes of this port have failed lately, `traffic.rule.probes` of them, of endpoints with which one had
    /// passed before.
    #[must_use]
    pub fn convinces(&self, port: Port, now: Timestamp, rules: &TrafficRules) -> bool {
        let of = self.ports.iter().find(|(known, _)| *known == port);
        of.is_some_and(|(_, passed)| passed.failures >= rules.probes && now.since(passed.failed_at) <= rules.probe_age)
    }

    /// Some of the last probes of a port have failed, too few to mean anything yet.
    #[must_use]
    pub fn doubtful(&self, rules: &TrafficRules) -> bool {
        self.ports.iter().any(|(_, passed)| (1..rules.probes).contains(&passed.failures))
    }

    /// One has passed through some port of these before, and the last one has failed, lately.
    #[must_use]
    pub fn fails(&self, ports: &[Port], now: Timestamp, rules: &TrafficRules) -> bool {
        let lately = |passed: &Passed| passed.failures > 0 && now.since(passed.failed_at) <= rules.probe_age;
        self.ports.iter().any(|(port, passed)| ports.contains(port) && lately(passed))
    }

    /// One has passed before through a port of these, and none has since then.
    #[must_use]
    pub fn lacks_one_since(&self, ports: &[Port], since: Timestamp) -> bool {
        let lacks = |passed: &Passed| passed.failures > 0 || passed.at < since;
        self.ports.iter().any(|(port, passed)| ports.contains(port) && lacks(passed))
    }

    /// What is known of each port's probes: when one last passed, how many failed since, and when the last of them did.
    pub fn ports(&self) -> impl Iterator<Item = (Port, Timestamp, u32, Timestamp)> {
        self.ports.iter().map(|(port, passed)| (*port, passed.at, passed.failures, passed.failed_at))
    }

    /// Forgets the ports that are no longer declared.
    pub fn keep_ports(&mut self, declared: &[Port]) {
        self.ports.retain(|(port, _)| declared.contains(port));
    }

    /// A probe has passed with the endpoints as they are: only then does one that fails mean anything.
    #[must_use]
    pub const fn proven(&self) -> bool {
        !self.ports.is_empty()
    }

    fn worst(&self) -> u32 {
        self.ports.iter().map(|(_, passed)| passed.failures).max().unwrap_or(0)
    }

    /// For the status.
    #[must_use]
    pub fn status(&self) -> ProofStatus {
        let complaint = self.complaint.map(|(_, complaint)| complaint);
        ProofStatus { last: self.last, proven: self.proven(), failures: self.worst(), complaint }
    }
}
