//! The prefix-list by which a withdrawal leaves at once, where the operator lets cosmolet have one. Pure.
//!
//! bgpd holds a changed `network` for 50 ms, but acts at once on a changed outbound prefix-list. An operator who writes
//!
//! ```text
//! ip prefix-list COSMOLET-WITHDRAWN seq 4294967295 permit any
//! router bgp 65001
//!  address-family ipv4 unicast
//!   neighbor fabric prefix-list COSMOLET-WITHDRAWN out
//! ```
//!
//! lends the list to cosmolet: a VIP that is withdrawn is denied in it first. The `network` statement goes all the same,
//! so nothing depends on the list; an entry stays for a second or until its VIP is advertised again.
//!
//! Owns the entries up to number 65535 that deny a host prefix, and their commands. Never touches the list's other entries.

use std::collections::{BTreeMap, BTreeSet};

use super::observe::host_prefix;
use crate::engine::plan::Step;
use crate::engine::types::{Family, PerFamily, Vip};

/// The list's name, in both families.
pub const LIST: &str = "COSMOLET-WITHDRAWN";
/// Ours have the numbers up to this one; the entry that permits the rest must have a larger one.
const LAST_NUMBER: u32 = 65_535;
/// With more host prefixes than these the list is left alone: FRR looks at each of them whenever an entry changes. A thousand
/// VIPs, and what the operator has.
pub const MOST_PREFIXES: usize = 1024;
/// So many VIPs are denied at a time, for the same reason; more are as quick by their `network` statements.
pub const MOST_AT_ONCE: usize = 16;

/// What a running configuration says of one family's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The number of the entry that permits everything.
    pub permits_all: Option<u32>,
    /// Some neighbor's updates go through it.
    pub applied: bool,
    /// The VIPs that are denied by entries of ours, with their numbers.
    pub denied: BTreeMap<Vip, u32>,
    /// The numbers of all entries.
    taken: BTreeSet<u32>,
}

impl List {
    /// The operator lets cosmolet have it: it lets all pass, from a number on that leaves room, and somebody uses it.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.applied && self.permits_all.is_some_and(|number| number > LAST_NUMBER)
    }

    /// Takes an entry of the list: `seq NUMBER deny|permit PREFIX …`.
    pub(super) fn entry(&mut self, family: Family, words: &[&str]) {
        let ["seq", number, action, what @ ..] = words else { return };
        let Ok(number) = number.parse() else { return };
        self.taken.insert(number);
        match (*action, what) {
            ("permit", ["any"] | ["0.0.0.0/0", "le", "32"] | ["::/0", "le", "128"]) => self.permits_all = Some(number),
            ("deny", [prefix]) if number <= LAST_NUMBER => {
                let vip = host_prefix(prefix, &[]).filter(|vip| vip.family() == family);
                self.denied.extend(vip.map(|vip| (vip, number)));
            }
            _ => {}
        }
    }
}

/// The lists as the last reading had them, and what was said to FRR since.
#[derive(Clone, Debug, Default)]
pub struct Withdrawn {
    lists: PerFamily<List>,
    /// There are few enough prefixes for FRR to look at.
    allowed: bool,
    /// Denied since the daemon's start, and not advertised again.
    held: BTreeSet<Vip>,
}

impl Withdrawn {
    /// Takes a reading. `prefixes` is how many host prefixes FRR has by `network`.
    pub fn learn(&mut self, lists: &PerFamily<List>, prefixes: usize) {
        self.lists = lists.clone();
        self.allowed = prefixes <= MOST_PREFIXES;
    }

    /// The lines that deny the VIPs which these steps withdraw; none where there are too many, or the list is not lent.
    pub fn deny(&mut self, steps: &[Step]) -> Vec<String> {
        let mut lines = Vec::new();
        for family in Family::ALL {
            let list = self.lists.get_mut(family);
            if !self.allowed || !list.is_lent() {
                continue;
            }
            let of_family = |vip: &Vip| vip.family() == family;
            let withdrawn =
                steps.iter().filter(|step| matches!(step, Step::Withdraw(_))).map(Step::vip).filter(of_family);
            // One more than are denied at a time tells that there are too many.
            let vips: Vec<Vip> = withdrawn.take(MOST_AT_ONCE + 1).collect();
            if vips.len() > MOST_AT_ONCE {
                continue;
            }
            for vip in vips {
                let free = (1..=LAST_NUMBER).find(|number| !list.taken.contains(number));
                if let (false, Some(number)) = (list.denied.contains_key(&vip), free) {
                    list.taken.insert(number);
                    list.denied.insert(vip, number);
                    lines.push(format!("{} seq {number} deny {}", command(family), vip.prefix()));
                }
                self.held.insert(vip);
            }
        }
        lines
    }

    /// The lines that let the VIPs pass which these steps advertise.
    pub fn permit(&mut self, steps: &[Step]) -> Vec<String> {
        let advertised = steps.iter().filter(|step| matches!(step, Step::Advertise(..))).map(Step::vip);
        advertised.filter_map(|vip| self.release(vip)).collect()
    }

    /// The lines that remove what is not needed any more: entries of VIPs that have no `network` statement, and
    /// those of an earlier life.
    pub fn clear(&mut self, has_network: impl Fn(Vip) -> bool) -> Vec<String> {
        let denied = Family::ALL.into_iter().flat_map(|family| self.lists.get(family).denied.keys().copied());
        let over: Vec<Vip> = denied.filter(|vip| !has_network(*vip) || !self.held.contains(vip)).collect();
        over.into_iter().filter_map(|vip| self.release(vip)).collect()
    }

    fn release(&mut self, vip: Vip) -> Option<String> {
        self.held.remove(&vip);
        let list = self.lists.get_mut(vip.family());
        let number = list.denied.remove(&vip)?;
        list.taken.remove(&number);
        Some(format!("no {} seq {number} deny {}", command(vip.family()), vip.prefix()))
    }
}

fn command(family: Family) -> String {
    match family {
        Family::V4 => format!("ip prefix-list {LIST}"),
        Family::V6 => format!("ipv6 prefix-list {LIST}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(text: &str) -> Vip {
        Vip::new(text.parse().unwrap())
    }

    fn list(lines: &[&str]) -> List {
        let mut list = List { applied: true, ..List::default() };
        for line in lines {
            list.entry(Family::V4, &line.split(' ').collect::<Vec<_>>());
        }
        list
    }

    fn lent(lines: &[&str], prefixes: usize) -> Withdrawn {
        let mut withdrawn = Withdrawn::default();
        let v4 = list(&[&["seq 4294967295 permit any"], lines].concat());
        withdrawn.learn(&PerFamily { v4, v6: List::default() }, prefixes);
        withdrawn
    }

    #[test]
    fn a_list_is_lent_when_it_lets_all_pass_behind_ours_and_is_applied() {
        assert!(list(&["seq 4294967295 permit any"]).is_lent());
        assert!(list(&["seq 100000 permit 0.0.0.0/0 le 32"]).is_lent());
        for refused in ["seq 5 permit any", "seq 4294967295 permit 10.0.0.0/8 le 32", "seq 4294967295 deny any", "any"]
        {
            assert!(!list(&[refused]).is_lent(), "{refused}");
        }
        assert!(!List { applied: false, ..list(&["seq 4294967295 permit any"]) }.is_lent());
    }

    #[test]
    fn what_is_withdrawn_is_denied_until_it_is_advertised_again() {
        let mut list = lent(&["seq 1 deny 10.9.0.0/16", "seq 2 deny 10.0.0.9/32"], 3);
        let gone =
            [Step::Withdraw(vip("10.0.0.1")), Step::Withdraw(vip("2001:db8::1")), Step::advertise(vip("10.0.0.5"))];
        assert_eq!(list.deny(&gone), ["ip prefix-list COSMOLET-WITHDRAWN seq 3 deny 10.0.0.1/32"]);
        assert_eq!(list.deny(&gone), [""; 0], "it is denied already");
        let back = [Step::advertise(vip("10.0.0.1")), Step::advertise(vip("10.0.0.2"))];
        assert_eq!(list.permit(&back), ["no ip prefix-list COSMOLET-WITHDRAWN seq 3 deny 10.0.0.1/32"]);
        assert_eq!(list.permit(&back), [""; 0]);
    }

    #[test]
    fn what_is_not_needed_goes_and_the_operators_stays() {
        let of_operator = ["seq 1 deny 10.9.0.0/16", "seq 65536 deny 10.0.0.7/32"];
        let mut list = lent(&[&of_operator[..], &["seq 2 deny 10.0.0.9/32", "seq 7 deny 10.0.0.8/32"]].concat(), 3);
        assert_eq!(list.deny(&[Step::Withdraw(vip("10.0.0.1")), Step::Withdraw(vip("10.0.0.8"))]).len(), 1);
        // Its statement could not be removed yet: it stays denied. That of an earlier life goes whether it has one or not.
        let cleared = list.clear(|it| [vip("10.0.0.8"), vip("10.0.0.9")].contains(&it));
        let wanted = ["seq 3 deny 10.0.0.1/32", "seq 2 deny 10.0.0.9/32"];
        assert_eq!(cleared, wanted.map(|entry| format!("no ip prefix-list COSMOLET-WITHDRAWN {entry}")));
    }

    #[test]
    fn many_are_withdrawn_by_their_statements_alone() {
        let steps: Vec<Step> = (0..=16).map(|last| Step::Withdraw(Vip::new([10, 0, 0, last].into()))).collect();
        assert_eq!(lent(&[], 17).deny(&steps), [""; 0]);
        assert_eq!(lent(&[], 17).deny(&steps[1..]).len(), MOST_AT_ONCE);
        assert_eq!(lent(&[], MOST_PREFIXES + 1).deny(&steps[1..]), [""; 0]);
    }
}
