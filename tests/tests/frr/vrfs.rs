//! Several BGP instances, and those of VRFs.

use std::time::Duration;

use anyhow::{Result, ensure};
use cosmolet::engine::observed::{BgpFault, Network, RibState};
use cosmolet::engine::plan::Step;
use cosmolet::engine::types::{Mode, PerFamily, Vip, Vrf};
use cosmolet::frr::Options;
use cosmolet_tests::frr;
use cosmolet_tests::frr::Frr;

use crate::pair::Pair;
use crate::{DYNAMIC, Node, Watched, all, ensure_done, ensure_retried, options, vip, vips};

const OTHERS: &str = "router bgp 65002 vrf red
 bgp router-id 10.255.0.2
 address-family ipv4 unicast
  network 10.7.0.1/32
  redistribute connected
 exit-address-family
exit
router bgp 65003 view lab
 bgp router-id 10.255.0.3
exit
";

fn vrf(name: &str) -> Vrf {
    Vrf::parse(name).expect("a VRF's name")
}

/// The blocks of instances, by their first lines.
fn instances(config: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in config.lines() {
        match found.last_mut() {
            _ if line.starts_with("router bgp") => found.push((line, Vec::new())),
            Some((_, lines)) if line.starts_with(' ') => lines.push(line.trim()),
            _ => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_one_is_served_beside_others_which_are_left_alone() -> Result<()> {
    let node = Node::start(&format!("{DYNAMIC}exit\n{OTHERS}"))?;
    let mut watched = node.watch();
    let view = watched.up().await?;
    assert_eq!((view.asn, view.modes), (65001, PerFamily { v4: Mode::Dynamic, v6: Mode::Dynamic }));
    assert!(view.networks.is_empty(), "{:?}", view.networks);
    let before = node.running_config()?;
    // More than one batch of each family.
    let many: Vec<Vip> = vips(30).into_iter().chain((1..30).map(|n| vip(&format!("2001:db8::{n}")))).collect();
    many.iter().try_for_each(|vip| node.add_loopback(*vip))?;
    ensure_done(&watched.handle.apply(all(&many, Step::advertise)).await)?;
    watched.rib(&many, |rib| rib.valid && rib.best).await?;
    let with = node.running_config()?;
    let (before, with) = (instances(&before), instances(&with));
    assert_eq!(before.len(), 3);
    for (old, new) in before.iter().zip(&with) {
        let ours = new.1.iter().filter(|line| line.contains("COSMOLET-")).count();
        assert_eq!(ours, if old.0 == "router bgp 65001" { many.len() } else { 0 }, "{}", new.0);
        let names_others =
            |line: &&&str| !line.contains("COSMOLET-") && !line.contains("address-family") && **line != "!";
        assert!(old.1.iter().filter(names_others).eq(new.1.iter().filter(names_others)), "{old:?} {new:?}");
    }
    ensure_done(&watched.handle.apply(all(&many, Step::Withdraw)).await)?;
    watched.rib(&many, |rib| *rib == RibState::default()).await?;
    Ok(())
}

/// Beside others an instance has to be named, and a name would make it: so it is asked for before each batch.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_removed_between_two_readings_is_not_made_anew() -> Result<()> {
    let node = Node::start(&format!("{DYNAMIC}exit\n{OTHERS}"))?;
    let mut watched = node.watch();
    watched.up().await?;
    ensure_done(&watched.handle.apply(all(&vips(3), Step::advertise)).await)?;
    node.frr.configure(&["no router bgp 65001"])?;
    ensure_retried(&watched.handle.apply(all(&vips(3), Step::advertise)).await)?;
    let fault = watched.fault("NoInstance").await?;
    let others = ["vrf red", "view lab"].map(str::to_owned).to_vec();
    assert_eq!(fault, BgpFault::NoInstance { vrf: Vrf::default(), others });
    let config = node.running_config()?;
    assert!(!config.contains("router bgp 65001"), "{config}");
    Ok(())
}

/// A second one appears between two readings: FRR refuses the bare form, and the next reading finds the way.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_does_not_stop_the_other() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    node.frr.configure(&["router bgp 65003 view lab"])?;
    ensure_retried(&watched.handle.apply(all(&vips(1), Step::advertise)).await)?;
    for _ in 0..100 {
        if ensure_done(&watched.handle.apply(all(&vips(1), Step::advertise)).await).is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("it was never carried out")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vrf_has_is_its_own() -> Result<()> {
    let node = Node::start(&format!("{DYNAMIC}exit\n{OTHERS}"))?;
    let mut watched = Watched::new(Options { vrf: vrf("red"), ..options(node.frr.directory()) });
    let view = watched.up().await?;
    assert_eq!((view.asn, view.modes), (65002, PerFamily { v4: Mode::Connected, v6: Mode::Dynamic }));
    assert_eq!(view.networks, [(vip("10.7.0.1"), Network::Foreign)].into());
    let mut watched = Watched::new(Options { vrf: vrf("blue"), ..options(node.frr.directory()) });
    let others = ["default", "vrf red", "view lab"].map(str::to_owned).to_vec();
    assert_eq!(watched.fault("NoInstance").await?, BgpFault::NoInstance { vrf: vrf("blue"), others });
    Ok(())
}

/// A VRF that is a network namespace, as zebra has them with `--vrfwnetns`: the kernel of the lab has no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_vrfs_vips_reach_its_peers() -> Result<()> {
    let ends = Pair::raise()?;
    let routers = ends.lab.netns("routers")?;
    let config = "frr defaults datacenter
router bgp 65000
 bgp router-id 10.255.0.1
exit
router bgp 65001 vrf red
 bgp router-id 10.255.0.2
 neighbor 10.1.0.2 remote-as external
 neighbor 10.1.0.2 timers connect 1
 address-family ipv6 unicast
  neighbor 10.1.0.2 activate
 exit-address-family
exit
";
    let vrfs = vec![("red".to_owned(), ends.node.name().to_owned())];
    let frr = Frr::start(&ends.lab, &routers, config, &frr::Options { vrfs, ..frr::Options::default() })?;
    let tor = ends.frr(&ends.tor, 65002, "10.1.0.1", "external")?;
    let quick = Duration::from_millis(200);
    let mut watched = Watched::new(Options { vrf: vrf("red"), period: quick, ..options(frr.directory()) });
    watched.session().await?;
    let pair = [vip("10.7.0.1"), vip("2001:db8::7:1")];
    ends.add(&pair)?;
    ensure_done(&watched.handle.apply(all(&pair, Step::advertise)).await)?;
    watched.rib(&pair, |rib| rib.valid && rib.best && *rib.advertised_to == ["10.1.0.2"]).await?;
    for (vip, family) in pair.iter().zip(["ipv4", "ipv6"]) {
        let heard = tor.show(&format!("show bgp {family} unicast {}", vip.prefix()))?;
        ensure!(heard["paths"][0]["valid"] == true, "{heard:#}");
    }
    ensure_done(&watched.handle.apply(all(&pair, Step::Withdraw)).await)?;
    watched.rib(&pair, |rib| *rib == RibState::default()).await?;
    Ok(())
}
