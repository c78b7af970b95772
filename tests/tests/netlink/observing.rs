//! What the observer tells, and how it gets through losses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use cosmolet::engine::event::Event;
use cosmolet::engine::observed::{KernelEvent, Owner};
use cosmolet::engine::plan::Outcome;
use cosmolet::netlink::apply::Addresses;
use cosmolet::netlink::observe::{self, Observer};
use tokio::sync::mpsc;

use crate::{LEASE, Seen, add, addresses_of, apply, in_namespace, ip, ip_batch, outcomes, remove, v4, vip};

#[test]
fn a_lease_ends_by_itself_and_the_observer_tells() {
    in_namespace(async || {
        let mut seen = Seen::new(Observer::new("lo"));
        seen.until("the start", |_| true).await;
        let short = Some(Duration::from_secs(2));
        apply(&[add("192.0.2.1", short), add("2001:db8::1", short), add("192.0.2.2", short)]).await;
        seen.until("three leases", |state| state.loopback.len() == 3).await;
        assert!(seen.valid_for("192.0.2.1").unwrap() <= Duration::from_secs(2));
        let started = Instant::now();
        apply(&[add("192.0.2.2", LEASE)]).await;
        seen.until("the renewal", |state| state.loopback[&vip("192.0.2.2")].valid_for > Some(Duration::from_secs(100)))
            .await;
        seen.until("both ends", |state| state.loopback.len() == 1).await;
        assert!((1.5..4.5).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
        assert_eq!(seen.owner("192.0.2.2"), Some(Owner::Ours));
        assert!(addresses_of("lo").contains_key("192.0.2.2/32"));
    });
}

#[test]
fn a_new_observer_adopts_what_is_there() {
    in_namespace(async || {
        ip("addr add 192.0.2.9/32 dev lo");
        apply(&[add("192.0.2.1", LEASE), add("2001:db8::1", None)]).await;
        let (sender, mut events) = mpsc::channel(8);
        let task = observe::spawn("lo", sender).unwrap();
        let Some(Event::Kernel(KernelEvent::Dump(state))) = events.recv().await else { panic!("no dump") };
        let owners: Vec<_> = state.loopback.iter().map(|(vip, address)| (vip.to_string(), address.owner)).collect();
        let expected = [("192.0.2.1", Owner::Ours), ("192.0.2.9", Owner::Foreign), ("2001:db8::1", Owner::Ours)];
        assert_eq!(owners, expected.map(|(vip, owner)| (vip.to_owned(), owner)));
        assert!(state.loopback[&vip("192.0.2.1")].valid_for.unwrap() > Duration::from_secs(117));
        assert_eq!(state.loopback[&vip("2001:db8::1")].valid_for, None);
        drop(events);
        tokio::time::timeout(Duration::from_secs(2), task).await.expect("the task ends with its receiver").unwrap();
    });
}

#[test]
fn a_full_dump_comes_again_and_tells_the_rest_of_leases() {
    in_namespace(async || {
        apply(&[add("192.0.2.1", LEASE), add("192.0.2.2", None)]).await;
        let mut seen = Seen::new(Observer::new("lo").resync(Duration::from_millis(700)));
        seen.during(Duration::from_millis(2400)).await;
        assert_eq!((seen.dumps, seen.count), (4, 4), "one at the start, one each span, and nothing else");
        assert!(seen.valid_for("192.0.2.1") <= Some(Duration::from_secs(118)));
        assert_eq!(seen.valid_for("192.0.2.2"), None);
        assert_eq!(seen.state.own, BTreeSet::new());
    });
}

#[test]
fn leftovers_of_another_loopback_interface_are_not_the_nodes_own() {
    in_namespace(async || {
        apply(&[add("192.0.2.1", LEASE)]).await;
        ip("addr add 192.0.2.2/32 dev lo");
        ip("link add vips0 type bridge");
        let mut seen = Seen::new(Observer::new("vips0"));
        seen.until("the start", |_| true).await;
        let own = ["127.0.0.1", "192.0.2.2", "::1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(seen.state.own, BTreeSet::from(own));
    });
}

#[test]
fn own_addresses_follow_the_other_interfaces() {
    in_namespace(async || {
        let mut seen = Seen::new(Observer::new("lo"));
        seen.until("nothing", |state| state.own.is_empty() && state.loopback.is_empty()).await;
        ip("link add up0 type veth peer name up1");
        ip("addr add 10.0.0.5/24 dev up0");
        ip("link set up0 up");
        ip("link set up1 up");
        ip("link add kube-ipvs0 type bridge");
        ip("addr add 10.96.0.1/32 dev kube-ipvs0");
        let (own, service): (IpAddr, IpAddr) = ("10.0.0.5".parse().unwrap(), "10.96.0.1".parse().unwrap());
        seen.until("own and link-local", |state| {
            let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            state.own.contains(&own) && state.own.iter().any(link_local)
        })
        .await;
        assert!(!seen.state.own.contains(&service), "{:?}", seen.state.own);
        // A port that leaves its bridge is announced like an interface that goes.
        ip("link set up1 master kube-ipvs0");
        ip("link set up1 nomaster");
        ip("link set kube-ipvs0 name br0");
        seen.until("a bridge of the node", |state| state.own.contains(&service) && state.own.contains(&own)).await;
        ip("link del up0");
        seen.until("gone", |state| !state.own.contains(&own)).await;
        assert!(seen.state.own.contains(&service));
    });
}

#[test]
fn an_overrun_receive_buffer_is_read_again() {
    in_namespace(async || {
        let mut seen = Seen::new(Observer::new("lo").receive_buffer(1).resync(Duration::from_secs(3600)));
        seen.until("the start", |_| true).await;
        // The observer shares this thread, so it hears nothing before the batch ends.
        ip_batch(&(0..2000).map(|index| format!("addr add {}/32 dev lo\n", v4(index))).collect::<String>());
        seen.until("all of them", |state| state.loopback.len() == 2000).await;
        assert!(seen.dumps >= 2, "lost notifications cost a dump");
        ip_batch(&(0..2000).map(|index| format!("addr del {}/32 dev lo\n", v4(index))).collect::<String>());
        seen.until("none", |state| state.loopback.is_empty()).await;
        seen.during(Duration::from_millis(300)).await;
        assert!(seen.state.loopback.is_empty());
    });
}

#[test]
fn a_recreated_interface_is_used_again() {
    in_namespace(async || {
        let mut addresses = Addresses::new("vips0", Vec::new());
        let outcome = outcomes(&mut addresses, &[add("192.0.2.1", LEASE), remove("192.0.2.2")]).await;
        assert!(
            matches!(&outcome[..], [Outcome::Retry(_, error), Outcome::Done] if error.contains("vips0")),
            "{outcome:?}"
        );
        let mut seen = Seen::new(Observer::new("vips0"));
        seen.until("the start", |state| state.loopback.is_empty()).await;
        for _ in 0..2 {
            ip("link add vips0 type bridge");
            ip("link set vips0 up");
            assert_eq!(outcomes(&mut addresses, &[add("192.0.2.1", LEASE)]).await, [Outcome::Done]);
            seen.until("ours", |state| state.loopback.contains_key(&vip("192.0.2.1"))).await;
            assert_eq!(seen.owner("192.0.2.1"), Some(Owner::Ours));
            ip("link del vips0");
            seen.until("gone", |state| state.loopback.is_empty()).await;
        }
    });
}
