//! Attributes by content-named route-maps: what peers hear, how a change goes, who cleans up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cosmolet::engine::attributes::{
    Attributes, Origin, Profile, Route, communities, extended_communities, large_communities,
};
use cosmolet::engine::observed::{BgpView, Network};
use cosmolet::engine::plan::{Outcome, Step};
use cosmolet::engine::types::Vip;
use cosmolet_tests::frr::Frr;
use cosmolet_tests::wire::{Event, Wire};
use cosmolet_tests::{Lab, wait};
use ipnet::IpNet;
use serde_json::Value;

use crate::impostors::{server, willing};
use crate::pair::Pair;
use crate::{DYNAMIC, LIMIT, Node, Watched, ensure_done, options, vip};

fn route(attributes: Attributes) -> Route {
    let digest = |text: &str| text.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    Route::new(Profile::new(attributes, digest), Some(3))
}

fn med(med: u32) -> Route {
    route(Attributes { med: Some(med), ..Attributes::default() })
}

/// What the ToR holds for a prefix, once it does.
fn path(tor: &Frr, vip: Vip) -> Result<Value> {
    let command = format!("show bgp {} unicast {}", vip.family(), vip.prefix());
    wait::until("the path at the ToR", LIMIT, || Ok(tor.show(&command)?["paths"].get(0).cloned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attribute_reaches_the_tor_in_both_families() -> Result<()> {
    let pair = Pair::raise()?;
    let node = pair.frr(&pair.node, 65001, "10.1.0.2", "external")?;
    let tor = pair.frr(&pair.tor, 65002, "10.1.0.1", "external")?;
    let mut watched = Watched::new(options(node.directory()));
    watched.session().await?;
    let vips = [vip("10.7.0.1"), vip("2001:db8::7:1")];
    pair.add(&vips)?;
    let wanted = route(Attributes {
        communities: communities(["65001:100", "graceful-shutdown"]).unwrap(),
        large_communities: large_communities(["65001:1:2"]).unwrap(),
        extended_communities: extended_communities(["rt:65001:5", "soo:65001:6"]).unwrap(),
        med: Some(50),
        prepend: 2,
        local_preference: Some(300),
        origin: Some(Origin::Incomplete),
        by_endpoints: true,
    });
    let steps = vips.map(|vip| Step::Advertise(vip, wanted.clone())).to_vec();
    ensure_done(&watched.handle.apply(steps).await)?;
    for vip in vips {
        let path = path(&tor, vip)?;
        assert_eq!(path["community"]["string"], "65001:100 graceful-shutdown", "{path}");
        assert_eq!(path["largeCommunity"]["string"], "65001:1:2", "{path}");
        let extended = path["extendedCommunity"]["string"].as_str().context("extended communities")?;
        ensure!(extended.contains("RT:65001:5") && extended.contains("SoO:65001:6"), "{extended}");
        ensure!(extended.contains("LB:65001:") && extended.contains("300.000 Mbps"), "{extended}");
        assert_eq!((&path["metric"], &path["aspath"]["string"]), (&50.into(), &"65001 65001 65001".into()), "{path}");
        assert_eq!(path["origin"], "incomplete", "{path}");
    }
    Ok(())
}

/// A `network` statement that is changed soon after its address came: with a prefix route beside the address this ended bgpd 10.3 by
/// the fourth round (a null pointer in `bgp_static_update`).
#[tokio::test(flavor = "multi_thread")]
async fn attributes_change_soon_after_the_address_came() -> Result<()> {
    let pair = Pair::raise()?;
    let node = pair.frr(&pair.node, 65001, "10.1.0.2", "external")?;
    let _tor = pair.frr(&pair.tor, 65002, "10.1.0.1", "external")?;
    let mut watched = Watched::new(options(node.directory()));
    watched.session().await?;
    for round in 1..=30 {
        let vips: Vec<Vip> = (1..=4).map(|n| vip(&format!("2001:db8::{round}:{n}"))).collect();
        pair.add(&vips)?;
        let all_with = |wanted: u32| vips.iter().map(|vip| Step::Advertise(*vip, med(wanted))).collect();
        ensure_done(&watched.handle.apply(all_with(1)).await).with_context(|| format!("round {round}"))?;
        tokio::time::sleep(Duration::from_millis(3 * round)).await;
        ensure_done(&watched.handle.apply(all_with(2)).await).with_context(|| format!("changed, round {round}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_preference_reaches_an_ibgp_peer() -> Result<()> {
    let pair = Pair::raise()?;
    let node = pair.frr(&pair.node, 65001, "10.1.0.2", "internal")?;
    let tor = pair.frr(&pair.tor, 65001, "10.1.0.1", "internal")?;
    let mut watched = Watched::new(options(node.directory()));
    watched.session().await?;
    pair.add(&[vip("10.7.0.1")])?;
    let wanted = route(Attributes { local_preference: Some(300), ..Attributes::default() });
    ensure_done(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"), wanted)]).await)?;
    assert_eq!(path(&tor, vip("10.7.0.1"))?["locPrf"], 300);
    Ok(())
}

/// An edited route-map would be noticed by FRR after five seconds; another one is at once, and the VIP is never withdrawn.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_one_update_without_a_gap_and_the_old_map_goes() -> Result<()> {
    let pair = Pair::raise()?;
    let wire = Wire::listen(&pair.tor, SocketAddr::new("10.1.0.2".parse()?, 179), 65002)?;
    let frr = pair.frr(&pair.node, 65001, "10.1.0.2", "external")?;
    let quick = cosmolet::frr::Options { period: Duration::from_millis(100), ..options(frr.directory()) };
    let mut watched = Watched::new(quick);
    watched.up().await?;
    wire.wait_up(LIMIT)?;
    let (vip, prefix) = (vip("10.7.0.1"), "10.7.0.1/32".parse::<IpNet>()?);
    pair.add(&[vip])?;
    let heard = |wanted| {
        wait::until_true("the MED on the wire", LIMIT, || {
            Ok(wire.advertised().get(&prefix).is_some_and(|attributes| attributes.med == wanted))
        })
    };
    ensure_done(&watched.handle.apply(vec![Step::Advertise(vip, med(10))]).await)?;
    heard(Some(10))?;
    let since = Instant::now();
    ensure_done(&watched.handle.apply(vec![Step::Advertise(vip, med(20))]).await)?;
    heard(Some(20))?;
    println!("another MED on the wire after {:?}", since.elapsed());
    ensure_done(&watched.handle.apply(vec![Step::advertise(vip)]).await)?;
    // A `network` that sets no MED sends 0.
    heard(Some(0))?;
    let withdrawn = wire.events(since).into_iter().filter(|(_, event)| matches!(event, Event::Withdrawn(_))).count();
    assert_eq!(withdrawn, 0);
    wait::until_true("the unused route-maps are gone", LIMIT, || {
        let config = frr.bgpd()?.expect_success("show running-config")?;
        Ok(config.matches("route-map COSMOLET-").count() == 2)
    })?;
    let plain = |view: &BgpView| view.networks.get(&vip) == Some(&Network::PLAIN);
    watched.view("the plain route-map", plain).await.map(drop)
}

/// What is used by nobody but named as if it were ours by the operator's own lines is left alone, and so is what is theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_the_operator_uses_and_theirs_stay() -> Result<()> {
    let (used, unused) = (med(1).map, med(2).map);
    let theirs = "route-map COSMOLETTE permit 10\nroute-map COSMOLET-mine permit 10\n";
    let node = Node::start(&format!(
        "{DYNAMIC} neighbor 10.9.9.9 remote-as 65009\n address-family ipv4 unicast\n  neighbor 10.9.9.9 route-map {used} out\n \
         exit-address-family\n!\nroute-map {used} permit 10\n!\nroute-map {unused} permit 10\n!\n{theirs}"
    ))?;
    let mut watched =
        Watched::new(cosmolet::frr::Options { period: Duration::from_millis(100), ..options(node.frr.directory()) });
    watched.up().await?;
    // The connection that removes is opened with the first step.
    ensure_done(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.1"))]).await)?;
    wait::until_true("the unused map is gone", LIMIT, || {
        Ok(!node.running_config()?.contains(&format!("route-map {unused}")))
    })?;
    let config = node.running_config()?;
    for kept in
        [format!("route-map {used} permit 10"), "route-map COSMOLETTE".to_owned(), "route-map COSMOLET-mine".to_owned()]
    {
        ensure!(config.contains(&kept), "{kept} is gone: {config}");
    }
    Ok(())
}

/// As with an FRR that does not know large communities yet: nothing goes out with half of its attributes.
#[tokio::test(flavor = "multi_thread")]
async fn what_frr_refuses_is_not_advertised_in_part() -> Result<()> {
    let lab = Lab::new()?;
    let directory = lab.subdirectory("frr-node")?;
    let (sender, networks) = std::sync::mpsc::channel();
    server(&directory, move |line| {
        if line.starts_with("network ") {
            sender.send(line.to_owned()).ok()?;
        }
        if line.starts_with("set large-community") {
            Some(b"% Unknown command\n\0\0\0\x02".to_vec())
        } else {
            willing(line)
        }
    })?;
    let mut watched = Watched::new(options(&directory));
    watched.up().await?;
    let refused = route(Attributes {
        large_communities: large_communities(["1:2:3"]).unwrap(),
        med: Some(1),
        ..Attributes::default()
    });
    let steps = vec![Step::Advertise(vip("10.7.0.1"), refused), Step::advertise(vip("10.7.0.2"))];
    let applied = watched.handle.apply(steps).await;
    let outcome = |of: Vip| applied.iter().find(|one| one.step.vip() == of).map(|one| one.outcome.clone());
    assert_eq!(outcome(vip("10.7.0.2")), Some(Outcome::Done));
    let Some(Outcome::GiveUp(why)) = outcome(vip("10.7.0.1")) else { bail!("{applied:?}") };
    assert_eq!(why, "FRR refuses its attributes: Unknown command");
    assert_eq!(networks.try_iter().collect::<Vec<_>>(), ["network 10.7.0.2/32 route-map COSMOLET-ADVERTISE"]);
    Ok(())
}
