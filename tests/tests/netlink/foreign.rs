//! Addresses of others survive everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cosmolet::engine::observed::Owner;
use cosmolet::engine::plan::{Outcome, Step};
use cosmolet::engine::types::Vip;
use cosmolet::netlink::apply::Addresses;
use cosmolet::netlink::observe::Observer;
use proptest::prelude::*;

use crate::{
    LEASE, Seen, add, add_tagged, addresses_of, apply, in_namespace, ip, outcomes, remove, tags, v4, v6, without_time,
};

#[test]
fn foreign_and_excluded_addresses_survive_everything() {
    in_namespace(async || {
        ip("addr add 192.0.2.1/32 dev lo");
        ip("addr add 192.0.2.2/24 dev lo valid_lft 500 preferred_lft 400");
        add_tagged("192.0.2.3/32", 0xC4).await;
        add_tagged("192.0.2.4/24", 0xC5).await;
        ip("addr add 2001:db8::1/128 dev lo");
        add_tagged("2001:db8::2/64", 0xC5).await;
        add_tagged("203.0.113.1/32", 0xC5).await;
        let before = (without_time(addresses_of("lo")), tags().await);
        let mut addresses = Addresses::new("lo", vec!["203.0.113.0/24".parse().unwrap()]);
        let foreign =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::1", "2001:db8::2", "127.0.0.1", "::1"];
        for _ in 0..2 {
            for text in foreign {
                let outcome = outcomes(&mut addresses, &[add(text, LEASE)]).await;
                assert!(
                    matches!(&outcome[..], [Outcome::GiveUp(error)] if error.contains("somebody else")),
                    "{text}: {outcome:?}"
                );
                assert_eq!(outcomes(&mut addresses, &[remove(text)]).await, [Outcome::Done], "{text}");
            }
            for step in [add("203.0.113.1", LEASE), remove("203.0.113.1"), add("203.0.113.2", LEASE)] {
                let outcome = outcomes(&mut addresses, &[step]).await;
                assert!(
                    matches!(&outcome[..], [Outcome::GiveUp(error)] if error.contains("loopback.excluded")),
                    "{outcome:?}"
                );
            }
            assert_eq!((without_time(addresses_of("lo")), tags().await), before);
        }
    });
}

#[test]
fn ours_beside_a_wider_foreign_prefix_is_still_ours() {
    in_namespace(async || {
        assert_eq!(apply(&[add("192.0.2.1", LEASE)]).await, [Outcome::Done]);
        ip("addr add 192.0.2.1/24 dev lo");
        let mut seen = Seen::new(Observer::new("lo"));
        seen.until("ours", |state| state.loopback.len() == 1).await;
        assert_eq!(seen.owner("192.0.2.1"), Some(Owner::Ours));
        assert_eq!(apply(&[add("192.0.2.1", None), remove("192.0.2.1")]).await, vec![Outcome::Done; 2]);
        seen.until("theirs", |state| state.loopback.values().any(|address| address.owner == Owner::Foreign)).await;
        assert!(addresses_of("lo").contains_key("192.0.2.1/24"));
    });
}

/// Our steps and somebody else's.
#[derive(Clone, Debug)]
enum Act {
    Add(usize),
    Renew(usize),
    Remove(usize),
    ForeignAdd(usize),
    ForeignRemove(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = (0..5_u8, 0..6_usize).prop_map(|(kind, index)| match kind {
        0 => Act::Add(index),
        1 => Act::Renew(index),
        2 => Act::Remove(index),
        3 => Act::ForeignAdd(index),
        _ => Act::ForeignRemove(index),
    });
    prop::collection::vec(act, 1..40)
}

fn pool(index: usize) -> (IpAddr, String) {
    let address = if index.is_multiple_of(2) { v4(index) } else { v6(index) };
    (address, format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
}

/// Runs `acts` and checks after each that every foreign address stands as it was made, and ours as a model has them.
async fn run_acts(acts: &[Act]) {
    let mut addresses = Addresses::new("lo", Vec::new());
    let (mut ours, mut foreign) = (BTreeSet::new(), BTreeMap::new());
    for act in acts {
        match *act {
            Act::Add(index) | Act::Renew(index) => {
                let (address, name) = pool(index);
                let outcome = outcomes(&mut addresses, &[Step::add_address(Vip::new(address), LEASE)]).await;
                if foreign.contains_key(&name) {
                    assert!(matches!(&outcome[..], [Outcome::GiveUp(_)]), "{act:?}: {outcome:?}");
                } else {
                    assert_eq!(outcome, [Outcome::Done], "{act:?}");
                    ours.insert(name);
                }
            }
            Act::Remove(index) => {
                let (address, name) = pool(index);
                let outcome = outcomes(&mut addresses, &[Step::RemoveAddress(Vip::new(address))]).await;
                assert_eq!(outcome, [Outcome::Done], "{act:?}");
                ours.remove(&name);
            }
            Act::ForeignAdd(index) => {
                let (_, name) = pool(index);
                if !ours.contains(&name) && !foreign.contains_key(&name) {
                    ip(&format!("addr add {name} dev lo valid_lft 1000 preferred_lft 900"));
                    foreign.insert(name.clone(), without_time(addresses_of("lo"))[&name].clone());
                }
            }
            Act::ForeignRemove(index) => {
                let (_, name) = pool(index);
                if ours.remove(&name) || foreign.remove(&name).is_some() {
                    ip(&format!("addr del {name} dev lo"));
                }
            }
        }
        let mut held = without_time(addresses_of("lo"));
        held.retain(|name, _| !name.starts_with("127.") && name != "::1/128");
        let tags = tags().await;
        held.retain(|name, _| !tags.contains_key(name));
        assert_eq!(tags.into_keys().collect::<BTreeSet<_>>(), ours, "{act:?}");
        assert_eq!(held, foreign, "{act:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn foreign_addresses_survive_any_sequence(acts in acts()) {
        in_namespace(async || run_acts(&acts).await);
    }
}
