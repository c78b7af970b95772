//! What happened to a router's kernel routes, and when: the record that [`crate::route_monitor`] fills.
//!
//! Owns the current table and its history. Knows nothing of netlink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use crate::wait;

const MAX_EVENTS: usize = 2_000_000;

/// One next hop of a route. An IPv4 prefix may go by an IPv6 gateway (RFC 8950).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// The outgoing interface; the fabric names a ToR's interfaces after the nodes.
    pub interface: String,
    /// The gateway, if not directly connected.
    pub gateway: Option<IpAddr>,
}

/// The next hops of one prefix; empty: no route.
pub type NextHops = BTreeSet<NextHop>;

/// One change of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When the netlink message was read.
    pub at: Instant,
    /// The prefix.
    pub prefix: IpNet,
    /// Its next hops from then on.
    pub next_hops: NextHops,
}

/// What the kernel said of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// These are its next hops now.
    Set(NextHops),
    /// These next hops are gone (IPv6 may name one of several).
    Remove(NextHops),
}

#[derive(Debug, Default)]
struct Table {
    current: BTreeMap<IpNet, NextHops>,
    changes: Vec<Change>,
    failure: Option<String>,
}

impl Table {
    fn update(&mut self, at: Instant, prefix: IpNet, update: Update) {
        let before = self.current.get(&prefix).cloned().unwrap_or_default();
        let after = match update {
            Update::Set(next_hops) => next_hops,
            Update::Remove(gone) => before.difference(&gone).cloned().collect(),
        };
        if before == after {
            return;
        }
        if self.changes.len() >= MAX_EVENTS {
            self.failure = Some(format!("more than {MAX_EVENTS} route changes"));
            return;
        }
        if after.is_empty() {
            self.current.remove(&prefix);
        } else {
            self.current.insert(prefix, after.clone());
        }
        self.changes.push(Change { at, prefix, next_hops: after });
    }

    /// The first moment from `since` on at which `wanted` held; `since` itself if it held then.
    fn first(&self, prefix: IpNet, since: Instant, wanted: &impl Fn(&NextHops) -> bool) -> Option<Instant> {
        let (before, after): (Vec<_>, Vec<_>) =
            self.changes.iter().filter(|change| change.prefix == prefix).partition(|change| change.at < since);
        let at_since = before.last().map(|change| change.next_hops.clone()).unwrap_or_default();
        if wanted(&at_since) {
            return Some(since);
        }
        after.iter().find(|change| wanted(&change.next_hops)).map(|change| change.at)
    }
}

/// The record, shared between the monitor and those who wait.
#[derive(Debug, Default)]
pub struct Routes {
    table: Mutex<Table>,
}

impl Routes {
    /// Records one update. Nothing is recorded when it changes nothing.
    pub fn update(&self, at: Instant, prefix: IpNet, update: Update) {
        self.lock().update(at, prefix, update);
    }

    /// Records the whole table, as read at `at`: prefixes that are not in it are gone.
    pub fn replace(&self, at: Instant, routes: &BTreeMap<IpNet, NextHops>) {
        let mut table = self.lock();
        let gone: Vec<IpNet> = table.current.keys().filter(|prefix| !routes.contains_key(prefix)).copied().collect();
        for prefix in gone {
            table.update(at, prefix, Update::Set(NextHops::new()));
        }
        for (prefix, next_hops) in routes {
            table.update(at, *prefix, Update::Set(next_hops.clone()));
        }
    }

    /// Makes every wait fail from now on: the monitor can see no more.
    pub fn fail(&self, why: String) {
        self.lock().failure = Some(why);
    }

    /// The prefix's next hops now.
    #[must_use]
    pub fn now(&self, prefix: IpNet) -> NextHops {
        self.lock().current.get(&prefix).cloned().unwrap_or_default()
    }

    /// The interfaces the prefix is spread over now: in a fabric, the nodes that carry it.
    #[must_use]
    pub fn nodes(&self, prefix: IpNet) -> BTreeSet<String> {
        self.now(prefix).into_iter().map(|hop| hop.interface).collect()
    }

    /// The changes of one prefix since a moment, oldest first. Empty: nothing moved.
    #[must_use]
    pub fn changes(&self, prefix: IpNet, since: Instant) -> Vec<Change> {
        let table = self.lock();
        table.changes.iter().filter(|change| change.prefix == prefix && change.at >= since).cloned().collect()
    }

    /// Those of [`Routes::changes`] by which other nodes (interfaces) carry the prefix. A new session may name its next hop by
    /// another address first, and by its link-local one a moment later: nothing has moved then.
    #[must_use]
    pub fn moves(&self, prefix: IpNet, since: Instant) -> Vec<Change> {
        let nodes = |hops: &NextHops| hops.iter().map(|hop| hop.interface.clone()).collect::<BTreeSet<_>>();
        let (table, mut last, mut found) = (self.lock(), BTreeSet::new(), Vec::new());
        for change in table.changes.iter().filter(|change| change.prefix == prefix) {
            let now = nodes(&change.next_hops);
            if change.at >= since && now != last {
                found.push(change.clone());
            }
            last = now;
        }
        found
    }

    /// How many prefixes within `range` have a route now.
    #[must_use]
    pub fn count_within(&self, range: IpNet) -> usize {
        self.lock().current.keys().filter(|prefix| range.contains(*prefix)).count()
    }

    /// The moment of the last change of any prefix within `range` since a moment.
    #[must_use]
    pub fn last_change_within(&self, range: IpNet, since: Instant) -> Option<Instant> {
        let table = self.lock();
        let mut found = table.changes.iter().rev().take_while(|change| change.at >= since);
        found.find(|change| range.contains(&change.prefix)).map(|change| change.at)
    }

    /// Waits until `wanted` holds for the prefix's next hops and returns how long after `since` it first did (zero if it did at
    /// `since` already). Call it with the moment of the cause.
    pub fn wait_route(
        &self,
        prefix: IpNet,
        since: Instant,
        limit: Duration,
        wanted: impl Fn(&NextHops) -> bool,
    ) -> Result<Duration> {
        let what = format!("the wanted route of {prefix}");
        let found = wait::until(&what, limit, || {
            let table = self.lock();
            ensure!(table.failure.is_none(), "the route monitor failed: {:?}", table.failure);
            Ok(table.first(prefix, since, &wanted))
        });
        let at = found.with_context(|| format!("the route is {:?}", self.now(prefix)))?;
        Ok(at.saturating_duration_since(since))
    }

    /// Waits until exactly these nodes (interfaces) carry the prefix; see [`Routes::wait_route`].
    pub fn wait_nodes(&self, prefix: IpNet, since: Instant, limit: Duration, nodes: &[&str]) -> Result<Duration> {
        let wanted: BTreeSet<&str> = nodes.iter().copied().collect();
        self.wait_route(prefix, since, limit, |hops| {
            hops.iter().map(|hop| hop.interface.as_str()).collect::<BTreeSet<_>>() == wanted
        })
    }

    /// Waits until `count` prefixes within `range` have a route; returns how long after `since` the last change came.
    pub fn wait_count(&self, range: IpNet, count: usize, since: Instant, limit: Duration) -> Result<Duration> {
        let what = format!("{count} routes within {range}");
        wait::until_true(&what, limit, || {
            let found = self.count_within(range);
            ensure!(found == count, "there are {found}");
            Ok(true)
        })?;
        let last = self.last_change_within(range, since).unwrap_or(since);
        Ok(last.saturating_duration_since(since))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(interfaces: &[&str]) -> NextHops {
        interfaces.iter().map(|name| NextHop { interface: (*name).to_owned(), gateway: None }).collect()
    }

    fn prefix() -> IpNet {
        "10.100.0.1/32".parse().unwrap()
    }

    #[test]
    fn sets_and_partial_removals_are_followed() {
        let routes = Routes::default();
        let start = Instant::now();
        routes.update(start, prefix(), Update::Set(hops(&["n1", "n2"])));
        routes.update(start, prefix(), Update::Set(hops(&["n1", "n2"])));
        routes.update(start, prefix(), Update::Remove(hops(&["n2"])));
        assert_eq!(routes.now(prefix()), hops(&["n1"]));
        routes.update(start, prefix(), Update::Remove(hops(&["n1"])));
        assert_eq!(routes.changes(prefix(), start).len(), 3);
        assert!(routes.now(prefix()).is_empty());
    }

    #[test]
    fn another_gateway_is_a_change_but_no_move() {
        let routes = Routes::default();
        let start = Instant::now();
        let by = |gateway: &str| NextHop { interface: "n1".to_owned(), gateway: gateway.parse().ok() };
        for next_hops in [[by("fd00::2")], [by("fe80::2")]] {
            routes.update(start, prefix(), Update::Set(next_hops.into()));
        }
        assert_eq!((routes.changes(prefix(), start).len(), routes.moves(prefix(), start).len()), (2, 1));
        routes.update(start, prefix(), Update::Set(hops(&[])));
        assert_eq!(routes.moves(prefix(), start).len(), 2);
    }

    #[test]
    fn a_wait_counts_from_the_cause_not_from_the_call() {
        let routes = Routes::default();
        let cause = Instant::now();
        let ms = Duration::from_millis;
        routes.update(cause + ms(5), prefix(), Update::Set(hops(&["n1"])));
        routes.update(cause + ms(9), prefix(), Update::Set(hops(&["n1", "n2"])));
        assert_eq!(routes.wait_nodes(prefix(), cause, ms(0), &["n1", "n2"]).unwrap(), ms(9));
        assert_eq!(routes.wait_nodes(prefix(), cause, ms(0), &[]).unwrap(), ms(0));
        assert_eq!(routes.wait_nodes(prefix(), cause + ms(10), ms(0), &["n1", "n2"]).unwrap(), ms(0));
        assert!(routes.wait_nodes(prefix(), cause + ms(10), ms(1), &["n1"]).is_err());
    }

    #[test]
    fn a_table_read_whole_drops_what_is_not_in_it() {
        let routes = Routes::default();
        let start = Instant::now();
        routes.update(start, prefix(), Update::Set(hops(&["n1"])));
        let other: IpNet = "10.100.0.2/32".parse().unwrap();
        routes.replace(start, &BTreeMap::from([(other, hops(&["n2"]))]));
        assert!(routes.now(prefix()).is_empty());
        assert_eq!(routes.count_within("10.100.0.0/16".parse().unwrap()), 1);
    }

    #[test]
    fn a_failed_monitor_fails_the_waits() {
        let routes = Routes::default();
        routes.fail("blind".to_owned());
        assert!(routes.wait_nodes(prefix(), Instant::now(), Duration::from_millis(9), &["n1"]).is_err());
    }
}
