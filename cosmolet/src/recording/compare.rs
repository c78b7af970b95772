//! A replay's decisions beside those that were recorded.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::engine::intent::Decision;
use crate::engine::types::{Timestamp, Vip};

/// A decision that comes so much sooner or later is the same one: a daemon's timers are late when its machine is busy.
const SAME: Duration = Duration::from_secs(1);
/// One that comes so much sooner or later is the same one, moved; beyond that it is another one.
const MOVED: Duration = Duration::from_secs(15);

/// One decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// When, in the replay where it is in both.
    pub at: Timestamp,
    /// The VIP.
    pub vip: Vip,
    /// What was decided.
    pub to: Decision,
    /// Where it was found.
    pub found: Found,
}

/// Where a decision was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// In both, at the same time.
    AsRecorded,
    /// In both; it was recorded at this time.
    Moved(Timestamp),
    /// Only in the replay.
    New,
    /// Only in the recording.
    DidNotHappen,
}

/// A VIP that a replay begins with otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The VIP.
    pub vip: Vip,
    /// What had been decided when the recording began.
    pub recorded: Option<Decision>,
    /// What the replay begins with.
    pub replayed: Option<Decision>,
}

/// A decision with its time.
pub(super) type Made = (Timestamp, Vip, Decision);

/// Compares them VIP by VIP; the rows are in the order of time.
pub(super) fn compare(recorded: &[Made], replayed: &[Made]) -> Vec<Row> {
    let mut vips: BTreeMap<Vip, [VecDeque<(Timestamp, Decision)>; 2]> = BTreeMap::new();
    for (index, made) in [recorded, replayed].into_iter().enumerate() {
        for (at, vip, to) in made {
            vips.entry(*vip).or_default()[index].push_back((*at, *to));
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    for (vip, [mut recorded, mut replayed]) in vips {
        while let Some((at, to, found)) = next(&mut recorded, &mut replayed) {
            rows.push(Row { at, vip, to, found });
        }
    }
    rows.sort_by_key(|row| row.at);
    rows
}

type Decisions = VecDeque<(Timestamp, Decision)>;

/// The next of one VIP: the first of both where they are the same, and otherwise the earlier one.
fn next(recorded: &mut Decisions, replayed: &mut Decisions) -> Option<(Timestamp, Decision, Found)> {
    let (was, is) = (recorded.front().copied(), replayed.front().copied());
    let (at, to, found) = match (was, is) {
        (None, None) => return None,
        (Some((was, before)), Some((is, now))) if before == now && apart(was, is) <= MOVED => {
            (is, now, if apart(was, is) <= SAME { Found::AsRecorded } else { Found::Moved(was) })
        }
        (Some((was, to)), Some((is, _))) if was <= is => (was, to, Found::DidNotHappen),
        (Some((was, to)), None) => (was, to, Found::DidNotHappen),
        (_, Some((is, to))) => (is, to, Found::New),
    };
    if found != Found::New {
        recorded.pop_front();
    }
    if found != Found::DidNotHappen {
        replayed.pop_front();
    }
    Some((at, to, found))
}

fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::intent::WithdrawReason;

    const UP: Decision = Decision::Advertise;
    const FAILS: Decision = Decision::Withdraw(WithdrawReason::ConnectionsFail);

    fn made(all: &[(u64, Decision)]) -> Vec<Made> {
        let vip = Vip::new([10, 0, 0, 1].into());
        let at = |millis| Timestamp::from_start(Duration::from_millis(millis));
        all.iter().map(|(millis, to)| (at(*millis), vip, *to)).collect()
    }

    fn found(recorded: &[(u64, Decision)], replayed: &[(u64, Decision)]) -> Vec<(u128, Found)> {
        let rows = compare(&made(recorded), &made(replayed));
        rows.iter().map(|row| (row.at.since_start().as_millis(), row.found)).collect()
    }

    #[test]
    fn decisions_are_the_same_moved_new_or_not_there() {
        let at = |millis| Timestamp::from_start(Duration::from_millis(millis));
        let was = [(1000, FAILS), (40_000, UP)];
        assert_eq!(found(&was, &was), [(1000, Found::AsRecorded), (40_000, Found::AsRecorded)]);
        assert_eq!(
            found(&was, &[(1900, FAILS), (44_000, UP)]),
            [(1900, Found::AsRecorded), (44_000, Found::Moved(at(40_000)))]
        );
        assert_eq!(found(&was, &[]), [(1000, Found::DidNotHappen), (40_000, Found::DidNotHappen)]);
        assert_eq!(found(&[], &was), [(1000, Found::New), (40_000, Found::New)]);
    }

    #[test]
    fn a_decision_that_is_left_out_does_not_shift_the_others() {
        let was = [(1000, FAILS), (40_000, UP), (100_000, FAILS), (140_000, UP)];
        assert_eq!(
            found(&was, &was[2..]),
            [
                (1000, Found::DidNotHappen),
                (40_000, Found::DidNotHappen),
                (100_000, Found::AsRecorded),
                (140_000, Found::AsRecorded)
            ]
        );
    }
}
