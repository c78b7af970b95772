//! Which nodes may withdraw a VIP for its traffic, so that a wrong signal never empties the fabric.
//!
//! Owns the rule over the register that all nodes share, and what a permission is worth. Keeping the register, with a
//! compare-and-swap, and finding the candidates are the edge's. Never says that a VIP is bad: that is `traffic`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::service::EndpointScope;
use super::types::{ServiceKey, Vip};

/// How long a permission is worth something after the reading that it rests on: a node that is cut off from the register
/// advertises again after that, because it cannot see what has become of the others.
pub const VALID_FOR: Duration = Duration::from_secs(60);

/// The VIPs that this node wants withdrawn for their traffic, or has withdrawn, each with the Services that claim it.
pub type Wanted = BTreeMap<Vip, Vec<(ServiceKey, EndpointScope)>>;

/// Nodes, by their names.
pub type Nodes = BTreeSet<String>;

/// Why a node may not withdraw a VIP for its traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// Nobody else could serve it.
    LastCandidate,
    /// As many candidates as may be are ejected already.
    ShareSpent,
    /// Every candidate wants the same: it is the service, or the signal, and no node of it.
    EveryoneSuspects,
    /// The register cannot be read or written, or has not been yet.
    Unanswered,
}

impl Refused {
    /// The reason as it stands in logs, metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LastCandidate => "LastCandidate",
            Self::ShareSpent => "ShareSpent",
            Self::EveryoneSuspects => "EveryoneSuspects",
            Self::Unanswered => "Unanswered",
        }
    }

    /// One sentence for a person.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::LastCandidate => "no other node could serve it",
            Self::ShareSpent => "as many of its nodes as may be are withdrawn for their traffic already",
            Self::EveryoneSuspects => "every node that could serve it finds the same: it is the service, not a node",
            Self::Unanswered => "the register of ejections cannot be read or written",
        }
    }
}

/// What came of asking, for each VIP asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// The answers.
    pub answers: BTreeMap<Vip, Result<(), Refused>>,
    /// How long the permissions among them are still worth something; at most [`VALID_FOR`].
    pub valid_for: Duration,
}

/// What one node has written into the register.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// VIPs that it may withdraw, and has.
    pub ejected: BTreeSet<Vip>,
    /// VIPs that it wants to withdraw, those included.
    pub suspected: BTreeSet<Vip>,
}

/// The register: what every node has written, by the node's name. Entries of nodes that are no candidates do not count, so
/// that what a dead node has left does no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Register(pub BTreeMap<String, Entry>);

impl Register {
    /// Answers for every VIP that `node` wants withdrawn, given who its candidates are, and writes the answers down in the place of
    /// what the node had written before: what it no longer wants is released. At most `share` (0 to 1) of the candidates are ejected at
    /// a time, and never all of them.
    ///
    /// A VIP that is ejected already is judged anew: where candidates have gone, or all suspect it now, it is refused and comes back.
    pub fn judge(
        &mut self,
        node: &str,
        wanted: &BTreeMap<Vip, Nodes>,
        share: f64,
    ) -> BTreeMap<Vip, Result<(), Refused>> {
        let answers: BTreeMap<Vip, Result<(), Refused>> =
            wanted.iter().map(|(vip, candidates)| (*vip, self.answer(node, *vip, candidates, share))).collect();
        let granted = answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(vip, _)| *vip);
        let entry = Entry { ejected: granted.collect(), suspected: wanted.keys().copied().collect() };
        if entry == Entry::default() {
            self.0.remove(node);
        } else {
            self.0.insert(node.to_owned(), entry);
        }
        answers
    }

    fn answer(&self, node: &str, vip: Vip, candidates: &Nodes, share: f64) -> Result<(), Refused> {
        let others = || candidates.iter().filter(|other| *other != node);
        let count = |fits: fn(&Entry) -> &BTreeSet<Vip>| {
            others().filter(|other| self.0.get(*other).is_some_and(|entry| fits(entry).contains(&vip))).count()
        };
        let all = others().count() + 1;
        if all == 1 {
            Err(Refused::LastCandidate)
        } else if count(|entry| &entry.suspected) + 1 == all {
            Err(Refused::EveryoneSuspects)
        } else if count(|entry| &entry.ejected) + 1 > limit(all, share) {
            Err(Refused::ShareSpent)
        } else {
            Ok(())
        }
    }
}

/// How many of so many candidates may be ejected.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of nodes"
)]
fn limit(candidates: usize, share: f64) -> usize {
    let part = (candidates as f64 * share.clamp(0.0, 1.0)).floor() as usize;
    part.min(candidates.saturating_sub(1))
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
