//! Steps that are carried out, and what they leave alone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cosmolet::engine::observed::{BgpView, Network, RibState};
use cosmolet::engine::plan::{Outcome, Step};
use cosmolet::frr::Options;
use tokio::time::timeout;

use crate::pair::Pair;
use crate::{DYNAMIC, Node, Watched, all, ensure_done, options, vip, vips};

#[tokio::test(flavor = "multi_thread")]
async fn vips_are_advertised_and_withdrawn_in_both_families() -> Result<()> {
    let ends = Pair::raise()?;
    let frr = ends.frr(&ends.node, 65001, "10.1.0.2", "external")?;
    let _tor = ends.frr(&ends.tor, 65002, "10.1.0.1", "external")?;
    let mut watched = Watched::new(Options { period: Duration::from_millis(200), ..options(frr.directory()) });
    watched.session().await?;

    let pair = [vip("10.7.0.1"), vip("2001:db8::7:1")];
    ends.add(&pair)?;
    ensure_done(&watched.handle.apply(all(&pair, Step::advertise)).await)?;
    watched.rib(&pair, |rib| rib.valid && rib.best && *rib.advertised_to == ["10.1.0.2"]).await?;
    watched.view("our networks", |view| pair.iter().all(|vip| view.networks.get(vip) == Some(&Network::PLAIN))).await?;
    // Again, and an UPDATE must not follow: FRR takes it for what it has.
    ensure_done(&watched.handle.apply(all(&pair, Step::advertise)).await)?;

    ensure_done(&watched.handle.apply(all(&pair, Step::Withdraw)).await)?;
    watched.rib(&pair, |rib| *rib == RibState::default()).await?;
    watched.view("no networks", |view| view.networks.is_empty()).await?;
    ensure_done(&watched.handle.apply(all(&pair, Step::Withdraw)).await).context("what is absent is withdrawn")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_somebody_else_survives() -> Result<()> {
    let operators = "  network 10.7.0.1/32\n  network 10.7.0.2/32 route-map THEIRS\n";
    let node = Node::start(&format!("{DYNAMIC} address-family ipv4 unicast\n{operators}"))?;
    let mut watched = node.watch();
    watched.up().await?;
    let before = node.running_config()?;
    let theirs = [vip("10.7.0.1"), vip("10.7.0.2")];
    for step in [Step::Withdraw, Step::advertise] {
        let applied = watched.handle.apply(all(&theirs, step)).await;
        assert!(applied.iter().all(|applied| matches!(applied.outcome, Outcome::GiveUp(_))), "{applied:?}");
    }
    assert_eq!(node.running_config()?, before, "not even a route-map");

    let ours = vip("10.7.0.3");
    ensure_done(&watched.handle.apply(vec![Step::advertise(ours)]).await)?;
    ensure_done(&watched.handle.apply(vec![Step::Withdraw(ours)]).await)?;
    let map = "route-map COSMOLET-ADVERTISE permit 10\nexit\n!\n";
    let after = node.running_config()?.replace(map, "");
    let essence = |text: &str| text.lines().filter(|line| *line != "!").collect::<Vec<_>>().join("\n");
    assert_eq!(essence(&after), essence(&before), "only our route-map was added");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_route_map_is_put_back() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let quick = Options { period: Duration::from_millis(100), ..options(node.frr.directory()) };
    let mut watched = Watched::new(quick);
    watched.up().await?;
    ensure_done(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.1"))]).await)?;
    node.frr.configure(&["no route-map COSMOLET-ADVERTISE"])?;
    let unmapped = |view: &BgpView| view.networks.get(&vip("10.7.0.1")) == Some(&Network::Ours(None));
    watched.view("the network without its route-map", unmapped).await?;
    // The engine's answer to that.
    ensure_done(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.1"))]).await)?;
    assert!(node.running_config()?.contains(&format!("route-map {} permit 10", names(&node)?[1])));
    let whole = |view: &BgpView| view.networks.get(&vip("10.7.0.1")) == Some(&Network::PLAIN);
    watched.view("the network with its route-map", whole).await.map(drop)
}

/// The names that the plain route-map bears by turns, each time that it was removed: FRR 10 bears the same one.
fn names(node: &Node) -> Result<[&'static str; 2]> {
    let first = "COSMOLET-ADVERTISE";
    Ok([first, if node.frr.major()? < 10 { "COSMOLET-ADVERTISE-AGAIN" } else { first }])
}

/// FRR 8.4 dies when a route-map is removed, made again by its name, and a statement that used it is touched, all within
/// its timer of 5 s: with one name this ended bgpd within forty rounds, mostly within ten.
#[tokio::test(flavor = "multi_thread")]
async fn route_maps_removed_again_and_again_do_not_end_bgpd() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let quick = Options { period: Duration::from_millis(20), ..options(node.frr.directory()) };
    let mut watched = Watched::new(quick);
    watched.up().await?;
    let (vips, names) = (vips(20), names(&node)?);
    ensure_done(&watched.handle.apply(all(&vips, Step::advertise)).await)?;
    let all_are = |network: Network| {
        let vips = vips.clone();
        move |view: &BgpView| vips.iter().all(|vip| view.networks.get(vip) == Some(&network))
    };
    for round in 0..60 {
        node.frr.configure(&[format!("no route-map {}", names[round % 2])])?;
        watched.view("the networks without their route-map", all_are(Network::Ours(None))).await?;
        if round % 3 == 0 {
            ensure_done(&watched.handle.apply(all(&vips[..10], Step::Withdraw)).await)?;
        }
        ensure_done(&watched.handle.apply(all(&vips, Step::advertise)).await)?;
        watched.view("the networks with their route-map", all_are(Network::PLAIN)).await?;
    }
    let networks = node.networks()?;
    assert_eq!(networks.len(), vips.len());
    assert!(networks.iter().all(|line| line.ends_with(" route-map COSMOLET-ADVERTISE")), "{networks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_other_edges_are_not_taken() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let applied = watched.handle.apply(vec![Step::add_address(vip("10.7.0.1"), None)]).await;
    assert!(matches!(applied[0].outcome, Outcome::GiveUp(_)));
    assert_eq!(node.networks()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_vips_go_in_and_out() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let vips = vips(1000);
    let start = Instant::now();
    let applied = watched.handle.apply(all(&vips, Step::advertise)).await;
    let added = start.elapsed();
    ensure_done(&applied)?;
    let named: BTreeSet<_> = applied.iter().map(|applied| applied.step.vip()).collect();
    assert_eq!(named, vips.iter().copied().collect());
    let networks: BTreeSet<String> = node.networks()?.into_iter().collect();
    let expected = vips.iter().map(|vip| format!("network {} route-map COSMOLET-ADVERTISE", vip.prefix()));
    assert_eq!(networks, expected.collect());
    let start = Instant::now();
    ensure_done(&watched.handle.apply(all(&vips, Step::Withdraw)).await)?;
    println!("1000 VIPs: advertised in {added:?}, withdrawn in {:?}", start.elapsed());
    assert_eq!(node.networks()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_was_given_up_does_not_confuse_the_next() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let vips = vips(1000);
    let given_up = timeout(Duration::from_millis(3), watched.handle.apply(all(&vips, Step::advertise))).await;
    assert!(given_up.is_err(), "1000 VIPs take longer");
    let applied = watched.handle.apply(vec![Step::Withdraw(vip("10.99.0.1")), Step::advertise(vip("10.99.0.2"))]).await;
    ensure_done(&applied)?;
    assert!(node.networks()?.iter().any(|line| line.contains("10.99.0.2/32")));
    Ok(())
}
