//! What `cosmolet top` knows: the VIPs, the rates of their counters, which of them to show and in what order. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::http::vips::{VipBrief, Vips};

/// The daemon reads its counters once a second: what has not grown for so long has stopped.
const STILL: Duration = Duration::from_millis(2500);

/// What the rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// Handshakes a second, the most first.
    #[default]
    Handshakes,
    /// Refusals a second, the most first.
    Refusals,
    /// What needs an eye first: all that is neither advertised nor withdrawn, then withdrawn, then advertised.
    State,
    /// The latest change first.
    Since,
    /// By address.
    Vip,
}

impl Order {
    const ALL: [Self; 5] = [Self::Handshakes, Self::Refusals, Self::State, Self::Since, Self::Vip];

    /// The one after this.
    pub(super) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self).unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Handshakes => "handshakes",
            Self::Refusals => "refusals",
            Self::State => "state",
            Self::Since => "since",
            Self::Vip => "VIP",
        }
    }
}

/// Counts a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// Handshakes completed.
    pub(super) handshakes: f64,
    /// RSTs and ICMP unreachables.
    pub(super) refusals: f64,
}

/// A VIP.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// As the daemon last told it.
    pub(super) brief: VipBrief,
    /// How fast its counters grow.
    pub(super) rates: Rates,
    /// When they were last another.
    sampled: Duration,
    /// What a search looks at.
    words: String,
}

impl Line {
    fn new(brief: VipBrief, at: Duration) -> Self {
        Self { words: words(&brief), brief, rates: Rates::default(), sampled: at }
    }

    fn learn(&mut self, brief: VipBrief, at: Duration) {
        let grown = |new: u64, old: u64| new.saturating_sub(old);
        let counts = [grown(brief.handshakes, self.brief.handshakes), grown(brief.refusals, self.brief.refusals)];
        let counted = (brief.handshakes, brief.refusals) != (self.brief.handshakes, self.brief.refusals);
        self.words = words(&brief);
        self.brief = brief;
        if counted {
            // One that rested began within the last second.
            let rested = self.rates == Rates::default();
            let seconds = if rested { 1.0 } else { at.saturating_sub(self.sampled).as_secs_f64().max(0.2) };
            #[expect(clippy::cast_precision_loss, reason = "no count of a second comes near to 2^52")]
            let [handshakes, refusals] = counts.map(|count| count as f64 / seconds);
            self.rates = Rates { handshakes, refusals };
            self.sampled = at;
        }
    }

    fn rest(&mut self, at: Duration) {
        if at.saturating_sub(self.sampled) >= STILL {
            self.rates = Rates::default();
        }
    }

    fn urgency(&self) -> u8 {
        match self.brief.state.as_str() {
            "advertised" => 2,
            "withdrawn" => 1,
            _ => 0,
        }
    }
}

fn words(brief: &VipBrief) -> String {
    let services = brief.services.iter().flat_map(|claim| [claim.service.as_str(), claim.verdict.as_str()]);
    let others = [brief.vip.as_str(), &brief.state, brief.reason.as_deref().unwrap_or_default()];
    others.into_iter().chain(services).collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Every VIP of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    started: f64,
    after: u64,
    lines: BTreeMap<IpAddr, Line>,
    /// What they are sorted by.
    pub(super) order: Order,
    /// Only what has all of these words is shown.
    pub(super) search: String,
    /// The VIP on which the operator stands.
    selected: Option<IpAddr>,
}

impl Board {
    /// The revision that the next answer is to begin after.
    pub(super) const fn after(&self) -> u64 {
        self.after
    }

    /// Takes an answer that came so long after the start. False: it does not fit what is known, and all has to be asked for.
    pub(super) fn learn(&mut self, answer: Vips, at: Duration) -> bool {
        let anew = self.started.total_cmp(&answer.started).is_ne();
        if anew {
            let partial = self.after != 0;
            *self = Self { started: answer.started, after: 0, lines: BTreeMap::new(), ..std::mem::take(self) };
            if partial {
                return false;
            }
        }
        let whole = self.after == 0;
        let mut before = if whole { std::mem::take(&mut self.lines) } else { BTreeMap::new() };
        for brief in answer.vips {
            let Ok(vip) = brief.vip.parse() else { continue };
            match before.remove(&vip).or_else(|| self.lines.remove(&vip)) {
                Some(mut line) => {
                    line.learn(brief, at);
                    self.lines.insert(vip, line);
                }
                None => drop(self.lines.insert(vip, Line::new(brief, at))),
            }
        }
        self.lines.values_mut().for_each(|line| line.rest(at));
        // Who knows more than there is has missed that one went.
        let fits = self.lines.len() == answer.count;
        self.after = if fits { answer.revision } else { 0 };
        fits || whole
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// How many are in each state.
    pub(super) fn states(&self) -> BTreeMap<&str, usize> {
        let mut states = BTreeMap::new();
        self.lines.values().for_each(|line| *states.entry(line.brief.state.as_str()).or_default() += 1);
        states
    }

    /// Those to show, in order.
    pub(super) fn rows(&self) -> Vec<(IpAddr, &Line)> {
        let wanted = self.search.to_lowercase();
        let wanted: Vec<&str> = wanted.split_whitespace().collect();
        let fits = |line: &Line| wanted.iter().all(|word| line.words.contains(word));
        let mut rows: Vec<_> =
            self.lines.iter().filter(|(_, line)| fits(line)).map(|(vip, line)| (*vip, line)).collect();
        // By address they are already, and the sort keeps that among equals.
        match self.order {
            Order::Handshakes => rows.sort_by(|(_, a), (_, b)| b.rates.handshakes.total_cmp(&a.rates.handshakes)),
            Order::Refusals => rows.sort_by(|(_, a), (_, b)| b.rates.refusals.total_cmp(&a.rates.refusals)),
            Order::State => rows.sort_by_key(|(_, line)| line.urgency()),
            Order::Since => rows.sort_by(|(_, a), (_, b)| b.brief.since.total_cmp(&a.brief.since)),
            Order::Vip => {}
        }
        rows
    }

    /// Where the operator stands among the rows; the first where it was never said, or is not among them any more.
    pub(super) fn standing(&self, rows: &[(IpAddr, &Line)]) -> usize {
        rows.iter().position(|(vip, _)| Some(*vip) == self.selected).unwrap_or_default()
    }

    /// The VIP on which the operator stands.
    pub(super) fn chosen(&self) -> Option<IpAddr> {
        let rows = self.rows();
        rows.get(self.standing(&rows)).map(|(vip, _)| *vip)
    }

    /// Goes so many rows down, or up.
    pub(super) fn go(&mut self, by: isize) {
        let rows = self.rows();
        let to = self.standing(&rows).saturating_add_signed(by).min(rows.len().saturating_sub(1));
        let vip = rows.get(to).map(|(vip, _)| *vip);
        self.selected = vip;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::http::vips::ServiceBrief;

    pub(in crate::cli::top) fn brief(vip: &str, state: &str, handshakes: u64, refusals: u64) -> VipBrief {
        VipBrief {
            vip: vip.to_owned(),
            state: state.to_owned(),
            reason: (state != "advertised").then(|| "NoLocalEndpoint".to_owned()),
            since: 1000.0,
            services: vec![ServiceBrief { service: format!("default/of-{vip}"), verdict: "clear".to_owned() }],
            handshakes,
            refusals,
        }
    }

    pub(in crate::cli::top) fn answer(revision: u64, count: usize, vips: Vec<VipBrief>) -> Vips {
        Vips { started: 1.0, revision, count, vips }
    }

    fn shown(board: &Board) -> Vec<String> {
        board.rows().iter().map(|(vip, _)| vip.to_string()).collect()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn counters_become_rates_and_rest() {
        let mut board = Board::default();
        assert!(board.learn(answer(1, 1, vec![brief("10.0.0.1", "advertised", 100, 5)]), seconds(0)));
        let rates = |board: &Board| board.rows()[0].1.rates;
        assert_eq!(rates(&board), Rates::default(), "what was counted before says nothing of now");
        board.learn(answer(2, 1, vec![brief("10.0.0.1", "advertised", 150, 5)]), seconds(60));
        assert_eq!(rates(&board), Rates { handshakes: 50.0, refusals: 0.0 }, "after a rest it is the last second");
        board.learn(answer(3, 1, vec![brief("10.0.0.1", "advertised", 190, 7)]), seconds(62));
        assert_eq!(rates(&board), Rates { handshakes: 20.0, refusals: 1.0 });
        board.learn(answer(3, 1, vec![]), seconds(63));
        assert_eq!(
            rates(&board),
            Rates { handshakes: 20.0, refusals: 1.0 },
            "two readings may have fallen on one of the daemon's"
        );
        board.learn(answer(3, 1, vec![]), seconds(65));
        assert_eq!(rates(&board), Rates::default());
        board.learn(answer(4, 1, vec![brief("10.0.0.1", "advertised", 3, 0)]), seconds(66));
        assert_eq!(rates(&board), Rates::default(), "counters never go back; if they do, it is no rate");
    }

    #[test]
    fn what_went_and_a_daemon_that_began_anew_are_asked_for() {
        let mut board = Board::default();
        let two = || vec![brief("10.0.0.1", "advertised", 0, 0), brief("10.0.0.2", "withdrawn", 0, 0)];
        assert!(board.learn(answer(7, 2, two()), seconds(0)));
        assert_eq!(board.after(), 7);
        assert!(!board.learn(answer(8, 1, vec![]), seconds(1)), "one went");
        assert_eq!(board.after(), 0);
        assert!(board.learn(answer(8, 1, two()[..1].to_vec()), seconds(1)));
        assert_eq!(shown(&board), ["10.0.0.1"]);
        let other = Vips { started: 2.0, ..answer(3, 2, vec![]) };
        assert!(!board.learn(other, seconds(2)), "another daemon, asked for what is new since the first");
        assert_eq!((board.len(), board.after()), (0, 0));
        assert!(board.learn(Vips { started: 2.0, ..answer(3, 2, two()) }, seconds(2)));
        assert_eq!(board.len(), 2);
    }

    #[test]
    fn each_order_puts_first_what_its_name_says() {
        let mut board = Board::default();
        let at = |handshakes, refusals| {
            let mut vips = vec![
                brief("10.0.0.10", "advertised", 10 * handshakes, 0),
                brief("10.0.0.9", "withdrawn", 0, refusals),
                brief("2001:db8::1", "pending", handshakes, 0),
            ];
            vips[0].since = 2000.0;
            vips
        };
        board.learn(answer(1, 3, at(0, 0)), seconds(0));
        board.learn(answer(2, 3, at(7, 3)), seconds(1));
        let orders = std::iter::successors(Some(Order::default()), |order| Some(order.next()));
        let seen: Vec<_> = orders
            .take(6)
            .map(|order| {
                board.order = order;
                (order.as_str(), shown(&board)[0].clone())
            })
            .collect();
        let first = [
            ("handshakes", "10.0.0.10"),
            ("refusals", "10.0.0.9"),
            ("state", "2001:db8::1"),
            ("since", "10.0.0.10"),
            ("VIP", "10.0.0.9"),
            ("handshakes", "10.0.0.10"),
        ];
        assert_eq!(seen, first.map(|(order, vip)| (order, vip.to_owned())));
    }

    #[test]
    fn a_search_needs_every_word_and_the_place_is_kept() {
        let mut board = Board { order: Order::Vip, ..Board::default() };
        let vips =
            (1..=9).map(|n| brief(&format!("10.0.0.{n}"), if n % 2 == 0 { "advertised" } else { "withdrawn" }, 0, 0));
        board.learn(answer(1, 9, vips.collect()), seconds(0));
        board.go(3);
        assert_eq!(board.chosen(), "10.0.0.4".parse().ok());
        board.search = "ADVERTISED default/of-10".to_owned();
        assert_eq!(shown(&board), ["10.0.0.2", "10.0.0.4", "10.0.0.6", "10.0.0.8"]);
        assert_eq!(board.chosen(), "10.0.0.4".parse().ok());
        board.go(isize::MAX);
        assert_eq!(board.chosen(), "10.0.0.8".parse().ok());
        board.search = "nolocalendpoint".to_owned();
        assert_eq!(board.chosen(), "10.0.0.1".parse().ok(), "what is not shown cannot be stood on");
        board.search = "nothing has this".to_owned();
        assert_eq!(board.chosen(), None);
        board.go(1);
        board.go(isize::MIN);
        assert_eq!(board.chosen(), None);
    }
}
