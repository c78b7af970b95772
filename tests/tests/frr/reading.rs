//! What is read: configurations as operators write them, the mode of each family, and the RIB.

use std::time::Duration;

use anyhow::Result;
use cosmolet::engine::observed::{Network, RibState};
use cosmolet::engine::plan::Step;
use cosmolet::engine::types::{Mode, PerFamily};
use cosmolet::frr::Options;

use crate::pair::Pair;
use crate::{DYNAMIC, LIMIT, Node, Watched, ensure_done, options, vip};

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_unnumbered_configuration_is_understood() -> Result<()> {
    let config = "frr defaults datacenter
hostname node1
router bgp 4200000011
 bgp router-id 10.0.0.11
 bgp bestpath as-path multipath-relax
 no bgp default ipv4-unicast
 bgp graceful-restart
 neighbor FABRIC peer-group
 neighbor FABRIC remote-as external
 neighbor FABRIC description to the ToRs
 neighbor eth0 interface peer-group FABRIC
 neighbor eth1 interface peer-group FABRIC
 address-family ipv4 unicast
  network 10.0.0.11/32
  network 10.20.0.0/16
  network 10.0.0.12/32 route-map COSMOLET-ADVERTISE
  redistribute connected route-map LOOPBACKS
  neighbor FABRIC activate
  maximum-paths 64
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8::11/128
  network 2001:db8::12/128 route-map COSMOLET-ADVERTISE
  neighbor FABRIC activate
 exit-address-family
exit
route-map LOOPBACKS permit 10
exit
";
    let node = Node::start(config)?;
    let mut watched = node.watch();
    let view = watched.up().await?;
    assert_eq!((view.asn, view.generation), (4_200_000_011, 1));
    assert_eq!(view.modes, PerFamily { v4: Mode::Connected, v6: Mode::Dynamic });
    let networks = [
        ("10.0.0.11", Network::Foreign),
        ("10.0.0.12", Network::Ours(None)),
        ("2001:db8::11", Network::Foreign),
        ("2001:db8::12", Network::Ours(None)),
    ];
    assert_eq!(view.networks, networks.map(|(text, owner)| (vip(text), owner)).into());
    let peers: Vec<_> = view.peers.iter().map(|peer| (peer.name.as_str(), peer.established)).collect();
    assert_eq!(peers, [("eth0", false), ("eth1", false)]);

    let overridden = Options { mode: Some(Mode::Dynamic), ..options(node.frr.directory()) };
    let view = Watched::new(overridden).up().await?;
    assert_eq!(view.modes, PerFamily { v4: Mode::Dynamic, v6: Mode::Dynamic });
    Ok(())
}

/// What else an operator may say there: it changes neither the mode nor what is ours.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_policies_and_dampening_are_passed_over() -> Result<()> {
    let config = "frr defaults datacenter
router bgp 65001
 bgp router-id 10.0.0.11
 bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.9.0.9 remote-as external
 address-family ipv4 unicast
  bgp dampening 15 750 2000 60
  network 10.0.0.12/32 route-map COSMOLET-ADVERTISE
  redistribute connected metric 5 route-map LOOPBACKS
 exit-address-family
 address-family ipv6 unicast
  redistribute connected metric 7
 exit-address-family
exit
route-map LOOPBACKS permit 10
exit
";
    let node = Node::start(config)?;
    assert!(node.running_config()?.contains("bgp dampening"), "{}", node.running_config()?);
    let view = node.watch().up().await?;
    assert_eq!(view.modes, PerFamily { v4: Mode::Connected, v6: Mode::Connected });
    assert_eq!(view.networks, [(vip("10.0.0.12"), Network::Ours(None))].into());
    Ok(())
}

/// Dampening is for what others flap: a VIP that comes and goes ten times is heard of at once all the same.
#[tokio::test(flavor = "multi_thread")]
async fn dampening_on_the_node_does_not_hold_its_vips() -> Result<()> {
    let ends = Pair::raise()?;
    let frr = ends.frr(&ends.node, 65001, "10.1.0.2", "external")?;
    let tor = ends.frr(&ends.tor, 65002, "10.1.0.1", "external")?;
    frr.configure(&["router bgp", "address-family ipv4 unicast", "bgp dampening 15 750 2000 60"])?;
    let mut watched = Watched::new(options(frr.directory()));
    watched.session().await?;
    let vip = vip("10.7.0.1");
    ends.add(&[vip])?;
    for _ in 0..10 {
        ensure_done(&watched.handle.apply(vec![Step::advertise(vip)]).await)?;
        watched.rib(&[vip], |rib| rib.valid && !rib.advertised_to.is_empty()).await?;
        ensure_done(&watched.handle.apply(vec![Step::Withdraw(vip)]).await)?;
        watched.rib(&[vip], |rib| *rib == RibState::default()).await?;
    }
    ensure_done(&watched.handle.apply(vec![Step::advertise(vip)]).await)?;
    watched.rib(&[vip], |rib| rib.valid && !rib.advertised_to.is_empty()).await?;
    cosmolet_tests::wait::until_true("the ToR hears of it", LIMIT, || {
        Ok(tor.show(&format!("show bgp ipv4 unicast {}", vip.prefix()))?["paths"][0]["valid"] == true)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_follows_the_configuration() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let quick = Options { period: Duration::from_millis(200), ..options(node.frr.directory()) };
    let mut watched = Watched::new(quick);
    let view = watched.up().await?;
    assert_eq!(view.modes, PerFamily { v4: Mode::Dynamic, v6: Mode::Dynamic });
    let family = ["router bgp", "address-family ipv6 unicast"];
    node.frr.configure(&[&family[..], &["redistribute connected"]].concat())?;
    let view = watched.view("connected", |view| view.modes.v6 == Mode::Connected).await?;
    assert_eq!((view.modes.v4, view.generation), (Mode::Dynamic, 1));
    node.frr.configure(&[&family[..], &["no redistribute connected"]].concat())?;
    watched.view("dynamic", |view| view.modes.v6 == Mode::Dynamic).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vip_that_is_not_on_the_loopback_is_not_valid() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let vip = vip("10.7.0.1");
    ensure_done(&watched.handle.apply(vec![Step::advertise(vip)]).await)?;
    assert_eq!(watched.rib(&[vip], |_| true).await?, RibState::default());
    node.add_loopback(vip)?;
    watched.handle.watch_rib(vec![vip], true);
    let state = watched.rib(&[vip], |rib| rib.best).await?;
    assert!(state.valid && state.since.is_some() && state.advertised_to.is_empty(), "{state:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redistributed_is_seen_in_the_rib() -> Result<()> {
    let node = Node::start(&format!("{DYNAMIC} address-family ipv4 unicast\n  redistribute connected\n"))?;
    let mut watched = node.watch();
    assert_eq!(watched.up().await?.modes, PerFamily { v4: Mode::Connected, v6: Mode::Dynamic });
    let vip = vip("10.7.0.1");
    node.add_loopback(vip)?;
    watched.handle.watch_rib(vec![vip], true);
    watched.rib(&[vip], |rib| rib.valid && rib.best).await?;
    Ok(())
}
