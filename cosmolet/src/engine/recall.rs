//! What the engine knows from outside, as the events that would tell another one the same.
//!
//! Owns no memory. What the engine has concluded from events of the past, the traffic verdict's memory above all, is not in
//! it, and neither is what the kernel and FRR hold. One thing is, that probes have passed: without a new doubt none would be
//! sent again, and to whom none has passed none that fails means anything.

use super::engine::{Engine, Settings};
use super::event::{Event, ProbeOutcome, ProbeReport, SourceState};
use super::vip::Claim;

impl Engine {
    /// What it was made with.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Everything that it has been told and that still stands, the source of Services last.
    #[must_use]
    pub fn recall(&self) -> Vec<Event> {
        let mut events =
            vec![Event::Prober(self.observed.prober.clone()), Event::Programs(self.observed.programs.clone())];
        events.extend(self.node.clone().map(Event::Node));
        events.extend(self.drained.then_some(Event::Drained(true)));
        let seen = self.pods.iter().filter_map(|(key, record)| Some((key, record.view()?)));
        events.extend(seen.map(|(key, view)| Event::Pod(key.clone(), view)));
        events.extend(self.services.values().map(|view| Event::Service(Box::new(view.clone()))));
        let proven = self.passed();
        events.extend((!proven.is_empty()).then_some(Event::Probe(proven)));
        // Whoever is stale has been synced before.
        if self.synced && self.source != SourceState::Synced {
            events.push(Event::Source(SourceState::Synced));
        }
        events.push(Event::Source(self.source.clone()));
        events
    }

    /// A report for each port of a VIP through which a probe has passed; of claims that wait for another one there is none.
    fn passed(&self) -> Vec<ProbeReport> {
        let mut reports = Vec::new();
        for (vip, entry) in &self.vips {
            let settled = entry.claims.iter().filter(|claim: &&Claim| !claim.proof.waits());
            let mut ports: Vec<_> = settled.flat_map(|claim| claim.proof.ports()).map(|(port, ..)| port).collect();
            ports.sort_unstable();
            ports.dedup();
            reports.extend(ports.into_iter().map(|port| ProbeReport {
                vip: *vip,
                port,
                outcome: ProbeOutcome::Passed,
                complaint: None,
                latency: None,
            }));
        }
        reports
    }
}
