//! How often the traffic may withdraw a claim: a flapping verdict must not become flapping routes.

use std::collections::VecDeque;

use super::TrafficRules;
use crate::engine::types::Timestamp;

/// The last withdrawals.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    spent: VecDeque<Timestamp>,
}

impl Budget {
    /// How many more withdrawals are allowed now.
    pub(super) fn left(&self, now: Timestamp, rules: &TrafficRules) -> usize {
        let spent = self.spent.iter().filter(|at| now.since(**at) < rules.budget_window).count();
        rules.budget.saturating_sub(spent)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.spent.len()
    }

    pub(super) fn spend(&mut self, now: Timestamp, rules: &TrafficRules) {
        self.spent.retain(|at| now.since(*at) < rules.budget_window);
        self.spent.push_back(now);
    }
}
