//! Whether this node sees both directions of a port's connections.

use super::TrafficRules;
use super::cusum::float;
use crate::engine::event::Handshakes;

/// Handshakes that are remembered.
const MEMORY: f64 = 256.0;

/// What this node sees of the answers to a port's clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// No answer has been seen yet: a missing one proves nothing.
    #[default]
    Unknown,
    /// Answers pass the programs.
    Visible,
    /// Clients complete handshakes whose answers never passed: DSR, another uplink, a CNI that rewrites behind us.
    Blind,
}

impl Sight {
    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Visible => "visible",
            Self::Blind => "blind",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    seen: f64,
    unseen: f64,
}

impl Answers {
    pub(super) fn add(&mut self, handshakes: &Handshakes) {
        let unseen = handshakes.unseen_answers.min(handshakes.completed);
        self.unseen += float(unseen);
        self.seen += float(handshakes.completed - unseen);
        self.seen += float(handshakes.refused_backend.saturating_add(handshakes.refused_host));
        let all = self.seen + self.unseen;
        if all > MEMORY {
            self.seen *= MEMORY / all;
            self.unseen *= MEMORY / all;
        }
    }

    pub(super) fn sight(&self, rules: &TrafficRules) -> Sight {
        let all = self.seen + self.unseen;
        if all <= 0.0 {
            Sight::Unknown
        } else if self.unseen > rules.unseen_share * all {
            Sight::Blind
        } else {
            Sight::Visible
        }
    }
}
