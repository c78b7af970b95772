//! The interfaces by which clients come.

use std::time::Duration;

use cosmolet::engine::observed::PeerView;
use cosmolet::engine::types::Uplink;
use cosmolet::netlink::uplinks;
use tokio::sync::watch;

use crate::{in_namespace, ip};

fn peer(name: &str) -> PeerView {
    PeerView { name: name.to_owned(), address: name.parse().ok(), established: true, ..PeerView::default() }
}

/// Makes a veth pair and gives this end an address and a carrier.
fn veth(name: &str, address: &str) {
    ip(&format!("link add {name} type veth peer name {name}p"));
    ip(&format!("addr add {address} dev {name}"));
    ip(&format!("link set {name}p up"));
    ip(&format!("link set {name} up"));
}

async fn until_names(uplinks: &mut watch::Receiver<Vec<Uplink>>, wanted: &[&str]) {
    let is_wanted = |found: &Vec<Uplink>| found.iter().map(|uplink| uplink.name.as_str()).eq(wanted.iter().copied());
    let found = tokio::time::timeout(Duration::from_secs(5), uplinks.wait_for(is_wanted)).await;
    let found = found.map(drop);
    assert!(found.is_ok(), "wanted {wanted:?}, have {:?}", uplinks.borrow());
}

#[test]
fn uplinks_are_behind_default_routes_and_peers() {
    in_namespace(async || {
        let (peers, wanted) = watch::channel(Vec::new());
        let mut found = uplinks::watch(Vec::new(), wanted).await.unwrap();
        assert_eq!(*found.borrow(), []);
        veth("up0", "10.0.0.5/24");
        veth("up1", "10.0.1.5/24");
        veth("up2", "10.0.2.5/24");
        veth("up3", "2001:db8:3::5/64");
        ip("route add default via 10.0.0.1");
        until_names(&mut found, &["up0"]).await;
        ip("route replace default nexthop via 10.0.0.1 nexthop via 10.0.1.1");
        until_names(&mut found, &["up0", "up1"]).await;
        ip("route del default");
        until_names(&mut found, &[]).await;
        ip("-6 route add default via 2001:db8:3::1");
        until_names(&mut found, &["up3"]).await;
        ip("-6 route del default");
        peers.send(vec![peer("10.0.2.1"), peer("10.99.0.1"), peer("10.0.0.5")]).unwrap();
        until_names(&mut found, &["up2"]).await;
        ip("route add 10.99.0.0/24 nexthop via 10.0.0.1 nexthop via 10.0.1.1");
        until_names(&mut found, &["up0", "up1", "up2"]).await;
        peers.send(vec![peer("up3"), peer("fe80::1")]).unwrap();
        until_names(&mut found, &["up3"]).await;
    });
}

#[test]
fn uplinks_are_found_through_next_hop_objects() {
    in_namespace(async || {
        veth("up0", "10.0.0.5/24");
        veth("up1", "10.0.1.5/24");
        for line in ["id 1 via 10.0.0.1 dev up0", "id 2 via 10.0.1.1 dev up1", "id 3 group 1/2"] {
            ip(&format!("nexthop add {line}"));
        }
        ip("route add default nhid 3");
        ip("route add 10.99.0.0/24 nhid 2");
        let (_peers, wanted) = watch::channel(vec![peer("10.99.0.1")]);
        let mut found = uplinks::watch(Vec::new(), wanted).await.unwrap();
        until_names(&mut found, &["up0", "up1"]).await;
        ip("route del default");
        until_names(&mut found, &["up1"]).await;
    });
}

#[test]
fn named_uplinks_override_and_recreated_ones_are_others() {
    in_namespace(async || {
        let (_peers, wanted) = watch::channel(vec![peer("up1")]);
        let mut found = uplinks::watch(vec!["up0".to_owned(), "lo".to_owned()], wanted).await.unwrap();
        veth("up1", "10.0.1.5/24");
        veth("up0", "10.0.0.5/24");
        until_names(&mut found, &["up0"]).await;
        let before = found.borrow().clone();
        ip("link del up0");
        veth("up0", "10.0.0.5/24");
        let other =
            tokio::time::timeout(Duration::from_secs(5), found.wait_for(|found| found.len() == 1 && *found != before));
        assert_eq!(other.await.unwrap().unwrap()[0].name, "up0");
    });
}
