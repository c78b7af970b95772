//! What the traffic verdict says of one Service's claim to a VIP, in one word with its reason: for metrics, status and people.

use super::traffic::{Charge, SecondKey, Sight, TrafficRules, TrafficState};
use super::vip::Claim;

/// The word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// No handshake has been followed: only this host's own refusals are judged.
    #[default]
    Unknown,
    /// Clients complete handshakes whose answers this node does not see: only this host's own refusals are judged.
    Blind,
    /// Nothing is held against it, and no probe has passed with the endpoints as they are: failing handshakes alone would
    /// make it suspect, but could not convict it.
    Unproven,
    /// Nothing is held against it.
    Clear,
    /// Something is, and nothing acts on that.
    Suspect(Charge),
    /// It is withdrawn for it.
    Convicted(Charge),
    /// It was convicted a while ago and is advertised again, judged more strictly.
    Trial(Charge),
}

impl Verdict {
    /// The label used in metrics, logs and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Blind => "blind",
            Self::Unproven => "unproven",
            Self::Clear => "clear",
            Self::Suspect(_) => "suspect",
            Self::Convicted(_) => "convicted",
            Self::Trial(_) => "trial",
        }
    }

    /// Why, in a word; nothing where it is clear.
    #[must_use]
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Unknown => Some("NoHandshakes"),
            Self::Blind => Some("AnswersUnseen"),
            Self::Unproven => Some("NoProbePassed"),
            Self::Clear => None,
            Self::Suspect(charge) | Self::Convicted(charge) | Self::Trial(charge) => Some(charge.reason().as_str()),
        }
    }

    /// What that means, in a sentence.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::Unknown => "no handshake has been followed here: only this host's own refusals are judged",
            Self::Blind => {
                "clients complete handshakes whose answers do not pass this node's uplinks: only this host's own refusals \
                 are judged"
            }
            Self::Unproven => {
                "nothing is held against it; no probe has passed with the endpoints as they are, so that failing handshakes \
                 could make it suspect but not convict it"
            }
            Self::Clear => "nothing is held against it",
            Self::Suspect(Charge::ProbeFails) => "its owner's probe is not answered well, and nothing acts on that",
            Self::Suspect(Charge::HostRefuses | Charge::ConnectionsFail) => {
                "something is held against its new connections, and nothing acts on that"
            }
            Self::Convicted(_) => "withdrawn for it, until its hold is over and a probe passes",
            Self::Trial(_) => "it was convicted a while ago and is advertised again, judged more strictly",
        }
    }
}

impl Claim {
    /// The verdict as it stands.
    pub(super) fn verdict(&self, rules: &TrafficRules) -> Verdict {
        let charge = self.traffic.charge().unwrap_or(Charge::HostRefuses);
        match self.traffic.state() {
            TrafficState::Suspect => Verdict::Suspect(charge),
            TrafficState::Convicted(_) => Verdict::Convicted(charge),
            TrafficState::Trial(_) => Verdict::Trial(charge),
            TrafficState::Clear => match self.traffic.sight(rules) {
                Sight::Unknown => Verdict::Unknown,
                Sight::Blind => Verdict::Blind,
                Sight::Visible if self.policy.evidence == SecondKey::Probe && !self.proof.proven() => Verdict::Unproven,
                Sight::Visible => Verdict::Clear,
            },
        }
    }
}
